"""Requests that no SDK would make, and what must not come of them."""

import base64
import hashlib
import http.client
import json
import re
import select
import socket
import threading
import time
import urllib.request
import zlib

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from conftest import Gateway
from helpers import MIB, Refused, eventually, pattern
from signing import signed_headers


def send(gateway, method, path, body=b"", headers=None, payload=None, host=None):
    """Signs and sends one request as it is; returns status, headers and body."""

    class Signer(botocore.auth.S3SigV4Auth):
        def payload(self, request):
            return payload or hashlib.sha256(body).hexdigest()

    url = f"http://{host or gateway.listen}{path}"
    request = botocore.awsrequest.AWSRequest(method, url, headers=headers or {}, data=body)
    credentials = botocore.credentials.Credentials(*gateway.credentials())
    Signer(credentials, "s3", "us-east-1").add_auth(request)
    connection = http.client.HTTPConnection(gateway.listen, timeout=120)
    sent = {"Host": host or gateway.listen, **dict(request.headers)}
    connection.request(method, path, body or None, sent)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


@pytest.fixture
def object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    return f"/{bucket}/k"


@pytest.mark.parametrize("query", ["acl", "retention", "legal-hold", "torrent", "restore"])
def test_a_subresource_is_never_the_thing_itself(gateway, s3, bucket, object, query):
    for method in ["DELETE", "PUT"]:
        body = b"x" if method == "PUT" else b""
        assert send(gateway, method, f"{object}?{query}", body)[0] in (400, 405, 501)
        assert send(gateway, method, f"/{bucket}?{query}")[0] in (400, 405, 501)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


def test_half_an_upload_part_is_no_put(gateway, s3, bucket, object):
    for query in ["partNumber=1", "uploadId=x", "versionId=abc", "uploads"]:
        assert send(gateway, "PUT", f"{object}?{query}", b"x")[0] == 405, query
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


def test_a_batch_delete_is_checked_before_it_deletes(gateway, s3, bucket, object):
    xml = b"<Delete><Object><Key>k</Key></Object></Delete>"
    delete = lambda body=xml, payload=None, **headers: send(
        gateway, "POST", f"/{bucket}?delete", body,
        {name.replace("_", "-"): value for name, value in headers.items()}, payload,
    )
    wrong = base64.b64encode(bytes(16)).decode()
    assert delete(content_md5=wrong)[0] == 400
    assert delete(content_md5="short")[0] == 400
    assert delete(x_amz_checksum_crc32="AAAAAA==")[0] == 400
    status, _, answer = delete(payload="0" * 64)
    assert status == 400 and b"XAmzContentSHA256Mismatch" in answer
    cdata = b"<Delete><Object><Key><![CDATA[k]]></Key></Object></Delete>"
    assert delete(cdata)[0] == 400
    assert delete(b"<Delete>" + b" " * (5 * MIB) + b"</Delete>")[0] == 400
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"
    right = base64.b64encode(hashlib.md5(xml).digest()).decode()
    assert delete(content_md5=right)[0] == 200
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="k")


def test_conditions_are_judged_or_refused(gateway, s3, bucket, object):
    date = "Mon, 01 Jan 2001 00:00:00 GMT"
    for method, headers, expected in [
        ("DELETE", {"If-None-Match": "*"}, 501),
        ("DELETE", {"If-Unmodified-Since": date}, 501),
        ("PUT", {"If-Unmodified-Since": date}, 501),
        ("PUT", {"If-Match": ""}, 400),
        ("DELETE", {"If-Match": ""}, 400),
    ]:
        assert send(gateway, method, object, headers=headers)[0] == expected, (method, headers)
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    both = {"If-None-Match": f'"a", {etag}'}
    assert send(gateway, "PUT", object, b"x", both)[0] == 412
    assert send(gateway, "GET", object, headers=both)[0] == 304
    owner = {"x-amz-expected-bucket-owner": "123456789012"}
    assert send(gateway, "PUT", object, b"x", owner)[0] == 403
    mine = s3.list_buckets()["Owner"]["ID"]
    assert send(gateway, "GET", object, headers={"x-amz-expected-bucket-owner": mine})[0] == 200
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


