//! Stores that each break one clause. They test the suites, which have to refuse them.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    block::{Block, BlockStore, Epoch, Kept, Listed, Marked, Placement, Position, Swept, SyncMark},
    conformance::hooks::RootHooks,
    error::{StoreError, SwapError},
    id::{BucketAddress, Cid, OwnerId},
    in_memory::{MemoryBlocks, MemoryMetadata, MemoryRoots},
    metadata::{Entry, MetadataStore, Table, WriteOutcome},
    root::{
        CasOutcome, DeletedRow, DropTerms, NewRoot, RootCounts, RootPointer, RootPointerStore,
        RootRow, Stamped,
    },
};

/// The clause that a [`BrokenBlocks`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFault {
    /// A put does not renew the epoch of a block that is already stored.
    NoRenewal,
    /// The mark of a put does not cover blocks that are already stored.
    MarkForgetsPresent,
    /// Blocks of any size are accepted.
    NoLimit,
    /// Marks of a collection are lost.
    MarksForget,
    /// Blocks that writes in flight have put are deleted.
    DeletesUpToTheCut,
}

/// A block store with one fault.
#[derive(Debug)]
pub struct BrokenBlocks {
    inner: MemoryBlocks,
    fault: BlockFault,
}

impl BrokenBlocks {
    /// Returns an empty store with `fault`.
    pub fn new(fault: BlockFault) -> Self {
        Self { inner: MemoryBlocks::default(), fault }
    }
}

#[async_trait]
impl BlockStore for BrokenBlocks {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        let mut mark = SyncMark::default();
        for block in blocks {
            let present = self.inner.size(&block.cid()).await?.is_some();
            if present && self.fault == BlockFault::NoRenewal {
                continue;
            }
            match self.inner.put(std::slice::from_ref(block), placement).await {
                Err(StoreError::TooLarge { .. }) if self.fault == BlockFault::NoLimit => {}
                Err(error) => return Err(error),
                Ok(_) if present && self.fault == BlockFault::MarkForgetsPresent => {}
                Ok(more) => mark = mark.and(more),
            }
        }
        Ok(mark)
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        self.inner.sync(mark).await
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.inner.get(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.inner.size(cid).await
    }

    fn advance_epoch(&self) -> Epoch {
        self.inner.advance_epoch()
    }

    fn mark(&self, cids: &[Cid], cut: Epoch, kept: Kept) -> Marked {
        if self.fault == BlockFault::MarksForget {
            return Marked { fresh: cids.to_vec(), bytes: 0 };
        }
        self.inner.mark(cids, cut, kept)
    }

    async fn sweep(
        &self,
        from: Position,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        let put_before = if self.fault == BlockFault::DeletesUpToTheCut { cut } else { put_before };
        self.inner.sweep(from, cut, put_before).await
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.inner.list(from).await
    }
}

/// The clause that a [`BrokenRoots`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootFault {
    /// Every swap wins, whatever pointer it expects.
    IgnoresExpected,
    /// A swap compares only the root.
    IgnoresVersion,
    /// A conflict reports the pointer that was expected as the current one.
    ReportsExpected,
    /// A required global name is granted to several owners.
    SharesNames,
    /// Deleted buckets are counted.
    CountsDeleted,
    /// Global names that are held by other owners are counted.
    CountsClaims,
    /// A dropped row leaves no version floor.
    ForgetsFloor,
    /// A row is dropped although it was swapped in the meantime.
    DropsWhatWasSwapped,
    /// Rows of live buckets are dropped too.
    DropsTheLiving,
    /// A row is dropped although its bucket was deleted a moment ago.
    DropsTheYoung,
    /// A generation is not raised in the rows.
    RaisesNothing,
    /// A first row may be below the generation.
    CreatesBelow,
    /// A lease that a swap relies on is not compared.
    IgnoresLease,
}

/// An arbiter with one fault.
#[derive(Debug)]
pub struct BrokenRoots {
    inner: MemoryRoots,
    fault: RootFault,
    /// Rows that this store hides although the inner store has them.
    gone: Mutex<BTreeSet<BucketAddress>>,
}

impl BrokenRoots {
    /// Returns an empty arbiter with `fault`.
    pub fn new(fault: RootFault) -> Self {
        Self { inner: MemoryRoots::default(), fault, gone: Mutex::default() }
    }

    async fn row(&self, bucket: &BucketAddress) -> Result<Option<RootRow>, StoreError> {
        Ok(self.get(std::slice::from_ref(bucket)).await?.value.pop().flatten())
    }
}

