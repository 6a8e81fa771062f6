//! Durable implementations of the storage traits of `fula-core`.
//!
//! [`local`] opens a data directory: one append-only log that holds blocks, root pointers and
//! metadata records, so that a commit is one fsync (docs/adr/0003). [`postgres`] is an arbiter
//! that several masters share (docs/adr/0007), [`packs`] are the blocks that they all read, in the object
//! store that [`objects`] opens (docs/adr/0041).

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
