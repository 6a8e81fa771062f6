//! A tree with the edits of a round on top.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_core::{
    StoreError,
    tree::{Cursor, Edits, Entry, Nodes, Tree},
};

/// A tree with edits that are not applied yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    pub(super) tree: Tree,
    pub(super) edits: Edits,
}

impl Overlay {
    pub(super) async fn get(
        &self,
        nodes: &Nodes,
        key: &[u8],
    ) -> Result<Option<(u64, Bytes)>, StoreError> {
        if let Some(edited) = self.edits.get(key) {
            return Ok(edited.clone());
        }
        Ok(self.tree.get(nodes, key).await?.map(|entry| (entry.weight, entry.value)))
    }

    /// Returns the entries of `from..to` in order, including the edits.
    pub(super) async fn range(
        &self,
        nodes: &Nodes,
        from: &Bytes,
        to: &Bytes,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut found: BTreeMap<Bytes, (u64, Bytes)> = BTreeMap::new();
        let mut cursor = Cursor::new(nodes, &self.tree);
        cursor.seek(from).await?;
        while let Some(entry) = cursor.next().await? {
            if entry.key >= *to {
                break;
            }
            found.insert(entry.key, (entry.weight, entry.value));
        }
        for (key, edited) in self.edits.range(from.clone()..to.clone()) {
            match edited {
                Some(edited) => drop(found.insert(key.clone(), edited.clone())),
                None => drop(found.remove(key)),
            }
        }
        let entry = |(key, (weight, value))| Entry { key, weight, value };
        Ok(found.into_iter().map(entry).collect())
    }

    pub(super) async fn is_empty(&self, nodes: &Nodes) -> Result<bool, StoreError> {
        if self.edits.values().any(Option::is_some) {
            return Ok(false);
        }
        if self.edits.is_empty() || self.tree.count > self.edits.len() as u64 {
            return Ok(self.tree.count == 0);
        }
        let mut cursor = Cursor::new(nodes, &self.tree);
        cursor.seek(b"").await?;
        while let Some(entry) = cursor.next().await? {
            if !self.edits.contains_key(&entry.key) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
