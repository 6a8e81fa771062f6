//! The blocks of a bucket in depth-first order of links.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, Codec, StoreError,
    block::require,
    bucket::{BucketRoot, ObjectKind, ObjectRecord},
    tree::Node,
};
use futures::future::try_join_all;

use crate::admin::fsck::{links, trees};

/// Number of places in which addresses are remembered, and of addresses in each place. So a block that is
/// linked often is written once.
const PLACES: usize = 1 << 15;
const IN_A_PLACE: usize = 4;

/// Number of leaves that are read at a time.
const READ_AT_ONCE: usize = 4;

/// Number of older nodes that a node is compared with. Of more, the first ones are taken: then more is written
/// than necessary.
const OLDER_MAX: usize = 256;

/// Remembers addresses in a table of fixed size. The hash of an address chooses its place, where it drives out
/// the oldest one. Which ones are remembered depends on the order of calls alone.
#[derive(Debug)]
struct Lately(Vec<[Option<Cid>; IN_A_PLACE]>);

impl Lately {
    /// Returns whether an address is not remembered, and remembers it.
    fn is_new(&mut self, cid: &Cid) -> bool {
        let [a, b, c, d, ..] = *cid.digest();
        let hash = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or_default();
        let place = &mut self.0[hash % PLACES];
        let is_new = !place.contains(&Some(*cid));
        if is_new {
            place.rotate_right(1);
            place[0] = Some(*cid);
        }
        is_new
    }
}

/// The part of an older root that a block is compared with. What is in both is left out.
#[derive(Clone, Debug)]
enum Older {
    /// There is no older root.
    Nothing,
    /// The block is a root, and this is the older one.
    Root(Cid),
    /// The block is a node of a tree. These are the nodes of one level of the older tree that have its keys.
    Nodes(Arc<[Cid]>, Keys),
    /// The block is content or a setting. The older root links these at the same place.
    Links(Arc<HashSet<Cid>>),
}

/// Keys after one and up to another. `None` stands for the beginning or the end of the tree.
#[derive(Clone, Debug, Default)]
struct Keys {
    after: Option<Bytes>,
    last: Option<Bytes>,
}

impl Older {
    /// Returns whether the older root has a block at the same place.
    fn has(&self, cid: &Cid) -> bool {
        match self {
            Self::Nothing => false,
            Self::Root(root) => root == cid,
            Self::Nodes(nodes, _) => nodes.contains(cid),
            Self::Links(links) => links.contains(cid),
        }
    }
}

/// A block that is to be visited.
#[derive(Debug)]
struct Next {
    cid: Cid,
    older: Older,
    /// Whether it is content of a mapped object, whose leaves storage nodes hold.
    is_mapped: bool,
}

/// A walk over everything that a root links, in bounded memory.
#[derive(Debug)]
pub(super) struct Walk {
    blocks: Arc<dyn BlockStore>,
    /// The next block is at the end.
    stack: Vec<Next>,
    /// `None` if blocks are repeated.
    lately: Option<Lately>,
    /// Number of leaves of mapped objects that were passed over; `None` if such a leaf must be there.
    left_out: Option<Arc<AtomicU64>>,
}

impl Walk {
    /// Begins a walk. Without `older`, it goes over everything.
    pub(super) fn new(blocks: Arc<dyn BlockStore>, root: Cid, older: Option<Cid>) -> Self {
        let older = older.map_or(Older::Nothing, Older::Root);
        let lately = Some(Lately(vec![[None; IN_A_PLACE]; PLACES]));
        let first = Next { cid: root, older, is_mapped: false };
        Self { blocks, stack: vec![first], lately, left_out: None }
    }

    /// Passes over leaves of mapped objects that are not in the block store, and counts them.
    pub(super) fn without_mapped(self, count: Arc<AtomicU64>) -> Self {
        Self { left_out: Some(count), ..self }
    }

    /// Begins a walk over everything below a block, that returns a block each time that it is linked.
    pub(super) fn with_repeats(blocks: Arc<dyn BlockStore>, root: Cid) -> Self {
        let first = Next { cid: root, older: Older::Nothing, is_mapped: false };
        Self { blocks, stack: vec![first], lately: None, left_out: None }
    }

