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
    ops::Bound,
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
    /// How many alarms have ended.
    calms: u64,
}

/// How far the arbiter was known to have come when something was asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Floor {
    mark: Option<Mark>,
    /// What was asked before an alarm ended says nothing about the arbiter after it.
    calms: u64,
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

    /// Returns up to `limit` buckets known after `after`, with their newest states.
    pub(crate) fn known_after(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Vec<(BucketAddress, Arc<Known>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let page = state.buckets.range((from, Bound::Unbounded)).take(limit);
        page.map(|(bucket, known)| (bucket.clone(), Arc::clone(known))).collect()
    }

    /// Returns what an answer to a question asked now is compared with.
    pub(crate) fn floor(&self) -> Floor {
        let state = self.state();
        Floor { mark: state.mark.clone(), calms: state.calms }
    }

    /// Returns why no pointer is believed, if so.
    pub fn alarm(&self) -> Option<Alarm> {
        self.state().alarm.clone()
    }

    /// Judges a mark against what was the highest when its answer was asked for; `false` when the
    /// answer is not to be believed: the arbiter went back, or came back meanwhile.
    pub(crate) fn hear_mark(&self, floor: &Floor, heard: &Mark) -> bool {
        if !self.is_on {
            return true;
        }
        let is_behind =
            |mark: &Mark| mark.arbiter != heard.arbiter || mark.position > heard.position;
        let mut state = self.state();
        if state.calms != floor.calms {
            return false;
        }
        if let Some(mark) = floor.mark.as_ref().filter(|mark| is_behind(mark)) {
            drop(state);
            self.raise(format!("the arbiter's mark is {heard:?}, and was {mark:?}"));
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

    /// Judges a swap that was won against what was heard meanwhile: a state as far or further
    /// that lacks it is of an arbiter that went back after carrying it out.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`].
    pub(crate) fn judge_won(
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
        Err(self.regress(bucket, "it went on without a commit that it had taken"))
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

    /// Judges an answer of the arbiter that is about no bucket in particular.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`].
    pub(crate) fn judge_answer(&self, floor: &Floor, heard: &Mark) -> Result<(), ServiceError> {
        let is_believed = self.hear_mark(floor, heard);
        match self.alarm() {
            Some(alarm) => Err(regressed(&alarm.reason)),
            None if !is_believed => Err(regressed("it was asked while the arbiter was in doubt")),
            None => Ok(()),
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
        let written = self.write(MARK, || {
            let mut state = self.state();
            let mark = state.mark.clone().filter(|_| state.mark_is_dirty)?;
            state.mark_is_dirty = false;
            let stored = StoredMark { arbiter: mark.arbiter, position: mark.position };
            Some(serde_json::to_vec(&stored).unwrap_or_default().into())
        });
        let written = written.await;
        if written.is_err() {
            self.state().mark_is_dirty = true;
        }
        written
    }

    async fn keep(&self, bucket: &BucketAddress) -> Result<(), ServiceError> {
        let name = name_of(bucket);
        let written = self.write(&name, || {
            let mut state = self.state();
            state.dirty.remove(bucket);
            state.buckets.get(bucket).map(|known| known.encode())
        });
        let written = written.await;
        if written.is_err() {
            self.state().dirty.insert(bucket.clone());
        }
        written
    }

    /// Writes what `newest` returns, if anything. It is asked under the record's lock: whoever
    /// writes last has read last, so a record never goes back to an older state.
    async fn write(
        &self,
        name: &str,
        newest: impl FnOnce() -> Option<Bytes> + Send,
    ) -> Result<(), ServiceError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let mut records = self.stripe(name).lock().await;
        let Some(value) = newest() else { return Ok(()) };
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
        state.calms += 1;
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
            witness.hear_mark(&witness.floor(), floor);
            witness.hear_mark(&witness.floor(), heard);
            witness.permit_write(&bucket()).is_ok()
        };
        assert!(heard(&mark("a", 5), &mark("a", 5)));
        assert!(heard(&mark("a", 5), &mark("a", 6)));
        assert!(!heard(&mark("a", 5), &mark("a", 4)));
        assert!(!heard(&mark("a", 5), &mark("b", 9)));
        // An answer that was overtaken is no regression.
        let witness = Witness::new(None, true);
        witness.hear_mark(&witness.floor(), &mark("a", 1));
        let floor = witness.floor();
        assert!(witness.hear_mark(&floor, &mark("a", 9)));
        assert!(witness.hear_mark(&floor, &mark("a", 3)));
        assert!(witness.permit_write(&bucket()).is_ok());
        assert_eq!(witness.floor().mark, Some(mark("a", 9)));
    }

    #[test]
    fn what_was_asked_during_an_alarm_raises_no_other() {
        let mark = |arbiter: &str, position| Mark { arbiter: arbiter.into(), position };
        let witness = Witness::new(None, true);
        witness.hear_mark(&witness.floor(), &mark("a", 5));
        let asked = witness.floor();
        assert!(!witness.hear_mark(&asked, &mark("b", 2)));
        assert!(witness.judge_answer(&witness.floor(), &mark("b", 2)).is_err());
        witness.calm(mark("b", 3), BTreeSet::new());
        // On its way since before: not believed, and no reason for another alarm.
        assert!(witness.judge_answer(&asked, &mark("b", 2)).is_err());
        assert_eq!(witness.alarm(), None);
        assert!(witness.judge_answer(&witness.floor(), &mark("b", 4)).is_ok());
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
        first.hear_mark(&first.floor(), &Mark { arbiter: "a".into(), position: 7 });
        first.flush().await.unwrap();
        let reopened = Witness::open(Some(memory)).await.unwrap();
        assert_eq!(*reopened.known(&bucket()).unwrap(), Known::of(&five));
        assert_eq!(reopened.floor().mark.unwrap().position, 7);
        // And it can be written on.
        reopened.commit(&bucket(), &head(6, &[(1, 6)])).await;
    }
}
