//! Reads of mapped content: inner nodes from the block store of the masters, leaves from where they are.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, Codec, StoreError,
    block::{Listed, Placement, Position, SyncMark, require},
};
use fula_ingest::mapping::Place;
use tokio::sync::OnceCell;

use super::{StorageNodes, holders::Holders};

/// Name of the storage nodes in errors of stores.
pub(crate) const BACKEND: &str = "storage node";

/// The blocks of one mapped object. Each leaf is read only from where the record says that it is. The rest is in
/// the block store of the masters. It is read, never written.
#[derive(Debug)]
pub(crate) struct MappedBlocks {
    own: Arc<dyn BlockStore>,
    nodes: Arc<dyn StorageNodes>,
    /// Address of the block that names the holders.
    link: Option<Cid>,
    holders: OnceCell<Holders>,
}

impl MappedBlocks {
    pub(crate) fn new(
        own: Arc<dyn BlockStore>,
        nodes: Arc<dyn StorageNodes>,
        link: Option<Cid>,
    ) -> Self {
        Self { own, nodes, link, holders: OnceCell::new() }
    }

    async fn holders(&self) -> Result<&Holders, StoreError> {
        let read = async || match &self.link {
            Some(link) => Holders::from_block(&require(self.own.as_ref(), link).await?),
            None => Ok(Holders::default()),
        };
        self.holders.get_or_try_init(read).await
    }

    async fn leaf(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let Some(place) = self.holders().await?.place_of(cid) else { return Ok(None) };
        if place.is_own
            && let Some(block) = self.own.get(cid).await?
        {
            return Ok(Some(block));
        }
        fetch(self.nodes.as_ref(), place, cid).await
    }
}

/// Asks the nodes of a place for a leaf, one after another. A leaf that none of them has is missing only if all
/// of them answered.
pub(super) async fn fetch(
    nodes: &dyn StorageNodes,
    place: &Place,
    cid: &Cid,
) -> Result<Option<Block>, StoreError> {
    let mut away = None;
    for node in &place.nodes {
        match nodes.get(*node, place.owner, cid).await {
            Ok(Some(block)) => return Ok(Some(block)),
            Ok(None) => {
                let name = nodes.name(*node);
                tracing::error!(node = name, %cid, "a storage node has lost a block");
                metrics::counter!("fula_mapped_lost_total").increment(1);
            }
            Err(error) => {
                tracing::warn!(node = error.name, why = error.why, "a storage node is away");
                away.get_or_insert(error);
            }
        }
    }
    match away {
        None => Ok(None),
        Some(away) => {
            let source = away.name.into();
            Err(StoreError::Unavailable { backend: BACKEND, action: "get", source })
        }
    }
}

#[async_trait]
impl BlockStore for MappedBlocks {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        self.own.put(blocks, placement).await
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        self.own.sync(mark).await
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if cid.codec() == Codec::Raw { self.leaf(cid).await } else { self.own.get(cid).await }
    }

    async fn get_unverified(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        // What storage nodes hold is not encrypted here, so nothing but a hash can prove it.
        self.own.get_unverified(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.own.size(cid).await
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.own.list(from).await
    }
}
