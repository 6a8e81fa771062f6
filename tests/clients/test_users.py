"""Users as an operator names them: one spelling for keys, revocations and buckets."""

import json
import re

import pytest

from helpers import Refused, eventually


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
    assert "name one with --user" in own_gateway.fula("roots", "log", "bucket", check=False).stderr
    assert len(own_gateway.fula("roots", "log", "bucket", "--user", spelled).stdout.splitlines()) == 2
    listed = json.loads(own_gateway.fula("keys", "list", "--user", spelled, "--json").stdout)
    assert [(found["id"], found["user"], found["revoked"]) for found in listed] == [(key[0], user, False)]
    own_gateway.fula("revoke", "user", spelled, "--yes")
    with Refused("InvalidAccessKeyId", 403):
        s3.list_buckets()
    assert re.search(rf"^{key[0]} .* revoked +\S+$", own_gateway.fula("keys", "list", "--user", spelled).stdout, re.M)
    refused = own_gateway.fula("keys", "create", "--user", spelled, check=False)
    assert refused.returncode == 1 and "key:carol is revoked" in refused.stderr


def test_a_user_who_was_never_seen_is_not_revoked_by_mistake(own_gateway):
    _, key = make_key(own_gateway, "carol")
    mistyped = own_gateway.fula("revoke", "user", "carrol", check=False)
    assert mistyped.returncode == 1
    assert "nothing was revoked: key:carrol has no access key and no bucket" in mistyped.stderr
    assert len(own_gateway.fula("revoke", "list").stdout.splitlines()) == 1
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
    # It stays on the list, and to revoke it again says what happened.
    listed = json.loads(own_gateway.fula("keys", "list", "--user", "carol", "--json").stdout)
    assert {found["id"]: found["revoked"] for found in listed} == {first[0]: True, second[0]: False}
    assert own_gateway.fula("keys", "revoke", first[0]).stdout == f"already revoked {first[0]}\n"
    assert own_gateway.fula("revoke", "key", first[0]).stdout == f"already revoked key {first[0]}\n"
    assert len(own_gateway.fula("revoke", "list").stdout.splitlines()) == 2


def test_an_owner_id_is_a_spelling_of_its_user(own_gateway):
    user, key = make_key(own_gateway, "carol")
    s3 = own_gateway.client(key=key)
    s3.create_bucket(Bucket="bucket")
    own_gateway.client().create_bucket(Bucket="bucket")
    rows = json.loads(own_gateway.fula("roots", "show", "--json").stdout)["buckets"]
    owner = {row["user"]: row["owner"] for row in rows}[user]
    assert s3.list_buckets()["Owner"]["ID"] == owner
    assert re.search(rf" {owner}  key:carol +no +- +bucket$", own_gateway.fula("roots", "show").stdout, re.M)
    own_gateway.fula("roots", "log", "bucket", "--user", owner)
    assert key[0] in own_gateway.fula("keys", "list", "--user", owner).stdout
    unknown = own_gateway.fula("keys", "list", "--user", "0" * 32, check=False)
    assert unknown.returncode == 1 and "name the user" in unknown.stderr
    assert own_gateway.fula("revoke", "user", owner, "--yes").stdout == "revoked user key:carol\n"
    refused = own_gateway.fula("keys", "create", "--user", owner, check=False)
    assert "key:carol is revoked" in refused.stderr


