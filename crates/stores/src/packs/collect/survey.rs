//! What a collection finds out before it changes anything: how much of each pack is in use.

use std::collections::{HashMap, HashSet};

use fula_core::{
    StoreError,
    block::{Kept, KeptBytes},
    packs::PackId,
};

use super::{
    super::{
        PackedBlocks,
        merge::Merged,
        names::{id_at, shard_path, told_generation},
        place::{Located, Tag},
        run::Run,
    },
    marks::{Live, LiveMarks},
    scratch_failed,
};

/// Most tags of blocks in use that are remembered because no index run has them.
const UNMATCHED_MAX: usize = 4 << 20;

/// Most records that one collection moves. Memory for them is 64 bytes each.
const MOVES_MAX: u64 = 1 << 20;

/// A pack whose blocks in use are at most this part of it, in percent, is rewritten.
const LIVE_PERCENT: u64 = 50;

/// Says of ascending tags whether they are in use, and why.
pub(super) struct Judge<'a> {
    marks: LiveMarks<'a>,
    next: Option<(Tag, Kept)>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(live: &'a mut Live) -> Result<Self, StoreError> {
        let mut marks = live.marks().map_err(scratch_failed)?;
        let next = marks.next().map_err(scratch_failed)?;
        Ok(Self { marks, next })
    }

    /// Returns why the block of a tag is kept; `None` if it is not in use. `passed` gets the tags in use
    /// below it that were not asked for.
    pub(super) fn judge(
        &mut self,
        tag: &Tag,
        mut passed: impl FnMut(Tag),
    ) -> Result<Option<Kept>, StoreError> {
        while let Some((next, kept)) = self.next.filter(|(next, _)| next <= tag) {
            self.next = self.marks.next().map_err(scratch_failed)?;
            if next == *tag {
                return Ok(Some(kept));
            }
            passed(next);
        }
        Ok(None)
    }

    /// Returns whether the block of a tag is in use.
    pub(super) fn is_live(&mut self, tag: &Tag) -> Result<bool, StoreError> {
        Ok(self.judge(tag, |_| {})?.is_some())
    }
}

/// The blocks of one pack that are in use.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    bytes: u64,
    blocks: u64,
}

/// What index runs say of packs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    packs: HashMap<PackId, Use>,
    /// Bytes of all blocks in use.
    pub(super) kept: KeptBytes,
    /// Blocks in use that no run has.
    pub(super) unmatched: HashSet<Tag>,
    /// Whether there are more of them than are remembered.
    pub(super) is_cut_off: bool,
}

/// What is to be done with packs.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Packs without a block in use.
    pub(super) dead: HashSet<PackId>,
    /// Packs whose blocks in use are moved.
    pub(super) sparse: HashSet<PackId>,
    /// Packs that no run names: garbage, unless they are newer than the runs.
    pub(super) unlisted: Vec<PackId>,
    /// Lengths of all these packs in bytes.
    pub(super) bytes: HashMap<PackId, u64>,
}

impl Tally {
    /// Reads the index runs, and compares them with the marks.
    pub(super) async fn read(
        store: &PackedBlocks,
        runs: &[Run],
        live: &mut Live,
    ) -> Result<Self, StoreError> {
        let mut tally = Self::default();
        let mut judge = Judge::new(live)?;
        let mut merged = Merged::new(&store.objects, &[], runs).await?;
        let (mut unmatched, mut is_cut_off) = (HashSet::new(), false);
        let mut pass = |tag| {
            if unmatched.len() < UNMATCHED_MAX {
                unmatched.insert(tag);
            } else {
                is_cut_off = true;
            }
        };
        while let Some(Located { tag, place }) = merged.next().await? {
            let found = tally.packs.entry(place.pack).or_default();
            if let Some(kept) = judge.judge(&tag, &mut pass)? {
                found.bytes += u64::from(place.len);
                found.blocks += 1;
                tally.kept.add(kept, u64::from(place.len));
            }
        }
        judge.judge(&Tag([u8::MAX; 16]), &mut pass)?;
        (tally.unmatched, tally.is_cut_off) = (unmatched, is_cut_off);
        Ok(tally)
    }

    /// Lists the packs of the store, and chooses those of generations below `bound` that can go.
    pub(super) async fn choose(
        &self,
        store: &PackedBlocks,
        bound: u64,
    ) -> Result<Choice, StoreError> {
        let mut choice = Choice::default();
        let mut sparse: Vec<(u64, PackId)> = Vec::new();
        for shard in 0..=u8::MAX {
            for meta in store.objects.list(&shard_path(shard)).await? {
                let Some(id) = id_at(shard, &meta.location) else { continue };
                let found = self.packs.get(&id);
                let is_full = found.is_some_and(|used| used.bytes * 100 > LIVE_PERCENT * meta.size);
                if is_full || told_generation(&id) >= bound {
                    continue;
                }
                choice.bytes.insert(id, meta.size);
                match found {
                    None => choice.unlisted.push(id),
                    Some(used) if used.blocks == 0 => drop(choice.dead.insert(id)),
                    Some(used) => sparse.push((used.blocks, id)),
                }
            }
        }
        // Those with the fewest blocks in use first: they give back most for what they cost.
        sparse.sort_unstable();
        let mut moves = 0;
        for (blocks, id) in sparse {
            moves += blocks;
            if moves > MOVES_MAX {
                break;
            }
            choice.sparse.insert(id);
        }
        Ok(choice)
    }
}
