"""What a bucket's name means: squatted names, public buckets, the two modes, and how much one owner may have."""

import json
import re
import uuid

import pytest

from conftest import Gateway
from helpers import MIB, Refused, eventually, pattern
from identity import call, code


def fresh():
    return f"bucket-{uuid.uuid4().hex[:12]}"


def user(gateway, name=None):
    """A client of a new user, and the user's owner id."""
    made = gateway.fula("keys", "create", "--user", name or uuid.uuid4().hex[:8]).stdout
    s3 = gateway.client(key=[line.split(" = ")[1] for line in made.splitlines()])
    return s3, s3.list_buckets()["Owner"]["ID"]


def policy(bucket):
    """Everyone may read and list the bucket."""
    allow = lambda action, resource: {"Effect": "Allow", "Principal": "*", "Action": action,
                                      "Resource": f"arn:aws:s3:::{resource}"}
    return json.dumps({"Version": "2012-10-17", "Statement": [
        allow("s3:GetObject", f"{bucket}/*"), allow("s3:ListBucket", bucket)]})


def make(s3, bucket, body, public=True):
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    if public:
        s3.put_bucket_policy(Bucket=bucket, Policy=policy(bucket))


def rows(gateway):
    """The arbiter's rows by bucket name."""
    shown = json.loads(gateway.fula("roots", "show", "--json").stdout)
    return {row["bucket"]: row for row in shown["buckets"]}


def ways(s3, name, mine, upload):
    """Every way in which a request leads to a bucket, by name."""
    part = {"Bucket": mine, "Key": "up", "UploadId": upload, "PartNumber": 1}
    source = {"Bucket": name, "Key": "k"}
    return {
        "HEAD": lambda: s3.head_bucket(Bucket=name),
        "HEAD object": lambda: s3.head_object(Bucket=name, Key="k"),
        "location": lambda: s3.get_bucket_location(Bucket=name),
        "GET": lambda: s3.get_object(Bucket=name, Key="k"),
        "PUT": lambda: s3.put_object(Bucket=name, Key="k", Body=b"x"),
        "list": lambda: s3.list_objects_v2(Bucket=name),
        "list uploads": lambda: s3.list_multipart_uploads(Bucket=name),
        "upload": lambda: s3.create_multipart_upload(Bucket=name, Key="k"),
        "copy from": lambda: s3.copy_object(Bucket=mine, Key="k", CopySource=source),
        "copy a part from": lambda: s3.upload_part_copy(**part, CopySource=source),
        "delete": lambda: s3.delete_object(Bucket=name, Key="k"),
        "delete many": lambda: s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "k"}]}),
        "get policy": lambda: s3.get_bucket_policy(Bucket=name),
        "set policy": lambda: s3.put_bucket_policy(Bucket=name, Policy=policy(name)),
        "delete policy": lambda: s3.delete_bucket_policy(Bucket=name),
        "delete bucket": lambda: s3.delete_bucket(Bucket=name),
    }


def test_a_squatted_name_means_nothing_to_others(gateway):
    (alice, alice_id), (bob, _), name, mine = user(gateway), user(gateway), fresh(), fresh()
    make(alice, name, b"of alice")
    bob.create_bucket(Bucket=mine)
    upload = bob.create_multipart_upload(Bucket=mine, Key="up")["UploadId"]

    def expect_nothing(when):
        for way, ask in ways(bob, name, mine, upload).items():
            with pytest.raises(bob.exceptions.ClientError) as refused:
                ask()
            # Answers to HEAD have no body that could hold the code.
            assert refused.value.response["Error"]["Code"] in ("NoSuchBucket", "404"), (when, way)

    expect_nothing("Bob never had the bucket")
    make(bob, name, b"of bob", public=False)
    assert bob.get_object(Bucket=name, Key="k")["Body"].read() == b"of bob"
    bob.copy_object(Bucket=mine, Key="copy", CopySource={"Bucket": name, "Key": "k"})
    assert bob.get_object(Bucket=mine, Key="copy")["Body"].read() == b"of bob"
    bob.delete_object(Bucket=name, Key="k")
    bob.delete_bucket(Bucket=name)
    expect_nothing("Bob deleted his own bucket")
    assert alice.get_object(Bucket=name, Key="k")["Body"].read() == b"of alice"

    # What is public is reached by saying whose it is, and so is the source of a copy.
    owner = {"ExpectedBucketOwner": alice_id}
    assert bob.get_object(Bucket=name, Key="k", **owner)["Body"].read() == b"of alice"
    assert bob.list_objects_v2(Bucket=name, **owner)["KeyCount"] == 1
    bob.head_bucket(Bucket=name, **owner)
    source = {"CopySource": {"Bucket": name, "Key": "k"}, "ExpectedSourceBucketOwner": alice_id}
    bob.copy_object(Bucket=mine, Key="copy", **source)
    assert bob.get_object(Bucket=mine, Key="copy")["Body"].read() == b"of alice"
    bob.upload_part_copy(Bucket=mine, Key="up", UploadId=upload, PartNumber=1, **source)
    with Refused("AccessDenied", 403):
        bob.put_object(Bucket=name, Key="k", Body=b"x", **owner)
    # The owner of the target says nothing about the source.
    with Refused("NoSuchBucket", 404):
        bob.copy_object(Bucket=mine, Key="copy", CopySource={"Bucket": name, "Key": "k"},
                        ExpectedBucketOwner=bob.list_buckets()["Owner"]["ID"])


