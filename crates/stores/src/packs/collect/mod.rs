//! Collects garbage in packs (docs/adr/0042).
//!
//! The service marks the blocks that are in use. Then the sweep compares the marks with the index runs. A
//! pack without a block in use is deleted. A pack that is mostly garbage is rewritten: its blocks in use are
//! written into new packs, and a new index run names their new places. One replacement of the manifest makes
//! that valid; only then are old packs deleted.
//!
//! # Invariants
//! - Only packs of generations below the bound of the collection are deleted, and only what was not marked is
//!   left out. A master puts whatever it links again under a newer generation, so garbage never comes back
//!   to life, and a deletion does no harm however late it is.
//! - The manifest is replaced only if it still says that this collection holds the runs. Who takes the runs
//!   over makes the results of an earlier collection void.
//! - Packs that are in no list are deleted only once the directory refuses packs of their generation, and
//!   only if they have no block in use.

mod leftovers;
mod marks;
mod moves;
mod survey;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashSet, VecDeque},
    io,
    path::PathBuf,
    time::Instant,
};

use fula_core::{
    Cid, Codec, StoreError,
    block::{Epoch, Kept, Position, Swept},
    packs::PackId,
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use parking_lot::Mutex;

use self::{
    marks::{Live, Marks},
    moves::Moved,
    survey::Tally,
};
use super::{
    CODECS, PackedBlocks,
    names::{path_of, single_at},
    place::Tag,
};

/// Number of objects that one call deletes.
const DELETED_A_CALL: usize = 1024;

/// Number of objects that are deleted at a time.
const DELETED_AT_ONCE: usize = 16;

/// The collection that is under way, if any.
#[derive(Debug, Default)]
pub(super) struct State {
    marks: Mutex<Option<(Epoch, Marks)>>,
    /// Objects that the last sweep found to be garbage, and that are not deleted yet.
    garbage: Mutex<VecDeque<(Path, u64)>>,
    /// Directory for marks that do not fit into memory.
    scratch: Mutex<Option<PathBuf>>,
    /// Time of the last search for what was left in the store.
    searched: Mutex<Option<Instant>>,
}

fn scratch_failed(error: io::Error) -> StoreError {
    let action = "write marks to the data directory";
    StoreError::Unavailable { backend: "garbage collection", action, source: error.into() }
}

fn interrupted(why: &str) -> StoreError {
    let action = "sweep";
    StoreError::Unavailable { backend: "garbage collection", action, source: why.into() }
}

impl PackedBlocks {
    /// Lets collections keep marks in files in a directory, which exists.
    pub fn use_scratch(&self, directory: PathBuf) {
        *self.collection.scratch.lock() = Some(directory);
    }

    /// Returns the bytes of the packs that this process has listed since it started.
    pub fn added_bytes(&self) -> u64 {
        self.places.added_bytes()
    }

    pub(super) fn begin_marks(&self, epoch: Epoch) -> Epoch {
        let scratch = self.collection.scratch.lock().clone();
        *self.collection.marks.lock() = Some((epoch, Marks::new(scratch)));
        epoch
    }

    /// Marks blocks. Returns those that were not marked before, and every leaf.
    pub(super) fn mark_tags(&self, cids: &[Cid], cut: Epoch, kept: Kept) -> Vec<Cid> {
        let mut state = self.collection.marks.lock();
        let Some((_, marks)) = state.as_mut().filter(|(epoch, _)| *epoch == cut) else {
            return cids.to_vec();
        };
        let mut mark = |cid: &&Cid| {
            let tag = Tag::new(&self.key, cid);
            if cid.codec() == Codec::Raw {
                marks.add_leaf(tag, kept);
                return true;
            }
            marks.add_node(tag, kept)
        };
        cids.iter().filter(&mut mark).copied().collect()
    }

    /// Sweeps the packs. The first call finds the garbage and removes it from the index; further calls delete
    /// it.
    pub(super) async fn sweep_packs(
        &self,
        Position(from): Position,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        if from > 0 {
            return self.delete_garbage(from).await;
        }
        let marks = self.collection.marks.lock().take();
        let (_, marks) = marks
            .filter(|(epoch, _)| *epoch == cut)
            .ok_or_else(|| interrupted("another collection has begun in this process"))?;
        let mut live = marks.finish().map_err(scratch_failed)?;
        self.remove_from_index(&mut live, u64::from(put_before.0)).await
    }

    async fn remove_from_index(&self, live: &mut Live, bound: u64) -> Result<Swept, StoreError> {
        self.objects.check_named().await?;
        let (by, runs) = self.places.hold_runs(|| (self.fresh_id)()).await?;
        let mut tally = Tally::read(self, &runs, live).await?;
        let choice = tally.choose(self, bound).await?;
        let moved = Moved::write(self, &runs, live, &choice, bound).await?;
        let run = moved.write_run(self, &runs, live, &choice, bound).await?;
        self.objects.check_named().await?;
        if !self.places.replace_held(by, run, bound).await? {
            drop(self.objects.delete(&run.path()).await);
            return Err(interrupted("another master has taken the collection over"));
        }
        let mut garbage: VecDeque<_> = VecDeque::new();
        let newer = self.places.newer_packs(&run).await?;
        // A pack that was listed a second time meanwhile stays.
        let gone = choice.dead.iter().chain(&moved.emptied).filter(|id| !newer.contains(*id));
        garbage.extend(gone.map(|id| (path_of(id), choice.bytes.get(id).copied().unwrap_or(0))));
        let singles = self.garbage_of_singles(&mut tally).await?;
        garbage.extend(singles);
        garbage.extend(self.leftovers(&run).await?);
        // The directory takes no more packs of these generations, so what it does not name by now is garbage.
        // Only what is in use and in no list may be in one of these packs, if the list has lost it.
        for id in choice.unlisted.iter().filter(|id| !newer.contains(id)) {
            if self.may_be_in_use(id, choice.bytes[id], &tally).await? {
                tracing::error!(pack = %id, "a pack in no list has blocks in use: run `fula fsck --repair`");
            } else {
                garbage.push_back((path_of(id), choice.bytes[id]));
            }
        }
        let next = (!garbage.is_empty()).then_some(Position(1));
        *self.collection.garbage.lock() = garbage;
        let missing = tally.unmatched.len() as u64;
        Ok(Swept { kept: tally.kept, missing, next, ..Swept::default() })
    }

    /// Returns whether a pack that no list names has a block that is in use and that no run has.
    async fn may_be_in_use(
        &self,
        id: &PackId,
        bytes: u64,
        tally: &Tally,
    ) -> Result<bool, StoreError> {
        if tally.unmatched.is_empty() || tally.is_cut_off {
            return Ok(tally.is_cut_off);
        }
        let Some(index) = self.pack_index(&path_of(id), bytes).await? else { return Ok(false) };
        let is_wanted =
            |(cid, ..): &(Cid, u32, u32)| tally.unmatched.contains(&Tag::new(&self.key, cid));
        Ok(index.blocks.iter().any(is_wanted))
    }

    /// Returns the blocks of earlier builds, each an object of its own, that are not in use. Removes those
    /// that are from the tags that no run has.
    async fn garbage_of_singles(&self, tally: &mut Tally) -> Result<Vec<(Path, u64)>, StoreError> {
        let mut garbage = Vec::new();
        if !self.has_single_blocks.load(std::sync::atomic::Ordering::Relaxed) || tally.is_cut_off {
            return Ok(garbage);
        }
        let mut found = HashSet::new();
        for codec in CODECS {
            for shard in 0..=u8::MAX {
                let prefix = Path::from(format!("blocks/{:02x}/{shard:02x}", codec as u8));
                for meta in self.objects.list(&prefix).await? {
                    let Some(cid) = single_at(codec, shard, &meta.location) else { continue };
                    let tag = Tag::new(&self.key, &cid);
                    if tally.unmatched.contains(&tag) {
                        // The reason was not noted; such blocks are of before packs.
                        tally.kept.add(Kept::Now, meta.size);
                        found.insert(tag);
                    } else {
                        garbage.push((meta.location, meta.size));
                    }
                }
            }
        }
        tally.unmatched.retain(|tag| !found.contains(tag));
        Ok(garbage)
    }

    async fn delete_garbage(&self, from: u64) -> Result<Swept, StoreError> {
        let page: Vec<_> = {
            let mut garbage = self.collection.garbage.lock();
            let count = garbage.len().min(DELETED_A_CALL);
            garbage.drain(..count).collect()
        };
        let mut swept = Swept::default();
        let deletions = page
            .into_iter()
            .map(|(path, bytes)| async move { self.objects.delete(&path).await.map(|()| bytes) });
        let mut deletions =
            stream::iter(deletions.collect::<Vec<_>>()).buffer_unordered(DELETED_AT_ONCE);
        while let Some(bytes) = deletions.try_next().await? {
            (swept.deleted, swept.bytes) = (swept.deleted + 1, swept.bytes + bytes);
        }
        let is_done = self.collection.garbage.lock().is_empty();
        swept.next = (!is_done).then_some(Position(from + 1));
        Ok(swept)
    }
}
