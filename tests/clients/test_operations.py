"""Running a gateway: crashes, restarts, administrative commands, health, shutdown."""

import http.client
import io
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import threading
import urllib.request

import pytest

from conftest import FULA, Gateway
from helpers import MIB, Refused, eventually, log_says, pattern, self_signed


def test_everything_acknowledged_survives_kill(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    bodies = {f"k{n}": pattern(n * 10_000, n) for n in range(20)}
    bodies["large"] = pattern(9 * MIB)
    for key, body in bodies.items():
        s3.put_object(Bucket="bucket", Key=key, Body=body)
    s3.delete_object(Bucket="bucket", Key="k3")
    del bodies["k3"]
    upload_id = s3.create_multipart_upload(Bucket="bucket", Key="mp")["UploadId"]
    part = lambda number, body: {
        "PartNumber": number,
        "ETag": s3.upload_part(Bucket="bucket", Key="mp", UploadId=upload_id, PartNumber=number,
                               Body=body)["ETag"],
    }
    first = part(1, pattern(5 * MIB, 99))
    own_gateway.kill()
    own_gateway.start()
    for key, body in bodies.items():
        assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == body
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket="bucket", Key="k3")
    # The upload goes on where it was.
    parts = {"Parts": [first, part(2, b"end")]}
    done = s3.complete_multipart_upload(
        Bucket="bucket", Key="mp", UploadId=upload_id, MultipartUpload=parts
    )
    own_gateway.kill()
    own_gateway.start()
    again = s3.complete_multipart_upload(
        Bucket="bucket", Key="mp", UploadId=upload_id, MultipartUpload=parts
    )
    assert again["ETag"] == done["ETag"]
    assert s3.head_object(Bucket="bucket", Key="mp")["ContentLength"] == 5 * MIB + 3
    own_gateway.stop()
    assert own_gateway.fula("fsck").returncode == 0


def test_kills_under_load_lose_nothing(own_gateway):
    """Writers write while the process is killed; whatever was acknowledged is there."""
    possible, acknowledged = {}, []  # By key, the values that may be found; None is no object.
    own_gateway.client().create_bucket(Bucket="bucket")
    for life in range(4):
        stop = threading.Event()

        def write(writer):
            s3 = own_gateway.client(retries={"max_attempts": 1})
            n = 0
            while not stop.is_set():
                key, body = f"w{writer}/{n % 50}", f"{life}-{n}".encode()
                try:
                    s3.put_object(Bucket="bucket", Key=key, Body=body)
                except Exception:
                    # Not acknowledged: what was there before may be found, or this.
                    possible.setdefault(key, {None}).add(body)
                    return
                possible[key] = {body}
                acknowledged.append(key)
                n += 1

        writers = [threading.Thread(target=write, args=[writer]) for writer in range(4)]
        for writer in writers:
            writer.start()
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) >= before + 40)
        own_gateway.kill()
        stop.set()
        for writer in writers:
            writer.join()
        own_gateway.start()
        s3 = own_gateway.client()
        for key, values in possible.items():
            try:
                found = s3.get_object(Bucket="bucket", Key=key)["Body"].read()
            except s3.exceptions.NoSuchKey:
                found = None
            assert found in values, key
            possible[key] = {found}
    assert len(possible) >= 40
    own_gateway.stop()
    assert own_gateway.fula("fsck").returncode == 0


def test_a_client_that_goes_away_leaves_nothing(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "half"})
    host, port = own_gateway.listen.split(":")
    with socket.create_connection((host, int(port))) as connection:
        path = url.split(own_gateway.listen)[1]
        connection.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: {own_gateway.listen}\r\n"
            f"Content-Length: {10 * MIB}\r\n\r\n".encode() + pattern(3 * MIB)
        )
    # Once the gateway knows that nobody is there any more.
    log_says(own_gateway, 'path="/bucket/half" operation="PutObject"')
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket="bucket", Key="half")
    assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_a_second_process_is_refused(own_gateway):
    second = subprocess.run(
        [FULA, "gateway", "--data-dir", own_gateway.data_dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=120,
    )
    assert second.returncode == 1
    assert "in use by another fula process" in second.stderr


def test_requests_in_flight_finish_at_shutdown(own_gateway):
    s3, body = own_gateway.client(), pattern(200_000)
    s3.create_bucket(Bucket="bucket")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "slow"})
    connection = http.client.HTTPConnection(own_gateway.listen, timeout=120)
    connection.putrequest("PUT", url.split(own_gateway.listen)[1], skip_host=False)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:100_000])
    # The request has begun once it has memory for its body.
    metrics = lambda: urllib.request.urlopen(f"{own_gateway.admin}/metrics").read()
    eventually(lambda: b"\nfula_body_memory_bytes 0\n" not in metrics())
    own_gateway.process.send_signal(signal.SIGTERM)
    log_says(own_gateway, "finishing requests")
    connection.send(body[100_000:])
    assert connection.getresponse().status == 200
    assert own_gateway.process.wait(timeout=60) == 0
    own_gateway.process.stdout.close()
    own_gateway.start()
    assert s3.get_object(Bucket="bucket", Key="slow")["Body"].read() == body


