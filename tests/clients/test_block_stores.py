"""Blocks in Azure Blob Storage, played by Azurite."""

import base64
import hashlib
import hmac
import subprocess
import urllib.error
import urllib.request
from email.utils import formatdate
from pathlib import Path

import pytest

from conftest import Gateway
from helpers import MIB, eventually, free_port, pattern

HERE = Path(__file__).parent

# The account that Azurite is born with; its key is public.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def until_served(url, process):
    def serves():
        assert process.poll() is None, "it does not serve"
        try:
            urllib.request.urlopen(url, timeout=60).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        return True

    eventually(serves)


@pytest.fixture
def run(tmp_path):
    """Runs a server until the test ends."""
    running = []

    def start(*command):
        log = open(tmp_path / "server.log", "ab")
        running.append(subprocess.Popen(command, stdout=log, stderr=log))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def azure(run, tmp_path):
    port = free_port()
    place = f"http://127.0.0.1:{port}/{ACCOUNT}"
    azurite = HERE / "js/node_modules/azurite/dist/src/blob/main.js"
    process = run("node", azurite, "--blobPort", str(port), "--location", str(tmp_path / "azurite"), "--silent",
                  "--skipApiVersionCheck", "--disableTelemetry")
    until_served(place, process)
    date, version = formatdate(usegmt=True), "2021-08-06"
    signed = f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/blocks\nrestype:container"
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
    headers = {"x-ms-date": date, "x-ms-version": version,
               "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"}
    made = urllib.request.Request(f"{place}/blocks?restype=container", method="PUT", headers=headers)
    assert urllib.request.urlopen(made).status == 201
    return {"FULA_BLOCKS": "az://blocks/fula", "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY, "AZURE_STORAGE_ENDPOINT": place}


def test_blocks_in_azure(run, tmp_path):
    env = azure(run, tmp_path)
    gateway = Gateway(tmp_path / "data")
    gateway.start(env=env)
    try:
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        bodies = {"small": b"small", "empty": b"", "large": pattern(5 * MIB + 17)}
        for key, body in bodies.items():
            s3.put_object(Bucket="bucket", Key=key, Body=body)
        gateway.stop()
        gateway.start(env=env)
        for key, body in bodies.items():
            assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == body
        assert s3.get_object(Bucket="bucket", Key="large", Range="bytes=1048570-1048590")["Body"].read() == \
            bodies["large"][1048570:1048591]
        # All packs are listed and read.
        looked = gateway.fula("fsck")
        assert looked.returncode == 0 and looked.stdout.endswith("0 problems\n"), looked.stdout
    finally:
        gateway.kill()
