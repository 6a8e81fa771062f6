"""Requests from other origins, as browsers send them."""

import pytest

from helpers import Refused
from signing import presigned
from test_answers import signed
from test_settings import code
from test_signatures import exchange, told

ORIGIN = "https://app.example.com"
RULES = [
    {"ID": "uploads", "AllowedOrigins": [ORIGIN], "AllowedMethods": ["PUT", "POST"], "AllowedHeaders": ["x-amz-*", "Content-Type"],
     "ExposeHeaders": ["ETag", "x-amz-version-id"], "MaxAgeSeconds": 300},
    {"AllowedOrigins": ["http://*.example.com", "*"], "AllowedMethods": ["GET", "HEAD"]},
]
VARY = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"


def allowed(headers):
    prefix = "access-control-"
    return {name.lower().removeprefix(prefix): value for name, value in headers.items() if name.lower().startswith(prefix)}


def preflight(gateway, target, method=None, origin=ORIGIN, headers=None):
    sent = {"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers}
    return exchange(gateway, "OPTIONS", target, {name: value for name, value in sent.items() if value is not None})


@pytest.fixture
def open_bucket(s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    return bucket


def test_rules_come_back_as_they_were_set(s3, open_bucket):
    assert s3.get_bucket_cors(Bucket=open_bucket)["CORSRules"] == RULES
    assert s3.delete_bucket_cors(Bucket=open_bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with Refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=open_bucket)


def test_rules_that_cannot_be_are_refused(s3, bucket):
    put = lambda *rules: code(s3.put_bucket_cors, Bucket=bucket, CORSConfiguration={"CORSRules": list(rules)})
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}
    for more, text in [
        ({"AllowedMethods": ["OPTIONS"]}, "Found unsupported HTTP method in CORS config. Unsupported method is OPTIONS"),
        ({"AllowedMethods": ["get"]}, "Found unsupported HTTP method in CORS config. Unsupported method is get"),
        ({"AllowedOrigins": ["http://*.*"]}, 'AllowedOrigin "http://*.*" can not have more than one wildcard.'),
        ({"AllowedHeaders": ["*-*"]}, 'AllowedHeader "*-*" can not have more than one wildcard.'),
        ({"ExposeHeaders": ["x-*"]},
         'ExposeHeader "x-*" contains wildcard. We currently do not support wildcard for ExposeHeader.'),
    ]:
        assert put({**rule, **more}) == (400, "InvalidRequest", text)
    for rules in [[], [rule] * 101, [{**rule, "AllowedOrigins": []}]]:
        assert put(*rules)[:2] == (400, "MalformedXML")
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule] * 100})


def test_a_preflight_needs_no_credential(gateway, open_bucket):
    status, headers, body = preflight(gateway, f"/{open_bucket}/k", "PUT", headers="X-Amz-Date, content-type")
    assert (status, body, headers["vary"]) == (200, b"", VARY)
    assert allowed(headers) == {
        "allow-origin": ORIGIN, "allow-methods": "PUT, POST", "allow-headers": "x-amz-date, content-type",
        "expose-headers": "ETag, x-amz-version-id", "max-age": "300", "allow-credentials": "true",
    }
    status, headers, _ = preflight(gateway, f"/{open_bucket}/k", "GET", origin="https://other.example.org")
    assert (status, allowed(headers)) == (200, {"allow-origin": "*", "allow-methods": "GET, HEAD"})
    status, headers, _ = preflight(gateway, f"/{open_bucket}/k", "GET", origin="http://a.example.com")
    assert allowed(headers)["allow-origin"] == "http://a.example.com"


def test_preflights_that_are_refused(gateway, s3, bucket, open_bucket):
    for method, origin, asked in [("PUT", "https://other.example.org", None), ("DELETE", ORIGIN, None), ("PUT", ORIGIN, "x-other"),
                                  ("PUT", ORIGIN + ".evil.test", None), ("PUT", "null", None)]:
        answer = preflight(gateway, f"/{open_bucket}/k", method, origin, asked)
        status, found, text = told(answer)
        assert (status, found, allowed(answer[1])) == (403, "AccessForbidden", {}), (method, origin, asked)
        assert text.startswith("CORSResponse: This CORS request is not allowed.")
        assert f"<Method>{method}</Method><ResourceType>OBJECT</ResourceType>".encode() in answer[2]
    s3.delete_bucket_cors(Bucket=open_bucket)
    closed = told(preflight(gateway, f"/{open_bucket}/k", "GET"))
    assert closed in [(403, "AccessForbidden", "CORSResponse: CORS is not enabled for this bucket."),
                      (403, "AccessForbidden", "CORSResponse: Bucket not found")]
    absent = told(preflight(gateway, "/never-made-this-one/k", "GET"))
    assert absent == (403, "AccessForbidden", "CORSResponse: Bucket not found")
    assert told(preflight(gateway, f"/{open_bucket}", "GET", origin=None)) == (
        400, "BadRequest", "Insufficient information. Origin request header needed.")
    for method in [None, "PATCH", "get"]:
        text = f"Invalid Access-Control-Request-Method: {method or 'null'}"
        assert told(preflight(gateway, f"/{open_bucket}", method)) == (400, "BadRequest", text)


