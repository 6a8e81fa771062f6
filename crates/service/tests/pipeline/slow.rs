//! Stores that are slow, can be full, and can be stopped at a point.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fula_core::{
    Block, BucketAddress, Cid, RootPointer, StoreError,
    block::{Epoch, Kept, Listed, Marked, Placement, Position, Swept, SyncMark, list_all},
    conformance::hooks::{RootHooks, RootRead},
    error::SwapError,
    in_memory::MemoryRoots,
    root::{CasOutcome, DeletedRow, DropTerms, NewRoot, RootRow, Stamped},
};
use fula_service::{
    BucketOwner, CompletePart, CompleteRequest, CopyRequest, CopySourceRequest,
    CreateUploadRequest, PutPartRequest, RequestPins,
    fault_injection::{Fault, FaultInjection},
    fsck,
};
use fula_testkit::rng::Rng;
use tokio::sync::watch;

use super::*;

pub(super) const OTHER: &str = "other";

/// Length of a body of more than one block.
pub(super) const LARGE: usize = (1 << 20) + 5;

/// Random delays, during which other tasks run.
#[derive(Debug)]
pub(super) struct Jitter(Option<Mutex<Rng>>);

impl Jitter {
    pub(super) async fn step(&self) {
        let Some(rng) = &self.0 else { return };
        let turns = {
            let mut rng = rng.lock().unwrap();
            // Some delays are so long that a whole collection runs.
            let most = if rng.below(16) == 0 { 600 } else { 4 };
            rng.below(most)
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

/// A slow block store in memory.
#[derive(Debug)]
pub(super) struct SlowBlocks {
    pub(super) inner: MemoryBlocks,
    jitter: Jitter,
    pub(super) unreadable: AtomicBool,
    /// Stops the first read of a block.
    pub(super) gets: Gate,
    /// Whether nothing more fits, and the placements of the puts since.
    pub(super) full: Mutex<Option<Vec<Placement>>>,
}

#[async_trait]
impl BlockStore for SlowBlocks {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        if let Some(asked) = &mut *self.full.lock().unwrap() {
            asked.push(placement);
            if placement != Placement::Removal {
                return Err(StoreError::Full { backend: "memory" });
            }
        }
        self.jitter.step().await;
        let put = self.inner.put(blocks, placement).await;
        self.jitter.step().await;
        put
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        self.jitter.step().await;
        self.inner.sync(mark).await
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if self.unreadable.load(Ordering::Relaxed) && cid.codec() == fula_core::Codec::DagPb {
            return Err(StoreError::Damaged { cid: *cid });
        }
        self.jitter.step().await;
        self.gets.pass_if_second().await;
        self.inner.get(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.inner.size(cid).await
    }

    fn advance_epoch(&self) -> Epoch {
        self.inner.advance_epoch()
    }

    fn mark(&self, cids: &[Cid], cut: Epoch, kept: Kept) -> Marked {
        self.inner.mark(cids, cut, kept)
    }

    async fn sweep(
        &self,
        from: Position,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        self.jitter.step().await;
        self.inner.sweep(from, cut, put_before).await
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.jitter.step().await;
        self.inner.list(from).await
    }
}

/// A gate at which tasks wait while it is closed.
#[derive(Debug)]
pub(super) struct Gate {
    is_closed: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { is_closed: watch::Sender::new(false), waiting: watch::Sender::new(0) }
    }
}

impl Gate {
    pub(super) fn close(&self) {
        self.is_closed.send_replace(true);
    }

    pub(super) fn open(&self) {
        self.is_closed.send_replace(false);
    }

    pub(super) async fn pass(&self) {
        if *self.is_closed.borrow() {
            self.waiting.send_modify(|waiting| *waiting += 1);
            self.is_closed.subscribe().wait_for(|closed| !closed).await.unwrap();
        }
    }

    /// Waits if the gate is closed and no task waits yet.
    pub(super) async fn pass_if_second(&self) {
        if *self.waiting.borrow() == 0 {
            self.pass().await;
        }
    }

    /// Returns once a task waits here.
    pub(super) async fn waited_at(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.unwrap();
    }
}

/// A slow arbiter in memory, whose clock advances with every call.
#[derive(Debug)]
pub(super) struct SlowRoots {
    pub(super) inner: MemoryRoots,
    jitter: Jitter,
    pub(super) time: AtomicU64,
    /// Stops answers to reads.
    pub(super) reads: Gate,
    /// Stops answers to listings of the buckets of an owner.
    pub(super) lists: Gate,
    pub(super) scans: Gate,
    /// Stops swaps of the first bucket.
    pub(super) swaps: Gate,
    pub(super) drops: Gate,
    /// Number of rows that were to be dropped and had changed.
    pub(super) kept: AtomicU64,
    /// Number of swaps whose row was gone.
    pub(super) vanished: AtomicU64,
    /// Number of swaps below the version floor.
    pub(super) below: AtomicU64,
}

impl SlowRoots {
    pub(super) fn tick(&self) {
        self.inner.set_time(self.time.fetch_add(1, Ordering::Relaxed));
    }
}

#[async_trait]
impl RootHooks for SlowRoots {
    fn inner(&self) -> &MemoryRoots {
        &self.inner
    }

    async fn before(&self, read: RootRead) -> Result<(), StoreError> {
        match read {
            RootRead::Get => {
                self.jitter.step().await;
                self.tick();
            }
            RootRead::Scan => {
                self.jitter.step().await;
                self.scans.pass().await;
            }
            RootRead::List
            | RootRead::Count
            | RootRead::Find
            | RootRead::Generation
            | RootRead::Floor => {}
        }
        Ok(())
    }

    async fn after(&self, read: RootRead) {
        match read {
            RootRead::Get => self.reads.pass_if_second().await,
            RootRead::List => self.lists.pass().await,
            _ => {}
        }
    }

    async fn swap(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        self.jitter.step().await;
        if bucket.name.as_str() == BUCKET {
            self.swaps.pass().await;
        }
        self.tick();
        let outcome = self.inner.cas_root(bucket, expected, new).await;
        let count = match outcome.as_ref().map(|stamped| &stamped.value) {
            Ok(CasOutcome::Conflict { current: None }) => Some(&self.vanished),
            Ok(CasOutcome::BelowFloor { .. }) => Some(&self.below),
            _ => None,
        };
        count.map(|count| count.fetch_add(1, Ordering::Relaxed));
        self.jitter.step().await;
        outcome
    }

    async fn drop_rows(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        let asked = rows.len();
        self.jitter.step().await;
        self.drops.pass().await;
        let dropped = self.inner.drop_roots(rows, terms).await?;
        self.kept.fetch_add((asked - dropped.len()) as u64, Ordering::Relaxed);
        self.jitter.step().await;
        Ok(dropped)
    }
}

/// A master whose requests have separate pins, as those over HTTP.
pub(super) struct World {
    pub(super) blocks: Arc<SlowBlocks>,
    pub(super) roots: Arc<SlowRoots>,
    pub(super) service: Service,
}

impl World {
    pub(super) async fn new(seed: Option<u64>, fault: Option<Fault>) -> Self {
        let mut seeds = seed.map(Rng::new);
        let mut jitter = || Jitter(seeds.as_mut().map(|rng| Mutex::new(rng.fork())));
        let (unreadable, time) = (AtomicBool::new(false), AtomicU64::new(1000));
        let inner = MemoryBlocks::default();
        let full = Mutex::default();
        let gets = Gate::default();
        let blocks = Arc::new(SlowBlocks { inner, jitter: jitter(), unreadable, gets, full });
        let inner = MemoryRoots::default();
        let roots = Arc::new(SlowRoots {
            inner,
            jitter: jitter(),
            time,
            reads: Gate::default(),
            lists: Gate::default(),
            scans: Gate::default(),
            swaps: Gate::default(),
            drops: Gate::default(),
            kept: AtomicU64::new(0),
            vanished: AtomicU64::new(0),
            below: AtomicU64::new(0),
        });
        // The cache is tiny, so that every read needs the block to be there.
        let limits = Limits {
            faults: FaultInjection(fault),
            cache_bytes: 1,
            heads_max: 1,
            ..Limits::default()
        };
        let nodes = Arc::new(Nodes::new(Arc::clone(&blocks) as _, limits.cache_bytes));
        let guard = RollbackGuard::new(None, true);
        let store: Arc<dyn RootPointerStore> = Arc::clone(&roots) as _;
        let arbiter = Arbiter::new(nodes, store, WriterId([1; 16]), &limits, guard);
        let draws = Mutex::new(Rng::new(seed.unwrap_or(0)));
        let random: fula_service::Random = Arc::new(move |bytes| {
            bytes.fill_with(|| draws.lock().unwrap().below(256).to_le_bytes()[0]);
        });
        let service = Service::new(arbiter, limits, random, NamePolicy::PerOwner);
        let world = Self { blocks, roots, service };
        for bucket in [BUCKET, OTHER] {
            world.service.create_bucket(&caller(), &bucket_name(bucket), None).await.unwrap();
        }
        world
    }

    pub(super) async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: BodyStream,
    ) -> Result<(), ServiceError> {
        let request = PutRequest {
            key: object_key(key),
            facts: ObjectFacts::default(),
            conditions: WriteConditions::default(),
            body,
            body_facts: body_facts(),
        };
        self.service.put_object(&caller(), &bucket_name(bucket), request).await.map(drop)
    }

    pub(super) async fn delete(&self, bucket: &str, key: &str) -> Result<(), ServiceError> {
        let request = DeleteKey { key: object_key(key), conditions: WriteConditions::default() };
        self.service.delete_object(&caller(), &bucket_name(bucket), request).await
    }

    pub(super) async fn copy(
        &self,
        from: (&str, &str),
        to: (&str, &str),
    ) -> Result<(), ServiceError> {
        let source = CopySourceRequest {
            owner: BucketOwner::Unsaid,
            bucket: bucket_name(from.0),
            key: object_key(from.1),
            version: None,
            conditions: ReadConditions::default(),
        };
        let conditions = WriteConditions::default();
        let request = CopyRequest {
            source,
            key: object_key(to.1),
            replace: None,
            tags: None,
            acl: None,
            checksum: None,
            encrypt: false,
            conditions,
        };
        self.service.copy_object(&caller(), &bucket_name(to.0), request).await.map(drop)
    }

    /// Uploads one part of more than a block, and completes the upload.
    pub(super) async fn upload(
        &self,
        bucket: &str,
        key: &str,
        byte: u8,
    ) -> Result<(), ServiceError> {
        let facts = ObjectFacts::default();
        let request = CreateUploadRequest { key: object_key(key), facts, checksum: None };
        let id =
            self.service.create_upload(&caller(), &bucket_name(bucket), request).await?.to_string();
        let put = PutPartRequest {
            key: object_key(key),
            id: id.clone(),
            number: 1,
            body: whole(vec![byte; LARGE]),
            body_facts: body_facts(),
        };
        let part = self.service.put_part(&caller(), &bucket_name(bucket), put).await?;
        let parts = vec![CompletePart { number: 1, etag: part.etag().to_string(), checksum: None }];
        let request = CompleteRequest {
            key: object_key(key),
            id,
            parts,
            conditions: WriteConditions::default(),
            checksum: None,
            size: None,
        };
        self.service.complete_upload(&caller(), &bucket_name(bucket), &request).await.map(drop)
    }

    pub(super) async fn get(&self, bucket: &str, key: &str) -> Result<Vec<u8>, ServiceError> {
        let caller = caller();
        let none = ReadConditions::default();
        let (bucket, key) = (bucket_name(bucket), object_key(key));
        let record = self.service.get_object(&caller, &bucket, &key, &none).await?.record;
        let parts: Vec<Bytes> =
            self.service.read(&caller, &record, 0..record.size).await?.try_collect().await?;
        Ok(parts.concat())
    }

    pub(super) async fn collect(&self) -> fula_service::Collection {
        self.service.collect(Duration::ZERO, &|| 4).await.unwrap()
    }

    pub(super) async fn rows(&self) -> Vec<RootRow> {
        self.roots.inner.scan_roots(None, 100).await.unwrap().value
    }

    /// Returns the problems of all buckets.
    pub(super) async fn problems(&self) -> Vec<fsck::Problem> {
        let (mut problems, mut seen) = (Vec::new(), fsck::Checked::default());
        for row in self.rows().await {
            let nodes = self.service.arbiter().nodes();
            problems.extend(fsck::check_bucket(nodes, &row, &mut seen).await.unwrap().problems);
        }
        problems
    }

    pub(super) async fn count(&self) -> usize {
        list_all(&self.blocks.inner).await.unwrap().len()
    }
}

pub(super) fn caller() -> Caller {
    Caller { pins: RequestPins::default(), ..Caller::of(Identity::of_user("key:test")) }
}

pub(super) fn whole(body: Vec<u8>) -> BodyStream {
    Box::pin(futures::stream::iter([Ok(Bytes::from(body))]))
}