def test_keys_beside_a_running_gateway_and_without_one(own_gateway):
    made = json.loads(own_gateway.fula("keys", "create", "--user", "alice", "--json").stdout)
    key = (made["id"], made["secret"])
    alice = own_gateway.client(key=key)
    alice.create_bucket(Bucket="alices")
    listed = own_gateway.fula("keys", "list").stdout
    assert made["id"] in listed and "key:admin" in listed and made["secret"] not in listed
    assert listed.split("\n")[0].split() == ["ACCESS", "KEY", "ID", "USER", "CREATED", "STATE", "MADE", "ON"]
    assert all(line.split()[-2:] == ["live", socket.gethostname()] for line in listed.splitlines()[1:]), listed
    own_gateway.stop()
    only = json.loads(own_gateway.fula("keys", "list", "--user", "alice", "--json").stdout)
    assert [k["id"] for k in only] == [made["id"]]
    own_gateway.start()
    assert [b["Name"] for b in alice.list_buckets()["Buckets"]] == ["alices"]
    refused = own_gateway.fula("keys", "revoke", made["id"], "--user", "bob", check=False)
    assert refused.returncode == 1 and "belongs to user key:alice" in refused.stderr
    own_gateway.fula("keys", "revoke", made["id"])
    with Refused("InvalidAccessKeyId", 403):
        alice.list_buckets()


def test_the_first_key_can_be_chosen(tmp_path):
    gateway = Gateway(tmp_path / "data")
    chosen = {"FULA_ACCESS_KEY_ID": "CHOSENKEYID", "FULA_SECRET_ACCESS_KEY": "chosen-secret-key"}
    gateway.start(env=chosen)
    assert gateway.credentials() == ("CHOSENKEYID", "chosen-secret-key")
    path = gateway.data_dir / "credentials"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    gateway.client().list_buckets()
    gateway.stop()
    # It is kept: the next start needs no variables.
    gateway.start()
    gateway.client().list_buckets()
    gateway.stop()


def test_no_secret_is_ever_logged(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url)
    own_gateway.fula("keys", "create", "--user", "alice")
    log = own_gateway.data_dir.with_suffix(".log").read_text()
    assert "operation=\"GetObject\"" in log and "request_id=" in log
    assert own_gateway.credentials()[1] not in log
    assert "Signature" not in log and "X-Amz" not in log


