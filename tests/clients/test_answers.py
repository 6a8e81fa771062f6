"""Answers as AWS gives them, where clients look at them closely."""

import base64
import datetime
import hashlib
import json
import re

import pytest

from helpers import MIB, Refused, pattern
from signing import quote, signed_headers
from test_signatures import exchange, told


def signed(gateway, method, target, body=b"", headers=None):
    """Signs and sends a request with these headers."""
    key = gateway.credentials()
    return exchange(gateway, method, target, signed_headers(key, gateway.listen, method, target, body, headers), body)


@pytest.fixture
def object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    return f"/{bucket}/k"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_range_is_one_or_the_whole_object(gateway, object, method):
    """Signed, as SDKs send it."""
    whole = (200, None, "10")
    for range, expected in [
        ("bytes=2-4", (206, "bytes 2-4/10", "3")),
        ("bytes=2-99999999999999999999999", (206, "bytes 2-9/10", "8")),
        ("bytes=2-18446744073709551616", (206, "bytes 2-9/10", "8")),
        ("bytes=-99999999999999999999999", (206, "bytes 0-9/10", "10")),
        ("bytes=,", whole), ("bytes=abc", whole), ("bytes=1-0", whole), ("bytes=0-1,3-4", whole), ("items=0-1", whole),
    ]:
        status, headers, body = signed(gateway, method, object, headers={"range": range})
        assert (status, headers["content-range"], headers["content-length"]) == expected, range
    for range in ["bytes=10-", "bytes=99999999999999999999999-", "bytes=-0"]:
        assert signed(gateway, method, object, headers={"range": range})[0] == 416, range


def test_browsers_do_not_guess_the_type_of_an_object(gateway, s3, bucket, object):
    presigned = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}).split(gateway.listen)[1]
    for found in [signed(gateway, "GET", object), signed(gateway, "HEAD", object), exchange(gateway, "GET", presigned, {})]:
        assert (found[0], found[1].get_all("x-content-type-options")) == (200, ["nosniff"])


