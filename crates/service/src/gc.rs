//! Garbage collection: finds the blocks that nothing needs any more, and deletes them.
//!
//! It is a mark and sweep that runs while the gateway serves (docs/adr/0014). A block is needed if
//! - it is reachable from the current root of a bucket, or from a root replaced within the retention;
//! - it is reachable from a root that a request holds, or from content on its way in or out; or
//! - a change in flight may have put it.
//!
//! Marks are kept in the store's own index, so memory does not grow with their number.
//!
//! # Invariants
//! - A block is deleted only if it was not marked, and was last put before the cut and before the oldest
//!   write in flight at the cut began. The store checks this and deletes in one step with respect to `put`.
//! - Rows are read after the cut, and roots that were replaced since are marked like current ones. So
//!   everything that a write links from a root which it holds is reachable from a marked root.
//! - What is marked has everything below it marked, too, except the root blocks of the history and what is
//!   missing. So a walk may stop at a marked block, unless it begins there.
//! - A tree node that cannot be read ends the collection, and nothing is deleted.
//!
//! Where masters share blocks, the arbiter's generation tells what other masters have put since a collection
//! began, and their leases tell what they need ([`shared`], docs/adr/0042).

mod shared;

use std::{sync::Arc, time::Duration};

use fula_core::{
    BlockStore, Cid, Codec, StoreError,
    block::{AGES, Epoch, Kept, KeptBytes, Marked, Position, require},
    bucket::BucketRoot,
    root::TimeMs,
};
use futures::future::join_all;
use tokio::time::Instant;

use crate::{
    admin::fsck,
    arbiter::{Arbiter, Begun, Head, Recovery},
    error::{Applied, ServiceError},
    fault_injection::{Fault, FaultInjection},
    pins::PinRegistry,
    service::Service,
};

/// Longest wait for changes that began before the cut, not counting bodies on their way. If some take
/// longer, the blocks that were put since the oldest of them began are left to the next collection.
const WRITES_WAIT: Duration = Duration::from_secs(10);

/// Number of blocks that are read at a time: in a distant store, reads take much longer than what follows.
const READ_AT_ONCE: usize = 16;

/// Number of blocks between two checks of the clock.
const STEP_BLOCKS: u32 = 32;

/// Working time after which the collector checks whether requests need the processor. A pause takes a
/// millisecond or more, so pausing after less work would not be worthwhile.
const STEP: Duration = Duration::from_micros(250);

/// Number of blocks of storage holds that are marked at a time.
const KEPT_CHUNK: usize = 256;

/// Number of rows that are read at a time.
const PAGE: usize = 512;

/// Time for which root blocks are kept for `fula roots log`, in milliseconds.
const HISTORY_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// Largest number of root blocks of one bucket that are kept for it.
const HISTORY_MAX: usize = 4096;

/// The result of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Collection {
    /// Number of roots that were walked.
    pub roots: u64,
    /// Number of blocks found in use.
    #[serde(rename = "marked_blocks")]
    pub marked: u64,
    /// Number of blocks deleted.
    #[serde(rename = "deleted_blocks")]
    pub deleted: u64,
    /// Bytes of the deleted blocks.
    pub deleted_bytes: u64,
    /// Whether writes took so long that blocks put since they began were left to the next collection.
    pub held_back: bool,
    /// Bytes that the store uses for blocks of current roots and of requests.
    pub live_bytes: u64,
    /// Bytes of blocks that are needed only by roots within the retention.
    pub retained_bytes: u64,
    /// The same, by parts of the retention, the youngest part first.
    #[serde(skip)]
    pub retained_by_age: [u64; AGES as usize],
    /// Bytes of root blocks that are kept only for the history.
    pub history_bytes: u64,
    /// Number of blocks in use that the store does not have, where masters share blocks.
    #[serde(default)]
    pub missing: u64,
    /// Times at which the retention of the first and of the last retained block ends, in milliseconds since
    /// 1970.
    #[serde(rename = "released_ms")]
    pub released: Option<(TimeMs, TimeMs)>,
    /// The retention of this collection in milliseconds.
    #[serde(default)]
    pub retention_ms: u64,
}

