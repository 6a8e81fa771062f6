//! Publishes a round: stores the blocks, then swaps the pointer, and resolves a swap without an answer.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use fula_core::{Block, BucketAddress, RootPointer, StoreError, block::Placement, root::RootRow};
use tokio::time::{Instant, timeout_at};

use super::{Inner, Pending, answer_all, latest_deadline, working};
use crate::{
    arbiter::{Head, SwapAnswer, Unverified},
    error::{Applied, ServiceError, chain},
    fault_injection::Fault,
};

/// First wait before an unanswered swap is looked up again. It doubles up to [`RESOLVE_WAIT_MAX`].
const RESOLVE_WAIT: Duration = Duration::from_millis(20);

/// Longest wait between two look-ups.
const RESOLVE_WAIT_MAX: Duration = Duration::from_millis(250);

/// The outcome of the swap of a round.
pub(super) enum Swapped {
    Won,
    /// The swap was lost. Apply the changes again, on this base.
    Lost(Option<Arc<Head>>),
    /// The swap was refused, because the arbiter does not have the lease any more that it relied on.
    LeaseBroken,
    Failed(ServiceError),
}

/// The time limits for resolving an unanswered swap.
struct Unanswered {
    /// Time at which its writers get the answer that the outcome is unknown.
    deadline: Instant,
    /// Time at which the attempts to resolve it end.
    give_up: Instant,
    /// Wait before the next look-up.
    wait: Duration,
}

impl Head {
    /// Returns the row that follows this head after `sealed` has won.
    pub(super) fn after(
        sealed: &working::Sealed,
        address: &BucketAddress,
        base: Option<&Self>,
    ) -> Self {
        let kept = base.is_some_and(|head| head.row.global_name);
        let row = RootRow {
            address: address.clone(),
            pointer: sealed.row.pointer,
            bucket_id: sealed.row.bucket_id,
            created: sealed.row.created,
            deleted: sealed.row.deleted,
            // This is only a hint: code that needs the exact value asks the arbiter.
            global_name: kept,
            claim: None,
        };
        Self { row, root: sealed.root.clone() }
    }
}

impl Inner {
    /// Makes the blocks durable and swaps the pointer. Resolves a swap that is not answered.
    pub(super) async fn publish(
        &self,
        bucket: &BucketAddress,
        base: Option<&Head>,
        sealed: &working::Sealed,
        placement: Placement,
        batch: &mut Vec<Pending>,
    ) -> Swapped {
        // This is checked before anything is stored: in shared block stores nothing collects the blocks of
        // a refused write.
        if let Err(error) = self.arbiter.permit_write(bucket) {
            return Swapped::Failed(error);
        }
        let deadline = latest_deadline(batch);
        match timeout_at(deadline, self.store(&sealed.blocks, placement)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Swapped::Failed(error.into()),
            Err(_) => return Swapped::Failed(ServiceError::late("block store", "put")),
        }

        // The version exceeds that of the base and every one that was sent before.
        let sent_before = self.sent.lock().note(bucket, sealed.root.version);
        let expected = base.map(|head| head.row.pointer);
        let now = Instant::now();
        let give_up = now + self.limits.resolve_for;
        let mut unanswered = Unanswered { deadline, give_up, wait: RESOLVE_WAIT };
        let mut is_unknown = false;
        // A lost swap returns the root that it lost to, which must not be collected while it is read.
        let _reading = self.arbiter.pins().begin_read();
        loop {
            let swap = pin!(self.arbiter.swap(bucket, expected, &sealed.row, is_unknown));
            let error = match answer_in_time(swap, deadline, batch).await {
                SwapAnswer::Won => return Swapped::Won,
                SwapAnswer::InDoubt => {
                    return Swapped::Failed(ServiceError::Busy(Applied::Unknown));
                }
                SwapAnswer::Conflict(current) => {
                    return self.judge_conflict(bucket, current, sealed, is_unknown).await;
                }
                SwapAnswer::NameTaken => {
                    if !is_unknown {
                        self.sent.lock().restore(bucket, sent_before);
                    }
                    return Swapped::Failed(ServiceError::BucketNameTaken);
                }
                SwapAnswer::BelowFloor(floor) => {
                    self.sent.lock().raise_floor(floor);
                    return never_there(is_unknown);
                }
                SwapAnswer::BelowGeneration => {
                    return match self.arbiter.learn_generation().await {
                        Ok(_) => never_there(is_unknown),
                        Err(_) if is_unknown => {
                            Swapped::Failed(ServiceError::Busy(Applied::Unknown))
                        }
                        Err(error) => Swapped::Failed(error),
                    };
                }
                // The row is as it was. No attempt can win any more, because no lease comes back.
                SwapAnswer::LeaseBroken => return Swapped::LeaseBroken,
                SwapAnswer::NotPermitted(error) => return Swapped::Failed(error),
                SwapAnswer::NotSent(error) if !is_unknown => {
                    return Swapped::Failed(error.into());
                }
                // After an unanswered attempt, a later refusal tells nothing about that attempt.
                SwapAnswer::NotSent(error) | SwapAnswer::Unanswered(error) => error,
            };
            is_unknown = true;
            tracing::warn!(bucket = %bucket.name, error = chain(&error), "a swap was not answered");
            let resolved = self.resolve(bucket, expected, sealed, &mut unanswered, batch).await;
            if let Some(ended) = resolved {
                return ended;
            }
        }
    }

