"""JWTs of a shared secret and of key sets."""

import http.server
import json
import ssl
import threading
import time
import urllib.request

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from conftest import Gateway
from helpers import eventually, self_signed
from identity import JWT_SECRET, audit, call, code, door, fresh, session_client, sts


def test_jwts_of_a_shared_secret(door):
    claims = {"sub": "alice", "exp": int(time.time()) + 600, "scope": "openid storage:read storage:write"}
    token = jwt.encode({**claims, "scope": "storage:*"}, JWT_SECRET, algorithm="HS256")
    bucket = fresh()
    assert call(door, "PUT", f"/{bucket}", token=token)[0] == 200
    narrow = jwt.encode(claims, JWT_SECRET, algorithm="HS256")
    assert call(door, "PUT", f"/{bucket}/k", b"x", token=narrow)[0] == 200
    assert code(call(door, "DELETE", f"/{bucket}", token=narrow)) == (403, "AccessDenied")
    nothing = jwt.encode({**claims, "scope": "openid"}, JWT_SECRET, algorithm="HS256")
    assert code(call(door, "GET", f"/{bucket}/k", token=nothing)) == (403, "AccessDenied")
    s3 = session_client(door, sts(door, narrow)["Credentials"])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


class Issuer:
    """An issuer of JWTs that serves its key set; over TLS with the files of a certificate and its key."""

    def __init__(self, tls=None):
        self.keys, self.served, self.status = [], 0, 200
        self.rotate("first")
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.served += 1
                body = json.dumps({"keys": [jwk for _, jwk in issuer.keys]}).encode()
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}/jwks"

    def rotate(self, kid):
        key = ec.generate_private_key(ec.SECP256R1())
        jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        self.keys = [(key, {**jwk, "kid": kid, "use": "sig", "alg": "ES256"})]

    def token(self, sub="bob", **claims):
        key, jwk = self.keys[0]
        claims = {"iss": "https://issuer.example", "aud": "fula", "sub": sub,
                  "exp": int(time.time()) + 600, "scope": "storage:*", **claims}
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": jwk["kid"]})


def test_jwts_of_a_key_set_that_is_rotated(tmp_path):
    issuer = Issuer()
    env = {"FULA_JWKS": issuer.url, "FULA_JWT_ISSUER": "https://issuer.example", "FULA_JWT_AUDIENCE": "fula"}
    gateway = Gateway(tmp_path / "data").start(env=env)
    old = issuer.token()
    assert call(gateway, "GET", "/", token=old)[0] == 200
    me = json.loads(call(gateway, "GET", "/fula/whoami", token=old)[2])
    assert me["user"] == "https://issuer.example\\0bob"
    for wrong in ({"iss": "https://other.example"}, {"aud": "other"}):
        assert code(call(gateway, "GET", "/", token=issuer.token(**wrong))) == (403, "AccessDenied")
    eve = ("revoke", "user", "eve", "--issuer", "https://issuer.example")
    unseen = gateway.fula(*eve, check=False)
    assert unseen.returncode == 1 and "add --yes" in unseen.stderr
    gateway.fula(*eve, "--yes")
    assert code(call(gateway, "GET", "/", token=issuer.token(sub="eve"))) == (403, "AccessDenied")
    assert call(gateway, "GET", "/", token=old)[0] == 200
    issuer.rotate("second")
    new = issuer.token()
    eventually(lambda: call(gateway, "GET", "/", token=new)[0] == 200, why=lambda: "the new key is not fetched")
    # What the key that is gone signed is good no longer, and unknown keys do not make it ask at will.
    assert code(call(gateway, "GET", "/", token=old)) == (400, "InvalidToken")
    served, began = issuer.served, time.monotonic()
    for _ in range(50):
        assert call(gateway, "GET", "/", token=old)[0] == 400
    # A key set is read at most every 10 seconds.
    assert issuer.served <= served + 1 + (time.monotonic() - began) // 10
    gateway.stop()


def until(told, expected, token):
    """Asks until the answer is the one expected: a key set is read at most every 10 seconds."""
    eventually(lambda: told(token) == expected, why=lambda: told(token))


def test_a_key_set_over_tls_that_becomes_empty_lets_nobody_in(tmp_path):
    cert, key = self_signed(tmp_path, "127.0.0.1")
    issuer = Issuer(tls=(cert, key))
    env = {"FULA_JWKS": issuer.url, "FULA_JWT_AUDIENCE": "fula", "SSL_CERT_FILE": str(cert)}
    gateway = Gateway(tmp_path / "data").start(env=env)
    log = lambda: audit(gateway)
    told = lambda token: code(call(gateway, "GET", "/", token=token))
    token, keys = issuer.token(), issuer.keys
    assert told(token) == 200
    session = session_client(gateway, sts(gateway, token)["Credentials"])
    issuer.rotate("never published")
    unknown, issuer.keys = issuer.token(), []
    # A key that is not in the set has it read again.
    assert told(unknown) == (400, "InvalidToken")
    until(told, (400, "InvalidToken"), token)
    assert log().count("has no key for RS256, ES256 or EdDSA") == 1
    session.list_buckets()
    ready = urllib.request.urlopen(gateway.admin + "/readyz", timeout=60)
    assert ready.status == 200
    metrics = lambda: urllib.request.urlopen(gateway.admin + "/metrics", timeout=60).read().decode()
    eventually(lambda: "\nfula_jwks_keys 0\n" in metrics())
    issuer.keys = keys
    assert told(unknown) == (400, "InvalidToken")
    until(told, 200, token)
    eventually(lambda: "\nfula_jwks_keys 1\n" in metrics())
    # An issuer that fails takes nothing away for now.
    issuer.status = 500
    assert told(unknown) == (400, "InvalidToken")
    eventually(lambda: "cannot be read" in log())
    assert told(token) == 200
    gateway.stop()


def test_a_key_set_that_was_never_read_is_not_the_clients_fault(tmp_path):
    issuer = Issuer()
    issuer.status = 404
    gateway = Gateway(tmp_path / "data").start(env={"FULA_JWKS": issuer.url})
    token = issuer.token()
    assert code(call(gateway, "GET", "/", token=token)) == (503, "ServiceUnavailable")
    # What no key set could verify is refused for good.
    assert code(call(gateway, "GET", "/", token="a.b.c")) == (400, "InvalidToken")
    issuer.status = 200
    until(lambda token: code(call(gateway, "GET", "/", token=token)), 200, token)
    assert "FULA_JWT_AUDIENCE" in audit(gateway)
    gateway.stop()
