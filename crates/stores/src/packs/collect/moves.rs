//! Moves the blocks in use out of packs that are mostly garbage, and writes the index run of what is left.

use std::collections::{BTreeMap, HashMap, HashSet};

use fula_core::{Block, StoreError, packs::PackId};

use super::{
    super::{
        PACK_BYTES, PackedBlocks,
        format::{BLOCKS_MAX, PackIndex},
        merge::Merged,
        names::{path_of, told_generation},
        place::{Located, Place, Tag},
        run::{Attempts, Failed, Run, RunWriter},
    },
    marks::Live,
    survey::{Choice, Judge},
};
use crate::objects::Found;

/// Longest pack in bytes: blocks of 16 MiB, the last block of 1 MiB, and the index.
const PACK_BYTES_MAX: u64 = 18 << 20;

/// What was moved.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// New places of blocks.
    pub(super) places: HashMap<Tag, Place>,
    /// Packs that hold no other blocks in use.
    pub(super) emptied: HashSet<PackId>,
    /// Number of records that the new index run has.
    pub(super) records: u64,
}

impl Moved {
    /// Writes the blocks in use of sparse packs into new ones. A pack that cannot be read stays as it is.
    pub(super) async fn write(
        store: &PackedBlocks,
        runs: &[Run],
        live: &mut Live,
        choice: &Choice,
        bound: u64,
    ) -> Result<Self, StoreError> {
        let mut moved = Self::default();
        // In order of the packs, so that each is read once.
        let mut wanted: BTreeMap<PackId, Vec<(u32, Tag)>> = BTreeMap::new();
        let mut judge = Judge::new(live)?;
        let mut merged = Merged::new(&store.objects, &[], runs).await?;
        while let Some(record) = merged.next().await? {
            let is_live = judge.is_live(&record.tag)?;
            moved.records += u64::from(is_live || stays(&record, choice, bound));
            if is_live && choice.sparse.contains(&record.place.pack) {
                let place = record.place;
                wanted.entry(place.pack).or_default().push((place.offset, record.tag));
            }
        }
        let mut batch = Batch::default();
        for (pack, records) in wanted {
            match blocks_of(store, &pack, &records).await {
                Ok(blocks) => {
                    for block in blocks {
                        batch.add(store, block, &mut moved.places).await?;
                    }
                    moved.emptied.insert(pack);
                }
                Err(StoreError::Damaged { .. } | StoreError::Malformed { .. }) => {
                    tracing::error!(%pack, "a pack is damaged, and stays: run `fula fsck`");
                }
                Err(error) => return Err(error),
            }
        }
        batch.write(store, &mut moved.places).await?;
        Ok(moved)
    }

    /// Writes the index run that takes the place of `runs`.
    pub(super) async fn write_run(
        &self,
        store: &PackedBlocks,
        runs: &[Run],
        live: &mut Live,
        choice: &Choice,
        bound: u64,
    ) -> Result<Run, StoreError> {
        let mut attempts = Attempts::new(&store.objects, self.records);
        loop {
            let mut out = attempts.begin((store.fresh_id)());
            let filled = self.fill(&mut out, store, runs, live, choice, bound).await;
            if let Some(run) = attempts.end(out, filled).await? {
                return Ok(run);
            }
        }
    }

    async fn fill(
        &self,
        out: &mut RunWriter,
        store: &PackedBlocks,
        runs: &[Run],
        live: &mut Live,
        choice: &Choice,
        bound: u64,
    ) -> Result<(), Failed> {
        let mut judge = Judge::new(live)?;
        let mut merged = Merged::new(&store.objects, &[], runs).await?;
        while let Some(record) = merged.next().await? {
            if judge.is_live(&record.tag)? {
                let is_moved = self.emptied.contains(&record.place.pack);
                let place = self.places.get(&record.tag).filter(|_| is_moved);
                let place = place.copied().unwrap_or(record.place);
                out.push(&Located { place, ..record }).await?;
            } else if stays(&record, choice, bound) {
                out.push(&record).await?;
            }
        }
        Ok(())
    }
}

/// Returns whether the record of a block that was not marked stays: its pack may be newer than the marks.
fn stays(record: &Located, choice: &Choice, bound: u64) -> bool {
    let pack = &record.place.pack;
    told_generation(pack) >= bound && !choice.dead.contains(pack) && !choice.sparse.contains(pack)
}

/// Reads blocks of one pack.
async fn blocks_of(
    store: &PackedBlocks,
    pack: &PackId,
    records: &[(u32, Tag)],
) -> Result<Vec<Block>, StoreError> {
    let malformed = |why| StoreError::Malformed { what: "pack", why };
    let bytes = match store.objects.get(&path_of(pack), PACK_BYTES_MAX).await? {
        Found::Whole(bytes) => bytes,
        Found::TooLong => return Err(malformed("it is too long")),
        Found::None => return Err(malformed("it is missing")),
    };
    let end = bytes.len().saturating_sub(super::super::format::END_BYTES);
    let from = PackIndex::len_by(&bytes[end..])
        .and_then(|len| bytes.len().checked_sub(usize::try_from(len).ok()?))
        .ok_or(malformed("it is cut off"))?;
    let index = PackIndex::parse(&bytes[from..])?;
    let mut blocks = Vec::with_capacity(records.len());
    for (offset, tag) in records {
        let entry = index
            .blocks
            .iter()
            .find(|(cid, at, _)| at == offset && Tag::new(&store.key, cid) == *tag);
        let (cid, at, len) = entry.ok_or(malformed("its index lacks a block"))?;
        let block = bytes.get(*at as usize..(*at as usize).saturating_add(*len as usize));
        let block = block.ok_or(malformed("a block lies beyond its end"))?;
        blocks.push(Block::verify(*cid, bytes.slice_ref(block))?);
    }
    Ok(blocks)
}

/// Blocks that are put into one new pack.
#[derive(Debug, Default)]
struct Batch {
    blocks: Vec<Block>,
    bytes: usize,
}

impl Batch {
    async fn add(
        &mut self,
        store: &PackedBlocks,
        block: Block,
        places: &mut HashMap<Tag, Place>,
    ) -> Result<(), StoreError> {
        self.bytes += block.bytes().len();
        self.blocks.push(block);
        if self.bytes >= PACK_BYTES || self.blocks.len() == BLOCKS_MAX {
            self.write(store, places).await?;
        }
        Ok(())
    }

    async fn write(
        &mut self,
        store: &PackedBlocks,
        places: &mut HashMap<Tag, Place>,
    ) -> Result<(), StoreError> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        let blocks: Vec<&Block> = self.blocks.iter().collect();
        let (entry, index) = store.write_pack(&blocks).await?;
        for found in index {
            let place = Place { pack: entry.id, offset: found.offset, len: found.len };
            places.insert(found.tag, place);
        }
        (self.blocks, self.bytes) = (Vec::new(), 0);
        Ok(())
    }
}