def test_answers_carry_what_the_rules_allow(gateway, s3, open_bucket):
    get = lambda origin, method="GET", target=f"/{open_bucket}/k": signed(
        gateway, method, target, headers={"origin": origin})
    status, headers, body = get("https://other.example.org")
    assert (status, body, headers["vary"]) == (200, b"x", VARY)
    assert allowed(headers) == {"allow-origin": "*", "allow-methods": "GET, HEAD"}
    put = signed(gateway, "PUT", f"/{open_bucket}/new", b"y", {"origin": ORIGIN})
    assert (put[0], allowed(put[1])["allow-origin"], allowed(put[1])["expose-headers"]) == (200, ORIGIN, "ETag, x-amz-version-id")
    # A page may read why it was refused.
    missing = get(ORIGIN, target=f"/{open_bucket}/missing")
    assert (missing[0], allowed(missing[1])["allow-origin"]) == (404, "*")
    # Nothing is refused because of its origin.
    deleted = get(ORIGIN, "DELETE", f"/{open_bucket}/new")
    assert (deleted[0], allowed(deleted[1]), deleted[1]["vary"]) == (204, {}, VARY)
    # An answer without an origin may not be kept for one with an origin.
    plain = signed(gateway, "GET", f"/{open_bucket}/k")
    assert (allowed(plain[1]), plain[1]["vary"]) == ({}, VARY)


def test_a_presigned_url_works_from_a_page(gateway, open_bucket):
    """The preflight carries the query of the URL, which tells whose bucket is meant."""
    url = presigned(gateway.credentials(), gateway.listen, "PUT", f"/{open_bucket}/page")
    status, headers, _ = preflight(gateway, url, "PUT", headers="content-type")
    assert (status, allowed(headers)["allow-origin"]) == (200, ORIGIN)
    status, headers, _ = exchange(gateway, "PUT", url, {"origin": ORIGIN, "content-type": "text/plain"}, b"body")
    assert (status, allowed(headers)["allow-origin"]) == (200, ORIGIN)


def test_rules_survive_a_restart(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="cors-bucket")
    s3.put_bucket_cors(Bucket="cors-bucket", CORSConfiguration={"CORSRules": RULES})
    own_gateway.kill()
    own_gateway.start()
    assert s3.get_bucket_cors(Bucket="cors-bucket")["CORSRules"] == RULES
    assert preflight(own_gateway, "/cors-bucket/k", "PUT")[0] == 200


def test_a_preflight_tells_nothing_of_private_buckets(gateway, s3, bucket):
    """Who is named in the request may have the bucket or not: the answers are equal."""
    owner = s3.list_buckets()["Owner"]["ID"]
    asked = lambda name, allowed_method="GET": exchange(gateway, "OPTIONS", f"/{name}/k", {
        "origin": ORIGIN, "access-control-request-method": allowed_method, "x-amz-expected-bucket-owner": owner})
    absent = told(asked("never-made-this-one"))
    assert absent == (403, "AccessForbidden", "CORSResponse: Bucket not found")
    assert told(asked(bucket)) == absent
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [{"AllowedOrigins": [ORIGIN], "AllowedMethods": ["GET"]}]})
    assert asked(bucket)[0] == 200 and told(asked(bucket, "PUT")) == absent
    # The key of a presigned URL names its user, and proves nothing.
    key = gateway.credentials()[0]
    named = lambda name: told(exchange(gateway, "OPTIONS", f"/{name}/k?X-Amz-Credential={key}%2Fx", {
        "origin": ORIGIN, "access-control-request-method": "PUT"}))
    assert named(bucket) == named("never-made-this-one") == absent
