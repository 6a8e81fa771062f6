"""Sealed vaults as a program reads them that has none of our code: every vector opens, or is refused as it should be."""

import json
import pathlib

import pytest
import seal_links
import seal_oracle as seal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "crates/seal/tests/vectors"


def load(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def keys_of(vector):
    return seal.Keys(bytes.fromhex(vector["vault"]), bytes.fromhex(vector["names_key"]),
                     [bytes.fromhex(key) for key in vector["epoch_keys"]])


def by_case(vectors):
    return [pytest.param(vector, id=vector["case"].replace(" ", "-")) for vector in vectors]


@pytest.mark.parametrize("vector", by_case(load("objects")))
def test_an_object_opens_and_gives_the_same_bytes_again(vector):
    keys, body = keys_of(vector["keys"]), bytes.fromhex(vector["body"])
    content, metadata, parts = seal.open_body(keys, body)
    assert content == bytes.fromhex(vector["content"])
    assert metadata[0] == bytes.fromhex(vector["path"]) and metadata[1] == int(vector["modified"])
    assert metadata[3] == {"content-type": "text/plain", "x-amz-meta-a": "ä"}
    assert parts["file"].hex() == vector["file"]
    assert [segment[2].hex() for segment in parts["segments"]] == vector["salts"]
    assert [segment[1] for segment in parts["segments"]] == vector["segment_bytes"]
    assert not any(parts["padded"][len(content):])
    assert seal.seal_body(keys, parts) == body

    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["device_seed"]))
    assert keys.s3_key(metadata[0]) == vector["s3_key"]
    fields, signed, padded = seal.open_name(keys, vector["s3_key"], vector["fula_n"], vector["fula_k"],
                                            [(seal.raw(private), None)], vector["clock"])
    assert (fields[0], fields[1], fields[4]) == (metadata[0], len(content), vector["clock"])
    assert len(padded) in (128, 192, 256, 384, 512, 768, 1024, 1264)
    writers = [(seal.raw(private), None)]
    assert seal.open_body(keys, body, signed, writers)[0] == content
    assert bool(parts["proof"]) == vector["proof"]
    if vector["proof"]:
        assert parts["proof"] == seal.prove(keys, private, parts)
    # The record names the body, and the signature is the one that Ed25519 gives.
    trailer = seal.blake3(parts["trailer"]).digest()
    first = parts["segments"][0]
    assert signed[6:8] == parts["footer"][10:12]
    assert signed[8:132] == parts["file"] + parts["footer"][:4] + trailer + first[2] + first[3]
    parts = (keys.vault, vector["s3_key"].encode(), signed, seal.blake3(padded).digest())
    assert seal.unbase64(vector["fula_k"], 204)[140:] == seal.sign(private, b"fula 2026 name", *parts)


def identity_of(keyring, secret):
    if "passphrase" in secret:
        return keyring.identity_of_passphrase(secret["passphrase"])
    if "signature" in secret:
        salt = next(slot[1] for slot in keyring.slots if slot[0] == 4)
        return seal.Identity(seal.seed_of_wallet(keyring.vault, salt, bytes.fromhex(secret["signature"])))
    return seal.Identity(bytes.fromhex(secret["seed"]))


def test_a_keyring_opens_with_every_secret_and_follows_the_one_before():
    seen = None
    for vector in load("keyrings"):
        keyring = seal.Keyring(bytes.fromhex(vector["keyring"]))
        assert (keyring.generation, keyring.fingerprint()) == (vector["generation"], vector["fingerprint"])
        expected = keys_of(vector["keys"])
        for secret in vector["secrets"]:
            keys, slots, members = keyring.open(identity_of(keyring, secret), vector["fingerprint"], seen)
            assert (keys.vault, keys.names, keys.epochs) == (expected.vault, expected.names, expected.epochs)
            assert slots == [secret["label"] for secret in vector["secrets"]]
            assert members == [member["label"] for member in vector["members"]]
        shown = [{"key": key.hex(), "role": ["writer", "admin"][role], "since": since, "until": until}
                 for key, role, since, until, _, _ in keyring.members]
        assert shown == [{name: value for name, value in member.items() if name != "label"}
                         for member in vector["members"]]
        checkpoint = seal.open_checkpoint(vector["checkpoint"]["text"])
        assert checkpoint == {"vault": keyring.vault, "fingerprint": vector["fingerprint"],
                              "generation": keyring.generation, "keyring": keyring.hash(), "version": 7,
                              "root": bytes.fromhex(vector["checkpoint"]["root"])}
        seen = keyring


