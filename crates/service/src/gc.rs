//! Collection: finding the blocks that nothing needs any more, and deleting them.
//!
//! Mark and sweep while serving, docs/adr/0014. What is needed: everything reachable from the current
//! root of every bucket, from roots replaced within the retention, from roots that a request still
//! holds, and from content on its way in or out; and whatever a change in flight may have put. Marks lie
//! in the store's own index, so that memory does not grow with what is marked.
//!
//! # Invariants
//! - A block is deleted only if it was not marked, and was last put before the cut and before the
//!   oldest write in flight at the cut began (tested against `put` in one step by the store).
//! - Rows are read after the cut, and roots replaced since it are marked like current ones: so what
//!   a write links from a root it holds is reachable from a root that is marked.
//! - One tree node that cannot be read ends the collection, with nothing deleted.
//!
//! # Deliberately absent
//! A shared arbiter: other masters' writes are not known here.

use std::{sync::Arc, time::Duration};

use fula_core::{
    Block, BlockStore, Cid, Codec, StoreError,
    block::{Epoch, Position, require},
    bucket::BucketRoot,
    root::TimeMs,
};
use tokio::time::Instant;

use crate::{
    admin::fsck,
    arbiter::{Arbiter, Head},
    error::{Applied, ServiceError},
    fault_injection::{Fault, FaultInjection},
    pins::PinRegistry,
    service::Service,
};

/// How long changes that were begun before the cut are waited for; bodies on their way are not. What
/// was put since the oldest of those that take longer is left to the next collection.
const WRITES_WAIT: Duration = Duration::from_secs(10);

/// Blocks between two looks at the clock.
const STEP_BLOCKS: u32 = 32;

/// Work between two looks at whether requests want the processor: less would not be worth a rest,
/// which is a millisecond at least, and a place at the end of a long queue.
const STEP: Duration = Duration::from_micros(250);

/// Rows read at a time.
const PAGE: usize = 512;

/// How long root blocks alone are kept, for `fula roots log`.
const HISTORY_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// Most root blocks of one bucket kept for it.
const HISTORY_MAX: usize = 4096;

/// What a collection came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Collection {
    /// Roots that were walked.
    pub roots: u64,
    /// Blocks found in use.
    pub marked: u64,
    /// Blocks deleted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Whether writes took so long that what was put since they began was left alone.
    pub held_back: bool,
    /// Bytes that the store uses for blocks of current roots, and of requests.
    pub live_bytes: u64,
    /// Bytes of blocks that only roots within the retention need.
    pub retained_bytes: u64,
    /// Bytes of root blocks that are kept for the history alone.
    pub history_bytes: u64,
    /// When the first and the last of the retained blocks are no longer retained.
    pub released: Option<(TimeMs, TimeMs)>,
}

impl Service {
    /// Deletes the blocks of this store that nothing needs. Runs concurrently with requests: while any are
    /// in flight it sleeps `rest()` times the time that it has just worked, and asks again at every pause.
    /// Roots replaced within `retention` stay readable. One collection at a time runs; others wait for
    /// it.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: something cannot be read, and nothing was deleted; nor with
    /// [`ServiceError::Busy`]: a pointer is being read for too long.
    pub async fn collect(
        &self,
        retention: Duration,
        rest: &(dyn Fn() -> u32 + Sync),
    ) -> Result<Collection, ServiceError> {
        let _one_at_a_time = self.collecting.lock().await;
        let faults = self.committer.limits().faults;
        let mut collector = Collector::begin(self.arbiter(), faults, retention, rest).await?;
        collector.mark_all().await?;
        collector.sweep().await?;
        Ok(collector.done)
    }

    /// Finds out what a collection would find in use, and deletes nothing. It reads as much as a
    /// collection, and runs like one.
    ///
    /// # Errors
    /// As [`Self::collect`].
    pub async fn survey(
        &self,
        retention: Duration,
        rest: &(dyn Fn() -> u32 + Sync),
    ) -> Result<Collection, ServiceError> {
        let _one_at_a_time = self.collecting.lock().await;
        let faults = self.committer.limits().faults;
        let mut collector = Collector::begin(self.arbiter(), faults, retention, rest).await?;
        collector.mark_all().await?;
        Ok(collector.done)
    }

