"""Measures large objects: throughput, peak memory, and the time of a copy.

    cargo build --release --locked --ignore-rust-version
    .venv/bin/python bench/figures.py [--gib 5]

Streams an object of --gib GiB in and out and prints the gateway's peak memory, then the time to
copy an object of 1 GiB. Needs twice the size on disk below the temporary directory.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[1]
os.environ.setdefault("FULA_BIN", str(REPO / "target/release/fula"))
sys.path.insert(0, str(REPO / "tests/clients"))

from conftest import Gateway  # noqa: E402
from helpers import MIB, pattern  # noqa: E402


class Stream:
    """A file-like object of `length` bytes that are not all the same."""

    def __init__(self, length):
        self.length, self.at = length, 0
        self.chunk = pattern(4 * MIB)

    def __len__(self):
        return self.length

    def tell(self):
        return self.at

    def seek(self, offset, whence=0):
        self.at = offset + (self.length if whence == 2 else self.at if whence == 1 else 0)
        return self.at

    def read(self, size=-1):
        left = self.length - self.at
        size = left if size is None or size < 0 else min(size, left)
        out, at = bytearray(), self.at
        while len(out) < size:
            number, offset = divmod(at, len(self.chunk))
            piece = bytearray(self.chunk[offset : offset + size - len(out)])
            if offset < 8:
                # Every chunk differs in its first bytes, so nothing is stored only once.
                mark = number.to_bytes(8, "big")[offset:]
                piece[: len(mark)] = mark[: len(piece)]
            out += piece
            at += len(piece)
        self.at = at
        return bytes(out)


def peak_mib(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        gateway = Gateway(pathlib.Path(base) / "data").start()
        s3 = gateway.client(request_checksum_calculation="when_required", read_timeout=600)
        s3.create_bucket(Bucket="figures")
        length = args.gib << 30
        started = time.monotonic()
        # Unsigned payload: boto3 would read the whole body first to hash it.
        url = s3.generate_presigned_url("put_object", Params={"Bucket": "figures", "Key": "big"})
        import http.client
        import urllib.parse

        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=600)
        connection.request("PUT", f"{parts.path}?{parts.query}", Stream(length),
                           {"Content-Length": str(length)})
        assert connection.getresponse().status == 200
        put_seconds = time.monotonic() - started
        after_put = peak_mib(gateway.process)
        started = time.monotonic()
        expected = Stream(length)
        for piece in s3.get_object(Bucket="figures", Key="big")["Body"].iter_chunks(4 * MIB):
            assert piece == expected.read(len(piece))
        assert expected.at == length
        get_seconds = time.monotonic() - started
        print(f"PUT {args.gib} GiB: {length / MIB / put_seconds:.0f} MiB/s, peak RSS {after_put:.0f} MiB")
        print(f"GET {args.gib} GiB: {length / MIB / get_seconds:.0f} MiB/s, peak RSS {peak_mib(gateway.process):.0f} MiB")

        url = s3.generate_presigned_url("put_object", Params={"Bucket": "figures", "Key": "one"})
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=600)
        connection.request("PUT", f"{parts.path}?{parts.query}", Stream(1 << 30),
                           {"Content-Length": str(1 << 30)})
        assert connection.getresponse().status == 200
        times = []
        for n in range(11):
            started = time.monotonic()
            s3.copy_object(Bucket="figures", Key=f"copy{n}", CopySource={"Bucket": "figures", "Key": "one"})
            times.append((time.monotonic() - started) * 1000)
        print(f"copy of 1 GiB: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms")
        gateway.stop()


if __name__ == "__main__":
    main()
