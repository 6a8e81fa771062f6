"""Versions of objects, as clients make, list, read and remove them."""

import pytest

from helpers import MIB, Refused
from test_answers import signed
from test_settings import code
from test_signatures import told


@pytest.fixture
def versioned(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def suspend(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})


def put(s3, bucket, key, body, **more):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **more).get("VersionId")


def body_of(s3, bucket, key, version=None):
    named = {"VersionId": version} if version else {}
    return s3.get_object(Bucket=bucket, Key=key, **named)["Body"].read()


def lines(s3, bucket, **more):
    """Versions and markers: key, version, whether it is a marker, whether it is the newest."""
    page = s3.list_object_versions(Bucket=bucket, **more)
    found = [(line["Key"], line["VersionId"], False, line["IsLatest"]) for line in page.get("Versions", [])]
    found += [(line["Key"], line["VersionId"], True, line["IsLatest"]) for line in page.get("DeleteMarkers", [])]
    return sorted(found)


def test_versioning_is_switched_on_and_suspended(gateway, s3, bucket):
    status = lambda: s3.get_bucket_versioning(Bucket=bucket).get("Status")
    assert status() is None
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert status() == "Enabled"
    suspend(s3, bucket)
    assert status() == "Suspended"
    xml = lambda inner: f"<VersioningConfiguration>{inner}</VersioningConfiguration>".encode()
    set_to = lambda inner: told(signed(gateway, "PUT", f"/{bucket}?versioning", xml(inner)))[:2]
    assert set_to("") == (400, "IllegalVersioningConfigurationException")
    assert set_to("<Status>On</Status>") == (400, "MalformedXML")
    assert set_to("<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>") == (501, "NotImplemented")
    assert status() == "Suspended"


def test_every_write_makes_a_version(s3, versioned):
    first, second = put(s3, versioned, "k", b"1"), put(s3, versioned, "k", b"22")
    assert first != second
    got = s3.get_object(Bucket=versioned, Key="k")
    assert (got["Body"].read(), got["VersionId"]) == (b"22", second)
    assert body_of(s3, versioned, "k", first) == b"1"
    head = s3.head_object(Bucket=versioned, Key="k", VersionId=first)
    assert (head["ContentLength"], head["VersionId"]) == (1, first)
    assert lines(s3, versioned) == sorted([("k", first, False, False), ("k", second, False, True)])
    # A listing has the newest alone.
    assert [line["Size"] for line in s3.list_objects_v2(Bucket=versioned)["Contents"]] == [2]
    # Putting the same bytes again is a version, too.
    assert put(s3, versioned, "k", b"22") not in (first, second)


def test_a_deletion_makes_a_marker(gateway, s3, versioned):
    version = put(s3, versioned, "k", b"x")
    deleted = s3.delete_object(Bucket=versioned, Key="k")
    marker = deleted["VersionId"]
    assert deleted["DeleteMarker"] is True and marker != version
    for method in ["GET", "HEAD"]:
        status, headers, _ = signed(gateway, method, f"/{versioned}/k")
        assert (status, headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == (404, "true", marker)
        status, headers, _ = signed(gateway, method, f"/{versioned}/k?versionId={marker}")
        assert (status, headers["x-amz-delete-marker"], headers["allow"]) == (405, "true", "DELETE")
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)
    assert body_of(s3, versioned, "k", version) == b"x"
    # Removing the marker brings the object back.
    removed = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)
    assert (removed["DeleteMarker"], removed["VersionId"]) == (True, marker)
    assert body_of(s3, versioned, "k") == b"x"
    removed = s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    assert ("DeleteMarker" in removed, removed["VersionId"]) == (False, version)
    assert lines(s3, versioned) == []
    # What is not there may be deleted, too.
    assert s3.delete_object(Bucket=versioned, Key="absent")["DeleteMarker"] is True


def test_versions_that_are_not_there(gateway, s3, versioned):
    version = put(s3, versioned, "k", b"x")
    other = put(s3, versioned, "other", b"y")
    s3.delete_object(Bucket=versioned, Key="other", VersionId=other)
    for absent in [other, "null", "f" * 24]:
        assert code(s3.get_object, Bucket=versioned, Key="k", VersionId=absent) == (
            404, "NoSuchVersion", "The specified version does not exist.")
        assert s3.delete_object(Bucket=versioned, Key="k", VersionId=absent)["ResponseMetadata"]["HTTPStatusCode"] == 204
    for wrong, text in [("x", "Invalid version id specified"), ("", "Version id cannot be the empty string")]:
        for method in ["GET", "DELETE"]:
            assert told(signed(gateway, method, f"/{versioned}/k?versionId={wrong}")) == (400, "InvalidArgument", text)
    assert lines(s3, versioned) == [("k", version, False, True)]


