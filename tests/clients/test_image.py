"""The container image: what is in it, as whom it runs, and that it needs nothing but its volume."""

import os
import pathlib
import subprocess
import sys

import pytest

from conftest import REPO
from container import Container, Image

MIB = 1 << 20

PUT_AND_GET = """
import boto3, sys
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:9000", region_name="us-east-1")
if sys.argv[1] == "put":
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="k", Body=b"x" * (3 << 20))
print(s3.get_object(Bucket="kept", Key="k")["ContentLength"])
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return Image(tmp_path_factory.mktemp("image"))


def test_the_image_is_small_and_holds_nothing_else(image):
    assert image.size <= 60 * MIB, f"{image.size / MIB:.1f} MiB"
    files = {str(path.relative_to(image.root)) for path in image.root.rglob("*") if path.is_file()}
    files = {path for path in files if not path.startswith(("lib/", "lib64/"))}
    assert files == {"usr/bin/fula", "etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt"}
    privileged = [path for path in image.root.rglob("*") if path.is_file() and path.stat().st_mode & 0o6000]
    assert privileged == []
    for path in ["data", "blocks"]:
        found = (image.root / path).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (10001, 10001, 0o700), path
    assert image.config["User"] == "10001:10001" and list(image.config["Volumes"]) == ["/data"]


def test_it_serves_with_a_read_only_root_and_keeps_its_volume(image, tmp_path):
    volume = image.volume(tmp_path / "volume")
    for act in ["put", "get"]:
        with Container(image, [(volume, "/data")], log=tmp_path / "log") as container:
            assert container.wait_until_healthy().strip() == "ready"
            status = pathlib.Path(f"/proc/{container.pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {"10001"}
            assert int(fields["CapEff"], 16) == 0 and fields["NSpid"].split()[-1] == "1"
            done = container.enter(sys.executable, "-c", PUT_AND_GET, act,
                                   AWS_SHARED_CREDENTIALS_FILE=str(volume / "credentials"))
            assert done.stdout.strip() == str(3 * MIB), done.stderr
            # Commands find the data directory without being told, and the temporary files a place.
            listed = container.run("/usr/bin/fula", "keys", "list")
            assert listed.returncode == 0 and "admin" in listed.stdout, listed.stderr
            assert container.stop() == 0, container.log.read_text()
    assert "finishing requests in flight" in (tmp_path / "log").read_text()


def test_the_health_check_says_what_is_wrong(image, tmp_path):
    volume = image.volume(tmp_path / "volume")
    with Container(image, [(volume, "/data")], log=tmp_path / "log") as container:
        container.wait_until_healthy()
        away = container.run("/usr/bin/fula", "health", "--admin-listen", ":9099")
        assert away.returncode == 1 and "nothing answers on http://127.0.0.1:9099/readyz" in away.stderr
        assert container.run("/usr/bin/fula", "health", "--live").stdout == "ok\n"


def test_a_volume_of_another_user_is_refused_with_the_cure(image, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    with Container(image, [(volume, "/data")], log=tmp_path / "log") as container:
        assert container.unshare.wait(timeout=120) == 1
    said = (tmp_path / "log").read_text()
    assert "/data: permission denied for user id 10001" in said, said


def test_a_layout_is_not_laid_over_another_one(tmp_path):
    done = subprocess.run([REPO / "deploy/image/layout", "/bin/true", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "name a new directory" in done.stderr
    assert os.listdir(tmp_path) == []
