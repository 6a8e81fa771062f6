"""Settings of buckets and properties of objects, as tools read and write them."""

import json
import re

import botocore.exceptions
import pytest

from helpers import Refused
from test_answers import signed
from test_signatures import exchange, told


def code(call, **arguments):
    """What a call is refused with: status, code and message."""
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        call(**arguments)
    answer = refused.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"].get("Message")


NOT_SET = {
    "get_bucket_tagging": ("NoSuchTagSet", "The TagSet does not exist"),
    "get_bucket_cors": ("NoSuchCORSConfiguration", "The CORS configuration does not exist"),
    "get_bucket_encryption": ("ServerSideEncryptionConfigurationNotFoundError",
                              "The server side encryption configuration was not found"),
    "get_bucket_lifecycle_configuration": ("NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist"),
    "get_bucket_replication": ("ReplicationConfigurationNotFoundError", "The replication configuration was not found"),
    "get_bucket_website": ("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration"),
    "get_public_access_block": ("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found"),
    "get_object_lock_configuration": ("ObjectLockConfigurationNotFoundError",
                                      "Object Lock configuration does not exist for this bucket"),
    "get_bucket_metadata_configuration": ("MetadataConfigurationNotFound", "The metadata configuration does not exist"),
    "get_bucket_policy": ("NoSuchBucketPolicy", "The bucket policy does not exist"),
    "get_bucket_policy_status": ("NoSuchBucketPolicy", "The bucket policy does not exist"),
}
BY_ID = ["analytics", "intelligent_tiering", "inventory", "metrics"]
ALWAYS = {
    "get_bucket_versioning": {},
    "get_bucket_logging": {},
    "get_bucket_notification_configuration": {},
    "get_bucket_accelerate_configuration": {},
    "get_bucket_request_payment": {"Payer": "BucketOwner"},
    "get_bucket_abac": {"AbacStatus": {"Status": "Disabled"}},
    "get_bucket_ownership_controls": {"OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}},
}


def test_settings_that_were_never_made(gateway, s3, bucket):
    """Everything that Terraform reads of an `aws_s3_bucket`, and what other tools read."""
    for name, (expected, text) in NOT_SET.items():
        assert code(getattr(s3, name), Bucket=bucket) == (404, expected, text), name
    assert b"<BucketName>" + bucket.encode() in signed(gateway, "GET", f"/{bucket}?cors")[2]
    for name, expected in ALWAYS.items():
        found = getattr(s3, name)(Bucket=bucket)
        assert {field: value for field, value in found.items() if field != "ResponseMetadata"} == expected, name
    for kind in BY_ID:
        found = getattr(s3, f"list_bucket_{kind}_configurations")(Bucket=bucket)
        assert found["IsTruncated"] is False, kind
        read = getattr(s3, f"get_bucket_{kind}_configuration")
        assert code(read, Bucket=bucket, Id="i")[:2] == (404, "NoSuchConfiguration"), kind
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    for read in [s3.get_object_retention, s3.get_object_legal_hold]:
        assert code(read, Bucket=bucket, Key="k") == (400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
    versioning = signed(gateway, "GET", f"/{bucket}?versioning")[2]
    assert re.search(rb'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"\s*(/>|></)', versioning)


def test_settings_are_read_by_those_who_may(gateway, s3, bucket):
    for query in ["versioning", "tagging", "acl", "cors", "lifecycle", "encryption", "object-lock", "publicAccessBlock"]:
        assert told(exchange(gateway, "GET", f"/{bucket}?{query}", {}))[:2] == (403, "AccessDenied"), query
        absent = f"{bucket}-absent"
        assert told(signed(gateway, "GET", f"/{absent}?{query}"))[:2] == (404, "NoSuchBucket"), query
    for query in ["acl", "tagging", "attributes"]:
        asked = {"x-amz-object-attributes": "ETag"}
        assert told(exchange(gateway, "GET", f"/{bucket}/k?{query}", asked))[:2] == (403, "AccessDenied"), query


def test_removing_what_was_never_made(s3, bucket):
    for name in ["encryption", "lifecycle", "replication", "website"]:
        found = getattr(s3, f"delete_bucket_{name}")(Bucket=bucket)
        assert found["ResponseMetadata"]["HTTPStatusCode"] == 204, name
    assert s3.delete_public_access_block(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with Refused("NoSuchBucket", 404):
        s3.delete_bucket_website(Bucket=f"{bucket}-absent")


def test_acls_let_nobody_in_but_the_owner(gateway, s3, bucket):
    me = s3.list_buckets()["Owner"]["ID"]
    own = [{"Grantee": {"Type": "CanonicalUser", "ID": me}, "Permission": "FULL_CONTROL"}]
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    on_bucket, on_object = {"Bucket": bucket}, {"Bucket": bucket, "Key": "k"}
    for read, put, what in [(s3.get_bucket_acl, s3.put_bucket_acl, on_bucket), (s3.get_object_acl, s3.put_object_acl, on_object)]:
        found = read(**what)
        assert (found["Owner"], found["Grants"]) == ({"ID": me}, own)
        policy = {"Owner": {"ID": me}, "Grants": own}
        for acl in [{"ACL": "private"}, {"GrantFullControl": f'id="{me}"'}, {"AccessControlPolicy": policy}]:
            put(**what, **acl)
        everyone = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}
        other = {"Owner": {"ID": me}, "Grants": own + [{"Grantee": everyone, "Permission": "READ"}]}
        for acl in [{"ACL": "public-read"}, {"GrantRead": f'id="{"0" * 32}"'}, {"AccessControlPolicy": other}]:
            assert code(put, **what, **acl) == (400, "AccessControlListNotSupported", "The bucket does not allow ACLs"), acl
        with Refused("MissingSecurityHeader", 400):
            put(**what)
    xml = b"<AccessControlPolicy><Owner><ID>%s</ID></Owner></AccessControlPolicy>" % me.encode()
    assert told(signed(gateway, "PUT", f"/{bucket}?acl", xml))[:2] == (400, "MalformedACLError")
    # Old tools send one with every write.
    for acl in [{"ACL": "private"}, {"ACL": "bucket-owner-full-control"}, {"GrantFullControl": f"id={me}"}]:
        s3.put_object(**on_object, Body=b"kept", **acl)
        s3.copy_object(Bucket=bucket, Key="copy", CopySource=on_object, **acl)
        upload = s3.create_multipart_upload(**on_object, **acl)["UploadId"]
        s3.abort_multipart_upload(**on_object, UploadId=upload)
    wrong = signed(gateway, "PUT", f"/{bucket}/k", b"x", {"x-amz-acl": "mine"})
    assert told(wrong)[:2] == (400, "InvalidArgument")
    assert b"<ArgumentName>x-amz-acl</ArgumentName><ArgumentValue>mine</ArgumentValue>" in wrong[2]
    assert s3.get_object(**on_object)["Body"].read() == b"kept"
    with Refused("NoSuchKey", 404):
        s3.get_object_acl(Bucket=bucket, Key="absent")
    with Refused("NoSuchKey", 404):
        s3.put_object_acl(Bucket=bucket, Key="absent", ACL="private")


ATTRIBUTES = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]


def test_attributes_of_an_object(gateway, s3, bucket):
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"body", ChecksumAlgorithm="SHA256")
    found = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=ATTRIBUTES)
    assert found["ETag"] == put["ETag"].strip('"')
    assert found["Checksum"] == {"ChecksumSHA256": put["ChecksumSHA256"], "ChecksumType": "FULL_OBJECT"}
    assert (found["StorageClass"], found["ObjectSize"], "ObjectParts" in found) == ("STANDARD", 4, False)
    assert found["LastModified"] == s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    only = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectSize"])
    assert (only["ObjectSize"], "ETag" in only) == (4, False)
    for headers, expected in [
        ({}, "InvalidRequest"), ({"x-amz-object-attributes": ""}, "InvalidRequest"),
        ({"x-amz-object-attributes": "ETag,Colour"}, "InvalidArgument"),
    ]:
        assert told(signed(gateway, "GET", f"/{bucket}/k?attributes", headers=headers))[:2] == (400, expected)
    with Refused("NoSuchKey", 404):
        s3.get_object_attributes(Bucket=bucket, Key="absent", ObjectAttributes=["ETag"])


