"""Access control lists, in buckets whose object ownership lets them count."""

import pytest

from helpers import Refused
from test_answers import signed
from test_names import user
from test_settings import code
from test_signatures import exchange, told

GROUPS = "http://acs.amazonaws.com/groups/global/"
EVERYONE = {"Type": "Group", "URI": f"{GROUPS}AllUsers"}


def own(s3, bucket, rule):
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": rule}]})


def named(owner):
    return {"Type": "CanonicalUser", "ID": owner}


def grants(found):
    """The grants of a list, as a set."""
    return {(grant["Grantee"].get("ID", grant["Grantee"].get("URI")), grant["Permission"]) for grant in found["Grants"]}


@pytest.fixture
def alice(s3):
    """Owner id of the owner of the buckets."""
    return s3.list_buckets()["Owner"]["ID"]


@pytest.fixture
def bob(gateway):
    """Client of another user, and the user's owner id."""
    return user(gateway)


def test_ownership_is_set_and_removed(s3, bucket):
    ownership = lambda: s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert ownership() == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    for rule in ["BucketOwnerPreferred", "ObjectWriter", "BucketOwnerEnforced"]:
        own(s3, bucket, rule)
        assert ownership() == [{"ObjectOwnership": rule}]
    wrong = lambda: own(s3, bucket, "Mine")
    with Refused("MalformedXML", 400):
        wrong()
    s3.delete_bucket_ownership_controls(Bucket=bucket)
    assert code(s3.get_bucket_ownership_controls, Bucket=bucket)[:2] == (404, "OwnershipControlsNotFoundError")
    # Lists count then, as on AWS.
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    with Refused("InvalidBucketAclWithObjectOwnership", 400):
        own(s3, bucket, "BucketOwnerEnforced")
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    own(s3, bucket, "BucketOwnerEnforced")
    assert code(s3.put_bucket_acl, Bucket=bucket, ACL="public-read")[:2] == (400, "AccessControlListNotSupported")


def test_a_new_bucket_has_ownership_and_a_list(gateway, s3, alice, bucket):
    create = lambda **more: s3.create_bucket(Bucket=f"{bucket}-2", **more)
    with Refused("InvalidBucketAclWithObjectOwnership", 400):
        create(ACL="public-read")
    assert told(signed(gateway, "PUT", f"/{bucket}-2", headers={"x-amz-object-ownership": "Mine"}))[:2] == (400, "InvalidArgument")
    create(ObjectOwnership="ObjectWriter", ACL="public-read")
    assert grants(s3.get_bucket_acl(Bucket=f"{bucket}-2")) == {(alice, "FULL_CONTROL"), (EVERYONE["URI"], "READ")}
    # Anyone finds it by its bare name.
    assert exchange(gateway, "GET", f"/{bucket}-2", {})[0] == 200
    s3.create_bucket(Bucket=f"{bucket}-3", ObjectOwnership="BucketOwnerEnforced", ACL="private")


@pytest.mark.parametrize("bucket_acl", ["private", "public-read", "public-read-write", "authenticated-read"])
def test_canned_lists_decide(gateway, s3, bucket, alice, bob, bucket_acl):
    other, _ = bob
    own(s3, bucket, "ObjectWriter")
    s3.put_bucket_acl(Bucket=bucket, ACL=bucket_acl)
    for acl in ["private", "public-read", "authenticated-read"]:
        s3.put_object(Bucket=bucket, Key=acl, Body=b"x", ACL=acl)
    owner = {"ExpectedBucketOwner": alice}

    def status(ask, **what):
        try:
            return ask(Bucket=bucket, **what, **owner)["ResponseMetadata"]["HTTPStatusCode"]
        except other.exceptions.ClientError as refused:
            assert refused.response["Error"]["Code"] in ("AccessDenied", "NoSuchKey", "403", "404"), refused
            return refused.response["ResponseMetadata"]["HTTPStatusCode"]

    anonymous = lambda path: exchange(gateway, "GET", f"/{bucket}{path}", {"x-amz-expected-bucket-owner": alice})[0]
    lists = bucket_acl != "private"
    assert status(other.list_objects_v2) == (200 if lists else 403)
    assert status(other.list_object_versions) == (200 if lists else 403)
    assert anonymous("") == (200 if bucket_acl.startswith("public") else 403)
    for acl in ["private", "public-read", "authenticated-read"]:
        read = 200 if acl != "private" else 403
        assert status(other.get_object, Key=acl) == status(other.head_object, Key=acl) == read, acl
        assert status(other.get_object_acl, Key=acl) == status(other.put_object_acl, Key=acl, ACL="public-read") == 403
        assert anonymous(f"/{acl}") == (200 if acl == "public-read" else 403), acl
    assert status(other.get_object, Key="absent") == (404 if lists else 403)
    writes = bucket_acl == "public-read-write"
    assert status(other.put_object, Key="new", Body=b"y") == (200 if writes else 403)
    # Only the owner of an object deletes it, besides that of the bucket.
    assert status(other.delete_object, Key="private") == 403
    assert status(other.delete_object, Key="new") == (204 if writes else 403)
    # Requests without a credential only read, whatever a list allows.
    sent = exchange(gateway, "PUT", f"/{bucket}/anonymous", {"x-amz-expected-bucket-owner": alice}, b"z")
    assert told(sent)[:2] == (403, "AccessDenied")


