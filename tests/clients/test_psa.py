"""The IPFS Pinning Service API: kubo's own client, the checks of the compliance suite, and what must not go wrong."""

import json
import re
import subprocess
import time
import urllib.parse

import pytest
from conftest import FULA, Gateway
from dags import RAW, Dag, Source, blocks_of_car, cid_of
from helpers import MIB, eventually, pattern
from identity import ENV, Wallet
from kubo import Kubo
from masters import admin, federation
from nodes import StorageNode, call

DELEGATE = "/dns4/pins.example/tcp/4001/p2p/QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"


class Service:
    """The API as one wallet uses it."""

    def __init__(self, url, token):
        self.url, self.token = url, token

    def ask(self, method, path, body=None, token=None, **query):
        target = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        data = json.dumps(body).encode() if body is not None else b""
        status, headers, answer = call(method, target, self.token if token is None else token, data)
        return status, json.loads(answer) if answer and "json" in headers["content-type"] else answer

    def add(self, cid, instead_of=None, **more):
        path = f"/pins/{instead_of}" if instead_of else "/pins"
        status, pin = self.ask("POST", path, {"cid": cid, **more})
        assert status == 202, pin
        check_status(pin)
        return pin["requestid"]

    def get(self, id):
        status, pin = self.ask("GET", f"/pins/{id}")
        assert status == 200, pin
        return check_status(pin)

    def until(self, id, status, wait=120):
        """Waits until a pin has a status."""
        return eventually(lambda: (pin := self.get(id))["status"] == status and pin, wait)

    def list(self, **query):
        status, page = self.ask("GET", "/pins", **query)
        assert status == 200, page
        for pin in page["results"]:
            check_status(pin)
        return page

    def remove(self, id):
        assert self.ask("DELETE", f"/pins/{id}") == (202, b"")

    def car(self, id):
        status, car = self.ask("GET", f"/pins/{id}/car")
        assert status == 200, car
        return blocks_of_car(car)


def check_status(pin):
    """Checks what the specification says of a PinStatus."""
    assert {"requestid", "status", "created", "pin", "delegates"} <= pin.keys()
    assert pin["status"] in ("queued", "pinning", "pinned", "failed")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", pin["created"])
    assert 1 <= len(pin["delegates"]) <= 20 and pin["requestid"] != pin["pin"]["cid"]
    assert all(isinstance(value, str) for value in pin["info"].values())
    return pin


def is_failure(answer, status, reason):
    found, body = answer
    assert (found, body["error"]["reason"]) == (status, reason), answer
    assert isinstance(body["error"]["details"], str)
    return True


def start(tmp_path, *sources, **env):
    """A gateway that fetches pins from these sources."""
    gateway = Gateway(tmp_path / "data")
    gateway.psa_env = {**ENV, "FULA_PSA": ",".join(sources), "FULA_PSA_DELEGATES": DELEGATE, **env}
    return gateway.start(gateway.psa_env)


def service_of(gateway, wallet=None):
    return Service(f"{gateway.url}/fula/psa", (wallet or Wallet()).v1())


def collect(gateway):
    return json.loads(gateway.fula("gc", "--now", "--retention", "0s", "--json").stdout)["collection"]


