"""boto3: buckets, objects, ranges, listings, copies, conditions, presigned URLs."""

import base64
import datetime
import hashlib
import http.client
import urllib.parse
import urllib.request
import zlib

import pytest

from helpers import MIB, Refused, pattern


def keys_of(s3, bucket, **query):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, **query)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def test_bucket_life(s3):
    s3.create_bucket(Bucket="life-of-a-bucket")
    with Refused("BucketAlreadyOwnedByYou", 409) as again:
        s3.create_bucket(Bucket="life-of-a-bucket")
    # Not the usual text, which says that this cannot happen in us-east-1.
    assert again.response["Error"]["Message"].endswith("succeeded and you already own it.")
    head = s3.head_bucket(Bucket="life-of-a-bucket")
    assert head["BucketRegion"] == "us-east-1"
    assert s3.get_bucket_location(Bucket="life-of-a-bucket")["LocationConstraint"] is None
    assert "life-of-a-bucket" in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    s3.put_object(Bucket="life-of-a-bucket", Key="k", Body=b"x")
    with Refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket="life-of-a-bucket")
    s3.delete_object(Bucket="life-of-a-bucket", Key="k")
    s3.delete_bucket(Bucket="life-of-a-bucket")
    with Refused("404", 404):
        s3.head_bucket(Bucket="life-of-a-bucket")
    with Refused("NoSuchBucket", 404):
        s3.put_object(Bucket="life-of-a-bucket", Key="k", Body=b"x")
    assert "life-of-a-bucket" not in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    # A new life of the name begins empty.
    s3.create_bucket(Bucket="life-of-a-bucket")
    assert keys_of(s3, "life-of-a-bucket") == []
    s3.delete_bucket(Bucket="life-of-a-bucket")


def test_bad_bucket_names_are_refused(gateway):
    s3 = gateway.client(parameter_validation=False)
    for name in ["ab", "UPPER", "fula", "ipfs", "1.2.3.4"]:
        with Refused("InvalidBucketName", 400):
            s3.create_bucket(Bucket=name)


def test_buckets_are_listed_in_pages(own_gateway):
    s3 = own_gateway.client()
    names = [f"page-{n:03}" for n in range(25)]
    for name in names:
        s3.create_bucket(Bucket=name)
    pages = list(s3.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 10}))
    assert [len(page["Buckets"]) for page in pages] == [10, 10, 5]
    assert [b["Name"] for page in pages for b in page["Buckets"]] == names
    assert [b["Name"] for b in s3.list_buckets(Prefix="page-01")["Buckets"]] == names[10:20]


@pytest.mark.parametrize("length", [0, 1, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 17])
def test_objects_read_back(s3, bucket, length):
    body = pattern(length)
    put = s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert put["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"].startswith("baf")
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == body
    assert got["ContentLength"] == length
    assert got["ETag"] == put["ETag"]
    assert got["ContentType"] == "binary/octet-stream"
    age = datetime.datetime.now(datetime.timezone.utc) - got["LastModified"]
    assert abs(age.total_seconds()) < 60
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ContentLength"], head["ETag"]) == (length, put["ETag"])


