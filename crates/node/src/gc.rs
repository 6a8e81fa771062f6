//! Giving space back: collecting blocks that nothing needs, and rewriting segments of the log that
//! are mostly dead. docs/adr/0014.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use fula_service::{Collection, error::chain};
use serde::{Deserialize, Serialize};

use crate::node::Node;

/// Between looks at how much was written.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Growth of the log that calls for a collection, in bytes, as of the retention; or half of what the
/// last one left in use, if that is more.
const GROWTH_MIN: u64 = 128 << 20;

/// Something written is collected after this long, even if it is little.
const COLLECT_AFTER: Duration = Duration::from_hours(1);

/// Dead share of a segment, in percent, that makes the gateway rewrite it by itself.
const DEAD_PERCENT: u64 = 40;

/// The same for whoever asks for the space now.
const DEAD_PERCENT_NOW: u64 = 20;

/// While requests are in flight, collections rest this many times as long as they work, and halve
/// it for each time that the log has grown by what was in use.
const REST: u32 = 4;

/// Rest between two moves of records while requests are in flight, for each of these times.
const MOVE_REST: Duration = Duration::from_micros(500);

/// What was done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// What was collected; none where arbiter or blocks are shared.
    pub(crate) collection: Option<Collection>,
    /// Bytes of segments that were rewritten.
    pub(crate) rewritten_bytes: u64,
    /// Bytes of the log now.
    pub(crate) log_bytes: u64,
    /// How many of them are in use.
    pub(crate) live_bytes: u64,
    /// How long it took.
    pub(crate) millis: u64,
}

/// Collects and rewrites everything that is worth it.
///
/// # Errors
/// Why nothing was deleted, for people.
pub(crate) async fn now(node: &Arc<Node>, retention: Duration) -> Result<Done, String> {
    let began = Instant::now();
    let collection = collect(node, retention, REST).await?;
    let rewritten_bytes = rewrite(node, DEAD_PERCENT_NOW, true, REST).await?;
    let (log_bytes, live_bytes) = node.store.sizes().map_err(|error| chain(&error))?;
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Done { collection, rewritten_bytes, log_bytes, live_bytes, millis })
}

/// Collects, unless others may write to the blocks or need them: that is not known here.
async fn collect(
    node: &Node,
    retention: Duration,
    rest: u32,
) -> Result<Option<Collection>, String> {
    if !node.owns_blocks() {
        return Ok(None);
    }
    let began = Instant::now();
    let collected = node.service.committer().collect(retention, rest).await;
    let collected = collected.map_err(|error| {
        metrics::counter!("fula_gc_failures_total").increment(1);
        chain(&error)
    })?;
    metrics::counter!("fula_gc_runs_total").increment(1);
    metrics::counter!("fula_gc_deleted_blocks_total").increment(collected.deleted);
    metrics::counter!("fula_gc_deleted_bytes_total").increment(collected.deleted_bytes);
    metrics::gauge!("fula_gc_marked_blocks").set(f64_of(collected.marked));
    metrics::histogram!("fula_gc_seconds").record(began.elapsed().as_secs_f64());
    Ok(Some(collected))
}

#[expect(clippy::cast_precision_loss, reason = "metrics are f64")]
fn f64_of(count: u64) -> f64 {
    count as f64
}

/// Rewrites segments until none is worth it; returns the bytes of those that are gone.
async fn rewrite(
    node: &Arc<Node>,
    dead_percent: u64,
    seal: bool,
    rest: u32,
) -> Result<u64, String> {
    let node = Arc::clone(node);
    let work = move || {
        let committer = node.service.committer();
        let rest = || {
            if rest > 0 && committer.is_busy() {
                std::thread::sleep(MOVE_REST * rest);
            }
        };
        let mut bytes = 0;
        let mut compact = || loop {
            match node.store.compact(dead_percent, &rest)? {
                0 => return std::io::Result::Ok(()),
                freed => bytes += freed,
            }
        };
        // Before anything is sealed: on a full disk the next segment needs what this frees.
        compact()?;
        if seal {
            node.store.seal(dead_percent)?;
            compact()?;
        }
        Ok(bytes)
    };
    let done: Result<std::io::Result<u64>, _> = tokio::task::spawn_blocking(work).await;
    let bytes = done.map_err(|panic| panic.to_string())?.map_err(|error| chain(&error))?;
    metrics::counter!("fula_gc_rewritten_bytes_total").increment(bytes);
    Ok(bytes)
}

