"""boto3: multipart uploads."""

import base64
import hashlib
import io
import zlib

import boto3.s3.transfer
import pytest

from helpers import MIB, Refused, pattern


def begin(s3, bucket, key="k", **more):
    return s3.create_multipart_upload(Bucket=bucket, Key=key, **more)["UploadId"]


def upload(s3, bucket, upload_id, number, body, key="k", **more):
    part = s3.upload_part(
        Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body, **more
    )
    return {"PartNumber": number, "ETag": part["ETag"]}


def complete(s3, bucket, upload_id, parts, key="k", **more):
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}, **more
    )


def multipart_etag(bodies):
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(bodies)}"'


def test_an_upload_from_begin_to_end(s3, bucket):
    bodies = [pattern(5 * MIB, 1), pattern(6 * MIB + 3, 2), pattern(100, 3)]
    facts = {"ContentType": "a/b", "Metadata": {"m": "1"}}
    upload_id = begin(s3, bucket, **facts)
    # Parts arrive in any order, and one is sent twice.
    last = upload(s3, bucket, upload_id, 7, bodies[2])
    upload(s3, bucket, upload_id, 3, b"replaced")
    parts = [upload(s3, bucket, upload_id, 1, bodies[0]), upload(s3, bucket, upload_id, 3, bodies[1]), last]
    with Refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")
    done = complete(s3, bucket, upload_id, parts)
    assert done["ETag"] == multipart_etag(bodies)
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(bodies)
    assert (got["ContentType"], got["Metadata"], got["ETag"]) == ("a/b", {"m": "1"}, done["ETag"])
    # Completing again gives the same answer; anything else no longer finds the upload.
    assert complete(s3, bucket, upload_id, parts)["ETag"] == done["ETag"]
    with Refused("NoSuchUpload", 404):
        complete(s3, bucket, upload_id, parts[:2])
    with Refused("NoSuchUpload", 404):
        upload(s3, bucket, upload_id, 1, b"x")
    with Refused("NoSuchUpload", 404):
        s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id)
    # Ranges across parts, and single parts.
    whole = b"".join(bodies)
    edge = 5 * MIB
    got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={edge - 10}-{edge + 10}")
    assert got["Body"].read() == whole[edge - 10 : edge + 11]
    got = s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    assert got["Body"].read() == bodies[1]
    assert (got["PartsCount"], got["ResponseMetadata"]["HTTPStatusCode"]) == (3, 206)
    assert s3.head_object(Bucket=bucket, Key="k", PartNumber=3)["ContentLength"] == 100
    with Refused("416", 416):
        s3.head_object(Bucket=bucket, Key="k", PartNumber=4)


