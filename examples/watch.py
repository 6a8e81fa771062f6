"""Follows the changes of a bucket, for a search index or a mirror: no change is missed, and none is polled for.

`?fula-changes` answers what differs since a version, and waits for the next change if there is none. The answer
is a sequence of CBOR values. This reads them with a small decoder, so that the example needs nothing but boto3;
a program would use a library for CBOR. Format: docs/format.md, "Buckets as streams".

Usage: python3 examples/watch.py BUCKET [CHANGES]

It prints CHANGES changes (3 if it is not given) and ends. Address and key come from the environment, as for every
AWS SDK: AWS_ENDPOINT_URL, AWS_REGION, AWS_SHARED_CREDENTIALS_FILE.
"""

import sys

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.httpsession

WAIT = 30


def value(data, at):
    """Decodes the CBOR value at an offset; returns it, and the offset after it. A link is returned as bytes."""
    kind, count, at = data[at] >> 5, data[at] & 31, at + 1
    if 24 <= count < 28:
        size = 1 << (count - 24)
        count, at = int.from_bytes(data[at:at + size], "big"), at + size
    if kind == 0:
        return count, at
    if kind in (2, 3):
        bytes_ = data[at:at + count]
        return (bytes_.decode() if kind == 3 else bytes_), at + count
    if kind == 4:
        items = []
        for _ in range(count):
            item, at = value(data, at)
            items.append(item)
        return items, at
    if kind == 5:
        pairs = {}
        for _ in range(count):
            key, at = value(data, at)
            pairs[key], at = value(data, at)
        return pairs, at
    if kind == 6:
        return value(data, at)
    return {20: False, 21: True, 22: None}[count], at


def items(data):
    at = 0
    while at < len(data):
        item, at = value(data, at)
        yield item


class Gone(Exception):
    """The version is too old: list the bucket again."""


def ask(session, s3, bucket, query):
    """Sends a signed request for a stream of a bucket; returns its items."""
    url = f"{s3.meta.endpoint_url}/{bucket}?{query}"
    request = botocore.awsrequest.AWSRequest("GET", url)
    credentials = session.get_credentials().get_frozen_credentials()
    botocore.auth.S3SigV4Auth(credentials, "s3", s3.meta.region_name).add_auth(request)
    answer = botocore.httpsession.URLLib3Session(timeout=WAIT + 30).send(request.prepare())
    if answer.status_code == 410:
        raise Gone
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    found = list(items(answer.content))
    if found[-1][0] != 3:
        raise RuntimeError("the answer was cut off")
    return found


def snapshot(session, s3, bucket):
    """Returns the version of the bucket, and its keys."""
    begin, *objects, _ = ask(session, s3, bucket, "fula-list=")
    return begin[1], [item[1] for item in objects]


def changes(session, s3, bucket, version):
    """Yields the changes after a version, for ever: the version, what happened, and the key."""
    while True:
        begin, *changed, _ = ask(session, s3, bucket, f"fula-changes=&since={version}&wait={WAIT}")
        version = begin[1]
        for item in changed:
            yield version, "written" if item[0] == 1 else "removed", item[1]


def main(bucket, count=3):
    session = boto3.Session()
    s3 = session.client("s3")
    version, keys = snapshot(session, s3, bucket)
    print(f"at version {version} with {len(keys)} objects", flush=True)
    for _, (version, what, key) in zip(range(count), changes(session, s3, bucket, version)):
        print(f"version {version}: {what} {key}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
