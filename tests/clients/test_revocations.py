"""What keeps identities out: revocations, admission and rates; and what the log tells of them."""

import base64
import concurrent.futures
import http.client
import json
import re
import subprocess
import time

import botocore.exceptions
import pytest

import signing
from conftest import FULA, Gateway
from helpers import Refused, eventually
from identity import ENV, JWT_SECRET, Wallet, audit, call, code, door, fresh, key_of, session_client, sts, token_client


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
    connection = http.client.HTTPConnection(door.listen, timeout=120)
    connection.putrequest("PUT", f"/{bucket}/k")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Length", "6")
    connection.endheaders(b"abc")
    # It has been let in once the log says so, and its body is on its way.
    eventually(lambda: audit(door).count(f'user="{wallet.user}"') >= 2)
    door.fula("revoke", "wallet", wallet.user, "--yes")
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


def test_a_signature_that_is_refused_is_in_the_audit_log(door):
    key, bucket = door.credentials()[:2], fresh()
    wrong = (key[0], "guessed" * 6)
    forged = "the signature is not that of the key"

    def reason(method, target, headers, body=b""):
        """Returns why the log says a request was refused, which was answered with 403."""
        connection = http.client.HTTPConnection(door.listen, timeout=120)
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 403
        number = f'request_id="{answer.headers["x-amz-request-id"]}"'
        lines = [line for line in audit(door).splitlines() if number in line and "fula::audit: refused" in line]
        assert all(f'credential="{key[0]}' in line or "…" in line for line in lines), lines
        return [re.search(' reason="(.*)"', line)[1] for line in lines]

    door.client().create_bucket(Bucket=bucket)
    in_headers = lambda key, method, target, *args, **more: (
        method, target, signing.signed_headers(key, door.listen, method, target, *args, **more))
    # An answer to HEAD has no body that tells of it.
    for method in ("GET", "HEAD", "DELETE"):
        assert reason(*in_headers(wrong, method, f"/{bucket}/k")) == [forged]
        target = signing.presigned(wrong, door.listen, method, f"/{bucket}/k")
        assert reason(method, target, {"host": door.listen}) == [forged]
    commit = in_headers(wrong, "POST", f"/{bucket}?fula-commit", b"{}")
    assert reason(*commit, body=b"{}") == [forged]
    chunks = f"4;chunk-signature={'0' * 64}\r\nbody\r\n0;chunk-signature={'0' * 64}\r\n\r\n".encode()
    framing = {"x-amz-decoded-content-length": "4"}
    put = in_headers(key, "PUT", f"/{bucket}/k", headers=framing, payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
    assert reason(*put, body=chunks) == [forged]
    method, target, headers = in_headers(key, "GET", f"/{bucket}/k")
    assert reason(method, target, {**headers, "x-amz-more": "1"}) == ["the signature leaves out a header"]
    old = in_headers(key, "GET", f"/{bucket}/k", date=signing.now(-3600))
    assert reason(*old) == ["the form or the time of the signature is not accepted"]
    unknown = in_headers(("AKIDNOBODYHAS", "x" * 40), "GET", f"/{bucket}/k")
    assert reason(*unknown) == ["there is no such access key"]
    # Nothing is wrong with the credential of these, whatever the answer says.
    assert reason("GET", f"/{bucket}/SignatureDoesNotMatch", {}) == []
    token = Wallet().v2("read:other-bucket/")
    assert reason("PUT", f"/{fresh()}", {"Authorization": f"Bearer {token}"}) == []


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
    # All are sent at once, so that more come in a second than the rate allows, however slow the machine is.
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda token: call(gateway, "GET", "/", token=token), [wallet] * 20))
    told = [code(answer) for answer in answers]
    assert told.count(200) >= 5 and (503, "SlowDown") in told and set(told) == {200, (503, "SlowDown")}, told
    assert all(headers["retry-after"] for status, headers, _ in answers if status == 503)
    assert call(gateway, "GET", "/", token=other)[0] == 200
    gateway.stop()
    # Whoever sends noise is not even looked at.
    gateway.start(env={**ENV, "FULA_RATE_PER_ADDRESS": "5"})
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda token: call(gateway, "GET", "/", token=token)[0], ["noise"] * 40))
    assert set(told) == {400, 503}, set(told)
    gateway.stop()
