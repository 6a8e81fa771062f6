//! The writer task of a bucket. It runs one round after another as long as changes wait.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc};

use fula_core::{Block, BucketAddress, Cid, RootPointer, block::Placement, root::LeaseId};
use futures::FutureExt;
use tokio::time::Instant;

use super::{
    Answer, CommitRequest, Inner, Outcome, Pending, Queue, answer_all,
    contention::Contention,
    latest_deadline,
    owner::OwnerShare,
    publish::Swapped,
    working::{Sealed, Working},
};
use crate::{
    arbiter::Head,
    error::{Applied, ConditionName, ServiceError},
    fault_injection::{Fault, FaultInjection},
    limits::Limits,
};

/// Number of rounds after which a writer yields to other tasks of its thread.
const ROUNDS_MAX: u64 = 32;

/// Runs rounds for one bucket until its queue is empty.
pub(super) async fn write_bucket(inner: Arc<Inner>, bucket: BucketAddress) {
    let mut last: Option<Ended> = None;
    for n in 1_u64.. {
        if let Some(contention) = last.as_mut().and_then(|ended| ended.contention.take()) {
            inner.yield_to_other_masters(&bucket, contention).await;
        }
        let batch = {
            let mut queues = inner.queues.lock();
            let batch = queues.get_mut(&bucket).map(|queue| take_batch(queue, &inner.limits));
            let batch = batch.unwrap_or_default();
            if batch.is_empty() {
                queues.remove(&bucket);
                inner.writer_stopped.notify_waiters();
            }
            batch
        };
        let replaced = last.map(|ended| ended.replaced);
        if batch.is_empty() {
            inner.arbiter.nodes().forget(&replaced.unwrap_or_default());
            return;
        }
        if let Some(replaced) = replaced {
            // This round may block its thread while it waits for the disk. Other threads take over tasks
            // that were woken, except the one woken last. Spawning a task here moves that one out of this
            // thread's slot (docs/adr/0026).
            let inner = Arc::clone(&inner);
            tokio::spawn(async move { inner.arbiter.nodes().forget(&replaced) });
        }
        if n.is_multiple_of(ROUNDS_MAX) {
            tokio::task::yield_now().await;
        }
        last = Some(inner.run_round(&bucket, batch).await);
    }
}

/// The outcome of a round.
#[derive(Default)]
struct Ended {
    /// The contention in which it was won, if other masters commit too.
    contention: Option<Contention>,
    /// Nodes that only readers of older roots may still need.
    replaced: Vec<Cid>,
}

fn take_batch(queue: &mut Queue, limits: &Limits) -> Vec<Pending> {
    let mut bytes = 0;
    let mut batch = Vec::new();
    while let Some(next) = queue.pending.front() {
        bytes += next.request.change.bytes();
        // A condition on the bucket version is about a state before any change of this round, so such a
        // change gets a round of its own.
        let is_alone = |pending: &Pending| {
            pending.request.if_version.is_some() || pending.request.change.takes_over()
        };
        let full = batch.len() >= limits.round_changes_max
            || bytes > limits.round_bytes_max
            || is_alone(next)
            || batch.last().is_some_and(is_alone);
        if full && !batch.is_empty() {
            break;
        }
        queue.bytes -= next.request.change.bytes();
        batch.extend(queue.pending.pop_front());
    }
    batch
}

/// Fails every change of the round, except those that might succeed without the others. When the disk is
/// full, these are changes that only delete, and those that need no space, such as the answer to a retry.
/// Returns the excepted changes.
fn refuse(batch: Vec<Pending>, outcomes: &[Outcome], error: &ServiceError) -> Vec<Pending> {
    if !matches!(error, ServiceError::Full) {
        answer_all(batch, error);
        return Vec::new();
    }
    let takes_away = only_take_away(outcomes);
    let mut left = Vec::new();
    for (pending, outcome) in batch.into_iter().zip(outcomes) {
        if outcome.writes && (takes_away || !outcome.takes_away) {
            answer_all(vec![pending], error);
        } else {
            left.push(pending);
        }
    }
    left
}

/// Answers the changes whose deadline has passed. Returns the others.
fn without_expired(batch: Vec<Pending>) -> Vec<Pending> {
    let now = Instant::now();
    let (alive, expired) = batch.into_iter().partition(|pending| pending.deadline > now);
    answer_all(expired, &ServiceError::Busy(Applied::None));
    alive
}

