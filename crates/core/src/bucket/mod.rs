//! The records of a bucket: the root block, objects, uploads, and their keys in the trees.
//!
//! Everything about a bucket is reachable from its root, so every change is one commit and nothing
//! can be half visible. Formats and vectors: docs/format.md. Source: docs/adr/0002.
//!
//! # Deliberately absent
//! Deciding what a request does to a state (the service), and object bytes ([`crate::content`]).

mod checksum;
mod etag;
pub mod keys;
mod list;
mod list_versions;
mod object;
mod parts;
mod recent;
mod root;
pub mod settings;
mod sse;
mod upload;
mod version;

pub use self::{
    checksum::{Checksum, ChecksumAlgorithm},
    etag::ETag,
    list::{ListPage, ListQuery, Listed, list_page},
    list_versions::{ListedVersion, VersionPage, list_versions},
    object::{Attached, Fingerprint, ObjectKind, ObjectRecord, TextMap},
    parts::{PartSpan, read_parts, write_parts},
    recent::{Recent, RecentOutcome},
    root::{AUTHORS_MAX, Author, BucketRoot, FORMAT, ROOT_BYTES_MAX},
    settings::Settings,
    sse::{Salt, SealedKey},
    upload::{Completed, PartRecord, UploadRecord},
    version::{InvalidVersionId, Seq, VersionId, Versioning},
};
