//! What a master knows of where blocks lie: the newest entries of the directory, and the index runs.
//!
//! The entries are kept in memory. A merge moves them into an index run once there are [`MERGE_AT`] of them,
//! so memory does not grow with the store. Pages of runs are read when they are needed, and cached.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    PackDirectory, StoreError,
    cbor::{Invalid, Reader, Writer},
    packs::{DirectoryPage, PackEntry, PackId},
};
use futures::future::{Either, select, try_join_all};
use object_store::path::Path;
use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};
use tokio::time::Instant;

use super::{
    place::{Located, Place, Tag, decode_index},
    run::{self, Page, Run},
};
use crate::objects::Objects;

/// Entries of the directory that are merged into an index run.
const MERGE_AT: usize = 2048;

/// One master of several begins the merge: the one whose entry gets a number that this divides.
const MERGE_TURN: u64 = 256;

/// Entries at which a put waits for a merge: then something keeps merges from being done.
const ENTRIES_MAX: usize = 16 * MERGE_AT;

/// A run is merged with a newer one unless it has more than so many times its records.
const RUN_RATIO: u64 = 3;

/// Entries read from the directory at a time.
const READ_ENTRIES: usize = 1024;

/// While the directory was read within this time, a look-up asks the index runs first.
const FRESH: Duration = Duration::from_millis(50);

/// Memory for pages of index runs, in bytes.
const PAGES_BYTES: u64 = 16 << 20;

/// How long runs that no manifest names any more stay, for an arbiter that is restored from a backup.
const RUNS_KEPT: Duration = Duration::from_hours(7 * 24);

/// An entry of the directory.
#[derive(Debug)]
struct Listed {
    id: PackId,
    index: Bytes,
}

#[derive(Debug, Default)]
struct State {
    /// Every entry up to this number is known, or in a run.
    through: u64,
    manifest_version: u64,
    manifest: Manifest,
    entries: BTreeMap<u64, Listed>,
    /// Blocks of the entries, with the number of the newest entry that has each.
    places: HashMap<Tag, (u64, Place)>,
    /// Lengths of the packs of the entries.
    packs: HashMap<PackId, u64>,
}

/// What the manifest says: entries up to a number are in the runs, the newest of which is first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Manifest {
    through: u64,
    runs: Arc<[Run]>,
}

impl Manifest {
    fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(256);
        out.array(3).uint(1).uint(self.through).array(self.runs.len());
        for run in self.runs.iter() {
            run.write(&mut out);
        }
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, StoreError> {
        let wrong = |Invalid(why)| StoreError::Malformed { what: "manifest of the packs", why };
        let mut reader = Reader::new(bytes);
        let mut read = || {
            reader.tuple(3)?;
            if reader.uint()? != 1 {
                return Err(Invalid("it was written by a later build"));
            }
            let through = reader.uint()?;
            let count = reader.array()?;
            let mut runs = Vec::new();
            for _ in 0..count {
                runs.push(Run::read(&mut reader)?);
            }
            Ok(Self { through, runs: runs.into() })
        };
        let manifest = read().map_err(wrong)?;
        reader.end().map_err(wrong)?;
        Ok(manifest)
    }
}

#[derive(Clone, Debug)]
struct ByLength;

impl Weighter<([u8; 16], u64), Page> for ByLength {
    fn weight(&self, _: &([u8; 16], u64), page: &Page) -> u64 {
        page.weight()
    }
}

/// Where the blocks of a store lie, as far as one master knows it.
#[derive(Debug)]
pub(super) struct Places {
    objects: Objects,
    directory: Arc<dyn PackDirectory>,
    state: RwLock<State>,
    pages: Cache<([u8; 16], u64), Page, ByLength>,
    /// Held while the directory is read; the number of the last read that succeeded.
    refreshing: tokio::sync::Mutex<u64>,
    /// Number of reads of the directory that have begun.
    refreshes: AtomicU64,
    /// When the last one began.
    refreshed: Mutex<Option<Instant>>,
    merging: tokio::sync::Mutex<()>,
}

impl Places {
    pub(super) fn new(objects: Objects, directory: Arc<dyn PackDirectory>) -> Self {
        let pages = usize::try_from(PAGES_BYTES / 4096).unwrap_or(1024);
        Self {
            objects,
            directory,
            state: RwLock::default(),
            pages: Cache::with_weighter(pages, PAGES_BYTES, ByLength),
            refreshing: tokio::sync::Mutex::default(),
            refreshes: AtomicU64::new(0),
            refreshed: Mutex::new(None),
            merging: tokio::sync::Mutex::default(),
        }
    }