def test_equal_content_is_stored_once(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    body = pattern(8 * MIB)
    s3.put_object(Bucket="bucket", Key="a", Body=body)
    size = lambda: sum(f.stat().st_size for f in (own_gateway.data_dir / "log").iterdir())
    before = size()
    s3.put_object(Bucket="bucket", Key="b", Body=body)
    assert size() - before < 64 * 1024


def test_ranges(s3, bucket):
    body = pattern(3 * MIB + 100)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    ranges = {
        "bytes=0-0": body[:1],
        "bytes=5-10": body[5:11],
        f"bytes={MIB - 2}-{MIB + 2}": body[MIB - 2 : MIB + 3],
        f"bytes={2 * MIB}-": body[2 * MIB :],
        "bytes=-7": body[-7:],
        f"bytes=-{10 * MIB}": body,
        f"bytes=100-{10 * MIB}": body[100:],
    }
    for header, expected in ranges.items():
        got = s3.get_object(Bucket=bucket, Key="k", Range=header)
        assert got["Body"].read() == expected, header
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        first = len(body) - len(expected) if header.startswith("bytes=-") else int(header[6:].split("-")[0])
        assert got["ContentRange"] == f"bytes {first}-{first + len(expected) - 1}/{len(body)}"
    head = s3.head_object(Bucket=bucket, Key="k", Range="bytes=5-10")
    assert (head["ContentLength"], head["ResponseMetadata"]["HTTPStatusCode"]) == (6, 206)
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    for header in ["bytes=0-0", "bytes=-5"]:
        with Refused("InvalidRange", 416):
            s3.get_object(Bucket=bucket, Key="empty", Range=header)
    with Refused("InvalidRange", 416) as refused:
        s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={4 * MIB}-")
    headers = refused.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["content-range"] == f"bytes */{len(body)}"
    # What is not one range of bytes is answered with the whole object.
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    for odd in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-3"]:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers={"Range": odd}))
        assert (answer.status, len(answer.read())) == (200, len(body))
        assert s3.get_object(Bucket=bucket, Key="k", Range=odd)["ContentLength"] == len(body)


def test_read_conditions(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    hour = datetime.timedelta(hours=1)
    get = lambda **conditions: s3.get_object(Bucket=bucket, Key="k", **conditions)["ETag"]
    assert get(IfMatch=etag) == etag
    assert get(IfNoneMatch='"other"') == etag
    assert get(IfModifiedSince=modified - hour) == etag
    assert get(IfUnmodifiedSince=modified + hour) == etag
    with Refused("PreconditionFailed", 412):
        get(IfMatch='"other"')
    with Refused("PreconditionFailed", 412):
        get(IfUnmodifiedSince=modified - hour)
    with Refused("304", 304) as refused:
        get(IfNoneMatch=etag)
    assert refused.response["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag
    with Refused("304", 304):
        get(IfModifiedSince=modified)
    with Refused("304", 304):
        s3.head_object(Bucket=bucket, Key="k", IfNoneMatch=etag)


def test_errors_name_what_and_where(s3, bucket):
    with Refused("NoSuchKey", 404) as refused:
        s3.get_object(Bucket=bucket, Key="absent")
    assert refused.response["Error"]["Resource"] == f"/{bucket}/absent"
    metadata = refused.response["ResponseMetadata"]
    assert metadata["RequestId"] == metadata["HTTPHeaders"]["x-amz-request-id"]
    with Refused("NoSuchBucket", 404):
        s3.get_object(Bucket="never-made-this-one", Key="k")


def test_unoffered_things_are_refused_not_ignored(s3, bucket):
    put = lambda **more: s3.put_object(Bucket=bucket, Key="k", Body=b"x", **more)
    for more in [
        {"ServerSideEncryption": "aws:kms"},
        {"ObjectLockLegalHoldStatus": "ON"},
        {"WebsiteRedirectLocation": "/x"},
    ]:
        with Refused("NotImplemented", 501):
            put(**more)
    with Refused("AccessControlListNotSupported", 400):
        put(ACL="public-read")
    with Refused("InvalidStorageClass", 400):
        put(StorageClass="GLACIER")
    put(StorageClass="STANDARD", ACL="private")
    with Refused("InvalidArgument", 400):
        s3.get_object(Bucket=bucket, Key="k", VersionId="some-version")


def test_metadata_and_headers_round_trip(s3, bucket):
    facts = {
        "ContentType": "text/plain; charset=utf-8",
        "CacheControl": "max-age=5, private",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "de, en",
        "Metadata": {"plain": "a  b", "case": "MiXeD", "long": "x" * 1500, "empty-ish": "-"},
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **facts)
    for got in [s3.get_object(Bucket=bucket, Key="k"), s3.head_object(Bucket=bucket, Key="k")]:
        assert {name: got[name] for name in facts} == facts
    with Refused("MetadataTooLarge", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"m": "x" * 2100})
    got = s3.get_object(
        Bucket=bucket, Key="k", ResponseContentType="a/b", ResponseCacheControl="no-store"
    )
    assert (got["ContentType"], got["CacheControl"]) == ("a/b", "no-store")


def test_keys_of_every_kind(s3, bucket):
    keys = ["plain", "with space", "ünïcödé/ключ", "a//b", "/lead", "trail/", "q?x=1&y=2", "#h",
            "per%20cent", "plus+plus", "..", "a/../b", "tab\tkey", "quote'\"", "<xml>&amp;", "x" * 1024]
    for n, key in enumerate(keys):
        s3.put_object(Bucket=bucket, Key=key, Body=str(n).encode())
    assert keys_of(s3, bucket) == sorted(keys, key=str.encode)
    for n, key in enumerate(keys):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == str(n).encode()
    with Refused("KeyTooLongError", 400):
        s3.put_object(Bucket=bucket, Key="x" * 1025, Body=b"")


ALGORITHMS = ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME", "SHA512", "XXHASH64", "XXHASH3", "XXHASH128"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checksums_are_verified_and_returned(s3, bucket, algorithm):
    body = pattern(100_000)
    field = f"Checksum{algorithm}"
    put = s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm=algorithm)
    got = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got[field] == put[field]
    assert got["ChecksumType"] == "FULL_OBJECT"
    assert field not in s3.head_object(Bucket=bucket, Key="k")
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert listed["ChecksumAlgorithm"] == [algorithm]
    wrong = base64.b64encode(bytes(len(base64.b64decode(put[field])))).decode()
    with Refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="k2", Body=body, **{field: wrong})
    with Refused("InvalidRequest", 400):
        s3.put_object(Bucket=bucket, Key="k2", Body=body, **{field: "short"})
    with Refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k2")


