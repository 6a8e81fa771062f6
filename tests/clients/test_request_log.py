"""The request log: who asked for what, and how many bytes went which way."""

import json
import re

import pytest

from conftest import Gateway
from helpers import eventually
from test_signatures import exchange

MIB = 1 << 20


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("logged") / "data", "--log", "json")
    with gateway.start():
        yield gateway


def lines(gateway, **wanted):
    """The lines of the log with these fields, once there is one. A line follows the last byte of an answer."""
    def found():
        text = gateway.data_dir.with_suffix(".log").read_text()
        # The last line may be half written.
        entries = map(json.loads, text[:text.rfind("\n") + 1].splitlines())
        found = [entry["fields"] for entry in entries if entry["target"] == "fula::requests"]
        return [fields for fields in found if wanted.items() <= fields.items()]

    return eventually(found, why=lambda: f"no line has {wanted}")


def test_a_line_says_who_did_what(logged):
    s3 = logged.client()
    s3.create_bucket(Bucket="told")
    owner = s3.list_buckets()["Owner"]["ID"]
    s3.put_object(Bucket="told", Key="small", Body=b"x" * 1000)
    body = s3.get_object(Bucket="told", Key="small")["Body"].read()
    (put,) = lines(logged, operation="PutObject", path="/told/small")
    assert (put["user"], put["owner"], put["address"], put["method"]) == ("key:admin", owner, "127.0.0.1", "PUT")
    assert put["status"] == 200 and put["received"] >= 1000 and put["sent"] == 0 and put["is_complete"]
    (get,) = lines(logged, operation="GetObject", path="/told/small")
    assert (get["received"], get["sent"], get["is_complete"]) == (0, len(body), True)
    assert 0 < get["micros"] <= get["total_micros"] and re.fullmatch("[0-9A-F]{16}", get["request_id"])
    s3.head_object(Bucket="told", Key="small")
    assert lines(logged, operation="HeadObject")[0]["sent"] == 0


def test_a_download_that_is_given_up_is_not_complete(logged):
    s3 = logged.client()
    s3.create_bucket(Bucket="given-up")
    s3.put_object(Bucket="given-up", Key="large", Body=b"x" * (32 * MIB))
    whole = s3.get_object(Bucket="given-up", Key="large")["Body"].read()
    (line,) = lines(logged, operation="GetObject", path="/given-up/large")
    assert (line["sent"], line["is_complete"]) == (len(whole), True)
    part = s3.get_object(Bucket="given-up", Key="large")["Body"]
    part.read(1)
    part.close()
    (line,) = lines(logged, operation="GetObject", path="/given-up/large", is_complete=False)
    assert line["sent"] < 32 * MIB and line["status"] == 200


def test_nobody_stays_nobody_and_no_query_is_logged(logged):
    answer = exchange(logged, "GET", "/told/small?X-Amz-Signature=hush", {})
    (line,) = lines(logged, path="/told/small", user="")[:1]
    assert (line["owner"], line["status"] >= 400) == ("", True), answer
    assert "hush" not in logged.data_dir.with_suffix(".log").read_text()


def test_bytes_are_counted(logged):
    import urllib.request
    text = urllib.request.urlopen(f"{logged.admin}/metrics", timeout=120).read().decode()
    value = lambda name: float(re.search(f"^{name} ([\\d.e+]+)$", text, re.M)[1])
    assert value("fula_received_bytes_total") >= 32 * MIB and value("fula_sent_bytes_total") >= 32 * MIB
