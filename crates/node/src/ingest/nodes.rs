//! The storage nodes as a master sees them: those that settings name, and perhaps its own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{Block, Cid, OwnerId, block::BLOCK_BYTES_MAX};
use fula_ingest::{
    DiskId, SignerId, SigningKey, StorageNode,
    mapping::{KnownNode, Offered},
};
use fula_service::{NodeAway, StorageNodes, error::chain};
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::client::{Bounds, PeerClient, http};
use crate::config::PeerAddress;

/// Interval between two looks at what a node says about itself.
const LOOK: Duration = Duration::from_secs(10);

/// Limits of requests for a block.
const BLOCK: Bounds = Bounds { patience: Duration::from_secs(10), bytes_max: BLOCK_BYTES_MAX };

/// Limits of requests about lists of blocks.
const LIST: Bounds = Bounds { patience: Duration::from_secs(5), bytes_max: 1 << 20 };

/// A node that a setting names.
#[derive(Debug)]
struct Link {
    client: PeerClient,
    /// The disk that it had when it was last heard of.
    disk: Mutex<Option<DiskId>>,
}

/// The storage nodes of a master.
#[derive(Debug)]
pub(crate) struct NodeLinks {
    links: HashMap<SignerId, Link>,
    /// Nodes in the order of the setting, the master's own last.
    order: Vec<SignerId>,
    own: Option<StorageNode>,
}

/// What a node says about itself.
#[derive(Deserialize)]
struct Info {
    key: String,
    disk: String,
}

/// What a node says about a list of blocks.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    blocks: Vec<(String, u32)>,
    receipt: Option<String>,
    bitmap: String,
}

impl NodeLinks {
    /// Returns the links to `nodes`, whose requests are signed with `key`.
    ///
    /// # Errors
    /// The reason why there is no HTTP client.
    pub(crate) fn new(
        nodes: &[PeerAddress],
        key: &Arc<SigningKey>,
        own: Option<StorageNode>,
    ) -> Result<Self, String> {
        let http = http()?;
        let mut order: Vec<SignerId> = nodes.iter().map(PeerAddress::id).collect();
        order.extend(own.as_ref().map(StorageNode::id));
        let link = |node: &PeerAddress| {
            let client = PeerClient::new(http.clone(), Arc::clone(key), node.clone());
            (node.id(), Link { client, disk: Mutex::default() })
        };
        Ok(Self { links: nodes.iter().map(link).collect(), order, own })
    }

    /// Looks at what the nodes say about themselves, for ever. A disk that was wiped has another name.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            let looked = futures::future::join_all(self.links.values().map(Link::look)).await;
            let away = looked.into_iter().filter(|is_up| !is_up).count();
            let away = u32::try_from(away).unwrap_or(u32::MAX);
            metrics::gauge!("fula_storage_nodes_away").set(f64::from(away));
            tokio::time::sleep(LOOK).await;
        }
    }

    fn link(&self, node: SignerId) -> Result<&Link, NodeAway> {
        let unknown = || NodeAway {
            name: node.to_string(),
            why: "no node in FULA_STORAGE_NODES has this key".to_owned(),
        };
        self.links.get(&node).ok_or_else(unknown)
    }

    fn own(&self, node: SignerId) -> Option<&StorageNode> {
        self.own.as_ref().filter(|own| own.id() == node)
    }
}

impl Link {
    fn away(&self, why: impl Into<String>) -> NodeAway {
        NodeAway { name: self.client.peer.name.clone(), why: why.into() }
    }

    /// Looks at what the node says about itself. Returns whether it answered.
    async fn look(&self) -> bool {
        let name = &self.client.peer.name;
        let looked = self.client.send(Method::GET, "/v0/info", Bytes::new(), LIST).await;
        let info = looked.ok().and_then(|reply| serde_json::from_slice::<Info>(&reply.body).ok());
        let Some(info) = info else { return false };
        if info.key != self.client.peer.key.to_string() {
            tracing::error!(
                node = name,
                "a storage node has another key than FULA_STORAGE_NODES says; correct the setting, or the URL"
            );
            return false;
        }
        let Ok(disk) = info.disk.parse::<fula_core::WriterId>() else { return false };
        let (disk, mut known) = (DiskId(disk.0), self.disk.lock());
        if known.is_some_and(|known| known != disk) {
            tracing::error!(
                node = name,
                "a storage node has lost its disk: blocks that only it held are gone, and objects that need \
                 them are answered 500"
            );
        }
        *known = Some(disk);
        true
    }

