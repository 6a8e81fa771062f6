//! The entry that the index holds for a block, in 24 bytes (docs/adr/0029).
#![expect(
    clippy::cast_possible_truncation,
    reason = "parts of a word are cut out of it, and epochs are cut to their last bits"
)]

use fula_core::{Cid, block::Epoch};

use super::{
    record::{ALIGN, VALUE_BYTES_MAX},
    slot::Slot,
    tags::BlockTag,
};

/// Length of a block's key in its record, in bytes.
const KEY_BYTES: u16 = 36;
const _: () = assert!(KEY_BYTES as usize == Cid::BYTES);

/// A field of a word: its number of bits, and the number of bits below it.
#[derive(Clone, Copy)]
struct Bits(u32, u32);

impl Bits {
    const fn max(self) -> u64 {
        (1 << self.0) - 1
    }

    fn of(self, word: u64) -> u64 {
        word >> self.1 & self.max()
    }

    fn set(self, word: &mut u64, value: u64) {
        debug_assert!(value <= self.max(), "{value} in {} bits", self.0);
        *word = *word & !(self.max() << self.1) | value << self.1;
    }
}

/// Last bits of the epoch of the collection in which the block was last marked; see [`Entry::unmark`].
const MARKED: Bits = Bits(10, 0);
/// Last bits of the epoch in which the block was last put.
const PUT: Bits = Bits(4, 10);
const VALUE_LEN: Bits = Bits(21, 14);
/// Position of its record in units of the alignment of records.
const OFFSET: Bits = Bits(29, 35);
const _: () = assert!(VALUE_BYTES_MAX as u64 <= VALUE_LEN.max());
const _: () = assert!(u32::MAX as u64 / ALIGN <= OFFSET.max());

/// Number of epochs after which a mark would be taken for one of another collection, if it were not removed
/// before.
pub(super) const MARKED_EPOCHS: u32 = 1 << MARKED.0;

/// Largest age in epochs that an entry keeps once it is [settled](Entry::settle). An older put counts as
/// this old.
const AGE_MAX: u32 = 7;

/// The entry of a block in the log, or of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    tag: BlockTag,
    segment: u32,
    /// All fields but the tag. The offset is 0 only in an entry of nothing, because segments begin with a
    /// header.
    word: u64,
}

impl Entry {
    pub(super) fn new(tag: BlockTag, slot: Slot, epoch: Epoch) -> Self {
        let mut entry = Self { tag, ..Self::default() };
        entry.lie_at(slot);
        entry.renew(epoch);
        entry.unmark(epoch);
        entry
    }

    pub(super) fn is_nothing(&self) -> bool {
        OFFSET.of(self.word) == 0
    }

    pub(super) fn tag(&self) -> BlockTag {
        self.tag
    }

    pub(super) fn slot(&self) -> Slot {
        Slot {
            segment: self.segment,
            offset: OFFSET.of(self.word) as u32 * ALIGN as u32,
            value_len: VALUE_LEN.of(self.word) as u32,
            key_len: KEY_BYTES,
        }
    }

    pub(super) fn lie_at(&mut self, slot: Slot) {
        self.segment = slot.segment;
        OFFSET.set(&mut self.word, u64::from(slot.offset) / ALIGN);
        VALUE_LEN.set(&mut self.word, u64::from(slot.value_len));
    }

    /// Records that the block is put in `epoch`.
    pub(super) fn renew(&mut self, epoch: Epoch) {
        PUT.set(&mut self.word, u64::from(epoch.0) & PUT.max());
    }

    /// Returns the number of epochs since the last put, modulo the 4 bits that are kept of it.
    fn age(&self, now: Epoch) -> u32 {
        now.0.wrapping_sub(PUT.of(self.word) as u32) & PUT.max() as u32
    }

    /// Returns the epoch of the last put, or a later one if the put is longer ago than 4 bits can tell.
    pub(super) fn put(&self, now: Epoch) -> Epoch {
        Epoch(now.0.saturating_sub(self.age(now)))
    }

