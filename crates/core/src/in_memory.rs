//! Reference implementations of the storage traits in memory, for tests and simulation.
//!
//! A test can drop all blocks that were put but not synced, as a power cut would.

mod blocks;
mod drops;
mod metadata;
mod packs;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;

pub use self::{
    blocks::MemoryBlocks,
    metadata::{MemoryMetadata, Records},
    packs::{MemoryPacks, check_index},
};
use crate::{
    error::{StoreError, SwapError},
    id::{BucketAddress, BucketName, OwnerId},
    metadata::Table,
    root::{
        CasOutcome, DeletedRow, DropTerms, GlobalName, LeaseId, Mark, NewRoot, RootCounts,
        RootPointer, RootPointerStore, RootRow, Stamped, TimeMs,
    },
};

/// The rows of all buckets, and the rules of a swap. Every in-process arbiter is built on it.
#[derive(Clone, Debug, Default)]
pub struct RowSet {
    rows: BTreeMap<BucketAddress, RootRow>,
    global: BTreeMap<BucketName, OwnerId>,
    /// Counts of each owner that has buckets.
    counts: BTreeMap<OwnerId, RootCounts>,
    /// Number of rows of deleted buckets.
    deleted: usize,
    /// Version floor: the version of a name without a row begins above it.
    floor: u64,
    /// Generation below which no first row may be.
    generation: u64,
}

/// The decision about a swap.
#[derive(Debug)]
pub enum SwapDecision {
    /// The swap writes this row.
    Write(RootRow),
    /// The swap is not applied; this is its outcome.
    Refuse(CasOutcome),
}

impl RowSet {
    /// Decides about a swap without applying it.
    pub fn judge(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> SwapDecision {
        let current = self.get(bucket);
        if current.map(|row| row.pointer) != expected {
            return SwapDecision::Refuse(CasOutcome::Conflict { current: current.cloned() });
        }
        if expected.is_none() && new.pointer.version <= self.floor {
            return SwapDecision::Refuse(CasOutcome::BelowFloor { floor: self.floor });
        }
        if expected.is_none() && new.pointer.generation < self.generation {
            return SwapDecision::Refuse(CasOutcome::BelowGeneration);
        }
        let owner = bucket.owner;
        let holder = self.global.get(&bucket.name);
        let global_name = match (new.global_name, holder) {
            (GlobalName::Require, Some(other)) if *other != owner => {
                return SwapDecision::Refuse(CasOutcome::NameTaken);
            }
            (GlobalName::Release, _) => false,
            (GlobalName::Keep, holder) => holder == Some(&owner),
            (GlobalName::ClaimIfFree | GlobalName::Require, holder) => {
                holder.is_none_or(|holder| *holder == owner)
            }
        };
        SwapDecision::Write(RootRow {
            address: bucket.clone(),
            pointer: new.pointer,
            bucket_id: new.bucket_id,
            created: new.created,
            deleted: new.deleted,
            global_name,
            claim: None,
        })
    }

    /// Returns the highest generation that was begun, or that any row has had.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Begins a generation: no first row may be below it. Returns the rows that are.
    pub fn begin_generation(&mut self, generation: u64) -> Vec<BucketAddress> {
        self.generation = self.generation.max(generation);
        let is_below = |row: &&RootRow| row.pointer.generation < generation;
        self.rows.values().filter(is_below).map(|row| row.address.clone()).collect()
    }

    /// Returns a row with a higher generation, unless it has that already.
    pub fn raised(&self, bucket: &BucketAddress, generation: u64) -> Option<RootRow> {
        let row = self.get(bucket).filter(|row| row.pointer.generation < generation)?;
        let pointer = RootPointer { generation, ..row.pointer };
        Some(RootRow { pointer, ..row.clone() })
    }

    /// Writes a row that [`Self::judge`] allowed, or one that was read back from disk.
    pub fn apply(&mut self, row: RootRow) {
        self.generation = self.generation.max(row.pointer.generation);
        if row.global_name {
            self.global.insert(row.address.name.clone(), row.address.owner);
        } else if self.global.get(&row.address.name) == Some(&row.address.owner) {
            self.global.remove(&row.address.name);
        }
        let (owner, added) = (row.address.owner, counts_of(&row));
        self.deleted += usize::from(row.deleted.is_some());
        let replaced = self.rows.insert(row.address.clone(), row);
        self.deleted -= usize::from(replaced.as_ref().is_some_and(|old| old.deleted.is_some()));
        let removed = replaced.as_ref().map(counts_of).unwrap_or_default();
        let counts = self.counts.entry(owner).or_default();
        counts.buckets = counts.buckets + added.buckets - removed.buckets;
        counts.global_names = counts.global_names + added.global_names - removed.global_names;
        if *counts == RootCounts::default() {
            self.counts.remove(&owner);
        }
    }

    /// Returns how many live rows an owner has, and how many of them hold their global name.
    pub fn count(&self, owner: OwnerId) -> RootCounts {
        self.counts.get(&owner).copied().unwrap_or_default()
    }

    /// Returns one row.
    pub fn get(&self, bucket: &BucketAddress) -> Option<&RootRow> {
        self.rows.get(bucket)
    }

    /// Returns up to `limit` rows of one owner whose name is after `after`.
    pub fn list(&self, owner: OwnerId, after: Option<&BucketName>, limit: usize) -> Vec<RootRow> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) => Excluded(BucketAddress::new(owner, after.clone())),
            None => Included(BucketAddress::new(owner, BucketName::first())),
        };
        let rows = self.rows.range((from, Unbounded));
        let mine = rows.take_while(|(address, _)| address.owner == owner);
        mine.take(limit).map(|(_, row)| row.clone()).collect()
    }

    /// Returns up to `limit` rows of all owners whose address is after `after`.
    pub fn scan(&self, after: Option<&BucketAddress>, limit: usize) -> Vec<RootRow> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.cloned().map_or(Unbounded, Excluded);
        self.rows.range((from, Unbounded)).take(limit).map(|(_, row)| row.clone()).collect()
    }

    /// Returns the row that holds a global name.
    pub fn find(&self, bucket: &BucketName) -> Option<&RootRow> {
        self.get(&BucketAddress::new(*self.global.get(bucket)?, bucket.clone()))
    }
}

