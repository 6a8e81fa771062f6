//! Blocks that several masters share, in packs.
//!
//! The blocks of one put are one object, which is durable before `put` returns, so that `sync` has nothing
//! left to do. A pack is listed in the directory of the arbiter after it was written and before a root needs
//! it, so every master of the arbiter finds every block (`places`). Builds before packs wrote each block as
//! a separate object; those are read as before. Decision: docs/adr/0041.
//!
//! # Deliberately absent
//! Deleting: nothing is collected where masters share blocks.

mod format;
mod known;
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
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, Codec, PackDirectory, StoreError,
    block::{BLOCK_BYTES_MAX, Listed, Placement, Position, SyncMark},
    error::Source,
    packs::{PackEntry, PackId},
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, path::Path};
use quick_cache::{Weighter, sync::Cache};

pub use self::records::RecordDirectory;
use self::{
    format::{BLOCKS_MAX, END_BYTES, Encoded, HEAD_BYTES, PackIndex, generation_of},
    place::{Place, Tag, TagKey, encode_index},
    places::Places,
    run::Run,
};
use crate::objects::{Found, Objects};

/// Most bytes of one pack without its last block.
const PACK_BYTES: usize = 16 << 20;

/// Packs written at a time by one put.
const CONCURRENCY: usize = 4;

/// Packs whose indexes are read at a time when they are listed anew.
const LISTED_AT_ONCE: usize = 32;

/// Longest pack that is read whole for one of its blocks: others of them are likely to be wanted next.
const WHOLE_BYTES: u64 = 256 << 10;

/// Memory for packs that were read whole, in bytes.
const WHOLE_CACHE_BYTES: u64 = 16 << 20;

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
        let id = PackId((self.fresh_id)());
        // Collections will tell packs of before from later ones by it.
        let generation = 0;
        let pack = Encoded::new(generation, &self.key, blocks);
        self.store_pack(&id, &pack).await?;
        let index = encode_index(&pack.index);
        let entry = PackEntry { id, generation, bytes: pack.bytes, index };
        if self.places.add(&entry).await? {
            drop(self.merge());
        }
        Ok(())
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

    /// Lists every pack that the directory does not know, and returns how many there were. Reads the index of
    /// every pack that is in no entry of the list.
    async fn list_anew(&self) -> Result<u64, StoreError> {
        let runs = self.places.whole_runs().await?;
        let mut found = 0;
        for shard in 0..=u8::MAX {
            let metas = self.objects.list(&shard_path(shard)).await?;
            let looks = metas.into_iter().map(|meta| self.add_unlisted(&runs, shard, meta));
            let mut looks =
                stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(LISTED_AT_ONCE);
            while let Some(is_added) = looks.try_next().await? {
                found += u64::from(is_added);
            }
        }
        self.places.forget_lost_runs().await?;
        Ok(found)
    }

    /// Lists a pack that has a block which is found nowhere else. Returns whether it did.
    async fn add_unlisted(
        &self,
        runs: &[Run],
        shard: u8,
        meta: ObjectMeta,
    ) -> Result<bool, StoreError> {
        let Some(id) = id_at(shard, &meta.location) else { return Ok(false) };
        if self.places.listed_bytes(&id).is_some() {
            return Ok(false);
        }
        let Some(index) = self.pack_index(&meta).await? else { return Ok(false) };
        let mut is_known = true;
        for (cid, offset, len) in &index.blocks {
            let found = self.places.locate_in(runs, &Tag::new(&self.key, cid)).await;
            // A copy elsewhere may be damaged, and a run may have been merged meanwhile. An entry too many
            // does no harm.
            let here = Place { pack: id, offset: *offset, len: *len };
            is_known &= found.is_ok_and(|place| place == Some(here));
        }
        if is_known {
            return Ok(false);
        }
        let head = self.objects.get_range(&path_of(&id), 0..HEAD_BYTES as u64).await?;
        let generation = generation_of(&head.unwrap_or_default()).unwrap_or_else(|error| {
            tracing::warn!(pack = %id, %error, "the beginning of a pack cannot be read");
            0
        });
        let entry = |(cid, offset, len): &(Cid, u32, u32)| {
            let tag = Tag::new(&self.key, cid);
            place::IndexEntry { tag, offset: *offset, len: *len }
        };
        let index: Vec<_> = index.blocks.iter().map(entry).collect();
        let entry = PackEntry { id, generation, bytes: meta.size, index: encode_index(&index) };
        if self.places.add(&entry).await? || self.places.is_overfull() {
            // It may fail as long as a run is lost, and is tried again later.
            drop(self.merge().await);
        }
        Ok(true)
    }

    /// Reads the index in a pack; `None` for a pack that is gone, or that is no pack.
    async fn pack_index(&self, meta: &ObjectMeta) -> Result<Option<PackIndex>, StoreError> {
        let (path, size) = (&meta.location, meta.size);
        let Some(from) = size.checked_sub(END_BYTES as u64) else {
            tracing::warn!(pack = %path, "an object among the packs is too short to be one");
            return Ok(None);
        };
        let Some(end) = self.objects.get_range(path, from..size).await? else { return Ok(None) };
        let Some(from) = PackIndex::len_by(&end).and_then(|len| size.checked_sub(len)) else {
            tracing::warn!(pack = %path, "an object among the packs is no pack, or is cut off");
            return Ok(None);
        };
        let Some(bytes) = self.objects.get_range(path, from..size).await? else { return Ok(None) };
        match PackIndex::parse(&bytes) {
            Ok(index) => Ok(Some(index)),
            Err(error) => {
                tracing::warn!(pack = %path, %error, "the index of a pack cannot be read");
                Ok(None)
            }
        }
    }

    /// Lists the packs whose names begin with one byte, and the blocks in them that are found there.
    async fn list_packed(&self, shard: u8) -> Result<Vec<(Cid, u64)>, StoreError> {
        let mut blocks = Vec::new();
        for meta in self.objects.list(&shard_path(shard)).await? {
            let Some(id) = id_at(shard, &meta.location) else { continue };
            let Some(index) = self.pack_index(&meta).await? else { continue };
            for (cid, offset, len) in index.blocks {
                // A block that was put again is listed once, where it is read from.
                let place = self.places.locate(&Tag::new(&self.key, &cid)).await?;
                if place == Some(Place { pack: id, offset, len }) {
                    blocks.push((cid, u64::from(len)));
                }
            }
        }
        Ok(blocks)
    }

    async fn list_single(&self, codec: Codec, shard: u8) -> Result<Vec<(Cid, u64)>, StoreError> {
        let prefix = Path::from(format!("blocks/{:02x}/{shard:02x}", codec as u8));
        let found = self.objects.list(&prefix).await?.into_iter();
        let blocks =
            found.filter_map(|meta| Some((single_at(codec, shard, &meta.location)?, meta.size)));
        let mut left = Vec::new();
        for (cid, size) in blocks {
            if self.places.locate(&Tag::new(&self.key, &cid)).await?.is_none() {
                left.push((cid, size));
            }
        }
        Ok(left)
    }
}

