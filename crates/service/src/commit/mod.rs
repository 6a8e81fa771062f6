//! The commit pipeline: the only place that publishes roots, and the only loop that retries.
//!
//! Per bucket there is at most one writer task, existing only while there is work. Requests
//! queue; each round takes all that queued while the last one was in flight, judges and applies
//! them in order to the newest root known, writes the new nodes, and swaps the root pointer once
//! for all of them. Group commit adds no delay and grows with load. docs/adr/0004.
//!
//! # Invariants
//! - Blocks are durable before, or with, the pointer that needs them; never after.
//! - Every answer is carried by a won swap, or its base was current after the request arrived.
//! - A lost swap is judged again from the start on the newer root.
//! - An unanswered swap is resolved by `authors`, never guessed.

mod change;
mod memory;
mod publish;
mod turns;
mod working;

use std::{
    collections::{BTreeMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    BucketId, BucketName, OwnerId, RootPointerStore, StoreError, WriterId,
    block::require,
    bucket::BucketRoot,
    root::{RootRow, Stamped, TimeMs},
    tree::Nodes,
};
use futures::FutureExt;
use quick_cache::sync::Cache;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub(crate) use self::{
    change::{
        Answer, Change, CompleteUpload, Source, Step, StepKind, content_of, empty_block,
        is_expired, parts_hash,
    },
    memory::Print,
    working::decode_part,
};
use self::{publish::Swapped, turns::Turn, working::Working};
pub use crate::pointers::BucketAddress;
use crate::{
    caller::{Caller, Seen},
    collect::{Stake, Stakes},
    error::{Applied, ConditionName, ServiceError},
    flaw::{Flaw, Flaws},
    limits::Limits,
    pointers::{Heard, PointerReader},
    witness::{Known, Witness},
};

/// A row and the root it points to, which agree.
#[derive(Clone, Debug)]
pub struct Head {
    /// What the arbiter said.
    pub row: RootRow,
    /// The decoded root.
    pub root: BucketRoot,
}

impl Head {
    /// Returns whose bucket this is, and its name.
    pub fn address(&self) -> BucketAddress {
        (self.row.owner, self.row.bucket.clone())
    }
}

/// A change, and the terms on which it is asked for.
#[derive(Debug)]
pub(crate) struct Ask {
    /// The life of the name that the change is meant for; `None` for whichever there is.
    pub(crate) bucket: Option<BucketId>,
    /// The version that the bucket must be at.
    pub(crate) if_version: Option<u64>,
    /// How a retry is known.
    pub(crate) print: Option<Print>,
    pub(crate) change: Change,
    /// Keeps what the change links to.
    _stake: Stake,
}

impl Ask {
    /// Returns a caller's change to a life of a name.
    pub(crate) fn of(
        caller: &Caller,
        bucket: Option<BucketId>,
        print: Option<Print>,
        change: Change,
    ) -> Self {
        let (if_version, stake) = (caller.if_version, caller.stake.clone());
        Self { bucket, if_version, print, change, _stake: stake }
    }
}

/// What a change came to.
#[derive(Debug)]
struct Outcome {
    result: Result<Answer, ServiceError>,
    /// The bucket version that the result holds at; 0 when that is not known.
    version: u64,
}

#[derive(Debug)]
struct Pending {
    ask: Ask,
    deadline: Instant,
    answer: oneshot::Sender<Outcome>,
}

/// The arbiter's clock, carried on from its last answer.
#[derive(Debug)]
struct ArbiterClock {
    last: Mutex<Option<(TimeMs, Instant)>>,
}

impl ArbiterClock {
    fn hear<T>(&self, stamped: &Stamped<T>) {
        *lock(&self.last) = Some((stamped.time, Instant::now()));
    }

    fn now(&self) -> Option<TimeMs> {
        let (time, heard) = (*lock(&self.last))?;
        Some(time + u64::try_from(heard.elapsed().as_millis()).unwrap_or(0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes changes to buckets; cloned freely, shared by all requests.
#[derive(Clone, Debug)]
pub struct Committer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Arc<Nodes>,
    roots: Arc<dyn RootPointerStore>,
    reader: PointerReader,
    witness: Arc<Witness>,
    writer: WriterId,
    limits: Limits,
    clock: ArbiterClock,
    /// Newest head seen of each bucket; its version only rises.
    heads: Cache<BucketAddress, Arc<Head>>,
    /// Changes waiting, by bucket; an entry exists while a writer task does.
    queues: Mutex<BTreeMap<BucketAddress, Queue>>,
    /// Highest version that this process swapped for, by bucket. No two roots of one writer may
    /// carry the same one: `authors` could not tell them apart, and a base may be older than the
    /// writer's own last commit.
    sent: Mutex<BTreeMap<BucketAddress, u64>>,
    /// Where the next sweep of remembered outcomes begins, by bucket.
    sweeps: Mutex<BTreeMap<BucketAddress, Bytes>>,
    /// When another writer was last heard to ask for its turn, by bucket.
    claims: Mutex<BTreeMap<BucketAddress, Instant>>,
    /// Told whenever a writer task ends.
    writer_stopped: Notify,
    /// What the collector must leave alone.
    stakes: Arc<Stakes>,
    collecting: tokio::sync::Mutex<()>,
}

/// Changes waiting for one bucket, and the bytes that ride with them.
#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<Pending>,
    bytes: usize,
}

impl Committer {
    /// Commits through `roots` as `writer`, which no other process is; `witness` remembers how
    /// far the arbiter had come.
    pub fn new(
        nodes: Arc<Nodes>,
        roots: Arc<dyn RootPointerStore>,
        writer: WriterId,
        limits: Limits,
        witness: Witness,
    ) -> Self {
        let witness = Arc::new(witness);
        Self(Arc::new(Inner {
            nodes,
            reader: PointerReader::new(Arc::clone(&roots), Arc::clone(&witness)),
            witness,
            roots,
            writer,
            clock: ArbiterClock { last: Mutex::new(None) },
            heads: Cache::new(limits.heads_max),
            queues: Mutex::default(),
            sent: Mutex::default(),
            sweeps: Mutex::default(),
            claims: Mutex::default(),
            writer_stopped: Notify::new(),
            stakes: Arc::default(),
            collecting: tokio::sync::Mutex::default(),
            limits,
        }))
    }

    /// Returns the tree nodes, and the block store behind them.
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.0.nodes
    }

    /// Returns the arbiter.
    pub fn roots(&self) -> &Arc<dyn RootPointerStore> {
        &self.0.roots
    }

    /// Returns the row that holds a global name, unless the arbiter is in doubt.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn find_bucket(
        &self,
        name: &BucketName,
    ) -> Result<Option<RootRow>, ServiceError> {
        self.0.believed(self.0.roots.find_bucket(name)).await
    }

    /// Returns rows of an owner after a name, unless the arbiter is in doubt.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn list_buckets(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Vec<RootRow>, ServiceError> {
        self.0.believed(self.0.roots.list_roots(owner, after, limit)).await
    }

    /// Returns what requests keep from the collector.
    pub(crate) fn stakes(&self) -> &Arc<Stakes> {
        &self.0.stakes
    }

    /// Returns whether any write is in flight, or any body on its way.
    pub fn is_busy(&self) -> bool {
        self.0.stakes.is_busy()
    }

    /// Returns what is held by whoever collects.
    pub(crate) fn collecting(&self) -> &tokio::sync::Mutex<()> {
        &self.0.collecting
    }

    /// Returns what this master remembers of the arbiter.
    pub fn witness(&self) -> &Witness {
        &self.0.witness
    }

    /// Returns the bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Returns the bucket's state as of some moment after the call; `None` when it does not
    /// exist. Linearizable: a change acknowledged anywhere before the call is in it.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: the arbiter or the root block cannot be had.
    pub async fn current(&self, bucket: &BucketAddress) -> Result<Option<Arc<Head>>, ServiceError> {
        if self.0.limits.flaws.has(Flaw::ReadFromCachedRoot)
            && let Some(head) = self.0.heads.get(bucket)
        {
            return Ok(Some(head).filter(|head| head.row.deleted.is_none()));
        }
        let head = self.0.newest(bucket).await?;
        Ok(head.filter(|head| head.row.deleted.is_none()))
    }

    /// Returns the newest state known of a bucket, which may have been replaced since.
    pub(crate) fn last_known(&self, bucket: &BucketAddress) -> Option<Arc<Head>> {
        self.0.heads.get(bucket).filter(|head| head.row.deleted.is_none())
    }

    /// Returns the bucket's state to read from: the current one, or with `FULA_STALE_READS` the
    /// last one known while the arbiter cannot be asked, which is noted in `seen`.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub(crate) async fn readable(
        &self,
        bucket: &BucketAddress,
        seen: &Seen,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        match self.current(bucket).await {
            Err(error @ (ServiceError::Unavailable(_) | ServiceError::Regressed(_)))
                if self.0.limits.stale_reads =>
            {
                let head = self.0.heads.get(bucket).ok_or(error)?;
                seen.note_stale();
                Ok(Some(head).filter(|head| head.row.deleted.is_none()))
            }
            current => current,
        }
    }

    /// Judges and adopts a row that was asked for when `known` was known.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`] for one of the past; [`ServiceError::Unavailable`].
    pub(crate) async fn adopt(
        &self,
        bucket: &BucketAddress,
        row: Option<RootRow>,
        known: &Known,
    ) -> Result<(), ServiceError> {
        self.0.adopt_row(bucket, row, Some(known)).await.map(drop)
    }

    /// Returns the arbiter's time, as far as it was heard of.
    pub async fn now(&self) -> Result<TimeMs, ServiceError> {
        self.0.now().await
    }

    /// Queues a change and waits for its answer; notes in `seen` the version it holds at.
    ///
    /// # Errors
    /// What judging it came to; [`ServiceError::Busy`] when the queue is full or time ran out.
    pub(crate) async fn submit(
        &self,
        bucket: &BucketAddress,
        ask: Ask,
        seen: &Seen,
    ) -> Result<Answer, ServiceError> {
        let deadline = Instant::now() + seen.left_of(self.0.limits.commit_deadline);
        let (answer, result) = oneshot::channel();
        let bytes = ask.change.bytes();
        let pending = Pending { ask, deadline, answer };
        {
            let mut queues = lock(&self.0.queues);
            let is_new = !queues.contains_key(bucket);
            let queue = queues.entry(bucket.clone()).or_default();
            let limits = &self.0.limits;
            let full = queue.pending.len() >= limits.queue_max
                || (queue.bytes + bytes > limits.queue_bytes_max && !queue.pending.is_empty());
            if full {
                return Err(ServiceError::Busy(Applied::None));
            }
            queue.bytes += bytes;
            queue.pending.push_back(pending);
            if is_new {
                tokio::spawn(write_bucket(Arc::clone(&self.0), bucket.clone()));
            }
        }
        // The writer answers by the deadline unless a store hangs; then nobody knows.
        let patience = deadline + Duration::from_secs(1);
        match tokio::time::timeout_at(patience, result).await {
            Ok(Ok(outcome)) => {
                if outcome.version > 0 {
                    seen.note(outcome.version);
                }
                outcome.result
            }
            Ok(Err(_)) | Err(_) => Err(ServiceError::Busy(Applied::Unknown)),
        }
    }

    /// Waits until no change is queued or in flight.
    pub async fn drained(&self) {
        loop {
            let stopped = self.0.writer_stopped.notified();
            tokio::pin!(stopped);
            stopped.as_mut().enable();
            if lock(&self.0.queues).is_empty() {
                return;
            }
            stopped.await;
        }
    }
}

