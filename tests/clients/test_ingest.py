"""Storage nodes and mappings, with real processes: bytes go to a node, and a master maps keys to them."""

import base64
import json
import secrets
import shutil
import subprocess
import types

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from conftest import FULA, Gateway
from helpers import MIB, eventually, log_says, pattern
from identity import ENV, Wallet
from nodes import Site, call, car, file_node


@pytest.fixture
def site(gateway, tmp_path):
    site = Site(gateway, tmp_path)
    yield site
    site.close()


def test_a_block_at_a_node_becomes_an_object(site):
    capabilities = json.loads(call("GET", f"{site.master.url}/fula/capabilities")[2])
    assert capabilities["remoteCidPut"] is True and capabilities["ingest"] is True
    data = pattern(300_000)
    cid, answer = site.ingest(data)
    status, headers, body = site.map("mapped", cid, len(data), **{"x-amz-meta-color": "blue"})
    assert (status, headers["etag"]) == (200, f'"{cid}"'), body
    status, headers, body = site.s3("GET", "/bucket/mapped")
    assert (status, body) == (200, data) and headers["x-amz-meta-color"] == "blue"
    assert not [name for name in headers if "remote" in name]
    assert site.s3("GET", "/bucket/mapped", Range="bytes=1000-1009")[2] == data[1000:1010]
    head = site.s3("HEAD", "/bucket/mapped")[1]
    assert (head["content-length"], head["etag"]) == (str(len(data)), f'"{cid}"')
    listing = site.s3("GET", "/bucket?list-type=2")[2].decode()
    assert f"<Size>{len(data)}</Size>" in listing and cid in listing
    # The receipt alone is proof, too.
    status, _, body = site.map("with-receipt", cid, len(data), **{"x-fula-receipt": answer["receipt"]})
    assert status == 200, body
    assert site.s3("PUT", "/bucket/copy", **{"x-amz-copy-source": "/bucket/mapped"})[0] == 200
    assert site.s3("DELETE", "/bucket/mapped")[0] == 204
    assert site.s3("GET", "/bucket/copy")[2] == data
    assert site.s3("GET", "/bucket/mapped")[0] == 404
    # A condition on the ETag of a mapped object.
    assert site.map("copy", cid, len(data), **{"If-Match": '"other"'})[0] == 412
    assert site.map("copy", cid, len(data), **{"If-Match": f'"{cid}"'})[0] == 200


def test_bad_mappings_are_refused_with_the_status_of_the_wire_format(site):
    data = pattern(5000)
    cid, answer = site.ingest(data)
    absent = site.cid_of(pattern(5001, seed=2))
    sha256 = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    cases = [
        (400, "InvalidRequest", {"x-amz-meta-fula-remote-cid": cid}, b""),
        (400, "InvalidRequest", {"x-amz-meta-fula-remote-size": "5000"}, b""),
        (400, "InvalidRequest", {"cid": sha256, "size": "5000"}, b""),
        (400, "InvalidRequest", {"cid": "nonsense", "size": "5000"}, b""),
        (400, "InvalidRequest", {"cid": cid, "size": "+5000"}, b""),
        (400, "InvalidRequest", {"cid": cid, "size": "4999"}, b""),
        (400, "InvalidRequest", {"cid": cid, "size": str(MIB + 1)}, b""),
        (400, "InvalidRequest", {"cid": cid, "size": "5000"}, b"a body"),
        (409, "OperationAborted", {"cid": absent, "size": "5001"}, b""),
        (403, "AccessDenied", {"cid": cid, "size": "5000", "x-fula-receipt": "AAAA"}, b""),
    ]
    for status, code, headers, body in cases:
        named = {"cid": "x-amz-meta-fula-remote-cid", "size": "x-amz-meta-fula-remote-size"}
        headers = {named.get(name, name): value for name, value in headers.items()}
        found = site.s3("PUT", "/bucket/bad", body, **headers)
        assert (found[0], f"<Code>{code}</Code>" in found[2].decode()) == (status, True), (headers, found)
    assert site.s3("GET", "/bucket/bad")[0] == 404
    # Another user knows the CID and even the receipt, and has no right to either.
    other = Wallet().v1()
    assert site.s3("PUT", "/bucket", token=other)[0] == 200
    assert site.map("stolen", cid, 5000, token=other)[0] == 409
    status, _, body = site.map("stolen", cid, 5000, token=other, **{"x-fula-receipt": answer["receipt"]})
    assert (status, b"AccessDenied" in body) == (403, True)
    block = f"{site.node.url}/v0/block?cid="
    assert call("GET", block + cid, other)[::2] == call("GET", block + absent, other)[::2]
    assert call("GET", block + cid, site.token)[2] == data
    # With the flag off nothing is mapped, and what was mapped is still read.
    assert site.map("mapped", cid, 5000)[0] == 200
    site.restart_master()
    assert site.map("mapped", cid, 5000)[0] == 400
    assert site.s3("GET", "/bucket/mapped")[2] == data
    assert json.loads(call("GET", f"{site.master.url}/fula/capabilities")[2])["remoteCidPut"] is False