def test_keys_that_xml_cannot_carry_are_refused(s3, bucket):
    for key in ["a\x01b", "a\x1b", "\x0b", "a\ufffe"]:
        with Refused("InvalidArgument", 400):
            s3.put_object(Bucket=bucket, Key=key, Body=b"x")
        with Refused("InvalidArgument", 400):
            s3.create_multipart_upload(Bucket=bucket, Key=key)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_payload_that_is_not_the_signed_one_is_refused(gateway, s3, bucket):
    for size in [10, 2 * MIB]:
        status, headers, answer = send(gateway, "PUT", f"/{bucket}/k", b"x" * size, payload="0" * 64)
        assert status == 400 and b"XAmzContentSHA256Mismatch" in answer
        assert headers["Content-Type"] == "application/xml"
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="k")


def test_a_put_says_how_long_it_is(gateway, s3, bucket):
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    host, port = gateway.listen.split(":")
    with socket.create_connection((host, int(port))) as connection:
        path = url.split(gateway.listen)[1]
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: {gateway.listen}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 411 ")


def test_a_refused_large_body_ends_the_connection(gateway, bucket):
    status, headers, _ = send(gateway, "PUT", f"/{bucket}/k", b"x" * 200_000, {"If-Match": '"a"'})
    assert (status, headers["Connection"]) == (404, "close")
    status, headers, _ = send(gateway, "PUT", f"/{bucket}/k", b"x" * 100, {"If-Match": '"a"'})
    assert (status, headers["Connection"]) == (404, None)


@pytest.mark.parametrize("megabytes", [1.2, 20])
def test_a_client_that_sends_everything_first_reads_the_refusal(gateway, bucket, megabytes):
    """Whatever it still sends is read, else the connection would be reset under the answer."""
    body = bytes(int(megabytes * MIB))
    head = f"PUT /{bucket}/k HTTP/1.1\r\nhost: {gateway.listen}\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = gateway.listen.split(":")
    for _ in range(10):
        with socket.create_connection((host, int(port)), timeout=120) as connection:
            connection.sendall(head.encode() + body)
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
            assert answer.startswith(b"HTTP/1.1 403 ") and answer.endswith(b"</Error>")
            assert b"connection: close" in answer.lower()


def test_a_small_body_that_is_refused_leaves_the_connection_usable(gateway, bucket):
    connection = http.client.HTTPConnection(gateway.listen, timeout=120)
    for _ in range(3):
        connection.request("PUT", f"/{bucket}/k", b"x" * 50_000)
        answer = connection.getresponse()
        assert answer.status == 403 and not answer.will_close
        answer.read()


def admin(gateway, path):
    return urllib.request.urlopen(f"{gateway.admin}{path}", timeout=60).read().decode()


def closed(connections, at_least):
    """Waits until so many connections were closed by the gateway, and returns their places."""
    readable = eventually(lambda: len(found := select.select(connections, [], [], 1)[0]) >= at_least and found)
    found = [n for n, connection in enumerate(connections) if connection in readable]
    assert all(connections[n].recv(1) == b"" for n in found)
    return found


def open_connections(gateway):
    return int(re.search(r'^fula_connections{listener="s3"} (\d+)$', admin(gateway, "/metrics"), re.M)[1])


def test_connections_are_limited_and_idle_ones_make_room(tmp_path):
    gateway = Gateway(tmp_path / "data", "--connections", "40").start(
        {"FULA_CONNECTIONS_PER_ADDRESS": "40"}
    )
    host, port = gateway.listen.split(":")
    held = [socket.create_connection((host, int(port)), timeout=120) for _ in range(60)]
    # Those that found none idle long enough, and those that made room for others.
    closed(held, 20)
    assert admin(gateway, "/healthz") == "ok\n"
    eventually(lambda: open_connections(gateway) == 40)
    # An idle one makes room for a client that works.
    s3 = gateway.client(retries={"total_max_attempts": 20, "mode": "standard"})
    s3.create_bucket(Bucket="bucket")
    assert len(closed(held, 21)) < 60
    log = gateway.data_dir.with_suffix(".log").read_text()
    assert log.count("the limit of connections") == 1
    gateway.stop()


