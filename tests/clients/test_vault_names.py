"""Names of files in vaults: both forms of Unicode, and names that no file on this machine can have."""

import json
import os

import pytest
import seal_oracle as seal
import seal_writer
from vault_machines import machines  # noqa: F401

# As Linux and Windows write it, and as macOS does.
NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.fixture
def pair(machines):  # noqa: F811
    """Two machines with the same vault."""
    one, two = machines
    words = json.loads(one.text("vault", "create", "mine", "sealed", "--words", "--json"))["words"]
    (two.home / "words").write_text(words)
    two.fula("vault", "open", "mine", "sealed", "--words-file", "words")
    return one, two


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def paths(machine, place="vault:mine"):
    return [row["path"] for row in machine.rows("ls", "-r", "--json", place)]


def test_a_file_has_one_name_in_both_forms_of_unicode(pair):
    mac, linux = pair
    (mac.home / f"folder/{NFD}").mkdir(parents=True)
    (mac.home / f"folder/{NFD}/{NFD}.txt").write_text("first")
    (mac.home / "folder/plain").write_text("plain")
    mac.fula("cp", "-r", "folder", "vault:mine/f")
    assert paths(mac) == [f"f/{NFC}/{NFC}.txt", "f/plain"]
    for typed in (NFC, NFD):
        assert linux.text("cat", f"vault:mine/f/{typed}/{typed}.txt") == "first"
        assert paths(linux, f"vault:mine/f/{typed}/") == [f"f/{NFC}/{NFC}.txt"]
    assert mac.rows("sync", "--json", "folder", "vault:mine/f")[-1] == {
        "done": 0, "bytes": 0, "unchanged": 2, "failures": 0}

    # What the other machine changes comes into the file that is there, and no second one appears.
    linux.fula("sync", "vault:mine/f", "copy")
    assert names(linux.home / "copy") == [f"{NFC}/{NFC}.txt", "plain"]
    (linux.home / f"copy/{NFC}/{NFC}.txt").write_text("second one")
    assert linux.rows("sync", "--json", "--delete", "copy", "vault:mine/f")[-1]["done"] == 1
    assert mac.rows("sync", "--json", "--delete", "vault:mine/f", "folder")[-1]["done"] == 1
    assert names(mac.home / "folder") == [f"{NFD}/{NFD}.txt", "plain"]
    assert (mac.home / f"folder/{NFD}/{NFD}.txt").read_text() == "second one"
    plan = mac.rows("cp", "-r", "--dry-run", "--json", "--exclude", f"{NFC}/*", "folder", "vault:mine/f")
    assert [row["to"] for row in plan[:-1]] == ["vault:mine/f/plain"], "a filter is for both forms"

    # Single files, in whichever form they are typed.
    mac.fula("put", f"folder/{NFD}/{NFD}.txt", f"vault:mine/{NFD}")
    mac.fula("cp", f"folder/{NFD}/{NFD}.txt", "vault:mine/g/")
    linux.fula("mv", f"vault:mine/{NFD}", f"vault:mine/h/{NFD}")
    assert paths(mac) == [f"f/{NFC}/{NFC}.txt", "f/plain", f"g/{NFC}.txt", f"h/{NFC}"]
    mac.fula("rm", f"vault:mine/h/{NFD}")
    assert linux.fula("cat", f"vault:mine/h/{NFC}", check=False).returncode == 3


