"""Buckets as CAR files: fula writes what kubo and @ipld/car read, and reads what kubo writes."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from conftest import FULA, REPO, Gateway
from helpers import MIB, pattern
from kubo import Kubo


@pytest.fixture(scope="module")
def kubo(tmp_path_factory):
    with Kubo(tmp_path_factory.mktemp("kubo") / "repo") as kubo:
        yield kubo


def fill(s3, bucket):
    """A bucket with small, large and equal objects, settings, tags and an upload in progress."""
    s3.create_bucket(Bucket=bucket)
    for n in range(120):
        s3.put_object(Bucket=bucket, Key=f"dir/{n:03}", Body=f"body {n % 100}".encode(), Metadata={"n": str(n)})
    for key in ("large", "same"):
        s3.put_object(Bucket=bucket, Key=key, Body=pattern(3 * MIB, 1), ContentType="x/y")
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="later")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="later", UploadId=upload, PartNumber=1, Body=pattern(5 * MIB, 2))


def listing(s3, bucket):
    found = s3.list_objects_v2(Bucket=bucket)["Contents"]
    return [(line["Key"], line["ETag"], line["Size"], line["LastModified"]) for line in found]


def root_of(gateway, bucket):
    (row,) = json.loads(gateway.fula("roots", "show", bucket, "--json").stdout)["buckets"]
    return row["root"], row["version"]


def exported(gateway, *args):
    """The bytes of a file on standard output."""
    done = subprocess.run([FULA, "export", *args, "--data-dir", gateway.data_dir], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_what_fula_writes_kubo_and_the_reader_of_javascript_read(own_gateway, kubo, tmp_path):
    s3 = own_gateway.client()
    fill(s3, "photos")
    root, version = root_of(own_gateway, "photos")
    path = tmp_path / "photos.car"
    done = json.loads(own_gateway.fula("export", "photos", "-o", path, "--json").stdout)
    assert (done["root"], done["version"], done["file_bytes"]) == (root, version, path.stat().st_size)
    assert not path.with_suffix(".car.part").exists()
    file = path.read_bytes()
    # The same over HTTP, on standard output, and beside no gateway.
    assert exported(own_gateway, "photos") == file
    with urllib.request.urlopen(signed_car(own_gateway, "photos")) as answer:
        assert answer.headers["X-Ipfs-Roots"] == root
        assert answer.headers["Content-Type"].startswith("application/vnd.ipld.car")
        assert answer.headers["x-fula-version"] == str(version)
        assert answer.read() == file
    own_gateway.stop()
    assert exported(own_gateway, f"photos@{version}") == file
    own_gateway.start()

    read = subprocess.run(["node", REPO / "tests/clients/js/car.mjs", path], capture_output=True, text=True)
    read = json.loads(read.stdout)
    assert read["roots"] == [root] and read["blocks"] == read["distinct"], read
    (told,) = kubo.dag_import(file)
    assert told["Root"] == {"Cid": {"/": root}, "PinErrorMsg": ""}
    assert kubo.stat(root) == (read["blocks"], read["bytes"])
    # kubo writes the same file in the same order.
    assert kubo.rpc("dag/export", root, progress="false") == file


def signed_car(gateway, bucket, **query):
    """A presigned URL for the CAR file of a bucket."""
    query = "&".join([*(f"{name}={value}" for name, value in query.items()), "fula-car="])
    request = botocore.awsrequest.AWSRequest("GET", f"{gateway.url}/{bucket}?{query}")
    credentials = botocore.credentials.Credentials(*gateway.credentials())
    botocore.auth.S3SigV4QueryAuth(credentials, "s3", "us-east-1").add_auth(request)
    return request.prepare().url


def test_an_export_replaces_no_pipe(own_gateway, tmp_path):
    """The file is moved to its place at the end, which would take a pipe or a device away."""
    own_gateway.client().create_bucket(Bucket="piped")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused = own_gateway.fula("export", "piped", "--output", pipe, check=False)
    assert refused.returncode == 1 and "redirect standard output" in refused.stderr, refused
    assert pipe.is_fifo() and list(tmp_path.glob("pipe.*")) == []


@pytest.mark.parametrize("source", ["car", "kubo", "gateway"])
def test_a_bucket_comes_back_from_its_root_on_an_empty_machine(own_gateway, kubo, tmp_path, source):
    s3 = own_gateway.client()
    fill(s3, "photos")
    root, version = root_of(own_gateway, "photos")
    path = tmp_path / "photos.car"
    own_gateway.fula("export", "photos", "--output", path)
    before = listing(s3, "photos")
    kubo.dag_import(path.read_bytes())
    place = {"car": path, "kubo": kubo.url, "gateway": kubo.gateway}[source]
    with Gateway(tmp_path / "other").start() as other:
        done = other.fula("restore", "--from", f"{source}:{place}", root)
        assert f"Made the bucket photos of key:admin at version {version}" in done.stdout
        # Both gateways call their first user admin, so the bucket has the same owner.
        back = other.client()
        assert listing(back, "photos") == before
        assert root_of(other, "photos") == (root, version)
        assert back.get_object(Bucket="photos", Key="same")["Body"].read() == pattern(3 * MIB, 1)
        assert back.get_bucket_tagging(Bucket="photos")["TagSet"] == [{"Key": "a", "Value": "b"}]
        assert len(back.list_multipart_uploads(Bucket="photos")["Uploads"]) == 1
        back.put_object(Bucket="photos", Key="more", Body=b"1")
        assert other.fula("fsck").stdout.endswith("0 problems\n")
        again = other.fula("restore", "--from", f"{source}:{place}", root, check=False)
        assert again.returncode == 1 and "there is a bucket photos of this owner already" in again.stderr
        other.fula("restore", "--from", f"{source}:{place}", root, "--bucket", "copy", "--user", "carol")


def test_a_gateway_that_never_ran_takes_a_bucket_too(own_gateway, tmp_path):
    s3 = own_gateway.client()
    fill(s3, "photos")
    file = exported(own_gateway, "photos")
    (tmp_path / "other").mkdir(mode=0o700)
    command = [FULA, "import", "-", "--data-dir", tmp_path / "other", "--json"]
    done = json.loads(subprocess.run(command, input=file, capture_output=True, check=True).stdout)
    assert done["objects"] == 123 and done["root"] == done["file_root"] and not done["already"]
    with Gateway(tmp_path / "other").start() as other:
        assert listing(other.client(), "photos") == listing(s3, "photos")


def test_only_what_changed_since_a_version_is_sent(own_gateway, kubo):
    s3 = own_gateway.client()
    fill(s3, "photos")
    old_root, old = root_of(own_gateway, "photos")
    kubo.dag_import(exported(own_gateway, "photos"))
    s3.put_object(Bucket="photos", Key="dir/050", Body=b"new")
    s3.delete_object(Bucket="photos", Key="dir/051")
    root, new = root_of(own_gateway, "photos")
    with urllib.request.urlopen(signed_car(own_gateway, "photos", since=old)) as answer:
        changes = answer.read()
    assert changes == exported(own_gateway, "photos", "--since", str(old))
    assert len(changes) < 100_000
    assert exported(own_gateway, f"photos@{new}", "--since", str(old)) == changes
    kubo.dag_import(changes, local_only="true")
    whole = subprocess.run(["node", REPO / "tests/clients/js/car.mjs", "/dev/stdin"],
                           input=exported(own_gateway, "photos"), capture_output=True, check=True)
    whole = json.loads(whole.stdout)
    assert kubo.stat(root) == (whole["blocks"], whole["bytes"]), "nothing is missing"
    kubo.json("pin/update", old_root, root, timeout="60s")
    # By itself it is no bucket.
    refused = subprocess.run(
        [FULA, "import", "-", "--bucket", "other", "--data-dir", own_gateway.data_dir], input=changes, capture_output=True)
    assert refused.returncode == 1 and b"the file is not whole: the block" in refused.stderr


def test_requests_for_files_are_checked(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="photos")
    def status(url):
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    assert status(signed_car(own_gateway, "photos"))[0] == 200
    code, text = status(signed_car(own_gateway, "photos", version=99))
    assert code == 400 and "version 99 of bucket photos is not known" in text
    code, text = status(signed_car(own_gateway, "photos", since="x"))
    assert code == 400 and "is a version of the bucket" in text
    assert status(f"{own_gateway.url}/photos?fula-car")[0] == 403
    refused = own_gateway.fula("export", "photo", check=False)
    assert refused.returncode == 1 and "there is no bucket photo; there are: photos" in refused.stderr


@pytest.mark.parametrize("running", [True, False])
def test_a_faulty_file_is_refused_and_leaves_nothing(own_gateway, tmp_path, running):
    s3 = own_gateway.client()
    fill(s3, "photos")
    file = exported(own_gateway, "photos")
    own_gateway.stop()
    with Gateway(tmp_path / "other").start() as other:
        if not running:
            other.stop()
        flipped = bytearray(file)
        flipped[len(file) // 2] ^= 1
        for name, faulty, text in [("cut", file[:-10], "the file is cut off"), ("flipped", bytes(flipped), "at byte "),
                                   ("empty", b"", "at byte 0: the header"), ("no car", b"x" * 1000, "at byte 0")]:
            (tmp_path / name).write_bytes(faulty)
            refused = other.fula("import", tmp_path / name, check=False)
            assert refused.returncode == 1 and text in refused.stderr, (name, refused.stderr)
        if not running:
            other.start()
        assert other.client().list_buckets()["Buckets"] == []


def peak(pid):
    """Most resident memory of a process so far, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


