//! Object content as blocks.
//!
//! Content of up to 1 MiB is one raw block. Longer content is a plain `UnixFS` file: a balanced DAG
//! of raw leaves of 1 MiB, with at most [`LINKS_MAX`] links in a node. Any IPFS tool reads it by its
//! CID, and `ipfs add` with the same settings gives the same CID (`tests/kubo.rs` holds it to
//! that). A multipart object is one node over the DAGs of its parts, so completing an upload copies
//! no content.
//!
//! # Invariants
//! - No function holds more than a few blocks of content at a time.
//! - A reader checks the length of every leaf against its parent.

mod build;
mod dag_pb;
pub mod encrypted;
mod read;

pub use self::{
    build::{DagBuilder, join},
    dag_pb::{FileLink, FileNode},
    read::{dag_bytes, stream},
};
use crate::block::BLOCK_BYTES_MAX;

/// Length of every leaf but the last, in bytes.
pub const LEAF_BYTES: usize = BLOCK_BYTES_MAX;

/// Most links of one node of a file. A node over the parts of an upload may have more.
pub const LINKS_MAX: usize = 1024;
