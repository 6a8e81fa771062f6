//! A metadata store in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    error::StoreError,
    metadata::{Entry, MetadataStore, NAME_BYTES_MAX, Table, VALUE_BYTES_MAX, WriteOutcome},
};

/// Versioned records, and the rules of a write. Every in-process metadata store is built on it.
#[derive(Clone, Debug, Default)]
pub struct Records {
    entries: BTreeMap<(Table, String), Entry>,
}

impl Records {
    /// Decides about a write without applying it.
    ///
    /// # Errors
    /// The outcome, when the record is at another version; [`StoreError::TooLarge`].
    pub fn judge(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<Result<Entry, WriteOutcome>, StoreError> {
        let limits =
            [(name.len(), NAME_BYTES_MAX), (value.as_ref().map_or(0, Bytes::len), VALUE_BYTES_MAX)];
        for (len, max) in limits {
            if len > max {
                return Err(StoreError::TooLarge { len, max });
            }
        }
        let current = self.get(table, name);
        if current.map_or(0, |entry| entry.version) != expected {
            return Ok(Err(WriteOutcome::Conflict(current.cloned())));
        }
        Ok(Ok(Entry { version: expected + 1, value }))
    }

    /// Writes an entry that [`Self::judge`] allowed, or one that was read back from disk.
    pub fn apply(&mut self, table: Table, name: &str, entry: Entry) {
        self.entries.insert((table, name.to_owned()), entry);
    }

    /// Returns one record.
    pub fn get(&self, table: Table, name: &str) -> Option<&Entry> {
        self.entries.get(&(table, name.to_owned()))
    }

    /// Returns up to `limit` records of one table whose name is after `after`.
    pub fn list(&self, table: Table, after: Option<&str>, limit: usize) -> Vec<(String, Entry)> {
        use std::ops::Bound;
        let from = match after {
            Some(after) => Bound::Excluded((table, after.to_owned())),
            None => Bound::Included((table, String::new())),
        };
        let of_table = self.entries.range((from, Bound::Unbounded));
        let of_table = of_table.take_while(|((found, _), _)| *found == table);
        let live = of_table.filter(|(_, entry)| entry.value.is_some());
        live.take(limit).map(|((_, name), entry)| (name.clone(), entry.clone())).collect()
    }
}

/// A metadata store in memory.
#[derive(Debug, Default)]
pub struct MemoryMetadata {
    records: Mutex<Records>,
}

impl MemoryMetadata {
    /// Returns the value of a record, if it has one.
    pub(super) fn value(&self, table: Table, name: &str) -> Option<Bytes> {
        self.records.lock().get(table, name)?.value.clone()
    }

    /// Returns the current records, for [`Self::restore`].
    pub fn backup(&self) -> Records {
        self.records.lock().clone()
    }

    /// Goes back to earlier records, as a metadata store does when it is restored from a backup.
    pub fn restore(&self, backup: Records) {
        *self.records.lock() = backup;
    }
}

#[async_trait]
impl MetadataStore for MemoryMetadata {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.records.lock().get(table, name).cloned())
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let mut records = self.records.lock();
        Ok(match records.judge(table, name, expected, value)? {
            Ok(entry) => {
                let version = entry.version;
                records.apply(table, name, entry);
                WriteOutcome::Done(version)
            }
            Err(refused) => refused,
        })
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        Ok(self.records.lock().list(table, after, limit))
    }
}
