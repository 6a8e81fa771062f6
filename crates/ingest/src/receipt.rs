//! Receipts: a node's signed statement that blocks are durable on its disk, and until when it keeps them.
//!
//! # Example
//!
//! A node signs a receipt for a block, and a master that knows the node verifies it:
//!
//! ```
//! use fula_core::{Cid, Codec, OwnerId};
//! use fula_ingest::{
//!     DiskId, InvalidDocument, Receipt, SigningKey,
//!     receipt::Subject,
//! };
//! use zeroize::Zeroizing;
//!
//! let key = SigningKey::from_seed(&Zeroizing::new([7; 32]));
//! let blocks = [(Cid::of(Codec::Raw, b"hello"), 5)];
//! let receipt = Receipt {
//!     node: key.id(),
//!     disk: DiskId([3; 16]),
//!     owner: OwnerId::of_user("key:alice"),
//!     subject: Subject::of(&blocks),
//!     bytes: 5,
//!     count: 1,
//!     issued: 1_700_000_000_000,
//!     until: 1_700_086_400_000,
//! };
//! let text = receipt.sign(&key);
//!
//! let read = Receipt::verify(&text, |node| (node == key.id()).then(|| key.public()))?;
//! assert_eq!(read, receipt);
//! assert!(read.is_about(&blocks));
//! assert!(Receipt::verify(&text, |_| None).is_err());
//! # Ok::<(), InvalidDocument>(())
//! ```

use std::fmt;

use bytes::Bytes;
use fula_core::{
    Cid, OwnerId,
    cbor::{Reader, Writer},
    root::TimeMs,
};

use crate::{
    document::{InvalidDocument, Sealed},
    key::{PublicKey, SignerId, SigningKey},
};

const PURPOSE: &str = "fula 2026 receipt";

/// A block, and its length in bytes.
pub type SizedCid = (Cid, u32);

/// The random name of a disk. It is drawn when a node starts on an empty data directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskId(pub [u8; 16]);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a receipt is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One block.
    Block(Cid),
    /// Several blocks: BLAKE3 over CID and length (u32, big-endian) of each, in order.
    List([u8; 32]),
}

impl Subject {
    /// Returns the subject of these blocks.
    pub fn of(blocks: &[SizedCid]) -> Self {
        if let [(cid, _)] = blocks {
            return Self::Block(*cid);
        }
        let mut hasher = blake3::Hasher::new();
        for (cid, size) in blocks {
            hasher.update(&cid.to_bytes()).update(&size.to_be_bytes());
        }
        Self::List(*hasher.finalize().as_bytes())
    }
}

/// The content of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The node that signed it.
    pub node: SignerId,
    /// The disk that holds the blocks.
    pub disk: DiskId,
    /// The owner who sent them.
    pub owner: OwnerId,
    /// The blocks.
    pub subject: Subject,
    /// Total length of the blocks in bytes.
    pub bytes: u64,
    /// Number of blocks.
    pub count: u64,
    /// Time at which it was signed, in milliseconds since 1970.
    pub issued: TimeMs,
    /// Time until which the node keeps the blocks without asking, in milliseconds since 1970.
    pub until: TimeMs,
}

impl Receipt {
    /// Returns whether the receipt is about exactly these blocks, in this order.
    pub fn is_about(&self, blocks: &[SizedCid]) -> bool {
        let bytes: u64 = blocks.iter().map(|(_, size)| u64::from(*size)).sum();
        (self.count, self.bytes) == (blocks.len() as u64, bytes)
            && self.subject == Subject::of(blocks)
    }

    /// Signs the receipt, and returns its text.
    pub fn sign(&self, key: &SigningKey) -> String {
        let mut out = Writer::with_capacity(192);
        out.array(11).uint(1).bytes(&self.node.0).bytes(&self.owner.0);
        match &self.subject {
            Subject::Block(cid) => out.uint(0).bytes(&cid.to_bytes()),
            Subject::List(hash) => out.uint(1).bytes(hash),
        };
        out.uint(self.bytes).uint(self.count).uint(self.issued).uint(self.until).uint(0);
        out.map(1).text("disk").bytes(&self.disk.0);
        Sealed::sign(key, PURPOSE, out.finish()).to_text()
    }