/// Returns what one row adds to the counts of its owner.
fn counts_of(row: &RootRow) -> RootCounts {
    let is_live = row.deleted.is_none();
    RootCounts { buckets: u64::from(is_live), global_names: u64::from(is_live && row.global_name) }
}

#[derive(Debug, Default)]
struct RootsState {
    rows: RowSet,
    time: TimeMs,
    position: u64,
    /// Number of times that it was restored; a part of its mark.
    timeline: u64,
}

/// An earlier state of [`MemoryRoots`].
#[derive(Clone, Debug)]
pub struct MemoryBackup {
    rows: RowSet,
    position: u64,
}

/// An arbiter in memory, whose clock the test sets.
#[derive(Debug, Default)]
pub struct MemoryRoots {
    state: Mutex<RootsState>,
    /// The records of masters, which have their leases.
    masters: Option<Arc<MemoryMetadata>>,
}

impl MemoryRoots {
    /// Returns an arbiter whose masters have their leases in `masters`.
    pub fn with_leases(masters: Arc<MemoryMetadata>) -> Self {
        Self { masters: Some(masters), ..Self::default() }
    }

    fn has_lease(&self, lease: &LeaseId) -> bool {
        let record =
            self.masters.as_ref().and_then(|masters| masters.value(Table::Masters, &lease.master));
        record.is_some_and(|record| lease.is_in(&record))
    }

    /// Returns whether every other master has the round, and the bucket is not forked.
    fn is_agreed(&self, bucket: &BucketAddress, terms: &DropTerms) -> bool {
        let Some(round) = &terms.round else { return true };
        let Some(masters) = &self.masters else { return false };
        let others = masters.backup().list(Table::Masters, None, usize::MAX);
        let has_round =
            |value: Option<bytes::Bytes>| value.is_some_and(|value| round.is_in(&value));
        let is_forked = masters.value(Table::Recovery, &format!("fork/{bucket}")).is_some();
        !is_forked
            && others
                .into_iter()
                .all(|(name, entry)| name == round.master || has_round(entry.value))
    }

