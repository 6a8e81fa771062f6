//! Collection while serving: what is needed stays, what is not goes, and each rule is missed when
//! it is left out.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fula_core::{
    Block, BucketName, Cid, OwnerId, RootPointer, StoreError,
    block::{Epoch, Placement, SyncMark},
    error::SwapError,
    memory::MemoryRoots,
    root::{CasOutcome, NewRoot, RootRow, Stamped},
};
use fula_service::{
    BucketOwner, CompletePart, CompleteRequest, CopyRequest, CopySourceRequest,
    CreateUploadRequest, Stake,
    flaw::{Flaw, Flaws},
    fsck, history,
};
use fula_testkit::rng::Rng;
use futures::{StreamExt, future::join_all};
use tokio::sync::watch;

use super::*;

const OTHER: &str = "other";

/// More than one block.
const LARGE: usize = (1 << 20) + 5;

/// Lets others go first, as often as chance says.
#[derive(Debug)]
struct Jitter(Option<Mutex<Rng>>);

impl Jitter {
    async fn step(&self) {
        let Some(rng) = &self.0 else { return };
        let turns = {
            let mut rng = rng.lock().unwrap();
            // Now and then so long that a whole collection passes by.
            let most = if rng.below(16) == 0 { 600 } else { 4 };
            rng.below(most)
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

/// Blocks in memory that take their time.
#[derive(Debug)]
struct SlowBlocks {
    inner: MemoryBlocks,
    jitter: Jitter,
    unreadable: AtomicBool,
    /// Whether nothing more fits, and what was put since.
    full: Mutex<Option<Vec<Placement>>>,
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
        self.inner.get(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.inner.size(cid).await
    }

    fn advance_epoch(&self) -> Epoch {
        self.inner.advance_epoch()
    }

    fn mark(&self, cids: &[Cid], cut: Epoch) -> Vec<Cid> {
        self.inner.mark(cids, cut)
    }

    async fn delete_if(
        &self,
        cid: &Cid,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<bool, StoreError> {
        self.jitter.step().await;
        self.inner.delete_if(cid, cut, put_before).await
    }

    async fn list(&self, after: Option<Cid>, limit: usize) -> Result<Vec<(Cid, u64)>, StoreError> {
        self.jitter.step().await;
        self.inner.list(after, limit).await
    }
}

/// A place where whoever comes waits while it is closed.
#[derive(Debug)]
struct Gate {
    is_closed: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { is_closed: watch::Sender::new(false), waiting: watch::Sender::new(0) }
    }
}

impl Gate {
    fn close(&self) {
        self.is_closed.send_replace(true);
    }

    fn open(&self) {
        self.is_closed.send_replace(false);
    }

    async fn pass(&self) {
        if *self.is_closed.borrow() {
            self.waiting.send_modify(|waiting| *waiting += 1);
            self.is_closed.subscribe().wait_for(|closed| !closed).await.unwrap();
        }
    }

    /// Waits if it is closed and nobody waits yet.
    async fn pass_if_second(&self) {
        if *self.waiting.borrow() == 0 {
            self.pass().await;
        }
    }

    /// Returns once somebody waits here.
    async fn waited_at(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.unwrap();
    }
}

/// An arbiter in memory that takes its time, and whose clock goes on with every question.
#[derive(Debug)]
struct SlowRoots {
    inner: MemoryRoots,
    jitter: Jitter,
    time: AtomicU64,
    /// Of answers to those who read.
    reads: Gate,
    scans: Gate,
    /// Of swaps of the first bucket.
    swaps: Gate,
}

impl SlowRoots {
    fn tick(&self) {
        self.inner.set_time(self.time.fetch_add(1, Ordering::Relaxed));
    }
}

#[async_trait]
impl RootPointerStore for SlowRoots {
    async fn get_roots(
        &self,
        names: &[(OwnerId, BucketName)],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        self.jitter.step().await;
        self.tick();
        let rows = self.inner.get_roots(names).await;
        self.reads.pass_if_second().await;
        rows
    }

    async fn cas_root(
        &self,
        owner: OwnerId,
        bucket: &BucketName,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        self.jitter.step().await;
        if bucket.as_str() == BUCKET {
            self.swaps.pass().await;
        }
        self.tick();
        let outcome = self.inner.cas_root(owner, bucket, expected, new).await;
        self.jitter.step().await;
        outcome
    }

    fn covered_by_swap(&self, mark: SyncMark) -> SyncMark {
        self.inner.covered_by_swap(mark)
    }

    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        self.inner.list_roots(owner, after, limit).await
    }

    async fn scan_roots(
        &self,
        after: Option<&(OwnerId, BucketName)>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        self.jitter.step().await;
        self.scans.pass().await;
        self.inner.scan_roots(after, limit).await
    }

    async fn find_bucket(
        &self,
        bucket: &BucketName,
    ) -> Result<Stamped<Option<RootRow>>, StoreError> {
        self.inner.find_bucket(bucket).await
    }
}

/// A master whose requests each have a stake of their own, as over the wire.
struct World {
    blocks: Arc<SlowBlocks>,
    roots: Arc<SlowRoots>,
    service: Service,
}

impl World {
    async fn new(seed: Option<u64>, flaw: Option<Flaw>) -> Self {
        let mut seeds = seed.map(Rng::new);
        let mut jitter = || Jitter(seeds.as_mut().map(|rng| Mutex::new(rng.fork())));
        let (unreadable, time) = (AtomicBool::new(false), AtomicU64::new(1000));
        let inner = MemoryBlocks::default();
        let full = Mutex::default();
        let blocks = Arc::new(SlowBlocks { inner, jitter: jitter(), unreadable, full });
        let inner = MemoryRoots::default();
        let (reads, scans, swaps) = (Gate::default(), Gate::default(), Gate::default());
        let roots = Arc::new(SlowRoots { inner, jitter: jitter(), time, reads, scans, swaps });
        // Next to no cache, so that nothing is read that is not there.
        let limits =
            Limits { flaws: Flaws(flaw), cache_bytes: 1, heads_max: 1, ..Limits::default() };
        let nodes = Arc::new(Nodes::new(Arc::clone(&blocks) as _, limits.cache_bytes));
        let witness = Witness::new(None, true);
        let arbiter: Arc<dyn RootPointerStore> = Arc::clone(&roots) as _;
        let committer = Committer::new(nodes, arbiter, WriterId([1; 16]), limits, witness);
        let draws = Mutex::new(Rng::new(seed.unwrap_or(0)));
        let random: fula_service::Random = Arc::new(move |bytes| {
            bytes.fill_with(|| draws.lock().unwrap().below(256).to_le_bytes()[0]);
        });
        let service = Service::new(committer, random, NamePolicy::PerOwner);
        let world = Self { blocks, roots, service };
        for bucket in [BUCKET, OTHER] {
            world.service.create_bucket(&caller(), bucket).await.unwrap();
        }
        world
    }

    async fn put(&self, bucket: &str, key: &str, body: BodyStream) -> Result<(), ServiceError> {
        let request = PutRequest {
            key: key.to_owned(),
            facts: ObjectFacts::default(),
            conditions: WriteConditions::default(),
            body,
            body_facts: body_facts(),
        };
        self.service.put_object(&caller(), bucket, request).await.map(drop)
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), ServiceError> {
        let request = DeleteKey { key: key.to_owned(), conditions: WriteConditions::default() };
        self.service.delete_object(&caller(), bucket, request).await
    }

    async fn copy(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), ServiceError> {
        let source = CopySourceRequest {
            owner: BucketOwner::Unsaid,
            bucket: from.0.to_owned(),
            key: from.1.to_owned(),
            conditions: ReadConditions::default(),
        };
        let conditions = WriteConditions::default();
        let request = CopyRequest { source, key: to.1.to_owned(), replace: None, conditions };
        self.service.copy_object(&caller(), to.0, request).await.map(drop)
    }

    /// Uploads one part, of a block and some, and completes the upload.
    async fn upload(&self, bucket: &str, key: &str, byte: u8) -> Result<(), ServiceError> {
        let facts = ObjectFacts::default();
        let request = CreateUploadRequest { key: key.to_owned(), facts, checksum: None };
        let id = self.service.create_upload(&caller(), bucket, request).await?.to_string();
        let part = self
            .service
            .put_part(&caller(), bucket, key, &id, 1, whole(vec![byte; LARGE]), body_facts())
            .await?;
        let parts = vec![CompletePart { number: 1, etag: part.etag().to_string(), checksum: None }];
        let request = CompleteRequest {
            key: key.to_owned(),
            id,
            parts,
            conditions: WriteConditions::default(),
            checksum: None,
            size: None,
        };
        self.service.complete_upload(&caller(), bucket, &request).await.map(drop)
    }

    async fn get(&self, bucket: &str, key: &str) -> Result<Vec<u8>, ServiceError> {
        let caller = caller();
        let none = ReadConditions::default();
        let record = self.service.get_object(&caller, bucket, key, &none).await?.record;
        let parts: Vec<Bytes> =
            self.service.read(&caller, &record, 0..record.size).await?.try_collect().await?;
        Ok(parts.concat())
    }

    async fn collect(&self) -> fula_service::Collection {
        self.service.committer().collect(Duration::ZERO, &|| 4).await.unwrap()
    }

    async fn rows(&self) -> Vec<RootRow> {
        self.roots.inner.scan_roots(None, 100).await.unwrap().value
    }

    /// Returns what is wrong with any bucket.
    async fn problems(&self) -> Vec<fsck::Problem> {
        let (mut problems, mut seen) = (Vec::new(), HashSet::new());
        for row in self.rows().await {
            let nodes = self.service.committer().nodes();
            problems.extend(fsck::check_bucket(nodes, &row, &mut seen).await.unwrap().problems);
        }
        problems
    }

    async fn count(&self) -> usize {
        self.blocks.inner.list(None, usize::MAX).await.unwrap().len()
    }
}

fn caller() -> Caller {
    Caller { stake: Stake::default(), ..Caller::of(Identity::of_user("key:test")) }
}

fn whole(body: Vec<u8>) -> BodyStream {
    Box::pin(futures::stream::iter([Ok(Bytes::from(body))]))
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_goes_and_the_rest_stays() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "kept", whole(vec![1; LARGE])).await.unwrap();
    for n in 0..20 {
        world.put(BUCKET, "replaced", whole(vec![n; 100])).await.unwrap();
        world.put(BUCKET, "large", whole(vec![n; LARGE])).await.unwrap();
    }
    world.delete(BUCKET, "large").await.unwrap();
    let before = world.count().await;
    let done = world.collect().await;
    assert!(done.deleted > 60 && done.deleted_bytes > 18 * LARGE as u64, "{done:?}");
    assert_eq!(world.count().await, before - usize::try_from(done.deleted).unwrap());
    assert_eq!(world.problems().await, []);
    assert_eq!(world.get(BUCKET, "kept").await.unwrap(), vec![1; LARGE]);
    assert_eq!(world.get(BUCKET, "replaced").await.unwrap(), vec![19; 100]);
    // The roots themselves tell the history.
    let blocks = world.service.committer().nodes().blocks();
    let row = world.rows().await.into_iter().find(|row| row.bucket.as_str() == BUCKET).unwrap();
    assert_eq!(history::log(blocks.as_ref(), row.pointer.root, 100).await.unwrap().len(), 43);
    assert_eq!(world.collect().await.deleted, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_lately_stays_readable() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "k", whole(vec![1; LARGE])).await.unwrap();
    let old = world.rows().await.remove(0);
    world.put(BUCKET, "k", whole(vec![2; LARGE])).await.unwrap();
    let retained = world.service.committer().collect(Duration::from_hours(1), &|| 4).await.unwrap();
    assert_eq!(retained.deleted, 0);
    let nodes = world.service.committer().nodes();
    let report = fsck::check_bucket(nodes, &old, &mut HashSet::new()).await.unwrap();
    assert_eq!(report.problems, []);
}

/// An object is replaced and collected while somebody reads it; returns what they read.
fn read_while_collected(flaw: Option<Flaw>) -> Result<Vec<u8>, StoreError> {
    runtime().block_on(async {
        let world = World::new(None, flaw).await;
        let body: Vec<u8> = (0..5 * LARGE).map(|n| (n >> 18).to_le_bytes()[0]).collect();
        world.put(BUCKET, "k", whole(body.clone())).await.unwrap();
        let reader = caller();
        let none = ReadConditions::default();
        let record = world.service.get_object(&reader, BUCKET, "k", &none).await.unwrap().record;
        let mut stream = world.service.read(&reader, &record, 0..record.size).await.unwrap();
        drop(reader);
        let mut read = stream.next().await.unwrap()?.to_vec();
        for n in 0..3 {
            world.put(BUCKET, "k", whole(vec![n])).await.unwrap();
        }
        world.collect().await;
        while let Some(bytes) = stream.next().await {
            read.extend(bytes?);
        }
        assert_eq!(read, body);
        drop(stream);
        let done = world.collect().await;
        assert!(done.deleted_bytes > 4 << 20, "what nobody reads any more stays: {done:?}");
        Ok(read)
    })
}

#[test]
fn a_reader_keeps_what_it_reads() {
    assert_eq!(read_while_collected(None).unwrap().len(), 5 * LARGE);
}

/// An object is replaced and collected between the answer to who reads its bucket's pointer and
/// their use of it.
fn looked_while_collected(flaw: Option<Flaw>) -> Result<Vec<u8>, ServiceError> {
    runtime().block_on(async {
        let world = World::new(None, flaw).await;
        world.put(BUCKET, "k", whole(vec![1; LARGE])).await.unwrap();
        world.roots.reads.close();
        let others = async {
            world.roots.reads.waited_at().await;
            for n in 0..3 {
                world.put(BUCKET, "k", whole(vec![n])).await.unwrap();
            }
            world.collect().await;
        };
        let opener = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.roots.reads.open();
        };
        let (read, (), ()) = tokio::join!(world.get(BUCKET, "k"), others, opener);
        read
    })
}

