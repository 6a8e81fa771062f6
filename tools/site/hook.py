"""Lets mkdocs build the site from the documents as they lie in the repository.

A page has the place of its document: docs/faq.md becomes docs/faq/, README.md the first page. So links between
documents work in the site as they do in the repository. A file that a document links to, such as an example,
becomes a page that shows it.
"""

import os
import pathlib
import re

from mkdocs.structure.files import File, Files, InclusionLevel

TOP = pathlib.Path(__file__).resolve().parents[2]
# A target of a link in Markdown, without the part after #.
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
FENCE = re.compile(r"^([ ]*)(`{3,})(\w+)[ ]+(\S.*)$", re.MULTILINE)
# An address in angle brackets that Python-Markdown takes for an element of HTML.
ADDRESS = re.compile(r"<([a-z0-9+]+://[^\s<>]*)>")
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
# Within a name, and not within a tag.
UNDERSCORE = re.compile(r"(?<=\w)_(?=\w)(?![^<>]*>)")
ITEM = re.compile(r"(- |\d+\. )\S")


def documents():
    """Returns the paths of all documents of the site, below the repository."""
    found = [*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), *TOP.glob("examples/*.md")]
    return sorted(path.relative_to(TOP).as_posix() for path in found)


def target_of(document, link):
    """Returns the path that a link of a document leads to, below the repository."""
    return os.path.normpath(os.path.join(os.path.dirname(document), link))


def linked(documents):
    """Returns the files that documents link to and that are no documents."""
    found = set()
    for document in documents:
        for link in LINK.findall((TOP / document).read_text(encoding="utf-8")):
            target = target_of(document, link)
            if (TOP / target).is_file() and not target.endswith(".md"):
                found.add(target)
    return sorted(found)


def is_picture(path):
    return path.endswith((".svg", ".png"))


def shown(path):
    """Returns the page that shows a file."""
    language = {".py": "python", ".rs": "rust", ".sh": "sh", ".yml": "yaml"}.get(pathlib.Path(path).suffix, "text")
    return f"# {path}\n\n`````{language}\n{(TOP / path).read_text(encoding='utf-8')}`````\n"


def indented(markdown):
    """Returns the text with four spaces before what belongs to an item of a list, as Python-Markdown wants it.

    In the documents it stands below the text of the item: two spaces after `- `, three after `1. `.
    """
    lines, width = [], 0
    for line in markdown.splitlines():
        item = ITEM.match(line)
        if item:
            width = len(item[1])
        elif line and not line.startswith(" "):
            width = 0
        belongs = width and line.startswith(" " * width)
        lines.append(" " * 4 + line[width:] if belongs else line)
    return "\n".join(lines)


def on_files(files, config):
    """Replaces what mkdocs found in docs/ by the documents of the whole repository."""
    theme = [file for file in files if pathlib.Path(file.abs_src_path or "/").is_relative_to(config.docs_dir) is False]
    found = documents()
    ours = [File.generated(config, path, abs_src_path=str(TOP / path)) for path in found]
    for path in linked(found):
        if is_picture(path):
            ours.append(File.generated(config, path, abs_src_path=str(TOP / path)))
        else:
            ours.append(File.generated(config, f"{path}.md", content=shown(path), inclusion=InclusionLevel.NOT_IN_NAV))
    ours.append(File.generated(config, "site.css", abs_src_path=str(TOP / "tools/site/site.css")))
    return Files([*theme, *ours])


def on_page_markdown(markdown, page, config, files):
    """Leads links to pages that show files, and leaves out words after the language of a code block."""
    document = page.file.src_uri

    def lead(match):
        target = f"{target_of(document, match[1])}.md"
        return f"{match[1]}.md" if files.get_file_from_path(target) and not match[1].endswith(".md") else match[1]

    def fence(match):
        # `sh server` tells the tests how to run a block; `toml NAME` names the file that it is written to.
        title = f' title="{match[4]}"' if match[3] == "toml" else ""
        return f"{match[1]}{match[2]}{match[3]}{title}"

    markdown = FENCE.sub(fence, LINK.sub(lead, markdown))
    return indented(ADDRESS.sub(r"`\1`", markdown) if document.startswith("docs/") else markdown)


def on_page_content(html, **_):
    """Lets long names in tables break after an underscore only, and dates nowhere."""
    html = re.sub(r"<td>(\d{4}-\d\d-\d\d)</td>", r'<td class="date">\1</td>', html)
    return CELL.sub(lambda cell: UNDERSCORE.sub("_<wbr>", cell[0]), html)
