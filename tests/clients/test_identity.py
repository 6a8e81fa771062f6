"""Wallet identities: on the wire, in stock S3 tools, revoked, and misused."""

import hashlib
import http.client
import http.server
import json
import os
import re
import ssl
import subprocess
import threading
import time
import urllib.request
import uuid

import boto3
import botocore.config
import botocore.exceptions
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from conftest import FULA, REPO, Gateway
from helpers import Refused, pattern, self_signed
from identity import Wallet, call, code, key_of, session_client, sts, token_of

JWT_SECRET = "a shared secret of enough bytes!!"
ENV = {"FULA_EIP712_AUTH": "on", "FULA_AUDIENCE": "here,federation.example"}


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


def test_a_wallet_token_works_on_every_s3_route(door):
    wallet, bucket = Wallet(), fresh()
    for token in (wallet.v1(), wallet.v2()):
        ask = lambda *args, **more: call(door, *args, token=token, **more)
        assert ask("PUT", f"/{bucket}")[0] == 200
        assert ask("PUT", f"/{bucket}/k", b"body", headers={"If-None-Match": "*"})[0] == 200
        assert code(ask("PUT", f"/{bucket}/k", b"x", headers={"If-None-Match": "*"})) == (412, "PreconditionFailed")
        assert ask("GET", f"/{bucket}/k")[2] == b"body"
        assert ask("HEAD", f"/{bucket}/k")[0] == 200
        assert b"<Key>k</Key>" in ask("GET", f"/{bucket}?list-type=2")[2]
        assert bucket.encode() in ask("GET", "/")[2]
        commit = json.dumps({"changes": [{"put": {"key": "c", "text": "x"}}]}).encode()
        assert ask("POST", f"/{bucket}?fula-commit", commit)[0] == 200
        assert ask("DELETE", f"/{bucket}/c")[0] == 204
        assert ask("DELETE", f"/{bucket}/k")[0] == 204
        assert ask("DELETE", f"/{bucket}")[0] == 204
    status, _, body = call(door, "GET", "/fula/whoami", token=wallet.v2("read:abc/p"))
    me = json.loads(body)
    assert (status, me["user"], me["scopes"]) == (200, wallet.user, ["read:abc/p"])
    capabilities = json.loads(call(door, "GET", "/fula/capabilities")[2])
    assert capabilities["eip712Auth"] and capabilities["audiences"] == ["here", "federation.example"]