def test_kubos_own_client_adds_lists_and_removes(tmp_path):
    with Kubo(tmp_path / "theirs") as theirs, Kubo(tmp_path / "ours") as ours:
        gateway = Gateway(tmp_path / "data")
        with gateway.start({**ENV, "FULA_PSA": f"kubo:{ours.url}"}):
            url = f"{gateway.url}/fula/psa"
            theirs.command("pin", "remote", "service", "add", "fula", url, Wallet().v1())
            file = tmp_path / "file"
            file.write_bytes(pattern(3 * MIB, 4))
            cid = theirs.command("add", "--quieter", "--cid-version=1", str(file)).strip()
            old = theirs.command("add", "--quieter", str(file)).strip()
            assert old.startswith("Qm")
            for name, root in (("new", cid), ("old", old)):
                # The blocks reach our kubo because the client names its own addresses.
                done = theirs.command("pin", "remote", "add", "--service=fula", f"--name={name}", root)
                assert "Status: pinned" in done, done
            listed = theirs.command("pin", "remote", "ls", "--service=fula")
            assert [line.split() for line in listed.splitlines()] == [[old, "pinned", "old"], [cid, "pinned", "new"]]
            theirs.command("pin", "remote", "rm", "--service=fula", "--name=old")
            listed = theirs.command("pin", "remote", "ls", "--service=fula", "--status=queued,pinning,pinned,failed")
            assert [line.split() for line in listed.splitlines()] == [[cid, "pinned", "new"]]
            # The file that the service hands out is read by kubo, with the same root and all of its blocks.
            service = Service(url, theirs_token(theirs))
            (pin,) = service.list()["results"]
            assert set(pin["delegates"]) <= set(ours.json("id")[0]["Addresses"])
            car = service.ask("GET", f"/pins/{pin['requestid']}/car")[1]
            with Kubo(tmp_path / "third") as third:
                third.dag_import(car)
                assert third.rpc("cat", cid) == file.read_bytes()


def theirs_token(kubo):
    services = json.loads((kubo.repo / "config").read_text())["Pinning"]["RemoteServices"]
    return services["fula"]["API"]["Key"]


@pytest.fixture(scope="module")
def compliant(tmp_path_factory):
    """A service whose source has 15 blocks that nobody else has."""
    tmp = tmp_path_factory.mktemp("compliant")
    with Source() as source:
        for n in range(40):
            block = pattern(100, n)
            source.blocks[cid_of(RAW, block)[1]] = block
        with start(tmp, source.setting) as gateway:
            yield gateway, list(source.blocks)


def test_compliance_authentication(compliant):
    service = service_of(compliant[0])
    for token in ("", "nonsense", "fula-eip712.x.y"):
        assert is_failure(service.ask("GET", "/pins", token=token), 401, "UNAUTHORIZED")
        assert is_failure(service.ask("POST", "/pins", {"cid": compliant[1][0]}, token=token), 401, "UNAUTHORIZED")
    headers = call("GET", f"{service.url}/pins")[1]
    assert headers["www-authenticate"].startswith("Bearer")


def test_compliance_adding_and_removing(compliant):
    gateway, cids = compliant
    service = service_of(gateway)
    id = service.add(cids[0], meta={})
    assert service.get(id)["status"] != "failed"
    service.remove(id)
    assert is_failure(service.ask("GET", f"/pins/{id}"), 404, "NOT_FOUND")
    assert is_failure(service.ask("DELETE", f"/pins/{id}"), 404, "NOT_FOUND")
    assert service.list(status="failed,pinned,pinning,queued") == {"count": 0, "results": []}


def test_compliance_replacing(compliant):
    gateway, cids = compliant
    service = service_of(gateway)
    id = service.add(cids[0], name="old")
    other = service.add(cids[1], instead_of=id, name="new")
    assert other != id and service.until(other, "pinned")["pin"] == {"cid": cids[1], "name": "new"}
    assert is_failure(service.ask("GET", f"/pins/{id}"), 404, "NOT_FOUND")
    assert is_failure(service.ask("POST", f"/pins/{id}", {"cid": cids[2]}), 404, "NOT_FOUND")
    # A pin that takes the place of one of the same CID stays.
    same = service.add(cids[1], instead_of=other)
    assert same != other and service.until(same, "pinned")
    assert service.list()["count"] == 1


def test_compliance_matching_names(compliant):
    gateway, cids = compliant
    service = service_of(gateway)
    for n, name in enumerate(("Holiday.JPG", "holiday.jpg", "work")):
        service.until(service.add(cids[n], name=name, meta={"app": name[0], "all": "x"}), "pinned")
    service.until(service.add(cids[3]), "pinned")
    for query, count in [
        ({"name": "Holiday.JPG"}, 1), ({"name": "Holiday.JPG", "match": "exact"}, 1),
        ({"name": "HOLIDAY.jpg", "match": "iexact"}, 2), ({"name": "liday.J", "match": "partial"}, 1),
        ({"name": "LIDAY", "match": "ipartial"}, 2), ({"name": "Holiday"}, 0),
        ({"cid": f"{cids[0]},{cids[2]}"}, 2), ({"cid": cids[5]}, 0),
        ({"meta": '{"app":"H"}'}, 1), ({"meta": '{"all":"x"}'}, 3), ({"meta": '{"all":"x","app":"w"}'}, 1),
        ({"status": "pinned"}, 4), ({"status": "failed,queued"}, 0), ({}, 4),
    ]:
        assert service.list(**query)["count"] == count, query


