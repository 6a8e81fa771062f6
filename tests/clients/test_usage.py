"""`fula usage`, quotas of buckets, and `fula clone`."""

import json
import subprocess
import time

import pytest

from conftest import FULA, Gateway
from helpers import Refused, columns
from masters import admin, federation

MIB = 1 << 20


def usage(gateway, *line):
    return json.loads(gateway.fula("usage", "--json", *line).stdout)


def roots_log(gateway, bucket):
    return json.loads(gateway.fula("roots", "log", bucket, "--json").stdout)


def test_usage_counts_objects_versions_and_uploads(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="first")
    s3.create_bucket(Bucket="second")
    s3.put_object(Bucket="first", Key="a", Body=b"x" * 1000)
    s3.put_object(Bucket="first", Key="b", Body=b"x" * (2 * MIB))
    s3.put_bucket_versioning(Bucket="second", VersioningConfiguration={"Status": "Enabled"})
    for size in [10, 20, 30]:
        s3.put_object(Bucket="second", Key="v", Body=b"x" * size)
    upload = s3.create_multipart_upload(Bucket="second", Key="u")["UploadId"]
    s3.upload_part(Bucket="second", Key="u", UploadId=upload, PartNumber=1, Body=b"x" * 500)
    made = own_gateway.fula("keys", "create", "--user", "carol", "--json").stdout
    carol = json.loads(made)
    key = (carol["id"], carol["secret"])
    own_gateway.client(key=key).create_bucket(Bucket="third")
    page = usage(own_gateway)
    buckets = {row["bucket"]: row for row in page["buckets"]}
    sizes = lambda row: [row[name] for name in ("objects", "bytes", "versions", "version_bytes", "upload_bytes", "total_bytes")]
    assert sizes(buckets["first"]) == [2, 1000 + 2 * MIB, 0, 0, 0, 1000 + 2 * MIB]
    assert sizes(buckets["second"]) == [1, 30, 2, 30, 500, 560]
    owners = {row["user"]: row for row in page["owners"]}
    assert owners["key:admin"]["buckets"] == 2 and owners["key:admin"]["total_bytes"] == 1560 + 2 * MIB
    assert [row["bucket"] for row in usage(own_gateway, "--user", "carol")["buckets"]] == ["third"]
    table = own_gateway.fula("usage").stdout
    assert "key:admin" in table and "2.0 MiB" in table and "third" in table
    numbers = ("BUCKETS", "OBJECTS", "SIZE", "IN ALL")
    assert columns(table.split("\n\n")[0], numbers)["key:admin"] == ["2", "3", "2.0 MiB", "2.0 MiB"]
    # The command says the same while no gateway runs.
    own_gateway.stop()
    assert usage(own_gateway)["buckets"] == page["buckets"]