    /// Lists a pack that is durable. Returns whether it is this master's turn to merge.
    ///
    /// # Errors
    /// What [`PackDirectory::add`] returns.
    pub(super) async fn add(&self, pack: &PackEntry) -> Result<bool, StoreError> {
        let seq = self.directory.add(pack).await?;
        let mut state = self.state.write();
        state.insert(seq, pack)?;
        Ok(seq.is_multiple_of(MERGE_TURN) && state.entries.len() >= MERGE_AT)
    }

    /// Returns whether there are so many entries that no more may be added before a merge.
    pub(super) fn is_overfull(&self) -> bool {
        self.state.read().entries.len() >= ENTRIES_MAX
    }

    /// Returns where a block lies, if this store has it.
    ///
    /// # Errors
    /// [`StoreError`] of the directory, or of an index run.
    pub(super) async fn locate(&self, tag: &Tag) -> Result<Option<Place>, StoreError> {
        if let Some((_, place)) = self.state.read().places.get(tag) {
            return Ok(Some(*place));
        }
        let runs = self.runs();
        let is_fresh = self.refreshed.lock().is_some_and(|at| at.elapsed() < FRESH);
        if is_fresh && let Some(place) = self.find_in(&runs, tag).await? {
            return Ok(Some(place));
        }
        if is_fresh {
            self.refresh().await?;
            return self.look_again(tag, &runs).await;
        }
        // Runs and directory are asked at the same time: so a block that another master has just written
        // costs no round trip to runs that cannot have it, and one in a run does not wait for the directory.
        match select(pin!(self.find_in(&runs, tag)), pin!(self.refresh())).await {
            Either::Left((found, refreshing)) => {
                if let Some(place) = found? {
                    return Ok(Some(place));
                }
                refreshing.await?;
            }
            Either::Right((refreshed, finding)) => {
                let known = self.state.read().places.get(tag).copied();
                if let Some((_, place)) = known {
                    return Ok(Some(place));
                }
                if let Some(place) = finding.await? {
                    return Ok(Some(place));
                }
                refreshed?;
            }
        }
        self.look_again(tag, &runs).await
    }

    /// Looks once more where something new may be found after a refresh.
    async fn look_again(
        &self,
        tag: &Tag,
        before: &Arc<[Run]>,
    ) -> Result<Option<Place>, StoreError> {
        if let Some((_, place)) = self.state.read().places.get(tag) {
            return Ok(Some(*place));
        }
        let runs = self.runs();
        if Arc::ptr_eq(&runs, before) {
            return Ok(None);
        }
        self.find_in(&runs, tag).await
    }

    /// Returns where a block lies by everything that there is to know, read anew: for a block that was not
    /// found where it should be.
    ///
    /// # Errors
    /// As [`Self::locate`].
    pub(super) async fn locate_anew(&self, tag: &Tag) -> Result<Option<Place>, StoreError> {
        self.reread_all().await?;
        if let Some((_, place)) = self.state.read().places.get(tag) {
            return Ok(Some(*place));
        }
        self.find_in(&self.runs(), tag).await
    }

    /// Returns the length of a pack that is still in the list.
    pub(super) fn listed_bytes(&self, pack: &PackId) -> Option<u64> {
        self.state.read().packs.get(pack).copied()
    }

    fn runs(&self) -> Arc<[Run]> {
        Arc::clone(&self.state.read().manifest.runs)
    }