def test_compliance_paging(compliant):
    gateway, cids = compliant
    service = service_of(gateway)
    ids = [service.add(cid) for cid in cids[:15]]
    for id in ids:
        service.until(id, "pinned")
    page = service.list()
    assert (page["count"], len(page["results"])) == (15, 10)
    seen = [pin["requestid"] for pin in page["results"]]
    times = [pin["created"] for pin in page["results"]]
    assert times == sorted(times, reverse=True) and len(set(times)) == 10
    rest = service.list(before=times[-1])
    assert rest["count"] == 5
    assert seen + [pin["requestid"] for pin in rest["results"]] == ids[::-1]
    assert service.list(after=times[0])["count"] == 0
    assert service.list(after=rest["results"][0]["created"], limit=3)["count"] == 10
    assert len(service.list(limit=3)["results"]) == 3
    for id in ids:
        service.remove(id)
    assert service.list()["count"] == 0


def test_bad_requests_are_refused_with_a_reason(compliant):
    gateway, cids = compliant
    service = service_of(gateway)
    for query in ({"limit": "0"}, {"limit": "1001"}, {"cid": "x"}, {"match": "bogus"}, {"before": "x"},
                  {"status": "bogus"}, {"meta": "[]"}, {"cid": ",".join([cids[0]] * 11)}, {"name": "n" * 256}):
        assert is_failure(service.ask("GET", "/pins", **query), 400, "BAD_REQUEST"), query
    for body in ([], {}, {"cid": 5}, {"cid": "x"}, {"cid": cids[0], "name": "n" * 256}, {"cid": cids[0], "meta": {"a": 1}},
                 {"cid": cids[0], "origins": ["/ip4/1.2.3.4/tcp/1"]}):
        assert is_failure(service.ask("POST", "/pins", body), 400, "BAD_REQUEST"), body
    assert is_failure(service.ask("POST", "/pins", {"cid": "x" * 70_000}), 413, "PAYLOAD_TOO_LARGE")
    assert is_failure(service.ask("PUT", "/pins", {}), 405, "METHOD_NOT_ALLOWED")
    assert is_failure(service.ask("GET", "/nothing"), 404, "NOT_FOUND")
    assert service.list(status="failed,pinned,pinning,queued")["count"] == 0


def test_owners_reach_only_their_own_pins(compliant):
    gateway, cids = compliant
    wallet, other = Wallet(), Wallet()
    service, theirs = service_of(gateway, wallet), service_of(gateway, other)
    id = service.add(cids[0], name="mine")
    service.until(id, "pinned")
    assert theirs.list(status="failed,pinned,pinning,queued")["count"] == 0
    for method, path, body in [("GET", f"/pins/{id}", None), ("DELETE", f"/pins/{id}", None),
                               ("POST", f"/pins/{id}", {"cid": cids[1]}), ("GET", f"/pins/{id}/car", None)]:
        assert is_failure(theirs.ask(method, path, body), 404, "NOT_FOUND")
    # What a token may do follows its scopes, and pins belong to no bucket.
    reader, writer, narrow = (wallet.v2(scope) for scope in ("read:*", "write:*", "admin:photos"))
    assert service.ask("GET", "/pins", token=reader)[0] == 200
    assert is_failure(service.ask("POST", "/pins", {"cid": cids[1]}, token=reader), 403, "ACCESS_DENIED")
    assert is_failure(service.ask("GET", "/pins", token=writer), 403, "ACCESS_DENIED")
    assert is_failure(service.ask("GET", "/pins", token=narrow), 403, "ACCESS_DENIED")
    assert is_failure(service.ask("DELETE", f"/pins/{id}", token=narrow), 403, "ACCESS_DENIED")
    # S3 neither shows nor reaches the bucket that holds the pins.
    s3 = lambda method, path: call(method, gateway.url + path, wallet.v1())
    assert b"<Name>" not in s3("GET", "/")[2]
    for method, path in [("GET", "/.pins"), ("GET", "/.pins/x"), ("PUT", "/.pins"), ("DELETE", "/.pins"), ("GET", "/%2Epins?policy")]:
        assert s3(method, path)[0] in (400, 403, 404), path
    assert service.get(id)["status"] == "pinned"