/// Waits for a store until the last change of a batch must be answered. Nothing of the batch has been
/// published yet.
async fn in_time<T>(
    batch: &[Pending],
    backend: &'static str,
    answer: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    let answered = tokio::time::timeout_at(latest_deadline(batch), answer).await;
    answered.unwrap_or_else(|_| Err(ServiceError::late(backend, "commit")))
}

fn pointer_of(head: Option<&Head>) -> Option<RootPointer> {
    head.map(|head| head.row.pointer)
}

/// Returns whether all changes that a round is published for only delete.
fn only_take_away(outcomes: &[Outcome]) -> bool {
    outcomes.iter().filter(|outcome| outcome.writes).all(|outcome| outcome.takes_away)
}

impl Inner {
    /// Runs one round, and handles a panic in it.
    async fn run_round(&self, bucket: &BucketAddress, batch: Vec<Pending>) -> Ended {
        metrics::counter!("fula_commit_rounds_total").increment(1);
        let changes = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        metrics::histogram!("fula_commit_batch_changes").record(changes);
        // The round has a lease of its own, because the writers may be gone before the outcome of the swap
        // is known.
        let _lease = self.arbiter.pins().begin_write();
        let _pins: Vec<_> = batch.iter().map(|pending| pending.request.pins.clone()).collect();
        // A bug in one round must not block the bucket: its writers get the answer that the outcome is
        // unknown.
        // The future is boxed, because the task that runs it is moved several times when it is spawned.
        let round = AssertUnwindSafe(Box::pin(self.round(bucket, batch))).catch_unwind();
        round.await.unwrap_or_else(|_| {
            tracing::error!(bucket = %bucket.name, "a commit round panicked");
            self.arbiter.forget_head(bucket);
            Ended::default()
        })
    }

    /// Applies and publishes one batch. Repeats that until the batch is published or refused.
    async fn round(&self, bucket: &BucketAddress, mut batch: Vec<Pending>) -> Ended {
        let started = Instant::now();
        let (mut base, mut is_current) = (self.arbiter.swap_base(bucket), false);
        if base.is_none() {
            match self.newest_for(&batch, bucket).await {
                Ok(head) => (base, is_current) = (head, true),
                Err(error) => {
                    answer_all(batch, &error);
                    return Ended::default();
                }
            }
        }
        let share = match self.share_for(&batch, bucket).await {
            Ok(share) => share,
            Err(error) => {
                answer_all(batch, &error);
                return Ended::default();
            }
        };
        // What earlier attempts have put: only a fault has a use for it.
        let mut put = HashSet::new();
        for attempt in 0..self.limits.round_attempts_max {
            batch = without_expired(batch);
            if batch.is_empty() {
                return Ended::default();
            }
            let share = share.as_ref();
            let judged = self.judge(bucket, base.as_deref(), &batch, attempt > 0, share).await;
            let (outcomes, sealed) = match judged {
                Ok(judged) => judged,
                Err(error) => {
                    answer_all(batch, &error);
                    return Ended::default();
                }
            };
            let Some(mut sealed) = sealed else {
                let known = (base.as_deref(), is_current);
                match self.settle_unpublished(bucket, known, batch, outcomes).await {
                    Some((left, head)) => (batch, base, is_current) = (left, head, true),
                    None => return Ended::default(),
                }
                continue;
            };
            if self.limits.faults.has(Fault::BlocksNotPutAgain) {
                sealed.blocks.retain(|block| put.insert(block.cid()));
            }
            let takes_away = only_take_away(&outcomes);
            let placement = if takes_away { Placement::Removal } else { Placement::Commit };
            match self.publish(bucket, base.as_deref(), &sealed, placement, &mut batch).await {
                Swapped::Won => {
                    let head = Arc::new(Head::after(&sealed, bucket, base.as_deref()));
                    if let Some(share) = share {
                        share.published(&head);
                    }
                    let contention = self.settle_won(&head, batch, outcomes, started).await;
                    return Ended { contention, replaced: sealed.replaced };
                }
                Swapped::Lost(current) => {
                    metrics::counter!("fula_commit_rebases_total").increment(1);
                    // Nothing needs the blocks of this attempt any more.
                    let made: Vec<_> = sealed.blocks.iter().map(Block::cid).collect();
                    self.arbiter.nodes().forget(&made);
                    self.arbiter.post_priority_claim(bucket);
                    (base, is_current) = (current, true);
                }
                // Nothing was changed. Changes that rely on the lease are refused now.
                Swapped::LeaseBroken => {
                    if self.arbiter.pins().lease() == sealed.row.lease {
                        self.arbiter.pins().set_lease(None);
                    }
                }
                Swapped::Failed(error) => {
                    // The swap may still be carried out. Once this master has another lease, it cannot.
                    if sealed.row.lease.is_some() {
                        self.arbiter.pins().set_lease(None);
                    }
                    batch = refuse(batch, &outcomes, &error);
                    if batch.is_empty() {
                        return Ended::default();
                    }
                }
            }
        }
        answer_all(batch, &ServiceError::Busy(Applied::None));
        Ended::default()
    }

