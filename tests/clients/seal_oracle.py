"""A reader and a writer of sealed vaults that shares no code with Fula: docs/format.md, and libraries of others."""

import base64
import hashlib
import re

from blake3 import blake3
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHUNK = 16 * 1024
SUITE = 1


class Refused(Exception):
    """The first argument is the kind of the error, as `SealError` in crates/seal names it."""

    @property
    def kind(self):
        return self.args[0]


def check(condition, kind, why=""):
    if not condition:
        raise Refused(kind, why)


# ---- dag-cbor: definite lengths, shortest heads, no tags and no floats ----


class Cbor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(self.at + count <= len(self.data), "Truncated", "cbor")
        self.at += count
        return self.data[self.at - count:self.at]

    def head(self):
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info
        check(info < 28, "Malformed", "a length")
        size = 1 << (info - 24)
        value = int.from_bytes(self.take(size), "big")
        check(value >= (24 if size == 1 else 1 << (4 * size)), "Malformed", "not the shortest form")
        return major, value

    def value(self):
        if self.at < len(self.data) and self.data[self.at] == 0xF6:
            self.at += 1
            return None
        major, value = self.head()
        if major == 0:
            return value
        if major == 2:
            return self.take(value)
        if major == 3:
            try:
                return self.take(value).decode()
            except UnicodeDecodeError as error:
                raise Refused("Malformed", "text") from error
        if major == 4:
            return [self.value() for _ in range(value)]
        check(major == 5, "Malformed", "a type")
        pairs = [(self.value(), self.value()) for _ in range(value)]
        names = [(len(name.encode()), name.encode()) for name, _ in pairs]
        check(names == sorted(set(names)), "Malformed", "the order of a map")
        return dict(pairs)

    def end(self):
        check(self.at == len(self.data), "Malformed", "bytes are left over")


def decode(data):
    cbor = Cbor(data)
    value = cbor.value()
    cbor.end()
    return value


def shape(value, *kinds):
    """Checks the fields of an array: a number of bytes, a type, or a tuple of either."""
    check(isinstance(value, list) and len(value) == len(kinds), "Malformed", "the number of fields")

    def fits(field, kind):
        if isinstance(kind, tuple):
            return any(fits(field, one) for one in kind)
        if kind is None:
            return field is None
        if isinstance(kind, int) and not isinstance(kind, type):
            return isinstance(field, bytes) and len(field) == kind
        return isinstance(field, kind)

    check(all(map(fits, value, kinds)), "Malformed", "a field")
    return value


# ---- keys ----


def keyed(key, *parts):
    return blake3(b"".join(parts), key=key).digest()


def aes_open(key, sealed, aad):
    check(len(sealed) >= 12, "Truncated", "a text")
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], aad)
    except (InvalidTag, ValueError) as error:
        raise Refused("Damaged") from error


def aes_seal(key, nonce, text, aad):
    return nonce + AESGCM(key).encrypt(nonce, text, aad)


class Keys:
    """What a keyring holds."""

    def __init__(self, vault, names, epochs):
        self.vault, self.names, self.epochs = vault, names, epochs

    def s3_key(self, path):
        return base64.b32encode(keyed(self.names, b"key", path)[:20]).decode().lower()

    def epoch(self, number):
        check(number < len(self.epochs), "UnknownEpoch")
        return self.epochs[number]

    def listing(self, epoch, label, of):
        return keyed(keyed(self.epoch(epoch), b"list"), label, of)

    def file(self, epoch, file):
        return keyed(self.epoch(epoch), b"fula 2026 file", self.vault, file)


def device_id(public):
    return blake3(public).digest()[:8]


def verifies(public, purpose, signature, *parts):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, b"".join([purpose, b"\0", *parts]))
        return True
    except InvalidSignature:
        return False


def sign(private, purpose, *parts):
    return private.sign(b"".join([purpose, b"\0", *parts]))


def raw(private):
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


# ---- bodies ----


def parse_footer(footer):
    check(footer.endswith(b"FULASEAL"), "Malformed", "no footer")
    check(footer[8] == SUITE, "Unsupported", "suite")
    check(footer[9] == 0, "Malformed", "flags")
    trailer_bytes, epoch = int.from_bytes(footer[:4], "big"), int.from_bytes(footer[4:8], "big")
    return trailer_bytes, epoch, int.from_bytes(footer[10:12], "big"), footer[12:44]