def test_the_owner_is_the_one_that_other_implementations_derive(door):
    known = Wallet("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
    me = json.loads(call(door, "GET", "/fula/whoami", token=known.v1())[2])
    assert me["owner"] == "f41f214011f79ff767b399d24e0e75af"


def test_a_streamed_body_under_a_bearer_is_stored_without_its_framing(door):
    token, bucket = Wallet().v1(), fresh()
    s3 = boto3.client("s3", endpoint_url=door.url, region_name="us-east-1",
                      config=botocore.config.Config(signature_version=botocore.UNSIGNED,
                                                    s3={"addressing_style": "path"}))
    bearer = lambda request, **_: request.headers.update({"Authorization": f"Bearer {token}"})
    s3.meta.events.register("before-send.s3", bearer)
    s3.create_bucket(Bucket=bucket)
    body = pattern(300_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm="CRC32")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    # Frames that nobody would take apart are refused, not stored.
    framed = b"3;chunk-signature=%s\r\nabc\r\n0;chunk-signature=%s\r\n\r\n" % (b"0" * 64, b"0" * 64)
    for headers in ({"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"},
                    {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
                    {"Content-Encoding": "aws-chunked"}):
        headers["x-amz-decoded-content-length"] = "3"
        assert code(call(door, "PUT", f"/{bucket}/k", framed, token, headers)) == (400, "InvalidRequest")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    # What the body is said to hash to is held to, though nothing is signed.
    right = hashlib.sha256(body).hexdigest()
    put = lambda sha256, body=body: code(call(door, "PUT", f"/{bucket}/k", body, token, {"x-amz-content-sha256": sha256}))
    for announced in ("0" * 64, hashlib.sha256(b"").hexdigest()):
        assert put(announced) == (400, "XAmzContentSHA256Mismatch")
        assert put(announced, b"short") == (400, "XAmzContentSHA256Mismatch")
    assert (put(right), put("UNSIGNED-PAYLOAD")) == (200, 200)
    assert put(hashlib.sha256(b"").hexdigest(), b"") == 200


def test_forms_are_refused_before_they_are_read(door):
    body = b"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n" + b"A" * 300
    status, _, answer = call(door, "POST", f"/{fresh()}", body,
                             headers={"Content-Type": "Multipart/Form-Data; boundary=x"})
    assert status == 501 and b"POST object" in answer


# What each is told, on S3 routes and on others. Of a good token each changes one thing.
def misuses():
    now = int(time.time())
    wallet, other = Wallet(), Wallet()
    good = wallet.v1()
    prefix, payload, signature = good.split(".")
    forged = token_of({"wallet": other.account.address, "iat": now, "exp": now + 60}, b"\1" * 64 + b"\x1b")
    hs256 = lambda claims, secret=JWT_SECRET, **more: jwt.encode(claims, secret, algorithm="HS256", **more)
    claims = {"sub": "alice", "exp": now + 60, "scope": "storage:*"}
    unsigned = jwt.encode(claims, None, algorithm="none")
    return {
        "expired": (wallet.v1(iat=now - 100, life=50), (400, "ExpiredToken")),
        "too long a life": (wallet.v1(life=86_401), (400, "InvalidToken")),
        "from the future": (wallet.v1(iat=now + 1000), (400, "InvalidToken")),
        "tampered": (f"{prefix}.{payload[:-4]}AAAA.{signature}", (400, "InvalidToken")),
        "wrong wallet": (f"{forged.rsplit('.', 1)[0]}.{signature}", (400, "InvalidToken")),
        "no signature": (forged, (400, "InvalidToken")),
        "another audience": (wallet.v2(audience="elsewhere"), (403, "AccessDenied")),
        "no token": ("nonsense", (400, "InvalidToken")),
        "empty": ("", (400, "InvalidToken")),
        "huge": (good + "A" * 20_000, (400, "InvalidToken")),
        "unicode": (good.replace("fula", "füla"), (400, "InvalidToken")),
        "jwt none": (unsigned, (400, "InvalidToken")),
        "jwt other secret": (hs256(claims, "another secret of enough bytes!!!"), (400, "InvalidToken")),
        "jwt expired": (hs256({**claims, "exp": now - 1}), (400, "ExpiredToken")),
        "jwt without exp": (hs256({"sub": "alice", "scope": "storage:*"}), (400, "InvalidToken")),
        "jwt of a wallet": (hs256({**claims, "sub": wallet.user}), (400, "InvalidToken")),
        "jwt of a key": (hs256({**claims, "sub": "key:admin"}), (400, "InvalidToken")),
    }


@pytest.mark.parametrize("name", misuses())
def test_a_misused_token_is_refused_everywhere(door, name):
    token, expected = misuses()[name]
    assert code(call(door, "GET", "/", token=token)) == expected
    assert code(call(door, "PUT", f"/{fresh()}", token=token)) == expected
    assert code(call(door, "POST", f"/{fresh()}?fula-commit", b"{}", token=token)) == expected
    status, headers, _ = call(door, "GET", "/fula/whoami", token=token)
    assert (status, headers["www-authenticate"].split()[0]) == (401, "Bearer")
    # As access key, and exchanged for one, it is no better.
    if token and token.isascii() and len(token) < 10_000:
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            token_client(door, token).list_buckets()
        found = refused.value.response
        if "." in token:
            assert (found["ResponseMetadata"]["HTTPStatusCode"], found["Error"]["Code"]) == expected
        else:
            assert found["Error"]["Code"] == "InvalidAccessKeyId"
    if token.isascii() and 4 <= len(token) <= 20_000:
        said = {"ExpiredToken": "ExpiredTokenException", "InvalidToken": "InvalidIdentityToken"}
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            sts(door, token)
        assert refused.value.response["Error"]["Code"] == said.get(expected[1], expected[1])


def test_credentials_do_not_mix(door):
    wallet = Wallet()
    token, bucket = wallet.v1(), fresh()
    call(door, "PUT", f"/{bucket}", token=token)
    url = door.client().generate_presigned_url("list_buckets")
    path = url[len(door.url):]
    assert code(call(door, "GET", path, token=token)) == (400, "InvalidArgument")
    # A signature with a key id that is known, and no secret.
    with Refused("SignatureDoesNotMatch", 403):
        door.client(key=(door.credentials()[0], "guessed" * 6)).list_buckets()
    with Refused("SignatureDoesNotMatch", 403):
        door.client(key=(token, "guessed" * 6)).list_buckets()
    # A session needs its session token, and an operator's key must have none.
    credentials = sts(door, token)["Credentials"]
    for wrong in (None, "A" * 43):
        with Refused("InvalidToken", 400):
            session_client(door, {**credentials, "SessionToken": wrong}).list_buckets()
    id, secret = door.credentials()
    with Refused("InvalidToken", 400):
        session_client(door, {"AccessKeyId": id, "SecretAccessKey": secret, "SessionToken": "x"}).list_buckets()
    # A schema of its own in the header, and headers that are split.
    assert code(call(door, "GET", "/", headers={"Authorization": "Basic YTpi"}))[0] == 400
    with pytest.raises(ValueError):
        call(door, "GET", "/", headers={"Authorization": f"Bearer {token}\r\nx-amz-acl: public-read"})


def test_scopes_bound_what_a_token_may_do(door):
    wallet, bucket = Wallet(), fresh()
    owner = token_client(door, wallet.v1())
    owner.create_bucket(Bucket=bucket)
    for key in ("in/k", "out/k"):
        owner.put_object(Bucket=bucket, Key=key, Body=b"x")
    reader = token_client(door, wallet.v2(f"read:{bucket}/in/"))
    assert reader.get_object(Bucket=bucket, Key="in/k")["Body"].read() == b"x"
    assert [o["Key"] for o in reader.list_objects_v2(Bucket=bucket, Prefix="in/")["Contents"]] == ["in/k"]
    assert [b["Name"] for b in reader.list_buckets()["Buckets"]] == [bucket]
    for refused in (
        lambda: reader.get_object(Bucket=bucket, Key="out/k"),
        lambda: reader.list_objects_v2(Bucket=bucket),
        lambda: reader.put_object(Bucket=bucket, Key="in/k", Body=b"y"),
        lambda: reader.create_bucket(Bucket=fresh()),
        lambda: reader.get_object(Bucket=fresh(), Key="k"),
    ):
        with Refused("AccessDenied", 403):
            refused()
    writer = token_client(door, wallet.v2(f"write:{bucket}"))
    writer.put_object(Bucket=bucket, Key="new", Body=b"x", IfNoneMatch="*")
    with Refused("AccessDenied", 403):
        writer.get_object(Bucket=bucket, Key="new")
    # An entity tag must not be found out by trying.
    with Refused("AccessDenied", 403):
        writer.put_object(Bucket=bucket, Key="new", Body=b"y", IfMatch='"00"')
    with Refused("AccessDenied", 403):
        writer.put_object(Bucket=bucket, Key="new", Body=b"y", IfNoneMatch='"00"')
    answer = token_client(door, wallet.v2(f"write:{bucket}/in/")).delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "in/k"}, {"Key": "out/k"}]})
    assert [d["Key"] for d in answer["Deleted"]] == ["in/k"]
    assert [(e["Key"], e["Code"]) for e in answer["Errors"]] == [("out/k", "AccessDenied")]
    commit = lambda *keys: json.dumps({"changes": [{"put": {"key": k, "text": "x"}} for k in keys]}).encode()
    half = wallet.v2(f"write:{bucket}/in/")
    assert code(call(door, "POST", f"/{bucket}?fula-commit", commit("in/a", "out/a"), half)) == (403, "AccessDenied")
    assert call(door, "POST", f"/{bucket}?fula-commit", commit("in/a", "in/b"), half)[0] == 200
    # Scopes are about the token's own owner.
    with Refused("NoSuchBucket", 404):
        token_client(door, Wallet().v2(f"read:{bucket}")).get_object(Bucket=bucket, Key="new")


