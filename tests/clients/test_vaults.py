"""Sealed vaults on the command line: two machines, a stranger in the middle, and what lies on the disks."""

import json
import os
import threading

from between import Between
from test_cli import Requests
from vault_machines import Machine, machines  # noqa: F401


def stored(gateway):
    client = gateway.client()
    listed = client.list_objects_v2(Bucket="sealed").get("Contents", [])
    return {entry["Key"]: client.get_object(Bucket="sealed", Key=entry["Key"]) for entry in listed}


def test_two_machines_share_a_vault_and_the_server_learns_nothing(gateway, machines):  # noqa: F811
    one, two = machines
    invitation = one.text("vault", "create", "mine", "sealed/team", "--label", "laptop").strip()
    assert invitation.startswith("vault:sealed/team#")
    folder = one.home / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "secret-name.txt").write_text("secret content")
    (folder / "deep/large").write_bytes(os.urandom(3 << 20))
    one.fula("cp", "-r", "folder", "vault:mine/docs")
    assert one.text("cat", "vault:mine/docs/secret-name.txt") == "secret content"
    for key, answer in stored(gateway).items():
        seen = key.encode() + json.dumps(answer["Metadata"]).encode() + answer["Body"].read()
        for clear in (b"secret", b"docs", b"laptop", b"large"):
            assert clear not in seen, (key, clear)
    for clear in (b"secret", b"docs", b"large"):
        assert clear not in one.everything()

    # The other machine sends its keys, and gets the invitation.
    device = json.loads(two.text("vault", "device", "--json"))
    refused = two.fula("vault", "open", "ours", "sealed/team", check=False)
    assert refused.returncode == 5 and b"does not open" in refused.stderr
    one.fula("vault", "add", "mine", "Bo", "--recipient", device["recipient"], "--writer", device["writer"])
    refused = two.fula("vault", "open", "ours", "sealed/team", check=False)
    assert refused.returncode == 5 and b"fingerprint" in refused.stderr
    two.fula("vault", "open", "ours", invitation)
    two.fula("sync", "vault:ours/docs", "copy")
    assert (two.home / "copy/deep/large").read_bytes() == (folder / "deep/large").read_bytes()
    (two.home / "copy/answer").write_text("hello")
    two.fula("sync", "copy", "vault:ours/docs")
    assert one.text("cat", "vault:mine/docs/answer") == "hello"
    again = two.rows("sync", "--json", "copy", "vault:ours/docs")
    assert again == [{"done": 0, "bytes": 0, "unchanged": 3, "failures": 0}], "nothing is left to do"
    one.fula("mv", "-r", "vault:mine/docs", "vault:mine/papers")
    listed = [row["path"] for row in two.rows("ls", "-r", "--json", "vault:ours")]
    assert listed == ["papers/answer", "papers/deep/large", "papers/secret-name.txt"]

    # A checkpoint of one machine holds for the other one.
    word = one.text("vault", "checkpoint", "mine").strip()
    two.fula("vault", "checkpoint", "ours", word)
    one.fula("vault", "remove", "mine", "Bo")
    one.fula("put", "-", "vault:mine/after", input=b"new")
    gone = two.fula("cat", "vault:ours/after", check=False)
    assert gone.returncode == 5 and b"does not open the keyring" in gone.stderr
    rows = one.text("vault", "slots", "mine")
    assert "left" in rows and "laptop" in rows
    behind = one.fula("vault", "checkpoint", "mine", word)
    assert behind.returncode == 0


def test_words_and_a_passphrase_open_a_vault_on_a_new_machine(machines):  # noqa: F811
    one, two = machines
    (one.home / "pass").write_text("correct horse battery\n")
    made = json.loads(one.text("vault", "create", "mine", "sealed", "--words", "--passphrase-file", "pass", "--json"))
    assert len(made["words"].split()) == 24
    one.fula("put", "-", "vault:mine/file", input=b"content")
    (two.home / "pass").write_text("wrong horse battery\n")
    wrong = two.fula("vault", "open", "mine", "sealed", "--passphrase-file", "pass", check=False)
    assert wrong.returncode == 5 and b"passphrase is wrong" in wrong.stderr
    (two.home / "pass").write_text("correct horse battery\n")
    two.fula("vault", "open", "mine", "sealed", "--passphrase-file", "pass", "--label", "second")
    assert two.text("cat", "vault:mine/file") == "content"
    assert "second" in one.text("vault", "slots", "mine")
    third = Machine(one.gateway, one.home.parent / "three")
    (third.home / "words").write_text(made["words"])
    third.fula("vault", "open", "mine", "sealed", "--words-file", "words")
    assert third.text("cat", "--range", "0-2", "vault:mine/file") == "con"


