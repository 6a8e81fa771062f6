"""Garbage collection of blocks that masters share."""

import concurrent.futures
import json
import threading

from conftest import Gateway
from helpers import MIB, pattern
from masters import admin, federation

KEYS = 40


def size_of(blocks):
    return sum(file.stat().st_size for file in blocks.rglob("*") if file.is_file())


def files_of(blocks):
    return sum(1 for file in (blocks / "packs").rglob("*") if file.is_file())


def body_of(key, round):
    return pattern(6000, key * 1000 + round)


def overwrite(clients, bucket, rounds):
    """Writes every key several times through several masters; returns what each key holds then."""

    def each(key):
        for round in range(rounds):
            s3 = clients[(key + round) % len(clients)]
            s3.put_object(Bucket=bucket, Key=f"k{key}", Body=body_of(key, round))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(each, range(KEYS)))
    return {f"k{key}": body_of(key, rounds - 1) for key in range(KEYS)}


def check(clients, bucket, expected):
    for s3 in clients:
        found = {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in expected}
        assert found == expected


def collect(gateway, *options):
    done = admin(gateway, "gc", "--now", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Slow:
    """A body that waits in its middle until it may go on."""

    def __init__(self, body):
        self.body, self.at = body, 0
        self.half, self.goes_on = threading.Event(), threading.Event()

    def __len__(self):
        return len(self.body)

    def read(self, count=-1):
        if self.at >= len(self.body) // 2 and not self.goes_on.is_set():
            self.half.set()
            assert self.goes_on.wait(300)
        count = min(count, MIB) if count >= 0 else len(self.body)
        part = self.body[self.at : self.at + count]
        self.at += len(part)
        return part

    def seek(self, at, whence=0):
        self.at = at if whence == 0 else len(self.body)
        return self.at

    def tell(self):
        return self.at


def test_three_masters_collect_what_none_of_them_needs(federation, tmp_path):
    masters = [federation.gateway(f"master{n}") for n in range(3)]
    key = masters[0].credentials()
    clients = [master.client(key=key) for master in masters]
    blocks = tmp_path / "blocks"
    clients[0].create_bucket(Bucket="bucket")
    expected = overwrite(clients, "bucket", 12)
    large = pattern(5 * MIB)
    clients[1].put_object(Bucket="bucket", Key="large", Body=large)
    clients[2].copy_object(Bucket="bucket", Key="copy", CopySource="bucket/large")
    clients[0].delete_object(Bucket="bucket", Key="large")
    expected["copy"] = large
    before = size_of(blocks), files_of(blocks)

    # An upload and a download are under way meanwhile, on masters that do not collect.
    slow = Slow(pattern(7 * MIB, 5))
    clients[2].put_object(Bucket="bucket", Key="read", Body=pattern(8 * MIB, 6))
    reading = clients[0].get_object(Bucket="bucket", Key="read")["Body"]
    begun = reading.read(MIB)
    clients[1].delete_object(Bucket="bucket", Key="read")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(clients[0].put_object, Bucket="bucket", Key="slow", Body=slow)
        assert slow.half.wait(120)
        first = collect(masters[1], "--retention", "0s")["collection"]
        assert first["deleted_blocks"] > 0 and first["missing"] == 0
        slow.goes_on.set()
        uploading.result(timeout=120)
    assert begun + reading.read() == pattern(8 * MIB, 6)
    expected["slow"] = slow.body
    check(clients, "bucket", expected)

    # What was in use is garbage now.
    second = collect(masters[2], "--retention", "0s")["collection"]
    assert second["missing"] == 0
    check(clients, "bucket", expected)
    after = size_of(blocks), files_of(blocks)
    live = sum(map(len, expected.values()))
    # A slow machine commits more at a time, so that there are fewer packs before. Afterwards every object, leaf and
    # node may have a pack of its own: 42, 12 and 2, and some for the history.
    assert after[0] < live + 2 * MIB and after[1] < max(before[1] / 4, 70), (before, after, live)
    checked = admin(masters[0], "fsck")
    assert checked.returncode == 0, checked.stdout + checked.stderr

    # Writes go on, on every master, and so does a master that is new.
    expected |= overwrite(clients, "bucket", 2)
    late = federation.gateway("late")
    check([*clients, late.client(key=key)], "bucket", expected)


def test_a_master_that_was_killed_holds_nothing_back_for_ever(federation, tmp_path):
    one, other = federation.gateway("one"), federation.gateway("other")
    key = one.credentials()
    clients = [one.client(key=key), other.client(key=key)]
    clients[0].create_bucket(Bucket="bucket")
    expected = overwrite(clients, "bucket", 4)
    other.kill()
    # The collector waits until the lease of the other master is over.
    assert collect(one, "--retention", "0s")["collection"]["deleted_blocks"] > 0
    check(clients[:1], "bucket", expected)
    other.start(env=other.shared)
    clients[1] = other.client(key=key)
    check(clients, "bucket", expected)
    expected |= overwrite(clients, "bucket", 2)
    # A master that is stopped in good order is not waited for.
    other.stop()
    collect(one, "--retention", "0s")
    check(clients[:1], "bucket", expected)


def test_one_master_collects_its_shared_blocks(tmp_path):
    gateway = Gateway(tmp_path / "data")
    gateway.shared = {"FULA_BLOCKS": f"file://{tmp_path}/blocks"}
    with gateway.start(env=gateway.shared):
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        expected = overwrite([s3], "bucket", 10)
        before = size_of(tmp_path / "blocks")
        found = collect(gateway, "--retention", "0s")["collection"]
        assert found["deleted_blocks"] > 0 and found["missing"] == 0
        check([s3], "bucket", expected)
        assert size_of(tmp_path / "blocks") < before / 3
        gateway.kill()
        gateway.start(env=gateway.shared)
        s3 = gateway.client()
        check([s3], "bucket", expected)
        checked = admin(gateway, "fsck")
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_masters_that_overwrite_each_other_collect_nothing(federation):
    master = federation.gateway("master", FULA_BUCKET_ROOT_CAS="off")
    assert collect(master)["collection"] is None


def test_a_gateway_that_does_not_collect_says_so(tmp_path):
    gateway = Gateway(tmp_path / "data")
    gateway.shared = {"FULA_COLLECT": "off"}
    with gateway.start(env=gateway.shared):
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        expected = overwrite([s3], "bucket", 3)
        refused = admin(gateway, "gc", "--now", "--retention", "0s")
        assert refused.returncode != 0 and "FULA_COLLECT is off" in refused.stderr, refused
        check([s3], "bucket", expected)
        assert "the store grows until it is on" in gateway.data_dir.with_suffix(".log").read_text()
