//! The rollback guard: what this master remembers of the arbiter's past, so that an arbiter that goes back
//! in time is noticed and not believed (docs/adr/0008).
//!
//! # Invariants
//! - A pointer is adopted only if neither its version nor the entry of any remembered author is lower.
//! - An answer is compared with what was remembered before the question was asked, because answers may
//!   overtake each other.
//! - A write is answered with success only once the state that includes it is on this master's own disk
//!   ([`disk`], docs/adr/0032). A state that was read from others is there within a second.

mod disk;
mod drops;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use fula_core::{
    BucketAddress, BucketId, KeyedLocks, MetadataStore, RootPointer, WriterId,
    bucket::{AUTHORS_MAX, Author, BucketRoot},
    root::{Mark, RootRow, TimeMs},
};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

pub(crate) use self::drops::Asked;
use super::head::Head;
use crate::{
    error::{FORKED, ServiceError},
    limits::AUTHORS_KEPT_MS,
};

/// Number of locks that serialise writes of one remembered bucket.
const STRIPES: usize = 16;

/// The newest state of a bucket that this master knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownState {
    /// Root pointer of the state.
    pub pointer: RootPointer,
    /// Id of the life of the name.
    pub bucket_id: BucketId,
    /// Time at which the bucket was created.
    pub created: TimeMs,
    /// Time at which the bucket was deleted, if it was.
    pub deleted: Option<TimeMs>,
    authors: Vec<Author>,
}

/// A remembered state as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    root: String,
    version: u64,
    generation: u64,
    bucket_id: String,
    created: TimeMs,
    deleted: Option<TimeMs>,
    authors: Vec<(String, u64, TimeMs)>,
}

/// The reason why no pointer is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Text that tells what was noticed.
    pub reason: String,
    /// Id of the recovery that was joined because of it.
    pub recovery: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    mark: Option<Mark>,
    mark_is_dirty: bool,
    buckets: BTreeMap<BucketAddress, Arc<KnownState>>,
    /// Buckets whose newest state is not on this master's own disk yet.
    dirty: BTreeSet<BucketAddress>,
    /// Reason why this master's own disk cannot be written. No bucket is written meanwhile.
    disk_failure: Option<ServiceError>,
    /// Number of failed writes to this master's own disk.
    disk_failures: u64,
    /// Buckets that are forked, and sealed until they are merged.
    forked: BTreeSet<BucketAddress>,
    alarm: Option<Alarm>,
    /// Number of alarms that have ended.
    epoch: u64,
    drops: drops::Drops,
}

/// The mark that was the highest known when a question was asked of the arbiter.
#[derive(Clone, Debug)]
pub(crate) struct Watermark {
    mark: Option<Mark>,
    /// Number of ended alarms at that time. An answer to a question from before the end of an alarm tells
    /// nothing about the arbiter after it.
    epoch: u64,
}

/// The state of the arbiter as one master knows it. Each answer is compared with it.
#[derive(Debug)]
pub struct RollbackGuard {
    state: Mutex<State>,
    /// Store of the local state; `None` where the arbiter is this master's own.
    local_state: Option<Arc<dyn MetadataStore>>,
    /// Versions of the records in `local_state`, and their locks.
    records: KeyedLocks<tokio::sync::Mutex<disk::Versions>>,
    /// Whether answers are compared at all.
    is_on: bool,
}

fn regressed(reason: &str) -> ServiceError {
    ServiceError::Regressed(reason.to_owned())
}

impl KnownState {
    /// Returns the part of a head that is remembered.
    pub(crate) fn of(head: &Head) -> Self {
        Self::of_root(head.row.pointer, &head.root)
    }

    /// Returns the part of a root that is remembered.
    pub(crate) fn of_root(pointer: RootPointer, root: &BucketRoot) -> Self {
        Self {
            pointer,
            bucket_id: root.id,
            created: root.created,
            deleted: root.deleted,
            authors: root.authors.clone(),
        }
    }

    /// Returns the authors of the state.
    pub(crate) fn authors(&self) -> &[Author] {
        &self.authors
    }

