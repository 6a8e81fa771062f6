//! An index of the places of all blocks: a hash table of small entries (docs/adr/0015, docs/adr/0029).
//!
//! There is one entry for each block, so the size of an entry decides how many blocks a machine can hold.
//! Entries are kept in slabs, and move only when a sweep gives slabs back. The tables hold the numbers of entries, and enough of each
//! hash that neither a search nor a growing table reads entries in vain. A table doubles when it is full.
//! There are many tables, so doubling takes the time of a lookup and not a second. Some hold twice as many
//! blocks as others, so that they do not all double at once.

mod slabs;

use fula_core::{
    Cid,
    block::{Epoch, Position},
};
use hashbrown::{HashTable, hash_table};

use self::slabs::Slabs;
use super::{
    entry::Entry,
    slot::Slot,
    tags::{BlockTag, TagHasher},
};

/// Number of tables. Of a million blocks each holds about a thousand.
const TABLES: u16 = 1024;

/// Number of blocks that are looked up at a time: about as many as a tree node links to.
const LOOKED_UP: usize = 32;

/// Number of bits of a tag that choose the table.
const CHOOSING_BITS: u32 = 13;

/// Number of tables that are made smaller at a time.
const TABLES_AT_ONCE: u64 = 64;

/// First position of a sweep that has visited all entries, and gives memory back.
const GIVING_BACK: u64 = 1 << 32;

/// The number of an entry. It is valid while the index stays locked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At(u32);

/// What became of a block that a collection marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It was not marked in this collection before, and lies here.
    New(Slot),
    Known,
    /// It is not stored.
    Missing,
}

/// The reference that a table keeps to an entry.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u32,
    /// Hash of the block's tag.
    hash: u32,
}

/// Returns the hash by which a table finds a place. Tables use both ends of it.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// The condition for blocks that a sweep removes: they were not marked in a collection, and were put before
/// an epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct SweepBounds {
    /// Epoch of the collection. Blocks that were marked in it stay.
    pub(super) marked: Epoch,
    /// Blocks that were put in this epoch or later stay.
    pub(super) put_before: Epoch,
    pub(super) now: Epoch,
}

/// The index of all blocks of the log.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    tables: Tables,
    entries: Slabs,
    hasher: TagHasher,
}

/// The tables, which find the entries that may have a tag.
#[derive(Debug)]
struct Tables {
    tables: Box<[HashTable<Place>]>,
    /// Index of the table for each value of the first bits of a tag.
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
        // The last table has twice as many tags as the first; the numbers in between rise evenly.
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
    /// Returns the hash of the tag that the place is about.
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

    /// Records that a block is put in `epoch`, and returns its place.
    pub(crate) fn renew(&mut self, At(number): At, epoch: Epoch) -> Slot {
        let entry = self.entries.at_mut(number);
        entry.renew(epoch);
        entry.slot()
    }

    /// Marks blocks in the collection of `cut`, and calls `told` with each of them.
    pub(crate) fn mark(&mut self, cids: &[Cid], cut: Epoch, mut told: impl FnMut(&Cid, Mark)) {
        for some in cids.chunks(LOOKED_UP) {
            for (cid, found) in some.iter().zip(self.find_all(some)) {
                let mark = found.map_or(Mark::Missing, |At(number)| {
                    let entry = self.entries.at_mut(number);
                    if entry.mark(cut) { Mark::New(entry.slot()) } else { Mark::Known }
                });
                told(cid, mark);
            }
        }
    }

    /// Finds up to [`LOOKED_UP`] blocks. Nothing depends on the look-up before it, and each step is short, so the
    /// processor waits for the memory of several blocks at once.
    fn find_all(&self, cids: &[Cid]) -> [Option<At>; LOOKED_UP] {
        let mut tags = [BlockTag::default(); LOOKED_UP];
        let (mut places, mut entry_tags) = ([None; LOOKED_UP], [None; LOOKED_UP]);
        for (tag, cid) in tags.iter_mut().zip(cids) {
            *tag = self.hasher.tag(cid);
        }
        for (place, tag) in places.iter_mut().zip(&tags).take(cids.len()) {
            let has_hash = |place: &Place| place.hash == tag.hash();
            *place = self.tables.of(*tag).find(spread(tag.hash()), has_hash).copied();
        }
        for (entry_tag, place) in entry_tags.iter_mut().zip(&places) {
            *entry_tag = place.map(|place| self.entries.at(place.number).tag());
        }
        let mut all = [None; LOOKED_UP];
        for (n, cid) in cids.iter().enumerate() {
            all[n] = match places[n] {
                Some(place) if entry_tags[n] == Some(tags[n]) => Some(At(place.number)),
                // Another block has the same hash.
                Some(_) => self.find(cid),
                None => None,
            };
        }
        all
    }

    /// Records the place of a block, and returns its previous place. A new block counts as put in `epoch`;
    /// a block that was only moved keeps its epochs.
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

    /// Removes a block, and returns its place.
    pub(super) fn remove(&mut self, cid: &Cid) -> Option<Slot> {
        self.find(cid).map(|At(number)| self.remove_at(number))
    }

    fn remove_at(&mut self, number: u32) -> Slot {
        let tag = self.entries.at(number).tag();
        let is_it = |place: &Place| place.number == number;
        let table = self.tables.of_mut(tag);
        table.find_entry(spread(tag.hash()), is_it).expect("every entry has a place").remove();
        self.entries.remove(number).slot()
    }

    /// Removes the blocks that `cut` describes, among up to `limit` entries from `from` on. Returns where
    /// to continue. Calls `gone` with the place of each removed block. The last steps give back the memory of
    /// blocks that are gone.
    pub(super) fn sweep(
        &mut self,
        Position(from): Position,
        limit: u32,
        cut: SweepBounds,
        mut gone: impl FnMut(Slot),
    ) -> Option<Position> {
        // A new block may get the number of a removed one. It need not be visited.
        let end = self.entries.end();
        let Ok(from) = u32::try_from(from).map(|from| from.min(end)) else {
            return self.give_back(from - GIVING_BACK).map(|step| Position(GIVING_BACK + step));
        };
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
        if until < end {
            return Some(Position(until.into()));
        }
        self.entries.has_spare().then_some(Position(GIVING_BACK))
    }

    /// Gives back memory that is not needed any more, in steps: slabs first, then room in tables. Returns the
    /// next step.
    fn give_back(&mut self, step: u64) -> Option<u64> {
        let Some(tables) = step.checked_sub(1) else {
            let Some(moving) = self.entries.take_spare() else { return Some(1) };
            for (old, entry) in moving {
                let number = self.entries.add(entry);
                let table = self.tables.of_mut(entry.tag());
                let place = table
                    .find_mut(spread(entry.tag().hash()), |place| place.number == old)
                    .expect("every entry has a place");
                place.number = number;
            }
            return Some(0);
        };
        let from = tables * TABLES_AT_ONCE;
        let until = u64::from(TABLES).min(from + TABLES_AT_ONCE);
        for table in
            &mut self.tables.tables[usize::try_from(from).ok()?..usize::try_from(until).ok()?]
        {
            if table.capacity() > 4 * table.len() {
                table.shrink_to(2 * table.len(), |place| spread(place.hash));
            }
        }
        (until < u64::from(TABLES)).then_some(step + 1)
    }

    /// Makes every block count as not marked in the collection of `epoch` and those shortly before.
    pub(super) fn unmark(&mut self, epoch: Epoch) {
        for entry in self.entries.all_mut() {
            entry.unmark(epoch);
        }
    }

    /// Removes the blocks of a segment. Calls `gone` with the place of each.
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
