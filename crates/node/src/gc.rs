//! Giving space back: collecting blocks that nothing needs, and rewriting segments of the log that
//! are mostly dead. docs/adr/0014.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use fula_service::{Collection, error::chain};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{gauges::f64_of, node::Node, space::Sizes};

/// Between looks at whether something is to be done.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Between two notes of how much was written when.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Growth of the log that calls for a collection, in bytes, as of the retention; or half of what the
/// last one left in use, if that is more.
const GROWTH_MIN: u64 = 128 << 20;

/// Something written is collected after this long, even if it is little.
const COLLECT_AFTER: Duration = Duration::from_hours(1);

/// The same while space is short.
const COLLECT_AFTER_SHORT: Duration = Duration::from_mins(1);

/// Longest wait for another try of a collection that could not be done.
const RETRY_MAX: Duration = Duration::from_mins(5);

/// Dead share of a segment, in percent, that makes the gateway rewrite it by itself.
const DEAD_PERCENT: u64 = 40;

/// The same while another collection is due: what it would find dead is better not moved first.
const DEAD_PERCENT_DUE: u64 = 60;

/// The same for whoever asks for the space now.
const DEAD_PERCENT_NOW: u64 = 20;

/// While requests are in flight, collections rest this many times as long as they work, and halve
/// it for each time that the log has grown by what was in use.
const REST: u32 = 8;

/// Rest between two moves of records while requests are in flight, for each of these times.
const MOVE_REST: Duration = Duration::from_micros(500);

/// What was done.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Done {
    /// What was collected; none where arbiter or blocks are shared.
    pub(crate) collection: Option<Collection>,
    /// How many rows of deleted buckets were dropped.
    pub(crate) dropped_buckets: u64,
    /// Bytes of segments that were rewritten.
    pub(crate) rewritten_bytes: u64,
    /// What the bytes of the log are for now.
    #[serde(flatten)]
    pub(crate) sizes: Sizes,
    /// How long it took.
    pub(crate) millis: u64,
}

/// Collects and rewrites everything that is worth it.
///
/// # Errors
/// Why nothing was deleted, for people.
pub(crate) async fn now(node: &Arc<Node>, retention: Duration) -> Result<Done, String> {
    let began = Instant::now();
    let (rest, worth) = (|| REST, || DEAD_PERCENT_NOW);
    let dropped_buckets = drop_deleted(node, retention, true).await;
    let collection = collect(node, retention, &rest).await?;
    let rewritten_bytes = rewrite(node, worth, true, rest).await?;
    let sizes = Sizes::of(node, collection.as_ref()).map_err(|error| chain(&error))?;
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Done { collection, dropped_buckets, rewritten_bytes, sizes, millis })
}

/// Drops the rows of buckets that were deleted longer ago than `retention`, as the first part of a
/// collection, which goes on whether that can be done or not. Returns how many.
async fn drop_deleted(node: &Node, retention: Duration, all: bool) -> u64 {
    match node.service.drop_deleted(retention, all).await {
        Ok(dropped) => {
            metrics::counter!("fula_gc_dropped_buckets_total").increment(dropped);
            dropped
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(error, "rows of deleted buckets cannot be dropped");
            0
        }
    }
}

/// Collects, unless others may write to the blocks or need them: that is not known here.
async fn collect(
    node: &Node,
    retention: Duration,
    rest: &(dyn Fn() -> u32 + Sync),
) -> Result<Option<Collection>, String> {
    if !node.owns_blocks() {
        return Ok(None);
    }
    let began = Instant::now();
    let collected = node.service.collect(retention, rest).await.map_err(|error| chain(&error));
    node.collections.note(&collected);
    let collected =
        collected.inspect_err(|_| metrics::counter!("fula_gc_failures_total").increment(1))?;
    metrics::counter!("fula_gc_runs_total").increment(1);
    metrics::counter!("fula_gc_deleted_blocks_total").increment(collected.deleted);
    metrics::counter!("fula_gc_deleted_bytes_total").increment(collected.deleted_bytes);
    metrics::gauge!("fula_gc_marked_blocks").set(f64_of(collected.marked));
    metrics::histogram!("fula_gc_seconds").record(began.elapsed().as_secs_f64());
    Ok(Some(collected))
}

/// Rewrites segments until none is worth it, by the dead share of one in percent; returns the bytes
/// of those that are gone.
async fn rewrite(
    node: &Arc<Node>,
    worth: impl Fn() -> u64 + Send + 'static,
    seal: bool,
    rest: impl Fn() -> u32 + Send + 'static,
) -> Result<u64, String> {
    let node = Arc::clone(node);
    let work = move || {
        let service = &node.service;
        let rest = || {
            let times = if service.is_busy() { rest() } else { 0 };
            if times > 0 {
                std::thread::sleep(MOVE_REST * times);
            }
        };
        node.store.rewrite(&worth, seal, &rest)
    };
    let done: Result<std::io::Result<u64>, _> = tokio::task::spawn_blocking(work).await;
    let bytes = done.map_err(|panic| panic.to_string())?.map_err(|error| chain(&error))?;
    metrics::counter!("fula_gc_rewritten_bytes_total").increment(bytes);
    Ok(bytes)
}