def test_local_names_that_become_one_name_are_both_named_and_none_is_taken(pair):
    one, _ = pair
    folder = one.home / "folder"
    folder.mkdir()
    for name in (f"{NFC}.txt", f"{NFD}.txt", "plain"):
        (folder / name).write_text(name)
    one.fula("put", "-", f"vault:mine/f/{NFC}.txt", input=b"of before")
    for command in (["cp", "-r"], ["sync", "--delete", "--max-delete", "100%"], ["mv", "-r"]):
        (folder / "plain").write_text("plain")
        done = one.fula(*command, "--json", "folder", "vault:mine/f", check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        failed = [row for row in rows if "failed" in row]
        assert done.returncode == 1 and len(failed) == 1, rows
        for part in (f"folder/{NFC}.txt", f"folder/{NFD}.txt", "caf\\u{e9}.txt", "cafe\\u{301}.txt"):
            assert part in failed[0]["error"], failed
        assert rows[-1]["failures"] == 1
        assert paths(one) == [f"f/{NFC}.txt", "f/plain"]
        assert one.text("cat", f"vault:mine/f/{NFC}.txt") == "of before"
    assert names(folder) == sorted([f"{NFC}.txt", f"{NFD}.txt"]), "a move keeps what it did not take"


def test_what_another_program_wrote_in_the_other_form_is_found_as_it_is(gateway, pair):
    one, _ = pair
    one.fula("put", "-", f"vault:mine/x/{NFC}", input=b"of ours")
    home = one.home / ".config/fula"
    identity = seal.Identity(bytes.fromhex((home / "device.key").read_text().strip()))
    client = gateway.client()
    keyring = seal.Keyring(client.get_object(Bucket="sealed", Key="fula.vault")["Body"].read())
    keys, _, _ = keyring.open(identity)

    def write(path, content):
        key, body, metadata = seal_writer.seal_file(keys, identity.signer, path.encode(), content)
        client.put_object(Bucket="sealed", Key=key, Body=body, Metadata=metadata)

    write(f"alone/{NFD}", b"of theirs")
    for typed in (f"alone/{NFD}", f"x/{NFD}"):
        assert one.text("cat", f"vault:mine/{typed}") == ("of theirs" if "alone" in typed else "of ours")
    one.fula("cp", "-r", "vault:mine/alone", "alone")
    assert (one.home / f"alone/{NFC}").read_text() == "of theirs"
    assert one.rows("sync", "--json", "--size-only", "alone", "vault:mine/alone")[-1]["unchanged"] == 1

    # Two files of the vault that one file here would have to be.
    write(f"x/{NFD}", b"of theirs")
    done = one.fula("cp", "-r", "vault:mine/x", "out", check=False)
    assert done.returncode == 1 and f"vault:mine/x/{NFC}".encode() in done.stderr, done.stderr
    assert f"vault:mine/x/{NFD}".encode() in done.stderr and not (one.home / "out").exists()
    one.fula("rm", f"vault:mine/x/{NFD}")
    assert paths(one, "vault:mine/x/") == [f"x/{NFC}"]
    one.fula("cp", "-r", "vault:mine/x", "out")
    assert (one.home / f"out/{NFC}").read_text() == "of ours"


def test_names_that_no_file_here_can_have_fail_alone(pair):
    one, _ = pair
    long, deep = "é" * 128, "/".join(["d" * 120] * 8)
    bad = ["..", "../outside", "a/../b", "a//b", "./c", ".fula-1.part", long, f"{long}/d"]
    for name in (*bad, "good", f"deep/{deep}"):
        one.fula("put", "-", f"vault:mine/n/{name}", input=b"content")
    for command in (["cp", "-r"], ["sync", "--delete"]):
        done = one.fula(*command, "--json", "vault:mine/n", "out", check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        failed = {row["failed"]: row["error"] for row in rows if "failed" in row}
        assert done.returncode == 1 and set(failed) == {f"vault:mine/n/{name}" for name in bad}, failed
        assert all("no file here can have this name" in error for error in failed.values()), failed
        assert (rows[-1]["done"] + rows[-1]["unchanged"], rows[-1]["failures"]) == (2, len(bad))
        assert names(one.home / "out") == [f"deep/{deep}", "good"]
    plan = one.fula("cp", "-r", "--dry-run", "vault:mine/n", "out", check=False)
    assert plan.returncode == 1 and plan.stderr.count(b"no file here can have this name") == len(bad)
    single = one.fula("cp", f"vault:mine/n/{long}", ".", check=False)
    assert single.returncode == 1 and b"longer than 255 bytes" in single.stderr
    one.fula("cp", f"vault:mine/n/{long}", "another name")
    assert (one.home / "another name").read_text() == "content"
    # A file that cannot be here stays in the vault.
    moved = one.fula("mv", "-r", "vault:mine/n", "moved", check=False)
    assert moved.returncode == 1 and sorted(paths(one)) == sorted(f"n/{name}" for name in bad)
    assert not (one.home.parent / "outside").exists()

    # The whole path is too long for the system, and each part of it is not.
    inner = "/".join(["d" * 250] * 4)
    one.fula("put", "-", f"vault:mine/m/{inner}", input=b"content")
    one.fula("put", "-", "vault:mine/m/z", input=b"content")
    base = one.home / "/".join(["b" * 250] * ((4000 - len(str(one.home))) // 251))
    os.makedirs(base.parent, exist_ok=True)
    done = one.fula("cp", "-r", "vault:mine/m", base, check=False)
    assert done.returncode == 1 and b"no file here can have this name" in done.stderr, done.stderr
    assert (base / "z").read_text() == "content"


def test_a_passphrase_is_the_same_from_every_keyboard(machines):  # noqa: F811
    one, two = machines
    (one.home / "pass").write_text(f"{NFD} au lait\n")
    one.fula("vault", "create", "mine", "sealed", "--passphrase-file", "pass")
    one.fula("put", "-", "vault:mine/file", input=b"content")
    (two.home / "pass").write_text(f"{NFC} au lait\n")
    two.fula("vault", "open", "mine", "sealed", "--passphrase-file", "pass")
    assert two.text("cat", "vault:mine/file") == "content"
