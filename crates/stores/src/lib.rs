//! Durable implementations of the storage traits of `fula-core`.
//!
//! [`local`] opens a data directory: one append-only log that holds blocks, root pointers and
//! metadata records, so that a commit is one fsync (docs/adr/0003). [`postgres`] is an arbiter
//! that several masters share (docs/adr/0007), [`packs`] are the blocks that they all read, in the object
//! store that [`objects`] opens (docs/adr/0041).
//!
//! # Invariants
//! - What a [`sync`](fula_core::BlockStore::sync) or a swap covers is on stable storage, and survives a power cut.
//! - After a failed write or fsync nothing more is appended: what a disk has kept is not known then.
//! - A block is returned only if its bytes match its address.
//! - Every implementation passes the suite `fula_core::conformance` of its trait.
//!
//! # Example
//!
//! A block that was put is there after the directory was closed and opened again.
//!
//! ```
//! use fula_core::{Block, BlockStore, Codec, block::Placement};
//! use fula_stores::{LocalStore, local::system_clock};
//!
//! # tokio::runtime::Builder::new_multi_thread().build()?.block_on(async {
//! # let tempdir = tempfile::tempdir()?;
//! # let dir = tempdir.path();
//! let block = Block::new(Codec::Raw, b"a leaf of some file".as_slice());
//! let store = LocalStore::open(dir, system_clock(), false)?;
//! let mark = store.blocks.put(std::slice::from_ref(&block), Placement::Bulk).await?;
//! store.blocks.sync(mark).await?;
//! drop(store);
//!
//! let store = LocalStore::open(dir, system_clock(), false)?;
//! assert_eq!(store.blocks.get(&block.cid()).await?, Some(block));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Deliberately absent
//! What buckets and objects are (`fula-core`), retries of swaps and collections (`fula-service`), settings.

pub mod local;
mod log;
pub mod objects;
pub mod packs;
mod permissions;
pub mod postgres;

pub use local::{LocalBlocks, LocalMetadata, LocalRoots, LocalStore, OpenError};
pub use log::{Damage, Recovery, Room};
pub use objects::{Archive, ArchiveError, ArchiveFile, ObjectStoreError, Objects};
pub use packs::{PackedBlocks, RecordDirectory};
pub use postgres::{PostgresArbiter, PostgresError, place_of};
