//! Where each block lies: a hash table of small entries (docs/adr/0015).
//!
//! There are as many entries as blocks, so what one takes decides how many blocks a machine holds.
//! Entries lie in slabs that never move; tables hold their numbers, and enough of each hash that
//! neither a search nor a table that grows touches entries in vain. A table doubles when it is full:
//! there are many, so that this takes a lookup's time and not a second, and each holds a range of
//! addresses, so that blocks can be listed in order.

use std::{hash::BuildHasher, ops::Range};

use fula_core::{Cid, Codec, block::Epoch};
use hashbrown::{DefaultHashBuilder, HashTable, hash_table};

use super::index::Slot;

/// The codecs, ascending, as their addresses are.
const CODECS: [Codec; 3] = [Codec::Raw, Codec::DagPb, Codec::DagCbor];

/// Tables for each codec: one for each first byte of a digest.
const TABLES: usize = 256;

/// Entries allocated at a time.
const SLAB_ENTRIES: usize = 4096;

/// Bytes of a block's key in its record.
const KEY_BYTES: u16 = 36;
const _: () = assert!(KEY_BYTES as usize == Cid::BYTES);

/// A block in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    digest: [u8; 32],
    segment: u32,
    offset: u32,
    value_len: u32,
    /// When it was last put.
    pub(crate) put: Epoch,
    /// The collection it was last marked in.
    pub(crate) marked: Epoch,
}

impl Held {
    pub(crate) fn slot(&self) -> Slot {
        Slot {
            segment: self.segment,
            offset: self.offset,
            value_len: self.value_len,
            key_len: KEY_BYTES,
        }
    }

    fn lie_at(&mut self, slot: Slot) {
        self.segment = slot.segment;
        self.offset = slot.offset;
        self.value_len = slot.value_len;
    }
}

/// What a table holds of an entry.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u32,
    /// Of the digest.
    hash: u32,
}

/// Returns the hash by which a table finds a place: it uses both ends of it.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// All blocks of the log.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// By codec and first byte of the digest, ascending.
    tables: Box<[HashTable<Place>]>,
    entries: Entries,
    /// Addresses are hashes already, but of whatever clients choose: this one has a random key.
    hasher: DefaultHashBuilder,
}

/// The entries, by number.
#[derive(Debug, Default)]
struct Entries {
    slabs: Vec<Vec<Held>>,
    free: Vec<u32>,
}

impl Entries {
    fn at(&self, number: u32) -> &Held {
        &self.slabs[number as usize / SLAB_ENTRIES][number as usize % SLAB_ENTRIES]
    }

    fn at_mut(&mut self, number: u32) -> &mut Held {
        &mut self.slabs[number as usize / SLAB_ENTRIES][number as usize % SLAB_ENTRIES]
    }

    fn add(&mut self, held: Held) -> u32 {
        if let Some(number) = self.free.pop() {
            *self.at_mut(number) = held;
            return number;
        }
        if self.slabs.last().is_none_or(|slab| slab.len() == SLAB_ENTRIES) {
            self.slabs.push(Vec::with_capacity(SLAB_ENTRIES));
        }
        let full = (self.slabs.len() - 1) * SLAB_ENTRIES;
        let slab = self.slabs.last_mut().expect("there is one");
        slab.push(held);
        u32::try_from(full + slab.len() - 1).expect("fewer than 2^32 blocks")
    }
}

fn table_of(cid: &Cid) -> usize {
    let codec = CODECS.iter().position(|codec| *codec == cid.codec());
    codec.expect("every codec is listed") * TABLES + usize::from(cid.digest()[0])
}

impl Default for Blocks {
    fn default() -> Self {
        let tables = (0..CODECS.len() * TABLES).map(|_| HashTable::new()).collect();
        Self { tables, entries: Entries::default(), hasher: DefaultHashBuilder::default() }
    }
}

