//! Collections of packs: what goes, what stays, and collections that are cut off or taken over at any step.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, PackDirectory,
    block::sweep_all,
    in_memory::MemoryPacks,
    packs::{Added, DirectoryPage, PackEntry},
};
use object_store::memory::InMemory;

use super::{
    super::tests::{names, open, put},
    *,
};
use crate::objects::Objects;

/// A store of several masters, each with what it knows.
struct Masters {
    objects: Objects,
    directory: Arc<MemoryPacks>,
}

impl Masters {
    fn new() -> Self {
        Self { objects: Objects::on(Arc::new(InMemory::new())), directory: Arc::default() }
    }

    async fn open(&self) -> PackedBlocks {
        open(&self.objects, Arc::clone(&self.directory) as _).await
    }

    async fn packs(&self) -> usize {
        names(&self.objects, "packs").await.len()
    }
}

/// Collects with a new generation: everything but `live` that was put under earlier ones is garbage.
async fn collect(
    store: &PackedBlocks,
    generation: u64,
    live: &[Block],
) -> Result<Swept, StoreError> {
    store.observe_generation(generation);
    let cut = store.advance_epoch();
    let cids: Vec<_> = live.iter().map(Block::cid).collect();
    store.mark(&cids, cut, Kept::Now);
    sweep_all(store, cut, cut).await
}

async fn read_all(store: &PackedBlocks, blocks: &[Block]) {
    for block in blocks {
        let found = store.get(&block.cid()).await;
        assert_eq!(found.unwrap().as_ref(), Some(block), "{block:?}");
    }
}

/// A block that is much longer than its entry in an index.
fn block(n: u32) -> Block {
    let mut bytes = vec![0; 400];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    Block::new(Codec::Raw, bytes)
}

fn blocks(numbers: std::ops::Range<u32>) -> Vec<Block> {
    numbers.map(block).collect()
}

#[tokio::test]
async fn dead_packs_go_and_sparse_ones_are_written_anew() {
    let masters = Masters::new();
    let (one, other) = (masters.open().await, masters.open().await);
    for n in 0..10 {
        put(&one, &blocks(10 * n..10 * n + 10)).await;
    }
    read_all(&other, &blocks(0..100)).await;
    // Of packs 0 to 4 nothing is in use, of 5 and 6 a little, of the others most.
    let live = [blocks(50..51), blocks(60..62), blocks(70..78), blocks(80..90), blocks(90..99)];
    let live = live.concat();
    let swept = collect(&one, 1, &live).await.unwrap();
    assert_eq!((swept.deleted, swept.missing, swept.kept.now), (7, 0, 30 * 400));
    // One new pack has what was moved.
    assert_eq!(masters.packs().await, 3 + 1);
    read_all(&one, &live).await;
    read_all(&other, &live).await;
    read_all(&masters.open().await, &live).await;
    // A master may still have a copy of what is gone.
    let fresh = masters.open().await;
    for gone in [blocks(0..50), blocks(51..60), blocks(62..70)].concat() {
        assert_eq!(fresh.get(&gone.cid()).await.unwrap(), None);
    }
    // What was garbage can be put again.
    put(&other, &blocks(0..10)).await;
    read_all(&one, &blocks(0..10)).await;
    // Another collection finds the rest.
    let swept = collect(&other, 2, &blocks(0..5)).await.unwrap();
    assert_eq!(swept.missing, 0);
    read_all(&one, &blocks(0..5)).await;
    assert_eq!(masters.packs().await, 1, "half of a pack is written anew");
    collect(&other, 3, &blocks(0..5)).await.unwrap();
    assert_eq!(masters.packs().await, 1, "a pack that is in use stays");
    read_all(&one, &blocks(0..5)).await;
}

#[tokio::test]
async fn what_is_put_during_a_collection_stays() {
    let masters = Masters::new();
    let (one, other) = (masters.open().await, masters.open().await);
    put(&one, &blocks(0..10)).await;
    one.observe_generation(1);
    let cut = one.advance_epoch();
    other.observe_generation(1);
    // The same blocks as before, and new ones; some are merged into an index run.
    put(&other, &blocks(5..15)).await;
    other.merge().await.unwrap().unwrap();
    put(&other, &blocks(15..20)).await;
    let swept = sweep_all(&one, cut, cut).await.unwrap();
    assert_eq!(swept.deleted, 1);
    read_all(&one, &blocks(5..20)).await;
    read_all(&other, &blocks(5..20)).await;
    assert_eq!(masters.open().await.get(&block(0).cid()).await.unwrap(), None);
}

