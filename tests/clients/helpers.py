"""Small things that several tests need."""

import fcntl
import os
import pathlib
import random
import socket
import subprocess
import tempfile
import time

import botocore.exceptions
import pytest

MIB = 1 << 20


def pattern(length, seed=1):
    """Bytes that do not repeat, the same for the same seed."""
    return random.Random(seed).randbytes(length)


def eventually(found, seconds=60, why=lambda: "it does not come to pass"):
    """Asks until the answer is true, and returns it.

    Tests run beside others on a machine with two cores. The limit bounds a failure alone: it says nothing about how
    long the product may take.
    """
    end = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < end, why()
        time.sleep(0.05)
    return answer


# Seconds by which an answer may be late because other tests use the processors. Where a promise of the product has
# a bound, a test allows the bound and this. That the bound itself holds is shown under a clock that the test moves, in
# crates/service/tests/pipeline/hung.rs.
BUSY = 5


def log_says(gateway, text):
    """Waits until the log of a process has a text."""
    log = gateway.data_dir.with_suffix(".log")
    eventually(lambda: text in log.read_text(), why=lambda: f"no line says {text!r}: {log.read_text()}")


# The bytes of this file stand for ports. A process locks those of the ports that it gives away, until it ends.
CLAIMS = os.open(pathlib.Path(tempfile.gettempdir()) / f"fula-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
GIVEN = set()


def free_port():
    """A port of the loopback interface for a server that may start, stop, and start again.

    No other test gets it while this process lives. The kernel draws none so low for a program that asks for any
    port, or that connects to one. `crates/testkit` draws its ports above these.
    """
    while True:
        port = random.randrange(10_000, 16_384)
        if port in GIVEN:
            continue
        GIVEN.add(port)
        try:
            fcntl.lockf(CLAIMS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            # Another process has it.
            continue


def columns(table, names):
    """The cells below right-aligned headings, by the first word of each row. A cell ends where its heading ends."""
    head, *rows = table.rstrip("\n").splitlines()
    ends = [head.index(name) + len(name) for name in names]
    return {row.split()[0]: [row[:end].rsplit("  ", 1)[-1].strip() for end in ends] for row in rows}


def self_signed(directory, address):
    """Certificate and key files for a server at an IP address."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-subj", "/CN=gateway", "-addext", f"subjectAltName=IP:{address}",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-days", "2", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    key.chmod(0o600)
    return cert, key


class Refused:
    """Expects an S3 error and keeps what it said."""

    def __init__(self, code, status):
        self.expected = (code, status)

    def __enter__(self):
        self.raises = pytest.raises(botocore.exceptions.ClientError)
        self.info = self.raises.__enter__()
        return self

    def __exit__(self, *exception):
        caught = self.raises.__exit__(*exception)
        self.response = self.info.value.response
        error, meta = self.response["Error"], self.response["ResponseMetadata"]
        assert (error["Code"], meta["HTTPStatusCode"]) == self.expected, error
        return caught
