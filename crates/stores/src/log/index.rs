//! An index of the newest record of each key.

use std::collections::BTreeMap;

use fula_core::{
    Cid,
    block::{Epoch, Position, Swept},
};

use super::{
    blocks::{Blocks, SweepBounds},
    entry::MARKED_EPOCHS,
    record::{Kind, Record},
    slot::Slot,
};

/// The key of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Block([u8; Cid::BYTES]),
    Row(Kind, Vec<u8>),
}

impl Key {
    pub(super) fn of(kind: Kind, key: &[u8]) -> Option<Self> {
        match kind {
            Kind::Block => key.try_into().ok().map(Self::Block),
            Kind::Root | Kind::Metadata | Kind::Floor => Some(Self::Row(kind, key.to_vec())),
            Kind::Mark | Kind::Footer => None,
        }
    }

    pub(super) fn record<'a>(&'a self, value: &'a [u8]) -> Record<'a> {
        match self {
            Self::Block(cid) => Record { kind: Kind::Block, key: cid, value },
            Self::Row(kind, key) => Record { kind: *kind, key, value },
        }
    }
}

/// Number of blocks that one step of a sweep visits. The step takes well below a millisecond, during which
/// the index is locked.
const SWEEP_BLOCKS: u32 = 256;

/// Number of epochs after which marks are removed, when no sweep has done that.
const UNSWEPT_MAX: u32 = MARKED_EPOCHS / 2;

/// The newest record of each key, in memory.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) blocks: Blocks,
    pub(crate) rows: BTreeMap<(Kind, Vec<u8>), Slot>,
    /// The epoch of new puts.
    pub(crate) epoch: Epoch,
    /// The epoch in which all blocks were last swept, or their marks removed.
    swept: Epoch,
    /// Bytes of records in use, by segment.
    live: BTreeMap<u32, u64>,
}

impl Index {
    pub(super) fn insert(&mut self, record: &Record<'_>, slot: Slot) {
        let Some(key) = Key::of(record.kind, record.key) else { return };
        self.insert_key(key, slot);
    }

    pub(super) fn insert_key(&mut self, key: Key, slot: Slot) {
        let old = match key {
            Key::Block(cid) => {
                let Ok(cid) = Cid::from_bytes(&cid) else { return };
                self.blocks.insert(&cid, slot, self.epoch)
            }
            Key::Row(kind, key) => self.rows.insert((kind, key), slot),
        };
        release(&mut self.live, old);
        *self.live.entry(slot.segment).or_default() += u64::from(slot.bytes());
    }

    pub(super) fn get(&self, key: &Key) -> Option<Slot> {
        match key {
            Key::Block(cid) => self.blocks.get(&Cid::from_bytes(cid).ok()?),
            Key::Row(kind, key) => self.rows.get(&(*kind, key.clone())).copied(),
        }
    }

    /// Returns the place of the row of a key.
    pub(super) fn row(&self, kind: Kind, key: &[u8]) -> Option<Slot> {
        self.rows.get(&(kind, key.to_vec())).copied()
    }

    pub(super) fn remove(&mut self, key: &Key) {
        match key {
            Key::Block(cid) => {
                if let Ok(cid) = Cid::from_bytes(cid) {
                    self.remove_block(&cid);
                }
            }
            Key::Row(kind, key) => {
                let old = self.rows.remove(&(*kind, key.clone()));
                release(&mut self.live, old);
            }
        }
    }

    pub(crate) fn remove_block(&mut self, cid: &Cid) {
        let old = self.blocks.remove(cid);
        release(&mut self.live, old);
    }

    /// Returns the bytes of records in use in one segment.
    pub(super) fn live_in(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// Returns the bytes of all records in use.
    pub(super) fn live(&self) -> u64 {
        self.live.values().sum()
    }

    /// Returns the bytes of all rows in use: root pointers, metadata and the like. Visits each row.
    pub(super) fn row_bytes(&self) -> u64 {
        self.rows.values().map(|slot| u64::from(slot.bytes())).sum()
    }

    /// Begins a new epoch.
    pub(crate) fn advance_epoch(&mut self) -> Epoch {
        self.epoch.0 += 1;
        if self.epoch.0 - self.swept.0 >= UNSWEPT_MAX {
            self.blocks.unmark(self.epoch);
            self.swept = self.epoch;
        }
        self.epoch
    }

    /// Runs one step of [`fula_core::BlockStore::sweep`].
    pub(crate) fn sweep(&mut self, from: Position, cut: Epoch, put_before: Epoch) -> Swept {
        let Self { blocks, live, epoch, .. } = self;
        let mut swept = Swept::default();
        let what = SweepBounds { marked: cut, put_before, now: *epoch };
        swept.next = blocks.sweep(from, SWEEP_BLOCKS, what, |slot| {
            swept.deleted += 1;
            swept.bytes += u64::from(slot.value_len);
            release(live, Some(slot));
        });
        if swept.next.is_none() {
            self.swept = cut.min(self.epoch);
        }
        swept
    }

    /// Removes the records of a segment.
    pub(super) fn forget_segment(&mut self, segment: u32) {
        let Self { blocks, rows, live, .. } = self;
        blocks.forget(segment, |slot| release(live, Some(slot)));
        rows.retain(|_, slot| slot.segment != segment);
        live.remove(&segment);
    }
}

/// Counts a record as dead.
fn release(live: &mut BTreeMap<u32, u64>, slot: Option<Slot>) {
    let Some(slot) = slot else { return };
    if let Some(live) = live.get_mut(&slot.segment) {
        *live = live.saturating_sub(u64::from(slot.bytes()));
    }
}
