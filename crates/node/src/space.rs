//! Sizes of the parts of the log, and a forecast of the next collection.

use std::time::Duration;

use fula_core::root::TimeMs;
use fula_service::{Collection, error::chain};
use serde::Serialize;

use crate::{gc::unreadable::why, node::Node};

/// Ratio of pause to work of a survey while requests are in flight.
const REST: u32 = 8;

/// Sizes of the parts of the log, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sizes {
    /// Size of the whole log.
    #[serde(rename = "log_bytes")]
    pub(crate) log: u64,
    /// Bytes in use, and those that no collection has examined yet.
    #[serde(rename = "live_bytes")]
    pub(crate) live: u64,
    /// Bytes that the last collection kept for the retention.
    #[serde(rename = "retained_bytes")]
    pub(crate) retained: u64,
    /// Bytes that become free when segments are rewritten.
    #[serde(rename = "dead_bytes")]
    pub(crate) dead: u64,
}

impl Sizes {
    /// Returns the current sizes. `found` is the result of the last collection or survey.
    ///
    /// # Errors
    /// The error of the file system.
    pub(crate) fn of(node: &Node, found: Option<&Collection>) -> std::io::Result<Self> {
        let (log, in_use) = node.store.sizes()?;
        let retained = found.map_or(0, |found| found.retained_bytes).min(in_use);
        let (live, dead) = (in_use - retained, log.saturating_sub(in_use));
        Ok(Self { log, live, retained, dead })
    }
}

/// A forecast of the next collection.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Outlook {
    #[serde(flatten)]
    pub(crate) sizes: Sizes,
    /// Bytes that the next collection deletes.
    pub(crate) collectable_bytes: u64,
    /// Bytes of root blocks that are kept for the history of buckets; they count as live.
    pub(crate) history_bytes: u64,
    /// Time for which replaced and deleted content is kept, in milliseconds.
    pub(crate) retention_ms: u64,
    /// When the first and the last of the retained bytes can be collected, in milliseconds since 1970.
    pub(crate) released_ms: Option<(TimeMs, TimeMs)>,
}

/// Returns how many bytes wait for the retention and until when, and how many the next collection deletes. It
/// reads every tree node. Returns `None` where the arbiter or the blocks are shared.
///
/// # Errors
/// The reason why the blocks cannot be read, in words for the operator.
pub(crate) async fn look(node: &Node, retention: Duration) -> Result<Option<Outlook>, String> {
    if !node.owns_blocks() {
        return Ok(None);
    }
    let found = node.service.survey(retention, &|| REST).await;
    let found = found.map_err(|error| why(&error))?;
    let mut sizes = Sizes::of(node, Some(&found)).map_err(|error| chain(&error))?;
    let needed = found.live_bytes + found.history_bytes + node.store.row_bytes();
    let collectable_bytes = sizes.live.saturating_sub(needed);
    sizes.live -= collectable_bytes;
    Ok(Some(Outlook {
        sizes,
        collectable_bytes,
        history_bytes: found.history_bytes,
        retention_ms: u64::try_from(retention.as_millis()).unwrap_or(u64::MAX),
        released_ms: found.released,
    }))
}