#[async_trait]
impl RootHooks for BrokenRoots {
    fn inner(&self) -> &MemoryRoots {
        &self.inner
    }

    async fn get(
        &self,
        buckets: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        let mut found = self.inner.get_roots(buckets).await?;
        for (bucket, row) in buckets.iter().zip(&mut found.value) {
            row.take_if(|_| self.gone.lock().contains(bucket));
        }
        Ok(found)
    }

    async fn drop_rows(
        &self,
        mut rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        let mut kept = Vec::new();
        for row in &rows {
            let Some(found) = self.row(&row.address).await? else { continue };
            let is_same = found.pointer == row.pointer;
            let is_wrong = match self.fault {
                RootFault::DropsWhatWasSwapped => !is_same,
                RootFault::DropsTheLiving => is_same && found.deleted.is_none(),
                RootFault::DropsTheYoung => is_same && found.deleted.is_some(),
                _ => false,
            };
            if is_wrong {
                self.gone.lock().insert(row.address.clone());
                kept.push(row.clone());
            }
        }
        rows.retain(|row| !kept.contains(row));
        let dropped = self.inner.drop_roots(rows, terms).await?;
        Ok(dropped.into_iter().chain(kept).collect())
    }

    async fn swap(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        let row = self.row(bucket).await.map_err(SwapError::NotSent)?;
        let current = row.map(|row| row.pointer);
        let mut new = new.clone();
        if self.fault == RootFault::IgnoresLease {
            new.lease = None;
        }
        let believed = match (self.fault, current, expected) {
            (RootFault::IgnoresExpected, ..) => current,
            (RootFault::IgnoresVersion, Some(current), Some(expected))
                if current.root == expected.root =>
            {
                Some(current)
            }
            _ => expected,
        };
        if let Some(current) = believed {
            new.pointer.version = new.pointer.version.max(current.version + 1);
        }
        let mut stamped = self.inner.cas_root(bucket, believed, &new).await?;
        match (self.fault, &mut stamped.value) {
            (RootFault::ReportsExpected, CasOutcome::Conflict { current: Some(current) }) => {
                if let Some(expected) = expected {
                    current.pointer = expected;
                }
            }
            (RootFault::SharesNames, outcome @ CasOutcome::NameTaken)
            | (RootFault::ForgetsFloor, outcome @ CasOutcome::BelowFloor { .. })
            | (RootFault::CreatesBelow, outcome @ CasOutcome::BelowGeneration) => {
                *outcome = CasOutcome::Won;
            }
            _ => {}
        }
        Ok(stamped)
    }

    async fn raise(&self, generation: u64) -> Result<Stamped<()>, StoreError> {
        let generation = if self.fault == RootFault::RaisesNothing { 0 } else { generation };
        self.inner.raise_generation(generation).await
    }

    async fn count(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError> {
        let mut stamped = self.inner.count_roots(owner).await?;
        let rows = self.inner.list_roots(owner, None, usize::MAX).await?.value;
        match self.fault {
            RootFault::CountsDeleted => stamped.value.buckets = rows.len() as u64,
            RootFault::CountsClaims => stamped.value.global_names = stamped.value.buckets,
            _ => {}
        }
        Ok(stamped)
    }
}

/// The clause that a [`BrokenMetadata`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataFault {
    /// Every write wins, whatever version it expects.
    IgnoresExpected,
    /// A deleted record is treated like one that was never written.
    ForgetsDeleted,
}

/// A metadata store with one fault.
#[derive(Debug)]
pub struct BrokenMetadata {
    inner: MemoryMetadata,
    fault: MetadataFault,
}

impl BrokenMetadata {
    /// Returns an empty metadata store with `fault`.
    pub fn new(fault: MetadataFault) -> Self {
        Self { inner: MemoryMetadata::default(), fault }
    }
}

#[async_trait]
impl MetadataStore for BrokenMetadata {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        let entry = self.inner.read(table, name).await?;
        let forgets = self.fault == MetadataFault::ForgetsDeleted;
        Ok(entry.filter(|entry| !forgets || entry.value.is_some()))
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let current = self.inner.read(table, name).await?.map_or(0, |entry| entry.version);
        let believed = match self.fault {
            MetadataFault::IgnoresExpected => current,
            MetadataFault::ForgetsDeleted => expected,
        };
        self.inner.write(table, name, believed, value).await
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        self.inner.list(table, after, limit).await
    }
}
