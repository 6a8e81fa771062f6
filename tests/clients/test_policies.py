"""Bucket policies: who is let in, under which conditions, and what is refused when one is put."""

import datetime
import json

import pytest

from helpers import Refused
from identity import Wallet, call, code, door, fresh, token_client
from signing import presigned
from test_answers import signed
from test_names import user
from test_signatures import exchange, told


def statement(effect, principal, action, *resources, **condition):
    found = {"Effect": effect, "Principal": principal, "Action": action, "Resource": [f"arn:aws:s3:::{r}" for r in resources]}
    return {**found, "Condition": condition} if condition else found


def put(s3, bucket, *statements):
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))


@pytest.fixture
def others(gateway):
    """Clients of two users, and their owner ids."""
    return user(gateway), user(gateway)


def test_a_user_is_let_in_by_name(gateway, s3, bucket, others):
    (bob, bob_id), (carol, _) = others
    owner = {"ExpectedBucketOwner": s3.list_buckets()["Owner"]["ID"]}
    s3.put_object(Bucket=bucket, Key="in/k", Body=b"x", Tagging="t=1")
    for principal in [{"AWS": bob_id}, {"CanonicalUser": bob_id}, {"AWS": [f"arn:aws:iam::{bob_id}:root"]}]:
        put(s3, bucket, statement("Allow", principal, ["s3:GetObject", "s3:PutObject"], f"{bucket}/in/*"),
            statement("Allow", principal, "s3:List*", bucket))
        assert bob.get_object(Bucket=bucket, Key="in/k", **owner)["Body"].read() == b"x"
        bob.put_object(Bucket=bucket, Key="in/new", Body=b"y", ACL="bucket-owner-full-control", **owner)
        assert bob.list_objects_v2(Bucket=bucket, **owner)["KeyCount"] == 2
        upload = {"Bucket": bucket, "Key": "in/up", **owner}
        upload["UploadId"] = bob.create_multipart_upload(**upload)["UploadId"]
        part = bob.upload_part(**upload, PartNumber=1, Body=b"p")
        bob.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
        s3.delete_object(Bucket=bucket, Key="in/up")
    assert s3.get_object(Bucket=bucket, Key="in/new")["Body"].read() == b"y"
    refused = [
        lambda: bob.get_object(Bucket=bucket, Key="out", **owner),
        lambda: bob.delete_object(Bucket=bucket, Key="in/k", **owner),
        lambda: bob.get_object_tagging(Bucket=bucket, Key="in/k", **owner),
        lambda: bob.get_bucket_policy(Bucket=bucket, **owner),
        lambda: bob.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}, **owner),
        lambda: carol.get_object(Bucket=bucket, Key="in/k", **owner),
    ]
    for call_ in refused:
        with Refused("AccessDenied", 403):
            call_()
    assert told(exchange(gateway, "GET", f"/{bucket}/in/k", {}))[:2] == (403, "AccessDenied")
    assert not s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]


def test_a_wallet_is_let_in_by_its_address(door):
    owner, friend, bucket = Wallet(), Wallet(), fresh()
    s3 = token_client(door, owner.v1())
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    put(s3, bucket, statement("Allow", {"AWS": f"arn:aws:iam:::user/{friend.account.address}"}, "s3:*Object", f"{bucket}/*"))
    named = {"x-amz-expected-bucket-owner": s3.list_buckets()["Owner"]["ID"]}
    ask = lambda method, token, body=None: code(call(door, method, f"/{bucket}/k", body, token, named))
    assert ask("GET", friend.v1()) == 200 and ask("PUT", friend.v2("write:*"), b"y") == 200
    # The scopes of a token bound what the policy gives.
    assert ask("PUT", friend.v2("read:*"), b"z") == (403, "AccessDenied")
    assert ask("GET", Wallet().v1()) == (403, "AccessDenied")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"y"


def test_a_denial_holds_for_the_owner(s3, bucket):
    s3.put_object(Bucket=bucket, Key="kept/k", Body=b"x")
    put(s3, bucket, statement("Deny", "*", "s3:DeleteObject*", f"{bucket}/kept/*"), statement("Deny", "*", "s3:*Policy", bucket))
    with Refused("AccessDenied", 403):
        s3.delete_object(Bucket=bucket, Key="kept/k")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "kept/k"}, {"Key": "other"}]})
    assert [error["Code"] for error in answer["Errors"]] == ["AccessDenied"] and [d["Key"] for d in answer["Deleted"]] == ["other"]
    # The policy itself stays the owner's.
    s3.get_bucket_policy(Bucket=bucket)
    put(s3, bucket, statement("Deny", "*", "s3:*", bucket, f"{bucket}/*"))
    for call_ in [lambda: s3.get_object(Bucket=bucket, Key="kept/k"), lambda: s3.list_objects_v2(Bucket=bucket),
                  lambda: s3.get_bucket_tagging(Bucket=bucket)]:
        with Refused("AccessDenied", 403):
            call_()
    s3.delete_bucket_policy(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="kept/k")


