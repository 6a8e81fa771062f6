"""Moves an amount between two accounts as one step: two objects change together or not at all.

boto3 has no call for a commit of many keys, so this signs the request itself, with the credentials that
boto3 found. Each change carries the ETag that its balance was read with. If either balance changed
meanwhile, nothing is done, and the transfer begins again.

Usage: python3 examples/commit.py BUCKET

Address and key come from the environment, as for every AWS SDK: AWS_ENDPOINT_URL, AWS_REGION,
AWS_SHARED_CREDENTIALS_FILE.
"""

import json
import sys

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.httpsession


class Refused(Exception):
    """The commit was not carried out: a condition did not hold."""


def commit(session, s3, bucket, changes):
    """Carries out up to 1000 changes of one bucket as one step; returns its new version.

    Raises `Refused` if a condition does not hold. Format: docs/format.md, "Multi-key commits".
    """
    body = json.dumps({"changes": changes}).encode()
    request = botocore.awsrequest.AWSRequest(
        "POST", f"{s3.meta.endpoint_url}/{bucket}?fula-commit", data=body,
        headers={"content-type": "application/json"})
    credentials = session.get_credentials().get_frozen_credentials()
    botocore.auth.S3SigV4Auth(credentials, "s3", s3.meta.region_name).add_auth(request)
    answer = botocore.httpsession.URLLib3Session().send(request.prepare())
    if answer.status_code == 412:
        raise Refused(answer.text)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    return json.loads(answer.content)["version"]


def balance(s3, bucket, account):
    """Returns the amount and the ETag that it was read with."""
    answer = s3.get_object(Bucket=bucket, Key=account)
    return int(answer["Body"].read()), answer["ETag"]


def set_balance(account, amount, etag):
    return {"put": {"key": account, "text": str(amount), "contentType": "text/plain", "ifMatch": etag}}


def transfer(session, s3, bucket, source, target, amount):
    """Moves an amount; returns the version of the bucket at which it was moved."""
    while True:
        (have, source_etag), (there, target_etag) = (balance(s3, bucket, name) for name in (source, target))
        if have < amount:
            raise ValueError(f"{source} has {have} only")
        try:
            return commit(session, s3, bucket, [
                set_balance(source, have - amount, source_etag),
                set_balance(target, there + amount, target_etag)])
        except Refused:
            continue


def main(bucket):
    session = boto3.Session()
    s3 = session.client("s3")
    commit(session, s3, bucket, [{"put": {"key": "accounts/a", "text": "100"}},
                                 {"put": {"key": "accounts/b", "text": "0"}}])
    version = transfer(session, s3, bucket, "accounts/a", "accounts/b", 30)
    left, _ = balance(s3, bucket, "accounts/a")
    there, _ = balance(s3, bucket, "accounts/b")
    print(f"at version {version}: a has {left}, b has {there}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
