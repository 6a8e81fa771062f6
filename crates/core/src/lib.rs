//! The data model of Fula: identifiers, blocks, trees, bucket records, file content, and the storage
//! traits.
//!
//! A bucket is an immutable tree of content-addressed blocks under one root block. This crate defines
//! the formats, edits trees, and states what a block store, an arbiter and a metadata store promise.
//! It does no I/O, reads no clock and draws no randomness: the caller passes stores, times and salts.
//!
//! Start with [`root`] (the pointer and the invariants), then [`tree`], [`bucket`], [`content`].
//!
//! # Examples by task
//!
//! | task | example |
//! |---|---|
//! | edit a tree, keep the old version | below; `examples/tree.rs` does more |
//! | compare two versions, scan from a key on | [`tree`] |
//! | list keys by prefix and delimiter | [`bucket::list_page`] |
//! | store the content of a file, read a range | [`content`] |
//! | store blocks durably, verify bytes | [`block`] |
//! | publish a root by compare-and-swap | [`root`] |
//! | parse names, keys and CIDs | [`id`] |
//! | encode and decode a record | [`cbor`] |
//! | write and read a CAR file | [`car`] |
//!
//! # Example
//!
//! An edit makes a new tree, and the old one stays readable.
//!
//! ```
//! # use std::sync::Arc;
//! use fula_core::{
//!     block::Placement,
//!     cbor,
//!     in_memory::MemoryBlocks,
//!     tree::{Edits, Nodes, Salt, Tree, edit},
//! };
//!
//! # futures::executor::block_on(async {
//! let nodes = Nodes::new(Arc::new(MemoryBlocks::default()), 1 << 20);
//! let mut record = cbor::Writer::default();
//! record.text("hello");
//! let edits = Edits::from([("greeting".into(), Some((5, record.finish())))]);
//!
//! let old = Tree::default();
//! let edited = edit(&nodes, &Salt([7; 32]), &old, &edits).await?;
//! nodes.blocks().put(&edited.blocks, Placement::Commit).await?;
//!
//! assert!(edited.tree.get(&nodes, b"greeting").await?.is_some());
//! assert!(old.get(&nodes, b"greeting").await?.is_none());
//! # Ok::<(), fula_core::StoreError>(())
//! # })
//! # .unwrap();
//! ```

pub mod block;
pub mod bucket;
pub mod car;
pub mod cbor;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod content;
pub mod error;
pub mod foreign;
pub mod id;
pub mod in_memory;
pub mod keyed_locks;
pub mod metadata;
pub mod packs;
pub mod root;
pub mod tree;

pub use block::{Block, BlockStore};
pub use error::StoreError;
pub use id::{
    AnyCid, BucketAddress, BucketId, BucketName, Cid, Codec, ObjectKey, OwnerId, UploadId, WriterId,
};
pub use keyed_locks::KeyedLocks;
pub use metadata::MetadataStore;
pub use packs::PackDirectory;
pub use root::{RootPointer, RootPointerStore};
