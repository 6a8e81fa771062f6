//! What this master remembers of the arbiter's past, so that an arbiter that goes back in time
//! is caught and not believed (docs/adr/0008).
//!
//! # Invariants
//! - A pointer is adopted only if neither its version nor any remembered author's entry is lower.
//! - What is compared was remembered before the answer was asked for: answers may overtake each
//!   other.
//! - A commit of our own is remembered durably before its writers are answered; what was read
//!   from others, within a second.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use fula_core::{
    BucketId, BucketName, Cid, Directory, OwnerId, RootPointer, StoreError, WriterId,
    bucket::{AUTHORS_MAX, Author, BucketRoot},
    directory::{Table, WriteOutcome},
    root::{Mark, RootRow, TimeMs},
};
use serde::{Deserialize, Serialize};

use crate::{
    commit::{BucketAddress, Head},
    error::ServiceError,
    limits::{AUTHORS_KEPT_MS, PAGE_MAX},
};

/// Locks that keep writers of one remembered bucket apart.
const STRIPES: usize = 16;

/// Record that holds the highest mark.
const MARK: &str = "mark";

/// The newest state of a bucket that this master knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its pointer.
    pub pointer: RootPointer,
    /// Which life of the name it belongs to.
    pub bucket_id: BucketId,
    /// When that life began.
    pub created: TimeMs,
    /// When it ended, if it did.
    pub deleted: Option<TimeMs>,
    authors: Vec<Author>,
}

/// A remembered state as stored.
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

/// A mark as stored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMark {
    arbiter: String,
    position: u64,
}

/// Why no pointer is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// What was noticed.
    pub reason: String,
    /// The recovery that was joined for it.
    pub recovery: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    mark: Option<Mark>,
    mark_is_dirty: bool,
    buckets: BTreeMap<BucketAddress, Arc<Known>>,
    dirty: BTreeSet<BucketAddress>,
    /// Buckets whose masters could not agree; sealed until they are merged.
    forked: BTreeSet<BucketAddress>,
    alarm: Option<Alarm>,
}

/// The memory of one master.
#[derive(Debug)]
pub struct Witness {
    state: Mutex<State>,
    /// Where it is kept; `None` where the arbiter is this master's own.
    memory: Option<Arc<dyn Directory>>,
    /// Versions of the records in `memory`, and their locks.
    records: Vec<tokio::sync::Mutex<BTreeMap<String, u64>>>,
    hasher: RandomState,
    /// Whether anything is compared at all.
    is_on: bool,
}

fn regressed(reason: &str) -> ServiceError {
    ServiceError::Regressed(reason.to_owned())
}

impl Known {
    /// Returns what there is to remember of a head.
    pub(crate) fn of(head: &Head) -> Self {
        Self::of_root(head.row.pointer, &head.root)
    }

    /// Returns what there is to remember of a root.
    pub(crate) fn of_root(pointer: RootPointer, root: &BucketRoot) -> Self {
        Self {
            pointer,
            bucket_id: root.id,
            created: root.created,
            deleted: root.deleted,
            authors: root.authors.clone(),
        }
    }

