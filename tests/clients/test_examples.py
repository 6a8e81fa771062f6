"""The programs in examples/ do what they say, against real gateways."""

import json
import os
import subprocess
import sys

from conftest import REPO
from masters import federation

EXAMPLES = REPO / "examples"


def balances(s3, bucket):
    return [s3.get_object(Bucket=bucket, Key=f"accounts/{name}")["Body"].read() for name in "ab"]


def test_a_counter_loses_no_update(gateway, s3, bucket):
    for expected in (b"100", b"200"):
        said = gateway.run(sys.executable, EXAMPLES / "counter.py", bucket).stdout
        assert s3.get_object(Bucket=bucket, Key="counter")["Body"].read() == expected, said


def test_a_counter_loses_no_update_on_two_masters(federation):
    one, two = federation.gateway("one"), federation.gateway("two")
    one.client().create_bucket(Bucket="bucket")
    # Both use the key of the first master's first user.
    credentials = str(one.data_dir / "credentials")
    command = [sys.executable, EXAMPLES / "counter.py", "bucket"]
    running = [
        subprocess.Popen(command, env={**master.env(), "AWS_SHARED_CREDENTIALS_FILE": credentials},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for master in (one, two)]
    said = [program.communicate(timeout=120) for program in running]
    assert [program.returncode for program in running] == [0, 0], said
    assert one.client().get_object(Bucket="bucket", Key="counter")["Body"].read() == b"200", said


def test_a_commit_with_boto3_moves_an_amount(gateway, s3, bucket):
    said = gateway.run(sys.executable, EXAMPLES / "commit.py", bucket).stdout
    # The bucket was created at version 1, and the accounts were opened at version 2.
    assert said == "at version 3: a has 70, b has 30\n"
    assert balances(s3, bucket) == [b"70", b"30"]


def test_a_commit_with_boto3_begins_again_when_a_balance_changed(gateway, s3, bucket):
    """Several programs move amounts at once: what one account loses, the other one has."""
    commit = EXAMPLES / "commit.py"
    gateway.run(sys.executable, commit, bucket)
    program = (f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import boto3, commit\n"
               "session = boto3.Session()\n"
               "for _ in range(10):\n"
               f"    commit.transfer(session, session.client('s3'), {bucket!r}, 'accounts/a', 'accounts/b', 1)\n")
    command = [sys.executable, "-B", "-c", program]
    running = [subprocess.Popen(command, env=gateway.env()) for _ in range(3)]
    assert [each.wait(timeout=120) for each in running] == [0, 0, 0]
    assert balances(s3, bucket) == [b"40", b"60"]


def test_a_commit_with_curl_is_one_step_or_nothing(gateway, s3, bucket):
    id, secret = gateway.credentials()
    done = gateway.run(EXAMPLES / "commit.sh", bucket, AWS_ACCESS_KEY_ID=id, AWS_SECRET_ACCESS_KEY=secret)
    assert "PreconditionFailed" in done.stdout
    index = s3.get_object(Bucket=bucket, Key="index.json")
    assert json.loads(index["Body"].read()) == ["articles/1"]
    assert s3.get_object(Bucket=bucket, Key="articles/1")["Body"].read() == b"Hello"


def test_every_example_is_run():
    """A program that is added to examples/ is run here; its tests are named after nothing else."""
    text = open(__file__).read()
    programs = [name for name in os.listdir(EXAMPLES) if name.endswith((".py", ".sh"))]
    assert programs and [name for name in programs if f'"{name}"' not in text] == []
