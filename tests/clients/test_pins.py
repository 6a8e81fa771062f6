"""Pins on real kubos and a real ipfs-cluster: every root arrives, whatever is away or killed meanwhile."""

import base64
import json
import os
import random
import re
import subprocess
import threading
import time
import urllib.request

import pytest
from conftest import FULA, Gateway
from helpers import MIB, eventually, free_port, pattern
from kubo import BUILT, Kubo, Refusal
from masters import admin, federation

TAGS = {"TagSet": [{"Key": "fula-pin", "Value": "on"}]}


@pytest.fixture
def kubo(tmp_path):
    with Kubo(tmp_path / "kubo") as kubo:
        yield kubo


def start(tmp_path, *targets, buckets="*", **env):
    env |= {"FULA_PINS": ",".join(targets), "FULA_PIN_BUCKETS": buckets}
    gateway = Gateway(tmp_path / "data")
    gateway.pin_env = env
    return gateway.start(env)


def root_of(gateway, bucket):
    (row,) = json.loads(gateway.fula("roots", "show", bucket, "--json").stdout)["buckets"]
    return row["root"], f"{row['owner']}/{bucket}"


def drained(gateway, wait=120):
    """Waits until every target has every root that it is known to lack, and is told of one at least."""
    eventually(lambda: gateway.fula("pins", "status", check=False).returncode == 0 and
               gateway.fula("pins", "list", "--json").stdout.strip() != "[]", wait)


def pinned(gateway, kubo, bucket):
    """Waits until a kubo pins the current root of a bucket, and the gateway has written down that all targets do."""
    root, name = root_of(gateway, bucket)
    eventually(lambda: (root, name) in kubo.pins().items(), 120)
    eventually(lambda: {line["pinned_root"] for line in lines(gateway, bucket)} == {root}, 120)


def lines(gateway, *bucket):
    return json.loads(gateway.fula("pins", "list", *bucket, "--json").stdout)


def metric(gateway, name):
    with urllib.request.urlopen(f"{gateway.admin}/metrics") as answer:
        return float(re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.M)[1])


