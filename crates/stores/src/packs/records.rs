//! A directory of packs in the records of a metadata store, for one process alone.
//!
//! Entries take turns in a number of slots, so that the records do not become more and more: a slot is used
//! again once a manifest covers what it holds.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    MetadataStore, PackDirectory, StoreError,
    cbor::{Invalid, Reader, Writer},
    in_memory::check_index,
    metadata::{Table, WriteOutcome},
    packs::{Added, DirectoryPage, PackEntry, PackId},
};
use parking_lot::Mutex;

/// Name of the record of the manifest.
const MANIFEST: &str = "manifest";

/// Records read at a time.
const PAGE: usize = 512;

/// A slot and the version of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    number: u32,
    version: u64,
}

#[derive(Debug, Default)]
struct State {
    page: DirectoryPage,
    /// The highest number that was given to an entry, written or not.
    given: u64,
    /// Up to which number the manifest covers the entries.
    through: u64,
    /// Lowest generation that may be added.
    min_generation: u64,
    /// Entries above [`DirectoryPage::last`] whose writes have ended; `None` where one failed. They are shown
    /// once all below them have ended.
    ended: BTreeMap<u64, Option<PackEntry>>,
    /// Slots of the entries, by their numbers.
    slots: BTreeMap<u64, Slot>,
    /// Slots that hold nothing that is needed.
    free: Vec<Slot>,
    next_slot: u32,
}

impl State {
    /// Notes how the write of an entry ended.
    fn end(&mut self, seq: u64, written: Option<PackEntry>) {
        self.ended.insert(seq, written);
        while let Some(entry) = self.ended.remove(&(self.page.last + 1)) {
            self.page.last += 1;
            self.page.entries.extend(entry.map(|entry| (self.page.last, entry)));
        }
    }
}

/// The write of an entry; one that is given up ends, too.
struct Adding<'a> {
    state: &'a Mutex<State>,
    seq: u64,
    written: Option<PackEntry>,
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.state.lock().end(self.seq, self.written.take());
    }
}

/// A directory of packs in records that no other process writes.
#[derive(Debug)]
pub struct RecordDirectory {
    records: Arc<dyn MetadataStore>,
    state: Mutex<State>,
    /// Held while the manifest is replaced.
    replacing: tokio::sync::Mutex<()>,
    /// Held for reading while an entry is added.
    adding: tokio::sync::RwLock<()>,
}

impl RecordDirectory {
    /// Reads the records.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(records: Arc<dyn MetadataStore>) -> Result<Self, StoreError> {
        let mut state = State::default();
        if let Some(entry) = records.read(Table::Packs, MANIFEST).await? {
            let value = entry.value.unwrap_or_default();
            let stored = StoredManifest::read(&value).map_err(malformed)?;
            (state.page.last, state.through) = (stored.last, stored.through);
            state.page.min_generation = stored.min_generation;
            state.min_generation = stored.min_generation;
            (state.page.manifest, state.page.manifest_version) = (stored.manifest, entry.version);
        }
        let mut after: Option<String> = None;
        let mut found = BTreeMap::new();
        loop {
            let listed = records.list(Table::Packs, after.as_deref(), PAGE).await?;
            let Some((last, _)) = listed.last() else { break };
            after = Some(last.clone());
            for (name, entry) in listed {
                let Some(number) = slot_of(&name) else { continue };
                let slot = Slot { number, version: entry.version };
                let (seq, pack) =
                    read_entry(&entry.value.unwrap_or_default()).map_err(malformed)?;
                state.next_slot = state.next_slot.max(number + 1);
                if seq <= state.through {
                    state.free.push(slot);
                } else {
                    state.slots.insert(seq, slot);
                    found.insert(seq, pack);
                }
            }
        }
        state.page.last = state.page.last.max(found.keys().last().copied().unwrap_or_default());
        state.given = state.page.last;
        state.page.entries = found.into_iter().collect();
        let (replacing, adding) = Default::default();
        Ok(Self { records, state: Mutex::new(state), replacing, adding })
    }

    async fn write(&self, name: &str, expected: u64, value: Bytes) -> Result<u64, StoreError> {
        match self.records.write(Table::Packs, name, expected, Some(value)).await? {
            WriteOutcome::Done(version) => Ok(version),
            WriteOutcome::Conflict(_) => {
                let source = "another process changed the list of packs".into();
                Err(StoreError::Unavailable { backend: "metadata", action: "write", source })
            }
        }
    }
}

fn malformed(Invalid(why): Invalid) -> StoreError {
    StoreError::Malformed { what: "record of a pack", why }
}

fn name_of(slot: u32) -> String {
    format!("slot-{slot:06}")
}

fn slot_of(name: &str) -> Option<u32> {
    name.strip_prefix("slot-")?.parse().ok()
}

fn write_entry(seq: u64, pack: &PackEntry) -> Bytes {
    let mut out = Writer::with_capacity(pack.index.len() + 64);
    out.array(5).uint(seq).bytes(&pack.id.0).uint(pack.generation).uint(pack.bytes);
    out.bytes(&pack.index);
    out.finish()
}

fn read_entry(value: &Bytes) -> Result<(u64, PackEntry), Invalid> {
    let mut reader = Reader::new(value);
    reader.tuple(5)?;
    let seq = reader.uint()?;
    let id = PackId(reader.array_of()?);
    let (generation, bytes, index) = (reader.uint()?, reader.uint()?, reader.bytes()?);
    reader.end()?;
    Ok((seq, PackEntry { id, generation, bytes, index }))
}

