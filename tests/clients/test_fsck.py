"""What is missing or damaged is named, and what clears it does."""

import base64
import json
import re
import urllib.request

import pytest

from conftest import Gateway
from helpers import MIB, pattern
from masters import admin, federation, signed
from packs import all_packs, damage
from test_operations import flip


def pack_with(blocks, content):
    """The only pack that holds this content."""
    (found,) = (path for path in all_packs(blocks) if content in path.read_bytes())
    return found


def damage_first(gateway):
    """Damages the first leaf that was put while nothing runs."""
    gateway.stop()
    flip(next((gateway.data_dir / "log").glob("bulk-*.log")), 1_000_000)
    looked = gateway.fula("fsck", check=False)
    gateway.start()
    return looked


@pytest.mark.parametrize("cure", ["delete", "put"])
def test_damage_is_named_and_goes_with_the_object(own_gateway, cure):
    s3 = own_gateway.client()
    for bucket in ("bucket", "other"):
        s3.create_bucket(Bucket=bucket)
    body = pattern(2 * MIB, 1)
    s3.put_object(Bucket="bucket", Key="photos/lost.jpg", Body=body)
    s3.put_object(Bucket="bucket", Key="kept", Body=pattern(2 * MIB, 2))
    s3.copy_object(Bucket="other", Key="copy", CopySource="bucket/photos/lost.jpg")
    looked = damage_first(own_gateway)
    owner = s3.list_buckets()["Owner"]["ID"]
    assert looked.returncode == 1
    # Both objects that need the block are named, with bucket, user, owner and what to do.
    for bucket, key in [("bucket", "photos/lost.jpg"), ("other", "copy")]:
        found = re.search(rf"^bucket {bucket} of key:admin, owner {owner}: .* 1 problem\n(.*)$", looked.stdout, re.M)
        assert re.fullmatch(
            rf"  object {key}: block baf\w+ is damaged\. To clear it, put the object again, or delete it\.", found[1])
    assert looked.stdout.endswith("2 problems\n")
    # Nobody has read it since the start: to put it again must store it again all the same.
    for bucket, key in [("bucket", "photos/lost.jpg"), ("other", "copy")]:
        if cure == "delete":
            s3.delete_object(Bucket=bucket, Key=key)
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=body)
    cleared = own_gateway.fula("fsck")
    assert cleared.stdout.endswith("0 problems\n")
    if cure == "put":
        assert s3.get_object(Bucket="other", Key="copy")["Body"].read() == body
    else:
        assert "no bucket needs it any more" in cleared.stdout
    own_gateway.stop()
    assert own_gateway.fula("fsck").returncode == 0


def problems(gateway):
    return json.loads(gateway.fula("status", "--json", check=False).stdout)["problems"]


def damage_known(gateway):
    with urllib.request.urlopen(f"{gateway.admin}/metrics") as answer:
        return re.search(r"^fula_damage_known (\d)$", answer.read().decode(), re.M)[1]


def test_damage_stays_a_problem_until_a_check_finds_none(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="lost", Body=pattern(2 * MIB, 1))
    s3.put_object(Bucket="bucket", Key="kept", Body=pattern(2 * MIB, 2))
    own_gateway.stop()
    assert problems(own_gateway) == ["no gateway runs on this data directory: start `fula gateway`"]
    segment = next((own_gateway.data_dir / "log").glob("bulk-*.log"))
    flip(segment, 1_000_000)
    own_gateway.start()
    with pytest.raises(Exception):
        s3.get_object(Bucket="bucket", Key="lost")["Body"].read()
    assert "damage was found" in problems(own_gateway)[0] and damage_known(own_gateway) == "1"
    # Half of the segment is garbage now, and rewriting it would hide what happened.
    s3.delete_object(Bucket="bucket", Key="kept")
    own_gateway.fula("gc", "--now", "--retention", "0s")
    assert segment.exists()
    found = own_gateway.fula("fsck", check=False)
    assert found.returncode == 1 and "object lost: block" in found.stdout and "is damaged" in found.stdout
    own_gateway.kill()
    own_gateway.start()
    assert "damage was found" in problems(own_gateway)[0]
    s3.delete_object(Bucket="bucket", Key="lost")
    own_gateway.fula("fsck")
    assert problems(own_gateway) == [] and damage_known(own_gateway) == "0"
    own_gateway.fula("gc", "--now", "--retention", "0s")
    assert not segment.exists()


