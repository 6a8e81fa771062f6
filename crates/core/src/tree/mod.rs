//! Prolly trees: sorted maps from bytes to records, stored as blocks.
//!
//! The shape of a tree depends on its set of entries and a salt, never on the order of edits. Equal
//! sets therefore have equal roots, and two versions share every node outside the changed paths.
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
//! # Example
//!
//! It makes two versions of a tree, compares them, and reads the newer one from a key on.
//!
//! ```
//! # use std::sync::Arc;
//! use fula_core::{
//!     block::Placement,
//!     cbor,
//!     in_memory::MemoryBlocks,
//!     tree::{Change, Cursor, Edits, Nodes, Salt, Tree, diff, edit},
//! };
//!
//! # futures::executor::block_on(async {
//! let nodes = Nodes::new(Arc::new(MemoryBlocks::default()), 1 << 20);
//! let salt = Salt([7; 32]);
//! let record = |text: &str| {
//!     let mut out = cbor::Writer::default();
//!     out.text(text);
//!     Some((text.len() as u64, out.finish()))
//! };
//!
//! let first = Edits::from([("a".into(), record("1")), ("b".into(), record("2"))]);
//! let old = edit(&nodes, &salt, &Tree::default(), &first).await?;
//! nodes.blocks().put(&old.blocks, Placement::Commit).await?;
//!
//! let second = Edits::from([("b".into(), None), ("c".into(), record("3"))]);
//! let new = edit(&nodes, &salt, &old.tree, &second).await?;
//! nodes.blocks().put(&new.blocks, Placement::Commit).await?;
//!
//! let changes = diff(&nodes, &old.tree, &new.tree).await?;
//! let [Change::Removed(removed), Change::Added(added)] = &changes[..] else { panic!() };
//! assert_eq!((&removed.key[..], &added.key[..]), (&b"b"[..], &b"c"[..]));
//!
//! let mut cursor = Cursor::new(&nodes, &new.tree);
//! cursor.seek(b"b").await?;
//! assert_eq!(cursor.next().await?, Some(added.clone()));
//! # Ok::<(), fula_core::StoreError>(())
//! # })
//! # .unwrap();
//! ```
//!
//! # Deliberately absent
//! What records mean ([`crate::bucket`]), and deleting unreachable nodes (a collector does that).

pub mod boundary;
mod cursor;
mod diff;
mod edit;
pub mod node;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

pub use self::{
    boundary::Salt,
    cursor::Cursor,
    diff::{Change, DiffPage, diff, diff_page},
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

/// Largest encoded item (key and record) in bytes. [`boundary::ITEMS_MIN`] of them fit into a node.
pub const ITEM_BYTES_MAX: usize = NODE_BYTES_MAX / boundary::ITEMS_MIN;

/// A reference to a tree: its root node, and the totals below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Address of the root node; `None` for an empty tree.
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

    /// Returns the entry whose key is exactly `key`. Reads one node per level.
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

    /// Loads the nodes that an edit of `key` needs, so that the edit does not wait for them
    /// (docs/adr/0016). Errors are ignored: the edit will report them. When `UNREAD_MAX` calls in a row
    /// found every node in the cache, further calls do nothing until a node is missing there
    /// (docs/adr/0027).
    pub async fn read_ahead(&self, nodes: &Nodes, key: &[u8]) {
        if nodes.unread.fetch_add(1, Ordering::Relaxed) < UNREAD_MAX {
            drop(self.get(nodes, key).await);
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

/// Fraction of the cache for nodes that were requested again while they were new, or that were added
/// while the cache had room.
///
/// Every write replaces the nodes on its path, so a node that was requested often is soon not
/// requested at all. Most of the cache therefore evicts nodes in the order in which they were added
/// (docs/adr/0025).
const ASKED_AGAIN_PART: f64 = 0.25;

/// Smallest size of a shard of the cache in bytes. The largest node has to fit into
/// [`ASKED_AGAIN_PART`] of it, or it would not be cached.
const SHARD_BYTES_MIN: u64 = 1 << 20;

/// Number of successive calls of [`Tree::read_ahead`] without a read from the store, after which the
/// calls do nothing.
const UNREAD_MAX: u32 = 256;

/// Loads nodes, and caches decoded ones by address, up to a number of bytes.
///
/// Nodes are immutable, so a cached one is never stale.
pub struct Nodes {
    blocks: Arc<dyn BlockStore>,
    cache: Cache<Cid, Arc<Node>, NodeWeight>,
    /// Number of nodes read from the store because they were not cached.
    reads: AtomicU64,
    /// Number of calls of [`Tree::read_ahead`] since the last such read.
    unread: AtomicU32,
}

impl Nodes {
    /// Returns a loader that reads from `blocks` and caches up to `cache_bytes` of decoded nodes.
    pub fn new(blocks: Arc<dyn BlockStore>, cache_bytes: u64) -> Self {
        let items = usize::try_from(cache_bytes >> 12).unwrap_or(usize::MAX).max(16);
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let shards = usize::try_from(cache_bytes / SHARD_BYTES_MIN).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(shards.clamp(1, 4 * cores))
            .hot_allocation(ASKED_AGAIN_PART)
            .estimated_items_capacity(items)
            .weight_capacity(cache_bytes)
            .build()
            .expect("both capacities are set");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let cache = Cache::with_options(options, NodeWeight, hasher, lifecycle);
        Self { blocks, cache, reads: AtomicU64::new(0), unread: AtomicU32::new(0) }
    }

    /// Returns the block store that it reads from.
    pub fn blocks(&self) -> &Arc<dyn BlockStore> {
        &self.blocks
    }

    /// Returns how many nodes were read from the store because they were not cached.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Returns the size of the cached nodes in bytes.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// Returns a node that must exist.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Malformed`],
    /// [`StoreError::Unavailable`].
    pub async fn load(&self, cid: &Cid) -> Result<Arc<Node>, StoreError> {
        if let Some(node) = self.cache.get(cid) {
            return Ok(node);
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.unread.store(0, Ordering::Relaxed);
        let block = require(self.blocks.as_ref(), cid).await?;
        let node = Arc::new(Node::decode(block.bytes())?);
        self.remember(*cid, Arc::clone(&node));
        Ok(node)
    }

    /// Returns a child of an inner node. It must exist and be one level lower.
    async fn child(&self, parent: &Node, index: usize) -> Result<Arc<Node>, StoreError> {
        let child = self.load(&parent.child(index)).await?;
        if child.level() + 1 == parent.level() {
            return Ok(child);
        }
        Err(StoreError::Malformed { what: "tree node", why: "not one level below its parent" })
    }

    /// Adds a new node to the cache: the next edit will need it.
    fn remember(&self, cid: Cid, node: Arc<Node>) {
        self.cache.insert(cid, node);
    }

    /// Removes replaced nodes from the cache. Call it once the new tree is published: from then on only
    /// readers of older roots need them.
    pub fn forget(&self, replaced: &[Cid]) {
        for cid in replaced {
            self.cache.remove(cid);
        }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("blocks", self.blocks()).finish_non_exhaustive()
    }
}

/// Returns the smallest key that is greater than every key that starts with `prefix`; `None` when
/// there is no such key.
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=keep].to_vec();
    next[keep] += 1;
    Some(next.into())
}
