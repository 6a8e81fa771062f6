//! Blocks, and the storage trait that keeps them.
//!
//! A block is at most 1 MiB of bytes named by its hash, so it never changes and can be cached,
//! copied and verified anywhere. A [`Block`] in hand has been hashed by us: it is the only thing
//! a store accepts, and what a store returns has been checked against its address.
//!
//! # Deliberately absent
//! Meaning (see [`crate::tree`], [`crate::content`]) and deciding what is garbage
//! (a collector marks; the store only offers [`BlockStore::sweep`]).

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    error::StoreError,
    id::{Cid, Codec},
};

/// Largest block in bytes: what IPFS peers exchange without asking.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Bytes together with the address they hash to.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Bytes,
}

impl Block {
    /// Hashes `bytes`.
    pub fn new(codec: Codec, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { cid: Cid::of(codec, &bytes), bytes }
    }

    /// Hashes `bytes` and accepts them only if they are what `cid` names.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when they are not.
    pub fn verify(cid: Cid, bytes: Bytes) -> Result<Self, StoreError> {
        if Cid::of(cid.codec(), &bytes) == cid {
            Ok(Self { cid, bytes })
        } else {
            Err(StoreError::Damaged { cid })
        }
    }

    /// Returns the address.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Returns the bytes; cloning them copies nothing.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}, {} bytes)", self.cid, self.bytes.len())
    }
}

/// What a block is for, so that a store can keep a small commit from flushing a large upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Tree nodes, roots, and bodies that ride with a commit.
    Commit,
    /// The same, of changes that only take away: on a disk that is nearly full they may use what is
    /// kept back for them, for nobody could make room otherwise.
    Removal,
    /// Leaves and nodes of content over one block.
    Bulk,
}

/// What a [`BlockStore::sync`] has to cover: returned by puts, merged by the caller.
///
/// Positions mean something only to the store that returned them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncMark {
    /// Positions to be made durable: of commits, and of [`Placement::Bulk`].
    pub positions: [u64; 2],
}

impl SyncMark {
    /// Returns what is left to do once `done` is durable.
    #[must_use]
    pub fn without(self, done: Self) -> Self {
        let mut left = self;
        for (position, done) in left.positions.iter_mut().zip(done.positions) {
            if *position <= done {
                *position = 0;
            }
        }
        left
    }

    /// Returns a mark that covers both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let [a, b] = self.positions;
        let [c, d] = other.positions;
        Self { positions: [a.max(c), b.max(d)] }
    }
}

/// A point in the life of a store, by which a collector tells old puts from new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

/// Where a walk over a store goes on: the default is its beginning, others mean something only to the
/// store that returned them, in a walk of the same kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(pub u64);

/// Some of the blocks of a store.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Addresses, with lengths in bytes.
    pub blocks: Vec<(Cid, u64)>,
    /// Where the others are; none when there are no others.
    pub next: Option<Position>,
}

/// What a step of [`BlockStore::sweep`] did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Swept {
    /// Blocks deleted.
    pub deleted: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where it goes on; none when everything was passed.
    pub next: Option<Position>,
}

/// Keeps immutable blocks.
///
/// Shared as `Arc<dyn BlockStore>`. Implemented by [`crate::in_memory::MemoryBlocks`] and the local
/// disk log; each passes `conformance::block_store`. Source: docs/adr/0003.
#[async_trait]
pub trait BlockStore: fmt::Debug + Send + Sync + 'static {
    /// Stores `blocks` and renews the epoch of those already there.
    ///
    /// They are readable at once, and durable once [`Self::sync`] has returned for the mark.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Full`], [`StoreError::Unavailable`]; some of the
    /// blocks may then be stored.
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError>;

    /// Returns once everything `mark` covers is on stable storage, new or already there.
    ///
    /// Concurrent calls share the work.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`]: nothing may be published on the blocks
    /// concerned.
    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError>;

    /// Returns the verified block, or `None` when the store does not hold it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when stored bytes fail their hash, [`StoreError::Unavailable`].
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError>;

    /// Returns the length in bytes without reading the block, or `None` when it is not held.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError>;

    /// Starts a new epoch and returns it; later puts belong to it. A collection of an epoch before may
    /// from now on keep what it would have deleted. Does nothing where a store is not collected by marks.
    fn advance_epoch(&self) -> Epoch {
        Epoch::default()
    }

    /// Marks blocks as in use in the collection that began with the cut `cut`; returns those that
    /// were not marked in it before, and any that are not held and may link to others: whoever looks
    /// into one of these must hear that it is missing. Raw ones that are not held may be left out.
    /// Returns all of them where a store is not collected by marks.
    fn mark(&self, cids: &[Cid], cut: Epoch) -> Vec<Cid> {
        let _ = cut;
        cids.to_vec()
    }

    /// Returns how many bytes the store uses for those of `cids` that it holds, as far as it knows without
    /// asking anybody; by default it knows nothing, and returns 0.
    fn used_bytes(&self, cids: &[Cid]) -> u64 {
        let _ = cids;
        0
    }

    /// Deletes blocks that were not marked in the collection of `cut` and were last put before
    /// `put_before`: some at a time, from `from` on. A walk from the first position to the last passes
    /// every block that is there all the while. Deletes nothing where a store is not collected by marks.
    ///
    /// Each is tested and deleted in one step against [`Self::put`], which renews the epoch.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn sweep(
        &self,
        from: Position,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        let _ = (from, cut, put_before);
        Ok(Swept::default())
    }

    /// Returns blocks from `from` on, as many as are at hand, in an order of the store's own. A walk
    /// from the first position to the last lists every block that is there all the while, and one that
    /// is moved meanwhile perhaps twice.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list(&self, from: Position) -> Result<Listed, StoreError>;

    /// Finds again what the store holds and its directory does not list, after an arbiter was restored from a
    /// backup. Returns how many packs that were. Does nothing where a store has no such directory.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn recover(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Asks whether the store can be used, where that is not certain.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Reads a block that must be there.
///
/// # Errors
/// [`StoreError::Missing`] when it is not, and what [`BlockStore::get`] returns.
pub async fn require(blocks: &dyn BlockStore, cid: &Cid) -> Result<Block, StoreError> {
    blocks.get(cid).await?.ok_or(StoreError::Missing { cid: *cid })
}

/// Returns all blocks of a store, with lengths in bytes.
///
/// # Errors
/// What [`BlockStore::list`] returns.
pub async fn list_all(blocks: &dyn BlockStore) -> Result<Vec<(Cid, u64)>, StoreError> {
    let (mut all, mut from) = (Vec::new(), Some(Position::default()));
    while let Some(position) = from {
        let listed = blocks.list(position).await?;
        all.extend(listed.blocks);
        from = listed.next;
    }
    Ok(all)
}

/// Sweeps a whole store; see [`BlockStore::sweep`].
///
/// # Errors
/// What [`BlockStore::sweep`] returns.
pub async fn sweep_all(
    blocks: &dyn BlockStore,
    cut: Epoch,
    put_before: Epoch,
) -> Result<Swept, StoreError> {
    let (mut done, mut from) = (Swept::default(), Some(Position::default()));
    while let Some(position) = from {
        let swept = blocks.sweep(position, cut, put_before).await?;
        done.deleted += swept.deleted;
        done.bytes += swept.bytes;
        from = swept.next;
    }
    Ok(done)
}