    /// Says whether a root of another pointer includes all that is known here.
    pub(crate) fn is_included_in(&self, pointer: &RootPointer, root: &BucketRoot) -> bool {
        if pointer.root == self.pointer.root {
            return true;
        }
        // A full list forgets its oldest entries, and any list those of long ago.
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

/// Returns the name that a bucket's records go under.
pub(crate) fn name_of(bucket: &BucketAddress) -> String {
    format!("{}/{}", bucket.0, bucket.1)
}

/// Reads back what [`name_of`] wrote.
pub(crate) fn bucket_of(name: &str) -> Option<BucketAddress> {
    let (owner, bucket) = name.split_once('/')?;
    Some((owner.parse::<OwnerId>().ok()?, BucketName::parse(bucket).ok()?))
}

impl Witness {
    /// Remembers for as long as the process runs, or in `memory`, whose records are read back.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn open(memory: Option<Arc<dyn Directory>>) -> Result<Self, ServiceError> {
        let witness = Self::new(memory, true);
        if let Some(memory) = witness.memory.clone() {
            witness.read_back(memory.as_ref()).await?;
        }
        Ok(witness)
    }

    /// Remembers for as long as the process runs; compares nothing unless `is_on`.
    pub fn new(memory: Option<Arc<dyn Directory>>, is_on: bool) -> Self {
        let records = (0..STRIPES).map(|_| tokio::sync::Mutex::default()).collect();
        let (state, hasher) = (Mutex::default(), RandomState::new());
        Self { state, memory, records, hasher, is_on }
    }

    async fn read_back(&self, memory: &dyn Directory) -> Result<(), ServiceError> {
        let mut after: Option<String> = None;
        loop {
            let page = memory.list(Table::Remembered, after.as_deref(), PAGE_MAX).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (name, entry) in page {
                let Some(value) = entry.value else { continue };
                self.stripe(&name).lock().await.insert(name.clone(), entry.version);
                let mut state = self.state();
                if name == MARK {
                    let mark: Option<StoredMark> = serde_json::from_slice(&value).ok();
                    state.mark =
                        mark.map(|mark| Mark { arbiter: mark.arbiter, position: mark.position });
                } else if let (Some(bucket), Some(known)) =
                    (bucket_of(&name), Known::decode(&value))
                {
                    state.buckets.insert(bucket, Arc::new(known));
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stripe(&self, name: &str) -> &tokio::sync::Mutex<BTreeMap<String, u64>> {
        let [low, ..] = self.hasher.hash_one(name).to_le_bytes();
        &self.records[usize::from(low) % STRIPES]
    }

    /// Returns the newest state known of a bucket.
    pub fn known(&self, bucket: &BucketAddress) -> Option<Arc<Known>> {
        self.state().buckets.get(bucket).cloned()
    }

    /// Returns every bucket known, with its newest state.
    pub(crate) fn all_known(&self) -> Vec<(BucketAddress, Arc<Known>)> {
        let state = self.state();
        state.buckets.iter().map(|(bucket, known)| (bucket.clone(), Arc::clone(known))).collect()
    }

    /// Returns the highest mark heard.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.state().mark.clone()
    }

    /// Returns why no pointer is believed, if so.
    pub fn alarm(&self) -> Option<Alarm> {
        self.state().alarm.clone()
    }

    /// Judges a mark against what was the highest when its answer was asked for; `false` when the
    /// arbiter went back.
    pub(crate) fn hear_mark(&self, floor: Option<&Mark>, heard: &Mark) -> bool {
        if !self.is_on {
            return true;
        }
        let went_back = floor
            .is_some_and(|floor| floor.arbiter != heard.arbiter || floor.position > heard.position);
        if went_back {
            self.raise(format!("the arbiter's mark is {heard:?}, and was {floor:?}"));
            return false;
        }
        let mut state = self.state();
        let is_newer = state
            .mark
            .as_ref()
            .is_none_or(|mark| mark.arbiter == heard.arbiter && mark.position < heard.position);
        if is_newer {
            (state.mark, state.mark_is_dirty) = (Some(heard.clone()), true);
        }
        true
    }

    /// Judges a row, before its root is read, against what was known when it was asked for.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`].
    pub(crate) fn judge_row(
        &self,
        bucket: &BucketAddress,
        known: Option<&Known>,
        row: Option<&RootRow>,
    ) -> Result<(), ServiceError> {
        if !self.is_on {
            return Ok(());
        }
        let (is_forked, is_alarmed) = {
            let state = self.state();
            (state.forked.contains(bucket), state.alarm.is_some())
        };
        if is_forked {
            return Err(regressed("the masters remember states that exclude one another"));
        }
        // Another master may know of commits that this one never heard of.
        if is_alarmed {
            return Err(regressed("the arbiter is in doubt"));
        }
        let Some(known) = known else { return Ok(()) };
        let is_behind = row.is_none_or(|row| {
            row.pointer.version < known.pointer.version
                || (row.pointer.version == known.pointer.version
                    && row.pointer.root != known.pointer.root)
        });
        if is_behind {
            return Err(self.regress(bucket, "its pointer went back"));
        }
        Ok(())
    }

    /// Judges a root against what was known when its row was asked for.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`].
    pub(crate) fn judge_root(
        &self,
        bucket: &BucketAddress,
        known: Option<&Known>,
        pointer: &RootPointer,
        root: &BucketRoot,
    ) -> Result<(), ServiceError> {
        match known {
            Some(known) if self.is_on && !known.is_included_in(pointer, root) => {
                Err(self.regress(bucket, "its root lacks commits that were there"))
            }
            _ => Ok(()),
        }
    }

    fn regress(&self, bucket: &BucketAddress, why: &str) -> ServiceError {
        metrics::counter!("fula_regressions_total").increment(1);
        self.raise(format!("bucket {}: {why}", bucket.1));
        regressed(why)
    }

    fn raise(&self, reason: String) {
        let mut state = self.state();
        if state.alarm.is_none() {
            tracing::error!(reason, "the arbiter went back in time: no pointer is believed");
            metrics::gauge!("fula_arbiter_in_doubt").set(1.0);
            state.alarm = Some(Alarm { reason, recovery: None });
        }
    }

    /// Refuses to write while the arbiter is in doubt.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`].
    pub(crate) fn permit_write(&self, bucket: &BucketAddress) -> Result<(), ServiceError> {
        let state = self.state();
        if let Some(alarm) = &state.alarm {
            return Err(regressed(&alarm.reason));
        }
        if state.forked.contains(bucket) {
            return Err(regressed("the masters remember states that exclude one another"));
        }
        Ok(())
    }

    /// Remembers a state that was adopted, unless a newer one is known.
    pub(crate) fn learn(&self, bucket: &BucketAddress, head: &Head) {
        let mut state = self.state();
        let newer = |known: &Arc<Known>| known.pointer.version < head.row.pointer.version;
        if state.buckets.get(bucket).is_none_or(newer) {
            state.buckets.insert(bucket.clone(), Arc::new(Known::of(head)));
            if self.memory.is_some() {
                state.dirty.insert(bucket.clone());
            }
        }
    }

    /// Remembers a commit of our own for good. It stands whether that succeeds or not.
    pub(crate) async fn commit(&self, bucket: &BucketAddress, head: &Head) {
        self.learn(bucket, head);
        if self.memory.is_some()
            && let Err(error) = self.keep(bucket).await
        {
            tracing::error!(%error, "a commit cannot be remembered on this master's own disk");
        }
    }

    /// Writes down everything heard since the last time.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Full`].
    pub(crate) async fn flush(&self) -> Result<(), ServiceError> {
        let dirty: Vec<BucketAddress> = self.state().dirty.iter().cloned().collect();
        for bucket in dirty {
            self.keep(&bucket).await?;
        }
        let mark = {
            let mut state = self.state();
            let is_dirty = std::mem::take(&mut state.mark_is_dirty);
            state.mark.clone().filter(|_| is_dirty)
        };
        if let Some(mark) = mark {
            let stored = StoredMark { arbiter: mark.arbiter, position: mark.position };
            let value = serde_json::to_vec(&stored).unwrap_or_default();
            self.write(MARK, value.into()).await?;
        }
        Ok(())
    }

    async fn keep(&self, bucket: &BucketAddress) -> Result<(), ServiceError> {
        let known = {
            let mut state = self.state();
            state.dirty.remove(bucket);
            state.buckets.get(bucket).cloned()
        };
        let Some(known) = known else { return Ok(()) };
        let written = self.write(&name_of(bucket), known.encode()).await;
        if written.is_err() {
            self.state().dirty.insert(bucket.clone());
        }
        written
    }

    async fn write(&self, name: &str, value: Bytes) -> Result<(), ServiceError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let mut records = self.stripe(name).lock().await;
        let version = records.get(name).copied().unwrap_or(0);
        let version = match memory.write(Table::Remembered, name, version, Some(value)).await? {
            WriteOutcome::Done(version) => version,
            // Only this process writes here; an earlier write may have been answered late.
            WriteOutcome::Conflict(current) => {
                records.insert(name.to_owned(), current.map_or(0, |entry| entry.version));
                let text = "the memory of this master is written by someone else";
                return Err(ServiceError::Unavailable(text.to_owned()));
            }
        };
        records.insert(name.to_owned(), version);
        Ok(())
    }

    /// Joins a recovery: nothing is written until it is over.
    pub(crate) fn join(&self, recovery: &str, reason: &str) {
        self.raise(format!("another master noticed: {reason}"));
        if let Some(alarm) = &mut self.state().alarm {
            alarm.recovery = Some(recovery.to_owned());
        }
    }

    /// Ends the alarm: `mark` is where the arbiter is now, and `forked` stays sealed.
    pub(crate) fn calm(&self, mark: Mark, forked: BTreeSet<BucketAddress>) {
        let mut state = self.state();
        tracing::warn!(forked = forked.len(), "the arbiter is trusted again");
        metrics::gauge!("fula_arbiter_in_doubt").set(0.0);
        (state.mark, state.mark_is_dirty) = (Some(mark), true);
        state.forked = forked;
        state.alarm = None;
    }

    /// Sets which buckets stay sealed.
    pub(crate) fn set_forked(&self, forked: BTreeSet<BucketAddress>) {
        self.state().forked = forked;
    }
}

/// Two lists of authors, each entry the newer of both.
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

/// Returns the address that a claim names, for what reads claims.
pub(crate) fn parse_root(text: &str) -> Result<Cid, ServiceError> {
    let malformed = StoreError::Malformed { what: "claim", why: "bad root" };
    text.parse().map_err(|_| malformed.into())
}

#[cfg(test)]
mod tests {
    use fula_core::{Codec, memory::MemoryDirectory, tree::Salt};

    use super::*;

    fn bucket() -> BucketAddress {
        (OwnerId([1; 16]), BucketName::parse("bucket").unwrap())
    }

    fn head(version: u64, authors: &[(u8, u64)]) -> Head {
        let (owner, name) = bucket();
        let mut root = BucketRoot::new(
            owner,
            name.clone(),
            BucketId([2; 16]),
            Salt([0; 32]),
            version,
            version,
        );
        root.authors = authors
            .iter()
            .map(|(writer, version)| Author {
                writer: WriterId([*writer; 16]),
                version: *version,
                time: 1,
            })
            .collect();
        let block = root.to_block();
        assert_eq!(block.cid().codec(), Codec::DagCbor);
        let row = RootRow {
            owner,
            bucket: name,
            pointer: RootPointer { root: block.cid(), version, generation: 0 },
            bucket_id: root.id,
            created: 1,
            deleted: None,
            global_name: false,
            claim: None,
        };
        Head { row, root }
    }

    fn judge(witness: &Witness, known: Option<&Known>, head: &Head) -> bool {
        let bucket = bucket();
        witness.judge_row(&bucket, known, Some(&head.row)).is_ok()
            && witness.judge_root(&bucket, known, &head.row.pointer, &head.root).is_ok()
    }

    #[test]
    fn only_states_that_include_what_is_known_are_adopted() {
        let known = Known::of(&head(5, &[(1, 5), (2, 4)]));
        let adopted = |head: &Head| judge(&Witness::new(None, true), Some(&known), head);
        assert!(adopted(&head(5, &[(1, 5), (2, 4)])));
        assert!(adopted(&head(6, &[(1, 5), (2, 6)])));
        assert!(adopted(&head(7, &[(1, 5), (2, 4), (3, 7)])));
        // Behind; as far but another; further but without a commit that was there.
        assert!(!adopted(&head(4, &[(1, 3), (2, 4)])));
        assert!(!adopted(&head(5, &[(1, 4), (2, 5)])));
        assert!(!adopted(&head(9, &[(1, 3), (2, 4), (3, 9)])));
        assert!(!adopted(&head(9, &[(1, 5), (3, 9)])));
        let gone = Witness::new(None, true).judge_row(&bucket(), Some(&known), None);
        assert!(matches!(gone, Err(ServiceError::Regressed(_))));
    }

    #[test]
    fn a_mark_that_goes_back_or_changes_stops_writing() {
        let mark = |arbiter: &str, position| Mark { arbiter: arbiter.into(), position };
        let heard = |floor: &Mark, heard: &Mark| {
            let witness = Witness::new(None, true);
            witness.hear_mark(None, floor);
            witness.hear_mark(Some(floor), heard);
            witness.permit_write(&bucket()).is_ok()
        };
        assert!(heard(&mark("a", 5), &mark("a", 5)));
        assert!(heard(&mark("a", 5), &mark("a", 6)));
        assert!(!heard(&mark("a", 5), &mark("a", 4)));
        assert!(!heard(&mark("a", 5), &mark("b", 9)));
        // An answer that was overtaken is no regression.
        let witness = Witness::new(None, true);
        let floor = mark("a", 1);
        witness.hear_mark(None, &floor);
        witness.hear_mark(Some(&floor), &mark("a", 9));
        witness.hear_mark(Some(&floor), &mark("a", 3));
        assert!(witness.permit_write(&bucket()).is_ok());
        assert_eq!(witness.mark(), Some(mark("a", 9)));
    }

    #[tokio::test]
    async fn what_was_committed_is_known_after_a_crash() {
        let memory: Arc<dyn Directory> = Arc::new(MemoryDirectory::default());
        let first = Witness::open(Some(Arc::clone(&memory))).await.unwrap();
        let (four, five) = (head(4, &[(1, 4)]), head(5, &[(1, 5)]));
        first.commit(&bucket(), &four).await;
        first.learn(&bucket(), &five);
        let reopened = Witness::open(Some(Arc::clone(&memory))).await.unwrap();
        assert_eq!(*reopened.known(&bucket()).unwrap(), Known::of(&four));
        first.hear_mark(None, &Mark { arbiter: "a".into(), position: 7 });
        first.flush().await.unwrap();
        let reopened = Witness::open(Some(memory)).await.unwrap();
        assert_eq!(*reopened.known(&bucket()).unwrap(), Known::of(&five));
        assert_eq!(reopened.mark().unwrap().position, 7);
        // And it can be written on.
        reopened.commit(&bucket(), &head(6, &[(1, 6)])).await;
    }
}
