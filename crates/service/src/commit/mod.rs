//! The commit pipeline: the only place where requests change a bucket. A lost swap is retried in `round`,
//! an unanswered one is resolved in `publish`. Recovery and import bypass the pipeline.
//!
//! Each bucket has at most one writer task, which exists only while there is work. Requests queue. Each
//! round takes all changes that queued during the last one, applies them in order to the newest known root,
//! writes the new nodes, and swaps the root pointer once for all of them. Group commit adds no delay and
//! grows with the load (docs/adr/0004).
//!
//! # Invariants
//! - Blocks are durable before, or with, the pointer that needs them; never after.
//! - Every answer comes from a won swap, or from a base that was current after the request arrived.
//! - After a lost swap all changes are examined and applied again on the newer root.
//! - An unanswered swap is resolved with `authors`, never by a guess.

mod append;
mod change;
mod completion;
mod contention;
mod deleted;
mod drops;
mod edits;
mod expiry;
mod overlay;
mod owner;
mod publish;
mod replay;
mod round;
mod source;
mod step;
mod versions;
mod working;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fula_core::{BucketAddress, BucketId, Cid, OwnerId};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub use self::deleted::Deleted;
pub(crate) use self::{
    append::Append,
    change::{Change, Content, LOCATION, TAGGING, content_of, empty_block},
    completion::{CompleteUpload, is_expired, parts_hash},
    deleted::KeyToDelete,
    edits::Answer,
    expiry::{Expired, Expiry},
    source::{Replacement, Source},
    step::{Step, StepKind, Steps},
    versions::Amendment,
    working::decode_part,
};
use self::{drops::Sent, owner::Owners, round::write_bucket};
use crate::{
    arbiter::Arbiter,
    caller::{Caller, IdempotencyKey, Seen},
    error::{Applied, ServiceError},
    limits::{BucketLimits, Limits},
    pins::{Origin, RequestPins},
};

/// Address of the settings of a bucket; `None` while it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SettingsLink(pub(crate) Option<Cid>);

/// A change, and the conditions of the request for it.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    /// Id of the life of the name that the change is for; `None` for any.
    pub(crate) bucket: Option<BucketId>,
    /// Version that the bucket must be at.
    pub(crate) if_version: Option<u64>,
    /// Key by which a retry is recognised.
    pub(crate) idempotency_key: Option<IdempotencyKey>,
    pub(crate) change: Arc<Change>,
    /// The settings by which the change was allowed, where that was decided by a state that may not be the
    /// newest.
    pub(crate) settings: Option<SettingsLink>,
    /// What content relies on that the change links to and does not carry.
    pub(crate) origin: Option<Origin>,
    /// Pins the blocks that the change links to.
    pins: RequestPins,
}

impl CommitRequest {
    /// Returns the request of a caller to change a life of a name.
    pub(crate) fn of(
        caller: &Caller,
        bucket: Option<BucketId>,
        idempotency_key: Option<IdempotencyKey>,
        change: impl Into<Arc<Change>>,
    ) -> Self {
        let (if_version, pins) = (caller.if_version, caller.pins.clone());
        let origin = pins.origin();
        let change = change.into();
        Self { bucket, if_version, idempotency_key, change, settings: None, origin, pins }
    }
}

/// The outcome of a change.
#[derive(Debug)]
struct Outcome {
    result: Result<Answer, ServiceError>,
    /// Bucket version that the result holds at; 0 when it is unknown.
    version: u64,
    /// Whether the round must be published for it.
    writes: bool,
    /// Whether it only deletes, and makes no delete marker.
    takes_away: bool,
}

#[derive(Debug)]
struct Pending {
    request: CommitRequest,
    deadline: Instant,
    answer: oneshot::Sender<Outcome>,
}

/// Answers every change of a batch with an error.
fn answer_all(batch: Vec<Pending>, error: &ServiceError) {
    for pending in batch {
        drop(pending.answer.send(Outcome {
            result: Err(error.clone()),
            version: 0,
            writes: false,
            takes_away: false,
        }));
    }
}

/// Returns the time by which the last change of a batch must be answered.
fn latest_deadline(batch: &[Pending]) -> Instant {
    batch.iter().map(|pending| pending.deadline).max().unwrap_or_else(Instant::now)
}

/// Publishes changes to buckets. Clones share one state.
#[derive(Clone, Debug)]
pub struct Committer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    arbiter: Arbiter,
    limits: Limits,
    bucket_limits: BucketLimits,
    /// What the owners store that write, if they have a quota.
    owners: Owners,
    /// Waiting changes by bucket. An entry exists as long as the writer task of the bucket.
    queues: Mutex<BTreeMap<BucketAddress, Queue>>,
    sent: Mutex<Sent>,
    /// Key at which the next sweep of remembered outcomes begins, by bucket.
    sweeps: Mutex<BTreeMap<BucketAddress, Bytes>>,
    /// Notified whenever a writer task ends.
    writer_stopped: Notify,
    /// Time at which rows were last searched for deleted buckets that masters share.
    searched: Mutex<Option<Instant>>,
}

/// Changes that wait for one bucket, and the number of bytes of the blocks that are stored with them.
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
            bucket_limits: BucketLimits::of(&limits),
            owners: Owners::default(),
            limits,
            queues: Mutex::default(),
            sent: Mutex::default(),
            sweeps: Mutex::default(),
            writer_stopped: Notify::new(),
            searched: Mutex::default(),
        }))
    }

    /// Returns the arbiter that this commits through.
    pub fn arbiter(&self) -> &Arbiter {
        &self.0.arbiter
    }

    /// Returns the limits.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Returns how many buckets one owner may have, which can change.
    pub(crate) fn bucket_limits(&self) -> &BucketLimits {
        &self.0.bucket_limits
    }

    /// Returns the bytes that an owner may still store; the largest number if there is no quota. Other
    /// masters may have stored more in the last two seconds.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub(crate) async fn owner_room(&self, owner: OwnerId) -> Result<u64, ServiceError> {
        let max = self.0.bucket_limits.owner_bytes();
        if max == 0 {
            return Ok(u64::MAX);
        }
        self.0.owners.room(&self.0.arbiter, owner, max).await
    }

    /// Queues a change, and waits for its answer. Records in `seen` the version that the answer holds at.
    ///
    /// # Errors
    /// The reason why the change was refused; [`ServiceError::Busy`] when the queue is full or the deadline
    /// passed.
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
        // The writer answers by the deadline, unless a store hangs. In that case the outcome is unknown.
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