def test_an_object_that_lost_many_blocks_is_one_line(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="large", Body=pattern(8 * MIB))
    own_gateway.stop()
    segment = next((own_gateway.data_dir / "log").glob("bulk-*.log"))
    for n in range(8):
        flip(segment, n * MIB + MIB // 2)
    found = own_gateway.fula("fsck", check=False)
    lines = [line for line in found.stdout.splitlines() if "large" in line or line.startswith("damaged")]
    assert len(lines) == 2 and "and 7 more places of this segment" in lines[0], found.stdout
    assert re.fullmatch(r"  object large: block baf\w+ is damaged, and 7 more problems\. To clear them, .*", lines[1])
    assert found.stdout.endswith("8 problems\n")
    own_gateway.start()


def test_a_block_lost_from_a_shared_store_is_named(federation):
    gateway = federation.gateway("one")
    s3 = gateway.client()
    s3.create_bucket(Bucket="bucket")
    body = pattern(100_000, 1)
    s3.put_object(Bucket="bucket", Key="lost", Body=body)
    s3.put_object(Bucket="bucket", Key="kept", Body=pattern(100_000, 2))
    pack_with(federation.tmp / "blocks", body).unlink()
    looked = admin(gateway, "fsck")
    assert looked.returncode == 1, looked.stderr
    assert re.search(r"^  object lost: block baf\w+ is missing\. To clear it, put the object again", looked.stdout, re.M)
    assert looked.stdout.endswith("1 problem\n")
    # There is nothing to repair: other keys work.
    repaired = admin(gateway, "fsck", "--repair")
    assert repaired.returncode == 1 and repaired.stderr == ""
    s3.put_object(Bucket="bucket", Key="lost", Body=body)
    assert admin(gateway, "fsck").returncode == 0


def newest_row(gateway):
    """The row of the only bucket, without what its blocks say."""
    row = json.loads(admin(gateway, "roots", "show", "--json").stdout)["buckets"][0]
    return {name: value for name, value in row.items() if name != "public"}


def bucket_with_three_objects(federation):
    one, two = federation.gateway("one"), federation.gateway("two")
    two.shared_key = one.credentials()
    s3 = one.client()
    s3.create_bucket(Bucket="bucket")
    for n in range(3):
        s3.put_object(Bucket="bucket", Key=f"k{n}", Body=b"%d" % n)
    # Both masters know the newest state.
    assert signed(two, "GET", "/bucket/k2")[2] == b"2"
    return one, two


def test_a_root_that_a_gateway_has_in_memory_is_stored_again(federation):
    one, two = bucket_with_three_objects(federation)
    blocks, root = federation.tmp / "blocks", newest_row(one)["root"]
    damage(blocks, root)
    before = len(all_packs(blocks))
    offered = admin(one, "fsck", "--repair")
    assert offered.returncode == 1 and len(all_packs(blocks)) == before
    assert "has it in memory" in offered.stderr and "--apply" in offered.stderr
    done = admin(one, "fsck", "--repair", "--apply")
    assert done.returncode == 0, done.stderr
    assert newest_row(one)["root"] == root
    two.kill()
    two.start(env=two.shared)
    assert signed(two, "GET", "/bucket/k2")[2] == b"2"


def test_a_bucket_goes_back_to_the_newest_root_that_can_be_read(federation):
    one, two = bucket_with_three_objects(federation)
    row = newest_row(one)
    for gateway in (one, two):
        gateway.stop()
    damage(federation.tmp / "blocks", row["root"])
    for gateway in (one, two):
        gateway.start(env=gateway.shared)
    status, _, _ = signed(one, "GET", "/bucket/k0")
    assert status in (500, 503)
    looked = admin(one, "fsck")
    assert looked.returncode == 1
    assert f"the whole bucket: block {row['root']} is damaged. To clear it, copy the block back" in looked.stdout
    # Only said, at first.
    offered = admin(one, "fsck", "--repair")
    assert offered.returncode == 1
    assert "at version 3, with 2 objects" in offered.stderr
    assert "the commits after version 3 up to 4" in offered.stderr and "run again with --apply" in offered.stderr
    assert newest_row(one) == row
    # A master that never knew the lost state cannot tell the others apart from one that went back.
    third = federation.gateway("three")
    refused = admin(third, "fsck", "--repair", "--apply")
    assert refused.returncode == 1
    assert "run the command on the master that wrote to the bucket last" in refused.stderr
    assert newest_row(one) == row
    done = admin(one, "fsck", "--repair", "--apply")
    assert done.returncode == 0, done.stderr
    assert "at version 5" in done.stderr and done.stdout.endswith("0 problems\n")
    # Every master goes on from there, and none takes it for an arbiter that went back.
    for gateway in (one, two, third):
        gateway.shared_key = one.credentials()
        assert signed(gateway, "GET", "/bucket/k1")[2] == b"1"
        assert signed(gateway, "GET", "/bucket/k2")[0] == 404
        assert signed(gateway, "PUT", f"/bucket/of-{gateway.data_dir.name}", b"new")[0] == 200
        assert "the arbiter is trusted" in admin(gateway, "roots", "heal").stdout
    assert admin(one, "fsck").returncode == 0
    history = json.loads(admin(one, "roots", "log", "bucket", "--json").stdout)
    assert [commit["version"] for commit in history] == [8, 7, 6, 5, 3, 2, 1]


def test_a_bucket_of_a_single_gateway_goes_back_too(own_gateway):
    s3 = own_gateway.client()
    for bucket in ("bucket", "other"):
        s3.create_bucket(Bucket=bucket)
    for n in range(3):
        s3.put_object(Bucket="bucket", Key=f"k{n}", Body=b"%d" % n)
    rows = json.loads(own_gateway.fula("roots", "show", "--json").stdout)["buckets"]
    root = next(row["root"] for row in rows if row["bucket"] == "bucket")
    # More of the log follows, so that the damage is no torn end.
    for n in range(5):
        s3.put_object(Bucket="other", Key=f"k{n}", Body=b"x")
    own_gateway.stop()
    commit = next((own_gateway.data_dir / "log").glob("commit-*.log"))
    key = base64.b32decode(root[1:].upper() + "=" * (-len(root[1:]) % 8))
    flip(commit, commit.read_bytes().index(key) + len(key) + 100)
    looked = own_gateway.fula("fsck", check=False)
    assert looked.returncode == 1 and f"the whole bucket: block {root} is damaged" in looked.stdout
    offered = own_gateway.fula("fsck", "--repair", check=False)
    assert offered.returncode == 1 and "the commits after version 3 up to 4" in offered.stderr
    done = own_gateway.fula("fsck", "--repair", "--apply")
    assert "can be read again, at version 5" in done.stderr and done.stdout.endswith("0 problems\n")
    own_gateway.start()
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="bucket")["Contents"]]
    assert keys == ["k0", "k1"]
    s3.put_object(Bucket="bucket", Key="k2", Body=b"again")