    /// Returns whether the root of another pointer includes everything that is known here.
    pub(crate) fn is_included_in(&self, pointer: &RootPointer, root: &BucketRoot) -> bool {
        if pointer.root == self.pointer.root {
            return true;
        }
        // A full list drops its oldest entries, and every list drops old ones.
        let oldest = root.authors.iter().map(|author| author.version).min().unwrap_or(0);
        let forgets = |author: &Author| {
            (root.authors.len() >= AUTHORS_MAX && author.version < oldest)
                || author.time.saturating_add(AUTHORS_KEPT_MS) <= root.time
        };
        let includes = |author: &Author| {
            root.authored(author.writer) >= Some(author.version)
                || (root.authored(author.writer).is_none() && forgets(author))
        };
        pointer.version > self.pointer.version && self.authors.iter().all(includes)
    }

    /// Returns whether this is a tombstone, and a row of this version belongs to a later bucket of the name.
    pub(crate) fn is_followed_by(&self, bucket_id: BucketId, version: u64) -> bool {
        self.deleted.is_some() && self.bucket_id != bucket_id && self.pointer.version < version
    }

    fn encode(&self) -> Bytes {
        let authors = self.authors.iter();
        let stored = Stored {
            root: self.pointer.root.to_string(),
            version: self.pointer.version,
            generation: self.pointer.generation,
            bucket_id: self.bucket_id.to_string(),
            created: self.created,
            deleted: self.deleted,
            authors: authors.map(|a| (a.writer.to_string(), a.version, a.time)).collect(),
        };
        serde_json::to_vec(&stored).unwrap_or_default().into()
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(value).ok()?;
        let author = |(writer, version, time): &(String, u64, TimeMs)| {
            Some(Author { writer: writer.parse().ok()?, version: *version, time: *time })
        };
        Some(Self {
            pointer: RootPointer {
                root: stored.root.parse().ok()?,
                version: stored.version,
                generation: stored.generation,
            },
            bucket_id: stored.bucket_id.parse().ok()?,
            created: stored.created,
            deleted: stored.deleted,
            authors: stored.authors.iter().map(author).collect::<Option<_>>()?,
        })
    }
}

