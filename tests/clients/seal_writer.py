"""Writes files into sealed vaults as a program that has none of our code: docs/format.md."""

import base64
import os
import time

import dag_cbor
import seal_oracle as seal
from blake3 import blake3

PADDED = (128, 192, 256, 384, 512, 768, 1024, 1264)


def text(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def seal_segment(file_key, file, content):
    """Returns the only segment of a file, and its record for the layout."""
    salt = os.urandom(24)
    sealed = seal.seal_segment(seal.keyed(file_key, b"segment"), file, 0, salt, content)
    return sealed, [0, len(content), salt, sealed[24:56]]


def seal_file(keys, private, path, content):
    """Returns key, body and metadata of a file of one segment, without padding."""
    epoch, file = len(keys.epochs) - 1, os.urandom(32)
    file_key, number = keys.file(epoch, file), epoch.to_bytes(4, "big")
    segment, record = seal_segment(file_key, file, content)
    layout = dag_cbor.dumps([len(content), [record]])
    metadata = dag_cbor.dumps([path, None, None, {}])
    trailer_bytes = (4 + len(layout) + len(metadata) + 2 * 28).to_bytes(4, "big")
    footer = trailer_bytes + number + bytes([seal.SUITE, 0, 0, 1]) + file + b"FULASEAL"
    trailer = (len(layout) + 28).to_bytes(4, "big")
    trailer += seal.aes_seal(seal.keyed(file_key, b"trailer"), os.urandom(12), layout, footer)
    trailer += seal.aes_seal(keys.listing(epoch, b"file", file), os.urandom(12), metadata, footer)
    length, = seal.content_lengths(len(content), [record])
    parts = {"hashes": [blake3(segment[:length]).digest()], "footer": footer, "trailer": trailer}
    body = segment + trailer + seal.prove(keys, private, parts) + footer

    key, device = keys.s3_key(path), seal.device_id(seal.raw(private))
    signed = footer[4:12] + file + trailer_bytes + blake3(trailer).digest() + record[2] + record[3] + device
    clock = time.time_ns() // 1_000_000
    fields = [path, len(content), None, None, clock, device, blake3(signed).digest()[:16], 0]
    name = dag_cbor.dumps(fields)
    name += bytes(min(size for size in PADDED if size >= len(name)) - len(name))
    aad = keys.vault + key.encode() + bytes([seal.SUITE])
    listed = number + keys.listing(epoch, b"commit", key.encode())[:16]
    listed += seal.aes_seal(keys.listing(epoch, b"name", key.encode()), os.urandom(12), name, aad)
    digest = blake3(name).digest()
    kept = signed + seal.sign(private, b"fula 2026 name", keys.vault, key.encode(), signed, digest)
    return key, body, {"fula-n": text(listed), "fula-k": text(kept)}
