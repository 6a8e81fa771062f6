"""Public objects by CID, in the form of an IPFS trustless gateway. Each statement of the public specification
(https://specs.ipfs.tech/http-gateways/trustless-gateway/) that applies to files is a row of `STATEMENTS`."""

import base64
import json
import re

import pytest

from conftest import Gateway
from helpers import MIB, eventually, pattern
from nodes import Site, binary, call, file_node, links_of, read_car

RAW, CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car"
PROBE = "bafkqaaa"
# CIDs of other hash functions and versions, which are valid.
SHA256, V0 = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"


def address(process, log):
    """The URL of the listener for public objects, which the log names."""
    plain = lambda: re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
    found = eventually(lambda: re.findall(r"serving public objects by CID address=(\S+)", plain()),
                       why=lambda: f"{process} does not serve public objects")
    return f"http://{found[-1]}"


def await_public(url, cid):
    """Waits until a CID is served."""
    eventually(lambda: call("GET", f"{url}/ipfs/{cid}?format=raw")[0] == 200,
               why=lambda: f"{cid} does not become public")


def policy(bucket, prefix):
    return json.dumps({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/{prefix}*"}})


class Content:
    """A gateway with public and private objects, and the names of their blocks."""

    def __init__(self, directory):
        self.gateway = Gateway(directory / "data", "--cid-listen", "127.0.0.1:0")
        self.gateway.start()
        self.url = address(self.gateway, self.gateway.data_dir.with_suffix(".log"))
        self.s3 = self.gateway.client()
        self.s3.create_bucket(Bucket="some")
        self.s3.create_bucket(Bucket="none")
        self.s3.put_bucket_policy(Bucket="some", Policy=policy("some", "pub/"))
        a, b, c = (pattern(MIB, seed=n) for n in (1, 2, 3))
        self.small = pattern(5000, seed=4)
        # Four leaves, of which the first comes twice.
        self.file = a + b + a + c[:1000]
        self.cid_small = self.put("some", "pub/small", self.small)
        self.cid_empty = self.put("some", "pub/empty", b"")
        self.cid_file = self.put("some", "pub/file", self.file)
        self.cid_private = self.put("some", "private", pattern(6000, seed=5))
        self.cid_elsewhere = self.put("none", "pub/x", pattern(3 * MIB, seed=6))
        self.leaves = [self.put("none", f"leaf-{n}", leaf) for n, leaf in enumerate((a, b, c[:1000]))]
        upload = self.s3.create_multipart_upload(Bucket="some", Key="pub/deep")["UploadId"]
        parts = []
        for number, data in [(1, pattern(5 * MIB, seed=7)), (2, pattern(2 * MIB, seed=8))]:
            part = self.s3.upload_part(Bucket="some", Key="pub/deep", UploadId=upload, PartNumber=number, Body=data)
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        self.s3.complete_multipart_upload(Bucket="some", Key="pub/deep", UploadId=upload, MultipartUpload={"Parts": parts})
        head = self.s3.head_object(Bucket="some", Key="pub/deep")
        self.cid_deep = head["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]
        for cid in (self.cid_small, self.cid_empty, self.cid_file, self.cid_deep):
            await_public(self.url, cid)

    def put(self, bucket, key, data):
        put = self.s3.put_object(Bucket=bucket, Key=key, Body=data)
        return put["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]

    def ask(self, target, method="GET", accept=None, **headers):
        """Sends a request to the listener. Names of headers are written with underscores."""
        if accept:
            headers["Accept"] = accept
        target = target.format(**{name: value for name, value in vars(self).items() if isinstance(value, str)})
        return call(method, self.url + target, None, b"", **headers)

    def car(self, target, **options):
        status, headers, body = self.ask(target, **options)
        assert status == 200, body
        return headers, [cid for cid, _ in read_car(body)[1]]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    content = Content(tmp_path_factory.mktemp("trustless"))
    yield content
    content.gateway.stop()


def status(target, expected, method="GET", accept=None, **headers):
    """A check of the status alone."""
    def check(content):
        found = content.ask(target, method, accept, **headers)
        assert found[0] == expected, found
        return found
    return check


def header(target, name, expected, accept=None, method="GET", **headers):
    """A check of one header, by a pattern."""
    def check(content):
        found = content.ask(target, method, accept, **headers)[1]
        filled = expected.format(**{n: v for n, v in vars(content).items() if isinstance(v, str)})
        assert re.fullmatch(filled, found.get(name, "")), (name, found)
    return check


def body_is(target, attribute, accept=None):
    def check(content):
        assert content.ask(target, accept=accept)[2] == getattr(content, attribute)
    return check


def blocks(target, *expected, accept=None):
    """A check of the blocks of a CAR file: `root`, and numbers of leaves of the file."""
    def check(content):
        names = {"root": content.cid_file, "small": content.cid_small, "empty": content.cid_empty}
        wanted = [names.get(name) or content.leaves[name] for name in expected]
        assert content.car(target, accept=accept)[1] == wanted
    return check


def head_is_get_without_a_body(content):
    for target in ("/ipfs/{cid_small}?format=raw", "/ipfs/{cid_file}?format=car", f"/ipfs/{PROBE}?format=raw"):
        got, head = content.ask(target), content.ask(target, "HEAD")
        assert (head[0], head[2]) == (got[0], b"")
        for name in ("content-type", "etag", "cache-control", "x-ipfs-roots", "content-disposition"):
            assert head[1][name] == got[1][name], (target, name)


def every_block_is_the_one_of_its_cid(content):
    names = iter(range(10))
    for cid, data in read_car(content.ask("/ipfs/{cid_file}?format=car")[2])[1]:
        if cid in content.leaves:
            assert content.put("none", f"check-{next(names)}", data) == cid
    assert b"".join(data for cid, data in read_car(content.ask("/ipfs/{cid_file}?format=car&car-dups=y")[2])[1]
                    if cid in content.leaves) == content.file


def version_is_that_of_the_header(content):
    body = content.ask("/ipfs/{cid_file}?format=car")[2]
    assert read_car(body)[0].endswith(b"\x67version\x01")


def scopes_and_ranges_have_their_own_etags(content):
    targets = ["", "&dag-scope=block", "&dag-scope=entity", "&dag-scope=all", "&entity-bytes=0:0", "&entity-bytes=0:1",
               "&car-dups=y", "&car-order=unk"]
    etags = [content.ask("/ipfs/{cid_file}?format=car" + more)[1]["etag"] for more in targets]
    assert len(set(etags)) == len(targets), etags
    for etag, scope in zip(etags[1:4], ("block", "entity", "all")):
        assert etag.startswith(f'W/"{scope}.')


def conditional_requests_are_answered_304(content):
    for target in ("/ipfs/{cid_small}?format=raw", "/ipfs/{cid_file}?format=car&dag-scope=block"):
        etag = content.ask(target)[1]["etag"]
        for tag in (etag, f'"x", {etag}', "*", etag.removeprefix("W/")):
            found = content.ask(target, If_None_Match=tag)
            assert (found[0], found[2], found[1]["etag"]) == (304, b"", etag), tag
        assert content.ask(target, If_None_Match='"x"')[0] == 200
    # What is not public is not confirmed.
    assert content.ask("/ipfs/{cid_private}?format=raw", If_None_Match="*")[0] == 404


def a_deep_file_is_walked_depth_first(content):
    headers, found = content.car("/ipfs/{cid_deep}?format=car&car-dups=y")
    first, second = links_of(content.ask("/ipfs/{cid_deep}?format=raw")[2])
    below = [links_of(content.ask(f"/ipfs/{part}?format=raw")[2]) for part in (first, second)]
    assert found == [content.cid_deep, first, *below[0], second, *below[1]]
    assert "order=dfs" in headers["content-type"]
    # The number of its blocks is not known in advance, so nothing is said about duplicates.
    assert "dups" not in content.ask("/ipfs/{cid_deep}?format=car")[1]["content-type"]
    found = content.car("/ipfs/{cid_deep}?format=car&entity-bytes=-1:*")[1]
    assert found == [content.cid_deep, second, below[1][-1]]


def any_block_of_a_public_object_is_served(content):
    for n, leaf in enumerate(content.leaves):
        assert content.ask(f"/ipfs/{leaf}?format=raw")[0] == 200, n


def private_looks_like_absent(content):
    for form in ("raw", "car"):
        for method in ("GET", "HEAD"):
            replies = [content.ask(f"/ipfs/{cid}?format={form}", method)
                       for cid in (content.cid_private, content.cid_elsewhere, SHA256)]
            for found in replies:
                found[1].pop("date", None)
            assert replies[0][0] == 404 and replies[0] == replies[1] == replies[2]


def cid_in_another_base(content):
    upper = content.cid_small.upper()
    base16 = "f" + binary(content.cid_small).hex()
    for cid in (upper, base16):
        found = content.ask(f"/ipfs/{cid}?format=raw")
        assert (found[0], found[2]) == (200, content.small)
        assert found[1]["x-ipfs-roots"] == content.cid_small


def format_wins(content):
    assert content.ask("/ipfs/{cid_small}?format=raw", accept=CAR)[1]["content-type"] == RAW
    assert content.ask("/ipfs/{cid_small}?format=car", accept=RAW)[1]["content-type"].startswith(CAR)


def entity_scope_of_a_range_is_implied(content):
    for scope in ("", "&dag-scope=entity", "&dag-scope=all"):
        assert content.car("/ipfs/{cid_file}?format=car&entity-bytes=0:0" + scope)[1] == [content.cid_file, content.leaves[0]]


def probe_is_a_car(content):
    found = content.ask(f"/ipfs/{PROBE}?format=car")
    header, found_blocks = read_car(found[2])
    assert found[0] == 200 and header == b"\xa2\x65roots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00\x67version\x01"
    assert found_blocks == []


def nothing_below_a_slow_reader_is_buffered(content):
    # The CAR file is sent in chunks, so its length need not be known before it is read.
    assert content.ask("/ipfs/{cid_file}?format=car")[1].get("transfer-encoding") == "chunked"


FILE, SMALL = "/ipfs/{cid_file}?format=car", "/ipfs/{cid_small}?format=raw"
STATEMENTS = {
    # Requests
    "GET of a block by ?format=raw": body_is(SMALL, "small"),
    "GET of a block by Accept": body_is("/ipfs/{cid_small}", "small", RAW),
    "GET of an empty block": status("/ipfs/{cid_empty}?format=raw", 200),
    "GET of an inner node of a file": status("/ipfs/{cid_file}?format=raw", 200),
    "any block of a public object is served": any_block_of_a_public_object_is_served,
    "a block has no path behind its CID": status("/ipfs/{cid_small}/more?format=raw", 400),
    "a path that leads nowhere below a file": status("/ipfs/{cid_file}/more?format=car", 404),
    "HEAD is GET without a body": head_is_get_without_a_body,
    "the body hashes to the CID": every_block_is_the_one_of_its_cid,
    "a CID in another base is the same": cid_in_another_base,
    "format takes precedence over Accept": format_wins,
    "400 where neither says what is wanted": status("/ipfs/{cid_small}", 400),
    "400 for */* too": status("/ipfs/{cid_small}", 400, accept="*/*"),
    "406 for deserialised forms": status("/ipfs/{cid_small}", 406, accept="text/html"),
    "406 for other formats": status("/ipfs/{cid_small}?format=tar", 406),
    "406 for IPNS records": status("/ipfs/{cid_small}", 406, accept="application/vnd.ipfs.ipns-record"),
    "404 for IPNS names": status("/ipns/example.org?format=raw", 404),
    "400 for a malformed CID": status("/ipfs/nonsense?format=raw", 400),
    "405 for other methods": status("/ipfs/{cid_small}?format=raw", 405, "POST"),
    "405 names the methods": header(SMALL, "allow", "GET, HEAD, OPTIONS", method="PUT"),
    "browsers may ask first": status("/ipfs/{cid_small}?format=raw", 204, "OPTIONS"),
    # Statuses
    "404 for a root that is not there": status(f"/ipfs/{SHA256}?format=raw", 404),
    "404 for a CID of version 0": status(f"/ipfs/{V0}?format=car", 404),
    "what is private looks like what is absent": private_looks_like_absent,
    "412 for only-if-cached": status(f"/ipfs/{SHA256}?format=raw", 412, Cache_Control="only-if-cached"),
    "200 for only-if-cached of what is there": status(SMALL, 200, Cache_Control="only-if-cached"),
    "nothing refused is cached": header(f"/ipfs/{SHA256}?format=raw", "cache-control", "no-store"),
    # Headers
    "Content-Type of a block": header(SMALL, "content-type", re.escape(RAW)),
    "Content-Length of a block": header(SMALL, "content-length", "5000"),
    "Content-Disposition of a block": header(SMALL, "content-disposition", 'attachment; filename="{cid_small}.bin".*'),
    "Content-Disposition of a CAR": header(FILE, "content-disposition", 'attachment; filename="{cid_file}.car".*'),
    "a file name that the client wants": header(SMALL + "&filename=a%22b.bin", "content-disposition",
                                                "attachment; filename=\"a_b.bin\"; filename\\*=UTF-8''a%22b.bin"),
    "nosniff": header(SMALL, "x-content-type-options", "nosniff"),
    "Etag of a block": header(SMALL, "etag", '"{cid_small}.raw"'),
    "Etag of a CAR is weak": header(FILE, "etag", 'W/"{cid_file}.car.[0-9a-f]+"'),
    "Cache-Control is immutable": header(SMALL, "cache-control", "public, max-age=29030400, immutable"),
    "X-Ipfs-Path": header(SMALL, "x-ipfs-path", "/ipfs/{cid_small}"),
    "X-Ipfs-Roots": header(FILE, "x-ipfs-roots", "{cid_file}"),
    "Content-Location where Accept decides": header("/ipfs/{cid_small}?x=1", "content-location",
                                                    "/ipfs/{cid_small}\\?x=1&format=raw", RAW),
    "no Content-Location where format decides": header(SMALL, "content-location", ""),
    "every site may read": header(SMALL, "access-control-allow-origin", "\\*"),
    "304 for a known Etag": conditional_requests_are_answered_304,
    # Ranges
    "206 for a range of a block": status(SMALL, 206, Range="bytes=10-19"),
    "Content-Range": header(SMALL, "content-range", "bytes 10-19/5000", Range="bytes=10-19"),
    "Accept-Ranges of a block": header(SMALL, "accept-ranges", "bytes"),
    "416 for a range outside": status(SMALL, 416, Range="bytes=5000-"),
    "416 says how long the block is": header(SMALL, "content-range", "bytes \\*/5000", Range="bytes=5000-"),
    "If-Range of another Etag": status(SMALL, 200, Range="bytes=10-19", If_Range='"x"'),
    "a CAR has no ranges": status(FILE, 200, Range="bytes=10-19"),
    "Accept-Ranges of a CAR": header(FILE, "accept-ranges", "none"),
    # CAR files
    "Content-Type of a CAR says all that is known": header(FILE, "content-type", re.escape(CAR) + "; version=1; order=dfs; dups=n"),
    "the version of the header is that of Content-Type": version_is_that_of_the_header,
    "a CAR is sent in chunks": nothing_below_a_slow_reader_is_buffered,
    "a CAR by Accept": blocks("/ipfs/{cid_file}", "root", 0, 1, 2, accept=CAR),
    "each block once by default": blocks(FILE, "root", 0, 1, 2),
    "dups=n: each block once": blocks(FILE + "&car-dups=n", "root", 0, 1, 2),
    "dups=y: every time": blocks(FILE + "&car-dups=y", "root", 0, 1, 0, 2),
    "dups=y by Accept is named": header("/ipfs/{cid_file}", "content-type", ".*; dups=y", CAR + "; order=dfs; dups=y"),
    "parameters of Accept count with format, too": header(FILE, "content-type", ".*; dups=y", CAR + "; dups=y"),
    "car-dups takes precedence over Accept": header(FILE + "&car-dups=n", "content-type", ".*; dups=n", CAR + "; dups=y"),
    "order=unk is named": header("/ipfs/{cid_file}", "content-type", ".*; order=unk.*", CAR + "; order=unk"),
    "car-order takes precedence over Accept": header(FILE + "&car-order=dfs", "content-type", ".*; order=dfs.*", CAR + "; order=unk"),
    "the preferred one of several is taken": header(
        "/ipfs/{cid_file}", "content-type", ".*; dups=y", f"{CAR};order=foo, {CAR};order=dfs;dups=y;q=0.5"),
    "400 for another version": status(FILE + "&car-version=2", 400),
    "400 for another order": status("/ipfs/{cid_file}", 400, accept=CAR + "; order=bogus"),
    "400 for another dups": status(FILE + "&car-dups=maybe", 400),
    "a file of two levels is walked depth first": a_deep_file_is_walked_depth_first,
    "dag-scope=block": blocks(FILE + "&dag-scope=block", "root"),
    "dag-scope=entity is the file": blocks(FILE + "&dag-scope=entity", "root", 0, 1, 2),
    "dag-scope=all": blocks(FILE + "&dag-scope=all", "root", 0, 1, 2),
    "dag-scope=entity of a block": blocks("/ipfs/{cid_small}?format=car&dag-scope=entity", "small"),
    "400 for another dag-scope": status(FILE + "&dag-scope=bogus", 400),
    "the Etag depends on the form": scopes_and_ranges_have_their_own_etags,
    "entity-bytes of the whole file": blocks(FILE + "&entity-bytes=0:*", "root", 0, 1, 2),
    "entity-bytes of the first byte": blocks(FILE + "&entity-bytes=0:0", "root", 0),
    "entity-bytes implies the scope entity": entity_scope_of_a_range_is_implied,
    "entity-bytes across leaves": blocks(FILE + f"&entity-bytes={MIB - 1}:{MIB}", "root", 0, 1),
    "entity-bytes to the end": blocks(FILE + f"&entity-bytes={3 * MIB}:*", "root", 2),
    "entity-bytes from the end": blocks(FILE + "&entity-bytes=-5:*", "root", 2),
    "entity-bytes up to the end": blocks(FILE + f"&entity-bytes={MIB}:-1001", "root", 1, 0),
    "entity-bytes that begin before the file": blocks(FILE + "&entity-bytes=-99999999:*", "root", 0, 1, 2),
    "entity-bytes that end behind the file": blocks(FILE + f"&entity-bytes={3 * MIB}:99999999", "root", 2),
    "entity-bytes of no length": blocks(FILE + "&entity-bytes=0:-99999999", "root"),
    "entity-bytes of a block": blocks("/ipfs/{cid_small}?format=car&entity-bytes=5:9", "small"),
    "entity-bytes of an empty block": blocks("/ipfs/{cid_empty}?format=car&entity-bytes=0:*", "empty"),
    "400 for entity-bytes outside of the file": status(FILE + "&entity-bytes=99999999:*", 400),
    "400 for malformed entity-bytes": status(FILE + "&entity-bytes=5:1", 400),
    # The probe
    "the probe as a block": status(f"/ipfs/{PROBE}?format=raw", 200),
    "the probe by HEAD": status(f"/ipfs/{PROBE}?format=raw", 200, "HEAD"),
    "the probe as a CAR": probe_is_a_car,
    "identity blocks are not in CAR files": status("/ipfs/bafkqaf3imvwgy3zaneqgc3janfxgy2lomvscay3jmqfa?format=car", 200),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_of_the_specification(content, statement):
    STATEMENTS[statement](content)


def test_what_is_no_longer_public_is_no_longer_served(own_gateway, tmp_path):
    with Gateway(tmp_path / "public", "--cid-listen", "127.0.0.1:0") as gateway:
        gateway.start()
        url = address(gateway, gateway.data_dir.with_suffix(".log"))
        s3 = gateway.client()
        s3.create_bucket(Bucket="some")
        put = lambda key, data: s3.put_object(Bucket="some", Key=key, Body=data)["ResponseMetadata"]["HTTPHeaders"]["x-fula-cid"]
        one, two = put("pub/one", b"one"), put("pub/two", b"two")
        assert call("GET", f"{url}/ipfs/{one}?format=raw")[0] in (404, 503)
        s3.put_bucket_policy(Bucket="some", Policy=policy("some", "pub/"))
        await_public(url, one)
        await_public(url, two)
        # From the next request on.
        s3.put_object(Bucket="some", Key="pub/one", Body=b"other")
        assert call("GET", f"{url}/ipfs/{one}?format=raw")[0] == 404
        s3.delete_bucket_policy(Bucket="some")
        assert call("GET", f"{url}/ipfs/{two}?format=raw")[0] == 404
        # The same content under a public key is public.
        s3.put_bucket_policy(Bucket="some", Policy=policy("some", "open/"))
        put("open/again", b"two")
        await_public(url, two)
        s3.delete_object(Bucket="some", Key="open/again")
        assert call("GET", f"{url}/ipfs/{two}?format=raw")[0] == 404
    # It is off unless a setting asks for it.
    status, _, body = call("GET", f"{own_gateway.url}/ipfs/{two}?format=raw")
    assert status >= 400 and body != b"two"


def test_a_storage_node_serves_what_its_masters_call_public(gateway, tmp_path):
    site = Site(gateway, tmp_path, "--cid-listen", "127.0.0.1:0")
    try:
        site.node.stop()
        site.node.start("--cid-listen", "127.0.0.1:0").await_master()
        url = address(site.node, site.node.data_dir.with_suffix(".log"))
        leaves = [pattern(MIB, seed=n) for n in (1, 2)] + [pattern(500, seed=3)]
        sent = [site.ingest(leaf) for leaf in leaves]
        cids = [cid for cid, _ in sent]
        for n, (cid, leaf) in enumerate(zip(cids, leaves)):
            assert site.map(f"pub/{n}", cid, len(leaf))[0] == 200
        secret, _ = site.ingest(pattern(700, seed=4))
        assert site.map("private", secret, 700)[0] == 200
        node = file_node([(cid, len(leaf)) for cid, leaf in zip(cids, leaves)])
        root = site.cid_of(b"".join(leaves))
        blocks = [{"receipt": answer["receipt"], "blocks": [[cid, len(leaf)]]}
                  for (cid, answer), leaf in zip(sent, leaves)]
        mapping = {"cid": root, "size": sum(map(len, leaves)), "receipts": blocks,
                   "nodes": [base64.b64encode(node).decode()]}
        commit = json.dumps({"changes": [{"put": {"key": "pub/file", "map": mapping}}]}).encode()
        status, _, body = site.s3("POST", "/bucket?fula-commit", commit)
        assert status == 200, body
        assert site.s3("PUT", "/bucket?policy", policy("bucket", "pub/").encode())[0] in (200, 204)
        for server in (address(site.master, site.master.data_dir.with_suffix(".log")), url):
            await_public(server, root)
            status, headers, body = call("GET", f"{server}/ipfs/{root}?format=car")
            assert status == 200 and [cid for cid, _ in read_car(body)[1]] == [root, *cids], server
            assert call("GET", f"{server}/ipfs/{cids[0]}?format=raw")[2] == leaves[0]
            assert call("GET", f"{server}/ipfs/{secret}?format=raw")[0] == 404
        # A node that cannot ask says nothing.
        site.master.stop()
        assert call("GET", f"{url}/ipfs/{root}?format=raw")[0] == 503
    finally:
        site.close()
