"""The programs in examples/ do what they say, against real gateways."""

import json
import os
import subprocess
import sys

from conftest import FULA, REPO
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
    said = [program.communicate(timeout=300) for program in running]
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
    assert [each.wait(timeout=300) for each in running] == [0, 0, 0]
    assert balances(s3, bucket) == [b"40", b"60"]


def test_a_commit_with_curl_is_one_step_or_nothing(gateway, s3, bucket):
    id, secret = gateway.credentials()
    done = gateway.run(EXAMPLES / "commit.sh", bucket, AWS_ACCESS_KEY_ID=id, AWS_SECRET_ACCESS_KEY=secret)
    assert "PreconditionFailed" in done.stdout
    index = s3.get_object(Bucket=bucket, Key="index.json")
    assert json.loads(index["Body"].read()) == ["articles/1"]
    assert s3.get_object(Bucket=bucket, Key="articles/1")["Body"].read() == b"Hello"


def test_a_lock_lets_one_program_work_at_a_time(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="lock", Body=b"0.0")  # its time is over
    said = gateway.run(sys.executable, EXAMPLES / "lock.py", bucket, "5").stdout
    assert said == "5 of 5 programs did their work, one at a time\n"
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix="lock")


def test_a_log_gets_every_line_of_every_writer(gateway, s3, bucket):
    for _ in range(2):
        said = gateway.run(sys.executable, EXAMPLES / "append.py", bucket).stdout
        assert said == "40 lines were appended: True\nnew since then: []\n"
    assert s3.get_object(Bucket=bucket, Key="log/today")["Body"].read().count(b"\n") == 82


def test_versions_bring_objects_back(gateway, s3, bucket):
    said = gateway.run(sys.executable, EXAMPLES / "versions.py", bucket).stdout
    assert said == "after the mistake: good text\nafter the deletion: good text\n"


def test_changes_are_followed(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="before", Body=b"x")
    command = [sys.executable, EXAMPLES / "watch.py", bucket, "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=gateway.env()) as watching:
        assert watching.stdout.readline() == "at version 2 with 1 objects\n"
        s3.put_object(Bucket=bucket, Key="ünï", Body=b"x")
        assert watching.stdout.readline() == "version 3: written ünï\n"
        s3.delete_object(Bucket=bucket, Key="before")
        assert watching.stdout.read() == "version 4: removed before\n"
    assert watching.returncode == 0


def test_links_and_forms_need_no_key(gateway, s3, bucket):
    said = gateway.run(sys.executable, EXAMPLES / "links.py", bucket).stdout.splitlines()
    assert said == ['downloaded: all is well as attachment; filename="report.txt"', "an image: 204",
                    "a program: 403", "too large: 400", "in the inbox: ['inbox/cat.png']"]


def test_a_mirror_is_not_emptied_by_an_empty_folder(gateway, s3, bucket, tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    for n in range(20):
        (folder / f"{n}.txt").write_text("dear reader")
    (folder / "half.tmp").write_text("not yet")
    env = {**gateway.env(), "PATH": f"{FULA.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    mirror = lambda: subprocess.run([EXAMPLES / "mirror.sh", folder, bucket], env=env, capture_output=True, timeout=300)
    count = lambda: s3.list_objects_v2(Bucket=bucket, Prefix="letters/")["KeyCount"]
    assert mirror().returncode == 0 and count() == 20
    (folder / "7.txt").unlink()
    assert mirror().returncode == 0 and count() == 19
    for file in folder.iterdir():
        file.unlink()
    assert mirror().returncode != 0 and count() == 19


def test_a_nightly_backup_is_read_back(own_gateway, tmp_path):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="photos")
    s3.put_object(Bucket="photos", Key="k", Body=b"x")
    key, place = tmp_path / "backup.key", tmp_path / "backups"
    subprocess.run([FULA, "secrets", "keygen", key], check=True, capture_output=True)
    env = {"PATH": f"{FULA.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = [EXAMPLES / "nightly.sh", own_gateway.data_dir, place, key]
    for more in ({}, {"VERIFY": "1"}):
        done = subprocess.run(command, env={**env, **more}, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert "1 buckets" in done.stdout and "all intact" in done.stdout
    away = subprocess.run([*command[:1], tmp_path / "away", *command[2:]], env=env, capture_output=True, timeout=120)
    assert away.returncode != 0


def test_every_example_is_run():
    """A program that is added to examples/ is run here; its tests are named after nothing else."""
    text = open(__file__).read()
    programs = [name for name in os.listdir(EXAMPLES) if name.endswith((".py", ".sh"))]
    assert programs and [name for name in programs if f'"{name}"' not in text] == []