    /// Returns the next blocks; none at the end.
    ///
    /// # Errors
    /// [`StoreError`] of a block that cannot be read.
    pub(super) async fn next(&mut self) -> Result<Vec<Block>, StoreError> {
        while let Some(Next { cid, older, is_mapped }) = self.stack.pop() {
            if !self.is_wanted(&cid, &older) {
                continue;
            }
            if cid.codec() == Codec::Raw && is_mapped {
                if let Some(block) = self.mapped_leaf(&cid).await? {
                    return Ok(vec![block]);
                }
                continue;
            }
            if cid.codec() == Codec::Raw {
                return self.leaves(cid).await;
            }
            let block = require(self.blocks.as_ref(), &cid).await?;
            let mapped = if self.left_out.is_some() { mapped_in(&block) } else { HashSet::new() };
            let below = self.below(&block, older).await?;
            let next = below.into_iter().rev().map(|(cid, older)| {
                let is_mapped = is_mapped || mapped.contains(&cid);
                Next { cid, older, is_mapped }
            });
            self.stack.extend(next);
            return Ok(vec![block]);
        }
        Ok(Vec::new())
    }

    /// Reads a leaf, and the wanted ones right after it.
    async fn leaves(&mut self, first: Cid) -> Result<Vec<Block>, StoreError> {
        let mut cids = vec![first];
        let is_leaf = |next: &mut Next| next.cid.codec() == Codec::Raw && !next.is_mapped;
        while cids.len() < READ_AT_ONCE
            && let Some(Next { cid, older, .. }) = self.stack.pop_if(is_leaf)
        {
            cids.extend(self.is_wanted(&cid, &older).then_some(cid));
        }
        let reads = cids.iter().map(|cid| require(self.blocks.as_ref(), cid));
        try_join_all(reads).await
    }