def test_a_server_that_goes_back_is_refused_and_files_are_recovered(gateway, machines):  # noqa: F811
    one, _ = machines
    one.fula("vault", "create", "mine", "sealed")
    one.fula("put", "-", "vault:mine/a/file", input=b"first")
    before = {key: (answer["Body"].read(), answer["Metadata"]) for key, answer in stored(gateway).items()}
    one.fula("put", "-", "vault:mine/a/file", input=b"second")
    for key, (body, metadata) in before.items():
        gateway.client().put_object(Bucket="sealed", Key=key, Body=body, Metadata=metadata)
    old = one.fula("cat", "vault:mine/a/file", check=False)
    assert old.returncode == 5 and b"older version" in old.stderr and not old.stdout
    # A tool that drops metadata.
    for key, (body, _) in before.items():
        gateway.client().put_object(Bucket="sealed", Key=key, Body=body)
    assert one.fula("cat", "vault:mine/a/file", check=False).returncode == 5
    one.fula("vault", "recover", "mine", "out")
    assert (one.home / "out/a/file").read_bytes() == b"first"


def test_conditions_and_exit_codes(machines):  # noqa: F811
    one, _ = machines
    one.fula("vault", "create", "mine", "sealed")
    assert one.fula("vault", "create", "again", "sealed", check=False).returncode == 4
    assert one.fula("vault", "open", "mine", "sealed", check=False).returncode == 4
    assert one.fula("cat", "vault:mine/none", check=False).returncode == 3
    assert one.fula("cat", "vault:other/none", check=False).returncode == 3
    one.fula("put", "--if-absent", "-", "vault:mine/file", input=b"1")
    assert one.fula("put", "--if-absent", "-", "vault:mine/file", input=b"2", check=False).returncode == 4
    one.fula("rm", "vault:mine/file")
    assert one.fula("cat", "vault:mine/file", check=False).returncode == 3
    assert one.fula("vault", "remove", "mine", "nobody", check=False).returncode == 2
    nobody = one.fula("vault", "add", "mine", "x", check=False)
    assert nobody.returncode == 2 and b"who is added?" in nobody.stderr
    for wrong in (["cp", "vault:mine", "x"], ["cat", "vault:"], ["sync", "--checksum", ".", "vault:mine"],
                  ["cp", "-r", "vault:mine/a", "vault:mine/a/b"], ["cp", "-r", "--storage-nodes", ".", "vault:mine"]):
        assert one.fula(*wrong, check=False).returncode == 2, wrong


