//! Where each block lies: a hash table of small entries (docs/adr/0015, docs/adr/0029).
//!
//! There are as many entries as blocks, so what one takes decides how many blocks a machine holds.
//! Entries lie in slabs that never move; tables hold their numbers, and enough of each hash that
//! neither a search nor a table that grows touches entries in vain. A table doubles when it is full:
//! there are many, so that this takes a lookup's time and not a second, and some hold twice as many
//! blocks as others, so that they do not all double at once.

use fula_core::{
    Cid,
    block::{Epoch, Position},
};
use hashbrown::{HashTable, hash_table};

use super::{
    entry::Entry,
    slot::Slot,
    tags::{BlockTag, TagHasher},
};

/// Tables: of a million blocks each holds a thousand.
const TABLES: u16 = 1024;

/// Bits of a tag that choose the table.
const CHOOSING_BITS: u32 = 13;

/// Entries allocated at a time.
const SLAB_ENTRIES: usize = 4096;

/// The number of an entry, while the index stays locked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At(u32);

/// What a table holds of an entry.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u32,
    /// Of the tag.
    hash: u32,
}

/// Returns the hash by which a table finds a place: it uses both ends of it.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// Which blocks a sweep takes away.
#[derive(Clone, Copy, Debug)]
pub(super) struct SweepBounds {
    /// The collection: what was not marked in it goes,
    pub(super) marked: Epoch,
    /// if it was put before this.
    pub(super) put_before: Epoch,
    pub(super) now: Epoch,
}

/// All blocks of the log.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    tables: Tables,
    entries: Entries,
    hasher: TagHasher,
}

/// The entries, by number.
#[derive(Debug, Default)]
struct Entries {
    slabs: Vec<Vec<Entry>>,
    free: Vec<u32>,
}

impl Entries {
    fn at(&self, number: u32) -> &Entry {
        &self.slabs[number as usize / SLAB_ENTRIES][number as usize % SLAB_ENTRIES]
    }

    fn at_mut(&mut self, number: u32) -> &mut Entry {
        &mut self.slabs[number as usize / SLAB_ENTRIES][number as usize % SLAB_ENTRIES]
    }

    /// Returns one more than the highest number.
    fn end(&self) -> u32 {
        let Some(last) = self.slabs.last() else { return 0 };
        let end = (self.slabs.len() - 1) * SLAB_ENTRIES + last.len();
        u32::try_from(end).expect("fewer than 2^32 blocks")
    }

    fn add(&mut self, entry: Entry) -> u32 {
        if let Some(number) = self.free.pop() {
            *self.at_mut(number) = entry;
            return number;
        }
        let number = self.end();
        if self.slabs.last().is_none_or(|slab| slab.len() == SLAB_ENTRIES) {
            self.slabs.push(Vec::with_capacity(SLAB_ENTRIES));
        }
        self.slabs.last_mut().expect("there is one").push(entry);
        number
    }

    fn remove(&mut self, number: u32) -> Slot {
        self.free.push(number);
        std::mem::take(self.at_mut(number)).slot()
    }
}

/// Where entries of a tag may be.
#[derive(Debug)]
struct Tables {
    tables: Box<[HashTable<Place>]>,
    /// The table of the tags that begin with these bits.
    chosen: Box<[u16]>,
}

impl Default for Tables {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between none and all of the tables"
    )]
    fn default() -> Self {
        let begins = 1_u32 << CHOOSING_BITS;
        // The last has twice as many of the tags as the first, and those between evenly more.
        let chosen = (0..begins).map(|bits| {
            let part = f64::from(bits) / f64::from(begins);
            (f64::from(TABLES) * (1.0 + part).log2()) as u16
        });
        let tables = (0..TABLES).map(|_| HashTable::new()).collect();
        Self { tables, chosen: chosen.collect() }
    }
}

impl Tables {
    fn number(&self, tag: BlockTag) -> usize {
        self.chosen[(tag.0[0] >> (32 - CHOOSING_BITS)) as usize].into()
    }

    fn of(&self, tag: BlockTag) -> &HashTable<Place> {
        &self.tables[self.number(tag)]
    }

    fn of_mut(&mut self, tag: BlockTag) -> &mut HashTable<Place> {
        &mut self.tables[self.number(tag)]
    }
}

impl BlockTag {
    /// What a place holds of it.
    fn hash(self) -> u32 {
        self.0[1]
    }
}

