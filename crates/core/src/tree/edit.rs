//! Applies a batch of changes to a tree, and returns the new tree with its new nodes.
//!
//! It works level by level from the leaves up. The changed nodes of a level are cut again until the
//! cut meets an old boundary; the replaced nodes are the batch of the level above. The result is the
//! same as building the tree from scratch (`tests.rs` holds it to that).

use std::{collections::BTreeMap, iter::Peekable, sync::Arc, vec};

use bytes::Bytes;

use super::{
    Nodes, Tree,
    boundary::{Chunker, Salt},
    cursor::Cursor,
    node::{Item, Node},
};
use crate::{block::Block, error::StoreError, id::Cid};

/// Changes by key: the weight and the encoded record to set, or `None` to remove the key.
pub type Edits = BTreeMap<Bytes, Option<(u64, Bytes)>>;

/// The result of an edit.
#[derive(Debug)]
pub struct Edited {
    /// The tree after the changes.
    pub tree: Tree,
    /// New nodes. All of them must be stored before the tree is published.
    pub blocks: Vec<Block>,
    /// Addresses of replaced nodes. Pass them to [`Nodes::forget`] once the new tree is published.
    pub replaced: Vec<Cid>,
}

/// Changes of one level by ascending key: the item to set, or `None` to remove it.
type LevelEdits = Vec<(Bytes, Option<Item>)>;

/// Applies `edits` to `tree`.
///
/// # Errors
/// [`StoreError::TooLarge`] for a record that does not fit a node; [`StoreError`] of a node read.
pub async fn edit(
    nodes: &Nodes,
    salt: &Salt,
    tree: &Tree,
    edits: &Edits,
) -> Result<Edited, StoreError> {
    let mut editor = Editor { nodes, salt, made: Vec::new(), gone: Vec::new() };
    let mut pending = LevelEdits::with_capacity(edits.len());
    for (key, change) in edits {
        let item = match change {
            Some((weight, value)) => Some(Item::leaf(key, *weight, value)?),
            None => None,
        };
        pending.push((key.clone(), item));
    }
    let unchanged = Edited { tree: *tree, blocks: Vec::new(), replaced: Vec::new() };
    let Some(root) = &tree.root else {
        let items = editor.build_level(0, set(pending));
        return editor.build_up(0, items).await;
    };
    let top = nodes.load(root).await?.level();
    for level in 0..=top {
        pending = editor.edit_level(tree, level, pending).await?;
        if pending.is_empty() {
            return Ok(unchanged);
        }
    }
    editor.build_up(top, set(pending)).await
}

struct Editor<'a> {
    nodes: &'a Nodes,
    salt: &'a Salt,
    /// New nodes. `build_up` drops those that the final tree does not contain.
    made: Vec<(Block, Arc<Node>)>,
    /// Nodes of the old tree that are not in the new one.
    gone: Vec<Cid>,
}