def test_grants_in_every_form(s3, bucket, alice, bob):
    other, bob_id = bob
    own(s3, bucket, "BucketOwnerPreferred")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", GrantRead=f'id="{bob_id}"', GrantFullControl=f'id="{alice}"')
    on_object = {"Bucket": bucket, "Key": "k"}
    assert grants(s3.get_object_acl(**on_object)) == {(bob_id, "READ"), (alice, "FULL_CONTROL")}
    owner = {"ExpectedBucketOwner": alice}
    assert other.get_object(**on_object, **owner)["Body"].read() == b"x"
    before = s3.head_object(**on_object)
    full = {"Grantee": named(alice), "Permission": "FULL_CONTROL"}
    policy = lambda *more: {"Owner": {"ID": alice}, "Grants": [full, *more]}
    acp = [{"Grantee": named(bob_id), "Permission": each} for each in ["READ_ACP", "WRITE_ACP"]]
    s3.put_object_acl(**on_object, AccessControlPolicy=policy(*acp))
    after = s3.head_object(**on_object)
    assert (after["LastModified"], after["ETag"]) == (before["LastModified"], before["ETag"])
    with Refused("AccessDenied", 403):
        other.get_object(**on_object, **owner)
    # Whoever may replace the list may let itself in, but cannot become the owner.
    stolen = {"Owner": {"ID": bob_id}, "Grants": [{"Grantee": named(bob_id), "Permission": "FULL_CONTROL"}]}
    with Refused("AccessDenied", 403):
        other.put_object_acl(**on_object, **owner, AccessControlPolicy=stolen)
    other.put_object_acl(**on_object, **owner, AccessControlPolicy=policy({"Grantee": named(bob_id), "Permission": "READ"}, *acp))
    assert other.get_object(**on_object, **owner)["Body"].read() == b"x"
    assert grants(other.get_object_acl(**on_object, **owner)) >= {(bob_id, "READ")}
    s3.put_bucket_acl(Bucket=bucket, GrantWrite=f"id={bob_id}", GrantReadACP=f"uri={EVERYONE['URI']}")
    assert grants(other.get_bucket_acl(Bucket=bucket, **owner)) == {(bob_id, "WRITE"), (EVERYONE["URI"], "READ_ACP")}
    other.put_object(Bucket=bucket, Key="theirs", Body=b"y", **owner)
    email = {"Grantee": {"Type": "AmazonCustomerByEmail", "EmailAddress": "a@example.com"}, "Permission": "READ"}
    group = {"Grantee": {"Type": "Group", "URI": "http://example.com/"}, "Permission": "READ"}
    for wrong, expected in [(email, "UnresolvableGrantByEmailAddress"), (group, "InvalidArgument"),
                            ({"Grantee": named("x"), "Permission": "READ"}, "InvalidArgument"),
                            ({"Grantee": named(bob_id), "Permission": "ALL"}, "MalformedACLError")]:
        assert code(s3.put_object_acl, **on_object, AccessControlPolicy=policy(wrong))[:2] == (400, expected)
    many = [{"Grantee": named(bob_id), "Permission": "READ"}] * 100
    assert code(s3.put_object_acl, **on_object, AccessControlPolicy=policy(*many))[:2] == (400, "InvalidRequest")


