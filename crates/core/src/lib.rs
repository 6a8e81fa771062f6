//! The heart of Fula: what a bucket is, as bytes.
//!
//! A bucket is an immutable tree of content-addressed blocks under one root block. This crate
//! knows how ids, blocks, trees, records and file content are shaped, how a tree is edited, and
//! what a store of blocks and a store of root pointers promise. It does no I/O of its own, reads
//! no clock and draws no randomness: stores, time and salts are handed in.
//!
//! Start with [`root`] (the pointer and the invariants), then [`tree`], [`bucket`], [`content`].

pub mod block;
pub mod bucket;
pub mod cbor;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod content;
pub mod error;
pub mod id;
pub mod in_memory;
pub mod keyed_locks;
pub mod metadata;
pub mod root;
pub mod tree;

pub use block::{Block, BlockStore};
pub use error::StoreError;
pub use id::{
    BucketAddress, BucketId, BucketName, Cid, Codec, ObjectKey, OwnerId, UploadId, WriterId,
};
pub use keyed_locks::KeyedLocks;
pub use metadata::MetadataStore;
pub use root::{RootPointer, RootPointerStore};
