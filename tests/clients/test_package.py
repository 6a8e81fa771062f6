"""The Debian package and its services: what they install, what they may do, and that they keep data."""

import re
import subprocess
import sys

import pytest

from conftest import FULA, REPO
from helpers import MIB, eventually
from machine import Machine

UNITS = {"fula.service": "gateway", "fula-storage-node.service": "storage-node"}


def run(*line, check=True):
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    file = tmp_path_factory.mktemp("deb") / "fula.deb"
    run(REPO / "deploy/deb/build", FULA, file)
    return file


@pytest.fixture(scope="module")
def tree(package, tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree") / "tree"
    run("dpkg-deb", "--extract", package, tree)
    return tree


def unit(name):
    """The settings of a unit, each with all its values."""
    settings = {}
    for line in (REPO / "deploy/systemd" / name).read_text().splitlines():
        if re.match(r"\w+=", line):
            key, value = line.split("=", 1)
            settings.setdefault(key, []).append(value)
    return settings


def test_the_package_names_version_and_files(package, tree):
    version = run("dpkg-deb", "--field", package, "Version").stdout.strip()
    said = run(FULA, "--version").stdout
    parts = re.fullmatch(r"fula ([\d.]+)(?: \((\w+)(?:, (\w+))?\))?\n", said).groups()
    assert version == parts[0] + (f"+g{parts[1]}" if parts[1] else "") + (f".{parts[2]}" if parts[2] else "")
    listed = run("dpkg-deb", "--contents", package).stdout
    modes = {line.split()[-1][1:]: line.split()[0] for line in listed.splitlines()}
    assert modes["/usr/bin/fula"] == "-rwxr-xr-x"
    assert modes["/etc/fula/gateway.env"] == modes["/etc/fula/storage-node.env"] == "-rw-------"
    assert all(" root/root " in line for line in listed.splitlines())
    assert run(tree / "usr/bin/fula", "--version").stdout == said


@pytest.mark.parametrize("name", UNITS)
def test_the_services_are_valid_and_hardened(tree, tmp_path, name):
    file = tmp_path / name
    text = (tree / "lib/systemd/system" / name).read_text()
    file.write_text(text.replace("ExecStart=/usr", f"ExecStart={tree}/usr"))
    # It says nothing; a mistyped setting, which systemd ignores, would be named.
    checked = run("systemd-analyze", "verify", "--man=no", file)
    assert checked.stdout + checked.stderr == ""
    assert run("systemd-analyze", "security", "--offline=yes", "--threshold=20", file, check=False).returncode == 0


@pytest.mark.parametrize("name", UNITS)
def test_the_service_finds_its_data_directory_and_outlasts_its_requests(name):
    settings = unit(name)
    (start,) = settings["ExecStart"]
    assert start.split()[1:] == [UNITS[name]]
    # The program takes the directory that systemd makes, under whatever user.
    (state,) = settings["StateDirectory"]
    (grace,) = re.findall(r"\| FULA_SHUTDOWN_GRACE \| `(\d+)s`", (REPO / "docs/operations.md").read_text())
    assert settings["DynamicUser"] == ["yes"] and int(settings["TimeoutStopSec"][0]) > int(grace)
    assert f"/var/lib/{state}" in (REPO / "deploy/systemd" / name).read_text()


def allowed_calls(settings):
    """The system calls that a unit allows."""
    sets = {}
    for line in run("systemd-analyze", "syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            members = sets[line.strip()] = []
        elif line.strip() and not line.strip().startswith("#"):
            members.append(line.strip())

    def calls(name):
        return {call for member in sets[name] for call in calls(member)} if name.startswith("@") else {name}

    allowed = set()
    for value in settings["SystemCallFilter"]:
        if value.startswith("~"):
            allowed -= calls(value[1:])
        else:
            allowed |= calls(value)
    return allowed


def test_the_gateway_makes_no_system_call_that_its_service_forbids(own_gateway, tmp_path):
    """The gateway runs from its start to its end under a tracer."""
    own_gateway.stop()
    trace = tmp_path / "trace"
    own_gateway.program = ["strace", "-f", "-qq", "-o", trace, FULA]
    own_gateway.start()
    s3 = own_gateway.client()
    s3.create_bucket(Bucket="traced")
    for size in [10, 3 << 20]:
        s3.put_object(Bucket="traced", Key=str(size), Body=b"x" * size)
        assert s3.get_object(Bucket="traced", Key=str(size))["ContentLength"] == size
    own_gateway.fula("gc", "--now")
    children = run("pgrep", "-P", str(own_gateway.process.pid)).stdout.split()
    run("kill", "-TERM", *children)
    assert own_gateway.process.wait(timeout=120) == 0
    calls = set(re.findall(r"^\d+\s+(\w+)\(", trace.read_text(), re.M))
    assert {"fsync", "fdatasync"} & calls and "accept4" in calls, calls
    # The tracer itself sees the program that it starts.
    assert calls - allowed_calls(unit("fula.service")) == set()


def dpkg(root, *line, check=True):
    return run("dpkg", f"--root={root}", "--force-script-chrootless", "--force-depends", "--force-confdef",
               "--force-confold", "--log=/dev/null", *line, check=check)


def test_an_upgrade_and_a_removal_keep_settings_and_data(package, tmp_path):
    root = tmp_path / "root"
    (root / "var/lib/dpkg/updates").mkdir(parents=True)
    (root / "var/lib/dpkg/info").mkdir()
    (root / "var/lib/dpkg/status").touch()
    dpkg(root, "--install", package)
    settings, data = root / "etc/fula/gateway.env", root / "var/lib/private/fula-gateway"
    settings.write_text("FULA_LISTEN=:9000\n")
    data.mkdir(parents=True)
    (data / "secrets.key").write_text("x")
    dpkg(root, "--install", package)
    assert settings.read_text() == "FULA_LISTEN=:9000\n"
    dpkg(root, "--remove", "fula")
    assert not (root / "usr/bin/fula").exists() and settings.exists()
    said = dpkg(root, "--purge", "fula").stdout
    assert "is kept" in said and (data / "secrets.key").read_text() == "x" and not settings.exists()


def test_one_command_packs_a_program_and_says_the_sizes(tmp_path):
    done = run(REPO / "deploy/package", FULA, tmp_path / "packed")
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["binary", "package", "image"], done.stdout
    sizes = {path.name: str(path.stat().st_size) for path in (tmp_path / "packed").iterdir()}
    assert [size for _, size, *_ in lines] == [sizes[name] for name in ("fula", "fula.deb", "fula-image.tar")]
    assert "linked statically" in done.stdout and "units are valid" in done.stdout and "runs" in done.stdout
    # Once more, over what is there.
    run(REPO / "deploy/package", FULA, tmp_path / "packed")


USE = """
import boto3, sys
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:9000", region_name="us-east-1")
if sys.argv[1] == "put":
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="k", Body=b"x" * (3 << 20))
print(s3.get_object(Bucket="kept", Key="k")["ContentLength"])
"""


class Service:
    """The service of the gateway on a machine."""

    def __init__(self, machine):
        self.machine = machine

    def show(self, name):
        return self.machine.run("systemctl", "show", "--value", "-p", name, "fula").stdout.strip()

    def wait_until_healthy(self):
        eventually(lambda: self.machine.run("fula", "health", check=False).returncode == 0, 120,
                   lambda: self.machine.run("systemctl", "status", "fula", check=False).stdout)

    def use(self, act):
        environment = "AWS_SHARED_CREDENTIALS_FILE=/var/lib/fula-gateway/credentials"
        assert self.machine.run("env", environment, sys.executable, "-c", USE, act).stdout.strip() == str(3 * MIB)


def test_the_service_runs_under_systemd(package, tmp_path):
    """As an operator does it: install, start, crash, reload, check, upgrade, remove, on a machine that systemd booted."""
    with Machine(tmp_path / "machine") as machine:
        service = Service(machine)
        machine.copy_in(package, "/run/fula.deb")
        machine.run("dpkg", "--install", "/run/fula.deb")
        assert service.show("ActiveState") == "inactive"
        machine.run("systemctl", "enable", "--now", "fula")
        service.wait_until_healthy()
        service.use("put")
        first = service.show("MainPID")
        fields = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{first}/status").stdout.splitlines()
                      if ":\t" in line)
        assert int(fields["CapEff"], 16) == 0 and fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
        user = fields["Uid"].split()[0]
        assert user != "0"
        assert machine.run("stat", "-c", "%u %a", "/var/lib/private/fula-gateway").stdout == f"{user} 700\n"
        # A reload keeps the process, a crash brings a new one.
        machine.run("systemctl", "reload", "fula")
        assert service.show("MainPID") == first
        machine.run("systemctl", "kill", "--signal=KILL", "fula")
        eventually(lambda: service.show("MainPID") not in (first, "0"))
        service.wait_until_healthy()
        service.use("get")
        # An upgrade restarts what ran.
        before = service.show("MainPID")
        machine.run("dpkg", "--install", "/run/fula.deb")
        service.wait_until_healthy()
        assert service.show("MainPID") not in (before, "0")
        # A command on the data directory of a service that is stopped, as the guide has it.
        machine.run("systemctl", "stop", "fula")
        assert service.show("Result") == "success"
        checked = machine.run("systemd-run", "--pipe", "--wait", "-p", "DynamicUser=yes", "-p", "User=fula", "-p",
                              "StateDirectory=fula-gateway", "fula", "fsck")
        assert checked.stdout.endswith("0 problems\n"), checked
        machine.run("systemctl", "start", "fula")
        service.wait_until_healthy()
        service.use("get")
        machine.run("dpkg", "--remove", "fula")
        assert machine.run("systemctl", "is-active", "fula", check=False).stdout.strip() in ("inactive", "unknown")
        machine.run("test", "-e", "/var/lib/private/fula-gateway/secrets.key")
