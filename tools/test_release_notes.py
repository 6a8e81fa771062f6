"""Tests of tools/release-notes: `python3 -m unittest tools/test_release_notes.py`."""

import importlib.machinery
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("release-notes")
MANIFEST = '[workspace.package]\nversion = "0.2.0"\n'
CHANGELOG = """# Changelog

## Unreleased

### Added

- Something to come.

## 0.2.0 - 2027-01-31

### Highlights

- Read [Changed](#changed) and [S3 operations](docs/s3.md#buckets), or [AWS](https://aws.amazon.com/s3/).

### Changed

- Something.

## 0.2.0-rc.1 - 2027-01-01

- A candidate.

## 0.1.0 - 2026-12-31

- The first.
"""


def load():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("release_notes", str(SCRIPT))
    spec = importlib.util.spec_from_loader("release_notes", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


notes = load()


class Section(unittest.TestCase):
    def test_it_is_the_text_between_two_headings(self):
        text = notes.section_of("0.2.0", CHANGELOG)
        self.assertTrue(text.startswith("### Highlights\n"))
        self.assertTrue(text.endswith("- Something.\n"))
        self.assertNotIn("to come", text)
        self.assertNotIn("candidate", text)

    def test_the_last_one_ends_with_the_file(self):
        self.assertEqual(notes.section_of("0.1.0", CHANGELOG), "- The first.\n")

    def test_one_that_is_absent_undated_or_empty_is_refused(self):
        for version, changelog, said in [
            ("0.3.0", CHANGELOG, "no section 0.3.0"),
            ("0.2.0", CHANGELOG.replace("0.2.0 - 2027-01-31", "0.2.0"), "needs a date"),
            ("0.1.0", CHANGELOG.replace("- The first.\n", ""), "is empty"),
        ]:
            with self.subTest(said), self.assertRaisesRegex(notes.Disagreement, said):
                notes.section_of(version, changelog)


class Links(unittest.TestCase):
    def test_files_and_headings_are_found_from_elsewhere(self):
        text = notes.linked(notes.section_of("0.2.0", CHANGELOG), "https://host/repository/blob/v0.2.0/")
        self.assertIn("[Changed](https://host/repository/blob/v0.2.0/CHANGELOG.md#changed)", text)
        self.assertIn("[S3 operations](https://host/repository/blob/v0.2.0/docs/s3.md#buckets)", text)
        self.assertIn("[AWS](https://aws.amazon.com/s3/)", text)


class Command(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        (self.directory / "tools").mkdir()
        shutil.copy(SCRIPT, self.directory / "tools")
        (self.directory / "Cargo.toml").write_text(MANIFEST)
        (self.directory / "CHANGELOG.md").write_text(CHANGELOG)

    def run_it(self, *line):
        return subprocess.run([self.directory / "tools/release-notes", *line], capture_output=True, text=True)

    def test_it_prints_the_section_of_the_version(self):
        done = self.run_it("v0.2.0")
        self.assertEqual((done.returncode, done.stdout), (0, notes.section_of("0.2.0", CHANGELOG)))

    def test_another_tag_than_that_of_the_version_is_refused(self):
        for tag in ["v0.1.0", "0.2.0", "v0.2.0-rc.1"]:
            done = self.run_it(tag)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(f"the tag is {tag}, but Cargo.toml has version 0.2.0", done.stderr)

    def test_the_manifest_of_this_repository_is_understood(self):
        manifest = (SCRIPT.parent.parent / "Cargo.toml").read_text(encoding="utf-8")
        with self.assertRaisesRegex(notes.Disagreement, r"has version \d+\.\d+\.\d+"):
            notes.version_of("v", manifest)


if __name__ == "__main__":
    unittest.main()