#[test]
fn a_pointer_that_is_being_read_keeps_what_it_leads_to() {
    assert_eq!(looked_while_collected(None).unwrap(), vec![1; LARGE]);
}

/// Collections pass by while an upload is half done, and hold nothing of others back; returns what
/// is wrong in the end.
fn collected_while_put(flaw: Option<Flaw>) -> Vec<fsck::Problem> {
    runtime().block_on(async {
        let world = World::new(None, flaw).await;
        let (send, receive) = futures::channel::mpsc::unbounded();
        for n in 0..4 {
            send.unbounded_send(Ok(Bytes::from(vec![n; 1 << 20]))).unwrap();
        }
        let put = world.put(BUCKET, "k", Box::pin(receive));
        let meanwhile = async {
            while world.count().await < 5 {
                tokio::task::yield_now().await;
            }
            for n in 0..3 {
                world.put(OTHER, "k", whole(vec![10 + n; LARGE])).await.unwrap();
            }
            let (began, done) = (tokio::time::Instant::now(), world.collect().await);
            assert!(!done.held_back && began.elapsed() < Duration::from_secs(9), "{done:?}");
            assert!(done.deleted_bytes > 2 * LARGE as u64, "{done:?}");
            world.collect().await;
            drop(send);
        };
        let (put, ()) = tokio::join!(put, meanwhile);
        put.unwrap();
        world.problems().await
    })
}

