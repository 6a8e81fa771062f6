//! Mapped objects: records whose content storage nodes hold (docs/adr/0043).
//!
//! A mapping is admitted if the caller proves a right to every leaf, by receipts, by what nodes say when they
//! are asked, or by an object that the caller may read. The inner nodes of the content are stored with the
//! commit, so every tree can be walked without a network.

mod admit;
mod blocks;
mod holders;
mod lost;
mod needed;
mod pins;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use fula_core::{Block, Cid, OwnerId};
use fula_ingest::{SignerId, mapping::KnownNode, mapping::Offered};

pub use self::{
    admit::MapRequest,
    lost::{LostBlock, NodesChecked},
};
pub(crate) use self::{
    admit::{Admitted, fingerprint_of},
    blocks::{BACKEND, MappedBlocks},
    pins::{Delivery, PinQueue},
};

/// A storage node that did not answer, or answered something that it may not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("storage node {name}: {why}")]
pub struct NodeAway {
    /// Name of the node, from the settings.
    pub name: String,
    /// The reason, for the log.
    pub why: String,
}

/// The storage nodes that a master knows.
#[async_trait]
pub trait StorageNodes: fmt::Debug + Send + Sync + 'static {
    /// Returns the nodes that a client may send blocks to.
    fn ids(&self) -> Vec<SignerId>;

    /// Returns what is known of a node; `None` for one that the settings do not name.
    fn known(&self, node: SignerId) -> Option<KnownNode>;

    /// Asks a node which disk it has. Nothing if it does not answer.
    async fn meet(&self, node: SignerId);

    /// Returns the name of a node for people.
    fn name(&self, node: SignerId) -> String {
        node.to_string()
    }

    /// Asks a node which of `cids` an owner holds. Returns its receipt for them, if there are any.
    ///
    /// # Errors
    /// [`NodeAway`].
    async fn have(
        &self,
        node: SignerId,
        owner: OwnerId,
        cids: &[Cid],
    ) -> Result<Option<Offered>, NodeAway>;

    /// Reads a block that a node holds for an owner, and verifies it. `None` if the node does not hold it.
    ///
    /// # Errors
    /// [`NodeAway`], also for bytes that do not hash to the CID.
    async fn get(
        &self,
        node: SignerId,
        owner: OwnerId,
        cid: &Cid,
    ) -> Result<Option<Block>, NodeAway>;

    /// Turns the holds of an owner into pins. Returns the number of blocks that were pinned.
    ///
    /// # Errors
    /// [`NodeAway`].
    async fn pin(&self, node: SignerId, owner: OwnerId, cids: &[Cid]) -> Result<usize, NodeAway>;
}

/// How a service maps objects.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The storage nodes.
    pub nodes: Arc<dyn StorageNodes>,
    /// Whether mappings are accepted. Objects that were mapped before are read in any case.
    pub accepts: bool,
    /// Whether the leaves are copied into the master's own block store before a mapping is committed.
    pub copies: bool,
}
