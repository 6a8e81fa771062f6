//! Rows of deleted buckets that are dropped: what is remembered of them goes, too, and a row that is
//! missing for that reason is no fault of the arbiter (docs/adr/0035).

use std::sync::Arc;

use fula_core::{BucketAddress, BucketId, root::DeletedRow};

use super::{KnownState, RollbackGuard, State};

/// What is forgotten because of drops.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// How many have begun, and how many have ended, together.
    changes: u64,
    /// Whether one is under way.
    is_under_way: bool,
    /// The highest version of any row that was to be dropped.
    floor: u64,
}

/// What was known of a bucket when the arbiter was asked about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) known: Option<Arc<KnownState>>,
    /// [`Drops::changes`] then.
    drops: u64,
}

impl State {
    /// Returns whether a drop that was not over when something was asked may have taken a state of
    /// a version away.
    fn may_be_dropped(&self, asked: &Asked, version: u64) -> bool {
        let drops = &self.drops;
        (drops.is_under_way || drops.changes != asked.drops) && version <= drops.floor
    }

    /// Returns whether a row may be missing that was known when it was asked for.
    pub(super) fn may_be_missing(&self, bucket: &BucketAddress, asked: &Asked) -> bool {
        let Some(known) = asked.known.as_deref() else { return true };
        let now = self.buckets.get(bucket);
        let is_over = |now: &Arc<KnownState>| {
            now.bucket_id != known.bucket_id
                || (now.deleted.is_some() && now.pointer.version <= self.drops.floor)
        };
        self.may_be_dropped(asked, known.pointer.version) && now.is_none_or(is_over)
    }

    /// Returns whether a state was known when something was asked that nothing found then has to
    /// include: its life has ended, and its row was dropped.
    pub(super) fn is_over(&self, asked: &Asked, found: BucketId) -> bool {
        let known = asked.known.as_deref();
        known.is_some_and(|known| {
            known.bucket_id != found && self.may_be_dropped(asked, known.pointer.version)
        })
    }

    /// Returns whether the row of a state may have been dropped, or be about to be, since it was asked
    /// for: it is not to be remembered then. Learnt during a drop, a state of before the bucket was
    /// deleted would make its missing row look like a fault.
    pub(super) fn is_outdated(&self, bucket: &BucketAddress, asked: &Asked, version: u64) -> bool {
        let has_changed = self.drops.changes != asked.drops && version <= self.drops.floor;
        has_changed && !self.buckets.contains_key(bucket)
    }

    fn forget(&mut self, rows: &[DeletedRow]) {
        for row in rows {
            // A later state is of a bucket that was made again.
            let is_of_row = |known: &Arc<KnownState>| known.pointer.version <= row.pointer.version;
            if self.buckets.get(&row.address).is_some_and(is_of_row) {
                self.buckets.remove(&row.address);
                self.dirty.remove(&row.address);
            }
        }
    }
}

/// Rows forgotten at a time: others wait for what is known.
const ROWS_AT_ONCE: usize = 1024;

/// A drop, until it has ended.
#[derive(Debug)]
pub(crate) struct DropUnderWay<'a> {
    guard: &'a RollbackGuard,
    rows: &'a [DeletedRow],
}

impl Drop for DropUnderWay<'_> {
    /// Forgets what was learnt meanwhile of the rows that were to be dropped.
    fn drop(&mut self) {
        for some in self.rows.chunks(ROWS_AT_ONCE) {
            self.guard.state().forget(some);
        }
        let mut state = self.guard.state();
        state.drops.is_under_way = false;
        state.drops.changes += 1;
    }
}

impl RollbackGuard {
    /// Returns what is known of a bucket, to be asked for before the arbiter is asked about it.
    pub(crate) fn ask(&self, bucket: &BucketAddress) -> Asked {
        let state = self.state();
        Asked { known: state.buckets.get(bucket).cloned(), drops: state.drops.changes }
    }

    /// Returns what was known of a bucket when something was asked of an arbiter that drops nothing.
    pub(crate) fn asked_with(&self, known: Arc<KnownState>) -> Asked {
        Asked { known: Some(known), drops: self.state().drops.changes }
    }

    /// Notes that these rows may be missing from now on, and forgets their buckets; the drop ends with
    /// what is returned.
    pub(crate) fn begin_drop<'a>(&'a self, rows: &'a [DeletedRow]) -> DropUnderWay<'a> {
        let highest = rows.iter().map(|row| row.pointer.version).max().unwrap_or(0);
        {
            let mut state = self.state();
            state.drops.is_under_way = true;
            state.drops.changes += 1;
            state.drops.floor = state.drops.floor.max(highest);
        }
        for some in rows.chunks(ROWS_AT_ONCE) {
            self.state().forget(some);
        }
        DropUnderWay { guard: self, rows }
    }

    /// Returns of how many buckets something is known.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn known_count(&self) -> usize {
        self.state().buckets.len()
    }
}
