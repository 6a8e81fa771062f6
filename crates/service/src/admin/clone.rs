//! Clones: a new bucket with the objects of another one, as they are or were at a version. The trees are shared,
//! so a clone takes the same time and space whatever the size of the bucket.

use std::sync::Arc;

use fula_core::{
    BlockStore, BucketAddress, BucketId, BucketName, Cid, StoreError, bucket::BucketRoot,
    root::TimeMs,
};

use crate::{
    arbiter::Head,
    caller::Caller,
    commit::{Change, CommitRequest, Content},
    error::ServiceError,
    pins::PinnedBlocks,
    service::Service,
};

/// Largest number of commits that are looked through for a version.
const COMMITS_MAX: usize = 4096;

/// The reason why a bucket cannot be cloned.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The bucket does not exist. Correct its name.
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// There is a bucket of the new name. Choose another name, or delete it first.
    #[error("there is a bucket of the new name already")]
    Taken,
    /// The version is not in the history of the bucket. `fula roots log` lists it.
    #[error(
        "the bucket never had version {0}, or its history does not go back so far; fula roots log lists it"
    )]
    NoSuchVersion(u64),
    /// The version was replaced too long ago, so a part of it may have been collected. Raise the retention before
    /// it is needed the next time.
    #[error(
        "version {0} was replaced longer ago than the retention (FULA_RETENTION), so a part of it may be gone"
    )]
    NotRetained(u64),
    /// Masters share the blocks, and any of them may collect what is not current.
    #[error(
        "where masters share blocks, only the current version can be cloned: leave the version out"
    )]
    NotCurrent,
    /// A collection runs that may delete what the version needs. Try again.
    #[error("a collection runs; try again in a minute")]
    Collecting,
    /// The bucket cannot be read or written.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<StoreError> for CloneError {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

/// A bucket that was made as a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cloned {
    /// Version of the source that was cloned.
    pub from: u64,
    /// Number of objects.
    pub objects: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

impl Service {
    /// Makes the bucket `name` of the same owner with the objects and versions of `source` at `version`, or as
    /// they are now. Uploads that are not completed, and settings such as policies and tags, are not taken over.
    /// Versions that were replaced before `kept_since` are refused. It is `None` where other masters may collect
    /// as well; then only the current version can be cloned.
    ///
    /// # Errors
    /// [`CloneError`].
    pub async fn clone_bucket(
        &self,
        source: &BucketAddress,
        version: Option<u64>,
        name: BucketName,
        kept_since: Option<TimeMs>,
    ) -> Result<Cloned, CloneError> {
        // While this is held, no collection of this store deletes anything.
        let collecting = self.collecting.try_lock();
        let caller = Caller::default();
        caller.pins.begin_write(self.arbiter().pins());
        let head = self.arbiter().current(source).await?.ok_or(CloneError::NoSuchBucket)?;
        caller.pins.pin_head(&head);
        caller.pins.note_source(head.row.pointer.generation);
        let mut root = head.root.clone();
        if let Some(version) = version.filter(|version| *version != head.row.pointer.version) {
            let kept_since = kept_since.ok_or(CloneError::NotCurrent)?;
            if collecting.is_err() {
                return Err(CloneError::Collecting);
            }
            let cid;
            (cid, root) = self.retained(&head, version, kept_since).await?;
            let mut pinned = PinnedBlocks::new(self.arbiter().pins());
            pinned.add([cid]);
            caller.pins.pin_blocks(pinned);
        }
        let cloned =
            Cloned { from: root.version, objects: root.objects.count, bytes: root.objects.bytes };
        let change = Change::CreateBucket {
            id: BucketId(self.random()),
            salt: root.salt,
            settings: Vec::new(),
            global_name: self.names.at_creation(false),
            content: Some(Box::new(Content::of(&root, head.row.pointer.version))),
        };
        let address = BucketAddress::new(source.owner, name);
        let request = CommitRequest::of(&caller, None, None, change);
        match self.submit(&caller, &address, request).await {
            Ok(_) => Ok(cloned),
            Err(ServiceError::BucketAlreadyOwned) => Err(CloneError::Taken),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the root that a bucket had at an earlier version, if it was replaced at `kept_since` or later.
    async fn retained(
        &self,
        head: &Arc<Head>,
        version: u64,
        kept_since: TimeMs,
    ) -> Result<(Cid, BucketRoot), CloneError> {
        let blocks: &dyn BlockStore = self.arbiter().nodes().blocks().as_ref();
        let mut later = head.root.clone();
        for _ in 0..COMMITS_MAX {
            let Some(parent) = later.parent.filter(|_| later.version > version) else { break };
            // A life of the name ends at a tombstone, which has no objects.
            let Some(block) = blocks.get(&parent).await? else { break };
            let found = BucketRoot::from_block(&block)?;
            if found.version == version && found.deleted.is_none() {
                let is_kept = later.time >= kept_since;
                return is_kept.then_some((parent, found)).ok_or(CloneError::NotRetained(version));
            }
            later = found;
        }
        Err(CloneError::NoSuchVersion(version))
    }
}
