"""The workflows for releases and for the site: what they may do, and what their steps do where they can run here."""

import hashlib
import re
import subprocess

import pytest
import yaml

from conftest import REPO

WORKFLOWS = sorted((REPO / ".github/workflows").glob("*.yml"))
# Major versions of actions that exist.
ACTIONS = {"actions/checkout@v4", "actions/configure-pages@v5", "actions/deploy-pages@v4", "actions/download-artifact@v4",
           "actions/upload-artifact@v4", "actions/upload-pages-artifact@v3"}
# What a job may write, and nothing else.
WRITES = {("release", "publish"): {"contents"}, ("site", "publish"): {"id-token", "pages"}}


def load(name):
    # YAML 1.1 reads the key `on` as a truth value.
    return yaml.safe_load((REPO / f".github/workflows/{name}.yml").read_text())


def step(workflow, job, name):
    return next(step["run"] for step in load(workflow)["jobs"][job]["steps"] if step.get("name") == name)


def run(script, directory, tag):
    return subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=directory, env={"PATH": "/usr/bin:/bin", "TAG": tag},
                          capture_output=True, text=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_may_do_what_they_need_and_no_more(path):
    workflow = load(path.stem)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert {what for what, how in job["permissions"].items() if how == "write"} == WRITES.get((path.stem, name), set())
        assert job["timeout-minutes"] <= 60
        for each in job["steps"]:
            assert each.get("uses", "actions/checkout@v4") in ACTIONS
            # What a tag or a branch is called must not become a command.
            assert "${{" not in each.get("run", "")


def test_a_release_begins_with_the_tag_of_a_version_alone():
    (pattern,) = load("release")[True]["push"]["tags"]
    # In such a pattern + repeats what is before it, and a dot is a dot.
    matches = re.compile(pattern.replace(".", r"\."))
    assert matches.fullmatch("v0.1.0") and matches.fullmatch("v1.20.3")
    assert not matches.fullmatch("v0.1.0-rc.1") and not matches.fullmatch("0.1.0") and not matches.fullmatch("v0x1x0")


def test_the_files_of_a_release_have_its_version_and_their_sums(tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "target/package").mkdir(parents=True)
    for name in ["fula", "fula.deb", "fula-image.tar"]:
        (tmp_path / "target/package" / name).write_text(name)
    done = run(step("release", "build", "Names and sums"), tmp_path, "v1.2.3")
    assert done.returncode == 0, done.stderr
    sums = dict(reversed(line.split()) for line in (tmp_path / "release/SHA256SUMS").read_text().splitlines())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "release").iterdir()}
    files.pop("SHA256SUMS")
    assert sums == files
    assert sorted(sums) == ["fula-1.2.3-linux-amd64", "fula-1.2.3-linux-amd64-image.tar.gz", "fula-1.2.3-linux-amd64.deb"]


@pytest.mark.parametrize("said, accepted", [
    ("fula 1.2.3 (0123456789ab)", True),
    ("fula 1.2.4 (0123456789ab)", False),
    ("fula 1.2.3 (0123456789ab, changed)", False),
    ("fula 1.2.3", False),
])
def test_a_program_of_another_version_or_commit_is_no_release(tmp_path, said, accepted):
    program = tmp_path / "target/package/fula"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "{said}"\n')
    program.chmod(0o755)
    done = run(step("release", "build", "Version"), tmp_path, "v1.2.3")
    assert (done.returncode == 0) == accepted, done.stdout + done.stderr


def test_what_builds_a_release_and_the_site_is_in_the_makefile():
    assert "make static" in step("release", "build", "Program")
    assert "make package PROGRAM=target/release/fula" in step("release", "build", "Packages")
    assert step("site", "build", "Site") == "make site"
    makefile = (REPO / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ["static", "package", "site"])


def test_the_notes_of_a_release_need_an_agreeing_tag(tmp_path):
    done = run(f'cd "{REPO}" && tools/release-notes "$TAG"', tmp_path, "v99.0.0")
    assert done.returncode == 1 and "the tag is v99.0.0" in done.stderr
