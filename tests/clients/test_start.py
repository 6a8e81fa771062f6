"""What a start says, what it refuses, and what /readyz tells about a gateway that runs."""

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

from conftest import FULA, Gateway
from helpers import eventually
from masters import admin, federation, signed


def refusal(data_dir, listen="127.0.0.1:0"):
    """What a gateway says that does not start."""
    command = [FULA, "gateway", "--data-dir", data_dir, "--listen", listen, "--admin-listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (1, 2), done.stdout
    return done.stderr


def readiness(gateway):
    try:
        answer = urllib.request.urlopen(f"{gateway.admin}/readyz", timeout=120)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.read().decode()


def until_ready(gateway):
    """Waits until a gateway is ready. What it depends on has three seconds for an answer, also on a busy machine."""
    eventually(lambda: readiness(gateway) == (200, "ready\n"), why=lambda: readiness(gateway))


def test_addresses_may_name_localhost_or_no_host(tmp_path):
    for n, listen in enumerate(["localhost:0", ":0", "[::]:0"]):
        gateway = Gateway(tmp_path / str(n))
        gateway.listen = listen
        with gateway.start():
            # What is printed can be used, also where all addresses are listened on.
            printed = "[::1]:" if n == 2 else "127.0.0.1:"
            assert gateway.listen.startswith(printed)
            gateway.client().list_buckets()
            said = rf"listens on +all addresses of this machine, e\.g\. http://{socket.gethostname()}:\d+\n"
            assert bool(re.search(said, gateway.banner)) == (n > 0), gateway.banner
            assert ("and all other addresses" in gateway.fula("status").stdout) == (n > 0)
    assert "localhost:PORT" in refusal(tmp_path / "none", "example.org:9000")


def test_a_start_without_its_addresses_leaves_nothing_behind(own_gateway, tmp_path):
    away = tmp_path / "away"
    free, taken = "127.0.0.1:0", own_gateway.listen
    for listen, admin_listen, setting in [(taken, free, "--listen (FULA_LISTEN)"),
                                          (free, taken, "--admin-listen (FULA_ADMIN_LISTEN)")]:
        done = subprocess.run([FULA, "gateway", "--data-dir", away, "--listen", listen, "--admin-listen", admin_listen],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and not away.exists()
        assert f"cannot listen on {taken}: the address is in use; end the process" in done.stderr
        assert setting in done.stderr


def test_a_start_says_once_what_it_waits_for(federation):
    master = federation.gateway("one")
    master.client().create_bucket(Bucket="bucket")
    master.stop()
    federation.postgres.tell("crash")
    url = federation.postgres.address.replace("fula@", "fula:hush@")
    place = url.split("@")[1].split("?")[0]
    log = federation.tmp / "waits.log"
    with open(log, "w") as file:
        command = [FULA, "gateway", "--data-dir", master.data_dir, "--listen", "127.0.0.1:0",
                   "--admin-listen", "127.0.0.1:0"]
        env = {**os.environ, **federation.env(FULA_DATABASE_URL=url)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=env)
    eventually(lambda: "the arbiter does not answer" in log.read_text())
    # It asks twice a second.
    time.sleep(3)
    assert process.poll() is None, log.read_text()
    federation.postgres.tell("launch")
    assert "serves S3 on" in process.stdout.readline()
    process.kill()
    process.wait()
    text = re.sub(r"\x1b\[\d*m", "", log.read_text())
    told = [line for line in text.splitlines() if "does not answer" in line]
    reasons = [re.search(r'error="([^"]*)"', line)[1] for line in told]
    assert len(reasons) == len(set(reasons)) <= 3, text
    assert "connection refused" in reasons[0] and re.search("asked again for up to (2[5-9]|30) s", told[0]), told
    assert all(f'address="{place}"' in line for line in told) and "the arbiter answers" in text
    assert "hush" not in text and "os error" not in text


def test_the_banner_says_which_arbiter_and_which_blocks(own_gateway, federation):
    assert "arbiter      embedded, in the data directory" in own_gateway.banner
    assert "blocks       in the data directory" in own_gateway.banner
    shared = federation.gateway("one")
    assert "arbiter      Postgres at 127.0.0.1:" in shared.banner
    assert f"blocks       file://{federation.tmp}/blocks" in shared.banner
    assert "password" not in shared.banner and "@" not in shared.banner.split("Paste")[0]


def test_a_directory_of_a_master_is_not_served_without_its_database(federation):
    master = federation.gateway("one")
    master.client().create_bucket(Bucket="bucket")
    master.stop()
    refused = refusal(master.data_dir)
    assert "set FULA_DATABASE_URL" in refused and str(master.data_dir) in refused
    # Nothing was changed: with its database the directory is as it was.
    master.start(env=master.shared)
    assert [b["Name"] for b in master.client().list_buckets()["Buckets"]] == ["bucket"]


def test_keys_without_the_key_that_seals_them_are_refused(own_gateway):
    own_gateway.client().create_bucket(Bucket="bucket")
    own_gateway.stop()
    key = own_gateway.data_dir / "secrets.key"
    aside = own_gateway.data_dir.parent / "aside"
    shutil.move(key, aside)
    refused = refusal(own_gateway.data_dir)
    assert "secrets.key" in refused and "backup" in refused and not key.exists()
    listed = own_gateway.fula("keys", "list", check=False)
    assert listed.returncode == 1 and "secrets.key" in listed.stderr and not key.exists()
    shutil.move(aside, key)
    own_gateway.start()
    own_gateway.client().head_bucket(Bucket="bucket")


def test_readyz_says_which_part_is_away(federation):
    master = federation.gateway("one")
    until_ready(master)
    blocks = federation.tmp / "blocks"
    blocks.rename(federation.tmp / "away")
    blocks.write_text("a file where the directory was")
    status, why = readiness(master)
    assert status == 503 and "the block store does not answer" in why
    blocks.unlink()
    (federation.tmp / "away").rename(blocks)
    until_ready(master)
    federation.postgres.stop()
    status, why = readiness(master)
    assert status == 503 and "the arbiter does not answer" in why


def test_a_master_in_doubt_says_so_everywhere(federation):
    one, two = federation.gateway("one"), federation.gateway("two")
    one.client().create_bucket(Bucket="bucket")
    backup = federation.tmp / "backup"
    federation.postgres.tell("crash")
    federation.postgres.tell(f"backup {backup}")
    federation.postgres.tell("launch")
    eventually(lambda: signed(one, "PUT", "/bucket/after", b"2")[0] == 200)
    # A master that is away: what it remembers is waited for.
    two.kill()
    federation.postgres.tell("crash")
    federation.postgres.tell(f"restore {backup}")
    federation.postgres.tell("launch")
    said = eventually(lambda: "in doubt" in (found := readiness(one))[1] and found, why=lambda: readiness(one))
    assert said[0] == 503 and "fula roots show" in said[1]
    heal = lambda *more: admin(one, "roots", "heal", *more)
    waiting = eventually(lambda: "is waited for" in (found := heal()).stdout and found, why=lambda: heal().stderr)
    assert waiting.returncode == 1
    healed = heal("--force")
    if healed.returncode != 0:
        healed = eventually(lambda: (found := heal()).returncode == 0 and found, why=lambda: heal().stderr)
    assert "the arbiter is trusted" in healed.stdout
    until_ready(one)
    assert signed(one, "GET", "/bucket/after")[2] == b"2"


def test_a_directory_whose_log_is_gone_is_not_begun_anew(own_gateway):
    own_gateway.client().create_bucket(Bucket="bucket")
    own_gateway.stop()
    log, away = own_gateway.data_dir / "log", own_gateway.data_dir.parent / "away"
    log.rename(away)
    for is_there in (False, True):
        if is_there:
            log.mkdir()
        assert "its log is gone" in refusal(own_gateway.data_dir), is_there
    log.rmdir()
    away.rename(log)
    own_gateway.start()
    assert [bucket["Name"] for bucket in own_gateway.client().list_buckets()["Buckets"]] == ["bucket"]


def test_a_start_does_not_begin_a_store_where_one_is_not_mounted(federation):
    master = federation.gateway("master")
    s3 = master.client()
    s3.create_bucket(Bucket="bucket")
    blocks, away = federation.tmp / "blocks", federation.tmp / "away"
    blocks.rename(away)
    for is_there in (False, True):
        if is_there:
            blocks.mkdir()
        refused = federation.refusal()
        assert "is its file system mounted" in refused or "its file system is mounted" in refused, refused
        # The master that runs does not write there either.
        assert signed(master, "PUT", "/bucket/k", b"x")[0] == 503, is_there
        assert readiness(master)[0] == 503
    assert list(blocks.iterdir()) == []
    blocks.rmdir()
    away.rename(blocks)
    assert signed(master, "PUT", "/bucket/k", b"x")[0] == 200


def test_a_variable_that_is_no_setting_is_named(tmp_path):
    gateway = Gateway(tmp_path / "data")
    with gateway.start(env={"FULA_WALLET": "0x0", "FULA_RETENTION": "1h"}):
        pass
    log = (tmp_path / "data.log").read_text()
    assert "FULA_WALLET is no setting" in log and "FULA_RETENTION is no" not in log