def test_a_large_copy_takes_no_bytes_of_a_stranger(gateway):
    """Tools copy large objects in parts, after a HEAD of the source."""
    (alice, alice_id), (bob, _), name, mine = user(gateway), user(gateway), fresh(), fresh()
    alice.create_bucket(Bucket=name)
    body = pattern(9 * MIB)
    alice.put_object(Bucket=name, Key="k", Body=body)
    alice.put_bucket_policy(Bucket=name, Policy=policy(name))
    bob.create_bucket(Bucket=mine)
    with pytest.raises(bob.exceptions.ClientError):
        bob.copy({"Bucket": name, "Key": "k"}, mine, "k")
    assert bob.list_objects_v2(Bucket=mine)["KeyCount"] == 0
    source = {"ExpectedSourceBucketOwner": alice_id}
    bob.copy_object(Bucket=mine, Key="k", CopySource={"Bucket": name, "Key": "k"}, **source)
    assert bob.get_object(Bucket=mine, Key="k")["Body"].read() == body


def test_the_anonymous_reach_the_public_bucket_of_a_name(gateway):
    (alice, alice_id), (bob, bob_id), name = user(gateway), user(gateway), fresh()
    read = lambda owner=None: call(gateway, "GET", f"/{name}/k",
                                   headers={"x-amz-expected-bucket-owner": owner} if owner else None)
    make(alice, name, b"of alice", public=False)
    make(bob, name, b"of bob", public=False)
    assert code(read()) == (403, "AccessDenied")
    assert not rows(gateway)[name]["global_name"]
    bob.put_bucket_policy(Bucket=name, Policy=policy(name))
    assert read()[2] == b"of bob"
    # Bob holds the name: Alice's policy counts all the same, for readers who name her.
    alice.put_bucket_policy(Bucket=name, Policy=policy(name))
    assert alice.get_bucket_policy_status(Bucket=name)["PolicyStatus"]["IsPublic"]
    assert read()[2] == b"of bob"
    assert read(alice_id)[2] == b"of alice" and read(bob_id)[2] == b"of bob"
    bob.delete_bucket_policy(Bucket=name)
    assert code(read()) == (403, "AccessDenied")
    alice.put_bucket_policy(Bucket=name, Policy=policy(name))
    assert read()[2] == b"of alice"
    alice.delete_object(Bucket=name, Key="k")
    alice.delete_bucket(Bucket=name)
    assert code(read()) == (403, "AccessDenied")
    bob.put_bucket_policy(Bucket=name, Policy=policy(name))
    assert read()[2] == b"of bob"


def test_with_global_names_a_name_has_one_owner(tmp_path):
    gateway = Gateway(tmp_path / "data").start(env={"FULA_BUCKET_NAMES": "global"})
    (alice, _), (bob, _), name = user(gateway), user(gateway), fresh()
    make(alice, name, b"of alice", public=False)
    with Refused("BucketAlreadyExists", 409):
        bob.create_bucket(Bucket=name)
    with Refused("NoSuchBucket", 404):
        bob.get_object(Bucket=name, Key="k")
    alice.put_bucket_policy(Bucket=name, Policy=policy(name))
    assert bob.get_object(Bucket=name, Key="k")["Body"].read() == b"of alice"
    bob.create_bucket(Bucket=f"{name}-mine")
    bob.copy_object(Bucket=f"{name}-mine", Key="k", CopySource={"Bucket": name, "Key": "k"})
    assert call(gateway, "GET", f"/{name}/k")[2] == b"of alice"
    # The name is kept until the bucket is deleted.
    alice.delete_bucket_policy(Bucket=name)
    with Refused("BucketAlreadyExists", 409):
        bob.create_bucket(Bucket=name)
    alice.delete_object(Bucket=name, Key="k")
    alice.delete_bucket(Bucket=name)
    bob.create_bucket(Bucket=name)
    gateway.stop()