    /// Reads a receipt whose node is known. `key_of` returns the key of a known node.
    ///
    /// # Errors
    /// [`InvalidDocument`]: malformed, not signed by that node, or by a node that is not known.
    pub fn verify(
        text: &str,
        key_of: impl FnOnce(SignerId) -> Option<PublicKey>,
    ) -> Result<Self, InvalidDocument> {
        let sealed = Sealed::parse(text)?;
        let receipt = Self::parse(&sealed.body)?;
        let key = key_of(receipt.node).ok_or(InvalidDocument::NotForHere)?;
        sealed.verify(&key, PURPOSE)?;
        Ok(receipt)
    }

    fn parse(body: &Bytes) -> Result<Self, InvalidDocument> {
        let mut reader = Reader::new(body);
        reader.tuple(11)?;
        if reader.uint()? != 1 {
            return Err(InvalidDocument::Malformed("it is of a newer version"));
        }
        let (node, owner) = (SignerId(reader.array_of()?), OwnerId(reader.array_of()?));
        let subject = match reader.uint()? {
            0 => Cid::from_bytes(reader.byte_slice()?)
                .map(Subject::Block)
                .map_err(|_| InvalidDocument::Malformed("bad CID"))?,
            1 => Subject::List(reader.array_of()?),
            _ => return Err(InvalidDocument::Malformed("unknown subject")),
        };
        let (bytes, count) = (reader.uint()?, reader.uint()?);
        let (issued, until) = (reader.uint()?, reader.uint()?);
        if reader.uint()? != 0 || reader.map()? != 1 || reader.text()? != "disk" {
            return Err(InvalidDocument::Malformed("unknown flags or extensions"));
        }
        let disk = DiskId(reader.array_of()?);
        reader.end()?;
        Ok(Self { node, disk, owner, subject, bytes, count, issued, until })
    }
}

#[cfg(test)]
mod tests {
    use fula_core::Codec;
    use zeroize::Zeroizing;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&Zeroizing::new([7; 32]))
    }

    fn receipt(blocks: &[SizedCid]) -> Receipt {
        Receipt {
            node: key().id(),
            disk: DiskId([3; 16]),
            owner: OwnerId([4; 16]),
            subject: Subject::of(blocks),
            bytes: blocks.iter().map(|(_, size)| u64::from(*size)).sum(),
            count: blocks.len() as u64,
            issued: 1_700_000_000_000,
            until: 1_700_086_400_000,
        }
    }

    fn blocks(n: u8) -> Vec<SizedCid> {
        (0..n).map(|n| (Cid::of(Codec::Raw, &[n]), 1)).collect()
    }

    #[test]
    fn a_receipt_matches_the_vector() {
        let text = receipt(&blocks(1)).sign(&key());
        assert_eq!(
            blake3::hash(text.as_bytes()).to_hex().as_str(),
            "f0e08705962567a3cd079779e3ef67b7838131fadc8cee7affa88e4500e55980"
        );
        let read = Receipt::verify(&text, |_| Some(key().public())).unwrap();
        assert_eq!(read, receipt(&blocks(1)));
    }

    #[test]
    fn a_receipt_of_several_blocks_is_about_those_in_that_order() {
        let list = blocks(3);
        let found = receipt(&list);
        assert!(found.is_about(&list) && !found.is_about(&list[..2]));
        let mut other = list.clone();
        other.swap(0, 1);
        assert!(!found.is_about(&other));
        other = list;
        (other[0].1, other[1].1) = (0, 2);
        assert!(!found.is_about(&other), "the total is the same, and a length is not");
        let text = found.sign(&key());
        assert_eq!(Receipt::verify(&text, |_| Some(key().public())), Ok(found));
    }

    #[test]
    fn a_forged_receipt_is_refused() {
        let text = receipt(&blocks(1)).sign(&key());
        let unknown = Receipt::verify(&text, |_| None);
        assert_eq!(unknown, Err(InvalidDocument::NotForHere));
        let other = SigningKey::from_seed(&Zeroizing::new([8; 32])).public();
        assert_eq!(Receipt::verify(&text, |_| Some(other)), Err(InvalidDocument::Signature));
        for at in (0..text.len()).step_by(7) {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(Receipt::verify(&forged, |_| Some(key().public())).is_err(), "{at}");
        }
        for len in 0..text.len() {
            assert!(Receipt::verify(&text[..len], |_| Some(key().public())).is_err(), "{len}");
        }
        assert!(Receipt::verify(&"A".repeat(100_000), |_| Some(key().public())).is_err());
    }
}
