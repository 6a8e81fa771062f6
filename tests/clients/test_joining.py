"""A new machine joins by an invitation that is sealed to its key, and a master leaves."""

import json
import os
import re
import shutil
import subprocess
import time

from conftest import FULA, Gateway
from identity import ENV
from masters import admin, federation  # noqa: F401


class Machine:
    """A directory that stands for a new machine."""

    def __init__(self, directory):
        self.dir, self.config, self.data = directory, directory / "etc", directory / "state"
        directory.mkdir()

    def fula(self, *args, check=True):
        env = {"PATH": os.environ["PATH"], "HOME": str(self.dir)}
        done = subprocess.run([FULA, *map(str, args)], cwd=self.dir, capture_output=True, text=True, timeout=120, env=env)
        assert not check or done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done

    def key(self):
        return self.fula("join").stdout.strip()

    def join(self, invitation, *options, role="master", check=True):
        (self.dir / "invitation").write_text(invitation)
        return self.fula("join", role, "--invite", "invitation", "--config-dir", self.config,
                         "--data-dir", self.data, *options, check=check)

    def settings(self):
        """The environment that the written settings make."""
        file = self.config / ("gateway.env" if (self.config / "gateway.env").exists() else "storage-node.env")
        shown = subprocess.run(["bash", "-c", f"set -a; . {file}; env -0"], capture_output=True, text=True, check=True)
        found = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line)
        return {name: value for name, value in found.items() if name.startswith("FULA_")}

    def start(self):
        gateway = Gateway(self.data)
        gateway.shared = self.settings()
        return gateway.start(env=gateway.shared)


def invite(master, key, *options, check=True):
    done = admin(master, "invite", "--for", key, *options)
    assert not check or done.returncode == 0, done.stderr
    return done


def states(done):
    return {(check["name"], check["state"]) for check in json.loads(done.stdout)["checks"]}