def refuse(vector):
    if vector["open"] == "body":
        return seal.open_body(keys_of(vector["keys"]), bytes.fromhex(vector["body"]))
    if vector["open"] == "name":
        writers = [(bytes.fromhex(key), end) for key, end in vector["writers"]]
        return seal.open_name(keys_of(vector["keys"]), vector["s3_key"], vector["fula_n"], vector["fula_k"],
                              writers, vector["clock"])
    if vector["open"] == "object":
        keys, writers = keys_of(vector["keys"]), [(bytes.fromhex(key), end) for key, end in vector["writers"]]
        _, signed, _ = seal.open_name(keys, vector["s3_key"], vector["fula_n"], vector["fula_k"], writers, 0)
        return seal.open_body(keys, bytes.fromhex(vector["body"]), signed, writers)
    if vector["open"] == "checkpoint":
        return seal.open_checkpoint(vector["text"])
    keyring = seal.Keyring(bytes.fromhex(vector["keyring"]))
    if "passphrase" in vector:
        return keyring.identity_of_passphrase(vector["passphrase"])
    seen = seal.Keyring(bytes.fromhex(vector["seen"])) if vector["seen"] else None
    return keyring.open(seal.Identity(bytes.fromhex(vector["seed"])), vector["fingerprint"], seen)


@pytest.mark.parametrize("vector", by_case(load("refused")))
def test_what_must_be_refused_is_refused_with_the_same_error(vector):
    with pytest.raises(seal.Refused) as refused:
        refuse(vector)
    assert refused.value.kind == vector["error"], refused.value.args


def open_link(vector):
    objects = {key: bytes.fromhex(body) for key, body in vector["objects"].items()}
    return seal_links.open_link(vector["link"], vector["s3_key"], objects)


@pytest.mark.parametrize("vector", by_case([vector for vector in load("links") if not vector["error"]]))
def test_a_link_opens_what_it_leads_to_without_the_keys_of_the_vault(vector):
    link, files = open_link(vector)
    assert (link["kind"], link["name"], link["key"].hex()) == (vector["kind"], vector["name"], vector["file_key"])
    assert link["modified"] == (vector["modified"] and int(vector["modified"]))
    of = lambda file: (file["path"] and bytes.fromhex(file["path"]), bytes.fromhex(file["content"]))
    assert [(file["path"], file["content"]) for file in files] == [of(file) for file in vector["files"]]
    if link["kind"] == "folder":
        assert [file["modified"] for file in files] == [int(file["modified"]) for file in vector["files"]]
    # The text of the link is the one that these fields give.
    assert seal_links.link_text(link) == vector["link"]
    # A member of the vault sees what it is.
    _, metadata, _ = seal.open_body(keys_of(vector["keys"]), bytes.fromhex(vector["objects"][vector["s3_key"]]))
    assert metadata[3] == {"fula-share": vector["kind"]}


@pytest.mark.parametrize("vector", by_case([vector for vector in load("links") if vector["error"]]))
def test_a_link_that_must_be_refused_is_refused_with_the_same_error(vector):
    with pytest.raises(seal.Refused) as refused:
        open_link(vector)
    assert refused.value.kind == vector["error"], refused.value.args


def test_there_are_enough_vectors_that_must_fail():
    assert len(load("refused")) >= 30
    assert len([vector for vector in load("links") if vector["error"]]) >= 30
