#!/usr/bin/env python3
"""Measures signed requests beside clients that cost nothing to be: those that stall, and those that idle.

    python3 bench/stalled.py [--fula target/release/fula] [--rounds 5] [--requests 400]

A gateway of its own serves DeleteObjects in turns: alone, and beside 400 anonymous connections that announce
4 MB and send 8 bytes (each begins anew every five seconds) and 300 connections that send nothing. Prints the
median of the rounds' p99 for both and their ratio, and the slowest answer of /healthz.
"""

import argparse
import configparser
import http.client
import multiprocessing
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/clients"))
from signing import signed_headers  # noqa: E402

STALLED, IDLE = 400, 300


def crowd(address, begun, stop):
    """Keeps connections that stall and idle; one that was answered begins anew after five seconds."""
    idle = [socket.create_connection(address) for _ in range(IDLE)]

    def stall():
        connection = socket.create_connection(address)
        head = "POST /bucket?delete HTTP/1.1\r\nhost: h\r\ncontent-length: 4000000\r\n\r\n<Delete>"
        connection.sendall(head.encode())
        return connection, time.monotonic() + 5

    stalled = [stall() for _ in range(STALLED)]
    begun.set()
    while not stop.wait(0.05):
        for n, (connection, until) in enumerate(stalled):
            if time.monotonic() > until:
                connection.close()
                stalled[n] = stall()
    for connection in idle + [connection for connection, _ in stalled]:
        connection.close()


class Crowd:
    """The connections, in a process of their own."""

    def __init__(self, host, port):
        self.begun, self.stop = multiprocessing.Event(), multiprocessing.Event()
        arguments = ((host, int(port)), self.begun, self.stop)
        self.process = multiprocessing.Process(target=crowd, args=arguments)

    def __enter__(self):
        self.process.start()
        assert self.begun.wait(30)

    def __exit__(self, *_):
        self.stop.set()
        self.process.join()


def p99(host, key, requests):
    body = b"<Delete>" + b"".join(b"<Object><Key>k%d</Key></Object>" % n for n in range(20)) + b"</Delete>"
    connection = http.client.HTTPConnection(host, timeout=30)
    taken = []
    for _ in range(requests):
        headers = signed_headers(key, host, "POST", "/bucket?delete", body)
        begun = time.perf_counter()
        connection.request("POST", "/bucket?delete", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        taken.append(time.perf_counter() - begun)
        assert answer.status == 200, text
    return sorted(taken)[int(len(taken) * 0.99)]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fula", default="target/release/fula")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--requests", type=int, default=400)
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data, log = f"{directory}/data", open(f"{directory}/log", "w")
        command = [options.fula, "gateway", "--data-dir", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            measure(options, process, data)
        finally:
            process.terminate()
            process.wait()


def measure(options, process, data):
    banner = ""
    while "s3 cp" not in banner:
        line = process.stdout.readline()
        assert line, "the gateway did not start"
        banner += line
    host = re.search(r"serves S3 on http://(\S+)", banner)[1]
    admin = re.search(r"health\s+(http://[^/\s]+)", banner)[1]
    parser = configparser.ConfigParser()
    parser.read(f"{data}/credentials")
    key = parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("PUT", "/bucket", headers=signed_headers(key, host, "PUT", "/bucket"))
    assert connection.getresponse().status == 200
    alone, crowded, healths = [], [], []
    for _ in range(options.rounds):
        alone.append(p99(host, key, options.requests))
        with Crowd(*host.split(":")):
            crowded.append(p99(host, key, options.requests))
            for _ in range(20):
                begun = time.perf_counter()
                assert urllib.request.urlopen(f"{admin}/healthz").read() == b"ok\n"
                healths.append(time.perf_counter() - begun)
    alone, crowded = statistics.median(alone) * 1000, statistics.median(crowded) * 1000
    print(f"p99 of DeleteObjects: alone {alone:.1f} ms, beside {STALLED} stalled and {IDLE} idle connections {crowded:.1f} ms, ratio {crowded / alone:.2f}")
    print(f"slowest /healthz: {max(healths) * 1000:.1f} ms")


if __name__ == "__main__":
    main()
