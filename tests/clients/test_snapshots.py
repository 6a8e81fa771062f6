"""Buckets as streams, and following what changes."""

import concurrent.futures
import random
import threading
import time
import urllib.request

import pytest

import dag_cbor
from conftest import Gateway
from helpers import eventually
from identity import Wallet, call, code, door, fresh, token_client
from masters import Federation
from signing import quote
from test_answers import signed
from test_policies import put as put_policy, statement
from test_signatures import told

BEGIN, OBJECT, REMOVED, END = range(4)


def stream(gateway, target, key=None):
    """Returns the first item of a stream, and what it says of each key; or the error."""
    if key is None:
        answer = signed(gateway, "GET", target)
    else:
        from signing import signed_headers
        from test_signatures import exchange
        answer = exchange(gateway, "GET", target, signed_headers(key, gateway.listen, "GET", target))
    if answer[0] != 200:
        return told(answer)
    assert answer[1]["content-type"] == "application/cbor-seq" and answer[1]["cache-control"] == "no-store"
    return parsed(answer[2], answer[1]["x-fula-version"])


def parsed(data, version):
    begin, *found, end = dag_cbor.items(data)
    assert begin[0] == BEGIN and str(begin[1]) == version and begin[4:] == [{}]
    assert end == [END, len(found), {}]
    assert [item[1] for item in found] == sorted((item[1] for item in found), key=str.encode)
    return begin, {item[1]: item for item in found}


def test_a_list_is_every_object_of_one_version(gateway, s3, bucket):
    for n in range(30):
        s3.put_object(Bucket=bucket, Key=f"k{n:02}/ü", Body=b"x" * n, Metadata={"Name": f"v{n}"})
    begin, found = stream(gateway, f"/{bucket}?fula-list&meta=NAME")
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert begin[3] is None and list(found) == [o["Key"] for o in listed]
    for entry, (number, item) in zip(listed, enumerate(found.values())):
        kind, _, size, etag, modified, place, meta, more = item
        assert (kind, size, f'"{etag}"', meta, more) == (OBJECT, entry["Size"], entry["ETag"], f"v{number}", {})
        assert modified // 1000 == int(entry["LastModified"].timestamp()) and place[0] <= begin[1]
    _, some = stream(gateway, f"/{bucket}?after=k07%2F%C3%BC&fula-list&prefix=k0")
    assert list(some) == ["k08/ü", "k09/ü"] and some["k08/ü"][6] is None
    assert stream(gateway, f"/{bucket}?fula-list&prefix=z")[1] == {}
    assert stream(gateway, f"/{bucket}?fula-list&meta=other")[1]["k00/ü"][6] is None


def test_changes_since_a_version(gateway, s3, bucket):
    for key in "abc":
        s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    begin, _ = stream(gateway, f"/{bucket}?fula-list")
    since, root = begin[1], begin[2]
    s3.put_object(Bucket=bucket, Key="b", Body=b"2", Metadata={"m": "1"})
    s3.delete_object(Bucket=bucket, Key="c")
    s3.put_object(Bucket=bucket, Key="d/x", Body=b"1")
    s3.put_object(Bucket=bucket, Key="e", Body=b"1")
    s3.delete_object(Bucket=bucket, Key="e")
    begin, found = stream(gateway, f"/{bucket}?fula-changes&meta=m&root={root}&since={since}")
    assert begin[1] == since + 5 and begin[3] == since
    assert {key: item[0] for key, item in found.items()} == {"b": OBJECT, "c": REMOVED, "d/x": OBJECT}
    assert found["b"][6] == "1" and found["c"][2:] == [{}]
    assert list(stream(gateway, f"/{bucket}?fula-changes&prefix=d%2F&since={since}")[1]) == ["d/x"]
    assert stream(gateway, f"/{bucket}?fula-changes&since={begin[1]}")[1] == {}
    # Not there yet, or another state of this number.
    for query in [f"since={begin[1] + 1}", f"root={root}&since={begin[1]}", f"root={begin[2]}&since={since}"]:
        answer = stream(gateway, f"/{bucket}?fula-changes&{query}")
        assert answer[:2] == (410, "VersionExpired") and "?fula-list" in answer[2], query


def test_a_version_beyond_the_retention_is_gone(tmp_path):
    with Gateway(tmp_path / "data", "--retention", "1ms").start() as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="a", Body=b"")
        begin, _ = stream(gateway, "/bucket?fula-list")
        # It has not been replaced.
        assert stream(gateway, f"/bucket?fula-changes&since={begin[1]}")[1] == {}
        s3.put_object(Bucket="bucket", Key="b", Body=b"")
        s3.put_object(Bucket="bucket", Key="c", Body=b"")
        target = f"/bucket?fula-changes&since={begin[1]}"
        eventually(lambda: stream(gateway, target)[0] == 410)
        assert stream(gateway, target)[:2] == (410, "VersionExpired")


