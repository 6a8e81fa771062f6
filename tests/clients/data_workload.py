"""What users of libraries for arrays and tables do on S3. Each workload compares what it reads with what it wrote.

    data_workload.py obstore|zarr|delta|icechunk|iceberg DIRECTORY

Runs by itself, in `.venv/s3fs`. The environment names the gateway and a key; for `delta`, FULA_SECOND_URL names
another master.
"""

import concurrent.futures
import multiprocessing
import os
import random
import sys

import numpy

BUCKET = "data-bucket"
URL, KEY, SECRET = (os.environ[name] for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
MIB = 1 << 20


def pattern(length, seed=1):
    return random.Random(seed).randbytes(length)


def use_obstore(_):
    """Parts, ranges, streams, conditional writes, copies, renames and listings."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError
    from obstore.store import S3Store
    store = S3Store(BUCKET, endpoint=URL, access_key_id=KEY, secret_access_key=SECRET, region="us-east-1",
                    client_options={"allow_http": True})
    body = pattern(13 * MIB + 7)
    obstore.put(store, "parts", body, chunk_size=5 * MIB, use_multipart=True)
    assert bytes(obstore.get(store, "parts").bytes()) == body
    assert b"".join(bytes(piece) for piece in obstore.get(store, "parts").stream()) == body
    starts = [0, MIB, 5 * MIB - 1, len(body) - 9]
    found = obstore.get_ranges(store, "parts", starts=starts, lengths=[9] * 4)
    assert [bytes(piece) for piece in found] == [body[at:at + 9] for at in starts]
    made = obstore.put(store, "once", b"1", mode="create", use_multipart=False)
    try:
        obstore.put(store, "once", b"2", mode="create", use_multipart=False)
        raise AssertionError("it exists")
    except AlreadyExistsError:
        pass
    obstore.put(store, "once", b"3", mode={"e_tag": made["e_tag"]}, use_multipart=False)
    try:
        obstore.put(store, "once", b"4", mode={"e_tag": made["e_tag"]}, use_multipart=False)
        raise AssertionError("it has another ETag")
    except PreconditionError:
        pass
    assert bytes(obstore.get(store, "once").bytes()) == b"3"
    obstore.copy(store, "once", "copy")
    obstore.rename(store, "copy", "renamed")
    with obstore.open_writer(store, "written") as writer:
        for n in range(20):
            writer.write(pattern(MIB, n))
    assert bytes(obstore.get(store, "written").bytes()) == b"".join(pattern(MIB, n) for n in range(20))
    names = sorted(found["path"] for page in obstore.list(store) for found in page)
    assert names == ["once", "parts", "renamed", "written"]
    obstore.delete(store, names)
    assert not list(obstore.list(store))


def use_zarr(_):
    """Arrays in chunks and shards through fsspec, and parts of them."""
    import zarr
    root = zarr.open_group(f"s3://{BUCKET}/weather.zarr", mode="w", storage_options={"endpoint_url": URL})
    values = numpy.random.default_rng(1).random((300, 400))
    plain = root.create_array("plain", shape=values.shape, chunks=(64, 64), dtype="f8")
    plain[:] = values
    sharded = root.create_array("sharded", shape=values.shape, chunks=(16, 16), shards=(128, 128), dtype="f8")
    sharded[:] = values
    plain.attrs["unit"] = "K"
    sharded[10:20, 30:300] = 7
    again = zarr.open_group(f"s3://{BUCKET}/weather.zarr", mode="r", storage_options={"endpoint_url": URL})
    assert numpy.array_equal(again["plain"][:], values) and again["plain"].attrs["unit"] == "K"
    assert numpy.array_equal(again["plain"][63:66, 127:130], values[63:66, 127:130])
    values[10:20, 30:300] = 7
    assert numpy.array_equal(again["sharded"][:], values)
    assert sorted(again.array_keys()) == ["plain", "sharded"]


def delta_options(url):
    return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true", "aws_conditional_put": "etag"}


def append_rows(url, writer, count):
    """Appends rows one by one to the table that another process writes through another master."""
    import deltalake
    import pyarrow
    for n in range(count):
        row = pyarrow.table({"writer": [writer], "n": [n]})
        deltalake.write_deltalake(f"s3://{BUCKET}/table", row, mode="append", storage_options=delta_options(url))


def use_delta(_):
    """Two writers on two masters append to one table at the same time. No row is lost."""
    import deltalake
    import pyarrow
    urls, count = [URL, os.environ["FULA_SECOND_URL"]], 12
    table = f"s3://{BUCKET}/table"
    schema = pyarrow.table({"writer": pyarrow.array([], pyarrow.int64()), "n": pyarrow.array([], pyarrow.int64())})
    deltalake.write_deltalake(table, schema, storage_options=delta_options(URL))
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(append_rows, url, writer, count) for writer, url in enumerate(urls)]:
            done.result()
    for url in urls:
        found = deltalake.DeltaTable(table, storage_options=delta_options(url))
        rows = found.to_pyarrow_table().to_pydict()
        assert sorted(zip(rows["writer"], rows["n"])) == [(writer, n) for writer in (0, 1) for n in range(count)]
        assert found.version() == 2 * count
    found.optimize.compact()
    found.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert deltalake.DeltaTable(table, storage_options=delta_options(URL)).to_pyarrow_table().num_rows == 2 * count


def use_icechunk(_):
    """Commits, a conflict of two writers, branches and older snapshots."""
    import icechunk
    import zarr
    storage = icechunk.s3_storage(bucket=BUCKET, prefix="repo", endpoint_url=URL, region="us-east-1", allow_http=True,
                                  access_key_id=KEY, secret_access_key=SECRET, force_path_style=True)
    repo = icechunk.Repository.create(storage)
    session = repo.writable_session("main")
    values = numpy.arange(10_000).reshape(100, 100)
    array = zarr.create_array(session.store, name="a", shape=values.shape, chunks=(10, 10), dtype="i8")
    array[:] = values
    first = session.commit("first")
    one, two = repo.writable_session("main"), repo.writable_session("main")
    zarr.open_array(one.store, path="a")[0, 0] = -1
    zarr.open_array(two.store, path="a")[0, 0] = -2
    one.commit("one")
    try:
        two.commit("two")
        raise AssertionError("both wrote the same chunk")
    except icechunk.ConflictError:
        pass
    again = icechunk.Repository.open(storage)
    newest = zarr.open_array(again.readonly_session("main").store, path="a", mode="r")[:]
    older = zarr.open_array(again.readonly_session(snapshot_id=first).store, path="a", mode="r")[:]
    assert newest[0, 0] == -1 and numpy.array_equal(newest[1:], values[1:]) and numpy.array_equal(older, values)
    assert [entry.message for entry in again.ancestry(branch="main")][:2] == ["one", "first"]


def use_iceberg(directory):
    """Tables with appends, overwrites, a new column and older snapshots."""
    import pyarrow
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.types import StringType
    catalog = SqlCatalog("local", uri=f"sqlite:///{directory}/catalog.db", warehouse=f"s3://{BUCKET}/warehouse",
                         **{"s3.endpoint": URL, "s3.access-key-id": KEY, "s3.secret-access-key": SECRET, "s3.region": "us-east-1"})
    catalog.create_namespace("ns")
    rows = pyarrow.table({"n": list(range(50_000)), "text": [f"row {n}" for n in range(50_000)]})
    table = catalog.create_table("ns.table", schema=rows.schema)
    table.append(rows)
    before = table.current_snapshot().snapshot_id
    table.delete("n >= 25000")
    table.append(pyarrow.table({"n": [-1], "text": ["last"]}))
    with table.update_schema() as update:
        update.add_column("note", StringType())
    table = catalog.load_table("ns.table")
    assert table.scan(snapshot_id=before).to_arrow().equals(rows)
    found = table.scan().to_arrow().sort_by("n")
    assert found.column("n").to_pylist() == [-1, *range(25_000)] and found.column("note").null_count == 25_001
    assert table.scan(row_filter="n == 7").to_arrow().column("text").to_pylist() == ["row 7"]


if __name__ == "__main__":
    globals()[f"use_{sys.argv[1]}"](sys.argv[2])
    print("read what was written", flush=True)
    # The threads of pyarrow sometimes abort the process while it ends.
    os._exit(0)