def test_a_resumed_download_does_not_join_two_objects(gateway, s3, bucket, object):
    head = s3.head_object(Bucket=bucket, Key="k")
    etag = head["ETag"]
    modified = head["LastModified"].strftime("%a, %d %b %Y %H:%M:%S GMT")
    later = (head["LastModified"] + datetime.timedelta(days=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    for condition, status in [(etag, 206), (modified, 206), ('"other"', 200), (f"W/{etag}", 200), (later, 200), ("x", 200)]:
        found = signed(gateway, "GET", object, headers={"range": "bytes=5-", "if-range": condition})
        assert (found[0], found[2]) == (status, b"56789" if status == 206 else b"0123456789"), condition


def test_dates_of_conditions(gateway, s3, bucket, object):
    before = datetime.datetime(2001, 1, 1)
    forms = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y",
             "%a, 1 %b %Y %H:%M:%S GMT", "%a, %d %b %Y %H:%M:%S UTC", "%a, %d %b %Y %H:%M:%S -0000"]
    for form in forms:
        date = before.strftime(form)
        assert signed(gateway, "GET", object, headers={"if-unmodified-since": date})[0] == 412, date
        assert signed(gateway, "GET", object, headers={"if-modified-since": date})[0] == 200, date
        copy = {"x-amz-copy-source": object, "x-amz-copy-source-if-unmodified-since": date}
        assert signed(gateway, "PUT", f"/{bucket}/copy", headers=copy)[0] == 412, date
    # What cannot be read is no condition.
    for date in ["yesterday", "", "2001-01-01T00:00:00Z", "Mon, 31 Feb 2001 00:00:00 GMT"]:
        for name in ["if-unmodified-since", "if-modified-since"]:
            assert signed(gateway, "GET", object, headers={name: date})[0] == 200, (name, date)
    copy = {"x-amz-copy-source": object, "x-amz-copy-source-if-modified-since": "soon"}
    assert signed(gateway, "PUT", f"/{bucket}/copy", headers=copy)[0] == 200
    answer = signed(gateway, "GET", f"{object}?response-expires={quote('when it rains')}")
    assert (answer[0], answer[1]["expires"]) == (200, "when it rains")


def test_tags_are_compared_weakly_on_reads(gateway, s3, bucket, object):
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    assert signed(gateway, "GET", object, headers={"if-none-match": f"W/{etag}"})[0] == 304
    assert signed(gateway, "GET", object, headers={"if-match": f"W/{etag}"})[0] == 412


def test_times_are_whole_seconds(gateway, s3, bucket, object):
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["LastModified"] == modified
    listing = signed(gateway, "GET", f"/{bucket}?list-type=2")[2]
    assert re.search(rb"<LastModified>[0-9T:-]+\.000Z</LastModified>", listing)
    assert b".000Z</CreationDate>" in signed(gateway, "GET", "/")[2]


def test_characters_beyond_the_basic_plane_are_referred_to_by_number(gateway, s3, bucket):
    for key in ["a😀", "b😀é"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    xml = b"<Delete><Object><Key>a&#128512;</Key></Object><Object><Key>b&#x1F600;&#233;</Key></Object></Delete>"
    status, _, answer = signed(gateway, "POST", f"/{bucket}?delete", xml)
    assert status == 200 and "<Key>a😀</Key>".encode() in answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_no_answer_fails_to_render(gateway, s3, bucket, object):
    xml = b"<Delete><Object><Key>k</Key></Object><Object><Key>a\x01b</Key></Object></Delete>"
    status, _, answer = signed(gateway, "POST", f"/{bucket}?delete", xml)
    assert status == 200 and b"<Deleted><Key>k</Key></Deleted>" in answer
    assert re.search(rb"<Error>.*<Code>InvalidArgument</Code>.*</Error>", answer)
    long = b"<Delete><Object><Key>%s</Key></Object></Delete>" % (b"x" * 1025)
    assert b"<Code>KeyTooLongError</Code>" in signed(gateway, "POST", f"/{bucket}?delete", long)[2]
    for query in ["prefix", "delimiter", "marker", "list-type=2&start-after", "uploads&key-marker", "uploads&prefix",
                  "uploads&delimiter"]:
        assert signed(gateway, "GET", f"/{bucket}?{query}=%01")[0] == 200, query
    assert signed(gateway, "GET", "/?prefix=%01")[0] == 200


def test_what_writes_answer(gateway, s3, bucket, object):
    assert signed(gateway, "PUT", object, b"body")[1]["x-amz-object-size"] == "4"
    created = signed(gateway, "PUT", f"/{bucket}-2")
    assert (created[1]["location"], created[1]["x-amz-bucket-arn"]) == (f"/{bucket}-2", f"arn:aws:s3:::{bucket}-2")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="a b/c")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="a b/c", UploadId=upload, PartNumber=1, Body=b"part")
    done = s3.complete_multipart_upload(Bucket=bucket, Key="a b/c", UploadId=upload,
                                        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert done["Location"] == f"{gateway.url}/{bucket}/a%20b/c"
    assert done["ResponseMetadata"]["HTTPHeaders"]["x-amz-object-size"] == "4"


def test_what_listings_say(gateway, s3, bucket, object):
    for query in ["", "list-type=2", "uploads"]:
        answer = signed(gateway, "GET", f"/{bucket}?{query}")[2]
        assert b"<Prefix></Prefix>" in answer and b"<Delimiter>" not in answer, query
        assert b"<Delimiter>" not in signed(gateway, "GET", f"/{bucket}?{query}&delimiter=")[2]
    assert b"<Marker></Marker>" in signed(gateway, "GET", f"/{bucket}")[2]
    assert b"<KeyMarker></KeyMarker><" in signed(gateway, "GET", f"/{bucket}?uploads")[2]
    encoded = signed(gateway, "GET", f"/{bucket}?list-type=2&encoding-type=url&prefix=a%20b&delimiter=%20&start-after=%C3%A9")[2]
    for element in [b"<Prefix>a%20b<", b"<Delimiter>%20<", b"<StartAfter>%C3%A9<"]:
        assert element in encoded
    # A blank token begins at the beginning; a token counts more than start-after.
    s3.put_object(Bucket=bucket, Key="l", Body=b"x")
    blank = signed(gateway, "GET", f"/{bucket}?list-type=2&continuation-token=")
    assert blank[0] == 200 and b"<ContinuationToken></ContinuationToken>" in blank[2] and b"<KeyCount>2<" in blank[2]
    token = s3.list_objects_v2(Bucket=bucket, MaxKeys=1)["NextContinuationToken"]
    page = s3.list_objects_v2(Bucket=bucket, ContinuationToken=token, StartAfter="z")
    assert ([found["Key"] for found in page["Contents"]], page["StartAfter"]) == (["l"], "z")


def test_listing_buckets(gateway, s3, bucket):
    page = s3.list_buckets(Prefix=bucket, MaxBuckets=1)
    assert [found["Name"] for found in page["Buckets"]] == [bucket] and page["Prefix"] == bucket
    assert page["Buckets"][0]["BucketRegion"] == "us-east-1" and page["Owner"]["ID"]
    assert s3.list_buckets(Prefix=bucket, BucketRegion="us-east-1")["Buckets"]
    assert not s3.list_buckets(Prefix=bucket, BucketRegion="eu-west-1").get("Buckets")
    for most in ["0", "10001", "-1", "x"]:
        assert told(signed(gateway, "GET", f"/?max-buckets={most}"))[:2] == (400, "InvalidArgument")
    assert signed(gateway, "GET", "/?continuation-token=")[0] == 200


def test_a_new_bucket_is_what_was_asked_for_or_is_refused(gateway, s3, bucket):
    xml = '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</CreateBucketConfiguration>'
    create = lambda inner: told(signed(gateway, "PUT", f"/{bucket}-new", xml.format(inner).encode()))[:2]
    assert create("<LocationConstraint>not a region!</LocationConstraint>") == (400, "InvalidLocationConstraint")
    assert create("<Tags><Tag><Key>aws:a</Key><Value>b</Value></Tag></Tags>") == (400, "InvalidTag")
    assert create("<LocationConstraint>us-east-1</LocationConstraint>") == (200, None)
    assert s3.get_bucket_location(Bucket=f"{bucket}-new")["LocationConstraint"] is None
    other = f"{bucket}-other"
    s3.create_bucket(Bucket=other, CreateBucketConfiguration={"LocationConstraint": "eu-central-2"})
    assert s3.get_bucket_location(Bucket=other)["LocationConstraint"] == "eu-central-2"
    # A policy beside it takes nothing away.
    policy = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{other}/*"}
    s3.put_bucket_policy(Bucket=other, Policy=json.dumps({"Version": "2012-10-17", "Statement": [policy]}))
    assert s3.get_bucket_location(Bucket=other)["LocationConstraint"] == "eu-central-2"


def test_a_bucket_that_is_not_there_is_in_our_region(gateway, s3, bucket):
    for answer in [signed(gateway, "HEAD", "/no-such-bucket-anywhere"), exchange(gateway, "HEAD", f"/{bucket}", {})]:
        assert answer[0] in (403, 404) and answer[1]["x-amz-bucket-region"] == "us-east-1"


def test_subresources_on_the_wrong_level(gateway, bucket, object):
    for method, target, expected in [
        ("GET", f"{object}?torrent", (404, "NoSuchKey")),
        ("GET", f"{object}?uploads", (400, "InvalidRequest")),
        ("GET", f"/{bucket}?uploadId=x", (400, "InvalidRequest")),
        ("POST", object, (405, "MethodNotAllowed")),
        ("POST", f"/{bucket}", (405, "MethodNotAllowed")),
        ("GET", f"{object}?partNumber=0", (400, "InvalidArgument")),
        ("GET", f"{object}?partNumber=x", (400, "InvalidArgument")),
        ("GET", f"{object}?partNumber=2", (416, "InvalidPartNumber")),
    ]:
        assert told(signed(gateway, method, target))[:2] == expected, (method, target)


def test_digests_that_are_none(gateway, object):
    for headers, expected in [
        ({"content-md5": ""}, (400, "InvalidDigest")),
        ({"content-md5": "AAAA"}, (400, "InvalidDigest")),
        ({"x-amz-checksum-sha256": "A" * 43 + "="}, (400, "BadDigest")),
        ({"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, (400, "BadDigest")),
        ({"x-amz-checksum-sha256": "AAAA"}, (400, "InvalidRequest")),
    ]:
        assert told(signed(gateway, "PUT", object, b"x", headers))[:2] == expected, headers


def test_policies_that_are_none(gateway, bucket):
    for body, text in [(b"{", "This policy contains invalid Json"), (b"{}", "Missing required field Statement"),
                       (b'{"Version": "2012-10-17", "Statement": []}', "Statement is empty")]:
        status, code, message = told(signed(gateway, "PUT", f"/{bucket}?policy", body))
        assert (status, code) == (400, "MalformedPolicy") and text in message


def test_completions_that_are_refused(gateway, s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA256")
    target = f"/{bucket}/k?uploadId={quote(upload)}"

    def complete(parts, headers=None):
        xml = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        return told(signed(gateway, "POST", target, xml, headers))

    entry = lambda number, more="": f"<Part><PartNumber>{number}</PartNumber><ETag>{part['ETag']}</ETag>{more}</Part>"
    checksum = f"<ChecksumSHA256>{part['ChecksumSHA256']}</ChecksumSHA256>"
    assert complete("")[:2] == (400, "MalformedXML")
    for number in [0, -1, 10_001]:
        assert complete(entry(number, checksum))[:2] == (400, "InvalidArgument")
    status, code, text = complete(entry(1))
    assert (status, code) == (400, "InvalidRequest") and "missing for part 1" in text
    wrong_kind = complete(entry(1, checksum), {"x-amz-checksum-type": "FULL_OBJECT"})
    assert wrong_kind[:2] == (400, "InvalidRequest") and "COMPOSITE checksum mode" in wrong_kind[2]
    # And once more.
    for _ in range(2):
        assert complete(entry(1, checksum), {"x-amz-checksum-type": "COMPOSITE"})[:2] == (200, None)


def test_a_commit_completes_an_upload_with_checksums_of_its_parts(gateway, s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA256")
    put = {"key": "k", "upload": {"id": upload, "parts": [{"number": 1, "etag": part["ETag"]}]}}
    body = json.dumps({"changes": [{"put": put}]}).encode()
    assert signed(gateway, "POST", f"/{bucket}?fula-commit", body)[0] == 200
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_ranges_of_copies_are_strict(gateway, s3, bucket, object):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="new")["UploadId"]
    for range, expected in [
        ("bytes=0-9", (200, None)),
        ("bytes=0-10", (400, "InvalidArgument")),
        ("bytes=10-99999999999999999999999", (400, "InvalidArgument")),
        ("bytes=5-2", (400, "InvalidArgument")),
        ("bytes=5-", (400, "InvalidArgument")),
        ("0-9", (400, "InvalidArgument")),
    ]:
        headers = {"x-amz-copy-source": object, "x-amz-copy-source-range": range}
        answer = signed(gateway, "PUT", f"/{bucket}/new?partNumber=1&uploadId={quote(upload)}", headers=headers)
        assert told(answer)[:2] == expected, range
    directive = {"x-amz-copy-source": object, "x-amz-tagging-directive": "MERGE"}
    assert told(signed(gateway, "PUT", f"/{bucket}/copy", headers=directive))[:2] == (400, "InvalidArgument")


def test_sources_of_copies(gateway, s3, bucket, object):
    s3.put_object(Bucket=bucket, Key="größe", Body=b"umlaut")
    target = f"/{bucket}/copy"
    for source, expected in [
        (object, (200, None)),
        (object[1:], (200, None)),
        (f"{bucket}/größe", (200, None)),
        (f"{bucket}/gr%C3%B6%C3%9Fe", (200, None)),
        ("nowhere", (400, "InvalidArgument")),
        ("/", (400, "InvalidArgument")),
        (f"/{bucket}/%ff", (400, "InvalidArgument")),
        (f"/{bucket}/{'k' * 1025}", (400, "InvalidArgument")),
        ("/no-such-bucket/k", (404, "NoSuchBucket")),
        (f"/{bucket}/none", (404, "NoSuchKey")),
    ]:
        sent = signed_headers(gateway.credentials(), gateway.listen, "PUT", target, headers={"x-amz-copy-source": source})
        sent = {name: value.encode() for name, value in sent.items()}
        assert told(exchange(gateway, "PUT", target, sent))[:2] == expected, source
    much = {"x-amz-copy-source": object, "x-amz-metadata-directive": "REPLACE", "x-amz-meta-a": "x" * 3000}
    assert told(signed(gateway, "PUT", target, headers=much))[:2] == (400, "MetadataTooLarge")


def test_a_copy_has_the_checksum_that_was_asked_for(s3, bucket):
    body = b"0123456789"
    s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm="CRC32", Metadata={"a": "b"})
    sha1 = base64.b64encode(hashlib.sha1(body).digest()).decode()
    source = {"Bucket": bucket, "Key": "k"}
    for target in ["copy", "k"]:
        result = s3.copy_object(Bucket=bucket, Key=target, CopySource=source, ChecksumAlgorithm="SHA1")["CopyObjectResult"]
        assert result["ChecksumSHA1"] == sha1 and "ChecksumCRC32" not in result
        head = s3.head_object(Bucket=bucket, Key=target, ChecksumMode="ENABLED")
        assert (head["ChecksumSHA1"], head["Metadata"]) == (sha1, {"a": "b"})
        assert s3.get_object(Bucket=bucket, Key=target)["Body"].read() == body
    # One that it has is kept, and a copy onto itself still has to change something.
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, ChecksumAlgorithm="SHA1")
    with Refused("InvalidRequest", 400):
        s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    # That of all its parts together becomes one of all its bytes.
    part = pattern(5 * MIB)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="large", ChecksumAlgorithm="SHA256")["UploadId"]
    parts = []
    for number, data in [(1, part), (2, b"end")]:
        done = s3.upload_part(Bucket=bucket, Key="large", UploadId=upload, PartNumber=number, Body=data,
                              ChecksumAlgorithm="SHA256")
        parts.append({"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": done["ChecksumSHA256"]})
    s3.complete_multipart_upload(Bucket=bucket, Key="large", UploadId=upload, MultipartUpload={"Parts": parts})
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "large"},
                            ChecksumAlgorithm="SHA256")["CopyObjectResult"]
    assert copied["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(part + b"end").digest()).decode()


def test_algorithms_that_are_not_offered_are_named(gateway, bucket, object):
    for headers in [{"x-amz-checksum-md5": "AAAA"}, {"x-amz-checksum-blake3": "AAAA"},
                    {"x-amz-sdk-checksum-algorithm": "BLAKE3"}]:
        status, code, text = told(signed(gateway, "PUT", object, b"x", headers))
        assert (status, code) == (400, "InvalidRequest") and "CRC64NVME" in text, headers
    begin = signed(gateway, "POST", f"{object}?uploads", headers={"x-amz-checksum-algorithm": "MD5"})
    assert told(begin)[:2] == (400, "InvalidRequest")


def test_parts_of_uploads_with_checksums(gateway, s3, bucket):
    for kind, expected in [("COMPOSITE", (400, "InvalidRequest")), ("FULL_OBJECT", (200, None))]:
        upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32", ChecksumType=kind)["UploadId"]
        target = f"/{bucket}/k?partNumber=1&uploadId={quote(upload)}"
        assert told(signed(gateway, "PUT", target, b"x"))[:2] == expected, kind
        other = told(signed(gateway, "PUT", target, b"x", {"x-amz-checksum-sha1": "A" * 27 + "="}))
        assert other[:2] == (400, "InvalidRequest") and "expected checksum Type: crc32" in other[2]
    # The checksum of the whole is wrong.
    part = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)["Parts"][0]
    xml = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part['ETag']}</ETag></Part></CompleteMultipartUpload>"
    complete = lambda **headers: told(signed(gateway, "POST", f"/{bucket}/k?uploadId={quote(upload)}", xml.encode(), headers))
    assert complete(**{"x-amz-checksum-crc32": "AAAAAA=="})[:2] == (400, "BadDigest")
    assert complete(**{"x-amz-checksum-crc32": part["ChecksumCRC32"]})[:2] == (200, None)


def test_keys_that_are_too_long(gateway, bucket):
    target = f"/{bucket}/{'k' * 1025}"
    for method, query in [("PUT", ""), ("GET", ""), ("DELETE", ""), ("POST", "?uploads"), ("GET", "?uploadId=x")]:
        answer = signed(gateway, method, target + query, b"x" if method == "PUT" else b"")
        assert told(answer)[:2] == (400, "KeyTooLongError"), (method, query)
    assert signed(gateway, "HEAD", target)[0] == 400
    commit = {"changes": [{"put": {"key": "k" * 1025, "text": "x"}}]}
    answer = signed(gateway, "POST", f"/{bucket}?fula-commit", json.dumps(commit).encode())
    assert told(answer)[:2] == (400, "KeyTooLongError")


def test_names_that_no_bucket_has(gateway):
    for method, target in [("GET", "/Upper_Case"), ("GET", "/a..b?location"), ("PUT", "/1.2.3.4"), ("DELETE", "/-ab")]:
        assert told(signed(gateway, method, target))[:2] == (400, "InvalidBucketName"), (method, target)
    assert signed(gateway, "HEAD", "/Upper_Case")[0] == 400
    # The text names the rule that is broken.
    for name, rule in [("ab", "are 3 to 63 characters long"), ("Upper", "consist of lowercase letters"),
                       ("-ab", "begin and end with a letter or a digit"), ("a..b", "have no two dots in a row"),
                       ("1.2.3.4", "are not IP addresses"), ("xn--a", "do not begin with xn--"),
                       ("a-s3alias", "do not end with -s3alias"), ("ipfs", "are not fula or ipfs")]:
        body = signed(gateway, "PUT", f"/{name}")[2].decode()
        assert f"The specified bucket is not valid: bucket names {rule}" in body, body
