//! Blocks that several masters share, in packs.
//!
//! The blocks of one put are one object, which is durable before `put` returns, so that `sync` has nothing
//! left to do. A pack is listed in the directory of the arbiter after it was written and before a root needs
//! it, so every master of the arbiter finds every block (`places`). Builds before packs wrote each block as
//! a separate object; those are read as before. Decision: docs/adr/0041.
//!
//! Each pack is of a generation. A collector deletes only packs of past generations (`collect`,
//! docs/adr/0042).

mod collect;
mod format;
mod known;
mod listing;
mod merge;
mod names;
mod place;
mod places;
mod records;
mod run;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, PackDirectory, StoreError,
    block::{BLOCK_BYTES_MAX, Epoch, Kept, Listed, Marked, Placement, Position, Swept, SyncMark},
    error::Source,
    packs::{PackEntry, PackId},
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use quick_cache::{Weighter, sync::Cache};

pub use self::records::RecordDirectory;
use self::{
    format::{BLOCKS_MAX, Encoded},
    names::{CODECS, path_of, single_path},
    place::{IndexEntry, Place, Tag, TagKey, encode_index},
    places::{Listing, Places},
};
use crate::objects::{Found, Objects};

/// Most bytes of one pack without its last block.
const PACK_BYTES: usize = 16 << 20;

/// Packs written at a time by one put.
const CONCURRENCY: usize = 4;

/// Longest pack that is read whole for one of its blocks: others of them are likely to be wanted next.
const WHOLE_BYTES: u64 = 256 << 10;

/// Memory for packs that were read whole, in bytes.
const WHOLE_CACHE_BYTES: u64 = 16 << 20;

/// Times that one put begins anew because the generation has risen.
const GENERATIONS_MAX: usize = 4;

/// Prefix of blocks that are objects of their own.
const SINGLE: &str = "blocks";

/// Makes random names.
pub type FreshId = Arc<dyn Fn() -> [u8; 16] + Send + Sync>;

#[derive(Clone, Debug)]
struct ByLength;

impl Weighter<PackId, Bytes> for ByLength {
    fn weight(&self, _: &PackId, pack: &Bytes) -> u64 {
        pack.len() as u64 + 64
    }
}

/// Blocks in packs.
pub struct PackedBlocks {
    objects: Objects,
    places: Arc<Places>,
    key: TagKey,
    /// Whether the store has a name: without one, tags cannot be told.
    is_named: bool,
    fresh_id: FreshId,
    whole: Cache<PackId, Bytes, ByLength>,
    /// Whether there are blocks that are objects of their own.
    has_single_blocks: AtomicBool,
    /// Generation of the packs that are written.
    current_generation: AtomicU64,
    collection: collect::State,
}

impl std::fmt::Debug for PackedBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedBlocks({:?})", self.objects)
    }
}

fn unavailable(action: &'static str, source: impl Into<Source>) -> StoreError {
    StoreError::Unavailable { backend: "block store", action, source: source.into() }
}