def test_bad_requests(gateway, s3, bucket):
    for query in ["fula-changes", "fula-changes&since=", "fula-changes&since=0", "fula-changes&since=-1",
                  "fula-changes&since=1x", "fula-changes&since=1&wait=x", "fula-changes&root=x&since=1"]:
        assert stream(gateway, f"/{bucket}?{query}")[:2] == (400, "InvalidArgument"), query
    for query in ["fula-list&since=1", "fula-changes&fula-list&since=1", "fula-changes&since=1&after=a", "fula-list&max-keys=1"]:
        assert stream(gateway, f"/{bucket}?{query}")[0] in (405, 501), query
    assert stream(gateway, f"/{bucket}?fula-list&fula-list")[:2] == (400, "InvalidRequest")
    assert stream(gateway, f"/{bucket}/k?fula-list")[0] == 405
    assert signed(gateway, "POST", f"/{bucket}?fula-list")[0] == 405
    assert stream(gateway, f"/{fresh()}?fula-list")[:2] == (404, "NoSuchBucket")
    assert stream(gateway, f"/{fresh()}?fula-changes&since=1&wait=60")[:2] == (404, "NoSuchBucket")


def test_a_request_waits_for_a_change(gateway, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"1")
    version = stream(gateway, f"/{bucket}?fula-list")[0][1]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream, gateway, f"/{bucket}?fula-changes&since={version}&wait=60")
        assert not concurrent.futures.wait([waiting], 0.3).done
        s3.put_object(Bucket=bucket, Key="b", Body=b"1")
        began = time.monotonic()
        begin, found = waiting.result(timeout=120)
        # Long before the minute of the request is over.
        assert time.monotonic() - began < 30 and (begin[1], list(found)) == (version + 1, ["b"])
    began = time.monotonic()
    begin, found = stream(gateway, f"/{bucket}?fula-changes&since={version + 1}&wait=1")
    assert (begin[1], found) == (version + 1, {}) and 1 <= time.monotonic() - began < 30


def test_a_gateway_that_stops_answers_those_that_wait(tmp_path):
    with Gateway(tmp_path / "data").start() as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        version = stream(gateway, "/bucket?fula-list")[0][1]
        connections = lambda count: urllib.request.urlopen(f"{gateway.admin}/metrics").read().count(
            b'\nfula_connections{listener="s3"} %d\n' % count)
        # That of the client, and then the one that waits.
        eventually(lambda: connections(1))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(stream, gateway, f"/bucket?fula-changes&since={version}&wait=60")
            eventually(lambda: connections(2))
            assert not concurrent.futures.wait([waiting], 0.5).done
            began = time.monotonic()
            gateway.stop()
            begin, found = waiting.result(timeout=60)
        # A request that is not answered before is cut off after 30 seconds.
        assert (begin[1], found) == (version, {}) and time.monotonic() - began < 25


def test_one_user_cannot_use_all_waits(tmp_path):
    with Gateway(tmp_path / "data").start() as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="bucket")
        version = stream(gateway, "/bucket?fula-list")[0][1]
        target = f"/bucket?fula-changes&since={version}&wait=60"
        with concurrent.futures.ThreadPoolExecutor(65) as pool:
            waiting = [pool.submit(stream, gateway, target) for _ in range(65)]
            done, _ = concurrent.futures.wait(waiting, 60, return_when=concurrent.futures.FIRST_COMPLETED)
            assert [future.result()[:2] for future in done] == [(503, "SlowDown")]
            s3.put_object(Bucket="bucket", Key="k", Body=b"")
            assert sum(len(future.result()[1]) == 1 for future in waiting if future not in done) == 64


def test_names_and_metadata_need_rights_of_their_own(door):
    wallet, bucket = Wallet(), fresh()
    s3 = token_client(door, wallet.v1())
    s3.create_bucket(Bucket=bucket)
    for key in ["in/a", "in/b", "out"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"", Metadata={"m": "secret"})
    named = {"x-amz-expected-bucket-owner": s3.list_buckets()["Owner"]["ID"]}

    def ask(token, query):
        answer = call(door, "GET", f"/{bucket}?{query}", token=token, headers=named)
        if answer[0] != 200:
            return code(answer)
        return {key: item[6] for key, item in parsed(answer[2], answer[1]["x-fula-version"])[1].items()}

    everything = {key: "secret" for key in ["in/a", "in/b", "out"]}
    assert ask(wallet.v1(), "fula-list&meta=m") == everything
    denied = (403, "AccessDenied")
    for query in ["fula-list&meta=m", "fula-changes&since=1&wait=60"]:
        assert ask(wallet.v2(f"write:{bucket}"), query) == denied
        assert ask(wallet.v2(f"read:{bucket}/in/"), query) == denied
        assert ask(Wallet().v1(), query) == denied
    assert ask(wallet.v2(f"read:{bucket}/in/"), "fula-list&meta=m&prefix=in%2F") == {"in/a": "secret", "in/b": "secret"}
    friend = Wallet()
    principal = {"AWS": f"arn:aws:iam:::user/{friend.account.address}"}
    put_policy(s3, bucket, statement("Allow", principal, "s3:ListBucket", bucket),
               statement("Allow", principal, "s3:GetObject", f"{bucket}/in/*"))
    assert ask(friend.v1(), "fula-list&meta=m") == {**everything, "out": None}
    # What was removed is history.
    assert ask(friend.v1(), "fula-changes&since=1") == denied
    put_policy(s3, bucket, statement("Allow", principal, ["s3:ListBucket", "s3:ListBucketVersions"], bucket))
    assert ask(friend.v1(), "fula-changes&meta=m&since=1") == dict.fromkeys(everything)


