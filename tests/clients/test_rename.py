"""Renaming objects."""

from helpers import MIB, Refused, pattern
from test_answers import signed
from test_signatures import told


def keys(s3, bucket):
    return [line["Key"] for line in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def rename(gateway, bucket, source, target, **headers):
    headers = {"x-amz-rename-source": source, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return signed(gateway, "PUT", f"/{bucket}/{target}?renameObject", headers=headers)


def test_an_object_gets_another_key(gateway, s3, bucket):
    body = pattern(3 * MIB)
    put = s3.put_object(Bucket=bucket, Key="a b/é", Body=body, Metadata={"m": "1"}, Tagging="t=1", ContentType="text/x")
    assert rename(gateway, bucket, "a%20b/%C3%A9", "new")[0] == 200
    assert keys(s3, bucket) == ["new"]
    got = s3.get_object(Bucket=bucket, Key="new")
    assert (got["Body"].read(), got["ETag"], got["Metadata"], got["TagCount"], got["ContentType"]) == (
        body, put["ETag"], {"m": "1"}, 1, "text/x")
    # What is there already is replaced.
    s3.put_object(Bucket=bucket, Key="other", Body=b"gone")
    assert rename(gateway, bucket, f"/{bucket}/new", "other")[0] == 200
    assert keys(s3, bucket) == ["other"] and s3.head_object(Bucket=bucket, Key="other")["ETag"] == put["ETag"]


def test_renames_that_are_refused(gateway, s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"kept")["ETag"]
    s3.put_object(Bucket=bucket, Key="there", Body=b"x")
    code = lambda *args, **headers: told(rename(gateway, bucket, *args, **headers))[:2]
    assert code("absent", "new") == (404, "NoSuchKey")
    assert code("k", "k") == (400, "InvalidRequest")
    assert code("k", "there", if_none_match="*") == (412, "PreconditionFailed")
    assert code("k", "new", if_match="*") == (404, "NoSuchKey")
    assert code("k", "new", x_amz_rename_source_if_match='"other"') == (412, "PreconditionFailed")
    assert code("k", "new", x_amz_client_token="") == (400, "InvalidArgument")
    assert told(signed(gateway, "PUT", f"/{bucket}/new?renameObject"))[:2] == (400, "InvalidArgument")
    assert keys(s3, bucket) == ["k", "there"]
    assert code("k", "new", if_none_match="*", x_amz_rename_source_if_match=etag) == (200, None)
    assert keys(s3, bucket) == ["new", "there"]


def test_a_client_token_renames_once(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"first")
    again = lambda: rename(gateway, bucket, "k", "new", x_amz_client_token="t1")[0]
    assert again() == 200
    s3.put_object(Bucket=bucket, Key="k", Body=b"second")
    assert again() == 200
    assert s3.get_object(Bucket=bucket, Key="new")["Body"].read() == b"first" and keys(s3, bucket) == ["k", "new"]
    assert rename(gateway, bucket, "k", "new", x_amz_client_token="t2")[0] == 200
    assert keys(s3, bucket) == ["new"]


def test_a_rename_keeps_versions(gateway, s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    status, headers, _ = rename(gateway, bucket, "k", "new")
    assert (status, headers["x-amz-version-id"]) == (200, s3.head_object(Bucket=bucket, Key="new")["VersionId"])
    assert s3.get_object(Bucket=bucket, Key="k", VersionId=old)["Body"].read() == b"x" and keys(s3, bucket) == ["new"]
