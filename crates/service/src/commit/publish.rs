//! Publishing a round: blocks first, then the swap, and finding out about one without an answer.

use std::{sync::Arc, time::Duration};

use fula_core::{
    RootPointer,
    block::Placement,
    error::SwapError,
    root::{CasOutcome, RootRow},
};
use tokio::time::Instant;

use super::{Inner, Pending, answer_all, working};
use crate::arbiter::{BucketAddress, Head};
use crate::{
    arbiter::Asked,
    arbiter::Heard,
    error::{Applied, ServiceError, chain},
    fault_injection::Fault,
};

/// First wait before an unanswered swap is looked up again; doubles up to [`RESOLVE_WAIT_MAX`].
const RESOLVE_WAIT: Duration = Duration::from_millis(20);

/// Longest wait between look-ups.
const RESOLVE_WAIT_MAX: Duration = Duration::from_millis(250);

/// How a swap of a round ended.
pub(super) enum Swapped {
    Won,
    /// Judge again on this base.
    Lost(Option<Arc<Head>>),
    Failed(ServiceError),
}

/// How long an unanswered swap is looked into.
struct Unanswered {
    /// When its writers are told that the outcome is unknown.
    deadline: Instant,
    /// When finding out ends.
    give_up: Instant,
    /// Before the next look.
    wait: Duration,
}

impl Head {
    /// Returns the row this head would be after `sealed` won.
    pub(super) fn after(
        sealed: &working::Sealed,
        address: &BucketAddress,
        base: Option<&Self>,
    ) -> Self {
        let kept = base.is_some_and(|head| head.row.global_name);
        let row = RootRow {
            owner: address.0,
            bucket: address.1.clone(),
            pointer: sealed.row.pointer,
            bucket_id: sealed.row.bucket_id,
            created: sealed.row.created,
            deleted: sealed.row.deleted,
            // Only a hint here: whoever needs the truth asks the arbiter.
            global_name: kept,
            claim: None,
        };
        Self { row, root: sealed.root.clone() }
    }
}

impl Inner {
    /// Makes the blocks durable and swaps the pointer, resolving a swap that is not answered.
    pub(super) async fn publish(
        &self,
        bucket: &BucketAddress,
        base: Option<&Head>,
        sealed: &working::Sealed,
        placement: Placement,
        deadline: Instant,
        batch: &mut Vec<Pending>,
    ) -> Swapped {
        // Before anything is stored for it: nobody collects what a refused write leaves in shared blocks.
        if let Err(error) = self.guard.permit_write(bucket) {
            return Swapped::Failed(error);
        }
        let blocks = self.nodes.blocks();
        let stored = async {
            let mark = blocks.put(&sealed.blocks, placement).await?;
            if self.limits.faults.has(Fault::PublishedBeforeDurable) {
                return Ok(());
            }
            blocks.sync(mark.without(self.roots.covered_by_swap(mark))).await
        };
        if let Err(error) = stored.await {
            return Swapped::Failed(error.into());
        }
        let bytes: usize = sealed.blocks.iter().map(|block| block.bytes().len()).sum();
        metrics::counter!("fula_commit_blocks_total").increment(sealed.blocks.len() as u64);
        metrics::counter!("fula_commit_bytes_total").increment(bytes as u64);

        // Base or sent: it exceeds whatever was there.
        let sent_before = self.sent.lock().note(bucket, sealed.root.version);
        let expected = base.map(|head| head.row.pointer);
        let give_up = Instant::now() + self.limits.resolve_for;
        let mut unanswered = Unanswered { deadline, give_up, wait: RESOLVE_WAIT };
        let mut is_unknown = false;
        // A lost swap tells of the root that it lost to.
        let _look = self.pin_registry.begin_read();
        loop {
            // What was sent into the dark is resolved, whatever is thought of the arbiter by now.
            if !is_unknown && let Err(error) = self.guard.permit_write(bucket) {
                return Swapped::Failed(error);
            }
            let (floor, asked) = (self.guard.floor(), self.guard.ask(bucket));
            let swap = self.roots.cas_root(bucket.0, &bucket.1, expected, &sealed.row).await;
            let error = match swap {
                Ok(stamped) => {
                    self.clock.hear(&stamped);
                    if !self.guard.observe_mark(&floor, &stamped.mark) {
                        // Swapped in on an older state: it may not outlive the recovery.
                        return Swapped::Failed(ServiceError::Busy(Applied::Unknown));
                    }
                    return match stamped.value {
                        CasOutcome::Won => {
                            let won =
                                self.guard.check_won(bucket, self.writer, &sealed.row.pointer);
                            won.map_or(
                                Swapped::Failed(ServiceError::Busy(Applied::Unknown)),
                                |()| Swapped::Won,
                            )
                        }
                        CasOutcome::NameTaken if is_unknown => {
                            Swapped::Failed(ServiceError::BucketNameTaken)
                        }
                        CasOutcome::NameTaken => {
                            self.sent.lock().restore(bucket, sent_before);
                            Swapped::Failed(ServiceError::BucketNameTaken)
                        }
                        CasOutcome::BelowFloor { floor } => {
                            self.sent.lock().raise_floor(floor);
                            never_there(is_unknown)
                        }
                        CasOutcome::Conflict { current } => {
                            self.lost(bucket, current, &asked, sealed, is_unknown).await
                        }
                    };
                }
                Err(SwapError::NotSent(error)) if !is_unknown => {
                    return Swapped::Failed(error.into());
                }
                // Once one was sent into the dark, a later refusal says nothing about it.
                Err(SwapError::NotSent(error) | SwapError::Unknown(error)) => error,
            };
            is_unknown = true;
            tracing::warn!(bucket = %bucket.1, error = chain(&error), "swap not answered");
            let resolved = self.resolve(bucket, expected, sealed, &mut unanswered, batch).await;
            if let Some(ended) = resolved {
                return ended;
            }
        }
    }