def test_what_cannot_be_completed(s3, bucket):
    upload_id = begin(s3, bucket)
    small = upload(s3, bucket, upload_id, 1, b"small")
    last = upload(s3, bucket, upload_id, 2, b"last")
    with Refused("EntityTooSmall", 400):
        complete(s3, bucket, upload_id, [small, last])
    with Refused("InvalidPartOrder", 400):
        complete(s3, bucket, upload_id, [last, small])
    with Refused("InvalidPart", 400):
        complete(s3, bucket, upload_id, [{"PartNumber": 9, "ETag": small["ETag"]}])
    with Refused("InvalidPart", 400):
        complete(s3, bucket, upload_id, [{"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}])
    with Refused("InvalidRequest", 400):
        complete(s3, bucket, upload_id, [small], MpuObjectSize=99)
    with Refused("NoSuchUpload", 404):
        complete(s3, bucket, "0" * 32, [small])
    with Refused("NoSuchUpload", 404):
        complete(s3, bucket, "nonsense", [small])
    with Refused("InvalidArgument", 400):
        upload(s3, bucket, upload_id, 10_001, b"x")
    # It still can be, rightly.
    assert complete(s3, bucket, upload_id, [small])["ETag"] == multipart_etag([b"small"])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"small"


def test_conditions_are_judged_at_completion(s3, bucket):
    upload_id = begin(s3, bucket)
    part = upload(s3, bucket, upload_id, 1, b"part")
    with Refused("NoSuchKey", 404):
        complete(s3, bucket, upload_id, [part], IfMatch='"x"')
    s3.put_object(Bucket=bucket, Key="k", Body=b"between")
    with Refused("PreconditionFailed", 412):
        complete(s3, bucket, upload_id, [part], IfNoneMatch="*")
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    with Refused("PreconditionFailed", 412):
        complete(s3, bucket, upload_id, [part], IfMatch='"x"')
    done = complete(s3, bucket, upload_id, [part], IfMatch=etag)
    # The repeat is the first answer, whatever has become of the condition.
    again = complete(s3, bucket, upload_id, [part], IfMatch=etag)
    assert again["ETag"] == done["ETag"]


def test_parts_and_uploads_are_listed(s3, bucket):
    ids = {key: begin(s3, bucket, key) for key in ["a/1", "a/2", "b"]}
    ids["b2"] = begin(s3, bucket, "b")
    for number in [1, 2, 5, 10_000]:
        upload(s3, bucket, ids["b"], number, b"x" * number, key="b")
    page = s3.list_parts(Bucket=bucket, Key="b", UploadId=ids["b"], MaxParts=3)
    assert [(p["PartNumber"], p["Size"]) for p in page["Parts"]] == [(1, 1), (2, 2), (5, 5)]
    assert (page["IsTruncated"], page["NextPartNumberMarker"]) == (True, 5)
    page = s3.list_parts(Bucket=bucket, Key="b", UploadId=ids["b"], PartNumberMarker=5)
    assert [p["PartNumber"] for p in page["Parts"]] == [10_000]

    listed = lambda **query: s3.list_multipart_uploads(Bucket=bucket, **query)
    names = lambda page: [(u["Key"], u["UploadId"]) for u in page.get("Uploads", [])]
    everything = [("a/1", ids["a/1"]), ("a/2", ids["a/2"]), ("b", ids["b"]), ("b", ids["b2"])]
    assert names(listed()) == everything
    assert names(listed(Prefix="a/")) == everything[:2]
    rolled = listed(Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["a/"]
    assert names(rolled) == everything[2:]
    found, marker = [], {}
    while True:
        page = listed(MaxUploads=1, **marker)
        found += names(page)
        if not page["IsTruncated"]:
            break
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert found == everything
    for key, upload_id in everything:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    assert names(listed()) == []
    with Refused("NoSuchUpload", 404):
        s3.list_parts(Bucket=bucket, Key="b", UploadId=ids["b"])


def test_parts_copied_from_objects(s3, bucket):
    body = pattern(12 * MIB + 5)
    s3.put_object(Bucket=bucket, Key="from", Body=body)
    source = {"Bucket": bucket, "Key": "from"}
    upload_id = begin(s3, bucket, "to")

    def copy(number, copy_range=None, **more):
        ranged = {"CopySourceRange": copy_range} if copy_range else {}
        part = s3.upload_part_copy(
            Bucket=bucket, Key="to", UploadId=upload_id, PartNumber=number, CopySource=source,
            **ranged, **more
        )
        return {"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]}

    parts = [copy(1), copy(2, f"bytes=0-{6 * MIB - 1}"), copy(3, f"bytes={6 * MIB}-{len(body) - 1}")]
    with Refused("InvalidArgument", 400) as refused:
        copy(4, f"bytes=0-{len(body)}")
    expected = f"Range specified is not valid for source object of size: {len(body)}"
    assert refused.response["Error"]["Message"] == expected
    with Refused("InvalidArgument", 400):
        copy(4, "bytes=-5")
    with Refused("PreconditionFailed", 412):
        copy(4, CopySourceIfMatch='"x"')
    complete(s3, bucket, upload_id, parts, key="to")
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == body + body


@pytest.mark.parametrize("algorithm, kind", [
    ("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("CRC32C", "FULL_OBJECT"),
    ("CRC64NVME", "FULL_OBJECT"), ("SHA256", "COMPOSITE"), ("SHA1", "COMPOSITE"), ("SHA512", "COMPOSITE"),
    ("XXHASH64", "COMPOSITE"), ("XXHASH3", "COMPOSITE"), ("XXHASH128", "COMPOSITE"),
])
def test_checksums_of_uploads(s3, bucket, algorithm, kind):
    bodies = [pattern(5 * MIB, 1), pattern(77, 2)]
    field = f"Checksum{algorithm}"
    upload_id = begin(s3, bucket, ChecksumAlgorithm=algorithm, ChecksumType=kind)
    parts = []
    for number, body in enumerate(bodies, 1):
        part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number,
                              Body=body, ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": number, "ETag": part["ETag"], field: part[field]})
    wrong = [{**parts[0], field: parts[1][field]}, parts[1]]
    with Refused("InvalidPart", 400):
        complete(s3, bucket, upload_id, wrong)
    done = complete(s3, bucket, upload_id, parts)
    assert done["ChecksumType"] == kind
    if (algorithm, kind) == ("CRC32", "FULL_OBJECT"):
        whole = zlib.crc32(b"".join(bodies)).to_bytes(4, "big")
        assert done[field] == base64.b64encode(whole).decode()
    if (algorithm, kind) == ("SHA256", "COMPOSITE"):
        digests = b"".join(hashlib.sha256(body).digest() for body in bodies)
        expected = base64.b64encode(hashlib.sha256(digests).digest()).decode()
        assert done[field] == f"{expected}-2"
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (done[field], kind)


def test_impossible_checksum_types_are_refused(s3, bucket):
    for algorithm, kind in [("CRC64NVME", "COMPOSITE"), ("SHA256", "FULL_OBJECT"), ("XXHASH3", "FULL_OBJECT")]:
        with Refused("InvalidRequest", 400):
            begin(s3, bucket, ChecksumAlgorithm=algorithm, ChecksumType=kind)


def test_the_transfer_manager_works(s3, bucket):
    body = pattern(40 * MIB + 11)
    config = boto3.s3.transfer.TransferConfig(multipart_chunksize=8 * MIB, max_concurrency=8)
    s3.upload_fileobj(io.BytesIO(body), bucket, "k", Config=config)
    back = io.BytesIO()
    s3.download_fileobj(bucket, "k", back, Config=config)
    assert back.getvalue() == body
    s3.copy({"Bucket": bucket, "Key": "k"}, bucket, "copied", Config=config)
    assert s3.head_object(Bucket=bucket, Key="copied")["ContentLength"] == len(body)
