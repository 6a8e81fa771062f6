//! Masters that share blocks and collect them, on an arbiter that can be restored.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use fula_core::{
    Block, Cid, MetadataStore, RootPointer, StoreError,
    block::{Epoch, Kept, Listed, Marked, Placement, Position, Swept, SyncMark},
    conformance::hooks::{RootHooks, RootRead},
    error::SwapError,
    in_memory::{MemoryBackup, MemoryMetadata, MemoryRoots, Records},
    root::{CasOutcome, DeletedRow, DropTerms, NewRoot, RootRow, Stamped},
};
use fula_service::{
    Collection, Recovery,
    fault_injection::{Fault, FaultInjection},
    fsck,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use crate::{regression::Member, *};

/// An arbiter with a clock, at which a collection can be held after it has read the rows.
#[derive(Debug)]
struct Gated {
    inner: MemoryRoots,
    began: Instant,
    /// Milliseconds by which its clock is ahead of that of the test.
    ahead: AtomicU64,
    /// Whether it forgets the version floor after each drop.
    forgets_floor: AtomicBool,
    /// Whether its tables are empty for now, as while a restore fills them.
    is_empty: AtomicBool,
    is_shut: AtomicBool,
    reached: Notify,
    opened: Notify,
}

impl Gated {
    fn tick(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap();
        let ahead = self.ahead.load(Ordering::SeqCst);
        self.inner.set_time(1_700_000_000_000 + elapsed + ahead);
    }
}

#[async_trait]
impl RootHooks for Gated {
    fn inner(&self) -> &MemoryRoots {
        &self.inner
    }

    async fn before(&self, _: RootRead) -> Result<(), StoreError> {
        self.tick();
        Ok(())
    }

    async fn get(
        &self,
        buckets: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        let mut found = self.inner.get_roots(buckets).await?;
        if self.is_empty.load(Ordering::SeqCst) {
            found.value.fill(None);
        }
        Ok(found)
    }

    async fn after(&self, read: RootRead) {
        if read == RootRead::Scan && self.is_shut.swap(false, Ordering::SeqCst) {
            self.reached.notify_one();
            self.opened.notified().await;
        }
    }

    async fn swap(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        self.tick();
        self.inner.cas_root(bucket, expected, new).await
    }

    async fn drop_rows(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        self.tick();
        let dropped = self.inner.drop_roots(rows, terms).await?;
        if self.forgets_floor.load(Ordering::SeqCst) {
            self.inner.forget_floor();
        }
        Ok(dropped)
    }
}

/// The blocks that all masters share, as one of them sees them.
#[derive(Debug)]
struct SharedBlocks {
    inner: Arc<MemoryBlocks>,
    generation: AtomicU64,
    marked: Mutex<HashSet<Cid>>,
}

impl SharedBlocks {
    fn epoch(&self) -> Epoch {
        Epoch(u32::try_from(self.generation.load(Ordering::SeqCst)).unwrap())
    }
}

#[async_trait]
impl BlockStore for SharedBlocks {
    async fn put(&self, blocks: &[Block], _: Placement) -> Result<SyncMark, StoreError> {
        self.inner.put_under(blocks, self.epoch())
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        self.inner.sync(mark).await
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.inner.get(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.inner.size(cid).await
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.inner.list(from).await
    }

    fn generation(&self) -> Option<u64> {
        Some(self.generation.load(Ordering::SeqCst))
    }

    fn observe_generation(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::SeqCst);
    }

    fn advance_epoch(&self) -> Epoch {
        self.marked.lock().clear();
        self.epoch()
    }

    fn mark(&self, cids: &[Cid], _: Epoch, _: Kept) -> Marked {
        let mut marked = self.marked.lock();
        let fresh = cids.iter().filter(|cid| marked.insert(**cid)).copied().collect();
        Marked { fresh, bytes: 0 }
    }

    async fn sweep(&self, _: Position, _: Epoch, before: Epoch) -> Result<Swept, StoreError> {
        let deleted = self.inner.delete_before(before, &self.marked.lock(), usize::MAX) as u64;
        Ok(Swept { deleted, ..Swept::default() })
    }
}

/// An earlier state of the arbiter: its pointers and its records.
#[derive(Clone)]
pub(crate) struct Backup(MemoryBackup, Records);

/// One arbiter and one store of blocks, and the rule that all masters leave out, if any.
pub(crate) struct Federation {
    blocks: Arc<MemoryBlocks>,
    roots: Arc<Gated>,
    metadata: Arc<MemoryMetadata>,
    faults: FaultInjection,
}

impl Federation {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        let metadata: Arc<MemoryMetadata> = Arc::default();
        let roots = Gated {
            inner: MemoryRoots::with_leases(Arc::clone(&metadata)),
            began: Instant::now(),
            ahead: AtomicU64::new(0),
            forgets_floor: AtomicBool::new(false),
            is_empty: AtomicBool::new(false),
            is_shut: AtomicBool::new(false),
            reached: Notify::new(),
            opened: Notify::new(),
        };
        let faults = FaultInjection(fault);
        Self { blocks: Arc::default(), roots: Arc::new(roots), metadata, faults }
    }

    /// Starts a master that remembers nothing. It has a lease, and does nothing by itself.
    pub(crate) async fn join(&self, writer: u8) -> Member {
        self.join_with(writer, &crate::regression::memory()).await
    }

    /// Starts a master that remembers what is in `memory`.
    pub(crate) async fn join_with(&self, writer: u8, memory: &Arc<dyn MetadataStore>) -> Member {
        let memory = Arc::clone(memory);
        let guard = RollbackGuard::open(Some(Arc::clone(&memory))).await.unwrap();
        let master = self.master(writer, guard);
        let (metadata, arbiter) = (Arc::clone(&self.metadata), master.service.arbiter().clone());
        let (random, names) = (system_random(), NamePolicy::PerOwner);
        let opened = Recovery::open(arbiter, metadata, memory, &random, names, true);
        let recovery = opened.await.unwrap();
        recovery.beat().await.unwrap();
        Member { master, recovery }
    }

    fn master(&self, writer: u8, guard: RollbackGuard) -> Master {
        let (generation, marked) = Default::default();
        let blocks = SharedBlocks { inner: Arc::clone(&self.blocks), generation, marked };
        let limits = Limits { faults: self.faults, ..Limits::default() };
        let nodes = Arc::new(Nodes::new(Arc::new(blocks), 1 << 20));
        let (roots, writer) = (Arc::clone(&self.roots) as _, WriterId([writer; 16]));
        let arbiter = Arbiter::new(nodes, roots, writer, &limits, guard);
        let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
        Master { service, user: Caller::of(Identity::of_user("key:test")) }
    }

    /// Lets the arbiter's clock go on.
    pub(crate) fn pass(&self, time: Duration) {
        let ahead = u64::try_from(time.as_millis()).unwrap();
        self.roots.ahead.fetch_add(ahead, Ordering::SeqCst);
    }

    /// Lets the arbiter forget its version floor after each drop.
    pub(crate) fn forget_floors(&self) {
        self.roots.forgets_floor.store(true, Ordering::SeqCst);
    }

    /// Empties the tables of the arbiter, or fills them again.
    pub(crate) fn set_empty(&self, is_empty: bool) {
        self.roots.is_empty.store(is_empty, Ordering::SeqCst);
    }

    /// Returns the version of a bucket, also of a deleted one; `None` if it has no row.
    pub(crate) async fn version_of(&self, bucket: &BucketAddress) -> Option<u64> {
        let found = self.roots.inner.get_roots(std::slice::from_ref(bucket)).await.unwrap();
        found.value.into_iter().next().flatten().map(|row| row.pointer.version)
    }

    pub(crate) fn backup(&self) -> Backup {
        Backup(self.roots.inner.backup(), self.metadata.backup())
    }

    /// Restores the arbiter. Its mark shows that.
    pub(crate) fn restore(&self, Backup(roots, records): Backup) {
        self.roots.inner.restore(roots);
        self.metadata.restore(records);
    }

    /// Restores the arbiter. Only versions and authors show that.
    pub(crate) fn restore_quietly(&self, Backup(roots, records): Backup) {
        self.roots.inner.restore_quietly(roots);
        self.metadata.restore(records);
    }

    /// Begins a collection, and holds it once it has read the rows. Returns what ends it.
    pub(crate) async fn collect_until_rows_are_read(&self, member: &Member) -> Collecting<'_> {
        self.roots.is_shut.store(true, Ordering::SeqCst);
        let (service, recovery) = (member.master.service.clone(), member.recovery.clone());
        let task = tokio::spawn(async move { collect_with(&service, &recovery).await });
        self.roots.reached.notified().await;
        Collecting { roots: &self.roots, task }
    }

    /// Returns what every bucket lacks.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for row in self.roots.inner.scan_roots(None, 1000).await.unwrap().value {
            let blocks: Arc<dyn BlockStore> = Arc::clone(&self.blocks) as _;
            let (nodes, mut seen) = (Nodes::new(blocks, 1 << 20), fsck::Checked::default());
            let report = fsck::check_bucket(&nodes, &row, &mut seen).await.unwrap();
            problems.extend(report.problems.iter().map(|found| format!("{found:?}")));
        }
        problems
    }

    /// Reads an object on a master that has nothing in memory.
    pub(crate) async fn read(&self, key: &str) -> Result<Vec<u8>, ServiceError> {
        self.master(99, RollbackGuard::new(None, true)).get(key).await
    }
}

/// A collection that has read the rows.
pub(crate) struct Collecting<'a> {
    roots: &'a Gated,
    task: JoinHandle<Result<Collection, ServiceError>>,
}

impl Collecting<'_> {
    pub(crate) async fn go_on(self) -> Result<Collection, ServiceError> {
        self.roots.opened.notify_one();
        self.task.await.unwrap()
    }
}

async fn collect_with(service: &Service, recovery: &Recovery) -> Result<Collection, ServiceError> {
    service.collect_shared(Some(recovery), Duration::ZERO, &|| 0).await
}

/// Collects everything that was replaced and is not needed.
pub(crate) async fn collect(member: &Member) -> Result<Collection, ServiceError> {
    collect_with(&member.master.service, &member.recovery).await
}

/// Lets a master look at the arbiter every second, until the task is aborted.
pub(crate) fn run(member: &Member) -> JoinHandle<()> {
    tokio::spawn(member.recovery.clone().run())
}

/// Waits until what was replaced before is older than every reader.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_secs(40)).await;
}
