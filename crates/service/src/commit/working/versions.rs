//! The versions of objects in the bucket that a round edits.

use std::ops::Bound;

use bytes::Bytes;
use fula_core::{
    StoreError,
    bucket::{ObjectRecord, Seq, Versioning, keys},
    id::ObjectKey,
    tree::{Cursor, Nodes},
};

use super::Working;
use crate::{commit::overlay::Overlay, error::ServiceError};

/// The newest version of a key: its current object, or a delete marker.
#[derive(Clone, Debug, Default)]
pub(in crate::commit) struct Newest {
    pub(in crate::commit) current: Option<ObjectRecord>,
    /// The delete marker, where there is no current object.
    pub(in crate::commit) marker: Option<ObjectRecord>,
}

impl Newest {
    /// Returns the newest version.
    pub(in crate::commit) fn head(&self) -> Option<&ObjectRecord> {
        self.current.as_ref().or(self.marker.as_ref())
    }

    /// Returns the position of the null version of the key.
    pub(in crate::commit) fn null(&self) -> Option<Seq> {
        let head = self.head()?;
        if head.is_versioned { head.null_at } else { Some(head.seq) }
    }
}

impl Overlay {
    /// Returns the first entry of `from..to`, including the edits.
    async fn first(
        &self,
        nodes: &Nodes,
        from: &Bytes,
        to: &Bytes,
    ) -> Result<Option<(u64, Bytes)>, StoreError> {
        let range = (Bound::Included(from.clone()), Bound::Excluded(to.clone()));
        let edited = self.edits.range(range).find_map(|(key, value)| Some((key, value.as_ref()?)));
        let mut cursor = Cursor::new(nodes, &self.tree);
        cursor.seek(from).await?;
        while let Some(entry) = cursor.next().await? {
            let is_later = edited.is_some_and(|(key, _)| *key < entry.key);
            if entry.key >= *to || is_later {
                break;
            }
            if !self.edits.contains_key(&entry.key) {
                return Ok(Some((entry.weight, entry.value)));
            }
        }
        Ok(edited.map(|(_, value)| value.clone()))
    }
}

fn decode((size, value): (u64, Bytes)) -> Result<ObjectRecord, ServiceError> {
    Ok(ObjectRecord::decode(&value, size)?)
}

impl Working<'_> {
    /// Returns whether the bucket keeps versions; `None` when it never did.
    pub(in crate::commit) fn versioning(&self) -> Option<Versioning> {
        self.open.as_ref().and_then(|open| open.root.versioning)
    }

    /// Sets whether the bucket keeps versions.
    pub(in crate::commit) fn set_versioning(&mut self, versioning: Versioning) {
        self.change().root.set_versioning(versioning);
    }

    /// Returns the newest version of a key.
    pub(in crate::commit) async fn newest(&self, key: &ObjectKey) -> Result<Newest, ServiceError> {
        let current = self.object(key).await?;
        let marker = match self.versioning() {
            Some(_) if current.is_none() => {
                let from = keys::versions_of(key);
                self.first_version(&from, key).await?
            }
            _ => None,
        };
        Ok(Newest { current, marker })
    }

    async fn first_version(
        &self,
        from: &Bytes,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        let to = keys::after_versions_of(key);
        let found = self.open()?.versions.first(self.nodes, from, &to).await?;
        found.map(decode).transpose()
    }

    /// Returns the newest version that is older than the one at `seq`, and not current.
    pub(in crate::commit) async fn version_before(
        &self,
        key: &ObjectKey,
        seq: Seq,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        let from = Bytes::from([keys::version(key, seq).as_ref(), &[0]].concat());
        self.first_version(&from, key).await
    }

    /// Returns a version that is not current, or a delete marker.
    pub(in crate::commit) async fn version_at(
        &self,
        key: &ObjectKey,
        seq: Seq,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        let found = self.open()?.versions.get(self.nodes, &keys::version(key, seq)).await?;
        found.map(decode).transpose()
    }

    /// Sets a version that is not current, or a delete marker.
    pub(in crate::commit) fn put_version(&mut self, key: &ObjectKey, record: &ObjectRecord) {
        let value = Some((record.size, record.encode()));
        self.change().versions.edits.insert(keys::version(key, record.seq), value);
    }

    /// Adds a delete marker.
    pub(in crate::commit) fn put_marker(&mut self, key: &ObjectKey, marker: &ObjectRecord) {
        self.markers += 1;
        self.put_version(key, marker);
    }

    /// Returns the number of delete markers that were made, which take space.
    pub(in crate::commit) fn markers(&self) -> u32 {
        self.markers
    }

    /// Removes a version that is not current, or a delete marker.
    pub(in crate::commit) fn remove_version(&mut self, key: &ObjectKey, seq: Seq) {
        self.change().versions.edits.insert(keys::version(key, seq), None);
    }
}
