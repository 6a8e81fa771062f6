"""Encryption at rest (SSE-S3): every form of asking for it, and what is on the disk."""

import hashlib
import json
import re
import subprocess
import urllib.request

import botocore.exceptions
import pytest

from conftest import FULA, Gateway
from helpers import MIB, Refused, pattern
from masters import federation
from test_answers import signed
from test_cars import signed_car
from test_forms import post, signed_form
from test_operations import flip
from test_signatures import told

AES = "AES256"
CHUNK = 65520
LEAF = 16 * CHUNK
RULE = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": AES}, "BucketKeyEnabled": False}]}


def encrypted(answer):
    return answer.get("ServerSideEncryption") == AES


def read(s3, bucket, key="k", **more):
    got = s3.get_object(Bucket=bucket, Key=key, **more)
    return got["Body"].read(), got


def upload(s3, bucket, parts, key="k", **more):
    """Makes an object of parts, of which some are copied."""
    begun = s3.create_multipart_upload(Bucket=bucket, Key=key, **more)
    place, done = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}, []
    for number, part in enumerate(parts, 1):
        if isinstance(part, bytes):
            answer = s3.upload_part(**place, PartNumber=number, Body=part)
            etag = answer["ETag"]
        else:
            answer = s3.upload_part_copy(**place, PartNumber=number, **part)
            etag = answer["CopyPartResult"]["ETag"]
        assert encrypted(answer) == encrypted(begun)
        done.append({"PartNumber": number, "ETag": etag})
    return begun, s3.complete_multipart_upload(**place, MultipartUpload={"Parts": done})


