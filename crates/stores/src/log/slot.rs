//! The place of a record in the log.
#![expect(
    clippy::cast_possible_truncation,
    reason = "records are bounded far below these types by constants"
)]

use super::record::HEAD_BYTES;

/// A place in a stream. Every record that is appended from some moment on lies at or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogPlace {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

/// The place and the lengths of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) segment: u32,
    /// Position of the record's head. Segments stay far below 4 GiB.
    pub(crate) offset: u32,
    pub(crate) value_len: u32,
    pub(super) key_len: u16,
}

impl Slot {
    pub(super) fn new(segment: u32, offset: u64, key: usize, value: usize) -> Self {
        Self {
            segment,
            offset: u32::try_from(offset).expect("segments are small"),
            value_len: u32::try_from(value).expect("values are small"),
            key_len: u16::try_from(key).expect("keys are small"),
        }
    }

    pub(super) fn value_offset(&self) -> u64 {
        u64::from(self.offset) + HEAD_BYTES as u64 + u64::from(self.key_len)
    }

    /// Returns the place at which the record begins.
    pub(crate) fn place(&self) -> LogPlace {
        LogPlace { segment: self.segment, offset: self.offset }
    }

    /// Returns the position in the segment at which the record ends.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.bytes())
    }

    /// Returns the length of the record in bytes, including padding.
    pub(crate) fn bytes(&self) -> u32 {
        (HEAD_BYTES as u32 + u32::from(self.key_len) + self.value_len).next_multiple_of(8)
    }
}
