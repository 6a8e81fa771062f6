"""Sessions of STS, stock S3 tools with wallet identities, and the token command."""

import json
import os
import subprocess
import time

import boto3
import botocore.config
import botocore.exceptions
import pytest

from conftest import FULA, REPO, Gateway
from helpers import Refused, eventually, pattern
from identity import ENV, Wallet, call, door, fresh, key_of, session_client, sts, token_client


def web_identity(gateway, tmp_path, token):
    file = tmp_path / "token"
    file.write_text(token)
    env = gateway.env()
    del env["AWS_SHARED_CREDENTIALS_FILE"]
    return {**env, "HOME": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(file), "AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/fula",
            "AWS_ROLE_SESSION_NAME": "tools", "AWS_ENDPOINT_URL_STS": gateway.url,
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_STS_REGIONAL_ENDPOINTS": "regional"}


def run(env, *command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_boto3_with_a_web_identity(door, tmp_path, monkeypatch):
    wallet = Wallet()
    for name, value in web_identity(door, tmp_path, wallet.v2()).items():
        monkeypatch.setenv(name, value)
    bucket, body = fresh(), pattern(9_000_000)
    session = boto3.session.Session()
    s3 = session.client("s3", config=botocore.config.Config(s3={"addressing_style": "path"}))
    assert session.get_credentials().access_key.startswith("FULT")
    s3.create_bucket(Bucket=bucket)
    (tmp_path / "file").write_bytes(body)
    s3.upload_file(str(tmp_path / "file"), bucket, "k")
    assert [o["Size"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [len(body)]
    s3.download_file(bucket, "k", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == body
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    # The same wallet by another way is the same owner.
    token_client(door, wallet.v1()).create_bucket(Bucket=bucket)
    assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]


def test_a_token_in_a_file_may_end_in_a_line_end(door, tmp_path):
    wallet = Wallet()
    for spelled in (wallet.v2() + "\n", f" {wallet.v1()}\r\n"):
        run(web_identity(door, tmp_path, spelled), "aws", "s3", "ls")


def test_the_aws_cli_with_a_web_identity(door, tmp_path):
    env, bucket = web_identity(door, tmp_path, Wallet().v1()), fresh()
    (tmp_path / "file").write_bytes(pattern(100_000))
    run(env, "aws", "s3", "mb", f"s3://{bucket}")
    run(env, "aws", "s3", "cp", str(tmp_path / "file"), f"s3://{bucket}/k")
    assert " k" in run(env, "aws", "s3", "ls", f"s3://{bucket}")
    run(env, "aws", "s3", "cp", f"s3://{bucket}/k", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == pattern(100_000)
    run(env, "aws", "s3", "rb", "--force", f"s3://{bucket}")


def test_the_javascript_sdk_with_a_web_identity(door, tmp_path):
    env, bucket = web_identity(door, tmp_path, Wallet().v1()), fresh()
    env["PATH"] = os.environ["PATH"]
    done = json.loads(run(env, "node", str(REPO / "tests/clients/js/objects.mjs"), door.url, bucket))
    assert (done["keys"], done["body"], done["left"]) == (["k"], "from JavaScript", 0)
    assert done["accessKeyId"].startswith("FULT")


@pytest.mark.parametrize("how", ["web identity", "token as access key"])
def test_rclone_with_a_wallet(door, tmp_path, how):
    wallet = Wallet()
    env = web_identity(door, tmp_path, wallet.v1())
    remote = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": door.url, "REGION": "us-east-1"}
    if how == "web identity":
        remote["ENV_AUTH"] = "true"
    else:
        remote["ACCESS_KEY_ID"], remote["SECRET_ACCESS_KEY"] = key_of(wallet.v2())
    env |= {f"RCLONE_CONFIG_FULA_{name}": value for name, value in remote.items()}
    env |= {"RCLONE_CONFIG": "/dev/null", "RCLONE_RETRIES": "1"}
    bucket = fresh()
    (tmp_path / "file").write_bytes(pattern(100_000))
    run(env, "rclone", "mkdir", f"fula:{bucket}")
    run(env, "rclone", "copyto", str(tmp_path / "file"), f"fula:{bucket}/k")
    assert run(env, "rclone", "lsf", f"fula:{bucket}").split() == ["k"]
    run(env, "rclone", "copyto", f"fula:{bucket}/k", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == pattern(100_000)
    run(env, "rclone", "purge", f"fula:{bucket}")


def test_a_session_is_renewed_by_the_sdk(door, tmp_path, monkeypatch):
    wallet = Wallet()
    # So short a life that the SDK asks again with each request: it does when ten minutes are left. The file is
    # renewed meanwhile.
    env = web_identity(door, tmp_path, wallet.v1(life=200))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    session = boto3.session.Session()
    s3 = session.client("s3")
    s3.list_buckets()
    first = session.get_credentials().get_frozen_credentials().access_key
    (tmp_path / "token").write_text(wallet.v1(life=300))
    s3.list_buckets()
    assert session.get_credentials().get_frozen_credentials().access_key != first


def test_a_session_ends_with_its_token(door):
    wallet = Wallet()
    life = 10
    answer = sts(door, wallet.v1(life=life), DurationSeconds=3600)
    credentials = answer["Credentials"]
    assert (credentials["Expiration"].timestamp() - time.time()) < life + 1
    s3 = session_client(door, credentials)
    s3.list_buckets()

    def has_ended():
        try:
            s3.list_buckets()
        except botocore.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "ExpiredToken"
            return True

    eventually(has_ended, why=lambda: "the session lives on")


def test_sts_is_strict(door):
    token = Wallet().v1()
    post = lambda body: call(door, "POST", "/", body.encode(),
                             headers={"Content-Type": "application/x-www-form-urlencoded"})
    good = f"Action=AssumeRoleWithWebIdentity&RoleSessionName=test&WebIdentityToken={token}"
    status, headers, body = post(good)
    assert status == 200 and headers["cache-control"] == "no-store" and b"<SessionToken>" in body
    for wrong, expected in [
        ("Action=GetCallerIdentity", "InvalidAction"),
        (good.replace("test", "<b>"), "ValidationError"),
        (good + "&DurationSeconds=10", "ValidationError"),
        (good + "&DurationSeconds=99999999999999999999", "ValidationError"),
        (good + "&Policy=%7B%7D", "ValidationError"),
        (good + "&PolicyArns.member.2.arn=arn:aws:iam::aws:policy/ReadOnlyAccess", "ValidationError"),
        (good + "&PolicyArns=", "ValidationError"),
        (good + "&Tags.member.1.Key=a&Tags.member.1.Value=b", "ValidationError"),
        (good + "&TransitiveTagKeys.member.1=a", "ValidationError"),
        (good + "&ProviderId=www.amazon.com", "ValidationError"),
        (good + "&policy=%7B%7D", "ValidationError"),
        (good + "&RoleArn=a&RoleArn=b", "ValidationError"),
        (good + f"&WebIdentityToken={token}", "ValidationError"),
        ("", "InvalidAction"),
    ]:
        status, _, body = post(wrong)
        assert status == 400 and f"<Code>{expected}</Code>".encode() in body, wrong
    assert b"The parameter ProviderId is not offered" in post(good + "&ProviderId=www.amazon.com")[2]
    # All that stock SDKs send, and nothing in the URL.
    assert post(good + "&Version=2011-06-15&RoleArn=arn:aws:iam::000000000000:role/fula&DurationSeconds=900")[0] == 200
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert call(door, "POST", "/?Policy=%7B%7D", good.encode(), headers=form)[0] == 400
    assert post(good + "&x=" + "A" * 40_000)[0] == 400


def test_too_many_sessions_are_the_clients_error(tmp_path):
    gateway = Gateway(tmp_path / "data").start(env={**ENV, "FULA_SESSIONS_PER_OWNER": "3"})
    wallet = Wallet()
    tokens = [wallet.v2(), wallet.v2(), wallet.v2()]
    begun = [sts(gateway, token) for token in (tokens[0], tokens[0], tokens[1])]
    for token in (tokens[0], tokens[2]):
        with Refused("LimitExceeded", 400) as refused:
            sts(gateway, token)
        # SDKs do not try again what cannot succeed.
        assert refused.response["ResponseMetadata"]["RetryAttempts"] == 0
        assert "FULA_SESSIONS_PER_OWNER" in refused.response["Error"]["Message"]
    sts(gateway, Wallet().v1())
    gateway.fula("revoke", "session", begun[0]["Credentials"]["AccessKeyId"])
    sts(gateway, tokens[2])
    gateway.stop()


def test_the_token_command(door, tmp_path):
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o600)
    fula = lambda *args, **more: subprocess.run([FULA, "token", *args], capture_output=True, text=True, **more)
    key = tmp_path / "wallet.json"
    address = fula("keygen", key, "--password-file", password).stdout.strip()
    assert key.stat().st_mode & 0o777 == 0o600
    # Other tools open the file.
    from eth_account import Account
    account = Account.from_key(Account.decrypt(key.read_text(), "correct horse"))
    assert account.address.lower() == address
    mint = lambda *args: fula("mint", "--key-file", key, "--password-file", password, *args)
    token = mint("--audience", "here", "--scope", "read:abc/p", "--scope", "write:abc/p").stdout.strip()
    me = json.loads(call(door, "GET", "/fula/whoami", token=token)[2])
    assert (me["user"], me["scopes"]) == (address, ["read:abc/p", "write:abc/p"])
    # No line end, which would be a part of the token for some tools.
    assert call(door, "GET", "/", token=mint("--v1").stdout)[0] == 200
    assert not mint().stdout.endswith("\n") and mint("--output", "env").stdout.endswith("\n")
    lines = mint("--output", "env").stdout
    env = dict(line.removeprefix("export ").split("=", 1) for line in lines.splitlines() if "export" in line)
    door.client(key=(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])).list_buckets()
    config = tmp_path / "config"
    process = f"{FULA} token mint --key-file {key} --password-file {password} --output credential_process"
    config.write_text(f"[default]\ncredential_process = {process}\n")
    tools = {**door.env(), "HOME": str(tmp_path), "AWS_CONFIG_FILE": str(config),
             "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    run(tools, "aws", "s3", "ls")
    # A browser wallet signs what is printed.
    typed = fula("typed-data", "--wallet", account.address, "--audience", "here").stdout
    (tmp_path / "typed.json").write_text(typed)
    signature = Account.sign_typed_data(account.key, full_message=json.loads(typed)).signature.hex()
    signature = "0x" + signature.removeprefix("0x")
    assemble = lambda s: fula("assemble", "--typed-data", tmp_path / "typed.json", "--signature", s)
    token = assemble(signature).stdout.strip()
    assert json.loads(call(door, "GET", "/fula/whoami", token=token)[2])["user"] == address
    other = Account.sign_typed_data(os.urandom(32), full_message=json.loads(typed)).signature.hex()
    assert assemble("0x" + other.removeprefix("0x")).returncode == 1
    mistyped = mint("--lifetime", "soon")
    assert mistyped.returncode == 2 and "e.g. 10s" in mistyped.stderr
    for wrong in (("--lifetime", "25h"), ("--scope", "everything")):
        refused = mint(*wrong)
        assert refused.returncode == 2 and refused.stderr.startswith("error: ")
    password.write_text("wrong")
    assert "the password is wrong" in mint().stderr
    password.chmod(0o644)
    assert "chmod 600" in mint().stderr