/// Runs rounds for one bucket until its queue is empty.
async fn write_bucket(inner: Arc<Inner>, bucket: BucketAddress) {
    let mut turn = None;
    loop {
        if let Some(turn) = turn.take() {
            inner.give_way(&bucket, turn).await;
        }
        let batch = {
            let mut queues = lock(&inner.queues);
            let Some(queue) = queues.get_mut(&bucket) else { return };
            let batch = take_batch(queue, &inner.limits);
            if batch.is_empty() {
                queues.remove(&bucket);
                inner.writer_stopped.notify_waiters();
                return;
            }
            batch
        };
        metrics::counter!("fula_commit_rounds_total").increment(1);
        let changes = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        metrics::histogram!("fula_commit_batch_changes").record(changes);
        // Of its own: the writers may be gone before the swap is known.
        let _lease = inner.stakes.begin();
        // A bug in one round must not wedge the bucket: its writers are told that nobody knows.
        let round = AssertUnwindSafe(inner.round(&bucket, batch)).catch_unwind();
        turn = round.await.unwrap_or_else(|_| {
            tracing::error!(bucket = %bucket.1, "a commit round panicked");
            inner.heads.remove(&bucket);
            None
        });
        // Whoever was answered goes first: the next round may wait for the disk on this thread.
        if lock(&inner.queues).get(&bucket).is_some_and(|queue| !queue.pending.is_empty()) {
            tokio::task::yield_now().await;
        }
    }
}