def test_what_is_public_and_who_holds_a_name_is_shown(own_gateway):
    policy = json.dumps({"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                                        "Resource": "arn:aws:s3:::bucket/*"}]})
    _, key = make_key(own_gateway, "carol")
    for s3 in (own_gateway.client(), own_gateway.client(key=key)):
        s3.create_bucket(Bucket="bucket")
        answer = s3.put_bucket_policy(Bucket="bucket", Policy=policy)
    own_gateway.client().create_bucket(Bucket="private")
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-fula-global-name"] == "taken"
    shown = own_gateway.fula("roots", "show").stdout
    columns = {(line.split()[3], line.split()[6]): line.split()[4:6] for line in shown.splitlines()[1:]
               if len(line.split()) == 7}
    assert columns == {("key:admin", "bucket"): ["yes", "held"], ("key:carol", "bucket"): ["yes", "taken"],
                       ("key:admin", "private"): ["no", "-"]}


def test_the_start_recommends_no_key_that_does_not_work(own_gateway):
    assert "AWS_SHARED_CREDENTIALS_FILE" in own_gateway.banner and "do not use" not in own_gateway.banner
    own_gateway.fula("keys", "revoke", own_gateway.credentials()[0])
    own_gateway.stop()
    own_gateway.start()
    assert "do not use it: its key was revoked" in own_gateway.banner
    assert "keys create --user admin" in own_gateway.banner
    _, (key, secret) = make_key(own_gateway, "carol")
    path = own_gateway.data_dir / "credentials"
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    own_gateway.stop()
    own_gateway.start()
    assert "its key belongs to key:carol, not to admin" in own_gateway.banner


def test_an_owner_is_not_cut_off_for_ever_by_mistake(own_gateway):
    s3, admin = own_gateway.client(), own_gateway.credentials()[0]
    s3.create_bucket(Bucket="one")
    s3.create_bucket(Bucket="two")
    s3.create_bucket(Bucket="gone")
    s3.delete_bucket(Bucket="gone")
    _, second = make_key(own_gateway, "admin")
    for stopped in (False, True):
        if stopped:
            own_gateway.stop()
        refused = own_gateway.fula("revoke", "user", "admin", check=False)
        assert refused.returncode == 1 and refused.stdout == ""
        for text in ("nothing was revoked", "key:admin has 2 live access keys", admin, second[0],
                     "owns 2 buckets", "for ever", "add --yes", "fula keys revoke ID", "--issued-before now"):
            assert text in refused.stderr, text
    own_gateway.start()
    s3.list_buckets()
    # What can be made good needs no yes: a new key may follow.
    own_gateway.fula("keys", "revoke", second[0])
    done = own_gateway.fula("revoke", "user", "admin", "--issued-before", "now")
    assert re.match(r"revoked user key:admin: everything issued before \d{4}-\d\d-\d\dT", done.stdout)
    # Times of revocations are whole seconds.
    eventually(lambda: own_gateway.fula("keys", "create", "--user", "admin", check=False).returncode == 0)
    _, key = make_key(own_gateway, "admin")
    assert len(own_gateway.client(key=key).list_buckets()["Buckets"]) == 2
    assert own_gateway.fula("revoke", "user", "admin", "--yes").stdout == "revoked user key:admin\n"
    with Refused("InvalidAccessKeyId", 403):
        own_gateway.client(key=key).list_buckets()


def test_revocations_are_told_in_words_and_as_json_when_asked_for(own_gateway):
    _, key = make_key(own_gateway, "carol")
    mistyped = own_gateway.fula("revoke", "key", "FULKMISTYPED", check=False)
    assert mistyped.returncode == 1 and "no access key and no session has the id" in mistyped.stderr
    assert own_gateway.fula("revoke", "key", key[0]).stdout == f"revoked key {key[0]}\n"
    own_gateway.fula("revoke", "key", "FULKMISTYPED", "--yes")
    own_gateway.fula("revoke", "user", "bob", "--issuer", "https://issuer.example", "--yes")
    listed = own_gateway.fula("revoke", "list").stdout
    assert listed.splitlines()[0].split() == ["REVOKED", "AT", "KIND", "WHAT"]
    for row in (f"key    {key[0]}", "key    FULKMISTYPED", "user   https://issuer.example bob"):
        assert re.search(rf"^\d{{4}}-\S+Z +{re.escape(row)}$", listed, re.M), row
    assert "{" not in listed and "\\" not in listed
    as_json = json.loads(own_gateway.fula("revoke", "list", "--json").stdout)
    assert {"key": key[0]} in [found["revoked"] for found in as_json]
