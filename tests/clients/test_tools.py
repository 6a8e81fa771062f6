"""The AWS CLI, rclone, s3cmd, minio-py, s3fs and two Go libraries, as people use them: configured with an
address and a key, and with nothing else. docs/compatibility.md lists them with their versions."""

import datetime
import filecmp
import io
import json
import os
import pathlib
import subprocess
import urllib.request

import minio
import minio.commonconfig
import minio.deleteobjects
import pytest

from conftest import TOOLS, Gateway
from helpers import MIB, pattern, self_signed

CLIENTS = pathlib.Path(__file__).parent


@pytest.fixture
def tree(tmp_path):
    """A directory with files of all sorts."""
    root = tmp_path / "tree"
    files = {
        "empty": b"",
        "small.txt": b"hello\n",
        "with space/ünïcode.bin": pattern(70_000),
        "deep/er/and/deeper": pattern(MIB + 1),
        "large.bin": pattern(20 * MIB + 3),
    }
    files |= {f"many/{n:04}": pattern(n % 90, n) for n in range(2600)}
    for name, body in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        # Older than every object: S3 tells times in whole seconds, and some tools compare them.
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return root


def keep_files(tree, count):
    """Leaves the first `count` of the many small files."""
    for path in (tree / "many").iterdir():
        if int(path.name) >= count:
            path.unlink()


def same(a: pathlib.Path, b: pathlib.Path):
    names = lambda root: sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    assert names(a) == names(b)
    _, different, errors = filecmp.cmpfiles(a, b, names(a), shallow=False)
    assert (different, errors) == ([], [])


def use_the_aws_cli(gateway, aws, tree, tmp_path):
    """Synchronises, copies, moves, presigns and reads ranges. Some of it happens after a crash."""
    aws("s3", "mb", "s3://cli-bucket")
    aws("s3", "sync", str(tree), "s3://cli-bucket/tree/")
    gateway.kill()
    gateway.start()
    aws("s3", "sync", "s3://cli-bucket/tree/", str(tmp_path / "back"))
    same(tree, tmp_path / "back")
    # Nothing changed, so nothing is sent again.
    assert aws("s3", "sync", str(tree), "s3://cli-bucket/tree/").stdout == ""
    (tree / "small.txt").write_bytes(b"changed\n")
    (tree / "empty").unlink()
    aws("s3", "sync", "--delete", str(tree), "s3://cli-bucket/tree/")
    aws("s3", "sync", "--delete", "s3://cli-bucket/tree/", str(tmp_path / "back"))
    same(tree, tmp_path / "back")
    listed = aws("s3", "ls", "--recursive", "s3://cli-bucket/tree/").stdout.splitlines()
    assert len(listed) == len([path for path in tree.rglob("*") if path.is_file()])
    aws("s3", "mv", "s3://cli-bucket/tree/large.bin", "s3://cli-bucket/moved.bin")
    assert "large.bin" not in aws("s3", "ls", "s3://cli-bucket/tree/").stdout
    url = aws("s3", "presign", "s3://cli-bucket/moved.bin").stdout.strip()
    fetched = gateway.run("curl", "-sf", url, "-o", str(tmp_path / "moved"))
    assert fetched.returncode == 0
    assert (tmp_path / "moved").read_bytes() == (tree / "large.bin").read_bytes()
    ranged = ["s3api", "get-object", "--bucket", "cli-bucket", "--key", "moved.bin"]
    aws(*ranged, "--range", "bytes=10-19", str(tmp_path / "range"))
    assert (tmp_path / "range").read_bytes() == (tree / "large.bin").read_bytes()[10:20]
    put = ["s3api", "put-object", "--bucket", "cli-bucket", "--key", "once", "--body", str(tree / "small.txt")]
    aws(*put, "--metadata", "purpose=test", "--content-encoding", "gzip")
    aws("s3", "cp", "s3://cli-bucket/once", "s3://cli-bucket/copy")
    head = json.loads(aws("s3api", "head-object", "--bucket", "cli-bucket", "--key", "copy").stdout)
    found = [head[name] for name in ("ContentLength", "Metadata", "ContentEncoding")]
    assert found == [8, {"purpose": "test"}, "gzip"]
    assert aws("s3", "cp", "s3://cli-bucket/copy", "-").stdout == "changed\n"