def test_rights_are_decided_again_after_a_wait(door):
    wallet, friend, bucket = Wallet(), Wallet(), fresh()
    s3 = token_client(door, wallet.v1())
    s3.create_bucket(Bucket=bucket)
    principal = {"AWS": f"arn:aws:iam:::user/{friend.account.address}"}
    everything = statement("Allow", principal, "s3:*", bucket, f"{bucket}/*")
    put_policy(s3, bucket, everything)
    named = {"x-amz-expected-bucket-owner": s3.list_buckets()["Owner"]["ID"]}
    asks = lambda token, method="HEAD", target=f"/{bucket}", body=None: call(door, method, target, body, token, named)

    def waits(pool, token):
        version = int(asks(wallet.v2("read:*"))[1]["x-fula-version"])
        waiting = pool.submit(asks, token, "GET", f"/{bucket}?fula-changes&since={version}&wait=60")
        assert not concurrent.futures.wait([waiting], 0.3).done
        return waiting

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # The policy that let them in is removed by the change that they wait for.
        waiting = waits(pool, friend.v1())
        s3.delete_bucket_policy(Bucket=bucket)
        assert code(waiting.result(timeout=120)) == (403, "AccessDenied")
        # The credential is revoked, and then somebody else writes.
        put_policy(s3, bucket, everything)
        token = wallet.v2(f"read:{bucket}")
        waiting = waits(pool, token)
        door.fula("revoke", "wallet", wallet.user, "--yes")
        eventually(lambda: asks(token)[0] != 200)
        assert asks(friend.v1(), "PUT", f"/{bucket}/k", b"x")[0] == 200
        assert code(waiting.result(timeout=120)) == (403, "AccessDenied")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Three masters on one Postgres."""
    federation = Federation(tmp_path_factory.mktemp("federation"))
    for n in range(3):
        federation.gateway(f"master{n}")
    yield federation
    federation.stop()


def test_followers_of_every_master_end_with_the_bucket(shared):
    """Two masters write; three followers apply each answer, and have what a listing has."""
    gateways = shared.gateways
    key = gateways[0].credentials()
    clients = [gateway.client(key=key) for gateway in gateways]
    bucket = fresh()
    clients[0].create_bucket(Bucket=bucket)
    last = threading.Event()
    final = []

    def write(n):
        choice = random.Random(n)
        for _ in range(60):
            name = f"k{choice.randrange(15)}"
            if choice.random() < 0.3:
                clients[n].delete_object(Bucket=bucket, Key=name)
            else:
                clients[n].put_object(Bucket=bucket, Key=name, Body=choice.randbytes(4))

    def follow(gateway):
        begin, found = stream(gateway, f"/{bucket}?fula-list", key)
        mirror = {name: item[3] for name, item in found.items()}
        while not (last.is_set() and begin[1] >= final[0]):
            root = quote(str(begin[2]))
            version = begin[1]
            begin, found = stream(gateway, f"/{bucket}?fula-changes&root={root}&since={version}&wait=2", key)
            assert begin[3] == version
            for name, item in found.items():
                if item[0] == OBJECT:
                    mirror[name] = item[3]
                else:
                    del mirror[name]
        return mirror

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        followers = [pool.submit(follow, gateway) for gateway in gateways]
        for writer in [pool.submit(write, n) for n in range(2)]:
            writer.result()
        head = clients[2].head_bucket(Bucket=bucket)
        final.append(int(head["ResponseMetadata"]["HTTPHeaders"]["x-fula-version"]))
        last.set()
        mirrors = [follower.result(timeout=300) for follower in followers]
    listed = {o["Key"]: o["ETag"].strip('"') for o in clients[1].list_objects_v2(Bucket=bucket)["Contents"]}
    assert mirrors == [listed] * 3


def test_a_request_waits_for_a_write_of_another_master(shared):
    one, two, _ = shared.gateways
    key = one.credentials()
    bucket = fresh()
    one.client(key=key).create_bucket(Bucket=bucket)
    version = stream(one, f"/{bucket}?fula-list", key)[0][1]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream, one, f"/{bucket}?fula-changes&since={version}&wait=60", key)
        assert not concurrent.futures.wait([waiting], 0.5).done
        two.client(key=key).put_object(Bucket=bucket, Key="k", Body=b"x")
        began = time.monotonic()
        begin, found = waiting.result(timeout=120)
        # Long before the minute of the request is over.
        assert (begin[1], list(found)) == (version + 1, ["k"]) and time.monotonic() - began < 30
