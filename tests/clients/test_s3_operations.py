"""docs/s3.md is true: every request of its table is sent."""

import pathlib
import re

import pytest

from conftest import REPO
from test_answers import signed
from test_signatures import told

ROW = re.compile(r"^\| (\w+) \| `(\w+) (\S+)( \([\w-]+\))?` \| (served|read-only|refused) \| (.*) \| (.*) \|$", re.M)


def rows():
    text = (REPO / "docs/s3.md").read_text()
    found = ROW.findall(text)
    lines = [line for line in text.splitlines() if re.match(r"\| [A-Z]\w+ \|", line)]
    assert len(found) == len(lines), [line for line in lines if not ROW.match(line)]
    return found


def test_the_figures_are_those_of_the_table():
    states = [row[4] for row in rows()]
    served, read_only, refused = (states.count(state) for state in ("served", "read-only", "refused"))
    text = " ".join((REPO / "docs/s3.md").read_text().split())
    assert f"{served} operations are served, {read_only} are read-only, {refused} are refused." in text


def test_every_operation_of_s3_is_there(s3):
    """Those of the API model that the SDK brings."""
    elsewhere = {"ListDirectoryBuckets", "WriteGetObjectResponse", "SelectObjectContent"}
    older = {"GetBucketLifecycle", "PutBucketLifecycle", "GetBucketNotification", "PutBucketNotification"}
    of_the_model = set(s3.meta.service_model.operation_names) - elsewhere - older
    assert of_the_model - {row[0] for row in rows()} == set()


def test_every_row_has_a_test():
    for name, _, _, _, state, _, tests in rows():
        for file, test in re.findall(r"clients/(\w+)(?: `(\w+)`)?", tests):
            text = (pathlib.Path(__file__).parent / f"{file}.py").read_text()
            assert not test or f"def {test}(" in text, (name, test)
        assert state == "refused" or tests, name


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_request_is_answered_as_its_row_says(gateway, s3, bucket, row):
    name, method, target, how, state, _, _ = row
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    if name == "CreateBucket":
        bucket += "-new"
    headers = {"x-amz-copy-source": f"/{bucket}/k"} if "copy-source" in how else {}
    if "form" in how:
        headers = {"content-type": "multipart/form-data; boundary=x"}
    target = target.replace("{bucket}", bucket).replace("{key}", "k")
    answer = signed(gateway, method, target, headers=headers)
    if state != "refused":
        assert answer[0] not in (405, 501), answer
    elif name == "GetObjectTorrent":
        assert told(answer)[:2] == (404, "NoSuchKey")
    else:
        assert told(answer)[:2] == (501, "NotImplemented")
        assert name in told(answer)[2] or how, answer
    if name not in ("DeleteObject", "CopyObject", "PutObject"):
        assert s3.head_object(Bucket=bucket.removesuffix("-new"), Key="k")["ContentLength"] == 1
