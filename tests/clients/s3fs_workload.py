"""What users of s3fs do, with the configuration that the environment gives and no other.

Runs by itself: s3fs pins another botocore than boto3 does, so it has an environment of its own, `.venv/s3fs`.
"""

import pathlib
import random
import sys
import urllib.request

import s3fs

MIB = 1 << 20
BUCKET = "s3fs-bucket"


def pattern(length, seed=1):
    return random.Random(seed).randbytes(length)


def whole_files(fs):
    bodies = {"empty": b"", "small": b"hello\n", "a b/ünï+code": pattern(70_000), "large": pattern(12 * MIB + 5)}
    for name, body in bodies.items():
        fs.pipe(f"{BUCKET}/whole/{name}", body)
        assert fs.cat(f"{BUCKET}/whole/{name}") == body, name
        assert fs.info(f"{BUCKET}/whole/{name}")["size"] == len(body)
    fs.invalidate_cache()
    found = fs.find(f"{BUCKET}/whole", detail=True)
    assert {name.removeprefix(f"{BUCKET}/whole/"): info["size"] for name, info in found.items()} == {
        name: len(body) for name, body in bodies.items()}
    assert fs.du(f"{BUCKET}/whole") == sum(map(len, bodies.values()))
    assert fs.cat_ranges([f"{BUCKET}/whole/large"] * 2, [10, MIB], [20, MIB + 7]) == [
        bodies["large"][10:20], bodies["large"][MIB:MIB + 7]]
    assert fs.cat_file(f"{BUCKET}/whole/large", start=-9) == bodies["large"][-9:]


def open_files(fs):
    """A file that is written in parts as it grows, and read here and there."""
    body = pattern(17 * MIB + 3, 2)
    with fs.open(f"{BUCKET}/open", "wb", block_size=5 * MIB) as file:
        for start in range(0, len(body), 3 * MIB):
            file.write(body[start:start + 3 * MIB])
    with fs.open(f"{BUCKET}/open", "rb", block_size=MIB) as file:
        assert file.read() == body
        for start in (0, 5 * MIB - 2, 17 * MIB):
            file.seek(start)
            assert file.read(100) == body[start:start + 100]
    with fs.open(f"{BUCKET}/open", "ab", block_size=5 * MIB) as file:
        file.write(b"appended")
    assert fs.cat(f"{BUCKET}/open") == body + b"appended"
    with fs.open(f"{BUCKET}/lines.txt", "w") as file:
        file.write("one\ntwo\nthree\n")
    assert fs.tail(f"{BUCKET}/lines.txt", 6) == b"three\n"
    # What is given up is not seen.
    try:
        with fs.transaction:
            with fs.open(f"{BUCKET}/given up", "wb", block_size=5 * MIB) as file:
                file.write(body)
            raise InterruptedError
    except InterruptedError:
        assert not fs.exists(f"{BUCKET}/given up")


def directories(fs, tmp):
    tree = tmp / "tree"
    files = {f"many/{n:03}": pattern(n, n) for n in range(120)} | {"deep/er/file": pattern(6 * MIB, 3)}
    for name, body in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(body)
    fs.put(f"{tree}/", f"{BUCKET}/tree/", recursive=True)
    fs.get(f"{BUCKET}/tree/", f"{tmp}/back/", recursive=True)
    for name, body in files.items():
        assert (tmp / "back" / name).read_bytes() == body, name
    fs.invalidate_cache()
    assert fs.ls(f"{BUCKET}/tree") == [f"{BUCKET}/tree/deep", f"{BUCKET}/tree/many"]
    assert fs.isdir(f"{BUCKET}/tree/many") and fs.isfile(f"{BUCKET}/tree/many/007")
    assert len(fs.glob(f"{BUCKET}/tree/many/11?")) == 10
    walked = [f"{where}/{name}" for where, _, names in fs.walk(f"{BUCKET}/tree") for name in names]
    assert sorted(walked) == sorted(f"{BUCKET}/tree/{name}" for name in files)
    fs.cp(f"{BUCKET}/tree/deep/", f"{BUCKET}/copies/", recursive=True)
    assert fs.cat(f"{BUCKET}/copies/er/file") == files["deep/er/file"]
    fs.mv(f"{BUCKET}/copies/er/file", f"{BUCKET}/moved")
    assert not fs.exists(f"{BUCKET}/copies/er/file") and fs.cat(f"{BUCKET}/moved") == files["deep/er/file"]
    fs.rm(f"{BUCKET}/tree", recursive=True)
    assert not fs.exists(f"{BUCKET}/tree")


def metadata(fs):
    path = f"{BUCKET}/described"
    with fs.open(path, "wb", Metadata={"purpose": "a test"}, ContentType="text/plain", ContentEncoding="gzip") as file:
        file.write(b"body")
    assert fs.metadata(path) == {"purpose": "a test"}
    assert fs.info(path)["ContentType"] == "text/plain"
    fs.setxattr(path, more="of it", copy_kwargs={"ContentType": "text/x"})
    fs.invalidate_cache()
    assert fs.metadata(path) == {"purpose": "a test", "more": "of it"}
    assert (fs.cat(path), fs.info(path)["ContentType"]) == (b"body", "text/x")
    before = fs.checksum(path)
    fs.pipe(path, b"other")
    fs.invalidate_cache()
    assert fs.checksum(path) != before
    with urllib.request.urlopen(fs.url(path)) as answer:
        assert answer.read() == b"other"
    fs.touch(f"{BUCKET}/touched")
    assert fs.info(f"{BUCKET}/touched")["size"] == 0
    try:
        fs.cat(f"{BUCKET}/missing")
        raise AssertionError("a file that is not there was read")
    except FileNotFoundError:
        pass


def main(tmp):
    fs = s3fs.S3FileSystem()
    fs.mkdir(BUCKET)
    whole_files(fs)
    open_files(fs)
    directories(fs, tmp)
    metadata(fs)
    fs.rm(fs.find(BUCKET)[:2])
    # s3fs asks first whether the bucket has versions.
    fs.rm(BUCKET, recursive=True)
    fs.invalidate_cache()
    assert BUCKET not in fs.ls("")


main(pathlib.Path(sys.argv[1]))
