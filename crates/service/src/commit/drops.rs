//! Dropping the rows of deleted buckets, and what this process keeps of them (docs/adr/0035).

use std::{collections::BTreeMap, time::Duration};

use fula_core::{BucketAddress, root::DeletedRow};

use super::{Committer, Inner};
use crate::error::ServiceError;

/// Rows read, or forgotten, at a time.
const PAGE: usize = 512;

/// A collection drops rows once they are this part of those of live buckets: these are written again.
const WORTH_PART: u64 = 4;

/// Rows that are dropped in one go: so many, or the part of the live ones that is worth it if that is
/// more. They are in memory until then, and the live ones are written again for each time.
const DROPPED_AT_ONCE: u64 = 1 << 14;

/// Highest versions that this process swapped for, by bucket. No two roots of one writer may
/// carry the same one: `authors` could not tell them apart, and a base may be older than the
/// writer's own last commit.
#[derive(Debug, Default)]
pub(super) struct Sent {
    by_bucket: BTreeMap<BucketAddress, u64>,
    /// The same for every bucket without a row; as far as it was heard of, at least the arbiter's.
    floor: u64,
}

impl Sent {
    /// Returns the version that the next root of a bucket must exceed, besides that of its base.
    pub(super) fn before(&self, bucket: &BucketAddress, has_base: bool) -> u64 {
        let sent = self.by_bucket.get(bucket).copied().unwrap_or(0);
        if has_base { sent } else { sent.max(self.floor) }
    }

    /// Notes that a version is sent; returns what was noted before.
    pub(super) fn note(&mut self, bucket: &BucketAddress, version: u64) -> Option<u64> {
        self.by_bucket.insert(bucket.clone(), version)
    }

    /// Notes that what was sent last was certainly not published.
    pub(super) fn restore(&mut self, bucket: &BucketAddress, before: Option<u64>) {
        match before {
            Some(version) => drop(self.by_bucket.insert(bucket.clone(), version)),
            None => self.forget(bucket),
        }
    }

    /// Forgets a bucket whose newest root is known.
    pub(super) fn forget(&mut self, bucket: &BucketAddress) {
        self.by_bucket.remove(bucket);
    }

    /// Notes the version floor of the arbiter.
    pub(super) fn raise_floor(&mut self, version: u64) {
        self.floor = self.floor.max(version);
    }

    /// Forgets a bucket whose row is gone.
    fn forget_dropped(&mut self, bucket: &BucketAddress, version: u64) {
        let sent = self.by_bucket.remove(bucket).unwrap_or(0);
        self.raise_floor(version.max(sent));
    }
}

/// What a look at all rows found.
#[derive(Debug, Default)]
struct Found {
    live: u64,
    /// How many rows may be dropped.
    deleted: u64,
    /// The first of them.
    rows: Vec<DeletedRow>,
}

impl Found {
    /// Returns how many rows are worth that those of the live buckets seen so far are written again.
    fn worth(&self) -> u64 {
        self.live.div_ceil(WORTH_PART)
    }

    /// Returns how many rows are dropped in one go.
    fn most(&self) -> u64 {
        self.worth().max(DROPPED_AT_ONCE)
    }
}

impl Committer {
    /// Drops the rows of buckets that were deleted longer ago than `retention`, where the arbiter can do
    /// that; unless `all` is set, only if they are enough to be worth the work. Returns how many it
    /// dropped. A bucket that somebody writes to just now is left to the next call.
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`]: some may be gone all the same.
    pub(crate) async fn drop_deleted(
        &self,
        retention: Duration,
        all: bool,
    ) -> Result<u64, ServiceError> {
        let arbiter = self.arbiter();
        // What an arbiter in doubt says is deleted may live.
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

    /// Returns how many buckets something is kept of in memory that grows with them.
    #[cfg(feature = "fault-injection")]
    pub fn kept_buckets(&self) -> [usize; 4] {
        let [known, claims] = self.0.arbiter.kept_buckets();
        let (sent, sweeps) = (self.0.sent.lock().by_bucket.len(), self.0.sweeps.lock().len());
        [known, sent, sweeps, claims]
    }
}

impl Inner {
    /// Returns the rows of buckets that were deleted longer ago than `retention`, or as many as are
    /// dropped in one go.
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

    /// Drops rows, and forgets their buckets; returns how many were dropped.
    async fn drop_rows(&self, mut rows: Vec<DeletedRow>) -> Result<u64, ServiceError> {
        // Whoever deletes has not learnt yet that it did. A writer that begins later finds the
        // tombstone, and can only make the bucket again.
        rows.retain(|row| !self.queues.lock().contains_key(&row.address));
        let dropped = self.arbiter.drop_rows(rows).await?;
        for some in dropped.chunks(PAGE) {
            let queues = self.queues.lock();
            let (mut sent, mut sweeps) = (self.sent.lock(), self.sweeps.lock());
            for row in some {
                let bucket = &row.address;
                sent.raise_floor(row.pointer.version);
                // A writer at work may have sent more, and forgets it by itself.
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