def context(file, ordinal):
    return b"fula seal 1" + file + ordinal.to_bytes(8, "big")


def sealed_bytes(plain):
    return 56 + plain + 16 * (plain // CHUNK + 1)


def open_segment(key, file, segment, sealed):
    ordinal, plain, salt, commitment = segment
    check(sealed[:24] == salt and sealed[24:56] == commitment, "Misplaced", "a segment")
    decryptor = Cobblestone256Decryptor(key, context(file, ordinal))
    try:
        out = decryptor.update(sealed)
        out += decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise Refused("Damaged", "a segment") from error
    check(len(out) == plain, "Damaged", "the length of a segment")
    return out


def seal_segment(key, file, ordinal, salt, plain):
    """Cobblestone-256 by hand: the specification says how, and no library takes a salt."""
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context(file, ordinal)
    derived = HKDFExpand(SHA512(), 76, info).derive(key)
    cipher, base, commitment = AESGCM(derived[:32]), derived[32:44], derived[44:]
    out = [salt, commitment]
    for chunk in range(len(plain) // CHUNK + 1):
        nonce = (int.from_bytes(base, "big") ^ chunk).to_bytes(12, "big")
        out.append(cipher.encrypt(nonce, plain[chunk * CHUNK:(chunk + 1) * CHUNK], None))
    return b"".join(out)


def read_layout(encoded):
    size, segments = shape(decode(encoded), int, list)
    for segment in segments:
        shape(segment, int, int, 24, 32)
    ordinals = [segment[0] for segment in segments]
    check(segments and ordinals == sorted(set(ordinals)), "Malformed", "the layout")
    check(len(segments) <= 10_000, "TooLarge", "segments")
    check(sum(segment[1] for segment in segments) >= size, "Malformed", "the layout")
    return size, segments


def content_lengths(size, segments):
    """Returns how many sealed bytes of each segment are hashed: chunks that hold padding alone are not."""
    lengths, left = [], size
    for _, plain, *_ in segments:
        if left <= plain and (left or plain or len(lengths) + 1 == len(segments)):
            whole = 56 + (CHUNK + 16) * (max(left - 1, 0) // CHUNK + 1)
            return [*lengths, min(whole, sealed_bytes(plain))]
        lengths.append(sealed_bytes(plain))
        left -= plain
    raise AssertionError("a layout holds its size")


def open_proof(keys, footer, trailer, proof, writers):
    """Returns the hashes that a writer signed."""
    _, epoch, count, _ = parse_footer(footer)
    check(len(proof) == (count and 32 * count + 72), "Truncated", "the proof")
    if not count:
        return None
    hashes, device, signature = proof[:-72], proof[-72:-64], proof[-64:]
    known = [key for key, end in writers if device_id(key) == device and (end is None or epoch < end)]
    parts = (keys.vault, footer, blake3(trailer).digest(), hashes)
    check(known and verifies(known[0], b"fula 2026 body", signature, *parts), "NotSigned", "the proof")
    return [hashes[at:at + 32] for at in range(0, len(hashes), 32)]


def open_body(keys, body, signed=None, writers=()):
    """Returns content, metadata, and the sealed and the plain parts of a body.

    `signed` is the record in the name of the object. Without it, only recovery reads.
    """
    check(len(body) >= 52, "Truncated", "the footer")
    footer = body[-52:]
    trailer_bytes, epoch, count, file = parse_footer(footer)
    check(trailer_bytes <= 1 << 20, "TooLarge", "the trailer")
    end = len(body) - 52 - (count and 32 * count + 72)
    start = end - trailer_bytes
    check(start >= 0, "Truncated", "the trailer")
    trailer, proof = body[start:end], body[end:-52]
    if signed:
        named = footer[4:12] + file + footer[:4] + blake3(trailer).digest()
        check(signed[:76] == named, "Misplaced", "the body")
    check(len(trailer) >= 4, "Truncated", "the trailer")
    length = int.from_bytes(trailer[:4], "big")
    check(4 + length <= len(trailer), "Truncated", "the trailer")
    file_key = keys.file(epoch, file)
    layout_key, list_key = keyed(file_key, b"trailer"), keys.listing(epoch, b"file", file)
    layout = aes_open(layout_key, trailer[4:4 + length], footer)
    metadata = aes_open(list_key, trailer[4 + length:], footer)
    size, segments = read_layout(layout)
    fields = shape(decode(metadata), bytes, (int, None), (str, None), dict)
    check(1 <= len(fields[0]) <= 1024, "Malformed", "the path")
    check(sum(sealed_bytes(segment[1]) for segment in segments) == start, "Truncated", "the content")
    hashes = open_proof(keys, footer, trailer, proof, writers) if signed else None
    content, at, found, lengths = b"", 0, [], content_lengths(size, segments)
    for number, segment in enumerate(segments):
        sealed = body[at:at + sealed_bytes(segment[1])]
        content += open_segment(keyed(file_key, b"segment"), file, segment, sealed)
        at += len(sealed)
        if number < len(lengths):
            found.append(blake3(sealed[:lengths[number]]).digest())
    check(hashes in (None, found), "Replaced", "the content")
    parts = {"file": file, "epoch": epoch, "layout": layout, "metadata": metadata, "segments": segments,
             "trailer": trailer, "footer": footer, "padded": content, "proof": proof, "hashes": found}
    return content[:size], fields, parts


def seal_body(keys, parts):
    """Seals the plain parts of a body again, with the salts and nonces that it had."""
    file_key, trailer = keys.file(parts["epoch"], parts["file"]), parts["trailer"]
    out, at = b"", 0
    for ordinal, length, salt, _ in parts["segments"]:
        plain = parts["padded"][at:at + length]
        out += seal_segment(keyed(file_key, b"segment"), parts["file"], ordinal, salt, plain)
        at += length
    length = len(parts["layout"]) + 28
    out += length.to_bytes(4, "big")
    out += aes_seal(keyed(file_key, b"trailer"), trailer[4:16], parts["layout"], parts["footer"])
    list_key = keys.listing(parts["epoch"], b"file", parts["file"])
    out += aes_seal(list_key, trailer[4 + length:16 + length], parts["metadata"], parts["footer"])
    return out + parts["proof"] + parts["footer"]


def prove(keys, private, parts):
    """Returns the proof of a body as its writer signs it."""
    hashes = b"".join(parts["hashes"])
    signed = (keys.vault, parts["footer"], blake3(parts["trailer"]).digest(), hashes)
    return hashes + device_id(raw(private)) + sign(private, b"fula 2026 body", *signed)


# ---- names ----


def unbase64(text, most):
    check(len(text) <= -(-most // 3) * 4, "TooLarge", "a value")
    check(re.fullmatch(r"[A-Za-z0-9_-]*", text) and len(text) % 4 != 1, "Malformed", "base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    check(base64.urlsafe_b64encode(data).decode().rstrip("=") == text, "Malformed", "base64url")
    return data


def open_name(keys, s3_key, listed, kept, writers, clock_seen):
    """Returns the fields of a name. `writers` has public keys and the epochs in which they end, or None."""
    data = unbase64(listed, 20 + 28 + 1264)
    check(len(data) >= 20, "Truncated", "the name")
    epoch = int.from_bytes(data[:4], "big")
    commitment = keys.listing(epoch, b"commit", s3_key.encode())[:16]
    check(data[4:20] == commitment, "Misplaced", "the name")
    aad = keys.vault + s3_key.encode() + bytes([SUITE])
    padded = aes_open(keys.listing(epoch, b"name", s3_key.encode()), data[20:], aad)
    cbor = Cbor(padded)
    fields = shape(cbor.value(), bytes, int, (int, None), (str, None), int, 8, 16, int)
    check(not any(padded[cbor.at:]) and fields[7] == 0, "Malformed", "padding or flags")
    check(keys.s3_key(fields[0]) == s3_key, "Misplaced", "the path")
    record = unbase64(kept, 204)
    check(len(record) == 204, "Malformed", "the record")
    check(record[4] == SUITE, "Unsupported", "suite")
    check(record[5] == 0, "Malformed", "flags")
    signed, signature = record[:140], record[140:]
    check(blake3(signed).digest()[:16] == fields[6] and signed[132:] == fields[5], "Misplaced", "the body")
    known = [key for key, end in writers if device_id(key) == fields[5] and (end is None or epoch < end)]
    parts = (keys.vault, s3_key.encode(), signed, blake3(padded).digest())
    check(known and verifies(known[0], b"fula 2026 name", signature, *parts), "NotSigned", "the name")
    check(fields[4] >= clock_seen, "Replayed", "the name")
    return fields, signed, padded


# ---- slots and keyrings ----


class Identity:
    def __init__(self, seed):
        self.seed = seed
        expanded = hashlib.shake_256(seed).digest(96)
        self.mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self.x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.signer = Ed25519PrivateKey.from_private_bytes(keyed(seed, b"fula 2026 slot signature"))

    def public(self):
        return self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()

    def unwrap(self, vault, encapsulated, wrapped):
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
        private = MLKEM768X25519PrivateKey(self.mlkem, self.x25519)
        try:
            return suite.decrypt(encapsulated + wrapped, private, b"fula 2026 slot" + vault)
        except (InvalidTag, ValueError) as error:
            raise Refused("Damaged", "the slot") from error


def seed_of_passphrase(passphrase, parameters):
    memory, passes, lanes, salt = parameters
    kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
    return kdf.derive(passphrase.encode())


def seed_of_wallet(vault, salt, signature):
    check(signature[32:64] <= bytes.fromhex("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0"), "Malformed")
    return HKDF(SHA256(), 32, salt, b"fula 2026 wallet" + vault).derive(signature[:64])


def fingerprint(vault, root):
    digest = blake3(vault + root, derive_key_context="fula 2026 vault fingerprint").digest(20)
    return base64.b32encode(digest).decode().lower()


class Keyring:
    """A keyring that was parsed, and not verified."""

    def __init__(self, data):
        check(len(data) <= 1 << 20, "TooLarge", "the keyring")
        self.data, cbor = data, Cbor(data)
        major, count = cbor.head()
        check(major == 4, "Malformed", "the keyring")
        check(cbor.value() == 1, "Unsupported", "the format")
        check(count == 14, "Malformed", "the number of fields")
        self.vault = cbor.value()
        check(cbor.value() == SUITE, "Unsupported", "the suite")
        check(cbor.value() == 0, "Unsupported", "levels")
        fields = [cbor.value() for _ in range(8)]
        self.signed = data[:cbor.at]
        signature = cbor.value()
        self.authenticated = data[:cbor.at]
        fields += [signature, cbor.value()]
        cbor.end()
        shape([self.vault, *fields], 16, int, int, 32, (32, None), list, list, bytes, int, 64, 32)
        self.padding, self.generation, self.root, self.previous, self.slots, self.members = fields[:6]
        self.sealed, self.signer, self.signature, self.mac = fields[6:]
        check(self.padding < 2 and self.generation > 0, "Malformed", "a field")
        check((self.previous is None) == (self.generation == 1), "Malformed", "the previous generation")
        check(self.signer < len(self.members), "Malformed", "the signer")
        self.check_slots()
        self.check_members()

    def check_slots(self):
        for kind, parameters, *_ in [shape(slot, int, (None, list, bytes), 1216, 1120, 48, (64, None)) for slot in self.slots]:
            check(kind < 5 and type(parameters) is {1: list, 4: bytes}.get(kind, type(None)), "Malformed", "a slot")
            if kind == 1:
                memory, passes, lanes, _ = shape(parameters, int, int, int, 16)
                fits = 1 << 16 <= memory <= 1 << 20 and 3 <= passes <= 32 and 1 <= lanes <= 16
                check(fits, "Malformed", "the cost of a passphrase")
        kinds = [slot[0] for slot in self.slots]
        check(len(kinds) <= 64 and kinds.count(1) <= 4 and any(kind != 4 for kind in kinds), "Malformed", "slots")
        check(len({slot[2] for slot in self.slots}) == len(kinds), "Malformed", "a slot is there twice")

    def check_members(self):
        check(len(self.members) <= 1024, "Malformed", "members")
        last = 1
        for at, member in enumerate(self.members):
            _, role, since, _, issuer, _ = shape(member, 32, int, int, (int, None), (int, None), 64)
            check(role < 2 and last <= since <= self.generation, "Malformed", "a member")
            admitted = since == 1 if issuer is None else issuer < at and self.members[issuer][1] == 1
            check(admitted, "Malformed", "an issuer")
            last = since
        check(len({device_id(member[0]) for member in self.members}) == len(self.members), "Malformed", "a member twice")

    def fingerprint(self):
        return fingerprint(self.vault, self.root)

    def hash(self):
        return blake3(self.data).digest()

    def identity_of_passphrase(self, passphrase):
        costs = [slot for slot in self.slots if slot[0] == 1]
        check(costs, "WrongKey", "no passphrase")
        for slot in costs:
            identity = Identity(seed_of_passphrase(passphrase, slot[1]))
            if identity.public() == slot[2]:
                return identity
        raise Refused("WrongPassphrase")

    def open(self, identity, expected=None, seen=None):
        """Returns the keys and the labels. `seen` is the keyring that was accepted last."""
        check(expected in (None, self.fingerprint()), "ForeignVault", "the fingerprint")
        if seen:
            check((seen.vault, seen.root) == (self.vault, self.root), "ForeignVault", "another vault")
            check(self.generation >= seen.generation, "RolledBack", "the keyring")
        mine = [slot for slot in self.slots if slot[2] == identity.public()]
        check(mine, "WrongKey", "no slot")
        _, _, _, encapsulated, wrapped, attestation = mine[0]
        vmk = identity.unwrap(self.vault, encapsulated, wrapped)
        check(keyed(vmk, b"mac", self.authenticated) == self.mac, "Damaged", "the keyring")
        attested = attestation and verifies(raw(identity.signer), b"fula 2026 attestation", attestation, self.vault, self.root)
        check(expected or seen or attested, "ForeignVault", "nothing proves who made it")
        self.check_signatures()
        if seen:
            check(self.follows(seen), "Forked", "the keyring")
        plain = aes_open(keyed(vmk, b"epochs"), self.sealed, self.vault + self.generation.to_bytes(8, "big"))
        cbor = Cbor(plain)
        names, epochs, slots, members = shape(cbor.value(), 32, list, list, list)
        check(not any(plain[cbor.at:]) and len(plain) % 256 == 0, "Malformed", "padding")
        check(len(slots) == len(self.slots) and len(members) == len(self.members), "Malformed", "labels")
        return Keys(self.vault, names, epochs), slots, members

    def check_signatures(self):
        for key, role, since, _, issuer, certificate in self.members:
            by = self.root if issuer is None else self.members[issuer][0]
            parts = (self.vault, self.root, key, bytes([role]), since.to_bytes(8, "big"))
            check(verifies(by, b"fula 2026 certificate", certificate, *parts), "NotSigned", "a member")
        key, role, _, until, _, _ = self.members[self.signer]
        check(role == 1 and until is None, "NotSigned", "no admin")
        check(verifies(key, b"fula 2026 keyring", self.signature, self.signed), "NotSigned", "the keyring")

    def follows(self, seen):
        if self.generation == seen.generation:
            return self.data == seen.data
        if self.generation == seen.generation + 1 and self.previous != seen.hash():
            return False
        known, added = self.members[:len(seen.members)], self.members[len(seen.members):]
        for then, now in zip(seen.members, known, strict=False):
            same = then[:3] + then[4:] == now[:3] + now[4:]
            if not same or (then[3] is not None and (now[3] is None or now[3] > then[3])):
                return False
        if len(known) < len(seen.members) or any(member[2] <= seen.generation for member in added):
            return False
        at = self.signer
        while at >= len(seen.members):
            at = self.members[at][4]
        return seen.members[at][1] == 1 and seen.members[at][3] is None


# ---- checkpoints: Bech32 of BIP 173, without a limit of length ----

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def polymod(values):
    total = 1
    for value in values:
        top, total = total >> 25, (total & 0x1FFFFFF) << 5 ^ value
        for at, tap in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            total ^= tap if top >> at & 1 else 0
    return total


def open_checkpoint(text):
    prefix, _, digits = text.partition("1")
    check(prefix == "fulacheckpoint" and digits and set(digits) <= set(BECH32), "Malformed", "the checkpoint")
    values = [BECH32.index(digit) for digit in digits]
    expanded = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    check(polymod(expanded + values) == 1, "Malformed", "the checksum")
    bits = "".join(f"{value:05b}" for value in values[:-6])
    data = int(bits[:len(bits) // 8 * 8], 2).to_bytes(len(bits) // 8, "big")
    check(data[0] == 1, "Unsupported", "the checkpoint")
    return {"vault": data[1:17], "fingerprint": base64.b32encode(data[17:37]).decode().lower(),
            "generation": int.from_bytes(data[37:45], "big"), "keyring": data[45:77],
            "version": int.from_bytes(data[77:85], "big"), "root": data[85:]}