#[tokio::test]
async fn a_pack_of_a_past_generation_is_put_again() {
    let masters = Masters::new();
    let (one, slow) = (masters.open().await, masters.open().await);
    // A pack that was written and not listed, as by a master that is paused.
    let late = blocks(0..3);
    let late: Vec<_> = late.iter().collect();
    let (entry, _) = slow.write_pack(&late).await.unwrap();
    collect(&one, 4, &[]).await.unwrap();
    assert_eq!(masters.packs().await, 0, "garbage that nothing names goes too");
    let refused = masters.directory.add(&entry).await.unwrap();
    assert_eq!(refused, Added::BelowGeneration(4));
    // A put that begins under the old generation ends under the new one.
    put(&slow, &blocks(0..3)).await;
    assert_eq!(slow.generation(), Some(4));
    read_all(&one, &blocks(0..3)).await;
}

#[tokio::test]
async fn an_entry_whose_pack_is_gone_hides_no_other_copy() {
    let masters = Masters::new();
    let one = masters.open().await;
    put(&one, &blocks(0..3)).await;
    one.merge().await.unwrap().unwrap();
    put(&one, &blocks(0..3)).await;
    let entry = PackEntry {
        id: PackId([9; 16]),
        generation: 0,
        bytes: 100,
        index: masters.directory.read(0, 9).await.unwrap().entries[0].1.index.clone(),
    };
    masters.directory.add(&entry).await.unwrap();
    read_all(&masters.open().await, &blocks(0..3)).await;
}

#[tokio::test]
async fn blocks_that_are_missing_keep_what_no_list_names() {
    let masters = Masters::new();
    let one = masters.open().await;
    put(&one, &blocks(0..3)).await;
    let lost = blocks(10..11);
    let unlisted: Vec<_> = lost.iter().collect();
    one.write_pack(&unlisted).await.unwrap();
    let live = [blocks(0..3), lost.clone()].concat();
    assert_eq!(collect(&one, 1, &live).await.unwrap().missing, 1);
    assert_eq!(
        one.recover().await.unwrap(),
        1,
        "it is listed again although its generation is past"
    );
    read_all(&one, &live).await;
    assert_eq!(collect(&one, 2, &live).await.unwrap().missing, 0);
    read_all(&one, &live).await;
}

#[tokio::test]
async fn single_blocks_of_earlier_builds_are_collected() {
    let masters = Masters::new();
    for block in blocks(0..4) {
        let path = super::super::names::single_path(&block.cid());
        assert!(masters.objects.create(&path, block.bytes().clone().into()).await.unwrap());
    }
    let one = masters.open().await;
    put(&one, &blocks(3..6)).await;
    let swept = collect(&one, 1, &blocks(2..6)).await.unwrap();
    // Block 3 lies in a pack too.
    assert_eq!((swept.deleted, swept.missing), (3, 0));
    assert_eq!(names(&masters.objects, "blocks").await.len(), 1);
    read_all(&one, &blocks(2..6)).await;
}

/// A list of packs that fails, or stops, before one of its calls.
#[derive(Debug)]
struct Steps {
    inner: Arc<MemoryPacks>,
    left: AtomicI64,
    stops: bool,
    stopped: tokio::sync::Notify,
    goes_on: tokio::sync::Notify,
    /// Whether packs of any generation are added.
    adds_all: bool,
}

impl Steps {
    fn new(inner: &Arc<MemoryPacks>, left: i64, stops: bool) -> Arc<Self> {
        let (inner, left) = (Arc::clone(inner), AtomicI64::new(left));
        let (stopped, goes_on) = Default::default();
        Arc::new(Self { inner, left, stops, stopped, goes_on, adds_all: false })
    }

    async fn step(&self) -> Result<(), StoreError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) != 0 {
            return Ok(());
        }
        if self.stops {
            self.stopped.notify_one();
            self.goes_on.notified().await;
            return Ok(());
        }
        self.left.store(0, Ordering::SeqCst);
        Err(interrupted("a test"))
    }

    fn is_over(&self) -> bool {
        self.left.load(Ordering::SeqCst) >= 0
    }
}

#[async_trait]
impl PackDirectory for Steps {
    async fn add(&self, pack: &PackEntry) -> Result<Added, StoreError> {
        if self.adds_all {
            let generation = u64::MAX;
            return self.inner.add(&PackEntry { generation, ..pack.clone() }).await;
        }
        self.inner.add(pack).await
    }

    async fn read(&self, after: u64, limit: usize) -> Result<DirectoryPage, StoreError> {
        self.step().await?;
        let page = self.inner.read(after, limit).await;
        self.step().await?;
        page
    }

    async fn replace_manifest(
        &self,
        expected: u64,
        manifest: Bytes,
        through: u64,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        self.step().await?;
        let done = self.inner.replace_manifest(expected, manifest, through, min_generation).await;
        self.step().await?;
        done
    }
}

/// A store with garbage, and the blocks that are in use.
async fn littered() -> (Masters, Vec<Block>) {
    let masters = Masters::new();
    let one = masters.open().await;
    for n in 0..6 {
        put(&one, &blocks(10 * n..10 * n + 10)).await;
        if n == 2 {
            one.merge().await.unwrap().unwrap();
        }
    }
    // Garbage that no list names.
    let unlisted = blocks(200..205);
    one.write_pack(&unlisted.iter().collect::<Vec<_>>()).await.unwrap();
    (masters, [blocks(0..2), blocks(20..30), blocks(40..43)].concat())
}