def test_a_third_master_joins_with_three_commands(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one", FULA_BUCKET_QUOTA="1M")
    federation.gateway("two", FULA_BUCKET_QUOTA="1M")
    one.client().create_bucket(Bucket="photos")
    began = time.monotonic()
    machine = Machine(tmp_path / "third")
    key = machine.key()
    invitation = invite(one, key).stdout
    for secret in (federation.key.read_text().strip(), federation.postgres.address):
        assert secret not in invitation
    dry = machine.join(invitation, "--dry-run", "--json")
    assert not machine.config.exists() and not machine.data.exists()
    assert {state for _, state in states(dry)} <= {"ok", "warning"}, dry.stdout
    assert {"version", "data", "disk", "arbiter", "clock", "blocks", "masters", "invite"} <= {
        name for name, _ in states(dry)}
    done = machine.join(invitation)
    assert "Start it as a service: systemctl enable --now" in done.stdout
    with machine.start() as third:
        seconds = time.monotonic() - began
        print(f"from nothing to a third master that serves: {seconds:.1f} s")
        assert [bucket["Name"] for bucket in third.client(key=one.credentials()).list_buckets()["Buckets"]] == ["photos"]
        assert third.shared["FULA_BUCKET_QUOTA"] == "1M"
        assert len(json.loads(admin(one, "masters", "list", "--json").stdout)) == 3
    for file in machine.config.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert not (machine.dir / "join.key").exists(), "the key is used up"
    unit = (machine.config / "fula.service").read_text()
    assert f"ExecStart={FULA} gateway --secrets-key-file %d/secrets.key --database-url-file %d/database-url" in unit
    assert f"LoadCredential=secrets.key:{machine.config}/secrets.key" in unit
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(["systemd-analyze", "verify", machine.config / "fula.service"],
                                 capture_output=True, text=True)
        assert "Unknown" not in checked.stderr and "Failed to parse" not in checked.stderr, checked.stderr


def test_an_invitation_is_used_once_for_one_key_and_in_time(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one")
    first, second = Machine(tmp_path / "first"), Machine(tmp_path / "second")
    key = first.key()
    assert first.fula("join", check=False).returncode == 1, "a key is not replaced"
    invitation = invite(one, key).stdout
    second.key()
    assert "was made for another key" in second.join(invitation, check=False).stderr
    first.join(invitation)
    # A copy of the key would open it, and it is used up all the same.
    shutil.rmtree(first.config)
    again = Machine(tmp_path / "again")
    key = again.key()
    invitation = invite(one, key).stdout
    kept = (again.dir / "join.key").read_text()
    again.join(invitation)
    shutil.rmtree(again.config)
    (again.dir / "join.key").write_text(kept)
    (again.dir / "join.key").chmod(0o600)
    refused = again.join(invitation, check=False)
    assert refused.returncode == 1 and "was used before" in refused.stdout, refused
    assert not again.config.exists()
    late = Machine(tmp_path / "late")
    invitation = invite(one, late.key(), "--expires", "1s").stdout
    time.sleep(2)
    assert "has expired" in late.join(invitation, check=False).stderr
    changed = json.loads(invitation)
    changed["expires_ms"] += 3_600_000
    assert "is damaged" in late.join(json.dumps(changed), check=False).stderr
    assert "no invitation" in late.join("x", check=False).stderr
    assert "storage" in late.join(json.dumps({**changed, "role": "storage"}), check=False).stderr
    for options, text in [(("--expires", "2d"), "at most 1d"), (("--role", "storage"), "--url")]:
        refused = invite(one, key, *options, check=False)
        assert refused.returncode == 2 and text in refused.stderr, refused.stderr
    refused = admin(one, "invite", "--for", "nonsense")
    assert refused.returncode == 2 and "begins with fulajoin" in refused.stderr


def test_nothing_that_is_there_is_touched(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one")
    machine = Machine(tmp_path / "third")
    invitation = invite(one, machine.key()).stdout
    machine.config.mkdir()
    (machine.config / "gateway.env").write_text("FULA_REGION=x\n")
    machine.data.mkdir()
    (machine.data / "notes.txt").write_text("mine")
    refused = machine.join(invitation, check=False)
    assert refused.returncode == 1 and "nothing was changed" in refused.stderr
    assert "gateway.env is there already and says something else" in refused.stdout
    assert "holds notes.txt, which is not of Fula" in refused.stdout
    assert [file.name for file in machine.config.iterdir()] == ["gateway.env"]
    # The data directory of another gateway is not taken either.
    refused = machine.fula("join", "master", "--invite", "invitation", "--config-dir", tmp_path / "new",
                           "--data-dir", one.data_dir, check=False)
    assert refused.returncode == 1 and "is the data directory of a gateway" in refused.stdout
    # The invitation is as good as before.
    (machine.config / "gateway.env").unlink()
    (machine.data / "notes.txt").unlink()
    machine.join(invitation)
    # The same once more, for files that are as they would be written.
    before = {file: file.read_text() for file in machine.config.iterdir()}
    assert machine.start().stop() is None
    assert {file: file.read_text() for file in machine.config.iterdir()} == before


def test_what_cannot_be_reached_is_named(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one")
    machine = Machine(tmp_path / "third")
    invitation = invite(one, machine.key()).stdout
    shutil.move(tmp_path / "blocks", tmp_path / "unmounted")
    refused = machine.join(invitation, check=False)
    assert refused.returncode == 1 and "its file system is mounted" in refused.stdout, refused.stdout
    shutil.move(tmp_path / "unmounted", tmp_path / "blocks")
    federation.postgres.stop()
    refused = machine.join(invitation, "--json", check=False)
    assert refused.returncode == 1 and ("arbiter", "problem") in states(refused)
    assert not machine.config.exists()


def test_a_single_master_invites_no_other(own_gateway, tmp_path):
    machine = Machine(tmp_path / "second")
    refused = own_gateway.fula("invite", "--for", machine.key(), check=False)
    assert refused.returncode == 1 and "fula roots import" in refused.stderr
    refused = own_gateway.fula("leave", check=False)
    assert refused.returncode == 1 and "fula backup create" in refused.stderr
    assert own_gateway.process.poll() is None


def test_a_storage_node_joins(tmp_path):
    with Gateway(tmp_path / "data").start(ENV) as master:
        machine = Machine(tmp_path / "node")
        invitation = subprocess.run(
            [FULA, "invite", "--for", machine.key(), "--role", "storage", "--url", master.url,
             "--data-dir", master.data_dir], capture_output=True, text=True, env={**os.environ, **ENV}, check=True).stdout
        done = machine.join(invitation, role="storage")
        assert "master answers at" in done.stdout
        env = {**os.environ, **machine.settings(), "FULA_NODE_LISTEN": "127.0.0.1:0", "FULA_ADMIN_LISTEN": "127.0.0.1:0"}
        node = subprocess.Popen([FULA, "storage-node"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        try:
            found = next(line for line in node.stdout if "FULA_STORAGE_NODES=" in line)
            assert re.search(r"NAME=http://\S+#\S+", found)
        finally:
            node.terminate()
            node.wait(timeout=40)


def test_a_master_leaves_and_loses_nothing(federation, tmp_path):  # noqa: F811
    one, two = federation.gateway("one"), federation.gateway("two")
    s3 = two.client()
    s3.create_bucket(Bucket="photos")
    s3.put_object(Bucket="photos", Key="last", Body=b"last")
    key = two.credentials()
    dry = admin(two, "leave", "--dry-run")
    assert dry.returncode == 0 and "1 other masters are there" in dry.stdout, dry
    assert two.process.poll() is None
    done = admin(two, "leave")
    assert done.returncode == 0 and "It is safe to switch the machine off" in done.stdout, done
    assert two.process.wait(timeout=40) == 0
    shutil.rmtree(two.data_dir)
    (left,) = json.loads(admin(one, "masters", "list", "--json").stdout)
    assert left["is_self"]
    assert one.client(key=key).get_object(Bucket="photos", Key="last")["Body"].read() == b"last"
    refused = admin(two, "leave")
    assert refused.returncode == 1 and "no gateway runs" in refused.stderr