def test_the_commands_do_in_a_vault_what_they_do_with_objects(machines):  # noqa: F811
    one, two = machines
    one.fula("vault", "create", "mine", "sealed/v")
    folder = one.home / "folder"
    (folder / "a").mkdir(parents=True)
    for name in ("a/one.txt", "a/two.tmp", "b.txt"):
        (folder / name).write_text(name)
        os.utime(folder / name, ns=(0, 1_700_000_000_123_456_789))
    plan = one.rows("cp", "-r", "--dry-run", "--json", "folder", "vault:mine/x")
    assert [row["status"] for row in plan[:-1]] == ["planned"] * 3
    assert one.fula("ls", "vault:mine/x", check=False).returncode == 3, "nothing was written"
    one.fula("cp", "-r", "--exclude", "*.tmp", "folder", "vault:mine/x")
    assert [row["path"] for row in one.rows("ls", "-r", "--json", "vault:mine")] == ["x/a/one.txt", "x/b.txt"]
    assert one.rows("ls", "--json", "vault:mine/x/")[0] == {"prefix": "x/a/"}
    assert one.rows("du", "--json", "vault:mine")[-1] == {"place": "vault:mine/", "objects": 2, "bytes": 14}

    # Metadata and times are sealed, and come back.
    one.fula("put", "--metadata", "Kind=draft", "folder/b.txt", "vault:mine/x/b.txt")
    facts, = one.rows("stat", "--json", "vault:mine/x/b.txt")
    assert (facts["contentType"], facts["metadata"], facts["size"]) == ("text/plain", {"kind": "draft"}, 5)
    assert facts["modified"] == "2023-11-14T22:13:20Z"
    assert "draft" in one.text("stat", "vault:mine/x/b.txt")
    one.fula("put", "--if-match", facts["etag"], "folder/b.txt", "vault:mine/x/b.txt")
    assert one.fula("put", "--if-match", facts["etag"], "-", "vault:mine/x/b.txt", check=False).returncode == 4

    # Out of the vault into a bucket in the clear, back, and within the vault.
    one.fula("cp", "vault:mine/x/b.txt", "s3://sealed/plain/")
    assert one.text("cat", "s3://sealed/plain/b.txt") == "b.txt"
    one.fula("cp", "-r", "s3://sealed/plain", "vault:mine/back")
    one.fula("cp", "vault:mine/back/b.txt", "vault:mine/copies/")
    one.fula("mv", "vault:mine/back/b.txt", "vault:mine/moved.txt")
    assert one.fula("cat", "vault:mine/back/b.txt", check=False).returncode == 3
    assert one.text("cat", "vault:mine/moved.txt") == one.text("cp", "vault:mine/copies/b.txt", "-") == "b.txt"
    assert one.fula("mv", "vault:mine/moved.txt", "vault:mine/copies/b.txt", check=False).returncode == 4
    one.fula("mv", "vault:mine/moved.txt", ".")
    assert (one.home / "moved.txt").stat().st_mtime_ns == 1_700_000_000_123_456_789

    # A sync takes the same time for the same file, deletes within its bound, and follows no link.
    one.fula("sync", "folder", "vault:mine/s")
    assert one.rows("sync", "--json", "vault:mine/s", "folder")[-1]["unchanged"] == 3
    (folder / "b.txt").unlink()
    kept = one.fula("sync", "--delete", "--max-delete", "0", "folder", "vault:mine/s", check=False)
    assert kept.returncode == 1 and b"nothing was deleted: 1 of 3" in kept.stderr
    one.fula("sync", "--delete", "folder", "vault:mine/s")
    assert [row["path"] for row in one.rows("ls", "-r", "--json", "vault:mine/s")] == ["s/a/one.txt", "s/a/two.tmp"]
    (two.home / "outside").mkdir()
    (one.home / "out").mkdir()
    (one.home / "out/a").symlink_to(two.home / "outside")
    refused = one.fula("cp", "-r", "vault:mine/s", "out", check=False)
    assert refused.returncode == 1 and b"links are not followed" in refused.stderr
    assert list((two.home / "outside").iterdir()) == []
    one.fula("rm", "-r", "vault:mine/s")
    assert one.fula("rm", "-r", "vault:mine/s", check=False).returncode == 3


def allow_links(gateway, place):
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                                                      "Resource": f"arn:aws:s3:::{place}/s/*"}]}
    gateway.client().put_bucket_policy(Bucket=place.split("/")[0], Policy=json.dumps(policy))