def test_health_and_metrics(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    fetch = lambda path: urllib.request.urlopen(own_gateway.admin + path).read().decode()
    assert fetch("/healthz") == "ok\n"
    assert fetch("/readyz") == "ready\n"
    metrics = fetch("/metrics")
    assert 'fula_requests_total{operation="PutObject",status="200"} 1' in metrics
    assert "fula_request_seconds_bucket" in metrics
    for name in ["fula_commit_rounds_total", "fula_commit_blocks_total", "fula_commit_bytes_total",
                 "fula_log_fsyncs_total", "fula_commit_batch_changes_sum"]:
        assert int(re.search(rf"^{name} (\d+)", metrics, re.M)[1]) > 0, name


def test_small_files_cost_little_index(own_gateway):
    """150 files of 4 KiB, one after another, and what they add to the index."""
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")

    def count():
        metrics = urllib.request.urlopen(f"{own_gateway.admin}/metrics").read().decode()
        value = lambda name: int(re.search(rf"^{name} (\d+)", metrics, re.M)[1])
        return value("fula_commit_blocks_total"), value("fula_commit_bytes_total")

    before = count()
    for n in range(150):
        s3.put_object(Bucket="bucket", Key=f"photos/2026/img_{n:04}.jpg", Body=pattern(4096, n))
    blocks, total = (after - start for after, start in zip(count(), before))
    # Each file's own block is content, the rest is index.
    blocks_each, bytes_each = (blocks - 150) / 150, (total - 150 * 4096) / 150
    print(f"index per 4 KiB file: {blocks_each:.2f} blocks, {bytes_each:.0f} bytes")
    assert blocks_each <= 4 and bytes_each <= 16_000


def test_history(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    for n in range(3):
        s3.put_object(Bucket="bucket", Key=f"k{n}", Body=b"12345")
    log = json.loads(own_gateway.fula("roots", "log", "bucket", "--json").stdout)
    assert [(c["version"], c["objects"], c["bytes"]) for c in log] == [
        (4, 3, 15), (3, 2, 10), (2, 1, 5), (1, 0, 0)
    ]
    text = own_gateway.fula("roots", "log", "bucket", "--limit", "1").stdout
    assert log[0]["root"] in text and len(text.splitlines()) == 2
    assert text.split("\n")[0].split() == ["VERSION", "TIME", "OBJECTS", "BYTES", "ROOT"]
    shown = own_gateway.fula("roots", "show").stdout.splitlines()
    assert shown[0].split() == ["VERSION", "ROOT", "OWNER", "USER", "PUBLIC", "NAME", "BUCKET"] and len(shown[1].split()) == 7
    # A name that is not there is told with those that are, the ones most like it first.
    for n in range(11):
        s3.create_bucket(Bucket=f"another-{n:02}")
    absent = own_gateway.fula("roots", "log", "buckets", check=False)
    assert absent.returncode == 1 and absent.stdout == ""
    assert "there is no bucket buckets; there are: bucket, another-00, another-01" in absent.stderr
    assert "another-08 and 2 more" in absent.stderr
    of_carol = own_gateway.fula("roots", "log", "bucket", "--user", "carol", check=False)
    assert "there is no bucket bucket of key:carol; there is none at all" in of_carol.stderr


def flip(path: pathlib.Path, offset):
    body = bytearray(path.read_bytes())
    body[offset] ^= 0xFF
    path.write_bytes(body)


def test_fsck_tells_damage_by_name_and_repairs(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    cid = {}
    for n in range(4):
        put = s3.put_object(Bucket="bucket", Key=f"k{n}", Body=pattern(2 * MIB, n))
        cid[n] = put["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]
    assert own_gateway.fula("fsck").stdout.endswith("0 problems\n")
    own_gateway.stop()
    bulk = next((own_gateway.data_dir / "log").glob("bulk-*.log"))
    flip(bulk, 1_000_000)  # In the first leaf of k0.
    damaged = own_gateway.fula("fsck", check=False)
    assert damaged.returncode == 1 and "damaged: bafkr4" in damaged.stdout
    own_gateway.start()
    with pytest.raises(Exception):
        s3.get_object(Bucket="bucket", Key="k0")["Body"].read()
    assert s3.get_object(Bucket="bucket", Key="k1")["Body"].read() == pattern(2 * MIB, 1)
    own_gateway.stop()

    # Where pointers are kept, damage stops a gateway from starting until it was looked at.
    commit = next((own_gateway.data_dir / "log").glob("commit-*.log"))
    head = commit.read_bytes().rfind(b"RLF1", 0, commit.stat().st_size - 2000)
    flip(commit, head + 9)
    refused = subprocess.run(
        [FULA, "gateway", "--data-dir", own_gateway.data_dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=120,
    )
    assert refused.returncode == 1 and "fsck --repair" in refused.stderr
    looked = own_gateway.fula("fsck", check=False)
    assert looked.returncode == 1 and "records whose names are lost" in looked.stdout
    repaired = own_gateway.fula("fsck", "--repair", check=False)
    assert "set 2 damaged segments aside" in repaired.stderr
    own_gateway.start()
    assert s3.get_object(Bucket="bucket", Key="k1")["Body"].read() == pattern(2 * MIB, 1)


def test_fsck_rebuilds_a_lost_arbiter(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    for n in range(5):
        s3.put_object(Bucket="bucket", Key=f"k{n}", Body=b"x")
    own_gateway.stop()
    commit = next((own_gateway.data_dir / "log").glob("commit-*.log"))
    body = bytearray(commit.read_bytes())
    # Every pointer record (kind 2) loses its head.
    at = body.find(b"RLF1")
    while at >= 0:
        if body[at + 14] == 2:
            body[at + 9] ^= 0xFF
        at = body.find(b"RLF1", at + 4)
    commit.write_bytes(body)
    repaired = own_gateway.fula("fsck", "--repair")
    assert "rebuilt 1 root pointers" in repaired.stderr
    own_gateway.start()
    assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 5
    s3.put_object(Bucket="bucket", Key="more", Body=b"x")


def test_fsck_that_cannot_look_says_so(tmp_path):
    command = [FULA, "fsck", "--data-dir", tmp_path / "absent"]
    looked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert looked.returncode == 2 and "no data directory" in looked.stderr


def test_tls(tmp_path):
    """Over TLS boto3 leaves the payload unsigned and sends checksums behind the body."""
    cert, key = self_signed(tmp_path, "127.0.0.1")
    gateway = Gateway(tmp_path / "data", "--tls-cert", cert, "--tls-key", key).start()
    assert gateway.url.startswith("https://")
    s3 = gateway.client(verify=str(cert))
    sent = []
    s3.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.append(request))
    s3.create_bucket(Bucket="bucket")
    for length in [0, 5, 3 * MIB]:
        body = pattern(length)
        put = s3.put_object(Bucket="bucket", Key="k", Body=io.BytesIO(body))
        assert sent[-1].headers["x-amz-trailer"] == b"x-amz-checksum-crc32"
        got = s3.get_object(Bucket="bucket", Key="k", ChecksumMode="ENABLED")
        assert got["Body"].read() == body
        assert got["ChecksumCRC32"] == put["ChecksumCRC32"]
    gateway.stop()
    half = subprocess.run(
        [FULA, "gateway", "--data-dir", tmp_path / "data", "--tls-cert", cert],
        capture_output=True, text=True, timeout=120,
    )
    assert half.returncode == 2 and "--tls-key" in half.stderr
    key.chmod(0o644)
    options = ["--tls-cert", cert, "--tls-key", key, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    readable = subprocess.run(
        [FULA, "gateway", "--data-dir", tmp_path / "data", *options], capture_output=True, text=True, timeout=120,
    )
    assert readable.returncode == 1 and f"chmod 600 {key}" in readable.stderr


@pytest.mark.parametrize("name, value", [
    ("FULA_DATABASE_URL", "postgres://fula:12/hush@127.0.0.1:1/fula"),
    ("FULA_DATABASE_URL", "postgres://fula:hush@127.0.0.1:port/fula"),
    ("FULA_DATABASE_URL", "postgres://fula@127.0.0.1:1/fula?pasword=hush"),
    ("FULA_DATABASE_URL", "postgrs://fula:hush@127.0.0.1:1/fula"),
    ("FULA_DATABASE_URL", "fula:hush@127.0.0.1/fula"),
    ("FULA_BLOCKS", "s3://key:hush@bucket/prefix"),
    ("FULA_BLOCKS", "s3:/key:hush@bucket/prefix"),
    ("FULA_BLOCKS", "https://key:hush@bucket/prefix"),
    ("FULA_BLOCKS", "file://key:hush@host/directory"),
    ("AWS_ENDPOINT", "http://user:hush@127.0.0.1:1"),
    ("AWS_ENDPOINT", "http://127.0.0.1:hush"),
    ("FULA_JWKS", "https://user:hush@issuer.example/jwks"),
    ("FULA_JWKS", "https:/user:hush@issuer.example/jwks"),
    ("FULA_JWKS", "user:hush@issuer.example/jwks"),
    ("FULA_JWKS", "//user:hush@issuer.example/jwks"),
])
def test_a_password_in_a_mistyped_url_is_never_shown(tmp_path, name, value):
    blocks = {"FULA_DATABASE_URL": {"FULA_BLOCKS": f"file://{tmp_path}/blocks"},
              "AWS_ENDPOINT": {"FULA_BLOCKS": "s3://bucket/prefix", "AWS_REGION": "us-east-1"}}.get(name, {})
    key = tmp_path / "secrets.key"
    subprocess.run([FULA, "secrets", "keygen", key], check=True, capture_output=True)
    env = {**os.environ, **blocks, "FULA_SECRETS_KEY_FILE": str(key), "RUST_LOG": "debug", name: value}
    ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    refused = subprocess.run([FULA, "gateway", "--data-dir", tmp_path / "data", *ports],
                             capture_output=True, text=True, timeout=120, env=env)
    assert refused.returncode == 1 and name in refused.stderr
    told = subprocess.run([FULA, "gateway", "--help"], capture_output=True, text=True, env=env)
    for text in (refused.stderr, refused.stdout, told.stdout, told.stderr):
        assert "hush" not in text


def test_everything_made_is_for_its_owner_alone(tmp_path):
    gateway, blocks = Gateway(tmp_path / "data"), tmp_path / "blocks"
    gateway.program = ["sh", "-c", 'umask 0; exec "$@"', "sh", FULA]
    env = {"FULA_BLOCKS": f"file://{blocks}"}
    gateway.start(env)
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=pattern(3 * MIB))
    made = [path for top in (gateway.data_dir, blocks) for path in (top, *top.rglob("*"))]
    assert {"admin.sock", "secrets.key", "credentials", "log"} <= {path.name for path in made}
    assert any(path.is_socket() for path in made) and len([p for p in made if blocks in p.parents]) > 3
    for path in made:
        assert path.lstat().st_mode & 0o077 == 0, (path, oct(path.lstat().st_mode))
    gateway.stop()
    log = gateway.data_dir.with_suffix(".log")
    assert "open to other users" not in log.read_text()
    # What was there before is not changed, and told.
    for directory in (gateway.data_dir, blocks):
        directory.chmod(0o755)
    gateway.start(env)
    gateway.stop()
    for directory in (gateway.data_dir, blocks):
        assert f"chmod 700 {directory}" in log.read_text()


def test_help_teaches():
    text = subprocess.run([FULA, "--help"], capture_output=True, text=True).stdout
    assert "fula gateway --data-dir ./data" in text
    text = subprocess.run([FULA, "gateway", "--help"], capture_output=True, text=True).stdout
    assert "FULA_LISTEN" in text and "127.0.0.1:9000" in text


def test_space_comes_back(tmp_path, monkeypatch):
    """What was replaced is deleted while the gateway serves, and the log gets smaller."""
    gateway = Gateway(tmp_path / "data").start()
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    bodies = {}
    for n in range(40):
        for key in ("small", "large"):
            bodies[key] = pattern(2 * MIB if key == "large" else 5000, seed=100 + n)
            s3.put_object(Bucket="bucket", Key=key, Body=bodies[key])
    s3.put_object(Bucket="bucket", Key="deleted", Body=pattern(3 * MIB))
    # The answer of a completed upload is remembered for a day, its content only while it is there.
    upload = {"Bucket": "bucket", "Key": "deleted"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    etag = s3.upload_part(**upload, PartNumber=1, Body=pattern(9 * MIB, seed=3))["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    completed = s3.complete_multipart_upload(**upload, MultipartUpload=parts)["ETag"]
    s3.delete_object(Bucket="bucket", Key="deleted")
    sizes = lambda: json.loads(gateway.fula("gc", "--json").stdout)
    before = sizes()
    assert before["log_bytes"] > 80 * MIB and before["retained_bytes"] > 70 * MIB
    # What was replaced within the retention stays.
    kept = json.loads(gateway.fula("gc", "--now", "--json").stdout)
    assert kept["collection"]["deleted_blocks"] == 0
    done = json.loads(gateway.fula("gc", "--now", "--retention", "0s", "--json").stdout)
    assert done["collection"]["deleted_blocks"] > 100 and done["rewritten_bytes"] > 70 * MIB
    assert done["log_bytes"] < 8 * MIB and done["live_bytes"] < 4 * MIB
    on_disk = sum(f.stat().st_size for f in (tmp_path / "data" / "log").glob("*.log"))
    assert on_disk == sizes()["log_bytes"]

    def check():
        for key, body in bodies.items():
            assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == body
        assert json.loads(gateway.fula("fsck", "--json").stdout)["problems"] == 0

    check()
    assert s3.complete_multipart_upload(**upload, MultipartUpload=parts)["ETag"] == completed
    gateway.kill()
    gateway.start()
    check()
    # Beside no gateway at all, and in words.
    s3.put_object(Bucket="bucket", Key="small", Body=b"replaced at once")
    s3.put_object(Bucket="bucket", Key="small", Body=bodies["small"])
    gateway.stop()
    assert "in use" in gateway.fula("gc", "--now").stdout
    assert gateway.fula("gc", "--now").stdout.startswith("0 blocks of 0 B deleted")
    monkeypatch.setenv("FULA_RETENTION", "0s")
    done = json.loads(gateway.fula("gc", "--now", "--json").stdout)
    assert done["collection"]["deleted_blocks"] > 0
    wrong = gateway.fula("gc", "--now", "--retention", "soon", check=False)
    assert wrong.returncode == 2 and "e.g. 10s" in wrong.stderr


def test_a_repair_that_was_cut_short_is_told_until_it_has_run_through(tmp_path):
    gateway = Gateway(tmp_path / "data").start()
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=b"kept")
    gateway.stop()
    # As a kill leaves it.
    (tmp_path / "data" / "log" / "repairing").touch()
    told = gateway.fula("fsck", check=False)
    assert told.returncode == 1 and "--repair" in told.stdout
    assert gateway.fula("fsck", "--repair").returncode == 0
    assert not (tmp_path / "data" / "log" / "repairing").exists()
    gateway.start()
    assert gateway.client().get_object(Bucket="bucket", Key="k")["Body"].read() == b"kept"
    gateway.stop()
