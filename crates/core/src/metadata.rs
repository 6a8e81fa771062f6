//! The metadata store: records other than root pointers that all masters must agree on.
//!
//! Access keys, sessions, revocations, modes and masters are small records that seldom change. One
//! trait serves them all: versioned values by table and name, which are listed in pages.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;

/// The kind of a record. Each implementation stores the name of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Access keys by access key id. Their secrets are encrypted.
    Keys,
    /// Temporary keys by user and slot.
    Sessions,
    /// Revocations, in the order in which they were made.
    Revocations,
    /// Settings that all masters must agree on.
    Modes,
    /// Masters that have ever used the arbiter.
    Masters,
    /// Reports of masters in the recovery of an arbiter that went back in time.
    Recovery,
    /// The state of the arbiter as one master remembers it. Only that master keeps it.
    Remembered,
    /// The arbiter's access keys as one master remembers them. Only that master keeps them.
    RememberedKeys,
    /// The list of packs of a master that shares no arbiter, kept by that master alone.
    Packs,
    /// Holds of a storage node on its blocks, kept by that node alone.
    Holds,
    /// What is pinned of each bucket, and which master pins it.
    Pins,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 11] = [
        Self::Keys,
        Self::Sessions,
        Self::Revocations,
        Self::Modes,
        Self::Masters,
        Self::Recovery,
        Self::Remembered,
        Self::RememberedKeys,
        Self::Packs,
        Self::Holds,
        Self::Pins,
    ];

    /// Returns the name under which it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Sessions => "sessions",
            Self::Revocations => "revocations",
            Self::Modes => "modes",
            Self::Masters => "masters",
            Self::Recovery => "recovery",
            Self::Remembered => "remembered",
            Self::RememberedKeys => "remembered-keys",
            Self::Packs => "packs",
            Self::Holds => "holds",
            Self::Pins => "pins",
        }
    }
}

/// A record and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of writes so far, including deletions.
    pub version: u64,
    /// The record, or `None` once it was deleted.
    pub value: Option<Bytes>,
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The record was written, is durable, and has this version.
    Done(u64),
    /// Nothing was changed, because the record is at another version. It is returned, if there is one.
    Conflict(Option<Entry>),
}

/// Largest record in bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// Longest record name in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// Keeps versioned records by table and name.
///
/// Linearizable per record. Shared as `Arc<dyn MetadataStore>`. Every implementation passes
/// `conformance::metadata`, as [`crate::in_memory::MemoryMetadata`] does. Source: docs/adr/0003.
#[async_trait]
pub trait MetadataStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the record, or `None` if it was never written. A deleted record has no value.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError>;

    /// Writes the record, or deletes it with `None`, if it is at version `expected`. 0 expects a record
    /// that was never written. The write is durable when the call returns.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above [`VALUE_BYTES_MAX`] or [`NAME_BYTES_MAX`].
    /// [`StoreError::Unavailable`]: the write may have been applied; read before you decide anything.
    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError>;

    /// Returns up to `limit` records whose name is after `after`, in order of name, without deleted ones.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError>;
}
