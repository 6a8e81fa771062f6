//! The check of a bucket that was read from a file: everything that its root links must be in the file, and be
//! what it is linked as.

use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, Codec,
    block::require,
    bucket::{BucketRoot, FORMAT, ObjectRecord, Settings},
    cbor::Reader,
    tree::Node,
};

use super::{fault::ImportError, walk::mapped_content};
use crate::admin::fsck::{TreeName, links, trees};

/// Deepest nesting of blocks of content. Files of Fula have less.
const CONTENT_DEPTH_MAX: u8 = 16;

/// Most blocks of a file.
const BLOCKS_MAX: usize = 1 << 25;

/// The blocks of a file: where each one lies, and which ones the check has visited.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Part of the address of each block, and its offset in the file. They are sorted once all are there.
    found: Vec<([u8; 16], u64)>,
    visited: Vec<u64>,
}

/// Returns the part of an address that is remembered: the codec, and 120 bits of the hash.
pub(super) fn part_of(cid: &Cid) -> [u8; 16] {
    let mut part = [0; 16];
    part.copy_from_slice(&cid.digest()[..16]);
    part[15] = match cid.codec() {
        Codec::Raw => 0,
        Codec::DagCbor => 1,
        Codec::DagPb => 2,
    };
    part
}

impl Contents {
    /// Adds a block.
    pub(super) fn add(&mut self, cid: &Cid, offset: u64) -> Result<(), ImportError> {
        if self.found.len() == BLOCKS_MAX {
            return Err(ImportError::TooMany { offset, max: BLOCKS_MAX });
        }
        self.found.push((part_of(cid), offset));
        Ok(())
    }

    /// Sorts the blocks. Of several with one address, the first counts.
    fn sort(&mut self) {
        self.found.sort_unstable();
        self.found.dedup_by_key(|(part, _)| *part);
        self.found.shrink_to_fit();
        self.visited = vec![0; self.found.len().div_ceil(64)];
    }

    fn index(&self, cid: &Cid) -> Option<usize> {
        let part = part_of(cid);
        self.found.binary_search_by(|(found, _)| found.cmp(&part)).ok()
    }

    /// Returns where a block lies in the file.
    fn offset(&self, cid: &Cid) -> u64 {
        self.index(cid).map_or(0, |index| self.found[index].1)
    }

    /// Notes a visit. Returns whether it is the first one.
    fn visit(&mut self, index: usize) -> bool {
        let (word, bit) = (&mut self.visited[index / 64], 1 << (index % 64));
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first
    }
}

/// What a block is linked as.
#[derive(Debug)]
enum Expected {
    /// A node of a tree.
    Node(TreeName, Place),
    /// The settings of the bucket.
    Settings,
    /// Content, attributes or a setting, at this depth.
    Content(u8),
    /// Content of a mapped object, at this depth. Its leaves need not be in the file.
    Mapped(u8),
}

/// What a parent says of a node.
#[derive(Debug)]
struct Place {
    /// Level, unless it is the root of the tree.
    level: Option<u8>,
    /// Number of entries, and sum of their weights.
    totals: (u64, u64),
    /// The key before its first one.
    after: Option<Bytes>,
    /// Its last key, unless it is the root of the tree.
    last: Option<Bytes>,
}

/// A link that is to be followed.
#[derive(Debug)]
struct Link {
    cid: Cid,
    parent: Cid,
    expected: Expected,
}

/// The state of a check. Each block is entered once, and the stack is bounded by the height of trees and the
/// depth of content.
struct Check<'a> {
    blocks: &'a dyn BlockStore,
    contents: Contents,
    stack: Vec<Link>,
    /// Whether leaves of mapped objects may be on storage nodes alone.
    without_mapped: bool,
}

/// Checks everything below a root. Returns the decoded root. With `without_mapped`, leaves of mapped objects need
/// not be in the file.
pub(super) async fn check(
    blocks: &dyn BlockStore,
    contents: Contents,
    root: Cid,
    without_mapped: bool,
) -> Result<BucketRoot, ImportError> {
    let mut check = Check { blocks, contents, stack: Vec::new(), without_mapped };
    check.contents.sort();
    if check.contents.index(&root).is_none() {
        return Err(ImportError::NoRoot(root));
    }
    let block = require(blocks, &root).await?;
    let Ok(decoded) = BucketRoot::from_block(&block) else {
        return Err(check.malformed(&root, "it is no root of a bucket"));
    };
    if decoded.format > FORMAT {
        return Err(check.malformed(&root, "the bucket was written by a newer version of Fula"));
    }
    if decoded.deleted.is_some() {
        return Err(check.malformed(&root, "it is the root of a deleted bucket"));
    }
    check.enter_root(&block, &decoded)?;
    while let Some(link) = check.stack.pop() {
        check.follow(link).await?;
    }
    Ok(decoded)
}