def test_conditions_on_the_request(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    get = lambda headers=None, target=f"/{bucket}/k": exchange(gateway, "GET", target, headers or {})[0]
    allow = lambda action="s3:GetObject", resource=f"{bucket}/*", **condition: put(
        s3, bucket, statement("Allow", "*", action, resource, **condition))
    allow(StringLike={"aws:Referer": ["https://a.example.com/*"]})
    assert (get(), get({"referer": "https://a.example.com/page"}), get({"referer": "https://evil.test/"})) == (403, 200, 403)
    allow(IpAddress={"aws:SourceIp": "127.0.0.0/8"})
    assert get() == 200
    allow(IpAddress={"aws:SourceIp": "192.0.2.0/24"})
    assert get() == 403
    allow(Bool={"aws:SecureTransport": "false"})
    assert get() == 200
    at = lambda days: (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    allow(DateLessThan={"aws:CurrentTime": at(1)}, DateGreaterThan={"aws:CurrentTime": at(-1)})
    assert get() == 200
    allow(DateGreaterThan={"aws:CurrentTime": at(1)})
    assert get() == 403
    allow("s3:ListBucket", bucket, StringEquals={"s3:prefix": "in/", "s3:delimiter": "/"}, NumericLessThanEquals={"s3:max-keys": "10"})
    listed = lambda query: get(target=f"/{bucket}?list-type=2&{query}")
    assert listed("prefix=in/&delimiter=/&max-keys=10") == 200
    assert listed("prefix=in/&delimiter=/&max-keys=11") == listed("prefix=in/&delimiter=/") == listed("delimiter=/&max-keys=1") == 403


def test_conditions_on_writes(gateway, s3, bucket):
    put(s3, bucket,
        statement("Deny", "*", "s3:PutObject", f"{bucket}/new/*", Null={"s3:if-none-match": "true"}),
        statement("Deny", "*", "s3:PutObject", f"{bucket}/acl/*", StringNotEquals={"s3:x-amz-acl": "bucket-owner-full-control"}),
        statement("Deny", "*", ["s3:PutObject", "s3:PutObjectTagging"], f"{bucket}/tag/*", StringNotEquals={"s3:RequestObjectTag/team": ["a", "b"]}),
        statement("Deny", "*", "s3:PutObject*", f"{bucket}/tag/*",
                  **{"ForAnyValue:StringNotEquals": {"s3:RequestObjectTagKeys": ["team", "part"]}}))
    write = lambda key, **more: s3.put_object(Bucket=bucket, Key=key, Body=b"x", **more)
    write("new/k", IfNoneMatch="*")
    write("acl/k", ACL="bucket-owner-full-control")
    write("tag/k", Tagging="team=a&part=1")
    tag = lambda **tags: s3.put_object_tagging(Bucket=bucket, Key="tag/k", Tagging={
        "TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]})
    tag(team="b")
    for refused in [lambda: write("new/l"), lambda: write("acl/k"), lambda: write("acl/k", ACL="private"), lambda: write("tag/k"),
                    lambda: write("tag/k", Tagging="team=c"), lambda: write("tag/k", Tagging="team=a&other=1"),
                    lambda: tag(team="c"), lambda: tag(part="1")]:
        with Refused("AccessDenied", 403):
            refused()
    # Parameters of a presigned URL stand for headers.
    url = lambda query: presigned(gateway.credentials(), gateway.listen, "PUT", f"/{bucket}/acl/k?{query}")
    assert exchange(gateway, "PUT", url("x-amz-acl=bucket-owner-full-control"), {}, b"y")[0] == 200
    assert exchange(gateway, "PUT", url("x-amz-acl=private"), {}, b"y")[0] == 403


def test_conditions_on_tags_of_the_object(gateway, s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="public=yes")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"2", Tagging="public=no")
    yes = {"s3:ExistingObjectTag/public": "yes"}
    put(s3, bucket, statement("Allow", "*", ["s3:GetObject", "s3:GetObjectVersion"], f"{bucket}/*", StringEquals=yes),
        statement("Deny", "*", "s3:PutObject", f"{bucket}/*", StringEquals=yes))
    get = lambda query="": exchange(gateway, "GET", f"/{bucket}/k{query}", {})[0]
    assert (get(), get(f"?versionId={first}")) == (403, 200)
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "public", "Value": "yes"}]})
    assert get() == 200 and exchange(gateway, "GET", f"/{bucket}/absent", {})[0] == 403
    with Refused("AccessDenied", 403):
        s3.put_object(Bucket=bucket, Key="k", Body=b"3")


