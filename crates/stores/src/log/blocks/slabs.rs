//! The entries of all blocks by number, in slabs that are allocated and given back as a whole.

use std::collections::BTreeSet;

use super::super::entry::Entry;

/// Number of entries of a slab.
pub(super) const SLAB_ENTRIES: usize = 4096;

/// Number of slabs that are kept for new blocks, beside as many as are in use.
const SPARE_SLABS: usize = 2;

#[derive(Debug)]
struct Slab {
    entries: Vec<Entry>,
    /// Numbers within the slab of the entries of nothing.
    free: Vec<u16>,
}

/// All entries, by number. New entries get low numbers, so that the last slabs become empty.
#[derive(Debug, Default)]
pub(super) struct Slabs {
    all: Vec<Slab>,
    /// Numbers of the slabs that have room.
    open: BTreeSet<u32>,
    /// Number of entries that are not of nothing.
    len: usize,
}

impl Slabs {
    pub(super) fn at(&self, number: u32) -> &Entry {
        &self.all[number as usize / SLAB_ENTRIES].entries[number as usize % SLAB_ENTRIES]
    }

    pub(super) fn at_mut(&mut self, number: u32) -> &mut Entry {
        &mut self.all[number as usize / SLAB_ENTRIES].entries[number as usize % SLAB_ENTRIES]
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.all.iter_mut().flat_map(|slab| &mut slab.entries)
    }

    /// Returns one more than the highest number of an entry.
    pub(super) fn end(&self) -> u32 {
        let Some(last) = self.all.last() else { return 0 };
        number(self.all.len() - 1, last.entries.len())
    }

    /// Returns the number of slabs.
    #[cfg(test)]
    pub(super) fn slabs(&self) -> usize {
        self.all.len()
    }

    /// Adds an entry, and returns its number.
    pub(super) fn add(&mut self, entry: Entry) -> u32 {
        let slab = self.open.first().map_or(self.all.len(), |slab| *slab as usize);
        if slab == self.all.len() {
            let entries = Vec::with_capacity(SLAB_ENTRIES);
            self.all.push(Slab { entries, free: Vec::new() });
            self.open.insert(number_of_slab(slab));
        }
        let Slab { entries, free } = &mut self.all[slab];
        let within = if let Some(within) = free.pop() {
            entries[usize::from(within)] = entry;
            usize::from(within)
        } else {
            entries.push(entry);
            entries.len() - 1
        };
        if free.is_empty() && entries.len() == SLAB_ENTRIES {
            self.open.remove(&number_of_slab(slab));
        }
        self.len += 1;
        number(slab, within)
    }

    /// Removes an entry, and returns it.
    pub(super) fn remove(&mut self, number: u32) -> Entry {
        let (slab, within) = (number as usize / SLAB_ENTRIES, number as usize % SLAB_ENTRIES);
        let Slab { entries, free } = &mut self.all[slab];
        free.push(u16::try_from(within).expect("slabs have fewer than 2^16 entries"));
        self.open.insert(number_of_slab(slab));
        self.len -= 1;
        std::mem::take(&mut entries[within])
    }

    /// Returns whether the last slab is more than what the entries and new ones need.
    pub(super) fn has_spare(&self) -> bool {
        self.all.len() > 2 * self.len.div_ceil(SLAB_ENTRIES) + SPARE_SLABS
    }

    /// Removes the last slab if it is spare. Returns its entries with their former numbers: they fit into the
    /// slabs that stay.
    pub(super) fn take_spare(&mut self) -> Option<impl Iterator<Item = (u32, Entry)> + use<>> {
        if !self.has_spare() {
            return None;
        }
        let slab = self.all.len() - 1;
        let Slab { entries, free } = self.all.pop()?;
        self.open.remove(&number_of_slab(slab));
        self.len -= entries.len() - free.len();
        let numbered = entries.into_iter().enumerate();
        Some(
            numbered
                .filter(|(_, entry)| !entry.is_nothing())
                .map(move |(within, entry)| (number(slab, within), entry)),
        )
    }
}

fn number(slab: usize, within: usize) -> u32 {
    u32::try_from(slab * SLAB_ENTRIES + within).expect("fewer than 2^32 blocks")
}

fn number_of_slab(slab: usize) -> u32 {
    u32::try_from(slab).expect("fewer slabs than blocks")
}
