//! Garbage collection: deletes blocks that no bucket needs, and rewrites segments of the log in which most
//! bytes are dead.
//!
//! It runs concurrently with requests, and sleeps more while requests are in flight. The pace follows the
//! growth of the log. Decision: docs/adr/0014. Blocks in packs are collected by one master at a time
//! ([`shared`], docs/adr/0042).

mod growth;
pub(crate) mod horizon;
mod left;
mod outcome;
pub(crate) mod retention;
pub(crate) mod shared;
pub(crate) mod unreadable;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fula_service::{Collection, error::chain};
use parking_lot::Mutex;
use serde::Serialize;

use self::{
    growth::{Growth, REST},
    outcome::{Failed, account},
};
use crate::{node::Node, space::Sizes};

/// Interval between checks for due work.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Time after which a collection is due for any amount of written bytes.
const COLLECT_AFTER: Duration = Duration::from_hours(1);

/// The same time while the disk is nearly full.
const COLLECT_AFTER_SHORT: Duration = Duration::from_mins(1);

/// Dead share of a segment, in percent, from which the gateway rewrites it.
const DEAD_PERCENT: u64 = 40;

/// The same share while another collection is due: records that it will find dead are not moved first.
const DEAD_PERCENT_DUE: u64 = 60;

/// The same share for a collection that an operator has requested.
const DEAD_PERCENT_NOW: u64 = 20;

/// Pause between two moves of records while requests are in flight, multiplied by that ratio.
const MOVE_REST: Duration = Duration::from_micros(500);

/// The result of a requested collection.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Done {
    /// What was collected; `None` where masters overwrite each other's updates, so that nothing can be.
    pub(crate) collection: Option<Collection>,
    /// Number of rows of deleted buckets that were dropped.
    pub(crate) dropped_buckets: u64,
    /// Bytes of segments that were rewritten.
    pub(crate) rewritten_bytes: u64,
    /// Sizes of the parts of the log after the collection.
    #[serde(flatten)]
    pub(crate) sizes: Sizes,
    /// Duration in milliseconds.
    pub(crate) millis: u64,
}

/// Runs a collection, and rewrites every segment whose dead share is at least `DEAD_PERCENT_NOW`. Without a
/// `retention`, the current one of the gateway and its bound count.
///
/// # Errors
/// The reason why nothing was deleted, in words for the operator.
pub(crate) async fn now(node: &Arc<Node>, retention: Option<Duration>) -> Result<Done, String> {
    if !node.service.committer().limits().collects {
        return Err(
            "FULA_COLLECT is off, so nothing is deleted: set it to on, and restart the gateway"
                .to_owned(),
        );
    }
    let began = Instant::now();
    let (rest, worth) = (|| REST, || DEAD_PERCENT_NOW);
    let (collection, dropped_buckets) = if node.owns_blocks() {
        let dropped = drop_deleted(node, retention, true).await;
        (collect(node, retention, &rest).await?, dropped)
    } else {
        shared::now(node, retention).await?
    };
    let rewritten_bytes = rewrite(node, worth, true, rest).await?;
    let sizes = Sizes::of(node, collection.as_ref()).map_err(|error| chain(&error))?;
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Done { collection, dropped_buckets, rewritten_bytes, sizes, millis })
}

