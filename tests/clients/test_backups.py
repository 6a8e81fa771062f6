"""Backups: everything but the backup is destroyed, and comes back."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request

import pytest

from conftest import FULA, Gateway
from helpers import MIB, columns, pattern
from masters import federation, signed  # noqa: F401
from nodes import Site


def fula(*args, check=True, env=None):
    """Runs a command that needs no data directory."""
    command = [FULA, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})})
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def fill(s3, bucket="photos"):
    s3.create_bucket(Bucket=bucket)
    for n in range(150):
        s3.put_object(Bucket=bucket, Key=f"dir/{n:03}", Body=f"body {n % 100}".encode(), Metadata={"n": str(n)})
    s3.put_object(Bucket=bucket, Key="large", Body=pattern(3 * MIB, 1), ContentType="x/y")
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})


def listing(s3, bucket):
    found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    return [(line["Key"], line["ETag"], line["Size"], line["LastModified"]) for line in found]


def files_of(place):
    """The files with content below a place, and their sizes."""
    return {path.relative_to(place): path.stat().st_size for path in (place / "data").rglob("*") if path.is_file()}


class Directory:
    """Backups in a directory."""

    def __init__(self, tmp_path):
        self.place, self.env = str(tmp_path / "backups"), {}

    def stop(self):
        pass


class ObjectStore:
    """Backups in a bucket of an S3 server, which is another gateway."""

    def __init__(self, tmp_path):
        self.server = Gateway(tmp_path / "server").start()
        self.server.client().create_bucket(Bucket="backups")
        key, secret = self.server.credentials()
        self.place = "s3://backups/fula"
        self.env = {"AWS_ENDPOINT": self.server.url, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def stop(self):
        self.server.stop()


@pytest.fixture(params=[Directory, ObjectStore], ids=["directory", "s3"])
def store(request, tmp_path):
    store = request.param(tmp_path)
    yield store
    store.stop()


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_everything_comes_back_from_the_backup_alone(own_gateway, store, tmp_path, running):
    s3 = own_gateway.client()
    fill(s3)
    fill(s3, "other")
    s3.delete_bucket_tagging(Bucket="other")
    made = json.loads(own_gateway.fula("keys", "create", "--user", "carol", "--json").stdout)
    gone = json.loads(own_gateway.fula("keys", "create", "--user", "dave", "--json").stdout)
    own_gateway.fula("keys", "revoke", gone["id"])
    admin_key = own_gateway.credentials()
    carol = (made["id"], made["secret"])
    own_gateway.client(key=carol).create_bucket(Bucket="photos")
    own_gateway.client(key=carol).put_object(Bucket="photos", Key="hers", Body=b"hers")
    before = {bucket: listing(s3, bucket) for bucket in ("photos", "other")}
    key = tmp_path / "backup.key"
    fula("secrets", "keygen", key)
    data = ["--data-dir", own_gateway.data_dir]
    if not running:
        own_gateway.stop()
    backup = ["backup", "create", store.place, "--key-file", key, "--with-secrets-key", *data, "--json"]
    done = json.loads(fula(*backup, env=store.env).stdout)
    assert (done["buckets"], done["changed"], done["keys"], done["problems"]) == (3, 3, 3, [])
    assert done["sealed"] and done["revocations"] >= 1
    listed = fula("backup", "list", store.place, "--key-file", key, env=store.env).stdout
    assert columns(listed, ("BUCKETS", "KEYS"))[done["backup"]] == ["3", "3"]
    if running:
        own_gateway.stop()
    shutil.rmtree(own_gateway.data_dir)

    # Without the key that encrypts the access keys, nothing begins.
    restore = ["restore", "--all", "--from", f"backup:{store.place}", "--key-file", key]
    data_dir = tmp_path / "new"
    data_dir.mkdir(mode=0o700)
    refused = fula(*restore, "--data-dir", data_dir, env=store.env, check=False)
    assert refused.returncode == 1 and "fula backup secrets-key PLACE" in refused.stderr, refused.stderr
    assert list(data_dir.iterdir()) == []
    fula("backup", "secrets-key", store.place, data_dir / "secrets.key", "--key-file", key, env=store.env)
    if running:
        with Gateway(data_dir).start() as new:
            done = fula(*restore, "--data-dir", data_dir, env=store.env)
    else:
        done = fula(*restore, "--data-dir", data_dir, env=store.env)
    assert "Put back 3 access keys" in done.stdout, done.stdout
    with Gateway(data_dir).start() as new:
        back = new.client(key=admin_key)
        assert {bucket: listing(back, bucket) for bucket in before} == before
        assert back.get_object(Bucket="photos", Key="large")["Body"].read() == pattern(3 * MIB, 1)
        assert back.get_bucket_tagging(Bucket="photos")["TagSet"] == [{"Key": "a", "Value": "b"}]
        assert new.client(key=carol).get_object(Bucket="photos", Key="hers")["Body"].read() == b"hers"
        with pytest.raises(Exception, match="InvalidAccessKeyId|AccessDenied"):
            new.client(key=(gone["id"], gone["secret"])).list_buckets()
        assert new.fula("fsck").stdout.endswith("0 problems\n")
        # Once more changes nothing.
        again = json.loads(fula(*restore, "--data-dir", data_dir, "--json", env=store.env).stdout)
        assert [bucket["already"] for bucket in again["buckets"]] == [True] * 3
        assert again["state"]["keys"] == 0 and again["state"]["already"] == 3


def test_revocations_come_back_without_access_keys(own_gateway, tmp_path):
    place, new = tmp_path / "backups", tmp_path / "new"
    own_gateway.client().create_bucket(Bucket="photos")
    keys = [own_gateway.fula("keys", "create", "--user", user).stdout for user in ("bob", "carol")]
    id = re.search(r"aws_access_key_id = (\S+)", keys[0])[1]
    own_gateway.fula("keys", "revoke", id)
    own_gateway.fula("revoke", "user", "carol", "--yes")
    own_gateway.fula("revoke", "wallet", "0x9858EfFD232B4033E47d90003D41EC34EcaEda94", "--yes")
    revoked = own_gateway.fula("revoke", "list").stdout
    assert id in revoked and "carol" in revoked and "0x9858" in revoked, revoked
    own_gateway.fula("backup", "create", place)
    new.mkdir(mode=0o700)
    restore = ["restore", "--all", "--buckets-only", "--from", f"backup:{place}", "--data-dir", new]
    assert "Put back 0 access keys and 3 revocations" in fula(*restore).stdout
    assert fula("revoke", "list", "--data-dir", new).stdout == revoked
    assert fula("keys", "list", "--data-dir", new).stdout.count(id) == 0
    assert json.loads(fula(*restore, "--json").stdout)["state"]["revocations"] == 0, "they are there"


def test_a_backup_takes_what_changed_and_old_ones_can_go(own_gateway, tmp_path):
    s3, place = own_gateway.client(), tmp_path / "backups"
    fill(s3)
    fill(s3, "other")

    def create(*options):
        return json.loads(own_gateway.fula("backup", "create", place, "--json", *options).stdout)

    first = create()
    same = create()
    assert (same["changed"], same["backup"] > first["backup"]) == (0, True)
    assert same["written_bytes"] < 10_000 < first["written_bytes"]
    s3.put_object(Bucket="photos", Key="dir/050", Body=b"new")
    changed = create()
    assert changed["changed"] == 1 and changed["written_bytes"] < 100_000
    shown = json.loads(fula("backup", "list", place, "--json").stdout)
    assert [backup["backup"] for backup in shown] == [first["backup"], same["backup"], changed["backup"]]
    assert [backup["objects"] for backup in shown] == [302, 302, 302]
    buckets = json.loads(fula("backup", "list", place, changed["backup"], "--json").stdout)
    assert [bucket["bucket"] for bucket in buckets] == ["other", "photos"]
    # The newest needs files of the first one, and they stay.
    kept = create("--keep", "1")
    assert kept["removed"]["backups"] == [first["backup"], same["backup"], changed["backup"]]
    report = json.loads(fula("backup", "verify", place, "--json").stdout)
    assert report[0]["problems"] == [] and report[0]["blocks"] > 200
    full = create("--full", "--keep", "1")
    assert full["changed"] == 2 and full["removed"]["backups"] == [kept["backup"]]
    assert {path.parts[1] for path in files_of(place)} == {full["backup"]}
    own_gateway.stop()
    (tmp_path / "new").mkdir(mode=0o700)
    shutil.copy(own_gateway.data_dir / "secrets.key", tmp_path / "new")
    fula("restore", "--all", "--from", f"backup:{place}", "--data-dir", tmp_path / "new")
    own_gateway.start()
    with Gateway(tmp_path / "new").start() as new:
        back = new.client(key=own_gateway.credentials())
        for bucket in ("photos", "other"):
            assert listing(back, bucket) == listing(own_gateway.client(), bucket)


def test_a_bucket_comes_back_beside_the_live_one(own_gateway, tmp_path):
    s3, place = own_gateway.client(), tmp_path / "backups"
    fill(s3)

    def create():
        return json.loads(own_gateway.fula("backup", "create", place, "--json").stdout)["backup"]

    def version():
        (row,) = json.loads(own_gateway.fula("roots", "show", "photos", "--json").stdout)["buckets"]
        return row["version"]

    def restore(*args, check=True):
        return own_gateway.fula("restore", *args, "--from", f"backup:{place}", check=check)

    old, old_backup, old_version = listing(s3, "photos"), create(), version()
    s3.delete_object(Bucket="photos", Key="large")
    s3.put_object(Bucket="photos", Key="dir/000", Body=b"changed")
    new, new_backup, new_version = listing(s3, "photos"), create(), version()
    s3.put_object(Bucket="photos", Key="later", Body=b"later")
    live = listing(s3, "photos")
    done = restore("photos")
    assert f"It is photos as of version {new_version}. The bucket that has that name now is unchanged." in done.stdout
    assert listing(s3, f"photos-{new_version}") == new
    restore("photos", "--at", str(old_version))
    assert listing(s3, f"photos-{old_version}") == old
    restore("photos", "--at", old_backup, "--bucket", "by-id")
    assert listing(s3, "by-id") == old
    restore("photos", "--at", "2100-01-01T00:00:00Z", "--bucket", "by-time")
    assert listing(s3, "by-time") == new
    assert listing(s3, "photos") == live, "the live one is as it was"
    for args, text in [
        (("photos", "--bucket", "photos"), "there is a bucket photos of this owner already"),
        (("photos",), f"there is a bucket photos-{new_version} of this owner already"),
        (("photos", "--at", "1"), f"no backup has version 1 of bucket photos; they have: {new_version}, {old_version}"),
        (("photos", "--at", "2001-01-01T00:00:00Z"), f"the oldest is {old_backup}"),
        (("photos", "--at", "yesterday"), "neither a backup nor a version nor a time"),
        (("photo",), f"backup {new_backup} has no bucket photo;"),
    ]:
        refused = restore(*args, check=False)
        assert refused.returncode == 1 and text in refused.stderr, (args, refused.stderr)
    # A name that is free again is used.
    for line in live:
        s3.delete_object(Bucket="photos", Key=line[0])
    s3.delete_bucket(Bucket="photos")
    assert "beside" not in restore("photos").stdout
    assert listing(s3, "photos") == new


def test_damage_is_named_and_restored_around(own_gateway, tmp_path):
    s3, place = own_gateway.client(), tmp_path / "backups"
    fill(s3)
    fill(s3, "other")
    key = tmp_path / "backup.key"
    fula("secrets", "keygen", key)
    sealed = tmp_path / "sealed"
    own_gateway.fula("backup", "create", place)
    own_gateway.fula("backup", "create", sealed, "--key-file", key)
    own_gateway.stop()
    (tmp_path / "new").mkdir(mode=0o700)
    for where, options in ((place, ()), (sealed, ("--key-file", key))):
        name = max(files_of(where), key=lambda path: "000001" in path.name)
        path = where / name
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for damaged, text in ((bytes(flipped), "damaged"), (whole[:-1], "cut off"), (whole + b"x", "longer"),
                              (None, "missing")):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            found = fula("backup", "verify", where, *options, check=False)
            assert found.returncode == 1, found
            # The flipped bit of a file that is not sealed is seen as a wrong hash of a block first.
            assert text in found.stdout or "does not match" in found.stdout or "do not match" in found.stdout, found.stdout
            assert "bucket photos of owner" in found.stdout and str(name) in found.stdout, found.stdout
            assert "bucket other" not in found.stdout and "--full" in found.stdout
            new = tmp_path / "new"
            done = fula("restore", "--all", "--buckets-only", "--from", f"backup:{where}", *options,
                        "--data-dir", new, check=False)
            assert done.returncode == 1 and "bucket photos was not restored" in done.stderr, done.stderr
            assert "bucket other" in done.stdout
            shutil.rmtree(new)
            new.mkdir(mode=0o700)
        path.write_bytes(whole)
        assert fula("backup", "verify", where, *options).returncode == 0
        # Another backup does not build on a file that is cut off or missing.
        path.write_bytes(whole[:-1])
        done = fula("backup", "create", where, *options, "--data-dir", own_gateway.data_dir)
        assert "bucket photos are missing or cut off" in done.stderr
        assert fula("backup", "verify", where, *options).returncode == 0
    # A manifest that is damaged is named, and the next backup is whole by itself.
    manifest = max((place / "backups").iterdir())
    manifest.write_bytes(manifest.read_bytes()[:-10])
    assert "cannot be read" in fula("backup", "list", place).stdout
    done = fula("backup", "create", place, "--data-dir", own_gateway.data_dir)
    assert "everything is written again" in done.stderr
    assert fula("backup", "verify", place).returncode == 0


def test_keys_and_places_that_do_not_fit_are_refused(own_gateway, tmp_path):
    key, other, place = tmp_path / "backup.key", tmp_path / "other.key", tmp_path / "backups"
    for file in (key, other):
        fula("secrets", "keygen", file)
    fill(own_gateway.client())
    own_gateway.fula("backup", "create", place, "--key-file", key)
    for file in files_of(place):
        assert b"body 7" not in (place / file).read_bytes(), "nothing readable is stored"
    assert b"photos" not in next((place / "backups").iterdir()).read_bytes()
    for options, text in [((), "name the file of their key with --key-file"),
                          (("--key-file", other), "encrypted with another key")]:
        for command in (["backup", "list", place], ["backup", "verify", place],
                        ["backup", "create", place, "--data-dir", own_gateway.data_dir],
                        ["restore", "photos", "--from", f"backup:{place}", "--data-dir", own_gateway.data_dir]):
            refused = fula(*command, *options, check=False)
            assert refused.returncode in (1, 2) and text in refused.stderr, refused.stderr
    plain = tmp_path / "plain"
    own_gateway.fula("backup", "create", plain)
    refused = own_gateway.fula("backup", "create", plain, "--key-file", key, check=False)
    assert refused.returncode == 1 and "are not encrypted" in refused.stderr
    # The files of one bucket cannot stand for those of another one.
    one, two = sorted(files_of(place))[:2]
    swapped = (place / one).read_bytes(), (place / two).read_bytes()
    (place / one).write_bytes(swapped[1])
    (place / two).write_bytes(swapped[0])
    assert fula("backup", "verify", place, "--key-file", key, check=False).returncode == 1
    key.chmod(0o644)
    refused = fula("backup", "list", place, "--key-file", key, check=False)
    assert refused.returncode == 1 and "chmod 600" in refused.stderr
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("x")
    refused = own_gateway.fula("backup", "create", foreign, check=False)
    assert refused.returncode == 1 and "it holds notes.txt" in refused.stderr
    assert "no file fula-backup" in fula("backup", "list", foreign, check=False).stderr


def test_an_interrupted_backup_does_not_count(own_gateway, tmp_path):
    s3, place = own_gateway.client(), tmp_path / "backups"
    fill(s3)
    first = json.loads(own_gateway.fula("backup", "create", place, "--json").stdout)["backup"]
    s3.create_bucket(Bucket="big")
    for n in range(10):
        s3.put_object(Bucket="big", Key=f"{n}", Body=pattern(20 * MIB, n))
    command = [FULA, "backup", "create", place, "--data-dir", own_gateway.data_dir]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # It is killed once it has begun to write.
    while running.poll() is None and not any(first not in str(path) for path in (place / "data").rglob("*.*")):
        pass
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL, "it was too fast for this test"
    shown = json.loads(fula("backup", "list", place, "--json").stdout)
    assert [backup["backup"] for backup in shown] == [first]
    assert fula("backup", "verify", place).returncode == 0
    done = json.loads(own_gateway.fula("backup", "create", place, "--json").stdout)
    assert (done["buckets"], done["changed"]) == (2, 1)
    assert fula("backup", "verify", place, "--all").returncode == 0


def test_a_federation_comes_back_on_another_database(federation, tmp_path):  # noqa: F811
    one, two = federation.gateway("one"), federation.gateway("two")
    s3 = one.client()
    fill(s3)
    admin_key = one.credentials()
    env = {**os.environ, **one.shared}
    key, place = tmp_path / "backup.key", tmp_path / "backups"
    fula("secrets", "keygen", key)
    create = ["backup", "create", place, "--key-file", key, "--with-secrets-key", "--json"]
    # Beside a gateway, and then on a machine without one.
    fula(*create, "--data-dir", one.data_dir, env=env)
    two.client(key=admin_key).put_object(Bucket="photos", Key="dir/007", Body=b"by the other one")
    done = json.loads(fula(*create, "--data-dir", tmp_path / "none", env=env).stdout)
    assert (done["buckets"], done["changed"]) == (1, 1), "what changed since the backup through the other master"
    before = listing(s3, "photos")
    federation.stop()
    for name in ("one", "two", "blocks"):
        shutil.rmtree(tmp_path / name)
    federation.key.unlink()

    (tmp_path / "after").mkdir()
    again = type(federation)(tmp_path / "after")
    try:
        again.key.unlink()
        fula("backup", "secrets-key", place, again.key, "--key-file", key)
        three = again.gateway("three")
        restore = ["restore", "--all", "--from", f"backup:{place}", "--key-file", key]
        done = fula(*restore, "--data-dir", three.data_dir, env={**os.environ, **three.shared})
        assert "Made the bucket photos" in done.stdout
        four = again.gateway("four")
        for gateway in (three, four):
            back = gateway.client(key=admin_key)
            assert listing(back, "photos") == before
            assert back.get_object(Bucket="photos", Key="dir/007")["Body"].read() == b"by the other one"
        back.put_object(Bucket="photos", Key="more", Body=b"1")
    finally:
        again.stop()


def test_mapped_objects_come_back_while_their_node_has_the_content(gateway, tmp_path):
    site = Site(gateway, tmp_path)
    try:
        data = pattern(300_000)
        cid, _ = site.ingest(data)
        assert site.map("mapped", cid, len(data))[0] == 200
        place = tmp_path / "backups"
        master = site.master
        done = json.loads(fula("backup", "create", place, "--data-dir", master.data_dir, "--json").stdout)
        assert done["problems"] == []
        assert fula("backup", "verify", place).returncode == 0
        shown = fula("backup", "list", place, done["backup"]).stdout
        assert "(leaves on storage nodes)" in shown
        fula("restore", "bucket", "--from", f"backup:{place}", "--bucket", "back", "--data-dir", master.data_dir)
        status, _, body = site.s3("GET", "/back/mapped")
        assert (status, body) == (200, data)
    finally:
        site.close()


def peak_of(*command):
    """Most resident memory of a command, in bytes."""
    measured = "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n" \
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)"
    done = subprocess.run(["python3", "-c", measured, *map(str, command)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_does_not_grow_with_the_bucket(own_gateway, tmp_path):
    """A bucket of 200 MiB passes through processes that need less memory."""
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="big")
    for n in range(10):
        s3.put_object(Bucket="big", Key=f"{n}", Body=pattern(20 * MIB, n))
    own_gateway.stop()
    place, new, key = tmp_path / "backups", tmp_path / "new", tmp_path / "backup.key"
    fula("secrets", "keygen", key)
    new.mkdir(mode=0o700)
    shutil.copy(own_gateway.data_dir / "secrets.key", new)
    sealed = ("--key-file", key)
    assert peak_of(FULA, "backup", "create", place, *sealed, "--data-dir", own_gateway.data_dir) < 110 * MIB
    assert peak_of(FULA, "backup", "verify", place, *sealed) < 64 * MIB
    assert peak_of(FULA, "restore", "--all", "--from", f"backup:{place}", *sealed, "--data-dir", new) < 110 * MIB
    own_gateway.start()


# Number of objects of the test below; 100000 for the figures in docs/performance.md.
OBJECTS = int(os.environ.get("FULA_TEST_OBJECTS", "3000"))


def test_many_objects_come_back_with_equal_listings(own_gateway, tmp_path):
    """Prints how long a backup and a restore take, and a start with so many objects."""
    s3, place = own_gateway.client(), tmp_path / "backups"
    s3.create_bucket(Bucket="many")
    own_gateway.shared_key = own_gateway.credentials()
    for first in range(0, OBJECTS, 1000):
        keys = range(first, min(first + 1000, OBJECTS))
        changes = [{"put": {"key": f"dir/{n:07}", "text": f"body {n}"}} for n in keys]
        body = json.dumps({"changes": changes}).encode()
        status, _, text = signed(own_gateway, "POST", "/many?fula-commit", body)
        assert status == 200, text

    def all_of(client):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="many")
        return [(line["Key"], line["ETag"], line["Size"]) for page in pages for line in page["Contents"]]

    before = all_of(s3)
    assert len(before) == OBJECTS
    own_gateway.stop()
    began = time.monotonic()
    own_gateway.start()
    with urllib.request.urlopen(f"{own_gateway.admin}/readyz") as ready:
        assert ready.status == 200
    started = time.monotonic() - began
    began = time.monotonic()
    own_gateway.fula("backup", "create", place)
    made = time.monotonic() - began
    key = own_gateway.credentials()
    own_gateway.stop()
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    shutil.copy(own_gateway.data_dir / "secrets.key", new)
    began = time.monotonic()
    fula("restore", "--all", "--from", f"backup:{place}", "--data-dir", new)
    restored = time.monotonic() - began
    with Gateway(new).start() as back:
        assert all_of(back.client(key=key)) == before
    print(f"{OBJECTS} objects: start to /readyz {started:.2f} s, backup {made:.1f} s, restore {restored:.1f} s")
