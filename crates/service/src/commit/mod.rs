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
mod contention;
mod drops;
mod heads;
mod publish;
mod replay;
mod round;
mod working;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    BucketId, BucketName, OwnerId, RootPointerStore, WriterId,
    root::{RootCounts, RootRow, Stamped, TimeMs},
    tree::Nodes,
};
use parking_lot::Mutex;
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
    working::decode_part,
};
use self::{drops::Sent, round::write_bucket};
use crate::{
    arbiter::{BucketAddress, Head, KnownState, PointerReader, RollbackGuard},
    caller::{Caller, IdempotencyKey, Seen},
    error::{Applied, ServiceError},
    fault_injection::Fault,
    limits::Limits,
    pins::{PinRegistry, RequestPins},
};

/// A change, and the terms on which it is asked for.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    /// The life of the name that the change is meant for; `None` for whichever there is.
    pub(crate) bucket: Option<BucketId>,
    /// The version that the bucket must be at.
    pub(crate) if_version: Option<u64>,
    /// How a retry is known.
    pub(crate) idempotency_key: Option<IdempotencyKey>,
    pub(crate) change: Change,
    /// Keeps what the change links to.
    _pins: RequestPins,
}

impl CommitRequest {
    /// Returns a caller's change to a life of a name.
    pub(crate) fn of(
        caller: &Caller,
        bucket: Option<BucketId>,
        idempotency_key: Option<IdempotencyKey>,
        change: Change,
    ) -> Self {
        let (if_version, pins) = (caller.if_version, caller.pins.clone());
        Self { bucket, if_version, idempotency_key, change, _pins: pins }
    }
}

/// What a change came to.
#[derive(Debug)]
struct Outcome {
    result: Result<Answer, ServiceError>,
    /// The bucket version that the result holds at; 0 when that is not known.
    version: u64,
    /// Whether the round must be published for it.
    writes: bool,
}

#[derive(Debug)]
struct Pending {
    request: CommitRequest,
    deadline: Instant,
    answer: oneshot::Sender<Outcome>,
}

/// Fails every change of a batch.
fn answer_all(batch: Vec<Pending>, error: &ServiceError) {
    for pending in batch {
        drop(pending.answer.send(Outcome {
            result: Err(error.clone()),
            version: 0,
            writes: false,
        }));
    }
}

/// The arbiter's clock, carried on from its last answer.
#[derive(Debug)]
struct ArbiterClock {
    last: Mutex<Option<(TimeMs, Instant)>>,
}

impl ArbiterClock {
    fn hear<T>(&self, stamped: &Stamped<T>) {
        *self.last.lock() = Some((stamped.time, Instant::now()));
    }

    fn now(&self) -> Option<TimeMs> {
        let (time, heard) = (*self.last.lock())?;
        Some(time + u64::try_from(heard.elapsed().as_millis()).unwrap_or(0))
    }
}

/// Publishes changes to buckets; cloned freely, shared by all requests.
#[derive(Clone, Debug)]
pub struct Committer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Arc<Nodes>,
    roots: Arc<dyn RootPointerStore>,
    reader: PointerReader,
    guard: Arc<RollbackGuard>,
    writer: WriterId,
    limits: Limits,
    clock: ArbiterClock,
    /// Newest head seen of each bucket; its version only rises.
    heads: Cache<BucketAddress, Arc<Head>>,
    /// Changes waiting, by bucket; an entry exists while a writer task does.
    queues: Mutex<BTreeMap<BucketAddress, Queue>>,
    sent: Mutex<Sent>,
    /// Where the next sweep of remembered outcomes begins, by bucket.
    sweeps: Mutex<BTreeMap<BucketAddress, Bytes>>,
    /// When another writer was last heard to ask for its turn, by bucket.
    priority_claims: Mutex<BTreeMap<BucketAddress, Instant>>,
    /// Told whenever a writer task ends.
    writer_stopped: Notify,
    /// What the collector must leave alone.
    pin_registry: Arc<PinRegistry>,
    collecting: tokio::sync::Mutex<()>,
}