impl PackedBlocks {
    /// Opens the blocks of a store whose own name is `name`, with the directory that lists its packs. Nothing
    /// can be put into a store whose name is empty.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn open(
        objects: Objects,
        name: &str,
        directory: Arc<dyn PackDirectory>,
        fresh_id: FreshId,
    ) -> Result<Self, StoreError> {
        let has_single_blocks = AtomicBool::new(objects.has_any(&Path::from(SINGLE)).await?);
        Ok(Self {
            places: Arc::new(Places::new(objects.clone(), directory)),
            objects,
            key: TagKey::of_store(name),
            is_named: !name.is_empty(),
            fresh_id,
            whole: Cache::with_weighter(256, WHOLE_CACHE_BYTES, ByLength),
            has_single_blocks,
            current_generation: AtomicU64::new(0),
            collection: collect::State::default(),
        })
    }

    /// Writes one pack and lists it.
    async fn put_pack(&self, blocks: &[&Block]) -> Result<(), StoreError> {
        if !self.is_named {
            let text = "the block store was never used by a gateway: start one first";
            return Err(unavailable("put", text));
        }
        if self.places.is_overfull() {
            // A task of its own: it goes on when this put is given up.
            let merged = self.merge().await;
            merged.map_err(|stopped| unavailable("merge the list of packs", stopped))??;
        }
        for _ in 0..GENERATIONS_MAX {
            let (entry, _) = self.write_pack(blocks).await?;
            match self.places.add(&entry).await? {
                Listing::Done { is_turn } => {
                    if is_turn {
                        drop(self.merge());
                    }
                    return Ok(());
                }
                // A collector may take the pack for garbage of a write that was given up.
                Listing::BelowGeneration(generation) => self.observe_generation(generation),
            }
        }
        let source = "collections follow one another too quickly".into();
        Err(StoreError::Unavailable { backend: "block store", action: "put", source })
    }

    /// Writes a pack under the current generation, and returns its entry of the list with its index.
    async fn write_pack(
        &self,
        blocks: &[&Block],
    ) -> Result<(PackEntry, Vec<IndexEntry>), StoreError> {
        let generation = self.current_generation.load(Ordering::Acquire);
        let id = names::new_id((self.fresh_id)(), generation);
        let pack = Encoded::new(generation, &self.key, blocks);
        self.store_pack(&id, &pack).await?;
        let index = encode_index(&pack.index);
        Ok((PackEntry { id, generation, bytes: pack.bytes, index }, pack.index))
    }

    /// Writes the object of a pack.
    async fn store_pack(&self, id: &PackId, pack: &Encoded) -> Result<(), StoreError> {
        let path = path_of(id);
        if self.objects.create(&path, pack.payload()).await? {
            return Ok(());
        }
        // A request to the store is sent again when its answer is lost: then the object is ours.
        let end = pack.pieces.last().map_or(&[][..], |end| end);
        let from = pack.bytes - end.len() as u64;
        let found = self.objects.get_range(&path, from..pack.bytes).await?;
        if found.is_some_and(|found| found == end) {
            return Ok(());
        }
        Err(unavailable("put", format!("there is another pack of the name {id}")))
    }

    /// Merges the list of packs into an index run, unless there is too little in it by then.
    fn merge(&self) -> tokio::task::JoinHandle<Result<(), StoreError>> {
        let (places, fresh_id) = (Arc::clone(&self.places), Arc::clone(&self.fresh_id));
        tokio::spawn(async move {
            let merged = places.merge(false, || fresh_id()).await;
            // After a failure the next turn tries again; puts wait once the list is too long.
            let merged = merged
                .inspect_err(|error| tracing::warn!(%error, "cannot merge the list of packs"));
            merged
                .map(|blocks| tracing::debug!(blocks, "merged the list of packs into an index run"))
        })
    }

    /// Reads a block where it should lie; `None` when the pack is gone.
    async fn read_at(&self, cid: &Cid, place: Place) -> Result<Option<Block>, StoreError> {
        if place.len == 0 {
            return Block::verify(*cid, Bytes::new()).map(Some);
        }
        let path = path_of(&place.pack);
        let listed = self.places.listed_bytes(&place.pack);
        let bytes = if listed.is_some_and(|bytes| bytes <= WHOLE_BYTES) {
            let read = async {
                match self.objects.get(&path, WHOLE_BYTES).await {
                    Ok(Found::Whole(pack)) => Ok(pack),
                    Ok(Found::TooLong) => Err(Some(StoreError::Damaged { cid: *cid })),
                    Ok(Found::None) => Err(None),
                    Err(error) => Err(Some(error)),
                }
            };
            let range = usize::try_from(place.offset).unwrap_or(usize::MAX)..;
            match self.whole.get_or_insert_async(&place.pack, read).await {
                Ok(pack) => pack.get(range).and_then(|rest| {
                    let len = usize::try_from(place.len).ok()?;
                    rest.get(..len).map(|block| pack.slice_ref(block))
                }),
                Err(None) => return Ok(None),
                Err(Some(error)) => return Err(error),
            }
        } else {
            match self.objects.get_range(&path, place.range()).await? {
                Some(bytes) => Some(bytes),
                None => return Ok(None),
            }
        };
        let verified = bytes
            .ok_or(StoreError::Damaged { cid: *cid })
            .and_then(|bytes| Block::verify(*cid, bytes));
        if verified.is_err() {
            // What is read next is read from the store.
            self.whole.remove(&place.pack);
        }
        verified.map(Some)
    }

    async fn get_packed(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        match self.places.locate(&Tag::new(&self.key, cid)).await? {
            Some(place) => self.read_at(cid, place).await,
            None => Ok(None),
        }
    }

    /// Reads a block that is an object of its own.
    async fn get_single(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if !self.has_single_blocks.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.objects.get(&single_path(cid), BLOCK_BYTES_MAX as u64).await? {
            Found::None => Ok(None),
            Found::TooLong => Err(StoreError::Damaged { cid: *cid }),
            Found::Whole(bytes) => Block::verify(*cid, bytes).map(Some),
        }
    }
}