#[tokio::test]
async fn a_collection_that_is_killed_at_any_step_loses_nothing() {
    let mut cut_off = 0;
    for left in 0.. {
        let (masters, live) = littered().await;
        let steps = Steps::new(&masters.directory, left, false);
        let killed = open(&masters.objects, Arc::clone(&steps) as _).await;
        if collect(&killed, 1, &live).await.is_ok() && steps.is_over() {
            break;
        }
        cut_off += 1;
        let next = masters.open().await;
        read_all(&next, &live).await;
        put(&next, &blocks(300..303)).await;
        collect(&next, 2, &[live.clone(), blocks(300..303)].concat()).await.unwrap();
        read_all(&next, &live).await;
        read_all(&masters.open().await, &blocks(300..303)).await;
        assert!(masters.packs().await <= 4, "{} packs after step {left}", masters.packs().await);
    }
    assert!(cut_off > 10, "{cut_off} steps");
}

#[tokio::test]
async fn a_collection_that_is_taken_over_at_any_step_loses_nothing() {
    let mut taken_over = 0;
    for left in 0.. {
        let (masters, live) = littered().await;
        let steps = Steps::new(&masters.directory, left, true);
        let slow = Arc::new(open(&masters.objects, Arc::clone(&steps) as _).await);
        let paused = {
            let (slow, live) = (Arc::clone(&slow), live.clone());
            tokio::spawn(async move { collect(&slow, 1, &live).await })
        };
        let is_over = tokio::select! {
            () = steps.stopped.notified() => false,
            () = async { while !paused.is_finished() { tokio::task::yield_now().await; } } => true,
        };
        if is_over {
            paused.await.unwrap().unwrap();
            break;
        }
        taken_over += 1;
        // Meanwhile blocks come and go, and another master collects twice.
        let next = masters.open().await;
        next.observe_generation(1);
        put(&next, &blocks(10..15)).await;
        let live = [live[1..].to_vec(), blocks(10..15)].concat();
        collect(&next, 2, &live).await.unwrap();
        put(&next, &blocks(50..55)).await;
        let live = [live, blocks(50..55)].concat();
        collect(&next, 3, &live).await.unwrap();
        steps.goes_on.notify_one();
        // It ends with or without a result.
        drop(paused.await.unwrap());
        read_all(&next, &live).await;
        read_all(&slow, &live).await;
        read_all(&masters.open().await, &live).await;
    }
    assert!(taken_over > 10, "{taken_over} steps");
}

#[tokio::test]
async fn a_list_that_takes_packs_of_past_generations_is_found() {
    let masters = Masters::new();
    let mut steps = Steps::new(&masters.directory, -1, false);
    Arc::get_mut(&mut steps).unwrap().adds_all = true;
    let (one, slow) = (masters.open().await, open(&masters.objects, steps).await);
    let late = blocks(0..3);
    let (entry, _) = slow.write_pack(&late.iter().collect::<Vec<_>>()).await.unwrap();
    collect(&one, 4, &[]).await.unwrap();
    // The rule is left out: the late pack is listed, as a put would list it, and is gone.
    slow.places.add(&entry).await.unwrap();
    assert_eq!(slow.get(&late[0].cid()).await.unwrap(), None);
}

#[tokio::test]
async fn what_killed_masters_left_goes_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(&format!("file://{}", dir.path().display())).unwrap();
    let directory = Arc::<MemoryPacks>::default();
    let store = open(&objects, Arc::clone(&directory) as _).await;
    put(&store, &blocks(0..10)).await;
    let left = |name: &str, hours| {
        let path = dir.path().join(name);
        let file = std::fs::File::create(&path).unwrap();
        let age = std::time::Duration::from_hours(hours);
        file.set_modified(file.metadata().unwrap().modified().unwrap() - age).unwrap();
        path
    };
    collect(&store, 1, &blocks(0..5)).await.unwrap();
    // The search comes once a day and process.
    let old = left("index/00000000000000000000000000000000", 25);
    collect(&store, 2, &blocks(0..5)).await.unwrap();
    assert!(old.exists());
    let store = open(&objects, directory as _).await;
    let young = left("index/11111111111111111111111111111111", 23);
    let unfinished = left("index/22222222222222222222222222222222#1", 25);
    // The run in use is old, too.
    for entry in std::fs::read_dir(dir.path().join("index")).unwrap() {
        let path = entry.unwrap().path();
        if ![&old, &young, &unfinished].contains(&&path) {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let age = std::time::Duration::from_hours(99);
            file.set_modified(file.metadata().unwrap().modified().unwrap() - age).unwrap();
        }
    }
    collect(&store, 3, &blocks(0..5)).await.unwrap();
    assert_eq!([&old, &young, &unfinished].map(|path| path.exists()), [false, true, false]);
    read_all(&store, &blocks(0..5)).await;
}
