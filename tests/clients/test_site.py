"""The documents as a site: `make site` builds them, every page is in the navigation, and every link leads somewhere."""

import html.parser
import os
import pathlib
import posixpath
import shutil
import subprocess
import urllib.parse

import pytest

from conftest import REPO

MKDOCS = REPO / "target/site-venv/bin/mkdocs"


def build(repository, site):
    return subprocess.run([MKDOCS, "build", "--strict", "--site-dir", site], cwd=repository, timeout=600,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)


class Page(html.parser.HTMLParser):
    """A page as a browser sees it: its anchors, its links, the links of its navigation, and its text."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.navigation, self.text = {""}, [], [], []
        self.verbatim = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.verbatim += tag in ("code", "script", "style")
        link = given.get("href", given.get("src"))
        if link is not None:
            self.links.append(link)
            if "md-nav__link" in given.get("class", ""):
                self.navigation.append(link)

    def handle_endtag(self, tag):
        self.verbatim -= tag in ("code", "script", "style")

    def handle_data(self, data):
        if not self.verbatim:
            self.text.append(data)


def address_of(document):
    """Returns the directory of the site in which a document is a page."""
    folder = document.parent if document.stem == "README" else document.with_suffix("")
    return "" if folder == pathlib.Path() else f"{folder.as_posix()}/"


@pytest.fixture(scope="module")
def documents():
    """The documents of the site, as Git knows them."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=REPO, capture_output=True,
                            text=True, check=True)
    paths = map(pathlib.Path, listed.stdout.split())
    return [path for path in paths if path.parent == pathlib.Path() or path.parts[0] in ("docs", "examples")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """All pages, by their directory."""
    site = tmp_path_factory.mktemp("site")
    done = build(REPO, site)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.parent.relative_to(site).as_posix(): Page(path) for path in site.rglob("index.html")}
    return site, {"" if at == "." else f"{at}/": page for at, page in found.items()}


def test_every_document_is_a_page_in_the_navigation(documents, pages):
    _, found = pages
    expected = {address_of(document) for document in documents}
    assert {"", "docs/faq/", "docs/adr/", "docs/guide/first-bucket/"} <= expected <= set(found)
    shown = {posixpath.normpath(link) + "/" for link in found[""].navigation if not link.startswith("#")}
    assert {f"./{at}" if at == "" else at for at in expected} <= shown


def test_every_link_and_anchor_leads_somewhere(pages):
    site, found = pages
    broken, checked = [], 0
    for at, page in found.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            checked += 1
            path = posixpath.normpath(posixpath.join(at, urllib.parse.unquote(url.path)))
            path = "" if path == "." else path
            target = found.get(at if not url.path else f"{path}/" if path else "")
            anchor = urllib.parse.unquote(url.fragment)
            if not (anchor in target.anchors if target else (site / path).is_file() and not anchor):
                broken.append(f"{at}: {link}")
    assert not broken
    assert checked > 1000


def test_no_markdown_is_left_over(pages):
    _, found = pages
    left = [(at, line) for at, page in found.items() for line in "".join(page.text).splitlines()
            if line.lstrip().startswith(("```", "- ", "|", "# ", "## ")) or "](" in line or "**" in line]
    assert not left


def test_pages_ask_no_other_server(pages):
    site, found = pages
    for path in site.rglob("index.html"):
        page = path.read_text(encoding="utf-8")
        assert "googleapis" not in page and 'src="http' not in page and 'rel="stylesheet" href="http' not in page, path


@pytest.mark.parametrize("document, line, said", [
    ("docs/faq.md", "[A page](nowhere.md)", "nowhere.md"),
    ("docs/faq.md", "[A heading](glossary.md#nowhere)", "nowhere"),
    ("README.md", "[A file](examples/nowhere.py)", "nowhere.py"),
    ("docs/nowhere.md", "# Not in the navigation", "docs/nowhere.md"),
])
def test_a_link_to_nowhere_and_a_page_without_a_place_are_errors(tmp_path, document, line, said):
    for name in ["docs", "examples", "tools/site", "crates/client/examples", "crates/core/examples"]:
        shutil.copytree(REPO / name, tmp_path / name)
    for path in [*REPO.glob("*.md"), REPO / "LICENSE", REPO / "mkdocs.yml"]:
        shutil.copy(path, tmp_path)
    with open(tmp_path / document, "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0 and said in done.stdout + done.stderr, done.stdout + done.stderr