#[test]
fn an_upload_keeps_what_it_put() {
    assert_eq!(collected_while_put(None), []);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_broke_off_is_collected() {
    let world = World::new(None, None).await;
    let before = world.count().await;
    let lost = ServiceError::BodyFailed("gone".to_owned());
    let frames = vec![Ok(Bytes::from(vec![7; 3 << 20])), Err(lost)];
    let put = world.put(BUCKET, "k", Box::pin(futures::stream::iter(frames))).await;
    assert!(put.is_err() && world.count().await > before);
    // The leaf that was in flight is kept until it is put.
    for _ in 0..10_000 {
        world.collect().await;
        if world.count().await == before {
            return;
        }
    }
    panic!("what broke off stays");
}

#[tokio::test(start_paused = true)]
async fn damage_ends_a_collection_with_nothing_deleted() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "k", whole(vec![1; LARGE])).await.unwrap();
    world.put(BUCKET, "gone", whole(vec![2; LARGE])).await.unwrap();
    world.delete(BUCKET, "gone").await.unwrap();
    world.blocks.unreadable.store(true, Ordering::Relaxed);
    let before = world.count().await;
    assert!(world.service.committer().collect(Duration::ZERO, &|| 4).await.is_err());
    assert_eq!(world.count().await, before);
    world.blocks.unreadable.store(false, Ordering::Relaxed);
    assert!(world.collect().await.deleted > 0);
}

