//! How many bytes the last collection left in use, kept over restarts.
//!
//! A restart forgets which blocks were deleted until their segments are rewritten, and what was written since the
//! last collection. With this number the next process knows how much may be garbage. It only says when a
//! collection begins, and how fast it is: nothing is deleted by it.

use bytes::Bytes;
use fula_core::{MetadataStore, StoreError, metadata::Table};

use crate::node::Node;

/// Name of the record among the modes of the data directory.
const NAME: &str = "left-in-use";

/// Returns the bytes that the last collection left in use; `None` before the first one.
///
/// # Errors
/// [`StoreError`] of the data directory.
pub(super) async fn recorded(node: &Node) -> Result<Option<u64>, StoreError> {
    let entry = node.store.metadata.read(Table::Modes, NAME).await?;
    let value = entry.and_then(|entry| entry.value);
    Ok(value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()))
}

/// Records the bytes that a collection has left in use.
///
/// # Errors
/// [`StoreError`] of the data directory.
pub(super) async fn record(node: &Node, bytes: u64) -> Result<(), StoreError> {
    let entry = node.store.metadata.read(Table::Modes, NAME).await?;
    let version = entry.map_or(0, |entry| entry.version);
    // Only this process writes it.
    let value = Some(Bytes::from(bytes.to_string()));
    node.store.metadata.write(Table::Modes, NAME, version, value).await.map(drop)
}
