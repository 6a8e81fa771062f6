"""Gateways that share a Postgres and a directory of blocks."""

import os
import pathlib
import subprocess
import urllib.error
import urllib.request

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from conftest import FULA, Gateway

DRILL = pathlib.Path(os.environ.get("DRILL_BIN", FULA.with_name("drill")))


class Part:
    """A part that runs until its input ends, and says where it is."""

    def __init__(self, *args):
        self.process = subprocess.Popen(
            [DRILL, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address, "it did not start"

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", answer

    def stop(self):
        """Ends it and returns what it says last."""
        self.process.stdin.close()
        last = self.process.stdout.read().strip()
        self.process.wait(timeout=60)
        return last


class Federation:
    """Gateways that share a Postgres and a directory of blocks."""

    def __init__(self, tmp_path):
        self.tmp = tmp_path
        self.postgres = Part("postgres")
        self.key = tmp_path / "secrets.key"
        subprocess.run([FULA, "secrets", "keygen", self.key], check=True, capture_output=True)
        self.gateways = []

    def env(self, **changes):
        env = {
            "FULA_DATABASE_URL": self.postgres.address,
            "FULA_BLOCKS": f"file://{self.tmp}/blocks",
            "FULA_SECRETS_KEY_FILE": str(self.key),
        }
        env.update(changes)
        return {name: value for name, value in env.items() if value is not None}

    def gateway(self, name, **changes):
        gateway = Gateway(self.tmp / name)
        gateway.shared = self.env(**changes)
        gateway.start(env=gateway.shared)
        self.gateways.append(gateway)
        return gateway

    def refusal(self, **changes):
        """What a gateway with these settings says when it does not start."""
        command = [FULA, "gateway", "--data-dir", self.tmp / "refused", "--listen", "127.0.0.1:0",
                   "--admin-listen", "127.0.0.1:0"]
        done = subprocess.run(command, env={**os.environ, **self.env(**changes)}, text=True,
                              capture_output=True, timeout=120)
        assert done.returncode in (1, 2), done.stdout
        return done.stderr

    def stop(self):
        for gateway in self.gateways:
            if gateway.process.poll() is None:
                gateway.kill()
        self.postgres.stop()


@pytest.fixture
def federation(tmp_path):
    federation = Federation(tmp_path)
    yield federation
    federation.stop()


def admin(gateway, *args, **options):
    """Runs an administrative command as the operator of this master would."""
    command = [FULA, *args, "--data-dir", gateway.data_dir]
    return subprocess.run(command, capture_output=True, text=True, timeout=300,
                          env={**os.environ, **gateway.shared}, **options)


def signed(gateway, method, path, body=b"", headers=None):
    """Sends a signed request that boto3 has no call for; returns status, headers, body."""
    id, secret = gateway.shared_key if hasattr(gateway, "shared_key") else gateway.credentials()
    credentials = botocore.credentials.Credentials(id, secret)
    request = botocore.awsrequest.AWSRequest(method, gateway.url + path, data=body,
                                             headers=headers or {})
    botocore.auth.S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    prepared = request.prepare()
    sent = urllib.request.Request(prepared.url, data=body, headers=dict(prepared.headers),
                                  method=method)
    try:
        with urllib.request.urlopen(sent, timeout=120) as answer:
            return answer.status, lowered(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, lowered(error.headers), error.read()


def lowered(headers):
    return {name.lower(): value for name, value in headers.items()}
