"""Gateways whose data directory is on a disk that is small, full or failing."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from conftest import FULA, Gateway
from disks import Disk, FailingDisk
from helpers import BUSY, MIB, Refused, eventually, pattern
from masters import federation, signed


@pytest.fixture
def small_disk(tmp_path):
    """A gateway that keeps what was replaced for an hour, and a client with a bucket."""
    with Disk(tmp_path / "disk", 180) as disk, Gateway(disk.path) as gateway:
        s3 = gateway.start({"FULA_RETENTION": "1h"}).client()
        s3.create_bucket(Bucket="bucket")
        yield gateway, s3


def test_a_full_disk_is_told_and_can_be_emptied(small_disk):
    gateway, s3 = small_disk
    s3.put_object(Bucket="bucket", Key="kept", Body=pattern(MIB))
    # More than one segment of the log, of which nothing but the newest content is in use.
    with Refused("InsufficientStorage", 507) as refused:
        for n in range(250):
            body = n.to_bytes(4, "big") * (MIB // 4)
            s3.put_object(Bucket="bucket", Key="replaced", Body=body)
            last = body
    assert n > 130
    assert refused.response["ResponseMetadata"]["HTTPHeaders"]["x-fula-outcome"] == "none"
    with Refused("InsufficientStorage", 507):
        s3.put_object(Bucket="bucket", Key="large", Body=pattern(5 * MIB))

    def check():
        assert s3.get_object(Bucket="bucket", Key="replaced")["Body"].read() == last
        assert s3.get_object(Bucket="bucket", Key="kept")["Body"].read() == pattern(MIB)
        with Refused("NoSuchKey", 404):
            s3.get_object(Bucket="bucket", Key="large")
        assert json.loads(gateway.fula("fsck", "--json").stdout)["problems"] == 0

    check()
    done = json.loads(gateway.fula("gc", "--now", "--retention", "0s", "--json").stdout)
    assert done["rewritten_bytes"] > 100 * MIB
    check()
    last = pattern(5 * MIB, seed=2)
    s3.put_object(Bucket="bucket", Key="replaced", Body=last)
    check()


def test_a_disk_full_of_what_is_wanted_can_be_emptied(small_disk):
    """Deletions are told no only when nothing is left for them, and make room for what comes."""
    gateway, s3 = small_disk
    upload = {"Bucket": "bucket", "Key": "upload"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    s3.upload_part(**upload, PartNumber=1, Body=pattern(20 * MIB))
    with Refused("InsufficientStorage", 507):
        for n in range(1000):
            s3.put_object(Bucket="bucket", Key=f"{n:04}", Body=pattern(MIB // 4, seed=n))
    assert n > 530
    s3.abort_multipart_upload(**upload)
    s3.delete_object(Bucket="bucket", Key="0000")
    # All of the log's first segment: what is left of one must fit into what is kept back.
    listed = [{"Key": f"{n:04}"} for n in range(1, 520)]
    answer = s3.delete_objects(Bucket="bucket", Delete={"Objects": listed})
    assert len(answer["Deleted"]) == len(listed) and "Errors" not in answer
    # More than the gateway gives back by itself before it collects.
    with Refused("InsufficientStorage", 507):
        s3.put_object(Bucket="bucket", Key="more", Body=pattern(30 * MIB))
    gateway.fula("gc", "--now", "--retention", "0s")
    s3.put_object(Bucket="bucket", Key="more", Body=pattern(30 * MIB))
    assert len(s3.list_objects_v2(Bucket="bucket")["Contents"]) == n - 520 + 1
    assert json.loads(gateway.fula("fsck", "--json").stdout)["problems"] == 0


def refusal_on(disk):
    """What a gateway says that does not start on this disk."""
    command = [FULA, "gateway", "--data-dir", disk.path, "--listen", "127.0.0.1:0",
               "--admin-listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_a_disk_that_is_too_small_is_refused_at_the_start(tmp_path):
    with Disk(tmp_path / "small", 31) as disk:
        said = refusal_on(disk)
        assert "too small: it has 31744 KiB" in said and "has 32768 KiB" in said
    with Disk(tmp_path / "smallest", 32) as disk, Gateway(disk.path) as gateway:
        s3 = gateway.start().client()
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="k", Body=pattern(MIB))


def fill(s3, bodies):
    """Puts objects of 20 MiB until the disk is full; returns how many fitted."""
    for n in range(100):
        key = f"{time.monotonic_ns():020}"
        body = pattern(20 * MIB, seed=key)
        try:
            s3.put_object(Bucket="bucket", Key=key, Body=body)
        except s3.exceptions.ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 507, error
            return n
        bodies[key] = body
    raise AssertionError("the disk does not become full")


def check(gateway, bodies):
    s3 = gateway.client()
    listed = s3.list_objects_v2(Bucket="bucket")["Contents"]
    assert [o["Key"] for o in listed] == sorted(bodies)
    for key, body in bodies.items():
        assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == body


def fill_elsewhere(data_dir, disk, bodies):
    """Fills a data directory on a larger disk, whose segments are larger, and copies it to `disk`."""
    with Gateway(data_dir) as gateway:
        s3 = gateway.start().client()
        s3.create_bucket(Bucket="bucket")
        for n in range(12):
            key = f"{n:03}"
            bodies[key] = pattern(20 * MIB, seed=n)
            s3.put_object(Bucket="bucket", Key=key, Body=bodies[key])
    shutil.copytree(data_dir, disk.path, dirs_exist_ok=True)
    shutil.rmtree(data_dir)
    assert max(segment.stat().st_size for segment in disk.path.glob("log/*")) > 100 * MIB


@pytest.mark.parametrize("segments", ["small", "large"])
def test_a_full_small_disk_gives_space_back_again_and_again(tmp_path, segments):
    """Earlier builds made large segments on every disk."""
    bodies = {}
    with Disk(tmp_path / "disk", 300) as disk, Gateway(disk.path) as gateway:
        if segments == "large":
            fill_elsewhere(tmp_path / "data", disk, bodies)
        s3 = gateway.start().client()
        if segments == "small":
            s3.create_bucket(Bucket="bucket")
        fill(s3, bodies)
        assert len(bodies) >= 12
        for _ in range(3):
            deleted = sorted(bodies)[::2]
            for key in deleted:
                s3.delete_object(Bucket="bucket", Key=key)
                del bodies[key]
            gateway.fula("gc", "--now", "--retention", "0s")
            assert fill(s3, bodies) >= len(deleted) - 1, "what was deleted is not given back"
        gateway.kill()
        gateway.start()
        check(gateway, bodies)
        last = max(bodies)
        s3.delete_object(Bucket="bucket", Key=last)
        del bodies[last]
        gateway.fula("gc", "--now", "--retention", "0s")
        assert fill(s3, bodies) > 0
        check(gateway, bodies)
        assert json.loads(gateway.fula("fsck", "--json").stdout)["problems"] == 0


class Master:
    """A master whose own disk fills up or fails, and what it has acknowledged."""

    def __init__(self, federation, disk):
        self.federation, self.gateway = federation, federation.gateway(disk.path)
        self.acknowledged = {}
        assert signed(self.gateway, "PUT", "/bucket")[0] == 200

    def put(self, key):
        """Puts an object; returns status and outcome."""
        status, headers, _ = signed(self.gateway, "PUT", f"/bucket/{key}", key.encode())
        if status == 200:
            self.acknowledged[key] = key.encode()
        return status, headers.get("x-fula-outcome")

    def put_until_it_succeeds(self, key):
        eventually(lambda: self.put(key)[0] == 200, why=lambda: "it does not recover")

    def put_on_a_disk_that_fails(self, prefix, refusal):
        """Puts a hundred objects and checks that none is acknowledged after the first that is not."""
        answers = [self.put(f"{prefix}-{n}") for n in range(100)]
        first = next((n for n, answer in enumerate(answers) if answer[0] != 200), None)
        assert first is not None, "every write was acknowledged"
        # The commit that meets the failure may stand; nothing is sent after that.
        assert answers[first] in [(503, "unknown"), (refusal, "none")]
        assert set(answers[first + 1:]) == {(refusal, "none")}

    def state(self):
        """Status and text of /readyz, and the metric."""
        metrics = urllib.request.urlopen(f"{self.gateway.admin}/metrics").read().decode()
        failed = "fula_local_state_failed 1\n" in metrics
        try:
            answer = urllib.request.urlopen(f"{self.gateway.admin}/readyz")
        except urllib.error.HTTPError as error:
            answer = error
        return answer.status, answer.read().decode(), failed

    def check(self):
        for key, body in self.acknowledged.items():
            assert signed(self.gateway, "GET", f"/bucket/{key}")[::2] == (200, body), key

    def check_healed(self):
        """What was acknowledged is refused while it is in doubt and there afterwards; never absent."""
        for key, body in self.acknowledged.items():
            ask = lambda: signed(self.gateway, "GET", f"/bucket/{key}")[::2]
            answer = eventually(lambda: (found := ask())[0] != 503 and found, why=lambda: "the arbiter is not healed")
            assert answer == (200, body), key

    def backup(self):
        """Keeps what Postgres has; connections to it break."""
        self.federation.postgres.tell("crash")
        self.federation.postgres.tell(f"backup {self.federation.tmp}/backup")
        self.federation.postgres.tell("launch")

    def restore(self):
        """Goes back to that while the master is down, and starts the master."""
        self.federation.postgres.tell("crash")
        self.federation.postgres.tell(f"restore {self.federation.tmp}/backup")
        self.federation.postgres.tell("launch")
        self.gateway.start(env=self.gateway.shared)


def test_a_master_whose_disk_is_full_acknowledges_only_what_it_remembers(federation, tmp_path):
    with Disk(tmp_path / "own", 64) as disk:
        master = Master(federation, disk)
        master.put("before")
        master.backup()
        master.put_until_it_succeeds("after")
        disk.fill()
        master.put_on_a_disk_that_fails("full", 507)
        status, why, failed = master.state()
        assert (status, failed) == (503, True) and "own data directory cannot be written" in why
        master.check()
        disk.make_room()
        master.put_until_it_succeeds("room")
        eventually(lambda: master.state() == (200, "ready\n", False), why=master.state)
        disk.fill()
        master.put_on_a_disk_that_fails("again", 507)
        master.gateway.kill()
        disk.make_room()
        master.restore()
        master.check_healed()
        master.put_until_it_succeeds("more")
        master.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file system fail")
def test_a_master_whose_disk_becomes_read_only_acknowledges_only_what_it_remembers(federation, tmp_path):
    with FailingDisk(tmp_path / "own", 64) as disk:
        master = Master(federation, disk)
        master.put("before")
        master.backup()
        master.put_until_it_succeeds("after")
        disk.fail()
        master.put_on_a_disk_that_fails("read-only", 503)
        status, why, failed = master.state()
        assert (status, failed) == (503, True) and "the log failed" in why
        master.check()
        master.gateway.kill()
        disk.mend()
        master.restore()
        master.check_healed()
        master.put_until_it_succeeds("more")
        master.check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file system hang")
def test_a_disk_that_hangs_is_told_in_time(tmp_path):
    def timed(*request):
        began = time.monotonic()
        status, headers, body = signed(gateway, *request)
        return time.monotonic() - began, status, headers, body

    def ask(path):
        try:
            with urllib.request.urlopen(f"{gateway.admin}/{path}", timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    with FailingDisk(tmp_path / "disk", 64) as disk, Gateway(disk.path) as gateway:
        gateway.start({"FULA_COMMIT_DEADLINE": "3s"})
        s3 = gateway.client()
        for bucket in ("one", "two", "three", "four"):
            s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key="k", Body=b"x")
        disk.freeze()
        try:
            # More writers than threads, to several buckets, with small and with large bodies.
            writes = [("PUT", f"/{bucket}/{n}", body) for bucket in ("one", "two", "three", "four")
                      for n, body in enumerate((b"y" * 100, pattern(3 * MIB), b"z" * 50_000))]
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda write: timed(*write), writes))
            for took, status, headers, body in answers:
                assert status == 503 and headers["x-fula-outcome"] in ("none", "unknown"), body
                # Within the deadline and a second.
                assert took < 3 + 1 + BUSY, took
            # What is in memory is read, and the process lives and says what is wrong.
            assert signed(gateway, "GET", "/one/k")[2] == b"x"
            assert ask("healthz")[0] == 200
            text = "the disk of the data directory has not answered"
            said = eventually(lambda: text in (found := ask("readyz"))[1] and found, why=lambda: ask("readyz"))
            assert said[0] == 503
            took, status, _, body = timed("PUT", "/one/more", b"y")
            assert status == 503 and took < 3 + 1 + BUSY, body
        finally:
            disk.thaw()
        eventually(lambda: signed(gateway, "PUT", "/one/k", b"after")[0] == 200)
        # Other writes of before may still be on their way to the disk.
        eventually(lambda: ask("readyz")[0] == 200, why=lambda: ask("readyz"))
        gateway.stop()
        assert gateway.fula("fsck").stdout.endswith("0 problems\n")
        gateway.start()
        assert signed(gateway, "GET", "/one/k")[2] == b"after"