def test_a_token_presigns_only_for_the_one_object_it_is_about(door):
    wallet, bucket = Wallet(), fresh()
    owner = token_client(door, wallet.v1())
    owner.create_bucket(Bucket=bucket)
    owner.put_object(Bucket=bucket, Key="k", Body=b"shared")
    get = lambda token: token_client(door, token).generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": "k"})[len(door.url):]
    assert call(door, "GET", get(wallet.v2(f"read:{bucket}=k")))[2] == b"shared"
    for token in (wallet.v1(), wallet.v2(f"read:{bucket}/k"), wallet.v2(f"read:{bucket}=k", f"read:{bucket}=l")):
        assert code(call(door, "GET", get(token))) == (403, "AccessDenied")
    # A session presigns as on AWS.
    s3 = session_client(door, sts(door, wallet.v1())["Credentials"])
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert call(door, "GET", url[len(door.url):])[2] == b"shared"


def test_jwts_of_a_shared_secret(door):
    claims = {"sub": "alice", "exp": int(time.time()) + 600, "scope": "openid storage:read storage:write"}
    token = jwt.encode({**claims, "scope": "storage:*"}, JWT_SECRET, algorithm="HS256")
    bucket = fresh()
    assert call(door, "PUT", f"/{bucket}", token=token)[0] == 200
    narrow = jwt.encode(claims, JWT_SECRET, algorithm="HS256")
    assert call(door, "PUT", f"/{bucket}/k", b"x", token=narrow)[0] == 200
    assert code(call(door, "DELETE", f"/{bucket}", token=narrow)) == (403, "AccessDenied")
    nothing = jwt.encode({**claims, "scope": "openid"}, JWT_SECRET, algorithm="HS256")
    assert code(call(door, "GET", f"/{bucket}/k", token=nothing)) == (403, "AccessDenied")
    s3 = session_client(door, sts(door, narrow)["Credentials"])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


