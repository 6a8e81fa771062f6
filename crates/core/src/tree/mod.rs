//! Prolly trees: ordered maps from bytes to records, as blocks.
//!
//! The shape of a tree depends on its set of entries and a salt, never on the order of edits:
//! equal sets have equal roots, and two versions share every node outside the changed paths.
//! Every inner entry carries the count and byte sum of what is below it, so totals are exact by
//! construction. Node format and boundary rule: docs/format.md.
//!
//! # Invariants
//! - Keys ascend strictly within a node and across a level.
//! - A node is at most [`NODE_BYTES_MAX`] bytes plus a few bytes of head; an inner node other
//!   than the last of its level has at least [`boundary::ITEMS_MIN`] children, which bounds the
//!   height for any keys.
//! - An edit reads and writes O(log n) nodes per changed key.
//!
//! # Deliberately absent
//! What records mean ([`crate::bucket`]); deleting unreachable nodes (a collector's work).

pub mod boundary;
mod cursor;
mod diff;
mod edit;
pub mod node;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

pub use self::{
    boundary::Salt,
    cursor::Cursor,
    diff::{Change, diff},
    edit::{Edited, Edits, edit},
    node::{Entry, Node},
};
use crate::{
    block::{BlockStore, require},
    cbor,
    error::StoreError,
    id::Cid,
};

/// Largest sum of encoded items in one node, in bytes.
pub const NODE_BYTES_MAX: usize = 32 << 10;

/// Largest encoded item (key and record) in bytes; four of them fit into a node.
pub const ITEM_BYTES_MAX: usize = NODE_BYTES_MAX / boundary::ITEMS_MIN;

/// A tree as its parent names it: the root node and the totals below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Root node, `None` when there are no entries.
    pub root: Option<Cid>,
    /// Number of entries.
    pub count: u64,
    /// Sum of the entries' weights in bytes.
    pub bytes: u64,
}

impl Tree {
    /// Appends `[link or null, count, bytes]`.
    pub fn write(&self, out: &mut cbor::Writer) {
        out.array(3).link_or_null(self.root.as_ref()).uint(self.count).uint(self.bytes);
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`cbor::Invalid`] for anything else.
    pub fn read(reader: &mut cbor::Reader<'_>) -> Result<Self, cbor::Invalid> {
        reader.tuple(3)?;
        Ok(Self { root: reader.link_or_null()?, count: reader.uint()?, bytes: reader.uint()? })
    }

    /// Returns the entry at exactly `key`. Reads one node per level.
    ///
    /// # Errors
    /// [`StoreError`] of a node on the path.
    pub async fn get(&self, nodes: &Nodes, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let Some(root) = self.root else { return Ok(None) };
        let mut node = nodes.load(&root).await?;
        loop {
            let found = node.find(key);
            if node.level() == 0 {
                return Ok(found.ok().map(|index| node.entry(index)));
            }
            match found.unwrap_or_else(|after| after) {
                index if index < node.len() => node = nodes.child(&node, index).await?,
                _ => return Ok(None),
            }
        }
    }
}

#[derive(Clone)]
struct NodeWeight;

impl Weighter<Cid, Arc<Node>> for NodeWeight {
    fn weight(&self, _: &Cid, node: &Arc<Node>) -> u64 {
        node.memory_bytes() as u64
    }
}

type NodeCache = Cache<Cid, Arc<Node>, NodeWeight>;

/// Loads nodes, keeping decoded ones by address up to a number of bytes.
///
/// Nodes are immutable, so a cached one is never stale. Inner nodes have a quarter of the bytes to
/// themselves: each is on the path to many leaves, which would crowd it out (docs/adr/0023).
pub struct Nodes {
    blocks: Arc<dyn BlockStore>,
    leaves: NodeCache,
    inner: NodeCache,
    /// Nodes that were not in memory.
    reads: AtomicU64,
}

impl Nodes {
    /// Reads from `blocks`, keeping up to `cache_bytes` of decoded nodes.
    pub fn new(blocks: Arc<dyn BlockStore>, cache_bytes: u64) -> Self {
        let cache = |bytes: u64| {
            let items = usize::try_from(bytes >> 12).unwrap_or(usize::MAX).max(16);
            Cache::with_weighter(items, bytes, NodeWeight)
        };
        let inner = cache_bytes / 4;
        let (leaves, inner) = (cache(cache_bytes - inner), cache(inner));
        Self { blocks, leaves, inner, reads: AtomicU64::new(0) }
    }

    /// Returns the store behind.
    pub fn blocks(&self) -> &Arc<dyn BlockStore> {
        &self.blocks
    }

    /// Returns how many nodes were read because they were not in memory.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Returns a node that must exist.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Malformed`],
    /// [`StoreError::Unavailable`].
    pub async fn load(&self, cid: &Cid) -> Result<Arc<Node>, StoreError> {
        match self.inner.get(cid).or_else(|| self.leaves.get(cid)) {
            Some(node) => Ok(node),
            None => self.fetch(cid).await,
        }
    }

    async fn fetch(&self, cid: &Cid) -> Result<Arc<Node>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let block = require(self.blocks.as_ref(), cid).await?;
        let node = Arc::new(Node::decode(block.bytes().clone())?);
        self.remember(*cid, Arc::clone(&node));
        Ok(node)
    }

    /// Returns where nodes of a level are kept.
    fn cache(&self, level: u8) -> &NodeCache {
        if level == 0 { &self.leaves } else { &self.inner }
    }

    /// Returns a child of an inner node, which must exist and be one level lower.
    async fn child(&self, parent: &Node, index: usize) -> Result<Arc<Node>, StoreError> {
        let cid = parent.child(index);
        let child = match self.cache(parent.level().saturating_sub(1)).get(&cid) {
            Some(node) => node,
            None => self.fetch(&cid).await?,
        };
        if child.level() + 1 == parent.level() {
            return Ok(child);
        }
        Err(StoreError::Malformed { what: "tree node", why: "not one level below its parent" })
    }

    /// Keeps a node: the next edit will want it.
    fn remember(&self, cid: Cid, node: Arc<Node>) {
        self.cache(node.level()).insert(cid, node);
    }

    /// Lets go of nodes that were replaced: only readers of older roots may still want them. Until
    /// the new tree is published everybody reads the old one.
    pub fn forget(&self, replaced: &[Cid]) {
        for cid in replaced {
            if self.leaves.remove(cid).is_none() {
                self.inner.remove(cid);
            }
        }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// Returns the smallest key greater than every key that starts with `prefix`, or `None` when
/// there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=keep].to_vec();
    next[keep] += 1;
    Some(next.into())
}