impl RollbackGuard {
    /// Remembers as long as the process runs or, with `local_state`, beyond that; its records are read.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn open(local_state: Option<Arc<dyn MetadataStore>>) -> Result<Self, ServiceError> {
        let guard = Self::new(local_state, true);
        if let Some(local_state) = guard.local_state.clone() {
            guard.read_back(local_state.as_ref()).await?;
        }
        Ok(guard)
    }

    /// Remembers as long as the process runs. Compares nothing unless `is_on`.
    pub fn new(local_state: Option<Arc<dyn MetadataStore>>, is_on: bool) -> Self {
        Self { state: Mutex::default(), local_state, records: KeyedLocks::new(STRIPES), is_on }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns the newest known state of a bucket.
    pub fn known(&self, bucket: &BucketAddress) -> Option<Arc<KnownState>> {
        self.state().buckets.get(bucket).cloned()
    }

    /// Returns every known bucket with its newest state.
    pub(crate) fn all_known(&self) -> Vec<(BucketAddress, Arc<KnownState>)> {
        let state = self.state();
        state.buckets.iter().map(|(bucket, known)| (bucket.clone(), Arc::clone(known))).collect()
    }

    /// Returns up to `limit` known buckets after `after`, with their newest states.
    pub(crate) fn known_after(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Vec<(BucketAddress, Arc<KnownState>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let page = state.buckets.range((from, Bound::Unbounded)).take(limit);
        page.map(|(bucket, known)| (bucket.clone(), Arc::clone(known))).collect()
    }

    /// Returns the watermark for a question that is asked now.
    pub(crate) fn floor(&self) -> Watermark {
        let state = self.state();
        Watermark { mark: state.mark.clone(), epoch: state.epoch }
    }

    /// Returns the alarm, if there is one.
    pub fn alarm(&self) -> Option<Alarm> {
        self.state().alarm.clone()
    }

    /// Compares the mark of an answer with the watermark of its question. Returns `false` when the answer
    /// must not be believed, because the arbiter went back, or came back in the meantime.
    pub(crate) fn observe_mark(&self, floor: &Watermark, heard: &Mark) -> bool {
        if !self.is_on {
            return true;
        }
        let is_behind =
            |mark: &Mark| mark.arbiter != heard.arbiter || mark.position > heard.position;
        let mut state = self.state();
        if state.epoch != floor.epoch {
            return false;
        }
        if let Some(mark) = floor.mark.as_ref().filter(|mark| is_behind(mark)) {
            drop(state);
            self.raise(format!("the arbiter is at {heard}, and was at {mark}"));
            return false;
        }
        let is_newer = state
            .mark
            .as_ref()
            .is_none_or(|mark| mark.arbiter == heard.arbiter && mark.position < heard.position);
        if is_newer {
            (state.mark, state.mark_is_dirty) = (Some(heard.clone()), true);
        }
        true
    }

    /// Compares a row, before its root is read, with what was known when it was requested.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`] when the row is of the past.
    pub(crate) fn check_row(
        &self,
        bucket: &BucketAddress,
        asked: &Asked,
        row: Option<&RootRow>,
    ) -> Result<(), ServiceError> {
        if !self.is_on {
            return Ok(());
        }
        let (is_forked, is_alarmed, may_be_missing) = {
            let state = self.state();
            let may_be_missing = row.is_none() && state.may_be_missing(bucket, asked);
            (state.forked.contains(bucket), state.alarm.is_some(), may_be_missing)
        };
        if is_forked {
            return Err(regressed(FORKED));
        }
        // Another master may know of commits that this one has never seen.
        if is_alarmed {
            return Err(regressed("the arbiter is in doubt"));
        }
        let Some(known) = asked.known.as_deref() else { return Ok(()) };
        let is_behind = row.is_none_or(|row| {
            row.pointer.version < known.pointer.version
                || (row.pointer.version == known.pointer.version
                    && row.pointer.root != known.pointer.root)
        });
        if is_behind && !may_be_missing {
            return Err(self.regress(bucket, "its pointer went back"));
        }
        Ok(())
    }

    /// Compares a root with what was known when its row was requested.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`] when the root is of the past.
    pub(crate) fn check_root(
        &self,
        bucket: &BucketAddress,
        asked: &Asked,
        pointer: &RootPointer,
        root: &BucketRoot,
    ) -> Result<(), ServiceError> {
        match asked.known.as_deref() {
            Some(known) if self.is_on && !known.is_included_in(pointer, root) => {
                if self.state().is_over(asked, root.id) {
                    return Ok(());
                }
                Err(self.regress(bucket, "its root lacks commits that were published"))
            }
            _ => Ok(()),
        }
    }

    /// Compares a swap that was won with what was learnt in the meantime. If a state that is as far or
    /// further lacks the swap, the arbiter went back after carrying it out.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`] in that case.
    pub(crate) fn check_won(
        &self,
        bucket: &BucketAddress,
        writer: WriterId,
        won: &RootPointer,
    ) -> Result<(), ServiceError> {
        let Some(known) = self.known(bucket).filter(|_| self.is_on) else { return Ok(()) };
        let own = known.authors.iter().find(|author| author.writer == writer);
        let includes = own.is_some_and(|own| own.version >= won.version);
        if known.pointer.version < won.version || known.pointer.root == won.root || includes {
            return Ok(());
        }
        Err(self.regress(bucket, "it lacks a commit that the arbiter had carried out"))
    }

    /// Returns whether answers are compared with what this master knows.
    pub(crate) fn compares(&self) -> bool {
        self.is_on
    }

    /// Raises the alarm, because the arbiter lacks what this master knows of a bucket. Returns the error.
    pub(crate) fn note_lost(&self, bucket: &BucketAddress) -> ServiceError {
        self.regress(bucket, "it lacks a state that this master knows")
    }

    fn regress(&self, bucket: &BucketAddress, why: &str) -> ServiceError {
        metrics::counter!("fula_regressions_total").increment(1);
        self.raise(format!("bucket {}: {why}", bucket.name));
        regressed(why)
    }

    fn raise(&self, reason: String) {
        let mut state = self.state();
        if state.alarm.is_none() {
            tracing::error!(
                reason,
                "the arbiter went back in time; writes are refused until the masters have recovered"
            );
            metrics::gauge!("fula_arbiter_in_doubt").set(1.0);
            state.alarm = Some(Alarm { reason, recovery: None });
        }
    }

    /// Checks the mark of an answer that is not about a particular bucket.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`] when it must not be believed.
    pub(crate) fn check_answer(&self, floor: &Watermark, heard: &Mark) -> Result<(), ServiceError> {
        let is_believed = self.observe_mark(floor, heard);
        match self.alarm() {
            Some(alarm) => Err(regressed(&alarm.reason)),
            None if !is_believed => {
                Err(regressed("the answer was requested while the arbiter was in doubt"))
            }
            None => Ok(()),
        }
    }

    /// Refuses writes while the arbiter is in doubt, and while this master's own disk cannot be written.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Full`] or [`ServiceError::Unavailable`] of the disk.
    pub(crate) fn permit_write(&self, bucket: &BucketAddress) -> Result<(), ServiceError> {
        let state = self.state();
        if let Some(failure) = &state.disk_failure {
            return Err(failure.clone());
        }
        if let Some(alarm) = &state.alarm {
            return Err(regressed(&alarm.reason));
        }
        if state.forked.contains(bucket) {
            return Err(regressed(FORKED));
        }
        Ok(())
    }

    /// Remembers an adopted state, unless a newer one is known. Returns `false` for a state whose row may
    /// have been dropped since it was requested: it is not remembered.
    pub(crate) fn learn(&self, bucket: &BucketAddress, head: &Head, asked: &Asked) -> bool {
        let mut state = self.state();
        if state.is_outdated(bucket, asked, head.row.pointer.version) {
            return false;
        }
        self.remember_head(&mut state, bucket, head);
        true
    }

    /// Returns whether no state of the bucket newer than `version` was ever known. What was known of a
    /// dropped bucket is gone, but was at most as new as the highest dropped version.
    pub(crate) fn is_newest_known(&self, bucket: &BucketAddress, version: u64) -> bool {
        let state = self.state();
        state
            .buckets
            .get(bucket)
            .map_or(version > state.highest_dropped(), |known| version >= known.pointer.version)
    }

    fn remember_head(&self, state: &mut State, bucket: &BucketAddress, head: &Head) {
        let age = |pointer: RootPointer| (pointer.version, pointer.generation);
        let newer = |known: &Arc<KnownState>| age(known.pointer) < age(head.row.pointer);
        if state.buckets.get(bucket).is_none_or(newer) {
            state.buckets.insert(bucket.clone(), Arc::new(KnownState::of(head)));
            if self.local_state.is_some() {
                state.dirty.insert(bucket.clone());
            }
        }
    }

    /// Joins a recovery. Nothing is written until it is over.
    pub(crate) fn join(&self, recovery: &str, reason: &str) {
        self.raise(format!("another master noticed: {reason}"));
        if let Some(alarm) = &mut self.state().alarm {
            alarm.recovery = Some(recovery.to_owned());
        }
    }

    /// Ends the alarm. `mark` is the mark of the arbiter now, and `forked` stays sealed.
    pub(crate) fn calm(&self, mark: Mark, forked: BTreeSet<BucketAddress>) {
        let mut state = self.state();
        tracing::warn!(forked = forked.len(), "the recovery has ended; writes are accepted again");
        metrics::gauge!("fula_arbiter_in_doubt").set(0.0);
        (state.mark, state.mark_is_dirty) = (Some(mark), true);
        state.forked = forked;
        state.alarm = None;
        state.epoch += 1;
    }

    /// Sets the buckets that stay sealed.
    pub(crate) fn set_forked(&self, forked: BTreeSet<BucketAddress>) {
        self.state().forked = forked;
    }
}

/// Merges two lists of authors. Each entry is the newer of both.
pub(crate) fn join_authors(a: &[Author], b: &[Author]) -> Vec<Author> {
    let mut joined: BTreeMap<WriterId, Author> = BTreeMap::new();
    for author in a.iter().chain(b) {
        let slot = joined.entry(author.writer).or_insert(*author);
        if slot.version < author.version {
            *slot = *author;
        }
    }
    joined.into_values().collect()
}
