//! The metadata store: what must be the same on every master besides root pointers.
//!
//! Users, sealed keys, sessions, revocations, peers and modes are small records that change
//! seldom. One trait serves them all: versioned values by table and name, read in pages.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;

/// Which kind of record; each implementation stores the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Access keys by access key id, secrets sealed.
    Keys,
    /// Temporary keys by user and slot.
    Sessions,
    /// What is refused, in the order in which it was said.
    Revocations,
    /// Settings that all masters must agree on.
    Modes,
    /// Masters that ever worked on an arbiter.
    Masters,
    /// What masters say of an arbiter that went back in time.
    Recovery,
    /// What one master remembers of its arbiter, kept by that master alone.
    Remembered,
    /// The arbiter's access keys as one master remembers them, kept by that master alone.
    RememberedKeys,
    /// The list of packs of a master that shares no arbiter, kept by that master alone.
    Packs,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 9] = [
        Self::Keys,
        Self::Sessions,
        Self::Revocations,
        Self::Modes,
        Self::Masters,
        Self::Recovery,
        Self::Remembered,
        Self::RememberedKeys,
        Self::Packs,
    ];

    /// Returns the stored name.
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
        }
    }
}

/// A record and how often it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 when first written; rises by one with each write, deletion included.
    pub version: u64,
    /// The record, or `None` once it was deleted.
    pub value: Option<Bytes>,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The record is durable under this version.
    Done(u64),
    /// Nothing changed: the record is at another version.
    Conflict(Option<Entry>),
}

/// Largest record in bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// Longest record name in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// Keeps versioned records by table and name.
///
/// Linearizable per record. Shared as `Arc<dyn MetadataStore>`. Implemented by
/// [`crate::in_memory::MemoryMetadata`] and the embedded store; each passes
/// `conformance::directory`. Source: docs/adr/0003.
#[async_trait]
pub trait MetadataStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the record; a deleted one has no value, one never written is `None`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError>;

    /// Writes (or with `None` deletes) the record if it is at version `expected`; 0 expects one
    /// never written. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] over [`VALUE_BYTES_MAX`] or [`NAME_BYTES_MAX`];
    /// [`StoreError::Unavailable`]: read before deciding.
    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError>;

    /// Returns up to `limit` records after `after`, in order of name, deleted ones left out.
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
