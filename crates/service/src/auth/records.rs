//! Cached reads of metadata records that every request needs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fula_core::{
    MetadataStore, StoreError,
    metadata::{Entry, Table},
};
use quick_cache::sync::Cache;
use tokio::time::{Instant, timeout};

use crate::error::ServiceError;

/// Longest time for which cached records are used while the metadata store does not answer. After it all
/// requests are refused.
pub(crate) const OUTAGE_MAX: Duration = Duration::from_mins(15);

/// Interval between attempts to read a metadata store that does not answer.
const OUTAGE_RETRY: Duration = Duration::from_secs(1);

/// Longest time that a request waits for a record that is cached. After it the cached one is used.
const PATIENCE: Duration = Duration::from_secs(1);

/// Number of records that are cached.
const CACHED: usize = 4096;

/// A cached record.
#[derive(Clone, Debug)]
struct Cached {
    /// Time at which the read began.
    read: Instant,
    /// Time at which to read it again.
    again: Instant,
    entry: Option<Entry>,
}

/// Metadata records, cached for a while.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) metadata: Arc<dyn MetadataStore>,
    /// Time for which a cached record counts as current.
    fresh_for: Duration,
    cache: Arc<Cache<(Table, String), Cached>>,
    /// Whether the metadata store did not answer the last read.
    is_away: Arc<AtomicBool>,
}

impl Records {
    /// Reads `metadata`. Changes by other masters take effect after `fresh_for`, which is zero for a store
    /// that no other process writes.
    pub(super) fn new(metadata: Arc<dyn MetadataStore>, fresh_for: Duration) -> Self {
        let cache = Arc::new(Cache::new(CACHED));
        Self { metadata, fresh_for, cache, is_away: Arc::default() }
    }

    /// Returns a record that is not older than `fresh_for`. While the metadata store does not answer, a
    /// record that was read within the last [`OUTAGE_MAX`] is used, and only the first request waits. A
    /// cached absence is not used then.
    pub(super) async fn read(
        &self,
        table: Table,
        name: &str,
    ) -> Result<Option<Entry>, ServiceError> {
        if self.fresh_for.is_zero() {
            return Ok(self.metadata.read(table, name).await?);
        }
        // The age counts from before the read, which misses later changes.
        let read = Instant::now();
        let key = (table, name.to_owned());
        let cached = self.cache.get(&key);
        if let Some(cached) = cached.as_ref().filter(|cached| read < cached.again) {
            return Ok(cached.entry.clone());
        }
        let counts = |known: &Cached| {
            let is_there = known.entry.as_ref().is_some_and(|entry| entry.value.is_some());
            is_there && read.duration_since(known.read) < OUTAGE_MAX
        };
        let Some(known) = cached.filter(counts) else { return Ok(self.refresh(key, read).await?) };
        // Requests that come before the answer need not read as well.
        self.cache.insert(key.clone(), Cached { again: read + OUTAGE_RETRY, ..known.clone() });
        let is_waited_for = !self.is_away.load(Ordering::Relaxed);
        let records = self.clone();
        let refreshed = tokio::spawn(async move { records.refresh(key, read).await });
        if !is_waited_for {
            return Ok(known.entry);
        }
        match timeout(PATIENCE, refreshed).await {
            Ok(Ok(Err(StoreError::Unavailable { .. }))) => Ok(known.entry),
            Ok(Ok(read)) => Ok(read?),
            Ok(Err(stopped)) => Err(ServiceError::bug(stopped)),
            Err(_) => {
                self.is_away.store(true, Ordering::Relaxed);
                Ok(known.entry)
            }
        }
    }

    /// Reads a record, and caches it with the time `read` at which that began.
    async fn refresh(
        &self,
        key: (Table, String),
        read: Instant,
    ) -> Result<Option<Entry>, StoreError> {
        let found = self.metadata.read(key.0, &key.1).await;
        self.is_away.store(found.is_err(), Ordering::Relaxed);
        let entry = found?;
        let again = read + self.fresh_for;
        self.cache.insert(key, Cached { read, again, entry: entry.clone() });
        Ok(entry)
    }

    /// Removes a cached record, because this master is about to change it.
    pub(super) fn forget(&self, table: Table, name: &str) {
        self.cache.remove(&(table, name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use async_trait::async_trait;
    use bytes::Bytes;
    use fula_core::{in_memory::MemoryMetadata, metadata::WriteOutcome};

    use super::*;

    /// A metadata store that answers slowly.
    #[derive(Debug, Default)]
    struct Slow(MemoryMetadata, AtomicU64);

    impl Slow {
        fn takes(&self, seconds: u64) {
            self.1.store(seconds, Ordering::SeqCst);
        }
    }

    #[async_trait]
    impl MetadataStore for Slow {
        async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
            tokio::time::sleep(Duration::from_secs(self.1.load(Ordering::SeqCst))).await;
            self.0.read(table, name).await
        }

        async fn write(
            &self,
            table: Table,
            name: &str,
            expected: u64,
            value: Option<Bytes>,
        ) -> Result<WriteOutcome, StoreError> {
            self.0.write(table, name, expected, value).await
        }

        async fn list(
            &self,
            table: Table,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<(String, Entry)>, StoreError> {
            self.0.list(table, after, limit).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_request_waits_for_a_directory_that_hangs() {
        let slow = Arc::new(Slow::default());
        let records = Records::new(Arc::clone(&slow) as _, Duration::from_secs(2));
        slow.write(Table::Keys, "k", 0, Some("v".into())).await.unwrap();
        let read = async |name: &str| {
            let began = Instant::now();
            let found = records.read(Table::Keys, name).await.unwrap();
            (found.map(|entry| entry.version), began.elapsed())
        };
        assert_eq!(read("k").await.0, Some(1));
        assert_eq!(read("none").await.0, None);
        slow.takes(100);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(read("k").await, (Some(1), PATIENCE));
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(read("k").await, (Some(1), Duration::ZERO));
        }
        // A cached absence is not used any more.
        assert_eq!(read("none").await, (None, Duration::from_secs(100)));
        slow.takes(0);
        slow.write(Table::Keys, "k", 1, None).await.unwrap();
        tokio::time::advance(Duration::from_secs(200)).await;
        read("k").await;
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(2)).await;
        let found = records.read(Table::Keys, "k").await.unwrap();
        assert!(found.is_some_and(|entry| entry.value.is_none()), "it is trusted for ever");
    }
}
