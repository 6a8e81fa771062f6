//! One record: a head, a key, a value.
//!
//! ```text
//! magic u32 | head crc u32 | value crc u32 | value len u32 | key len u16 | kind u8 | 0 u8 |
//! 0 u32 | durable to u64 | key | value | zeros to a multiple of 8        (little endian, CRC-32C)
//! ```
//! The head checksum covers everything of the head after it, and the key, so that a scan trusts
//! lengths without reading values. *Durable to* is how far the segment was known to be on stable
//! storage when the record was written: damage before it is damage, after it a torn tail.
#![expect(
    clippy::cast_possible_truncation,
    reason = "records and segments are bounded far below these types by constants"
)]

use crc_fast::{CrcAlgorithm, checksum};

use fula_core::Cid;

const MAGIC: u32 = 0x3146_4c52; // "RLF1"

/// Bytes before the key.
pub(super) const HEAD_BYTES: usize = 32;

/// Records start at multiples of this many bytes.
pub(super) const ALIGN: u64 = 8;

/// Longest value: a block, or a row with room to spare.
const VALUE_BYTES_MAX: usize = (1 << 20) + 4096;

/// Longest key.
const KEY_BYTES_MAX: usize = 1024;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A block under its binary CID.
    Block = 1,
    /// A root pointer row under owner and bucket.
    Root = 2,
    /// A directory record under table and name.
    Directory = 3,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Block, Self::Root, Self::Directory].into_iter().find(|kind| *kind as u8 == code)
    }
}

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A head as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) key_len: usize,
    pub(super) value_len: usize,
    pub(super) value_crc: u32,
    pub(super) durable_to: u64,
    crc: u32,
}

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm yields 32 bits in a u64.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Returns the encoded length, padding included.
pub(super) fn encoded_len(record: &Record<'_>) -> usize {
    (HEAD_BYTES + record.key.len() + record.value.len()).next_multiple_of(ALIGN as usize)
}

/// Appends the encoded record to `out`.
pub(super) fn encode_into(record: &Record<'_>, durable_to: u64, out: &mut Vec<u8>) {
    debug_assert!(record.value.len() <= VALUE_BYTES_MAX && record.key.len() <= KEY_BYTES_MAX);
    let start = out.len();
    out.extend(MAGIC.to_le_bytes());
    out.extend([0; 4]);
    out.extend(crc32c(record.value).to_le_bytes());
    out.extend((record.value.len() as u32).to_le_bytes());
    out.extend((record.key.len() as u16).to_le_bytes());
    out.extend([record.kind as u8, 0, 0, 0, 0, 0]);
    out.extend(durable_to.to_le_bytes());
    out.extend(record.key);
    let crc = crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.extend(record.value);
    out.resize(start + encoded_len(record), 0);
}

impl Head {
    /// Parses a head; `None` when it cannot be one. The checksum is not yet tested.
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let kind = Kind::from_code(bytes[18])?;
        let value_len = u32_at(12) as usize;
        let key_len = usize::from(u16::from_le_bytes([bytes[16], bytes[17]]));
        let plausible = u32_at(0) == MAGIC
            && value_len <= VALUE_BYTES_MAX
            && key_len <= KEY_BYTES_MAX
            && (kind != Kind::Block || key_len == Cid::BYTES);
        let durable_to = u64::from_le_bytes(bytes[24..].try_into().expect("8 bytes"));
        let head =
            Self { kind, key_len, value_len, value_crc: u32_at(8), durable_to, crc: u32_at(4) };
        plausible.then_some(head)
    }

    /// Tests the checksum over head and key.
    pub(super) fn is_intact(&self, head_and_key: &[u8]) -> bool {
        crc32c(&head_and_key[8..]) == self.crc
    }

    /// Returns the length of the whole record, padding included.
    pub(super) fn record_len(&self) -> u64 {
        ((HEAD_BYTES + self.key_len + self.value_len) as u64).next_multiple_of(ALIGN)
    }
}