/// Returns where a pack lies.
fn path_of(id: &PackId) -> Path {
    let name = id.to_string();
    Path::from(format!("packs/{}/{}", &name[..2], &name[2..]))
}

fn shard_path(shard: u8) -> Path {
    Path::from(format!("packs/{shard:02x}"))
}

/// Reads the name of a pack back from where it lies.
fn id_at(shard: u8, path: &Path) -> Option<PackId> {
    let mut id = [shard; 16];
    hex::decode_to_slice(path.filename()?, &mut id[1..]).ok()?;
    Some(PackId(id))
}

/// The codecs by which blocks are listed that are objects of their own.
const CODECS: [Codec; 3] = [Codec::Raw, Codec::DagPb, Codec::DagCbor];

/// Returns where a block lies that is an object of its own.
fn single_path(cid: &Cid) -> Path {
    let digest = hex::encode(cid.digest());
    Path::from(format!("blocks/{:02x}/{}/{}", cid.codec() as u8, &digest[..2], &digest[2..]))
}

/// Reads an address back from where such a block lies.
fn single_at(codec: Codec, shard: u8, path: &Path) -> Option<Cid> {
    let mut digest = [shard; 32];
    hex::decode_to_slice(path.filename()?, &mut digest[1..]).ok()?;
    Some(Cid::from_digest(codec, digest))
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
        let place = self.places.locate_anew(&Tag::new(&self.key, cid)).await?;
        let block = match place {
            Some(place) => self.read_at(cid, place).await?,
            None => None,
        };
        if block.is_none() {
            self.objects.check_mounted().await?;
            return first.map_or(Ok(None), Err);
        }
        Ok(block)
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

    fn drop_copies(&self) {
        self.whole.clear();
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.objects.probe().await
    }
}