    /// Asks all runs at the same time; the newest that knows the block is right.
    async fn find_in(&self, runs: &[Run], tag: &Tag) -> Result<Option<Place>, StoreError> {
        let found = try_join_all(runs.iter().map(|run| self.find_in_one(run, tag))).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn find_in_one(&self, run: &Run, tag: &Tag) -> Result<Option<Place>, StoreError> {
        let at = tag.page(run.pages);
        let key = (run.id, at);
        let page = self.pages.get_or_insert_async(&key, run.page(&self.objects, at)).await?;
        Ok(page.find(tag))
    }

    /// Reads what is new in the directory, unless another call does that began after this one.
    ///
    /// # Errors
    /// What [`PackDirectory::read`] returns.
    pub(super) async fn refresh(&self) -> Result<(), StoreError> {
        let begun = self.refreshes.load(Ordering::Acquire);
        let mut succeeded = self.refreshing.lock().await;
        if *succeeded > begun {
            return Ok(());
        }
        let number = self.refreshes.fetch_add(1, Ordering::AcqRel) + 1;
        *self.refreshed.lock() = Some(Instant::now());
        loop {
            let after = self.state.read().through;
            let page = self.directory.read(after, READ_ENTRIES).await?;
            let went_back = page.manifest_version < self.state.read().manifest_version;
            if went_back || page.last < after {
                // The arbiter was restored from a backup.
                self.reread().await?;
                break;
            }
            if self.apply(page)? < READ_ENTRIES {
                break;
            }
        }
        *succeeded = number;
        Ok(())
    }

    async fn reread_all(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.refreshing.lock().await;
        self.reread().await
    }

    /// Forgets everything and reads the whole directory.
    async fn reread(&self) -> Result<(), StoreError> {
        let page = fula_core::packs::read_all(self.directory.as_ref()).await?;
        *self.state.write() = State::default();
        self.apply(page).map(drop)
    }

    fn apply(&self, page: DirectoryPage) -> Result<usize, StoreError> {
        let mut state = self.state.write();
        if page.manifest_version != state.manifest_version {
            let manifest = Manifest::decode(&page.manifest)?;
            state.remove_through(manifest.through)?;
            state.through = state.through.max(manifest.through);
            state.manifest = manifest;
            state.manifest_version = page.manifest_version;
        }
        let count = page.entries.len();
        for (seq, pack) in page.entries {
            state.insert(seq, &pack)?;
            state.through = state.through.max(seq);
        }
        Ok(count)
    }

    /// Moves the entries of the directory into an index run, together with runs that are not much larger.
    /// Returns how many blocks the new run knows; `None` where another master was faster.
    ///
    /// # Errors
    /// [`StoreError`]; nothing changed then, or all of it.
    pub(super) async fn merge(
        &self,
        fresh_id: impl FnMut() -> [u8; 16],
    ) -> Result<Option<u64>, StoreError> {
        let _one = self.merging.lock().await;
        self.refresh().await?;
        let (through, version, newest, runs) = {
            let state = self.state.read();
            let of_entries = |(tag, (seq, place)): (&Tag, &(u64, Place))| {
                (*seq <= state.through).then_some(Located { tag: *tag, place: *place })
            };
            let mut newest: Vec<_> = state.places.iter().filter_map(of_entries).collect();
            newest.sort_unstable_by_key(|located| located.tag);
            let runs = Arc::clone(&state.manifest.runs);
            (state.through, state.manifest_version, newest, runs)
        };
        let mut records = newest.len() as u64;
        let is_small = |run: &&Run| {
            let is_small = run.records <= RUN_RATIO * records;
            records += run.records;
            is_small
        };
        let (taken, left) = runs.split_at(runs.iter().take_while(is_small).count());
        let run = run::merge(&self.objects, &newest, taken, fresh_id).await?;
        let runs: Arc<[Run]> = std::iter::once(run).chain(left.iter().copied()).collect();
        let manifest = Manifest { through, runs };
        let replaced = self.directory.replace_manifest(version, manifest.encode(), through).await?;
        self.refresh().await?;
        if !replaced {
            self.objects.delete(&run.path()).await?;
            return Ok(None);
        }
        self.delete_old_runs().await?;
        Ok(Some(run.records))
    }

    /// Leaves runs out of the manifest that are gone or damaged: what they knew is to be listed anew. Reads
    /// every run.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn forget_lost_runs(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.merging.lock().await;
        // What was known before may be listed no more.
        self.reread_all().await?;
        let (version, manifest) = {
            let state = self.state.read();
            (state.manifest_version, state.manifest.clone())
        };
        let mut whole = Vec::new();
        for run in manifest.runs.iter() {
            if run.is_whole(&self.objects).await? {
                whole.push(*run);
            } else {
                tracing::warn!(run = %run.path(), "an index run is missing or damaged");
            }
        }
        if whole.len() < manifest.runs.len() {
            let through = manifest.through;
            let manifest = Manifest { runs: whole.into(), through };
            self.directory.replace_manifest(version, manifest.encode(), through).await?;
            self.refresh().await?;
        }
        Ok(())
    }

    /// Returns the numbers of records of the runs.
    #[cfg(test)]
    pub(super) fn run_records(&self) -> Vec<u64> {
        self.runs().iter().map(|run| run.records).collect()
    }

    /// Deletes runs that have been out of use for [`RUNS_KEPT`]. The store's own clock says how old they are.
    async fn delete_old_runs(&self) -> Result<(), StoreError> {
        let found = self.objects.list(&Path::from("index")).await?;
        let Some(now) = found.iter().map(|meta| meta.last_modified).max() else { return Ok(()) };
        let runs = self.runs();
        for meta in found {
            let age = (now - meta.last_modified).to_std().unwrap_or_default();
            let is_used = runs.iter().any(|run| run.path() == meta.location);
            if !is_used && age > RUNS_KEPT {
                self.objects.delete(&meta.location).await?;
            }
        }
        Ok(())
    }
}

impl State {
    fn insert(&mut self, seq: u64, pack: &PackEntry) -> Result<(), StoreError> {
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

    /// Removes the entries up to a number.
    fn remove_through(&mut self, through: u64) -> Result<(), StoreError> {
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
