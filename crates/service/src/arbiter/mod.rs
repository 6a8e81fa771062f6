//! The arbiter as this master uses it.
//!
//! [`Arbiter`] is the only way to the root pointers. It compares each answer with what this master knows
//! ([`RollbackGuard`], docs/adr/0008) before returning it, and extrapolates the arbiter's clock from it.
//! [`recovery`] brings the masters back from an arbiter that went back in time.

mod adopt;
mod clock;
mod collection;
pub(crate) mod head;
mod heads;
mod merge;
mod priority;
mod reader;
mod recovery;
mod restore;
mod rollback;
mod swap;
mod watches;

use std::sync::Arc;

use fula_core::{
    BucketAddress, BucketName, OwnerId, RootPointerStore, StoreError, WriterId,
    root::{DeletedRow, DropTerms, RootCounts, RootRow, Stamped, TimeMs},
    tree::Nodes,
};
use quick_cache::sync::Cache;

pub(crate) use self::{
    adopt::Adopted,
    collection::Begun,
    recovery::Forks,
    swap::{SwapAnswer, Unverified},
};
use self::{
    clock::ArbiterClock, priority::PriorityClaims, reader::PointerReader, watches::Watches,
};
pub use self::{
    head::Head,
    merge::Merged,
    recovery::{Forgotten, Master, MasterInfo, Recovery, RecoveryClaim, Status},
    rollback::{Alarm, KnownState, RollbackGuard},
};
use crate::{
    error::ServiceError, fault_injection::FaultInjection, limits::Limits, pins::PinRegistry,
};

/// The arbiter as one master uses it. Clones share one state.
#[derive(Clone, Debug)]
pub struct Arbiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    roots: Arc<dyn RootPointerStore>,
    reader: PointerReader,
    guard: Arc<RollbackGuard>,
    nodes: Arc<Nodes>,
    /// The pins that the collector respects.
    pins: Arc<PinRegistry>,
    writer: WriterId,
    clock: Arc<ArbiterClock>,
    /// Newest known head of each bucket. The version of an entry only rises.
    heads: Cache<BucketAddress, Arc<Head>>,
    claims: PriorityClaims,
    watches: Watches,
    /// Whether a bucket may be read in its last known state while the arbiter is away.
    stale_reads: bool,
    faults: FaultInjection,
}

impl Arbiter {
    /// Uses `roots` as `writer`, an id that no other process has. `guard` remembers how far the arbiter had
    /// come, and roots are read through `nodes`.
    pub fn new(
        nodes: Arc<Nodes>,
        roots: Arc<dyn RootPointerStore>,
        writer: WriterId,
        limits: &Limits,
        guard: RollbackGuard,
    ) -> Self {
        let (guard, clock) = (Arc::new(guard), Arc::new(ArbiterClock::default()));
        let reader = PointerReader::new(Arc::clone(&roots), Arc::clone(&guard), Arc::clone(&clock));
        Self(Arc::new(Inner {
            roots,
            reader,
            guard,
            nodes,
            pins: Arc::default(),
            writer,
            clock,
            heads: Cache::new(limits.heads_max),
            claims: PriorityClaims::default(),
            watches: Watches::default(),
            stale_reads: limits.stale_reads,
            faults: limits.faults,
        }))
    }

    /// Returns the root pointers themselves, for checks and repair. Their answers are not compared with
    /// what this master knows, and swaps bypass it.
    pub fn unchecked(&self) -> &Arc<dyn RootPointerStore> {
        &self.0.roots
    }

    /// Returns the rollback guard: what this master remembers of the arbiter.
    pub fn guard(&self) -> &RollbackGuard {
        &self.0.guard
    }