impl Collection {
    fn count(&mut self, kept: &KeptBytes) {
        self.live_bytes += kept.now;
        self.history_bytes += kept.history;
        self.retained_bytes += kept.all_retained();
        for (own, other) in self.retained_by_age.iter_mut().zip(kept.retained) {
            *own += other;
        }
    }
}

impl Service {
    /// Deletes the blocks of this store that nothing needs. Runs concurrently with requests: while any are
    /// in flight, it sleeps `rest()` times the time that it has just worked, and calls `rest` again at
    /// every pause. Roots that were replaced within `retention` stay readable. Only one collection runs at
    /// a time; further calls wait for it.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: something cannot be read. [`ServiceError::Busy`]: the read of a pointer
    /// takes too long. In both cases nothing was deleted.
    pub async fn collect(
        &self,
        retention: Duration,
        rest: &(dyn Fn() -> u32 + Sync),
    ) -> Result<Collection, ServiceError> {
        self.require_collecting()?;
        let _one_at_a_time = self.collecting.lock().await;
        let faults = self.committer.limits().faults;
        let mut collector = Collector::begin(self.arbiter(), faults, retention, rest, None).await?;
        collector.mark_all().await?;
        collector.sweep(None).await?;
        Ok(collector.done)
    }

    /// Determines what a collection would find in use, and deletes nothing. It reads as much as a
    /// collection.
    ///
    /// # Errors
    /// The errors of [`Self::collect`].
    pub async fn survey(
        &self,
        retention: Duration,
        rest: &(dyn Fn() -> u32 + Sync),
    ) -> Result<Collection, ServiceError> {
        let _one_at_a_time = self.collecting.lock().await;
        let faults = self.committer.limits().faults;
        let mut collector = Collector::begin(self.arbiter(), faults, retention, rest, None).await?;
        collector.mark_all().await?;
        Ok(collector.done)
    }

