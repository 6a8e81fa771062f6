//! Object bytes as blocks and back.
//!
//! Up to 1 MiB is one raw block. More is a plain `UnixFS` file: a balanced DAG of raw leaves of
//! 1 MiB, at most [`LINKS_MAX`] links a node, so that any IPFS tool reads it by its CID and
//! imports of equal bytes with the same settings give the same CID. A multipart object is one
//! node over its parts' DAGs: completing an upload moves no byte.
//!
//! # Invariants
//! - Nothing here holds more than a few blocks of content at a time.
//! - A reader checks every leaf's length against what its parent promised.

mod build;
mod dag_pb;
mod read;

pub use self::{
    build::{DagBuilder, join},
    dag_pb::{FileLink, FileNode},
    read::{dag_bytes, stream},
};
use crate::block::BLOCK_BYTES_MAX;

/// Bytes in every leaf but the last.
pub const LEAF_BYTES: usize = BLOCK_BYTES_MAX;

/// Most links of one node of a file; a node over an upload's parts may have more.
pub const LINKS_MAX: usize = 1024;
