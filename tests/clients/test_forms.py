"""Forms that browsers post."""

import base64
import json
import time
import urllib.parse

import pytest

from helpers import MIB, Refused, pattern
from test_cors import ORIGIN, RULES, allowed
from test_signatures import exchange, told


def form(fields, file=b"content", file_name="photo.png", boundary="x1y2"):
    """Body and headers of a form, as a browser encodes it."""
    out = b""
    for name, value in fields:
        out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    if file is not None:
        out += (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n").encode() + file + b"\r\n"
    return out + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def post(gateway, bucket, fields, file=b"content", headers=None, **more):
    body, head = form(fields.items() if isinstance(fields, dict) else fields, file, **more)
    return exchange(gateway, "POST", f"/{bucket}", {**head, **(headers or {})}, body)


@pytest.fixture
def signed_form(s3, bucket):
    """Makes the fields of a form that boto3 signs."""
    def make(key="k", fields=None, conditions=None, **more):
        return s3.generate_presigned_post(bucket, key, Fields=fields, Conditions=conditions, **more)["fields"]
    return make


def test_a_form_stores_an_object(gateway, s3, bucket, signed_form):
    status, headers, body = post(gateway, bucket, signed_form("a b/é"))
    assert (status, body) == (204, b"")
    assert headers["location"] == f"{gateway.url}/{bucket}/a%20b/%C3%A9"
    got = s3.get_object(Bucket=bucket, Key="a b/é")
    assert (got["Body"].read(), got["ETag"], got["ContentType"]) == (b"content", headers["etag"], "binary/octet-stream")


@pytest.mark.parametrize("length", [0, 1, 70_000, 3 * MIB + 1])
def test_files_of_all_sizes(gateway, s3, bucket, signed_form, length):
    # Line ends and beginnings of the boundary lie in the file.
    body = (b"\r\n--x1y\r\n--x1\r\r\n-" + pattern(length))[:length]
    assert post(gateway, bucket, signed_form(), body)[0] == 204
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body


def test_fields_are_what_headers_are(gateway, s3, bucket, signed_form):
    tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1 2</Value></Tag></TagSet></Tagging>"
    fields = {"Content-Type": "image/png", "Cache-Control": "max-age=5", "x-amz-meta-note": "grün", "acl": "private",
              "tagging": tags, "x-amz-storage-class": "STANDARD", "x-ignore-me": "x"}
    conditions = [{"Content-Type": "image/png"}, ["starts-with", "$Cache-Control", ""], ["starts-with", "$x-amz-meta-note", "gr"],
                  {"acl": "private"}, {"tagging": tags}, ["eq", "$x-amz-storage-class", "STANDARD"]]
    assert post(gateway, bucket, signed_form("k", fields, conditions))[0] == 204
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["ContentType"], got["CacheControl"], got["Metadata"], got["TagCount"]) == (
        "image/png", "max-age=5", {"note": "grÃ¼n"}, 1)
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "1 2"}]
    for name, value, expected in [("acl", "public-read", (400, "AccessControlListNotSupported")),
                                  ("x-amz-server-side-encryption", "aws:kms", (501, "NotImplemented")),
                                  ("tagging", "<Tagging>", (400, "MalformedXML"))]:
        found = post(gateway, bucket, signed_form("k", {name: value}, [{name: value}]))
        assert told(found)[:2] == expected, name


def test_the_name_of_the_file_may_be_the_key(gateway, s3, bucket, signed_form):
    for file_name in ["photo.png", "C:\\pictures\\photo.png", "dir/photo.png"]:
        s3.delete_object(Bucket=bucket, Key="in/photo.png")
        assert post(gateway, bucket, signed_form("in/${filename}"), file_name=file_name)[0] == 204
        assert s3.head_object(Bucket=bucket, Key="in/photo.png")["ContentLength"] == 7


def test_what_a_form_is_answered(gateway, s3, bucket, signed_form):
    ask = lambda name, value: post(gateway, bucket, signed_form("a&b", {name: value}, [{name: value}]))
    assert ask("success_action_status", "200")[0] == 200
    status, headers, body = ask("success_action_status", "201")
    etag = headers["etag"]
    assert status == 201 and headers["content-type"] == "application/xml"
    assert body.decode().split("\n")[1] == (
        f"<PostResponse><Location>{gateway.url}/{bucket}/a%26b</Location><Bucket>{bucket}</Bucket><Key>a&amp;b</Key>"
        f"<ETag>{etag.replace(chr(34), '&quot;')}</ETag></PostResponse>")
    assert ask("success_action_status", "404")[0] == 204
    for name in ["success_action_redirect", "redirect"]:
        status, headers, _ = ask(name, "https://app.example.com/done?x=1")
        query = urllib.parse.urlencode({"bucket": bucket, "key": "a&b", "etag": etag})
        assert (status, headers["location"]) == (303, f"https://app.example.com/done?x=1&{query}")
    assert ask("success_action_redirect", "javascript:alert(1)")[0] == 204