    /// Makes the blocks of a round durable, except those that the swap itself makes durable.
    async fn store(&self, made: &[Block], placement: Placement) -> Result<(), StoreError> {
        let blocks = self.arbiter.nodes().blocks();
        let mark = blocks.put(made, placement).await?;
        if !self.limits.faults.has(Fault::PublishedBeforeDurable) {
            blocks.sync(mark.without(self.arbiter.covered_by_swap(mark))).await?;
        }
        let bytes: usize = made.iter().map(|block| block.bytes().len()).sum();
        metrics::counter!("fula_commit_blocks_total").increment(made.len() as u64);
        metrics::counter!("fula_commit_bytes_total").increment(bytes as u64);
        Ok(())
    }

    /// Looks up the outcome of a swap. Returns `None` when it was not applied so far and the same root must
    /// be sent again.
    async fn resolve(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        sealed: &working::Sealed,
        unanswered: &mut Unanswered,
        batch: &mut Vec<Pending>,
    ) -> Option<Swapped> {
        loop {
            if Instant::now() >= unanswered.deadline {
                // The writers get their answer now. The look-ups continue, so that the next round knows
                // the outcome.
                answer_all(std::mem::take(batch), &ServiceError::Busy(Applied::Unknown));
            }
            if Instant::now() >= unanswered.give_up {
                return Some(Swapped::Failed(ServiceError::Busy(Applied::Unknown)));
            }
            tokio::time::sleep(unanswered.wait).await;
            unanswered.wait = (unanswered.wait * 2).min(RESOLVE_WAIT_MAX);
            let look_up = self.arbiter.look_up(bucket);
            let found = if batch.is_empty() {
                look_up.await
            } else if let Ok(found) = timeout_at(unanswered.deadline, look_up).await {
                found
            } else {
                continue;
            };
            match found {
                Ok(found) if found.pointer() == expected => return None,
                Ok(found) => return Some(self.judge_conflict(bucket, found, sealed, true).await),
                Err(error @ ServiceError::Regressed(_)) => {
                    tracing::warn!(%error, "cannot determine the outcome of a swap");
                    return Some(Swapped::Failed(ServiceError::Busy(Applied::Unknown)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot look up the outcome of a swap yet; trying again");
                }
            }
        }
    }

    /// Tells a swap that was carried out after all from one that was lost.
    async fn judge_conflict(
        &self,
        bucket: &BucketAddress,
        current: Unverified,
        sealed: &working::Sealed,
        is_unknown: bool,
    ) -> Swapped {
        let ours = sealed.row.pointer;
        let is_faulty = is_unknown && self.limits.faults.has(Fault::UnansweredTakenForLost);
        if !is_faulty && current.pointer() == Some(ours) {
            return Swapped::Won;
        }
        match self.arbiter.adopt(bucket, current).await {
            Ok(None) => never_there(is_unknown && !is_faulty),
            // A swap that was refused directly was not carried out, whichever writer has committed.
            Ok(Some(head))
                if is_unknown
                    && !is_faulty
                    && head.root.authored(self.arbiter.writer()) >= Some(sealed.root.version) =>
            {
                Swapped::Won
            }
            Ok(head) => Swapped::Lost(head),
            Err(error) if is_unknown => {
                tracing::warn!(%error, "cannot determine which writer won a swap");
                Swapped::Failed(ServiceError::Busy(Applied::Unknown))
            }
            Err(error) => Swapped::Failed(error),
        }
    }
}

/// Waits until a swap ends. Its writers are answered when their deadline has passed.
async fn answer_in_time(
    mut swap: Pin<&mut impl Future<Output = SwapAnswer>>,
    deadline: Instant,
    batch: &mut Vec<Pending>,
) -> SwapAnswer {
    if !batch.is_empty() {
        if let Ok(answer) = timeout_at(deadline, &mut swap).await {
            return answer;
        }
        answer_all(std::mem::take(batch), &ServiceError::Busy(Applied::Unknown));
    }
    swap.await
}

/// Returns the outcome of a swap whose bucket has no row. It was lost. If it was sent before without an
/// answer, the outcome is unknown: it may have been carried out, and the bucket deleted and dropped since.
fn never_there(is_unknown: bool) -> Swapped {
    if is_unknown {
        return Swapped::Failed(ServiceError::Busy(Applied::Unknown));
    }
    Swapped::Lost(None)
}