    /// Drops the rows of buckets that were deleted longer ago than `retention`, if the arbiter supports
    /// that. Unless `all` is set, it does so only if there are enough of them to justify the work. Returns
    /// the number of dropped rows.
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`]: some rows may be dropped all the same.
    pub async fn drop_deleted(&self, retention: Duration, all: bool) -> Result<u64, ServiceError> {
        self.require_collecting()?;
        let _one_at_a_time = self.collecting.lock().await;
        self.committer.drop_deleted(retention, all).await
    }
}

impl Service {
    /// Drops the rows of buckets that were deleted longer ago than `retention` and than 30 days, where masters
    /// share the arbiter. Unless `now` is set, it does so at most once an hour. Returns the number of dropped rows.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: a master is away, or the arbiter; [`ServiceError::Regressed`]. Some rows may
    /// be dropped all the same.
    pub async fn drop_deleted_shared(
        &self,
        recovery: &Recovery,
        retention: Duration,
        now: bool,
    ) -> Result<u64, ServiceError> {
        self.require_collecting()?;
        let _one_at_a_time = self.collecting.lock().await;
        self.committer.drop_deleted_shared(recovery, retention, now).await
    }
}

impl Service {
    /// Refuses to delete anything where collections are off.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    fn require_collecting(&self) -> Result<(), ServiceError> {
        if self.committer.limits().collects {
            return Ok(());
        }
        Err(ServiceError::unavailable("garbage is not collected, because FULA_COLLECT is off"))
    }
}

struct Collector<'a> {
    arbiter: &'a Arbiter,
    blocks: &'a Arc<dyn BlockStore>,
    pin_registry: &'a PinRegistry,
    faults: FaultInjection,
    /// Epoch of this collection, which its marks carry.
    cut: Epoch,
    /// Blocks that were put in this epoch or later stay.
    put_before: Epoch,
    /// Roots that were current at this time or later are marked with everything below them.
    since: TimeMs,
    /// Time for which a root is kept after it was replaced, in milliseconds.
    retention: TimeMs,
    /// The reason why the blocks that are being marked are kept, and when that of [`Kept::Retained`] ends.
    kept_for: (Kept, TimeMs),
    /// Time at which marking began.
    now: TimeMs,
    /// Heads that were in use when marking began.
    held: Vec<Arc<Head>>,
    /// Blocks on which content on its way depended at that time.
    kept: Vec<Cid>,
    /// Returns the factor by which pauses are longer than the work before them.
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
        shared: Option<Begun>,
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
        // The heads are read twice. A round that began before `now` may swap while this waits for others,
        // and then release its base. A pointer read that began in the meantime may still return that base.
        let mut held = if is_blind { Vec::new() } else { pin_registry.heads() };
        // A pointer that was read and replaced before this belongs to a head that is registered by then.
        // One that is read later was current at `now` or later.
        if !faults.has(Fault::CollectDespiteReads) {
            let looked = tokio::time::timeout(WRITES_WAIT, pin_registry.reads_ended()).await;
            looked.map_err(|_| ServiceError::Busy(Applied::None))?;
        }
        if !is_blind {
            held.extend(pin_registry.heads());
        }
        // This comes after the heads: a reader holds its head until its content is pinned.
        let is_blind = is_blind || faults.has(Fault::CollectDespiteWrites);
        let kept = if is_blind { Vec::new() } else { pin_registry.pinned_blocks() };
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let since = if faults.has(Fault::CollectJustReplaced) { TimeMs::MAX } else { now };
        let put_before = oldest.map_or(cut, |oldest| oldest.min(cut));
        if shared.is_some() {
            // Readers are known by the time at which they began, and many heads are only cached.
            held.clear();
        }
        let reads_since = shared.map_or(TimeMs::MAX, |begun| begun.reads_since);
        Ok(Self {
            arbiter,
            blocks,
            pin_registry,
            faults,
            cut,
            put_before: shared.map_or(put_before, |begun| begun.bound),
            since: since.saturating_sub(retention).min(reads_since),
            retention,
            kept_for: (Kept::Now, TimeMs::MAX),
            now,
            held,
            kept,
            rest,
            steps: 0,
            step_began: Instant::now(),
            done: Collection { held_back, retention_ms: retention, ..Collection::default() },
        })
    }

    /// Marks everything that is needed.
    ///
    /// Rows come first. The walk of a large bucket takes long, and every root that was made until a row is read
    /// would have to be walked as well, while all that it adds was put after the cut.
    async fn mark_all(&mut self) -> Result<(), ServiceError> {
        let mut after = None;
        loop {
            let page = self.arbiter.scan_buckets(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.address.clone());
            for row in page {
                self.mark_bucket(row.pointer.root).await?;
            }
        }
        self.kept_for = (Kept::Now, TimeMs::MAX);
        for head in std::mem::take(&mut self.held) {
            self.mark_tree(head.row.pointer.root).await?;
        }
        for cid in std::mem::take(&mut self.kept) {
            match self.mark_tree(cid).await {
                // The block has not been put yet.
                Err(StoreError::Missing { cid: missing }) if missing == cid => {}
                marked => marked?,
            }
        }
        // They are asked for after the cut: what is held later is put later, too. Nothing below them is needed.
        for cids in self.pin_registry.kept_blocks().chunks(KEPT_CHUNK) {
            self.mark(cids);
            self.step().await;
        }
        Ok(())
    }

    /// Marks a bucket's root, the roots that it replaced lately, and the root blocks of its history.
    async fn mark_bucket(&mut self, current: Cid) -> Result<(), ServiceError> {
        let mut next = Some(current);
        // Time at which the examined root was replaced; `None` for the current root.
        let mut replaced: Option<TimeMs> = None;
        for n in 0.. {
            let Some(cid) = next else { break };
            let block = match self.blocks.get(&cid).await? {
                Some(block) => block,
                None if n == 0 => return Err(StoreError::Missing { cid }.into()),
                // An earlier collection has deleted it.
                None => break,
            };
            let root = BucketRoot::from_block(&block)?;
            let is_read = replaced.is_none_or(|time| time >= self.since);
            self.kept_for = match replaced {
                None => (Kept::Now, TimeMs::MAX),
                Some(time) if is_read => self.retained(time),
                Some(_) => (Kept::History, TimeMs::MAX),
            };
            if is_read {
                match self.mark_tree(cid).await {
                    // An earlier collection with a shorter retention may have deleted a part of a root that
                    // was replaced.
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

    /// Marks everything that is reachable from a block. The block itself is read although it may be marked: of
    /// a root in the history nothing else is.
    ///
    /// If blocks are missing, everything that is there is marked all the same before the error: another root
    /// may need it, and what is marked is not walked again.
    async fn mark_tree(&mut self, root: Cid) -> Result<(), StoreError> {
        self.done.roots += 1;
        let mut stack = self.mark(&[root]);
        if stack.is_empty()
            && root.codec() != Codec::Raw
            && !self.faults.has(Fault::CollectMarkedRoots)
        {
            stack.push(root);
        }
        let mut missing = Ok(());
        while !stack.is_empty() {
            let next = stack.split_off(stack.len().saturating_sub(READ_AT_ONCE));
            let blocks = Arc::clone(self.blocks);
            let reads = next.iter().map(|cid| require(blocks.as_ref(), cid));
            for block in join_all(reads).await {
                let block = match block {
                    Err(lost @ StoreError::Missing { .. })
                        if !self.faults.has(Fault::CollectHalfMarked) =>
                    {
                        missing = missing.and(Err(lost));
                        continue;
                    }
                    read => read?,
                };
                let links = fsck::links(&block.cid(), &block)
                    .map_err(|why| StoreError::Malformed { what: "block", why })?;
                stack.extend(self.mark(&links));
                self.step().await;
            }
        }
        missing
    }

    /// Returns why the blocks of a root that was replaced at a time are kept, and until when.
    fn retained(&self, replaced: TimeMs) -> (Kept, TimeMs) {
        let age = self.now.saturating_sub(replaced).saturating_mul(u64::from(AGES));
        // A root that a request may still read is kept although the retention is over.
        let age = age.checked_div(self.retention).unwrap_or(u64::MAX);
        let age = u8::try_from(age).unwrap_or(u8::MAX);
        (Kept::Retained(age), replaced.saturating_add(self.retention))
    }

    /// Marks blocks. Returns those that were not marked before and may have links.
    fn mark(&mut self, cids: &[Cid]) -> Vec<Cid> {
        let Marked { mut fresh, bytes } = self.blocks.mark(cids, self.cut, self.kept_for.0);
        self.done.marked += fresh.len() as u64;
        self.account(bytes);
        fresh.retain(|cid| cid.codec() != Codec::Raw);
        fresh
    }

    /// Adds bytes to the account of the current reason. A block that several roots need counts for the
    /// first one that is marked; for one bucket that is the newest.
    fn account(&mut self, bytes: u64) {
        let (kept, until) = self.kept_for;
        let mut counted = KeptBytes::default();
        counted.add(kept, bytes);
        self.done.count(&counted);
        if bytes > 0 && matches!(kept, Kept::Retained(_)) {
            let (first, last) = self.done.released.unwrap_or((until, until));
            self.done.released = Some((first.min(until), last.max(until)));
        }
    }

    /// Deletes the blocks that are not marked.
    async fn sweep(&mut self, shared: Option<(&Recovery, &Begun)>) -> Result<(), ServiceError> {
        let mut from = Some(Position::default());
        while let Some(position) = from {
            if let Some((recovery, begun)) = shared {
                recovery.may_go_on(begun).await?;
            }
            let swept = self.blocks.sweep(position, self.cut, self.put_before).await?;
            self.done.deleted += swept.deleted;
            self.done.deleted_bytes += swept.bytes;
            self.done.count(&swept.kept);
            self.done.missing += swept.missing;
            from = swept.next;
            self.pause().await;
        }
        Ok(())
    }

    /// Pauses from time to time, so that requests are served.
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