def test_a_file_of_many_blocks_is_one_mapping(site):
    leaves = [pattern(MIB, seed=n) for n in range(3)] + [pattern(1234, seed=9)]
    cids = [site.cid_of(leaf) for leaf in leaves]
    root = site.cid_of(b"".join(leaves))
    # A ticket, for a request that is signed with an access key.
    credentials = botocore.credentials.Credentials(*site.master.credentials())
    request = botocore.awsrequest.AWSRequest("POST", f"{site.master.url}/fula/ingest-ticket", data=b"")
    botocore.auth.S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    status, _, body = call("POST", request.url, body=b"", **dict(request.headers.items()))
    assert status == 200, body
    ticket = json.loads(body)
    assert ticket["nodes"][0]["url"] == site.node.url
    blocks = list(zip(cids, leaves))
    status, _, body = call("POST", f"{site.node.url}/v0/blocks", ticket["ticket"], car(blocks))
    assert status == 200, body
    stored = json.loads(body)
    assert [cid for cid, _ in stored["blocks"]] == cids
    node = file_node([(cid, len(leaf)) for cid, leaf in blocks])
    mapping = {"cid": root, "size": sum(map(len, leaves)), "nodes": [base64.b64encode(node).decode()],
               "receipts": [{"receipt": stored["receipt"], "blocks": stored["blocks"]}]}
    s3 = site.master.client()
    s3.create_bucket(Bucket="files")

    def commit(*changes):
        url = f"{site.master.url}/files?fula-commit"
        body = json.dumps({"changes": changes}).encode()
        request = botocore.awsrequest.AWSRequest("POST", url, data=body)
        botocore.auth.S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
        status, _, answer = call("POST", url, body=body, **dict(request.headers.items()))
        return status, answer

    status, body = commit({"put": {"key": "file", "map": mapping, "metadata": {"m": "1"}}},
                          {"put": {"key": "beside", "text": "hello"}})
    assert status == 200, body
    assert json.loads(body)["results"][0]["etag"] == f'"{root}"'
    found = s3.get_object(Bucket="files", Key="file")
    assert found["Body"].read() == b"".join(leaves) and found["Metadata"] == {"m": "1"}
    # Parts of a multipart upload that are copied from it are bytes of their own.
    upload = s3.create_multipart_upload(Bucket="files", Key="parts")["UploadId"]
    part = s3.upload_part_copy(Bucket="files", Key="parts", UploadId=upload, PartNumber=1,
                               CopySource={"Bucket": "files", "Key": "file"})
    parts = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
    s3.complete_multipart_upload(Bucket="files", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    # Without receipts, an object that has the leaves is proof.
    again = {**mapping, "receipts": [], "from": {"bucket": "files", "key": "file"}}
    assert commit({"put": {"key": "again", "map": again}})[0] == 200
    # A wrong size, a node that is missing, a receipt of another list: nothing of the commit is done.
    for wrong, expected in [({**mapping, "size": 5}, 400), ({**mapping, "nodes": []}, 400),
                            ({**mapping, "nodes": mapping["nodes"] * 2, "size": 1}, 400),
                            ({**mapping, "receipts": [{"receipt": stored["receipt"], "blocks": []}]}, 403)]:
        status, body = commit({"put": {"key": "wrong", "map": wrong}}, {"put": {"key": "no", "text": "x"}})
        assert (status, b"wrong" in body) == (expected, True), body
    assert {line["Key"] for line in s3.list_objects_v2(Bucket="files")["Contents"]} == {
        "file", "beside", "parts", "again"}
    site.master.stop()
    assert site.master.fula("fsck").returncode == 0
    site.master.start(ENV)


def test_a_node_that_is_away_or_was_wiped_is_named(site):
    data = pattern(70_000)
    cid, answer = site.ingest(data)
    assert site.map("mapped", cid, len(data))[0] == 200
    assert site.s3("GET", "/bucket/mapped")[2] == data
    site.node.kill()
    status, headers, body = site.s3("GET", "/bucket/mapped")
    assert (status, b"north" in body, "retry-after" in headers) == (503, True, True), body
    assert site.map("another", cid, len(data))[0] == 409
    # The receipt is good while the node is away. It comes back with everything it has acknowledged.
    site.node.start().await_master()
    assert site.s3("GET", "/bucket/mapped")[2] == data
    assert call("GET", f"{site.node.url}/v0/block?cid={cid}", site.token)[2] == data
    site.node.stop()
    subprocess.run([FULA, "gc", "--now", "--data-dir", site.node.data_dir], check=True, capture_output=True)
    site.node.start().await_master()
    assert site.s3("GET", "/bucket/mapped")[2] == data
    # A new disk under the old key.
    site.node.stop()
    shutil.rmtree(site.node.data_dir)
    site.node.start().await_master()
    status, _, body = site.s3("GET", "/bucket/mapped")
    assert (status, b"missing" in body) == (500, True), body
    for text in ("lost its disk", "has lost a block", cid, "north"):
        log_says(site.master, text)
    status, _, body = site.map("again", cid, len(data), **{"x-fula-receipt": answer["receipt"]})
    assert (status, b"another disk" in body) == (409, True), body


def test_copies_make_the_master_independent_of_the_node(gateway, tmp_path):
    site = Site(gateway, tmp_path, "--ingest-copy", "on", "--retention", "0s")
    try:
        data = pattern(50_000)
        cid, _ = site.ingest(data)
        assert site.map("mapped", cid, len(data))[0] == 200
        site.node.kill()
        site.master.fula("gc", "--now")
        assert site.s3("GET", "/bucket/mapped")[2] == data
    finally:
        site.close()


def test_a_node_follows_the_revocations_of_its_master(site):
    data = pattern(1000)
    cid, _ = site.ingest(data)
    url = f"{site.node.url}/v0/block?cid={cid}"
    ticket = json.loads(call("POST", f"{site.master.url}/fula/ingest-ticket", site.token)[2])["ticket"]
    assert call("PUT", url, ticket, data)[0] == 200
    site.master.fula("revoke", "user", site.wallet.user, "--yes")
    eventually(lambda: call("PUT", url, site.token, data)[0] != 200)
    assert call("PUT", url, site.token, data)[0] == 401
    assert call("PUT", url, ticket, data)[0] == 403
    assert call("PUT", url, Wallet().v1(), data)[0] == 200
    # A node that was never told anything accepts nothing.
    site.node.stop()
    site.master.stop()
    master = site.master.url
    site.master.start(ENV)
    assert site.master.url == master
    site.node.start().await_master()
    assert call("PUT", url, site.token, data)[0] == 401


def test_a_node_keeps_its_key_wherever_its_line_stands(site):
    data = pattern(20_000)
    cid, answer = site.ingest(data)
    assert site.map("mapped", cid, len(data), **{"x-fula-receipt": answer["receipt"]})[0] == 200
    address, first = site.node.address, site.node.key_file.read_text()
    site.node.stop()
    site.node.key_file.write_text(f"{secrets.token_hex(32)}\n{first}")
    site.node.start().await_master()
    assert site.node.address == address
    assert site.s3("GET", "/bucket/mapped")[2] == data
    # Under another key, the masters would say that nobody needs what the node holds.
    site.node.stop()
    site.node.key_file.write_text(f"{secrets.token_hex(32)}\n")
    refused = subprocess.run(site.node.command(), capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and "put the line back" in refused.stderr, refused.stderr
    # A command does not act as the node. It works without the line, and keeps what the node holds.
    subprocess.run([FULA, "gc", "--now", "--retention", "0s", "--data-dir", site.node.data_dir], check=True,
                   capture_output=True)
    site.node.key_file.write_text(first)
    site.node.start().await_master()
    assert site.s3("GET", "/bucket/mapped")[2] == data


def test_a_node_that_holds_nothing_may_begin_with_another_key(site):
    address = site.node.address
    site.node.stop()
    site.node.key_file.write_text(f"{secrets.token_hex(32)}\n")
    assert site.node.start().address != address


def test_a_gateway_takes_blocks_itself(gateway, tmp_path):
    with Gateway(tmp_path / "data", "--ingest", "on", "--remote-cid-put", "on", "--retention", "0s") as master:
        master.start(ENV)
        token = Wallet().v1()
        assert call("PUT", f"{master.url}/bucket", token)[0] == 200
        data = pattern(4000)
        cid = Site.cid_of(types.SimpleNamespace(elsewhere=gateway), data)
        assert call("PUT", f"{master.url}/v0/block?cid={cid}", token, data)[0] == 200
        master.fula("gc", "--now")
        headers = {"x-amz-meta-fula-remote-cid": cid, "x-amz-meta-fula-remote-size": "4000"}
        status, _, body = call("PUT", f"{master.url}/bucket/mapped", token, **headers)
        assert status == 200, body
        master.fula("gc", "--now")
        assert call("GET", f"{master.url}/bucket/mapped", token)[2] == data
        # The health of the process is not on the S3 port.
        assert call("GET", f"{master.url}/health")[0] != 200
        assert call("GET", f"{master.url}/v0/info")[0] == 200


def test_directories_and_settings_are_not_mixed_up(site, tmp_path):
    site.node.stop()
    used = subprocess.run([FULA, "gateway", "--data-dir", site.node.data_dir, "--listen", "127.0.0.1:0",
                           "--admin-listen", "127.0.0.1:0"], capture_output=True, text=True)
    assert used.returncode == 1 and "belongs to a storage node" in used.stderr
    site.master.stop()
    key = site.node.address.split("#")[1]
    command = [FULA, "storage-node", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    masters = ["--masters", f"m=http://127.0.0.1:1#{key}"]
    used = subprocess.run([*command, *masters, "--data-dir", site.master.data_dir], capture_output=True, text=True)
    assert used.returncode == 1 and "belongs to a gateway" in used.stderr
    alone = subprocess.run([*command, "--masters", "", "--data-dir", tmp_path / "x"], capture_output=True, text=True)
    assert alone.returncode == 2 and "--masters" in alone.stderr
    site.master.start(ENV)
