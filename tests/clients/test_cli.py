"""`fula cp`, `sync`, `ls`, `cat`, `put`, `rm`, `mv`, `du` and `stat` against real gateways."""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import urllib.parse
import urllib.request

import pytest

from between import Between
from conftest import FULA, Gateway
from helpers import MIB, eventually, pattern

# Names that shells, URLs, XML and file systems treat in special ways.
NAMES = ["plain", "a/b/c", "with space/ünï+code %41&<x>", "-dash", ".hidden", "日本/😀", "q?u#e", "tab\tx", "~x*'", "a.b", "a-b"]


class Cli:
    """The command line, as a user has it."""

    def __init__(self, gateway, home):
        self.gateway, self.home = gateway, home
        self.environment = {**gateway.env(), "HOME": str(home)}
        self.environment.pop("XDG_STATE_HOME", None)

    def start(self, *args, **options):
        command = [str(FULA), *(str(arg) for arg in args)]
        return subprocess.Popen(command, env=self.environment, **options)

    def __call__(self, *args, code=0, input=None):
        command = [str(FULA), *(str(arg) for arg in args)]
        done = subprocess.run(command, capture_output=True, env=self.environment, input=input, timeout=600)
        assert done.returncode == code, (command, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return done

    def lines(self, *args, code=0):
        return [json.loads(line) for line in self(*args, "--json", code=code).stdout.splitlines()]


@pytest.fixture
def cli(gateway, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return Cli(gateway, home)


def files(root):
    """The files below a folder, with their content."""
    found = {}
    for path in pathlib.Path(root).rglob("*"):
        if path.is_file():
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


class Requests:
    """Counts the requests that a gateway gets, by the name of the operation."""

    def __init__(self, gateway):
        self.gateway, self.before = gateway, {}
        self.before = self.all()

    def all(self):
        counts = {}
        text = urllib.request.urlopen(f"{self.gateway.admin}/metrics").read().decode()
        for operation, count in re.findall(r'^fula_requests_total\{operation="(\w+)".*\} (\d+)$', text, re.M):
            counts[operation] = counts.get(operation, 0) + int(count)
        return counts

    def new(self):
        """Those since the last call."""
        before, self.before = self.before, self.all()
        return {name: count - before.get(name, 0) for name, count in self.before.items() if count != before.get(name, 0)}


def make(root, content):
    for name, body in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def objects(s3, bucket, prefix=""):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {line["Key"]: line["Size"] for page in pages for line in page.get("Contents", [])}


def test_a_tree_goes_up_and_comes_back_the_same(cli, s3, bucket, tmp_path):
    content = {name: pattern(100 + n, n) for n, name in enumerate(NAMES)}
    content |= {"empty": b"", "large.bin": pattern(20 * MIB + 3), "page.html": b"<p>"}
    content |= {f"many/{n:04}": pattern(n % 90, n) for n in range(1200)}
    tree = tmp_path / "tree"
    make(tree, content)
    os.utime(tree / "plain", ns=(0, 1_600_000_000_123_456_789))
    cli("cp", "-r", tree, f"s3://{bucket}/up")
    assert objects(s3, bucket) == {f"up/{name}": len(body) for name, body in content.items()}
    assert s3.get_object(Bucket=bucket, Key="up/large.bin")["Body"].read() == content["large.bin"]
    head = s3.head_object(Bucket=bucket, Key="up/plain")
    assert head["Metadata"]["mtime"] == "1600000000.123456789"
    assert s3.head_object(Bucket=bucket, Key="up/page.html")["ContentType"] == "text/html"
    down = tmp_path / "down"
    cli("cp", "-r", f"s3://{bucket}/up", down)
    assert files(down) == content
    assert (down / "plain").stat().st_mtime_ns == 1_600_000_000_123_456_789
    # Files get the permissions of the user, and nothing is left of parts.
    umask = os.umask(0)
    os.umask(umask)
    assert (down / "plain").stat().st_mode & 0o777 == 0o666 & ~umask
    # Within the gateway, and filtered.
    cli("cp", "-r", f"s3://{bucket}/up", f"s3://{bucket}/copy", "--exclude", "many/**", "--exclude", "*.bin")
    expected = {name for name in content if not name.startswith("many/") and not name.endswith(".bin")}
    assert set(objects(s3, bucket, "copy/")) == {f"copy/{name}" for name in expected}
    assert s3.get_object(Bucket=bucket, Key="copy/a/b/c")["Body"].read() == content["a/b/c"]
    cli("cp", "-r", f"s3://{bucket}/up", f"s3://{bucket}/up/within", code=2)


def test_one_file_has_the_name_that_the_target_says(cli, s3, bucket, tmp_path):
    file = tmp_path / "file.txt"
    file.write_bytes(b"hello")
    for target, key in [("", "file.txt"), ("/", "file.txt"), ("/x/", "x/file.txt"), ("/y", "y")]:
        cli("cp", file, f"s3://{bucket}{target}")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"hello"
    folder = tmp_path / "folder"
    folder.mkdir()
    cli("cp", f"s3://{bucket}/x/file.txt", folder)
    cli("cp", f"s3://{bucket}/y", f"{folder}/sub/")
    cli("cp", f"s3://{bucket}/y", f"{folder}/z")
    assert set(files(folder)) == {"file.txt", "sub/y", "z"}
    cli("cp", f"s3://{bucket}/y", f"s3://{bucket}/copies/")
    assert s3.get_object(Bucket=bucket, Key="copies/y")["Body"].read() == b"hello"
    # Standard input and output, also in parts.
    for size in [0, 5, 17 * MIB + 1]:
        cli("cp", "-", f"s3://{bucket}/pipe", input=pattern(size))
        assert cli("cp", f"s3://{bucket}/pipe", "-").stdout == pattern(size)
    assert cli("cat", f"s3://{bucket}/pipe", "--range", "5-9").stdout == pattern(17 * MIB + 1)[5:10]
    assert cli("cat", f"s3://{bucket}/pipe", "--range", "-3").stdout == pattern(17 * MIB + 1)[-3:]


def test_sync_transfers_what_differs_and_deletes_on_request(cli, s3, bucket, tmp_path):
    tree, place = tmp_path / "tree", f"s3://{bucket}/t"
    content = {"a": b"1", "a.b": b"2", "a/b": b"3", "b/c": b"4", "z": b"5"}
    del content["a"]
    make(tree, content)

    def plan(*args, **options):
        lines = cli.lines("sync", *args, **options)
        return sorted((line["action"], pathlib.PurePosixPath(line["from"]).name) for line in lines if "action" in line)

    first = plan(tree, place)
    assert len(first) == 4 and plan(tree, place) == []
    # Same size and another time: sent again. The same time: not, unless checksums are compared.
    (tree / "z").write_bytes(b"6")
    assert plan(tree, place, "--dry-run") == [("upload", "z")]
    assert plan(tree, place) == [("upload", "z")]
    stamp = (tree / "z").stat().st_mtime_ns
    (tree / "z").write_bytes(b"7")
    os.utime(tree / "z", ns=(stamp, stamp))
    assert plan(tree, place) == [] and plan(tree, place, "--size-only") == []
    assert plan(tree, place, "--checksum") == [("upload", "z")]
    assert s3.get_object(Bucket=bucket, Key="t/z")["Body"].read() == b"7"
    # Down, with deletions; what another tool wrote has no time of a file.
    down = tmp_path / "down"
    make(down, {"extra": b"x"})
    assert len(plan(place, down)) == 4 and (down / "extra").exists()
    assert plan(place, down) == []
    s3.put_object(Bucket=bucket, Key="t/other", Body=b"y")
    assert plan(place, down) == [("download", "other")] and plan(place, down) == []
    assert plan(place, down, "--delete", "--dry-run") == [("delete", "extra")]
    assert plan(place, down, "--delete") == [("delete", "extra")]
    assert files(down) == {"a.b": b"2", "a/b": b"3", "b/c": b"4", "other": b"y", "z": b"7"}
    # An empty source does not empty the target.
    empty = tmp_path / "empty"
    empty.mkdir()
    done = cli("sync", empty, place, "--delete", code=1)
    assert b"max-delete" in done.stderr and len(objects(s3, bucket, "t/")) == 5
    cli("sync", empty, place, "--delete", "--max-delete", "4", code=1)
    assert len(objects(s3, bucket, "t/")) == 5
    # Between prefixes.
    assert len(plan(place, f"s3://{bucket}/mirror")) == 5 and plan(place, f"s3://{bucket}/mirror") == []
    cli("sync", empty, place, "--delete", "--max-delete", "100%")
    assert objects(s3, bucket, "t/") == {}
    assert len(plan(f"s3://{bucket}/nothing", f"s3://{bucket}/mirror", "--delete", "--max-delete", "5")) == 5
    cli("sync", tmp_path / "nowhere", place, code=3)
    cli("sync", place, f"{place}/within", code=2)


def test_many_files_need_few_requests(own_gateway, tmp_path):
    cli, s3 = Cli(own_gateway, tmp_path), own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    content = {f"d{n % 7}/{n:04}": pattern(n, n) for n in range(1500)}
    content |= {"large": pattern(300_000), "page.html": b"<p>"}
    tree = tmp_path / "tree"
    make(tree, content)
    # S3 tells times in whole seconds. The files are older than every object that another tool writes.
    for path in tree.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    requests = Requests(own_gateway)
    # Small files go up many at a time, each with its time and its type.
    lines = cli.lines("cp", "-r", tree, "s3://bucket/t")
    assert sum(line.get("action") == "upload" for line in lines) == len(content) == lines[-1]["done"]
    assert lines[-1]["bytes"] == sum(map(len, content.values()))
    new = requests.new()
    assert 1 < new["FulaCommit"] < 20 and new["PutObject"] == 1, new
    assert objects(s3, "bucket") == {f"t/{name}": len(body) for name, body in content.items()}
    head = s3.head_object(Bucket="bucket", Key="t/page.html")
    assert head["ContentType"] == "text/html" and "mtime" in head["Metadata"]
    assert head["ETag"] == f'"{hashlib.md5(b"<p>").hexdigest()}"'
    # Nothing changed: one request tells all sizes and times.
    requests.new()
    assert cli.lines("sync", tree, "s3://bucket/t")[-1]["unchanged"] == len(content)
    assert requests.new() == {"FulaList": 1}
    down = tmp_path / "down"
    cli("cp", "-r", "s3://bucket/t", down)
    assert files(down) == content
    requests.new()
    assert cli.lines("sync", "s3://bucket/t", down)[-1]["unchanged"] == len(content)
    assert requests.new() == {"FulaList": 1}
    # What another tool wrote has no time of a file: on the way up, each is asked for, and not on the way down.
    for name in ["d0/0000", "large"]:
        s3.put_object(Bucket="bucket", Key=f"t/{name}", Body=content[name])
    requests.new()
    assert cli.lines("sync", tree, "s3://bucket/t")[-1]["unchanged"] == len(content)
    new = requests.new()
    assert new == {"FulaList": 1, "HeadObject": 2}, new
    assert cli.lines("sync", "s3://bucket/t", down)[-1]["done"] == 2
    assert cli.lines("sync", "s3://bucket/t", down)[-1]["unchanged"] == len(content)
    assert "HeadObject" not in requests.new()
    # A file of many that cannot be read fails alone.
    (tree / "d0/0007").unlink()
    (tree / "d0/0007").symlink_to(tmp_path / "nowhere")
    done = cli("mv", "-r", tree, "s3://bucket/moved", "--follow-symlinks", code=1)
    assert done.stderr.count(b"failed:") == 1 and b"d0/0007" in done.stderr
    assert len(objects(s3, "bucket", "moved/")) == len(content) - 1 and not files(tree)
    # Keys that the caller may not write fail alone, too.
    make(tree, {"a/1": b"1", "b/2": b"2", "a/3": b"3"})
    s3.put_bucket_policy(Bucket="bucket", Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::bucket/p/b/*"}]}))
    done = cli("cp", "-r", tree, "s3://bucket/p", code=1)
    assert done.stderr.count(b"denied") == 1 and set(objects(s3, "bucket", "p/")) == {"p/a/1", "p/a/3"}


def test_nothing_is_deleted_after_a_failure(cli, s3, bucket, tmp_path):
    tree = tmp_path / "tree"
    make(tree, {"good": b"1"})
    (tree / os.fsdecode(b"bad-\xff")).write_bytes(b"2")
    s3.put_object(Bucket=bucket, Key="extra", Body=b"x")
    done = cli("sync", tree, f"s3://{bucket}", "--delete", "--max-delete", "100%", code=1)
    assert b"UTF-8" in done.stderr and b"nothing was deleted" in done.stderr
    assert set(objects(s3, bucket)) == {"good", "extra"}


def test_hostile_keys_stay_below_the_target(cli, s3, bucket, tmp_path):
    keys = ["../escape", "a/../../escape", "/absolute", "a//b", "..", "good", "link/x", "a/./b"]
    for key in keys:
        # boto3 cannot write them: its URLs lose their dots.
        cli("put", "-", f"s3://{bucket}/p/{key}", input=b"evil")
    s3.put_object(Bucket=bucket, Key="p/\u202econtrol", Body=b"")
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "link").symlink_to(outside)
    done = cli("cp", "-r", f"s3://{bucket}/p", target, code=1)
    assert set(files(target)) == {"good", "\u202econtrol"} and not files(outside)
    assert not (tmp_path / "escape").exists() and "\u202e" not in (done.stdout + done.stderr).decode()
    assert done.stderr.count(b"refused") == 7, done.stderr
    cli("cp", "-r", f"s3://{bucket}/p", target, "--dry-run", code=1)


def test_links_are_named_or_followed(cli, s3, bucket, tmp_path):
    tree = tmp_path / "tree"
    make(tree, {"a/file": b"1"})
    (tree / "link").symlink_to(tree / "a/file")
    (tree / "a/up").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    done = cli("cp", "-r", tree, f"s3://{bucket}/x")
    assert set(objects(s3, bucket)) == {"x/a/file"} and done.stderr.count(b"left out") == 3
    cli("cp", "-r", tree, f"s3://{bucket}/y", "--follow-symlinks", code=1)
    assert set(objects(s3, bucket, "y/")) == {"y/a/file", "y/link"}


def test_exit_statuses_and_conditions(cli, s3, bucket, tmp_path):
    place = f"s3://{bucket}/k"
    cli("put", "-", place, "--if-absent", "--metadata", "Color=blue", "--content-type", "text/x", input=b"1")
    facts = cli.lines("stat", place)[0]
    assert (facts["size"], facts["metadata"], facts["contentType"]) == (1, {"color": "blue"}, "text/x")
    assert facts["etag"] == hashlib.md5(b"1").hexdigest()
    cli("put", "-", place, "--if-absent", input=b"2", code=4)
    cli("put", "-", place, "--if-match", "0" * 32, input=b"2", code=4)
    cli("put", "-", place, "--if-match", facts["etag"], input=b"2")
    cli("rm", place, "--if-match", facts["etag"], code=4)
    for args in [("stat", f"{place}x"), ("cat", f"{place}x"), ("rm", f"{place}x"), ("ls", f"{place}x"),
                 ("cp", f"{place}x", tmp_path / "x"), ("cp", tmp_path / "nowhere", place),
                 ("cp", "-r", f"{place}x", tmp_path / "x"), ("rm", "-r", f"{place}x"), ("du", f"{place}x"),
                 ("ls", "s3://no-such-bucket-here")]:
        cli(*args, code=3)
    for args in [("cp", "a", "b"), ("cp", "-r", "s4://b/k", "."), ("cp", place), ("ls", "./here"),
                 ("cp", tmp_path, place), ("cat", place, "--range", "x"), ("cp", place, place)]:
        cli(*args, code=2)
    cli("rm", place, "--dry-run")
    cli("rm", place)
    cli("rm", place, code=3)
    # Plain HTTP to another machine is refused before anything is sent.
    done = cli("ls", "--endpoint-url", "http://192.0.2.1:9000", code=2)
    assert b"https://" in done.stderr
    cli.environment["AWS_SECRET_ACCESS_KEY"], cli.environment["AWS_ACCESS_KEY_ID"] = "wrong-secret", "AAAA"
    done = cli("ls", f"s3://{bucket}", code=1)
    assert b"denied" in done.stderr and b"wrong-secret" not in done.stderr
    del cli.environment["AWS_ENDPOINT_URL"]
    assert b"AWS_ENDPOINT_URL" in cli("ls", code=2).stderr


def test_listing_usage_moving_and_removing(cli, s3, bucket, tmp_path):
    for key, size in [("a/1", 10), ("a/2", 20), ("a/b/3", 2048), ("c", 5)]:
        s3.put_object(Bucket=bucket, Key=key, Body=pattern(size))
    assert bucket in cli("ls").stdout.decode()
    text = cli("ls", f"s3://{bucket}").stdout.decode()
    assert [line.split()[-2:] for line in text.splitlines()] == [["PRE", "a/"], ["5", "c"]]
    text = cli("ls", f"s3://{bucket}/a/", "-r", "--human", "--summarize").stdout.decode()
    assert text.splitlines()[-1] == "3 objects, 2.0 KiB" and "2.0 KiB a/b/3" in text
    assert cli.lines("ls", f"s3://{bucket}/a/")[-1] == {"prefix": "a/b/"}
    assert cli.lines("du", f"s3://{bucket}")[-1] == {"place": f"s3://{bucket}/", "objects": 4, "bytes": 2083}
    # Within a bucket a move is a rename, and keeps what the object has.
    before = s3.head_object(Bucket=bucket, Key="c")["ETag"]
    cli("mv", f"s3://{bucket}/c", f"s3://{bucket}/d/")
    assert s3.head_object(Bucket=bucket, Key="d/c")["ETag"] == before
    cli("mv", "-r", f"s3://{bucket}/a", f"s3://{bucket}/moved")
    assert set(objects(s3, bucket)) == {"moved/1", "moved/2", "moved/b/3", "d/c"}
    cli("mv", "-r", f"s3://{bucket}/moved", tmp_path / "down")
    assert files(tmp_path / "down") == {"1": pattern(10), "2": pattern(20), "b/3": pattern(2048)}
    cli("mv", tmp_path / "down/1", f"s3://{bucket}/again")
    assert set(objects(s3, bucket)) == {"again", "d/c"} and not (tmp_path / "down/1").exists()
    for n in range(1100):
        s3.put_object(Bucket=bucket, Key=f"many/{n}", Body=b"")
    assert len(cli.lines("rm", "-r", f"s3://{bucket}/many", "--dry-run")) == 1101
    cli("rm", "-r", f"s3://{bucket}/many", "--exclude", "7*")
    left = objects(s3, bucket, "many/")
    assert left and all(key.startswith("many/7") for key in left)


@pytest.fixture
def passage(gateway, cli):
    """A server between the command line and the gateway. Until `killed` is set, it holds back the end of a transfer."""
    killed = threading.Event()

    def arrives(method, target):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(target).query)
        if method == "PUT" and int(query.get("partNumber", ["0"])[0]) > 8 and not killed.is_set():
            killed.wait()
            raise ConnectionAbortedError

    def passed(method, target, count):
        if count >= 20 * MIB:
            killed.wait()

    with Between(gateway) as between:
        between.arrives, between.passed = arrives, passed
        cli.environment["AWS_ENDPOINT_URL"] = between.url
        yield killed
        killed.set()


def kill(process, killed):
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed.set()


def test_interrupted_transfers_go_on(cli, s3, bucket, passage, tmp_path):
    size = 160 * MIB
    file, place = tmp_path / "file", f"s3://{bucket}/large"
    with open(file, "wb") as out:
        for n in range(size // MIB):
            out.write(pattern(MIB, n))

    def parts():
        uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        if not uploads:
            return []
        listed = s3.list_parts(Bucket=bucket, Key="large", UploadId=uploads[0]["UploadId"])
        return listed.get("Parts", [])

    upload = cli.start("cp", file, place)
    eventually(lambda: len(parts()) >= 3)
    kill(upload, passage)
    kept = {part["PartNumber"]: part["LastModified"] for part in parts()}
    notes = list((cli.home / ".local/state/fula/uploads").glob("*.json"))
    assert len(notes) == 1 and notes[0].stat().st_mode & 0o777 == 0o600 and len(kept) < 20
    cli("cp", file, place)
    assert parts() == [] and not notes[0].exists()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    body = s3.get_object(Bucket=bucket, Key="large")["Body"].read()
    assert hashlib.sha256(body).hexdigest() == digest
    # Down: what arrived is kept, and only the whole file appears.
    down = tmp_path / "down"
    down.mkdir()
    passage.clear()
    download = cli.start("cp", place, down / "file")
    eventually(lambda: any(path.stat().st_size > 10 * MIB for path in down.iterdir()))
    kill(download, passage)
    assert not (down / "file").exists()
    cli("cp", place, down / "file")
    assert [path.name for path in down.iterdir()] == ["file"]
    assert hashlib.sha256((down / "file").read_bytes()).hexdigest() == digest
    # A file that changed is sent anew.
    passage.clear()
    upload = cli.start("cp", file, f"{place}-2")
    eventually(lambda: list(notes[0].parent.glob("*.json")))
    kill(upload, passage)
    with open(file, "r+b") as out:
        out.write(b"changed")
    cli("cp", file, f"{place}-2")
    assert s3.get_object(Bucket=bucket, Key="large-2")["Body"].read(7) == b"changed"
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_tokens_over_tls_and_progress(tmp_path):
    from helpers import self_signed
    from identity import Wallet

    cert, key = self_signed(tmp_path, "127.0.0.1")
    options = ["--tls-cert", cert, "--tls-key", key, "--eip712-auth", "on"]
    with Gateway(tmp_path / "data", *options).start() as gateway:
        cli = Cli(gateway, tmp_path)
        token = tmp_path / "token"
        token.write_text(Wallet().v1())
        cli.environment.pop("AWS_SHARED_CREDENTIALS_FILE")
        cli.environment |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
        assert b"certificate" in cli("ls", code=1).stderr
        cli.environment["AWS_CA_BUNDLE"] = str(cert)
        assert cli("ls").stdout == b""


def test_bytes_go_to_storage_nodes_or_to_the_gateway(gateway, tmp_path):
    from nodes import Site

    site = Site(gateway, tmp_path)
    try:
        cli = Cli(site.master, tmp_path)
        cli.environment.pop("AWS_SHARED_CREDENTIALS_FILE")
        token = tmp_path / "token"
        token.write_text(site.token)
        cli.environment |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
        content = {"small": pattern(1000), "large": pattern(9 * MIB + 5), "one": pattern(MIB + 1)}
        make(tmp_path / "tree", content)
        done = cli("cp", "-r", tmp_path / "tree", "s3://bucket/t", "--storage-nodes")
        assert b"no storage nodes" not in done.stderr
        etags = {line["key"]: line["etag"] for line in cli.lines("ls", "-r", "s3://bucket/t/")}
        assert etags["t/large"].startswith("baf") and etags["t/one"].startswith("baf")
        assert not etags["t/small"].startswith("baf")
        cli("cp", "-r", "s3://bucket/t", tmp_path / "down")
        assert files(tmp_path / "down") == content
        lines = cli.lines("sync", tmp_path / "tree", "s3://bucket/t", "--storage-nodes")
        assert lines[-1]["done"] == 0 and lines[-1]["unchanged"] == 3
        site.node.kill()
        cli("cp", tmp_path / "tree/large", "s3://bucket/direct", "--storage-nodes")
        assert cli("cat", "s3://bucket/direct").stdout == content["large"]
        # A master that takes blocks itself is the last node.
        site.restart_master("--remote-cid-put", "on", "--ingest", "on")
        cli("cp", tmp_path / "tree/large", "s3://bucket/last", "--storage-nodes")
        assert cli("cat", "s3://bucket/last").stdout == content["large"]
        assert cli.lines("stat", "s3://bucket/last")[0]["etag"] == etags["t/large"]
    finally:
        site.close()


def test_it_is_said_that_there_are_no_storage_nodes(cli, bucket, tmp_path):
    make(tmp_path / "tree", {"large": pattern(2 * MIB)})
    done = cli("cp", tmp_path / "tree/large", f"s3://{bucket}/large", "--storage-nodes")
    assert b"the gateway offers no storage nodes" in done.stderr
    assert cli("cat", f"s3://{bucket}/large").stdout == pattern(2 * MIB)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_and_manual_pages(tmp_path, shell):
    script = subprocess.run([FULA, "completion", shell], capture_output=True, check=True).stdout
    assert b"--max-delete" in script or b"max-delete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, check=True)
    subprocess.run([FULA, "man", tmp_path / "man"], check=True)
    page = (tmp_path / "man/fula-sync.1").read_text()
    assert ".TH" in page and "max" in page and (tmp_path / "man/fula.1").exists()