@pytest.fixture
def vault(s3, bucket):
    """A bucket that encrypts by default."""
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=RULE)
    return bucket


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, LEAF - 1, LEAF, LEAF + 1, MIB, 3 * MIB + 77])
def test_an_object_is_what_was_put(s3, bucket, length):
    body = pattern(length)
    put = s3.put_object(Bucket=bucket, Key="k", Body=body, ServerSideEncryption=AES, ChecksumAlgorithm="SHA256")
    plain = s3.put_object(Bucket=bucket, Key="plain", Body=body, ChecksumAlgorithm="SHA256")
    assert encrypted(put) and "ServerSideEncryption" not in plain
    assert (put["ETag"], put["ChecksumSHA256"]) == (plain["ETag"], plain["ChecksumSHA256"])
    found, got = read(s3, bucket, ChecksumMode="ENABLED")
    assert found == body and encrypted(got) and got["ContentLength"] == length
    assert got["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    head = s3.head_object(Bucket=bucket, Key="k")
    assert encrypted(head) and head["ContentLength"] == length
    assert [line["Size"] for line in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [length] * 2


def test_ranges_over_the_borders_of_chunks(s3, bucket):
    body = pattern(2 * LEAF + 5)
    s3.put_object(Bucket=bucket, Key="k", Body=body, ServerSideEncryption=AES)
    for at in [0, CHUNK, 5 * CHUNK, LEAF, 2 * LEAF, len(body) - 1]:
        for length in [1, 2, 3, CHUNK, CHUNK + 1, LEAF + 2]:
            first = max(at - 1, 0)
            found, got = read(s3, bucket, Range=f"bytes={first}-{first + length - 1}")
            assert found == body[first:first + length], (first, length)
            assert encrypted(got) and got["ContentRange"].endswith(f"/{len(body)}")
    assert read(s3, bucket, Range="bytes=-7")[0] == body[-7:]
    with Refused("InvalidRange", 416):
        read(s3, bucket, Range=f"bytes={len(body)}-")


def test_a_bucket_encrypts_by_default(gateway, s3, bucket, signed_form):
    with Refused("ServerSideEncryptionConfigurationNotFoundError", 404):
        s3.get_bucket_encryption(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="before", Body=b"x")
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=RULE)
    assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"] == RULE
    assert encrypted(s3.put_object(Bucket=bucket, Key="k", Body=b"by default"))
    assert post(gateway, bucket, signed_form("form"))[1]["x-amz-server-side-encryption"] == AES
    assert encrypted(s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/before"))
    assert encrypted(upload(s3, bucket, [b"part"], "parts")[1])
    commit = {"changes": [{"put": {"key": "commit", "text": "of several keys"}}]}
    assert signed(gateway, "POST", f"/{bucket}?fula-commit", json.dumps(commit).encode())[0] == 200
    for key, body in [("k", b"by default"), ("form", b"content"), ("copy", b"x"), ("parts", b"part"),
                      ("commit", b"of several keys")]:
        found, got = read(s3, bucket, key)
        assert (found, encrypted(got)) == (body, True), key
    # What was there stays as it is.
    assert not encrypted(read(s3, bucket, "before")[1])
    s3.delete_bucket_encryption(Bucket=bucket)
    assert not encrypted(s3.put_object(Bucket=bucket, Key="after", Body=b"x"))
    assert encrypted(read(s3, bucket)[1])


def test_forms_ask_for_encryption(gateway, s3, bucket, signed_form):
    name = "x-amz-server-side-encryption"
    status, headers, _ = post(gateway, bucket, signed_form("k", {name: AES}, [{name: AES}]))
    assert (status, headers[name]) == (204, AES)
    assert read(s3, bucket)[0] == b"content"


def test_parts(s3, bucket):
    source = pattern(6 * MIB, 9)
    s3.put_object(Bucket=bucket, Key="plain", Body=source)
    s3.put_object(Bucket=bucket, Key="sealed", Body=source, ServerSideEncryption=AES)
    for more in [{"ServerSideEncryption": AES}, {}]:
        parts = [pattern(5 * MIB + 3, 1), {"CopySource": f"{bucket}/plain"}, {"CopySource": f"{bucket}/sealed"},
                 {"CopySource": f"{bucket}/sealed", "CopySourceRange": f"bytes=1-{5 * MIB + 1}"}, pattern(70_000, 2)]
        begun, done = upload(s3, bucket, parts, **more)
        assert encrypted(begun) == encrypted(done) == bool(more)
        pieces = [parts[0], source, source, source[1:5 * MIB + 2], parts[-1]]
        body = b"".join(pieces)
        found, got = read(s3, bucket)
        assert found == body and encrypted(got) == bool(more)
        md5s = b"".join(hashlib.md5(piece).digest() for piece in pieces)
        assert got["ETag"] == done["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-5"'
        for number, piece in enumerate(pieces, 1):
            found, got = read(s3, bucket, PartNumber=number)
            assert found == piece and got["PartsCount"] == 5
        at = len(parts[0]) + len(source) - 3
        assert read(s3, bucket, Range=f"bytes={at}-{at + 5}")[0] == body[at:at + 6]
        assert read(s3, bucket, Range=f"bytes=3-{len(body) - 3}")[0] == body[3:-2]


def test_copies_are_encrypted_or_not(s3, bucket):
    body, parts = pattern(2 * MIB, 1), [pattern(5 * MIB, 2), pattern(9, 3)]
    s3.put_object(Bucket=bucket, Key="plain", Body=body, Metadata={"m": "1"}, ChecksumAlgorithm="SHA1")
    assert encrypted(s3.copy_object(Bucket=bucket, Key="sealed", CopySource=f"{bucket}/plain", ServerSideEncryption=AES))
    cid = lambda key: s3.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]
    assert cid("sealed") != cid("plain")
    # The key is carried, so nothing is stored again.
    again = s3.copy_object(Bucket=bucket, Key="again", CopySource=f"{bucket}/sealed", ServerSideEncryption=AES)
    assert encrypted(again) and cid("again") == cid("sealed")
    assert not encrypted(s3.copy_object(Bucket=bucket, Key="opened", CopySource=f"{bucket}/sealed"))
    assert cid("opened") == cid("plain")
    want = s3.head_object(Bucket=bucket, Key="plain", ChecksumMode="ENABLED")
    for key in ["sealed", "again", "opened"]:
        found, got = read(s3, bucket, key, ChecksumMode="ENABLED")
        same = ["ETag", "Metadata", "ChecksumSHA1", "ContentLength"]
        assert found == body and [got[name] for name in same] == [want[name] for name in same]
    # Onto itself, which changes nothing else; with another checksum; and what has parts.
    s3.copy_object(Bucket=bucket, Key="plain", CopySource=f"{bucket}/plain", ServerSideEncryption=AES)
    assert read(s3, bucket, "plain")[0] == body and encrypted(read(s3, bucket, "plain")[1])
    s3.copy_object(Bucket=bucket, Key="sums", CopySource=f"{bucket}/plain", ServerSideEncryption=AES,
                   ChecksumAlgorithm="SHA256")
    assert "ChecksumSHA256" in read(s3, bucket, "sums", ChecksumMode="ENABLED")[1]
    upload(s3, bucket, parts, "parts", ServerSideEncryption=AES)
    etag = s3.head_object(Bucket=bucket, Key="parts")["ETag"]
    for key, more in [("parts-opened", {}), ("parts-sealed", {"ServerSideEncryption": AES})]:
        s3.copy_object(Bucket=bucket, Key=key, CopySource=f"{bucket}/parts", **more)
        found, got = read(s3, bucket, key)
        assert (found, got["ETag"], encrypted(got)) == (b"".join(parts), etag, bool(more))
        assert read(s3, bucket, key, PartNumber=2)[0] == parts[1]
    s3.copy_object(Bucket=bucket, Key="parts-back", CopySource=f"{bucket}/parts-opened", ServerSideEncryption=AES)
    found, got = read(s3, bucket, "parts-back", PartNumber=1)
    assert (found, got["ETag"], encrypted(got)) == (parts[0], etag, True)


def test_appends_renames_versions_and_tags(gateway, s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    pieces = [pattern(MIB + 9, 1), b"", pattern(CHUNK, 2), b"z", pattern(2 * MIB, 3)]
    body = b""
    for piece in pieces:
        put = s3.put_object(Bucket=bucket, Key="k", Body=piece, WriteOffsetBytes=len(body), ServerSideEncryption=AES)
        body += piece
        found, got = read(s3, bucket)
        assert found == body and encrypted(got) and encrypted(put)
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    renamed = signed(gateway, "PUT", f"/{bucket}/renamed?renameObject", headers={"x-amz-rename-source": "k"})
    assert renamed[0] == 200, renamed
    assert read(s3, bucket, "renamed")[0] == body
    versions = [line["VersionId"] for line in s3.list_object_versions(Bucket=bucket, Prefix="k")["Versions"]]
    sizes = [len(read(s3, bucket, VersionId=version)[0]) for version in versions]
    assert sizes[-1] == len(pieces[0])
    # An upload in parts grows, and so does a copy of one body with several parts.
    first = pattern(5 * MIB, 4)
    upload(s3, bucket, [first, b"end"], "parts", ServerSideEncryption=AES)
    s3.copy_object(Bucket=bucket, Key="plain", CopySource=f"{bucket}/parts")
    s3.copy_object(Bucket=bucket, Key="one", CopySource=f"{bucket}/plain", ServerSideEncryption=AES)
    for key in ["parts", "one", "plain"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b" more", WriteOffsetBytes=len(first) + 3)
        assert read(s3, bucket, key)[0] == first + b"end more"
    with Refused("InvalidRequest", 400):
        s3.put_object(Bucket=bucket, Key="plain", Body=b"x", WriteOffsetBytes=len(first) + 8, ServerSideEncryption=AES)


def test_headers_that_are_refused(gateway, s3, bucket):
    name = "x-amz-server-side-encryption"
    customer = f"{name}-customer-algorithm"
    put = lambda headers, **more: told(signed(gateway, "PUT", f"/{bucket}/k", b"x", headers, **more))[:2]
    assert put({name: "AES128"}) == (400, "InvalidArgument")
    assert put({name: AES, f"{name}-aws-kms-key-id": "k"}) == (400, "InvalidArgument")
    assert put({name: AES, customer: AES}) == (400, "InvalidArgument")
    for headers in [{name: "aws:kms"}, {name: "aws:kms:dsse"}, {customer: AES}]:
        assert put(headers) == (501, "NotImplemented")
    with Refused("NoSuchKey", 404):
        read(s3, bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption=AES)
    for method in ["GET", "HEAD"]:
        answer = signed(gateway, method, f"/{bucket}/k", headers={name: AES})
        assert answer[0] == 400
    assert told(signed(gateway, "GET", f"/{bucket}/k", headers={name: AES}))[1] == "InvalidArgument"
    assert told(signed(gateway, "GET", f"/{bucket}/k", headers={customer: AES}))[:2] == (400, "InvalidRequest")
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = signed(gateway, "PUT", f"/{bucket}/k?partNumber=1&uploadId={begun}", b"x", {name: AES})
    assert told(part)[:3] == (400, "InvalidArgument", f"{name} header is not supported for this operation.")


def test_configurations_that_are_refused(s3, bucket):
    def put(algorithm, **more):
        default = {"SSEAlgorithm": algorithm, **more}
        rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=rules)
    with Refused("NotImplemented", 501):
        put("aws:kms")
    with Refused("MalformedXML", 400):
        put("AES128")
    with Refused("InvalidArgument", 400):
        put(AES, KMSMasterKeyID="k")
    with Refused("ServerSideEncryptionConfigurationNotFoundError", 404):
        s3.get_bucket_encryption(Bucket=bucket)


def test_a_policy_can_ask_for_encryption(s3, bucket):
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*",
                 "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": AES}}}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    with Refused("AccessDenied", 403):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption=AES)