    /// Finds out what became of a swap; `None` when it was not applied so far and the same root
    /// is to be sent again.
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
                // The writers are told; finding out goes on, so that the next round knows.
                answer_all(std::mem::take(batch), &ServiceError::Busy(Applied::Unknown));
            }
            if Instant::now() >= unanswered.give_up {
                return Some(Swapped::Failed(ServiceError::Busy(Applied::Unknown)));
            }
            tokio::time::sleep(unanswered.wait).await;
            unanswered.wait = (unanswered.wait * 2).min(RESOLVE_WAIT_MAX);
            match self.reader.read(bucket).await {
                Ok(Heard { stamped, asked }) => {
                    self.clock.hear(&stamped);
                    let found = stamped.value;
                    // Not to be sent to an arbiter that went back to where the swap would win.
                    let believed = self.guard.check_row(bucket, &asked, found.as_ref());
                    if let Err(error) = believed {
                        tracing::warn!(%error, "cannot tell what became of a swap");
                        return Some(Swapped::Failed(ServiceError::Busy(Applied::Unknown)));
                    }
                    if found.as_ref().map(|row| row.pointer) == expected {
                        return None;
                    }
                    return Some(self.lost(bucket, found, &asked, sealed, true).await);
                }
                Err(error @ ServiceError::Regressed(_)) => {
                    tracing::warn!(%error, "cannot tell what became of a swap");
                    return Some(Swapped::Failed(ServiceError::Busy(Applied::Unknown)));
                }
                Err(error) => tracing::warn!(%error, "cannot resolve a swap yet"),
            }
        }
    }

    /// Tells a swap that was ours after all from one that was lost.
    async fn lost(
        &self,
        bucket: &BucketAddress,
        current: Option<RootRow>,
        asked: &Asked,
        sealed: &working::Sealed,
        is_unknown: bool,
    ) -> Swapped {
        let ours = sealed.row.pointer;
        let is_faulty = is_unknown && self.limits.faults.has(Fault::UnansweredTakenForLost);
        if !is_faulty && current.as_ref().is_some_and(|row| row.pointer == ours) {
            return Swapped::Won;
        }
        match self.adopt_row(bucket, current, asked).await {
            Ok(None) => never_there(is_unknown && !is_faulty),
            Ok(Some(head))
                if !is_faulty && head.root.authored(self.writer) >= Some(sealed.root.version) =>
            {
                Swapped::Won
            }
            Ok(head) => Swapped::Lost(head),
            Err(error) if is_unknown => {
                tracing::warn!(%error, "cannot tell whether a swap was ours");
                Swapped::Failed(ServiceError::Busy(Applied::Unknown))
            }
            Err(error) => Swapped::Failed(error),
        }
    }
}

/// Says how a swap ended whose bucket has no row: it was lost. If it was sent before without an answer,
/// nobody knows: it may have been carried out, and its bucket deleted and dropped since.
fn never_there(is_unknown: bool) -> Swapped {
    if is_unknown {
        return Swapped::Failed(ServiceError::Busy(Applied::Unknown));
    }
    Swapped::Lost(None)
}
