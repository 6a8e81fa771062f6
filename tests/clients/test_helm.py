"""The Helm chart: it is valid, refuses values that would lose data, and the program accepts what it renders."""

import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from conftest import REPO, TOOLS
from container import Container, Image

CHART = REPO / "deploy/helm/fula"
THREE = {"replicas": 3, "arbiter.secret": "arbiter", "blocks.url": "s3://blocks/fula", "blocks.secret": "blocks",
         "tls.secret": "tls", "settings.FULA_REGION": "eu-x"}


def helm(*line, **values):
    program = TOOLS / "helm" if (TOOLS / "helm").exists() else shutil.which("helm")
    sets = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    return subprocess.run([program, *map(str, line), *sets], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "HOME": "/nonexistent", "HELM_CACHE_HOME": "/nonexistent"})


def rendered(**values):
    done = helm("template", "s3", CHART, **values)
    assert done.returncode == 0, done.stderr
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


@pytest.mark.parametrize("values", [{}, THREE], ids=["one", "three"])
def test_the_chart_is_valid(values):
    done = helm("lint", "--strict", CHART, **values)
    assert done.returncode == 0 and "0 chart(s) failed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("values, expected", [
    ({"replicas": 3}, "set arbiter.secret"),
    ({"replicas": 3, "arbiter.secret": "a"}, "set blocks.url"),
    ({"arbiter.secret": "a"}, "set blocks.url"),
    ({"blocks.secret": "a"}, "no meaning without blocks.url"),
])
def test_values_that_do_not_go_together_are_refused(values, expected):
    done = helm("template", "s3", CHART, **values)
    assert done.returncode != 0 and expected in done.stderr


def test_the_version_is_that_of_the_program():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    workspace = (REPO / "Cargo.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in workspace
    pod = rendered()["StatefulSet", "s3"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"fula:{chart['appVersion']}"


@pytest.mark.parametrize("values", [{}, THREE], ids=["one", "three"])
def test_pods_are_hardened_and_keep_their_state(values):
    documents = rendered(**values)
    stateful = documents["StatefulSet", "s3"]["spec"]
    pod = stateful["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False and pod["terminationGracePeriodSeconds"] > 30
    assert container["securityContext"] == {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                                            "capabilities": {"drop": ["ALL"]}}
    assert stateful["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOnce"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]} | {"data": {}}
    assert mounts == set(volumes)
    # A secret that its group can read, and nobody else: the program refuses any other.
    assert all(volume["secret"]["defaultMode"] == 0o440 for volume in volumes.values() if "secret" in volume)
    assert (("PodDisruptionBudget", "s3") in documents) == (values != {})
    ports = {port["name"] for port in documents["Service", "s3"]["spec"]["ports"]}
    assert ports == {"s3"}, "the service for clients shows no metrics"
    assert stateful["selector"]["matchLabels"].items() <= stateful["template"]["metadata"]["labels"].items()
    assert documents["Service", stateful["serviceName"]]["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("values", [{}, THREE], ids=["one", "three"])
def test_the_program_accepts_the_settings_of_a_pod(values, tmp_path):
    """The environment and the files of a pod, with the owners and modes that Kubernetes gives them."""
    image = Image(tmp_path / "image")
    (container,) = rendered(**values)["StatefulSet", "s3"]["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert env.get("FULA_REGION") == values.get("settings.FULA_REGION")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-subj", "/CN=s3", "-days", "2", "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"],
                   check=True, capture_output=True)
    for name, text in {"secrets.key": "5a" * 32, "database-url": "postgres://fula:hush@db/fula",
                       "credentials": "AWS_ACCESS_KEY_ID=A\nAWS_SECRET_ACCESS_KEY=hush\n"}.items():
        (tmp_path / name).write_text(text)
    mounts = []
    for place in (value for name, value in env.items() if value.startswith("/run/")):
        file = tmp_path / pathlib.Path(place).name
        os.chown(file, 0, 10001)
        file.chmod(0o440)
        mounts.append((file, place))
    # A volume belongs to root, and its group is that of the pod.
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 0, 10001)
    volume.chmod(0o2775)
    mounts.append((volume, "/data"))
    with Container(image, mounts, "config", "check", *container["args"], log=tmp_path / "log", **env) as checked:
        assert checked.unshare.wait(timeout=120) == 0, checked.log.read_text()
    assert "hush" not in (tmp_path / "log").read_text()
    if values == {}:
        with Container(image, mounts, *container["args"], log=tmp_path / "log", **env) as pod:
            pod.wait_until_healthy()
            assert pod.stop() == 0
        assert (volume / "fula/credentials").stat().st_mode & 0o777 == 0o600