def test_null_versions(s3, bucket):
    assert put(s3, bucket, "k", b"before") is None
    assert "VersionId" not in s3.head_object(Bucket=bucket, Key="k")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    version = put(s3, bucket, "k", b"version")
    assert body_of(s3, bucket, "k", "null") == b"before"
    suspend(s3, bucket)
    # A write replaces the null version alone.
    assert put(s3, bucket, "k", b"after") is None
    assert lines(s3, bucket) == sorted([("k", version, False, False), ("k", "null", False, True)])
    assert (body_of(s3, bucket, "k"), body_of(s3, bucket, "k", version)) == (b"after", b"version")
    deleted = s3.delete_object(Bucket=bucket, Key="k")
    assert (deleted["DeleteMarker"], deleted["VersionId"]) == (True, "null")
    assert lines(s3, bucket) == sorted([("k", version, False, False), ("k", "null", True, True)])
    assert put(s3, bucket, "k", b"again") is None
    assert lines(s3, bucket) == sorted([("k", version, False, False), ("k", "null", False, True)])
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert body_of(s3, bucket, "k") == b"version"
    assert lines(s3, bucket) == [("k", version, False, True)]


def test_listing_versions_in_pages(gateway, s3, versioned):
    expected = []
    for key in ["a", "a/1", "a/2", "b"]:
        versions = [put(s3, versioned, key, str(n).encode()) for n in range(3)]
        expected += [(key, version, False) for version in reversed(versions)]
    marker = s3.delete_object(Bucket=versioned, Key="b")["VersionId"]
    expected.insert(9, ("b", marker, True))
    for most in [1, 2, 5, 1000]:
        found, more = [], {}
        while True:
            page = s3.list_object_versions(Bucket=versioned, MaxKeys=most, **more)
            here = [(line["Key"], line["VersionId"], False) for line in page.get("Versions", [])]
            here += [(line["Key"], line["VersionId"], True) for line in page.get("DeleteMarkers", [])]
            assert len(here) <= most
            found += here
            if not page["IsTruncated"]:
                break
            more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
        assert sorted(found) == sorted(expected) and len(found) == 13, most
    rolled = s3.list_object_versions(Bucket=versioned, Delimiter="/")
    assert [line["Prefix"] for line in rolled["CommonPrefixes"]] == ["a/"]
    assert {line["Key"] for line in rolled["Versions"]} == {"a", "b"}
    below = s3.list_object_versions(Bucket=versioned, Prefix="a/", KeyMarker="a/1")
    assert {line["Key"] for line in below["Versions"]} == {"a/2"}
    assert told(signed(gateway, "GET", f"/{versioned}?versions&version-id-marker=null"))[:2] == (400, "InvalidArgument")
    encoded = signed(gateway, "GET", f"/{versioned}?versions&encoding-type=url&prefix=a%2F&max-keys=1")[2]
    assert b"<NextKeyMarker>a/1</NextKeyMarker>" in encoded and b"<KeyMarker></KeyMarker>" in encoded


def test_a_bucket_without_versions_lists_null_versions(s3, bucket):
    put(s3, bucket, "k", b"x")
    assert lines(s3, bucket) == [("k", "null", False, True)]
    assert body_of(s3, bucket, "k", "null") == b"x"
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert lines(s3, bucket) == []


def test_many_versions_are_deleted_at_once(s3, versioned):
    versions = [put(s3, versioned, "k", str(n).encode()) for n in range(3)]
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    other = put(s3, versioned, "other", b"x")
    objects = [{"Key": "k", "VersionId": version} for version in [*versions, marker]] + [{"Key": "other"}]
    answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": objects + [{"Key": "k", "VersionId": "bad"}]})
    by_version = {line.get("VersionId"): line for line in answer["Deleted"]}
    assert by_version[versions[0]] == {"Key": "k", "VersionId": versions[0]}
    assert by_version[marker] == {"Key": "k", "VersionId": marker, "DeleteMarker": True, "DeleteMarkerVersionId": marker}
    made = by_version[None]
    assert (made["Key"], made["DeleteMarker"]) == ("other", True)
    assert [(error["Code"], error["VersionId"]) for error in answer["Errors"]] == [("InvalidArgument", "bad")]
    assert lines(s3, versioned) == sorted([("other", other, False, False), ("other", made["DeleteMarkerVersionId"], True, True)])


def test_copies_of_versions(s3, versioned):
    first = put(s3, versioned, "k", b"first", Tagging="a=1", Metadata={"m": "1"})
    put(s3, versioned, "k", b"second")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    source = {"Bucket": versioned, "Key": "k", "VersionId": first}
    # An old version is restored by copying it onto its key.
    copied = s3.copy_object(Bucket=versioned, Key="k", CopySource=source)
    assert copied["CopySourceVersionId"] == first and copied["VersionId"] not in (first, marker)
    got = s3.get_object(Bucket=versioned, Key="k")
    assert (got["Body"].read(), got["Metadata"], got["TagCount"]) == (b"first", {"m": "1"}, 1)
    assert len(lines(s3, versioned)) == 4
    with Refused("InvalidRequest", 400):
        s3.copy_object(Bucket=versioned, Key="l", CopySource={**source, "VersionId": marker})
    with Refused("NoSuchVersion", 404):
        s3.copy_object(Bucket=versioned, Key="l", CopySource={**source, "VersionId": "null"})
    upload = {"Bucket": versioned, "Key": "l"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = s3.upload_part_copy(**upload, PartNumber=1, CopySource=source)
    assert part["CopySourceVersionId"] == first
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]}
    done = s3.complete_multipart_upload(**upload, MultipartUpload=parts)
    assert body_of(s3, versioned, "l", done["VersionId"]) == b"first"


