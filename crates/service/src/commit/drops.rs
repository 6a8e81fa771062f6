//! Drops the rows of deleted buckets, and what this process keeps about them (docs/adr/0035; docs/adr/0067 where
//! masters share the arbiter).

use std::{collections::BTreeMap, time::Duration};

use fula_core::{
    BucketAddress,
    root::{DeletedRow, DropTerms, TimeMs},
};

use tokio::time::Instant;

use super::{Committer, Inner};
use crate::{
    arbiter::Recovery, error::ServiceError, fault_injection::Fault, limits::AUTHORS_KEPT_MS,
};

/// Number of rows that are read, or removed, at a time.
const PAGE: usize = 512;

/// Least time in milliseconds since the deletion before a row is dropped that masters share. The authors of the
/// deleted bucket have left every list by then.
const SHARED_KEPT_MS: TimeMs = AUTHORS_KEPT_MS;

/// Least time between two searches for such rows, unless an operator asks for one.
const SEARCH_EVERY: Duration = Duration::from_hours(1);

/// A collection drops rows once their number reaches that of the live rows divided by this, because a drop
/// writes the live rows again.
const WORTH_PART: u64 = 4;

/// Number of rows that one drop handles, which are in memory until then. If the live rows divided by
/// [`WORTH_PART`] are more, it handles that number, because each drop writes the live rows again.
const DROPPED_AT_ONCE: u64 = 1 << 14;

/// Highest versions for which this process has sent swaps, by bucket. Two roots of one writer must never
/// have the same version: `authors` could not tell them apart, and a base may be older than the writer's
/// own last commit.
#[derive(Debug, Default)]
pub(super) struct Sent {
    by_bucket: BTreeMap<BucketAddress, u64>,
    /// Lower bound for every bucket without a row: at least the version floor of the arbiter, as far as it
    /// is known.
    floor: u64,
}

impl Sent {
    /// Returns a version that the next root of a bucket must exceed, in addition to that of its base.
    pub(super) fn before(&self, bucket: &BucketAddress, has_base: bool) -> u64 {
        let sent = self.by_bucket.get(bucket).copied().unwrap_or(0);
        if has_base { sent } else { sent.max(self.floor) }
    }

    /// Records that a version is sent. Returns the one recorded before.
    pub(super) fn note(&mut self, bucket: &BucketAddress, version: u64) -> Option<u64> {
        self.by_bucket.insert(bucket.clone(), version)
    }

    /// Restores the earlier record, because the last version was certainly not published.
    pub(super) fn restore(&mut self, bucket: &BucketAddress, before: Option<u64>) {
        match before {
            Some(version) => drop(self.by_bucket.insert(bucket.clone(), version)),
            None => self.forget(bucket),
        }
    }

    /// Removes the record of a bucket whose newest root is known.
    pub(super) fn forget(&mut self, bucket: &BucketAddress) {
        self.by_bucket.remove(bucket);
    }

    /// Records the version floor of the arbiter.
    pub(super) fn raise_floor(&mut self, version: u64) {
        self.floor = self.floor.max(version);
    }

    /// Removes the record of a bucket whose row is gone.
    fn forget_dropped(&mut self, bucket: &BucketAddress, version: u64) {
        let sent = self.by_bucket.remove(bucket).unwrap_or(0);
        self.raise_floor(version.max(sent));
    }
}

/// The result of a scan of all rows.
#[derive(Debug, Default)]
struct Found {
    live: u64,
    /// Number of rows that may be dropped.
    deleted: u64,
    /// The first of these rows.
    rows: Vec<DeletedRow>,
}

impl Found {
    /// Returns the number of deleted rows that justifies writing the live rows seen so far again.
    fn worth(&self) -> u64 {
        self.live.div_ceil(WORTH_PART)
    }

    /// Returns the largest number of rows of one drop.
    fn most(&self) -> u64 {
        self.worth().max(DROPPED_AT_ONCE)
    }
}