# A child begins with the memory of its parent, so the parent is one with little of it.
MEASURED = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)"""


def peak_of(*command):
    """Most resident memory of a command, in bytes."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_does_not_grow_with_the_bucket(own_gateway, tmp_path):
    """A bucket of 200 MiB passes through processes that need far less memory."""
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="big")
    for n in range(10):
        s3.put_object(Bucket="big", Key=f"{n}", Body=pattern(20 * MIB, n))
    path = tmp_path / "big.car"
    own_gateway.stop()
    assert peak_of(FULA, "export", "big", "-o", path, "--data-dir", own_gateway.data_dir) < 64 * MIB
    (tmp_path / "other").mkdir(mode=0o700)
    assert peak_of(FULA, "import", path, "--data-dir", tmp_path / "other") < 64 * MIB
    own_gateway.start()
    before = peak(own_gateway.process.pid)
    own_gateway.fula("export", "big", "-o", path)
    assert peak(own_gateway.process.pid) - before < 40 * MIB


def log_bytes(gateway):
    return sum(found.stat().st_size for found in (gateway.data_dir / "log").rglob("*") if found.is_file())


def test_a_command_that_is_killed_leaves_no_bucket(own_gateway, tmp_path):
    """A gateway that reads the file itself stops when the command does."""
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="killed")
    for n in range(16):
        s3.put_object(Bucket="killed", Key=f"{n:02}", Body=pattern(32 * MIB, n))
    path = tmp_path / "killed.car"
    own_gateway.fula("export", "killed", "-o", path)
    before = listing(s3, "killed")
    with Gateway(tmp_path / "other") as other:
        other.start()
        empty = log_bytes(other)
        command = subprocess.Popen([FULA, "import", path, "--data-dir", other.data_dir, "--user", "admin"])
        while log_bytes(other) < empty + MIB:
            assert command.poll() is None, "the command ended before the file was read"
        command.kill()
        assert command.wait() == -9, "the command was done before it was killed"
        answered = other.client().list_buckets()["Buckets"]
        assert answered == []
        other.fula("import", path, "--user", "admin")
        assert listing(other.client(), "killed") == before


def test_files_are_read_and_written_from_where_they_stand(own_gateway, tmp_path):
    """Standard input and output may be files, which the gateway then uses itself; and they may be pipes."""
    s3 = own_gateway.client()
    fill(s3, "photos")
    path = tmp_path / "photos.car"
    with path.open("wb") as output:
        output.write(b"before")
        output.flush()
        subprocess.run([FULA, "export", "photos", "--data-dir", own_gateway.data_dir], stdout=output, check=True)
        output.write(b"after")
    piped = exported(own_gateway, "photos")
    assert path.read_bytes() == b"before" + piped + b"after"
    path.write_bytes(b"before" + piped)
    import_from_stdin = [FULA, "import", "-", "--data-dir", own_gateway.data_dir, "--bucket"]
    with path.open("rb") as given:
        given.seek(len(b"before"))
        subprocess.run([*import_from_stdin, "from-file"], stdin=given, check=True)
    subprocess.run([*import_from_stdin, "from-pipe"], input=piped, check=True)
    for name in ("from-file", "from-pipe"):
        assert listing(s3, name) == listing(s3, "photos")
