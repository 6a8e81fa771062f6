"""The part of dag-cbor that the tests need: integers, bytes, texts, lists, maps, booleans, null and links."""

import base64

LINK = 42


class Link(bytes):
    """A CID in binary."""

    def __str__(self):
        return "b" + base64.b32encode(self).decode().rstrip("=").lower()


def head(major, value):
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 24:
            return bytes([major << 5 | value])
        if value < 1 << 8 * size:
            return bytes([major << 5 | info]) + value.to_bytes(size, "big")
    raise ValueError(value)


def dumps(value):
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, Link):
        return head(6, LINK) + dumps(b"\0" + bytes(value))
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return head(3, len(text)) + text
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(dumps, value))
    pairs = sorted(value.items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode()))
    return head(5, len(pairs)) + b"".join(dumps(name) + dumps(found) for name, found in pairs)


def read(data, at=0):
    """Returns one value and the place after it."""
    major, info = data[at] >> 5, data[at] & 31
    if data[at] in (0xf4, 0xf5, 0xf6):
        return {0xf4: False, 0xf5: True, 0xf6: None}[data[at]], at + 1
    at, value = at + 1, info
    if info >= 24:
        size = 1 << info - 24
        value, at = int.from_bytes(data[at:at + size], "big"), at + size
    if major == 0:
        return value, at
    if major in (2, 3):
        if at + value > len(data):
            raise IndexError("cut off")
        found = data[at:at + value]
        return found if major == 2 else found.decode(), at + value
    if major == 4:
        items = []
        for _ in range(value):
            item, at = read(data, at)
            items.append(item)
        return items, at
    if major == 5:
        found = {}
        for _ in range(value):
            name, at = read(data, at)
            found[name], at = read(data, at)
        return found, at
    assert (major, value) == (6, LINK)
    cid, at = read(data, at)
    return Link(cid[1:]), at


def loads(data):
    value, end = read(data)
    assert end == len(data)
    return value


def items(data):
    """Returns the values of a stream."""
    at, found = 0, []
    while at < len(data):
        value, at = read(data, at)
        found.append(value)
    return found