def test_a_kill_in_the_middle_of_a_fetch_loses_nothing(tmp_path):
    dag = Dag(60)
    with Source(dag) as source, start(tmp_path, source.setting) as gateway:
        service = service_of(gateway)
        source.hold(12)
        id = service.add(dag.root, name="big")
        for _ in range(3):
            # The source answers twelve requests, and holds back those that are asked besides.
            eventually(lambda: len(source.asked) > source.most)
            assert service.get(id)["status"] == "pinning"
            gateway.kill()
            source.hold(12)
            gateway.start(gateway.psa_env)
        source.let_go()
        pin = service.until(id, "pinned")
        assert (pin["info"]["dag_blocks"], pin["info"]["dag_size"]) == ("61", str(dag.size))
        gateway.kill()
        gateway.start(gateway.psa_env)
        # All of it is here, without the source, and stays through collections.
        source.blocks.clear()
        collect(gateway)
        assert gateway.fula("fsck").returncode == 0
        header, blocks = service.car(id)
        assert blocks == dag.blocks


def test_a_pin_that_is_removed_while_it_is_fetched_stays_removed(tmp_path):
    dag, other = Dag(30), Dag(3, seed=2)
    with Source(dag, other) as source, start(tmp_path, source.setting) as gateway:
        source.hold(8)
        service = service_of(gateway)
        id = service.add(dag.root)
        eventually(lambda: len(source.asked) > 8)
        service.remove(id)
        source.let_go()
        eventually(lambda: len(source.asked) == 31)
        service.until(service.add(other.root), "pinned")
        assert service.list(status="failed,pinned,pinning,queued")["count"] == 1
        assert is_failure(service.ask("GET", f"/pins/{id}"), 404, "NOT_FOUND")


def test_backups_carry_pins(tmp_path):
    dag = Dag(5)
    with Source(dag) as source, start(tmp_path, source.setting) as gateway:
        wallet = Wallet()
        service = service_of(gateway, wallet)
        id = service.add(dag.root, name="kept")
        service.until(id, "pinned")
        gateway.fula("backup", "create", tmp_path / "backups")
        other = Gateway(tmp_path / "other")
        other.data_dir.mkdir(mode=0o700)
        other.fula("restore", "--all", "--buckets-only", "--from", f"backup:{tmp_path}/backups")
        with other.start(gateway.psa_env):
            back = service_of(other, wallet)
            assert back.get(id)["pin"]["name"] == "kept" and back.car(id)[1] == dag.blocks


