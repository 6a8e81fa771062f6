//! Blocks on their way into a storage node.

use std::{collections::HashSet, sync::Arc};

use fula_core::{
    Block, Cid, OwnerId, StoreError,
    block::{Placement, SyncMark},
};

use crate::{
    faults::Fault,
    holds::{BATCH_BLOCKS_MAX, Batch},
    node::{NodeError, StorageNode, Stored},
    receipt::SizedCid,
};

impl StorageNode {
    /// Begins to store blocks of an owner.
    pub fn intake(&self, owner: OwnerId) -> Intake {
        Intake::new(self.clone(), owner)
    }

    /// Stores blocks that the owner has sent in full, and returns the receipt for them.
    ///
    /// # Errors
    /// The errors of [`Intake::add`] and [`Intake::finish`].
    pub async fn put(&self, owner: OwnerId, blocks: &[Block]) -> Result<Stored, NodeError> {
        let mut intake = self.intake(owner);
        intake.add(blocks.to_vec()).await?;
        intake.finish().await
    }
}

/// Blocks that are being put.
#[derive(Debug)]
pub struct Put(Vec<SizedCid>);

/// Blocks of one owner on their way in. What was added is kept from the collector until this is dropped.
#[derive(Debug)]
pub struct Intake {
    node: StorageNode,
    owner: OwnerId,
    sized: Vec<SizedCid>,
    seen: HashSet<Cid>,
    mark: SyncMark,
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.node.holds().expect_no_more(self.seen.drain());
    }
}

impl Intake {
    pub(crate) fn new(node: StorageNode, owner: OwnerId) -> Self {
        let (sized, mark) = (Vec::new(), SyncMark::default());
        Self { node, owner, sized, seen: HashSet::new(), mark }
    }

    /// Returns the blocks that were put, each once, with lengths in bytes.
    pub fn blocks(&self) -> &[SizedCid] {
        &self.sized
    }

    /// Returns the number of blocks that were put or are being put.
    pub fn count(&self) -> usize {
        self.seen.len()
    }

    /// Puts blocks. They are not durable yet. The caller has reserved their bytes.
    ///
    /// # Errors
    /// [`NodeError::TooMany`], [`NodeError::Store`]. Blocks that were added before are not affected.
    pub async fn add(&mut self, blocks: Vec<Block>) -> Result<(), NodeError> {
        let (put, writing) = self.start(blocks)?;
        self.note(put, writing.await?);
        Ok(())
    }

    /// Begins to put blocks. The future writes them; call [`Self::note`] with its result, in the order of these
    /// calls. So the next blocks can be received meanwhile.
    ///
    /// # Errors
    /// [`NodeError::TooMany`].
    pub fn start(
        &mut self,
        blocks: Vec<Block>,
    ) -> Result<(Put, impl Future<Output = Result<SyncMark, StoreError>> + Send + use<>), NodeError>
    {
        let mut new = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let size = u32::try_from(block.bytes().len()).unwrap_or(u32::MAX);
            if self.seen.len() == BATCH_BLOCKS_MAX && !self.seen.contains(&block.cid()) {
                return Err(NodeError::TooMany);
            }
            if self.seen.insert(block.cid()) {
                self.node.holds().expect([block.cid()]);
                new.push((block.cid(), size));
            }
        }
        let store = Arc::clone(self.node.blocks());
        Ok((Put(new), async move { store.put(&blocks, Placement::Commit).await }))
    }

    /// Records that blocks were put.
    pub fn note(&mut self, put: Put, mark: SyncMark) {
        self.mark = self.mark.and(mark);
        self.sized.extend(put.0);
    }

    /// Makes the blocks and their hold durable, and returns the receipt.
    ///
    /// # Errors
    /// [`NodeError::Store`]. No receipt is given then.
    pub async fn finish(mut self) -> Result<Stored, NodeError> {
        let (node, owner) = (self.node.clone(), self.owner);
        let sized = std::mem::take(&mut self.sized);
        let until = node.now().saturating_add(node.limits().lease_ms);
        let batch = Batch { owner, until, is_pinned: false, blocks: sized.clone() };
        if node.limits().faults.has(Fault::AnswerBeforeFsync) {
            let slot = node.holds().take_slot();
            node.holds().add(slot, batch);
            return Ok(node.receipt(owner, sized, until));
        }
        // The record is appended behind the blocks, in the same stream of the log, so one fsync covers both.
        let until = node.begin(batch, self.mark).await?;
        Ok(node.receipt(owner, sized, until))
    }
}
