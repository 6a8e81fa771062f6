//! The newest entries of the directory and the manifest, as a master keeps them in memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use fula_core::{
    StoreError,
    cbor::{Invalid, Reader, Writer},
    packs::{DirectoryPage, PackEntry, PackId},
};

use super::{
    place::{Place, Tag, decode_index},
    run::Run,
};

/// Entries of the directory that are merged into an index run.
pub(super) const MERGE_AT: u64 = 2048;

/// Blocks of the entries that are merged, even if the entries are fewer.
pub(super) const MERGE_BLOCKS: usize = 128 << 10;

/// An entry of the directory.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) id: PackId,
    index: Bytes,
}

/// The newest entries of the directory, with what the manifest says of the others.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Every entry up to this number is known, or in a run.
    pub(super) through: u64,
    /// The highest number of any entry that is known of.
    pub(super) last: u64,
    pub(super) manifest_version: u64,
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Bytes,
    pub(super) entries: BTreeMap<u64, Listed>,
    /// Blocks of the entries, with the number of the newest entry that has each.
    pub(super) places: HashMap<Tag, (u64, Place)>,
    /// Lengths of the packs of the entries.
    pub(super) packs: HashMap<PackId, u64>,
    /// Bytes of the packs that this master has listed.
    pub(super) added_bytes: u64,
}

/// What the manifest says: entries up to a number are in the runs, the newest of which is first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) through: u64,
    pub(super) runs: Arc<[Run]>,
    /// Names of runs that the last merge replaced. The next one deletes them: by then every master that looks
    /// has the newer ones.
    pub(super) retired: Vec<[u8; 16]>,
    /// Runs that a collection works on. Merges leave them alone.
    pub(super) held: Option<Held>,
}

/// The oldest runs, while a collection works on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Random name of the collection.
    pub(super) by: [u8; 16],
    /// Number of the runs, from the end of the list.
    pub(super) count: usize,
}

impl Manifest {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(256);
        // Without a collection under way, the manifest has the form of earlier builds.
        let (fields, format) = if self.held.is_some() { (5, 2) } else { (4, 1) };
        out.array(fields).uint(format).uint(self.through).array(self.runs.len());
        for run in self.runs.iter() {
            run.write(&mut out);
        }
        out.array(self.retired.len());
        for id in &self.retired {
            out.bytes(id);
        }
        if let Some(held) = &self.held {
            out.array(2).bytes(&held.by).uint(held.count as u64);
        }
        out.finish()
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<Self, StoreError> {
        let wrong = |Invalid(why)| StoreError::Malformed { what: "manifest of the packs", why };
        let mut reader = Reader::new(bytes);
        let mut read = || {
            let fields = reader.array()?;
            let format = reader.uint()?;
            if !matches!((fields, format), (4, 1) | (5, 2)) {
                return Err(Invalid("it was written by a later build"));
            }
            let through = reader.uint()?;
            let count = reader.array()?;
            let mut runs = Vec::new();
            for _ in 0..count {
                runs.push(Run::read(&mut reader)?);
            }
            let count = reader.array()?;
            let mut retired = Vec::new();
            for _ in 0..count {
                retired.push(reader.array_of()?);
            }
            let held = if format == 2 {
                reader.tuple(2)?;
                let (by, count) = (reader.array_of()?, reader.uint()?);
                let count = usize::try_from(count).ok().filter(|count| *count <= runs.len());
                Some(Held { by, count: count.ok_or(Invalid("it holds more runs than it names"))? })
            } else {
                None
            };
            Ok(Self { through, runs: runs.into(), retired, held })
        };
        let manifest = read().map_err(wrong)?;
        reader.end().map_err(wrong)?;
        Ok(manifest)
    }
}

impl Manifest {
    /// Returns the number of runs that merges may take, which are the first ones.
    pub(super) fn free(&self) -> usize {
        self.runs.len() - self.held.as_ref().map_or(0, |held| held.count)
    }
}

impl State {
    /// Returns how often what is listed would be enough for a merge.
    pub(super) fn fill(&self) -> u64 {
        let entries = self.last.saturating_sub(self.manifest.through) / MERGE_AT;
        entries.max((self.places.len() / MERGE_BLOCKS) as u64)
    }

    /// Returns whether a page of the directory, read from the last known entry on, shows that the directory is
    /// not what it was.
    pub(super) fn is_contradicted_by(&self, page: &DirectoryPage) -> bool {
        if page.manifest_version < self.manifest_version || page.last < self.through {
            return true;
        }
        if page.manifest_version > self.manifest_version {
            return false;
        }
        let first = page.entries.first().map(|(seq, pack)| (*seq, pack.id));
        let known = self.entries.get(&self.through).map(|listed| (self.through, listed.id));
        page.manifest != self.manifest_bytes || (known.is_some() && first != known)
    }

    pub(super) fn insert(&mut self, seq: u64, pack: &PackEntry) -> Result<(), StoreError> {
        self.last = self.last.max(seq);
        if seq <= self.manifest.through {
            return Ok(());
        }
        for entry in decode_index(&pack.index)? {
            let place = Place { pack: pack.id, offset: entry.offset, len: entry.len };
            let known = self.places.entry(entry.tag).or_insert((seq, place));
            if known.0 < seq {
                *known = (seq, place);
            }
        }
        self.packs.insert(pack.id, pack.bytes);
        self.entries.insert(seq, Listed { id: pack.id, index: pack.index.clone() });
        Ok(())
    }

    /// Returns where the newest entry has a block that lies in a pack which is not gone.
    pub(super) fn find_besides(
        &self,
        gone: &HashSet<PackId>,
        tag: &Tag,
    ) -> Result<Option<Place>, StoreError> {
        for listed in self.entries.values().rev().filter(|listed| !gone.contains(&listed.id)) {
            let index = decode_index(&listed.index)?;
            if let Some(entry) = index.iter().find(|entry| entry.tag == *tag) {
                let (offset, len) = (entry.offset, entry.len);
                return Ok(Some(Place { pack: listed.id, offset, len }));
            }
        }
        Ok(None)
    }

    /// Removes the entries up to a number.
    pub(super) fn remove_through(&mut self, through: u64) -> Result<(), StoreError> {
        let kept = self.entries.split_off(&through.saturating_add(1));
        for (_, listed) in std::mem::replace(&mut self.entries, kept) {
            for entry in decode_index(&listed.index)? {
                if self.places.get(&entry.tag).is_some_and(|(seq, _)| *seq <= through) {
                    self.places.remove(&entry.tag);
                }
            }
            self.packs.remove(&listed.id);
        }
        Ok(())
    }
}