/// A copy begins once the collector has looked who reads, from a root that is replaced before its
/// row is read, and into a bucket whose row is read before the copy is in it.
fn copied_while_rows_are_read(flaw: Option<Flaw>) -> Result<Vec<u8>, ServiceError> {
    runtime().block_on(async {
        let world = World::new(None, flaw).await;
        world.put(OTHER, "k", whole(vec![1; 30])).await.unwrap();
        // The head of the other bucket is not remembered any more.
        for n in 0..8 {
            world.put(BUCKET, "x", whole(vec![n])).await.unwrap();
        }
        world.roots.scans.close();
        let copy = async {
            world.roots.scans.waited_at().await;
            world.roots.swaps.close();
            world.copy((OTHER, "k"), (BUCKET, "k")).await
        };
        let others = async {
            world.roots.swaps.waited_at().await;
            world.delete(OTHER, "k").await.unwrap();
            world.roots.scans.open();
        };
        let collect = async {
            let done = world.collect().await;
            world.roots.swaps.open();
            done
        };
        let (copied, (), _) = tokio::join!(copy, others, collect);
        copied?;
        world.get(BUCKET, "k").await
    })
}

#[test]
fn a_copy_keeps_what_it_copies_from_a_root_that_was_just_replaced() {
    assert_eq!(copied_while_rows_are_read(None).unwrap(), vec![1; 30]);
}

