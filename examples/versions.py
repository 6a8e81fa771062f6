"""Brings back an object that was overwritten, and one that was deleted, in a bucket that keeps versions.

Usage: python3 examples/versions.py BUCKET

Address and key come from the environment, as for every AWS SDK: AWS_ENDPOINT_URL, AWS_REGION,
AWS_SHARED_CREDENTIALS_FILE.
"""

import sys

import boto3


def versions(s3, bucket, key):
    """Returns the versions of an object, the newest first, without delete markers."""
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key)
    return [found for page in pages for found in page.get("Versions", []) if found["Key"] == key]


def go_back(s3, bucket, key, version):
    """Makes an earlier version the current one. The copy moves no byte, and the versions in between stay."""
    source = {"Bucket": bucket, "Key": key, "VersionId": version}
    s3.copy_object(Bucket=bucket, Key=key, CopySource=source)


def undelete(s3, bucket, key):
    """Removes the delete marker that hides an object."""
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key)
    for page in pages:
        for marker in page.get("DeleteMarkers", []):
            if marker["Key"] == key and marker["IsLatest"]:
                s3.delete_object(Bucket=bucket, Key=key, VersionId=marker["VersionId"])


def read(s3, bucket, key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()


def main(bucket):
    s3 = boto3.client("s3")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for text in ("draft", "good text", "a mistake"):
        s3.put_object(Bucket=bucket, Key="letter", Body=text)
    go_back(s3, bucket, "letter", versions(s3, bucket, "letter")[1]["VersionId"])
    print("after the mistake:", read(s3, bucket, "letter"))
    s3.delete_object(Bucket=bucket, Key="letter")
    undelete(s3, bucket, "letter")
    print("after the deletion:", read(s3, bucket, "letter"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
