//! Since when nothing has been collected that a bucket needed: replaced versions from then on are whole.
//!
//! A collection deletes what was replaced longer ago than its retention, which can be shorter than the usual one.
//! A record in the data directory says how far collections have come. While one deletes, and after one that was
//! interrupted, it says that nothing replaced is sure to be whole.

use std::time::Duration;

use bytes::Bytes;
use fula_core::{MetadataStore, StoreError, metadata::Table, root::TimeMs};
use fula_stores::local::system_clock;

use crate::node::Node;

/// Name of the record among the modes of the data directory.
const NAME: &str = "kept-since";

/// Value of the record while a collection may delete.
const DELETING: TimeMs = TimeMs::MAX;

/// Returns the time from which on replaced versions are whole: roots that were replaced then or later have all
/// their blocks. Returns `None` where other masters collect, too, or blocks are not in the data directory.
///
/// # Errors
/// [`StoreError`] of the data directory.
pub(crate) async fn kept_since(node: &Node, now: TimeMs) -> Result<Option<TimeMs>, StoreError> {
    if !node.owns_blocks() {
        return Ok(None);
    }
    let retention = millis(node.retention.current());
    // Programs that write no record may have collected up to the retention.
    Ok(Some(recorded(node).await?.1.unwrap_or(now.saturating_sub(retention))))
}

/// Records that a collection may delete from now on. Returns the record before it.
///
/// # Errors
/// [`StoreError`]: the collection must not begin.
pub(super) async fn begin(node: &Node) -> Result<Option<TimeMs>, StoreError> {
    let before = recorded(node).await?.1;
    write(node, DELETING).await?;
    Ok(before)
}

/// Records the end of a collection with this retention, which deleted nothing unless `has_deleted`. `before` is the
/// record before it.
///
/// # Errors
/// [`StoreError`]: versions are taken for collected until the next collection.
pub(super) async fn end(
    node: &Node,
    before: Option<TimeMs>,
    retention: Duration,
    has_deleted: bool,
) -> Result<(), StoreError> {
    let now = system_clock()();
    let kept = now.saturating_sub(millis(retention));
    let since = match before {
        // An earlier one was interrupted. What it had deleted is not known.
        Some(DELETING) => now,
        Some(before) if !has_deleted => before,
        None if !has_deleted => kept,
        before => before.unwrap_or(0).max(kept),
    };
    write(node, since).await
}

async fn recorded(node: &Node) -> Result<(u64, Option<TimeMs>), StoreError> {
    let Some(entry) = node.store.metadata.read(Table::Modes, NAME).await? else {
        return Ok((0, None));
    };
    let text = entry.value.as_ref().and_then(|value| std::str::from_utf8(value).ok());
    // A record that cannot be understood says nothing of what is whole.
    Ok((entry.version, Some(text.and_then(|text| text.parse().ok()).unwrap_or(DELETING))))
}

async fn write(node: &Node, since: TimeMs) -> Result<(), StoreError> {
    let (version, _) = recorded(node).await?;
    let value = Some(Bytes::from(since.to_string()));
    // Only this process writes it.
    node.store.metadata.write(Table::Modes, NAME, version, value).await.map(drop)
}

fn millis(time: Duration) -> TimeMs {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
