//! Dropped rows of deleted buckets in the rollback guard: what it knows of them is removed, and their
//! missing rows are no fault of the arbiter (docs/adr/0035; docs/adr/0067 where masters share it).

use std::sync::Arc;

use fula_core::{BucketAddress, BucketId, root::DeletedRow};

use super::{KnownState, RollbackGuard, State};

/// The drops so far.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// Number of drops that have begun plus number of drops that have ended.
    changes: u64,
    /// Whether a drop is under way.
    is_under_way: bool,
    /// Highest version of any row that was to be dropped.
    floor: u64,
}

/// The state of a bucket that was known when the arbiter was asked about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) known: Option<Arc<KnownState>>,
    /// Value of [`Drops::changes`] at that time.
    drops: u64,
}

impl Asked {
    /// Returns what was known, if it was the end of a bucket: its tombstone.
    pub(crate) fn ended(&self) -> Option<&KnownState> {
        self.known.as_deref().filter(|known| known.deleted.is_some())
    }

    /// Returns the same question of a master that knew nothing of the bucket.
    pub(crate) fn of_nothing(&self) -> Self {
        Self { known: None, drops: self.drops }
    }
}

impl State {
    /// Returns whether a drop may have removed a state of this version that was known when the arbiter was
    /// asked: the drop had not ended then.
    fn may_be_dropped(&self, asked: &Asked, version: u64) -> bool {
        let drops = &self.drops;
        (drops.is_under_way || drops.changes != asked.drops) && version <= drops.floor
    }

    /// Returns whether a row may be missing that was known when the arbiter was asked.
    pub(super) fn may_be_missing(&self, bucket: &BucketAddress, asked: &Asked) -> bool {
        let Some(known) = asked.known.as_deref() else { return true };
        let now = self.buckets.get(bucket);
        let is_over = |now: &Arc<KnownState>| {
            now.bucket_id != known.bucket_id
                || (now.deleted.is_some() && now.pointer.version <= self.drops.floor)
        };
        self.may_be_dropped(asked, known.pointer.version) && now.is_none_or(is_over)
    }

    /// Returns whether the state that was known when the arbiter was asked need not be included in the one
    /// found: its life has ended, and its row was dropped.
    pub(super) fn is_over(&self, asked: &Asked, found: BucketId) -> bool {
        let known = asked.known.as_deref();
        known.is_some_and(|known| {
            known.bucket_id != found && self.may_be_dropped(asked, known.pointer.version)
        })
    }

    /// Returns whether the row of a state may have been dropped since the arbiter was asked, or may be
    /// about to be. Then the state must not be remembered: a state from before the deletion would make the
    /// missing row look like a fault.
    pub(super) fn is_outdated(&self, bucket: &BucketAddress, asked: &Asked, version: u64) -> bool {
        let has_changed = self.drops.changes != asked.drops && version <= self.drops.floor;
        has_changed && !self.buckets.contains_key(bucket)
    }

    /// Returns the highest version of any row that was to be dropped.
    pub(super) fn highest_dropped(&self) -> u64 {
        self.drops.floor
    }

    fn forget(&mut self, rows: &[DeletedRow]) {
        for row in rows {
            // A later state belongs to a bucket that was created again.
            let is_of_row = |known: &Arc<KnownState>| known.pointer.version <= row.pointer.version;
            if self.buckets.get(&row.address).is_some_and(is_of_row) {
                self.buckets.remove(&row.address);
                self.dirty.remove(&row.address);
            }
        }
    }
}

/// Number of rows that are removed while the guard is locked, because others wait for it.
const ROWS_AT_ONCE: usize = 1024;

/// A drop that has not ended. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct DropUnderWay<'a> {
    guard: &'a RollbackGuard,
    rows: &'a [DeletedRow],
}

impl Drop for DropUnderWay<'_> {
    /// Removes what was learnt in the meantime about the rows that were to be dropped.
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
    /// Returns what is known of a bucket. Call it before asking the arbiter about the bucket.
    pub(crate) fn ask(&self, bucket: &BucketAddress) -> Asked {
        let state = self.state();
        Asked { known: state.buckets.get(bucket).cloned(), drops: state.drops.changes }
    }

    /// Returns the same for an arbiter that drops nothing, from a known state.
    pub(crate) fn asked_with(&self, known: Arc<KnownState>) -> Asked {
        Asked { known: Some(known), drops: self.state().drops.changes }
    }

    /// Records that these rows may be missing from now on, and removes their buckets. The drop ends when
    /// the returned value is dropped.
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

    /// Removes what is known of buckets whose rows other masters have dropped, unless it is newer than the given
    /// version. The next [`Self::flush`] removes it from this master's own disk.
    pub(crate) fn forget_dropped(&self, dropped: &[(BucketAddress, u64)]) {
        for some in dropped.chunks(ROWS_AT_ONCE) {
            let mut state = self.state();
            state.drops.changes += 1;
            for (bucket, version) in some {
                state.drops.floor = state.drops.floor.max(*version);
                let is_known = state
                    .buckets
                    .get(bucket)
                    .is_some_and(|known| known.pointer.version <= *version);
                if is_known {
                    state.buckets.remove(bucket);
                    if self.local_state.is_some() {
                        state.dirty.insert(bucket.clone());
                    }
                }
            }
        }
    }

    /// Returns the number of known buckets.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn known_count(&self) -> usize {
        self.state().buckets.len()
    }
}
