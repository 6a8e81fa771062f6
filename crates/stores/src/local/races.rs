//! Tests of puts, sweeps, compactions, walks and reads of one log at the same time, on a real disk.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicBool, AtomicU64},
};

use fula_core::{
    Block, BlockStore, Cid, Codec,
    block::{Kept, Placement, Position, list_all},
};
use fula_testkit::rng::Rng;

use super::*;

const SEGMENT: u64 = 64 << 10;

/// Number of blocks in use at a time.
const KEYS: u64 = 300;

/// Number of those that are never replaced.
const FIXED: u64 = 50;

/// Number of contents that a key cycles through, so that blocks that are being deleted are put again.
const TURNS: u64 = 3;

/// Number of times that each kind of work must have run beside the others.
const RACES: u64 = 20;

/// Number of collections after which the test gives up waiting for that.
const COLLECTIONS_MAX: u32 = 100_000;

type Live = BTreeMap<u64, (u64, Block)>;

struct Race {
    store: LocalStore,
    /// The blocks in use, and how often each was replaced. Writers hold it shared; a collection that begins
    /// holds it exclusively.
    live: tokio::sync::RwLock<Mutex<Live>>,
    is_sweeping: AtomicBool,
    is_over: AtomicBool,
    put_while_sweeping: AtomicU64,
    deleted: AtomicU64,
    compacted: AtomicU64,
    walks: AtomicU64,
}

fn block(key: u64, turn: u64) -> Block {
    let mut bytes = [key.to_be_bytes(), turn.to_be_bytes()].concat();
    bytes.resize(700, 7);
    Block::new(Codec::Raw, bytes)
}

impl Race {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    async fn live(&self) -> Live {
        let live = self.live.read().await;
        let live = live.lock();
        live.clone()
    }

    async fn put(&self, key: u64, turn: u64, placement: Placement) {
        let block = block(key, turn);
        // The lock acts as a lease: a collection that begins in the meantime waits for it.
        let live = self.live.read().await;
        let mark = self.store.blocks.put(std::slice::from_ref(&block), placement).await.unwrap();
        {
            let mut live = live.lock();
            let times = live.get(&key).map_or(0, |(times, _)| times + 1);
            live.insert(key, (times, block));
        }
        drop(live);
        self.store.blocks.sync(mark).await.unwrap();
    }

    async fn write(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        while self.goes_on() {
            let key = FIXED + rng.below(KEYS - FIXED);
            let placement = [Placement::Commit, Placement::Bulk][usize::from(rng.below(2) == 0)];
            let is_sweeping = self.is_sweeping.load(Ordering::Relaxed);
            self.put(key, rng.below(TURNS), placement).await;
            self.put_while_sweeping.fetch_add(is_sweeping.into(), Ordering::Relaxed);
        }
    }

    fn raced(&self) -> [u64; 4] {
        let counts = [&self.put_while_sweeping, &self.deleted, &self.compacted, &self.walks];
        counts.map(|count| count.load(Ordering::Relaxed))
    }

    async fn collect(&self) {
        let mut collections = 0..COLLECTIONS_MAX;
        while self.raced().iter().any(|count| *count < RACES) && collections.next().is_some() {
            let (cut, kept) = {
                let live = self.live.write().await;
                let cut = self.store.blocks.advance_epoch();
                let live = live.lock();
                (cut, live.values().map(|(_, block)| block.cid()).collect::<Vec<Cid>>())
            };
            self.store.blocks.mark(&kept, cut, Kept::Now);
            self.is_sweeping.store(true, Ordering::Relaxed);
            let mut from = Some(Position::default());
            while let Some(position) = from {
                let swept = self.store.blocks.sweep(position, cut, cut).await.unwrap();
                self.deleted.fetch_add(swept.deleted, Ordering::Relaxed);
                from = swept.next;
                tokio::task::yield_now().await;
            }
            self.is_sweeping.store(false, Ordering::Relaxed);
        }
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn compact(&self) {
        while self.goes_on() {
            let freed = self.store.compact(10, &|| {}).unwrap();
            self.compacted.fetch_add((freed > 0).into(), Ordering::Relaxed);
            self.store.seal(30).unwrap();
        }
    }

    async fn list(&self) {
        while self.goes_on() {
            let listed = list_all(&*self.store.blocks).await.unwrap();
            let listed: HashSet<Cid> = listed.into_iter().map(|(cid, _)| cid).collect();
            assert!((0..FIXED).all(|key| listed.contains(&block(key, 0).cid())));
            self.walks.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn read(&self) {
        while self.goes_on() {
            for (key, (times, block)) in self.live().await {
                let read = self.store.blocks.get(&block.cid()).await.unwrap();
                // A block that was replaced in the meantime may be gone.
                assert!(read.is_some() || self.live().await[&key].0 != times, "{key}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_in_use_stays_whatever_else_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let race = Arc::new(Race {
        store: LocalStore::open_with(dir.path(), system_clock(), false, Some(SEGMENT)).unwrap(),
        live: tokio::sync::RwLock::default(),
        is_sweeping: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        put_while_sweeping: AtomicU64::new(0),
        deleted: AtomicU64::new(0),
        compacted: AtomicU64::new(0),
        walks: AtomicU64::new(0),
    });
    for key in 0..KEYS {
        race.put(key, 0, Placement::Commit).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    let run =
        |work: fn(Arc<Race>) -> futures::future::BoxFuture<'static, ()>| work(Arc::clone(&race));
    tasks.spawn(run(|race| Box::pin(async move { race.write(1).await })));
    tasks.spawn(run(|race| Box::pin(async move { race.write(2).await })));
    tasks.spawn(run(|race| Box::pin(async move { race.list().await })));
    tasks.spawn(run(|race| Box::pin(async move { race.read().await })));
    tasks.spawn(run(|race| Box::pin(async move { race.collect().await })));
    let compacting = Arc::clone(&race);
    tasks.spawn_blocking(move || compacting.compact());
    while let Some(done) = tasks.join_next().await {
        // Without this the other threads would never end.
        race.is_over.fetch_or(done.is_err(), Ordering::Relaxed);
        done.unwrap();
    }
    assert!(race.raced().iter().all(|count| *count >= RACES), "{:?}", race.raced());

    let live = race.live().await;
    drop(race);
    let store = LocalStore::open_with(dir.path(), system_clock(), false, Some(SEGMENT)).unwrap();
    assert!(store.recovery.damaged.is_empty());
    for (_, block) in live.values() {
        assert_eq!(store.blocks.get(&block.cid()).await.unwrap().as_ref(), Some(block));
    }
}
