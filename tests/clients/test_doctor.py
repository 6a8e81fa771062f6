"""`fula doctor`: it names what is wrong with what a gateway depends on, and what to do."""

import json
import os
import shutil

from conftest import Gateway
from helpers import eventually
from identity import ENV
from masters import admin, federation
from nodes import StorageNode


def checks(gateway, status):
    done = gateway.fula("doctor", "--json", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    found = {}
    for check in json.loads(done.stdout)["checks"]:
        found.setdefault(check["name"], []).append((check["state"], check["text"]))
    return found


def test_a_gateway_that_is_well(own_gateway):
    found = checks(own_gateway, 0)
    assert set(found) == {"gateway", "data", "disk", "arbiter", "blocks"}
    assert {state for parts in found.values() for state, _ in parts} <= {"ok", "warning"}
    assert found["gateway"] == [("ok", f"serves on {own_gateway.listen}")]
    assert "for its owner alone" in found["data"][0][1] and "a write is durable in " in found["data"][1][1]
    assert not list(own_gateway.data_dir.glob("doctor*"))
    lines = own_gateway.fula("doctor").stdout.splitlines()
    assert len(lines) == sum(map(len, found.values())) and lines[0].split()[:2] == ["ok", "gateway"]


def test_what_is_wrong_is_named(own_gateway):
    os.chmod(own_gateway.data_dir, 0o755)
    found = checks(own_gateway, 0)
    assert found["data"][0][0] == "warning" and "chmod 700" in found["data"][0][1]
    own_gateway.stop()
    found = checks(own_gateway, 1)
    assert ("warning", "nothing runs on this data directory") in found["gateway"]
    assert any("start `fula gateway`" in text for _, text in found["status"])


def test_masters_clocks_and_blocks_are_looked_at(federation):
    one, two = federation.gateway("one"), federation.gateway("two")
    look = lambda: json.loads(admin(one, "doctor", "--json").stdout)["checks"]
    found = {check["name"]: check for check in look()}
    assert found["masters"]["text"] == "2 of 2 are there" and found["clock"]["state"] == "ok"
    assert "Postgres at" in found["arbiter"]["text"] and found["blocks"]["state"] == "ok"
    shutil.move(federation.tmp / "blocks", federation.tmp / "away")
    done = admin(one, "doctor")
    assert done.returncode == 1 and done.stdout.count("whether FULA_BLOCKS names it") == 1, done.stdout
    shutil.move(federation.tmp / "away", federation.tmp / "blocks")


def test_a_storage_node_asks_each_of_its_masters(tmp_path):
    master = Gateway(tmp_path / "data").start(ENV)
    node = StorageNode(tmp_path, master).start()
    node.fula = lambda *args, **options: master.fula(*args, data_dir=node.data_dir, **options)
    key = node.address.partition("#")[2]
    (refusal,) = checks(node, 1)["masters"]
    assert refusal[0] == "problem" and "m0 refuses this storage node" in refusal[1], refusal
    assert "names no node with this key" in refusal[1] and f"set FULA_STORAGE_NODES=NAME=URL#{key}" in refusal[1]
    eventually(lambda: any("no master with the key" in text for _, text in checks(node, 1)["status"]))
    master.stop()
    (away,) = checks(node, 1)["masters"]
    assert away[0] == "problem" and "m0 does not answer" in away[1] and "FULA_MASTERS" in away[1], away
    master.options = ("--storage-nodes", f"north={node.address}")
    with master.start(ENV):
        node.await_master()
        assert checks(node, 0)["masters"] == [("ok", "m0 answers this storage node")]
    node.stop()
    assert any("start `fula storage-node`" in text for _, text in checks(node, 1)["status"])
