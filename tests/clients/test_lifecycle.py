"""Lifecycle rules: set, refused, and applied by real gateways."""

import datetime
import re
import urllib.request

import pytest

from conftest import Gateway
from helpers import Refused, eventually
from masters import federation
from test_answers import signed
from test_settings import code
from test_signatures import told

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


def put(s3, bucket, *rules):
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


def rule(**more):
    return {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, **more}


def test_rules_come_back_as_they_were_set(s3, bucket):
    rules = [
        rule(ID="a", Filter={"Prefix": "in/"}, Expiration={"Days": 1}),
        rule(ID="b", Filter={"And": {"Prefix": "in/", "Tags": [{"Key": "k", "Value": "v"}], "ObjectSizeGreaterThan": 5,
                                     "ObjectSizeLessThan": 9}}, Expiration={"Date": PAST}),
        rule(ID="c", Filter={"Tag": {"Key": "k", "Value": "v"}}, Status="Disabled",
             NoncurrentVersionExpiration={"NoncurrentDays": 3, "NewerNoncurrentVersions": 2}),
        rule(ID="d", Filter={}, Expiration={"ExpiredObjectDeleteMarker": True}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
        rule(ID="e", Filter={"ObjectSizeGreaterThan": 1}, NoncurrentVersionExpiration={"NoncurrentDays": 1}),
    ]
    old = {"ID": "old", "Status": "Enabled", "Prefix": "x", "Expiration": {"Days": 5}}
    put(s3, bucket, *rules, old)
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == [*rules, old]
    put(s3, bucket, {"Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}})
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0]["ID"]
    assert s3.delete_bucket_lifecycle(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with Refused("NoSuchLifecycleConfiguration", 404):
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)


@pytest.mark.parametrize("change, expected", [
    ({}, (400, "InvalidRequest", "At least one action needs to be specified in a rule")),
    ({"Expiration": {"Days": 0}}, (400, "InvalidArgument", "'Days' for Expiration action must be a positive integer")),
    ({"Expiration": {"Date": PAST.replace(hour=1)}}, (400, "InvalidArgument", "'Date' must be at midnight GMT")),
    ({"Expiration": {"Days": 1, "ExpiredObjectDeleteMarker": True}}, (400, "MalformedXML")),
    ({"Expiration": {"Days": 1}, "Status": "On"}, (400, "MalformedXML")),
    ({"Expiration": {"Days": 1}, "ID": "x" * 256}, (400, "InvalidArgument", "ID length should not exceed allowed limit of 255")),
    ({"Expiration": {"Days": 1}, "Prefix": "both"}, (400, "MalformedXML")),
    ({"Expiration": {"Days": 1}, "Filter": {"Prefix": "p", "Tag": {"Key": "k", "Value": "v"}}}, (400, "MalformedXML")),
    ({"NoncurrentVersionExpiration": {"NoncurrentDays": 0}}, (400, "InvalidArgument")),
    ({"NoncurrentVersionExpiration": {"NoncurrentDays": 1, "NewerNoncurrentVersions": 101}}, (400, "InvalidArgument")),
    ({"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 0}}, (400, "InvalidArgument")),
    ({"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}, "Filter": {"Tag": {"Key": "k", "Value": "v"}}},
     (400, "InvalidRequest", "AbortIncompleteMultipartUpload cannot be specified with Tags.")),
    ({"Expiration": {"Days": 1}, "Filter": {"And": {"ObjectSizeGreaterThan": 9, "ObjectSizeLessThan": 9}}}, (400, "InvalidRequest")),
    ({"Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}, (501, "NotImplemented")),
])
def test_rules_that_are_refused(s3, bucket, change, expected):
    found = code(s3.put_bucket_lifecycle_configuration, Bucket=bucket, LifecycleConfiguration={"Rules": [rule(**change)]})
    assert found[:len(expected)] == expected


def test_configurations_that_are_refused(gateway, s3, bucket):
    one = rule(Expiration={"Days": 1})
    found = code(s3.put_bucket_lifecycle_configuration, Bucket=bucket, LifecycleConfiguration={"Rules": [one, one]})
    assert found[:2] == (400, "InvalidArgument") and found[2].startswith("Rule ID must be unique.")
    with Refused("MalformedXML", 400):
        put(s3, bucket, *[{**one, "ID": str(n)} for n in range(1001)])
    assert told(signed(gateway, "PUT", f"/{bucket}?lifecycle", b"<LifecycleConfiguration/>"))[:2] == (400, "MalformedXML")
    with Refused("NoSuchLifecycleConfiguration", 404):
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)


def test_answers_tell_when_an_object_ends(s3, bucket):
    put(s3, bucket, rule(ID="soon, it is", Filter={"Prefix": "in/"}, Expiration={"Days": 3}),
        rule(ID="tagged", Filter={"Tag": {"Key": "t", "Value": "1"}}, Expiration={"Days": 1}))
    end = lambda answer: answer.get("Expiration")
    written = s3.put_object(Bucket=bucket, Key="in/k", Body=b"x")
    # The midnight that follows its third day.
    midnight = s3.head_object(Bucket=bucket, Key="in/k")["LastModified"] + datetime.timedelta(days=4)
    text = end(s3.get_object(Bucket=bucket, Key="in/k"))
    assert re.fullmatch(r'expiry-date="\w{3}, \d\d \w{3} \d{4} 00:00:00 GMT", rule-id="soon%2C%20it%20is"', text), text
    assert midnight.strftime("%d %b %Y") in text
    assert end(written) == end(s3.head_object(Bucket=bucket, Key="in/k")) == text
    assert end(s3.put_object(Bucket=bucket, Key="out", Body=b"x")) is None
    assert 'rule-id="tagged"' in end(s3.put_object(Bucket=bucket, Key="in/t", Body=b"x", Tagging="t=1"))
    assert 'rule-id="soon' in end(s3.copy_object(Bucket=bucket, Key="in/copy", CopySource=f"{bucket}/out"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A gateway that works off rules every second."""
    gateway = Gateway(tmp_path_factory.mktemp("lifecycle") / "data").start(env={"FULA_LIFECYCLE_EVERY": "1s"})
    yield gateway
    gateway.stop()


def ended(gateway):
    """How much a master has ended."""
    text = urllib.request.urlopen(f"{gateway.admin}/metrics").read().decode()
    found = re.search(r"^fula_lifecycle_ended_total (\d+)", text, re.M)
    return int(found[1]) if found else 0


def until(found, expected):
    # A master that is gone is waited for, so this may take a minute on an idle machine.
    eventually(lambda: found() == expected, 180, why=found)


def test_objects_end(quick):
    s3, bucket = quick.client(), "ending-bucket"
    s3.create_bucket(Bucket=bucket)
    for key, tags in [("in/a", ""), ("in/b", "keep=1"), ("out", "")]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x", Tagging=tags)
    s3.put_object_tagging(Bucket=bucket, Key="in/a", Tagging={"TagSet": [{"Key": "end", "Value": "1"}]})
    put(s3, bucket, rule(Filter={"And": {"Prefix": "in/", "Tags": [{"Key": "end", "Value": "1"}]}}, Expiration={"Date": PAST}))
    keys = lambda: [line["Key"] for line in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    until(keys, ["in/b", "out"])
    # It is counted after it was done.
    until(lambda: ended(quick), 1)


def test_versions_end_and_markers_after_them(quick):
    s3, bucket = quick.client(), "ending-versions"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    put(s3, bucket, rule(Expiration={"Date": PAST}))
    markers = lambda: len(s3.list_object_versions(Bucket=bucket).get("DeleteMarkers", []))
    until(markers, 1)
    assert s3.get_object(Bucket=bucket, Key="k", VersionId=version)["Body"].read() == b"x"
    # Once the marker is alone, it ends, too.
    s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
    until(markers, 0)
    s3.delete_bucket(Bucket=bucket)


def test_masters_take_turns(federation):
    one, two = [federation.gateway(name, FULA_LIFECYCLE_EVERY="1s") for name in ["one", "two"]]
    clients = [gateway.client(key=one.credentials()) for gateway in (one, two)]
    bucket = "shared-bucket"
    clients[0].create_bucket(Bucket=bucket)
    put(clients[0], bucket, rule(Filter={"Prefix": "in/"}, Expiration={"Date": PAST}))
    keys = lambda: clients[1].list_objects_v2(Bucket=bucket)["KeyCount"]
    for s3 in clients:
        for n in range(15):
            s3.put_object(Bucket=bucket, Key=f"in/{clients.index(s3)}/{n}", Body=b"x")
    until(keys, 0)
    # None was ended twice. They are counted after they were ended.
    eventually(lambda: ended(one) + ended(two) >= 30)
    assert ended(one) + ended(two) == 30
    # When a master is gone, another one goes on.
    one.kill()
    for n in range(5):
        clients[1].put_object(Bucket=bucket, Key=f"in/{n}", Body=b"x")
    until(keys, 0)