impl Editor<'_> {
    /// Applies `edits` to one level of the old tree, and returns the edits of the level above.
    async fn edit_level(
        &mut self,
        tree: &Tree,
        level: u8,
        edits: LevelEdits,
    ) -> Result<LevelEdits, StoreError> {
        let mut above = LevelEdits::new();
        let mut cursor = Cursor::new(self.nodes, tree);
        let mut chunker = Chunker::new(self.salt, level);
        let mut edits = edits.into_iter().peekable();
        loop {
            let left = edits.len();
            let Some((key, _)) = edits.peek() else { break };
            cursor.seek_node(level, key).await?;
            // Where the node before ended by force, the cut depended on the items after it: start
            // from that node.
            while let Some(last) = cursor.previous_last_key() {
                if self.salt.ends(level, last) {
                    break;
                }
                let last = Bytes::copy_from_slice(last);
                cursor.seek_node(level, &last).await?;
            }
            let mut old = Vec::new();
            while let Some((node, cid)) = cursor.node() {
                old.push((node.owned_last_key(), cid));
                let kept_last = merge(&node, &mut edits, cursor.is_last(), &mut chunker);
                // The rest stays as it is only where the old cut did not look ahead either.
                if chunker.is_at_boundary() && (kept_last || self.salt.ends(level, node.last_key()))
                {
                    break;
                }
                cursor.next_node().await?;
            }
            if edits.len() == left {
                // The parent says that this node ends after the key, but it ends before.
                let why = "last key is not what its parent says";
                return Err(StoreError::Malformed { what: "tree node", why });
            }
            self.replace(tree, old, chunker.finish(), &mut above);
        }
        Ok(above)
    }

    /// Replaces the `old` nodes, given by last key and address, with the new ones.
    fn replace(
        &mut self,
        tree: &Tree,
        old: Vec<(Bytes, Cid)>,
        new: Vec<Node>,
        above: &mut LevelEdits,
    ) {
        let mut old = old.into_iter().peekable();
        for node in new {
            let item = self.make(node);
            while let Some((last, cid)) = old.next_if(|(last, _)| last.as_ref() < item.key()) {
                self.gone.push(cid);
                above.push((last, None));
            }
            let same = old.next_if(|(last, _)| last.as_ref() == item.key()).map(|(_, cid)| cid);
            if same == Some(item.child()) {
                self.made.pop();
            } else {
                self.gone.extend(same);
            }
            // On the top level no level above keeps a reference to an unchanged node.
            if same != Some(item.child()) || same == tree.root {
                above.push((item.owned_key(), Some(item)));
            }
        }
        for (last, cid) in old {
            self.gone.push(cid);
            above.push((last, None));
        }
    }

    /// Cuts all items of a level into nodes, and returns the entries of the level above.
    fn build_level(&mut self, level: u8, items: Vec<Item>) -> Vec<Item> {
        let mut chunker = Chunker::new(self.salt, level);
        for item in items {
            chunker.push(item);
        }
        chunker.finish().into_iter().map(|node| self.make(node)).collect()
    }

    /// Hashes a new node, and returns the entry that names it.
    fn make(&mut self, node: Node) -> Item {
        let block = node.to_block();
        let (count, bytes) = node.sum();
        let entry = Item::inner(node.last_key(), &block.cid(), count, bytes);
        self.made.push((block, Arc::new(node)));
        entry
    }

    /// Returns the index of a new node in `made`. Searches from the end, where nodes of the top are.
    fn place(&self, cid: &Cid) -> Option<usize> {
        self.made.iter().rposition(|(block, _)| block.cid() == *cid)
    }

    /// Builds levels above `level` until one node is left, then drops superfluous nodes at the top.
    async fn build_up(mut self, level: u8, mut items: Vec<Item>) -> Result<Edited, StoreError> {
        let mut level = level;
        while items.len() > 1 {
            level += 1;
            items = self.build_level(level, items);
        }
        let Some(top) = items.pop() else {
            let replaced = self.gone;
            return Ok(Edited { tree: Tree::default(), blocks: Vec::new(), replaced });
        };
        let mut root = top.child();
        loop {
            let place = self.place(&root);
            let node = match place {
                Some(place) => Arc::clone(&self.made[place].1),
                None => self.nodes.load(&root).await?,
            };
            if node.level() == 0 || node.len() > 1 {
                break;
            }
            match place {
                Some(place) => drop(self.made.remove(place)),
                None => self.gone.push(root),
            }
            root = node.child(0);
        }
        let mut blocks = Vec::with_capacity(self.made.len());
        for (block, node) in self.made {
            self.nodes.remember(block.cid(), node);
            blocks.push(block);
        }
        let (count, bytes) = top.totals();
        let tree = Tree { root: Some(root), count, bytes };
        Ok(Edited { tree, blocks, replaced: self.gone })
    }
}

/// Returns the items that are set.
fn set(edits: LevelEdits) -> Vec<Item> {
    edits.into_iter().filter_map(|(_, change)| change).collect()
}

/// Pushes the items of the node merged with the edits of its key range. The last node takes all edits
/// that are left. Returns whether the last item pushed has the last key of the node.
fn merge(
    node: &Node,
    edits: &mut Peekable<vec::IntoIter<(Bytes, Option<Item>)>>,
    is_last: bool,
    chunker: &mut Chunker<'_>,
) -> bool {
    let mut begin = 0;
    let mut kept_last = true;
    while let Some((key, change)) = edits.next_if(|(key, _)| key.as_ref() <= node.last_key()) {
        let found = node.find(&key);
        let end = found.unwrap_or_else(|after| after);
        chunker.push_run(node, begin..end);
        begin = end + usize::from(found.is_ok());
        kept_last = begin < node.len() || change.is_some();
        if let Some(item) = change {
            chunker.push(item);
        }
    }
    chunker.push_run(node, begin..node.len());
    if is_last {
        for item in edits.filter_map(|(_, change)| change) {
            kept_last = false;
            chunker.push(item);
        }
    }
    kept_last
}
