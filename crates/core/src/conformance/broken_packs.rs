//! Directories of packs that each break one promise.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    error::StoreError,
    in_memory::MemoryPacks,
    packs::{Added, DirectoryPage, PackDirectory, PackEntry},
};

/// How [`BrokenPacks`] is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacksFault {
    /// Any manifest wins.
    IgnoresExpected,
    /// A new manifest removes every entry.
    RemovesAll,
    /// An entry becomes visible after one with a higher number, as with numbers that are drawn before a
    /// transaction commits.
    ShowsLate,
    /// Packs of any generation may be added.
    AddsBelow,
}

/// A directory of packs with one fault.
#[derive(Debug)]
pub struct BrokenPacks {
    inner: MemoryPacks,
    fault: PacksFault,
    /// The number of an entry that is not shown yet.
    hidden: Mutex<Option<u64>>,
}

impl BrokenPacks {
    /// Returns an empty directory with `fault`.
    pub fn new(fault: PacksFault) -> Self {
        Self { inner: MemoryPacks::default(), fault, hidden: Mutex::default() }
    }
}

#[async_trait]
impl PackDirectory for BrokenPacks {
    async fn add(&self, pack: &PackEntry) -> Result<Added, StoreError> {
        let generation =
            if self.fault == PacksFault::AddsBelow { u64::MAX } else { pack.generation };
        let added = self.inner.add(&PackEntry { generation, ..pack.clone() }).await?;
        let Added::At(seq) = added else { return Ok(added) };
        if self.fault == PacksFault::ShowsLate {
            let mut hidden = self.hidden.lock();
            *hidden = match *hidden {
                Some(first) if seq > first + 1 => None,
                Some(first) => Some(first),
                None => Some(seq),
            };
        }
        Ok(added)
    }

    async fn read(&self, after: u64, limit: usize) -> Result<DirectoryPage, StoreError> {
        let mut page = self.inner.read(after, limit).await?;
        // Only while there are others: the last entry is shown.
        let mut hidden = self.hidden.lock();
        if page.entries.len() == 1 {
            *hidden = None;
        }
        page.entries.retain(|(seq, _)| *hidden != Some(*seq));
        Ok(page)
    }

    async fn replace_manifest(
        &self,
        expected: u64,
        manifest: Bytes,
        through: u64,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        let current = self.inner.read(0, 0).await?.manifest_version;
        match self.fault {
            PacksFault::IgnoresExpected => {
                self.inner.replace_manifest(current, manifest, through, min_generation).await
            }
            PacksFault::RemovesAll => {
                self.inner.replace_manifest(expected, manifest, u64::MAX - 1, min_generation).await
            }
            PacksFault::ShowsLate | PacksFault::AddsBelow => {
                self.inner.replace_manifest(expected, manifest, through, min_generation).await
            }
        }
    }
}
