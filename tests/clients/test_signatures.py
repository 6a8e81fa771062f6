"""Signatures as clients really send them, and what a client is told whose signature cannot be used."""

import base64
import hashlib
import hmac
import http.client
import re
import time
import urllib.parse
import zlib

import boto3
import botocore.config
import pytest

import signing
from conftest import Gateway
from helpers import Refused
from signing import now, presigned, quote, signed_headers


def exchange(gateway, method, target, headers, body=b""):
    """Sends a request as it is; a header may have several values. Returns status, headers and body."""
    connection = http.client.HTTPConnection(gateway.listen, timeout=120)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    headers = {"host": gateway.listen, **headers}
    framed = {"content-length", "transfer-encoding"} & {name.lower() for name in headers}
    if body and not framed:
        headers["content-length"] = str(len(body))
    for name, value in headers.items():
        for line in value if isinstance(value, list) else [value]:
            connection.putheader(name, line)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def told(answer):
    """The code and the message of an error."""
    status, _, body = answer
    code = re.search(rb"<Code>(.*?)</Code>", body)
    message = re.search(rb"<Message>(.*?)</Message>", body, re.S)
    text = message[1].decode().replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">") if message else ""
    return status, code and code[1].decode(), text.replace("&apos;", "'")


def default_client(gateway, **config):
    """boto3 with nothing but an endpoint and a key."""
    key_id, secret = gateway.credentials()
    return boto3.client("s3", endpoint_url=gateway.url, aws_access_key_id=key_id, aws_secret_access_key=secret,
                        **config)


@pytest.mark.parametrize("region", ["us-east-1", "US", "RegionOne", "us_east_1", "eu west"])
def test_any_region_is_accepted(gateway, bucket, region):
    key, target = gateway.credentials(), f"/{bucket}/k"
    put = signed_headers(key, gateway.listen, "PUT", target, b"x", region=region)
    assert exchange(gateway, "PUT", target, put, b"x")[0] == 200
    get = signed_headers(key, gateway.listen, "GET", target, region=region)
    assert exchange(gateway, "GET", target, get)[2] == b"x"
    # Chunks are signed for the region, too.
    body, framing = signed_chunk(key, gateway.listen, target, b"chunked", region)
    assert exchange(gateway, "PUT", target, framing, body)[0] == 200