fn take_batch(queue: &mut Queue, limits: &Limits) -> Vec<Pending> {
    let mut bytes = 0;
    let mut batch = Vec::new();
    while let Some(next) = queue.pending.front() {
        bytes += next.ask.change.bytes();
        // A condition on the version of the bucket is about a state that nothing in the same
        // round has touched.
        let is_alone = |pending: &Pending| pending.ask.if_version.is_some();
        let full = batch.len() >= limits.round_changes_max
            || bytes > limits.round_bytes_max
            || is_alone(next)
            || batch.last().is_some_and(is_alone);
        if full && !batch.is_empty() {
            break;
        }
        queue.bytes -= next.ask.change.bytes();
        batch.extend(queue.pending.pop_front());
    }
    batch
}

fn answer_all(batch: Vec<Pending>, error: &ServiceError) {
    for pending in batch {
        drop(pending.answer.send(Outcome { result: Err(error.clone()), version: 0 }));
    }
}

impl Inner {
    /// Judges, applies and publishes one batch, again and again until it is published or refused.
    ///
    /// Returns the turn that was had, when another master is after the next one.
    async fn round(&self, bucket: &BucketAddress, mut batch: Vec<Pending>) -> Option<Turn> {
        let started = Instant::now();
        // The swap tells if this guess is stale, and so does the read before an empty answer. It is
        // never older than what this master knows: an arbiter that went back to it would take the
        // swap, and `authors` would say that it holds commits which it lacks.
        let known = self.witness.known(bucket);
        let mut base = self.heads.get(bucket).filter(|head| {
            known.as_ref().is_none_or(|known| head.row.pointer.version >= known.pointer.version)
        });
        let mut is_current = false;
        if base.is_none() {
            match self.newest(bucket).await {
                Ok(head) => (base, is_current) = (head, true),
                Err(error) => {
                    answer_all(batch, &error);
                    return None;
                }
            }
        }
        for attempt in 0..self.limits.round_attempts_max {
            if attempt > 0 {
                metrics::counter!("fula_commit_rebases_total").increment(1);
            }
            let now = Instant::now();
            let (alive, expired) = batch.into_iter().partition(|p: &Pending| p.deadline > now);
            answer_all(expired, &ServiceError::Busy(Applied::None));
            batch = alive;
            if batch.is_empty() {
                return None;
            }
            let judged = self.judge(bucket, base.as_deref(), &batch, attempt > 0).await;
            let (outcomes, sealed) = match judged {
                Ok(judged) => judged,
                Err(error) => {
                    answer_all(batch, &error);
                    return None;
                }
            };
            let Some(sealed) = sealed else {
                // Nothing to publish: the answers hold only for a base known to be current.
                if is_current || self.limits.flaws.has(Flaw::AnswerFromStaleBase) {
                    answer_each(batch, outcomes);
                    return None;
                }
                match self.newest(bucket).await {
                    Ok(head) => {
                        let pointer =
                            |head: &Option<Arc<Head>>| head.as_ref().map(|head| head.row.pointer);
                        if pointer(&head) == pointer(&base) {
                            answer_each(batch, outcomes);
                            return None;
                        }
                        (base, is_current) = (head, true);
                    }
                    Err(error) => {
                        answer_all(batch, &error);
                        return None;
                    }
                }
                continue;
            };
            let deadline = batch.iter().map(|pending| pending.deadline).max().unwrap_or(now);
            match self.publish(bucket, base.as_deref(), &sealed, deadline, &mut batch).await {
                Swapped::Won => {
                    let head = Head::after(&sealed, bucket, base.as_deref());
                    self.witness.commit(bucket, &head).await;
                    // No base is older than what is known, so this is known twice.
                    lock(&self.sent).remove(bucket);
                    let turn = self.had_turn(bucket, &head, started);
                    let head = Arc::new(head);
                    self.stakes.note(&head);
                    self.adopt(bucket, head);
                    answer_each(batch, outcomes);
                    return turn;
                }
                Swapped::Lost(current) => {
                    self.claim(bucket);
                    (base, is_current) = (current, true);
                }
                Swapped::Failed(error) => {
                    answer_all(batch, &error);
                    return None;
                }
            }
        }
        answer_all(batch, &ServiceError::Busy(Applied::None));
        None
    }

