//! An arbiter that loses messages on demand, on stores where power fails at every swap.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fula_core::{
    BucketAddress, BucketName, RootPointer, RootPointerStore, StoreError,
    conformance::hooks::{RootHooks, RootRead},
    error::SwapError,
    in_memory::{MemoryBlocks, MemoryRoots},
    root::{CasOutcome, NewRoot, RootRow, Stamped},
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// The fault of one swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The swap is applied, but the answer is lost.
    AnswerLost,
    /// The swap is never applied, and no answer comes.
    RequestLost,
    /// The swap is refused before it is sent.
    NotSent,
    /// The swap is applied. Its answer is lost, and the call waits until it is released.
    AnswerHeld,
    /// The swap is applied when it is released.
    Held,
    /// The same, and its thread blocks until then, as if it waited for a disk.
    ThreadHeld,
    /// No answer comes, and the swap is applied later.
    Late,
    /// Delayed swaps are applied just before this one.
    LateFirst,
}

/// A gate at which threads block.
#[derive(Debug, Default)]
pub(crate) struct Door {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    pub(crate) fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    /// Returns whether it was opened within ten seconds.
    fn wait(&self) -> bool {
        let is_shut = |is_open: &mut bool| !*is_open;
        let mut is_open = self.is_open.lock();
        self.opened.wait_while_for(&mut is_open, is_shut, Duration::from_secs(10));
        *is_open
    }
}

/// A swap that is on its way.
#[derive(Debug)]
struct Swap {
    bucket: BucketAddress,
    expected: Option<RootPointer>,
    new: NewRoot,
}

/// An arbiter in memory with faults. Before every swap it drops all blocks that were not synced, unless
/// it was made [`Self::with_power`], so that a root which is published before its blocks are durable is noticed.
#[derive(Debug)]
pub(crate) struct FaultyRoots {
    inner: MemoryRoots,
    blocks: Arc<MemoryBlocks>,
    keeps_power: bool,
    faults: Mutex<VecDeque<Fault>>,
    unreachable: AtomicBool,
    /// A bucket whose row cannot be read, although those of others can.
    lost: Mutex<Option<BucketName>>,
    late: Mutex<Vec<Swap>>,
    pub(crate) held: Notify,
    pub(crate) go_on: Notify,
    pub(crate) door: Door,
    pub(crate) swaps: AtomicU64,
    pub(crate) conflicts: AtomicU64,
}

impl FaultyRoots {
    pub(crate) fn new(blocks: &Arc<MemoryBlocks>) -> Arc<Self> {
        Self::make(blocks, false)
    }

    /// Returns an arbiter that drops no blocks. Masters on several threads need it: a swap of one would drop
    /// blocks that another has put and is about to sync, and a power cut would have ended that one, too.
    pub(crate) fn with_power(blocks: &Arc<MemoryBlocks>) -> Arc<Self> {
        Self::make(blocks, true)
    }

    fn make(blocks: &Arc<MemoryBlocks>, keeps_power: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryRoots::default(),
            blocks: Arc::clone(blocks),
            keeps_power,
            faults: Mutex::default(),
            unreachable: AtomicBool::new(false),
            lost: Mutex::default(),
            late: Mutex::default(),
            held: Notify::new(),
            go_on: Notify::new(),
            door: Door::default(),
            swaps: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
        })
    }

    /// Plans the faults of the next swaps, one for each.
    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().extend(faults);
    }

    fn planned(&self) -> Option<Fault> {
        self.faults.lock().front().copied()
    }

    pub(crate) fn backup(&self) -> fula_core::in_memory::MemoryBackup {
        self.inner.backup()
    }

    pub(crate) fn restore(&self, backup: fula_core::in_memory::MemoryBackup) {
        self.inner.restore(backup);
    }

    pub(crate) fn restore_quietly(&self, backup: fula_core::in_memory::MemoryBackup) {
        self.inner.restore_quietly(backup);
    }

    /// Sets the clock of the arbiter.
    pub(crate) fn set_time(&self, time_ms: u64) {
        self.inner.set_time(time_ms);
    }

    /// Removes the planned faults.
    pub(crate) fn clear(&self) {
        self.faults.lock().clear();
    }

    pub(crate) fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::SeqCst);
    }

    /// Makes reads of one bucket's row fail.
    pub(crate) fn lose(&self, bucket: BucketName) {
        *self.lost.lock() = Some(bucket);
    }

    /// Applies the delayed swaps. Returns their outcomes.
    pub(crate) async fn deliver_late(&self) -> Vec<CasOutcome> {
        let late: Vec<Swap> = std::mem::take(&mut *self.late.lock());
        let mut outcomes = Vec::new();
        for swap in late {
            let ended = self.inner.cas_root(&swap.bucket, swap.expected, &swap.new);
            outcomes.push(ended.await.unwrap().value);
        }
        outcomes
    }

    fn reach(&self) -> Result<(), StoreError> {
        if self.unreachable.load(Ordering::SeqCst) { Err(lost()) } else { Ok(()) }
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable { backend: "test", action: "anything", source: "cut".into() }
}

#[async_trait]
impl RootHooks for FaultyRoots {
    fn inner(&self) -> &MemoryRoots {
        &self.inner
    }

    async fn before(&self, _: RootRead) -> Result<(), StoreError> {
        self.reach()
    }

    async fn get(
        &self,
        buckets: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        let is_lost = |bucket: &BucketAddress| self.lost.lock().as_ref() == Some(&bucket.name);
        if buckets.iter().any(is_lost) {
            return Err(lost());
        }
        self.inner.get_roots(buckets).await
    }

    async fn swap(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        if self.planned() == Some(Fault::ThreadHeld) {
            assert!(self.door.wait(), "nobody opened the door");
        } else {
            tokio::task::yield_now().await;
        }
        self.reach().map_err(SwapError::Unknown)?;
        if !self.keeps_power {
            self.blocks.crash();
        }
        let fault = self.faults.lock().pop_front();
        match fault {
            Some(Fault::RequestLost) => return Err(SwapError::Unknown(lost())),
            Some(Fault::NotSent) => return Err(SwapError::NotSent(lost())),
            Some(Fault::LateFirst) => {
                let outcomes = self.deliver_late().await;
                assert_eq!(outcomes.first(), Some(&CasOutcome::Won), "nothing landed late");
            }
            Some(Fault::Late) => {
                let swap = Swap { bucket: bucket.clone(), expected, new: new.clone() };
                self.late.lock().push(swap);
                return Err(SwapError::Unknown(lost()));
            }
            Some(Fault::Held) => {
                self.held.notify_one();
                self.go_on.notified().await;
            }
            Some(Fault::AnswerLost | Fault::AnswerHeld | Fault::ThreadHeld) | None => {}
        }
        self.swaps.fetch_add(1, Ordering::SeqCst);
        let outcome = self.inner.cas_root(bucket, expected, new).await?;
        if matches!(outcome.value, CasOutcome::Conflict { .. }) {
            self.conflicts.fetch_add(1, Ordering::SeqCst);
        }
        match fault {
            Some(Fault::AnswerHeld) => {
                self.held.notify_one();
                self.go_on.notified().await;
                Err(SwapError::Unknown(lost()))
            }
            Some(Fault::LateFirst | Fault::Held | Fault::ThreadHeld) | None => Ok(outcome),
            Some(_) => Err(SwapError::Unknown(lost())),
        }
    }
}