def test_content_md5_is_verified(gateway, bucket):
    s3 = gateway.client(request_checksum_calculation="when_required")
    md5 = lambda body: base64.b64encode(hashlib.md5(body).digest()).decode()
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello", ContentMD5=md5(b"hello"))
    with Refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"hello", ContentMD5=md5(b"other"))
    with Refused("InvalidDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"hello", ContentMD5="bad")
    # Nothing was asked for: the default checksum is there all the same.
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert "ChecksumCRC64NVME" in got


def test_conditional_puts(s3, bucket):
    put = lambda **conditions: s3.put_object(Bucket=bucket, Key="k", Body=b"x", **conditions)
    with Refused("NoSuchKey", 404):
        put(IfMatch='"anything"')
    with Refused("NoSuchKey", 404):
        put(IfMatch="*")
    etag = put(IfNoneMatch="*")["ETag"]
    with Refused("PreconditionFailed", 412) as refused:
        put(IfNoneMatch="*")
    assert refused.response["Error"]["Condition"] == "If-None-Match"
    put(IfMatch=etag)
    put(IfMatch=etag.strip('"'))
    put(IfMatch="*")
    with Refused("PreconditionFailed", 412):
        put(IfMatch='"other"')
    with Refused("PreconditionFailed", 412):
        put(IfNoneMatch=etag)
    put(IfNoneMatch='"other"')


def test_conditional_puts_of_large_bodies_are_refused_cleanly(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for length in [10, MIB, 20 * MIB]:
        with Refused("PreconditionFailed", 412):
            s3.put_object(Bucket=bucket, Key="k", Body=pattern(length), IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_conditional_deletes(s3, bucket):
    delete = lambda **conditions: s3.delete_object(Bucket=bucket, Key="k", **conditions)
    delete()  # Deleting what is not there succeeds.
    with Refused("NoSuchKey", 404):
        delete(IfMatch="*")
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    with Refused("PreconditionFailed", 412):
        delete(IfMatch='"other"')
    with Refused("NotImplemented", 501):
        delete(IfMatch=etag, VersionId="null")
    delete(IfMatch=etag)
    with Refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")


def test_batch_deletes(s3, bucket):
    for n in range(10):
        s3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"x")
    objects = [{"Key": f"k{n}"} for n in range(5)] + [{"Key": "absent"}]
    objects.append({"Key": "k7", "ETag": '"other"'})
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert [d["Key"] for d in answer["Deleted"]] == [f"k{n}" for n in range(5)] + ["absent"]
    assert [(e["Key"], e["Code"]) for e in answer["Errors"]] == [("k7", "PreconditionFailed")]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k8"}], "Quiet": True})
    assert "Deleted" not in answer
    assert keys_of(s3, bucket) == ["k5", "k6", "k7", "k9"]


def test_listings(s3, bucket):
    keys = [f"d{n % 3}/f{n:04}" for n in range(2600)] + ["top", "zz/deep/er"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    keys.sort()
    assert keys_of(s3, bucket) == keys
    assert keys_of(s3, bucket, Prefix="d1/") == [key for key in keys if key.startswith("d1/")]
    assert keys_of(s3, bucket, StartAfter="d2/f2000") == [key for key in keys if key > "d2/f2000"]
    v1 = s3.get_paginator("list_objects").paginate(Bucket=bucket)
    assert [item["Key"] for page in v1 for item in page["Contents"]] == keys
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["d0/", "d1/", "d2/", "zz/"]
    assert [item["Key"] for item in page["Contents"]] == ["top"]
    assert (page["KeyCount"], page["IsTruncated"]) == (5, False)
    # A page ends between prefixes too, and goes on behind the last one.
    for kind in ["list_objects", "list_objects_v2"]:
        pages = s3.get_paginator(kind).paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2}
        )
        names = [
            sorted([p["Prefix"] for p in page.get("CommonPrefixes", [])]
                   + [item["Key"] for item in page.get("Contents", [])])
            for page in pages
        ]
        assert names == [["d0/", "d1/"], ["d2/", "top"], ["zz/"]]
    page = s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"]) == (0, False)
    page = s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    assert (page["KeyCount"], page["MaxKeys"], page["IsTruncated"]) == (1000, 1000, True)
    with Refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=bucket, ContinuationToken="not base64!")
    owner = s3.list_objects_v2(Bucket=bucket, MaxKeys=1, FetchOwner=True)["Contents"][0]["Owner"]
    assert owner["DisplayName"] == "key:admin"


