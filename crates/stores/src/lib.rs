//! Durable implementations of the seams of `fula-core`.
//!
//! [`local`] opens a data directory: one append-only log that holds blocks, root pointers and
//! directory records, so that a commit is one fsync. Decision: docs/adr/0003.

pub mod local;
mod log;

pub use local::{LocalBlocks, LocalDirectory, LocalRoots, LocalStore, OpenError};
pub use log::{Damage, Recovery};
