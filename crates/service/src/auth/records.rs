//! Reading records of the directory that are looked at with every request.

use std::{sync::Arc, time::Duration};

use fula_core::{
    MetadataStore, StoreError,
    metadata::{Entry, Table},
};
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::error::ServiceError;

/// How long what was read counts while the directory cannot be read: then nobody is let in.
pub(crate) const OUTAGE_MAX: Duration = Duration::from_mins(15);

/// Between tries to read a directory that does not answer.
const OUTAGE_RETRY: Duration = Duration::from_secs(1);

/// Records that are remembered.
const CACHED: usize = 4096;

/// A record that was read.
#[derive(Clone, Debug)]
struct Cached {
    /// When the read began.
    read: Instant,
    /// When to read it again.
    again: Instant,
    entry: Option<Entry>,
}

/// Records of a directory, remembered for a while.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) metadata: Arc<dyn MetadataStore>,
    /// How long a record that was read counts as the current one.
    fresh_for: Duration,
    cache: Arc<Cache<(Table, String), Cached>>,
}

impl Records {
    /// Reads `directory`; what another master changes counts after `fresh_for`, zero for a
    /// directory that nobody else writes.
    pub(super) fn new(metadata: Arc<dyn MetadataStore>, fresh_for: Duration) -> Self {
        Self { metadata, fresh_for, cache: Arc::new(Cache::new(CACHED)) }
    }

    /// Returns a record, not older than `fresh_for`.
    pub(super) async fn read(
        &self,
        table: Table,
        name: &str,
    ) -> Result<Option<Entry>, ServiceError> {
        if self.fresh_for.is_zero() {
            return Ok(self.metadata.read(table, name).await?);
        }
        // The age counts from before the read: what was changed since is not in it.
        let read = Instant::now();
        let key = (table, name.to_owned());
        let cached = self.cache.get(&key);
        if let Some(cached) = cached.as_ref().filter(|cached| read < cached.again) {
            return Ok(cached.entry.clone());
        }
        let found = match (self.metadata.read(table, name).await, cached) {
            (Ok(entry), _) => Cached { read, again: read + self.fresh_for, entry },
            (Err(StoreError::Unavailable { .. }), Some(known))
                if read.duration_since(known.read) < OUTAGE_MAX =>
            {
                Cached { again: Instant::now() + OUTAGE_RETRY, ..known }
            }
            (Err(error), _) => return Err(error.into()),
        };
        self.cache.insert(key, found.clone());
        Ok(found.entry)
    }

    /// Forgets what was read: it is about to be changed here.
    pub(super) fn forget(&self, table: Table, name: &str) {
        self.cache.remove(&(table, name.to_owned()));
    }
}