    /// Judges and applies every change in order; returns their answers and what to publish.
    async fn judge(
        &self,
        bucket: &BucketAddress,
        base: Option<&Head>,
        batch: &[Pending],
        is_rebase: bool,
    ) -> Result<(Vec<Outcome>, Option<working::Sealed>), ServiceError> {
        let now = self.now().await?;
        let sent = lock(&self.sent).get(bucket).copied().unwrap_or(0);
        let mut work = Working::new(&self.nodes, bucket, base, now, sent)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        let flaws = self.limits.flaws;
        work.ignore_conditions(
            flaws.has(Flaw::ConditionJudgedOnlyEarly)
                || (is_rebase && flaws.has(Flaw::RebaseWithoutJudging)),
        );
        let base_version = base.map_or(0, |head| head.row.pointer.version);
        for Pending { ask, .. } in batch {
            outcomes.push(ask.judge(&mut work, base_version, flaws).await);
        }
        if !work.is_changed() {
            for outcome in &mut outcomes {
                outcome.version = outcome.version.min(base_version);
            }
            return Ok((outcomes, None));
        }
        if work.recent_edited().1 > 0 {
            let from = lock(&self.sweeps).remove(bucket).unwrap_or_default();
            let next = work.sweep_recent(from).await?;
            let mut sweeps = lock(&self.sweeps);
            if sweeps.len() >= self.limits.heads_max {
                sweeps.clear();
            }
            sweeps.insert(bucket.clone(), next);
        }
        let generation = base.map_or(0, |head| head.row.pointer.generation);
        let sealed = work.seal(self.writer, generation).await?;
        Ok((outcomes, Some(sealed)))
    }

