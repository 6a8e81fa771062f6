"""Hundreds of requests that must change nothing. After each of them a good request is answered on the same
connection, and every bucket is at the version at which it was."""

import base64
import gzip
import http.client
import itertools
import json
import zlib

import pytest

from conftest import Gateway
from signing import now, presigned, quote, signed_headers

BUCKET, PUBLIC = "/abused", "/public"
OBJECT, UPLOADED = f"{BUCKET}/k", f"{BUCKET}/uploaded"

# Subresources of S3 and parameters that are none; those that are offered somewhere stand apart.
UNOFFERED = """abac accelerate acl analytics annotation attributes cors encryption intelligent-tiering inventory
legal-hold lifecycle logging metadataConfiguration metadataTable metrics notification object-lock
ownershipControls publicAccessBlock renameObject replication requestPayment restore retention select
session tagging torrent versioning versions website x-amz-acl x-amz-meta-a x-amz-tagging unknown Policy DELETE
polic%2579 %00 x-note""".split()
OFFERED = """policy policyStatus location uploads uploadId=x partNumber=1 versionId=abc delete fula-commit fula-list
fula-changes list-type=2 prefix=k max-keys=1 response-expires=x""".split()
# What of these is the operation itself, and not abuse.
RIGHT = {
    ("PUT", BUCKET, "policy"), ("DELETE", BUCKET, "policy"), ("POST", BUCKET, "delete"),
    ("POST", BUCKET, "fula-commit"), ("POST", OBJECT, "uploads"), ("DELETE", OBJECT, "tagging"),
    *(("DELETE", BUCKET, name) for name in
      ["cors", "encryption", "lifecycle", "ownershipControls", "publicAccessBlock", "replication", "tagging", "website"]),
}
DELETE_K = b"<Delete><Object><Key>k</Key></Object></Delete>"