    async fn list(&self, target: &str, owner: OwnerId, cids: &[Cid]) -> Result<Found, NodeAway> {
        let cids: Vec<String> = cids.iter().map(ToString::to_string).collect();
        let body = serde_json::json!({"owner": owner.to_string(), "cids": cids}).to_string();
        let reply = self.client.send(Method::POST, target, body.into(), LIST).await;
        let reply = reply.map_err(|why| self.away(why))?;
        if reply.status != StatusCode::OK {
            return Err(self.away(format!("it answered {}", reply.status)));
        }
        serde_json::from_slice(&reply.body).map_err(|error| self.away(error.to_string()))
    }
}

#[async_trait]
impl StorageNodes for NodeLinks {
    fn ids(&self) -> Vec<SignerId> {
        self.order.clone()
    }

    fn known(&self, node: SignerId) -> Option<KnownNode> {
        if let Some(own) = self.own(node) {
            return Some(KnownNode { key: own.key().public(), disk: Some(own.disk()) });
        }
        let link = self.links.get(&node)?;
        Some(KnownNode { key: link.client.peer.key, disk: *link.disk.lock() })
    }

    async fn meet(&self, node: SignerId) {
        if let Some(link) = self.links.get(&node) {
            link.look().await;
        }
    }

    fn name(&self, node: SignerId) -> String {
        match self.links.get(&node) {
            Some(link) => link.client.peer.name.clone(),
            None => node.to_string(),
        }
    }

    async fn have(
        &self,
        node: SignerId,
        owner: OwnerId,
        cids: &[Cid],
    ) -> Result<Option<Offered>, NodeAway> {
        if let Some(own) = self.own(node) {
            let found = own.have(owner, cids);
            return Ok(found.map(|found| Offered { receipt: found.receipt, blocks: found.blocks }));
        }
        let link = self.link(node)?;
        let found = link.list("/v0/have", owner, cids).await?;
        let block = |(cid, size): &(String, u32)| Some((cid.parse().ok()?, *size));
        let blocks: Option<Vec<_>> = found.blocks.iter().map(block).collect();
        let blocks = blocks.ok_or_else(|| link.away("it named a CID that is malformed"))?;
        Ok(found.receipt.map(|receipt| Offered { receipt, blocks }))
    }

    async fn get(
        &self,
        node: SignerId,
        owner: OwnerId,
        cid: &Cid,
    ) -> Result<Option<Block>, NodeAway> {
        if let Some(own) = self.own(node) {
            let away = |error| NodeAway { name: node.to_string(), why: chain(&error) };
            return own.get(owner, cid).await.map_err(away);
        }
        let link = self.link(node)?;
        let target = format!("/v0/block?cid={cid}&owner={owner}");
        let reply = link.client.send(Method::GET, &target, Bytes::new(), BLOCK).await;
        let reply = reply.map_err(|why| link.away(why))?;
        match reply.status {
            StatusCode::OK => Block::verify(*cid, reply.body)
                .map(Some)
                .map_err(|_| link.away(format!("its bytes do not hash to {cid}"))),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(link.away(format!("it answered {status}"))),
        }
    }

    async fn pin(&self, node: SignerId, owner: OwnerId, cids: &[Cid]) -> Result<usize, NodeAway> {
        if let Some(own) = self.own(node) {
            let away = |error| NodeAway { name: node.to_string(), why: chain(&error) };
            let pinned = own.pin(owner, cids).await.map_err(away)?;
            return Ok(pinned.map_or(0, |pinned| pinned.blocks.len()));
        }
        let found = self.link(node)?.list("/v0/pin", owner, cids).await?;
        Ok(found.bitmap.bytes().filter(|digit| *digit == b'1').count())
    }
}