def lose(gateway, stream):
    """Removes the only segment of a stream while nothing runs; returns its name."""
    segment, = (gateway.data_dir / "log").glob(f"{stream}-*.log")
    segment.unlink()
    return segment.name


def refusal_of(gateway, **env):
    """What the gateway says when it does not start."""
    with pytest.raises(AssertionError, match="did not start"):
        gateway.start(env=env)
    gateway.process.wait(timeout=60)
    gateway.process.stdout.close()
    return gateway.data_dir.with_suffix(".log").read_text()


def test_a_missing_segment_of_content_is_given_up(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="large", Body=pattern(2 * MIB, 1))
    s3.put_object(Bucket="bucket", Key="small", Body=b"1")
    own_gateway.stop()
    name = lose(own_gateway, "bulk")
    said = refusal_of(own_gateway)
    assert name in said and "content of objects over 1 MiB" in said and "`fula fsck --repair`" in said
    repaired = own_gateway.fula("fsck", "--repair", check=False)
    assert repaired.returncode == 1 and "object large: block" in repaired.stdout
    own_gateway.start()
    assert s3.get_object(Bucket="bucket", Key="small")["Body"].read() == b"1"


@pytest.mark.parametrize("how", ["keep", "rebuild"])
def test_a_missing_segment_of_root_pointers_needs_a_word(own_gateway, how):
    own_gateway.client().create_bucket(Bucket="bucket")
    own_gateway.stop()
    name = lose(own_gateway, "commit")
    said = refusal_of(own_gateway)
    assert name in said and "root pointers" in said and f"`fula fsck --repair --roots {how}`" in said
    asked = own_gateway.fula("fsck", "--repair", check=False)
    assert asked.returncode == 2 and "nothing was changed" in asked.stderr
    assert "--roots keep" in asked.stderr and "--roots rebuild" in asked.stderr
    assert name in own_gateway.fula("fsck", check=False).stdout
    own_gateway.fula("fsck", "--repair", "--roots", how)
    own_gateway.start()


