//! The commit pipeline: the only place where requests change a bucket. A lost swap is retried in
//! `round`, an unanswered one in `publish`. Recovery and import swap past it.
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
use fula_core::{BucketAddress, BucketId};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub(crate) use self::{
    change::{
        Answer, Change, CompleteUpload, LOCATION, Source, Step, StepKind, content_of, empty_block,
        is_expired, parts_hash,
    },
    working::decode_part,
};
use self::{drops::Sent, round::write_bucket};
use crate::{
    arbiter::Arbiter,
    caller::{Caller, IdempotencyKey, Seen},
    error::{Applied, ServiceError},
    limits::Limits,
    pins::RequestPins,
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

/// Returns when the last change of a batch must be answered.
fn latest_deadline(batch: &[Pending]) -> Instant {
    batch.iter().map(|pending| pending.deadline).max().unwrap_or_else(Instant::now)
}

/// Publishes changes to buckets; cloned freely, shared by all requests.
#[derive(Clone, Debug)]
pub struct Committer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    arbiter: Arbiter,
    limits: Limits,
    /// Changes waiting, by bucket; an entry exists while a writer task does.
    queues: Mutex<BTreeMap<BucketAddress, Queue>>,
    sent: Mutex<Sent>,
    /// Where the next sweep of remembered outcomes begins, by bucket.
    sweeps: Mutex<BTreeMap<BucketAddress, Bytes>>,
    /// Told whenever a writer task ends.
    writer_stopped: Notify,
}

/// Changes waiting for one bucket, and the bytes that ride with them.
#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<Pending>,
    bytes: usize,
}

impl Committer {
    /// Commits through `arbiter`.
    pub fn new(arbiter: Arbiter, limits: Limits) -> Self {
        Self(Arc::new(Inner {
            arbiter,
            limits,
            queues: Mutex::default(),
            sent: Mutex::default(),
            sweeps: Mutex::default(),
            writer_stopped: Notify::new(),
        }))
    }

    /// Returns the arbiter through which this commits.
    pub fn arbiter(&self) -> &Arbiter {
        &self.0.arbiter
    }

    /// Returns the bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
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
