"""The memory of `fula cp`: it does not grow with the file, in a vault or outside of one."""

import hashlib
import os
import subprocess

import pytest
from conftest import FULA
from test_cars import peak_of

MIB = 1 << 20
# Other parts of the program, and the pages of a build for tests, which are larger than those of a release.
LIMIT = 96 * MIB


@pytest.fixture
def home(gateway, tmp_path, monkeypatch):
    key = gateway.credentials()
    for name, value in {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "AWS_ENDPOINT_URL": gateway.url,
                        "AWS_ACCESS_KEY_ID": key[0], "AWS_SECRET_ACCESS_KEY": key[1]}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    client = gateway.client()
    client.create_bucket(Bucket="memory")
    yield tmp_path
    for entry in client.list_objects_v2(Bucket="memory").get("Contents", []):
        client.delete_object(Bucket="memory", Key=entry["Key"])
    client.delete_bucket(Bucket="memory")


def write(path, mib):
    """Writes a file whose pieces differ."""
    with open(path, "wb") as file:
        for at in range(mib):
            file.write(hashlib.sha256(at.to_bytes(4, "big")).digest() * (MIB // 32))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_memory_of_uploads_and_downloads_is_bounded_and_does_not_grow(home):
    subprocess.run([FULA, "vault", "create", "mine", "memory/vault"], check=True, capture_output=True)
    peaks = {}
    for mib in (128, 384):
        write(home / "file", mib)
        for target in ("vault:mine/file", "s3://memory/file"):
            peaks[f"{mib} MiB to {target}"] = peak_of(FULA, "cp", "file", target)
            peaks[f"{mib} MiB from {target}"] = peak_of(FULA, "cp", target, "copy")
            assert digest("copy") == digest("file"), target
            os.remove("copy")
    shown = {name: bytes // MIB for name, bytes in peaks.items()}
    print(shown)
    assert all(bytes <= LIMIT for bytes in peaks.values()), shown
    # Peaks of equal uploads differ by 10 MiB; an upload that kept a tenth of the file would add 25 MiB.
    # What waits to be written of a download is bounded by pieces, whose length the network decides.
    for target in ("to vault:mine/file", "to s3://memory/file"):
        assert peaks[f"384 MiB {target}"] <= peaks[f"128 MiB {target}"] + 25 * MIB, shown