impl Blocks {
    fn hash(&self, cid: &Cid) -> u32 {
        let [.., a, b, c, d] = self.hasher.hash_one(cid.digest()).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Returns the number of a block's entry, to be used while the index stays locked.
    pub(crate) fn number(&self, cid: &Cid) -> Option<u32> {
        let hash = self.hash(cid);
        let is_it = |place: &Place| {
            place.hash == hash && self.entries.at(place.number).digest == *cid.digest()
        };
        self.tables[table_of(cid)].find(spread(hash), is_it).map(|place| place.number)
    }

    pub(crate) fn get(&self, cid: &Cid) -> Option<&Held> {
        self.number(cid).map(|number| self.entries.at(number))
    }

    /// Returns the entry of a number.
    pub(crate) fn at_mut(&mut self, number: u32) -> &mut Held {
        self.entries.at_mut(number)
    }

    pub(crate) fn get_mut(&mut self, cid: &Cid) -> Option<&mut Held> {
        self.number(cid).map(|number| self.entries.at_mut(number))
    }

    /// Notes where a block lies, and returns where it did. A new one counts as put in `epoch`; one
    /// that has only moved keeps its epochs.
    pub(super) fn insert(&mut self, cid: &Cid, slot: Slot, epoch: Epoch) -> Option<Slot> {
        let hash = self.hash(cid);
        let Self { tables, entries, .. } = self;
        let entry = tables[table_of(cid)].entry(
            spread(hash),
            |place| place.hash == hash && entries.at(place.number).digest == *cid.digest(),
            |place| spread(place.hash),
        );
        match entry {
            hash_table::Entry::Occupied(place) => {
                let held = entries.at_mut(place.get().number);
                let old = held.slot();
                held.lie_at(slot);
                Some(old)
            }
            hash_table::Entry::Vacant(free) => {
                let Slot { segment, offset, value_len, .. } = slot;
                let (digest, put, marked) = (*cid.digest(), epoch, Epoch::default());
                let held = Held { digest, segment, offset, value_len, put, marked };
                free.insert(Place { number: entries.add(held), hash });
                None
            }
        }
    }

    /// Forgets a block, and returns where it lay.
    pub(super) fn remove(&mut self, cid: &Cid) -> Option<Slot> {
        let hash = self.hash(cid);
        let Self { tables, entries, .. } = self;
        let is_it =
            |place: &Place| place.hash == hash && entries.at(place.number).digest == *cid.digest();
        let found = tables[table_of(cid)].find_entry(spread(hash), is_it);
        let (Place { number, .. }, _) = found.ok()?.remove();
        entries.free.push(number);
        Some(entries.at(number).slot())
    }

    /// Returns up to `limit` blocks after `after`, in ascending order of their addresses.
    pub(crate) fn page(&self, after: Option<&Cid>, limit: usize) -> Vec<(Cid, Held)> {
        let mut page = Vec::new();
        for table in after.map_or(0, table_of)..self.tables.len() {
            let begun = page.len();
            page.extend(self.in_tables(table..table + 1).filter(|(cid, _)| Some(cid) > after));
            page[begun..].sort_unstable_by_key(|(cid, _)| *cid);
            if page.len() >= limit {
                page.truncate(limit);
                break;
            }
        }
        page
    }

    /// Returns all blocks, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Cid, Held)> {
        self.in_tables(0..self.tables.len())
    }

    fn in_tables(&self, tables: Range<usize>) -> impl Iterator<Item = (Cid, Held)> {
        tables.flat_map(move |table| {
            self.tables[table].iter().map(move |place| {
                let held = *self.entries.at(place.number);
                (Cid::from_digest(CODECS[table / TABLES], held.digest), held)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Of each codec, all are in four tables; two share a digest.
    fn cid(n: u32) -> Cid {
        let codec = CODECS[n as usize % 3];
        let mut digest = [7; 32];
        digest[..4].copy_from_slice(&(n / 2).to_be_bytes());
        digest[0] = digest[3] % 4;
        Cid::from_digest(codec, digest)
    }

    fn slot(n: u32) -> Slot {
        Slot { segment: n, offset: n * 8, value_len: n + 1, key_len: 36 }
    }

    #[test]
    fn it_holds_what_an_ordered_map_holds() {
        let (mut blocks, mut model) = (Blocks::default(), BTreeMap::new());
        let mut random = 1_u32;
        for step in 0..60_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let cid = cid((random >> 8) % 20_000);
            if random >> 30 == 0 {
                assert_eq!(blocks.remove(&cid), model.remove(&cid));
            } else {
                let old = blocks.insert(&cid, slot(step), Epoch(step));
                assert_eq!(old, model.insert(cid, slot(step)));
            }
            assert_eq!(blocks.get(&cid).map(Held::slot), model.get(&cid).copied());
        }
        let all: BTreeMap<_, _> = blocks.iter().map(|(cid, held)| (cid, held.slot())).collect();
        assert_eq!(all, model);
        let (mut after, mut listed) = (None, Vec::new());
        loop {
            let page = blocks.page(after.as_ref(), 7);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            listed.extend(page.into_iter().map(|(cid, held)| (cid, held.slot())));
        }
        assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn entries_are_small_and_used_again() {
        assert_eq!(size_of::<Held>(), 52);
        let mut blocks = Blocks::default();
        for round in 0..3 {
            for n in 0..5_000 {
                blocks.insert(&cid(n), slot(n), Epoch(round));
            }
            for n in 0..5_000 {
                blocks.remove(&cid(n));
            }
        }
        assert_eq!(blocks.entries.slabs.len(), 2);
        assert_eq!(blocks.page(None, 1).len(), 0);
    }

    #[test]
    fn moving_a_block_is_not_putting_it() {
        let mut blocks = Blocks::default();
        blocks.insert(&cid(1), slot(1), Epoch(4));
        blocks.get_mut(&cid(1)).unwrap().marked = Epoch(5);
        blocks.insert(&cid(1), slot(2), Epoch(6));
        let held = blocks.get(&cid(1)).unwrap();
        assert_eq!((held.slot(), held.put, held.marked), (slot(2), Epoch(4), Epoch(5)));
    }
}
