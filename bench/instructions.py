#!/usr/bin/env python3
"""Counts the instructions of a request, which no load on the machine changes.

    python3 bench/instructions.py [--fula target/release/fula] [--baseline OTHER] [--requests 300]

Needs valgrind. A gateway runs under callgrind and serves signed requests on one connection: GET and PUT of
4 KiB, and LIST of 1 000 keys. Prints instructions a request, and their ratio to those of the baseline.
Callgrind knows no SHA instructions, so hashing weighs more here than on a processor that has them.
"""

import argparse
import configparser
import http.client
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/clients"))
from signing import signed_headers  # noqa: E402

KEYS = 1000
BODY = b"x" * 4096


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Counted:
    """A gateway under callgrind."""

    def __init__(self, fula, place):
        self.place = pathlib.Path(place)
        self.host = f"127.0.0.1:{free_port()}"
        self.output = open(self.place / "output", "w+")
        self.process = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={place}/counts",
             fula, "gateway", "--data-dir", f"{place}/data", "--listen", self.host,
             "--admin-listen", f"127.0.0.1:{free_port()}"],
            stdout=self.output, stderr=subprocess.STDOUT)
        self.wait_until_it_serves()
        credentials = configparser.ConfigParser()
        credentials.read(self.place / "data/credentials")
        section = credentials[credentials.sections()[0]]
        self.key = section["aws_access_key_id"], section["aws_secret_access_key"]
        self.connection = http.client.HTTPConnection(self.host, timeout=600)

    def wait_until_it_serves(self):
        host, _, port = self.host.partition(":")
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return socket.create_connection((host, int(port))).close()
            except ConnectionRefusedError:
                time.sleep(0.2)
        sys.exit(f"the gateway did not start: {(self.place / 'output').read_text()}")

    def ask(self, method, target, body=b""):
        self.connection.request(method, target, body or None, signed_headers(self.key, self.host, method, target, body))
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text

    def control(self, *what):
        subprocess.run(["callgrind_control", *what, str(self.process.pid)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def count(self, name, requests, ask):
        """Returns the instructions of one of so many requests."""
        for n in range(20):
            ask(n)
        self.control("--zero")
        self.control("--instr=on")
        for n in range(requests):
            ask(n)
        self.control("--instr=off")
        self.control(f"--dump={name}")
        newest = max(self.place.glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        return int(re.search(r"^totals: (\d+)", newest.read_text(), re.M).group(1)) / requests

    def measure(self, requests):
        self.ask("PUT", "/bucket")
        for n in range(KEYS):
            self.ask("PUT", f"/bucket/dir/key-{n:06}", BODY)
        key = lambda n: f"/bucket/dir/key-{n % 50:06}"  # noqa: E731
        return {
            "GET 4 KiB": self.count("get", requests, lambda n: self.ask("GET", key(n))),
            "PUT 4 KiB": self.count("put", requests, lambda n: self.ask("PUT", key(n), BODY)),
            "LIST 1 000": self.count("list", 10, lambda n: self.ask("GET", "/bucket?list-type=2&prefix=dir%2F")),
        }

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.output.close()


def measured(fula, requests):
    with tempfile.TemporaryDirectory() as place:
        gateway = Counted(fula, place)
        try:
            return gateway.measure(requests)
        finally:
            gateway.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fula", default="target/release/fula", help="binary to measure")
    parser.add_argument("--baseline", help="binary to compare with")
    parser.add_argument("--requests", type=int, default=300, help="GETs and PUTs that are counted")
    asked = parser.parse_args()
    found = measured(asked.fula, asked.requests)
    before = measured(asked.baseline, asked.requests) if asked.baseline else {}
    for name, count in found.items():
        ratio = f"  {count / before[name]:.3f} of {before[name]:,.0f}" if before else ""
        print(f"{name:12} {count:14,.0f} instructions{ratio}")


if __name__ == "__main__":
    main()
