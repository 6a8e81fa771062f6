"""Machines with sealed vaults, for the tests of the command line."""

import json
import os
import subprocess

import pytest
from conftest import FULA


class Machine:
    """A home directory that stands for a machine, and a gateway."""

    def __init__(self, gateway, home):
        self.gateway, self.home = gateway, home
        home.mkdir()
        key = gateway.credentials()
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "AWS_ENDPOINT_URL": gateway.url,
                    "AWS_ACCESS_KEY_ID": key[0], "AWS_SECRET_ACCESS_KEY": key[1]}

    def fula(self, *args, check=True, input=None):
        done = subprocess.run([FULA, *map(str, args)], cwd=self.home, capture_output=True, timeout=300, env=self.env,
                              input=input)
        assert not check or done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done

    def start(self, *args):
        return subprocess.Popen([FULA, *args], cwd=self.home, env=self.env, stdout=subprocess.PIPE)

    def text(self, *args):
        return self.fula(*args).stdout.decode()

    def rows(self, *args):
        return [json.loads(line) for line in self.text(*args).splitlines()]

    def everything(self):
        return b"".join(str(path.relative_to(self.home)).encode() + (path.read_bytes() if path.is_file() else b"")
                        for path in (self.home / ".config").rglob("*"))


@pytest.fixture
def machines(gateway, tmp_path):
    client = gateway.client()
    client.create_bucket(Bucket="sealed")
    yield [Machine(gateway, tmp_path / name) for name in ("one", "two")]
    while entries := client.list_objects_v2(Bucket="sealed").get("Contents", []):
        client.delete_objects(Bucket="sealed", Delete={"Objects": [{"Key": entry["Key"]} for entry in entries]})
    client.delete_bucket(Bucket="sealed")
