"""Multi-key commits on the wire, in JSON and in dag-cbor."""

import json
import time

import pytest

import dag_cbor
from conftest import Gateway
from helpers import Refused, pattern
from identity import Wallet, call, code, door, token_client
from test_answers import signed
from test_signatures import told

CBOR = {"content-type": "application/vnd.ipld.dag-cbor"}


def commit(gateway, bucket, changes, headers=CBOR, **more):
    """Sends a commit in dag-cbor. Returns status, and the answer or the error."""
    answer = signed(gateway, "POST", f"/{bucket}?fula-commit", dag_cbor.dumps({"changes": changes, **more}), headers)
    if answer[0] != 200:
        return told(answer)
    assert answer[1]["content-type"] == CBOR["content-type"]
    return answer[0], dag_cbor.loads(answer[2])


def test_a_commit_in_dag_cbor_carries_bytes(gateway, s3, bucket):
    body = pattern(300_000)
    status, answer = commit(gateway, bucket, [
        {"put": {"key": "a", "bytes": body, "contentType": "text/x", "metadata": {"m": "1"}, "ifNoneMatch": "*"}},
        {"put": {"key": "b", "bytes": b""}}])
    assert status == 200 and [r["key"] for r in answer["results"]] == ["a", "b"]
    found = s3.get_object(Bucket=bucket, Key="a")
    assert (found["Body"].read(), found["ContentType"], found["Metadata"]) == (body, "text/x", {"m": "1"})
    assert answer["results"][0]["etag"] == found["ETag"]
    assert found["ResponseMetadata"]["HTTPHeaders"]["x-fula-version"] == str(answer["version"])
    # What looks like XML is stored as it was sent.
    assert commit(gateway, bucket, [{"put": {"key": "x", "bytes": b"<a>&#233;<![CDATA[b]]></a>"}}])[0] == 200
    assert s3.get_object(Bucket=bucket, Key="x")["Body"].read() == b"<a>&#233;<![CDATA[b]]></a>"


def test_a_rename_of_many_objects_moves_no_bytes(gateway, s3, bucket):
    keys = [f"{n:03}" for n in range(200)]
    puts = [{"put": {"key": f"old/{key}", "bytes": key.encode(), "metadata": {"was": "old"}}} for key in keys]
    assert commit(gateway, bucket, puts)[0] == 200
    moves = [{"copy": {"key": f"new/{key}", "from": {"key": f"old/{key}"}, "metadata": {"now": key}}} for key in keys]
    moves += [{"delete": {"key": f"old/{key}"}} for key in keys]
    status, answer = commit(gateway, bucket, moves)
    assert status == 200, answer
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [o["Key"] for o in listed] == [f"new/{key}" for key in keys]
    assert [r.get("etag") for r in answer["results"]] == [o["ETag"] for o in listed] + [None] * len(keys)
    found = s3.get_object(Bucket=bucket, Key="new/007")
    assert (found["Body"].read(), found["Metadata"]) == (b"007", {"now": "007"})