def test_hostile_sources_cost_little_and_hold_up_nobody(tmp_path):
    good, wrong, endless, huge, slow, cut = (Dag(3, seed=n) for n in range(10, 16))
    bad = {dag.root: name for dag, name in ((wrong, "wrong"), (endless, "endless"), (huge, "huge"), (slow, "slow"), (cut, "cut"))}

    def answer(handler, cid):
        kind = bad.get(cid)
        if kind is None:
            return False
        handler.send_response(200)
        if kind == "huge":
            handler.send_header("Content-Length", str(1 << 40))
        if kind == "cut":
            handler.send_header("Content-Length", "500")
        handler.end_headers()
        if kind == "wrong":
            handler.wfile.write(b"these are other bytes")
        while kind in ("endless", "huge"):
            handler.wfile.write(bytes(MIB))
        while kind == "slow":
            handler.wfile.write(b"x")
            time.sleep(0.2)
        return True

    with Source(good) as source, start(tmp_path, source.setting, FULA_PSA_TIME="15s", FULA_PSA_FETCHES="8") as gateway:
        source.answer = answer
        service = service_of(gateway)
        ids = {name: service.add(cid) for cid, name in bad.items()}
        service.until(service.add(good.root), "pinned")
        # It waits for none of them: this one has its whole time.
        assert service.get(ids["slow"])["status"] != "failed"
        details = {name: service.until(id, "failed")["info"]["status_details"] for name, id in ids.items()}
        assert "do not match" in details["wrong"]
        assert "too large" in details["endless"] and "too large" in details["huge"], details
        assert "no answer within" in details["slow"] or "not found in time" in details["slow"], details
        assert service.list(status="failed")["count"] == 5
        resident = int(re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{gateway.process.pid}/status").read())[1])
        assert resident < 300 << 10, "peak memory in KiB"


def test_pins_beyond_the_bounds_fail_and_say_so(tmp_path):
    many, large, fine = Dag(30, seed=1), Dag(3, size=50_000, seed=2), Dag(5, seed=3)
    with Source(many, large, fine) as source:
        with start(tmp_path, source.setting, FULA_PSA_BLOCKS="20", FULA_PSA_BYTES="100K", FULA_PSA_PINS="3") as gateway:
            service = service_of(gateway)
            for dag, why in ((many, "more than 20 blocks"), (large, "more than 102400 bytes")):
                assert why in service.until(service.add(dag.root), "failed")["info"]["status_details"]
            id = service.add(fine.root)
            service.until(id, "pinned")
            full = service.ask("POST", "/pins", {"cid": fine.root})
            assert is_failure(full, 409, "INSUFFICIENT_FUNDS")
            # Another pin may take the place of one all the same.
            service.until(service.add(fine.root, instead_of=id), "pinned")


def test_pins_count_against_the_quota_of_their_owner(tmp_path):
    first, second, third = Dag(10, size=100_000, seed=1), Dag(10, size=100_000, seed=2), Dag(1, seed=3)
    with Source(first, second, third) as source, start(tmp_path, source.setting, FULA_OWNER_QUOTA="1600K", FULA_BUCKET_NAMES="global") as gateway:
        service = service_of(gateway)
        one = service.add(first.root)
        service.until(one, "pinned")
        two = service.until(service.add(second.root), "failed")
        assert "quota" in two["info"]["status_details"] or "more than" in two["info"]["status_details"]
        # A bucket of the owner and the pins have one quota.
        call("PUT", f"{gateway.url}/bucket", service.token)
        status, _, body = call("PUT", f"{gateway.url}/bucket/k", service.token, bytes(900_000))
        assert (status, b"QuotaExceeded" in body) == (403, True)
        # What takes the place of a pin has its room, too.
        service.until(service.add(second.root, instead_of=one), "pinned")
        call("PUT", f"{gateway.url}/bucket/k", service.token, bytes(630_000))
        third = service.until(service.add(third.root), "pinned")["requestid"]
        service.remove(third)
        # Another owner has a quota of its own.
        other = service_of(gateway)
        other.until(other.add(first.root), "pinned")


def test_replacing_fetches_only_what_is_new_and_removing_frees_the_rest(tmp_path):
    old, new = Dag(40, size=20_000), Dag(42, size=20_000)
    with Source(old, new) as source, start(tmp_path, source.setting) as gateway:
        service = service_of(gateway)
        id = service.add(old.root)
        service.until(id, "pinned")
        source.asked.clear()
        # While the new one is not whole, a collection leaves what both have.
        held = {cid: source.blocks.pop(cid) for cid in set(new.blocks) - set(old.blocks)}
        id = service.add(new.root, instead_of=id)
        eventually(lambda: "attempt" in service.get(id)["info"]["status_details"])
        collect(gateway)
        source.blocks.clear()
        source.blocks.update(held)
        service.until(id, "pinned")
        assert set(source.asked) == set(held) and len(held) == 3
        assert service.car(id)[1] == new.blocks
        # A second pin of the same DAG adds no blocks of content.
        source.blocks.update(new.blocks)
        twin = service.add(new.root)
        service.until(twin, "pinned")
        collect(gateway)
        service.remove(twin)
        few = collect(gateway)
        assert service.car(id)[1] == new.blocks
        service.remove(id)
        many = collect(gateway)
        assert few["deleted_bytes"] < 100_000 < 800_000 < many["deleted_bytes"], (few, many)


def test_several_masters_fetch_each_pin_once_and_take_over(tmp_path, federation):
    dags = [Dag(20, seed=n) for n in range(6)]
    with Source(*dags) as source:
        env = {**ENV, "FULA_PSA": source.setting, "FULA_PSA_DELEGATES": DELEGATE, "FULA_PSA_FETCHES": "2"}
        one, two = (federation.gateway(name, **env) for name in ("one", "two"))
        wallet = Wallet()
        here, there = service_of(one, wallet), service_of(two, wallet)
        ids = [(here if n % 2 else there).add(dag.root) for n, dag in enumerate(dags)]
        for n, id in enumerate(ids):
            (there if n % 2 else here).until(id, "pinned")
        assert all(source.asked.count(dag.root) == 1 for dag in dags), "a pin was fetched twice"
        # A collection of one leaves what the other needs, and what a pin inherits from the one that it replaces.
        longer = Dag(21, seed=0)
        source.blocks.update(longer.blocks)
        del source.blocks[longer.root]
        id = there.add(longer.root, instead_of=ids[0])
        for master in (one, two, one):
            assert admin(master, "gc", "--now", "--retention", "0s").returncode == 0
        assert here.car(ids[1])[1] == dags[1].blocks
        source.blocks[longer.root] = longer.blocks[longer.root]
        here.until(id, "pinned")
        assert there.car(id)[1] == longer.blocks
        # Collections in the middle of a fetch leave what is on its way.
        middle = Dag(40, seed=8)
        source.blocks.update(middle.blocks)
        source.hold(8)
        id = here.add(middle.root)
        eventually(lambda: len(source.asked) > source.most)
        for master in (one, two):
            assert admin(master, "gc", "--now", "--retention", "0s").returncode == 0
        source.let_go()
        there.until(id, "pinned")
        assert there.car(id)[1] == middle.blocks
        # What a killed master was fetching is taken over by the other one.
        last = Dag(40, seed=9)
        source.blocks.update(last.blocks)
        source.hold(4)
        two.kill()
        id = here.add(last.root)
        eventually(lambda: len(source.asked) > source.most)
        assert here.get(id)["status"] == "pinning"
        one.kill()
        source.let_go()
        two.start(two.shared)
        pin = Service(f"{two.url}/fula/psa", wallet.v1()).until(id, "pinned", 180)
        assert pin["info"]["dag_blocks"] == "41"


def test_a_storage_node_serves_the_api_too(tmp_path):
    dag = Dag(10)
    master = Gateway(tmp_path / "data")
    with Source(dag) as source, master.start(ENV):
        node = StorageNode(tmp_path, master)
        node.start("--psa", source.setting, "--psa-delegates", DELEGATE)
        master.stop()
        master.options = ("--storage-nodes", f"north={node.address}", "--remote-cid-put", "on")
        master.start(ENV)
        node.await_master()
        service = Service(f"{node.url}/psa", Wallet().v1())
        id = service.add(dag.root)
        service.until(id, "pinned")
        assert is_failure(service.ask("GET", "/pins", token=""), 401, "UNAUTHORIZED")
        node.kill()
        node.start("--psa", source.setting, "--psa-delegates", DELEGATE)
        node.await_master()
        command = [FULA, "gc", "--now", "--retention", "0s", "--data-dir", node.data_dir]
        subprocess.run([*command, "--secrets-key-file", node.key_file], check=True, capture_output=True, timeout=120)
        assert service.car(id)[1] == dag.blocks
        service.remove(id)
        assert service.list()["count"] == 0
        node.stop()


def test_it_is_off_unless_it_has_a_source(tmp_path):
    with Gateway(tmp_path / "data").start(ENV) as gateway:
        service = service_of(gateway)
        assert service.ask("GET", "/pins")[0] == 404