def test_links_open_what_they_lead_to_and_nothing_else(gateway, machines, tmp_path):  # noqa: F811
    one, _ = machines
    one.fula("vault", "create", "mine", "sealed/v 1")
    (one.home / "folder/deep").mkdir(parents=True)
    (one.home / "folder/secret.txt").write_text("attack at dawn")
    (one.home / "folder/deep/large").write_bytes(os.urandom(18 << 20))
    os.utime(one.home / "folder/secret.txt", ns=(0, 1_700_000_000_000_000_007))
    one.fula("cp", "-r", "folder", "vault:mine/docs")
    early = one.fula("vault", "share", "vault:mine/docs/secret.txt")
    assert b"nobody can read the link yet" in early.stderr and b"arn:aws:s3:::sealed/v 1/s/*" in early.stderr
    allow_links(gateway, "sealed/v 1")
    link = early.stdout.decode().strip()
    tree = one.text("vault", "share", "-r", "vault:mine/docs").strip()
    assert one.fula("vault", "share", "vault:mine/none", check=False).returncode == 3

    # Someone without an account, an endpoint or a key.
    guest = Machine(gateway, tmp_path / "guest")
    guest.env = {"PATH": os.environ["PATH"], "HOME": str(guest.home)}
    assert guest.text("cat", link) == "attack at dawn"
    assert guest.text("cat", "--range", "-4", link) == "dawn"
    guest.fula("cp", link, ".")
    assert (guest.home / "secret.txt").stat().st_mtime_ns == 1_700_000_000_000_000_007
    guest.fula("cp", "-r", tree, "copy")
    for name in ("secret.txt", "deep/large"):
        assert (guest.home / "copy" / name).read_bytes() == (one.home / "folder" / name).read_bytes()
    assert not list((guest.home).glob(".config"))
    for wrong in (["cat", tree], ["cp", "-r", link, "x"], ["mv", link, "x"], ["cp", link, "s3://sealed/x"]):
        assert guest.fula(*wrong, check=False).returncode == 2, wrong
    for clear in (b"secret", b"docs", b"attack"):
        for key, answer in stored(gateway).items():
            assert clear not in key.encode() + json.dumps(answer["Metadata"]).encode() + answer["Body"].read()

    # Links that were altered, that lead elsewhere, or whose object was exchanged or taken back.
    cut = guest.fula("cat", link[:-3], check=False)
    assert cut.returncode == 5 and b"the link is malformed" in cut.stderr
    swapped = link.split("#")[0] + "#" + tree.split("#")[1]
    client = gateway.client()
    assert guest.fula("cp", "-r", swapped, "x", check=False).returncode == 5
    key = "v 1/s/" + link.split("#")[0].rsplit("/", 1)[1]
    body = client.get_object(Bucket="sealed", Key=key)["Body"].read()
    client.put_object(Bucket="sealed", Key=key, Body=body[:60] + bytes([body[60] ^ 1]) + body[61:])
    damaged = guest.fula("cat", link, check=False)
    assert damaged.returncode == 5 and damaged.stdout == b"" and b"damaged" in damaged.stderr
    client.put_object(Bucket="sealed", Key=key, Body=body)
    assert guest.text("cat", link) == "attack at dawn"
    rows = one.rows("vault", "shares", "mine", "--json")
    assert sorted((row["kind"], row["path"]) for row in rows) == [("file", "docs/secret.txt"), ("folder", "docs")]
    assert {row["link"] for row in rows} == {link.split("#")[0], tree.split("#")[0]}
    one.fula("vault", "unshare", "mine", link)
    # Without the right to list, a server does not tell what is gone from what is private.
    gone = guest.fula("cat", link, check=False)
    assert gone.returncode == 1 and gone.stdout == b"" and b"access is denied" in gone.stderr
    one.fula("vault", "unshare", "mine", tree.split("#")[0])
    assert one.rows("vault", "shares", "mine", "--json") == []
    assert not [key for key in stored(gateway) if "/s/" in key]
    assert one.fula("vault", "unshare", "mine", "https://example.org/x/s/" + "a" * 32, check=False).returncode == 2
    far = guest.fula("cat", link.replace("127.0.0.1", "192.0.2.1"), check=False)
    assert far.returncode == 2 and b"http" in far.stderr
    client.delete_bucket_policy(Bucket="sealed")