    /// Drops the rows of buckets that were deleted longer ago than `retention`, where the arbiter can do
    /// that; unless `all` is set, only if they are enough to be worth the work. Returns how many it
    /// dropped.
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`]: some may be gone all the same.
    pub async fn drop_deleted(&self, retention: Duration, all: bool) -> Result<u64, ServiceError> {
        let _one_at_a_time = self.collecting.lock().await;
        self.committer.drop_deleted(retention, all).await
    }
}

/// What keeps the blocks that are being marked.
#[derive(Clone, Copy, Debug)]
enum Keeper {
    /// A current root, or a request.
    Live,
    /// A root that was replaced within the retention, until this time.
    Retention(TimeMs),
    /// The history of a bucket.
    History,
}

struct Collector<'a> {
    arbiter: &'a Arbiter,
    blocks: &'a Arc<dyn BlockStore>,
    pin_registry: &'a PinRegistry,
    /// Marks of this collection carry it.
    cut: Epoch,
    /// Blocks put in this epoch or later stay.
    put_before: Epoch,
    /// Roots that were current at this time or later are marked in full.
    since: TimeMs,
    /// How long a root is kept after it was replaced, in milliseconds.
    retention: TimeMs,
    keeper: Keeper,
    /// When marking began.
    now: TimeMs,
    /// Heads that somebody held when marking began.
    held: Vec<Arc<Head>>,
    /// What content on its way hung on then.
    kept: Vec<Cid>,
    /// Rests this many times as long as it works.
    rest: &'a (dyn Fn() -> u32 + Sync),
    steps: u32,
    step_began: Instant,
    done: Collection,
}

impl<'a> Collector<'a> {
    async fn begin(
        arbiter: &'a Arbiter,
        faults: FaultInjection,
        retention: Duration,
        rest: &'a (dyn Fn() -> u32 + Sync),
    ) -> Result<Self, ServiceError> {
        let (blocks, pin_registry) = (arbiter.nodes().blocks(), arbiter.pins().as_ref());
        let cut = pin_registry.begin_epoch(blocks.as_ref());
        let (mut held_back, mut oldest) = (false, None);
        if !faults.has(Fault::CollectDespiteWrites) {
            let ended =
                tokio::time::timeout(WRITES_WAIT, pin_registry.writes_ended_before(cut)).await;
            (held_back, oldest) = (ended.is_err(), pin_registry.oldest_write());
        }
        let now = arbiter.now().await?;
        let is_blind = faults.has(Fault::CollectDespiteReaders);
        // Twice: a round that was judged before `now` and swaps while others are waited for lets go
        // of its base, which a look that begins meanwhile may still be told of.
        let mut held = if is_blind { Vec::new() } else { pin_registry.heads() };
        // A pointer read before this, and replaced before this, is that of a head that is noted by
        // then; one read later was current at `now` or later.
        if !faults.has(Fault::CollectDespiteReads) {
            let looked = tokio::time::timeout(WRITES_WAIT, pin_registry.reads_ended()).await;
            looked.map_err(|_| ServiceError::Busy(Applied::None))?;
        }
        if !is_blind {
            held.extend(pin_registry.heads());
        }
        // After the heads: a reader holds one until its content is kept.
        let is_blind = is_blind || faults.has(Fault::CollectDespiteWrites);
        let kept = if is_blind { Vec::new() } else { pin_registry.pinned_blocks() };
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let since = if faults.has(Fault::CollectJustReplaced) { TimeMs::MAX } else { now };
        Ok(Self {
            arbiter,
            blocks,
            pin_registry,
            cut,
            put_before: oldest.map_or(cut, |oldest| oldest.min(cut)),
            since: since.saturating_sub(retention),
            retention,
            keeper: Keeper::Live,
            now,
            held,
            kept,
            rest,
            steps: 0,
            step_began: Instant::now(),
            done: Collection { held_back, ..Collection::default() },
        })
    }

    /// Marks everything that is needed.
    async fn mark_all(&mut self) -> Result<(), ServiceError> {
        // Of history only the roots themselves are marked: whoever reads one comes first.
        for head in std::mem::take(&mut self.held) {
            self.mark_tree(head.row.pointer.root).await?;
        }
        for cid in std::mem::take(&mut self.kept) {
            match self.mark_tree(cid).await {
                // To be put yet.
                Err(StoreError::Missing { cid: missing }) if missing == cid => {}
                marked => marked?,
            }
        }
        let mut after = None;
        loop {
            let page = self.arbiter.scan_buckets(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.address.clone());
            for row in page {
                self.mark_bucket(row.pointer.root).await?;
            }
        }
        Ok(())
    }

    /// Marks a bucket's root, those it replaced lately, and the root blocks of its history.
    async fn mark_bucket(&mut self, current: Cid) -> Result<(), ServiceError> {
        let mut next = Some(current);
        // The time at which the root looked at was replaced; none for the current one.
        let mut replaced: Option<TimeMs> = None;
        for n in 0.. {
            let Some(cid) = next else { break };
            let block = match self.blocks.get(&cid).await? {
                Some(block) => block,
                None if n == 0 => return Err(StoreError::Missing { cid }.into()),
                // Collected before.
                None => break,
            };
            let root = BucketRoot::from_block(&block)?;
            let is_read = replaced.is_none_or(|time| time >= self.since);
            self.keeper = match replaced {
                None => Keeper::Live,
                Some(time) if is_read => Keeper::Retention(time.saturating_add(self.retention)),
                Some(_) => Keeper::History,
            };
            if is_read {
                match self.mark_tree(cid).await {
                    // Of a root that was replaced, an earlier collection with a shorter retention
                    // may have taken a part.
                    Err(StoreError::Missing { .. }) if n > 0 => break,
                    marked => marked?,
                }
            } else if n < HISTORY_MAX
                && replaced.is_some_and(|time| time.saturating_add(HISTORY_KEPT_MS) >= self.now)
            {
                self.mark(&[cid]);
            } else {
                break;
            }
            (next, replaced) = (root.parent, Some(root.time));
            self.step().await;
        }
        Ok(())
    }

    /// Marks everything that is reachable from a block.
    async fn mark_tree(&mut self, root: Cid) -> Result<(), StoreError> {
        self.done.roots += 1;
        let mut stack = self.mark(&[root]);
        while let Some(cid) = stack.pop() {
            let block: Block = require(self.blocks.as_ref(), &cid).await?;
            let links = fsck::links(&cid, &block)
                .map_err(|why| StoreError::Malformed { what: "block", why })?;
            stack.extend(self.mark(&links));
            self.step().await;
        }
        Ok(())
    }

    /// Marks blocks, and returns those that were not yet and that may link to others.
    fn mark(&mut self, cids: &[Cid]) -> Vec<Cid> {
        let mut fresh = self.blocks.mark(cids, self.cut);
        self.done.marked += fresh.len() as u64;
        self.account(self.blocks.used_bytes(&fresh));
        fresh.retain(|cid| cid.codec() != Codec::Raw);
        fresh
    }

    /// Counts bytes for what keeps them. Blocks that several roots need count for the first that is marked:
    /// of one bucket that is the newest.
    fn account(&mut self, bytes: u64) {
        let done = &mut self.done;
        match self.keeper {
            Keeper::Live => done.live_bytes += bytes,
            Keeper::History => done.history_bytes += bytes,
            Keeper::Retention(_) if bytes == 0 => {}
            Keeper::Retention(until) => {
                done.retained_bytes += bytes;
                let (first, last) = done.released.unwrap_or((until, until));
                done.released = Some((first.min(until), last.max(until)));
            }
        }
    }

    /// Deletes what is not marked.
    async fn sweep(&mut self) -> Result<(), ServiceError> {
        let mut from = Some(Position::default());
        while let Some(position) = from {
            let swept = self.blocks.sweep(position, self.cut, self.put_before).await?;
            self.done.deleted += swept.deleted;
            self.done.deleted_bytes += swept.bytes;
            from = swept.next;
            self.pause().await;
        }
        Ok(())
    }

    /// Makes way for requests now and then.
    async fn step(&mut self) {
        self.steps += 1;
        if self.steps < STEP_BLOCKS {
            return;
        }
        self.steps = 0;
        self.pause().await;
    }

    async fn pause(&mut self) {
        let worked = self.step_began.elapsed();
        if worked < STEP {
            return;
        }
        let rest = if self.pin_registry.is_busy() { (self.rest)() } else { 0 };
        if rest > 0 {
            tokio::time::sleep(worked * rest).await;
        } else {
            tokio::task::yield_now().await;
        }
        self.step_began = Instant::now();
    }
}