/// Changes waiting for one bucket, and the bytes that ride with them.
#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<Pending>,
    bytes: usize,
}

impl Committer {
    /// Commits through `roots` as `writer`, which no other process is; `guard` remembers how
    /// far the arbiter had come.
    pub fn new(
        nodes: Arc<Nodes>,
        roots: Arc<dyn RootPointerStore>,
        writer: WriterId,
        limits: Limits,
        guard: RollbackGuard,
    ) -> Self {
        let guard = Arc::new(guard);
        Self(Arc::new(Inner {
            nodes,
            reader: PointerReader::new(Arc::clone(&roots), Arc::clone(&guard)),
            guard,
            roots,
            writer,
            clock: ArbiterClock { last: Mutex::new(None) },
            heads: Cache::new(limits.heads_max),
            queues: Mutex::default(),
            sent: Mutex::default(),
            sweeps: Mutex::default(),
            priority_claims: Mutex::default(),
            writer_stopped: Notify::new(),
            pin_registry: Arc::default(),
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

    /// Returns rows of all owners after a place, unless the arbiter is in doubt.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn scan_buckets(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Vec<RootRow>, ServiceError> {
        self.0.believed(self.0.roots.scan_roots(after, limit)).await
    }

    /// Returns how many buckets and global names an owner has, unless the arbiter is in doubt.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn count_buckets(&self, owner: OwnerId) -> Result<RootCounts, ServiceError> {
        self.0.believed(self.0.roots.count_roots(owner)).await
    }

    /// Returns the row of a bucket as the arbiter has it, unless the arbiter is in doubt.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn bucket_row(
        &self,
        bucket: &BucketAddress,
    ) -> Result<Option<RootRow>, ServiceError> {
        let names = [bucket.clone()];
        Ok(self.0.believed(self.0.roots.get_roots(&names)).await?.pop().flatten())
    }

    /// Returns what requests keep from the collector.
    pub(crate) fn pin_registry(&self) -> &Arc<PinRegistry> {
        &self.0.pin_registry
    }

    /// Returns whether any write is in flight, or any body on its way.
    pub fn is_busy(&self) -> bool {
        self.0.pin_registry.is_busy()
    }

    /// Returns what is held by whoever collects.
    pub(crate) fn collecting(&self) -> &tokio::sync::Mutex<()> {
        &self.0.collecting
    }

    /// Returns what this master remembers of the arbiter.
    pub fn guard(&self) -> &RollbackGuard {
        &self.0.guard
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
        if self.0.limits.faults.has(Fault::ReadFromCachedRoot)
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
            Err(
                error @ (ServiceError::Unavailable(_)
                | ServiceError::Damaged(_)
                | ServiceError::Regressed(_)),
            ) if self.0.limits.stale_reads => {
                let head = self.0.heads.get(bucket).ok_or(error)?;
                seen.note_stale();
                Ok(Some(head).filter(|head| head.row.deleted.is_none()))
            }
            current => current,
        }
    }

    /// Judges and adopts a row of an arbiter that drops none, asked for when `known` was known.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`] for one of the past; [`ServiceError::Unavailable`].
    pub(crate) async fn adopt(
        &self,
        bucket: &BucketAddress,
        row: Option<RootRow>,
        known: &Arc<KnownState>,
    ) -> Result<(), ServiceError> {
        let asked = self.0.guard.asked_with(Arc::clone(known));
        self.0.adopt_row(bucket, row, &asked).await.map(drop)
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
        request: CommitRequest,
        seen: &Seen,
    ) -> Result<Answer, ServiceError> {
        let deadline = Instant::now() + seen.left_of(self.0.limits.commit_deadline);
        let (answer, result) = oneshot::channel();
        let bytes = request.change.bytes();
        let pending = Pending { request, deadline, answer };
        {
            let mut queues = self.0.queues.lock();
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
            if self.0.queues.lock().is_empty() {
                return;
            }
            stopped.await;
        }
    }
}
