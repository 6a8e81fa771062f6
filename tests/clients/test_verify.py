"""Reads that need no trust in the server: what it proves is right, and what it forges is noticed."""

import http.server
import json
import subprocess
import threading
import urllib.request

import pytest
from conftest import FULA, Gateway
from helpers import MIB, pattern


def root_of(gateway, bucket):
    (row,) = json.loads(gateway.fula("roots", "show", bucket, "--json").stdout)["buckets"]
    return row["root"]


def verify(gateway, *args, url=None, root=None, check=True):
    credentials = gateway.data_dir / "credentials"
    command, path, *rest = args
    line = [FULA, "verify", command, f"{url or gateway.url}/{path}", "--root", root or root_of(gateway, "box"), *rest]
    done = subprocess.run([*line, "--credentials", credentials], capture_output=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    with Gateway(tmp_path_factory.mktemp("verify") / "data").start() as gateway:
        s3 = gateway.client()
        s3.create_bucket(Bucket="box")
        for n in range(400):
            s3.put_object(Bucket="box", Key=f"dir/{n:03}", Body=f"body {n}".encode())
        s3.put_object(Bucket="box", Key="a key/with %ü", Body=pattern(3 * MIB, 1))
        s3.put_object(Bucket="box", Key="zeros", Body=bytes(5 * MIB))
        s3.put_object(Bucket="box", Key="empty", Body=b"")
        yield gateway


def test_objects_and_absences_are_proved(filled, tmp_path):
    assert verify(filled, "get", "box/dir/123").stdout == b"body 123"
    assert verify(filled, "get", "box/a%20key/with%20%25%C3%BC").stdout == pattern(3 * MIB, 1)
    assert verify(filled, "get", "box/empty").stdout == b""
    out = tmp_path / "zeros"
    verify(filled, "get", "box/zeros", "--output", out)
    assert out.read_bytes() == bytes(5 * MIB)
    for key in ("dir/1234", "a", "zzz"):
        absent = verify(filled, "get", f"box/{key}", check=False)
        assert absent.returncode == 1 and b"there is no object" in absent.stderr, absent.stderr
    other = verify(filled, "get", "box/empty", root="bafyr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4", check=False)
    assert other.returncode == 2 and b"none of the last ones" in other.stderr


def test_pages_are_proved(filled):
    def page(*options):
        return json.loads(verify(filled, "list", "box", "--json", *options).stdout)

    whole = page()
    keys = [line["Key"] for line in filled.client().list_objects_v2(Bucket="box")["Contents"]]
    assert [line["key"] for line in whole["objects"]] == keys and not whole["more"]
    some = page("--prefix", "dir/1", "--max-keys", "30")
    assert [line["key"] for line in some["objects"]] == [f"dir/{n}" for n in range(100, 130)] and some["more"]
    rest = page("--prefix", "dir/1", "--start-after", "dir/190")
    assert [line["key"] for line in rest["objects"]] == [f"dir/{n}" for n in range(191, 200)] and not rest["more"]
    assert page("--prefix", "none")["objects"] == []


def test_an_older_root_can_be_proved_and_needs_the_right_to_read(filled):
    s3, root = filled.client(), root_of(filled, "box")
    s3.put_object(Bucket="box", Key="dir/123", Body=b"new")
    assert verify(filled, "get", "box/dir/123", root=root).stdout == b"body 123"
    assert verify(filled, "get", "box/dir/123").stdout == b"new"
    s3.put_object(Bucket="box", Key="dir/123", Body=b"body 123")
    line = [FULA, "verify", "get", f"{filled.url}/box/empty", "--root", root]
    anonymous = subprocess.run(line, capture_output=True, text=True)
    assert anonymous.returncode == 2 and "403" in anonymous.stderr


class Forger(http.server.BaseHTTPRequestHandler):
    """Passes requests on, and changes the answer."""

    def do_GET(self):
        request = urllib.request.Request(self.server.behind + self.path, headers={
            name: value for name, value in self.headers.items() if name.lower() != "host"})
        request.add_header("Host", self.headers["Host"])
        with urllib.request.urlopen(request) as answer:
            body = self.server.forge(answer.read())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("what", ["flip", "cut", "other"])
def test_a_server_that_forges_is_found_out(filled, tmp_path, what):
    def forge(body):
        if what == "flip":
            return body[:-100] + bytes([body[-100] ^ 1]) + body[-99:]
        if what == "cut":
            return body[:-1000]
        # The proof of another object.
        return self_answer

    self_answer = b""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forger) as server:
        server.behind, server.forge = filled.url, forge
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        if what == "other":
            captured = []
            server.forge = lambda body: captured.append(body) or body
            verify(filled, "get", "box/zeros", url=url)
            self_answer, server.forge = captured[0], forge
        out = tmp_path / "out"
        forged = verify(filled, "get", "box/a%20key/with%20%25%C3%BC", "-o", out, url=url, check=False)
        assert forged.returncode == 2 and not out.exists(), forged.stderr
        assert not out.with_suffix(".part").exists()
        if what != "other":
            listed = verify(filled, "list", "box", url=url, check=False)
            assert listed.returncode == 2, listed.stderr
        server.shutdown()
