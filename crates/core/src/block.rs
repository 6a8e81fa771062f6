//! Blocks, and the storage trait that keeps them.
//!
//! A block is at most 1 MiB of bytes named by its hash, so it never changes and can be cached,
//! copied and verified anywhere. Every [`Block`] value was hashed by this code. A store accepts
//! nothing else, and checks each [`Block`] that it returns against its address.
//!
//! # Example
//!
//! ```
//! use bytes::Bytes;
//! use fula_core::{Block, BlockStore, Codec, block::Placement, in_memory::MemoryBlocks};
//!
//! # futures::executor::block_on(async {
//! let store = MemoryBlocks::default();
//! let block = Block::new(Codec::Raw, "hello");
//! let mark = store.put(&[block.clone()], Placement::Commit).await?;
//! store.sync(mark).await?; // The block is durable from here on.
//! assert_eq!(store.get(&block.cid()).await?, Some(block.clone()));
//!
//! let others = Bytes::from("other bytes");
//! assert!(Block::verify(block.cid(), others).is_err());
//! # Ok::<(), fula_core::StoreError>(())
//! # })
//! # .unwrap();
//! ```
//!
//! # Deliberately absent
//! What blocks mean (see [`crate::tree`], [`crate::content`]), and which of them are garbage: a
//! collector decides that, the store only offers [`BlockStore::mark`] and [`BlockStore::sweep`].

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    error::StoreError,
    id::{Cid, Codec},
};

/// Largest block in bytes. IPFS peers exchange blocks up to this size.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Bytes and the address that they hash to.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Bytes,
}

impl Block {
    /// Makes a block of `bytes` by hashing them.
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

/// What a block is for. With it a store keeps a small commit from waiting for a large upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Tree nodes, roots, and small bodies that are stored with a commit.
    Commit,
    /// Tree nodes and roots of changes that only delete. On a disk that is nearly full they may use
    /// the reserved space, so that deleting stays possible.
    Removal,
    /// Leaves and nodes of content that does not fit one block.
    Bulk,
}

/// What a [`BlockStore::sync`] has to make durable. Puts return marks, and the caller merges them.
///
/// Positions mean something only to the store that returned them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncMark {
    /// Positions up to which to make durable: of commits, and of [`Placement::Bulk`].
    pub positions: [u64; 2],
}

impl SyncMark {
    /// Returns the part of the mark that is still to be synced once `done` is durable.
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

/// A period of a store between two collections. A collector tells old puts from new ones by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

/// Where a walk over a store continues. The default is the beginning; any other value is valid only
/// for the store that returned it, in a walk of the same kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(pub u64);

/// One page of the blocks of a store.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Addresses, with lengths in bytes.
    pub blocks: Vec<(Cid, u64)>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<Position>,
}

/// Number of equal parts of the retention into which a collection sorts what it keeps for it.
pub const AGES: u8 = 16;

/// Why a collection keeps a block. Where there are several reasons, the least one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// A current root needs it, or a request.
    Now,
    /// A root needs it that was replaced within the retention, so many [`AGES`] parts of it ago. Values
    /// from `AGES` on count as the oldest part.
    Retained(u8),
    /// It is the root block of an older state.
    History,
}

/// Bytes that a collection keeps, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptBytes {
    /// Those of [`Kept::Now`].
    pub now: u64,
    /// Those of [`Kept::Retained`], the youngest part first.
    pub retained: [u64; AGES as usize],
    /// Those of [`Kept::History`].
    pub history: u64,
}

impl KeptBytes {
    /// Counts `bytes` more.
    pub fn add(&mut self, kept: Kept, bytes: u64) {
        *match kept {
            Kept::Now => &mut self.now,
            Kept::Retained(age) => &mut self.retained[usize::from(age.min(AGES - 1))],
            Kept::History => &mut self.history,
        } += bytes;
    }

    /// Counts what another count has counted.
    pub fn add_all(&mut self, other: &Self) {
        self.now += other.now;
        self.history += other.history;
        for (own, other) in self.retained.iter_mut().zip(other.retained) {
            *own += other;
        }
    }

    /// Returns the bytes that are kept for the retention, of all ages together.
    pub fn all_retained(&self) -> u64 {
        self.retained.iter().sum()
    }
}

