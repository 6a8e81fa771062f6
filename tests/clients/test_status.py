"""What an operator is told: metrics, the page of `fula status`, and what `fula gc` says of space."""

import datetime
import json
import re
import shutil
import subprocess
import urllib.request

import pytest

from conftest import FULA, REPO, Gateway
from helpers import MIB, eventually, log_says, pattern
from masters import admin, federation


def documented():
    """The names of all metrics in the documentation."""
    page = (REPO / "docs/operations/monitor.md").read_text()
    table = page.split("| metric | meaning | unit | normal value | what to do |\n")[1].split("\n\n")[0]
    return [re.match(r"\| (\w+)", row)[1] for row in table.splitlines()[1:]]


def metrics(gateway):
    return urllib.request.urlopen(f"{gateway.admin}/metrics").read().decode()


def value(gateway, series):
    return float(re.search(rf"^{re.escape(series)} (\S+)$", metrics(gateway), re.M)[1])


def test_every_metric_is_there_right_after_the_start(own_gateway):
    text, names = metrics(own_gateway), documented()
    assert len(names) > 40
    for name in names:
        assert re.search(rf"^# HELP {name} \S", text, re.M), name
        assert re.search(rf"^# TYPE {name} (counter|gauge|histogram)$", text, re.M), name
        assert re.search(rf"^{name}(_count)?(\{{.*\}})? \S+$", text, re.M), name
    served = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    assert served == set(names)


