//! Lengths and places of encrypted content (docs/adr/0053).
//!
//! A body is encrypted in chunks: [`CHUNK_BYTES`] of content, then a tag. A block holds whole chunks, so
//! every length and every place follows from the length of the content.

use std::ops::Range;

use super::LEAF_BYTES;

/// Length of an encrypted chunk in bytes, with its tag. The last one of a body may be shorter.
pub const STORED_CHUNK_BYTES: usize = 64 << 10;

/// Length of the tag of a chunk in bytes.
pub const TAG_BYTES: usize = 16;

/// Length of the content of a chunk in bytes.
pub const CHUNK_BYTES: usize = STORED_CHUNK_BYTES - TAG_BYTES;

/// Length of the content of a leaf in bytes.
pub const ENCRYPTED_LEAF_BYTES: usize = LEAF_BYTES / STORED_CHUNK_BYTES * CHUNK_BYTES;

/// Returns the length in bytes of a body of `size` bytes once it is encrypted. An empty one stays empty.
pub fn stored_len(size: u64) -> u64 {
    size.saturating_add(size.div_ceil(CHUNK_BYTES as u64).saturating_mul(TAG_BYTES as u64))
}

/// The chunks that a range of a body needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Numbers of the chunks.
    pub chunks: Range<u64>,
    /// Their place in the encrypted body, in bytes.
    pub stored: Range<u64>,
    /// Place of the range in the content of these chunks, in bytes.
    pub within: Range<u64>,
}

impl ChunkSpan {
    /// Returns the chunks of `range`, which lies within a body of `size` bytes.
    pub fn of(range: &Range<u64>, size: u64) -> Self {
        if range.is_empty() {
            return Self { chunks: 0..0, stored: 0..0, within: 0..0 };
        }
        let (chunk, stored) = (CHUNK_BYTES as u64, STORED_CHUNK_BYTES as u64);
        let chunks = range.start / chunk..range.end.div_ceil(chunk);
        let end = chunks.end.saturating_mul(stored).min(stored_len(size));
        let first = chunks.start * chunk;
        Self {
            stored: chunks.start.saturating_mul(stored)..end,
            within: range.start - first..range.end - first,
            chunks,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_leaf_is_a_full_block() {
        assert_eq!(stored_len(ENCRYPTED_LEAF_BYTES as u64), LEAF_BYTES as u64);
        assert_eq!((stored_len(0), stored_len(1), stored_len(65_520)), (0, 17, 65_536));
        assert_eq!(stored_len(65_521), 65_536 + 17);
    }

    proptest! {
        #[test]
        fn the_chunks_of_a_range_are_those_that_hold_its_bytes(
            size in 1_u64..400_000,
            a in any::<prop::sample::Index>(),
            b in any::<prop::sample::Index>(),
        ) {
            let length = usize::try_from(size).unwrap();
            let (a, b) = (a.index(length) as u64, b.index(length) as u64);
            let range = a.min(b)..a.max(b) + 1;
            let span = ChunkSpan::of(&range, size);
            let chunk = CHUNK_BYTES as u64;
            let hold = |n: u64| n * chunk < range.end && (n + 1) * chunk > range.start;
            let needed: Vec<u64> = (0..size.div_ceil(chunk)).filter(|n| hold(*n)).collect();
            prop_assert_eq!(span.chunks.clone().collect::<Vec<_>>(), needed);
            prop_assert!(span.stored.end <= stored_len(size));
            prop_assert_eq!(span.within.end - span.within.start, range.end - range.start);
            prop_assert_eq!(span.chunks.start * chunk + span.within.start, range.start);
        }
    }
}