/// What one call of [`BlockStore::sweep`] did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Swept {
    /// Number of blocks deleted.
    pub deleted: u64,
    /// Bytes of the deleted blocks.
    pub bytes: u64,
    /// Bytes of marked blocks, where only the sweep can tell.
    pub kept: KeptBytes,
    /// Number of marked blocks that the store does not have, where only the sweep can tell.
    pub missing: u64,
    /// Where the next call continues; `None` after the last one.
    pub next: Option<Position>,
}

/// Blocks that a collection has marked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Those that were not marked before.
    pub fresh: Vec<Cid>,
    /// Number of bytes that the store uses for these, as far as it knows without I/O.
    pub bytes: u64,
}

/// Keeps immutable blocks.
///
/// Shared as `Arc<dyn BlockStore>`. Implemented by [`crate::in_memory::MemoryBlocks`] and the local
/// disk log; each passes `conformance::block_store`. Source: docs/adr/0003.
#[async_trait]
pub trait BlockStore: fmt::Debug + Send + Sync + 'static {
    /// Stores `blocks` and renews the epoch of those already there.
    ///
    /// The blocks are readable at once. They are durable once [`Self::sync`] has returned for the mark.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Full`], [`StoreError::Unavailable`]; some of the
    /// blocks may then be stored.
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError>;

    /// Returns once everything that `mark` covers is on stable storage, new or already there.
    ///
    /// Concurrent calls share one flush where they can.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`]: no root may be published that needs the blocks.
    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError>;

    /// Returns the verified block, or `None` when the store does not hold it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when stored bytes fail their hash, [`StoreError::Unavailable`].
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError>;

    /// Returns what is stored under an address without hashing it, so it may be damaged. It is for readers that
    /// authenticate every byte in another way, and read with [`Self::get`] what fails there.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for damage that shows without a hash, [`StoreError::Unavailable`].
    async fn get_unverified(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get(cid).await?.map(|block| block.bytes))
    }

    /// Returns the length in bytes without reading the block, or `None` when it is not held.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError>;

    /// Returns the generation that blocks are put under, in a store that several masters share and that is
    /// collected by generation (docs/adr/0042); `None` in other stores. There the epoch is the generation.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// Learns that a generation has begun: later puts are under it, or a higher one.
    fn observe_generation(&self, generation: u64) {
        let _ = generation;
    }

    /// Starts a new epoch and returns it. Later puts belong to it. A collection of an earlier epoch
    /// that still runs may from now on keep blocks that it would have deleted.
    ///
    /// Does nothing in a store that is not collected by marks.
    fn advance_epoch(&self) -> Epoch {
        Epoch::default()
    }

    /// Marks blocks as in use in the collection that began with epoch `cut`. Returns those that were
    /// not marked in it before; all of them in a store that is not collected by marks. `kept` only serves
    /// the account of the sweep.
    ///
    /// Blocks that the store lacks are returned too, so that the traversal fails on them instead of
    /// skipping their subtree. Raw blocks link to nothing and may be left out when they are missing.
    fn mark(&self, cids: &[Cid], cut: Epoch, kept: Kept) -> Marked {
        let _ = (cut, kept);
        Marked { fresh: cids.to_vec(), bytes: 0 }
    }

    /// Deletes blocks that were not marked in the collection of `cut` and were last put before
    /// `put_before`. One call handles some blocks, beginning at `from`. A walk from the first position
    /// to the last visits every block that is stored during the whole walk.
    /// Deletes nothing in a store that is not collected by marks.
    ///
    /// Testing a block and deleting it is atomic with respect to [`Self::put`], which renews the epoch.
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

    /// Returns one page of blocks, beginning at `from`, in an order that the store chooses. A walk from
    /// the first position to the last lists every block that is stored during the whole walk. A block
    /// that is moved meanwhile may be listed twice.
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

    /// Drops copies of blocks in memory, so that the next reads show what is really stored.
    fn drop_copies(&self) {}

    /// Asks whether the store can be used, where that is not certain.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Reads a block that must exist.
///
/// # Errors
/// [`StoreError::Missing`] when the store lacks it, and the errors of [`BlockStore::get`].
pub async fn require(blocks: &dyn BlockStore, cid: &Cid) -> Result<Block, StoreError> {
    blocks.get(cid).await?.ok_or(StoreError::Missing { cid: *cid })
}

/// Returns all blocks of a store, with lengths in bytes.
///
/// # Errors
/// The errors of [`BlockStore::list`].
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
/// The errors of [`BlockStore::sweep`].
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
        done.kept.add_all(&swept.kept);
        done.missing += swept.missing;
        from = swept.next;
    }
    Ok(done)
}
