"""`fula config`, secrets in files, and what SIGHUP takes over."""

import concurrent.futures
import fcntl
import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import termios
import time

import jwt
import pytest

from conftest import FULA, Gateway
from helpers import Refused, eventually, self_signed
from masters import federation


def fula(*line, **env):
    """Runs a command with no other variables of ours than `env`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FULA_")}
    return subprocess.run([FULA, *map(str, line)], env={**clean, **env}, capture_output=True, text=True, timeout=120)


def private(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_all_settings_are_shown_with_their_origin_and_without_secrets(tmp_path):
    file = tmp_path / "fula.toml"
    file.write_text('region = "of-file"\nretention = "1h"\n')
    env = {"FULA_CONFIG": str(file), "FULA_REGION": "of-env", "FULA_SECRET_ACCESS_KEY": "hush",
           "FULA_DATABASE_URL": "postgres://fula:hush@db:5432/fula"}
    done = fula("config", "print", "--json", "gateway", "--scrub", "1d", **env)
    assert done.returncode == 0 and "hush" not in done.stdout + done.stderr
    found = {setting["name"]: (setting["value"], setting["origin"]) for setting in json.loads(done.stdout)}
    assert found["FULA_SCRUB"] == ("1d", "flag")
    assert found["FULA_REGION"] == ("of-env", "environment")
    assert found["FULA_RETENTION"] == ("1h", "file")
    assert found["FULA_LISTEN"] == ("127.0.0.1:9000", "default")
    assert found["FULA_DOMAIN"] == (None, "unset")
    assert found["FULA_DATABASE_URL"] == ("postgres://…@db:5432/fula", "environment")
    # Every setting of --help is there, and the table has the same lines.
    helped = set(re.findall(r"\[env: (FULA_\w+)", fula("gateway", "--help").stdout))
    assert helped <= set(found)
    lines = fula("config", "print", "--scrub", "1d", **env).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(found)
    assert re.search(r"^FULA_SCRUB +flag +1d$", "\n".join(lines), re.M)
    node = fula("config", "print", "storage-node", FULA_MASTERS="a=https://h#k").stdout
    assert "FULA_NODE_LISTEN" in node and "FULA_REGION" not in node


def test_a_check_finds_what_a_start_would_refuse(tmp_path):
    data = tmp_path / "data"
    check = lambda *line, **env: fula("config", "check", *line, FULA_DATA_DIR=str(data), **env)
    good = check()
    assert (good.returncode, good.stderr) == (0, "") and re.fullmatch(
        r"The settings can be used: 1 of \d+ are set\.\n", good.stdout)
    assert not data.exists(), "a check makes nothing"
    cert, key = self_signed(tmp_path, "127.0.0.1")
    other = tmp_path / "other"
    other.mkdir()
    _, other_key = self_signed(other, "127.0.0.1")
    open_key = private(tmp_path / "open.key", "5a" * 32)
    open_key.chmod(0o644)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").touch()
    for line, expected in [
        (["--commit-deadline", "ten"], "--commit-deadline"),
        (["--tls-cert", cert, "--tls-key", other_key], "do not work together"),
        (["--tls-cert", cert], "--tls-key"),
        (["--secrets-key-file", open_key], "chmod 600"),
        (["--jwks", tmp_path / "absent"], "FULA_JWKS"),
        (["--data-dir", foreign], "notes.txt"),
        (["--config", tmp_path / "absent.toml"], "absent.toml"),
        (["storage-node"], "--masters"),
        (["storage-node", "--masters", "x"], "NAME=URL#KEY"),
    ]:
        done = check(*line)
        assert done.returncode in (1, 2) and expected in done.stderr, (line, done)
    done = check("--tls-cert", cert, "--tls-key", key, "--eip712-auth", "on", FULA_NODE_LISTEN=":1")
    assert done.returncode == 0, done
    assert "FULA_EIP712_V1" in done.stderr and "FULA_NODE_LISTEN is a setting of fula storage-node" in done.stderr


def test_a_mistyped_variable_is_named_with_what_was_meant():
    done = fula("config", "check", FULA_LISTNE=":9000", FULA_WHATEVER_THIS_IS="1")
    assert done.returncode == 1
    assert "FULA_LISTNE is no setting, and has no effect; is FULA_LISTEN meant?" in done.stderr
    assert "FULA_WHATEVER_THIS_IS is no setting, and has no effect\n" in done.stderr


def test_secrets_come_from_files(federation, tmp_path):
    """No secret is in the environment or in the command line of the process."""
    url = private(tmp_path / "url", federation.postgres.address + "\n")
    secret = private(tmp_path / "secret", "a-secret-of-the-operator\n")
    gateway = federation.gateway("filed", FULA_DATABASE_URL=None, FULA_DATABASE_URL_FILE=str(url),
                                 FULA_ACCESS_KEY_ID="OPERATOR", FULA_SECRET_ACCESS_KEY_FILE=str(secret))
    gateway.client(key=("OPERATOR", "a-secret-of-the-operator")).create_bucket(Bucket="filed")
    environ = open(f"/proc/{gateway.process.pid}/environ").read()
    assert "a-secret" not in environ and federation.postgres.address not in environ
    listed = fula("roots", "show", "--data-dir", gateway.data_dir, **gateway.shared)
    assert "filed" in listed.stdout, listed.stderr
    assert fula("migrate", FULA_DATABASE_URL_FILE=str(url)).returncode == 0
    both = fula("masters", "list", "--data-dir", gateway.data_dir, FULA_DATABASE_URL="postgres://h/d",
                FULA_DATABASE_URL_FILE=str(url))
    assert both.returncode == 2 and "not both" in both.stderr


def test_a_block_store_takes_its_credentials_from_a_file(own_gateway, tmp_path):
    """The blocks are in a bucket of another gateway."""
    own_gateway.client().create_bucket(Bucket="blocks")
    id, secret = own_gateway.credentials()
    text = f"AWS_ACCESS_KEY_ID={id}\nAWS_SECRET_ACCESS_KEY={secret}\nAWS_ENDPOINT={own_gateway.url}\n"
    file = private(tmp_path / "credentials-of-blocks", text)
    gateway = Gateway(tmp_path / "second", "--blocks", "s3://blocks/p", "--blocks-credentials-file", file)
    wrong = {"AWS_SECRET_ACCESS_KEY": "wrong", "AWS_ACCESS_KEY_ID": "wrong", "AWS_REGION": "us-east-1"}
    with gateway.start(env=wrong):
        gateway.client().create_bucket(Bucket="kept")
        gateway.client().put_object(Bucket="kept", Key="k", Body=b"x" * (2 << 20))
    assert own_gateway.client().list_objects_v2(Bucket="blocks")["KeyCount"] > 0
    file.write_text("hush\n")
    refused = fula("config", "check", "--data-dir", tmp_path / "new", "--blocks", "s3://blocks",
                   "--blocks-credentials-file", file)
    assert refused.returncode == 1 and "line 1: a line is NAME=VALUE" in refused.stderr


def test_public_keys_follow_from_a_key_file(tmp_path):
    file = tmp_path / "secrets.key"
    assert fula("secrets", "keygen", file).returncode == 0
    shown = fula("secrets", "public", file).stdout
    found = dict(line.split() for line in shown.splitlines())
    assert json.loads(fula("secrets", "public", file, "--json").stdout) == found
    piped = subprocess.run([FULA, "secrets", "public", "-"], input=file.read_text(), capture_output=True, text=True)
    assert piped.stdout == shown and file.read_text().strip() not in shown
    gateway = Gateway(tmp_path / "data", "--secrets-key-file", file)
    with gateway.start():
        answer = subprocess.run(["curl", "-sf", f"{gateway.url}/fula/capabilities"], capture_output=True, check=True)
        assert json.loads(answer.stdout)["masterKey"] == found["master"]


def log(gateway):
    return gateway.data_dir.with_suffix(".log").read_text()


def hang_up(gateway, says):
    """Sends SIGHUP, and waits until the log says that its end was reached."""
    before = len(log(gateway))
    gateway.process.send_signal(signal.SIGHUP)
    said = lambda: log(gateway)[before:]
    return eventually(lambda: says in (text := said()) and text, why=lambda: f"it does not say {says!r}: {said()}")


def fingerprint(gateway):
    host, port = gateway.listen.split(":")
    context = ssl._create_unverified_context()
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as encrypted:
        return encrypted.getpeercert(binary_form=True)


def test_a_renewed_certificate_is_served_without_a_restart(tmp_path):
    cert, key = self_signed(tmp_path, "127.0.0.1")
    gateway = Gateway(tmp_path / "data", "--tls-cert", cert, "--tls-key", key)
    with gateway.start():
        first = fingerprint(gateway)
        s3 = gateway.client(verify=str(cert))
        s3.create_bucket(Bucket="before")
        self_signed(tmp_path, "127.0.0.1")
        hang_up(gateway, "the settings were read again")
        assert fingerprint(gateway) != first
        s3.list_buckets()  # Its connection goes on.
        # Half of a renewal is refused as a whole.
        second = fingerprint(gateway)
        key.write_text("no key")
        assert "the old ones stay in effect" in hang_up(gateway, "the settings cannot be used")
        assert fingerprint(gateway) == second


def test_limits_and_tokens_change_without_a_restart(tmp_path):
    file, secret = tmp_path / "fula.toml", private(tmp_path / "jwt", "s" * 40)
    token = jwt.encode({"sub": "u", "scope": "storage:*", "aud": "here", "exp": int(time.time()) + 600}, "s" * 40)
    settings = lambda buckets, audience, more="": file.write_text(
        f'buckets_per_owner = {buckets}\njwt_secret_file = "{secret}"\njwt_audience = "{audience}"\n{more}')
    whoami = lambda: subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H",
                                     f"Authorization: Bearer {token}", f"{gateway.url}/fula/whoami"],
                                    capture_output=True, text=True, check=True).stdout
    settings(1, "elsewhere")
    gateway = Gateway(tmp_path / "data", "--config", file)
    with gateway.start():
        s3 = gateway.client()
        s3.create_bucket(Bucket="one")
        with Refused("TooManyBuckets", 400):
            s3.create_bucket(Bucket="two")
        assert whoami() == "401"
        settings(2, "here", 'region = "eu-x"\n')
        said = hang_up(gateway, "the settings were read again")
        assert "FULA_REGION has changed; it takes effect only after a restart" in said
        assert "FULA_JWT_AUDIENCE has changed" not in said
        s3.create_bucket(Bucket="two")
        assert whoami() == "200"
        # What cannot be used changes nothing.
        settings("many", "elsewhere")
        hang_up(gateway, "the settings cannot be used")
        assert whoami() == "200"
        settings(2, "here", "rate_per_user = 1\n")
        hang_up(gateway, "the settings were read again")
        # All at once, and none a second time: how fast the machine is does not matter.
        once = gateway.client(retries={"total_max_attempts": 1}, max_pool_connections=20)
        with concurrent.futures.ThreadPoolExecutor(20) as pool, Refused("SlowDown", 503):
            list(pool.map(lambda _: once.list_buckets(), range(20)))


def test_a_gateway_ends_with_its_terminal(tmp_path):
    """The end of a terminal is a SIGHUP, too."""
    keyboard, terminal = pty.openpty()

    def take_the_terminal():
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    out = open(tmp_path / "out", "wb")
    process = subprocess.Popen([FULA, "gateway", "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0",
                                "--admin-listen", "127.0.0.1:0"], stdin=terminal, stdout=out, stderr=out,
                               preexec_fn=take_the_terminal)
    os.close(terminal)
    eventually(lambda: "s3 cp" in (tmp_path / "out").read_text())
    os.close(keyboard)
    assert process.wait(timeout=60) == 0
    assert "the terminal is gone" in (tmp_path / "out").read_text()