class Issuer:
    """An issuer of JWTs that serves its key set; over TLS with the files of a certificate and its key."""

    def __init__(self, tls=None):
        self.keys, self.served, self.status = [], 0, 200
        self.rotate("first")
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.served += 1
                body = json.dumps({"keys": [jwk for _, jwk in issuer.keys]}).encode()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}/jwks"

    def rotate(self, kid):
        key = ec.generate_private_key(ec.SECP256R1())
        jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        self.keys = [(key, {**jwk, "kid": kid, "use": "sig", "alg": "ES256"})]

    def token(self, sub="bob", **claims):
        key, jwk = self.keys[0]
        claims = {"iss": "https://issuer.example", "aud": "fula", "sub": sub,
                  "exp": int(time.time()) + 600, "scope": "storage:*", **claims}
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": jwk["kid"]})


def test_jwts_of_a_key_set_that_is_rotated(tmp_path):
    issuer = Issuer()
    env = {"FULA_JWKS": issuer.url, "FULA_JWT_ISSUER": "https://issuer.example", "FULA_JWT_AUDIENCE": "fula"}
    gateway = Gateway(tmp_path / "data").start(env=env)
    old = issuer.token()
    assert call(gateway, "GET", "/", token=old)[0] == 200
    me = json.loads(call(gateway, "GET", "/fula/whoami", token=old)[2])
    assert me["user"] == "https://issuer.example\\0bob"
    for wrong in ({"iss": "https://other.example"}, {"aud": "other"}):
        assert code(call(gateway, "GET", "/", token=issuer.token(**wrong))) == (403, "AccessDenied")
    gateway.fula("revoke", "user", "eve", "--issuer", "https://issuer.example")
    assert code(call(gateway, "GET", "/", token=issuer.token(sub="eve"))) == (403, "AccessDenied")
    assert call(gateway, "GET", "/", token=old)[0] == 200
    issuer.rotate("second")
    new = issuer.token()
    deadline = time.monotonic() + 15
    while call(gateway, "GET", "/", token=new)[0] != 200:
        assert time.monotonic() < deadline, "the new key is not fetched"
    # What the key that is gone signed is good no longer, and unknown keys do not make it ask at will.
    assert code(call(gateway, "GET", "/", token=old)) == (400, "InvalidToken")
    served = issuer.served
    for _ in range(50):
        assert call(gateway, "GET", "/", token=old)[0] == 400
    assert issuer.served <= served + 1
    gateway.stop()


def until(told, expected, token):
    """Asks until the answer is the one expected: a key set is read at most every 10 seconds."""
    deadline = time.monotonic() + 30
    while (found := told(token)) != expected:
        assert time.monotonic() < deadline, found


def test_a_key_set_over_tls_that_becomes_empty_lets_nobody_in(tmp_path):
    cert, key = self_signed(tmp_path, "127.0.0.1")
    issuer = Issuer(tls=(cert, key))
    env = {"FULA_JWKS": issuer.url, "FULA_JWT_AUDIENCE": "fula", "SSL_CERT_FILE": str(cert)}
    gateway = Gateway(tmp_path / "data").start(env=env)
    log = lambda: audit(gateway)
    told = lambda token: code(call(gateway, "GET", "/", token=token))
    token, keys = issuer.token(), issuer.keys
    assert told(token) == 200
    session = session_client(gateway, sts(gateway, token)["Credentials"])
    issuer.rotate("never published")
    unknown, issuer.keys = issuer.token(), []
    # A key that is not in the set has it read again.
    assert told(unknown) == (400, "InvalidToken")
    until(told, (400, "InvalidToken"), token)
    assert log().count("has no key for RS256, ES256 or EdDSA") == 1
    session.list_buckets()
    ready = urllib.request.urlopen(gateway.admin + "/readyz", timeout=10)
    assert ready.status == 200
    metrics = lambda: urllib.request.urlopen(gateway.admin + "/metrics", timeout=10).read().decode()
    assert "\nfula_jwks_keys 0\n" in metrics()
    issuer.keys = keys
    assert told(unknown) == (400, "InvalidToken")
    until(told, 200, token)
    assert "\nfula_jwks_keys 1\n" in metrics()
    # An issuer that fails takes nothing away for now.
    issuer.status = 500
    assert told(unknown) == (400, "InvalidToken")
    deadline = time.monotonic() + 30
    while "cannot be read" not in log():
        assert time.monotonic() < deadline
    assert told(token) == 200
    gateway.stop()


def test_a_key_set_that_was_never_read_is_not_the_clients_fault(tmp_path):
    issuer = Issuer()
    issuer.status = 404
    gateway = Gateway(tmp_path / "data").start(env={"FULA_JWKS": issuer.url})
    token = issuer.token()
    assert code(call(gateway, "GET", "/", token=token)) == (503, "ServiceUnavailable")
    # What no key set could verify is refused for good.
    assert code(call(gateway, "GET", "/", token="a.b.c")) == (400, "InvalidToken")
    issuer.status = 200
    until(lambda token: code(call(gateway, "GET", "/", token=token)), 200, token)
    assert "FULA_JWT_AUDIENCE" in audit(gateway)
    gateway.stop()


