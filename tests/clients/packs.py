"""Packs of a shared block store, as docs/format.md describes them."""

import base64
import struct

HEAD, END, ENTRY = 24, 16, 44


def cid_text(cid):
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def index_of(path):
    """The blocks of a pack: address, offset and length."""
    data = path.read_bytes()
    assert data[:8] == b"FULAPACK" and data[-8:] == b"FULAPEND", path
    (count,) = struct.unpack("<I", data[-END:-END + 4])
    index = data[len(data) - END - count * ENTRY:-END]
    for at in range(0, len(index), ENTRY):
        yield cid_text(index[at:at + 36]), *struct.unpack("<II", index[at + 36:at + ENTRY])


def all_packs(blocks):
    return [path for path in (blocks / "packs").rglob("*") if path.is_file()]


def find_block(blocks, cid):
    """Pack, offset and length of a block; the newest where there are several."""
    for path in sorted(all_packs(blocks), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        for found, offset, length in index_of(path):
            if found == cid:
                return path, offset, length
    raise AssertionError("no such block")


def damage(blocks, cid):
    """Changes the last byte of a block."""
    path, offset, length = find_block(blocks, cid)
    with open(path, "r+b") as pack:
        pack.seek(offset + length - 1)
        last = pack.read(1)[0]
        pack.seek(offset + length - 1)
        pack.write(bytes([last ^ 1]))
