"""Lets one of several programs do a piece of work at a time: a lock with a time at which it ends.

The lock is an object. `If-None-Match: *` creates it, so of several programs one gets it. Its content says
until when it holds. A lock whose time is over is taken with `If-Match`, so of several programs that notice it,
again one gets it. With several gateways, each program may use another one.

The work must end before the lock does. Where that cannot be promised, bind each write of the work to the ETag
of the lock as commit.py binds it to balances.

Usage: python3 examples/lock.py BUCKET [PROGRAMS]

Needs boto3 1.36 or newer. Address and key come from the environment, as for every AWS SDK:
AWS_ENDPOINT_URL, AWS_REGION, AWS_SHARED_CREDENTIALS_FILE.
"""

import concurrent.futures
import contextlib
import sys
import time

import boto3
import botocore.exceptions

KEY = "lock"
SECONDS = 20
PAUSE = 0.05


def code_of(error):
    return error.response["Error"]["Code"]


def try_lock(s3, bucket, **condition):
    """Writes the lock if the condition holds; returns its ETag, or None."""
    try:
        return s3.put_object(Bucket=bucket, Key=KEY, Body=str(time.time() + SECONDS), **condition)["ETag"]
    except botocore.exceptions.ClientError as error:
        # NoSuchKey: the lock that the condition names was deleted.
        if code_of(error) in ("PreconditionFailed", "NoSuchKey"):
            return None
        raise


def lock(s3, bucket):
    """Waits for the lock; returns its ETag."""
    while True:
        etag = try_lock(s3, bucket, IfNoneMatch="*")
        if etag is None:
            with contextlib.suppress(s3.exceptions.NoSuchKey):
                held = s3.get_object(Bucket=bucket, Key=KEY)
                if float(held["Body"].read()) < time.time():
                    etag = try_lock(s3, bucket, IfMatch=held["ETag"])
        if etag is not None:
            return etag
        time.sleep(PAUSE)


def unlock(s3, bucket, etag):
    """Deletes the lock, unless its time was over and another program has it."""
    try:
        s3.delete_object(Bucket=bucket, Key=KEY, IfMatch=etag)
    except botocore.exceptions.ClientError as error:
        if code_of(error) not in ("PreconditionFailed", "NoSuchKey"):
            raise


def work(s3, bucket):
    """Raises a number without any condition, which only the lock makes safe."""
    etag = lock(s3, bucket)
    try:
        number = int(s3.get_object(Bucket=bucket, Key="number")["Body"].read())
        s3.put_object(Bucket=bucket, Key="number", Body=str(number + 1))
    finally:
        unlock(s3, bucket, etag)


def main(bucket, programs=8):
    s3 = boto3.client("s3")
    s3.put_object(Bucket=bucket, Key="number", Body="0")
    with concurrent.futures.ThreadPoolExecutor(programs) as threads:
        list(threads.map(lambda _: work(s3, bucket), range(programs)))
    number = int(s3.get_object(Bucket=bucket, Key="number")["Body"].read())
    print(f"{number} of {programs} programs did their work, one at a time")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