/// Drops the rows of buckets that were deleted longer ago than `retention`, or than that of the gateway, and
/// returns their number. This is the first part of a collection; a failure is logged, and the collection continues.
///
/// Unless an operator asks for it `now`, it waits until dropping is worth its work.
async fn drop_deleted(node: &Node, retention: Option<Duration>, now: bool) -> u64 {
    let service = &node.service;
    let retention = retention.unwrap_or(service.committer().limits().retention);
    let dropped = match &node.recovery {
        Some(recovery) => service.drop_deleted_shared(recovery, retention, now).await,
        None => service.drop_deleted(retention, now).await,
    };
    match dropped {
        Ok(dropped) => {
            if dropped > 0 {
                tracing::info!(dropped, "dropped rows of deleted buckets");
            }
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

/// Runs a collection of the blocks in the log. Returns `None` where blocks are elsewhere.
async fn collect(
    node: &Node,
    retention: Option<Duration>,
    rest: &(dyn Fn() -> u32 + Sync),
) -> Result<Option<Collection>, String> {
    if !node.owns_blocks() {
        return Ok(None);
    }
    let mut passes = Passes::new(node, retention);
    while let Some(retention) = passes.next_retention() {
        let began = Instant::now();
        let before = horizon::begin(node).await.map_err(|error| chain(&error))?;
        let collected = node.service.collect(retention, rest).await.map_err(Failed::from);
        let ended = horizon::end(node, before, retention, collected.is_ok()).await;
        if let Err(error) = ended {
            let error = chain(&error);
            tracing::warn!(error, "earlier versions cannot be cloned until the next collection");
        }
        passes.add(account(node, began, collected)?);
    }
    Ok(Some(passes.done))
}

/// The passes of one collection: more than one where the first keeps more for the retention than the bound
/// allows. Then each further one has a shorter retention.
struct Passes<'a> {
    node: &'a Node,
    is_bounded: bool,
    next: Option<Duration>,
    /// The result of all passes so far.
    done: Collection,
}

impl<'a> Passes<'a> {
    /// Begins with the retention that an operator has asked for, and ends with it. Without one, the current one
    /// and the bound count.
    fn new(node: &'a Node, retention: Option<Duration>) -> Self {
        let next = Some(retention.unwrap_or_else(|| node.retention.current()));
        Self { node, is_bounded: retention.is_none(), next, done: Collection::default() }
    }

    /// Returns the retention of the next pass; `None` after the last one.
    fn next_retention(&mut self) -> Option<Duration> {
        self.next.take()
    }

    fn add(&mut self, mut found: Collection) {
        found.deleted += self.done.deleted;
        found.deleted_bytes += self.done.deleted_bytes;
        self.done = found;
        self.next = if self.is_bounded { self.node.retention.learn(&found) } else { None };
        if let Some(retention) = self.next {
            let retention = humantime::format_duration(retention);
            let bytes = found.retained_bytes;
            tracing::info!(bytes, %retention, "more was kept than FULA_RETENTION_BYTES allows");
        }
    }
}

/// Rewrites segments until the dead share of each is below `worth()` percent. Returns the bytes of the
/// segments that were deleted.
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

/// The pace of collections and rewriting, which follows the growth of the log.
#[derive(Debug)]
struct Pace {
    node: Arc<Node>,
    growth: Mutex<Growth>,
}

impl Pace {
    /// Calls `with` with the growth and the number of bytes that a collection would examine now.
    fn look<T>(&self, with: impl FnOnce(&mut Growth, u64) -> T) -> T {
        let work = self.node.store.work();
        let came = work.appended_bytes.saturating_sub(work.moved_bytes);
        let mut growth = self.growth.lock();
        let collectable = growth.look(Instant::now(), came, self.node.retention.current());
        with(&mut growth, collectable)
    }

    /// Returns what was written beyond the bound of the retention.
    fn beyond(&self, growth: &Growth) -> u64 {
        growth.beyond(self.node.retention.bound(growth.in_use))
    }

    fn is_due(&self) -> bool {
        self.look(|growth, collectable| growth.is_due(collectable) || self.beyond(growth) > 0)
    }

    fn rest(&self) -> u32 {
        self.look(|growth, collectable| growth.rest(collectable, self.beyond(growth)))
    }

    /// Returns the dead share in percent from which a segment is rewritten. `is_collected` says whether the
    /// last collection succeeded or none was due.
    fn worth(&self, is_collected: bool) -> u64 {
        if is_collected && self.is_due() { DEAD_PERCENT_DUE } else { DEAD_PERCENT }
    }

    /// Runs a collection. Returns false if it failed or held something back.
    async fn collect(&self, live_bytes: u64) -> bool {
        let node = &self.node;
        let (collectable, seen) = self.look(|growth, collectable| (collectable, growth.came));
        drop_deleted(node, None, false).await;
        let (kept, is_done) = match collect(node, None, &|| self.rest()).await {
            Ok(Some(done)) => {
                let (deleted, bytes) = (done.deleted, done.deleted_bytes);
                tracing::info!(deleted, bytes, "collected blocks that nothing needs");
                (live_bytes.saturating_sub(bytes), !done.held_back)
            }
            Ok(None) => (live_bytes, true),
            Err(error) => {
                tracing::warn!(error, "the collection failed; it is tried again");
                self.look(|growth, _| growth.failures += 1);
                return false;
            }
        };
        self.look(|growth, _| {
            // What was held back makes the next collection due, but not at once.
            growth.collect(if is_done { collectable } else { 0 }, kept, seen);
            growth.failures = if is_done { 0 } else { growth.failures + 1 };
        });
        // What was held back may be garbage.
        if is_done && let Err(error) = left::record(node, kept).await {
            let error = chain(&error);
            tracing::warn!(error, "after a restart the next collection begins early");
        }
        is_done
    }

    fn wait(&self) -> Duration {
        self.look(|growth, _| growth.wait())
    }
}

/// Collects garbage and rewrites segments for as long as the gateway runs.
pub(crate) async fn tend(node: Arc<Node>) {
    let in_use = node.store.sizes().map_or(0, |(_, live_bytes)| live_bytes);
    let left = left::recorded(&node).await.unwrap_or_else(|error| {
        let error = chain(&error);
        tracing::warn!(error, "what the last collection left in use is not known");
        None
    });
    let growth = Mutex::new(Growth::at_start(in_use, left));
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
        let is_due = pace.is_due() || pace.look(|_, bytes| bytes > 0 && is_late);
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