/// The record of the manifest.
struct StoredManifest {
    /// The highest number that was given when it was written.
    last: u64,
    through: u64,
    min_generation: u64,
    manifest: Bytes,
}

impl StoredManifest {
    /// Encodes the record. One without a generation has the form of earlier builds.
    fn write(&self) -> Bytes {
        let mut out = Writer::with_capacity(self.manifest.len() + 48);
        out.array(if self.min_generation == 0 { 3 } else { 4 }).uint(self.last).uint(self.through);
        out.bytes(&self.manifest);
        if self.min_generation > 0 {
            out.uint(self.min_generation);
        }
        out.finish()
    }

    fn read(value: &Bytes) -> Result<Self, Invalid> {
        let mut reader = Reader::new(value);
        let fields = reader.array()?;
        if !(3..=4).contains(&fields) {
            return Err(Invalid("a manifest has three or four fields"));
        }
        let (last, through, manifest) = (reader.uint()?, reader.uint()?, reader.bytes()?);
        let min_generation = if fields == 4 { reader.uint()? } else { 0 };
        reader.end()?;
        Ok(Self { last, through, min_generation, manifest })
    }
}

#[async_trait]
impl PackDirectory for RecordDirectory {
    async fn add(&self, pack: &PackEntry) -> Result<Added, StoreError> {
        check_index(&pack.index)?;
        let _adding = self.adding.read().await;
        let (slot, mut adding) = {
            let mut state = self.state.lock();
            if pack.generation < state.min_generation {
                return Ok(Added::BelowGeneration(state.min_generation));
            }
            state.given += 1;
            let seq = state.given;
            let slot = state.free.pop().unwrap_or_else(|| {
                state.next_slot += 1;
                Slot { number: state.next_slot - 1, version: 0 }
            });
            (slot, Adding { state: &self.state, seq, written: None })
        };
        let value = write_entry(adding.seq, pack);
        // If this fails, the slot is not used again before a restart: it may hold the record.
        let version = self.write(&name_of(slot.number), slot.version, value).await?;
        self.state.lock().slots.insert(adding.seq, Slot { version, ..slot });
        adding.written = Some(pack.clone());
        Ok(Added::At(adding.seq))
    }

    async fn read(&self, after: u64, limit: usize) -> Result<DirectoryPage, StoreError> {
        let state = self.state.lock();
        let from = state.page.entries.partition_point(|(seq, _)| *seq <= after);
        let entries = state.page.entries[from..].iter().take(limit).cloned().collect();
        Ok(DirectoryPage { entries, manifest: state.page.manifest.clone(), ..state.page })
    }

    async fn replace_manifest(
        &self,
        expected: u64,
        manifest: Bytes,
        through: u64,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        check_index(&manifest)?;
        let _one_at_a_time = self.replacing.lock().await;
        let (value, through) = {
            let mut state = self.state.lock();
            if state.page.manifest_version != expected {
                return Ok(false);
            }
            let through = through.min(state.page.last).max(state.through);
            // No add that begins from now on may be below it, whether the write below succeeds or not.
            state.min_generation = state.min_generation.max(min_generation);
            let (last, manifest) = (state.page.last, manifest.clone());
            let min_generation = state.min_generation;
            (StoredManifest { last, through, min_generation, manifest }.write(), through)
        };
        // What began before that is in the list, or has failed, when this returns.
        drop(self.adding.write().await);
        let version = self.write(MANIFEST, expected, value).await?;
        let mut state = self.state.lock();
        (state.page.manifest_version, state.page.manifest) = (version, manifest);
        (state.through, state.page.min_generation) = (through, state.min_generation);
        let kept = state.slots.split_off(&(through + 1));
        let freed = std::mem::replace(&mut state.slots, kept);
        state.free.extend(freed.into_values());
        state.page.entries.retain(|(seq, _)| *seq > through);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use fula_core::{conformance_suite, in_memory::MemoryMetadata};

    use super::*;

    async fn open(records: &Arc<MemoryMetadata>) -> RecordDirectory {
        RecordDirectory::open(Arc::clone(records) as _).await.unwrap()
    }

    mod suite {
        use super::*;
        conformance_suite!(pack_directory, async {
            Arc::new(open(&Arc::new(MemoryMetadata::default())).await)
        });
    }

    fn pack(n: u8) -> PackEntry {
        PackEntry { id: PackId([n; 16]), generation: 3, bytes: 100, index: vec![n; 48].into() }
    }

    #[tokio::test]
    async fn everything_is_there_after_a_restart_and_slots_are_used_again() {
        let records = Arc::new(MemoryMetadata::default());
        for round in 0..5_u64 {
            let directory = open(&records).await;
            let before = directory.read(0, 100).await.unwrap();
            assert_eq!((before.manifest_version, before.last), (round, 10 * round));
            for n in 0..10 {
                let seq = directory.add(&pack(n)).await.unwrap();
                assert_eq!(seq, Added::At(10 * round + u64::from(n) + 1));
            }
            let manifest = Bytes::from(vec![1; 10]);
            let through = 10 * round + 7;
            assert!(directory.replace_manifest(round, manifest, through, round).await.unwrap());
            let read = directory.read(0, 100).await.unwrap();
            assert_eq!(open(&records).await.read(0, 100).await.unwrap(), read);
            assert_eq!(read.entries.iter().map(|(seq, _)| *seq).min(), Some(through + 1));
        }
        let slots = records.list(Table::Packs, None, 1000).await.unwrap().len() - 1;
        assert!(slots <= 14, "{slots} slots for at most 13 entries");
    }
}
