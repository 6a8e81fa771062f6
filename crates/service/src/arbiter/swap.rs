//! Swaps of root pointers, and what their answers prove.

use fula_core::{
    BucketAddress, RootPointer, StoreError,
    block::SyncMark,
    error::SwapError,
    root::{CasOutcome, LeaseId, NewRoot, RootRow},
};

use super::{Arbiter, rollback::Asked};
use crate::{error::ServiceError, fault_injection::Fault};

/// A row that the arbiter returned, and what was known of its bucket when it was asked. Only
/// [`Arbiter::adopt`] makes a head of it.
#[derive(Clone, Debug)]
pub(crate) struct Unverified {
    pub(super) row: Option<RootRow>,
    pub(super) asked: Asked,
}

impl Unverified {
    /// Returns the pointer of the row.
    pub(crate) fn pointer(&self) -> Option<RootPointer> {
        self.row.as_ref().map(|row| row.pointer)
    }
}

/// The arbiter's answer to a swap.
#[derive(Debug)]
pub(crate) enum SwapAnswer {
    /// The swap was carried out.
    Won,
    /// The swap was carried out or refused by an arbiter that went back in time. It may not survive the
    /// recovery.
    InDoubt,
    /// The swap was refused, because the row is another one.
    Conflict(Unverified),
    /// The swap was refused, because another owner holds the global name that was required.
    NameTaken,
    /// The swap was refused: there is no row, and the version must be above this one.
    BelowFloor(u64),
    /// The swap was refused: there is no row, and the generation of the first one must be higher.
    BelowGeneration,
    /// The swap was refused: the row is as expected, and the arbiter does not have the lease any more.
    LeaseBroken,
    /// The swap was not sent, because this master may not write now.
    NotPermitted(ServiceError),
    /// The swap was certainly not carried out.
    NotSent(StoreError),
    /// The outcome of the swap is unknown.
    Unanswered(StoreError),
}

impl Arbiter {
    /// Refuses writes while the arbiter is in doubt, and while this master's own disk cannot be written.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Full`] or [`ServiceError::Unavailable`] of the disk.
    pub(crate) fn permit_write(&self, bucket: &BucketAddress) -> Result<(), ServiceError> {
        self.0.guard.permit_write(bucket)
    }

    /// Gives this master a lease for ever, because it shares its arbiter with no other one.
    pub fn lease_to_itself(&self) {
        let lease = LeaseId { master: String::new(), id: String::new() };
        self.0.pins.set_lease(Some(lease));
    }

    /// Returns the part of `mark` that a swap makes durable itself.
    pub(crate) fn covered_by_swap(&self, mark: SyncMark) -> SyncMark {
        self.0.roots.covered_by_swap(mark)
    }

    /// Swaps the pointer of a bucket if it is still `expected`. `is_resent` means that the swap was sent
    /// before without an answer; it is then sent even while the arbiter is in doubt.
    pub(crate) async fn swap(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
        is_resent: bool,
    ) -> SwapAnswer {
        let guard = &self.0.guard;
        if !is_resent && let Err(error) = guard.permit_write(bucket) {
            return SwapAnswer::NotPermitted(error);
        }
        let (floor, asked) = (guard.floor(), guard.ask(bucket));
        let without_lease;
        // The lease of a master alone is that of this process: no other one can take it away.
        let is_own = new.lease.as_ref().is_some_and(|lease| lease.master.is_empty());
        let new = if is_own || self.0.faults.has(Fault::LeaseNotCompared) {
            without_lease = NewRoot { lease: None, ..new.clone() };
            &without_lease
        } else {
            new
        };
        let stamped = match self.0.roots.cas_root(bucket, expected, new).await {
            Ok(stamped) => stamped,
            Err(SwapError::NotSent(error)) => return SwapAnswer::NotSent(error),
            Err(SwapError::Unknown(error)) => return SwapAnswer::Unanswered(error),
        };
        self.0.clock.observe(&stamped);
        if !guard.observe_mark(&floor, &stamped.mark) {
            return SwapAnswer::InDoubt;
        }
        match stamped.value {
            CasOutcome::Won => match guard.check_won(bucket, self.0.writer, &new.pointer) {
                Ok(()) => SwapAnswer::Won,
                Err(_) => SwapAnswer::InDoubt,
            },
            CasOutcome::Conflict { current } => {
                SwapAnswer::Conflict(Unverified { row: current, asked })
            }
            CasOutcome::NameTaken => SwapAnswer::NameTaken,
            CasOutcome::BelowFloor { floor } => SwapAnswer::BelowFloor(floor),
            CasOutcome::BelowGeneration => SwapAnswer::BelowGeneration,
            CasOutcome::LeaseBroken => SwapAnswer::LeaseBroken,
        }
    }

    /// Reads the row of a bucket to find out the outcome of a swap. The row is checked against the past: if
    /// the arbiter went back to a state in which the swap would win, it must not be sent again.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn look_up(&self, bucket: &BucketAddress) -> Result<Unverified, ServiceError> {
        let found = self.0.reader.read(bucket).await?;
        self.check_row(bucket, &found.asked, found.row.as_ref()).await?;
        Ok(found)
    }
}
