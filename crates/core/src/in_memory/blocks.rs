//! A block store in memory.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    block::{
        BLOCK_BYTES_MAX, Block, BlockStore, Epoch, Kept, Listed, Marked, Placement, Position,
        Swept, SyncMark,
    },
    error::StoreError,
    id::{Cid, Codec},
};

#[derive(Debug)]
struct Held {
    block: Block,
    epoch: Epoch,
    marked: Epoch,
    position: u64,
    damage: Option<Damage>,
}

/// What a disk returns in place of a block.
#[derive(Debug)]
struct Damage {
    bytes: Bytes,
    /// Whether every read returns them, or only those that do not verify.
    lasts: bool,
}

#[derive(Debug, Default)]
struct BlocksState {
    held: BTreeMap<Cid, Held>,
    epoch: Epoch,
    position: u64,
    synced: u64,
}

/// A block store in memory, whose blocks are durable once they were synced.
#[derive(Debug, Default)]
pub struct MemoryBlocks {
    state: Mutex<BlocksState>,
}

impl MemoryBlocks {
    /// Removes every block that was not synced, as a power cut would.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        let synced = state.synced;
        state.held.retain(|_, held| held.position <= synced);
    }

    /// Returns the block if it was synced.
    pub fn get_durable(&self, cid: &Cid) -> Option<Block> {
        let state = self.state.lock();
        let held = state.held.get(cid).filter(|held| held.position <= state.synced);
        held.map(|held| held.block.clone())
    }

    /// Puts blocks under an epoch, as one of several masters does that knows of no later one.
    ///
    /// # Errors
    /// The errors of [`BlockStore::put`].
    pub fn put_under(&self, blocks: &[Block], epoch: Epoch) -> Result<SyncMark, StoreError> {
        let mut state = self.state.lock();
        let mut last = 0;
        for block in blocks {
            let len = block.bytes().len();
            if len > BLOCK_BYTES_MAX {
                return Err(StoreError::TooLarge { len, max: BLOCK_BYTES_MAX });
            }
            state.position += 1;
            let position = state.position;
            let held = state.held.entry(block.cid()).or_insert_with(|| Held {
                block: block.clone(),
                epoch,
                marked: Epoch::default(),
                position,
                damage: None,
            });
            held.epoch = held.epoch.max(epoch);
            last = last.max(held.position);
        }
        Ok(SyncMark { positions: [last, 0] })
    }

    /// Deletes blocks that were put before an epoch and are not among those that are kept, up to `limit` of
    /// them. Returns their number.
    pub fn delete_before(&self, epoch: Epoch, kept: &HashSet<Cid>, limit: usize) -> usize {
        let held = &mut self.state.lock().held;
        let is_garbage = |(cid, held): &(&Cid, &Held)| held.epoch < epoch && !kept.contains(cid);
        let garbage: Vec<_> =
            held.iter().filter(is_garbage).map(|(cid, _)| *cid).take(limit).collect();
        for cid in &garbage {
            held.remove(cid);
        }
        garbage.len()
    }

    /// Returns the number of blocks stored.
    pub fn len(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Removes a block, as a failing store does. Returns false when it is not stored.
    pub fn lose(&self, cid: &Cid) -> bool {
        self.state.lock().held.remove(cid).is_some()
    }

    /// Damages a block: unverified reads return `bytes`. Other reads find the damage if it lasts; if it does not,
    /// as with a fault on the way from the disk, they return the right block.
    pub fn damage(&self, cid: &Cid, bytes: Bytes, lasts: bool) {
        if let Some(held) = self.state.lock().held.get_mut(cid) {
            held.damage = Some(Damage { bytes, lasts });
        }
    }

    /// Returns whether no block is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait]
impl BlockStore for MemoryBlocks {
    async fn put(&self, blocks: &[Block], _: Placement) -> Result<SyncMark, StoreError> {
        let epoch = self.state.lock().epoch;
        self.put_under(blocks, epoch)
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.synced = state.synced.max(mark.positions[0]);
        Ok(())
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        match self.state.lock().held.get(cid) {
            Some(held) if held.damage.as_ref().is_some_and(|damage| damage.lasts) => {
                Err(StoreError::Damaged { cid: *cid })
            }
            held => Ok(held.map(|held| held.block.clone())),
        }
    }

    async fn get_unverified(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        let stored = |held: &Held| match &held.damage {
            Some(damage) => damage.bytes.clone(),
            None => held.block.bytes().clone(),
        };
        Ok(self.state.lock().held.get(cid).map(stored))
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.state.lock().held.get(cid).map(|held| held.block.bytes().len() as u64))
    }

    fn advance_epoch(&self) -> Epoch {
        let mut state = self.state.lock();
        state.epoch.0 += 1;
        state.epoch
    }

    fn mark(&self, cids: &[Cid], cut: Epoch, _: Kept) -> Marked {
        let mut state = self.state.lock();
        let mut fresh = Vec::new();
        for cid in cids {
            match state.held.get_mut(cid) {
                Some(held) if held.marked == cut => {}
                Some(held) => {
                    held.marked = cut;
                    fresh.push(*cid);
                }
                None if cid.codec() == Codec::Raw => {}
                None => fresh.push(*cid),
            }
        }
        Marked { fresh, bytes: 0 }
    }

    async fn sweep(&self, _: Position, cut: Epoch, put_before: Epoch) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        self.state.lock().held.retain(|_, held| {
            let is_kept = held.marked == cut || held.epoch >= put_before;
            if !is_kept {
                swept.deleted += 1;
                swept.bytes += held.block.bytes().len() as u64;
            }
            is_kept
        });
        Ok(swept)
    }

    async fn list(&self, _: Position) -> Result<Listed, StoreError> {
        let state = self.state.lock();
        let sizes = state.held.iter().map(|(cid, held)| (*cid, held.block.bytes().len() as u64));
        Ok(Listed { blocks: sizes.collect(), next: None })
    }
}