    /// Returns the tree nodes, with the block store that they are read from.
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.0.nodes
    }

    /// Returns the registry of pins.
    pub(crate) fn pins(&self) -> &Arc<PinRegistry> {
        &self.0.pins
    }

    /// Returns the writer id under which this master commits.
    pub fn writer(&self) -> WriterId {
        self.0.writer
    }

    /// Learns a generation, where masters share blocks: what is put from now on is under it.
    pub(crate) fn observe_generation(&self, generation: u64) {
        let blocks = self.nodes().blocks();
        if blocks.generation().is_some() {
            blocks.observe_generation(generation);
            self.pins().observe_generation(generation);
        }
    }

    /// Returns the highest generation that this master knows; 0 where masters do not share blocks.
    pub(crate) fn generation(&self) -> u64 {
        self.nodes().blocks().generation().unwrap_or_default()
    }

    /// Asks the arbiter for the generation, learns it and returns it.
    ///
    /// # Errors
    /// The errors of [`Self::find_bucket`].
    pub(crate) async fn learn_generation(&self) -> Result<u64, ServiceError> {
        let generation = self.checked(self.0.roots.generation()).await?;
        self.observe_generation(generation);
        Ok(generation)
    }

    /// Begins a new generation in the arbiter. Swaps that began under an earlier one are refused from now on.
    /// Returns it, and a time before the first row had it: content that was read from a row of this generation
    /// was current at that time or later.
    ///
    /// # Errors
    /// The errors of [`Self::find_bucket`]; some rows may be raised all the same.
    pub(crate) async fn raise_generation(&self) -> Result<(u64, TimeMs), ServiceError> {
        let before = self.now().await?;
        let known = self.checked(self.0.roots.generation()).await?;
        let generation = known.max(self.generation()) + 1;
        self.checked(self.0.roots.raise_generation(generation)).await?;
        self.observe_generation(generation);
        Ok((generation, before))
    }

    /// Returns the row that holds a global name.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]; [`ServiceError::Regressed`] while the arbiter is in doubt.
    pub(crate) async fn find_bucket(
        &self,
        name: &BucketName,
    ) -> Result<Option<RootRow>, ServiceError> {
        self.checked(self.0.roots.find_bucket(name)).await
    }

    /// Returns rows of one owner after a name.
    ///
    /// # Errors
    /// The errors of [`Self::find_bucket`].
    pub(crate) async fn list_buckets(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Vec<RootRow>, ServiceError> {
        self.checked(self.0.roots.list_roots(owner, after, limit)).await
    }

    /// Returns rows of all owners after a bucket.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]; [`ServiceError::Regressed`] while the arbiter is in doubt.
    pub async fn scan_buckets(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Vec<RootRow>, ServiceError> {
        self.checked(self.0.roots.scan_roots(after, limit)).await
    }

    /// Returns the number of buckets and global names of an owner.
    ///
    /// # Errors
    /// The errors of [`Self::find_bucket`].
    pub(crate) async fn count_buckets(&self, owner: OwnerId) -> Result<RootCounts, ServiceError> {
        self.checked(self.0.roots.count_roots(owner)).await
    }

    /// Returns the row of a bucket from the arbiter.
    ///
    /// # Errors
    /// The errors of [`Self::find_bucket`].
    pub(crate) async fn bucket_row(
        &self,
        bucket: &BucketAddress,
    ) -> Result<Option<RootRow>, ServiceError> {
        let rows = self.checked(self.0.roots.get_roots(std::slice::from_ref(bucket))).await?;
        Ok(rows.into_iter().next().flatten())
    }

    /// Returns whether the arbiter can drop rows of deleted buckets.
    pub(crate) fn can_drop_rows(&self) -> bool {
        self.0.roots.can_drop_roots()
    }

    /// Drops rows of deleted buckets of an arbiter that no other master uses, and removes them from the guard.
    /// Returns the dropped ones. Their heads stay cached until [`Self::forget_head`].
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`]: some rows may be dropped all the same.
    pub(crate) async fn drop_rows(
        &self,
        rows: Vec<DeletedRow>,
    ) -> Result<Vec<DeletedRow>, ServiceError> {
        let _under_way = self.0.guard.begin_drop(&rows);
        Ok(self.0.roots.drop_roots(rows.clone(), &DropTerms::default()).await?)
    }

    /// Checks how far the arbiter has come.
    ///
    /// # Errors
    /// The errors of [`Self::find_bucket`].
    pub(crate) async fn check(&self) -> Result<(), ServiceError> {
        self.checked(self.0.roots.get_roots(&[])).await.map(drop)
    }

    /// Runs a read that is not about a particular bucket, and checks its mark.
    async fn checked<T>(
        &self,
        asked: impl Future<Output = Result<Stamped<T>, StoreError>>,
    ) -> Result<T, ServiceError> {
        let floor = self.0.guard.floor();
        let stamped = asked.await?;
        self.0.guard.check_answer(&floor, &stamped.mark)?;
        Ok(stamped.value)
    }

    /// Returns the number of buckets that the guard knows, and of priority claims that are kept.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn kept_buckets(&self) -> [usize; 2] {
        [self.0.guard.known_count(), self.0.claims.len()]
    }
}