def test_copies_checks_and_uploads_in_json(gateway, s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="lock", Body=b"1")["ETag"]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="up", Metadata={"was": "old"})["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="up", UploadId=upload, PartNumber=1, Body=b"part")["ETag"]
    body = {"changes": [
        {"check": {"key": "lock", "ifMatch": etag}},
        {"copy": {"key": "copy", "from": {"bucket": bucket, "key": "lock"}}},
        {"put": {"key": "up", "upload": {"id": upload, "parts": [{"number": 1, "etag": part}]}, "metadata": {"now": "1"}}}]}
    send = lambda: signed(gateway, "POST", f"/{bucket}?fula-commit", json.dumps(body).encode())
    status, headers, text = send()
    assert (status, headers["content-type"]) == (200, "application/json"), text
    assert json.loads(text)["results"][:2] == [{"key": "lock", "etag": None}, {"key": "copy", "etag": etag}]
    assert s3.head_object(Bucket=bucket, Key="up")["Metadata"] == {"now": "1"}
    s3.put_object(Bucket=bucket, Key="lock", Body=b"2")
    del body["changes"][2]
    assert told(send())[:2] == (412, "PreconditionFailed")


def test_each_change_by_itself(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="there", Body=b"x")
    changes = [{"put": {"key": "a", "bytes": b"1"}}, {"put": {"key": "there", "bytes": b"2", "ifNoneMatch": "*"}},
               {"copy": {"key": "c", "from": {"key": "none"}}}, {"check": {"key": "none", "ifMatch": "*"}},
               {"put": {"key": "large", "bytes": bytes((1 << 20) + 1)}}]
    status, answer = commit(gateway, bucket, changes, each=True)
    told = lambda r: (r["error"]["status"], r["error"]["code"]) if "error" in r else r["etag"][0]
    assert [told(r) for r in answer["results"]] == [
        '"', (412, "PreconditionFailed"), (404, "NoSuchKey"), (404, "NoSuchKey"), (400, "EntityTooLarge")]
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"
    assert s3.get_object(Bucket=bucket, Key="there")["Body"].read() == b"x"
    body = json.dumps({"each": True, "changes": [{"put": {"key": "there", "text": "", "ifMatch": "y"}}]}).encode()
    results = json.loads(signed(gateway, "POST", f"/{bucket}?fula-commit", body)[2])["results"]
    assert results[0]["error"]["code"] == "PreconditionFailed" and "etag" not in results[0]


def test_bad_commits_change_nothing(gateway, s3, bucket):
    put = {"put": {"key": "a", "bytes": b"1"}}
    good = dag_cbor.dumps({"changes": [put]})
    for body in [good[:-1], good + b"\xf6", b"", b"{}", json.dumps({"changes": []}).encode(),
                 # The length of the list in two bytes, and a list without a length.
                 good.replace(b"changes\x81", b"changes\x98\x01"), good.replace(b"changes\x81", b"changes\x9f") + b"\xff"]:
        answer = told(signed(gateway, "POST", f"/{bucket}?fula-commit", body, CBOR))
        assert answer[:2] == (400, "InvalidArgument") and "malformed" in answer[2], body
    for changes, expected in [
        ([], "1 to 1000"), ([put] * 2, "there twice"), ([put, {"check": {"key": "a", "ifMatch": "x"}}], "there twice"),
        ([{"move": {"key": "a"}}], "move"), ([{"put": {"key": "a", "bytes": b"", "tags": {}}}], "tags"),
        ([{**put, "delete": {"key": "b"}}], "one of put"), ([{"check": {"key": "a"}}], "a check has"),
        ([{"put": {"key": "a", "bytes": "text"}}], "expected bytes"), ([{"put": {"key": "a"}}], "has one of"),
        ([{"copy": {"key": "a", "from": {"key": "b", "version": "v"}}}], "version id"),
        ([{"delete": {"key": f"{n}"}} for n in range(1001)], "1 to 1000"),
    ]:
        status, name, text = commit(gateway, bucket, changes)
        assert (status, name in ("InvalidArgument", "InvalidRequest"), expected in text) == (400, True, True), (text, expected)
    for source, expected in [({"bucket": "nobody-has-this", "key": "k"}, (404, "NoSuchBucket")), ({"key": "k"}, (404, "NoSuchKey"))]:
        assert commit(gateway, bucket, [put, {"copy": {"key": "b", "from": source}}])[:2] == expected
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_commit_has_a_limit_of_its_own(tmp_path):
    with Gateway(tmp_path / "data", "--commit-bytes", "6M", "--xml-bytes", "1M").start() as gateway:
        gateway.client().create_bucket(Bucket="bucket")
        changes = lambda count: [{"put": {"key": f"{n}", "bytes": bytes(1 << 20)}} for n in range(count)]
        assert commit(gateway, "bucket", changes(5))[0] == 200
        assert commit(gateway, "bucket", changes(6))[:2] == (400, "MaxMessageLengthExceeded")
        text = json.dumps({"changes": [{"put": {"key": "a", "text": "x" * (1 << 20)}}]}).encode()
        answer = told(signed(gateway, "POST", "/bucket?fula-commit", text))
        assert answer[:2] == (400, "MaxMessageLengthExceeded") and "FULA_COMMIT_BYTES" in answer[2]


def test_copies_and_checks_need_the_right_to_read(door):
    wallet, bucket, other = Wallet(), f"b{time.monotonic_ns()}", f"o{time.monotonic_ns()}"
    owner = token_client(door, wallet.v1())
    for name in (bucket, other):
        owner.create_bucket(Bucket=name)
        owner.put_object(Bucket=name, Key="k", Body=b"secret")
    send = lambda token, *changes: code(call(door, "POST", f"/{bucket}?fula-commit", dag_cbor.dumps({"changes": list(changes)}),
                                             token, CBOR))
    copy = lambda **source: {"copy": {"key": "new", "from": {"key": "k", **source}}}
    check = {"check": {"key": "k", "ifNoneMatch": "*"}}
    writer, both = wallet.v2(f"write:{bucket}"), wallet.v2(f"write:{bucket}", f"read:{bucket}")
    for change in (copy(), copy(bucket=bucket), copy(bucket=other), check):
        assert send(writer, change) == (403, "AccessDenied"), change
    assert send(both, copy()) == 200
    assert send(both, copy(bucket=other)) == (403, "AccessDenied")
    assert send(both, check) == (412, "PreconditionFailed")
    # A bucket of another owner looks like one that does not exist.
    stranger = Wallet()
    mine = f"m{time.monotonic_ns()}"
    token_client(door, stranger.v1()).create_bucket(Bucket=mine)
    body = dag_cbor.dumps({"changes": [copy(bucket=bucket)]})
    assert code(call(door, "POST", f"/{mine}?fula-commit", body, stranger.v1(), CBOR)) == (404, "NoSuchBucket")
    with Refused("NoSuchKey", 404):
        token_client(door, stranger.v1()).get_object(Bucket=mine, Key="new")


def test_a_retried_commit_gets_its_first_answer(gateway, s3, bucket):
    for key in ["a", "there"]:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    attempt = lambda name, n: {**CBOR, "amz-sdk-invocation-id": f"{bucket}-{name}", "amz-sdk-request": f"attempt={n}"}
    rename = [{"copy": {"key": "b", "from": {"key": "a"}}}, {"delete": {"key": "a"}}]
    first = commit(gateway, bucket, rename, attempt("rename", 1))
    assert first[0] == 200 and first[1]["results"][0]["etag"]
    # The source is gone. The copy is replaced later.
    assert commit(gateway, bucket, rename, attempt("rename", 2)) == first
    s3.put_object(Bucket=bucket, Key="b", Body=b"other")
    assert commit(gateway, bucket, rename, attempt("rename", 3)) == first
    each = [{"put": {"key": "new", "bytes": b"1", "ifNoneMatch": "*"}}, {"copy": {"key": "c", "from": {"key": "there"}}},
            {"copy": {"key": "d", "from": {"key": "none"}}}, {"put": {"key": "there", "bytes": b"2", "ifNoneMatch": "*"}},
            {"put": {"key": "large", "bytes": bytes((1 << 20) + 1)}}]
    first = commit(gateway, bucket, each, attempt("each", 1), each=True)
    assert ["error" in result for result in first[1]["results"]] == [False, False, True, True, True]
    s3.delete_object(Bucket=bucket, Key="there")
    s3.put_object(Bucket=bucket, Key="none", Body=b"now")
    again = commit(gateway, bucket, each, attempt("each", 2), each=True)
    told = lambda answer: [(r["key"], r.get("etag"), r.get("error", {}).get("code")) for r in answer[1]["results"]]
    assert told(again) == told(first) and again[1]["version"] == first[1]["version"]


def test_copies_read_the_state_before_the_commit(gateway, s3, bucket):
    for key in "ab":
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    read = lambda key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    copy = lambda key, source: {"copy": {"key": key, "from": {"key": source}}}
    assert commit(gateway, bucket, [copy("a", "b"), copy("b", "a")])[0] == 200
    assert (read("a"), read("b")) == (b"b", b"a")
    assert commit(gateway, bucket, [{"delete": {"key": "a"}}, copy("c", "a"), {"put": {"key": "b", "bytes": b"new"}},
                                    copy("d", "b")])[0] == 200
    assert (read("c"), read("d"), read("b")) == (b"b", b"a", b"new")
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["b", "c", "d"]
