//! When to collect blocks in packs, and which of the masters does it.
//!
//! A record in the metadata store says which master collects, and how the last collection ended. It only
//! keeps two masters from doing the same work: collections that run at the same time do no harm.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fula_core::{MetadataStore, StoreError, metadata::Table, root::TimeMs};
use fula_service::{Collection, error::chain};
use serde::{Deserialize, Serialize};

use super::{Failed, Growth, LOOK_EVERY, Passes, REST, outcome};
use crate::{
    node::Node,
    turn::{self, Holder, millis},
};

/// Name of the record.
const NAME: &str = "collection";

/// Time without an update after which another master may collect.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(30);

/// Interval between two updates of the record during a collection.
const TOUCH_EVERY: Duration = Duration::from_secs(10);

/// Time after which a collection is due for any amount of written bytes.
const COLLECT_AFTER: Duration = Duration::from_hours(1);

/// Time without writes after which a collection is due for [`IDLE_BYTES`]: then it disturbs nobody.
const IDLE: Duration = Duration::from_secs(15);

/// Bytes that make a collection due once this master is idle.
const IDLE_BYTES: u64 = 4 << 20;

/// The record of the last collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The master that collects, by its writer id.
    #[serde(flatten)]
    holder: Holder,
    /// End of the last collection that succeeded, by the arbiter's clock; 0 before the first.
    pub(crate) ended_ms: TimeMs,
    /// Name of the machine of the master that collected.
    pub(crate) host: String,
    /// The result of that collection.
    pub(crate) found: Option<Collection>,
    /// The reason why the newest collection deleted nothing, if it failed.
    pub(crate) failure: Option<String>,
}

impl turn::Record for Record {
    fn holder(&self) -> &Holder {
        &self.holder
    }

    fn holder_mut(&mut self) -> &mut Holder {
        &mut self.holder
    }
}

/// Returns the record of the last collection.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn last(metadata: &dyn MetadataStore) -> Result<Record, StoreError> {
    Ok(turn::parse(metadata.read(Table::Modes, NAME).await?).1)
}

/// One collection of this master.
struct Turn<'a> {
    node: &'a Node,
    held: turn::Turn<'a, Record>,
    /// Number of rows of deleted buckets that were dropped.
    dropped_buckets: u64,
}

impl<'a> Turn<'a> {
    /// Begins a collection, unless another master is at it.
    async fn begin(node: &'a Node) -> Result<Option<Self>, String> {
        let arbiter = node.service.arbiter();
        let now = arbiter.now().await.map_err(|error| chain(&error))?;
        let (metadata, own) = (node.metadata.as_ref(), arbiter.writer().to_string());
        let begun = async {
            let mut turn = turn::Turn::read(metadata, (Table::Modes, NAME), own).await?;
            let is_begun = turn.is_free(now, TAKEN_OVER_AFTER) && turn.take(now).await?;
            Ok(is_begun.then_some(Self { node, held: turn, dropped_buckets: 0 }))
        };
        begun.await.map_err(|error: StoreError| chain(&error))
    }

    /// Drops rows of deleted buckets, collects, and ends the turn. `now` says that an operator asks for it.
    async fn run(
        &mut self,
        retention: Option<Duration>,
        now: bool,
        rest: &(dyn Fn() -> u32 + Sync),
    ) -> Result<Collection, String> {
        let node = self.node;
        let dropped = self.during(super::drop_deleted(node, retention, now)).await;
        self.dropped_buckets = dropped.unwrap_or_default();
        let mut passes = Passes::new(node, retention);
        let mut collected = Ok(Collection::default());
        while let Some(retention) = passes.next_retention() {
            collected = self.collect(retention, rest).await.map(|found| {
                passes.add(found);
                passes.done
            });
        }
        if let Ok(found) = &collected {
            let record = &mut self.held.record;
            record.ended_ms = node.service.arbiter().time().unwrap_or(record.holder.touched_ms);
            (record.host, record.found) = (crate::node::host_name(), Some(*found));
        }
        self.held.record.failure = collected.as_ref().err().cloned();
        if let Err(error) = self.held.give_back().await {
            say_not_updated(&error);
        }
        collected
    }