def test_a_reseal_that_is_killed_goes_on_and_loses_nothing(machines):  # noqa: F811
    one, two = machines
    one.fula("vault", "create", "mine", "sealed", "--label", "laptop")
    device = json.loads(two.text("vault", "device", "--json"))
    one.fula("vault", "add", "mine", "Bo", "--recipient", device["recipient"], "--writer", device["writer"])
    two.fula("vault", "open", "mine", json.loads(one.text("vault", "add", "mine", "drawer", "--words", "--json"))[
        "invitation"])
    folder = one.home / "folder"
    folder.mkdir()
    for n in range(60):
        (folder / f"{n}").write_bytes(os.urandom(200_000))
    two.fula("put", "-", "vault:mine/by Bo", input=b"kept")
    one.fula("cp", "-r", "folder", "vault:mine/f")
    one.fula("vault", "remove", "mine", "Bo")
    assert one.rows("vault", "reseal", "mine", "--dry-run", "--json") == [{"outdated": 61}]
    gone, turn, puts = threading.Event(), threading.Lock(), []

    def arrives(method, target):
        # The gateway never gets the writes of the last files.
        if method != "PUT":
            return
        with turn:
            puts.append(target)
            is_late = len(puts) > 40
        if is_late:
            gone.wait()
            raise ConnectionAbortedError

    with Between(one.gateway) as between:
        between.arrives = arrives
        direct, one.env["AWS_ENDPOINT_URL"] = one.env["AWS_ENDPOINT_URL"], between.url
        killed = one.start("vault", "reseal", "mine", "--json", "--transfers", "1")
        for _ in range(3):
            assert json.loads(killed.stdout.readline())["action"] == "reseal"
        killed.kill()
        killed.communicate()
        gone.set()
        one.env["AWS_ENDPOINT_URL"] = direct
    (folder / "0").write_text("newer")
    one.fula("put", "folder/0", "vault:mine/f/0")
    left, = one.rows("vault", "reseal", "mine", "--dry-run", "--json")
    assert 0 < left["outdated"] <= 58
    last = one.rows("vault", "reseal", "mine", "--forget-removed", "--json")[-1]
    assert last["done"] == left["outdated"] and last["failures"] == 0
    one.fula("sync", "vault:mine/f", "copy")
    for n in range(60):
        assert (one.home / "copy" / f"{n}").read_bytes() == (folder / f"{n}").read_bytes()
    assert one.text("cat", "vault:mine/by Bo") == "kept"
    assert one.rows("vault", "reseal", "mine", "--json")[-1]["done"] == 0


def version(gateway):
    answer = gateway.client().head_bucket(Bucket="sealed")
    return int(answer["ResponseMetadata"]["HTTPHeaders"]["x-fula-version"])


def test_many_small_files_are_few_requests(gateway, machines):  # noqa: F811
    one, two = machines
    one.fula("vault", "create", "mine", "sealed")
    folder = one.home / "folder"
    folder.mkdir()
    for n in range(1200):
        (folder / f"{n}").write_text(f"content {n}")
    (folder / "large").write_bytes(os.urandom(2 << 20))
    before = version(gateway)
    done = one.rows("cp", "-r", "--json", "folder", "vault:mine/f")[-1]
    assert (done["done"], done["failures"]) == (1201, 0)
    assert version(gateway) - before < 20, "files share commits"
    one.fula("cp", "-r", "vault:mine/f", "copy")
    for path in folder.iterdir():
        assert (one.home / "copy" / path.name).read_bytes() == path.read_bytes()
    for n in range(0, 1200, 2):
        (folder / f"{n}").write_text(f"newer content {n}")
    before = version(gateway)
    done = one.rows("sync", "--json", "folder", "vault:mine/f")[-1]
    assert (done["done"], done["unchanged"], done["failures"]) == (600, 601, 0)
    assert version(gateway) - before < 20, "files share commits"
    assert one.text("cat", "vault:mine/f/1198") == "newer content 1198"
    one.fula("mv", "-r", "folder", "vault:mine/g")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_many_files_are_deleted_with_few_requests(gateway, machines):  # noqa: F811
    one, two = machines
    words = json.loads(one.text("vault", "create", "mine", "sealed", "--words", "--json"))["words"]
    (two.home / "words").write_text(words)
    two.fula("vault", "open", "mine", "sealed", "--words-file", "words")
    folder = one.home / "folder"
    folder.mkdir()
    for n in range(1200):
        (folder / f"{n}").write_text(f"content {n}")
    one.fula("cp", "-r", "folder", "vault:mine/f")
    for n in range(1199):
        (folder / f"{n}").unlink()
    requests = Requests(gateway)
    done = one.rows("sync", "--json", "--delete", "--max-delete", "100%", "folder", "vault:mine/f")[-1]
    assert (done["done"], done["unchanged"], done["failures"]) == (1199, 1, 0)
    counts = requests.new()
    assert sum(counts.values()) < 10, counts
    assert [row["path"] for row in one.rows("ls", "-r", "--json", "vault:mine")] == ["f/1199"]

    # Somebody else changes two of the files between the listing and the deletion.
    for n in range(1199):
        (folder / f"{n}").write_text(f"content {n}")
    one.fula("cp", "-r", "folder", "vault:mine/f")
    changed, turn = [], threading.Lock()

    def change(method, target):
        with turn:
            if "fula-commit" in target and not changed:
                changed.append(target)
                two.fula("put", "-", "vault:mine/f/7", input=b"newer")
                two.fula("rm", "vault:mine/f/8")

    with Between(gateway) as between:
        between.arrives = change
        one.env["AWS_ENDPOINT_URL"] = between.url
        done = one.fula("rm", "-r", "--json", "vault:mine/f", check=False)
        seen = between.new()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [row for row in rows if "failed" in row]
    assert done.returncode == 1 and {row["failed"] for row in failed} == {"vault:mine/f/7", "vault:mine/f/8"}, rows[-5:]
    assert all("is not the version that the request names" in row["error"] for row in failed), failed
    assert rows[-1] == {"done": 1198, "bytes": rows[-1]["bytes"], "unchanged": 0, "failures": 2}
    assert len([one for one in seen if "fula-commit" in one.target]) == 3 and len(seen) < 10, seen
    assert two.text("cat", "vault:mine/f/7") == "newer"
    assert [row["path"] for row in two.rows("ls", "-r", "--json", "vault:mine")] == ["f/7"]