# Stock tools, each with a wallet identity.


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
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
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
    # So short a life that the SDK asks again with each request; the file is renewed meanwhile.
    env = web_identity(door, tmp_path, wallet.v1(life=20))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    session = boto3.session.Session()
    s3 = session.client("s3")
    s3.list_buckets()
    first = session.get_credentials().get_frozen_credentials().access_key
    (tmp_path / "token").write_text(wallet.v1(life=30))
    s3.list_buckets()
    assert session.get_credentials().get_frozen_credentials().access_key != first


def test_a_session_ends_with_its_token(door):
    wallet = Wallet()
    answer = sts(door, wallet.v1(life=3), DurationSeconds=3600)
    credentials = answer["Credentials"]
    assert (credentials["Expiration"].timestamp() - time.time()) < 4
    s3 = session_client(door, credentials)
    s3.list_buckets()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            s3.list_buckets()
        except botocore.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "ExpiredToken"
            break
    else:
        raise AssertionError("the session lives on")


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


def test_public_reads(door):
    wallet, bucket = Wallet(), fresh()
    owner, stranger = token_client(door, wallet.v1()), token_client(door, Wallet().v1())
    anonymous = lambda path: call(door, "GET", path)
    owner.create_bucket(Bucket=bucket)
    for key in ("pub/k", "priv/k"):
        owner.put_object(Bucket=bucket, Key=key, Body=b"x")
    with Refused("NoSuchBucketPolicy", 404):
        owner.get_bucket_policy(Bucket=bucket)
    assert code(anonymous(f"/{bucket}/pub/k")) == (403, "AccessDenied")
    with Refused("NoSuchBucket", 404):
        stranger.get_object(Bucket=bucket, Key="pub/k")
    allow = lambda action, *resources: {"Effect": "Allow", "Principal": "*", "Action": action,
                                        "Resource": [f"arn:aws:s3:::{r}" for r in resources]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:GetObject", f"{bucket}/pub/*")]})
    owner.put_bucket_policy(Bucket=bucket, Policy=policy)
    assert owner.get_bucket_policy(Bucket=bucket)["Policy"] == policy
    assert owner.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    assert anonymous(f"/{bucket}/pub/k")[2] == b"x"
    assert stranger.get_object(Bucket=bucket, Key="pub/k")["Body"].read() == b"x"
    assert code(anonymous(f"/{bucket}/priv/k")) == (403, "AccessDenied")
    assert code(anonymous(f"/{bucket}?list-type=2")) == (403, "AccessDenied")
    for refused in (
        lambda: stranger.put_object(Bucket=bucket, Key="pub/k", Body=b"y"),
        lambda: stranger.get_bucket_policy(Bucket=bucket),
        lambda: stranger.put_bucket_policy(Bucket=bucket, Policy=policy),
        lambda: stranger.get_object(Bucket=bucket, Key="priv/k"),
    ):
        with Refused("AccessDenied", 403):
            refused()
    # What is public can be copied into a bucket of one's own, and nothing else.
    mine = fresh()
    stranger.create_bucket(Bucket=mine)
    stranger.copy_object(Bucket=mine, Key="k", CopySource={"Bucket": bucket, "Key": "pub/k"})
    with Refused("AccessDenied", 403):
        stranger.copy_object(Bucket=mine, Key="k", CopySource={"Bucket": bucket, "Key": "priv/k"})
    listed = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:ListBucket", bucket)]})
    owner.put_bucket_policy(Bucket=bucket, Policy=listed)
    assert b"priv/k" in anonymous(f"/{bucket}?list-type=2")[2]
    assert code(anonymous(f"/{bucket}/pub/k")) == (403, "AccessDenied")
    owner.delete_bucket_policy(Bucket=bucket)
    assert code(anonymous(f"/{bucket}?list-type=2")) == (403, "AccessDenied")
    deny = json.dumps({"Version": "2012-10-17", "Statement": [{**allow("s3:GetObject", f"{bucket}/*"), "Effect": "Deny"}]})
    with Refused("NotImplemented", 501):
        owner.put_bucket_policy(Bucket=bucket, Policy=deny)
    with Refused("MalformedPolicy", 400):
        owner.put_bucket_policy(Bucket=bucket, Policy="{}")


def test_a_bucket_of_another_owner_is_named_by_its_owner(door):
    """Two owners have a bucket of one name; the second is reached by saying whose is meant."""
    name = fresh()
    wallets = [Wallet(), Wallet()]
    clients = [token_client(door, wallet.v1()) for wallet in wallets]
    owners = [json.loads(call(door, "GET", "/fula/whoami", token=w.v1())[2])["owner"] for w in wallets]
    policy = json.dumps({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/*"}})
    for n, s3 in enumerate(clients):
        s3.create_bucket(Bucket=name)
        s3.put_object(Bucket=name, Key="k", Body=b"%d" % n)
        s3.put_bucket_policy(Bucket=name, Policy=policy)
    get = lambda s3, **more: s3.get_object(Bucket=name, Key="k", **more)["Body"].read()
    assert get(clients[0]) == b"0" and get(clients[1]) == b"1"
    assert get(clients[0], ExpectedBucketOwner=owners[1]) == b"1"
    assert call(door, "GET", f"/{name}/k")[2] == b"0", "the first to create a name holds it for all"
    assert call(door, "GET", f"/{name}/k", headers={"x-amz-expected-bucket-owner": owners[1]})[2] == b"1"
    clients[0].copy_object(Bucket=name, Key="copy", CopySource={"Bucket": name, "Key": "k"},
                           ExpectedSourceBucketOwner=owners[1])
    assert clients[0].get_object(Bucket=name, Key="copy")["Body"].read() == b"1"
    for owner in ("0" * 32, "123456789012"):
        with Refused("AccessDenied", 403):
            get(clients[0], ExpectedBucketOwner=owner)
        with Refused("AccessDenied", 403):
            clients[0].get_object(Bucket=fresh(), Key="k", ExpectedBucketOwner=owner)


# Every S3 operation, and what each of four is told: a is let do it, d denied, n no such bucket.
OPERATIONS = {
    "head_bucket": ({}, "adnd"),
    "get_bucket_location": ({}, "adnd"),
    "list_objects": ({}, "adnd"),
    "list_objects_v2": ({}, "adnd"),
    "list_multipart_uploads": ({}, "adnd"),
    "get_bucket_policy": ({}, "adnd"),
    "get_bucket_policy_status": ({}, "adnd"),
    "put_bucket_policy": ({"Policy": "{policy}"}, "adnd"),
    "delete_bucket_policy": ({}, "adnd"),
    "get_object": ({"Key": "k"}, "adnd"),
    "head_object": ({"Key": "k"}, "adnd"),
    "put_object": ({"Key": "k", "Body": b"x"}, "adnd"),
    "copy_object": ({"Key": "copy", "CopySource": "{bucket}/k"}, "adnd"),
    "delete_object": ({"Key": "gone"}, "adnd"),
    "delete_objects": ({"Delete": {"Objects": [{"Key": "gone"}]}}, "adnd"),
    "create_multipart_upload": ({"Key": "k"}, "adnd"),
    "upload_part": ({"Key": "k", "UploadId": "{upload}", "PartNumber": 1, "Body": b"x"}, "adnd"),
    "upload_part_copy": ({"Key": "k", "UploadId": "{upload}", "PartNumber": 2, "CopySource": "{bucket}/k"}, "adnd"),
    "list_parts": ({"Key": "k", "UploadId": "{upload}"}, "adnd"),
    "complete_multipart_upload": ({"Key": "k", "UploadId": "{upload}", "MultipartUpload": {
        "Parts": [{"PartNumber": 1, "ETag": "9dd4e461268c8034f5c8564e155c67a6"}]}}, "adnd"),
    "abort_multipart_upload": ({"Key": "k", "UploadId": "{aborted}"}, "adnd"),
    "fula_commit": ({"changes": [{"put": {"key": "c", "text": "x"}}]}, "adnd"),
    "delete_bucket": ({}, "adnd"),
    # About no bucket of others: whoever is somebody lists their own, and creates their own, as far as
    # their token reaches.
    "list_buckets": ({}, "aaad"),
    "create_bucket": ({}, "adad"),
}


def test_every_operation_for_everyone(door):
    """Owner, a token of theirs for elsewhere, another tenant, the anonymous; and the revoked."""
    wallet, bucket = Wallet(), fresh()
    owner = token_client(door, wallet.v1())
    owner.create_bucket(Bucket=bucket)
    owner.put_object(Bucket=bucket, Key="k", Body=b"x")
    begin = lambda: owner.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    words = {"bucket": bucket, "upload": begin(), "aborted": begin(), "policy": policy}
    unsigned = boto3.client("s3", endpoint_url=door.url, region_name="us-east-1",
                            config=botocore.config.Config(signature_version=botocore.UNSIGNED,
                                                          s3={"addressing_style": "path"},
                                                          retries={"max_attempts": 1}))
    revoked = Wallet()
    tokens = {"owner": wallet.v1(), "elsewhere": wallet.v2(f"admin:{fresh()}"), "stranger": Wallet().v1(),
              "anonymous": None, "revoked": revoked.v1()}
    clients = {name: token_client(door, token) if token else unsigned for name, token in tokens.items()}
    door.fula("revoke", "wallet", revoked.user.upper().replace("0X", "0x"))
    mistyped = door.fula("revoke", "wallet", revoked.user[:-1], check=False)
    assert mistyped.returncode == 1 and "40 hex digits" in mistyped.stderr

    def fill(value):
        if isinstance(value, str) and value.startswith("{"):
            name, rest = value[1:].split("}", 1)
            return words[name] + rest
        return value

    def told(name, operation, arguments):
        """The error code that one of them gets, if any."""
        if operation == "fula_commit":
            body = json.dumps(arguments).encode()
            answer = code(call(door, "POST", f"/{bucket}?fula-commit", body, tokens[name]))
            return None if answer == 200 else answer[1]
        if operation != "list_buckets":
            arguments = {"Bucket": bucket, **arguments}
        try:
            getattr(clients[name], operation)(**arguments)
        except botocore.exceptions.ClientError as error:
            return error.response["Error"]["Code"]

    letters = {None: "a", "AccessDenied": "d", "403": "d", "NoSuchBucket": "n", "404": "n",
               # Let do it, though there is nothing to do it to.
               "NoSuchBucketPolicy": "a", "NoSuchUpload": "a", "BucketNotEmpty": "a",
               "BucketAlreadyOwnedByYou": "a"}
    for operation, (arguments, expected) in OPERATIONS.items():
        arguments = {name: fill(value) for name, value in arguments.items()}
        # The owner last: what they do changes what there is.
        found = {name: told(name, operation, arguments) for name in ("elsewhere", "stranger", "anonymous", "owner")}
        order = ("owner", "elsewhere", "stranger", "anonymous")
        assert "".join(letters.get(found[name], "?") for name in order) == expected, (operation, found)
        assert told("revoked", operation, arguments) in ("AccessDenied", "403"), operation


def test_revocations(door):
    wallet = Wallet()
    bucket = fresh()
    token, other = wallet.v2(), wallet.v1(iat=int(time.time()) - 100)
    session = session_client(door, sts(door, token)["Credentials"])
    other_credentials = sts(door, other)["Credentials"]
    other_session = session_client(door, other_credentials)
    for s3 in (token_client(door, token), token_client(door, other), session, other_session):
        s3.list_buckets()
    # One token, by another spelling than the one that is used, and with it its sessions.
    prefix, payload, signature = token.split(".")
    import base64
    pad = lambda text: text + "=" * (-len(text) % 4)
    claims = json.loads(base64.urlsafe_b64decode(pad(payload)))
    respelled = base64.urlsafe_b64encode(json.dumps(claims, indent=3).encode()).rstrip(b"=").decode()
    done = subprocess.run([FULA, "revoke", "token", "-", "--data-dir", door.data_dir, "--json"],
                          input=f"{prefix}.{respelled}.{signature}\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for s3 in (token_client(door, token), session):
        with Refused("AccessDenied", 403):
            s3.list_buckets()
    for s3 in (token_client(door, other), other_session):
        s3.list_buckets()
    # One session.
    door.fula("revoke", "session", other_credentials["AccessKeyId"])
    with Refused("AccessDenied", 403):
        other_session.list_buckets()
    token_client(door, other).list_buckets()
    # Everything of the wallet that is older than this.
    door.fula("revoke", "wallet", wallet.user, "--issued-before", str(int(time.time()) - 50))
    with Refused("AccessDenied", 403):
        token_client(door, other).list_buckets()
    token_client(door, wallet.v1()).list_buckets()
    door.fula("revoke", "wallet", wallet.user)
    with Refused("AccessDenied", 403):
        token_client(door, wallet.v1()).list_buckets()
    # An operator's key, which stays revoked when it is imported again.
    made = json.loads(door.fula("keys", "create", "--user", "carol", "--json").stdout)
    carol = door.client(key=(made["id"], made["secret"]))
    carol.list_buckets()
    door.fula("keys", "revoke", made["id"])
    with Refused("InvalidAccessKeyId", 403):
        carol.list_buckets()
    listed = json.loads(door.fula("revoke", "list", "--json").stdout)
    assert {"key": made["id"]} in [found["revoked"] for found in listed]


def test_a_write_that_took_its_time_is_judged_again(door):
    wallet, bucket = Wallet(), fresh()
    token = wallet.v1()
    assert call(door, "PUT", f"/{bucket}", token=token)[0] == 200
    connection = http.client.HTTPConnection(door.listen, timeout=30)
    connection.putrequest("PUT", f"/{bucket}/k")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Length", "6")
    connection.endheaders(b"abc")
    # It has been let in once the log says so, and its body is on its way.
    deadline = time.monotonic() + 10
    while audit(door).count(f'user="{wallet.user}"') < 2:
        assert time.monotonic() < deadline
    door.fula("revoke", "wallet", wallet.user)
    connection.send(b"def")
    answer = connection.getresponse()
    assert (answer.status, b"AccessDenied" in answer.read()) == (403, True)


def test_revocations_outlive_the_process(tmp_path):
    wallet = Wallet()
    gateway = Gateway(tmp_path / "data").start(env=ENV)
    token = wallet.v1()
    assert call(gateway, "GET", "/", token=token)[0] == 200
    gateway.kill()
    # Beside no gateway at all.
    gateway.fula("revoke", "wallet", wallet.user)
    gateway.start(env=ENV)
    assert code(call(gateway, "GET", "/", token=token)) == (403, "AccessDenied")
    gateway.stop()


def test_nothing_secret_is_logged(door):
    wallet = Wallet()
    token = wallet.v2()
    credentials = sts(door, token)["Credentials"]
    session_client(door, credentials).list_buckets()
    token_client(door, token).list_buckets()
    call(door, "GET", "/", token=token)
    call(door, "GET", "/", token=token[:-3] + "AAA")
    url = token_client(door, wallet.v2("read:abc=k")).generate_presigned_url(
        "get_object", Params={"Bucket": "abc", "Key": "k"})
    call(door, "GET", url[len(door.url):])
    log = audit(door)
    signature = token.rsplit(".", 1)[1]
    for secret in (signature[:20], token.split(".")[1][:40], key_of(token)[1], credentials["SecretAccessKey"],
                   credentials["SessionToken"], JWT_SECRET, door.credentials()[1]):
        assert secret not in log
    # And yet it says who came in, how, and who did not.
    assert f'user="{wallet.user}"' in log and "via=token-key" in log and "via=session" in log
    assert "refused" in log and credentials["AccessKeyId"] in log
    # Guesses are seen, too.
    for key in (("AKIDGUESSED", "x" * 40), (door.credentials()[0], "guessed" * 6)):
        with pytest.raises(botocore.exceptions.ClientError):
            door.client(key=key).list_buckets()
    lines = [line for line in audit(door).splitlines() if "fula::audit: refused" in line]
    # Of a key that nobody has only the beginning: it may be a secret in the wrong place.
    assert any('credential="AKIDGUES…"' in line for line in lines)
    assert "AKIDGUESSED" not in audit(door)
    every = [line for line in audit(door).splitlines() if "fula::audit: " in line]
    assert any("session begun" in line for line in every)
    for line in every:
        assert re.search(r' request_id="[0-9A-F]{16}" address="127\.0\.0\.1" ', line), line
    forged = f'credential="{door.credentials()[0]}" reason="the signature is not that of the key"'
    assert any(forged in line for line in lines), lines[-3:]


def test_only_admitted_wallets(tmp_path):
    member, stranger = Wallet(), Wallet()
    gateway = Gateway(tmp_path / "data").start(env={**ENV, "FULA_WALLETS": member.user, "FULA_EIP712_V1": "off"})
    assert call(gateway, "GET", "/", token=member.v2(audience="here"))[0] == 200
    assert code(call(gateway, "GET", "/", token=stranger.v2())) == (403, "AccessDenied")
    assert code(call(gateway, "GET", "/", token=member.v1())) == (400, "InvalidToken")
    gateway.stop()
    # Nothing of this is on unless it is said.
    plain = Gateway(tmp_path / "plain").start()
    assert code(call(plain, "GET", "/", token=member.v2())) == (400, "InvalidToken")
    assert not json.loads(call(plain, "GET", "/fula/capabilities")[2])["eip712Auth"]
    plain.stop()


def test_rates_are_held(tmp_path):
    env = {**ENV, "FULA_RATE_PER_USER": "5", "FULA_RATE_PER_ADDRESS": "100"}
    gateway = Gateway(tmp_path / "data").start(env=env)
    wallet, other = Wallet().v1(), Wallet().v1()
    told = [code(call(gateway, "GET", "/", token=wallet)) for _ in range(20)]
    assert told.count(200) >= 5 and (503, "SlowDown") in told, told
    assert call(gateway, "GET", "/", token=other)[0] == 200
    _, headers, _ = next(a for _ in range(20) if (a := call(gateway, "GET", "/", token=wallet))[0] == 503)
    assert headers["retry-after"]
    # Whoever sends noise is not even looked at.
    told = [call(gateway, "GET", "/", token="noise")[0] for _ in range(300)]
    assert set(told) == {400, 503}, set(told)
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
    assert call(door, "GET", "/", token=mint("--v1").stdout.strip())[0] == 200
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
    for wrong in (("--lifetime", "25h"), ("--scope", "everything"), ("--lifetime", "soon")):
        refused = mint(*wrong)
        assert refused.returncode == 1 and refused.stderr.startswith("fula: ")
    password.write_text("wrong")
    assert "the password is wrong" in mint().stderr
    password.chmod(0o644)
    assert "chmod 600" in mint().stderr
