//! What masters that were killed leave in a shared store: index runs that no manifest names, and files that were
//! being written.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use fula_core::StoreError;
use object_store::path::Path;

use super::super::{
    PackedBlocks,
    run::{INDEX, Run},
};

/// Interval between two searches of one process.
const SEARCH_EVERY: Duration = Duration::from_hours(24);

/// Age, by the store's own clock, from which nobody is writing an object any more.
pub(super) const LEFT_AFTER: Duration = Duration::from_hours(24);

impl PackedBlocks {
    /// Finds what was left, once a day. `newest` is the run that this collection has written: objects are old
    /// compared with it. Removes unfinished files, and returns the paths and lengths of abandoned runs.
    ///
    /// A run that the manifest names later is newer than `newest`: this collection has made void what others
    /// began before.
    pub(super) async fn leftovers(&self, newest: &Run) -> Result<Vec<(Path, u64)>, StoreError> {
        let now = Instant::now();
        let is_early = |at: Instant| now.duration_since(at) < SEARCH_EVERY;
        if self.collection.searched.lock().is_some_and(is_early) {
            return Ok(Vec::new());
        }
        let found = self.objects.list(&Path::from(INDEX)).await?;
        let Some(written) = found.iter().find(|meta| meta.location == newest.path()) else {
            return Ok(Vec::new());
        };
        let named: HashSet<Path> = self.places.named_runs().collect();
        let is_left = |meta: &&object_store::ObjectMeta| {
            let age = written.last_modified.signed_duration_since(meta.last_modified).to_std();
            !named.contains(&meta.location) && age.is_ok_and(|age| age >= LEFT_AFTER)
        };
        let left: Vec<_> =
            found.iter().filter(is_left).map(|meta| (meta.location.clone(), meta.size)).collect();
        if !left.is_empty() {
            tracing::info!(runs = left.len(), "found index runs that nobody needs");
        }
        let removed = self.objects.remove_unfinished(&newest.path(), LEFT_AFTER).await?;
        if removed > 0 {
            tracing::info!(removed, "removed files that nobody finished writing");
        }
        *self.collection.searched.lock() = Some(now);
        Ok(left)
    }
}
