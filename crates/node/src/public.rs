//! The listener for public objects by CID, and what a storage node asks its masters for it.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use fula_core::{Block, Cid, Codec, StoreError};
use fula_gateway::{
    Rates,
    server::{self, Listening},
    trustless::{CannotTell, PublicBlocks, PublicDag, TrustlessGateway},
};
use fula_ingest::StorageNode;
use fula_service::MemoryBudget;

use crate::{
    ingest::MasterLinks,
    listeners::{ListenError, Taken},
};

/// Memory for answers of a storage node, in bytes.
const NODE_MEMORY: usize = 48 << 20;

/// Binds the address of the listener, if there is one.
///
/// # Errors
/// [`ListenError`].
pub(crate) fn take(address: Option<SocketAddr>) -> Result<Option<Taken>, ListenError> {
    address.map(|address| Taken::take(address, "--cid-listen (FULA_CID_LISTEN)")).transpose()
}

/// Serves public objects until the process ends. `how` is that of the other listener. Returns what answers.
///
/// # Errors
/// [`ListenError`].
pub(crate) fn serve(
    taken: Taken,
    how: &Listening,
    blocks: Arc<dyn PublicBlocks>,
    budget: MemoryBudget,
    rates: Rates,
) -> Result<TrustlessGateway, ListenError> {
    let listener = taken.listen()?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving public objects by CID");
    }
    let gateway = TrustlessGateway::new(blocks, budget, rates);
    let answering = gateway.clone();
    let answer = move |request: http::Request<_>| {
        let gateway = answering.clone();
        async move { gateway.handle(request).await }
    };
    let how = Listening { name: "cid", open: Arc::default(), ..how.clone() };
    tokio::spawn(server::serve(listener, how, std::future::pending(), answer));
    Ok(gateway)
}

/// Returns the memory for answers of a storage node.
pub(crate) fn node_budget() -> MemoryBudget {
    MemoryBudget::new(NODE_MEMORY)
}

/// The blocks of a storage node that its masters call public. It asks them about every block, also about one
/// that it does not have. So nobody finds out by the time what it has.
#[derive(Clone, Debug)]
pub(crate) struct NodeBlocks {
    pub(crate) node: StorageNode,
    pub(crate) masters: Arc<MasterLinks>,
}

impl NodeBlocks {
    /// Returns a block that the masters call public. An inner node of a file comes from them.
    async fn public(&self, cid: &Cid) -> Result<Option<Block>, CannotTell> {
        let Some(inner) = self.masters.public(cid).await.map_err(CannotTell)? else {
            return Ok(None);
        };
        if cid.codec() == Codec::DagPb {
            let block = Block::verify(*cid, inner);
            return block.map(Some).map_err(|error| CannotTell(error.to_string()));
        }
        let block = self.node.get_of_anybody(cid).await;
        block.map_err(|error| CannotTell(error.to_string()))
    }
}

#[async_trait]
impl PublicBlocks for NodeBlocks {
    async fn find(&self, cid: &Cid) -> Result<Option<Arc<dyn PublicDag>>, CannotTell> {
        let root = self.public(cid).await?;
        let dag = |root| Arc::new(NodeDag { root, blocks: self.clone() }) as Arc<dyn PublicDag>;
        Ok(root.map(dag))
    }
}

/// The blocks of a public object, of which the node has the leaves.
#[derive(Debug)]
struct NodeDag {
    root: Block,
    blocks: NodeBlocks,
}

#[async_trait]
impl PublicDag for NodeDag {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        if *cid == self.root.cid() {
            return Ok(self.root.clone());
        }
        // A leaf of a public file is public.
        let found = match cid.codec() {
            Codec::Raw => self.blocks.node.get_of_anybody(cid).await?,
            _ => self.blocks.public(cid).await.map_err(|error| StoreError::Unavailable {
                backend: "master",
                action: "ask",
                source: error.0.into(),
            })?,
        };
        found.ok_or(StoreError::Missing { cid: *cid })
    }
}