def test_aws_cli_1(own_gateway, tree, tmp_path):
    aws = lambda *args, **more: own_gateway.run("aws", *args, **more)
    assert aws("--version").stdout.startswith("aws-cli/1.")
    use_the_aws_cli(own_gateway, aws, tree, tmp_path)
    put = ["s3api", "put-object", "--bucket", "cli-bucket", "--key", "empty", "--if-none-match", "*"]
    aws(*put)
    again = aws(*put, check=False)
    assert again.returncode != 0 and "PreconditionFailed" in again.stderr
    aws("s3", "rb", "--force", "s3://cli-bucket")
    assert "cli-bucket" not in aws("s3", "ls").stdout


def test_aws_cli_2_of_debian(own_gateway, tree, tmp_path):
    """It is 2.9, which does not know AWS_ENDPOINT_URL. Before it copies a large object it asks for its tags."""
    aws = lambda *args, **more: own_gateway.run("/usr/bin/aws", "--endpoint-url", own_gateway.url, *args, **more)
    assert aws("--version").stdout.startswith("aws-cli/2.")
    keep_files(tree, 300)
    use_the_aws_cli(own_gateway, aws, tree, tmp_path)
    aws("s3", "rb", "--force", "s3://cli-bucket")
    assert "cli-bucket" not in aws("s3", "ls").stdout


def test_rclone(own_gateway, tree, tmp_path):
    gateway = own_gateway
    key_id, secret = gateway.credentials()
    remote = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_FULA_TYPE": "s3",
        "RCLONE_CONFIG_FULA_PROVIDER": "Other",
        "RCLONE_CONFIG_FULA_ENDPOINT": gateway.url,
        "RCLONE_CONFIG_FULA_ACCESS_KEY_ID": key_id,
        "RCLONE_CONFIG_FULA_SECRET_ACCESS_KEY": secret,
        "RCLONE_CONFIG_FULA_REGION": "us-east-1",
        "RCLONE_RETRIES": "1",
    }
    rclone = lambda *args, **more: gateway.run("rclone", *args, **remote, **more)
    rclone("mkdir", "fula:rclone-bucket")
    large = ["--s3-upload-cutoff", "10M", "--s3-chunk-size", "5M"]
    rclone("sync", str(tree), "fula:rclone-bucket/tree", *large)
    rclone("check", "--download", str(tree), "fula:rclone-bucket/tree")
    gateway.kill()
    gateway.start()
    rclone("sync", "fula:rclone-bucket/tree", str(tmp_path / "back"))
    same(tree, tmp_path / "back")
    # Modification times are kept as metadata: a second run finds nothing to do.
    second = rclone("sync", "-v", str(tree), "fula:rclone-bucket/tree", *large)
    assert "There was nothing to transfer" in second.stderr
    rclone("copyto", "fula:rclone-bucket/tree/large.bin", "fula:rclone-bucket/copy.bin")
    rclone("moveto", "fula:rclone-bucket/copy.bin", "fula:rclone-bucket/moved.bin")
    names = rclone("lsf", "fula:rclone-bucket").stdout.splitlines()
    assert names == ["moved.bin", "tree/"]
    ranged = rclone("cat", "--offset", "1", "--count", "3", "fula:rclone-bucket/tree/small.txt")
    assert ranged.stdout == "ell"
    (tree / "small.txt").unlink()
    rclone("sync", str(tree), "fula:rclone-bucket/tree", *large)
    assert "small.txt" not in rclone("lsf", "fula:rclone-bucket/tree").stdout
    rclone("purge", "fula:rclone-bucket")
    assert "rclone-bucket" not in rclone("lsd", "fula:").stdout


def test_s3fs(own_gateway, tmp_path):
    own_gateway.run(str(TOOLS.parent / "s3fs/bin/python"), str(CLIENTS / "s3fs_workload.py"), str(tmp_path))