/// One client: random requests to two buckets; says what went wrong.
async fn client(world: &World, mut rng: Rng) -> Result<(), ServiceError> {
    let buckets = [BUCKET, OTHER];
    for _ in 0..12 {
        let mut pick = |n: u64| usize::try_from(rng.below(n)).unwrap();
        let (bucket, key) = (buckets[pick(2)], ["a", "b", "c"][pick(3)]);
        let (source, from, byte) =
            (buckets[pick(2)], ["a", "b", "c"][pick(3)], u8::try_from(pick(200)).unwrap());
        let done = match pick(10) {
            0..=2 => world.put(bucket, key, whole(vec![byte; 30])).await,
            3 => world.put(bucket, key, whole(vec![byte; LARGE])).await,
            4 => world.upload(bucket, key, byte).await,
            5 | 6 => world.copy((source, from), (bucket, key)).await,
            7 => world.delete(bucket, key).await,
            _ => world.get(bucket, key).await.map(drop),
        };
        match done {
            Ok(()) | Err(ServiceError::NoSuchKey | ServiceError::InvalidRequest(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Runs clients beside a collector that never rests; returns what it broke, if anything. The seed
/// chooses requests and delays; large bodies are hashed on threads of their own, whose order it
/// does not choose.
fn trial(seed: u64) -> Option<String> {
    runtime().block_on(async {
        let world = World::new(Some(seed), None).await;
        let mut rng = Rng::new(seed);
        let clients = join_all((0..5).map(|_| client(&world, rng.fork())));
        let collector = async {
            loop {
                if let Err(error) = world.service.committer().collect(Duration::ZERO, &|| 4).await {
                    return error;
                }
            }
        };
        tokio::select! {
            biased;
            done = clients => {
                if let Some(error) = done.into_iter().find_map(Result::err) {
                    return Some(format!("{error}"));
                }
            }
            error = collector => return Some(format!("collector: {error}")),
        }
        world.roots.tick();
        world.collect().await;
        let problems = world.problems().await;
        (!problems.is_empty()).then(|| format!("{problems:?}"))
    })
}

#[test]
fn nothing_that_is_needed_goes_while_clients_work() {
    for seed in 0..100 {
        let broken = trial(seed);
        assert_eq!(broken, None, "seed {seed}");
    }
}

#[test]
fn each_rule_left_out_is_found() {
    assert_ne!(collected_while_put(Some(Flaw::CollectDespiteWrites)), []);
    assert!(read_while_collected(Some(Flaw::CollectDespiteReaders)).is_err());
    assert!(looked_while_collected(Some(Flaw::CollectDespiteLooks)).is_err());
    assert!(copied_while_rows_are_read(Some(Flaw::CollectJustReplaced)).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_lost_ends_every_collection() {
    let world = World::new(None, None).await;
    world
        .put(BUCKET, "k", whole((0..5 * LARGE).map(|n| (n >> 20).to_le_bytes()[0]).collect()))
        .await
        .unwrap();
    let blocks = &world.blocks.inner;
    let all = blocks.list(None, usize::MAX).await.unwrap();
    let (file, _) = all.iter().find(|(cid, _)| cid.codec() == fula_core::Codec::DagPb).unwrap();
    let cut = blocks.advance_epoch();
    assert!(blocks.delete_if(file, cut, cut).await.unwrap());
    let before = world.count().await;
    // Not only the first time: what is below it must not go with the second.
    for _ in 0..3 {
        assert!(world.service.committer().collect(Duration::ZERO, &|| 4).await.is_err());
        assert_eq!(world.count().await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_longer_retention_than_before_is_no_damage() {
    let world = World::new(None, None).await;
    for n in 0..5 {
        world.put(BUCKET, "k", whole(vec![n; LARGE])).await.unwrap();
    }
    assert!(world.collect().await.deleted > 0);
    world.put(BUCKET, "k", whole(vec![9; LARGE])).await.unwrap();
    world.service.committer().collect(Duration::from_hours(1), &|| 4).await.unwrap();
    assert_eq!(world.problems().await, []);
}

/// Where nothing more fits, what takes away goes through, and in the company of what does not too.
#[tokio::test]
async fn deletions_go_through_on_a_full_disk() {
    let world = World::new(None, None).await;
    for key in ["a", "b"] {
        world.put(BUCKET, key, whole(vec![1; 100])).await.unwrap();
    }
    world.roots.swaps.close();
    let fill = async {
        world.roots.swaps.waited_at().await;
        *world.blocks.full.lock().unwrap() = Some(Vec::new());
        let open = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            world.roots.swaps.open();
        };
        let put = world.put(BUCKET, "d", whole(vec![2; 100]));
        tokio::join!(world.delete(BUCKET, "a"), put, open)
    };
    let (first, (deleted, put, ())) =
        tokio::join!(world.put(BUCKET, "c", whole(vec![3; 100])), fill);
    assert!(first.is_ok() && deleted.is_ok(), "{first:?}, {deleted:?}");
    assert!(matches!(put, Err(ServiceError::Full)), "{put:?}");
    // The deletion came first: had it been alone, it would not have been refused first.
    let asked = world.blocks.full.lock().unwrap().take().unwrap();
    assert_eq!(asked, [Placement::Commit, Placement::Removal]);
    for (key, is_there) in [("a", false), ("b", true), ("c", true), ("d", false)] {
        assert_eq!(world.get(BUCKET, key).await.is_ok(), is_there, "{key}");
    }
}
