"""Links to files of sealed vaults, read without our code and without the keys of a vault: docs/format.md."""

import base64

import seal_oracle as seal
from blake3 import blake3
from seal_oracle import Refused, check, keyed, shape

KINDS = ("file", "folder")
# Version, kind, key, time.
HEAD = 2 + 40 + 8


def parse_link(text):
    """Reads what stands behind the # of a link."""
    data = seal.unbase64(text, HEAD + 255 + 4)
    check(len(data) >= HEAD + 4, "Malformed", "the link is cut off")
    body, checksum = data[:-4], data[-4:]
    check(blake3(body).digest()[:4] == checksum, "Malformed", "the checksum of the link")
    check(body[0] == 1, "Unsupported", "the version of the link")
    check(body[1] < len(KINDS), "Unsupported", "the kind of the link")
    try:
        name = body[HEAD:].decode()
    except UnicodeDecodeError as error:
        raise Refused("Malformed", "the name in the link") from error
    return {"kind": KINDS[body[1]], "key": body[2:42], "modified": int.from_bytes(body[42:HEAD], "big") or None,
            "name": name}


def link_text(link):
    body = bytes([1, KINDS.index(link["kind"])]) + link["key"] + (link["modified"] or 0).to_bytes(8, "big")
    body += link["name"].encode()
    return base64.urlsafe_b64encode(body + blake3(body).digest()[:4]).decode().rstrip("=")


def open_body(key, body):
    """Returns the content of a body that is shared. Its metadata stays closed."""
    check(len(body) >= 52, "Truncated", "the footer")
    footer = body[-52:]
    trailer_bytes, _, count, file = seal.parse_footer(footer)
    check(trailer_bytes <= 1 << 20, "TooLarge", "the trailer")
    end = len(body) - 52 - (count and 32 * count + 72)
    start = end - trailer_bytes
    check(start >= 0, "Truncated", "the trailer")
    file_key, is_of = key[:32], key[32:]
    check(keyed(file_key, b"link", file)[:8] == is_of, "Misplaced", "the link leads to another body")
    trailer = body[start:end]
    check(len(trailer) >= 4, "Truncated", "the trailer")
    length = int.from_bytes(trailer[:4], "big")
    check(4 + length <= len(trailer), "Truncated", "the trailer")
    size, segments = seal.read_layout(seal.aes_open(keyed(file_key, b"trailer"), trailer[4:4 + length], footer))
    check(sum(seal.sealed_bytes(segment[1]) for segment in segments) == start, "Truncated", "the content")
    content, at = b"", 0
    for segment in segments:
        sealed = body[at:at + seal.sealed_bytes(segment[1])]
        content += seal.open_segment(keyed(file_key, b"segment"), file, segment, sealed)
        at += len(sealed)
    return content[:size]


def open_link(text, s3_key, objects):
    """Returns a link and the files that it leads to. `objects` has what lies below the prefix of the vault."""
    link = parse_link(text)
    content = open_body(link["key"], objects[s3_key])
    if link["kind"] == "file":
        return link, [{"path": None, "content": content}]
    version, entries = shape(seal.decode(content), int, list)
    check(version == 1 and len(entries) <= 10_000, "Malformed", "the list of the folder")
    files = []
    for entry in entries:
        path, number, key, _, modified = shape(entry, bytes, 20, 40, int, int)
        found = open_body(key, objects["s/" + base64.b32encode(number).decode().lower()])
        files.append({"path": path, "content": found, "modified": modified or None})
    return link, files
