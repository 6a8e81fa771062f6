//! What a master knows of where blocks lie: the newest entries of the directory, and the index runs.
//!
//! The entries are kept in memory. A merge moves them into an index run once there are [`MERGE_AT`](super::known::MERGE_AT) of them,
//! so memory does not grow with the store. Pages of runs are read when they are needed, and cached.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fula_core::{
    PackDirectory, StoreError,
    packs::{DirectoryPage, PackEntry, PackId},
};
use futures::future::{Either, join_all, select};
use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};
use tokio::time::Instant;

use super::{
    known::{MERGE_BLOCKS, Manifest, State},
    place::{Located, Place, Tag},
    run::{self, Page, Run},
};
use crate::objects::Objects;

/// One master of several begins the merge: the one whose entry gets a number that this divides.
const MERGE_TURN: u64 = 256;

/// Times the entries or blocks of a merge at which a put waits for one: something keeps merges from being done.
const OVERFULL: u64 = 8;

/// A run is merged with a newer one unless it has more than so many times its records.
const RUN_RATIO: u64 = 3;

/// Entries read from the directory at a time.
const READ_ENTRIES: usize = 256;

/// While the directory was read within this time, a look-up asks the index runs first.
const FRESH: Duration = Duration::from_millis(50);

/// Memory for pages of index runs, in bytes.
const PAGES_BYTES: u64 = 16 << 20;

