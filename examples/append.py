"""Keeps a log in one object to which several programs append lines, and follows it as `tail -f` does.

`x-amz-write-offset-bytes` appends without sending what is there already. The offset is the length that the
program knows. If another program was faster, the gateway refuses the append, and it is made again at the new
end. So no line is lost, and none is torn. An object takes 10 000 appends: begin a new one each day, for example.

Usage: python3 examples/append.py BUCKET

Needs boto3 1.36 or newer. Address and key come from the environment, as for every AWS SDK:
AWS_ENDPOINT_URL, AWS_REGION, AWS_SHARED_CREDENTIALS_FILE.
"""

import concurrent.futures
import sys

import boto3
import botocore.exceptions

KEY = "log/today"
WRITERS = 4
LINES = 10


def append(s3, bucket, line):
    """Appends a line; returns the length of the log after it."""
    while True:
        try:
            end = s3.head_object(Bucket=bucket, Key=KEY)["ContentLength"]
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            end = 0
        try:
            return s3.put_object(Bucket=bucket, Key=KEY, Body=line.encode() + b"\n", WriteOffsetBytes=end)["Size"]
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "InvalidWriteOffset":
                raise


def new_lines(s3, bucket, offset):
    """Returns the lines from an offset on, and the offset after them."""
    try:
        answer = s3.get_object(Bucket=bucket, Key=KEY, Range=f"bytes={offset}-")
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "InvalidRange":
            raise
        return [], offset  # nothing is new
    body = answer["Body"].read()
    return body.decode().splitlines(), offset + len(body)


def main(bucket):
    s3 = boto3.client("s3")
    begin = append(s3, bucket, "a program starts")
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as threads:
        lines = [f"writer {writer}, line {line}" for writer in range(WRITERS) for line in range(LINES)]
        list(threads.map(lambda line: append(s3, bucket, line), lines))
    found, end = new_lines(s3, bucket, begin)
    print(f"{len(found)} lines were appended: {sorted(found) == sorted(lines)}")
    print(f"new since then: {new_lines(s3, bucket, end)[0]}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
