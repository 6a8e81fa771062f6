//! The encoding of one record: a head, a key, a value.
//!
//! ```text
//! magic u32 | value crc u32 | value len u32 | key len u16 | kind u8 | 0 u8 | durable to u64 |
//! head check u64 | key | value | zeros to a multiple of 8                 (little endian, CRC-32C)
//! ```
//! The head check is a keyed hash over the record's offset, the head before it, and the key. So a scan can
//! trust lengths without reading values. The key of the hash is drawn for each segment, so that no bytes
//! that a client stores can be taken for records. *Durable to* is the position up to which the segment was
//! known to be on stable storage when the record was written. Unreadable bytes before it are damage; after
//! it they are a torn tail.
#![expect(
    clippy::cast_possible_truncation,
    reason = "records and segments are bounded far below these types by constants"
)]

use crc_fast::{CrcAlgorithm, checksum};
use fula_core::Cid;

const MAGIC: u32 = 0x3146_4c52; // "RLF1"

/// Length of a record before the key, in bytes.
pub(super) const HEAD_BYTES: usize = 32;

/// Length of the part of the head that the check covers, in bytes.
const CHECKED_BYTES: usize = 24;

/// Alignment of records, in bytes.
pub(super) const ALIGN: u64 = 8;

/// Longest value in bytes: a block, or a row with room to spare.
pub(super) const VALUE_BYTES_MAX: usize = (1 << 20) + 4096;

/// Longest key in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A block under its binary CID.
    Block = 1,
    /// A root pointer row under owner and bucket.
    Root = 2,
    /// A metadata record under table and name.
    Metadata = 3,
    /// A record that only carries *durable to*.
    Mark = 4,
    /// A list of the records before it in the segment.
    Footer = 5,
    /// The place before which root pointers are void, and the version floor. It has no key.
    Floor = 6,
}

impl Kind {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Block, Self::Root, Self::Metadata, Self::Mark, Self::Footer, Self::Floor];
        all.into_iter().find(|kind| *kind as u8 == code)
    }
}

impl Kind {
    /// Returns whether records of this kind only repeat what is known otherwise too.
    pub(super) fn is_note(self) -> bool {
        matches!(self, Self::Mark | Self::Footer)
    }

    /// Returns whether a record of this kind can have these lengths.
    pub(super) fn is_plausible(self, key_len: usize, value_len: usize) -> bool {
        value_len <= VALUE_BYTES_MAX
            && key_len <= KEY_BYTES_MAX
            && (self != Self::Block || key_len == Cid::BYTES)
    }
}

/// Returns the length of a record in bytes, including padding.
pub(super) fn record_len(key_len: usize, value_len: usize) -> u64 {
    ((HEAD_BYTES + key_len + value_len) as u64).next_multiple_of(ALIGN)
}

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// The key of the head checks of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(pub(super) [u8; 16]);

impl Seed {
    fn check(&self, offset: u64, head: &[u8], key: &[u8]) -> u64 {
        let mut hash_key = [0; 32];
        hash_key[..16].copy_from_slice(&self.0);
        let mut hasher = blake3::Hasher::new_keyed(&hash_key);
        hasher.update(&offset.to_le_bytes()).update(&head[..CHECKED_BYTES]).update(key);
        u64_at(hasher.finalize().as_bytes(), 0)
    }
}

/// A head that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) key_len: usize,
    pub(super) value_len: usize,
    pub(super) value_crc: u32,
    pub(super) durable_to: u64,
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm yields 32 bits in a u64.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Returns the encoded length of a record in bytes, including padding.
pub(super) fn encoded_len(record: &Record<'_>) -> usize {
    record_len(record.key.len(), record.value.len()) as usize
}

/// Appends the encoded record to `out`. It will lie at `offset` of the segment.
pub(super) fn encode_into(
    record: &Record<'_>,
    seed: &Seed,
    offset: u64,
    durable_to: u64,
    out: &mut Vec<u8>,
) {
    debug_assert!(record.value.len() <= VALUE_BYTES_MAX && record.key.len() <= KEY_BYTES_MAX);
    let start = out.len();
    out.extend(MAGIC.to_le_bytes());
    out.extend(crc32c(record.value).to_le_bytes());
    out.extend((record.value.len() as u32).to_le_bytes());
    out.extend((record.key.len() as u16).to_le_bytes());
    out.extend([record.kind as u8, 0]);
    out.extend(durable_to.to_le_bytes());
    let check = seed.check(offset, &out[start..], record.key);
    out.extend(check.to_le_bytes());
    out.extend(record.key);
    out.extend(record.value);
    out.resize(start + encoded_len(record), 0);
}

impl Head {
    /// Parses a head, without making its check. Returns `None` when the bytes cannot be a head.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let kind = Kind::from_code(bytes[14])?;
        let value_len = u32_at(bytes, 8) as usize;
        let key_len = usize::from(u16::from_le_bytes([bytes[12], bytes[13]]));
        let plausible = u32_at(bytes, 0) == MAGIC && kind.is_plausible(key_len, value_len);
        let (value_crc, durable_to) = (u32_at(bytes, 4), u64_at(bytes, 16));
        plausible.then_some(Self { kind, key_len, value_len, value_crc, durable_to })
    }

    /// Makes the check over offset, head and key.
    pub(super) fn is_intact(seed: &Seed, offset: u64, head_and_key: &[u8]) -> bool {
        let (head, key) = head_and_key.split_at(HEAD_BYTES);
        seed.check(offset, head, key) == u64_at(head, CHECKED_BYTES)
    }

    /// Returns the length of the whole record in bytes, including padding.
    pub(super) fn record_len(&self) -> u64 {
        record_len(self.key_len, self.value_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_matches_the_vector() {
        let record = Record { kind: Kind::Metadata, key: b"keys\0a", value: b"value" };
        let mut out = Vec::new();
        encode_into(&record, &Seed([7; 16]), 80, 72, &mut out);
        assert_eq!(
            hex::encode(&out),
            "524c46316303e0e10500000006000300480000000000000003e65c777f9c28e16b657973006176616c75650000000000"
        );
        let head = Head::parse(&out).expect("a head");
        assert!(Head::is_intact(&Seed([7; 16]), 80, &out[..HEAD_BYTES + 6]));
        assert!(!Head::is_intact(&Seed([7; 16]), 88, &out[..HEAD_BYTES + 6]));
        assert_eq!((head.record_len(), head.durable_to), (out.len() as u64, 72));
    }
}
