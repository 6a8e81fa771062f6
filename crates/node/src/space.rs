//! What the bytes of the log are for, and what waits for the retention.

use std::time::Duration;

use fula_core::root::TimeMs;
use fula_service::{Collection, error::chain};
use serde::Serialize;

use crate::node::Node;

/// While requests are in flight, a survey rests this many times as long as it works.
const REST: u32 = 8;

/// What the bytes of the log are for.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sizes {
    /// All of them.
    #[serde(rename = "log_bytes")]
    pub(crate) log: u64,
    /// Bytes in use, and those that no collection has looked at.
    #[serde(rename = "live_bytes")]
    pub(crate) live: u64,
    /// Bytes that a collection kept for the retention.
    #[serde(rename = "retained_bytes")]
    pub(crate) retained: u64,
    /// Bytes that rewriting segments gives back.
    #[serde(rename = "dead_bytes")]
    pub(crate) dead: u64,
}

impl Sizes {
    /// Returns what they are now, if `found` is what was last found out.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn of(node: &Node, found: Option<&Collection>) -> std::io::Result<Self> {
        let (log, in_use) = node.store.sizes()?;
        let retained = found.map_or(0, |found| found.retained_bytes).min(in_use);
        let (live, dead) = (in_use - retained, log.saturating_sub(in_use));
        Ok(Self { log, live, retained, dead })
    }
}

/// What a collection would find.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Outlook {
    #[serde(flatten)]
    pub(crate) sizes: Sizes,
    /// Bytes that the next collection deletes.
    pub(crate) collectable_bytes: u64,
    /// Bytes of root blocks that are kept for the history of buckets; they count as live.
    pub(crate) history_bytes: u64,
    /// How long replaced and deleted content is kept, in milliseconds.
    pub(crate) retention_ms: u64,
    /// When the first and the last of the retained bytes can be collected, in milliseconds since 1970.
    pub(crate) released_ms: Option<(TimeMs, TimeMs)>,
}

/// Finds out what waits for the retention and until when, and what the next collection deletes. It reads
/// every tree node.
///
/// # Errors
/// Why that cannot be found out, for people.
pub(crate) async fn look(node: &Node, retention: Duration) -> Result<Option<Outlook>, String> {
    if !node.owns_blocks() {
        return Ok(None);
    }
    let found = node.service.survey(retention, &|| REST).await.map_err(|error| chain(&error))?;
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
