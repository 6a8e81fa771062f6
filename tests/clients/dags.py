"""DAGs as other IPFS systems make them, and servers that hand out their blocks, honestly or not."""

import base64
import hashlib
import http.server
import threading
import urllib.parse

from helpers import pattern

RAW, DAG_PB = 0x55, 0x70


def cid_of(codec, block):
    binary = bytes([1, codec, 0x12, 32]) + hashlib.sha256(block).digest()
    return binary, "b" + base64.b32encode(binary).decode().lower().rstrip("=")


def varint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def node_of(children):
    """A dag-pb directory over blocks that are given by their binary CIDs."""
    links = [field(2, field(1, cid) + field(2, f"{n}".encode())) for n, cid in enumerate(children)]
    return b"".join(links) + field(1, b"\x08\x01")


class Dag:
    """Raw leaves under one node. Leaves of the same seed and number are the same in every DAG."""

    def __init__(self, leaves, size=1000, seed=1):
        self.blocks, children = {}, []
        for n in range(leaves):
            block = pattern(size, seed * 1000 + n)
            binary, text = cid_of(RAW, block)
            self.blocks[text] = block
            children.append(binary)
        root = node_of(children)
        self.root = cid_of(DAG_PB, root)[1]
        self.blocks[self.root] = root
        self.size = sum(map(len, self.blocks.values()))


class Source:
    """An IPFS gateway on blocks. `answer` may do something else for a CID."""

    def __init__(self, *dags):
        self.blocks = {}
        for dag in dags:
            self.blocks.update(dag.blocks)
        self.asked, self.answer = [], None
        # Of this number on, blocks are held back until `let_go` is called.
        self.most, self.turn = None, threading.Condition()
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                cid = urllib.parse.urlsplit(self.path).path.removeprefix("/ipfs/")
                with source.turn:
                    source.asked.append(cid)
                    number = len(source.asked)
                    source.turn.wait_for(lambda: source.most is None or number <= source.most)
                try:
                    if source.answer and source.answer(self, cid):
                        return
                    block = source.blocks.get(cid)
                    self.send_response(404 if block is None else 200)
                    self.send_header("Content-Length", str(len(block or b"")))
                    self.end_headers()
                    self.wfile.write(block or b"")
                except OSError:
                    # The gateway has had enough.
                    pass

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            # More than the gateway asks for at a time. Behind the five of the default, a connection waits for seconds.
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hold(self, more):
        """Answers so many more requests, and holds back those that follow."""
        with self.turn:
            self.most = len(self.asked) + more
            self.turn.notify_all()

    def let_go(self):
        with self.turn:
            self.most = None
            self.turn.notify_all()

    @property
    def setting(self):
        return f"gateway:http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.let_go()
        self.server.shutdown()
        self.server.server_close()


def blocks_of_car(car):
    """The root and the blocks of a CAR file, by the text of their CIDs, each checked against its CID."""
    def number(at):
        value, shift = 0, 0
        while True:
            byte = car[at]
            value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
            if byte < 0x80:
                return value, at

    length, at = number(0)
    header, at, found = car[at:at + length], at + length, {}
    while at < len(car):
        length, at = number(at)
        binary, block = car[at:at + 36], car[at + 36:at + length]
        assert binary[:1] == b"\x01" and binary[2:4] == b"\x12\x20"
        assert hashlib.sha256(block).digest() == binary[4:], "a block does not match its CID"
        found["b" + base64.b32encode(binary).decode().lower().rstrip("=")] = block
        at += length
    return header, found
