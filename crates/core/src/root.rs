//! Root pointers, and the arbiter that keeps them: which root is the current state of each bucket.
//!
//! A bucket is an immutable tree of blocks. The only mutable fact about it is one row that names its
//! root, so writers can collide only here.
//!
//! # Invariants
//! - Blocks first, root last: no root is published before every block under it is durable.
//! - The version rises with every swap. It continues through deletion and re-creation, so an old row
//!   can be told from a new one. Where an arbiter drops rows of deleted buckets, its version floor
//!   ensures that (docs/adr/0035). Any other row that vanishes means a fault.
//! - A swap compares root, version and generation: a writer that saw another value of one loses.
//!
//! # Example
//!
//! Two writers expect the same state. One wins, and the other one must apply its change to the new state.
//!
//! ```
//! use fula_core::{
//!     BucketAddress, BucketId, BucketName, Cid, Codec, OwnerId, RootPointer, RootPointerStore,
//!     in_memory::MemoryRoots,
//!     root::{CasOutcome, GlobalName, NewRoot},
//! };
//!
//! # futures::executor::block_on(async {
//! let arbiter = MemoryRoots::default();
//! let name = BucketName::parse("photos").expect("the name is valid");
//! let bucket = BucketAddress::new(OwnerId::of_user("key:alice"), name);
//! let new = |content: &[u8]| NewRoot {
//!     pointer: RootPointer { root: Cid::of(Codec::DagCbor, content), version: 1, generation: 0 },
//!     bucket_id: BucketId([2; 16]),
//!     created: 0,
//!     deleted: None,
//!     global_name: GlobalName::Keep,
//!     lease: None,
//! };
//!
//! let first = arbiter.cas_root(&bucket, None, &new(b"one state")).await?;
//! assert_eq!(first.value, CasOutcome::Won);
//! let second = arbiter.cas_root(&bucket, None, &new(b"another state")).await?;
//! assert!(matches!(second.value, CasOutcome::Conflict { current: Some(_) }));
//! # Ok::<(), fula_core::error::SwapError>(())
//! # })
//! # .unwrap();
//! ```
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
    /// Number of swaps so far; 1 when the name is first used.
    pub version: u64,
    /// Generation, which a collector can raise to refuse writers that began earlier.
    pub generation: u64,
}

/// Everything the arbiter knows about one bucket name of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRow {
    /// Address of the bucket.
    pub address: BucketAddress,
    /// Current root pointer.
    pub pointer: RootPointer,
    /// Id of this life of the name.
    pub bucket_id: BucketId,
    /// Time at which the bucket was created.
    pub created: TimeMs,
    /// Time at which the bucket was deleted. Such a row points to a tombstone root and is hidden from
    /// listings.
    pub deleted: Option<TimeMs>,
    /// Whether this row holds the global name, which leads to it from requests that name no owner.
    pub global_name: bool,
    /// A writer that lost a swap and asks to go first. The next swap removes it.
    pub claim: Option<WriterId>,
}

/// The position of an arbiter in its own history. A mark that goes back shows that the arbiter was
/// restored from a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Identity of the arbiter, e.g. a system id and a timeline.
    pub arbiter: String,
    /// Position of the arbiter. It never falls while `arbiter` stays the same.
    pub position: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {} of {}", self.position, self.arbiter)
    }
}

/// An answer of the arbiter, with the time and the mark of the arbiter when it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The answer.
    pub value: T,
    /// The arbiter's clock, which all masters share.
    pub time: TimeMs,
    /// The mark of the arbiter.
    pub mark: Mark,
}

/// The effect of a swap on the global name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalName {
    /// Leaves it as it is.
    Keep,
    /// Takes it if no other owner holds it.
    ClaimIfFree,
    /// Takes it. If another owner holds it, the swap is refused with [`CasOutcome::NameTaken`].
    Require,
    /// Gives it up.
    Release,
}

/// The new values of the row that a swap writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoot {
    /// The new pointer. Its version is higher than the expected one.
    pub pointer: RootPointer,
    /// Id of the life of the name.
    pub bucket_id: BucketId,
    /// Time at which the bucket was created.
    pub created: TimeMs,
    /// Time at which the bucket was deleted, if it was.
    pub deleted: Option<TimeMs>,
    /// Effect of the swap on the global name.
    pub global_name: GlobalName,
    /// Lease of a master that the new root relies on. The swap is refused with [`CasOutcome::LeaseBroken`]
    /// unless the arbiter still has it.
    pub lease: Option<LeaseId>,
}

/// A lease of a master: as long as the arbiter has it, blocks that the master has put are kept
/// (docs/adr/0042).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseId {
    /// Name of the master. The lease is in its record in [`crate::metadata::Table::Masters`].
    pub master: String,
    /// Random text that tells this lease from earlier ones of the master; at most 64 hex digits.
    pub id: String,
}

impl LeaseId {
    /// Returns whether the record of the master has this lease.
    pub fn is_in(&self, record: &[u8]) -> bool {
        has_id(record, &self.id)
    }
}

/// Returns whether a record has a random id of hex digits.
fn has_id(record: &[u8], id: &str) -> bool {
    let is_hex = id.len() >= 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex && record.windows(id.len()).any(|part| part == id.as_bytes())
}

/// The definite outcome of a swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasOutcome {
    /// The row was written and is durable.
    Won,
    /// Nothing was changed, because the row was not as expected. Rebase onto `current`.
    Conflict {
        /// The row as it was read after the swap was refused. It is never the expected one.
        current: Option<RootRow>,
    },
    /// Nothing was changed, because another owner holds the global name that was required.
    NameTaken,
    /// Nothing was changed, because the arbiter does not have the lease that the new root relies on.
    LeaseBroken,
    /// Nothing was changed. There is no row, as expected, but the generation of the new pointer is below the
    /// generation of the arbiter.
    BelowGeneration,
    /// Nothing was changed. There is no row, as expected, but the version of the new pointer is not
    /// above the version floor.
    BelowFloor {
        /// The version floor: the highest version of any row that was ever dropped.
        floor: u64,
    },
}

