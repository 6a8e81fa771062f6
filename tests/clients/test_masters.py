"""Several gateways on one Postgres and shared blocks, with the clients people use."""

import base64
import concurrent.futures
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import boto3
import botocore.config
import pytest

from conftest import FULA, REPO, Gateway
from helpers import BUSY, Refused, eventually, pattern
from identity import Wallet, call
from masters import Federation, Part, admin, federation, signed

# How far the counting tests count; CI counts less than the figures do.
INCREMENTS = int(os.environ.get("INCREMENTS", "100"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Three masters that the tests share."""
    federation = Federation(tmp_path_factory.mktemp("federation"))
    for n in range(3):
        federation.gateway(f"master{n}")
    yield federation
    federation.stop()


@pytest.fixture
def masters(shared):
    """One boto3 client for each master, all with the same key."""
    key = shared.gateways[0].credentials()
    return [gateway.client(key=key) for gateway in shared.gateways]


def new_bucket(s3):
    name = f"bucket-{time.monotonic_ns()}"
    s3.create_bucket(Bucket=name)
    return name


def test_every_master_serves_what_any_master_was_told(masters):
    one, two, three = masters
    bucket = new_bucket(one)
    body = pattern(3_000_000)
    two.put_object(Bucket=bucket, Key="k", Body=body, Metadata={"a": "b"})
    got = three.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == body and got["Metadata"] == {"a": "b"}
    upload = one.create_multipart_upload(Bucket=bucket, Key="mp")["UploadId"]
    parts = []
    for number, s3 in [(1, two), (2, three)]:
        etag = s3.upload_part(Bucket=bucket, Key="mp", UploadId=upload, PartNumber=number,
                              Body=pattern(5 << 20, number))["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    three.complete_multipart_upload(Bucket=bucket, Key="mp", UploadId=upload,
                                    MultipartUpload={"Parts": parts})
    whole = pattern(5 << 20, 1) + pattern(5 << 20, 2)
    assert one.get_object(Bucket=bucket, Key="mp")["Body"].read() == whole
    two.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")
    assert [o["Key"] for o in one.list_objects_v2(Bucket=bucket)["Contents"]] == ["copy", "k", "mp"]
    one.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in ("copy", "k", "mp")]})
    two.delete_bucket(Bucket=bucket)
    with Refused("NoSuchBucket", 404):
        three.list_objects_v2(Bucket=bucket)
    assert bucket not in [b["Name"] for b in three.list_buckets()["Buckets"]]


def test_of_many_creators_on_three_masters_one_wins(masters):
    bucket = new_bucket(masters[0])

    def create(n):
        try:
            masters[n % 3].put_object(Bucket=bucket, Key="k", Body=str(n), IfNoneMatch="*")
            return n
        except masters[0].exceptions.ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412
            return None

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        winners = [n for n in pool.map(create, range(12)) if n is not None]
    assert len(winners) == 1
    for s3 in masters:
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == str(winners[0]).encode()


def test_boto3_counts_right_while_answers_are_swallowed(shared, masters):
    """Without the record, every lost answer of a conditional put is a false 412."""
    bucket = new_bucket(masters[0])
    masters[0].put_object(Bucket=bucket, Key="counter", Body="0")
    link = Part("link", shared.gateways[1].listen, "--drop", 100)
    id, secret = shared.gateways[0].credentials()
    config = botocore.config.Config(retries={"max_attempts": 12, "mode": "standard"},
                                    s3={"addressing_style": "path"}, read_timeout=60)
    s3 = boto3.client("s3", endpoint_url=f"http://{link.address}", region_name="us-east-1",
                      aws_access_key_id=id, aws_secret_access_key=secret, config=config)
    for _ in range(INCREMENTS):
        # Read elsewhere: SDKs try requests again, but no body that breaks off.
        seen = masters[0].get_object(Bucket=bucket, Key="counter")
        value = int(seen["Body"].read())
        s3.put_object(Bucket=bucket, Key="counter", Body=str(value + 1), IfMatch=seen["ETag"])
    assert int(link.stop()) > 0, "no answer was swallowed"
    assert masters[2].get_object(Bucket=bucket, Key="counter")["Body"].read() == b"%d" % INCREMENTS


def test_the_javascript_sdk_counts_right_while_answers_are_swallowed(shared, masters):
    bucket = new_bucket(masters[0])
    masters[0].put_object(Bucket=bucket, Key="counter", Body="0")
    link = Part("link", shared.gateways[2].listen, "--drop", 100)
    id, secret = shared.gateways[0].credentials()
    env = {**os.environ, "AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret}
    script = REPO / "tests/clients/js/increments.mjs"
    done = subprocess.run(["node", script, shared.gateways[0].url, f"http://{link.address}", bucket,
                           "counter", str(INCREMENTS)],
                          capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"refused": 0}
    assert int(link.stop()) > 0, "no answer was swallowed"
    assert masters[0].get_object(Bucket=bucket, Key="counter")["Body"].read() == b"%d" % INCREMENTS


def test_many_keys_in_one_commit(shared, masters):
    one, two, _ = masters
    bucket = new_bucket(one)
    gateway = shared.gateways[0]
    one.put_object(Bucket=bucket, Key="old", Body=b"x")
    upload = two.create_multipart_upload(Bucket=bucket, Key="up", ContentType="text/x")["UploadId"]
    etag = one.upload_part(Bucket=bucket, Key="up", UploadId=upload, PartNumber=1, Body=b"part")["ETag"]
    changes = [
        {"put": {"key": "a", "text": "one", "contentType": "text/plain", "metadata": {"m": "1"},
                 "ifNoneMatch": "*"}},
        {"put": {"key": "b", "base64": base64.b64encode(b"\0\xff").decode()}},
        {"put": {"key": "up", "upload": {"id": upload, "parts": [{"number": 1, "etag": etag}]}}},
        {"delete": {"key": "old"}},
    ]
    path = f"/{bucket}?fula-commit"
    status, headers, body = signed(gateway, "POST", path, json.dumps({"changes": changes}).encode())
    assert status == 200, body
    answer = json.loads(body)
    assert answer["version"] == int(headers["x-fula-version"])
    assert [result["key"] for result in answer["results"]] == ["a", "b", "up", "old"]
    got = two.get_object(Bucket=bucket, Key="a")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (b"one", "text/plain", {"m": "1"})
    assert got["ETag"] == answer["results"][0]["etag"]
    assert two.get_object(Bucket=bucket, Key="b")["Body"].read() == b"\0\xff"
    assert two.get_object(Bucket=bucket, Key="up")["ContentType"] == "text/x"
    with Refused("NoSuchKey", 404):
        two.get_object(Bucket=bucket, Key="old")
    # One condition fails: nothing is done, and the answer says which.
    changes = [{"put": {"key": "c", "text": "x"}}, {"put": {"key": "a", "text": "x", "ifNoneMatch": "*"}}]
    status, _, body = signed(gateway, "POST", path, json.dumps({"changes": changes}).encode())
    assert status == 412 and b'key "a"' in body.replace(b"&quot;", b'"'), body
    with Refused("NoSuchKey", 404):
        two.get_object(Bucket=bucket, Key="c")
    for bad in [b"{", b'{"changes": []}', b'{"changes": [{"put": {"key": "k"}}]}',
                b'{"changes": [{"put": {"key": "k", "text": "", "typo": 1}}]}']:
        assert signed(gateway, "POST", path, bad)[0] == 400
    # What a route of ours takes is held to what S3 requests are held to.
    text = json.dumps({"changes": [{"put": {"key": "cdata", "text": "<![CDATA[x]]>"}}]}).encode()
    assert signed(gateway, "POST", path, text, {"x-amz-expected-bucket-owner": "0" * 32})[0] == 403
    assert signed(gateway, "POST", path, text)[0] == 200
    assert two.get_object(Bucket=bucket, Key="cdata")["Body"].read() == b"<![CDATA[x]]>"
    # Unsigned requests are refused like any other.
    request = urllib.request.Request(gateway.url + path, data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403


def test_a_write_bound_to_a_version(shared, masters):
    bucket = new_bucket(masters[0])
    gateway = shared.gateways[0]
    status, headers, _ = signed(gateway, "PUT", f"/{bucket}/k", b"1")
    version = headers["x-fula-version"]
    masters[1].put_object(Bucket=bucket, Key="other", Body=b"x")
    bound = {"x-fula-if-version": version}
    status, headers, body = signed(gateway, "PUT", f"/{bucket}/k", b"2", bound)
    assert status == 412 and b"<Condition>x-fula-if-version</Condition>" in body
    assert int(headers["x-fula-version"]) == int(version) + 1
    bound = {"x-fula-if-version": headers["x-fula-version"]}
    assert signed(gateway, "PUT", f"/{bucket}/k", b"2", bound)[0] == 200
    assert signed(gateway, "GET", f"/{bucket}/k", headers=bound)[0] == 501


def test_a_key_revoked_on_one_master_fails_on_all(shared):
    made = json.loads(admin(shared.gateways[0], "keys", "create", "--user", "eve", "--json").stdout)
    clients = [gateway.client(key=(made["id"], made["secret"])) for gateway in shared.gateways]
    for s3 in clients:
        s3.list_buckets()
    admin(shared.gateways[1], "keys", "revoke", made["id"], check=True)
    # Within five seconds.
    deadline = time.monotonic() + 5 + BUSY
    for s3 in clients:
        while True:
            asked = time.monotonic()
            try:
                s3.list_buckets()
            except s3.exceptions.ClientError as error:
                assert error.response["Error"]["Code"] == "InvalidAccessKeyId"
                break
            assert asked < deadline, "it still works"


def test_masters_are_listed_and_struck_off(federation):
    gateways = [federation.gateway(f"master{n}") for n in range(2)]
    names = lambda: [m["name"] for m in json.loads(admin(gateways[0], "masters", "list", "--json").stdout)]
    both = names()
    assert len(both) == 2
    # A command on another data directory is no master.
    env = {**os.environ, **federation.env()}
    other = federation.tmp / "other"
    other.mkdir()
    listed = subprocess.run([FULA, "masters", "list", "--data-dir", other, "--json"], env=env,
                            capture_output=True, text=True)
    assert [master["name"] for master in json.loads(listed.stdout)] == both, listed.stderr
    for gateway in gateways:
        gateway.kill()
    assert names() == both
    # They were seen within the last minute.
    for name in both:
        admin(gateways[0], "masters", "forget", name, "--force", check=True)
    assert names() == []
    unknown = admin(gateways[0], "masters", "forget", "nobody", check=False)
    assert unknown.returncode == 1 and "fula masters list" in unknown.stderr


def test_unsafe_settings_do_not_start(federation):
    assert "FULA_BLOCKS" in federation.refusal(FULA_BLOCKS="local")
    assert "fula secrets keygen" in federation.refusal(FULA_SECRETS_KEY_FILE=None)
    federation.gateway("first")
    assert "FULA_BUCKET_ROOT_CAS=on" in federation.refusal(FULA_BUCKET_ROOT_CAS="off")
    assert "FULA_BUCKET_NAMES=owner" in federation.refusal(FULA_BUCKET_NAMES="global")
    other = federation.tmp / "other.key"
    subprocess.run([FULA, "secrets", "keygen", other], check=True, capture_output=True)
    assert "copy the key file" in federation.refusal(FULA_SECRETS_KEY_FILE=str(other))
    assert subprocess.run([FULA, "secrets", "keygen", other], capture_output=True).returncode == 1
    # A directory of the same name on a machine of its own.
    elsewhere = federation.tmp / "elsewhere"
    assert f"{elsewhere} of FULA_BLOCKS does not exist" in federation.refusal(FULA_BLOCKS=f"file://{elsewhere}")
    elsewhere.mkdir()
    assert "the same store" in federation.refusal(FULA_BLOCKS=f"file://{elsewhere}")
    assert list(elsewhere.iterdir()) == []
    said = federation.refusal(FULA_DATABASE_URL="mysql://user:hush@host/db")
    assert "postgres://" in said and "hush" not in said


def test_an_arbiter_that_is_away(federation):
    gateway = federation.gateway("strict", FULA_COMMIT_DEADLINE="2s")
    lax = federation.gateway("lax", FULA_STALE_READS="on", FULA_COMMIT_DEADLINE="2s")
    lax.shared_key = gateway.shared_key = gateway.credentials()
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    status, headers, _ = signed(lax, "GET", "/bucket/k")
    assert status == 200 and "x-fula-stale" not in headers
    federation.postgres.tell("crash")
    started = time.monotonic()
    status, headers, _ = signed(gateway, "PUT", "/bucket/k", b"y")
    assert status == 503 and headers["x-fula-outcome"] in ("none", "unknown") and "retry-after" in headers
    # Within the deadline and a second.
    assert time.monotonic() - started < 2 + 1 + BUSY
    assert signed(gateway, "GET", "/bucket/k")[0] == 503
    status, headers, body = signed(lax, "GET", "/bucket/k")
    assert (status, body) == (200, b"x")
    assert headers["x-fula-stale"] == headers["x-fula-version"]
    federation.postgres.tell("launch")
    eventually(lambda: signed(gateway, "PUT", "/bucket/k", b"z")[0] == 200, why=lambda: "it does not recover")
    ask = lambda: signed(lax, "GET", "/bucket/k")
    answer = eventually(lambda: "x-fula-stale" not in (found := ask())[1] and found)
    assert answer[2] == b"z"


def test_an_arbiter_restored_from_an_older_backup(federation):
    masters = [federation.gateway(f"master{n}", FULA_EIP712_AUTH="on") for n in range(2)]
    masters[1].shared_key = masters[0].credentials()
    s3 = masters[0].client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="before", Body=b"1")
    wallet = Wallet()
    bearer = lambda master: call(master, "GET", "/", token=wallet.v1())[0]
    assert [bearer(master) for master in masters] == [200, 200]
    backup = federation.tmp / "backup"
    federation.postgres.tell("crash")
    federation.postgres.tell(f"backup {backup}")
    federation.postgres.tell("launch")
    eventually(lambda: signed(masters[1], "PUT", "/bucket/after", b"2")[0] == 200)
    # Both masters have heard of it; one that has not could not tell. The first try may meet a connection that died
    # with the server.
    eventually(lambda: signed(masters[0], "GET", "/bucket/after")[0] == 200)
    eventually(lambda: admin(masters[0], "revoke", "wallet", wallet.user).returncode == 0)
    assert bearer(masters[0]) == 403
    federation.postgres.tell("crash")
    federation.postgres.tell(f"restore {backup}")
    federation.postgres.tell("launch")
    # Never "no such key": either refused, or healed and there.
    def read():
        status, _, body = signed(masters[0], "GET", "/bucket/after")
        assert status in (200, 503), (status, body)
        return status == 200 and body

    assert eventually(read, why=lambda: admin(masters[0], "roots", "show").stdout) == b"2"
    eventually(lambda: signed(masters[1], "PUT", "/bucket/more", b"3")[0] == 200)
    assert signed(masters[1], "GET", "/bucket/before")[2] == b"1"
    shown = json.loads(admin(masters[0], "roots", "show", "--json").stdout)
    assert shown["recovery"]["alarm"] is None and len(shown["recovery"]["healed"]) == 1
    assert "the arbiter is trusted" in admin(masters[1], "roots", "heal").stdout
    assert admin(masters[0], "roots", "merge", "bucket").returncode == 1
    assert admin(masters[0], "fsck").returncode == 0
    # What was revoked after the backup is refused still, and by a master that never heard of it.
    assert bearer(masters[0]) == 403
    assert bearer(federation.gateway("master2", FULA_EIP712_AUTH="on")) == 403


def test_a_single_master_moves_into_a_federation(federation, tmp_path):
    alone = Gateway(tmp_path / "alone").start()
    s3 = alone.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=pattern(2_000_000))
    s3.create_bucket(Bucket="deleted")
    s3.delete_bucket(Bucket="deleted")
    key = alone.credentials()
    alone.stop()
    for _ in range(2):
        done = subprocess.run([FULA, "roots", "import", "--data-dir", alone.data_dir, "--json"],
                              env={**os.environ, **federation.env()}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["already"] == ["bucket", "deleted"]
    # Moving in decides nothing for the masters to come.
    master = federation.gateway("master", FULA_BUCKET_NAMES="global")
    shown = json.loads(admin(master, "roots", "show", "--json").stdout)
    assert len(shown["recovery"]["masters"]) == 1, "the import counts as a master"
    moved = master.client(key=key)
    assert moved.get_object(Bucket="bucket", Key="k")["Body"].read() == pattern(2_000_000)
    assert [b["Name"] for b in moved.list_buckets()["Buckets"]] == ["bucket"]
    moved.put_object(Bucket="bucket", Key="more", Body=b"x")


@pytest.mark.parametrize(("before", "then"), [("global", "owner"), ("owner", "global")])
def test_global_names_follow_the_mode_of_the_federation(federation, tmp_path, before, then):
    alone = Gateway(tmp_path / "alone").start(env={"FULA_BUCKET_NAMES": before})
    s3 = alone.client()
    for name in ("shut", "open"):
        s3.create_bucket(Bucket=name)
        s3.put_object(Bucket=name, Key="k", Body=name.encode())
    s3.put_bucket_policy(Bucket="open", Policy=json.dumps({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::open/*"}}))
    alone.stop()
    done = subprocess.run([FULA, "roots", "import", "--data-dir", alone.data_dir, "--json"],
                          env={**os.environ, **federation.env()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    master = federation.gateway("master", FULA_BUCKET_NAMES=then)
    wanted = {"open": True, "shut": then == "global"}
    holds = lambda: {row["bucket"]: row["global_name"]
                     for row in json.loads(admin(master, "roots", "show", "--json").stdout)["buckets"]}
    eventually(lambda: holds() == wanted, why=holds)
    assert call(master, "GET", "/open/k")[2] == b"open"


def test_blocks_in_an_s3_bucket(federation, tmp_path):
    """Another S3 server keeps the blocks; here it is one of ours, which knows nothing of it."""
    store = Gateway(tmp_path / "store").start()
    store.client().create_bucket(Bucket="blocks")
    id, secret = store.credentials()
    env = {"FULA_BLOCKS": "s3://blocks/fula", "AWS_ENDPOINT": store.url, "AWS_REGION": "us-east-1",
           "AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret}
    one, two = (federation.gateway(f"master{n}", **env) for n in range(2))
    s3 = one.client()
    s3.create_bucket(Bucket="bucket")
    body = pattern(2_500_000)
    s3.put_object(Bucket="bucket", Key="k", Body=body)
    assert two.client(key=one.credentials()).get_object(Bucket="bucket", Key="k")["Body"].read() == body
    listed = store.client().list_objects_v2(Bucket="blocks", Prefix="fula/packs/")
    # The bucket, three leaves, their node, and the object.
    assert listed["KeyCount"] == 6
    store.kill()
    status, headers, _ = signed(one, "PUT", "/bucket/k", b"x")
    assert status == 503 and headers["x-fula-outcome"] == "none"
    store.start()
    assert signed(one, "PUT", "/bucket/k", b"x")[0] == 200
    store.stop()