def test_conditions_see_the_newest_version(s3, versioned):
    conditional = lambda **conditions: s3.put_object(Bucket=versioned, Key="k", Body=b"x", **conditions)
    conditional(IfNoneMatch="*")
    with Refused("PreconditionFailed", 412):
        conditional(IfNoneMatch="*")
    s3.delete_object(Bucket=versioned, Key="k")
    # A delete marker is no object.
    with Refused("NoSuchKey", 404):
        conditional(IfMatch="*")
    with Refused("NoSuchKey", 404):
        s3.delete_object(Bucket=versioned, Key="k", IfMatch="*")
    etag = conditional(IfNoneMatch="*")["ETag"]
    conditional(IfMatch=etag)
    upload = {"Bucket": versioned, "Key": "k"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = s3.upload_part(**upload, PartNumber=1, Body=b"p")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    with Refused("PreconditionFailed", 412):
        s3.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*")
    s3.delete_object(Bucket=versioned, Key="k")
    done = s3.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*")
    assert s3.head_object(Bucket=versioned, Key="k")["VersionId"] == done["VersionId"]
    # Completing it again gives the same answer and makes no other version.
    count = len(lines(s3, versioned))
    assert s3.complete_multipart_upload(**upload, MultipartUpload=parts)["VersionId"] == done["VersionId"]
    assert len(lines(s3, versioned)) == count


def test_tags_acls_and_attributes_of_versions(s3, versioned):
    first = put(s3, versioned, "k", b"1", Tagging="a=1")
    second = put(s3, versioned, "k", b"22")
    what = {"Bucket": versioned, "Key": "k"}
    tags = lambda **more: [tag["Value"] for tag in s3.get_object_tagging(**what, **more)["TagSet"]]
    assert (tags(), tags(VersionId=first)) == ([], ["1"])
    set_tags = s3.put_object_tagging(**what, VersionId=first, Tagging={"TagSet": [{"Key": "a", "Value": "2"}]})
    assert (set_tags["VersionId"], tags(VersionId=first), tags()) == (first, ["2"], [])
    assert s3.put_object_tagging(**what, Tagging={"TagSet": []})["VersionId"] == second
    assert s3.delete_object_tagging(**what, VersionId=first)["VersionId"] == first and tags(VersionId=first) == []
    assert s3.get_object_acl(**what, VersionId=first)["Grants"]
    s3.put_object_acl(**what, VersionId=first, ACL="private")
    found = s3.get_object_attributes(**what, VersionId=first, ObjectAttributes=["ObjectSize"])
    assert (found["ObjectSize"], found["VersionId"]) == (1, first)
    marker = s3.delete_object(**what)["VersionId"]
    for call in [s3.get_object_tagging, s3.get_object_acl]:
        with Refused("MethodNotAllowed", 405):
            call(**what, VersionId=marker)
        with Refused("NoSuchKey", 404):
            call(**what)


def test_a_bucket_with_versions_is_not_empty(s3, versioned):
    version = put(s3, versioned, "k", b"x" * MIB)
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    for left in [version, marker]:
        with Refused("BucketNotEmpty", 409):
            s3.delete_bucket(Bucket=versioned)
        s3.delete_object(Bucket=versioned, Key="k", VersionId=left)
    s3.delete_bucket(Bucket=versioned)


def test_versions_survive_a_restart_and_a_check(own_gateway):
    s3, bucket = own_gateway.client(), "versioned-bucket"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = [put(s3, bucket, "k", bytes([n]) * 2 * MIB) for n in range(3)]
    s3.delete_object(Bucket=bucket, Key="k")
    own_gateway.kill()
    own_gateway.start()
    for n, version in enumerate(versions):
        assert body_of(s3, bucket, "k", version) == bytes([n]) * 2 * MIB
    assert len(lines(s3, bucket)) == 4
    own_gateway.stop()
    assert "k" not in own_gateway.fula("fsck").stderr


def test_a_page_that_ends_at_a_null_version_is_continued_after_it_is_gone(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    oldest = put(s3, bucket, "k", b"1")
    suspend(s3, bucket)
    put(s3, bucket, "k", b"null")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    newest = put(s3, bucket, "k", b"3")
    page = s3.list_object_versions(Bucket=bucket, MaxKeys=2)
    assert [line["VersionId"] for line in page["Versions"]] == [newest, "null"]
    after = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    assert lines(s3, bucket, **after) == [("k", oldest, False, False)]
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert lines(s3, bucket, **after) == [("k", oldest, False, False)]
