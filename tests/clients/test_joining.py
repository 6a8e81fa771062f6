"""A new machine joins by an invitation that is encrypted to its key, and a master leaves."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import time
import urllib.request

from conftest import FULA, Gateway
from helpers import eventually, free_port
from identity import ENV
from masters import admin, federation  # noqa: F401


class Machine:
    """A directory that stands for a new machine."""

    def __init__(self, directory):
        self.dir, self.config, self.data = directory, directory / "etc", directory / "state"
        directory.mkdir()

    def fula(self, *args, check=True):
        env = {"PATH": os.environ["PATH"], "HOME": str(self.dir)}
        done = subprocess.run([FULA, *map(str, args)], cwd=self.dir, capture_output=True, text=True, timeout=300, env=env)
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

    def serve(self):
        """Starts it as its service would, without systemd."""
        service = self.service()
        (file,) = service["EnvironmentFile"]
        credentials = self.dir / "credentials"
        credentials.mkdir()
        for credential in service["LoadCredential"]:
            name, path = credential.split(":", 1)
            shutil.copy(path, credentials / name)
            (credentials / name).chmod(0o400)
        shown = subprocess.run(["bash", "-c", f"set -a; . {file}; env -0"], capture_output=True, text=True, check=True)
        env = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line.startswith("FULA_"))
        (start,) = service["ExecStart"]
        line = [word.replace("%d", str(credentials)) for word in shlex.split(start)]
        return subprocess.Popen(line, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def service(self):
        """The settings of the written service, each with all its values."""
        settings = {}
        (file,) = self.config.glob("*.service")
        for line in file.read_text().splitlines():
            if re.match(r"\w+=", line):
                key, value = line.split("=", 1)
                settings.setdefault(key, []).append(value)
        return settings

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


def bare(directory, *line):
    """Runs a command in a shell without any setting, as somebody who logs in does."""
    env = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    return subprocess.run([FULA, *map(str, line)], capture_output=True, text=True, timeout=300, env=env)


def wait_until_ready(admin_port, process):
    def ready():
        assert process.poll() is None, process.communicate()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=60):
                return True
        except OSError:
            return False

    eventually(ready)


def test_a_third_master_serves_after_three_commands(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one", FULA_BUCKET_QUOTA="1M", FULA_RATE_PER_USER="500")
    federation.gateway("two", FULA_BUCKET_QUOTA="1M", FULA_RATE_PER_USER="500")
    one.client().create_bucket(Bucket="photos")
    machine, port, admin_port = Machine(tmp_path / "third"), free_port(), free_port()
    began = time.monotonic()
    key = machine.key()  # the first command: fula join
    # The second one needs no settings: the running gateway tells its own.
    invited = bare(tmp_path, "invite", "--for", key, "--data-dir", one.data_dir)
    assert invited.returncode == 0, invited.stderr
    (machine.dir / "invitation").write_text(invited.stdout)
    # The third one serves.
    third = subprocess.Popen(
        [FULA, "join", "master", "--invite", "invitation", "--config-dir", machine.config, "--data-dir", machine.data,
         "--set", f"FULA_LISTEN=127.0.0.1:{port}", "--set", f"FULA_ADMIN_LISTEN=127.0.0.1:{admin_port}", "--start"],
        cwd=machine.dir, env={"PATH": os.environ["PATH"], "HOME": str(machine.dir)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until_ready(admin_port, third)
        print(f"from nothing to a third master that serves: {time.monotonic() - began:.1f} s")
        other = copy.copy(one)
        other.listen = f"127.0.0.1:{port}"
        s3 = other.client(key=one.credentials())
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["photos"]
        shared = machine.settings()
        assert (shared["FULA_BUCKET_QUOTA"], shared["FULA_RATE_PER_USER"]) == ("1M", "500")
        masters = json.loads(admin(one, "masters", "list", "--json").stdout)
        assert len(masters) == 3
        # It leaves again without any setting in the shell.
        left = bare(tmp_path, "leave", "--data-dir", machine.data)
        assert left.returncode == 0 and "It is safe to switch the machine off" in left.stdout, left
        assert third.wait(timeout=60) == 0
        assert len(json.loads(admin(one, "masters", "list", "--json").stdout)) == 2
    finally:
        third.kill()
        third.communicate()


def test_a_new_master_is_checked_before_anything_is_written(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one", FULA_BUCKET_QUOTA="1M")
    machine = Machine(tmp_path / "third")
    invitation = invite(one, machine.key()).stdout
    for secret in (federation.key.read_text().strip(), federation.postgres.address):
        assert secret not in invitation
    dry = machine.join(invitation, "--dry-run", "--json")
    assert not machine.config.exists() and not machine.data.exists()
    assert {state for _, state in states(dry)} <= {"ok", "warning"}, dry.stdout
    assert {"version", "data", "disk", "listen", "arbiter", "clock", "blocks", "masters", "invite"} <= {
        name for name, _ in states(dry)}
    for setting, why in [
        ("FULA_BUCKET_QUOTA=2M", "comes with the invitation"),
        ("FULA_RETENTION=1h", "not a setting of one machine"),
        ("FULA_REGOIN=x", "not a setting of one machine"),
        ("FULA_LISTEN=nowhere", "nowhere"),
        ("FULA_NODE_LISTEN=:3601", "a master has FULA_LISTEN instead"),
        ("FULA_DATA_DIR=/x", "give --data-dir"),
        ("FULA_LISTEN", "NAME=VALUE"),
    ]:
        refused = machine.join(invitation, "--set", setting, check=False)
        assert refused.returncode == 1 and why in refused.stderr, refused
        assert not machine.config.exists()
    done = machine.join(invitation, "--set", "FULA_LISTEN=:9000")
    assert "Start it as a service: systemctl enable --now" in done.stdout
    assert "0.0.0.0:9000 for clients" in done.stdout
    for file in machine.config.iterdir():
        assert file.stat().st_mode & 0o777 == (0o644 if file.suffix == ".service" else 0o600), file
    assert not (machine.dir / "join.key").exists(), "the key is used up"


def test_the_service_finds_its_data_directory(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one")
    machine, ports = Machine(tmp_path / "third"), (free_port(), free_port())
    listen = [word for name, port in zip(("LISTEN", "ADMIN_LISTEN"), ports)
              for word in ("--set", f"FULA_{name}=127.0.0.1:{port}")]
    machine.join(invite(one, machine.key()).stdout, *listen)
    service, unit = machine.service(), machine.config / "fula.service"
    assert service["ExecStart"] == [
        f"{FULA} gateway --secrets-key-file %d/secrets.key --database-url-file %d/database-url"]
    assert service["LoadCredential"] == [f"{name}:{machine.config}/{name}" for name in ("secrets.key", "database-url")]
    # The directory is mounted before, is there, and can be written.
    assert service["RequiresMountsFor"] == service["ReadWritePaths"] == [str(machine.data)]
    assert machine.data.is_dir() and "DynamicUser" not in service and "StateDirectory" not in service
    verify = ["systemd-analyze", "verify", "--man=no", unit]
    checked = subprocess.run(verify, capture_output=True, text=True)
    assert checked.stdout + checked.stderr == ""
    process = machine.serve()
    try:
        wait_until_ready(ports[1], process)
        assert (machine.data / "log").is_dir()
    finally:
        process.terminate()
        process.communicate(timeout=120)
    # Without --data-dir, it is the directory that systemd makes.
    usual = Machine(tmp_path / "usual")
    (usual.dir / "invitation").write_text(invite(one, usual.key()).stdout)
    usual.fula("join", "master", "--invite", "invitation", "--config-dir", usual.config)
    service = usual.service()
    assert service["StateDirectory"] == ["fula-gateway"] and service["DynamicUser"] == ["yes"]
    assert usual.settings()["FULA_DATA_DIR"] == "/var/lib/fula-gateway"
    checked = subprocess.run([*verify[:-1], usual.config / "fula.service"], capture_output=True, text=True)
    assert checked.stdout + checked.stderr == ""


SYSTEMCTL = """#!/bin/bash
# Does what systemctl would do with the service, without systemd.
[ "$1 $2" = "enable --now" ] || exit 1
set -a
. "$(sed -n s/^EnvironmentFile=//p "$3")"
start=$(sed -n s/^ExecStart=//p "$3")
${start//%d/$(dirname "$3")} > /dev/null 2>&1 &
"""


def test_the_service_is_started_where_systemd_runs(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one")
    machine, port, admin_port = Machine(tmp_path / "third"), free_port(), free_port()
    (machine.dir / "invitation").write_text(invite(one, machine.key()).stdout)
    (machine.dir / "systemctl").write_text(SYSTEMCTL)
    (machine.dir / "systemctl").chmod(0o755)
    line = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "bash", "-c",
            'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$@"', "bash",
            FULA, "join", "master", "--invite", "invitation", "--config-dir", machine.config, "--data-dir", machine.data,
            "--set", f"FULA_LISTEN=127.0.0.1:{port}", "--set", f"FULA_ADMIN_LISTEN=127.0.0.1:{admin_port}", "--start"]
    done = subprocess.run([*map(str, line)], cwd=machine.dir, capture_output=True, text=True, timeout=300,
                          env={"PATH": f"{machine.dir}:{os.environ['PATH']}", "HOME": str(machine.dir)})
    assert done.returncode == 0, done
    assert f"The service fula.service serves on 127.0.0.1:{port}, " in done.stdout
    left = bare(tmp_path, "leave", "--data-dir", machine.data)
    assert left.returncode == 0, left


def test_an_invitation_is_used_once_for_one_key_and_in_time(federation, tmp_path):  # noqa: F811
    one = federation.gateway("one")
    first, second = Machine(tmp_path / "first"), Machine(tmp_path / "second")
    key = first.key()
    assert first.key() == key, "a key is not replaced, and shown once more"
    (tmp_path / "alone").mkdir()
    alone = bare(tmp_path, "invite", "--for", key, "--data-dir", tmp_path / "alone")
    assert alone.returncode == 1 and "no gateway runs on" in alone.stderr, alone
    invitation = invite(one, key).stdout
    second.key()
    assert "was made for another key" in second.join(invitation, check=False).stderr
    first.join(invitation)
    late = first.join(invitation, check=False)
    assert late.returncode == 1 and "removes it once it was used" in late.stderr, late
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
        refused = machine.join(invitation, "--set", "FULA_LISTEN=:3601", role="storage", check=False)
        assert "a storage node has FULA_NODE_LISTEN instead" in refused.stderr, refused
        done = machine.join(invitation, role="storage")
        assert "master answers at" in done.stdout
        env = {**os.environ, **machine.settings(), "FULA_NODE_LISTEN": "127.0.0.1:0", "FULA_ADMIN_LISTEN": "127.0.0.1:0"}
        node = subprocess.Popen([FULA, "storage-node"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        try:
            found = next(line for line in node.stdout if "FULA_STORAGE_NODES=" in line)
            assert re.search(r"NAME=http://\S+#\S+", found)
            refused = bare(tmp_path, "leave", "--data-dir", machine.data)
            assert refused.returncode == 1 and "a storage node cannot leave" in refused.stderr, refused
        finally:
            node.terminate()
            node.wait(timeout=60)


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
    assert two.process.wait(timeout=60) == 0
    shutil.rmtree(two.data_dir)
    (left,) = json.loads(admin(one, "masters", "list", "--json").stdout)
    assert left["is_self"]
    assert one.client(key=key).get_object(Bucket="photos", Key="last")["Body"].read() == b"last"
    refused = admin(two, "leave")
    assert refused.returncode == 1 and "no gateway runs" in refused.stderr
