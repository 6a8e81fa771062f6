"""docs/semantics.md names tests that exist, in the files where it says they are.

A test is named in backticks, after the file or directory that has it: pipeline/masters `a_test`, `another`. What
a model or a drill reports stands in quotes: protocol "exactly once". A name may begin or end with `*`.
"""

import fnmatch
import re

import pytest

from conftest import REPO

SEMANTICS = (REPO / "docs/semantics.md").read_text()
# What a place begins with there, and where that is.
ROOTS = {
    "pipeline": ["crates/service/tests/pipeline"],
    "sim": ["crates/service/tests/sim"],
    "protocol": ["crates/service/tests/protocol"],
    "clients": ["tests/clients"],
    "tests/clients": ["tests/clients"],
    "crates": ["crates"],
    "drill": ["crates/testkit/src/bin/drill"],
    **{crate: [f"crates/{crate}/src", f"crates/{crate}"] for crate in
       ("core", "identity", "stores", "service", "gateway", "node", "testkit")},
}
PLACE = re.compile(rf"(?<![\w/])({'|'.join(sorted(ROOTS, key=len, reverse=True))})((?:/\w+)*)(?:\.py|\.rs)?(?![\w/])")
NAME = re.compile(r"`((?!fula_)[a-z*][a-z0-9*]*(?:_[a-z0-9*]+)+)`")
QUOTED = re.compile(r'"([^"]+)"')
RUST_TEST = re.compile(r"#\[(?:tokio::)?test\b[^\n]*\n(?:\s*(?:#\[|//)[^\n]*\n)*\s*(?:async )?fn (\w+)\(")
PYTHON_TEST = re.compile(r"^def (test_\w+)\(", re.M)


def files_at(root, rest):
    """The sources of a module: its file, and all in its directory."""
    found = []
    for base in ROOTS[root]:
        path = REPO / (base + rest)
        found += [path.with_suffix(end) for end in (".rs", ".py") if path.with_suffix(end).is_file()]
        found += [file for end in ("rs", "py") for file in path.rglob(f"*.{end}")]
    return found


def declared_in(files):
    return {name for file in files
            for name in (RUST_TEST if file.suffix == ".rs" else PYTHON_TEST).findall(file.read_text())}


def mentions(text):
    """What is named, in its order: ("place", root, rest), ("name", name) or ("quoted", words)."""
    found = [(match.start(), ("place", match[1], match[2])) for match in PLACE.finditer(text)]
    found += [(match.start(), ("name", match[1])) for match in NAME.finditer(text)]
    found += [(match.start(), ("quoted", match[1])) for match in QUOTED.finditer(text)]
    return [mention for _, mention in sorted(found)]


def wrong_in(text):
    """The places, tests and properties that `text` names and that do not exist."""
    wrong, files = [], []
    for kind, *what in mentions(text):
        if kind == "place":
            files = files_at(*what)
            # A word such as "protocol" alone may mean what it means elsewhere.
            if not files:
                wrong.append("".join(what))
        elif kind == "name" and not fnmatch.filter(declared_in(files), what[0]):
            wrong.append(what[0])
        elif kind == "quoted" and not any(f'"{what[0]}"' in file.read_text() for file in files):
            wrong.append(what[0])
    return wrong


def test_every_test_that_is_named_exists():
    assert len(NAME.findall(SEMANTICS)) > 20
    assert wrong_in(SEMANTICS) == []


def test_files_of_tests_that_are_named_exist():
    files = set(re.findall(r"`(test_\w+\.py)`", SEMANTICS))
    assert files and {file for file in files if not (REPO / "tests/clients" / file).is_file()} == set()


@pytest.mark.parametrize("text, wrong", [
    ("pipeline/masters `of_many_that_create_a_key_one_wins`", []),
    ("pipeline/masters `a_test_that_was_renamed`", ["a_test_that_was_renamed"]),
    # It exists, but in another file.
    ("pipeline/retries `of_many_that_create_a_key_one_wins`", ["of_many_that_create_a_key_one_wins"]),
    ("`pipeline/gone` `of_many_that_create_a_key_one_wins`", ["pipeline/gone", "of_many_that_create_a_key_one_wins"]),
    ("clients/test_masters `test_an_arbiter_that_is_away`; sim `*_is_found`", []),
    ("sim `*_is_lost`", ["*_is_lost"]),
    ('protocol "exactly once" and drill "unconditional"', []),
    ('protocol "at least once"', ["at least once"]),
    # A function that is no test.
    ("sim `is_found`", ["is_found"]),
])
def test_what_does_not_exist_is_found(text, wrong):
    assert wrong_in(text) == wrong