def test_a_quota_bounds_objects_uploads_and_commits(tmp_path):
    gateway = Gateway(tmp_path / "data", "--bucket-quota", "6M")
    with gateway.start():
        s3 = gateway.client()
        s3.create_bucket(Bucket="bounded")
        s3.put_object(Bucket="bounded", Key="a", Body=b"x" * (4 * MIB))
        with Refused("QuotaExceeded", 403) as refused:
            s3.put_object(Bucket="bounded", Key="b", Body=b"x" * (3 * MIB))
        assert "FULA_BUCKET_QUOTA" in refused.response["Error"]["Message"]
        with Refused("QuotaExceeded", 403):
            s3.copy_object(Bucket="bounded", Key="c", CopySource="bounded/a")
        upload = s3.create_multipart_upload(Bucket="bounded", Key="u")["UploadId"]
        with Refused("QuotaExceeded", 403):
            s3.upload_part(Bucket="bounded", Key="u", UploadId=upload, PartNumber=1, Body=b"x" * (3 * MIB))
        part = s3.upload_part(Bucket="bounded", Key="u", UploadId=upload, PartNumber=1, Body=b"x" * MIB)
        s3.complete_multipart_upload(Bucket="bounded", Key="u", UploadId=upload, MultipartUpload={
            "Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
        s3.delete_object(Bucket="bounded", Key="a")
        s3.put_object(Bucket="bounded", Key="b", Body=b"x" * (3 * MIB))
        assert usage(gateway)["buckets"][0]["total_bytes"] == 4 * MIB


def test_a_clone_is_made_at_once_and_changes_nothing_else(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="live")
    for n in range(30):
        s3.put_object(Bucket="live", Key=f"k{n}", Body=b"%d" % n * 1000)
    s3.put_bucket_tagging(Bucket="live", Tagging={"TagSet": [{"Key": "t", "Value": "v"}]})
    good = roots_log(own_gateway, "live")[0]["version"]
    for n in range(30):
        s3.delete_object(Bucket="live", Key=f"k{n}")
    size = lambda: json.loads(own_gateway.fula("status", "--json").stdout)["log"]["log_bytes"]
    before = size()
    said = own_gateway.fula("clone", f"live@{good}", "as-it-was").stdout
    assert said == (f"Made the bucket as-it-was with 30 objects ({50_000 / 1024:.1f} KiB) of live at version {good}. "
                    "Nothing was copied.\n")
    assert size() - before < 8192
    listed = s3.list_objects_v2(Bucket="as-it-was")
    assert listed["KeyCount"] == 30
    assert s3.get_object(Bucket="as-it-was", Key="k12")["Body"].read() == b"12" * 1000
    # It is a bucket of its own: without settings, and with changes of its own.
    assert s3.list_objects_v2(Bucket="live")["KeyCount"] == 0
    with Refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket="as-it-was")
    s3.put_object(Bucket="as-it-was", Key="k12", Body=b"new")
    own_gateway.fula("gc", "--now", "--retention", "0s")
    assert own_gateway.fula("fsck").returncode == 0
    assert s3.get_object(Bucket="as-it-was", Key="k13")["Body"].read() == b"13" * 1000
    # The collection took the version away, and a later clone learns that, also after a restart.
    for restart in [False, True]:
        if restart:
            own_gateway.stop()
            own_gateway.start()
        late = own_gateway.fula("clone", f"live@{good}", "late", check=False)
        assert late.returncode == 1 and "may be gone" in late.stderr, late.stderr
    assert own_gateway.fula("clone", "as-it-was", "again").returncode == 0


def test_a_clone_that_cannot_be_made_says_why(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="live")
    s3.create_bucket(Bucket="there")
    for line, expected in [
        (["none-such", "new-one"], "there is no bucket none-such"),
        (["live", "there"], "there is a bucket of the new name already"),
        (["live", "No"], "cannot be the name of a bucket"),
        (["live@999", "new-one"], "never had version 999"),
        (["live@yesterday", "new-one"], "after @ stands a version"),
    ]:
        done = own_gateway.fula("clone", *line, check=False)
        assert done.returncode in (1, 2) and expected in done.stderr, done.stderr


def test_masters_clone_what_is_current(federation):
    one, two = federation.gateway("one"), federation.gateway("two")
    s3 = one.client()
    s3.create_bucket(Bucket="live")
    s3.put_object(Bucket="live", Key="k", Body=b"x" * (3 * MIB))
    old = json.loads(admin(one, "roots", "log", "live", "--json").stdout)[0]["version"]
    s3.put_object(Bucket="live", Key="k", Body=b"new")
    refused = admin(two, "clone", f"live@{old}", "as-it-was")
    assert refused.returncode == 1 and "only the current version" in refused.stderr
    assert admin(two, "clone", "live", "cloned").returncode == 0
    assert s3.get_object(Bucket="cloned", Key="k")["Body"].read() == b"new"
    assert {row["bucket"] for row in json.loads(admin(two, "usage", "--json").stdout)["buckets"]} == {"live", "cloned"}


def test_a_quota_bounds_all_buckets_of_an_owner(tmp_path):
    with Gateway(tmp_path / "data", "--owner-quota", "3M").start() as gateway:
        s3 = gateway.client()
        for bucket in ("first", "second"):
            s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket="first", Key="a", Body=b"x" * (2 * MIB))
        s3.put_object(Bucket="second", Key="a", Body=b"x" * MIB)
        with Refused("QuotaExceeded", 403) as refused:
            s3.put_object(Bucket="second", Key="b", Body=b"x")
        assert "FULA_OWNER_QUOTA" in refused.response["Error"]["Message"]
        # Another owner has a quota of its own.
        carol = json.loads(gateway.fula("keys", "create", "--user", "carol", "--json").stdout)
        hers = gateway.client(key=(carol["id"], carol["secret"]))
        hers.create_bucket(Bucket="first")
        hers.put_object(Bucket="first", Key="a", Body=b"x" * (3 * MIB))
        s3.delete_object(Bucket="first", Key="a")
        s3.put_object(Bucket="first", Key="b", Body=b"x" * MIB)
