//! Compares two trees without reading the nodes that they share.

use super::{Cursor, Nodes, Tree, node::Entry};
use crate::{error::StoreError, id::Cid};

/// A difference between two trees at one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key is only in the new tree.
    Added(Entry),
    /// The key is only in the old tree.
    Removed(Entry),
    /// The key is in both trees, with another weight or record.
    Changed {
        /// The entry of the old tree.
        old: Entry,
        /// The entry of the new tree.
        new: Entry,
    },
}

impl Change {
    /// Returns the key.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Added(entry) | Self::Removed(entry) | Self::Changed { new: entry, .. } => {
                &entry.key
            }
        }
    }
}

/// Position of a walk: at a subtree, which it can enter or skip, or at an entry.
enum At {
    Child(u8, Cid),
    Entry(Entry),
}

struct Walk<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Walk<'a> {
    async fn new(nodes: &'a Nodes, tree: &Tree) -> Result<Self, StoreError> {
        let mut cursor = Cursor::new(nodes, tree);
        if let Some(root) = tree.root {
            cursor.stack.push((nodes.load(&root).await?, 0));
        }
        Ok(Self { cursor })
    }

    /// Returns a walk that begins at the first entry at or after `key`.
    async fn from(nodes: &'a Nodes, tree: &Tree, key: &[u8]) -> Result<Self, StoreError> {
        let mut cursor = Cursor::new(nodes, tree);
        cursor.seek(key).await?;
        Ok(Self { cursor })
    }

    fn at(&self) -> Option<At> {
        let (node, index) = self.cursor.stack.last()?;
        Some(match node.level() {
            0 => At::Entry(node.entry(*index)),
            level => At::Child(level, node.child(*index)),
        })
    }

    async fn enter(&mut self) -> Result<(), StoreError> {
        self.cursor.step_into().await
    }

    fn pass(&mut self) {
        if let Some((_, index)) = self.cursor.stack.last_mut() {
            *index += 1;
        }
        self.cursor.ascend();
    }
}

/// Returns the next difference of two walks; `None` at the end.
async fn next(left: &mut Walk<'_>, right: &mut Walk<'_>) -> Result<Option<Change>, StoreError> {
    loop {
        match (left.at(), right.at()) {
            (None, None) => return Ok(None),
            (Some(At::Child(above, a)), Some(At::Child(level, b))) => {
                if a == b {
                    left.pass();
                    right.pass();
                    continue;
                }
                if above >= level {
                    left.enter().await?;
                }
                if level >= above {
                    right.enter().await?;
                }
            }
            (Some(At::Child(..)), _) => left.enter().await?,
            (_, Some(At::Child(..))) => right.enter().await?,
            (Some(At::Entry(a)), Some(At::Entry(b))) if a.key == b.key => {
                left.pass();
                right.pass();
                if a != b {
                    return Ok(Some(Change::Changed { old: a, new: b }));
                }
            }
            (Some(At::Entry(a)), Some(At::Entry(b))) if a.key < b.key => {
                left.pass();
                return Ok(Some(Change::Removed(a)));
            }
            (_, Some(At::Entry(b))) => {
                right.pass();
                return Ok(Some(Change::Added(b)));
            }
            (Some(At::Entry(a)), None) => {
                left.pass();
                return Ok(Some(Change::Removed(a)));
            }
        }
    }
}

/// Returns the differences in order of key. Reads only nodes that are not in both trees, and their
/// ancestors. The result is as large as the difference.
///
/// # Errors
/// [`StoreError`] of a node read.
pub async fn diff(nodes: &Nodes, old: &Tree, new: &Tree) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    if old.root == new.root {
        return Ok(changes);
    }
    let mut left = Walk::new(nodes, old).await?;
    let mut right = Walk::new(nodes, new).await?;
    while let Some(change) = next(&mut left, &mut right).await? {
        changes.push(change);
    }
    Ok(changes)
}

/// Some of the differences of two trees, in order of key.
#[derive(Clone, Debug, Default)]
pub struct DiffPage {
    /// The differences.
    pub changes: Vec<Change>,
    /// Whether more may follow after the last one.
    pub truncated: bool,
}

/// Returns up to `limit` differences at keys from `from` on and before `until`. Reads the way to `from` in both
/// trees, and then only nodes that are not in both.
///
/// # Errors
/// [`StoreError`] of a node read.
pub async fn diff_page(
    nodes: &Nodes,
    (old, new): (&Tree, &Tree),
    (from, until): (&[u8], Option<&[u8]>),
    limit: usize,
) -> Result<DiffPage, StoreError> {
    let mut page = DiffPage::default();
    if old.root == new.root {
        return Ok(page);
    }
    let mut left = Walk::from(nodes, old, from).await?;
    let mut right = Walk::from(nodes, new, from).await?;
    while page.changes.len() < limit {
        match next(&mut left, &mut right).await? {
            Some(change) if until.is_none_or(|until| change.key() < until) => {
                page.changes.push(change);
            }
            _ => return Ok(page),
        }
    }
    page.truncated = true;
    Ok(page)
}
