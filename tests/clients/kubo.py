"""Real kubo nodes for tests, on the loopback interface alone."""

import json
import os
import pathlib
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from conftest import REPO
from helpers import free_port

# Built by `make tools` from tests/tools/kubo and tests/tools/cluster.
BUILT = pathlib.Path(os.environ.get("FULA_TOOLS", REPO / "target/tools"))


class Refusal(Exception):
    """An answer that is an error: its status and its text."""


class Kubo:
    """One kubo daemon with a repository of its own."""

    def __init__(self, directory, offline=False):
        self.repo, self.offline, self.process = directory, offline, None
        self.env = {**os.environ, "IPFS_PATH": str(directory), "IPFS_TELEMETRY": "off"}
        # A restart keeps it.
        self.api_port = free_port()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.kill()

    def command(self, *args):
        done = subprocess.run([BUILT / "ipfs", *args], env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"ipfs {args}: {done.stdout}{done.stderr}"
        return done.stdout

    def _init(self):
        self.command("init", "--profile=server,test")
        self.command("bootstrap", "rm", "--all")
        self.command("config", "Addresses.Gateway", "/ip4/127.0.0.1/tcp/0")
        for name, value in [("Addresses.Swarm", '["/ip4/127.0.0.1/tcp/0"]'), ("Addresses.NoAnnounce", "[]"),
                            ("Swarm.AddrFilters", "[]"), ("Discovery.MDNS.Enabled", "false"),
                            ("AutoConf.Enabled", "false"), ("Routing.Type", '"none"'),
                            ("Gateway.RetrievalTimeout", '"5s"')]:
            self.command("config", "--json", name, value)

    def start(self):
        if not (self.repo / "config").exists():
            self._init()
        self.command("config", "Addresses.API", f"/ip4/127.0.0.1/tcp/{self.api_port}")
        log = open(self.repo.with_suffix(".log"), "ab")
        flags = ["--offline"] if self.offline else []
        self.process = subprocess.Popen([BUILT / "ipfs", "daemon", *flags], env=self.env, text=True,
                                        stdout=subprocess.PIPE, stderr=log)
        for line in self.process.stdout:
            if "Daemon is ready" in line:
                break
        else:
            raise AssertionError(f"kubo did not start; see {log.name}")
        return self

    @property
    def url(self):
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def gateway(self):
        return (self.repo / "gateway").read_text().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        for stale in ("api", "gateway", "repo.lock"):
            (self.repo / stale).unlink(missing_ok=True)

    def rpc(self, path, *args, body=None, headers=None, **options):
        """Answers of a command, one a line."""
        query = [("arg", arg) for arg in args] + [(name.replace("_", "-"), value) for name, value in options.items()]
        request = urllib.request.Request(f"{self.url}/api/v0/{path}?{urllib.parse.urlencode(query)}",
                                         data=body or b"", method="POST", headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Refusal(error.code, error.read().decode()) from None

    def json(self, path, *args, **options):
        return [json.loads(line) for line in self.rpc(path, *args, **options).splitlines()]

    def dag_import(self, file, **options):
        body, kind = multipart(file)
        return self.json_of(self.rpc("dag/import", body=body, headers={"Content-Type": kind}, **options))

    @staticmethod
    def json_of(text):
        return [json.loads(line) for line in text.splitlines()]

    def stat(self, root):
        """Number and bytes of the blocks below a root, which must all be here."""
        (found,) = self.json("dag/stat", root, offline="true", progress="false")
        return found["UniqueBlocks"], found["TotalSize"]

    def pins(self):
        """Roots that are pinned recursively, with their names."""
        lines = self.json("pin/ls", type="recursive", stream="true", names="true")
        return {line["Cid"]: line.get("Name", "") for line in lines if line}


def multipart(file):
    boundary = "fula-test-boundary"
    head = f"--{boundary}\r\nContent-Disposition: form-data; name=\"file\"\r\n"
    head += "Content-Type: application/octet-stream\r\n\r\n"
    return head.encode() + file + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