def test_file_descriptors_are_kept_for_health(tmp_path):
    """Far more connections than the process may open files."""
    gateway = Gateway(tmp_path / "data", "--connections-per-address", "10000")
    gateway.program = ["prlimit", "--nofile=200:200", *gateway.program]
    gateway.start()
    host, port = gateway.listen.split(":")
    held = [socket.create_connection((host, int(port)), timeout=120) for _ in range(400)]
    closed(held, 250)
    for _ in range(20):
        assert admin(gateway, "/healthz") == "ok\n"
    # Connections that come slowly find idle ones. Then several of them make room at a time.
    eventually(lambda: open_connections(gateway) <= 150)
    assert open_connections(gateway) > 140
    gateway.client(retries={"total_max_attempts": 20, "mode": "standard"}).create_bucket(Bucket="bucket")
    gateway.stop()


def test_virtual_hosts(tmp_path):
    gateway = Gateway(tmp_path / "data", "--domain", "s3.test").start()
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    # A host that is a bucket has no routes of ours, and any key.
    for key in ["k", "fula/capabilities"]:
        assert send(gateway, "PUT", f"/{key}", b"x", host="bucket.s3.test")[0] == 200
        assert send(gateway, "GET", f"/{key}", host="bucket.s3.test")[2] == b"x"
    assert s3.get_object(Bucket="bucket", Key="fula/capabilities")["Body"].read() == b"x"
    # Case, port and a dot at the end do not matter: not for the bucket, nor for the signature.
    def get(path, host):
        connection = http.client.HTTPConnection(gateway.listen, timeout=120)
        headers = signed_headers(gateway.credentials(), host, "GET", path)
        connection.request("GET", path, headers=headers)
        return connection.getresponse().read()

    for host in ["BUCKET.S3.Test", "bucket.s3.test.", "bucket.s3.test:1234", "Bucket.s3.test.:80"]:
        assert get("/k", host) == b"x", host
    # Any other host means path style.
    for host in ["s3.test", "S3.TEST.", "localhost", "gateway.example", "a_name", "bucket.s3.test.evil"]:
        assert get("/bucket/k", host) == b"x", host
    assert b"remoteCidPut" in send(gateway, "GET", "/fula/capabilities")[2]
    gateway.stop()


