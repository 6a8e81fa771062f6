"""Storage nodes as processes, and the blocks and CAR files that clients send them."""

import base64
import http.client
import json
import re
import signal
import subprocess
import urllib.parse

from conftest import FULA, Gateway
from helpers import eventually, free_port
from identity import ENV, Wallet


def call(method, url, token=None, body=b"", **headers):
    """Sends a request, and returns status, headers and body."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.request(method, target, body=body, headers=headers)
    response = connection.getresponse()
    answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return answer


class StorageNode:
    """One `fula storage-node` process. Its key lies outside its data directory, so that it outlives a wipe."""

    def __init__(self, directory, *masters, name="node"):
        self.data_dir, self.key_file = directory / name, directory / f"{name}.key"
        subprocess.run([FULA, "secrets", "keygen", self.key_file], check=True, capture_output=True)
        self.masters, self.listen, self.trusted = masters, f"127.0.0.1:{free_port()}", None

    def command(self, *options):
        command = [FULA, "storage-node", "--data-dir", self.data_dir, "--listen", self.listen]
        command += ["--admin-listen", "127.0.0.1:0", "--masters", self.trusted]
        return command + ["--secrets-key-file", self.key_file, "--eip712-auth", "on", *options]

    def start(self, *options):
        if self.trusted is None:
            key = json.loads(call("GET", f"{self.masters[0].url}/fula/capabilities")[2])["masterKey"]
            self.trusted = ",".join(f"m{n}={master.url}#{key}" for n, master in enumerate(self.masters))
        log = open(self.data_dir.with_suffix(".log"), "ab")
        self.process = subprocess.Popen(self.command(*options), stdout=subprocess.PIPE, stderr=log, text=True)
        banner = ""
        for line in self.process.stdout:
            banner += line
            if "FULA_STORAGE_NODES=" in line:
                break
        found = re.search(r"FULA_STORAGE_NODES=NAME=(http://(\S+)#\S+)", banner)
        assert found, banner
        self.address, self.listen = found[1], found[2].split("#")[0]
        return self

    @property
    def url(self):
        return f"http://{self.listen}"

    def await_master(self):
        """Waits until the node has heard of its master."""
        eventually(lambda: call("GET", f"{self.url}/health")[0] == 200)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Site:
    """A master with a storage node called north, and a wallet with a bucket."""

    def __init__(self, gateway, directory, *options):
        self.elsewhere = gateway
        self.master = Gateway(directory / "data")
        self.master.start(ENV)
        self.node = StorageNode(directory, self.master).start()
        self.restart_master("--remote-cid-put", "on", *options)
        self.wallet = Wallet()
        self.token = self.wallet.v1()
        assert self.s3("PUT", "/bucket")[0] == 200
        self.node.await_master()

    def restart_master(self, *options):
        self.master.stop()
        self.master.options = ("--storage-nodes", f"north={self.node.address}", *options)
        self.master.start(ENV)

    def s3(self, method, target, body=b"", token=None, **headers):
        return call(method, f"{self.master.url}{target}", token or self.token, body, **headers)

    def cid_of(self, data):
        """The CID of content, as a gateway names it that has nothing to do with this site."""
        s3 = self.elsewhere.client()
        try:
            s3.create_bucket(Bucket="scratch")
        except s3.exceptions.BucketAlreadyOwnedByYou:
            pass
        put = s3.put_object(Bucket="scratch", Key="scratch", Body=data)
        return put["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]

    def ingest(self, data, token=None):
        """Sends a block to the node, and returns its CID and the answer."""
        cid = self.cid_of(data)
        status, _, body = call("PUT", f"{self.node.url}/v0/block?cid={cid}", token or self.token, data)
        assert status == 200, body
        return cid, json.loads(body)

    def map(self, key, cid, size, token=None, **headers):
        return self.s3("PUT", f"/bucket/{key}", b"", token, **{
            "x-amz-meta-fula-remote-cid": cid, "x-amz-meta-fula-remote-size": str(size), **headers})

    def close(self):
        for process in (self.node.process, self.master.process):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)


def varint(number):
    out = b""
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def binary(cid):
    text = cid[1:].upper()
    return base64.b32decode(text + "=" * (-len(text) % 8))


def file_node(leaves):
    """The dag-pb node of a UnixFS file over raw leaves, given as (cid, size)."""
    links = b""
    for cid, size in leaves:
        link = b"\x0a" + varint(36) + binary(cid) + b"\x12\x00\x18" + varint(size)
        links += b"\x12" + varint(len(link)) + link
    total = sum(size for _, size in leaves)
    data = b"\x08\x02\x18" + varint(total) + b"".join(b"\x20" + varint(size) for _, size in leaves)
    return links + b"\x0a" + varint(len(data)) + data


def car(blocks):
    """A CAR file of version 1."""
    root = b"\xd8\x2a\x58\x25\x00" + binary(blocks[0][0])
    head = b"\xa2\x65roots\x81" + root + b"\x67version\x01"
    out = varint(len(head)) + head
    for cid, data in blocks:
        out += varint(36 + len(data)) + binary(cid) + data
    return out


def read_varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def text_of(cid):
    """The text of a binary CID."""
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def read_car(data):
    """The header and the blocks of a CAR file whose CIDs have 36 bytes."""
    length, at = read_varint(data, 0)
    header, at, blocks = data[at : at + length], at + length, []
    while at < len(data):
        length, at = read_varint(data, at)
        blocks.append((text_of(data[at : at + 36]), data[at + 36 : at + length]))
        assert at + length <= len(data), "the file is cut off"
        at += length
    return header, blocks


def links_of(node):
    """The CIDs that a dag-pb node of a UnixFS file links."""
    found, at = [], 0
    while at < len(node):
        tag, at = node[at], at + 1
        length, at = read_varint(node, at)
        if tag == 0x12:
            found.append(text_of(node[at + 2 : at + 38]))
        at += length
    return found
