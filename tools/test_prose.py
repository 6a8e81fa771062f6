"""Tests of tools/prose on small made-up files: `python3 -m unittest tools/test_prose.py`."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("prose")
TABLE = 'see "Words to avoid" in docs/style.md'


class Prose(unittest.TestCase):
    def look(self, files, *options):
        """Returns the exit status for these files, and what is printed but the last line."""
        with tempfile.TemporaryDirectory() as folder:
            places = []
            for name, text in files.items():
                place = pathlib.Path(folder).resolve() / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
                places.append(place)
            done = subprocess.run(
                [sys.executable, SCRIPT, *options, *places], capture_output=True, text=True, check=False
            )
            lines = [line.removeprefix(f"{pathlib.Path(folder).resolve()}/") for line in done.stdout.splitlines()]
        return done.returncode, lines[:-1] or done.stderr.splitlines()

    def assert_found(self, files, *expected):
        self.assertEqual(self.look(files), (1, list(expected)))

    def assert_clean(self, files):
        self.assertEqual(self.look(files), (0, []))


def words(number):
    """Returns so many words, in lines that are short enough."""
    return "\n".join(" ".join(["word"] * min(10, number - at)) for at in range(0, number, 10))


class Documents(Prose):
    def test_a_long_line_of_prose(self):
        self.assert_found({"a.md": "# A\n\n" + "word " * 21 + "123456\n"}, "a.md:3: a line of 111 characters: at most 110")
        self.assert_clean({"a.md": "# A\n\n" + "word " * 21 + "12345\n"})

    def test_tables_blocks_and_addresses_may_be_long(self):
        address = "https://example.com/" + "a" * 100
        self.assert_clean({"a.md": f"| {'word ' * 30}|\n\n```text\n{'word ' * 30}\n```\n\n- {address}\n"})

    def test_what_follows_a_block_is_prose_again(self):
        self.assert_found(
            {"a.md": "````sh\n```\nwhoever\n````\n~~~\nwhoever\n~~~\nwhoever\n"}, f'a.md:8: "whoever": {TABLE}'
        )

    def test_fragments_across_lines_and_in_any_case(self):
        self.assert_found(
            {"a.md": "Whoever asks.\n\nA client is\ntold so.\n| a | was had |\n"},
            f'a.md:1: "Whoever": {TABLE}', f'a.md:3: "is told": {TABLE}', f'a.md:5: "was had": {TABLE}',
        )

    def test_parts_of_words_and_code_are_no_fragments(self):
        self.assert_clean({"a.md": "This was hadoop; `whoever` and\n``a ` whoever`` are code. Judgement, judge-free.\n"})

    def test_fragments_of_two_paragraphs_do_not_join(self):
        self.assert_clean({"a.md": "# What is\n\ntold\n\n- A client is\n- told\n"})

    def test_a_long_sentence(self):
        self.assert_found({"a.md": f"Short one. A\n{words(30)}.\n"}, "a.md:1: a sentence of 31 words: at most 30")
        self.assert_clean({"a.md": f"A\n{words(29)}. A\n{words(29)}: B\n{words(29)}.\n"})

    def test_a_long_sentence_is_where_it_begins(self):
        text = f"One.\nTwo. And{' word' * 15}\n{'word ' * 15}.\n"
        self.assert_found({"a.md": text}, "a.md:2: a sentence of 31 words: at most 30")

    def test_items_and_cells_have_sentences_of_their_own(self):
        half = "word " * 20
        self.assert_clean({"a.md": f"{half}\n- {half}\n- {half}\n1. {half}\n| {half} | {half} |\n\n{half}\n"})

    def test_code_is_one_word_and_a_target_none(self):
        self.assert_clean({"a.md": f"A `fula fsck --repair --roots keep` [b](c.md)\n{words(27)}.\n"})


class Decisions(Prose):
    def of(self, decision=1, head="# 0007: A title\n\nDate: 2026-01-02. Status: accepted.\n",
           row="| 0007 | [A title](0007-a.md) | 2026-01-02 | accepted, changed by 0008 |\n"):
        section = "\n".join(f"{n}. This is a point." for n in range(decision))
        text = f"{head}\n## Context\n\nSomething.\n\n## Decision\n\n{section}\n\n## Consequences\n\nOthers.\n"
        return {"adr/0007-a.md": text, "adr/README.md": row}

    def test_a_decision_is_short(self):
        self.assert_clean(self.of(40))
        self.assert_found(self.of(41), "adr/0007-a.md:9: the section Decision has 41 lines: at most 40")

    def test_a_decision_has_date_and_status(self):
        begins = 'adr/0007-a.md:1: a decision begins with "# 0007: Title" and "Date: YYYY-MM-DD. Status: accepted."'
        self.assert_found(self.of(head="# 0007: A title\n"), begins)
        self.assert_found(self.of(head="# 0008: A title\n\nDate: 2026-01-02. Status: accepted.\n"), begins)

    def test_a_decision_is_in_the_index(self):
        row = "| 0007 | [A title](0007-a.md) | 2026-01-02 | accepted"
        self.assert_found(self.of(row="| 0007 | [Another](0007-a.md) | 2026-01-02 | accepted |\n"),
                          f'adr/0007-a.md:1: the index lacks "{row}"')


class Sources(Prose):
    def test_the_doc_comment_of_a_function_begins_with_a_verb(self):
        self.assert_found(
            {"a.rs": "/// The block.\nfn block() {}\n    /// This does.\n    pub(crate) async fn other() {}\n"},
            'a.rs:1: block: its doc comment begins with "The", not with a verb ("Returns ...")',
            'a.rs:3: other: its doc comment begins with "This", not with a verb ("Returns ...")',
        )
        self.assert_clean({"a.rs": "/// Returns the block.\n///\n/// The bytes.\n#[must_use]\npub const fn block() {}\n"})

    def test_attributes_of_several_lines_stand_between(self):
        self.assert_found(
            {"a.rs": '/// A block.\n#[expect(\n    clippy::x,\n    reason = "[y]"\n)]\nfn block() {}\n'},
            'a.rs:1: block: its doc comment begins with "A", not with a verb ("Returns ...")',
        )

    def test_other_items_may_begin_with_a_noun(self):
        self.assert_clean({"a.rs": "//! The module.\n\n/// A block.\nstruct Block {\n    /// The size.\n    size: u64,\n}\n"})

    def test_tests_say_what_must_be_true(self):
        text = "/// A block is there.\n"
        self.assert_clean({
            "lib.rs": f"{text}#[test]\nfn a() {{}}\n{text}#[tokio::test(start_paused = true)]\nasync fn b() {{}}\n"
            f"#[cfg(test)]\nmod inner {{\n    {text}    fn c() {{}}\n}}\n#[cfg(test)]\nmod outer;\n",
            "outer.rs": f"{text}fn d() {{}}\n",
            "outer/more.rs": f"{text}fn e() {{}}\n",
            "tests/f.rs": f"{text}fn f() {{}}\n",
            "conformance/g.rs": f"{text}fn g() {{}}\n",
        })

    def test_what_follows_a_test_module_is_held_to_the_rule(self):
        self.assert_found(
            {"a.rs": "#[cfg(test)]\nmod tests {\n    /// A b.\n    fn b() {}\n}\n/// A c.\nfn c() {}\n"},
            'a.rs:6: c: its doc comment begins with "A", not with a verb ("Returns ...")',
        )

    def test_fragments_in_every_comment(self):
        self.assert_found(
            {"a.rs": "//! For whoever asks.\n\nfn a() {\n    // It is\n    // told so.\n}\n"},
            f'a.rs:1: "whoever": {TABLE}', f'a.rs:4: "is told": {TABLE}',
        )
        self.assert_clean({"a.rs": 'fn a() {\n    // See `whoever`.\n    b("whoever");\n}\n'})


class Files(Prose):
    def test_a_file_that_cannot_be_read(self):
        done = subprocess.run([sys.executable, SCRIPT, "gone.md"], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertTrue(done.stderr.startswith("prose: "), done.stderr)

    def test_both_kinds_of_files_are_found(self):
        for options in [], ["--comments"]:
            done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, check=False)
            self.assertIn(done.returncode, (0, 1), done.stderr)
            files = int(done.stdout.splitlines()[-1].split()[-2])
            self.assertGreater(files, 50)


if __name__ == "__main__":
    unittest.main()