impl Committer {
    /// Drops the rows of buckets that were deleted longer ago than `retention`, if the arbiter supports
    /// that. Unless `all` is set, it does so only if there are enough of them to justify the work. Returns
    /// the number of dropped rows. A bucket that is being written to is left to the next call.
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`]: some may be gone all the same.
    pub(crate) async fn drop_deleted(
        &self,
        retention: Duration,
        all: bool,
    ) -> Result<u64, ServiceError> {
        let arbiter = self.arbiter();
        // A bucket that an arbiter in doubt reports as deleted may be live.
        if !arbiter.can_drop_rows() || arbiter.guard().alarm().is_some() {
            return Ok(0);
        }
        let mut dropped = 0;
        loop {
            let found = self.0.find_deleted(retention).await?;
            let is_worth_it = all || found.deleted >= found.worth();
            if found.rows.is_empty() || !is_worth_it {
                return Ok(dropped);
            }
            let has_more = found.deleted > found.rows.len() as u64;
            let gone = self.0.drop_rows(found.rows).await?;
            dropped += gone;
            if !has_more || gone == 0 {
                return Ok(dropped);
            }
        }
    }

    /// Drops the rows of buckets that were deleted longer ago than `retention` and than 30 days, where masters
    /// share the arbiter: all of them have learnt the deletions before. Returns the number of dropped rows.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`]: some may be gone all the same.
    pub(crate) async fn drop_deleted_shared(
        &self,
        recovery: &Recovery,
        retention: Duration,
        now: bool,
    ) -> Result<u64, ServiceError> {
        let arbiter = self.arbiter();
        if !arbiter.can_drop_rows() || arbiter.guard().alarm().is_some() {
            return Ok(0);
        }
        let last = self.0.searched.lock().replace(Instant::now());
        if !now && last.is_some_and(|last| last.elapsed() < SEARCH_EVERY) {
            *self.0.searched.lock() = last;
            return Ok(0);
        }
        let least = Duration::from_millis(SHARED_KEPT_MS);
        let found = self.0.find_deleted(retention.max(least)).await?;
        if found.rows.is_empty() {
            return Ok(0);
        }
        let Some(round) = recovery.begin_drop(now).await? else { return Ok(0) };
        let is_careless = self.limits().faults.has(Fault::DroppedUnawares);
        let round = Some(round).filter(|_| !is_careless);
        // The arbiter compares the age once more, by its own clock.
        let terms = DropTerms { age: SHARED_KEPT_MS, round };
        let mut dropped = 0;
        for page in found.rows.chunks(PAGE) {
            recovery.may_drop().await?;
            for row in arbiter.unchecked().drop_roots(page.to_vec(), &terms).await? {
                self.0.sent.lock().raise_floor(row.pointer.version);
                arbiter.forget_head(&row.address);
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Returns the number of buckets in each map in memory that grows with their number.
    #[cfg(feature = "fault-injection")]
    pub fn kept_buckets(&self) -> [usize; 4] {
        let [known, claims] = self.0.arbiter.kept_buckets();
        let (sent, sweeps) = (self.0.sent.lock().by_bucket.len(), self.0.sweeps.lock().len());
        [known, sent, sweeps, claims]
    }
}

impl Inner {
    /// Returns the rows of buckets that were deleted longer ago than `retention`, up to the number of one
    /// drop.
    async fn find_deleted(&self, retention: Duration) -> Result<Found, ServiceError> {
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let before = self.arbiter.now().await?.saturating_sub(retention);
        let (mut found, mut after) = (Found::default(), None);
        loop {
            let page = self.arbiter.scan_buckets(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.address.clone());
            for row in page {
                match row.deleted {
                    None => found.live += 1,
                    Some(deleted) if deleted > before => {}
                    Some(_) => {
                        found.deleted += 1;
                        if found.rows.len() as u64 >= found.most() {
                            continue;
                        }
                        let (address, pointer) = (row.address, row.pointer);
                        found.rows.push(DeletedRow { address, pointer });
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Drops rows, and removes their buckets from memory. Returns the number of dropped rows.
    async fn drop_rows(&self, mut rows: Vec<DeletedRow>) -> Result<u64, ServiceError> {
        // A writer that is deleting the bucket has not learnt yet that it did. A writer that begins later
        // finds the tombstone, and can only create the bucket again.
        rows.retain(|row| !self.queues.lock().contains_key(&row.address));
        let dropped = self.arbiter.drop_rows(rows).await?;
        for some in dropped.chunks(PAGE) {
            let queues = self.queues.lock();
            let (mut sent, mut sweeps) = (self.sent.lock(), self.sweeps.lock());
            for row in some {
                let bucket = &row.address;
                sent.raise_floor(row.pointer.version);
                // A running writer may have sent more versions, and removes the record itself.
                if !queues.contains_key(bucket) {
                    sent.forget_dropped(bucket, row.pointer.version);
                    sweeps.remove(bucket);
                    self.arbiter.forget_head(bucket);
                }
            }
        }
        Ok(dropped.len() as u64)
    }
}
