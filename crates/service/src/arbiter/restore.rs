//! Restores a bucket to an older root, because the current one cannot be read (docs/adr/0040).

use fula_core::{
    Block, BucketAddress, Cid, RootPointer, StoreError, WriterId,
    block::{Placement, require},
    bucket::{Author, BucketRoot},
    error::SwapError,
    root::{CasOutcome, NewRoot, RootRow},
};

use super::{Arbiter, rollback::join_authors};
use crate::{
    Random,
    error::{Applied, ServiceError},
    limits::AUTHORS_KEPT_MS,
    names::NamePolicy,
};

impl Arbiter {
    /// Returns the root block of a row, if the root is in the memory of this process.
    pub fn root_in_memory(&self, row: &RootRow) -> Option<Block> {
        let head = self.last_known(&row.address)?;
        let block = head.root.to_block();
        (block.cid() == row.pointer.root).then_some(block)
    }

    /// Stores the root block of a row again from memory. Returns false when this process does not have it.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Full`].
    pub async fn put_root_back(&self, row: &RootRow) -> Result<bool, ServiceError> {
        let Some(block) = self.root_in_memory(row) else { return Ok(false) };
        let mark = self.nodes().blocks().put(&[block], Placement::Commit).await?;
        self.nodes().blocks().sync(mark).await?;
        Ok(true)
    }

    /// Publishes the state of `offered`, an older root of the bucket, above the current root, which cannot
    /// be read. It does so with one swap, and only if the row is still `row`. Returns the new version.
    ///
    /// The new root keeps the known authors of the lost one, so that no master takes it for an arbiter that
    /// went back. Where several masters share the arbiter (`is_shared`), these must be known exactly, from
    /// the lost root itself or from what this master remembers of it.
    ///
    /// # Errors
    /// [`ServiceError::InvalidRequest`]: this master knows too little, or the offer is not of this bucket.
    /// [`ServiceError::Busy`]: the row was changed. [`ServiceError::Unavailable`],
    /// [`ServiceError::Damaged`], [`ServiceError::Regressed`].
    pub async fn restore_root(
        &self,
        row: &RootRow,
        offered: Cid,
        names: NamePolicy,
        random: &Random,
        is_shared: bool,
    ) -> Result<u64, ServiceError> {
        let (bucket, blocks) = (&row.address, self.nodes().blocks());
        self.guard().permit_write(bucket)?;
        let current = self.bucket_row(bucket).await?;
        if current.is_none_or(|current| current.pointer != row.pointer) {
            return Err(ServiceError::Busy(Applied::None));
        }
        let mut root = BucketRoot::from_block(&require(blocks.as_ref(), &offered).await?)?;
        let is_older = root.owner == bucket.owner
            && root.name == bucket.name
            && root.id == row.bucket_id
            && root.version <= row.pointer.version
            && offered != row.pointer.root;
        if !is_older {
            let text = format!("{offered} is no older root of bucket {}", bucket.name);
            return Err(ServiceError::InvalidRequest(text));
        }
        let lost = self.authors_of(row).await?;
        let lost = match lost {
            Some(authors) => authors,
            None if is_shared => return Err(unknown_authors(bucket)),
            None => Vec::new(),
        };
        let mut writer = [0; 16];
        random(&mut writer);
        root.parent = Some(offered);
        root.version = row.pointer.version + 1;
        root.time = root.time.max(self.now().await?);
        root.authors = join_authors(&root.authors, &lost);
        // A separate writer id is used, so that no process takes the swap for one of its unanswered ones.
        root.sign(WriterId(writer), root.time.saturating_sub(AUTHORS_KEPT_MS));
        self.publish_restored(row, root, names).await
    }

    async fn publish_restored(
        &self,
        row: &RootRow,
        root: BucketRoot,
        names: NamePolicy,
    ) -> Result<u64, ServiceError> {
        let (block, blocks) = (root.to_block(), self.nodes().blocks());
        let pointer = RootPointer {
            root: block.cid(),
            version: root.version,
            generation: row.pointer.generation,
        };
        let new = NewRoot {
            pointer,
            bucket_id: root.id,
            created: root.created,
            deleted: root.deleted,
            global_name: names.of_root(blocks.as_ref(), &root).await?,
            lease: None,
        };
        self.observe_generation(pointer.generation);
        let mark = blocks.put(&[block], Placement::Commit).await?;
        blocks.sync(mark).await?;
        let swapped = self.unchecked().cas_root(&row.address, Some(row.pointer), &new).await;
        let outcome = swapped.map_err(|error| match error {
            SwapError::NotSent(error) => ServiceError::from(error),
            SwapError::Unknown(_) => ServiceError::Busy(Applied::Unknown),
        })?;
        if outcome.value != CasOutcome::Won {
            return Err(ServiceError::Busy(Applied::None));
        }
        // The next read is compared with what the other masters remember, and then with this root.
        self.forget_head(&row.address);
        self.current(&row.address).await?;
        self.guard().flush().await?;
        Ok(pointer.version)
    }

    /// Returns the authors of the current root of a bucket, from its root block, or from what this master
    /// remembers. Returns `None` when it remembers another state.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn authors_of(&self, row: &RootRow) -> Result<Option<Vec<Author>>, ServiceError> {
        match self.nodes().blocks().get(&row.pointer.root).await {
            Ok(Some(block)) => {
                if let Ok(root) = BucketRoot::from_block(&block) {
                    return Ok(Some(root.authors));
                }
            }
            Ok(None) | Err(StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let known = self.guard().known(&row.address);
        let known = known.filter(|known| known.pointer == row.pointer);
        Ok(known.map(|known| known.authors().to_vec()))
    }
}

fn unknown_authors(bucket: &BucketAddress) -> ServiceError {
    ServiceError::InvalidRequest(format!(
        "this master does not know the newest state of bucket {}: run the command on the master that wrote to \
         the bucket last, which remembers it",
        bucket.name
    ))
}
