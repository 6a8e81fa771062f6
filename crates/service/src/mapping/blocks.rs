//! Reads of mapped content: the master's own block store first, then the nodes that hold the leaves.

use std::sync::Arc;

use async_trait::async_trait;
use fula_core::{
    Block, BlockStore, Cid, Codec, StoreError,
    block::{Listed, Placement, Position, SyncMark, require},
};
use fula_ingest::SignerId;
use tokio::sync::OnceCell;

use super::{StorageNodes, holders::read_holders};

/// Name of the storage nodes in errors of stores.
pub(crate) const BACKEND: &str = "storage node";

/// The blocks of one mapped object. Only leaves are asked of nodes. It is read, never written.
#[derive(Debug)]
pub(crate) struct MappedBlocks {
    own: Arc<dyn BlockStore>,
    nodes: Arc<dyn StorageNodes>,
    /// Address of the block that names the holders.
    link: Option<Cid>,
    holders: OnceCell<Vec<SignerId>>,
}

impl MappedBlocks {
    pub(crate) fn new(
        own: Arc<dyn BlockStore>,
        nodes: Arc<dyn StorageNodes>,
        link: Option<Cid>,
    ) -> Self {
        Self { own, nodes, link, holders: OnceCell::new() }
    }

    async fn holders(&self) -> Result<&[SignerId], StoreError> {
        let read = async || match &self.link {
            Some(link) => read_holders(&require(self.own.as_ref(), link).await?),
            None => Ok(Vec::new()),
        };
        self.holders.get_or_try_init(read).await.map(Vec::as_slice)
    }

    /// Asks the holders one after another. A block that none of them has is missing only if all of them
    /// answered.
    async fn fetch(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let mut away = None;
        for node in self.holders().await? {
            match self.nodes.get(*node, cid).await {
                Ok(Some(block)) => return Ok(Some(block)),
                Ok(None) => {
                    let name = self.nodes.name(*node);
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
        match self.own.get(cid).await? {
            None if cid.codec() == Codec::Raw => self.fetch(cid).await,
            found => Ok(found),
        }
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.own.size(cid).await
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.own.list(from).await
    }
}
