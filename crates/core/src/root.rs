//! Root pointers: which tree is the current state of each bucket.
//!
//! A bucket is an immutable tree of blocks. The only mutable fact about it is one row naming its
//! root, so this is the only place where writers can collide.
//!
//! # Invariants
//! - Blocks first, root last: no root is published before every block under it is durable.
//! - The version rises with every swap and goes on through deletion and re-creation, so an old
//!   row can be told from a new one. Where an arbiter drops rows of deleted buckets, its version
//!   floor sees to that (docs/adr/0035); any other row that vanishes means a fault.
//! - A swap compares root, version and generation: a writer that saw anything else loses.
//!
//! # Deliberately absent
//! Retrying and rebasing (the service's commit pipeline), authorisation, clocks.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{
    block::SyncMark,
    error::{StoreError, SwapError},
    id::{BucketAddress, BucketId, BucketName, Cid, OwnerId, WriterId},
};

/// Milliseconds since 1970-01-01 UTC.
pub type TimeMs = u64;

/// A published root and its position in the bucket's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RootPointer {
    /// Address of the root block.
    pub root: Cid,
    /// Count of swaps so far, starting at 1 when the name is first used.
    pub version: u64,
    /// Collection generation: raised by a collector to refuse writers that began before it.
    pub generation: u64,
}

/// Everything the arbiter knows about one bucket name of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRow {
    /// Which bucket.
    pub address: BucketAddress,
    /// Where its state is.
    pub pointer: RootPointer,
    /// Which life of the name this is.
    pub bucket_id: BucketId,
    /// When this life began.
    pub created: TimeMs,
    /// When it ended; such rows point at a tombstone root and are hidden from listings.
    pub deleted: Option<TimeMs>,
    /// Whether this row holds the name for requests that name no owner.
    pub global_name: bool,
    /// A writer that lost a swap and asks to go first; the next swap removes it.
    pub claim: Option<WriterId>,
}

/// How far the arbiter has come: a mark that went back means it was restored from the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which arbiter this is, e.g. a system id and timeline.
    pub arbiter: String,
    /// Its position; never falls while `arbiter` stays the same.
    pub position: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {} of {}", self.position, self.arbiter)
    }
}

/// An answer together with the arbiter's time and mark when it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The answer.
    pub value: T,
    /// The arbiter's clock, which all masters share.
    pub time: TimeMs,
    /// How far the arbiter had come.
    pub mark: Mark,
}

/// What a swap wants with the global name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalName {
    /// Leave it as it is.
    Keep,
    /// Take it if nobody holds it.
    ClaimIfFree,
    /// Take it, or refuse the swap with [`CasOutcome::NameTaken`].
    Require,
    /// Give it up.
    Release,
}

/// The row a swap would write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoot {
    /// The new pointer; its version exceeds the expected one's.
    pub pointer: RootPointer,
    /// Which life of the name it belongs to.
    pub bucket_id: BucketId,
    /// When that life began.
    pub created: TimeMs,
    /// When it ended, if it did.
    pub deleted: Option<TimeMs>,
    /// What to do about the global name.
    pub global_name: GlobalName,
}

/// How a swap ended, when it ended definitely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasOutcome {
    /// The row is as asked, on stable storage.
    Won,
    /// Nothing changed: the row was not as expected. Rebase onto `current`.
    Conflict {
        /// The row, read after the swap was refused; never what was expected.
        current: Option<RootRow>,
    },
    /// Nothing changed: another owner holds the global name that was required.
    NameTaken,
    /// Nothing changed: there is no row, as expected, but rows of deleted buckets were dropped, and a
    /// name without a row begins above their versions.
    BelowFloor {
        /// The highest version of any row that was ever dropped.
        floor: u64,
    },
}

/// The row of a deleted bucket as it was when somebody decided to drop it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedRow {
    /// Which bucket.
    pub address: BucketAddress,
    /// Where its tombstone is.
    pub pointer: RootPointer,
}

/// How much of an arbiter one owner takes up; deleted buckets do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootCounts {
    /// Number of the owner's buckets.
    pub buckets: u64,
    /// Number of those that hold their name globally.
    pub global_names: u64,
}

/// Names the current root of every bucket, and replaces it atomically.
///
/// Linearizable per (owner, bucket); nothing is promised across buckets. Shared as
/// `Arc<dyn RootPointerStore>`. Implemented by [`crate::in_memory::MemoryRoots`] and the embedded
/// store; each passes `conformance::root_store`. Source: docs/adr/0003.
#[async_trait]
pub trait RootPointerStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the rows of `names`, in their order; `None` for a name that was never used, or whose row
    /// was [dropped](Self::drop_roots).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn get_roots(
        &self,
        names: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError>;

    /// Publishes `new` if the row is still `expected`; `None` expects a name without a row, and
    /// then the version must be above that of every row that was ever [dropped](Self::drop_roots).
    ///
    /// Every block under `new` is already durable. The answer is given after the row is.
    ///
    /// # Errors
    /// [`SwapError::NotSent`]: certainly not applied. [`SwapError::Unknown`]: read before deciding.
    async fn cas_root(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError>;

    /// Notes beside the row that `writer` lost a swap and asks to go first. Advice only: it is not
    /// durable, and an arbiter of one process has no use for it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn post_claim(&self, bucket: &BucketAddress, writer: WriterId) -> Result<(), StoreError> {
        let _ = (bucket, writer);
        Ok(())
    }

    /// Returns the row as of some moment after the call: as soon as its version is beyond `beyond`
    /// where the arbiter can wait for that, else at once; after `patience` at the latest.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn wait_root(
        &self,
        bucket: &BucketAddress,
        beyond: u64,
        patience: Duration,
    ) -> Result<Stamped<Option<RootRow>>, StoreError> {
        let _ = (beyond, patience);
        let found = self.get_roots(std::slice::from_ref(bucket)).await?;
        let value = found.value.into_iter().next().flatten();
        Ok(Stamped { value, time: found.time, mark: found.mark })
    }

    /// Returns whether [`Self::drop_roots`] drops anything.
    fn can_drop_roots(&self) -> bool {
        false
    }

    /// Removes those of `rows` that are still as given and are of deleted buckets, for ever: on
    /// return that is durable. Returns which were removed. Does nothing where the arbiter keeps
    /// such rows.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Unavailable`]: some may be gone after a restart.
    async fn drop_roots(&self, rows: Vec<DeletedRow>) -> Result<Vec<DeletedRow>, StoreError> {
        drop(rows);
        Ok(Vec::new())
    }

    /// Returns what of `mark` a swap makes durable by itself, before its answer: blocks in the
    /// arbiter's own log need no sync of their own. Nothing, unless the arbiter says otherwise.
    fn covered_by_swap(&self, mark: SyncMark) -> SyncMark {
        let _ = mark;
        SyncMark::default()
    }

    /// Returns up to `limit` rows of `owner` whose name is after `after`, in order of name,
    /// deleted ones included.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError>;

    /// Returns up to `limit` rows after `after`, in order of owner and name, deleted ones
    /// included: for checks and repair.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn scan_roots(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError>;

    /// Returns how many buckets `owner` has, and how many of them hold their name globally. Deleted
    /// buckets do not count.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn count_roots(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError>;

    /// Returns the row that holds `bucket` as a global name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn find_bucket(
        &self,
        bucket: &BucketName,
    ) -> Result<Stamped<Option<RootRow>>, StoreError>;
}
