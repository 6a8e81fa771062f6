"""Wallets and tokens, made with libraries that know nothing of Fula."""

import base64
import hashlib
import json
import os
import time
import urllib.error
import urllib.request
import uuid

import boto3
import botocore.config
import pytest
from eth_account import Account

from conftest import Gateway

JWT_SECRET = "a shared secret of enough bytes!!"
ENV = {"FULA_EIP712_AUTH": "on", "FULA_AUDIENCE": "here,federation.example"}

V1 = [{"name": "wallet", "type": "address"}, {"name": "iat", "type": "uint256"},
      {"name": "exp", "type": "uint256"}]
V2 = V1 + [{"name": "audience", "type": "string"}, {"name": "scope", "type": "string[]"},
           {"name": "nonce", "type": "bytes32"}, {"name": "session", "type": "address"}]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token_of(payload, signature):
    return f"fula-eip712.{b64(json.dumps(payload).encode())}.{b64(signature)}"


class Wallet:
    """A wallet and what it can do: sign tokens."""

    def __init__(self, key=None):
        self.account = Account.from_key(key or os.urandom(32))
        self.user = self.account.address.lower()

    def v1(self, iat=None, life=3600):
        iat = int(time.time()) if iat is None else iat
        claims = {"wallet": self.account.address, "iat": iat, "exp": iat + life}
        domain = {"name": "Fula Gateway", "version": "1"}
        signed = Account.sign_typed_data(self.account.key, domain, {"FulaAuth": V1}, claims)
        return token_of(claims, signed.signature)

    def v2(self, *scope, audience="*", iat=None, life=3600):
        iat = int(time.time()) if iat is None else iat
        nonce = os.urandom(32)
        claims = {"wallet": self.account.address, "iat": iat, "exp": iat + life, "audience": audience,
                  "scope": list(scope) or ["admin:*"], "nonce": nonce, "session": "0x" + "0" * 40}
        domain = {"name": "Fula Gateway", "version": "2"}
        signed = Account.sign_typed_data(self.account.key, domain, {"FulaAuth": V2}, claims)
        return token_of({"v": 2, **claims, "nonce": "0x" + nonce.hex()}, signed.signature)


def key_of(token):
    """A token as access key, and the secret derived from it (docs/format.md)."""
    return token, hashlib.sha256(b"fula token secret\n" + token.encode()).hexdigest()


def call(gateway, method, path, body=None, token=None, headers=None):
    """Sends a request with a bearer token, or none; returns status, headers, body."""
    headers = dict(headers or {})
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(gateway.url + path, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def code(answer):
    """Status and S3 error code of an answer."""
    status, _, body = answer
    text = body.decode(errors="replace")
    found = text.split("<Code>")[1].split("</Code>")[0] if "<Code>" in text else ""
    return (status, found) if status >= 400 else status


def sts(gateway, token, **more):
    """Exchanges a token for session keys with boto3."""
    client = boto3.client("sts", endpoint_url=gateway.url, region_name="us-east-1",
                          config=botocore.config.Config(signature_version=botocore.UNSIGNED))
    arguments = {"RoleArn": "arn:aws:iam::000000000000:role/fula", "RoleSessionName": "test", **more}
    answer = client.assume_role_with_web_identity(WebIdentityToken=token, **arguments)
    return answer


def session_client(gateway, credentials):
    return boto3.client("s3", endpoint_url=gateway.url, region_name="us-east-1",
                        aws_access_key_id=credentials["AccessKeyId"],
                        aws_secret_access_key=credentials["SecretAccessKey"],
                        aws_session_token=credentials["SessionToken"],
                        config=botocore.config.Config(signature_version="s3v4",
                                                      s3={"addressing_style": "path"}))


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """A gateway that lets in wallets and JWTs."""
    tmp = tmp_path_factory.mktemp("door")
    secret = tmp / "jwt.secret"
    secret.write_text(JWT_SECRET + "\n")
    secret.chmod(0o600)
    gateway = Gateway(tmp / "data").start(env={**ENV, "FULA_JWT_SECRET_FILE": str(secret)})
    yield gateway
    gateway.stop()


def fresh():
    return f"bucket-{uuid.uuid4().hex[:12]}"


def token_client(gateway, token, **config):
    return gateway.client(key=key_of(token), **config)


def audit(gateway):
    return gateway.data_dir.with_suffix(".log").read_text()
