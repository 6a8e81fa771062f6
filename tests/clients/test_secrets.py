"""Changing the key that encrypts the secrets of access keys: no key stops working, and the old line can go."""

import json
import re
import secrets

import pytest

from conftest import Gateway
from masters import admin, federation  # noqa: F401


def add_line(file):
    with open(file, "a") as lines:
        lines.write(secrets.token_hex(32) + "\n")


def make_key(gateway, run):
    said = run(gateway, "keys", "create", "--user", "carol")
    return re.search(r"aws_access_key_id = (\S+)", said)[1], re.search(r"aws_secret_access_key = (\S+)", said)[1]


def well(gateway, *line):
    done = admin(gateway, *line) if hasattr(gateway, "shared") else gateway.fula(*line)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reseal(gateway):
    said = json.loads(well(gateway, "secrets", "reseal", "--json"))
    return said["changed"], said["already"], said["left"]


def test_a_single_gateway_changes_its_key(own_gateway, tmp_path):
    file = own_gateway.data_dir / "secrets.key"
    key, gone = make_key(own_gateway, well), make_key(own_gateway, well)
    own_gateway.fula("keys", "revoke", gone[0])
    refused = own_gateway.fula("secrets", "reseal", check=False)
    assert refused.returncode == 1 and "has one line" in refused.stderr, refused.stderr
    own_gateway.fula("backup", "create", tmp_path / "backups")
    own_gateway.stop()
    add_line(file)
    own_gateway.start()
    assert reseal(own_gateway) == (2, 1, 0)
    later = make_key(own_gateway, well)
    own_gateway.stop()
    both = file.read_text()
    # The old line alone opens nothing, and is refused with what is missing.
    file.write_text(both.splitlines()[0] + "\n")
    assert "put the line back" in own_gateway.fula("keys", "list", check=False).stderr
    file.write_text(both.splitlines()[1] + "\n")
    own_gateway.start()
    for good in (key, later, own_gateway.credentials()):
        own_gateway.client(key=good).list_buckets()
    with pytest.raises(Exception, match="InvalidAccessKeyId|AccessDenied"):
        own_gateway.client(key=gone).list_buckets()
    # A backup of before needs the old line.
    restore = ["restore", "--all", "--from", f"backup:{tmp_path}/backups"]
    assert "add its lines" in own_gateway.fula(*restore, check=False).stderr
    own_gateway.stop()
    file.write_text(both)
    own_gateway.start()
    assert "Put back 0 access keys" in own_gateway.fula(*restore).stdout
    assert reseal(own_gateway) == (0, 4, 0)


def test_masters_change_their_key_one_after_another(federation):  # noqa: F811
    one, two = federation.gateway("one"), federation.gateway("two")
    admin_key = one.credentials()
    before = make_key(two, well)
    add_line(federation.key)
    one.stop()
    one.start(env=one.shared)
    (name,) = [master["name"] for master in json.loads(well(one, "masters", "list", "--json")) if not master["is_self"]]
    refused = admin(one, "secrets", "reseal")
    assert refused.returncode == 1 and name in refused.stderr and "do not have the last line" in refused.stderr
    # Nothing was changed: the master without the line reads every key.
    two.client(key=make_key(one, well)).list_buckets()
    two.stop()
    two.start(env=two.shared)
    changed, already, left = reseal(one)
    assert changed >= 3 and (already, left) == (0, 0)
    # The other one encrypts with the earlier line until it is started again, and both read both.
    between = make_key(two, well)
    one.client(key=between).list_buckets()
    two.stop()
    two.start(env=two.shared)
    assert reseal(two) == (1, changed, 0)
    federation.key.write_text(federation.key.read_text().splitlines()[1] + "\n")
    for gateway in (one, two):
        gateway.stop()
        gateway.start(env=gateway.shared)
        for key in (admin_key, before, between, make_key(gateway, well)):
            gateway.client(key=key).list_buckets()
