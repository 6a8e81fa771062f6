//! How large a bucket may become, and content that it begins with.

use fula_core::bucket::ObjectRecord;

use super::Working;
use crate::{
    commit::{change::Content, owner::OwnerShare},
    error::ServiceError,
};

impl<'a> Working<'a> {
    /// Limits the bytes of all objects, versions and parts of the bucket, where 0 is no limit, and those of all
    /// buckets of the owner.
    pub(in crate::commit) fn limit_bytes(&mut self, max: u64, share: Option<&'a OwnerShare>) {
        if let Some(share) = share {
            share.begin(self.base);
        }
        self.share = share;
        let trees = self.base.map(|head| &head.root).filter(|root| root.deleted.is_none());
        let used = trees.map_or(0, |root| {
            root.objects
                .bytes
                .saturating_add(root.versions.bytes)
                .saturating_add(root.uploads.bytes)
        });
        self.quota = max;
        self.room = (max > 0).then(|| max.saturating_sub(used));
    }

    /// Takes room for content of `size` bytes in place of `freed` bytes. What deletions of the same round free is
    /// there from the next round on.
    ///
    /// # Errors
    /// [`ServiceError::QuotaExceeded`] if the bucket would grow beyond its quota,
    /// [`ServiceError::OwnerQuotaExceeded`] if the buckets of the owner would together. Nothing was taken.
    pub(in crate::commit) fn take_room(
        &mut self,
        size: u64,
        freed: u64,
    ) -> Result<(), ServiceError> {
        let grown = size.saturating_sub(freed);
        if self.room.is_some_and(|room| grown > room) {
            return Err(ServiceError::QuotaExceeded(self.quota));
        }
        if let Some(share) = self.share {
            share.take(grown)?;
        }
        if let Some(room) = &mut self.room {
            *room -= grown;
        }
        Ok(())
    }

    /// Returns the bytes that a write frees which replaces this object: none, if it stays as a version.
    pub(in crate::commit) fn freed_by_replacing(&self, current: Option<&ObjectRecord>) -> u64 {
        if self.versioning().is_some() { 0 } else { current.map_or(0, |current| current.size) }
    }

    /// Takes over the content of another bucket into one that was just created. It must be the only change of
    /// its round, because it raises the version.
    pub(in crate::commit) fn take_over(&mut self, content: &Content) {
        self.version = self.version.max(content.version + 1);
        let Some(open) = &mut self.open else { return };
        open.objects.tree = content.objects;
        open.versions.tree = content.versions;
        if let Some(versioning) = content.versioning {
            open.root.set_versioning(versioning);
        }
    }
}
