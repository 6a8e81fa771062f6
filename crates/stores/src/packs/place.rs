//! Where a block lies, and how that is written in the directory and in index runs.

use std::fmt;

use bytes::{Bytes, BytesMut};
use fula_core::{Cid, StoreError, packs::PackId};

/// The key of one store's tags. Who does not know it cannot choose blocks whose tags are alike, and so
/// cannot make a page of an index run overflow.
#[derive(Clone)]
pub(super) struct TagKey([u8; 32]);

impl TagKey {
    /// Derives the key from the store's own name, which is random and is shown to no client.
    pub(super) fn of_store(name: &str) -> Self {
        Self(blake3::derive_key("fula 2026-11 tags of blocks in packs", name.as_bytes()))
    }
}

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagKey")
    }
}

/// A keyed hash of a block's address, by which the index knows the block. What is read is checked against the
/// whole address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tag(pub(super) [u8; 16]);

impl Tag {
    pub(super) fn new(key: &TagKey, cid: &Cid) -> Self {
        let hash = blake3::keyed_hash(&key.0, &cid.to_bytes());
        let mut tag = [0; 16];
        tag.copy_from_slice(&hash.as_bytes()[..16]);
        Self(tag)
    }

    /// Returns which of `pages` pages of an index run holds this tag. Tags are spread evenly, because they
    /// are hashes; a higher tag is never on an earlier page.
    pub(super) fn page(&self, pages: u64) -> u64 {
        let high = u64::from_be_bytes(self.0[..8].try_into().expect("8 bytes"));
        let page = (u128::from(high) * u128::from(pages)) >> 64;
        u64::try_from(page).expect("it is less than the number of pages")
    }
}

/// The place of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: PackId,
    /// In bytes, from the beginning of the pack.
    pub(super) offset: u32,
    /// In bytes.
    pub(super) len: u32,
}

impl Place {
    /// Returns the bytes of the pack that are the block.
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.len)
    }
}

/// A block of one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) tag: Tag,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// Length of an entry in the directory: `tag 16 | offset u32 | length u32`, little endian.
const ENTRY_BYTES: usize = 24;

/// Encodes the index that the directory keeps of one pack.
pub(super) fn encode_index(index: &[IndexEntry]) -> Bytes {
    let mut out = BytesMut::with_capacity(index.len() * ENTRY_BYTES);
    for entry in index {
        out.extend_from_slice(&entry.tag.0);
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&entry.len.to_le_bytes());
    }
    out.freeze()
}

/// Decodes what [`encode_index`] made.
///
/// # Errors
/// [`StoreError::Malformed`].
pub(super) fn decode_index(bytes: &[u8]) -> Result<Vec<IndexEntry>, StoreError> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        let why = "its length is not that of whole entries";
        return Err(StoreError::Malformed { what: "index of a pack", why });
    }
    let read = |entry: &[u8; ENTRY_BYTES]| {
        let mut tag = [0; 16];
        tag.copy_from_slice(&entry[..16]);
        IndexEntry { tag: Tag(tag), offset: u32_at(entry, 16), len: u32_at(entry, 20) }
    };
    Ok(entries.iter().map(read).collect())
}

/// A block of any pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) tag: Tag,
    pub(super) place: Place,
}

impl Located {
    /// Length in an index run: `tag 16 | pack 16 | offset u32 | length u32`, little endian.
    pub(super) const BYTES: usize = 40;

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.tag.0);
        out.extend_from_slice(&self.place.pack.0);
        out.extend_from_slice(&self.place.offset.to_le_bytes());
        out.extend_from_slice(&self.place.len.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let (mut tag, mut pack) = ([0; 16], [0; 16]);
        tag.copy_from_slice(&bytes[..16]);
        pack.copy_from_slice(&bytes[16..32]);
        let place = Place { pack: PackId(pack), offset: u32_at(bytes, 32), len: u32_at(bytes, 36) };
        Self { tag: Tag(tag), place }
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_back() {
        let entry = |n: u8| IndexEntry { tag: Tag([n; 16]), offset: u32::from(n) << 20, len: 7 };
        let index = [entry(1), entry(9)];
        let bytes = encode_index(&index);
        assert_eq!(decode_index(&bytes).unwrap(), index);
        assert!(decode_index(&bytes[1..]).is_err());
    }

    #[test]
    fn higher_tags_are_on_later_pages() {
        for pages in [1, 2, 7, 1 << 40] {
            let page = |first| Tag([first; 16]).page(pages);
            assert_eq!((page(0), page(255)), (0, pages - 1));
            assert!((0..255).all(|first| page(first) <= page(first + 1)));
        }
    }
}
