"""Stores that hang, an arbiter whose clock is another one, and one that loses what it had: what requests are
answered meanwhile, and when."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import botocore.exceptions
import pytest

from conftest import FULA, Gateway
from helpers import BUSY, eventually, pattern
from identity import ENV, Wallet, session_client, sts
from masters import admin, federation, signed
from packs import all_packs, damage, index_of
from signing import now, signed_headers
from test_status import metrics

HOURS = 5 * 3600


def timed(*args, **options):
    """A signed request, and how long it took."""
    began = time.monotonic()
    status, headers, body = signed(*args, **options)
    return time.monotonic() - began, status, headers, body.decode()


def key_of(gateway, user):
    # The first try may meet a connection that died with the server.
    make = lambda: admin(gateway, "keys", "create", "--user", user, "--json")
    made = json.loads(eventually(lambda: (done := make()).returncode == 0 and done.stdout))
    return made["id"], made["secret"]


def head(gateway, key, seconds=0):
    """Lists buckets, signed as if the clock were so much ahead; returns the status and the code of an error."""
    target = "/"
    headers = signed_headers(key, gateway.listen, "GET", target, date=now(seconds))
    request = urllib.request.Request(gateway.url + target, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, re.search("<Code>(.*?)</Code>", error.read().decode())[1]


def answered(gateway, session):
    """Lists buckets with the keys of a session; returns the code of the error."""
    try:
        session_client(gateway, session).list_buckets()
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
    return ""


def until(wanted, look):
    """Waits until a look comes to what is wanted; returns everything that was seen on the way."""
    seen = []
    eventually(lambda: seen.append(look()) or seen[-1] == wanted, why=lambda: seen[-1])
    return seen


def test_a_hung_database_is_told_in_time(federation):
    strict = federation.gateway("strict", FULA_COMMIT_DEADLINE="3s")
    lax = federation.gateway("lax", FULA_STALE_READS="on", FULA_COMMIT_DEADLINE="3s")
    lax.shared_key = strict.credentials()
    strict.client().create_bucket(Bucket="bucket")
    strict.client().put_object(Bucket="bucket", Key="k", Body=b"x")
    assert signed(lax, "GET", "/bucket/k")[0] == 200
    federation.postgres.tell("freeze")
    for path in ("/bucket/k", "/never-seen/k"):
        took, status, headers, _ = timed(strict, "PUT", path, b"y")
        assert status == 503 and headers["x-fula-outcome"] in ("none", "unknown")
        # Within the deadline and a second.
        assert took < 3 + 1 + BUSY, f"{path}: {took}"
    took, status, _, body = timed(strict, "GET", "/bucket/k")
    assert status == 503 and took < 10 + BUSY
    assert "(the arbiter) does not answer in time" in body and "FULA_DATABASE_URL" in body
    # Only the first stale read waits.
    took, status, headers, body = timed(lax, "GET", "/bucket/k")
    assert (status, body) == (200, "x") and "x-fula-stale" in headers and took < 5 + BUSY
    answers = [timed(lax, "GET", "/bucket/k") for _ in range(10)]
    for took, status, headers, body in answers:
        assert (status, body) == (200, "x") and "x-fula-stale" in headers
    # One that waits takes two seconds. On a busy machine, less than half of them may be late for other reasons.
    assert sorted(took for took, *_ in answers)[5] < 1, answers
    federation.postgres.tell("thaw")
    until(200, lambda: signed(strict, "PUT", "/bucket/k", b"z")[0])
    until(False, lambda: "x-fula-stale" in signed(lax, "GET", "/bucket/k")[1])
    assert signed(lax, "GET", "/bucket/k")[2] == b"z"


def test_a_hung_block_store_is_told_in_time(federation, tmp_path):
    store = Gateway(tmp_path / "store").start()
    store.client().create_bucket(Bucket="blocks")
    id, secret = store.credentials()
    env = {"FULA_BLOCKS": "s3://blocks", "AWS_ENDPOINT": store.url, "AWS_REGION": "us-east-1",
           "AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret, "FULA_COMMIT_DEADLINE": "3s"}
    master = federation.gateway("master", **env)
    master.client().create_bucket(Bucket="bucket")
    master.client().put_object(Bucket="bucket", Key="large", Body=pattern(2_500_000))
    store.process.send_signal(signal.SIGSTOP)
    try:
        for body in (b"y", pattern(3_500_000)):
            took, status, headers, text = timed(master, "PUT", "/bucket/k", body)
            assert status == 503 and headers["x-fula-outcome"] == "none", text
            assert "The block store does not answer in time" in text
            assert took < 3 + 1 + BUSY, f"{len(body)} bytes: {took}"
        # The listing is in memory, the content is not.
        assert signed(master, "GET", "/bucket?list-type=2")[0] == 200
        master.kill()
        store.process.send_signal(signal.SIGCONT)
        master.start(env=master.shared)
        store.process.send_signal(signal.SIGSTOP)
        took, status, _, text = timed(master, "GET", "/bucket/large")
        # About ten seconds.
        assert status == 503 and took < 10 + 2 * BUSY, took
        assert "The block store does not answer in time" in text and "FULA_BLOCKS" in text
    finally:
        store.process.send_signal(signal.SIGCONT)
    until(200, lambda: signed(master, "PUT", "/bucket/k", b"y")[0])
    assert signed(master, "GET", "/bucket/large")[2] == pattern(2_500_000)
    store.stop()


def test_texts_of_503_say_what_is_wrong(federation):
    master = federation.gateway("master")
    s3 = master.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="large", Body=pattern(2_500_000))
    blocks = federation.tmp / "blocks"
    raw = lambda path: [cid for cid, _, length in index_of(path) if length > 100_000]
    leaves = {cid: path for path in all_packs(blocks) for cid in raw(path)}
    for leaf in leaves:
        damage(blocks, leaf)
    status, _, body = signed(master, "GET", "/bucket/large")
    assert status == 500 and b"is damaged" in body and b"fula fsck" in body
    assert b"<Code>InternalError</Code>" in body
    for pack in leaves.values():
        pack.unlink()
    status, headers, body = signed(master, "GET", "/bucket/large")
    assert b"<Code>InternalError</Code>" in body and "retry-after" not in headers
    assert status == 500 and b"is missing from the block store" in body and b"fula fsck" in body
    federation.postgres.tell("crash")
    status, _, body = signed(master, "GET", "/bucket/large")
    assert status == 503 and b"(the arbiter)" in body and b"FULA_DATABASE_URL" in body
    assert b"<Code>SlowDown</Code>" in body


def test_signatures_are_judged_by_the_clock_of_the_arbiter(federation):
    before = federation.gateway("before")
    key = before.credentials()
    assert head(before, key) == (200, "")
    federation.postgres.tell(
        "execute BEGIN; ALTER VIEW fula_mark RENAME TO fula_mark_before; CREATE VIEW fula_mark AS "
        f"SELECT arbiter, position, now_ms + {HOURS}000 AS now_ms FROM fula_mark_before; COMMIT"
    )
    # To a master that starts now, its own clock is five hours behind the arbiter's: that counts.
    master = federation.gateway("master")
    until((200, ""), lambda: head(master, key, HOURS))
    assert head(master, key) == (403, "RequestTimeTooSkewed")
    # To one that knew the time before, the arbiter's clock has jumped, and its own one does not agree.
    skew = lambda: float(re.search(r"^fula_clock_skew_seconds (\S+)$", metrics(before), re.M)[1])
    until(True, lambda: skew() > HOURS - 60)
    assert head(before, key) == (200, "")
    assert head(before, key, HOURS) == (403, "RequestTimeTooSkewed")
    # So is what was issued before now.
    eve = key_of(master, "eve")
    assert head(master, eve, HOURS) == (200, "")
    revoked = admin(master, "revoke", "user", "eve", "--issued-before", "now")
    assert revoked.returncode == 0, revoked.stderr
    assert head(master, eve, HOURS) == (403, "InvalidAccessKeyId")


def test_keys_made_after_a_backup_come_back(federation):
    masters = [federation.gateway(f"master{n}") for n in range(2)]
    backup = federation.tmp / "backup"
    federation.postgres.tell("crash")
    federation.postgres.tell(f"backup {backup}")
    federation.postgres.tell("launch")
    until((200, ""), lambda: head(masters[0], masters[0].credentials()))
    late, revoked = key_of(masters[0], "late"), key_of(masters[0], "revoked")
    for master in masters:
        until((200, ""), lambda: head(master, late))
    assert admin(masters[0], "keys", "revoke", revoked[0]).returncode == 0
    # A master that had not learned of it would put the key back, revoked as it is.
    for master in masters:
        until(True, lambda: revoked[0] in admin(master, "revoke", "list", "--json").stdout)
    federation.postgres.tell("crash")
    federation.postgres.tell(f"restore {backup}")
    federation.postgres.tell("launch")
    # Refused for the time being, and never as a key that nobody has.
    for master in masters:
        assert {status for status, _ in until((200, ""), lambda: head(master, late))} <= {200, 503}
    until((403, "InvalidAccessKeyId"), lambda: head(masters[0], revoked))
    listed = json.loads(admin(masters[1], "keys", "list", "--json").stdout)
    assert late[0] in [key["id"] for key in listed]
    assert revoked[0] not in [key["id"] for key in listed]
    # A master that comes later knows the key, too.
    assert head(federation.gateway("master2"), late) == (200, "")


def test_a_session_outlives_a_restore(federation):
    """SDKs use the keys of a session until it ends, whatever they are answered."""
    masters = [federation.gateway(f"master{n}", **ENV) for n in range(2)]
    # Times count in seconds: in the one in which a master starts, it may not know all revocations.
    started = int(time.time())
    backup = federation.tmp / "backup"
    federation.postgres.tell("crash")
    federation.postgres.tell(f"backup {backup}")
    federation.postgres.tell("launch")
    until((200, ""), lambda: head(masters[0], masters[0].credentials()))
    until(True, lambda: int(time.time()) > started)
    wallet = Wallet()
    kept, revoked = [sts(masters[0], wallet.v2())["Credentials"] for _ in range(2)]
    session_client(masters[0], kept).create_bucket(Bucket="of-a-session")
    assert admin(masters[0], "revoke", "key", revoked["AccessKeyId"]).returncode == 0
    assert answered(masters[0], revoked) == "AccessDenied"
    federation.postgres.tell("crash")
    federation.postgres.tell(f"restore {backup}")
    federation.postgres.tell("launch")
    for master in masters:
        assert set(until("", lambda: answered(master, kept))) <= {"", "ServiceUnavailable"}
        until("AccessDenied", lambda: answered(master, revoked))
    # The session is in the arbiter again, so a master that comes later knows it, too.
    assert answered(federation.gateway("master2", **ENV), kept) == ""


def test_no_key_is_unknown_while_a_restore_empties_tables(federation):
    masters = [federation.gateway(f"master{n}") for n in range(2)]
    key, late = key_of(masters[0], "early"), masters[1].credentials()
    until((200, ""), lambda: head(masters[0], key))
    federation.postgres.tell("execute CREATE TABLE aside AS SELECT * FROM fula_directory")
    federation.postgres.tell("execute DELETE FROM fula_directory")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for master in masters:
            for access_key in (key, late):
                # A record that was read just before counts for two seconds.
                assert head(master, access_key)[0] in (200, 503)
    assert head(masters[1], key)[0] == 503
    # Nothing is written meanwhile that the restore would stumble over, nor by a command.
    refused = subprocess.run([FULA, "keys", "list"], env={**os.environ, **federation.env()},
                             cwd=federation.tmp, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and "tables are being restored" in refused.stderr
    federation.postgres.tell("execute INSERT INTO fula_directory SELECT * FROM aside")
    for master in masters:
        until((200, ""), lambda: head(master, key))