def test_copies(s3, bucket):
    body = pattern(3 * MIB)
    facts = {"ContentType": "a/b", "Metadata": {"m": "1"}}
    etag = s3.put_object(Bucket=bucket, Key="from", Body=body, **facts)["ETag"]
    source = {"Bucket": bucket, "Key": "from"}
    copied = s3.copy_object(Bucket=bucket, Key="to", CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == etag
    got = s3.get_object(Bucket=bucket, Key="to")
    assert got["Body"].read() == body
    assert (got["ContentType"], got["Metadata"]) == ("a/b", {"m": "1"})
    s3.copy_object(Bucket=bucket, Key="to", CopySource=source, MetadataDirective="REPLACE",
                   ContentType="c/d", Metadata={"n": "2"})
    got = s3.head_object(Bucket=bucket, Key="to")
    assert (got["ContentType"], got["Metadata"]) == ("c/d", {"n": "2"})

    s3.create_bucket(Bucket=f"{bucket}-2")
    s3.copy_object(Bucket=f"{bucket}-2", Key="other", CopySource=source)
    assert s3.get_object(Bucket=f"{bucket}-2", Key="other")["Body"].read() == body
    with Refused("InvalidRequest", 400):
        s3.copy_object(Bucket=bucket, Key="from", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="from", CopySource=source, MetadataDirective="REPLACE")
    with Refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="x", CopySource={"Bucket": bucket, "Key": "absent"})
    copy = lambda **conditions: s3.copy_object(Bucket=bucket, Key="to", CopySource=source, **conditions)
    copy(CopySourceIfMatch=etag, IfMatch=etag)
    with Refused("PreconditionFailed", 412):
        copy(CopySourceIfMatch='"other"')
    with Refused("PreconditionFailed", 412):
        copy(CopySourceIfNoneMatch=etag)
    with Refused("PreconditionFailed", 412):
        copy(IfNoneMatch="*")
    with Refused("PreconditionFailed", 412):
        copy(IfMatch='"other"')


def test_presigned_urls(gateway, s3, bucket):
    url = lambda kind, **more: s3.generate_presigned_url(
        kind, Params={"Bucket": bucket, "Key": "a b/ü", **more}, ExpiresIn=60
    )
    put = urllib.request.Request(url("put_object"), data=b"signed", method="PUT")
    assert urllib.request.urlopen(put).status == 200
    assert urllib.request.urlopen(url("get_object")).read() == b"signed"
    override = url("get_object", ResponseContentType="a/b")
    assert urllib.request.urlopen(override).headers["Content-Type"] == "a/b"

    def status(url):
        try:
            return urllib.request.urlopen(url).status
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().split("<Code>")[-1].split("<")[0]

    good = url("get_object")
    forged = good[:-1] + ("0" if good[-1] != "0" else "1")
    assert status(forged) == (403, "SignatureDoesNotMatch")
    assert status(url("get_object").replace("a%20b", "a%20c")) == (403, "SignatureDoesNotMatch")
    assert status(f"{gateway.url}/{bucket}/a%20b/%C3%BC") == (403, "AccessDenied")  # anonymous
    expired = s3.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": "a b/ü"}, ExpiresIn=1
    )
    date = urllib.parse.parse_qs(urllib.parse.urlsplit(expired).query)["X-Amz-Date"][0]
    other_day = expired.replace(date, "20200101T000000Z")
    assert status(other_day) == (400, "AuthorizationQueryParametersError")
    assert status(other_day.replace(f"%2F{date[:8]}%2F", "%2F20200101%2F")) == (403, "AccessDenied")