def test_a_form_is_held_to_its_policy(gateway, s3, bucket, signed_form):
    denied = lambda answer: told(answer)[:2] + (told(answer)[2].removeprefix("Invalid according to Policy: "),)
    fields = signed_form()
    assert denied(post(gateway, bucket, {**fields, "x-amz-meta-a": "1"})) == (403, "AccessDenied", "Extra input fields: x-amz-meta-a")
    assert denied(post(gateway, bucket, {**fields, "key": "other"}))[2] == 'Policy Condition failed: ["eq", "$key", "k"]'
    other = f"{bucket}-2"
    s3.create_bucket(Bucket=other)
    assert denied(post(gateway, other, fields))[2] == f'Policy Condition failed: ["eq", "$bucket", "{bucket}"]'
    sized = signed_form("k", None, [["content-length-range", 3, 10]])
    assert told(post(gateway, bucket, sized, b"12"))[:2] == (400, "EntityTooSmall")
    for length in [11, 70_000]:
        found = post(gateway, bucket, sized, b"x" * length)
        assert told(found)[:2] == (400, "EntityTooLarge") and b"<MaxSizeAllowed>10</MaxSizeAllowed>" in found[2]
    ended = signed_form("k", ExpiresIn=1)
    while time.time() < json_of(ended["policy"]):
        time.sleep(0.1)
    assert denied(post(gateway, bucket, ended)) == (403, "AccessDenied", "Policy expired.")
    with Refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")
    assert post(gateway, bucket, sized, b"123")[0] == 204


def json_of(policy):
    text = json.loads(base64.b64decode(policy))["expiration"]
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone + 1


def test_a_form_is_signed(gateway, bucket, signed_form):
    fields = signed_form()
    code = lambda fields, file=b"x": told(post(gateway, bucket, fields, file))[:2]
    without = lambda *names: {name: value for name, value in fields.items() if name not in names}
    assert code({"key": "k"}) == (403, "AccessDenied")
    for name in ["policy", "x-amz-signature", "x-amz-credential", "x-amz-date", "x-amz-algorithm", "key"]:
        assert code(without(name)) == (400, "InvalidArgument"), name
    assert code({**fields, "x-amz-signature": "0" * 64}) == (403, "SignatureDoesNotMatch")
    unknown = fields["x-amz-credential"].replace(fields["x-amz-credential"].split("/")[0], "AKIAUNKNOWN")
    assert code({**fields, "x-amz-credential": unknown}) == (403, "InvalidAccessKeyId")
    wider = base64.b64encode(base64.b64decode(fields["policy"]).replace(b'"k"', b'"l"')).decode()
    assert code({**fields, "policy": wider}) == (403, "SignatureDoesNotMatch")
    assert code({**fields, "policy": "!"}) == (400, "InvalidPolicyDocument")
    assert code({**without("x-amz-signature"), "AWSAccessKeyId": "a", "signature": "s"}) == (400, "InvalidRequest")
    assert code(fields, None) == (400, "InvalidArgument")


def test_malformed_forms(gateway, s3, bucket, signed_form):
    body, headers = form(signed_form().items())
    send = lambda body, headers=headers: told(exchange(gateway, "POST", f"/{bucket}", headers, body))[:2]
    malformed = (400, "MalformedPOSTRequest")
    assert send(body, {"content-type": "multipart/form-data"}) == malformed
    assert send(b"no form") == malformed
    assert send(body.replace(b"Content-Disposition", b"Content")) == malformed
    # The file never ends.
    assert send(body.removesuffix(b"--x1y2--\r\n")) == malformed
    assert send(form([("key", "k"), ("note", "x" * (20 << 10))])[0])[1] == "MaxPostPreDataLengthExceededError"
    assert send(form([("key", "k"), ("key", "l")])[0]) == malformed
    found = exchange(gateway, "POST", f"/{bucket}/k", headers, body)
    assert told(found)[:2] == (405, "MethodNotAllowed")
    with Refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")
    assert send(body)[0] == 204


def test_a_checksum_of_a_form_is_verified(gateway, s3, bucket, signed_form):
    fields = lambda value: signed_form("k", {"x-amz-checksum-crc32": value}, [["starts-with", "$x-amz-checksum-crc32", ""]])
    assert told(post(gateway, bucket, fields("AAAAAA==")))[:2] == (400, "BadDigest")
    right = s3.put_object(Bucket=bucket, Key="l", Body=b"content", ChecksumAlgorithm="CRC32")["ChecksumCRC32"]
    assert post(gateway, bucket, fields(right))[0] == 204


def test_a_page_of_another_origin_posts_a_form(gateway, s3, bucket, signed_form):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    status, headers, _ = post(gateway, bucket, signed_form(), headers={"origin": ORIGIN})
    assert (status, allowed(headers)["allow-origin"]) == (204, ORIGIN)
