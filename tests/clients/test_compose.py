"""The compose files: they are valid, and what they start works together. The services run as a container runtime
runs them, with the image, the environment, the secrets and the volumes of the files."""

import contextlib
import glob
import os
import shutil
import subprocess
import sys
import tempfile

import pathlib
import pytest
import yaml

from conftest import FULA, REPO
from container import Container, Image, Network, Process
from helpers import eventually

FILES = ["one-master.yml", "storage-node.yml", "three-masters.yml"]
KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"

S3 = """
import boto3, sys, warnings
warnings.simplefilter("ignore")
host, act = sys.argv[1:3]
s3 = boto3.client("s3", endpoint_url=f"https://{host}:9000", region_name="us-east-1", verify=False)
if act == "make":
    s3.create_bucket(Bucket="shared")
if act in ("make", "put"):
    s3.put_object(Bucket="shared", Key=host, Body=host.encode() * 100_000)
print(" ".join(sorted(found["Key"] for found in s3.list_objects_v2(Bucket="shared")["Contents"])))
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return Image(tmp_path_factory.mktemp("image"))


def compose(directory, file, **env):
    """What docker-compose makes of a file: all variables, anchors and defaults are resolved."""
    done = subprocess.run(["docker-compose", "-f", file, "config"], cwd=directory, capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], "HOME": str(directory), **env}, timeout=120)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture
def prepared(tmp_path):
    """A copy of the folder, prepared as an operator does it."""
    folder = tmp_path / "compose"
    shutil.copytree(REPO / "deploy/compose", folder, ignore=shutil.ignore_patterns("secrets*", ".env"))
    done = subprocess.run([folder / "prepare", FULA], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def ours(config):
    """The services that run our image."""
    return {name: service for name, service in config["services"].items() if service["image"] == "fula"}


class Deployment:
    """The services of a compose file. Volumes are made once for all services that name them."""

    def __init__(self, image, config, tmp):
        self.image, self.config, self.tmp = image, config, tmp
        self.volumes = {}
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(sorted(config["services"]), 11)}
        self.hosts = tmp / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n" + "".join(
            f"{address} {name}\n" for name, address in self.addresses.items()))

    def mounts(self, name):
        service = self.config["services"][name]
        found = [(self.hosts, "/etc/hosts")]
        for volume in service["volumes"]:
            source, target = volume.split(":")[:2]
            if source not in self.volumes:
                self.volumes[source] = self.image.volume(self.tmp / f"volume-{source}", target)
            found.append((self.volumes[source], target))
        for secret in service.get("secrets", []):
            file = self.config["secrets"][secret["source"]]["file"]
            found.append((file, f"/run/secrets/{secret['source']}"))
        return found

    def container(self, name, *command, network=None):
        service = self.config["services"][name]
        command = command or service.get("command") or ()
        address = self.addresses[name] if network else None
        return Container(self.image, self.mounts(name), *command, log=self.tmp / f"{name}.log", network=network,
                         address=address, **service.get("environment", {}))


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_valid_and_hardens_its_services(prepared, file):
    masters = f"main=https://s3.example.com#{KEY}"
    config = compose(prepared, file, FULA_MASTERS=masters)
    services = ours(config)
    assert len(services) == {"one-master.yml": 1, "storage-node.yml": 1, "three-masters.yml": 4}[file]
    for name, service in services.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["tmpfs"] == ["/tmp"], name
        assert service["stop_grace_period"] == "40s" and service["restart"] == "unless-stopped", name
        # The admin listener shows metrics to everyone.
        assert all("9001" not in port for port in service["ports"]), name
        secret = [key for key in service.get("environment", {}) if key in ("FULA_DATABASE_URL", "FULA_SECRET_ACCESS_KEY")]
        assert secret == [], name


@pytest.mark.parametrize("file", FILES)
def test_the_program_accepts_the_settings_of_every_service(image, prepared, tmp_path, file):
    config = compose(prepared, file, FULA_MASTERS=f"main=https://s3.example.com#{KEY}")
    deployment = Deployment(image, config, tmp_path)
    for name, service in ours(config).items():
        role = service.get("command") or ["gateway"]
        with deployment.container(name, "config", "check", *role) as checked:
            assert checked.unshare.wait(timeout=120) == 0, checked.log.read_text()


def test_a_storage_node_without_masters_is_not_started(prepared):
    done = subprocess.run(["docker-compose", "-f", "storage-node.yml", "config"], cwd=prepared, capture_output=True,
                          text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0 and "name the masters" in done.stderr


def test_secrets_are_made_once_and_for_their_user_alone(prepared):
    secrets = prepared / "secrets"
    for name in ["secrets.key", "node.key", "tls.key", "database-url"]:
        found = (secrets / name).stat()
        assert (found.st_mode & 0o777, found.st_uid) == (0o600, 10001), name
    assert (prepared / ".env").stat().st_mode & 0o777 == 0o600
    before = {path: path.read_bytes() for path in secrets.iterdir()}
    again = subprocess.run([prepared / "prepare", FULA], capture_output=True, text=True)
    assert again.returncode == 1 and "nothing was changed" in again.stderr
    assert {path: path.read_bytes() for path in secrets.iterdir()} == before
    # What fails half way leaves nothing behind.
    shutil.rmtree(secrets)
    (prepared / ".env").unlink()
    failed = subprocess.run([prepared / "prepare", "false"], capture_output=True, text=True)
    assert failed.returncode == 1 and not secrets.exists() and not (prepared / ".env").exists()
    assert list(prepared.glob("secrets.*")) == []


@contextlib.contextmanager
def postgres(deployment, network):
    """Stands for the image of Postgres: the server of the machine, with the user, the database and the password
    that its service names."""
    (programs,) = glob.glob("/usr/lib/postgresql/*/bin")
    # The user postgres cannot enter the folder of the test.
    directory = pathlib.Path(tempfile.mkdtemp())
    try:
        service = deployment.config["services"]["postgres"]
        env = service["environment"]
        secret = deployment.config["secrets"][env["POSTGRES_PASSWORD_FILE"].rsplit("/", 1)[1]]["file"]
        shutil.copy(secret, directory / "password")
        for path in [directory, directory / "password"]:
            shutil.chown(path, "postgres", "postgres")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        subprocess.run([*user, f"{programs}/initdb", "-D", directory / "data", "-U", env["POSTGRES_USER"], "--auth",
                        "scram-sha-256", "--pwfile", directory / "password"], check=True, capture_output=True)
        with open(directory / "data/pg_hba.conf", "a") as rules:
            rules.write("host all all 10.77.0.0/24 scram-sha-256\n")
        start = [*user, f"{programs}/postgres", "-D", directory / "data", "-h", "*", "-k", directory]
        wait = "ip link set lo up; until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done; exec \"$@\""
        address = deployment.addresses["postgres"]
        with Process(["sh", "-c", wait, "sh", *start], deployment.tmp / "postgres.log", network, address) as server:
            client = {**os.environ, "PGPASSWORD": pathlib.Path(secret).read_text().strip()}
            made = [f"{programs}/psql", "-h", address, "-U", env["POSTGRES_USER"], "-d", "postgres", "-c",
                    f"CREATE DATABASE {env['POSTGRES_DB']}"]
            said = deployment.tmp / "postgres.log"
            eventually(lambda: network.enter(*made, env=client).returncode == 0, 120, said.read_text)
            yield server
    finally:
        shutil.rmtree(directory)


def test_three_masters_and_a_storage_node_work_together(image, prepared, tmp_path):
    deployment = Deployment(image, compose(prepared, "three-masters.yml"), tmp_path)
    masters = ["master1", "master2", "master3"]
    with contextlib.ExitStack() as stack:
        network = Network()
        stack.callback(network.stop)
        stack.enter_context(postgres(deployment, network))
        running = {name: stack.enter_context(deployment.container(name, network=network))
                   for name in [*masters, "node"]}
        for container in running.values():
            container.wait_until_healthy()
        keys = {"AWS_SHARED_CREDENTIALS_FILE": str(deployment.volumes["master1"] / "credentials")}

        def s3(name, act):
            done = network.enter(sys.executable, "-c", S3, deployment.addresses[name], act, env={**os.environ, **keys})
            assert done.returncode == 0, f"{name}: {done.stderr}"
            return done.stdout.split()

        hosts = [deployment.addresses[name] for name in masters]
        s3("master1", "make")
        s3("master2", "put")
        assert s3("master3", "put") == hosts
        # The node has heard of its masters, and each of them of the node.
        health = f"https://{deployment.addresses['node']}:3601/health"
        eventually(lambda: '"ok"' in network.enter("curl", "-sk", health).stdout, 120, running["node"].log.read_text)

        def sees_all(name):
            seen = network.enter("curl", "-s", f"http://{deployment.addresses[name]}:9001/metrics").stdout
            return "\nfula_storage_nodes_away 0\n" in seen and "\nfula_masters_seen 3\n" in seen

        for name in masters:
            eventually(lambda: sees_all(name), 120, running[name].log.read_text)
        # One master is lost. The others go on, and it comes back with what it had.
        running["master1"].kill()
        assert s3("master2", "put") == hosts
        again = stack.enter_context(deployment.container("master1", network=network))
        again.wait_until_healthy()
        assert s3("master1", "get") == hosts
        for container in [again, running["node"], *(running[name] for name in masters[1:])]:
            assert container.stop() == 0, container.log.read_text()
