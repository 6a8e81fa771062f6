//! Packs: many blocks in one object, and the directory that says which packs there are.
//!
//! A shared block store writes the blocks of one commit round as one *pack*. A pack has a name that is
//! never used again, and never changes. The directory lists each pack once it is durable, with an index of
//! the blocks in it. When the list grows, a master merges the oldest entries into index runs in the block
//! store, and names the runs in the *manifest*. So the directory stays small, and every block can be found
//! without listing the store. Decision: docs/adr/0041.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;

/// Largest index of one entry in bytes, and largest manifest.
pub const INDEX_BYTES_MAX: usize = 60 << 10;

/// The name of a pack: 16 random bytes, so that no two writers choose the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub [u8; 16]);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

/// What the directory keeps of one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// Its name.
    pub id: PackId,
    /// Collection generation that its writer knew.
    pub generation: u64,
    /// Length of the object in bytes.
    pub bytes: u64,
    /// Where each block lies in it; the directory does not look into this. At most [`INDEX_BYTES_MAX`].
    pub index: Bytes,
}

/// The outcome of adding a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was added, and has this sequence number.
    At(u64),
    /// Nothing was changed: packs below this generation may not be added any more, because a collector may
    /// have deleted them. Put the blocks again under a higher generation.
    BelowGeneration(u64),
}

/// Part of the directory, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryPage {
    /// How often the manifest was replaced; 0 before the first time.
    pub manifest_version: u64,
    /// The manifest; empty before the first one. The directory does not look into it.
    pub manifest: Bytes,
    /// Lowest generation of packs that may still be added.
    pub min_generation: u64,
    /// The highest sequence number that was ever given; 0 before the first one.
    pub last: u64,
    /// Entries with their sequence numbers, in ascending order.
    pub entries: Vec<(u64, PackEntry)>,
}

/// Lists the packs of a block store, for all masters that share it.
///
/// Shared as `Arc<dyn PackDirectory>`. Each implementation passes `conformance::pack_directory`.
///
/// # Invariants
/// - Sequence numbers rise by the order in which entries become visible: who has read everything up to a
///   number never finds a new entry below it.
/// - An entry is durable when [`Self::add`] returns. A root may need its pack from then on.
#[async_trait]
pub trait PackDirectory: fmt::Debug + Send + Sync + 'static {
    /// Adds a pack that is durable in the block store, unless its generation is too low. Sequence numbers
    /// begin with 1.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`]; [`StoreError::Unavailable`]: the entry may be there all the same.
    async fn add(&self, pack: &PackEntry) -> Result<Added, StoreError>;

    /// Returns the manifest and up to `limit` entries with sequence numbers above `after`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read(&self, after: u64, limit: usize) -> Result<DirectoryPage, StoreError>;

    /// Replaces the manifest if it was replaced `expected` times so far, removes all entries up to `through`,
    /// and raises [`DirectoryPage::min_generation`] to `min_generation` unless it is higher, in one step.
    /// Returns whether it did. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`]; [`StoreError::Unavailable`]: it may have been done all the same.
    async fn replace_manifest(
        &self,
        expected: u64,
        manifest: Bytes,
        through: u64,
        min_generation: u64,
    ) -> Result<bool, StoreError>;
}

/// Returns every entry of a directory, with its manifest.
///
/// # Errors
/// What [`PackDirectory::read`] returns.
pub async fn read_all(directory: &dyn PackDirectory) -> Result<DirectoryPage, StoreError> {
    const PAGE: usize = 1024;
    let mut all = directory.read(0, PAGE).await?;
    let mut last = all.entries.len();
    while last == PAGE {
        let after = all.entries.last().map_or(0, |(seq, _)| *seq);
        let page = directory.read(after, PAGE).await?;
        if page.manifest_version != all.manifest_version {
            // Entries that were read before may have been merged meanwhile.
            all = directory.read(0, PAGE).await?;
            last = all.entries.len();
            continue;
        }
        last = page.entries.len();
        all.entries.extend(page.entries);
    }
    Ok(all)
}