    /// Reads a leaf of a mapped object. Returns `None`, and counts it, if it is not in the block store and need
    /// not be.
    async fn mapped_leaf(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let Some(left_out) = &self.left_out else {
            return require(self.blocks.as_ref(), cid).await.map(Some);
        };
        let found = self.blocks.get(cid).await?;
        if found.is_none() {
            left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Returns whether a block is not left out.
    fn is_wanted(&mut self, cid: &Cid, older: &Older) -> bool {
        !older.has(cid) && self.lately.as_mut().is_none_or(|lately| lately.is_new(cid))
    }

    /// Returns what a block links, in order, each with what it is compared with.
    async fn below(&self, block: &Block, older: Older) -> Result<Vec<(Cid, Older)>, StoreError> {
        let linked = links(&block.cid(), block)
            .map_err(|why| StoreError::Malformed { what: "block", why })?;
        let each = |older: Older| linked.iter().map(|cid| (*cid, older.clone())).collect();
        match older {
            Older::Root(root) => self.below_root(block, &root, &linked).await,
            Older::Nodes(nodes, keys) => self.below_node(block, &linked, &nodes, &keys).await,
            older => Ok(each(older)),
        }
    }

    /// Reads a block of the older root. Returns `None` for one that cannot be read any more.
    async fn read_older(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        match self.blocks.get(cid).await {
            Err(StoreError::Damaged { .. }) => Ok(None),
            read => read,
        }
    }

    async fn below_root(
        &self,
        block: &Block,
        older: &Cid,
        linked: &[Cid],
    ) -> Result<Vec<(Cid, Older)>, StoreError> {
        let all = || Ok(linked.iter().map(|cid| (*cid, Older::Nothing)).collect());
        let Some(read) = self.read_older(older).await? else { return all() };
        let (Ok(root), Ok(older)) = (BucketRoot::from_block(block), BucketRoot::from_block(&read))
        else {
            return all();
        };
        let settings: Vec<Cid> = older.settings.into_iter().collect();
        let settings = self.links_of(&settings).await?;
        let (new, old) = (trees(&root), trees(&older));
        let compared = |cid: &Cid| {
            let pair = new.iter().zip(&old).find(|((_, tree), _)| tree.root == Some(*cid));
            match pair {
                Some((_, (_, tree))) => {
                    Older::Nodes(tree.root.into_iter().collect(), Keys::default())
                }
                None => Older::Links(Arc::clone(&settings)),
            }
        };
        Ok(linked.iter().map(|cid| (*cid, compared(cid))).collect())
    }

    /// Returns the addresses of older blocks and of what they link.
    async fn links_of(&self, cids: &[Cid]) -> Result<Arc<HashSet<Cid>>, StoreError> {
        let mut found = HashSet::new();
        for cid in cids {
            found.insert(*cid);
            if let Some(block) = self.read_older(cid).await? {
                found.extend(links(cid, &block).unwrap_or_default());
            }
        }
        Ok(Arc::new(found))
    }

    async fn below_node(
        &self,
        block: &Block,
        linked: &[Cid],
        older: &Arc<[Cid]>,
        keys: &Keys,
    ) -> Result<Vec<(Cid, Older)>, StoreError> {
        let node = Node::decode(block.bytes())?;
        if node.level() == 0 {
            let nodes = self.nodes_at(older, 0, keys).await?;
            let nodes: Vec<Cid> = nodes.into_iter().map(|(cid, _)| cid).collect();
            let links = self.links_of(&nodes).await?;
            return Ok(linked.iter().map(|cid| (*cid, Older::Links(Arc::clone(&links)))).collect());
        }
        let nodes = self.nodes_at(older, node.level(), keys).await?;
        let is_lower = nodes.first().is_some_and(|(_, found)| found.level() < node.level());
        let mut below = Vec::with_capacity(node.len());
        let mut after = keys.after.clone();
        for index in 0..node.len() {
            let last = Bytes::copy_from_slice(node.key(index));
            let keys = Keys { after: after.replace(last.clone()), last: Some(last) };
            // The older tree is not as high.
            let compared =
                if is_lower { Arc::clone(older) } else { children(&nodes, &keys).into() };
            below.push((node.child(index), Older::Nodes(compared, keys)));
        }
        Ok(below)
    }

    /// Returns the older nodes with these keys at a level; lower ones, if the older tree is not as high.
    async fn nodes_at(
        &self,
        cids: &[Cid],
        level: u8,
        keys: &Keys,
    ) -> Result<Vec<(Cid, Node)>, StoreError> {
        let mut cids = cids.to_vec();
        loop {
            let mut nodes = Vec::with_capacity(cids.len());
            for cid in &cids {
                let block = self.read_older(cid).await?;
                let node = block.and_then(|block| Node::decode(block.bytes()).ok());
                nodes.extend(node.map(|node| (*cid, node)));
            }
            if nodes.first().is_none_or(|(_, node)| node.level() <= level) {
                return Ok(nodes);
            }
            cids = children(&nodes, keys);
        }
    }
}

/// Returns the content of the mapped objects in a node of a tree; nothing for other blocks.
fn mapped_in(block: &Block) -> HashSet<Cid> {
    let leaf = Node::decode(block.bytes()).ok().filter(|node| node.level() == 0);
    let entries = leaf.iter().flat_map(|node| (0..node.len()).map(|index| node.entry(index)));
    entries.filter_map(|entry| mapped_content(&entry.value, entry.weight)).collect()
}

/// Returns the content of a record of a mapped object; `None` for other records.
pub(super) fn mapped_content(value: &Bytes, weight: u64) -> Option<Cid> {
    let record = ObjectRecord::decode(value, weight).ok()?;
    record.content.filter(|_| record.kind == ObjectKind::Mapped)
}

/// Returns the children of neighbouring inner nodes that may have keys in a range.
fn children(nodes: &[(Cid, Node)], keys: &Keys) -> Vec<Cid> {
    let mut is_done = false;
    let inner = nodes.iter().filter(|(_, node)| node.level() > 0);
    let all = inner.flat_map(|(_, node)| {
        let first = keys.after.as_deref().map_or(0, |after| match node.find(after) {
            Ok(index) => index + 1,
            Err(index) => index,
        });
        (first..node.len()).map(move |index| (node.key(index), node.child(index)))
    });
    let inside = all.take_while(|(key, _)| {
        let is_last = keys.last.as_deref().is_some_and(|last| *key >= last);
        !std::mem::replace(&mut is_done, is_last)
    });
    inside.map(|(_, cid)| cid).take(OLDER_MAX).collect()
}
