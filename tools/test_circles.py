"""Tests of tools/circles on small made-up crates: `python3 -m unittest tools/test_circles.py`."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("circles")


class Circles(unittest.TestCase):
    def look(self, files, *options):
        """Returns the exit status for a crate of these files, and what is printed but the last line."""
        with tempfile.TemporaryDirectory() as folder:
            crate = pathlib.Path(folder, "made-up")
            for name, text in files.items():
                place = crate / "src" / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
            done = subprocess.run(
                [sys.executable, SCRIPT, *options, crate], capture_output=True, text=True, check=False
            )
        return done.returncode, done.stdout.splitlines()[:-1] or done.stderr.splitlines()

    def assert_circle(self, files, *expected):
        self.assertEqual(self.look(files), (1, [f"made-up: {len(line.split())} files: {line}" for line in expected]))

    def assert_none(self, files):
        self.assertEqual(self.look(files), (0, []))

    def test_a_chain_is_no_circle(self):
        self.assert_none(
            {
                "lib.rs": "mod a; mod b; mod c; pub use a::A;",
                "a.rs": "use crate::b::B; pub struct A(B, crate::c::C);",
                "b.rs": "use super::c::C; pub struct B(C);",
                "c.rs": "pub struct C;",
            }
        )

    def test_two_files_that_need_each_other(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "use crate::b::B; pub struct A(B);",
                "b.rs": "pub struct B; fn f(a: super::a::A) {}",
            },
            "a.rs b.rs",
        )

    def test_a_circle_through_others(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b; mod c; mod d;",
                "a.rs": "use crate::{b::B, d::D}; pub struct A(B, D);",
                "b.rs": "use crate::c; pub struct B(c::C);",
                "c.rs": "pub struct C; fn f() { crate::a::A::new() }",
                "d.rs": "pub struct D;",
            },
            "a.rs b.rs c.rs",
        )

    def test_two_circles_are_told_apart(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b; mod c; mod d;",
                "a.rs": "use crate::{b::B, c::C}; pub struct A;",
                "b.rs": "use crate::a::A; pub struct B;",
                "c.rs": "use crate::d::D; pub struct C;",
                "d.rs": "use crate::c::C; pub struct D;",
            },
            "a.rs b.rs",
            "c.rs d.rs",
        )

    def test_a_circle_that_needs_another_one(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b; mod c; mod d;",
                "a.rs": "use crate::b::B; pub struct A;",
                "b.rs": "use crate::a::A; pub struct B;",
                "c.rs": "use crate::{a::A, d::D}; pub struct C;",
                "d.rs": "use crate::{b::{self}, c::C}; pub struct D(b::B);",
            },
            "a.rs b.rs",
            "c.rs d.rs",
        )

    def test_a_module_imported_with_its_items(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "use crate::b::{self, missing}; pub struct A(b::B);",
                "b.rs": "use crate::a::A; pub struct B;",
            },
            "a.rs b.rs",
        )

    def test_a_module_and_its_own_child_are_no_circle(self):
        self.assert_none(
            {
                "lib.rs": "mod a; pub use a::A;",
                "a/mod.rs": "mod b; pub use b::B; pub struct A(B);",
                "a/b.rs": "use super::A; pub struct B; impl A {} use crate::a::B as C;",
            }
        )

    def test_what_a_module_and_its_child_need_of_each_other_closes_no_circle(self):
        files = {
            "lib.rs": "mod a; mod c;",
            "a/mod.rs": "pub mod b; pub struct A(crate::c::C);",
            "a/b.rs": "use super::A; pub struct B;",
            "c.rs": "pub struct C(crate::a::b::B);",
        }
        self.assert_none(files)
        files |= {
            "a/mod.rs": "pub mod b; pub struct A(b::B);",
            "a/b.rs": "pub struct B(crate::c::C);",
            "c.rs": "pub struct C(crate::a::A);",
        }
        self.assert_none(files)

    def test_a_child_of_another_module_is_one(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod c;",
                "a.rs": "pub mod b; pub struct A;",
                "a/b.rs": "pub struct B(crate::c::C);",
                "c.rs": "use crate::a::b::B; pub struct C(B);",
            },
            "a/b.rs c.rs",
        )

    def test_re_exports_are_followed_to_the_file_that_defines(self):
        files = {
            "lib.rs": "mod a; mod b; mod all { pub use crate::b::*; pub use crate::b::f as g; }",
            "a.rs": "pub struct A(crate::all::B);",
            "b.rs": "use crate::a::A; pub struct B(A); pub fn f() {}",
        }
        self.assert_circle(files, "a.rs b.rs")
        files["a.rs"] = "use crate::all::g; pub struct A; fn h() { g() }"
        self.assert_circle(files, "a.rs b.rs")

    def test_names_that_come_with_all_others(self):
        files = {
            "lib.rs": "mod a; mod b;",
            "a.rs": "use crate::b::*; pub struct A; fn f() { value() }",
            "b.rs": "use crate::a::A; pub fn value() {}",
        }
        self.assert_circle(files, "a.rs b.rs")
        # A variable that has the name of a function.
        files["a.rs"] = "use crate::b::*; pub struct A; fn f(value: u8) { value; self.value(); }"
        self.assert_none(files)

    def test_modules_inside_a_file(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "pub struct A; mod inner { use super::*; fn f(b: super::super::b::B) {} }",
                "b.rs": "use crate::a::A; pub struct B(A);",
            },
            "a.rs b.rs",
        )

    def test_macros(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b; mod c;",
                "a.rs": "pub struct A; fn f() { crate::twice!(1) }",
                "b.rs": "#[macro_export] macro_rules! twice { ($x:expr) => { $crate::c::double($x) } }",
                "c.rs": "use crate::a::A; pub fn double() {}",
            },
            "a.rs b.rs c.rs",
        )

    def test_tests_are_left_out(self):
        self.assert_none(
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "pub struct A; #[cfg(test)] mod tests { use crate::b::B; } #[cfg(test)] mod more;\n"
                "#[cfg(test)] use crate::{b::B, b::C}; #[cfg(test)] #[expect(dead_code)] fn f() { crate::b::f() }",
                "a/more.rs": "use crate::b::B;",
                "b.rs": "use crate::a::A; pub struct B(A); pub struct C; fn f() {}",
            }
        )

    def test_comments_and_literals_are_no_code(self):
        self.assert_none(
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "// use crate::b::B;\n/* use /* nested */ crate::b::B; */ pub struct A<'a>(&'a str);\n"
                'const S: &str = "\\" crate::b::B"; const R: &str = r#"" crate::b::B"#; const C: char = \'"\';\n'
                "fn f() { 'outer: loop { break 'outer } let q = b'\\''; }",
                "b.rs": "use crate::a::A; pub struct B(A);",
            }
        )

    def test_code_after_literals_is_still_read(self):
        self.assert_circle(
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "const C: [char; 3] = ['\"', '\\'', '\\u{1F600}']; pub struct A<'a>(&'a crate::b::B);",
                "b.rs": "use crate::a::A; pub struct B;",
            },
            "a.rs b.rs",
        )

    def test_why_shows_the_names(self):
        files = {
            "lib.rs": "mod a; mod b;",
            "a.rs": "use crate::b::B; pub struct A;",
            "b.rs": "pub struct B(crate::a::A);",
        }
        lines = ["made-up: 2 files: a.rs b.rs", "  a.rs -> b.rs: b::B", "  b.rs -> a.rs: a::A"]
        self.assertEqual(self.look(files, "--why"), (1, lines))

    def test_a_program_beside_its_library_is_a_crate_of_its_own(self):
        self.assert_circle(
            {
                "lib.rs": "mod a;",
                "a.rs": "",
                "bin/tool/main.rs": "mod a; mod b;",
                "bin/tool/a.rs": "use crate::b::B; pub struct A;",
                "bin/tool/b.rs": "use crate::a::A; pub struct B;",
            },
            "bin/tool/a.rs bin/tool/b.rs",
        )

    def test_a_module_without_its_file_is_an_error(self):
        status, lines = self.look({"lib.rs": "mod a;"})
        self.assertEqual(status, 2)
        self.assertIn("a/mod.rs: No such file", lines[0])


if __name__ == "__main__":
    unittest.main()
