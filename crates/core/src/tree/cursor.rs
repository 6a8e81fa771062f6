//! Walks a tree, with a stack of nodes from the root to a position on any level.

use std::sync::Arc;

use super::{Nodes, Tree, node::Entry, node::Node};
use crate::{error::StoreError, id::Cid};

/// A position in a tree.
///
/// To scan, call [`Cursor::seek`], then [`Cursor::next`] until it returns `None`. Seeking reads one
/// node per level; the scan reads each leaf when it reaches it and nothing ahead.
#[derive(Debug)]
pub struct Cursor<'a> {
    nodes: &'a Nodes,
    root: Option<Cid>,
    /// Nodes from the root down, each with the index of its current item.
    pub(super) stack: Vec<(Arc<Node>, usize)>,
}

impl<'a> Cursor<'a> {
    /// Returns a cursor without a position: [`Cursor::seek`] gives it one.
    pub fn new(nodes: &'a Nodes, tree: &Tree) -> Self {
        Self { nodes, root: tree.root, stack: Vec::new() }
    }

    /// Moves to the first entry at or after `key`.
    ///
    /// # Errors
    /// [`StoreError`] of a node on the path.
    pub async fn seek(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.stack.clear();
        let Some(root) = self.root else { return Ok(()) };
        let mut node = self.nodes.load(&root).await?;
        loop {
            let index = node.find(key).unwrap_or_else(|after| after);
            let (level, len) = (node.level(), node.len());
            self.stack.push((Arc::clone(&node), index));
            if index == len {
                // Only the last key of the root can be smaller. A lower node was chosen because its last
                // key is not.
                return self.climb().await;
            }
            if level == 0 {
                return Ok(());
            }
            node = self.nodes.child(&node, index).await?;
        }
    }

    /// Returns the entry at the position, and moves to the next one.
    ///
    /// # Errors
    /// [`StoreError`] of a node on the path to the next leaf.
    pub async fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        let Some((leaf, index)) = self.stack.last_mut() else { return Ok(None) };
        let entry = leaf.entry(*index);
        *index += 1;
        if *index == leaf.len() {
            self.climb().await?;
        }
        Ok(Some(entry))
    }

    /// Pops exhausted nodes, then descends to the next leaf.
    async fn climb(&mut self) -> Result<(), StoreError> {
        if self.ascend() { self.descend(0).await } else { Ok(()) }
    }

    /// Pops exhausted nodes, and advances in their parent. Returns false at the end of the tree.
    pub(super) fn ascend(&mut self) -> bool {
        while let Some((node, index)) = self.stack.last() {
            if *index < node.len() {
                return true;
            }
            self.stack.pop();
            if let Some((_, index)) = self.stack.last_mut() {
                *index += 1;
            }
        }
        false
    }

    /// Pushes first children until the top of the stack is at `level`.
    pub(super) async fn descend(&mut self, level: u8) -> Result<(), StoreError> {
        while let Some((node, _)) = self.stack.last() {
            if node.level() <= level {
                break;
            }
            self.step_into().await?;
        }
        Ok(())
    }

    /// Pushes the child at the current item.
    pub(super) async fn step_into(&mut self) -> Result<(), StoreError> {
        let (parent, index) = self.stack.last().expect("only called on a stack with a top");
        let child = self.nodes.child(parent, *index).await?;
        self.stack.push((child, 0));
        Ok(())
    }

    /// Moves to the node of `level` that contains `key` or would contain it, or to the last one if `key`
    /// is beyond all. Reads only nodes that are not on the stack already.
    pub(super) async fn seek_node(&mut self, level: u8, key: &[u8]) -> Result<(), StoreError> {
        let Some(root) = self.root else { return Ok(()) };
        if self.stack.is_empty() {
            self.stack.push((self.nodes.load(&root).await?, 0));
        }
        let mut depth = 0;
        while let Some((node, index)) = self.stack.get_mut(depth) {
            if node.level() <= level {
                break;
            }
            let at = node.find(key).unwrap_or_else(|after| after).min(node.len() - 1);
            depth += 1;
            if *index != at {
                *index = at;
                self.stack.truncate(depth);
            }
            if self.stack.len() == depth {
                self.step_into().await?;
            }
        }
        self.stack.truncate(depth + 1);
        Ok(())
    }

    /// Returns the node at the top of the stack and its address.
    pub(super) fn node(&self) -> Option<(Arc<Node>, Cid)> {
        let ((node, _), parents) = self.stack.split_last()?;
        let cid = match parents.last() {
            Some((parent, index)) => parent.child(*index),
            None => self.root?,
        };
        Some((Arc::clone(node), cid))
    }

    /// Returns the last key of the preceding node of this level; `None` for the first node.
    pub(super) fn previous_last_key(&self) -> Option<&[u8]> {
        let parents = self.stack.split_last()?.1;
        let (node, index) = parents.iter().rev().find(|(_, index)| *index > 0)?;
        Some(node.key(index - 1))
    }

    /// Returns whether the node at the top of the stack is the last of its level.
    pub(super) fn is_last(&self) -> bool {
        let parents = self.stack.split_last().map_or(&[][..], |(_, parents)| parents);
        parents.iter().all(|(node, index)| index + 1 == node.len())
    }

    /// Moves to the next node of this level. At the end it returns false and has no position.
    pub(super) async fn next_node(&mut self) -> Result<bool, StoreError> {
        let Some((node, _)) = self.stack.pop() else { return Ok(false) };
        if let Some((_, index)) = self.stack.last_mut() {
            *index += 1;
        }
        if !self.ascend() {
            return Ok(false);
        }
        self.descend(node.level()).await?;
        Ok(true)
    }
}