def test_metrics_tell_what_is(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    version = subprocess.run([FULA, "--version"], capture_output=True, text=True).stdout.split()[1]
    assert value(own_gateway, f'fula_build_info{{version="{version}"}}') == 1
    size = shutil.disk_usage(own_gateway.data_dir).total
    # It looks at the disk by itself, and writes one number after the other.
    eventually(lambda: value(own_gateway, "fula_disk_free_bytes") > 0)
    eventually(lambda: value(own_gateway, "fula_disk_size_bytes") == size)
    eventually(lambda: 0 < value(own_gateway, "fula_disk_reserved_bytes") < size)
    assert value(own_gateway, 'fula_connections{listener="s3"}') >= 1
    assert value(own_gateway, 'fula_connections_max{listener="s3"}') > 100
    assert value(own_gateway, "process_resident_memory_bytes") > MIB
    assert value(own_gateway, "process_open_fds") < value(own_gateway, "process_max_fds")
    assert value(own_gateway, "fula_body_memory_max_bytes") == 256 * MIB
    started = value(own_gateway, "process_start_time_seconds")
    assert abs(started - datetime.datetime.now().timestamp()) < 600
    assert value(own_gateway, "fula_masters") == value(own_gateway, "fula_masters_seen") == 1


def test_the_bytes_of_the_log_are_live_retained_or_dead(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="stays", Body=pattern(3 * MIB, 1))
    s3.put_object(Bucket="bucket", Key="goes", Body=pattern(5 * MIB, 2))
    s3.delete_object(Bucket="bucket", Key="goes")
    before = datetime.datetime.now(datetime.timezone.utc)
    said = json.loads(own_gateway.fula("gc", "--json").stdout)
    # What was deleted waits for the retention of ten minutes, and for nothing else.
    assert 3 * MIB <= said["live_bytes"] < 4 * MIB and 5 * MIB <= said["retained_bytes"] < 6 * MIB
    parts = ("live_bytes", "retained_bytes", "collectable_bytes", "dead_bytes")
    assert sum(said[part] for part in parts) == said["log_bytes"]
    # Only what was written for nothing.
    assert said["collectable_bytes"] < 4096
    assert said["retention_ms"] == 600_000
    times = [datetime.datetime.fromtimestamp(t / 1000, datetime.timezone.utc) for t in said["released_ms"]]
    assert all(datetime.timedelta(minutes=9) < time - before < datetime.timedelta(minutes=11) for time in times)
    text = own_gateway.fula("gc").stdout
    assert re.search(r"^retained +\d\S* MiB", text, re.M)
    assert re.search(r"wait for the retention: the first until \d{4}-.*, the last until \d{4}-", text)
    # A collection within the retention deletes none of it, and the metrics say so.
    own_gateway.fula("gc", "--now")
    eventually(lambda: value(own_gateway, "fula_log_retained_bytes") >= 5 * MIB)
    own_gateway.fula("gc", "--now", "--retention", "0s")
    eventually(lambda: value(own_gateway, "fula_log_retained_bytes") == 0)
    eventually(lambda: value(own_gateway, "fula_log_live_bytes") < 4 * MIB)
    said = json.loads(own_gateway.fula("gc", "--json").stdout)
    # Root blocks stay for the history.
    assert said["retained_bytes"] < 4096


def test_status_is_one_page_with_an_exit_code(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    well = own_gateway.fula("status")
    assert len(well.stdout.splitlines()) < 40 and "problem" not in well.stdout
    for line in [rf"fula +\S+, serves S3 on {own_gateway.listen} since \d{{4}}-", r"ready +yes",
                 rf"data +{own_gateway.data_dir}", r"arbiter +embedded", r"buckets +1, and 0 deleted",
                 r"disk +\S+ \w+ of \S+ \w+ free", r"log +.* live, .* retained, .* dead",
                 r"collection +none since the start", r"connections +\d+ of \d+", r"memory +\S+ MiB in RAM"]:
        assert re.search(f"^{line}", well.stdout, re.M), line
    own_gateway.fula("gc", "--now")
    page = json.loads(own_gateway.fula("status", "--json").stdout)
    assert page["problems"] == [] and page["collections"]["last"]["marked_blocks"] > 0
    own_gateway.stop()
    stopped = own_gateway.fula("status", check=False)
    assert stopped.returncode == 1 and "problem      no gateway runs" in stopped.stdout
    assert "ready        no\n" in stopped.stdout
    assert "no gateway runs" in json.loads(own_gateway.fula("status", "--json", check=False).stdout)["not_ready"]
    absent = subprocess.run([FULA, "status", "--data-dir", own_gateway.data_dir / "absent"],
                            capture_output=True, text=True)
    assert absent.returncode == 2 and absent.stdout == ""


def test_status_of_a_master_tells_of_the_others(federation):
    one, two = federation.gateway("one"), federation.gateway("two")
    page = admin(one, "status")
    assert page.returncode == 0, page.stdout + page.stderr
    assert re.search(r"^arbiter +Postgres at ", page.stdout, re.M)
    assert len(re.findall(r"^master +", page.stdout, re.M)) == 2
    federation.postgres.stop()
    away = admin(one, "status")
    assert away.returncode == 1 and "the arbiter does not answer" in away.stdout
    for raw in ("os error", "pool", "expected to read", "communicating"):
        assert raw not in away.stdout, away.stdout


def test_masters_say_who_they_are(federation):
    one, two = federation.gateway("one"), federation.gateway("two")
    names = [re.search(r"master +([0-9a-f]{16})\n", gateway.banner)[1] for gateway in (one, two)]
    for name, gateway in zip(names, (one, two)):
        assert f'master="{name}"' in gateway.data_dir.with_suffix(".log").read_text()
    listed = {master["name"]: master for master in json.loads(admin(one, "masters", "list", "--json").stdout)}
    assert sorted(listed) == sorted(names)
    version = subprocess.run([FULA, "--version"], capture_output=True, text=True).stdout.split()[1]
    for name, gateway in zip(names, (one, two)):
        master = listed[name]
        assert (master["address"], master["version"]) == (gateway.listen, version)
        assert master["host"] and master["is_alive"] and master["age_ms"] < 60_000
    text = admin(one, "masters", "list").stdout
    assert text.splitlines()[0].split() == ["NAME", "HOST", "ADDRESS", "VERSION", "LAST", "SEEN"]
    assert re.search(rf"^{names[1]} .*{two.listen} .* ago$", text, re.M)
    assert re.search(rf"^{names[0]} .* ago  \(this one\)$", text, re.M)
    # Each has made a key of the first user, and the list says where.
    keys = admin(one, "keys", "list").stdout
    for name, gateway in zip(names, (one, two)):
        assert re.search(rf"^{gateway.credentials()[0]} +key:admin .* live +\S+/{name}$", keys, re.M), keys
    # One that lives is not forgotten by mistake.
    refused = admin(one, "masters", "forget", names[1])
    assert refused.returncode == 1 and "--force" in refused.stderr
    # Masters look every second.
    eventually(lambda: value(one, "fula_masters") == value(one, "fula_masters_seen") == 2)
    assert admin(one, "masters", "forget", names[1], "--force").returncode == 0
    alive = lambda: {master["name"] for master in json.loads(admin(one, "masters", "list", "--json").stdout)}
    assert alive() == {names[0]}
    # It enrols again, and says so.
    eventually(lambda: len(alive()) == 2)
    log_says(two, "on the list again")


@pytest.mark.parametrize("blocks", ["own", "shared"])
def test_what_is_kept_for_the_retention_is_bounded_in_bytes(tmp_path, monkeypatch, blocks):
    env = {"FULA_RETENTION": "1h", "FULA_RETENTION_BYTES": "20M"}
    if blocks == "shared":
        (tmp_path / "blocks").mkdir()
        env["FULA_BLOCKS"] = f"file://{tmp_path}/blocks"
    for name, setting in env.items():
        monkeypatch.setenv(name, setting)
    with Gateway(tmp_path / "data").start() as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        for n in range(30):
            s3.put_object(Bucket="bucket", Key="key", Body=pattern(MIB, seed=n))
        # What an operator asks for is taken as it is, and keeps everything.
        asked = json.loads(gateway.fula("gc", "--now", "--retention", "1h", "--json").stdout)["collection"]
        assert asked["retained_bytes"] > 28 * MIB and asked["retention_ms"] == 3600_000
        assert value(gateway, "fula_retention_seconds") == 3600
        done = json.loads(gateway.fula("gc", "--now", "--json").stdout)["collection"]
        assert done["deleted_bytes"] > 8 * MIB and done["retained_bytes"] <= 20 * MIB
        assert done["retention_ms"] < 3600_000
        assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == pattern(MIB, seed=29)
        assert json.loads(gateway.fula("fsck", "--json").stdout)["problems"] == 0
        # Later collections begin with the shorter time, and lengthen it while they keep little.
        short = value(gateway, "fula_retention_seconds")
        assert short < 60
        gateway.fula("gc", "--now")
        assert short < value(gateway, "fula_retention_seconds") < 3600
        wrong = gateway.fula("gateway", "--retention-bytes", "half", check=False)
        assert wrong.returncode == 2 and "such as 50%" in wrong.stderr
