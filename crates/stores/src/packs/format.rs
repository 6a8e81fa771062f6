//! The bytes of a pack.
//!
//! ```text
//! "FULAPACK" | format u32 | 0 u32 | generation u64 |
//! blocks, one after another |
//! index: for each block: cid 36 | offset u32 | length u32 |
//! blocks u32 | CRC-32C of the index u32 | "FULAPEND"          (little endian)
//! ```
//! A block is checked by its address, the index by its checksum. The offset of a block is counted from the
//! beginning of the pack. A reader with the index of the directory needs no other part of the pack than the
//! block; the index in the pack is for those without.

use bytes::{Bytes, BytesMut};
use fula_core::{Block, Cid, StoreError, block::BLOCK_BYTES_MAX};
use object_store::PutPayload;

use super::place::{IndexEntry, Tag, TagKey, u32_at};
use crate::log::crc32c;

const MAGIC: &[u8; 8] = b"FULAPACK";
const END: &[u8; 8] = b"FULAPEND";
const FORMAT: u32 = 1;

/// Bytes before the first block.
pub(super) const HEAD_BYTES: usize = 24;

/// Bytes after the index.
pub(super) const END_BYTES: usize = 16;

/// Bytes of one entry of the index.
pub(super) const ENTRY_BYTES: usize = Cid::BYTES + 8;

/// Most blocks of one pack.
pub(super) const BLOCKS_MAX: usize = 1024;

/// A pack that is not stored yet.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Head, blocks, index and end.
    pub(super) pieces: Vec<Bytes>,
    /// Where each block lies.
    pub(super) index: Vec<IndexEntry>,
    /// Length of all pieces.
    pub(super) bytes: u64,
}

impl Encoded {
    /// Lays out a pack of at most [`BLOCKS_MAX`] different blocks, of at most 1 MiB each.
    pub(super) fn new(generation: u64, key: &TagKey, blocks: &[&Block]) -> Self {
        let mut head = BytesMut::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&FORMAT.to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&generation.to_le_bytes());
        let mut pieces = vec![head.freeze()];
        let (mut index, mut entries) = (Vec::new(), BytesMut::new());
        let mut offset = HEAD_BYTES;
        for block in blocks {
            let len = block.bytes().len();
            debug_assert!(len <= BLOCK_BYTES_MAX && index.len() < BLOCKS_MAX);
            entries.extend_from_slice(&block.cid().to_bytes());
            entries.extend_from_slice(&to_u32(offset).to_le_bytes());
            entries.extend_from_slice(&to_u32(len).to_le_bytes());
            let tag = Tag::new(key, &block.cid());
            index.push(IndexEntry { tag, offset: to_u32(offset), len: to_u32(len) });
            pieces.push(block.bytes().clone());
            offset += len;
        }
        let check = crc32c(&entries);
        let count = to_u32(index.len());
        entries.extend_from_slice(&count.to_le_bytes());
        entries.extend_from_slice(&check.to_le_bytes());
        entries.extend_from_slice(END);
        let bytes = (offset + entries.len()) as u64;
        pieces.push(entries.freeze());
        Self { pieces, index, bytes }
    }

    /// Returns what is to be stored.
    pub(super) fn payload(&self) -> PutPayload {
        self.pieces.iter().cloned().collect()
    }
}

/// Lengths and offsets are bounded by [`BLOCKS_MAX`] blocks of 1 MiB.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The index in a pack.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PackIndex {
    /// Addresses, offsets and lengths of the blocks.
    pub(super) blocks: Vec<(Cid, u32, u32)>,
}

impl PackIndex {
    /// Returns how long the index with its end is, from the last [`END_BYTES`] of a pack.
    pub(super) fn len_by(end: &[u8]) -> Option<u64> {
        let end: &[u8; END_BYTES] = end.try_into().ok()?;
        let count = u32_at(end, 0) as usize;
        let is_end = &end[8..] == END && count <= BLOCKS_MAX;
        is_end.then_some((count * ENTRY_BYTES + END_BYTES) as u64)
    }

