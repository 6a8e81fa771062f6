//! The embedded arbiter and the embedded metadata store.

use std::{collections::BTreeMap, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    BucketAddress, BucketName, MetadataStore, OwnerId, RootPointer, RootPointerStore, StoreError,
    block::SyncMark,
    error::SwapError,
    in_memory::{Records, RowSet, SwapDecision},
    metadata::{Entry, Table, WriteOutcome},
    root::{
        CasOutcome, DeletedRow, DropTerms, Mark, NewRoot, RootCounts, RootRow, Stamped, TimeMs,
    },
};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::time::timeout;

use super::{
    Clock, Stripes,
    rows::{Floor, RootsState, write_entry, write_floor, write_row},
    unavailable,
};
use crate::log::{HUNG, Kind, Log, Need, Record, StreamName, blocking};

/// Number of rows that get a new generation with one write.
const RAISED_AT_ONCE: usize = 256;

/// The embedded arbiter: root pointers in the log of a data directory.
pub struct LocalRoots {
    pub(super) log: Arc<Log>,
    pub(super) state: RwLock<RootsState>,
    /// Locks by bucket name alone, because owners compete for the global name.
    pub(super) stripes: Stripes,
    /// Held while rows are dropped, so that only one drop runs at a time.
    pub(super) dropping: tokio::sync::Mutex<()>,
    pub(super) last_time: Mutex<TimeMs>,
    pub(super) clock: Clock,
}

impl std::fmt::Debug for LocalRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalRoots").field("log", &self.log).finish_non_exhaustive()
    }
}

/// Returns the key of a bucket's record.
fn key_of(bucket: &BucketAddress) -> Vec<u8> {
    [&bucket.owner.0, bucket.name.as_str().as_bytes()].concat()
}

impl LocalRoots {
    /// Returns the number of rows of live buckets, and of deleted ones.
    pub fn counts(&self) -> (usize, usize) {
        self.state.read().rows.counts()
    }

    /// Returns the version floor: the version of a name without a row begins above it.
    pub fn floor(&self) -> u64 {
        self.state.read().rows.floor()
    }

    /// Makes rows void on disk, and returns those that were made void. Nothing changes about the others.
    async fn void(
        &self,
        mut rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        // The order matters. A swap that appended before this place has ended when the rows are examined,
        // and any later one appends behind the place.
        let void_before = self.log.end_of_stream(StreamName::Commit);
        self.stripes.ended().await;
        let now = (self.clock)();
        let floor = {
            let mut state = self.state.write();
            rows.retain(|row| state.rows.is_droppable(row, terms, now));
            let Some(highest) = rows.iter().map(|row| row.pointer.version).max() else {
                return Ok(rows);
            };
            state.position += 1;
            let version = highest.max(state.rows.floor());
            Floor { position: state.position, version, void_before }
        };
        let keys = rows.iter().map(|row| key_of(&row.address)).collect();
        let (log, value) = (Arc::clone(&self.log), write_floor(&floor));
        let voided = blocking(move || log.void_roots(void_before, keys, &value)).await;
        let voided = voided.map_err(|error| unavailable("drop", error))?;
        // The floor rises before the first row is removed: a writer that finds no row must begin above it.
        self.state.write().rows.raise_floor(floor.version);
        rows.retain(|row| voided.contains(&key_of(&row.address)));
        Ok(rows)
    }

    fn stamp<T>(&self, answer: impl FnOnce(&RowSet) -> T) -> Stamped<T> {
        let (value, position) = {
            let state = self.state.read();
            (answer(&state.rows), state.position)
        };
        let mut last: MutexGuard<'_, TimeMs> = self.last_time.lock();
        *last = (*last).max((self.clock)());
        let mark = Mark { arbiter: "embedded".to_owned(), position };
        Stamped { value, time: *last, mark }
    }

    /// Makes a row durable. The error tells whether the row may be there all the same.
    pub(super) async fn persist(&self, row: &RootRow) -> Result<(), SwapError> {
        self.persist_all(std::slice::from_ref(row)).await
    }

    async fn persist_all(&self, rows: &[RootRow]) -> Result<(), SwapError> {
        let failed = |error| unavailable("swap", error);
        let position = {
            let mut state = self.state.write();
            state.position += rows.len() as u64;
            state.position - rows.len() as u64
        };
        let numbered = rows.iter().zip(position + 1..);
        let encoded: Vec<_> = numbered
            .map(|(row, position)| (key_of(&row.address), write_row(position, row)))
            .collect();
        let append = move |log: &Log, patience| {
            let records: Vec<_> = encoded
                .iter()
                .map(|(key, value)| Record { kind: Kind::Root, key, value })
                .collect();
            log.append_within(StreamName::Commit, &records, Need::Removal, patience)
        };
        let position = self.log.quickly(append).await.map_err(|error| {
            // A write that failed and was cut off again is certainly not there.
            let unknown = self.log.is_poisoned(StreamName::Commit);
            if unknown {
                SwapError::Unknown(failed(error))
            } else {
                SwapError::NotSent(failed(error))
            }
        })?;
        let synced = self.log.sync(StreamName::Commit, position).await;
        synced.map_err(|error| SwapError::Unknown(failed(error)))
    }
}

#[async_trait]
impl RootPointerStore for LocalRoots {
    async fn get_roots(
        &self,
        names: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        Ok(self.stamp(|rows| names.iter().map(|bucket| rows.get(bucket).cloned()).collect()))
    }