class World:
    """A gateway with something to destroy in it."""

    def __init__(self, tmp):
        self.gateway = Gateway(tmp / "data").start(env={"FULA_EIP712_AUTH": "on"})
        self.s3 = self.gateway.client()
        self.key, self.host = self.gateway.credentials(), self.gateway.listen
        for name in [BUCKET, PUBLIC]:
            self.s3.create_bucket(Bucket=name[1:])
            self.s3.put_object(Bucket=name[1:], Key="k", Body=b"kept")
        statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::public/*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.s3.put_bucket_policy(Bucket="public", Policy=policy)
        self.upload = self.s3.create_multipart_upload(Bucket="abused", Key="uploaded")["UploadId"]
        self.s3.upload_part(Bucket="abused", Key="uploaded", UploadId=self.upload, PartNumber=1, Body=b"part")
        self.connection = None

    def versions(self):
        """The version of each bucket, in the answer of a good request on the same connection."""
        found = {}
        for name in [BUCKET, PUBLIC]:
            status, headers, _ = self.send("HEAD", name, self.sign("HEAD", name))
            assert status == 200
            found[name] = headers["x-fula-version"]
        status, _, body = self.send("GET", "/", self.sign("GET", "/"))
        assert status == 200
        return found, body.count(b"<Bucket>")

    def sign(self, method, target, body=b"", headers=None, **how):
        return signed_headers(self.key, self.host, method, target, body, headers, **how)

    def send(self, method, target, headers, body=b""):
        """Sends a request as it is, on the connection that is open, and reads the answer."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.host, timeout=120)
        connection = self.connection
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        headers = {"host": self.host, **headers}
        framed = {"content-length", "transfer-encoding"} & {name.lower() for name in headers}
        if not framed and (body or method in ["PUT", "POST"]):
            headers["content-length"] = str(len(body))
        for name, value in headers.items():
            for line in value if isinstance(value, list) else [value]:
                connection.putheader(name, line)
        connection.endheaders()
        connection.send(body)
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        if answer.will_close:
            connection.close()
            self.connection = None
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("abuse"))
    yield world
    assert world.s3.get_object(Bucket="abused", Key="k")["Body"].read() == b"kept"
    assert len(world.s3.list_parts(Bucket="abused", Key="uploaded", UploadId=world.upload)["Parts"]) == 1
    world.gateway.stop()


def subresources():
    """Every parameter with every method that changes something, on a bucket and on an object."""
    for method, target, name in itertools.product(["PUT", "POST", "DELETE"], [BUCKET, OBJECT], UNOFFERED + OFFERED):
        if (method, target, name) not in RIGHT:
            yield f"{method} {target}?{name}", lambda w, m=method, t=f"{target}?{name}": (m, t, w.sign(m, t), b"")
    for method, name in itertools.product(["PUT", "DELETE"], ["", "?policy", "?delete", "?acl"]):
        yield f"{method} /{name}", lambda w, m=method, t=f"/{name}": (m, t, w.sign(m, t), b"")
    for query in ["uploadId=a&uploadId=b", "uploadId=x&acl", "policy&policy", "versionId=null&versionId=null"]:
        for target in [BUCKET, OBJECT]:
            yield f"DELETE {target}?{query}", lambda w, t=f"{target}?{query}": ("DELETE", t, w.sign("DELETE", t), b"")
    for method in ["PATCH", "OPTIONS", "TRACE", "COPY", "LOCK", "MKCOL", "put", "delete"]:
        yield f"{method} {OBJECT}", lambda w, m=method: (m, OBJECT, w.sign(m, OBJECT), b"")


def writes():
    """Requests that would change something if they were allowed."""
    commit = json.dumps({"changes": [{"delete": {"key": "k"}}]}).encode()
    yield "PUT", OBJECT, b"gone"
    yield "DELETE", OBJECT, b""
    yield "DELETE", BUCKET, b""
    yield "PUT", "/another", b""
    yield "POST", f"{BUCKET}?delete", DELETE_K
    yield "POST", f"{BUCKET}?fula-commit", commit
    yield "PUT", f"{BUCKET}?policy", b"{}"
    yield "DELETE", f"{PUBLIC}?policy", b""
    yield "POST", f"{BUCKET}/new?uploads", b""


def credentials():
    """Each write, with a credential that is wrong in one way."""

    def altered(change):
        def headers(w, method, target, body):
            found = w.sign(method, target, body)
            found["authorization"] = change(found["authorization"])
            return found
        return headers

    def query(**how):
        return lambda w, m, t, body: (m, presigned(w.key, w.host, m, t, **how), {}, body)

    wrong = {
        "no credential": lambda w, m, t, b: {},
        "an empty header": lambda w, m, t, b: {"authorization": ""},
        "another scheme": lambda w, m, t, b: {"authorization": "Basic YTpi"},
        "version 2": lambda w, m, t, b: {"authorization": f"AWS {w.key[0]}:AAAA", "date": now()},
        "a bearer that is none": lambda w, m, t, b: {"authorization": "Bearer abc.def.ghi"},
        "two headers": lambda w, m, t, b: (lambda h: {**h, "authorization": [h["authorization"], "Bearer x"]})(w.sign(m, t, b)),
        "host not signed": lambda w, m, t, b: w.sign(m, t, b, signed=["x-amz-content-sha256", "x-amz-date"]),
        "nothing signed": lambda w, m, t, b: w.sign(m, t, b, signed=[]),
        "service sts": lambda w, m, t, b: w.sign(m, t, b, service="sts"),
        "service iam": lambda w, m, t, b: w.sign(m, t, b, service="iam"),
        "an hour old": lambda w, m, t, b: w.sign(m, t, b, date=now(-3600)),
        "an hour ahead": lambda w, m, t, b: w.sign(m, t, b, date=now(3600)),
        "another secret": lambda w, m, t, b: signed_headers((w.key[0], "x" * 40), w.host, m, t, b),
        "an unknown key": lambda w, m, t, b: signed_headers(("AKIA" + "X" * 16, w.key[1]), w.host, m, t, b),
        "another path": lambda w, m, t, b: w.sign(m, t + "x", b),
        "another method": lambda w, m, t, b: w.sign("GET", t, b),
        "another host": lambda w, m, t, b: {**signed_headers(w.key, "elsewhere", m, t, b), "host": w.host},
        "another body": lambda w, m, t, b: w.sign(m, t, b, payload="0" * 64),
        "an unsigned header": lambda w, m, t, b: {**w.sign(m, t, b), "x-amz-copy-source": "/public/k"},
        "another algorithm": altered(lambda a: a.replace("HMAC-SHA256", "HMAC-SHA512")),
        "no signature": altered(lambda a: a.split(", Signature")[0]),
        "a short signature": altered(lambda a: a[:-2]),
        "no signed headers": altered(lambda a: a.replace("SignedHeaders", "Signedheaders")),
        "no credential field": altered(lambda a: a.replace("Credential=", "Credentials=")),
    }
    presigned_wrong = {
        "expired": query(date=now(-600), expires="60"),
        "for too long": query(expires="99999999"),
        "for a negative time": query(expires="-1"),
        "without an expiry": query(Expires=None),
        "host not signed": query(headers={"x-amz-a": "b"}, signed=["x-amz-a"]),
        "nothing signed": query(signed=[]),
        "service sts": query(service="sts"),
        "another algorithm": query(Algorithm="AWS4-HMAC-SHA512"),
        "another path": lambda w, m, t, b: (m, presigned(w.key, w.host, m, "/x").replace("/x?", f"{t}{'&' if '?' in t else '?'}", 1), {}, b),
        "and a header": lambda w, m, t, b: (m, u := presigned(w.key, w.host, m, t), w.sign(m, u, b), b),
        "and a bearer": lambda w, m, t, b: (m, presigned(w.key, w.host, m, t), {"authorization": "Bearer abc"}, b),
    }
    for method, target, body in writes():
        for name, headers in wrong.items():
            if name == "another body" and not body:
                continue
            yield f"{method} {target}: {name}", lambda w, m=method, t=target, b=body, h=headers: (m, t, h(w, m, t, b), b)
        for name, build in presigned_wrong.items():
            yield f"{method} {target}: presigned, {name}", lambda w, m=method, t=target, b=body, f=build: f(w, m, t, b)


def bodies():
    """Signed requests whose body cannot be meant."""
    md5 = lambda byte: base64.b64encode(bytes([byte]) * 16).decode()
    entities = b'<!DOCTYPE d [<!ENTITY a "k">]><Delete><Object><Key>&a;</Key></Object></Delete>'
    for name, body, headers in [
        ("nothing", b"", {}),
        ("text", b"delete all", {}),
        ("bytes", bytes(range(256)), {}),
        ("not closed", DELETE_K[:-9], {}),
        ("another root", b"<Remove><Object><Key>k</Key></Object></Remove>", {}),
        ("CDATA", b"<Delete><Object><Key><![CDATA[k]]></Key></Object></Delete>", {}),
        ("entities", entities, {}),
        ("no keys", b"<Delete></Delete>", {}),
        ("too many keys", b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>", {}),
        ("deep", b"<Delete>" + b"<Object>" * 5000 + b"</Delete>", {}),
        ("gzip", gzip.compress(DELETE_K), {"content-encoding": "gzip"}),
        ("MD5", DELETE_K, {"content-md5": md5(0)}),
        ("short MD5", DELETE_K, {"content-md5": "AAAA"}),
        ("CRC32", DELETE_K, {"x-amz-checksum-crc32": "AAAAAA=="}),
        ("chunks", DELETE_K, {"content-encoding": "aws-chunked"}),
    ]:
        yield f"delete: {name}", lambda w, b=body, h=headers: (
            "POST", f"{BUCKET}?delete", w.sign("POST", f"{BUCKET}?delete", b, h), b)
    for name, body in [
        ("nothing", b""), ("text", b"x"), ("a list", b"[]"), ("no changes", b"{}"), ("null", b"null"),
        ("another field", b'{"changes": [], "also": 1}'), ("deep", b"[" * 5000),
        ("two bodies", b'{"changes": [{"put": {"key": "k", "text": "", "base64": ""}}]}'),
        ("no body", b'{"changes": [{"put": {"key": "k"}}]}'),
        ("bad base64", b'{"changes": [{"put": {"key": "k", "base64": "*"}}]}'),
        ("bad header", b'{"changes": [{"put": {"key": "k", "text": "", "metadata": {"a b": "c"}}}]}'),
        ("no key", b'{"changes": [{"delete": {"key": ""}}]}'),
        ("a long key", json.dumps({"changes": [{"delete": {"key": "k" * 2000}}]}).encode()),
        ("half wrong", b'{"changes": [{"delete": {"key": "k"}}, {"delete": {"key": "x", "ifMatch": "y"}}]}'),
        ("an upload that is none", b'{"changes": [{"put": {"key": "k", "upload": {"id": "x", "parts": []}}}]}'),
    ]:
        yield f"commit: {name}", lambda w, b=body: (
            "POST", f"{BUCKET}?fula-commit", w.sign("POST", f"{BUCKET}?fula-commit", b), b)
    for name, body in [
        ("nothing", b""), ("text", b"x"), ("no statement", b"{}"), ("deep", b"[" * 5000),
        ("unknown action", b'{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:Fly", "Resource": "arn:aws:s3:::abused/*"}}'),
        ("another bucket", b'{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::public/*"}}'),
        ("no principal", b'{"Statement": {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::abused/*"}}'),
        ("too long", b'{"Id": "' + b"x" * 30_000 + b'", "Statement": []}'),
    ]:
        yield f"policy: {name}", lambda w, b=body: (
            "PUT", f"{BUCKET}?policy", w.sign("PUT", f"{BUCKET}?policy", b), b)
    for name, body in [("nothing", b""), ("text", b"x"), ("no parts", b"<CompleteMultipartUpload></CompleteMultipartUpload>"),
                       ("another part", b"<CompleteMultipartUpload><Part><PartNumber>2</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>")]:
        def complete(w, b=body):
            target = f"{UPLOADED}?uploadId={quote(w.upload)}"
            return "POST", target, w.sign("POST", target, b), b
        yield f"complete: {name}", complete


def objects():
    """Signed writes of an object that contradict themselves."""
    crc = lambda body: base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    for name, headers, body in [
        ("a condition that fails", {"if-none-match": "*"}, b"x"),
        ("an ETag that is not there", {"if-match": '"0"'}, b"x"),
        ("a date on a write", {"if-unmodified-since": "Mon, 01 Jan 2001 00:00:00 GMT"}, b"x"),
        ("a checksum", {"x-amz-checksum-crc32": crc(b"y")}, b"x"),
        ("a malformed checksum", {"x-amz-checksum-crc32": "x"}, b"x"),
        ("MD5", {"content-md5": base64.b64encode(bytes(16)).decode()}, b"x"),
        ("a version of the bucket", {"x-fula-if-version": "1"}, b"x"),
        ("no version of the bucket", {"x-fula-if-version": "one"}, b"x"),
        ("another owner", {"x-amz-expected-bucket-owner": "123456789012"}, b"x"),
        ("a lock", {"x-amz-object-lock-mode": "GOVERNANCE"}, b"x"),
        ("too much metadata", {"x-amz-meta-a": "x" * 3000}, b"x"),
        ("a source that is none", {"x-amz-copy-source": "nowhere"}, b""),
        ("a source that is not there", {"x-amz-copy-source": "/abused/none"}, b""),
        ("a source of another version", {"x-amz-copy-source": "/public/k?versionId=1"}, b""),
    ]:
        yield f"PUT: {name}", lambda w, h=headers, b=body: ("PUT", OBJECT, w.sign("PUT", OBJECT, b, h), b)
    for key in ["%00", "a%01", "k" * 1025, "%ff", "a%EF%BF%BE"]:
        for method in ["PUT", "DELETE"]:
            yield f"{method}: key {key[:8]}", lambda w, m=method, t=f"{BUCKET}/{key}": (m, t, w.sign(m, t), b"")
    for bucket in ["A", "ab", "-abc", "abc-", "a..b", "192.0.2.1", "x" * 64, "a_b", "fula", "a%00b", "%2e%2e"]:
        yield f"PUT: bucket {bucket[:8]}", lambda w, t=f"/{bucket}": ("PUT", t, w.sign("PUT", t), b"")
    for target in ["//k", "///", "//abused/k"]:
        for method in ["PUT", "DELETE"]:
            yield f"{method} {target}", lambda w, m=method, t=target: (m, t, w.sign(m, t), b"")


def strangers():
    """What nobody in particular asks for."""
    for query in ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"]:
        for method in ["GET", "HEAD"]:
            yield f"{method}: response-{query}", lambda w, m=method, q=query: (m, f"{PUBLIC}/k?response-{q}=text/html", {}, b"")
    for target in ["/", BUCKET, OBJECT, f"{BUCKET}?policy", f"{BUCKET}?uploads", f"{UPLOADED}?uploadId=x", f"{PUBLIC}?policy"]:
        yield f"GET {target}", lambda w, t=target: ("GET", t, {}, b"")
    form = {"content-type": "application/x-www-form-urlencoded"}
    act = b"Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=me&RoleArn=arn:aws:iam::0:role/x"
    for name, body in [
        ("nothing", b""), ("bytes", bytes(range(256))), ("another action", b"Action=GetCallerIdentity"),
        ("no token", act), ("a token that is none", act + b"&WebIdentityToken=x"),
        ("twice", act + b"&Action=AssumeRole"), ("too long", act + b"&WebIdentityToken=" + b"x" * 40_000),
        ("a policy", act + b"&WebIdentityToken=x&Policy={}"), ("an ARN", act + b"&WebIdentityToken=x&PolicyArns.member.2.arn=a"),
        ("tags", act + b"&WebIdentityToken=x&Tags.member.1.Key=a"),
    ]:
        yield f"STS: {name}", lambda w, b=body: ("POST", "/", form, b)
    yield "a form", lambda w: ("POST", BUCKET, {"content-type": "multipart/form-data; boundary=b"}, b"--b--")
    for target in ["/fula/", "/fula/whoami", "/fula/none"]:
        yield f"POST {target}", lambda w, t=target: ("POST", t, {}, b"x")


CASES = [*subresources(), *credentials(), *bodies(), *objects(), *strangers()]


def test_there_are_many_cases():
    assert len({name for name, _ in CASES}) == len(CASES) >= 300


@pytest.mark.parametrize("case", [case for _, case in CASES], ids=[name for name, _ in CASES])
def test_nothing_comes_of(world, case):
    before = world.versions()
    status, headers, body = world.send(*case(world))
    assert 400 <= status < 500 or status == 501, (status, body)
    assert headers["x-amz-request-id"]
    # On the same connection, unless the gateway said that it ends.
    assert world.versions() == before