def test_buckets_whose_owners_opt_in_are_pinned_and_let_go(tmp_path, kubo):
    with start(tmp_path, f"kubo:{kubo.url}", buckets="tagged") as gateway:
        s3 = gateway.client()
        for bucket in ("mine", "other"):
            s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key="k", Body=pattern(3 * MIB, 1))
        s3.put_bucket_tagging(Bucket="mine", Tagging=TAGS)
        pinned(gateway, kubo, "mine")
        assert len([name for name in kubo.pins().values() if name]) == 1
        assert kubo.rpc("cat", s3.head_object(Bucket="mine", Key="k")["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]) == pattern(3 * MIB, 1)

        # Only what is new is sent, and one pin stays.
        before = metric(gateway, 'fula_pins_sent_bytes_total{target="kubo"}')
        for n in range(50):
            s3.put_object(Bucket="mine", Key=f"small/{n}", Body=pattern(1000, n))
        pinned(gateway, kubo, "mine")
        assert metric(gateway, 'fula_pins_sent_bytes_total{target="kubo"}') - before < 1 * MIB
        assert [name for name in kubo.pins().values() if name] == [root_of(gateway, "mine")[1]]
        (line,) = lines(gateway)
        assert (line["pinned_root"], line["behind_s"], line["failures"]) == (root_of(gateway, "mine")[0], None, 0)
        assert gateway.fula("pins", "verify").stdout.endswith("all is there\n")

        s3.delete_bucket_tagging(Bucket="mine")
        eventually(lambda: not any(kubo.pins().values()))
        eventually(lambda: lines(gateway) == [])


def test_a_target_that_is_away_holds_nothing_back_and_gets_all_of_it_later(tmp_path, kubo):
    with start(tmp_path, f"kubo:{kubo.url}") as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="box")
        drained(gateway)
        kubo.kill()
        for n in range(30):
            s3.put_object(Bucket="box", Key=f"{n}", Body=pattern(10_000, n))
        eventually(lambda: lines(gateway)[0]["failures"] > 1)
        eventually(lambda: metric(gateway, 'fula_pins_behind{target="kubo"}') == 1)
        status = gateway.fula("pins", "status", check=False)
        assert status.returncode == 1 and "1 of 1 buckets behind" in status.stdout, status.stdout
        assert metric(gateway, 'fula_pins_failures_total{target="kubo"}') >= 2
        # What waits is the current root, so a collection takes nothing of it.
        gateway.fula("gc", "--now", "--retention", "0s")
        gateway.kill()
        gateway.start(gateway.pin_env)
        eventually(lambda: lines(gateway) and lines(gateway)[0]["failures"] > 0)
        kubo.start()
        # Unless the gateway has tried again by itself meanwhile.
        said = gateway.fula("pins", "retry", "box").stdout
        assert "1 pins are tried again" in said or root_of(gateway, "box") in kubo.pins().items(), said
        pinned(gateway, kubo, "box")
        assert gateway.fula("pins", "verify").returncode == 0
        # A deleted bucket is let go.
        for n in range(30):
            s3.delete_object(Bucket="box", Key=f"{n}")
        s3.delete_bucket(Bucket="box")
        eventually(lambda: not any(kubo.pins().values()))


def leaf_files(kubo, cid):
    """The file in which kubo keeps a block."""
    raw = base64.b32decode(cid[1:].upper() + "=" * (-len(cid[1:]) % 8))
    name = base64.b32encode(raw[2:]).decode().rstrip("=")
    return list(kubo.repo.glob(f"blocks/*/{name}.data"))


def test_what_a_target_has_lost_is_found_and_sent_again(tmp_path, kubo):
    with start(tmp_path, f"kubo:{kubo.url}") as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="box")
        body = pattern(1000, 7)
        cid = s3.put_object(Bucket="box", Key="k", Body=body)["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]
        s3.put_object(Bucket="box", Key="l", Body=pattern(3 * MIB, 8))
        pinned(gateway, kubo, "box")
        # A leaf, which kubo's own check does not read.
        (file,) = leaf_files(kubo, cid)
        kubo.kill()
        file.unlink()
        kubo.start()
        lost = gateway.fula("pins", "verify", check=False)
        assert lost.returncode == 1 and "something is lost, and is sent again" in lost.stdout, lost.stdout
        drained(gateway)
        assert gateway.fula("pins", "verify").returncode == 0
        assert kubo.rpc("cat", cid, timeout="60s") == body
        # The pin itself.
        root, name = root_of(gateway, "box")
        kubo.rpc("pin/rm", root)
        kubo.rpc("repo/gc")
        assert "does not pin" in gateway.fula("pins", "verify", check=False).stdout
        drained(gateway)
        assert kubo.pins()[root] == name and gateway.fula("pins", "verify").returncode == 0
        # Another writer's change to a lost pin is mended without being asked.
        kubo.rpc("pin/rm", root)
        kubo.rpc("repo/gc")
        s3.put_object(Bucket="box", Key="m", Body=b"1")
        pinned(gateway, kubo, "box")
        assert gateway.fula("pins", "verify").returncode == 0


# `PIN_KILLS=50 pytest -s -k killed tests/clients/test_pins.py` is the drill, and prints what came of it.
KILLS = int(os.environ.get("PIN_KILLS", "6"))


def test_nothing_is_lost_when_both_are_killed_again_and_again(tmp_path, kubo):
    rng, killed, written, fill = random.Random(5), {"gateway": 0, "kubo": 0, "both": 0}, {}, random.Random(6)
    with start(tmp_path, f"kubo:{kubo.url}") as gateway:
        for bucket in ("one", "two"):
            gateway.client().create_bucket(Bucket=bucket)
        for round in range(KILLS):
            stop, who = threading.Event(), ["gateway", "kubo", "both"][round % 3] if round < 3 else rng.choice(list(killed))
            killed[who] += 1

            def write():
                s3, n = gateway.client(), 0
                while not stop.is_set():
                    place, body = (fill.choice(["one", "two"]), f"{round}/{n}"), fill.randbytes(4096)
                    try:
                        written[place] = s3.put_object(Bucket=place[0], Key=place[1], Body=body)["ETag"]
                        n += 1
                    except Exception:
                        return

            writer = threading.Thread(target=write)
            writer.start()
            time.sleep(rng.uniform(0.2, 1.5))
            for process, name in ((gateway, "gateway"), (kubo, "kubo")):
                if who in (name, "both"):
                    process.kill()
            stop.set()
            writer.join()
            if who != "gateway":
                kubo.start()
            if who != "kubo":
                gateway.start(gateway.pin_env)
        begun = time.monotonic()
        for bucket in ("one", "two"):
            pinned(gateway, kubo, bucket)
        drained(gateway)
        took = time.monotonic() - begun
        for bucket in ("one", "two"):
            assert root_of(gateway, bucket) in kubo.pins().items()
            pages = gateway.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
            found = {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}
            wrong = [key for (name, key), etag in written.items() if name == bucket and found.get(key) != etag]
            assert wrong == [], "acknowledged writes are lost"
        assert len([name for name in kubo.pins().values() if name]) == 2
        verified = gateway.fula("pins", "verify")
        assert verified.returncode == 0, verified
        print(f"\n{KILLS} kills {killed}, {len(written)} acknowledged PUTs, all there; "
              f"drained {took:.1f} s after the last start; {verified.stdout.strip()}")


class Cluster:
    """An ipfs-cluster of one peer."""

    def __init__(self, directory, kubo):
        self.directory, self.process = directory, None
        self.env = {**os.environ, "IPFS_CLUSTER_PATH": str(directory), "CLUSTER_SECRET": "7".rjust(64, "0")}
        self._run("init", "--consensus", "crdt")
        config = json.loads((directory / "service.json").read_text())
        ports = [free_port() for _ in range(4)]
        self.url, self.psa = f"http://127.0.0.1:{ports[1]}", f"http://127.0.0.1:{ports[2]}"
        config["cluster"] |= {"listen_multiaddress": [f"/ip4/127.0.0.1/tcp/{ports[0]}"], "mdns_interval": "0s",
                              "monitor_ping_interval": "2s"}
        rpc = f"/ip4/127.0.0.1/tcp/{kubo.api_port}"
        config["api"]["restapi"] |= {"http_listen_multiaddress": f"/ip4/127.0.0.1/tcp/{ports[1]}",
                                     "basic_auth_credentials": {"fula": "hush"}}
        config["api"]["pinsvcapi"]["http_listen_multiaddress"] = f"/ip4/127.0.0.1/tcp/{ports[2]}"
        config["api"]["ipfsproxy"] |= {"listen_multiaddress": f"/ip4/127.0.0.1/tcp/{ports[3]}",
                                       "node_multiaddress": rpc}
        config["ipfs_connector"]["ipfshttp"] |= {"node_multiaddress": rpc, "pin_timeout": "6s"}
        (directory / "service.json").write_text(json.dumps(config))

    def _run(self, *args):
        subprocess.run([BUILT / "ipfs-cluster-service", *args], env=self.env, check=True, capture_output=True)

    def __enter__(self):
        self.process = subprocess.Popen([BUILT / "ipfs-cluster-service", "daemon"], env=self.env,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.process.stdout:
            if "IPFS Cluster is READY" in line:
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return self
        raise AssertionError("the cluster did not start")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def pins(self):
        """Roots and their names."""
        request = urllib.request.Request(f"{self.url}/allocations")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"fula:hush").decode())
        with urllib.request.urlopen(request) as answer:
            found = [json.loads(line) for line in answer.read().splitlines()]
        return {line["cid"]: line["name"] for line in found}


