"""Tests of `baseline`: it builds an earlier commit, whatever is left of an earlier build."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).parent / "baseline"

# Stands for cargo: the program that it makes prints the content of the source.
CARGO = """#!/bin/sh
source=$(dirname "$(echo "$@" | sed 's/.*--manifest-path \\([^ ]*\\).*/\\1/')")
mkdir -p "$CARGO_TARGET_DIR/debug"
{ echo '#!/bin/sh'; echo "echo $(cat "$source/content")"; } > "$CARGO_TARGET_DIR/debug/fula"
chmod +x "$CARGO_TARGET_DIR/debug/fula"
"""


class Baseline(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.cargo = self.directory / "cargo"
        self.cargo.write_text(CARGO)
        self.cargo.chmod(0o755)
        self.repository = self.directory / "repository"
        (self.repository / "tools").mkdir(parents=True)
        shutil.copy(SCRIPT, self.repository / "tools")
        self.git("init", "--quiet")
        for content in ["first", "second", "third"]:
            (self.repository / "content").write_text(content)
            self.git("add", ".")
            self.git("commit", "--quiet", "--message", content)

    def git(self, *line, at=None):
        env = {**os.environ, "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e", "GIT_COMMITTER_NAME": "n",
               "GIT_COMMITTER_EMAIL": "e"}
        env = {name: value for name, value in env.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
        subprocess.run(["git", *line], cwd=at or self.repository, env=env, check=True, capture_output=True)

    def run_it(self, *line, at=None):
        at = at or self.repository
        done = subprocess.run([at / "tools/baseline", *line], capture_output=True, text=True,
                              env={**os.environ, "CARGO": str(self.cargo)})
        return done

    def built(self, *line, at=None):
        done = self.run_it(*line, at=at)
        self.assertEqual(done.returncode, 0, done.stderr)
        return subprocess.run([done.stdout.strip()], capture_output=True, text=True).stdout.strip()

    def test_the_commit_before_or_the_last_tag_or_a_revision(self):
        self.assertEqual(self.built(), "second")
        self.assertEqual(self.built("HEAD~2"), "first")
        self.git("tag", "v1", "HEAD~2")
        self.assertEqual(self.built(), "first")

    def test_what_is_left_of_an_earlier_build_does_no_harm(self):
        self.assertEqual(self.built(), "second")
        (self.repository / "target/baseline/source/content").write_text("changed by hand")
        self.assertEqual(self.built("HEAD~2"), "first")
        shutil.rmtree(self.repository / "target")
        self.assertEqual(self.built(), "second")
        shutil.rmtree(self.repository / "target/baseline/source")
        (self.repository / "target/baseline/source").mkdir()
        self.assertEqual(self.built(), "second")
        # The repository was moved, so the work tree names another place.
        moved = self.directory / "moved"
        self.repository.rename(moved)
        self.assertEqual(self.built(at=moved), "second")

    def test_a_clone_without_history_is_told_what_to_do(self):
        shallow = self.directory / "shallow"
        self.git("clone", "--quiet", "--depth", "1", self.repository.as_uri(), str(shallow), at=self.directory)
        done = self.run_it(at=shallow)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("git fetch --unshallow", done.stderr)


if __name__ == "__main__":
    unittest.main()