/// How much was appended to the log, and when: of what is younger than the retention, nothing can
/// be collected yet.
#[derive(Debug, Default)]
struct Growth {
    /// Looks within the retention and the last one before it, oldest first.
    looks: VecDeque<(Instant, u64)>,
    /// Appended bytes that the last collection looked at.
    collected: u64,
    /// Bytes that the last collection left in use.
    kept: u64,
}

impl Growth {
    /// Notes a look; returns the bytes that were appended before the retention and not looked at by
    /// a collection.
    fn look(&mut self, now: Instant, appended: u64, retention: Duration) -> u64 {
        self.looks.push_back((now, appended));
        let is_old = |look: &(Instant, u64)| now.duration_since(look.0) >= retention;
        while self.looks.get(1).is_some_and(is_old) {
            self.looks.pop_front();
        }
        let oldest = self.looks.front().filter(|look| is_old(look));
        oldest.map_or(0, |(_, appended)| appended.saturating_sub(self.collected))
    }

    /// Notes that a collection has looked at what a look found, and left so much in use.
    fn collect(&mut self, collectable: u64, kept: u64) {
        self.collected += collectable;
        self.kept = kept;
    }

    /// Returns how much to rest: the further the log outgrows what is in use, the less.
    fn rest(&self, collectable: u64) -> u32 {
        let times = collectable / self.kept.max(GROWTH_MIN);
        REST.checked_shr(u32::try_from(times).unwrap_or(u32::MAX)).unwrap_or(0)
    }
}

/// Looks after the space for as long as the gateway runs.
pub(crate) async fn tend(node: Arc<Node>) {
    let retention = node.service.committer().limits().retention;
    let (mut growth, mut collected) = (Growth::default(), Instant::now());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok((log_bytes, live_bytes)) = node.store.sizes() else { continue };
        metrics::gauge!("fula_log_bytes").set(f64_of(log_bytes));
        metrics::gauge!("fula_log_live_bytes").set(f64_of(live_bytes));
        let appended = node.store.work().appended_bytes;
        let collectable = growth.look(Instant::now(), appended, retention);
        // What is still indexed is no measure: it holds what is to be collected.
        let is_due = collectable >= GROWTH_MIN.max(growth.kept / 2)
            || (collectable > 0 && collected.elapsed() >= COLLECT_AFTER);
        let rest = growth.rest(collectable);
        if is_due {
            collected = Instant::now();
            match collect(&node, retention, rest).await {
                Ok(Some(done)) => {
                    let kept = live_bytes.saturating_sub(done.deleted_bytes);
                    growth.collect(if done.held_back { 0 } else { collectable }, kept);
                    let (deleted, bytes) = (done.deleted, done.deleted_bytes);
                    tracing::info!(deleted, bytes, "collected blocks that nothing needs");
                }
                Ok(None) => growth.collect(collectable, live_bytes),
                Err(error) => tracing::warn!(error, "nothing was collected"),
            }
        }
        match rewrite(&node, DEAD_PERCENT, false, rest).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "rewrote segments of the log"),
            Err(error) => tracing::warn!(error, "cannot rewrite segments of the log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_older_than_the_retention_counts() {
        let (start, retention) = (Instant::now(), Duration::from_mins(10));
        let at = |minutes: u64| start + Duration::from_mins(minutes);
        let mut growth = Growth::default();
        assert_eq!(growth.look(at(0), 100, retention), 0);
        assert_eq!(growth.look(at(5), 500, retention), 0);
        assert_eq!(growth.look(at(10), 900, retention), 100);
        assert_eq!(growth.look(at(16), 900, retention), 500);
        growth.collect(500, 0);
        assert_eq!(growth.look(at(17), 950, retention), 0);
        assert_eq!(growth.look(at(21), 950, retention), 400);
        assert!(growth.looks.len() < 5);
        let mut at_once = Growth::default();
        assert_eq!(at_once.look(at(0), 100, Duration::ZERO), 100);
        at_once.collect(100, 0);
        assert_eq!(at_once.look(at(1), 130, Duration::ZERO), 30);
    }

    #[test]
    fn a_log_that_outgrows_what_is_in_use_is_collected_with_less_rest() {
        let mut growth = Growth::default();
        let rests = |growth: &Growth, of: u64| [0, 1, 2, 3, 99].map(|n| growth.rest(n * of));
        assert_eq!(rests(&growth, GROWTH_MIN), [4, 2, 1, 0, 0]);
        growth.collect(1, 8 * GROWTH_MIN);
        assert_eq!(rests(&growth, 8 * GROWTH_MIN), [4, 2, 1, 0, 0]);
        assert_eq!(growth.rest(7 * GROWTH_MIN), 4);
    }
}
