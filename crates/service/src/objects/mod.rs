//! The operations on objects, uploads and buckets, and commits of several keys.

mod acl;
pub(crate) mod append;
pub(crate) mod batch;
pub mod body;
pub(crate) mod bucket;
pub(crate) mod checksum;
pub mod condition;
mod copy;
mod delete;
pub(crate) mod list;
pub(crate) mod multipart;
pub(crate) mod object;
pub(crate) mod record;
pub(crate) mod rename;
pub(crate) mod settings;
pub(crate) mod versions;