def test_a_missing_segment_is_given_up_where_blocks_lie_elsewhere(tmp_path):
    gateway = Gateway(tmp_path / "one")
    gateway.shared = {"FULA_BLOCKS": f"file://{tmp_path}/blocks"}
    with gateway.start(env=gateway.shared):
        gateway.client().create_bucket(Bucket="bucket")
        gateway.stop()
        name = lose(gateway, "commit")
        assert name in refusal_of(gateway, **gateway.shared)
        for refused in (["--repair"], ["--repair", "--roots", "rebuild"]):
            asked = admin(gateway, "fsck", *refused)
            assert asked.returncode == 2, asked.stdout
            assert "nothing was changed" in asked.stderr and "--roots keep" in asked.stderr
        kept = admin(gateway, "fsck", "--repair", "--roots", "keep")
        assert kept.returncode == 0, kept.stderr
        assert f"gave up what was in {name}" in kept.stderr
        gateway.start(env=gateway.shared)


def test_a_missing_segment_of_a_master_is_given_up(federation):
    one = federation.gateway("one")
    s3 = one.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=b"1")
    one.stop()
    name = lose(one, "commit")
    said = refusal_of(one, **one.shared)
    assert name in said and "what it remembers" in said
    repaired = admin(one, "fsck", "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert f"gave up what was in {name}" in repaired.stderr
    one.start(env=one.shared)
    # Its root pointers are in the arbiter.
    assert signed(one, "GET", "/bucket/k")[2] == b"1"


def test_a_block_that_stops_collections_is_named_by_every_master(federation):
    one, two = bucket_with_three_objects(federation)
    blocks, root = federation.tmp / "blocks", newest_row(one)["root"]
    gauge = lambda: re.search(r"^fula_gc_unreadable_blocks (\d)$",
                              urllib.request.urlopen(f"{one.admin}/metrics").read().decode(), re.M)[1]
    assert gauge() == "0" and "failure" not in json.loads(admin(two, "gc", "--json").stdout)
    # It has the block in memory until it is started again.
    one.stop()
    damage(blocks, root)
    one.start(env=one.shared)
    refused = admin(one, "gc", "--now")
    assert refused.returncode == 1 and f"block {root} is damaged" in refused.stderr, refused.stderr
    assert "run fula fsck" in refused.stderr and gauge() == "1"
    said = admin(two, "gc").stdout
    assert f"The last collection deleted nothing: block {root} is damaged" in said, said
    damage(blocks, root)
    assert admin(one, "gc", "--now").returncode == 0 and gauge() == "0"
    assert "deleted nothing" not in admin(two, "gc").stdout