def test_signed_chunks(gateway, s3, bucket):
    """STREAMING-AWS4-HMAC-SHA256-PAYLOAD as older SDKs send it, and with a chunk tampered with."""
    import hmac

    key_id, secret = gateway.credentials()
    chunks = [b"a" * 65_536, b"b" * 65_536, b"end", b""]
    length = sum(len(chunk) for chunk in chunks)

    def put(tamper, trailing=False):
        mode = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailing else "")

        class Signer(botocore.auth.S3SigV4Auth):
            def payload(self, request):
                return mode

        url = f"{gateway.url}/{bucket}/chunked"
        headers = {"x-amz-decoded-content-length": str(length), "content-encoding": "aws-chunked"}
        if trailing:
            headers["x-amz-trailer"] = "x-amz-checksum-crc32"
        request = botocore.awsrequest.AWSRequest("PUT", url, headers=headers)
        credentials = botocore.credentials.Credentials(key_id, secret)
        Signer(credentials, "s3", "us-east-1").add_auth(request)
        signature = request.headers["Authorization"].rsplit("Signature=", 1)[1]
        date = request.headers["X-Amz-Date"]
        scope = f"{date[:8]}/us-east-1/s3/aws4_request"
        key = f"AWS4{secret}".encode()
        for part in [date[:8], "us-east-1", "s3", "aws4_request"]:
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        body, empty = b"", hashlib.sha256(b"").hexdigest()
        for chunk in chunks:
            text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", date, scope, signature, empty,
                              hashlib.sha256(chunk).hexdigest()])
            signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
            body += f"{len(chunk):x};chunk-signature={signature}\r\n".encode()
            body += chunk + b"\r\n" if chunk or not trailing else b""
        if trailing:
            crc = base64.b64encode(zlib.crc32(b"".join(chunks)).to_bytes(4, "big")).decode()
            trailer = f"x-amz-checksum-crc32:{crc}\n".encode()
            text = "\n".join(["AWS4-HMAC-SHA256-TRAILER", date, scope, signature,
                              hashlib.sha256(trailer).hexdigest()])
            signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
            if tamper == "trailer":
                crc = "AAAAAA=="
            body += f"x-amz-checksum-crc32:{crc}\r\n".encode()
            body += f"x-amz-trailer-signature:{signature}\r\n\r\n".encode()
        if tamper is True:
            body = body.replace(b"bbbb", b"bbbc", 1)
        connection = http.client.HTTPConnection(gateway.listen, timeout=120)
        connection.request("PUT", f"/{bucket}/chunked", body, dict(request.headers))
        response = connection.getresponse()
        return response.status, response.read()

    status, answer = put(tamper=True)
    assert status == 403 and b"SignatureDoesNotMatch" in answer
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="chunked")
    status, answer = put(tamper="trailer", trailing=True)
    assert status == 403 and b"SignatureDoesNotMatch" in answer
    assert put(tamper=True, trailing=True)[0] == 403
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="chunked")
    assert put(tamper=False, trailing=True)[0] == 200
    assert put(tamper=False)[0] == 200
    got = s3.get_object(Bucket=bucket, Key="chunked")
    assert got["Body"].read() == b"".join(chunks) and "ContentEncoding" not in got


def test_many_silent_connections_do_not_stop_the_others(gateway, s3, bucket):
    host, port = gateway.listen.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    started = time.monotonic()
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    # The silent ones have 30 seconds for their headers.
    assert time.monotonic() - started < 20
    for connection in silent:
        connection.close()


@pytest.mark.parametrize(
    "method,path,extra",
    [
        ("POST", "/bucket?delete", ""),
        ("POST", "/bucket?d%65lete", ""),
        ("POST", "/bucket?delete", "content-encoding: aws-chunked\r\n"),
        ("PUT", "/other", ""),
        ("PUT", "/bucket?policy", ""),
    ],
)
def test_strangers_and_the_slow_keep_nobody_out(tmp_path, method, path, extra):
    """Strangers are refused before their body, and whoever holds memory without going on loses it."""
    gateway = Gateway(tmp_path / "data").start({"FULA_BODY_BYTES": "3M"})
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    host, port = gateway.listen.split(":")

    def begin(method, path, length, extra=""):
        connection = socket.create_connection((host, int(port)), timeout=120)
        head = f"{method} {path} HTTP/1.1\r\nhost: {gateway.listen}\r\ncontent-length: {length}\r\n"
        connection.sendall(f"{head}{extra}\r\n".encode())
        return connection

    # The rest of its body never comes, and nobody waits for it.
    stranger = begin(method, path, 4_000_000, extra)
    stranger.sendall(b"<Delete>")
    assert b" 403 " in stranger.recv(4096).split(b"\r\n")[0]
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "slow"})
    slow = begin("PUT", url.removeprefix(gateway.url), 8 * MIB)
    sent = []

    def trickle():
        try:
            while len(sent) < 600:
                slow.sendall(bytes(100))
                sent.append(100)
                time.sleep(0.1)
        except OSError:
            pass
        ended.append(time.monotonic())

    ended, began = [], time.monotonic()
    thread = threading.Thread(target=trickle)
    thread.start()
    while not sent:
        time.sleep(0.01)
    # Both need more than there is beside the slow one.
    s3.put_object(Bucket="bucket", Key="quick", Body=pattern(2 * MIB))
    keys = [{"Key": f"a key that is as long as this one {n}"} for n in range(400)]
    assert len(s3.delete_objects(Bucket="bucket", Delete={"Objects": keys})["Deleted"]) == 400
    thread.join(timeout=60)
    # It was not refused at once: it had five seconds to go on.
    assert not thread.is_alive() and len(sent) < 600 and ended[0] - began > 3
    assert "\nfula_memory_hangups_total 1\n" in admin(gateway, "/metrics")
    with Refused("NoSuchKey", 404):
        s3.get_object(Bucket="bucket", Key="slow")
    gateway.stop()