def test_strangers_see_nothing(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    made = gateway.fula("keys", "create", "--user", "stranger").stdout
    key = [line.split(" = ")[1] for line in made.splitlines()]
    stranger = gateway.client(key=key)
    assert stranger.list_buckets()["Buckets"] == []
    with Refused("NoSuchBucket", 404):
        stranger.get_object(Bucket=bucket, Key="k")
    with Refused("NoSuchBucket", 404):
        stranger.put_object(Bucket=bucket, Key="k", Body=b"y")
    with Refused("NoSuchBucket", 404):
        stranger.list_objects_v2(Bucket=bucket)
    # Names are per owner: a stranger can have the same one.
    stranger.create_bucket(Bucket=bucket)
    stranger.put_object(Bucket=bucket, Key="k", Body=b"mine")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    with Refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "absent"})
    wrong = gateway.client(key=(key[0], "x" * 40))
    with Refused("SignatureDoesNotMatch", 403):
        wrong.list_buckets()
    with Refused("InvalidAccessKeyId", 403):
        gateway.client(key=("FULANOSUCHKEY", "x" * 40)).list_buckets()


def raw(gateway, method, path, body=b"", headers=None):
    """Sends a request as it is, signed by nobody."""
    connection = http.client.HTTPConnection(gateway.listen, timeout=120)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    answer = (response.status, response.read())
    return connection, answer


def test_a_connection_survives_errors(gateway):
    connection, (status, _) = raw(gateway, "GET", "/some-bucket/k")
    assert status == 403
    for _ in range(3):
        connection.request("GET", "/some-bucket/k")
        assert connection.getresponse().read() and connection.sock is not None
    connection.close()
    _, (status, body) = raw(gateway, "GET", "/fula/capabilities")
    assert status == 200 and b'"remoteCidPut":false' in body
    _, (status, _) = raw(gateway, "GET", "/fula/unknown")
    assert status == 404


def test_answers_without_100_continue_do_not_confuse_the_next(gateway, bucket):
    """botocore misreads a connection on which an answer came without the 100 it waited for."""
    s3 = gateway.client(max_pool_connections=1, read_timeout=60)
    body = pattern(3 * MIB)
    expected = f'"{hashlib.md5(body).hexdigest()}"'
    for _ in range(2):
        s3.put_object(Bucket=bucket, Key="empty", Body=b"")
        assert s3.put_object(Bucket=bucket, Key="k", Body=body)["ETag"] == expected
        with Refused("PreconditionFailed", 412):
            s3.put_object(Bucket=bucket, Key="k", Body=body, IfNoneMatch="*")
        assert s3.put_object(Bucket=bucket, Key="k", Body=body)["ETag"] == expected


def test_bodies_that_look_like_chunks_are_left_alone(gateway, bucket):
    s3 = gateway.client(request_checksum_calculation="when_required")
    body = b"5;chunk-signature=" + b"0" * 64 + b"\r\nhello\r\n0;chunk-signature=" + b"0" * 64 + b"\r\n\r\n"
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body


def test_a_trailing_checksum_is_verified(gateway, bucket):
    """The body and the trailer disagree; the signature covers neither (unsigned payload)."""
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials

    class Unsigned(botocore.auth.S3SigV4Auth):
        def payload(self, request):
            return "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    def send(checksum):
        body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:" + checksum + b"\r\n\r\n"
        headers = {
            "x-amz-trailer": "x-amz-checksum-crc32",
            "x-amz-decoded-content-length": "5",
            "content-encoding": "aws-chunked",
            "content-length": str(len(body)),
        }
        url = f"{gateway.url}/{bucket}/trailing"
        request = botocore.awsrequest.AWSRequest("PUT", url, headers=headers, data=body)
        credentials = botocore.credentials.Credentials(*gateway.credentials())
        Unsigned(credentials, "s3", "us-east-1").add_auth(request)
        _, answer = raw(gateway, "PUT", f"/{bucket}/trailing", body, dict(request.headers))
        return answer

    right = base64.b64encode(zlib.crc32(b"hello").to_bytes(4, "big"))
    status, answer = send(right)
    assert status == 200, answer
    got = gateway.client().get_object(Bucket=bucket, Key="trailing")
    assert got["Body"].read() == b"hello" and "ContentEncoding" not in got
    status, answer = send(base64.b64encode(b"\0\0\0\0"))
    assert status == 400 and b"<Code>BadDigest</Code>" in answer