    /// Reads the pointer, begun after the call, and the root behind it.
    /// Asks the arbiter something that is about no bucket in particular.
    async fn believed<T>(
        &self,
        asked: impl Future<Output = Result<Stamped<T>, StoreError>>,
    ) -> Result<T, ServiceError> {
        let floor = self.witness.floor();
        let stamped = asked.await?;
        self.witness.judge_answer(&floor, &stamped.mark)?;
        Ok(stamped.value)
    }

    async fn newest(&self, bucket: &BucketAddress) -> Result<Option<Arc<Head>>, ServiceError> {
        let _look = self.stakes.look();
        let Heard { stamped, known } = self.reader.read(bucket).await?;
        self.clock.hear(&stamped);
        self.adopt_row(bucket, stamped.value, known.as_deref()).await
    }

    /// Returns the head of a row, unless the row is of the past; `known` is what was known when
    /// it was asked for.
    async fn adopt_row(
        &self,
        bucket: &BucketAddress,
        row: Option<RootRow>,
        known: Option<&Known>,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        self.witness.judge_row(bucket, known, row.as_ref())?;
        let Some(row) = row else { return Ok(None) };
        self.hear_claim(bucket, &row);
        self.load(bucket, row, known).await.map(Some)
    }

    /// Returns the head of a row, from memory when it is known.
    async fn load(
        &self,
        bucket: &BucketAddress,
        row: RootRow,
        known: Option<&Known>,
    ) -> Result<Arc<Head>, ServiceError> {
        if let Some(head) = self.heads.get(bucket)
            && head.row.pointer == row.pointer
        {
            return Ok(head);
        }
        let block = require(self.nodes.blocks().as_ref(), &row.pointer.root).await?;
        let root = BucketRoot::from_block(&block)?;
        let agree = root.owner == row.owner
            && root.name == row.bucket
            && root.version == row.pointer.version
            && root.id == row.bucket_id;
        if !agree {
            let why = "root block and pointer disagree";
            return Err(StoreError::Malformed { what: "bucket root", why }.into());
        }
        self.witness.judge_root(bucket, known, &row.pointer, &root)?;
        let head = Arc::new(Head { row, root });
        self.stakes.note(&head);
        self.witness.learn(bucket, &head);
        self.adopt(bucket, Arc::clone(&head));
        Ok(head)
    }