@pytest.mark.parametrize("rule", ["ObjectWriter", "BucketOwnerPreferred"])
def test_a_writer_owns_what_it_puts(s3, bucket, alice, bob, rule):
    other, bob_id = bob
    own(s3, bucket, rule)
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    owner = {"ExpectedBucketOwner": alice}
    other.put_object(Bucket=bucket, Key="theirs", Body=b"x", **owner)
    other.put_object(Bucket=bucket, Key="given", Body=b"y", ACL="bucket-owner-full-control", **owner)
    upload = {"Bucket": bucket, "Key": "parts", **owner}
    upload["UploadId"] = other.create_multipart_upload(**upload)["UploadId"]
    part = other.upload_part(**upload, PartNumber=1, Body=b"p")
    other.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    other.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/theirs", ExpectedSourceBucketOwner=alice, **owner)
    writer = bob_id if rule == "ObjectWriter" else alice
    owners = {"theirs": bob_id, "parts": bob_id, "copy": bob_id, "given": writer}
    listed = s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"]
    assert {line["Key"]: line["Owner"]["ID"] for line in listed} == owners
    versions = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert {line["Key"]: line["Owner"]["ID"] for line in versions} == owners
    for key in ["theirs", "parts", "copy"]:
        with Refused("AccessDenied", 403):
            s3.get_object(Bucket=bucket, Key=key)
        assert other.get_object(Bucket=bucket, Key=key, **owner)["ContentLength"] == 1
    assert s3.get_object(Bucket=bucket, Key="given")["Body"].read() == b"y"
    other.put_object_acl(Bucket=bucket, Key="theirs", ACL="bucket-owner-read", **owner)
    assert s3.get_object(Bucket=bucket, Key="theirs")["Body"].read() == b"x"
    assert grants(other.get_object_acl(Bucket=bucket, Key="theirs", **owner)) == {(bob_id, "FULL_CONTROL"), (alice, "READ")}
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in owners]})
    assert len(deleted["Deleted"]) == 4 and "Errors" not in deleted
    # The owner of the bucket takes over what is put from now on.
    other.put_object(Bucket=bucket, Key="theirs", Body=b"z", **owner)
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    own(s3, bucket, "BucketOwnerEnforced")
    assert s3.get_object(Bucket=bucket, Key="theirs")["Body"].read() == b"z"
    with Refused("AccessDenied", 403):
        other.get_object(Bucket=bucket, Key="theirs", **owner)


def test_a_policy_says_nothing_about_objects_of_others(s3, bucket, alice, bob):
    other, bob_id = bob
    own(s3, bucket, "ObjectWriter")
    s3.put_bucket_acl(Bucket=bucket, GrantWrite=f"id={bob_id}")
    other.put_object(Bucket=bucket, Key="theirs", Body=b"x", ExpectedBucketOwner=alice)
    s3.put_object(Bucket=bucket, Key="mine", Body=b"y")
    allow = '{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::%s/*"}' % bucket
    s3.put_bucket_policy(Bucket=bucket, Policy='{"Version": "2012-10-17", "Statement": [%s]}' % allow)
    assert other.get_object(Bucket=bucket, Key="mine", ExpectedBucketOwner=alice)["Body"].read() == b"y"
    with Refused("AccessDenied", 403):
        s3.get_object(Bucket=bucket, Key="theirs")
    deny = allow.replace("Allow", "Deny")
    s3.put_bucket_policy(Bucket=bucket, Policy='{"Version": "2012-10-17", "Statement": [%s]}' % deny)
    with Refused("AccessDenied", 403):
        other.get_object(Bucket=bucket, Key="theirs", ExpectedBucketOwner=alice)


def test_the_public_access_block_stops_lists(gateway, s3, bucket, alice):
    own(s3, bucket, "ObjectWriter")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    read = lambda: exchange(gateway, "GET", f"/{bucket}/k", {"x-amz-expected-bucket-owner": alice})[0]
    assert read() == 200
    block = lambda **parts: s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=parts)
    block(IgnorePublicAcls=True)
    assert read() == 403
    block(BlockPublicAcls=True)
    assert read() == 200
    for put in [lambda: s3.put_object(Bucket=bucket, Key="k2", Body=b"x", ACL="public-read"),
                lambda: s3.put_object_acl(Bucket=bucket, Key="k", ACL="authenticated-read"),
                lambda: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
                lambda: s3.create_multipart_upload(Bucket=bucket, Key="k2", ACL="public-read")]:
        with Refused("AccessDenied", 403):
            put()
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    assert read() == 403


def test_a_version_has_its_own_list(gateway, s3, bucket, alice):
    own(s3, bucket, "ObjectWriter")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"old")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    s3.put_object_acl(Bucket=bucket, Key="k", VersionId=old, ACL="public-read")
    anonymous = lambda path: exchange(gateway, "GET", path, {"x-amz-expected-bucket-owner": alice})[0]
    assert anonymous(f"/{bucket}/k") == 403 and anonymous(f"/{bucket}/k?versionId={old}") == 200
    assert grants(s3.get_object_acl(Bucket=bucket, Key="k")) == {(alice, "FULL_CONTROL")}
    assert (EVERYONE["URI"], "READ") in grants(s3.get_object_acl(Bucket=bucket, Key="k", VersionId=old))