@pytest.mark.parametrize("kind", ["cluster", "psa"])
def test_clusters_and_pinning_services_follow_a_kubo(tmp_path, kubo, kind):
    token = tmp_path / "token"
    token.write_text("fula:hush\n")
    token.chmod(0o600)
    with Kubo(tmp_path / "second") as second, Cluster(tmp_path / "cluster", second) as cluster:
        # The nodes know each other, as those of one operator do.
        (identity,) = second.json("id")
        address = next(one for one in identity["Addresses"] if "/tcp/" in one and "127.0.0.1" in one)
        kubo.rpc("swarm/connect", address)
        target = f"cluster:{cluster.url}#{token}" if kind == "cluster" else f"psa:{cluster.psa}"
        with start(tmp_path, f"kubo:{kubo.url}", target) as gateway:
            s3 = gateway.client()
            s3.create_bucket(Bucket="box")
            for n in range(20):
                s3.put_object(Bucket="box", Key=f"{n}", Body=pattern(5000, n))
            pinned(gateway, kubo, "box")
            drained(gateway)
            root, name = root_of(gateway, "box")
            eventually(lambda: cluster.pins() == {root: name})
            assert second.stat(root)[0] > 20
            s3.put_object(Bucket="box", Key="more", Body=pattern(2 * MIB, 1))
            drained(gateway)
            root, name = root_of(gateway, "box")
            eventually(lambda: cluster.pins() == {root: name})
            assert gateway.fula("pins", "verify").returncode == 0
            s3.delete_objects(Bucket="box", Delete={"Objects": [{"Key": str(n)} for n in range(20)] + [{"Key": "more"}]})
            s3.delete_bucket(Bucket="box")
            eventually(lambda: cluster.pins() == {})


