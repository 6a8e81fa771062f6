//! Blocks that other IPFS systems have made: their CIDs, whether bytes match one, and what a block links to.
//!
//! Nothing of this is part of a bucket's tree: such a block is kept as plain bytes (docs/adr/0056). The codecs are
//! those of kubo's own importers, and cbor and json, which link to nothing.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256, Sha512};

/// Codes of the multicodec table.
const RAW: u64 = 0x55;
const DAG_PB: u64 = 0x70;
const DAG_CBOR: u64 = 0x71;
const CBOR: u64 = 0x51;
const JSON: u64 = 0x0200;
const IDENTITY: u64 = 0x00;
const SHA2_256: u64 = 0x12;
const SHA2_512: u64 = 0x13;
const BLAKE3: u64 = 0x1e;

/// Largest block in bytes, as kubo exchanges them.
pub const FOREIGN_BYTES_MAX: usize = 2 << 20;

/// Longest text of a CID in bytes. One with a digest of 64 bytes in base32 has 114.
const TEXT_BYTES_MAX: usize = 160;

/// The tag of a link in dag-cbor.
const LINK_TAG: u64 = 42;

/// A CID of any version, codec and hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ForeignCid(cid::Cid);

/// A text or bytes that are no CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a CID")]
pub struct InvalidForeignCid;

impl FromStr for ForeignCid {
    type Err = InvalidForeignCid;

    fn from_str(text: &str) -> Result<Self, InvalidForeignCid> {
        // A path such as /ipfs/CID is read as a CID by the library.
        if text.len() > TEXT_BYTES_MAX || text.contains('/') {
            return Err(InvalidForeignCid);
        }
        cid::Cid::from_str(text).map(Self).map_err(|_| InvalidForeignCid)
    }
}

impl fmt::Display for ForeignCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ForeignCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl ForeignCid {
    /// Parses the binary form.
    ///
    /// # Errors
    /// [`InvalidForeignCid`] for bytes that are none, or that have more behind it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidForeignCid> {
        let found = cid::Cid::try_from(bytes).map_err(|_| InvalidForeignCid)?;
        if found.encoded_len() == bytes.len() { Ok(Self(found)) } else { Err(InvalidForeignCid) }
    }

    /// Returns the binary form, of 100 bytes at most.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// Returns the bytes of the block, if the CID itself contains them.
    pub fn inline(&self) -> Option<&[u8]> {
        (self.0.hash().code() == IDENTITY).then(|| self.0.hash().digest())
    }

    /// Checks that blocks of this kind can be verified and read.
    ///
    /// # Errors
    /// What is not supported.
    pub fn check_supported(&self) -> Result<(), Unsupported> {
        if ![RAW, DAG_PB, DAG_CBOR, CBOR, JSON].contains(&self.0.codec()) {
            return Err(Unsupported::Codec(self.0.codec()));
        }
        // Digests that are cut short are not accepted: a collision would be cheap.
        match (self.0.hash().code(), self.0.hash().size()) {
            (SHA2_256 | BLAKE3, 32) | (SHA2_512, 64) | (IDENTITY, _) => Ok(()),
            (code, bytes) => Err(Unsupported::Hash(code, bytes)),
        }
    }

    /// Returns whether these are the bytes that the CID names. Hashes all of them.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let digest = self.0.hash().digest();
        match self.0.hash().code() {
            SHA2_256 => Sha256::digest(bytes)[..] == *digest,
            SHA2_512 => Sha512::digest(bytes)[..] == *digest,
            BLAKE3 => blake3::hash(bytes).as_bytes() == digest,
            IDENTITY => bytes == digest,
            _ => false,
        }
    }

    /// Returns what a block with this CID links to, in order and with repetitions.
    ///
    /// # Errors
    /// Why the bytes are not of its codec.
    pub fn links(&self, bytes: &[u8]) -> Result<Vec<Self>, InvalidBlock> {
        match self.0.codec() {
            DAG_PB => dag_pb_links(bytes),
            DAG_CBOR => dag_cbor_links(bytes),
            _ => Some(Vec::new()),
        }
        .ok_or(InvalidBlock)
    }
}