    /// Answers a batch that has nothing to publish. The answers hold only if the base is known to be
    /// current. Otherwise returns the batch and the newest state.
    async fn settle_unpublished(
        &self,
        bucket: &BucketAddress,
        (base, is_current): (Option<&Head>, bool),
        batch: Vec<Pending>,
        outcomes: Vec<Outcome>,
    ) -> Option<(Vec<Pending>, Option<Arc<Head>>)> {
        if !is_current && !self.limits.faults.has(Fault::AnswerFromStaleBase) {
            match self.newest_for(&batch, bucket).await {
                Ok(head) if pointer_of(head.as_deref()) == pointer_of(base) => {}
                Ok(head) => {
                    metrics::counter!("fula_commit_rebases_total").increment(1);
                    return Some((batch, head));
                }
                Err(error) => {
                    answer_all(batch, &error);
                    return None;
                }
            }
        }
        self.answer_unpublished(bucket, batch, outcomes).await;
        None
    }

    /// Records the head of a won swap, and gives the answers that it carries. Returns the contention, if
    /// other masters want to commit.
    async fn settle_won(
        &self,
        head: &Arc<Head>,
        batch: Vec<Pending>,
        mut outcomes: Vec<Outcome>,
        started: Instant,
    ) -> Option<Contention> {
        if self.arbiter.remember_won(head).await.is_err() {
            withhold(&mut outcomes);
        }
        // The base is never older than what is known, so the record is not needed any more.
        self.sent.lock().forget(head.address());
        let contention = self.contention(head, started);
        answer_each(batch, outcomes);
        contention
    }

    /// Gives the answers of a round that has nothing to publish. A success may be that of an earlier
    /// attempt, perhaps on another master. It holds only once this master remembers the state too.
    async fn answer_unpublished(
        &self,
        bucket: &BucketAddress,
        batch: Vec<Pending>,
        mut outcomes: Vec<Outcome>,
    ) {
        let has_success = outcomes.iter().any(|outcome| outcome.result.is_ok());
        if has_success && self.arbiter.guard().remember(bucket).await.is_err() {
            withhold(&mut outcomes);
        }
        answer_each(batch, outcomes);
    }

    /// Reads the newest state of a bucket for changes that wait, until the last of them must be answered.
    async fn newest_for(
        &self,
        batch: &[Pending],
        bucket: &BucketAddress,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        in_time(batch, "arbiter", self.arbiter.newest(bucket)).await
    }

    /// Returns what the round may take of the quota of the owner; `None` if there is no quota.
    async fn share_for(
        &self,
        batch: &[Pending],
        bucket: &BucketAddress,
    ) -> Result<Option<OwnerShare>, ServiceError> {
        let max = self.bucket_limits.owner_bytes();
        // What only deletes needs no room.
        if max == 0 || batch.iter().all(|pending| pending.request.change.takes_away()) {
            return Ok(None);
        }
        let share = self.owners.share(&self.arbiter, bucket, max);
        in_time(batch, "arbiter", share).await.map(Some)
    }

    /// Applies every change in order, until the last must be answered. Returns the outcomes and what to
    /// publish.
    async fn judge(
        &self,
        bucket: &BucketAddress,
        base: Option<&Head>,
        batch: &[Pending],
        is_rebase: bool,
        share: Option<&OwnerShare>,
    ) -> Result<(Vec<Outcome>, Option<Sealed>), ServiceError> {
        in_time(batch, "block store", self.judge_all(bucket, base, batch, is_rebase, share)).await
    }