    async fn cas_root(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        let _turn = self.stripes.lock(bucket.name.as_str()).await;
        if new.lease.is_some() {
            // Leases are of masters that share an arbiter.
            return Ok(self.stamp(|_| CasOutcome::LeaseBroken));
        }
        let judged = self.state.read().rows.judge(bucket, expected, new);
        let row = match judged {
            SwapDecision::Write(row) => row,
            SwapDecision::Refuse(outcome) => return Ok(self.stamp(|_| outcome)),
        };
        // Readers see the row only once it is durable.
        self.persist(&row).await?;
        self.state.write().apply(row);
        Ok(self.stamp(|_| CasOutcome::Won))
    }

    async fn generation(&self) -> Result<Stamped<u64>, StoreError> {
        Ok(self.stamp(RowSet::generation))
    }

    async fn raise_generation(&self, generation: u64) -> Result<Stamped<()>, StoreError> {
        drop(self.state.write().rows.begin_generation(generation));
        // A first row that was examined before this has ended when the rows are listed.
        self.stripes.ended().await;
        let below = self.state.write().rows.begin_generation(generation);
        let mut by_stripe: BTreeMap<usize, Vec<BucketAddress>> = BTreeMap::new();
        for address in below {
            by_stripe
                .entry(self.stripes.stripe_of(address.name.as_str()))
                .or_default()
                .push(address);
        }
        for (stripe, addresses) in by_stripe {
            for page in addresses.chunks(RAISED_AT_ONCE) {
                let _turn = self.stripes.locks[stripe].lock().await;
                let raised = |address| self.state.read().rows.raised(address, generation);
                let rows: Vec<_> = page.iter().filter_map(raised).collect();
                self.persist_all(&rows).await.map_err(|error| match error {
                    SwapError::NotSent(error) | SwapError::Unknown(error) => error,
                })?;
                let mut state = self.state.write();
                for row in rows {
                    state.apply(row);
                }
            }
        }
        Ok(self.stamp(|_| ()))
    }

    fn can_drop_roots(&self) -> bool {
        true
    }

    async fn drop_roots(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        // Rounds are of masters that share an arbiter.
        if terms.round.is_some() {
            return Ok(Vec::new());
        }
        let _one_at_a_time = self.dropping.lock().await;
        let mut by_stripe: BTreeMap<usize, Vec<DeletedRow>> = BTreeMap::new();
        for row in self.void(rows, terms).await? {
            let stripe = self.stripes.stripe_of(row.address.name.as_str());
            by_stripe.entry(stripe).or_default().push(row);
        }
        let mut dropped = Vec::new();
        for (stripe, mut rows) in by_stripe {
            // A row that was swapped in the meantime lies behind the place, and stays.
            let _turn = self.stripes.locks[stripe].lock().await;
            let mut state = self.state.write();
            // What was old enough when it was made void still is.
            rows.retain(|row| state.rows.drop_row(row, &DropTerms::default(), 0));
            dropped.extend(rows);
        }
        Ok(dropped)
    }

    async fn version_floor(&self) -> Result<Stamped<u64>, StoreError> {
        Ok(self.stamp(RowSet::floor))
    }

    fn covered_by_swap(&self, mark: SyncMark) -> SyncMark {
        let mut covered = SyncMark::default();
        let commit = StreamName::Commit as usize;
        covered.positions[commit] = mark.positions[commit];
        covered
    }

    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        Ok(self.stamp(|rows| rows.list(owner, after, limit)))
    }

    async fn scan_roots(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        Ok(self.stamp(|rows| rows.scan(after, limit)))
    }

    async fn count_roots(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError> {
        Ok(self.stamp(|rows| rows.count(owner)))
    }

    async fn find_bucket(
        &self,
        bucket: &BucketName,
    ) -> Result<Stamped<Option<RootRow>>, StoreError> {
        Ok(self.stamp(|rows| rows.find(bucket).cloned()))
    }
}

/// The embedded metadata store: records in the log of a data directory.
#[derive(Debug)]
pub struct LocalMetadata {
    pub(super) log: Arc<Log>,
    pub(super) records: RwLock<Records>,
    pub(super) stripes: Stripes,
}

#[async_trait]
impl MetadataStore for LocalMetadata {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.records.read().get(table, name).cloned())
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let _turn = self.stripes.lock(name).await;
        let entry = match self.records.read().judge(table, name, expected, value)? {
            Ok(entry) => entry,
            Err(refused) => return Ok(refused),
        };
        let key = [table.name().as_bytes(), &[0], name.as_bytes()].concat();
        let value = write_entry(table, name, &entry);
        let failed = |error| unavailable("write", error);
        let append = move |log: &Log, patience| {
            let record = Record { kind: Kind::Metadata, key: &key, value: &value };
            log.append_within(StreamName::Commit, &[record], Need::Removal, patience)
        };
        let position = self.log.quickly(append).await.map_err(failed)?;
        // The record may be there after a restart, so the outcome is reported as unknown.
        let unsynced = |error: io::Error| StoreError::Unavailable {
            backend: "log",
            action: "write",
            source: error.into(),
        };
        let synced = timeout(HUNG, self.log.sync(StreamName::Commit, position)).await;
        synced.unwrap_or_else(|late| Err(late.into())).map_err(unsynced)?;
        let version = entry.version;
        self.records.write().apply(table, name, entry);
        Ok(WriteOutcome::Done(version))
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        Ok(self.records.read().list(table, after, limit))
    }
}