/// The row of a deleted bucket as it was when it was chosen to be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedRow {
    /// Address of the bucket.
    pub address: BucketAddress,
    /// Pointer to its tombstone.
    pub pointer: RootPointer,
}

/// What a drop of rows requires of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropTerms {
    /// Least time in milliseconds since the deletion, by the arbiter's own clock. 0 requires nothing.
    pub age: TimeMs,
    /// The round that the drop relies on, where masters share the arbiter.
    pub round: Option<DropRound>,
}

impl DropTerms {
    /// Returns whether a bucket that was deleted at this time is old enough.
    pub fn allow(&self, deleted: TimeMs, now: TimeMs) -> bool {
        self.age == 0 || deleted.saturating_add(self.age) <= now
    }
}

/// A round in which all masters learn which buckets are deleted, before rows of such buckets are dropped
/// (docs/adr/0067). Rows are dropped only while the record of every other master has its id, and the rows of
/// forked buckets stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRound {
    /// Random text that tells this round from earlier ones; at most 64 hex digits.
    pub id: String,
    /// Name of the master that drops the rows.
    pub master: String,
}

impl DropRound {
    /// Returns whether the record of a master has this round.
    pub fn is_in(&self, record: &[u8]) -> bool {
        has_id(record, &self.id)
    }
}

/// Number of buckets and names of one owner, without deleted buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootCounts {
    /// Number of the owner's buckets.
    pub buckets: u64,
    /// Number of buckets that hold their global name.
    pub global_names: u64,
}

/// The arbiter: keeps the root pointer of every bucket, and replaces it atomically.
///
/// Linearizable per bucket of an owner; nothing is promised across buckets. Shared as
/// `Arc<dyn RootPointerStore>`. Every implementation passes `conformance::root_store`, as
/// [`crate::in_memory::MemoryRoots`] does. Source: docs/adr/0003.
#[async_trait]
pub trait RootPointerStore: fmt::Debug + Send + Sync + 'static {
    /// Returns the rows of `names`, in the same order. A name that was never used has `None`, and so has
    /// one whose row was [dropped](Self::drop_roots).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn get_roots(
        &self,
        names: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError>;

    /// Publishes `new` if the row is still `expected`. `None` expects a name without a row; then the
    /// version must be above that of every row that was ever [dropped](Self::drop_roots).
    ///
    /// The caller has made every block under `new` durable, or [`Self::covered_by_swap`] says that the
    /// swap does it. The row is durable before the call returns.
    ///
    /// The generation of the first row of a name is at least that of the last [`Self::raise_generation`].
    ///
    /// # Errors
    /// [`SwapError::NotSent`]: the swap was certainly not applied. [`SwapError::Unknown`]: it may have
    /// been applied; read before you decide anything.
    async fn cas_root(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError>;

    /// Stores beside the row that `writer` lost a swap and asks to go first. It is only advice and need
    /// not be durable. The default implementation does nothing: one process alone has no contention.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn post_claim(&self, bucket: &BucketAddress, writer: WriterId) -> Result<(), StoreError> {
        let _ = (bucket, writer);
        Ok(())
    }

    /// Returns the row as of some moment after the call. An arbiter that can wait returns as soon as the
    /// version is greater than `beyond`, or when `patience` has passed. Others return at once.
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

    /// Returns whether this arbiter supports [`Self::drop_roots`].
    fn can_drop_roots(&self) -> bool {
        false
    }

    /// Removes those of `rows` that are of deleted buckets, still as given, and within `terms`. Returns them.
    /// The removal is durable when the call returns. The default implementation removes nothing.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Unavailable`]: some rows may be gone after a restart.
    async fn drop_roots(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        drop((rows, terms));
        Ok(Vec::new())
    }

    /// Returns the version floor: the highest version of any row that was ever dropped, or more. It is 0 where
    /// no row was dropped.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn version_floor(&self) -> Result<Stamped<u64>, StoreError>;

    /// Returns the highest generation that was ever raised; 0 before the first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn generation(&self) -> Result<Stamped<u64>, StoreError>;

    /// Raises the generation of every row that has a lower one to `generation`. Once it has returned, no swap
    /// can win that expects a lower generation, and no first row can have one. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Unavailable`]: some rows may be raised all the same.
    async fn raise_generation(&self, generation: u64) -> Result<Stamped<()>, StoreError>;

    /// Returns the part of `mark` that a swap makes durable itself before it returns. Blocks in the same
    /// log as the arbiter need no separate sync. The default implementation covers nothing.
    fn covered_by_swap(&self, mark: SyncMark) -> SyncMark {
        let _ = mark;
        SyncMark::default()
    }

    /// Returns up to `limit` rows of `owner` whose name is after `after`, in order of name, including
    /// deleted ones.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError>;

    /// Returns up to `limit` rows after `after`, in order of owner and name, including deleted ones. It
    /// serves checks and repair.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn scan_roots(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError>;

    /// Returns how many buckets `owner` has, and how many of them hold their global name. Deleted buckets
    /// are not counted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn count_roots(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError>;

    /// Returns the row that holds `bucket` as its global name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn find_bucket(
        &self,
        bucket: &BucketName,
    ) -> Result<Stamped<Option<RootRow>>, StoreError>;
}
