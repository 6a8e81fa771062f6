//! Lists what a store of packs holds, and finds packs again that the directory does not list.

use fula_core::{Cid, Codec, StoreError, packs::PackEntry};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, path::Path};

use super::{
    GENERATIONS_MAX, PackedBlocks,
    format::{END_BYTES, HEAD_BYTES, PackIndex, generation_of},
    names::{id_at, path_of, shard_path, single_at},
    place::{self, Place, Tag, encode_index},
    places::Listing,
    run::Run,
};

/// Packs whose indexes are read at a time when they are listed anew.
const LISTED_AT_ONCE: usize = 32;

impl PackedBlocks {
    /// Lists every pack that the directory does not know, and returns how many there were. Reads the index of
    /// every pack that is in no entry of the list.
    pub(super) async fn list_anew(&self) -> Result<u64, StoreError> {
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
        let Some(index) = self.pack_index(&meta.location, meta.size).await? else {
            return Ok(false);
        };
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
        let mut entry = PackEntry { id, generation, bytes: meta.size, index: encode_index(&index) };
        for _ in 0..GENERATIONS_MAX {
            match self.places.add(&entry).await? {
                Listing::Done { is_turn } => {
                    if is_turn || self.places.is_overfull() {
                        // It may fail as long as a run is lost, and is tried again later.
                        drop(self.merge().await);
                    }
                    break;
                }
                // The pack is there, and was needed: only the list has lost it.
                Listing::BelowGeneration(generation) => entry.generation = generation,
            }
        }
        Ok(true)
    }

    /// Reads the index in a pack; `None` for a pack that is gone, or that is no pack.
    pub(super) async fn pack_index(
        &self,
        path: &Path,
        size: u64,
    ) -> Result<Option<PackIndex>, StoreError> {
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
    pub(super) async fn list_packed(&self, shard: u8) -> Result<Vec<(Cid, u64)>, StoreError> {
        let mut blocks = Vec::new();
        for meta in self.objects.list(&shard_path(shard)).await? {
            let Some(id) = id_at(shard, &meta.location) else { continue };
            let Some(index) = self.pack_index(&meta.location, meta.size).await? else { continue };
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

    pub(super) async fn list_single(
        &self,
        codec: Codec,
        shard: u8,
    ) -> Result<Vec<(Cid, u64)>, StoreError> {
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
