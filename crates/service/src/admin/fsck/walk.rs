//! The walk over everything that a root needs. It determines what each fault affects.
//!
//! A good block is read once, however many objects and buckets share it. A bad block is remembered with its
//! faults, so that every object and bucket that needs it is reported.

use std::sync::atomic::Ordering;

use fula_core::{
    Block, BlockStore, Cid, Codec, StoreError,
    bucket::{BucketRoot, ObjectKind, ObjectRecord},
    cbor::Reader,
    tree::Node,
};
use futures::{FutureExt, future::BoxFuture};

use super::{Checked, Fault, Found, Place, Problem, TreeName, links, trees};

/// The state of one walk.
pub(super) struct Walk<'a> {
    blocks: &'a dyn BlockStore,
    checked: &'a mut Checked,
}

/// The key range of a tree node: keys after one and up to another.
#[derive(Clone, Default)]
struct Bounds {
    after: Option<String>,
    last: Option<String>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(blocks: &'a dyn BlockStore, checked: &'a mut Checked) -> Self {
        Self { blocks, checked }
    }

    /// Reads a block. A fault of the block is returned as a value.
    async fn read(&self, cid: Cid) -> Result<Result<Block, Fault>, StoreError> {
        self.checked.blocks.fetch_add(1, Ordering::Relaxed);
        match self.blocks.get(&cid).await {
            Ok(Some(block)) => Ok(Ok(block)),
            Ok(None) => Ok(Err(Fault::Missing(cid))),
            Err(StoreError::Damaged { .. }) => Ok(Err(Fault::Damaged(cid))),
            Err(error) => Err(error),
        }
    }

    /// Checks a root block and everything below it.
    pub(super) async fn root(&mut self, cid: Cid) -> Result<Found<Problem>, StoreError> {
        if self.checked.good.contains(&cid) {
            return Ok(Found::default());
        }
        let of_bucket = |fault| Problem { place: Place::Bucket, fault };
        let block = match self.read(cid).await? {
            Ok(block) => block,
            Err(fault) => return Ok(Found::one(of_bucket(fault))),
        };
        let malformed = |why| Ok(Found::one(of_bucket(Fault::Malformed(cid, why))));
        let Ok(root) = BucketRoot::from_block(&block) else {
            return malformed("not a bucket root");
        };
        let found_links = match links(&cid, &block) {
            Ok(links) => links,
            Err(why) => return malformed(why),
        };
        let trees = trees(&root);
        let mut found = Found::default();
        for (name, tree) in trees {
            if let Some(root) = tree.root {
                found.add(self.tree(name, root, None, Bounds::default()).await?);
            }
        }
        // These are the settings, and whatever later formats add.
        for link in found_links {
            if trees.iter().all(|(_, tree)| tree.root != Some(link)) {
                found.add(self.content(link).await?.map(of_bucket));
            }
        }
        if found.is_empty() {
            self.checked.good.insert(cid);
        }
        Ok(found)
    }

    /// Checks a node of a tree, which must be at `level` if that is given, and everything below it.
    fn tree(
        &mut self,
        name: TreeName,
        cid: Cid,
        level: Option<u8>,
        bounds: Bounds,
    ) -> BoxFuture<'_, Result<Found<Problem>, StoreError>> {
        async move {
            if self.checked.good.contains(&cid) {
                return Ok(Found::default());
            }
            if let Some(found) = self.checked.trees.get(&(name, cid)) {
                return Ok(found.clone());
            }
            let found = match self.read(cid).await? {
                Ok(block) => match Node::decode(block.bytes()) {
                    Ok(node) if level.is_none_or(|level| node.level() == level) => {
                        self.node(name, cid, &node, &bounds).await?
                    }
                    Ok(_) => unreadable(name, bounds, malformed(cid, "not one level below")),
                    Err(_) => unreadable(name, bounds, malformed(cid, "not a tree node")),
                },
                Err(fault) => unreadable(name, bounds, fault),
            };
            if found.is_empty() {
                self.checked.good.insert(cid);
            } else {
                self.checked.trees.insert((name, cid), found.clone());
            }
            Ok(found)
        }
        .boxed()
    }

    /// Checks everything below a node that could be read.
    async fn node(
        &mut self,
        name: TreeName,
        cid: Cid,
        node: &Node,
        bounds: &Bounds,
    ) -> Result<Found<Problem>, StoreError> {
        let mut found = Found::default();
        let mut after = bounds.after.clone();
        for index in 0..node.len() {
            let key = name.object_key(node.key(index));
            if let Some(level) = node.level().checked_sub(1) {
                let below = Bounds { after: after.replace(key.clone()), last: Some(key) };
                found.add(self.tree(name, node.child(index), Some(level), below).await?);
                continue;
            }
            let mut links = Vec::new();
            let read = Reader::links(&node.entry(index).value, &mut |link| links.push(link));
            let of_key = |fault| Problem { place: Place::Key(name, key.clone()), fault };
            if read.is_err() {
                found.add(Found::one(of_key(malformed(cid, "a record cannot be read"))));
            }
            let is_mapped = is_mapped(name, node, index);
            for link in links {
                let mut of_link = self.content(link).await?;
                if is_mapped {
                    of_link = of_link.without(is_leaf);
                }
                found.add(of_link.map(of_key));
            }
        }
        Ok(found)
    }

    /// Checks a block of content or attributes, and everything below it.
    fn content(&mut self, cid: Cid) -> BoxFuture<'_, Result<Found<Fault>, StoreError>> {
        async move {
            if self.checked.good.contains(&cid) {
                return Ok(Found::default());
            }
            if let Some(found) = self.checked.content.get(&cid) {
                return Ok(found.clone());
            }
            let found = match self.read(cid).await? {
                Ok(_) if cid.codec() == Codec::Raw => Found::default(),
                Ok(block) => match links(&cid, &block) {
                    Ok(links) => {
                        let mut found = Found::default();
                        for link in links {
                            found.add(self.content(link).await?);
                        }
                        found
                    }
                    Err(why) => Found::one(malformed(cid, why)),
                },
                Err(fault) => Found::one(fault),
            };
            if found.is_empty() {
                self.checked.good.insert(cid);
            } else {
                self.checked.content.insert(cid, found.clone());
            }
            Ok(found)
        }
        .boxed()
    }
}

/// Returns whether an entry is a mapped object, whose leaves storage nodes hold.
fn is_mapped(name: TreeName, node: &Node, index: usize) -> bool {
    let entry = node.entry(index);
    matches!(name, TreeName::Objects | TreeName::Versions)
        && ObjectRecord::decode(&entry.value, entry.weight)
            .is_ok_and(|record| record.kind == ObjectKind::Mapped)
}

/// Returns whether a leaf is missing here.
fn is_leaf(fault: &Fault) -> bool {
    matches!(fault, Fault::Missing(cid) if cid.codec() == Codec::Raw)
}

fn malformed(cid: Cid, why: &'static str) -> Fault {
    Fault::Malformed(cid, why)
}

fn unreadable(name: TreeName, Bounds { after, last }: Bounds, fault: Fault) -> Found<Problem> {
    Found::one(Problem { place: Place::Keys(name, after, last), fault })
}