@pytest.fixture(scope="session")
def go_tests(tmp_path_factory):
    """The program that go/ is compiled to, with a toolchain that is here or that `make tools` brings."""
    program = tmp_path_factory.mktemp("go") / "clients.test"
    done = subprocess.run(["go", "test", "-c", "-o", program], cwd=CLIENTS / "go", capture_output=True, text=True,
                          env={**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return program


@pytest.mark.parametrize("test", ["TestAWSSDK", "TestMinioGo"])
def test_go_over_tls(go_tests, tmp_path, test):
    cert, key = self_signed(tmp_path, "127.0.0.1")
    with Gateway(tmp_path / "data", "--tls-cert", cert, "--tls-key", key).start() as gateway:
        trusted = {"SSL_CERT_FILE": str(cert), "AWS_CA_BUNDLE": str(cert)}
        done = gateway.run(str(go_tests), "-test.v", "-test.run", f"^{test}$", **trusted)
        assert f"--- PASS: {test}" in done.stdout


def test_minio_go_with_signed_chunks(go_tests, own_gateway):
    """Over plain HTTP each chunk of a body is signed, and so is the checksum after it."""
    done = own_gateway.run(str(go_tests), "-test.v", "-test.run", "^TestMinioGo$")
    assert "--- PASS: TestMinioGo" in done.stdout


def test_s3cmd(own_gateway, tree, tmp_path):
    key_id, secret = own_gateway.credentials()
    config, host = tmp_path / "s3cfg", own_gateway.listen
    config.write_text(f"[default]\naccess_key = {key_id}\nsecret_key = {secret}\nhost_base = {host}\n"
                      f"host_bucket = {host}\nuse_https = False\n")
    s3cmd = lambda *args: own_gateway.run("s3cmd", "-c", str(config), "--no-progress", *args).stdout
    s3cmd("mb", "s3://s3cmd-bucket")
    keep_files(tree, 100)
    s3cmd("sync", f"{tree}/", "s3://s3cmd-bucket/tree/")
    s3cmd("sync", "s3://s3cmd-bucket/tree/", f"{tmp_path}/back/")
    same(tree, tmp_path / "back")
    s3cmd("mv", "s3://s3cmd-bucket/tree/large.bin", "s3://s3cmd-bucket/moved.bin")
    assert "File size: 20971523" in s3cmd("info", "s3://s3cmd-bucket/moved.bin")
    # Signature version 2.
    url = s3cmd("signurl", "s3://s3cmd-bucket/moved.bin", "+600").strip()
    assert urllib.request.urlopen(url).read() == (tree / "large.bin").read_bytes()
    s3cmd("del", "--recursive", "--force", "s3://s3cmd-bucket")
    s3cmd("rb", "s3://s3cmd-bucket")
    assert "s3cmd-bucket" not in s3cmd("ls")


def test_minio_py(own_gateway):
    key_id, secret = own_gateway.credentials()
    client = minio.Minio(own_gateway.listen, access_key=key_id, secret_key=secret, secure=False)
    client.make_bucket("minio-bucket")
    assert client.bucket_exists("minio-bucket") and not client.bucket_exists("no-such-bucket")
    bodies = {"a b/ünïcode": b"x" * 100, "large": pattern(12 * MIB), "unknown": pattern(7 * MIB)}
    for key, body in bodies.items():
        length = -1 if key == "unknown" else len(body)
        client.put_object("minio-bucket", key, io.BytesIO(body), length, part_size=5 * MIB)
        assert client.get_object("minio-bucket", key).read() == body
    assert client.stat_object("minio-bucket", "large").size == 12 * MIB
    client.copy_object("minio-bucket", "copy", minio.commonconfig.CopySource("minio-bucket", "a b/ünïcode"))
    client.compose_object("minio-bucket", "composed", [
        minio.commonconfig.ComposeSource("minio-bucket", key) for key in ("large", "unknown")])
    assert client.get_object("minio-bucket", "composed").read() == bodies["large"] + bodies["unknown"]
    put = client.presigned_put_object("minio-bucket", "presigned", expires=datetime.timedelta(hours=1))
    assert urllib.request.urlopen(urllib.request.Request(put, data=b"body", method="PUT")).status == 200
    assert urllib.request.urlopen(client.presigned_get_object("minio-bucket", "presigned")).read() == b"body"
    names = [found.object_name for found in client.list_objects("minio-bucket", recursive=True)]
    assert names == sorted([*bodies, "copy", "composed", "presigned"])
    deletes = [minio.deleteobjects.DeleteObject(name) for name in names]
    assert list(client.remove_objects("minio-bucket", deletes)) == []
    client.remove_bucket("minio-bucket")
