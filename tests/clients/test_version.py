"""Which commit a build names: that of its sources, and none where that cannot be known."""

import os
import re
import shutil
import subprocess

import pytest

from conftest import FULA, REPO


def test_the_program_names_its_version_and_commit():
    said = subprocess.run([FULA, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"fula \d+\.\d+\.\d+( \([0-9a-f]{12}(, changed)?\))?\n", said), said
    assert said == subprocess.run([FULA, "keys", "--version"], capture_output=True, text=True,
                                  check=True).stdout.replace("fula-keys", "fula")


@pytest.fixture(scope="module")
def build_script(tmp_path_factory):
    """The build script of the program, compiled by itself as for version 1.2.3."""
    program = tmp_path_factory.mktemp("build") / "script"
    subprocess.run(["rustc", "--edition", "2024", "-o", program, REPO / "crates/node/build.rs"],
                   check=True, env={**os.environ, "CARGO_PKG_VERSION": "1.2.3"})
    return program


def git(directory, *line):
    who = ["-c", "user.name=n", "-c", "user.email=e@localhost", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *line], cwd=directory, check=True, capture_output=True, text=True).stdout


def sources(directory):
    """A copy of the sources as far as the build script looks at them."""
    crate = directory / "crates/node"
    crate.mkdir(parents=True)
    for name in ["Cargo.toml", "build.rs", "archived-commit.txt"]:
        shutil.copy(REPO / "crates/node" / name, crate)
    for name in ["Cargo.toml", "Cargo.lock", ".gitattributes"]:
        shutil.copy(REPO / name, directory)
    return crate


def committed(directory):
    """Makes a repository of the sources, and returns its crate and its commit."""
    crate = sources(directory)
    git(directory, "init")
    git(directory, "add", ".")
    git(directory, "commit", "-m", "first")
    return crate, git(directory, "rev-parse", "HEAD").strip()


def version(script, crate, **env):
    """What a build in this folder says of itself, and the files whose change has it built again."""
    env = {"PATH": os.environ["PATH"], "HOME": str(crate), **env}
    done = subprocess.run([script], cwd=crate, env=env, check=True, capture_output=True, text=True)
    watched = re.findall("^cargo::rerun-if-changed=(.*)$", done.stdout, re.M)
    assert [path for path in watched if not (crate / path).exists()] == [], "cargo would build it every time"
    return re.search("^cargo::rustc-env=FULA_VERSION=(.*)$", done.stdout, re.M)[1], watched


def test_a_repository_names_its_commit_and_changes(build_script, tmp_path):
    crate, commit = committed(tmp_path / "repository")
    found, watched = version(build_script, crate)
    assert found == f"1.2.3 ({commit[:12]})"
    assert any(path.endswith("logs/HEAD") for path in watched), watched
    (crate / "Cargo.toml").write_text("changed")
    assert version(build_script, crate)[0] == f"1.2.3 ({commit[:12]}, changed)"
    # A second work tree has its repository elsewhere.
    git(tmp_path / "repository", "worktree", "add", tmp_path / "second")
    assert version(build_script, tmp_path / "second/crates/node")[0] == f"1.2.3 ({commit[:12]})"


def test_an_archive_names_its_commit_without_git(build_script, tmp_path):
    _, commit = committed(tmp_path / "repository")
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=tmp_path / "repository", capture_output=True, check=True)
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "x"], cwd=unpacked, input=archive.stdout, check=True)
    assert version(build_script, unpacked / "crates/node", PATH="/nonexistent")[0] == f"1.2.3 ({commit[:12]})"


def test_a_copy_without_a_repository_is_built_and_names_no_commit(build_script, tmp_path):
    crate = sources(tmp_path / "copy")
    assert version(build_script, crate, PATH="/nonexistent")[0] == "1.2.3"
    # A repository around it that does not track it is that of something else.
    (tmp_path / "other").write_text("x")
    git(tmp_path, "init")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-m", "something else")
    assert version(build_script, crate)[0] == "1.2.3"


def test_the_builder_of_a_package_can_name_the_commit(build_script, tmp_path):
    crate, _ = committed(tmp_path / "repository")
    assert version(build_script, crate, FULA_COMMIT="0123456789abcdef" * 2)[0] == "1.2.3 (0123456789ab)"
    # What is no commit does not count.
    assert "no commit" not in version(build_script, crate, FULA_COMMIT="no commit")[0]
