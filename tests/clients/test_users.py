"""Users as an operator names them: one spelling for keys, revocations and buckets."""

import json

import pytest

from helpers import Refused


def make_key(gateway, user):
    made = json.loads(gateway.fula("keys", "create", "--user", user, "--json").stdout)
    return made["user"], (made["id"], made["secret"])


@pytest.mark.parametrize("spelled", ["carol", "key:carol"])
def test_a_user_is_named_with_or_without_the_prefix(own_gateway, spelled):
    user, key = make_key(own_gateway, spelled)
    assert user == "key:carol"
    s3 = own_gateway.client(key=key)
    s3.create_bucket(Bucket="bucket")
    # Another user's bucket of the same name, so that commands must be told whose.
    own_gateway.client().create_bucket(Bucket="bucket")
    assert "say whose" in own_gateway.fula("roots", "log", "bucket", check=False).stderr
    assert own_gateway.fula("roots", "log", "bucket", "--user", spelled).stdout.count("objects") == 1
    listed = json.loads(own_gateway.fula("keys", "list", "--user", spelled, "--json").stdout)
    assert [(found["id"], found["user"], found["revoked"]) for found in listed] == [(key[0], user, False)]
    own_gateway.fula("revoke", "user", spelled)
    with Refused("InvalidAccessKeyId", 403):
        s3.list_buckets()
    assert own_gateway.fula("keys", "list", "--user", spelled).stdout.rstrip().endswith("revoked")
    refused = own_gateway.fula("keys", "create", "--user", spelled, check=False)
    assert refused.returncode == 1 and "key:carol is revoked" in refused.stderr


def test_a_user_who_was_never_seen_is_not_revoked_by_mistake(own_gateway):
    _, key = make_key(own_gateway, "carol")
    mistyped = own_gateway.fula("revoke", "user", "carrol", check=False)
    assert mistyped.returncode == 1
    assert "nothing was revoked: key:carrol has no access key and no bucket" in mistyped.stderr
    assert own_gateway.fula("revoke", "list").stdout == ""
    own_gateway.client(key=key).list_buckets()
    # Nobody uses the name yet, and nobody shall.
    own_gateway.fula("revoke", "user", "mallory", "--yes")
    refused = own_gateway.fula("keys", "create", "--user", "mallory", check=False)
    assert refused.returncode == 1 and "revoked" in refused.stderr


def test_a_key_that_was_revoked_by_itself_leaves_its_user(own_gateway):
    user, first = make_key(own_gateway, "carol")
    own_gateway.fula("keys", "revoke", first[0], "--user", "key:carol")
    _, second = make_key(own_gateway, "carol")
    own_gateway.client(key=second).list_buckets()
    with Refused("InvalidAccessKeyId", 403):
        own_gateway.client(key=first).list_buckets()