def test_attributes_of_parts(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    what = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    parts = []
    for number, body in [(2, b"a" * (5 << 20)), (5, b"b" * (5 << 20)), (9, b"c")]:
        part = s3.upload_part(**what, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256")
        parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]})
    done = s3.complete_multipart_upload(**what, MultipartUpload={"Parts": parts})
    read = lambda **more: s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=ATTRIBUTES, **more)
    found = read()
    assert found["Checksum"] == {"ChecksumSHA256": done["ChecksumSHA256"], "ChecksumType": "COMPOSITE"}
    expected = [{"PartNumber": part["PartNumber"], "Size": size, "ChecksumSHA256": part["ChecksumSHA256"]}
                for part, size in zip(parts, [5 << 20, 5 << 20, 1])]
    assert found["ObjectParts"]["Parts"] == expected and found["ObjectParts"]["TotalPartsCount"] == 3
    assert (found["ObjectParts"]["IsTruncated"], found["ObjectParts"]["MaxParts"]) == (False, 1000)
    # A read of one part tells the checksum of that part.
    for call in [s3.get_object, s3.head_object]:
        part = call(Bucket=bucket, Key="k", PartNumber=2, ChecksumMode="ENABLED")
        assert (part["ChecksumSHA256"], part["ContentLength"]) == (parts[1]["ChecksumSHA256"], 5 << 20)
        assert "ChecksumSHA256" not in call(Bucket=bucket, Key="k", Range="bytes=0-9", ChecksumMode="ENABLED")
    page = read(MaxParts=1, PartNumberMarker=2)["ObjectParts"]
    assert (page["Parts"], page["IsTruncated"]) == (expected[1:2], True)
    assert (page["PartNumberMarker"], page["NextPartNumberMarker"]) == (2, 5)


def test_public_access_is_blocked(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"public")
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    publish = lambda: s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    set_to = lambda **flags: s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=flags)
    read = lambda: exchange(gateway, "GET", f"/{bucket}/k", {})[0]
    publish()
    assert read() == 200
    set_to(RestrictPublicBuckets=True)
    found = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert found == {"BlockPublicAcls": False, "IgnorePublicAcls": False, "BlockPublicPolicy": False, "RestrictPublicBuckets": True}
    assert read() == 403 and s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"public"
    set_to(BlockPublicAcls=True, IgnorePublicAcls=True, BlockPublicPolicy=True)
    # A policy that is there already keeps its effect.
    assert read() == 200
    with Refused("AccessDenied", 403):
        publish()
    s3.delete_bucket_policy(Bucket=bucket)
    with Refused("AccessDenied", 403):
        publish()
    assert s3.delete_public_access_block(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert code(s3.get_public_access_block, Bucket=bucket)[:2] == (404, "NoSuchPublicAccessBlockConfiguration")
    publish()
    assert read() == 200