/// How much came into the log, and when: of what is younger than the retention, nothing can be
/// collected yet.
#[derive(Debug, Default)]
struct Growth {
    /// Notes within the retention and the last one before it, oldest first.
    notes: VecDeque<(Instant, u64)>,
    /// Bytes that the last collection looked at.
    collected: u64,
    /// Bytes that the last collection left in use.
    kept: u64,
    /// Bytes in use, or more before the first collection.
    in_use: u64,
    /// How many collections in a row could not do what they were to.
    failures: u32,
}

impl Growth {
    /// Notes that so many bytes have come so far; returns how many of them came before the retention
    /// and were not looked at by a collection.
    fn look(&mut self, now: Instant, came: u64, retention: Duration) -> u64 {
        if self.notes.back().is_none_or(|note| now.duration_since(note.0) >= NOTE_EVERY) {
            self.notes.push_back((now, came));
        }
        let is_old = |note: &(Instant, u64)| now.duration_since(note.0) >= retention;
        while self.notes.get(1).is_some_and(is_old) {
            self.notes.pop_front();
        }
        let oldest = self.notes.front().filter(|note| is_old(note));
        oldest.map_or(0, |(_, came)| came.saturating_sub(self.collected))
    }

    /// Notes that a collection has looked at what a look found, and left so much in use.
    fn collect(&mut self, collectable: u64, kept: u64) {
        self.collected += collectable;
        (self.kept, self.in_use) = (kept, kept);
    }

    /// Returns how long the next collection has to wait: it would most likely fail like the last ones.
    fn wait(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => RETRY_MAX.min(LOOK_EVERY * 2_u32.saturating_pow(failures)),
        }
    }

    /// Says whether so much calls for a collection. What is still indexed is no measure: it holds
    /// what is to be collected.
    fn is_due(&self, collectable: u64) -> bool {
        collectable >= GROWTH_MIN.max(self.kept / 2)
    }

    /// Returns how much to rest: the further the log outgrows what is in use, the less, unless
    /// collections fail and so change nothing about that.
    fn rest(&self, collectable: u64) -> u32 {
        if self.failures > 0 {
            return REST;
        }
        let times = collectable / self.in_use.max(GROWTH_MIN);
        REST.checked_shr(u32::try_from(times).unwrap_or(u32::MAX)).unwrap_or(0)
    }
}

/// How fast space has to come back, by what comes into the log.
#[derive(Debug)]
struct Pace {
    node: Arc<Node>,
    growth: Mutex<Growth>,
}

impl Pace {
    /// Calls `with` with the growth and with how much there is to collect just now.
    fn look<T>(&self, with: impl FnOnce(&mut Growth, u64) -> T) -> T {
        let work = self.node.store.work();
        let came = work.appended_bytes.saturating_sub(work.moved_bytes);
        let retention = self.node.service.committer().limits().retention;
        let mut growth = self.growth.lock();
        let collectable = growth.look(Instant::now(), came, retention);
        with(&mut growth, collectable)
    }

    fn is_due(&self) -> bool {
        self.look(|growth, collectable| growth.is_due(collectable))
    }

    fn rest(&self) -> u32 {
        self.look(|growth, collectable| growth.rest(collectable))
    }

    /// Returns the dead share of a segment in percent that makes it worth rewriting, if collections
    /// do what they are to.
    fn worth(&self, is_collected: bool) -> u64 {
        if is_collected && self.is_due() { DEAD_PERCENT_DUE } else { DEAD_PERCENT }
    }

    /// Collects; false when there was nothing that could be done about what is due.
    async fn collect(&self, live_bytes: u64) -> bool {
        let node = &self.node;
        let retention = node.service.committer().limits().retention;
        let collectable = self.look(|_, collectable| collectable);
        let dropped = drop_deleted(node, retention, false).await;
        if dropped > 0 {
            tracing::info!(dropped, "dropped rows of deleted buckets");
        }
        let (kept, is_done) = match collect(node, retention, &|| self.rest()).await {
            Ok(Some(done)) => {
                let (deleted, bytes) = (done.deleted, done.deleted_bytes);
                tracing::info!(deleted, bytes, "collected blocks that nothing needs");
                (live_bytes.saturating_sub(bytes), !done.held_back)
            }
            Ok(None) => (live_bytes, true),
            Err(error) => {
                tracing::warn!(error, "nothing was collected");
                self.look(|growth, _| growth.failures += 1);
                return false;
            }
        };
        self.look(|growth, _| {
            growth.collect(if is_done { collectable } else { 0 }, kept);
            growth.failures = if is_done { 0 } else { growth.failures + 1 };
        });
        is_done
    }

