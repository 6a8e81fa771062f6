//! The embedded arbiter and the embedded directory.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    BucketName, Directory, OwnerId, RootPointer, RootPointerStore, StoreError,
    block::SyncMark,
    directory::{Entry, Table, WriteOutcome},
    error::SwapError,
    memory::{Judged, Records, RowSet},
    root::{CasOutcome, Mark, NewRoot, RootCounts, RootRow, Stamped, TimeMs},
};

use super::{
    Clock, Stripes, read,
    rows::{RootsState, write_entry, write_row},
    unavailable, write,
};
use crate::log::{Kind, Log, Need, Record, StreamName};

/// The embedded arbiter: root pointers in the log of a data directory.
pub struct LocalRoots {
    pub(super) log: Arc<Log>,
    pub(super) state: RwLock<RootsState>,
    /// By bucket name alone: owners compete for the global name.
    pub(super) stripes: Stripes,
    pub(super) last_time: Mutex<TimeMs>,
    pub(super) clock: Clock,
}

impl std::fmt::Debug for LocalRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalRoots").field("log", &self.log).finish_non_exhaustive()
    }
}

impl LocalRoots {
    fn stamp<T>(&self, answer: impl FnOnce(&RowSet) -> T) -> Stamped<T> {
        let (value, position) = {
            let state = read(&self.state);
            (answer(&state.rows), state.position)
        };
        let mut last: MutexGuard<'_, TimeMs> =
            self.last_time.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last).max((self.clock)());
        let mark = Mark { arbiter: "embedded".to_owned(), position };
        Stamped { value, time: *last, mark }
    }

    /// Makes a row durable; the error says whether it can be there all the same.
    pub(super) async fn persist(&self, row: &RootRow) -> Result<(), SwapError> {
        let failed = |error| unavailable("swap", error);
        let position = {
            let mut state = write(&self.state);
            state.position += 1;
            state.position
        };
        let key = [&row.owner.0, row.bucket.as_str().as_bytes()].concat();
        let value = write_row(position, row);
        let record = Record { kind: Kind::Root, key: &key, value: &value };
        let appended = self.log.append(StreamName::Commit, &[record], Need::Removal);
        let position = appended.map_err(|error| {
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
        names: &[(OwnerId, BucketName)],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        Ok(self.stamp(|rows| {
            names.iter().map(|(owner, name)| rows.get(*owner, name).cloned()).collect()
        }))
    }

    async fn cas_root(
        &self,
        owner: OwnerId,
        bucket: &BucketName,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        let _turn = self.stripes.lock(bucket.as_str()).await;
        let judged = read(&self.state).rows.judge(owner, bucket, expected, new);
        let row = match judged {
            Judged::Write(row) => row,
            Judged::Refuse(outcome) => return Ok(self.stamp(|_| outcome)),
        };
        // Readers see the row once it is durable, never before.
        self.persist(&row).await?;
        write(&self.state).apply(row);
        Ok(self.stamp(|_| CasOutcome::Won))
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
        after: Option<&(OwnerId, BucketName)>,
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

/// The embedded directory: records in the log of a data directory.
#[derive(Debug)]
pub struct LocalDirectory {
    pub(super) log: Arc<Log>,
    pub(super) records: RwLock<Records>,
    pub(super) stripes: Stripes,
}

#[async_trait]
impl Directory for LocalDirectory {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(read(&self.records).get(table, name).cloned())
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let _turn = self.stripes.lock(name).await;
        let entry = match read(&self.records).judge(table, name, expected, value)? {
            Ok(entry) => entry,
            Err(refused) => return Ok(refused),
        };
        let key = [table.name().as_bytes(), &[0], name.as_bytes()].concat();
        let value = write_entry(table, name, &entry);
        let record = Record { kind: Kind::Directory, key: &key, value: &value };
        let failed = |error| unavailable("write", error);
        let position = self.log.append(StreamName::Commit, &[record], Need::Removal);
        let position = position.map_err(failed)?;
        // It may be there after a restart: nobody is told that nothing was written.
        let unsynced = |error: io::Error| StoreError::Unavailable {
            backend: "log",
            action: "write",
            source: error.into(),
        };
        self.log.sync(StreamName::Commit, position).await.map_err(unsynced)?;
        let version = entry.version;
        write(&self.records).apply(table, name, entry);
        Ok(WriteOutcome::Done(version))
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        Ok(read(&self.records).list(table, after, limit))
    }
}
