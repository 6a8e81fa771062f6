//! A directory of packs in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    error::StoreError,
    packs::{Added, DirectoryPage, INDEX_BYTES_MAX, PackDirectory, PackEntry},
};

/// Entries, manifest, and the rules of both.
#[derive(Debug, Default)]
struct State {
    last: u64,
    entries: BTreeMap<u64, PackEntry>,
    manifest_version: u64,
    manifest: Bytes,
    min_generation: u64,
}

/// A directory of packs in memory.
#[derive(Debug, Default)]
pub struct MemoryPacks {
    state: Mutex<State>,
}

/// Refuses an index or a manifest that is too large.
///
/// # Errors
/// [`StoreError::TooLarge`].
pub fn check_index(bytes: &Bytes) -> Result<(), StoreError> {
    if bytes.len() > INDEX_BYTES_MAX {
        return Err(StoreError::TooLarge { len: bytes.len(), max: INDEX_BYTES_MAX });
    }
    Ok(())
}

#[async_trait]
impl PackDirectory for MemoryPacks {
    async fn add(&self, pack: &PackEntry) -> Result<Added, StoreError> {
        check_index(&pack.index)?;
        let mut state = self.state.lock();
        if pack.generation < state.min_generation {
            return Ok(Added::BelowGeneration(state.min_generation));
        }
        state.last += 1;
        let seq = state.last;
        state.entries.insert(seq, pack.clone());
        Ok(Added::At(seq))
    }

    async fn read(&self, after: u64, limit: usize) -> Result<DirectoryPage, StoreError> {
        let state = self.state.lock();
        let entries = state.entries.range(after.saturating_add(1)..).take(limit);
        Ok(DirectoryPage {
            manifest_version: state.manifest_version,
            manifest: state.manifest.clone(),
            min_generation: state.min_generation,
            last: state.last,
            entries: entries.map(|(seq, pack)| (*seq, pack.clone())).collect(),
        })
    }

    async fn replace_manifest(
        &self,
        expected: u64,
        manifest: Bytes,
        through: u64,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        check_index(&manifest)?;
        let mut state = self.state.lock();
        if state.manifest_version != expected {
            return Ok(false);
        }
        state.manifest_version += 1;
        state.manifest = manifest;
        state.min_generation = state.min_generation.max(min_generation);
        state.entries = state.entries.split_off(&through.saturating_add(1));
        Ok(true)
    }
}
