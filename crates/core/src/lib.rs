//! The data model of Fula: identifiers, blocks, trees, bucket records, file content, and the storage
//! traits.
//!
//! A bucket is an immutable tree of content-addressed blocks under one root block. This crate defines
//! the formats, edits trees, and states what a block store, an arbiter and a metadata store promise.
//! It does no I/O, reads no clock and draws no randomness: the caller passes stores, times and salts.
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