def on_disk(directory, needle):
    return any(needle in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_nothing_of_the_content_is_on_the_disk(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    secret = b"the secret that nobody may read on the disk"
    body = secret + pattern(CHUNK) + secret + pattern(2 * MIB) + secret
    s3.put_object(Bucket="bucket", Key="k", Body=body, ServerSideEncryption=AES)
    s3.put_object(Bucket="bucket", Key="small", Body=secret, ServerSideEncryption=AES)
    upload(s3, "bucket", [body[:1] * (5 * MIB) + secret, secret], "parts", ServerSideEncryption=AES)
    s3.put_object(Bucket="bucket", Key="small", Body=secret, WriteOffsetBytes=len(secret))
    assert not on_disk(own_gateway.data_dir, secret[:16])
    # A CAR file of the bucket has ciphertext too, and the check needs no key.
    with urllib.request.urlopen(signed_car(own_gateway, "bucket")) as answer:
        assert secret[:16] not in answer.read()
    assert own_gateway.fula("fsck").stdout.endswith("0 problems\n")
    s3.put_object(Bucket="bucket", Key="plain", Body=secret)
    assert on_disk(own_gateway.data_dir, secret[:16]), "the search finds it where it is"


def test_flipped_bits_are_never_served(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    body = pattern(2 * MIB)
    s3.put_object(Bucket="bucket", Key="k", Body=body, ServerSideEncryption=AES)
    s3.put_object(Bucket="bucket", Key="other", Body=pattern(2 * MIB, 2), ServerSideEncryption=AES)
    own_gateway.stop()
    flip(next((own_gateway.data_dir / "log").glob("bulk-*.log")), 300_000)
    assert own_gateway.fula("fsck", check=False).returncode == 1
    own_gateway.start()
    with Refused("InternalError", 500):
        read(s3, "bucket")
    assert read(s3, "bucket", Range=f"bytes={LEAF + 1}-")[0] == body[LEAF + 1:]


def test_a_gateway_without_the_key_says_so(tmp_path):
    """A key is added, and objects are served by gateways that have theirs."""
    keys = tmp_path / "secrets.key"
    subprocess.run([FULA, "secrets", "keygen", keys], check=True, capture_output=True)
    first = keys.read_text()
    env = {"FULA_SECRETS_KEY_FILE": str(keys)}
    with Gateway(tmp_path / "data").start(env=env) as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="old", Body=b"old", ServerSideEncryption=AES)
        gateway.stop()
        keys.write_text(first + "ab" * 32 + "\n")
        gateway.start(env=env)
        s3.put_object(Bucket="bucket", Key="new", Body=b"new", ServerSideEncryption=AES)
        assert [read(s3, "bucket", key)[0] for key in ("old", "new")] == [b"old", b"new"]
        gateway.stop()
        keys.write_text(first)
        gateway.start(env=env)
        assert read(s3, "bucket", "old")[0] == b"old"
        with Refused("ServiceUnavailable", 503) as refused:
            read(s3, "bucket", "new")
        text = refused.response["Error"]["Message"]
        assert "FULA_SECRETS_KEY_FILE" in text and re.search(r"under the key [0-9a-f]{16},", text)
        assert encrypted(s3.head_object(Bucket="bucket", Key="new"))
        s3.delete_object(Bucket="bucket", Key="new")


def test_masters_share_the_keys(federation):
    first = federation.gateway("first").client()
    second = federation.gateway("second").client(key=federation.gateways[0].credentials())
    first.create_bucket(Bucket="bucket")
    second.put_object(Bucket="bucket", Key="plain", Body=b"x")
    first.put_bucket_encryption(Bucket="bucket", ServerSideEncryptionConfiguration=RULE)
    # The other master knows an older state. The commit finds out, and the client sends it once more.
    body = pattern(3 * MIB)
    for attempt in range(2):
        try:
            put = second.put_object(Bucket="bucket", Key="k", Body=body)
            break
        except botocore.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "SlowDown" and attempt == 0
    assert encrypted(put) and read(first, "bucket")[0] == body
    assert not on_disk(federation.tmp / "blocks", body[:32])
