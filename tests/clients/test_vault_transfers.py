"""Large files of vaults whose transfer is killed in the middle: the next run sends or reads only what is missing."""

import ctypes
import hashlib
import os
import select
import signal
import threading
import time
import urllib.parse

import pytest
from between import Between
from vault_machines import machines  # noqa: F401

MIB = 1 << 20
# Six segments, and as many parts.
SIZE = 90 * MIB
SEGMENT = 1022 * 16 * 1024
MARK = b"plaintext that nobody else reads"
NAME = "secret-name"


class Changes:
    """Tells of changes in a folder, as the kernel reports them."""

    CREATED, MODIFIED = 0x100, 0x2

    def __init__(self, folder):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init()
        assert self.libc.inotify_add_watch(self.fd, os.fsencode(folder), self.CREATED | self.MODIFIED) >= 0

    def wait_until(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            ready, _, _ = select.select([self.fd], [], [], max(end - time.monotonic(), 0))
            assert ready, "it did not happen in time"
            os.read(self.fd, 65536)
        os.close(self.fd)


@pytest.fixture
def passage(gateway, machines):  # noqa: F811
    """A machine with a vault and a large file, and the server between it and the gateway."""
    one, _ = machines
    with Between(gateway) as between:
        one.env["AWS_ENDPOINT_URL"] = between.url
        one.fula("vault", "create", "mine", "sealed/v")
        with open(one.home / NAME, "wb") as file:
            for at in range(SIZE // MIB):
                file.write((MARK + hashlib.sha256(at.to_bytes(4, "big")).digest()) * (MIB // 64))
        between.new()
        yield one, between


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(machine):
    """The folder for what this machine has seen of its only vault."""
    folder, = [path for path in (machine.home / ".config/fula/state").iterdir() if path.is_dir()]
    return folder


def lines(machine):
    """The lines of the note about an upload, without one that is not complete."""
    notes = list(state_of(machine).glob("upload-*"))
    return notes[0].read_bytes().split(b"\n")[:-1] if notes else []


def check_state(machine):
    """Nothing of the file is in the state, nor anywhere else but in the file and beside its copy."""
    assert machine.everything()
    for clear in (MARK, MARK[:16], NAME.encode(), b"copy", b"sealed/v/"):
        for path in state_of(machine).rglob("*"):
            assert clear not in path.name.encode() + path.read_bytes(), (clear, path)
    plain = [path.name for path in machine.home.rglob("*") if path.is_file() and MARK in path.read_bytes()[:MIB]]
    assert {name for name in plain if not name.startswith(".fula-")} <= {NAME, "copy"}


def part_of(target):
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(target).query)
    return int(query["partNumber"][0]) if "partNumber" in query else None


def parts(seen):
    return sorted(part_of(one.target) for one in seen if one.method == "PUT" and part_of(one.target))


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_an_upload_that_is_killed_sends_only_the_parts_that_are_missing(gateway, passage):
    one, between = passage
    killed = threading.Event()

    def arrives(method, target):
        # The gateway never gets the last two parts of the first run.
        if method == "PUT" and (part_of(target) or 0) >= 5:
            killed.wait()
            raise ConnectionAbortedError

    between.arrives = arrives
    changes = Changes(state_of(one))
    process = one.start("cp", NAME, "vault:mine/docs/large")
    changes.wait_until(lambda: sum(line.startswith(b'{"part"') for line in lines(one)) == 4)
    kill(process)
    killed.set()
    check_state(one)
    client = gateway.client()
    upload, = client.list_multipart_uploads(Bucket="sealed")["Uploads"]
    there = client.list_parts(Bucket="sealed", Key=upload["Key"], UploadId=upload["UploadId"])["Parts"]
    assert [part["PartNumber"] for part in there] == [1, 2, 3, 4]
    assert one.fula("stat", "vault:mine/docs/large", check=False).returncode == 3, "nothing is visible before the end"

    between.arrives = lambda method, target: None
    between.new()
    one.fula("cp", NAME, "vault:mine/docs/large")
    assert parts(between.new()) == [5, 6]
    assert lines(one) == [] and "Uploads" not in client.list_multipart_uploads(Bucket="sealed")
    check_state(one)
    one.fula("cp", "vault:mine/docs/large", "copy")
    assert digest(one.home / "copy") == digest(one.home / NAME)

    # What changed in between is sent anew, and nothing of the first run comes into the second.
    killed.clear()
    between.arrives = arrives
    changes = Changes(state_of(one))
    process = one.start("cp", NAME, "vault:mine/docs/large")
    changes.wait_until(lambda: sum(line.startswith(b'{"part"') for line in lines(one)) == 4)
    kill(process)
    killed.set()
    between.arrives = lambda method, target: None
    between.new()
    with open(one.home / NAME, "r+b") as file:
        file.write(b"other text")
    one.fula("cp", NAME, "vault:mine/docs/large")
    assert parts(between.new()) == [1, 2, 3, 4, 5, 6]
    one.fula("cp", "vault:mine/docs/large", "copy")
    assert digest(one.home / "copy") == digest(one.home / NAME)


def test_a_download_that_is_killed_reads_only_what_is_missing(passage):
    one, between = passage
    one.fula("cp", NAME, "vault:mine/docs/large")
    killed, passed = threading.Event(), []

    def passes(method, target, count):
        # The rest of the body stays where it is. What was passed on and not read lies in sockets.
        if count >= 56 * MIB:
            killed.wait()

    between.passed = passes
    parts = lambda: list(one.home.glob(".fula-*.part"))
    changes = Changes(one.home)
    process = one.start("cp", "vault:mine/docs/large", "copy")
    changes.wait_until(lambda: any(part.stat().st_size >= 2 * SEGMENT for part in parts()))
    kill(process)
    killed.set()
    check_state(one)
    part, = parts()
    kept = part.stat().st_size // SEGMENT
    assert 2 <= kept <= 3
    assert not (one.home / "copy").exists(), "a file is there as a whole, or not at all"

    between.passed = lambda method, target, count: passed.append((method, target, count))
    between.new()
    one.fula("cp", "vault:mine/docs/large", "copy")
    assert digest(one.home / "copy") == digest(one.home / NAME)
    # All bodies together: what was missing, the end of the object, and the keyring.
    bodies = {}
    for method, target, count in passed:
        bodies[method, target] = max(count, bodies.get((method, target), 0))
    read = sum(bodies.values())
    assert SIZE - kept * SEGMENT <= read <= SIZE - kept * SEGMENT + 2 * MIB, (kept, bodies)
    ranges = [one.range for one in between.new() if one.range]
    assert f"bytes={kept * (SEGMENT + 56 + 16 * 1023)}-" in "".join(ranges), ranges
    assert not parts()
    check_state(one)