def test_variables(gateway, s3, bucket, others):
    (bob, bob_id), (carol, carol_id) = others
    owner = {"ExpectedBucketOwner": s3.list_buckets()["Owner"]["ID"]}
    put(s3, bucket, statement("Allow", {"AWS": [bob_id, carol_id]}, "s3:*Object", f"{bucket}/home/${{aws:userid}}/*"))
    bob.put_object(Bucket=bucket, Key=f"home/{bob_id}/k", Body=b"x", **owner)
    with Refused("AccessDenied", 403):
        carol.get_object(Bucket=bucket, Key=f"home/{bob_id}/k", **owner)


def test_anonymous_requests_only_read(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "b", "Value": "2"}]})
    put(s3, bucket, statement("Allow", "*", "s3:*", bucket, f"{bucket}/*"))
    for target in [f"/{bucket}/k", f"/{bucket}/k?tagging", f"/{bucket}?tagging", f"/{bucket}?versions", f"/{bucket}?uploads",
                   f"/{bucket}?location", f"/{bucket}/k?acl"]:
        assert exchange(gateway, "GET", target, {})[0] == 200, target
    for method, target in [("PUT", f"/{bucket}/k"), ("DELETE", f"/{bucket}/k"), ("PUT", f"/{bucket}?policy"), ("GET", f"/{bucket}?policy"),
                           ("POST", f"/{bucket}?delete"), ("DELETE", f"/{bucket}")]:
        assert told(exchange(gateway, method, target, {}))[:2] == (403, "AccessDenied"), (method, target)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


@pytest.mark.parametrize("change, text", [
    ({"Effect": "Maybe"}, 'Invalid effect: "Maybe"'),
    ({"Principal": {"AWS": "arn:aws:iam::123456789012:root"}}, "Invalid principal in policy"),
    ({"Action": "s3:Fly"}, "Policy has invalid action"),
    ({"Resource": "arn:aws:s3:::another-bucket/*"}, "Policy has invalid resource"),
    ({"Action": "s3:ListBucket"}, "Action does not apply to any resource(s) in statement"),
    ({"Condition": {"StringIs": {"s3:prefix": "a"}}}, "Invalid Condition type : StringIs"),
    ({"Condition": {"StringEquals": {"s3:colour": "a"}}}, "Policy has an invalid condition key"),
    ({"Other": "x"}, "Unknown field Other"),
])
def test_policies_that_are_refused(s3, bucket, change, text):
    good = statement("Allow", "*", "s3:GetObject", f"{bucket}/*")
    with Refused("MalformedPolicy", 400) as refused:
        put(s3, bucket, {**good, **change})
    assert refused.response["Error"]["Message"] == text


def test_a_condition_that_cannot_be_kept_is_refused(gateway, s3, bucket):
    with Refused("NotImplemented", 501):
        put(s3, bucket, statement("Deny", "*", "s3:*", f"{bucket}/*", NumericGreaterThan={"s3:signatureAge": "1000"}))
    padded = json.dumps({"Version": "2012-10-17", "Statement": [statement("Deny", "*", "s3:*", f"{bucket}/{'k' * 21000}")]})
    assert told(signed(gateway, "PUT", f"/{bucket}?policy", padded.encode()))[:2] == (400, "MalformedPolicy")


def test_public_is_what_aws_calls_public(s3, bucket):
    is_public = lambda: s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    allow = lambda **condition: put(s3, bucket, statement("Allow", "*", "s3:GetObject", f"{bucket}/*", **condition))
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration={"BlockPublicPolicy": True})
    allow(IpAddress={"aws:SourceIp": "192.0.2.0/24"})
    assert not is_public()
    for condition in [{}, {"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}, {"StringLike": {"aws:Referer": "https://a/*"}}]:
        with Refused("AccessDenied", 403):
            allow(**condition)
    assert not is_public()
    s3.delete_public_access_block(Bucket=bucket)
    allow(StringLike={"aws:Referer": "https://a/*"})
    assert is_public()


def test_policies_survive_a_restart(own_gateway):
    s3, bucket = own_gateway.client(), "policy-bucket"
    s3.create_bucket(Bucket=bucket)
    put(s3, bucket, statement("Deny", "*", "s3:PutObject", f"{bucket}/closed/*"))
    own_gateway.kill()
    own_gateway.start()
    s3.put_object(Bucket=bucket, Key="open/k", Body=b"x")
    with Refused("AccessDenied", 403):
        s3.put_object(Bucket=bucket, Key="closed/k", Body=b"x")


def test_who_may_not_list_is_not_told_that_a_key_is_absent(gateway, s3, bucket):
    allow = lambda *statements: put(s3, bucket, *statements)
    read = statement("Allow", "*", "s3:GetObject", f"{bucket}/*")
    get = lambda method="GET": exchange(gateway, method, f"/{bucket}/absent", {})
    allow(read)
    assert told(get())[:2] == (403, "AccessDenied") and get("HEAD")[0] == 403
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="absent")
    allow(read, statement("Allow", "*", "s3:ListBucket", bucket))
    assert told(get())[:2] == (404, "NoSuchKey") and get("HEAD")[0] == 404