impl Blocks {
    pub(crate) fn find(&self, cid: &Cid) -> Option<At> {
        let tag = self.hasher.tag(cid);
        let is_it =
            |place: &Place| place.hash == tag.hash() && self.entries.at(place.number).tag() == tag;
        self.tables.of(tag).find(spread(tag.hash()), is_it).map(|place| At(place.number))
    }

    pub(crate) fn get(&self, cid: &Cid) -> Option<Slot> {
        self.find(cid).map(|At(number)| self.entries.at(number).slot())
    }

    /// Notes that a block is put in `epoch`, and returns where it lies.
    pub(crate) fn renew(&mut self, At(number): At, epoch: Epoch) -> Slot {
        let entry = self.entries.at_mut(number);
        entry.renew(epoch);
        entry.slot()
    }

    /// Marks a block in the collection of `cut`; says whether it was not marked in it before, or `None`
    /// when it is not held.
    pub(crate) fn mark(&mut self, cid: &Cid, cut: Epoch) -> Option<bool> {
        self.find(cid).map(|At(number)| self.entries.at_mut(number).mark(cut))
    }

    /// Notes where a block lies, and returns where it did. A new one counts as put in `epoch`; one
    /// that has only moved keeps its epochs.
    pub(super) fn insert(&mut self, cid: &Cid, slot: Slot, epoch: Epoch) -> Option<Slot> {
        let tag = self.hasher.tag(cid);
        let Self { tables, entries, .. } = self;
        let entry = tables.of_mut(tag).entry(
            spread(tag.hash()),
            |place| place.hash == tag.hash() && entries.at(place.number).tag() == tag,
            |place| spread(place.hash),
        );
        match entry {
            hash_table::Entry::Occupied(place) => {
                let entry = entries.at_mut(place.get().number);
                let old = entry.slot();
                entry.lie_at(slot);
                Some(old)
            }
            hash_table::Entry::Vacant(free) => {
                let number = entries.add(Entry::new(tag, slot, epoch));
                free.insert(Place { number, hash: tag.hash() });
                None
            }
        }
    }

    /// Forgets a block, and returns where it lay.
    pub(super) fn remove(&mut self, cid: &Cid) -> Option<Slot> {
        self.find(cid).map(|At(number)| self.remove_at(number))
    }

    fn remove_at(&mut self, number: u32) -> Slot {
        let tag = self.entries.at(number).tag();
        let is_it = |place: &Place| place.number == number;
        let table = self.tables.of_mut(tag);
        table.find_entry(spread(tag.hash()), is_it).expect("every entry has a place").remove();
        self.entries.remove(number)
    }

    /// Forgets the blocks that `cut` is about, of up to `limit` entries from `from` on; returns where it
    /// goes on. Calls `gone` with where each lay.
    pub(super) fn sweep(
        &mut self,
        Position(from): Position,
        limit: u32,
        cut: SweepBounds,
        mut gone: impl FnMut(Slot),
    ) -> Option<Position> {
        // A new block may take the number of one that is gone: it need not be looked at.
        let end = self.entries.end();
        let from = u32::try_from(from).map_or(end, |from| from.min(end));
        let until = from.saturating_add(limit).min(end);
        for number in from..until {
            let entry = self.entries.at_mut(number);
            if entry.is_nothing() {
                continue;
            }
            if !entry.is_marked(cut.marked) {
                if entry.put(cut.now) < cut.put_before {
                    gone(self.remove_at(number));
                    continue;
                }
                entry.unmark(cut.marked);
            }
            entry.settle(cut.now);
        }
        (until < end).then_some(Position(until.into()))
    }

    /// Makes all blocks such that were not marked in the collection of `epoch` or lately.
    pub(super) fn unmark(&mut self, epoch: Epoch) {
        for entry in self.entries.slabs.iter_mut().flatten() {
            entry.unmark(epoch);
        }
    }

    /// Forgets the blocks of a segment. Calls `gone` with where each lay.
    pub(super) fn forget(&mut self, segment: u32, mut gone: impl FnMut(Slot)) {
        for number in 0..self.entries.end() {
            let entry = self.entries.at(number);
            if !entry.is_nothing() && entry.slot().segment == segment {
                gone(self.remove_at(number));
            }
        }
    }
}

#[cfg(test)]
mod tests;