/// Divides blocks among packs.
fn split<'a>(blocks: &[&'a Block]) -> Vec<Vec<&'a Block>> {
    let (mut packs, mut bytes) = (vec![Vec::<&Block>::new()], 0);
    for block in blocks.iter().copied() {
        let is_full = packs.last().is_some_and(|pack| pack.len() == BLOCKS_MAX);
        if is_full || bytes >= PACK_BYTES {
            packs.push(Vec::new());
            bytes = 0;
        }
        bytes += block.bytes().len();
        packs.last_mut().expect("there is always one").push(block);
    }
    packs
}

#[async_trait]
impl BlockStore for PackedBlocks {
    async fn put(&self, blocks: &[Block], _: Placement) -> Result<SyncMark, StoreError> {
        if let Some(block) = blocks.iter().find(|block| block.bytes().len() > BLOCK_BYTES_MAX) {
            let len = block.bytes().len();
            return Err(StoreError::TooLarge { len, max: BLOCK_BYTES_MAX });
        }
        let mut seen = HashSet::with_capacity(blocks.len());
        let blocks: Vec<_> = blocks.iter().filter(|block| seen.insert(block.cid())).collect();
        if blocks.is_empty() {
            return Ok(SyncMark::default());
        }
        let packs = split(&blocks);
        let puts = packs.iter().map(|pack| self.put_pack(pack));
        stream::iter(puts.collect::<Vec<_>>())
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        Ok(SyncMark::default())
    }

    async fn sync(&self, _: SyncMark) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let first = match self.get_packed(cid).await {
            Ok(Some(block)) => return Ok(Some(block)),
            // There may be another copy.
            Err(StoreError::Damaged { .. }) => Some(StoreError::Damaged { cid: *cid }),
            Ok(None) => None,
            Err(error) => return Err(error),
        };
        if let Some(block) = self.get_single(cid).await? {
            return Ok(Some(block));
        }
        // A master of an earlier build may have begun to write since this one started.
        if !self.has_single_blocks.load(Ordering::Relaxed)
            && self.objects.has_any(&Path::from(SINGLE)).await?
        {
            self.has_single_blocks.store(true, Ordering::Relaxed);
            if let Some(block) = self.get_single(cid).await? {
                return Ok(Some(block));
            }
        }
        // Where it was found first may be out of date.
        let tag = Tag::new(&self.key, cid);
        let (mut place, mut gone) = (self.places.locate_anew(&tag).await?, HashSet::new());
        while let Some(found) = place {
            if let Some(block) = self.read_at(cid, found).await? {
                return Ok(Some(block));
            }
            // An entry may outlive its pack where a write was given up.
            gone.insert(found.pack);
            place = self.places.locate_besides(&gone, &tag).await?;
        }
        self.objects.check_mounted().await?;
        first.map_or(Ok(None), Err)
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        if let Some(place) = self.places.locate(&Tag::new(&self.key, cid)).await? {
            return Ok(Some(u64::from(place.len)));
        }
        let size = if self.has_single_blocks.load(Ordering::Relaxed) {
            self.objects.size(&single_path(cid)).await?
        } else {
            None
        };
        if size.is_none() {
            self.objects.check_mounted().await?;
        }
        Ok(size)
    }

    /// Lists the blocks of one position: of the packs, or of a codec whose blocks are single objects. The low
    /// byte of a position is the first byte of the blocks' names, the byte above it the kind.
    async fn list(&self, Position(from): Position) -> Result<Listed, StoreError> {
        let [.., kind, shard] = from.to_be_bytes();
        let blocks = match CODECS.get(usize::from(kind)) {
            Some(codec) if self.has_single_blocks.load(Ordering::Relaxed) => {
                self.list_single(*codec, shard).await?
            }
            Some(_) => Vec::new(),
            None => self.list_packed(shard).await?,
        };
        let next = (from + 1) >> 8 <= CODECS.len() as u64;
        Ok(Listed { blocks, next: next.then_some(Position(from + 1)) })
    }

    async fn recover(&self) -> Result<u64, StoreError> {
        self.list_anew().await
    }

    fn generation(&self) -> Option<u64> {
        Some(self.current_generation.load(Ordering::Acquire))
    }

    fn observe_generation(&self, generation: u64) {
        self.current_generation.fetch_max(generation, Ordering::AcqRel);
    }

    fn advance_epoch(&self) -> Epoch {
        let generation = self.current_generation.load(Ordering::Acquire);
        self.begin_marks(Epoch(u32::try_from(generation).unwrap_or(u32::MAX)))
    }

    fn mark(&self, cids: &[Cid], cut: Epoch, kept: Kept) -> Marked {
        Marked { fresh: self.mark_tags(cids, cut, kept), bytes: 0 }
    }

    async fn sweep(
        &self,
        from: Position,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        self.sweep_packs(from, cut, put_before).await
    }

    fn drop_copies(&self) {
        self.whole.clear();
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.objects.probe().await
    }
}