    /// Reads the index with its end.
    ///
    /// # Errors
    /// [`StoreError::Malformed`].
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        let wrong = |why| StoreError::Malformed { what: "pack", why };
        let split = bytes.len().checked_sub(END_BYTES).ok_or(wrong("it is cut off"))?;
        let (entries, end) = bytes.split_at(split);
        if Self::len_by(end) != Some(bytes.len() as u64) {
            return Err(wrong("its end is not the end of a pack"));
        }
        if crc32c(entries) != u32_at(end, 4) {
            return Err(wrong("the checksum of its index is wrong"));
        }
        let read = |entry: &[u8]| {
            let cid = Cid::from_bytes(&entry[..Cid::BYTES]).ok()?;
            Some((cid, u32_at(entry, Cid::BYTES), u32_at(entry, Cid::BYTES + 4)))
        };
        let blocks = entries.chunks_exact(ENTRY_BYTES).map(read).collect::<Option<_>>();
        Ok(Self { blocks: blocks.ok_or(wrong("its index holds what is no address"))? })
    }
}

/// Returns the generation that the first [`HEAD_BYTES`] of a pack name.
///
/// # Errors
/// [`StoreError::Malformed`] for what is no pack, or one of a later format.
pub(super) fn generation_of(head: &[u8]) -> Result<u64, StoreError> {
    let wrong = |why| StoreError::Malformed { what: "pack", why };
    if head.len() < HEAD_BYTES || &head[..8] != MAGIC {
        return Err(wrong("it does not begin as a pack"));
    }
    if u32_at(head, 8) != FORMAT {
        return Err(wrong("it was written by a later build"));
    }
    Ok(u64::from_le_bytes(head[16..24].try_into().map_err(|_| wrong("it is cut off"))?))
}

#[cfg(test)]
mod tests {
    use fula_core::Codec;

    use super::*;

    fn blocks() -> [Block; 3] {
        [
            Block::new(Codec::Raw, "one"),
            Block::new(Codec::DagCbor, vec![0x80]),
            Block::new(Codec::Raw, ""),
        ]
    }

    fn encoded(generation: u64, blocks: &[Block]) -> Encoded {
        let blocks: Vec<_> = blocks.iter().collect();
        Encoded::new(generation, &TagKey::of_store("a store"), &blocks)
    }

    fn bytes_of(encoded: &Encoded) -> Vec<u8> {
        encoded.pieces.concat()
    }

    #[test]
    fn a_pack_matches_the_vector() {
        let encoded = encoded(7, &blocks()[..1]);
        assert_eq!(
            hex::encode(bytes_of(&encoded)),
            "46554c415041434b010000000000000007000000000000006f6e6501551e20d33fb48ab5adff269ae172b29a6913\
             ff04f6f266207a7a8e976f2ecd571d449218000000030000000100000005e6adb346554c4150454e44"
        );
    }

    #[test]
    fn what_was_laid_out_is_read_back() {
        let blocks = blocks();
        let encoded = encoded(7, &blocks);
        let bytes = bytes_of(&encoded);
        assert_eq!(bytes.len() as u64, encoded.bytes);
        assert_eq!(generation_of(&bytes[..HEAD_BYTES]).unwrap(), 7);
        let end = &bytes[bytes.len() - END_BYTES..];
        let len = usize::try_from(PackIndex::len_by(end).unwrap()).unwrap();
        let index = PackIndex::parse(&bytes[bytes.len() - len..]).unwrap();
        assert_eq!(index.blocks.len(), blocks.len());
        for ((cid, offset, len), block) in index.blocks.iter().zip(&blocks) {
            let (from, to) = (*offset as usize, (*offset + *len) as usize);
            assert_eq!((*cid, &bytes[from..to]), (block.cid(), &block.bytes()[..]));
        }
    }

    #[test]
    fn every_changed_byte_of_index_and_end_is_found() {
        let bytes = bytes_of(&encoded(0, &blocks()));
        let from = bytes.len() - 3 * ENTRY_BYTES - END_BYTES;
        assert!(PackIndex::parse(&bytes[from..]).is_ok());
        for at in from..bytes.len() {
            let mut changed = bytes[from..].to_vec();
            changed[at - from] ^= 1;
            assert!(PackIndex::parse(&changed).is_err(), "byte {at}");
        }
        for cut in 0..bytes.len() - from {
            assert!(PackIndex::parse(&bytes[from..from + cut]).is_err(), "{cut} bytes");
        }
    }
}
