//! What a master knows of where blocks lie: the newest entries of the directory, and the index runs.
//!
//! The entries are kept in memory. A merge moves them into an index run once there are [`MERGE_AT`](super::known::MERGE_AT) of them,
//! so memory does not grow with the store. Pages of runs are read when they are needed, and cached.

mod runs;

use std::{
    collections::HashSet,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fula_core::{
    PackDirectory, StoreError,
    packs::{Added, DirectoryPage, PackEntry, PackId},
};
use futures::future::{Either, join_all, select};
use parking_lot::{Mutex, RwLock};
use quick_cache::{Weighter, sync::Cache};
use tokio::time::Instant;

use super::{
    known::{MERGE_BLOCKS, Manifest, State},
    place::{Place, Tag},
    run::{Page, Run},
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

/// Times that a collection tries to take the runs.
const HOLD_TRIES: usize = 16;

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
    /// Bytes of the packs that this master has listed.
    added_bytes: AtomicU64,
}

/// The outcome of listing a pack.
pub(super) enum Listing {
    /// It is listed.
    Done {
        /// Whether it is this master's turn to merge.
        is_turn: bool,
    },
    /// It is not listed, because its generation is below this one.
    BelowGeneration(u64),
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
            added_bytes: AtomicU64::new(0),
        }
    }

    /// Lists a pack that is durable.
    ///
    /// # Errors
    /// What [`PackDirectory::add`] returns.
    pub(super) async fn add(&self, pack: &PackEntry) -> Result<Listing, StoreError> {
        let seq = match self.directory.add(pack).await? {
            Added::At(seq) => seq,
            Added::BelowGeneration(generation) => return Ok(Listing::BelowGeneration(generation)),
        };
        let mut state = self.state.write();
        state.insert(seq, pack)?;
        self.added_bytes.fetch_add(pack.bytes, Ordering::Relaxed);
        let is_turn = seq.is_multiple_of(MERGE_TURN) || pack.index.len() > MERGE_BLOCKS / 32;
        Ok(Listing::Done { is_turn: is_turn && state.fill() >= 1 })
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

    /// Returns a place of a block that is not in one of the packs that are gone, by what is known.
    ///
    /// # Errors
    /// As [`Self::locate`].
    pub(super) async fn locate_besides(
        &self,
        gone: &HashSet<PackId>,
        tag: &Tag,
    ) -> Result<Option<Place>, StoreError> {
        if let Some(place) = self.state.read().find_besides(gone, tag)? {
            return Ok(Some(place));
        }
        for run in self.runs().iter() {
            match self.find_in_one(run, tag).await? {
                Some(place) if !gone.contains(&place.pack) => return Ok(Some(place)),
                _ => {}
            }
        }
        Ok(None)
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
                tracing::warn!("the list of packs went back in time: it is read again");
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

    /// Returns the bytes of the packs that this master has listed.
    pub(super) fn added_bytes(&self) -> u64 {
        self.added_bytes.load(Ordering::Relaxed)
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