    /// Limits the age to [`AGE_MAX`], so that it does not wrap around. Every entry must be settled at least
    /// once in eight epochs.
    pub(super) fn settle(&mut self, now: Epoch) {
        if self.age(now) > AGE_MAX {
            self.renew(Epoch(now.0.saturating_sub(AGE_MAX)));
        }
    }

    /// Marks the block in the collection of `cut`. Returns whether it was not marked in it before.
    pub(super) fn mark(&mut self, cut: Epoch) -> bool {
        let fresh = !self.is_marked(cut);
        MARKED.set(&mut self.word, u64::from(cut.0) & MARKED.max());
        fresh
    }

    pub(super) fn is_marked(&self, cut: Epoch) -> bool {
        MARKED.of(self.word) == u64::from(cut.0) & MARKED.max()
    }

    /// Makes the block count as not marked in the collection of `epoch`, nor in those of the next
    /// [`MARKED_EPOCHS`] less two.
    pub(super) fn unmark(&mut self, epoch: Epoch) {
        self.mark(Epoch(epoch.0.wrapping_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small_and_keeps_what_it_is_told() {
        assert_eq!(size_of::<Entry>(), 24);
        for (segment, offset, value_len) in
            [(0, 8, 0), (u32::MAX, u32::MAX - 7, VALUE_BYTES_MAX as u32), (7, 4096, 1 << 20)]
        {
            let slot = Slot { segment, offset, value_len, key_len: KEY_BYTES };
            for epoch in [0, 9, 1023, u32::MAX].map(Epoch) {
                let mut entry = Entry::new(BlockTag([1, 2, 3]), slot, epoch);
                assert!(!entry.is_nothing() && Entry::default().is_nothing());
                assert!(entry.mark(epoch) && !entry.mark(epoch));
                assert_eq!((entry.tag(), entry.slot()), (BlockTag([1, 2, 3]), slot));
                assert_eq!(entry.put(epoch), epoch);
                let elsewhere = Slot { segment: 1, offset: 64, value_len: 3, ..slot };
                entry.lie_at(elsewhere);
                assert!(entry.slot() == elsewhere && entry.is_marked(epoch));
                assert_eq!(entry.put(epoch), epoch);
            }
        }
    }

    fn entry(put: u32) -> Entry {
        let slot = Slot { segment: 1, offset: 64, value_len: 1, key_len: KEY_BYTES };
        Entry::new(BlockTag::default(), slot, Epoch(put))
    }

    #[test]
    fn ages_are_told_apart_as_long_as_it_matters() {
        for put in [0, 1, 15, 16, 1000] {
            let mut entry = entry(put);
            for age in 0..16 {
                assert_eq!(entry.put(Epoch(put + age)), Epoch(put));
            }
            // A put that is longer ago counts as later, never as earlier.
            assert!((16..200).all(|age| entry.put(Epoch(put + age)) > Epoch(put)));
            // Settled in every epoch, or in every eighth, the entry keeps the largest age.
            for every in [1, 8] {
                entry.renew(Epoch(put));
                for age in (0..200).step_by(every) {
                    let now = Epoch(put + age);
                    assert_eq!(entry.put(now).0, now.0 - age.min(entry.age(now)));
                    assert!(entry.age(now) >= age.min(AGE_MAX), "{age}");
                    entry.settle(now);
                }
            }
        }
    }

    #[test]
    fn a_mark_is_of_one_collection_until_it_must_be_taken_away() {
        for (cut, was_marked) in [(1, true), (1, false), (1022, true), (5000, false)] {
            let mut entry = entry(0);
            if was_marked {
                entry.mark(Epoch(cut));
            } else {
                entry.unmark(Epoch(cut));
            }
            assert_eq!(entry.is_marked(Epoch(cut)), was_marked);
            assert!((1..MARKED_EPOCHS - 1).all(|n| !entry.is_marked(Epoch(cut + n))));
        }
    }
}
