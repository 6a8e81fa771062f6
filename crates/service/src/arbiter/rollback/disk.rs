//! What a master keeps on its own disk about the arbiter's past, and its behaviour while that disk cannot
//! be written (docs/adr/0032).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use fula_core::{
    BucketAddress, MetadataStore, StoreError,
    metadata::{Entry, Table, WriteOutcome},
    root::Mark,
};
use serde::{Deserialize, Serialize};

use super::{KnownState, RollbackGuard, State};
use crate::{
    arbiter::head::Head,
    error::{ServiceError, chain},
    limits::PAGE_MAX,
};

/// Name of the record that holds the highest mark.
const MARK: &str = "mark";

/// A mark as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMark {
    arbiter: String,
    position: u64,
}

/// Versions of records, by name.
pub(super) type Versions = BTreeMap<String, u64>;

impl RollbackGuard {
    /// Reads all records.
    pub(super) async fn read_back(
        &self,
        local_state: &dyn MetadataStore,
    ) -> Result<(), ServiceError> {
        let mut after: Option<String> = None;
        loop {
            let page = local_state.list(Table::Remembered, after.as_deref(), PAGE_MAX).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (name, entry) in page {
                let Some(value) = entry.value else { continue };
                self.records.of(&name).lock().await.insert(name.clone(), entry.version);
                let mut state = self.state();
                if name == MARK {
                    let mark: Option<StoredMark> = serde_json::from_slice(&value).ok();
                    state.mark =
                        mark.map(|mark| Mark { arbiter: mark.arbiter, position: mark.position });
                } else if let (Some(bucket), Some(known)) =
                    (name.parse().ok(), KnownState::decode(&value))
                {
                    state.buckets.insert(bucket, Arc::new(known));
                }
            }
        }
    }

    /// Remembers a commit of this master. The commit stands in any case, but its writers may get an answer of
    /// success only if this succeeds.
    ///
    /// # Errors
    /// The errors of [`Self::remember`].
    pub(crate) async fn commit(
        &self,
        bucket: &BucketAddress,
        head: &Head,
    ) -> Result<(), ServiceError> {
        self.remember_head(&mut self.state(), bucket, head);
        self.remember(bucket).await
    }

    /// Returns once the newest known state of a bucket is on this master's own disk.
    ///
    /// # Errors
    /// [`ServiceError::Full`] or [`ServiceError::Unavailable`]: it is not there. No bucket is written
    /// before [`Self::flush`] succeeds.
    pub(crate) async fn remember(&self, bucket: &BucketAddress) -> Result<(), ServiceError> {
        let Some(local_state) = &self.local_state else { return Ok(()) };
        let name = bucket.to_string();
        // The last call to write is also the last to read, so a record never goes back to an older state. A
        // call that had to wait finds its work done.
        let mut versions = self.records.of(&name).lock().await;
        let value = {
            let mut state = self.state();
            if !state.dirty.remove(bucket) {
                return Ok(());
            }
            state.buckets.get(bucket).map(|known| known.encode())
        };
        // Nothing is known of a bucket whose row was dropped.
        if value.is_none() && !versions.contains_key(&name) {
            return Ok(());
        }
        let written = write(local_state.as_ref(), &mut versions, &name, value).await;
        written.map_err(|error| {
            let mut state = self.state();
            state.dirty.insert(bucket.clone());
            fail(&mut state, error)
        })
    }

    async fn remember_mark(&self) -> Result<(), ServiceError> {
        let Some(local_state) = &self.local_state else { return Ok(()) };
        let mut versions = self.records.of(MARK).lock().await;
        let mark = {
            let mut state = self.state();
            if !std::mem::take(&mut state.mark_is_dirty) {
                return Ok(());
            }
            state.mark.clone()
        };
        let Some(mark) = mark else { return Ok(()) };
        let stored = StoredMark { arbiter: mark.arbiter, position: mark.position };
        let value: Bytes = serde_json::to_vec(&stored).unwrap_or_default().into();
        let written = write(local_state.as_ref(), &mut versions, MARK, Some(value)).await;
        written.map_err(|error| fail(&mut self.state(), error))
    }

    /// Writes everything that was learnt since the last call. If that succeeds, buckets may be written
    /// again after a failure of this master's own disk.
    ///
    /// # Errors
    /// The errors of [`Self::remember`].
    pub(crate) async fn flush(&self) -> Result<(), ServiceError> {
        let (dirty, failures): (Vec<BucketAddress>, u64) = {
            let state = self.state();
            (state.dirty.iter().cloned().collect(), state.disk_failures)
        };
        for bucket in dirty {
            self.remember(&bucket).await?;
        }
        self.remember_mark().await?;
        let mut state = self.state();
        // What failed in the meantime is still to be written.
        if state.disk_failures == failures && state.disk_failure.take().is_some() {
            tracing::warn!(
                "this master's data directory can be written again; writes are accepted"
            );
            tell(&state);
        }
        Ok(())
    }

    /// Records that other data could not be written to this master's own disk. No bucket is written until
    /// [`Self::flush`] succeeds.
    pub(crate) fn note_disk_failure(&self, error: ServiceError) {
        fail(&mut self.state(), error);
    }

    /// Returns why this master's own disk cannot be written: [`ServiceError::Full`], or
    /// [`ServiceError::Unavailable`] with the error. Returns `None` when it can.
    pub fn disk_failure(&self) -> Option<ServiceError> {
        self.state().disk_failure.clone()
    }

    /// Fails while this master's own disk cannot be written.
    ///
    /// # Errors
    /// The error that [`Self::disk_failure`] returns.
    pub(crate) fn require_disk(&self) -> Result<(), ServiceError> {
        self.disk_failure().map_or(Ok(()), Err)
    }
}

/// Records a failure of this master's own disk. Returns the error for the caller.
fn fail(state: &mut State, error: ServiceError) -> ServiceError {
    let error = match error {
        ServiceError::Full => error,
        error => StoreError::Unavailable {
            backend: "log",
            action: "write to this master's own data directory",
            source: chain(&error).into(),
        }
        .into(),
    };
    if state.disk_failure.is_none() {
        tracing::error!(
            %error,
            "this master's data directory cannot be written; writes are refused until it can"
        );
    }
    // The mark is written again, which shows whether the disk works.
    state.mark_is_dirty = true;
    state.disk_failures += 1;
    state.disk_failure = Some(error.clone());
    tell(state);
    error
}

fn tell(state: &State) {
    metrics::gauge!("fula_local_state_failed").set(u8::from(state.disk_failure.is_some()));
}

async fn write(
    local_state: &dyn MetadataStore,
    versions: &mut Versions,
    name: &str,
    value: Option<Bytes>,
) -> Result<(), ServiceError> {
    let known = versions.get(name).copied().unwrap_or(0);
    let mut written = local_state.write(Table::Remembered, name, known, value.clone()).await?;
    if let WriteOutcome::Conflict(Some(Entry { version, value: None })) = written
        && known == 0
    {
        // The record was deleted by an earlier process: a dropped bucket was created again.
        written = local_state.write(Table::Remembered, name, version, value).await?;
    }
    let version = match written {
        WriteOutcome::Done(version) => version,
        // Only this process writes here. The conflict comes from an earlier write whose answer was late.
        WriteOutcome::Conflict(current) => {
            versions.insert(name.to_owned(), current.map_or(0, |entry| entry.version));
            let text = "a record was written by someone else";
            return Err(ServiceError::unavailable(text));
        }
    };
    versions.insert(name.to_owned(), version);
    Ok(())
}