def test_a_target_that_answers_nonsense_is_waited_for(tmp_path, kubo):
    """Something else listens where a kubo is expected, and then a kubo that asks for a token."""
    with Gateway(tmp_path / "other").start() as other, start(tmp_path, f"kubo:{other.url}") as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="box")
        eventually(lambda: lines(gateway) and lines(gateway)[0]["failures"] > 1)
        assert "it answers 501" in lines(gateway)[0]["error"]
        s3.put_object(Bucket="box", Key="k", Body=b"1")
    refused = subprocess.run([FULA, "gateway", "--data-dir", tmp_path / "third", "--pins", "cluster:http://x"],
                             capture_output=True, text=True)
    assert refused.returncode == 2 and "a kubo must be among them" in refused.stderr


def test_one_of_several_masters_pins_and_another_takes_over(federation, kubo):
    env = {"FULA_PINS": f"kubo:{kubo.url}", "FULA_PIN_BUCKETS": "*"}
    one, two = (federation.gateway(name, **env) for name in ("one", "two"))
    s3 = one.client()
    s3.create_bucket(Bucket="box")

    def pinned(gateway):
        (row,) = json.loads(admin(gateway, "roots", "show", "box", "--json").stdout)["buckets"]
        return (row["root"], f"{row['owner']}/box") in kubo.pins().items()

    def here(gateway):
        (line,) = json.loads(admin(gateway, "pins", "list", "--json").stdout)
        return line["here"]

    eventually(lambda: pinned(one))
    s3.put_object(Bucket="box", Key="k", Body=b"1")
    eventually(lambda: pinned(one))
    holder, other = (one, two) if here(one) else (two, one)
    assert not here(other)
    holder.kill()
    other.client().put_object(Bucket="box", Key="l", Body=b"2")
    eventually(lambda: pinned(other), 180)
    assert here(other)


def test_a_kubo_that_is_offline_is_as_good(tmp_path):
    with Kubo(tmp_path / "kubo", offline=True) as kubo, start(tmp_path, f"kubo:{kubo.url}") as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="box")
        for n in range(5):
            s3.put_object(Bucket="box", Key=f"{n}", Body=pattern(100, n))
            pinned(gateway, kubo, "box")
        with pytest.raises(Refusal):
            kubo.rpc("block/stat", "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4")
