"""s5cmd, mc, restic and the AWS SDKs for Java and Rust, as people use them. docs/compatibility.md lists their versions."""

import pathlib
import subprocess

import pytest

from conftest import TOOLS
from helpers import MIB, pattern
from test_tools import keep_files, same, tree

CLIENTS = pathlib.Path(__file__).parent


def test_s5cmd(own_gateway, tree, tmp_path):
    """It names the file of the credentials and the address as the AWS CLI does, and copies in parts."""
    s5cmd = lambda *args: own_gateway.run("s5cmd", "--endpoint-url", own_gateway.url, *args)
    s5cmd("mb", "s3://s5cmd-bucket")
    keep_files(tree, 500)
    s5cmd("sync", f"{tree}/", "s3://s5cmd-bucket/tree/")
    s5cmd("sync", "s3://s5cmd-bucket/tree/*", f"{tmp_path}/back/")
    same(tree, tmp_path / "back")
    # S3 tells times in whole seconds, so files of the same second look newer.
    assert "s3://" not in s5cmd("sync", "--size-only", f"{tree}/", "s3://s5cmd-bucket/tree/").stdout, "nothing changed"
    s5cmd("cp", "--part-size", "5", "--sse", "AES256", f"{tree}/large.bin", "s3://s5cmd-bucket/sealed.bin")
    s5cmd("mv", "s3://s5cmd-bucket/sealed.bin", "s3://s5cmd-bucket/moved.bin")
    s5cmd("cp", "--part-size", "5", "s3://s5cmd-bucket/moved.bin", f"{tmp_path}/moved.bin")
    assert (tmp_path / "moved.bin").read_bytes() == (tree / "large.bin").read_bytes()
    assert len(s5cmd("ls", "s3://s5cmd-bucket/tree/many/*").stdout.splitlines()) == 500
    s5cmd("rm", "s3://s5cmd-bucket/*")
    s5cmd("rb", "s3://s5cmd-bucket")
    assert s5cmd("ls").stdout == ""


def test_mc(own_gateway, tree, tmp_path):
    """mirror, cp, cat, stat, tags, versions, encryption, share, rm."""
    key_id, secret = own_gateway.credentials()
    host = own_gateway.url.replace("://", f"://{key_id}:{secret}@")
    mc = lambda *args, check=True: own_gateway.run("mc", *args, check=check, MC_HOST_fula=host, MC_CONFIG_DIR=str(tmp_path / "mc"))
    mc("mb", "fula/mc-bucket")
    mc("version", "enable", "fula/mc-bucket")
    mc("encrypt", "set", "sse-s3", "fula/mc-bucket")
    assert "sse-s3" in mc("encrypt", "info", "fula/mc-bucket").stdout.lower()
    keep_files(tree, 200)
    mc("mirror", str(tree), "fula/mc-bucket/tree")
    mc("mirror", "fula/mc-bucket/tree", str(tmp_path / "back"))
    same(tree, tmp_path / "back")
    assert mc("diff", str(tree), "fula/mc-bucket/tree").stdout == ""
    assert mc("cat", "fula/mc-bucket/tree/small.txt").stdout == "hello\n"
    mc("cp", "--attr", "purpose=test", str(tree / "small.txt"), "fula/mc-bucket/once")
    mc("cp", "fula/mc-bucket/once", "fula/mc-bucket/copy")
    assert "purpose" in mc("stat", "fula/mc-bucket/copy").stdout.lower()
    mc("tag", "set", "fula/mc-bucket/copy", "a=b")
    assert "b" in mc("tag", "list", "fula/mc-bucket/copy").stdout
    mc("rm", "--recursive", "--force", "--versions", "fula/mc-bucket")
    mc("rb", "fula/mc-bucket")
    assert mc("ls", "fula").stdout == ""


def test_restic(own_gateway, tree, tmp_path):
    """Backups, a check of all data, a restore, forgetting and pruning."""
    key_id, secret = own_gateway.credentials()
    own_gateway.client().create_bucket(Bucket="restic-bucket")
    env = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret, "RESTIC_PASSWORD": "hush",
           "RESTIC_REPOSITORY": f"s3:{own_gateway.url}/restic-bucket/repo"}
    restic = lambda *args: own_gateway.run("restic", "--no-cache", *args, **env)
    keep_files(tree, 300)
    restic("init")
    restic("backup", str(tree))
    before = (tree / "small.txt").read_bytes()
    (tree / "small.txt").write_bytes(b"changed\n")
    (tree / "more.bin").write_bytes(pattern(9 * MIB, 5))
    restic("backup", str(tree))
    restic("check", "--read-data")
    restic("restore", "latest", "--target", str(tmp_path / "back"))
    same(tree, tmp_path / "back" / str(tree).lstrip("/"))
    oldest = restic("snapshots", "--json").stdout.split('"short_id":"')[1][:8]
    assert restic("dump", oldest, str(tree / "small.txt")).stdout.encode() == before
    restic("forget", "--keep-last", "1", "--prune")


@pytest.fixture(scope="session")
def java(tmp_path_factory):
    """The class path of the program in java/, compiled."""
    target = tmp_path_factory.mktemp("java")
    command = ["mvn", "-q", "-B", "-o", "compile", f"-DbuildDirectory={target}"]
    done = subprocess.run(command, cwd=CLIENTS / "java", capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{target}/classes:{target}/dependency/*"


def test_the_java_sdk(own_gateway, java):
    done = own_gateway.run("java", "-cp", java, "Workload")
    assert done.stdout.endswith("read what was written\n")


def test_the_rust_sdk(own_gateway):
    """`make tools` has built its crates."""
    target = CLIENTS.parents[1] / "target/rust-sdk"
    command = ["cargo", "build", "--locked", "--offline", "--ignore-rust-version", "--target-dir", str(target)]
    done = subprocess.run(command, cwd=CLIENTS / "rust", capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    key_id, secret = own_gateway.credentials()
    env = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}
    assert own_gateway.run(str(target / "debug/s3-workload"), **env).stdout == "read what was written\n"
