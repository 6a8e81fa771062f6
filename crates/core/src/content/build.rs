//! A builder of the DAG of a file from its leaves. It keeps the links of unfinished nodes in memory.

use super::{
    LINKS_MAX,
    dag_pb::{FileLink, FileNode},
};
use crate::block::Block;

/// Builds a balanced DAG from leaves that are given in order.
#[derive(Debug, Default)]
pub struct DagBuilder {
    /// Links that no node contains yet, by level above the leaves.
    levels: Vec<Vec<FileLink>>,
}

impl DagBuilder {
    /// Adds the next leaf, and returns the nodes that are now complete.
    pub fn push(&mut self, leaf: FileLink) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut link = leaf;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let links = &mut self.levels[level];
            // A full level is closed only when one more link arrives: a file of exactly `LINKS_MAX`
            // leaves has one node.
            if links.len() < LINKS_MAX {
                links.push(link);
                break;
            }
            let node = FileNode { links: std::mem::replace(links, vec![link]) };
            let (block, parent) = node.to_block();
            blocks.push(block);
            link = parent;
        }
        blocks
    }

    /// Returns the links that no node contains yet. Everything added so far is reachable from them.
    pub fn open_links(&self) -> impl Iterator<Item = &FileLink> {
        self.levels.iter().flatten()
    }

    /// Ends the file. Returns its root and the remaining nodes, or `None` when there was no leaf.
    pub fn finish(self) -> Option<(FileLink, Vec<Block>)> {
        let mut blocks = Vec::new();
        let mut carried: Option<FileLink> = None;
        let top = self.levels.len().checked_sub(1)?;
        for (level, mut links) in self.levels.into_iter().enumerate() {
            links.extend(carried);
            let is_root = level == top && links.len() == 1;
            if is_root {
                carried = links.pop();
                break;
            }
            let (block, link) = FileNode { links }.to_block();
            blocks.push(block);
            carried = Some(link);
        }
        carried.map(|root| (root, blocks))
    }
}

/// Joins parts, which are files themselves, under one node. Empty parts are left out.
///
/// Returns `None` when all parts are empty. Up to 10 000 parts fit one block.
pub fn join(parts: &[FileLink]) -> Option<(FileLink, Option<Block>)> {
    let links: Vec<FileLink> = parts.iter().copied().filter(|part| part.size > 0).collect();
    match links.as_slice() {
        [] => None,
        [only] => Some((*only, None)),
        _ => {
            let (block, link) = FileNode { links }.to_block();
            Some((link, Some(block)))
        }
    }
}