def test_a_vault_is_watched(machines):  # noqa: F811
    one, two = machines
    words = json.loads(one.text("vault", "create", "mine", "sealed", "--words", "--json"))["words"]
    (two.home / "words").write_text(words)
    two.fula("vault", "open", "mine", "sealed", "--words-file", "words")
    watching = one.start("vault", "watch", "mine", "--json")
    assert "version" in json.loads(watching.stdout.readline())
    seen = set()

    def told(*changes):
        while not seen >= set(changes):
            change = json.loads(watching.stdout.readline())
            seen.add((change["change"], change["path"]))

    # One after the other: what was written and removed between two looks is no change.
    two.fula("put", "-", "vault:mine/a", input=b"1")
    told(("written", "a"))
    two.fula("mv", "vault:mine/a", "vault:mine/b")
    told(("removed", "a"), ("written", "b"))
    watching.kill()
    watching.communicate()


def test_vaults_have_completion_and_manual_pages(machines):  # noqa: F811
    one, _ = machines
    assert "vault" in one.text("completion", "bash")
    one.fula("man", "man1")
    pages = {page.name for page in (one.home / "man1").iterdir()}
    assert {"fula-vault.1", "fula-vault-create.1", "fula-vault-checkpoint.1"} <= pages


def test_files_that_do_not_open_are_named_and_nothing_is_deleted_for_them(gateway, machines):  # noqa: F811
    one, _ = machines
    one.fula("vault", "create", "mine", "sealed")
    one.fula("put", "-", "vault:mine/good", input=b"good")
    gateway.client().put_object(Bucket="sealed", Key="a" * 32, Body=b"nonsense")
    listed = one.fula("ls", "vault:mine", check=False)
    assert listed.returncode == 5 and b"good" in listed.stdout and b"the name is cut off" in listed.stderr
    (one.home / "copy").mkdir()
    (one.home / "copy/extra").write_text("extra")
    synced = one.fula("sync", "--delete", "vault:mine", "copy", check=False)
    assert synced.returncode == 1 and b"nothing was deleted" in synced.stderr
    assert (one.home / "copy/extra").exists() and (one.home / "copy/good").read_text() == "good"
    far = one.fula("ls", "vault:mine", "--endpoint-url", "http://192.0.2.1:9000", check=False)
    assert far.returncode == 2 and b"http" in far.stderr
