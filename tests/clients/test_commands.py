"""What commands need, what they refuse and why, and what they leave alone."""

import hashlib
import json
import os
import shutil
import subprocess

from conftest import FULA, Gateway
from helpers import pattern, self_signed
from masters import admin, federation, signed


def fula(*args, env, **options):
    return subprocess.run([FULA, *args], env={**os.environ, **env}, capture_output=True, text=True,
                          timeout=300, **options)


def contents(directory):
    """Every file of a directory: its bytes, its mode and when it was changed."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    facts = lambda path: (path.stat().st_mode, path.stat().st_mtime_ns)
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), *facts(path)) for path in files}


def test_tools_need_no_data_directory_where_there_is_a_database(federation, tmp_path):
    master = federation.gateway("master")
    master.client().create_bucket(Bucket="bucket")
    away = tmp_path / "away"
    for command in (["keys", "list"], ["masters", "list"], ["roots", "show"], ["roots", "log", "bucket"]):
        done = fula(*command, "--data-dir", away, env=federation.env())
        assert done.returncode == 0 and done.stdout, done.stderr
    assert not away.exists()
    without = fula("keys", "list", "--data-dir", away, env={})
    assert without.returncode == 1
    assert "--data-dir" in without.stderr and "FULA_DATABASE_URL" in without.stderr


def test_without_a_data_directory_nothing_is_said_of_one(federation, tmp_path):
    master = federation.gateway("master")
    master.client().create_bucket(Bucket="bucket")
    away = ["--data-dir", tmp_path / "away"]
    status = fula("status", *away, env=federation.env())
    assert status.returncode == 0, status.stdout + status.stderr
    lines = {line.split()[0] for line in status.stdout.splitlines()}
    assert lines == {"fula", "arbiter", "blocks", "master", "scrub"}, status.stdout
    page = json.loads(fula("status", *away, "--json", env=federation.env()).stdout)
    assert page["data_dir"] is page["disk"] is page["log"] is page["collections"] is None
    gc = fula("gc", *away, env=federation.env())
    assert gc.returncode == 1 and gc.stdout == "" and "--data-dir" in gc.stderr
    fsck = fula("fsck", *away, env=federation.env())
    assert fsck.returncode == 0 and "the log of a gateway was not checked" in fsck.stdout
    assert "not checked" not in admin(master, "fsck").stdout
    master.stop()
    assert fula("fsck", "--repair", *away, env=federation.env()).returncode == 0
    assert not (tmp_path / "away").exists()


def test_looking_writes_nothing(federation, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for data in ("away", "empty"):
        for command in (["masters", "list"], ["status"], ["roots", "show"], ["keys", "list"], ["revoke", "list"]):
            looked = fula(*command, "--data-dir", tmp_path / data, env=federation.env())
            assert looked.returncode != 0 and looked.stdout == "", command
            assert "no master was ever started on this arbiter" in looked.stderr, looked.stderr
    assert not (tmp_path / "blocks").exists()
    # There are no tables yet: these can be made.
    for table in ("bucket_roots", "fula_arbiter", "fula_mark"):
        federation.postgres.tell(f"execute CREATE TABLE {table} ()")
        federation.postgres.tell(f"execute DROP TABLE {table}")
    federation.postgres.tell("execute CREATE TABLE fula_directory ()")
    old = fula("masters", "list", env=federation.env())
    assert old.returncode == 1 and "run `fula migrate`" in old.stderr
    # The same of a single master.
    for command in (["masters", "list"], ["status"], ["roots", "show"], ["keys", "list"], ["gc"], ["fsck"],
                    ["fsck", "--repair"]):
        looked = fula(*command, "--data-dir", empty, env={})
        assert looked.returncode != 0 and "no gateway was ever started" in looked.stderr, command
    assert list(empty.iterdir()) == []


def test_a_directory_of_something_else_stays_as_it_is(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear reader")
    before = contents(home)
    listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    for command in (["gateway", *listen], ["keys", "create", "--user", "me"]):
        refused = fula(*command, "--data-dir", home, env={})
        assert refused.returncode == 1, refused.stdout
    started = fula("gateway", *listen, "--data-dir", home, env={})
    assert "--data-dir (FULA_DATA_DIR)" in started.stderr and "letter.txt" in started.stderr
    assert contents(home) == before
    for command in (["gateway", *listen], ["status"], ["keys", "list"]):
        refused = fula(*command, "--data-dir", home / "letter.txt", env={})
        assert refused.returncode != 0 and "is a file, not a directory" in refused.stderr, refused.stderr


def test_another_user_of_the_machine_learns_whose_the_directory_is(own_gateway):
    # The user `nobody` can start the program and must not see the data.
    program = own_gateway.data_dir.parent / "fula"
    shutil.copy(FULA, program)
    for directory in list(program.parents)[:-2]:
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)
    for command in (["keys", "list"], ["status"], ["fsck", "--repair"]):
        refused = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", program, *command, "--data-dir",
                                  own_gateway.data_dir], capture_output=True, text=True, timeout=120)
        assert refused.returncode != 0 and "permission denied for user id 65534" in refused.stderr, refused.stderr
        assert f"sudo -u '#{os.getuid()}'" in refused.stderr and "ever started" not in refused.stderr


def test_root_leaves_no_files_that_the_gateway_cannot_read(own_gateway):
    """Root may open everything, and the files that it makes are its own."""
    assert os.getuid() == 0, "this test takes the part of root"
    own_gateway.stop()
    for path in [own_gateway.data_dir, *own_gateway.data_dir.rglob("*")]:
        os.chown(path, 65534, 65534)
    listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    for command in (["keys", "list"], ["gc", "--now"], ["gateway", *listen]):
        refused = own_gateway.fula(*command, check=False)
        assert refused.returncode == 1 and "belongs to user id 65534" in refused.stderr, refused.stderr
        assert "run this as that user" in refused.stderr
    assert {path.stat().st_uid for path in own_gateway.data_dir.rglob("*")} == {65534}


def test_output_that_nobody_reads_ends_quietly(own_gateway):
    for command in ("keys list", "roots show", "status", "--help", "gc", "fsck", "revoke list"):
        # The reader is gone before the first line comes.
        done = subprocess.run(["bash", "-o", "pipefail", "-c",
                               f'{FULA} {command} --data-dir "$1" | sleep 0', "-", own_gateway.data_dir],
                              capture_output=True, text=True, timeout=120)
        assert "panic" not in done.stderr and done.returncode == 0, (command, done.stderr)
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([FULA, *command.split(), "--data-dir", own_gateway.data_dir], stdout=write,
                              stderr=subprocess.PIPE, text=True, timeout=120)
        os.close(write)
        assert (done.returncode, done.stderr) == (0, ""), command
    with open("/dev/full", "w") as full:
        done = subprocess.run([FULA, "keys", "list", "--data-dir", own_gateway.data_dir], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1 and "cannot write to standard output: the disk is full" in done.stderr


def test_wrong_usage_has_one_exit_status(tmp_path):
    settings = tmp_path / "fula.toml"
    start = ["gateway", "--data-dir", tmp_path / "data"]
    settings.write_text("region = us-east-1\n")
    for command in (["revoke", "wallet", "0x1"], ["revoke", "user", "a", "--issued-before", "noon"],
                    ["token", "typed-data", "--wallet", "me"], ["token", "mint", "--key-file", "k", "--lifetime", "25h"],
                    ["token", "mint", "--key-file", "k", "--scope", "all"],
                    ["token", "assemble", "--typed-data", "-", "--signature", "0x00"],
                    [*start, "--config", settings], [*start, "--access-key-id", "A"],
                    [*start, "--listen", ":9000", "--admin-listen", ":9000"],
                    ["masters", "list", "--database-url", "postgres://h/d"], ["keys"], ["nothing"]):
        done = fula(*command, env={})
        assert done.returncode == 2 and done.stdout == "", (command, done.stderr)
    wrong = fula(*start, "--config", settings, env={})
    assert "line 1" in wrong.stderr and "quotes" in wrong.stderr, wrong.stderr
    assert fula("keys", "list", "--data-dir", tmp_path / "absent", env={}).returncode == 1


def test_certificate_and_key_in_each_others_place(tmp_path):
    cert, key = self_signed(tmp_path, "127.0.0.1")
    swapped = fula("gateway", "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0", "--admin-listen",
                   "127.0.0.1:0", "--tls-cert", key, "--tls-key", cert, env={})
    assert swapped.returncode == 1 and "swapped" in swapped.stderr, swapped.stderr


def test_an_s3_tool_on_the_admin_address_learns_where_it_is(own_gateway):
    done = own_gateway.run("aws", "--endpoint-url", own_gateway.admin, "s3", "ls", check=False)
    assert done.returncode != 0 and "admin address" in done.stderr and "FULA_LISTEN" in done.stderr, done.stderr


def test_a_directory_of_masters_is_no_source_of_an_import(federation):
    master = federation.gateway("master")
    master.client().create_bucket(Bucket="bucket")
    master.stop()
    refused = fula("roots", "import", "--data-dir", master.data_dir, "--source-secrets-key-file",
                   federation.env()["FULA_SECRETS_KEY_FILE"], env=federation.env())
    assert refused.returncode == 1 and "shares an arbiter already" in refused.stderr, refused.stderr


def test_a_single_master_does_not_become_one_of_several_without_its_buckets(federation, own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    own_gateway.stop()
    refused = fula("gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir",
                   own_gateway.data_dir, env=federation.env())
    assert refused.returncode == 1 and "fula roots import" in refused.stderr, refused.stderr


def test_commands_beside_a_gateway_say_that_the_database_is_away(federation):
    master = federation.gateway("master")
    master.client().create_bucket(Bucket="bucket")
    federation.postgres.tell("crash")
    for command in (["roots", "show"], ["keys", "list"], ["masters", "list"], ["roots", "log", "bucket"]):
        failed = admin(master, *command)
        assert failed.returncode == 1 and "the arbiter's database cannot be used" in failed.stderr, failed.stderr
        assert "FULA_DATABASE_URL" in failed.stderr and "_" not in failed.stderr.replace("FULA_DATABASE_URL", "")
    for page in ("status", "doctor"):
        shown = admin(master, page)
        assert shown.returncode == 1 and shown.stdout.count("FULA_DATABASE_URL") == 1, shown.stdout
    federation.postgres.tell("launch")


def test_the_state_of_a_stopped_gateway_names_what_is_missing(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=pattern(3_000_000))
    own_gateway.stop()
    (segment,) = (own_gateway.data_dir / "log").glob("bulk-*.log")
    segment.unlink()
    status = own_gateway.fula("status", check=False)
    assert status.returncode == 1 and segment.name in status.stdout and "fula fsck --repair" in status.stdout


def test_errors_name_the_setting_and_say_things_once(federation, own_gateway):
    url = federation.postgres.address.rsplit("/", 1)[0] + "/nowhere"
    refused = federation.refusal(FULA_DATABASE_URL=url)
    assert "FULA_DATABASE_URL" in refused and refused.count('database "nowhere" does not exist') == 1
    taken = subprocess.run([FULA, "gateway", "--data-dir", federation.tmp / "other",
                            "--listen", own_gateway.listen, "--admin-listen", "127.0.0.1:0"],
                           capture_output=True, text=True, timeout=120)
    assert taken.returncode == 1 and "--listen" in taken.stderr and own_gateway.listen in taken.stderr


def test_a_role_that_may_not_create_tables(federation):
    tell = federation.postgres.tell
    tell("execute CREATE ROLE app LOGIN")
    tell("execute REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    owner = federation.postgres.address
    app = owner.replace("fula@", "app@")
    refused = federation.refusal(FULA_DATABASE_URL=app)
    assert "fula migrate --role app" in refused and "CREATE ON SCHEMA public" in refused
    everybody = fula("migrate", "--role", "public", env={"FULA_DATABASE_URL": owner})
    assert everybody.returncode == 2 and "everybody" in everybody.stderr
    migrated = fula("migrate", "--role", "app", env={"FULA_DATABASE_URL": owner})
    assert migrated.returncode == 0 and "up to date" in migrated.stderr
    refused = federation.refusal(FULA_DATABASE_URL=app)
    assert 'GRANT INSERT, SELECT, UPDATE ON bucket_roots TO "app"' in refused, refused
    for grant in migrated.stdout.splitlines():
        tell(f"execute {grant}")
    master = federation.gateway("master", FULA_DATABASE_URL=app)
    master.client().create_bucket(Bucket="bucket")
    assert signed(master, "PUT", "/bucket/k", b"x")[0] == 200
    assert signed(master, "GET", "/bucket/k")[2] == b"x"
    assert fula("migrate", env={"FULA_DATABASE_URL": app}).returncode == 1
    tell("execute REVOKE UPDATE ON bucket_roots FROM app")
    refused = federation.refusal(FULA_DATABASE_URL=app)
    assert 'GRANT UPDATE ON bucket_roots TO "app"' in refused and "fula_directory" not in refused


def test_an_import_leaves_its_source_alone(federation, tmp_path):
    alone = Gateway(tmp_path / "alone").start()
    s3 = alone.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=pattern(2_000_000))
    key = alone.credentials()
    # As after a power cut: the last write is not whole.
    alone.kill()
    log = max((alone.data_dir / "log").glob("commit-*.log"))
    with open(log, "ab") as file:
        file.write(b"\1" * 1000)
    before = contents(alone.data_dir)
    for directory in (alone.data_dir, alone.data_dir / "log"):
        directory.chmod(0o500)
    imported = fula("roots", "import", "--data-dir", alone.data_dir, "--json", env=federation.env())
    assert imported.returncode == 0, imported.stderr
    report = json.loads(imported.stdout)
    assert report["imported"] == ["bucket"]
    assert [text for text in report["not_brought"] if f"unfinished writes at the end of {log.name}" in text]
    assert contents(alone.data_dir) == before
    for directory in (alone.data_dir, alone.data_dir / "log"):
        directory.chmod(0o700)
    master = federation.gateway("master")
    assert master.client(key=key).get_object(Bucket="bucket", Key="k")["Body"].read() == pattern(2_000_000)
    # What was written at both ends since then is said, and is no success.
    alone.start()
    alone.client().put_object(Bucket="bucket", Key="alone", Body=b"x")
    alone.client().put_object(Bucket="bucket", Key="more", Body=b"x")
    alone.stop()
    master.client(key=key).put_object(Bucket="bucket", Key="shared", Body=b"x")
    again = fula("roots", "import", "--data-dir", alone.data_dir, env=federation.env())
    assert again.returncode == 1 and "taken       bucket" in again.stdout
    assert "not brought bucket bucket as it is here, at version" in again.stdout
    busy = Gateway(tmp_path / "busy").start()
    refused = fula("roots", "import", "--data-dir", busy.data_dir, env=federation.env())
    assert refused.returncode == 1 and "in use by another fula process" in refused.stderr
    busy.stop()


def test_a_segment_that_is_missing_is_not_passed_over(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="k", Body=pattern(3_000_000))
    s3.put_object(Bucket="bucket", Key="small", Body=b"x")
    own_gateway.stop()
    (segment,) = (own_gateway.data_dir / "log").glob("bulk-*.log")
    aside = own_gateway.data_dir.parent / "aside"
    shutil.move(segment, aside)
    start = subprocess.run([FULA, "gateway", "--data-dir", own_gateway.data_dir, "--listen", "127.0.0.1:0",
                            "--admin-listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=120)
    assert start.returncode == 1 and segment.name in start.stderr and "backup" in start.stderr
    shutil.move(aside, segment)
    own_gateway.start()
    assert own_gateway.client().get_object(Bucket="bucket", Key="k")["Body"].read() == pattern(3_000_000)
    own_gateway.stop()
    segment.unlink()
    found = own_gateway.fula("fsck", check=False)
    assert found.returncode == 1 and segment.name in found.stdout, found.stderr
    own_gateway.fula("fsck", "--repair", check=False)
    own_gateway.start()
    assert own_gateway.client().get_object(Bucket="bucket", Key="small")["Body"].read() == b"x"
    status = own_gateway.client(retries={"max_attempts": 1})
    own_gateway.client().put_object(Bucket="bucket", Key="k", Body=pattern(3_000_000))
    assert status.get_object(Bucket="bucket", Key="k")["Body"].read() == pattern(3_000_000)


def test_what_compaction_removes_is_not_missing(own_gateway):
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="bucket")
    for n in range(3):
        s3.put_object(Bucket="bucket", Key="k", Body=pattern(3_000_000, n))
        own_gateway.fula("gc", "--now", "--retention", "0s")
    own_gateway.kill()
    own_gateway.start()
    assert own_gateway.client().get_object(Bucket="bucket", Key="k")["Body"].read() == pattern(3_000_000, 2)


def test_files_that_cannot_be_used_are_named_with_their_setting(tmp_path):
    absent, file = tmp_path / "absent", tmp_path / "file"
    file.write_text("text")
    gateway = ["gateway", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    start = [*gateway, "--data-dir", tmp_path / "data"]
    missing = f"{absent}: there is no such file or directory; check the path"
    for command, text in [
        (["secrets", "keygen", file], f"{file}: there is such a file already; choose another name"),
        (["token", "mint", "--key-file", absent], f"--key-file (FULA_WALLET_KEY_FILE): {missing}"),
        (["token", "assemble", "--signature", "0x" + "00" * 65, "--typed-data", absent], f"--typed-data: {missing}"),
        (["token", "assemble", "--signature", "0x" + "00" * 65, "--typed-data", file], "make it again"),
        ([*start, "--config", absent], f"--config (FULA_CONFIG): {missing}"),
        ([*start, "--jwt-secret-file", absent], f"--jwt-secret-file (FULA_JWT_SECRET_FILE): {missing}"),
        ([*start, "--tls-cert", absent, "--tls-key", file], f"--tls-cert (FULA_TLS_CERT): {missing}"),
        ([*start, "--jwks", absent], f"FULA_JWKS: {missing}"),
        ([*start, "--secrets-key-file", absent], f"--secrets-key-file (FULA_SECRETS_KEY_FILE): {missing}"),
        ([*gateway, "--data-dir", file / "data"], f"--data-dir (FULA_DATA_DIR): {file}/data: a part of the path"),
        ([*start, "--blocks", f"file://{file}/blocks"], "FULA_BLOCKS cannot be used: a part of the path"),
    ]:
        done = fula(*command, env={})
        assert done.returncode == 1 and text in done.stderr, done.stderr
        assert "os error" not in done.stderr and done.stderr.count(str(absent)) <= 1, done.stderr
