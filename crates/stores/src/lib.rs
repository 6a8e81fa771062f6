//! Durable implementations of the storage traits of `fula-core`.
//!
//! [`local`] opens a data directory: one append-only log that holds blocks, root pointers and
//! metadata records, so that a commit is one fsync (docs/adr/0003). [`postgres`] is an arbiter
//! that several masters share, [`objects`] are blocks that they all read (docs/adr/0007).

pub mod local;
mod log;
pub mod objects;
pub mod postgres;

use std::{os::unix::fs::MetadataExt, path::Path};

pub use local::{LocalBlocks, LocalMetadata, LocalRoots, LocalStore, OpenError};
pub use log::{Damage, Recovery, Room};
pub use objects::{ObjectBlocks, ObjectStoreError};
pub use postgres::{PostgresArbiter, PostgresError, place_of};

/// Logs a warning if other users can read or enter a data directory.
fn warn_if_open(dir: &Path) {
    let mode = std::fs::metadata(dir).map_or(0, |metadata| metadata.mode());
    if mode & 0o077 != 0 {
        let dir = dir.display();
        tracing::warn!("{dir} is open to other users; unless that is meant, run: chmod 700 {dir}");
    }
}
