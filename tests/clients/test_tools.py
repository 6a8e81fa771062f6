"""The AWS CLI and rclone, as people use them."""

import filecmp
import json
import pathlib

import pytest

from helpers import MIB, pattern


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
    return root


def same(a: pathlib.Path, b: pathlib.Path):
    names = lambda root: sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    assert names(a) == names(b)
    _, different, errors = filecmp.cmpfiles(a, b, names(a), shallow=False)
    assert (different, errors) == ([], [])


def test_aws_cli(own_gateway, tree, tmp_path):
    gateway = own_gateway
    # Version 1 of the CLI presigns with the retired SigV2 unless told otherwise.
    config = tmp_path / "config"
    config.write_text("[default]\ns3 =\n  signature_version = s3v4\n")
    env = {"AWS_CONFIG_FILE": str(config)}
    aws = lambda *args, **more: gateway.run("aws", *args, **env, **more)
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
    assert len(listed) == 2604
    aws("s3", "mv", "s3://cli-bucket/tree/large.bin", "s3://cli-bucket/moved.bin")
    assert "large.bin" not in aws("s3", "ls", "s3://cli-bucket/tree/").stdout
    url = aws("s3", "presign", "s3://cli-bucket/moved.bin").stdout.strip()
    fetched = gateway.run("curl", "-sf", url, "-o", str(tmp_path / "moved"))
    assert fetched.returncode == 0
    assert (tmp_path / "moved").read_bytes() == (tree / "large.bin").read_bytes()
    put = ["s3api", "put-object", "--bucket", "cli-bucket", "--key", "once", "--if-none-match", "*"]
    aws(*put)
    again = aws(*put, check=False)
    assert again.returncode != 0 and "PreconditionFailed" in again.stderr
    ranged = ["s3api", "get-object", "--bucket", "cli-bucket", "--key", "moved.bin"]
    aws(*ranged, "--range", "bytes=10-19", str(tmp_path / "range"))
    assert (tmp_path / "range").read_bytes() == (tree / "large.bin").read_bytes()[10:20]
    head = json.loads(aws("s3api", "head-object", "--bucket", "cli-bucket", "--key", "once").stdout)
    assert head["ContentLength"] == 0
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
