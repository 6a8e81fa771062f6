"""Appending to objects."""

from helpers import MIB, Refused, pattern
from test_answers import signed
from test_signatures import told


def append(s3, bucket, offset, body, **more):
    return s3.put_object(Bucket=bucket, Key="k", Body=body, WriteOffsetBytes=offset, **more)


def test_an_object_grows(s3, bucket):
    first, second = pattern(3 * MIB, 1), pattern(100_000, 2)
    append(s3, bucket, 0, first, Metadata={"m": "1"}, Tagging="t=1")
    done = append(s3, bucket, len(first), second)
    assert done["Size"] == len(first) + len(second)
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (got["Body"].read(), got["ETag"], got["Metadata"], got["TagCount"]) == (first + second, done["ETag"], {"m": "1"}, 1)
    assert got["ChecksumType"] == "FULL_OBJECT"
    put = s3.put_object(Bucket=bucket, Key="whole", Body=first + second)
    same = [name for name in put if name.startswith("Checksum") and name != "ChecksumType"]
    assert same and all(got[name] == put[name] for name in same)
    assert s3.get_object(Bucket=bucket, Key="k", PartNumber=2)["Body"].read() == second
    for n in range(5):
        append(s3, bucket, done["Size"] + n, b"x")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == done["Size"] + 5


def test_appends_that_are_refused(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"abc")
    for offset in [0, 2, 4]:
        with Refused("InvalidWriteOffset", 400):
            append(s3, bucket, offset, b"x")
    with Refused("PreconditionFailed", 412):
        append(s3, bucket, 3, b"x", IfMatch='"other"')
    for wrong in ["x", "-1", ""]:
        answer = signed(gateway, "PUT", f"/{bucket}/k", b"x", {"x-amz-write-offset-bytes": wrong})
        assert told(answer)[:2] == (400, "InvalidArgument"), wrong
    # Nothing else appends.
    headers = {"x-amz-write-offset-bytes": "3", "x-amz-copy-source": f"/{bucket}/k"}
    assert told(signed(gateway, "PUT", f"/{bucket}/copy", headers=headers))[:2] == (501, "NotImplemented")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"abc"