/// A CID whose blocks cannot be verified or read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The codec, by its number in the multicodec table.
    #[error("the codec {0:#x} is not supported: raw, dag-pb, dag-cbor, cbor and json are")]
    Codec(u64),
    /// The hash function, by its number, and the length of the digest.
    #[error(
        "the hash function {0:#x} with {1} bytes is not supported: sha2-256, sha2-512 and blake3 are, in full length"
    )]
    Hash(u64, u8),
}

/// Bytes that do not follow the codec of their CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the block does not follow its codec")]
pub struct InvalidBlock;

/// Bytes that are read from the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a number of protobuf.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads the number in the head of an item of CBOR. Lengths that are not known in advance are no dag-cbor.
    fn argument(&mut self, low: u8) -> Option<u64> {
        let len = match low {
            0..24 => return Some(u64::from(low)),
            24..28 => 1 << (low - 24),
            _ => return None,
        };
        Some(self.take(len)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}

/// Reads the links of a dag-pb node: fields 2 of the node, and of each its field 1.
fn dag_pb_links(bytes: &[u8]) -> Option<Vec<ForeignCid>> {
    let (mut node, mut links) = (Input(bytes), Vec::new());
    while !node.0.is_empty() {
        let key = node.varint()?;
        let (field, kind) = (key >> 3, key & 7);
        if kind != 2 || ![1, 2].contains(&field) {
            return None;
        }
        let len = node.varint()?;
        let body = node.take(len)?;
        if field == 1 {
            continue;
        }
        let (mut link, mut hash) = (Input(body), None);
        while !link.0.is_empty() {
            match link.varint()? {
                // Hash and name.
                key @ (0x0a | 0x12) => {
                    let len = link.varint()?;
                    let value = link.take(len)?;
                    if key == 0x0a && hash.replace(value).is_some() {
                        return None;
                    }
                }
                // Tsize.
                0x18 => drop(link.varint()?),
                _ => return None,
            }
        }
        links.push(ForeignCid::from_bytes(hash?).ok()?);
    }
    Some(links)
}

/// Reads the links of a block of dag-cbor: byte strings with tag 42 that begin with a zero byte. It counts the
/// items that are still to come, so nesting needs no memory.
fn dag_cbor_links(bytes: &[u8]) -> Option<Vec<ForeignCid>> {
    let (mut input, mut links, mut left) = (Input(bytes), Vec::new(), 1_u64);
    let mut is_link = false;
    while left > 0 {
        left -= 1;
        let head = input.byte()?;
        let (major, low) = (head >> 5, head & 0x1f);
        if is_link && major != 2 {
            return None;
        }
        match major {
            0 | 1 => drop(input.argument(low)?),
            2 | 3 => {
                let len = input.argument(low)?;
                let value = input.take(len)?;
                if std::mem::take(&mut is_link) {
                    links.push(ForeignCid::from_bytes(value.strip_prefix(&[0])?).ok()?);
                }
            }
            4 => left = left.checked_add(input.argument(low)?)?,
            5 => left = left.checked_add(input.argument(low)?.checked_mul(2)?)?,
            6 => {
                if input.argument(low)? != LINK_TAG {
                    return None;
                }
                (is_link, left) = (true, left + 1);
            }
            // false, true, null, and numbers with a point.
            _ => match low {
                20..=22 => {}
                25..=27 => drop(input.argument(low)?),
                _ => return None,
            },
        }
        // Every item has a byte at least.
        if left > input.0.len() as u64 {
            return None;
        }
    }
    input.0.is_empty().then_some(links)
}

#[cfg(test)]
mod tests {
    use ipld_core::ipld::Ipld;
    use proptest::prelude::*;

    use super::*;

    /// "hello\n" as `ipfs add` of kubo 0.43 wraps it without and with raw leaves.
    const FILE: &[u8] =
        &[0x0a, 0x0c, 0x08, 0x02, 0x12, 0x06, b'h', b'e', b'l', b'l', b'o', b'\n', 0x18, 0x06];

    fn cid(text: &str) -> ForeignCid {
        text.parse().unwrap()
    }

    #[test]
    fn cids_of_kubo_match_their_blocks() {
        let v0 = cid("QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN");
        assert!(v0.matches(FILE) && !v0.matches(b"hello\n"));
        assert_eq!(v0.to_string(), "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN");
        assert_eq!(v0.links(FILE), Ok(Vec::new()));
        assert_eq!(ForeignCid::from_bytes(&v0.to_bytes()), Ok(v0));
        let raw = cid("bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am");
        assert!(raw.matches(b"hello\n") && raw.check_supported().is_ok());
        let ours = crate::Cid::of(crate::Codec::Raw, b"hello\n").to_string();
        assert!(cid(&ours).matches(b"hello\n"));
        let inline = cid("bafkqabtimvwgy3yk");
        assert_eq!(inline.inline(), Some(&b"hello\n"[..]));
        assert!(raw.inline().is_none());
    }

    #[test]
    fn other_kinds_are_told_apart_and_texts_are_bounded() {
        // git-raw with sha1, dag-json with sha2-256, raw with a blake3 digest of 20 bytes.
        let git =
            ::cid::Cid::new_v1(0x78, ::cid::multihash::Multihash::wrap(0x11, &[1; 20]).unwrap());
        assert_eq!(ForeignCid(git).check_supported(), Err(Unsupported::Codec(0x78)));
        let short = ::cid::multihash::Multihash::wrap(BLAKE3, &[1; 20]).unwrap();
        let short = ForeignCid(::cid::Cid::new_v1(RAW, short));
        assert_eq!(short.check_supported(), Err(Unsupported::Hash(BLAKE3, 20)));
        for bad in
            ["", "x", "/ipfs/QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN", &"b".repeat(500)]
        {
            assert!(bad.parse::<ForeignCid>().is_err(), "{bad}");
        }
        let mut longer = short.to_bytes();
        longer.push(0);
        assert!(ForeignCid::from_bytes(&longer).is_err());
    }

    #[test]
    fn links_are_read_in_order() {
        let leaf = cid("bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am");
        let mut node = Vec::new();
        for name in [&b"a"[..], b"b"] {
            let mut link = vec![0x0a, u8::try_from(leaf.to_bytes().len()).unwrap()];
            link.extend(leaf.to_bytes());
            link.extend([0x12, 1, name[0], 0x18, 6]);
            node.extend([0x12, u8::try_from(link.len()).unwrap()]);
            node.extend(link);
        }
        node.extend([0x0a, 2, 8, 1]);
        assert_eq!(dag_pb_links(&node), Some(vec![leaf, leaf]));
        assert_eq!(dag_pb_links(&node[..node.len() - 1]), None);

        let link = Ipld::Link(leaf.0);
        let nested = Ipld::List(vec![
            Ipld::Null,
            Ipld::Integer(-70_000),
            Ipld::Float(1.5),
            Ipld::Map(
                [("k".to_owned(), Ipld::List(vec![link.clone(), Ipld::Bytes(vec![7; 300])]))]
                    .into(),
            ),
            link,
        ]);
        let bytes = serde_ipld_dagcbor::to_vec(&nested).unwrap();
        assert_eq!(dag_cbor_links(&bytes), Some(vec![leaf, leaf]));
        for bad in [
            &bytes[..bytes.len() - 1],
            &[&bytes[..], &[0]].concat(),
            // A list without an announced length, a tag other than 42, a list with more items than bytes.
            &[0x9f, 0x01, 0xff],
            &[0xc1, 0x41, 0x00],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xd8, 0x2a, 0x01],
        ] {
            assert_eq!(dag_cbor_links(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_links_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop((dag_pb_links(&bytes), dag_cbor_links(&bytes)));
        }
    }
}