def test_a_page_that_nobody_reads_keeps_nobody_out(tmp_path):
    gateway = Gateway(tmp_path / "data").start({"FULA_BODY_BYTES": "5M"})
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    # Three times as long in a listing: more than the sockets take.
    for n in range(1000):
        s3.put_object(Bucket="bucket", Key=f"{n:03}" + "&" * 1000)
    host, port = gateway.listen.split(":")
    unread = socket.socket()
    unread.settimeout(120)
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    unread.connect((host, int(port)))
    url = s3.generate_presigned_url("list_objects_v2", Params={"Bucket": "bucket"})
    path = url.removeprefix(gateway.url)
    unread.sendall(f"GET {path} HTTP/1.1\r\nhost: {gateway.listen}\r\n\r\n".encode())
    head = unread.recv(1024)
    assert head.startswith(b"HTTP/1.1 200")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert length > 3_000_000

    # Two such answers do not fit, until the first is found to stand still.
    once = gateway.client(retries={"total_max_attempts": 1})
    with Refused("SlowDown", 503):
        once.list_objects_v2(Bucket="bucket")
    assert s3.list_objects_v2(Bucket="bucket", MaxKeys=10)["KeyCount"] == 10

    def fits():
        try:
            return once.list_objects_v2(Bucket="bucket")["KeyCount"] == 1000
        except once.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "SlowDown"

    eventually(fits)
    read = len(head)
    try:
        while part := unread.recv(1 << 20):
            read += len(part)
    except ConnectionResetError:
        pass
    assert read < length
    gateway.stop()


def test_a_stranger_who_sends_slowly_holds_no_space_back(own_gateway):
    gateway, s3 = own_gateway, own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    host, port = gateway.listen.split(":")
    stranger = socket.create_connection((host, int(port)), timeout=120)
    head = f"PUT /bucket/k HTTP/1.1\r\nhost: {gateway.listen}\r\ncontent-length: 1000000\r\n\r\n"
    stranger.sendall(head.encode() + bytes(1000))
    s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    begun = time.monotonic()
    done = json.loads(gateway.fula("gc", "--now", "--retention", "0s", "--json").stdout)
    # It waits for writes for ten seconds. A gateway of its own has almost nothing to collect.
    assert not done["collection"]["held_back"] and time.monotonic() - begun < 10
    # They are told no all the same, though they never send the rest. A client that may write has a minute.
    assert b"AccessDenied" in stranger.recv(4096)
    assert time.monotonic() - begun < 30


def test_xml_in_chunks_is_refused_and_an_escaped_path_is_an_object(gateway, s3, bucket, object):
    xml = b"<Delete><Object><Key>k</Key></Object></Delete>"
    crc = base64.b64encode(zlib.crc32(xml).to_bytes(4, "big"))
    framed = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (len(xml), xml, crc)
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(xml)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    status, _, answer = send(gateway, "POST", f"/{bucket}?delete", framed, headers, payload)
    assert status == 501 and b"aws-chunked" in answer
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"
    # An object, and more than XML may be.
    body = pattern(5 * MIB)
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    connection = http.client.HTTPConnection(gateway.listen, timeout=120)
    connection.request("PUT", url.removeprefix(gateway.url).replace(f"{bucket}/k", f"{bucket}%2Fk"), body)
    assert connection.getresponse().status == 200
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