/// Shortest time between two readings of the whole directory for blocks that were not found.
const REREAD_EVERY: Duration = Duration::from_secs(1);

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
    /// When the whole directory was last read for a block that was not found.
    reread: Mutex<Option<Instant>>,
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
            reread: Mutex::new(None),
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
        let is_turn = seq.is_multiple_of(MERGE_TURN) || pack.index.len() > MERGE_BLOCKS / 32;
        Ok(is_turn && state.fill() >= 1)
    }

    /// Returns whether there are so many entries that no more may be added before a merge.
    pub(super) fn is_overfull(&self) -> bool {
        self.state.read().fill() >= OVERFULL
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
        let mut refreshing = pin!(self.refresh());
        let found = if is_fresh {
            self.find_in(&runs, tag).await
        } else {
            // Runs and directory are asked at the same time: so a block that another master has just written
            // costs no round trip to runs that cannot have it, and one in a run does not wait for the
            // directory.
            match select(pin!(self.find_in(&runs, tag)), &mut refreshing).await {
                Either::Left((found, _)) => found,
                Either::Right((refreshed, finding)) => {
                    let known = self.state.read().places.get(tag).copied();
                    if let Some((_, place)) = known {
                        return Ok(Some(place));
                    }
                    // What is in a run is found without the arbiter, too.
                    let found = finding.await;
                    if let Ok(Some(place)) = found {
                        return Ok(Some(place));
                    }
                    refreshed?;
                    return self.look_again(tag, &runs, found).await;
                }
            }
        };
        if let Ok(Some(place)) = found {
            return Ok(Some(place));
        }
        refreshing.await?;
        self.look_again(tag, &runs, found).await
    }

    /// Looks once more after a refresh, where it brought something new; else `before` is what was found in the
    /// runs `asked`. A run that is gone was perhaps merged into another one.
    async fn look_again(
        &self,
        tag: &Tag,
        asked: &Arc<[Run]>,
        before: Result<Option<Place>, StoreError>,
    ) -> Result<Option<Place>, StoreError> {
        if let Some((_, place)) = self.state.read().places.get(tag) {
            return Ok(Some(*place));
        }
        let runs = self.runs();
        if Arc::ptr_eq(&runs, asked) { before } else { self.find_in(&runs, tag).await }
    }

    /// Returns where a block lies by everything that there is to know, read anew: for a block that was not
    /// found where it should be.
    ///
    /// # Errors
    /// As [`Self::locate`].
    pub(super) async fn locate_anew(&self, tag: &Tag) -> Result<Option<Place>, StoreError> {
        let is_due = {
            let mut reread = self.reread.lock();
            let is_due = reread.is_none_or(|at| at.elapsed() >= REREAD_EVERY);
            if is_due {
                *reread = Some(Instant::now());
            }
            is_due
        };
        if is_due {
            self.reread_all().await?;
        } else {
            self.refresh().await?;
        }
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

    /// Asks all runs at the same time; the newest that knows the block is right. A run that cannot be read
    /// matters only if no other one knows the block.
    async fn find_in(&self, runs: &[Run], tag: &Tag) -> Result<Option<Place>, StoreError> {
        let mut failure = None;
        for found in join_all(runs.iter().map(|run| self.find_in_one(run, tag))).await {
            match found {
                Ok(Some(place)) => return Ok(Some(place)),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
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
        let now = Instant::now();
        loop {
            // With the last entry that is known: it shows whether numbers were given twice.
            let after = self.state.read().through.saturating_sub(1);
            let page = self.directory.read(after, READ_ENTRIES).await?;
            if self.state.read().is_contradicted_by(&page) {
                tracing::warn!("the list of packs went back in time: it is read anew");
                self.reread().await?;
                break;
            }
            if self.apply(page)? < READ_ENTRIES {
                break;
            }
        }
        *self.refreshed.lock() = Some(now);
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
        state.last = state.last.max(page.last);
        if page.manifest_version != state.manifest_version {
            let manifest = Manifest::decode(&page.manifest)?;
            state.remove_through(manifest.through)?;
            state.through = state.through.max(manifest.through);
            (state.manifest, state.manifest_bytes) = (manifest, page.manifest);
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
    /// Returns how many blocks the new run knows; `None` where there is not enough to do unless `is_asked`, or
    /// where another master was faster.
    ///
    /// # Errors
    /// [`StoreError`]; nothing changed then, or all of it.
    pub(super) async fn merge(
        &self,
        is_asked: bool,
        fresh_id: impl FnMut() -> [u8; 16],
    ) -> Result<Option<u64>, StoreError> {
        let _one_at_a_time = self.merging.lock().await;
        if !is_asked && self.state.read().fill() < 1 {
            return Ok(None);
        }
        // A run that is written beside the store would be hidden once the store is mounted again.
        self.objects.check_named().await?;
        // What is removed from the list must be what goes into the run.
        self.reread_all().await?;
        let (version, newest, before) = {
            let state = self.state.read();
            let through = state.through;
            let of_entries = |(tag, (seq, place)): (&Tag, &(u64, Place))| {
                (*seq <= through).then_some(Located { tag: *tag, place: *place })
            };
            let mut newest: Vec<_> = state.places.iter().filter_map(of_entries).collect();
            newest.sort_unstable_by_key(|located| located.tag);
            (state.manifest_version, newest, Manifest { through, ..state.manifest.clone() })
        };
        let taken = self.mergeable(newest.len() as u64, &before.runs).await?;
        let (taken, left) = before.runs.split_at(taken);
        let run = run::merge(&self.objects, &newest, taken, fresh_id).await?;
        let manifest = Manifest {
            through: before.through,
            runs: std::iter::once(run).chain(left.iter().copied()).collect(),
            retired: taken.iter().map(|run| run.id).collect(),
        };
        self.objects.check_named().await?;
        let (through, encoded) = (manifest.through, manifest.encode());
        let replaced = self.directory.replace_manifest(version, encoded, through).await?;
        // Deletions may fail: what they leave behind is only garbage.
        let garbage = if replaced { before.retired } else { vec![run.id] };
        for id in garbage {
            if let Err(error) = self.objects.delete(&run::path_of(&id)).await {
                tracing::warn!(%error, "cannot delete an index run that is not used any more");
            }
        }
        self.refresh().await?;
        Ok(replaced.then_some(run.records))
    }

    /// Returns how many of the newest runs are to be merged with so many records: those that are not much
    /// larger, up to the first that cannot be read.
    async fn mergeable(&self, mut records: u64, runs: &[Run]) -> Result<usize, StoreError> {
        let mut count = 0;
        for run in runs {
            if run.records > RUN_RATIO * records || !run.is_whole(&self.objects).await? {
                break;
            }
            (records, count) = (records + run.records, count + 1);
        }
        Ok(count)
    }

    /// Reads the directory anew, and returns the runs that are whole. Reads every run.
    ///
    /// # Errors
    /// [`StoreError`], also where the store itself seems to be another one.
    pub(super) async fn whole_runs(&self) -> Result<Vec<Run>, StoreError> {
        self.objects.check_named().await?;
        // What was known before may be listed no more.
        self.reread_all().await?;
        let mut whole = Vec::new();
        for run in self.runs().iter() {
            if run.is_whole(&self.objects).await? {
                whole.push(*run);
            } else {
                tracing::warn!(run = %run.path(), "an index run is missing or damaged");
            }
        }
        Ok(whole)
    }

    /// Returns where a block lies by the list and by some of the runs.
    ///
    /// # Errors
    /// As [`Self::locate`].
    pub(super) async fn locate_in(
        &self,
        runs: &[Run],
        tag: &Tag,
    ) -> Result<Option<Place>, StoreError> {
        if let Some((_, place)) = self.state.read().places.get(tag) {
            return Ok(Some(*place));
        }
        self.find_in(runs, tag).await
    }

    /// Leaves runs out of the manifest that are not whole, after everything that they knew was listed again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn forget_lost_runs(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.merging.lock().await;
        let whole = self.whole_runs().await?;
        let (version, manifest) = {
            let state = self.state.read();
            (state.manifest_version, state.manifest.clone())
        };
        if whole.len() < manifest.runs.len() {
            let through = manifest.through;
            let manifest = Manifest { runs: whole.into(), ..manifest };
            self.directory.replace_manifest(version, manifest.encode(), through).await?;
            self.refresh().await?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn directory(&self) -> Arc<dyn PackDirectory> {
        Arc::clone(&self.directory)
    }

    /// Has the next look-up ask the directory and the runs.
    #[cfg(test)]
    pub(super) fn forget_looks(&self) {
        *self.refreshed.lock() = None;
        self.pages.clear();
    }

    /// Returns the numbers of records of the runs.
    #[cfg(test)]
    pub(super) fn run_records(&self) -> Vec<u64> {
        self.runs().iter().map(|run| run.records).collect()
    }
}