def test_names_that_private_buckets_hold_are_released_at_the_start(tmp_path):
    """In global mode every bucket holds its name, as in older versions."""
    told = {"RUST_LOG": "info,fula_service::settle=debug"}
    gateway = Gateway(tmp_path / "data").start(env={"FULA_BUCKET_NAMES": "global", **told})
    (alice, _), (bob, _) = user(gateway), user(gateway)
    shut, open_ = fresh(), fresh()
    make(alice, shut, b"shut", public=False)
    make(alice, open_, b"open")
    assert rows(gateway)[shut]["global_name"] and rows(gateway)[open_]["global_name"]
    gateway.stop()
    gateway.start(env=told)
    eventually(lambda: not rows(gateway)[shut]["global_name"], why=lambda: "the name was not released")
    assert rows(gateway)[open_]["global_name"]
    make(bob, shut, b"of bob")
    assert call(gateway, "GET", f"/{shut}/k")[2] == b"of bob"
    assert call(gateway, "GET", f"/{open_}/k")[2] == b"open"
    assert alice.get_object(Bucket=shut, Key="k")["Body"].read() == b"shut"
    version = rows(gateway)[shut]["version"]
    in_line, log = "global bucket names are in line with FULA_BUCKET_NAMES", gateway.data_dir.with_suffix(".log")
    eventually(lambda: log.read_text().count(in_line) == 2)
    gateway.stop()
    gateway.start(env=told)
    assert call(gateway, "GET", f"/{shut}/k")[2] == b"of bob"
    assert rows(gateway)[shut]["version"] == version
    gateway.stop()
    assert log.read_text().count(in_line) == 2, "once for each mode"
    assert len(re.findall(f"INFO .*{in_line}", log.read_text())) == 1, "only what changed"


def test_one_owner_may_have_so_much(tmp_path):
    limits = {"FULA_BUCKETS_PER_OWNER": "3", "FULA_PUBLIC_BUCKETS_PER_OWNER": "1", "FULA_KEYS_PER_USER": "2"}
    gateway = Gateway(tmp_path / "data").start(env=limits)
    (alice, _), (bob, _) = user(gateway, "alice"), user(gateway)
    names = [fresh() for _ in range(4)]
    for name in names[:3]:
        alice.create_bucket(Bucket=name)
    with Refused("TooManyBuckets", 400) as refused:
        alice.create_bucket(Bucket=names[3])
    assert "FULA_BUCKETS_PER_OWNER" in refused.response["Error"]["Message"]
    with Refused("BucketAlreadyOwnedByYou", 409):
        alice.create_bucket(Bucket=names[0])
    bob.create_bucket(Bucket=names[3])
    alice.put_bucket_policy(Bucket=names[0], Policy=policy(names[0]))
    with Refused("LimitExceeded", 400) as refused:
        alice.put_bucket_policy(Bucket=names[1], Policy=policy(names[1]))
    text = refused.response["Error"]["Message"]
    assert "FULA_PUBLIC_BUCKETS_PER_OWNER" in text and "Remove the policy" in text
    with Refused("NoSuchBucketPolicy", 404):
        alice.get_bucket_policy(Bucket=names[1])
    alice.put_bucket_policy(Bucket=names[0], Policy=policy(names[0]))
    alice.delete_bucket_policy(Bucket=names[0])
    alice.put_bucket_policy(Bucket=names[1], Policy=policy(names[1]))
    alice.delete_bucket(Bucket=names[0])
    alice.create_bucket(Bucket=names[0])

    gateway.fula("keys", "create", "--user", "alice")
    refused = gateway.fula("keys", "create", "--user", "alice", check=False)
    assert refused.returncode == 1 and "FULA_KEYS_PER_USER" in refused.stderr
    key = json.loads(gateway.fula("keys", "list", "--user", "alice", "--json").stdout)[0]["id"]
    gateway.fula("keys", "revoke", key)
    gateway.fula("keys", "create", "--user", "alice")
    gateway.stop()
    # Where no gateway runs, the command has the limit.
    refused = gateway.fula("keys", "create", "--user", "alice", "--keys-per-user", "2", check=False)
    assert refused.returncode == 1 and "fula keys revoke" in refused.stderr
    gateway.fula("keys", "create", "--user", "alice")