    fn wait(&self) -> Duration {
        self.look(|growth, _| growth.wait())
    }
}

/// Looks after the space for as long as the gateway runs.
pub(crate) async fn tend(node: Arc<Node>) {
    let in_use = node.store.sizes().map_or(0, |(_, live_bytes)| live_bytes);
    let growth = Mutex::new(Growth { in_use, ..Growth::default() });
    let pace = Arc::new(Pace { node: Arc::clone(&node), growth });
    let (mut collected, mut tried) = (Instant::now(), Instant::now());
    let mut is_behind = false;
    loop {
        if !is_behind {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let Ok((_, live_bytes)) = node.store.sizes() else {
            is_behind = false;
            continue;
        };
        let is_short = node.store.room().is_ok_and(|room| room.is_short());
        let after = if is_short { COLLECT_AFTER_SHORT } else { COLLECT_AFTER };
        let is_late = collected.elapsed() >= after;
        let is_due = pace.look(|growth, bytes| growth.is_due(bytes) || (bytes > 0 && is_late));
        let mut is_done = !is_due;
        if is_due && tried.elapsed() >= pace.wait() {
            collected = Instant::now();
            is_done = pace.collect(live_bytes).await;
            tried = Instant::now();
        }
        let (worth, rest) = (Arc::clone(&pace), Arc::clone(&pace));
        match rewrite(&node, move || worth.worth(is_done), false, move || rest.rest()).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "rewrote segments of the log"),
            Err(error) => tracing::warn!(error, "cannot rewrite segments of the log"),
        }
        is_behind = is_done && pace.is_due();
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
        assert!(growth.notes.len() < 5);
        let mut at_once = Growth::default();
        assert_eq!(at_once.look(at(0), 100, Duration::ZERO), 100);
        at_once.collect(100, 0);
        assert_eq!(at_once.look(at(1), 130, Duration::ZERO), 30);
    }

    #[test]
    fn a_log_that_outgrows_what_is_in_use_is_collected_with_less_rest() {
        let mut growth = Growth::default();
        let rests = |growth: &Growth, of: u64| [0, 1, 2, 3, 4, 99].map(|n| growth.rest(n * of));
        assert_eq!(rests(&growth, GROWTH_MIN), [8, 4, 2, 1, 0, 0]);
        growth.collect(1, 8 * GROWTH_MIN);
        assert_eq!(rests(&growth, 8 * GROWTH_MIN), [8, 4, 2, 1, 0, 0]);
        assert_eq!(growth.rest(7 * GROWTH_MIN), 8);
        // Before the first collection as well, which is due all the same.
        let growth = Growth { in_use: 8 * GROWTH_MIN, ..Growth::default() };
        assert_eq!(rests(&growth, 8 * GROWTH_MIN), [8, 4, 2, 1, 0, 0]);
        assert!(growth.is_due(GROWTH_MIN));
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_and_takes_no_more_than_its_part() {
        let waits = |failures| Growth { failures, ..Growth::default() }.wait().as_secs();
        assert_eq!([0, 1, 2, 3, 7, 40].map(waits), [0, 6, 12, 24, 300, 300]);
        let growth = Growth { failures: 1, ..Growth::default() };
        assert_eq!(growth.rest(99 * GROWTH_MIN), REST);
    }

    #[test]
    fn a_collection_is_due_when_half_of_what_is_in_use_came() {
        let mut growth = Growth::default();
        assert!(!growth.is_due(GROWTH_MIN - 1) && growth.is_due(GROWTH_MIN));
        growth.collect(GROWTH_MIN, 8 * GROWTH_MIN);
        assert!(!growth.is_due(4 * GROWTH_MIN - 1) && growth.is_due(4 * GROWTH_MIN));
        growth.collect(4 * GROWTH_MIN, 0);
        assert!(!growth.is_due(GROWTH_MIN - 1) && growth.is_due(GROWTH_MIN));
    }

    #[test]
    fn looks_in_quick_succession_take_no_more_room() {
        let (start, mut growth) = (Instant::now(), Growth::default());
        let at = |millis: u64| start + Duration::from_millis(millis);
        for n in 0..=10_000 {
            growth.look(at(n), n, NOTE_EVERY * 2);
        }
        assert_eq!(growth.look(at(10_000), 10_000, NOTE_EVERY * 2), 8_000);
        assert!(growth.notes.len() <= 4);
    }
}