    /// Remembers a head unless a newer one is known.
    fn adopt(&self, bucket: &BucketAddress, head: Arc<Head>) {
        let known = self.heads.get(bucket);
        if known.is_none_or(|known| known.row.pointer.version < head.row.pointer.version) {
            self.heads.insert(bucket.clone(), head);
        }
    }

    async fn now(&self) -> Result<TimeMs, ServiceError> {
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        let stamped = self.roots.get_roots(&[]).await?;
        self.clock.hear(&stamped);
        Ok(stamped.time)
    }
}

impl Ask {
    /// Judges and applies the change, unless it was carried out before.
    async fn judge(&self, work: &mut Working<'_>, base: u64, flaws: Flaws) -> Outcome {
        let print = self.print.as_ref().filter(|_| !flaws.has(Flaw::RecordOff));
        if let Some(print) = print {
            match work.remembered(print).await {
                Ok(Some((result, version))) => {
                    metrics::counter!("fula_commit_remembered_total").increment(1);
                    return Outcome { result, version };
                }
                Ok(None) => {}
                Err(error) => return Outcome { result: Err(error), version: 0 },
            }
        }
        let changes = work.changes();
        let found = work.require_bucket();
        let is_meant = self.bucket.is_none_or(|id| found.is_ok_and(|found| found == id));
        let result = if !is_meant {
            Err(ServiceError::NoSuchBucket)
        } else if self.if_version.is_some_and(|version| version != base) {
            Err(ServiceError::PreconditionFailed(ConditionName::BucketVersion))
        } else {
            let print = self.print.as_ref().map(|print| print.fingerprint);
            self.change.apply(work, print).await
        };
        // What changed nothing may be tried again, unless another attempt may still be under way.
        if let Some(print) = print
            && (print.is_retry || work.changes() > changes)
        {
            work.remember(print, &result);
        }
        // A completion that was carried out before answers with what it made then.
        let version = match &result {
            Ok(Answer::Object(record)) => record.seq.version,
            _ => work.version(),
        };
        Outcome { result, version }
    }
}

fn answer_each(batch: Vec<Pending>, outcomes: Vec<Outcome>) {
    for (pending, outcome) in batch.into_iter().zip(outcomes) {
        drop(pending.answer.send(outcome));
    }
}
