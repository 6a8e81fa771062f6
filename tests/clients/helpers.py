"""Small things that several tests need."""

import random
import subprocess

import botocore.exceptions
import pytest

MIB = 1 << 20


def pattern(length, seed=1):
    """Bytes that do not repeat, the same for the same seed."""
    return random.Random(seed).randbytes(length)


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