impl Check<'_> {
    fn malformed(&self, cid: &Cid, why: &'static str) -> ImportError {
        ImportError::Malformed { offset: self.contents.offset(cid), cid: *cid, why }
    }

    fn enter_root(&mut self, block: &Block, root: &BucketRoot) -> Result<(), ImportError> {
        let parent = block.cid();
        let linked = links(&parent, block).map_err(|why| self.malformed(&parent, why))?;
        let trees = trees(root);
        for (name, tree) in trees {
            let Some(cid) = tree.root else { continue };
            let totals = (tree.count, tree.bytes);
            let place = Place { level: None, totals, after: None, last: None };
            self.stack.push(Link { cid, parent, expected: Expected::Node(name, place) });
        }
        let others =
            linked.into_iter().filter(|cid| trees.iter().all(|(_, t)| t.root != Some(*cid)));
        let expected = |cid| match root.settings {
            Some(settings) if settings == cid => Expected::Settings,
            _ => Expected::Content(0),
        };
        self.stack.extend(others.map(|cid| Link { cid, parent, expected: expected(cid) }));
        Ok(())
    }

    async fn follow(&mut self, Link { cid, parent, expected }: Link) -> Result<(), ImportError> {
        let Some(index) = self.contents.index(&cid) else {
            if matches!(expected, Expected::Mapped(_)) && cid.codec() == Codec::Raw {
                return Ok(());
            }
            return Err(ImportError::Lacks { offset: self.contents.offset(&parent), cid, parent });
        };
        let is_first = self.contents.visit(index);
        match expected {
            // Keys ascend, so no node can be at two places.
            Expected::Node(..) if !is_first => Err(self.malformed(&cid, "it is linked twice")),
            Expected::Node(name, place) => {
                let block = require(self.blocks, &cid).await?;
                self.enter_node(&block, name, &place)
            }
            Expected::Settings => {
                let block = require(self.blocks, &cid).await?;
                let settings = Settings::from_block(&block);
                let settings = settings.map_err(|_| self.malformed(&cid, "it has no settings"))?;
                let content = |to| Link { cid: to, parent: cid, expected: Expected::Content(0) };
                self.stack.extend(settings.blocks.into_values().map(content));
                Ok(())
            }
            Expected::Content(_) | Expected::Mapped(_)
                if !is_first || cid.codec() == Codec::Raw =>
            {
                Ok(())
            }
            Expected::Content(CONTENT_DEPTH_MAX..) | Expected::Mapped(CONTENT_DEPTH_MAX..) => {
                Err(self.malformed(&cid, "it is nested too deep"))
            }
            Expected::Content(depth) | Expected::Mapped(depth) => {
                let is_mapped = matches!(expected, Expected::Mapped(_));
                let block = require(self.blocks, &cid).await?;
                let linked = links(&cid, &block).map_err(|why| self.malformed(&cid, why))?;
                let content = if is_mapped { Expected::Mapped } else { Expected::Content };
                let below = |to| Link { cid: to, parent: cid, expected: content(depth + 1) };
                self.stack.extend(linked.into_iter().map(below));
                Ok(())
            }
        }
    }

    fn enter_node(
        &mut self,
        block: &Block,
        name: TreeName,
        place: &Place,
    ) -> Result<(), ImportError> {
        let cid = block.cid();
        let wrong = |why| Err(self.malformed(&cid, why));
        let Ok(node) = Node::decode(block.bytes()) else { return wrong("it is no node of a tree") };
        if place.level.is_some_and(|level| level != node.level()) {
            return wrong("it is not one level below its parent");
        }
        if node.sum() != place.totals {
            return wrong("its totals are not those that its parent says");
        }
        let begins_late = place.after.as_ref().is_none_or(|after| after[..] < *node.key(0));
        let ends_right = place.last.as_ref().is_none_or(|last| last[..] == *node.last_key());
        if !begins_late || !ends_right {
            return wrong("its keys are not those that its parent says");
        }
        let Some(level) = node.level().checked_sub(1) else {
            return self.enter_leaf(cid, &node, name);
        };
        let mut after = place.after.clone();
        for index in 0..node.len() {
            let last = Bytes::copy_from_slice(node.key(index));
            let place = Place {
                level: Some(level),
                totals: node.totals(index),
                after: after.replace(last.clone()),
                last: Some(last),
            };
            let expected = Expected::Node(name, place);
            self.stack.push(Link { cid: node.child(index), parent: cid, expected });
        }
        Ok(())
    }

    fn enter_leaf(&mut self, cid: Cid, node: &Node, name: TreeName) -> Result<(), ImportError> {
        for index in 0..node.len() {
            let entry = node.entry(index);
            if matches!(name, TreeName::Objects | TreeName::Versions) {
                let read = ObjectRecord::decode(&entry.value, entry.weight);
                read.map_err(|_| self.malformed(&cid, "it has a record that cannot be read"))?;
            }
            let mapped = if self.without_mapped && name != TreeName::Uploads {
                mapped_content(&entry.value, entry.weight)
            } else {
                None
            };
            let stack = &mut self.stack;
            let expected = |to| {
                if mapped == Some(to) { Expected::Mapped(0) } else { Expected::Content(0) }
            };
            let content = |to| Link { cid: to, parent: cid, expected: expected(to) };
            let read = Reader::links(&entry.value, &mut |link| stack.push(content(link)));
            read.map_err(|_| self.malformed(&cid, "it has a record that cannot be read"))?;
        }
        Ok(())
    }
}