def signed_chunk(key, host, target, content, region):
    """A body of one chunk, and its headers."""
    date = now()
    framing = {"x-amz-decoded-content-length": str(len(content)), "content-encoding": "aws-chunked"}
    headers = signed_headers(key, host, "PUT", target, headers=framing, date=date, region=region,
                             payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
    scope = f"{date[:8]}/{region}/s3/aws4_request"
    secret = f"AWS4{key[1]}".encode()
    for part in scope.split("/"):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    previous, body = headers["authorization"].rsplit("=", 1)[1], b""
    for chunk in (content, b""):
        hashes = [hashlib.sha256(b"").hexdigest(), hashlib.sha256(chunk).hexdigest()]
        text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", date, scope, previous, *hashes])
        previous = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
        body += b"%x;chunk-signature=%s\r\n%s\r\n" % (len(chunk), previous.encode(), chunk)
    return body, headers


def test_a_strict_region_is_told(tmp_path):
    gateway = Gateway(tmp_path / "data", "--region", "eu-1", "--region-strict", "on").start()
    key = gateway.credentials()
    answer = exchange(gateway, "GET", "/", signed_headers(key, gateway.listen, "GET", "/", region="US"))
    expected = "The authorization header is malformed; the region 'US' is wrong; expecting 'eu-1'"
    assert told(answer) == (400, "AuthorizationHeaderMalformed", expected)
    assert b"<Region>eu-1</Region>" in answer[2]
    answer = exchange(gateway, "GET", "/", signed_headers(key, gateway.listen, "GET", "/", region="eu-1"))
    assert answer[0] == 200
    answer = exchange(gateway, "GET", presigned(key, gateway.listen, "GET", "/b/k"), {})
    assert told(answer)[:2] == (400, "AuthorizationQueryParametersError") and b"<Region>eu-1</Region>" in answer[2]
    gateway.stop()


def test_repeated_headers_are_one(gateway, s3, bucket):
    """The Go SDK sends two lines over TLS, and signs them joined by a comma."""
    target = f"/{bucket}/k"
    signed = {"content-encoding": "gzip,aws-chunked", "x-amz-meta-list": "a,b",
              "x-amz-decoded-content-length": "1", "x-amz-trailer": "x-amz-checksum-crc32"}
    headers = signed_headers(gateway.credentials(), gateway.listen, "PUT", target, headers=signed,
                             payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER")
    headers["content-encoding"] = ["gzip", "aws-chunked"]
    headers["x-amz-meta-list"] = ["a", "b"]
    crc = base64.b64encode(zlib.crc32(b"x").to_bytes(4, "big"))
    body = b"1\r\nx\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % crc
    assert exchange(gateway, "PUT", target, headers, body)[0] == 200
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["ContentEncoding"], got["Metadata"], got["Body"].read()) == ("gzip", {"list": "a,b"}, b"x")
    # What says who, when or how much is there once.
    twice = signed_headers(gateway.credentials(), gateway.listen, "PUT", target, b"x")
    twice["x-amz-content-sha256"] = [twice["x-amz-content-sha256"]] * 2
    assert exchange(gateway, "PUT", target, twice, b"x")[0] in (400, 403)


def test_an_encoding_keeps_its_spelling(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentEncoding="deflate, gzip")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentEncoding"] == "deflate, gzip"


def test_what_is_wrong_with_a_header_is_told(gateway):
    key, host = gateway.credentials(), gateway.listen
    good = signed_headers(key, host, "GET", "/")
    authorization = good["authorization"]
    malformed = "AuthorizationHeaderMalformed"

    def answer(**changed):
        headers = {**good, **{name.replace("_", "-"): value for name, value in changed.items()}}
        return told(exchange(gateway, "GET", "/", {name: value for name, value in headers.items() if value is not None}))

    for changed, status, code, text in [
        (authorization.replace("SignedHeaders=", "Signed="), 400, malformed, "the authorization component"),
        (authorization.split(", Signature")[0], 400, malformed, "requires three components"),
        (authorization.replace("/us-east-1", ""), 400, malformed, "the Credential is mal-formed"),
        (authorization.replace("/s3/", "/iam/"), 400, malformed, 'incorrect service "iam". This endpoint belongs to "s3".'),
        (authorization.replace("aws4_request", "aws4"), 400, malformed, 'incorrect terminal "aws4"'),
        (authorization.replace(now()[:8], "2020-1-1"), 400, malformed, 'incorrect date format "2020-1-1"'),
        (authorization.replace(now()[:8], "20200101"), 400, malformed, 'Invalid credential date "20200101"'),
        ("AWS4-HMAC-SHA256", 400, malformed, "requires three components"),
        ("AWS AKID:c2lnbmF0dXJl", 400, "InvalidRequest", "Please use AWS4-HMAC-SHA256."),
        ("Basic YTpi", 400, "InvalidRequest", "Please use AWS4-HMAC-SHA256."),
        ("None", 400, "InvalidRequest", "Please use AWS4-HMAC-SHA256."),
        ("", 403, "AccessDenied", ""),
    ]:
        found = answer(authorization=changed)
        assert found[:2] == (status, code) and text in found[2], (changed, found)
    no_date = "AWS authentication requires a valid Date or x-amz-date header"
    for date in [None, "", "yesterday"]:
        assert answer(x_amz_date=date) == (403, "AccessDenied", no_date), date
    assert answer(x_amz_content_sha256="abc")[:2] == (400, "InvalidArgument")
    status, _, body = exchange(gateway, "GET", "/", {**good, "x-amz-meta-a": "1", "x-amz-acl": "private"})
    assert status == 403 and b"<HeadersNotSigned>" in body
    assert set(re.search(rb"<HeadersNotSigned>(.*?)<", body)[1].split(b", ")) == {b"x-amz-meta-a", b"x-amz-acl"}
    assert b"<HeadersNotSigned>x-amz-a&amp;b<" in exchange(gateway, "GET", "/", {**good, "x-amz-a&b": "1"})[2]
    assert told(exchange(gateway, "GET", "/", {**good, "host": "bü".encode()}))[:2] == (400, "InvalidArgument")
    # Whatever the order of the fields.
    fields = signed_headers(key, host, "GET", "/", signed=["x-amz-date"])["authorization"].split(" ", 1)[1].split(", ")
    for some in [fields, fields[::-1], [fields[1], fields[0], fields[2]]]:
        expected = (403, "AccessDenied", "The host header must be signed.")
        assert answer(authorization=f"AWS4-HMAC-SHA256 {', '.join(some)}") == expected, some
    assert exchange(gateway, "GET", "/", good)[0] == 200


def test_a_presigned_url_is_good_in_a_url_alone(gateway, s3, bucket):
    """In a header, its signature would outlive it."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = presigned(gateway.credentials(), gateway.listen, "GET", f"/{bucket}/k")
    assert exchange(gateway, "GET", url, {})[0] == 200
    url, _, value = url.partition("&X-Amz-Signature=")
    scope, date = (urllib.parse.unquote(re.search(f"X-Amz-{name}=([^&]*)", url)[1]) for name in ["Credential", "Date"])
    authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={value}"
    headers = {"authorization": authorization, "date": date, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    assert told(exchange(gateway, "GET", url, headers))[:2] == (400, "InvalidArgument")
    assert told(exchange(gateway, "GET", url, {}))[:2] == (400, "AuthorizationQueryParametersError")


def test_a_url_may_pin_its_body(gateway, bucket):
    key, host, name = gateway.credentials(), gateway.listen, "x-amz-content-sha256"
    pinned, other = (hashlib.sha256(body).hexdigest() for body in [b"body", b"other"])
    url = presigned(key, host, "PUT", f"/{bucket}/k?X-Amz-Content-Sha256={pinned}", payload=pinned)
    for headers, body, expected in [
        ({}, b"body", (200, None)),
        ({name: pinned}, b"body", (200, None)),
        ({}, b"other", (400, "XAmzContentSHA256Mismatch")),
        ({name: "UNSIGNED-PAYLOAD"}, b"other", (400, "InvalidRequest")),
        ({name: other}, b"other", (400, "InvalidRequest")),
    ]:
        assert told(exchange(gateway, "PUT", url, headers, body))[:2] == expected, (headers, body)
    # One that leaves it open leaves the hash to who sends the body.
    for query in ["", "?X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"]:
        url = presigned(key, host, "PUT", f"/{bucket}/k{query}")
        for value, expected in [
            (other, (200, None)),
            (pinned, (400, "XAmzContentSHA256Mismatch")),
            (other[1:], (400, "InvalidArgument")),
            ("unsigned-payload", (400, "InvalidArgument")),
        ]:
            assert told(exchange(gateway, "PUT", url, {name: value}, b"other"))[:2] == expected, (query, value)


def test_xml_in_chunks_that_hold_nothing(gateway, s3, bucket):
    """The chunks are verified; nothing else is taken for the XML."""
    key, host, target = gateway.credentials(), gateway.listen, f"/{bucket}?delete"
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    xml = b"<Delete><Object><Key>k</Key></Object></Delete>"
    framing = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": "0"}
    for payload, body, expected in [
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", xml, (400, "IncompleteBody")),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", b"0;chunk-signature=%s\r\n\r\n" % (b"0" * 64), (403, "SignatureDoesNotMatch")),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", xml, (400, "IncompleteBody")),
        (hashlib.sha256(b"").hexdigest(), xml, (400, "XAmzContentSHA256Mismatch")),
    ]:
        headers = signed_headers(key, host, "POST", target, headers=framing, payload=payload)
        assert told(exchange(gateway, "POST", target, headers, body))[:2] == expected, (payload, body)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


def test_what_is_wrong_with_a_presigned_url_is_told(gateway):
    key, host = gateway.credentials(), gateway.listen
    answer = lambda **how: told(exchange(gateway, "GET", presigned(key, host, "GET", "/no-such-bucket/k", **how), {}))
    query = "AuthorizationQueryParametersError"
    for how, status, code, text in [
        ({"expires": "soon"}, 400, query, "X-Amz-Expires should be a number"),
        ({"expires": "-1"}, 400, query, "X-Amz-Expires must be non-negative"),
        ({"expires": "604801"}, 400, query, "X-Amz-Expires must be less than a week (in seconds)"),
        ({"Date": "20200101"}, 400, query, "X-Amz-Date must be in the ISO8601 Long Format"),
        ({"Date": now(-86_400 * 2)}, 400, query, "Invalid credential date"),
        ({"Expires": None}, 400, query, "Query-string authentication version 4 requires the X-Amz-Algorithm"),
        ({"Algorithm": "AWS4-HMAC-SHA1"}, 400, query, "X-Amz-Algorithm only supports"),
        ({"service": "iam"}, 400, query, 'incorrect service "iam"'),
        ({"date": now(-600), "expires": "60"}, 403, "AccessDenied", "Request has expired"),
        ({"date": now(1800)}, 403, "AccessDenied", "Request is not valid yet"),
    ]:
        found = answer(**how)
        assert found[:2] == (status, code) and text in found[2], (how, found)
    assert answer()[:2] == (404, "NoSuchBucket")


def test_either_date_header_is_good(gateway):
    key, host = gateway.credentials(), gateway.listen
    date = now()
    moment = time.strptime(date, "%Y%m%dT%H%M%SZ")
    payload = hashlib.sha256(b"").hexdigest()
    for text in [time.strftime("%a, %d %b %Y %H:%M:%S GMT", moment), date]:
        headers = {"host": host, "date": text, "x-amz-content-sha256": payload}
        names = sorted(headers)
        value = signing.signature(key[1], "GET", "/", headers, names, payload, date)
        scope = f"{key[0]}/{date[:8]}/us-east-1/s3/aws4_request"
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(names)}, Signature={value}"
        assert exchange(gateway, "GET", "/", headers)[0] == 200, text
    both = signed_headers(key, host, "GET", "/", headers={"date": "Fri, 01 Jan 1999 00:00:00 GMT"})
    assert exchange(gateway, "GET", "/", both)[0] == 200


@pytest.mark.parametrize("region", [None, "us-east-1", "eu-west-1"])
def test_the_default_presigned_url_of_boto3(gateway, s3, bucket, region):
    """Without a region, and with some, it is one of signature version 2."""
    client = default_client(gateway, **({"region_name": region} if region else {}))
    url = lambda operation, **more: client.generate_presigned_url(
        operation, Params={"Bucket": bucket, "Key": "a key+ü", **more}).removeprefix(gateway.url)
    put = url("put_object", ContentType="text/plain", Metadata={"a": "b"})
    assert "X-Amz-Signature" not in put
    assert exchange(gateway, "PUT", put, {"content-type": "text/plain"}, b"body")[0] == 200
    got = s3.get_object(Bucket=bucket, Key="a key+ü")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (b"body", "text/plain", {"a": "b"})
    assert exchange(gateway, "GET", url("get_object"), {})[2] == b"body"
    assert exchange(gateway, "HEAD", url("head_object"), {})[0] == 200
    named = exchange(gateway, "GET", url("get_object", ResponseContentType="text/x"), {})
    assert (named[0], named[1]["content-type"]) == (200, "text/x")
    # Nothing else comes of it.
    get = url("get_object")
    for method, target, expected in [
        ("PUT", get, (403, "SignatureDoesNotMatch")),
        ("DELETE", get, (400, "InvalidRequest")),
        ("GET", get.replace("a%20key", "another"), (403, "SignatureDoesNotMatch")),
        ("GET", get + "&partNumber=1", (403, "SignatureDoesNotMatch")),
        ("GET", url("get_object", ResponseCacheControl="a&response-expires=b"), (403, "AccessDenied")),
        ("GET", get + "&uploadId=x&max-parts=1", (403, "AccessDenied")),
        ("GET", re.sub("Expires=[0-9]+", "Expires=1", get), (403, "AccessDenied")),
        ("GET", re.sub("Expires=[0-9]+", "Expires=99999999999", get), (403, "AccessDenied")),
    ]:
        assert told(exchange(gateway, method, target, {}))[:2] == expected, (method, target)
    status = exchange(gateway, "PUT", put, {"content-type": "text/plain", "x-amz-meta-more": "1"}, b"x")[0]
    assert status == 403
    copy = {"content-type": "text/plain", "x-amz-copy-source": f"/{bucket}/other"}
    assert exchange(gateway, "PUT", put, copy)[0] == 400
    # Requests and listings are refused.
    v2 = boto3.client("s3", endpoint_url=gateway.url, region_name="us-east-1",
                      aws_access_key_id=gateway.credentials()[0], aws_secret_access_key=gateway.credentials()[1],
                      config=botocore.config.Config(signature_version="s3"))
    with Refused("InvalidRequest", 400) as refused:
        v2.list_buckets()
    assert "AWS4-HMAC-SHA256" in refused.response["Error"]["Message"]
    listing = client.generate_presigned_url("list_objects_v2", Params={"Bucket": bucket}).removeprefix(gateway.url)
    assert told(exchange(gateway, "GET", listing, {}))[:2] == (400, "InvalidRequest")


def test_version_2_can_be_switched_off(tmp_path):
    gateway = Gateway(tmp_path / "data", "--sigv2", "off").start()
    client = default_client(gateway)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="k", Body=b"x")
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    found = told(exchange(gateway, "GET", url.removeprefix(gateway.url), {}))
    assert found[:2] == (400, "InvalidRequest") and "AWS4-HMAC-SHA256" in found[2]
    gateway.stop()


def test_parameters_of_a_presigned_url_stand_for_headers(gateway, s3, bucket):
    key, host = gateway.credentials(), gateway.listen
    crc = base64.b64encode(zlib.crc32(b"body").to_bytes(4, "big")).decode()
    query = f"x-amz-meta-a={quote('b c')}&x-amz-acl=private&x-amz-storage-class=STANDARD&x-amz-checksum-crc32={quote(crc)}"
    url = presigned(key, host, "PUT", f"/{bucket}/k?{query}")
    # A client may send the header as well.
    assert exchange(gateway, "PUT", url, {"x-amz-acl": "private"}, b"body")[0] == 200
    got = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (got["Metadata"], got["ChecksumCRC32"]) == ({"a": "b c"}, crc)
    assert told(exchange(gateway, "PUT", url, {}, b"other"))[:2] == (400, "BadDigest")
    for header in [{"x-amz-acl": "public-read"}, {"x-amz-meta-a": "other"}, {"x-amz-meta-more": "1"}]:
        assert exchange(gateway, "PUT", url, header, b"body")[0] in (400, 403), header
    for more, expected in [("x-amz-tagging=a%3Db%26a", (400, "InvalidArgument")),
                           ("x-amz-acl=public-read", (400, "AccessControlListNotSupported"))]:
        url = presigned(key, host, "PUT", f"/{bucket}/k?{more}")
        assert told(exchange(gateway, "PUT", url, {}, b"x"))[:2] == expected
    # Nobody signed these.
    assert exchange(gateway, "PUT", presigned(key, host, "PUT", f"/{bucket}/k") + "&x-amz-meta-a=1", {}, b"x")[0] == 403
    copied = presigned(key, host, "PUT", f"/{bucket}/copy?x-amz-copy-source={quote(f'/{bucket}/k')}")
    assert exchange(gateway, "PUT", copied, {})[0] == 200
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"body"


def test_bytes_beyond_ascii_in_headers(gateway, s3, bucket):
    """UTF-8 as most clients send it, and Latin-1 as Python's HTTP client does, signed as UTF-8."""
    key, host, target = gateway.credentials(), gateway.listen, f"/{bucket}/k"
    for encoding in ["utf-8", "latin-1"]:
        text = 'attachment; filename="größe.txt"'
        signed = signed_headers(key, host, "PUT", target, b"x", {"content-disposition": text, "x-amz-meta-a": "grün",
                                                                 "x-amz-meta-word": "=?utf-8?b?bad=?="})
        sent = {name: value.encode(encoding) for name, value in signed.items()}
        assert exchange(gateway, "PUT", target, sent, b"x")[0] == 200, encoding
        answer = exchange(gateway, "GET", target, signed_headers(key, host, "GET", target))
        raw = lambda name: answer[1][name].encode("latin-1")
        assert raw("content-disposition") == text.encode(encoding), encoding
        assert raw("x-amz-meta-a") == "grün".encode(encoding)
        assert raw("x-amz-meta-word") == b"=?utf-8?b?bad=?="
        # Another spelling is another header.
        sent["x-amz-meta-a"] = "grun".encode()
        assert exchange(gateway, "PUT", target, sent, b"x")[0] == 403


def test_trailers(gateway, s3, bucket):
    key, host, target = gateway.credentials(), gateway.listen, f"/{bucket}/k"

    def put(body, length=4, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        signed = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(length), **headers}
        sent = signed_headers(key, host, "PUT", target, headers=signed, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        return exchange(gateway, "PUT", target, sent, body)

    crc = base64.b64encode(zlib.crc32(b"body").to_bytes(4, "big"))
    framed = b"4\r\nbody\r\n0\r\n%s\r\n"
    trailer = b"x-amz-checksum-crc32:%s\r\n" % crc
    # None is needed; then the checksum is computed.
    assert put(framed % b"")[0] == 200
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumCRC64NVME"]
    assert put(framed % trailer, x_amz_trailer="x-amz-checksum-crc32")[0] == 200
    for body, length, headers, expected in [
        (framed % b"", 4, {"x_amz_trailer": "x-amz-checksum-crc32"}, (400, "MalformedTrailerError")),
        (framed % trailer, 4, {}, (400, "MalformedTrailerError")),
        (framed % b"nonsense\r\n", 4, {}, (400, "MalformedTrailerError")),
        (framed % trailer, 4, {"x_amz_trailer": "x-amz-checksum-sha1"}, (400, "MalformedTrailerError")),
        (framed % trailer, 4, {"x_amz_trailer": "x-amz-checksum-crc32", "x_amz_sdk_checksum_algorithm": "SHA1"},
         (400, "InvalidRequest")),
        (framed % b"x-amz-checksum-crc32:AAAAAA==\r\n", 4, {"x_amz_trailer": "x-amz-checksum-crc32"}, (400, "BadDigest")),
        (framed % b"x-amz-note:1\r\nx-amz-checksum-crc32:AAAAAA==\r\n", 4,
         {"x_amz_trailer": "x-amz-note,x-amz-checksum-crc32"}, (400, "BadDigest")),
        (framed % trailer, 4, {"x_amz_trailer": "x-amz-checksum-crc32,x-amz-checksum-sha1"}, (400, "InvalidRequest")),
        (framed % b"", 5, {}, (400, "IncompleteBody")),
        (b"4\r\nbod", 4, {}, (400, "IncompleteBody")),
        (framed % b"", "four", {}, (400, "InvalidArgument")),
    ]:
        assert told(put(body, length, **headers))[:2] == expected, (body, headers)


def test_a_length_may_be_that_of_the_content_alone(gateway, s3, bucket):
    key, host, target = gateway.credentials(), gateway.listen, f"/{bucket}/k"
    sent = {"transfer-encoding": "chunked"}
    chunked = b"4\r\nbody\r\n0\r\n\r\n"
    for length, expected in [(None, (411, "MissingContentLength")), ("4", (200, None)), ("5", (400, "IncompleteBody"))]:
        headers = {"x-amz-decoded-content-length": length} if length else {}
        signed = signed_headers(key, host, "PUT", target, headers=headers, payload="UNSIGNED-PAYLOAD")
        assert told(exchange(gateway, "PUT", target, {**signed, **sent}, chunked))[:2] == expected, length
    # Its framing is inside that of HTTP.
    headers = {"x-amz-decoded-content-length": "4", "content-encoding": "aws-chunked"}
    signed = signed_headers(key, host, "PUT", target, headers=headers, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER")
    inner = b"4\r\nmore\r\n0\r\n\r\n"
    outer = b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
    assert exchange(gateway, "PUT", target, {**signed, **sent}, outer)[0] == 200
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"more"
