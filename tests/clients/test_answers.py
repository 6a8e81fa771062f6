"""Answers as AWS gives them, where clients look at them closely."""

import datetime
import re

import pytest


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
