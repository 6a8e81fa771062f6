"""Starts real gateway processes and hands out real clients for them."""

import configparser
import os
import pathlib
import re
import signal
import subprocess
import sys
import uuid

import boto3
import botocore.config
import pytest

from helpers import free_port

REPO = pathlib.Path(__file__).resolve().parents[2]
FULA = pathlib.Path(os.environ.get("FULA_BIN", REPO / "target/debug/fula"))
# Tools that the virtual environment brings lie beside its Python.
TOOLS = pathlib.Path(sys.executable).parent


class Gateway:
    """One gateway process on one data directory."""

    def __init__(self, data_dir, *options):
        self.data_dir = pathlib.Path(data_dir)
        self.options = options
        # A restart keeps the address, so that clients go on.
        self.listen = f"127.0.0.1:{free_port()}"
        self.process = None
        # What starts the process.
        self.program = [FULA]

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        """Stops the process, without ceremony after a failure."""
        if self.process and self.process.poll() is None:
            self.kill() if error else self.stop()

    def start(self, env=None):
        """Starts the process and returns once it says that it serves."""
        log = open(self.data_dir.with_suffix(".log"), "ab")
        command = [*self.program, "gateway", "--data-dir", self.data_dir, "--listen", self.listen]
        command += ["--admin-listen", "127.0.0.1:0", *self.options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})}
        )
        banner = ""
        for line in self.process.stdout:
            banner += line
            if "s3 cp" in line:
                break
        self.banner = banner
        found = re.search(r"serves S3 on (https?)://(\S+)", banner)
        if not found:
            raise AssertionError(f"the gateway did not start; see {log.name}\n{banner}")
        self.scheme, self.listen = found[1], found[2]
        self.admin = re.search(r"health\s+(http://[^/\s]+)", banner)[1]
        return self

    @property
    def url(self):
        return f"{self.scheme}://{self.listen}"

    def stop(self):
        """Asks the process to finish, and checks that it did so well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0
        self.process.stdout.close()

    def kill(self):
        """Ends the process without any warning."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def fula(self, *args, check=True, data_dir=None):
        """Runs an administrative command on the data directory, or on another one."""
        command = [FULA, *args, "--data-dir", data_dir or self.data_dir]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def credentials(self):
        parser = configparser.ConfigParser()
        parser.read(self.data_dir / "credentials")
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]

    def env(self):
        """Environment in which AWS tools use this gateway and nothing else."""
        return {
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
            "HOME": str(self.data_dir.parent),
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": str(self.data_dir / "credentials"),
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_PAGER": "",
        }

    def run(self, *command, check=True, **env):
        """Runs a client program against this gateway."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=600, env={**self.env(), **env}
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def client(self, key=None, verify=None, **config):
        """Returns a boto3 client; with `key`, one that signs with (id, secret)."""
        key_id, secret = key or self.credentials()
        config.setdefault("retries", {"max_attempts": 1})
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            verify=verify,
            region_name="us-east-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}, **config),
        )


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    """A gateway shared by the tests that do not restart it."""
    gateway = Gateway(tmp_path_factory.mktemp("shared") / "data").start()
    yield gateway
    gateway.stop()


@pytest.fixture
def own_gateway(tmp_path):
    """A gateway of the test's own."""
    gateway = Gateway(tmp_path / "data").start()
    yield gateway
    if gateway.process.poll() is None:
        gateway.stop()


@pytest.fixture
def s3(gateway):
    return gateway.client()


@pytest.fixture
def bucket(s3):
    """A fresh bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    return name
