"""Raises a counter from several threads with conditional writes, and loses no update.

An object holds the counter. Each writer reads it with its ETag, and writes the next value with `If-Match`.
If another writer was faster, the gateway answers 412, and the writer begins again. With several gateways,
each writer may use another one: conditions hold across them.

Usage: python3 examples/counter.py BUCKET

Needs boto3 1.36 or newer. Address and key come from the environment, as for every AWS SDK:
AWS_ENDPOINT_URL, AWS_REGION, AWS_SHARED_CREDENTIALS_FILE.
"""

import concurrent.futures
import sys

import boto3
import botocore.exceptions

WRITERS = 4
RAISES = 25
KEY = "counter"


def is_refused(error):
    """Tells whether a condition did not hold: the object changed, or is there already."""
    return error.response["Error"]["Code"] == "PreconditionFailed"


def create(s3, bucket):
    """Creates the counter with 0, unless it is there."""
    try:
        s3.put_object(Bucket=bucket, Key=KEY, Body=b"0", IfNoneMatch="*")
    except botocore.exceptions.ClientError as error:
        if not is_refused(error):
            raise


def read(s3, bucket):
    """Returns the value and the ETag that it was read with."""
    answer = s3.get_object(Bucket=bucket, Key=KEY)
    return int(answer["Body"].read()), answer["ETag"]


def raise_once(s3, bucket):
    """Adds 1; returns how often another writer was faster."""
    refused = 0
    while True:
        value, etag = read(s3, bucket)
        try:
            s3.put_object(Bucket=bucket, Key=KEY, Body=str(value + 1).encode(), IfMatch=etag)
            return refused
        except botocore.exceptions.ClientError as error:
            if not is_refused(error):
                raise
            refused += 1


def writer(s3, bucket):
    return sum(raise_once(s3, bucket) for _ in range(RAISES))


def main(bucket):
    s3 = boto3.client("s3")
    create(s3, bucket)
    before, _ = read(s3, bucket)
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as threads:
        refused = sum(threads.map(lambda _: writer(s3, bucket), range(WRITERS)))
    after, _ = read(s3, bucket)
    print(f"raised from {before} to {after} by {WRITERS} writers; {refused} refused writes were made again")
    # Other programs may raise it at the same time.
    if after - before < WRITERS * RAISES:
        sys.exit("updates were lost")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
