"""A drill with two masters on Postgres and two storage nodes: processes are killed, and a node loses its disk.
Leases end after a day, so what nodes ask then is in the simulation (`crates/service/tests/pipeline/mappings`)."""

import json
import random
import shutil
import threading

import pytest

from helpers import pattern
from identity import ENV, Wallet
from masters import admin, federation  # noqa: F401
from nodes import StorageNode, call


class Cluster:
    """Two masters, the nodes north and south, and a wallet with a bucket."""

    def __init__(self, federation, elsewhere, directory):
        self.federation, self.elsewhere = federation, elsewhere.client()
        self.elsewhere.create_bucket(Bucket="drill-scratch")
        self.masters = [federation.gateway(name, **ENV) for name in ("one", "two")]
        self.nodes = [StorageNode(directory, *self.masters, name=name).start() for name in ("north", "south")]
        north, south = (node.address for node in self.nodes)
        self.env = federation.env(FULA_STORAGE_NODES=f"north={north},south={south}", FULA_REMOTE_CID_PUT="on", **ENV)
        for master in self.masters:
            master.stop()
            self.start(master)
        for node in self.nodes:
            node.await_master()
        self.token = Wallet().v1()
        assert self.s3(0, "PUT", "/bucket")[0] == 200

    def start(self, master):
        master.shared = self.env
        master.start(env=self.env)

    def s3(self, master, method, target, **headers):
        return call(method, f"{self.masters[master].url}{target}", self.token, b"", **headers)

    def send(self, node, data):
        """Sends a block to a node, and returns its CID and the receipt."""
        put = self.elsewhere.put_object(Bucket="drill-scratch", Key="scratch", Body=data)
        cid = put["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]
        status, _, body = call("PUT", f"{self.nodes[node].url}/v0/block?cid={cid}", self.token, data)
        assert status == 200, body
        return cid, json.loads(body)["receipt"]

    def map(self, master, key, cid, size, receipt):
        return self.s3(master, "PUT", f"/bucket/{key}", **{
            "x-amz-meta-fula-remote-cid": cid, "x-amz-meta-fula-remote-size": str(size), "x-fula-receipt": receipt})

    def fsck(self, master):
        done = admin(self.masters[master], "fsck", "--json")
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout)["storage_nodes"]

    def close(self):
        for node in self.nodes:
            if node.process.poll() is None:
                node.kill()


@pytest.fixture
def cluster(federation, gateway, tmp_path):  # noqa: F811
    cluster = Cluster(federation, gateway, tmp_path)
    yield cluster
    cluster.close()


def test_nothing_acknowledged_is_lost_that_a_node_still_has(cluster):
    rng, objects = random.Random(7), {}
    for n in range(30):
        node, master, data = n % 2, rng.randrange(2), pattern(20_000, seed=n)
        cid, receipt = cluster.send(node, data)
        status, _, body = cluster.map(master, f"key-{n}", cid, len(data), receipt)
        assert status == 200, body
        objects[f"key-{n}"] = (node, data)
        # The pin follows half a second after the commit.
        if n % 6 == 2:
            cluster.masters[master].kill()
            cluster.start(cluster.masters[master])
        if n % 10 == 7:
            cluster.nodes[node].kill()
            cluster.nodes[node].start().await_master()

    # A master dies while it maps. What it acknowledged is there, and the rest may be.
    blocks = [(n, *cluster.send(n % 2, pattern(3000, seed=1000 + n))) for n in range(60)]
    begun = threading.Event()

    def map_all():
        for n, cid, receipt in blocks:
            try:
                status = cluster.map(0, f"late-{n}", cid, 3000, receipt)[0]
            except OSError:
                return
            if status == 200:
                objects[f"late-{n}"] = (n % 2, pattern(3000, seed=1000 + n))
            if n == 5:
                begun.set()

    mapping = threading.Thread(target=map_all)
    mapping.start()
    assert begun.wait(60)
    cluster.masters[0].kill()
    mapping.join()
    cluster.start(cluster.masters[0])
    for key, (_, data) in objects.items():
        for master in (0, 1):
            status, _, body = cluster.s3(master, "GET", f"/bucket/{key}")
            assert (status, body == data) == (200, True), (key, master, body[:200])
    code, checked = cluster.fsck(0)
    assert (code, checked["lost_count"], checked["away"]) == (0, 0, []) and checked["blocks"] >= len(objects)

    # North gets a new disk under its old key. What only it had is named; the rest is there.
    north = cluster.nodes[0]
    north.stop()
    code, checked = cluster.fsck(1)
    assert (code, checked["lost_count"], checked["away"]) == (0, 0, ["north"]) and checked["unknown"] > 0
    shutil.rmtree(north.data_dir)
    north.start().await_master()
    gone = {key for key, (node, _) in objects.items() if node == 0}
    code, checked = cluster.fsck(1)
    lost = {lost["key"]: lost for lost in checked["lost"]}
    assert code == 1 and gone <= set(lost) and all(entry["nodes"] == ["north"] for entry in lost.values())
    assert not [key for key, (node, _) in objects.items() if node == 1 and key in lost]
    text = admin(cluster.masters[1], "fsck").stdout
    assert "is lost on north" in text and "put the object again" in text
    for key, (node, data) in objects.items():
        status, _, body = cluster.s3(1, "GET", f"/bucket/{key}")
        assert (status, body == data) == ((200, True) if node == 1 else (500, False)), (key, status)
    # It is replaced: the client sends the blocks again, and maps them once more.
    key = sorted(gone)[0]
    data = objects[key][1]
    cid, receipt = cluster.send(0, data)
    assert cluster.map(0, key, cid, len(data), receipt)[0] == 200
    assert cluster.s3(1, "GET", f"/bucket/{key}")[2] == data
    assert key not in {lost["key"] for lost in cluster.fsck(0)[1]["lost"]}


def test_a_master_of_shared_blocks_takes_no_blocks_itself(federation):  # noqa: F811
    text = federation.refusal(FULA_INGEST="on")
    assert "FULA_INGEST=on" in text and "FULA_BLOCKS=local" in text, text