    async fn judge_all(
        &self,
        bucket: &BucketAddress,
        base: Option<&Head>,
        batch: &[Pending],
        is_rebase: bool,
        share: Option<&OwnerShare>,
    ) -> Result<(Vec<Outcome>, Option<Sealed>), ServiceError> {
        let now = self.arbiter.now().await?;
        let sent = self.sent.lock().before(bucket, base.is_some());
        let (nodes, generation) = (self.arbiter.nodes(), self.arbiter.generation());
        let mut work = Working::new(nodes, bucket, base, now, sent, generation)?;
        work.limit_bytes(self.bucket_limits.bytes(), share);
        let lease = self.arbiter.pins().lease();
        let mut outcomes = Vec::with_capacity(batch.len());
        let faults = self.limits.faults;
        work.ignore_conditions(
            faults.has(Fault::ConditionJudgedOnlyEarly)
                || (is_rebase && faults.has(Fault::RebaseWithoutJudging)),
        );
        let base_version = base.map_or(0, |head| head.row.pointer.version);
        for Pending { request, .. } in batch {
            let (changes, markers) = (work.changes(), work.markers());
            let (result, version) =
                request.judge(&mut work, base_version, lease.as_ref(), faults).await;
            let writes = work.changes() > changes;
            let takes_away = request.change.takes_away() && work.markers() == markers;
            outcomes.push(Outcome { result, version, writes, takes_away });
        }
        if !work.is_changed() {
            for outcome in &mut outcomes {
                outcome.version = outcome.version.min(base_version);
            }
            return Ok((outcomes, None));
        }
        if work.recent_edited().1 > 0 {
            let from = self.sweeps.lock().remove(bucket).unwrap_or_default();
            let next = work.sweep_recent(from).await?;
            let mut sweeps = self.sweeps.lock();
            if sweeps.len() >= self.limits.heads_max {
                sweeps.clear();
            }
            sweeps.insert(bucket.clone(), next);
        }
        let sealed = work.seal(self.arbiter.writer()).await?;
        Ok((outcomes, Some(sealed)))
    }
}

/// A result, and the bucket version that it holds at.
type Judged = (Result<Answer, ServiceError>, u64);

impl CommitRequest {
    /// Applies the change, unless it was carried out before.
    async fn judge(
        &self,
        work: &mut Working<'_>,
        base: u64,
        lease: Option<&LeaseId>,
        faults: FaultInjection,
    ) -> Judged {
        let idempotency_key =
            self.idempotency_key.as_ref().filter(|_| !faults.has(Fault::RecordOff));
        if let Some(idempotency_key) = idempotency_key {
            match work.remembered(idempotency_key).await {
                Ok(Some((result, version))) => {
                    metrics::counter!("fula_commit_remembered_total").increment(1);
                    return (result, version);
                }
                Ok(None) => {}
                Err(error) => return (Err(error), 0),
            }
        }
        let changes = work.changes();
        let found = work.require_bucket();
        let is_meant = self.bucket.is_none_or(|id| found.is_ok_and(|found| found == id));
        let result = if !is_meant {
            Err(ServiceError::NoSuchBucket)
        } else if self.if_version.is_some_and(|version| version != base) {
            Err(ServiceError::PreconditionFailed(ConditionName::BucketVersion))
        } else if self.settings.is_some() && self.settings != work.settings_link() {
            Ok(Answer::AllowAgain)
        } else {
            let idempotency_key =
                self.idempotency_key.as_ref().map(|idempotency_key| idempotency_key.fingerprint);
            let origin = self.origin.as_ref().filter(|_| !faults.has(Fault::ContentNeedsNoOrigin));
            match work.require_origin(origin, lease.cloned()) {
                Ok(()) => self.change.apply(work, idempotency_key).await,
                Err(error) => Err(error),
            }
        };
        // A change that had no effect may be tried again, unless another attempt may still be under way.
        if let Some(idempotency_key) = idempotency_key
            && (idempotency_key.is_retry || work.changes() > changes)
        {
            work.remember(idempotency_key, &result);
        }
        // A completion that was carried out before answers with the version that it had then.
        let version = match &result {
            Ok(Answer::Object(record)) => record.seq.version,
            _ => work.version(),
        };
        (result, version)
    }
}

/// Turns every success into an unknown outcome. The state that it holds at is not on this master's own
/// disk, so an arbiter that goes back in time could remove it without notice.
fn withhold(outcomes: &mut [Outcome]) {
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.result.is_ok()) {
        outcome.result = Err(ServiceError::Busy(Applied::Unknown));
        outcome.version = 0;
    }
}

fn answer_each(batch: Vec<Pending>, outcomes: Vec<Outcome>) {
    for (pending, outcome) in batch.into_iter().zip(outcomes) {
        drop(pending.answer.send(outcome));
    }
}