    /// Returns the current state, for [`Self::restore`].
    pub fn backup(&self) -> MemoryBackup {
        let state = self.state.lock();
        MemoryBackup { rows: state.rows.clone(), position: state.position }
    }

    /// Goes back to an earlier state, as an arbiter does when it is restored from a backup.
    pub fn restore(&self, backup: MemoryBackup) {
        let mut state = self.state.lock();
        (state.rows, state.position) = (backup.rows, backup.position);
        state.timeline += 1;
    }

    /// Goes back to an earlier state in silence: the mark continues as if nothing had happened.
    pub fn restore_quietly(&self, backup: MemoryBackup) {
        let mut state = self.state.lock();
        state.rows = backup.rows;
        state.position += 1;
    }

    /// Forgets the version floor, as an arbiter would that does not raise it.
    pub fn forget_floor(&self) {
        self.state.lock().rows.forget_floor();
    }

    /// Sets the arbiter's clock.
    pub fn set_time(&self, time: TimeMs) {
        self.state.lock().time = time;
    }

    fn stamp<T>(&self, answer: impl FnOnce(&mut RootsState) -> T) -> Stamped<T> {
        let mut state = self.state.lock();
        let value = answer(&mut state);
        let arbiter = format!("memory/{}", state.timeline);
        let mark = Mark { arbiter, position: state.position };
        Stamped { value, time: state.time, mark }
    }
}

#[async_trait]
impl RootPointerStore for MemoryRoots {
    async fn get_roots(
        &self,
        names: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        let rows = |state: &mut RootsState| {
            names.iter().map(|bucket| state.rows.get(bucket).cloned()).collect()
        };
        Ok(self.stamp(rows))
    }

    async fn cas_root(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        assert!(new.pointer.version > expected.map_or(0, |old| old.version), "version must rise");
        Ok(self.stamp(|state| match state.rows.judge(bucket, expected, new) {
            SwapDecision::Write(_)
                if new.lease.as_ref().is_some_and(|lease| !self.has_lease(lease)) =>
            {
                CasOutcome::LeaseBroken
            }
            SwapDecision::Write(row) => {
                state.rows.apply(row);
                state.position += 1;
                CasOutcome::Won
            }
            SwapDecision::Refuse(outcome) => outcome,
        }))
    }

    async fn generation(&self) -> Result<Stamped<u64>, StoreError> {
        Ok(self.stamp(|state| state.rows.generation()))
    }

    async fn raise_generation(&self, generation: u64) -> Result<Stamped<()>, StoreError> {
        Ok(self.stamp(|state| {
            for bucket in state.rows.begin_generation(generation) {
                if let Some(row) = state.rows.raised(&bucket, generation) {
                    state.rows.apply(row);
                }
            }
            state.position += 1;
        }))
    }

    fn can_drop_roots(&self) -> bool {
        true
    }

    async fn drop_roots(
        &self,
        mut rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        let mut state = self.state.lock();
        let now = state.time;
        rows.retain(|row| {
            self.is_agreed(&row.address, terms) && state.rows.drop_row(row, terms, now)
        });
        state.position += u64::from(!rows.is_empty());
        Ok(rows)
    }

    async fn version_floor(&self) -> Result<Stamped<u64>, StoreError> {
        Ok(self.stamp(|state| state.rows.floor()))
    }

    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        Ok(self.stamp(|state| state.rows.list(owner, after, limit)))
    }

    async fn scan_roots(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        Ok(self.stamp(|state| state.rows.scan(after, limit)))
    }

    async fn count_roots(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError> {
        Ok(self.stamp(|state| state.rows.count(owner)))
    }

    async fn find_bucket(
        &self,
        bucket: &BucketName,
    ) -> Result<Stamped<Option<RootRow>>, StoreError> {
        Ok(self.stamp(|state| state.rows.find(bucket).cloned()))
    }
}