    /// Collects, and updates the record meanwhile.
    async fn collect(
        &mut self,
        retention: Duration,
        rest: &(dyn Fn() -> u32 + Sync),
    ) -> Result<Collection, String> {
        let node = self.node;
        let began = Instant::now();
        let collecting = node.service.collect_shared(node.recovery.as_ref(), retention, rest);
        let collected = match self.during(collecting).await {
            Some(collected) => collected.map_err(Failed::from),
            None => Err("another master has taken the collection over".to_owned().into()),
        };
        outcome::account(node, began, collected)
    }

    /// Does some work, and updates the record meanwhile. Returns `None` if another master has the turn now.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(TOUCH_EVERY, &mut work).await {
                return Some(done);
            }
            let now = self.held.record.holder.touched_ms + millis(TOUCH_EVERY);
            let is_ours = self.held.take(now).await.unwrap_or_else(|error| {
                say_not_updated(&error);
                true
            });
            if !is_ours {
                return None;
            }
        }
    }
}

/// Logs that the record could not be written. The next update tells whose turn it is.
fn say_not_updated(error: &StoreError) {
    tracing::debug!(error = chain(error), "cannot update the record of the collection");
}

/// Runs a collection for an operator. Returns `None` where nothing can be collected, and the number of rows of
/// deleted buckets that were dropped.
///
/// # Errors
/// The reason why it ended early, in words for the operator.
pub(crate) async fn now(
    node: &Node,
    retention: Option<Duration>,
) -> Result<(Option<Collection>, u64), String> {
    if node.collectable_packs().is_none() {
        return Ok((None, 0));
    }
    match Turn::begin(node).await? {
        Some(mut turn) => {
            let collected = turn.run(retention, true, &|| REST).await?;
            Ok((Some(collected), turn.dropped_buckets))
        }
        None => {
            Err("a collection is under way on another master; try again in a minute".to_owned())
        }
    }
}

/// Collects for as long as the gateway runs, when enough was written through this master.
pub(crate) async fn tend(node: Arc<Node>) {
    let Some(packs) = node.collectable_packs().cloned() else { return };
    let mut growth = Growth::default();
    let (mut collected, mut tried) = (Instant::now(), Instant::now());
    let (mut came, mut changed) = (0, Instant::now());
    let mut seen_end = last(node.metadata.as_ref()).await.map_or(0, |record| record.ended_ms);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let added = packs.added_bytes();
        if added != came {
            (came, changed) = (added, Instant::now());
        }
        let collectable = growth.look(Instant::now(), added, node.retention.current());
        let beyond = growth.beyond(node.retention.bound(growth.in_use));
        // What another master has just collected is not collected again. This is looked up soon after it has
        // ended, so that what is written afterwards counts.
        if collectable.max(beyond) > 0
            && let Ok(record) = last(node.metadata.as_ref()).await
            && record.ended_ms > seen_end
        {
            seen_end = record.ended_ms;
            outcome::forget_failure(&node);
            growth.collect(collectable, record.found.map_or(0, |found| found.live_bytes), added);
            collected = Instant::now();
            continue;
        }
        let is_due = growth.is_due(collectable)
            || beyond > 0
            || (collectable >= IDLE_BYTES && changed.elapsed() >= IDLE)
            || (collectable > 0 && collected.elapsed() >= COLLECT_AFTER);
        if !is_due || tried.elapsed() < growth.wait() {
            continue;
        }
        let turn = match Turn::begin(&node).await {
            Ok(Some(turn)) => Ok(turn),
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        let result = match turn {
            Ok(mut turn) => {
                let collected = turn.run(None, false, &|| growth.rest(collectable, beyond)).await;
                seen_end =
                    last(node.metadata.as_ref()).await.map_or(seen_end, |last| last.ended_ms);
                collected
            }
            Err(error) => Err(error),
        };
        tried = Instant::now();
        match result {
            Ok(done) => {
                let (deleted, bytes) = (done.deleted, done.deleted_bytes);
                tracing::info!(deleted, bytes, "collected objects that nothing needs");
                growth.collect(collectable, done.live_bytes, added);
                (growth.failures, collected) = (0, Instant::now());
            }
            Err(error) => {
                tracing::warn!(error, "the collection failed; it is tried again");
                growth.failures += 1;
            }
        }
    }
}
