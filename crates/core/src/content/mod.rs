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
//!
//! # Example
//!
//! It stores a file of three leaves, and reads a range of it.
//!
//! ```
//! # use std::sync::Arc;
//! use bytes::Bytes;
//! use fula_core::{
//!     Block, BlockStore, Codec,
//!     block::Placement,
//!     content::{DagBuilder, FileLink, stream},
//!     in_memory::MemoryBlocks,
//! };
//! use futures::TryStreamExt;
//!
//! # futures::executor::block_on(async {
//! let blocks = Arc::new(MemoryBlocks::default());
//! let mut builder = DagBuilder::default();
//! for text in ["one ", "two ", "three"] {
//!     let leaf = Block::new(Codec::Raw, text);
//!     let size = text.len() as u64;
//!     let nodes = builder.push(FileLink { cid: leaf.cid(), size, dag_bytes: size });
//!     blocks.put(&[leaf], Placement::Bulk).await?;
//!     blocks.put(&nodes, Placement::Bulk).await?;
//! }
//! let (root, nodes) = builder.finish().expect("there are leaves");
//! blocks.put(&nodes, Placement::Bulk).await?;
//!
//! let range = stream(blocks.clone(), root.cid, root.size, 4..10);
//! let parts: Vec<Bytes> = range.try_collect().await?;
//! assert_eq!(parts.concat(), b"two th");
//! # Ok::<(), fula_core::StoreError>(())
//! # })
//! # .unwrap();
//! ```

mod build;
mod dag_pb;
pub mod encrypted;
mod read;

pub use self::{
    build::{DagBuilder, join},
    dag_pb::{FileLink, FileNode},
    read::{Leaves, dag_bytes, stream, stream_leaves},
};
use crate::block::BLOCK_BYTES_MAX;

/// Length of every leaf but the last, in bytes.
pub const LEAF_BYTES: usize = BLOCK_BYTES_MAX;

/// Most links of one node of a file. A node over the parts of an upload may have more.
pub const LINKS_MAX: usize = 1024;
