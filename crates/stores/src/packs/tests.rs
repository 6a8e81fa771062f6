//! Packs on directories and in memory.

mod directories;

use std::sync::atomic::AtomicU64;

use fula_core::{
    Codec,
    block::list_all,
    conformance_suite,
    in_memory::{MemoryMetadata, MemoryPacks},
    packs::{Added, read_all},
};
use object_store::{
    ObjectStoreExt, PutPayload,
    memory::InMemory,
    throttle::{ThrottleConfig, ThrottledStore},
};
use tempfile::TempDir;

use self::directories::{Away, Switch};
use super::{format::HEAD_BYTES, names::single_path, *};

/// Names that no store of this process repeats.
pub(super) fn ids() -> FreshId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Arc::new(|| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // The first byte differs, so that packs lie in many places.
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        id[8..].copy_from_slice(&n.to_be_bytes());
        id
    })
}

pub(super) async fn open(objects: &Objects, directory: Arc<dyn PackDirectory>) -> PackedBlocks {
    PackedBlocks::open(objects.clone(), "a store", directory, ids()).await.unwrap()
}

pub(super) fn block(n: u32) -> Block {
    Block::new(Codec::Raw, n.to_le_bytes().to_vec())
}

pub(super) async fn put(store: &PackedBlocks, blocks: &[Block]) {
    store.put(blocks, Placement::Commit).await.unwrap();
}

/// A store with its directory, which goes with it.
struct Temp(PackedBlocks, #[expect(dead_code, reason = "it is kept")] TempDir);

impl std::ops::Deref for Temp {
    type Target = PackedBlocks;

    fn deref(&self) -> &PackedBlocks {
        &self.0
    }
}

fn files(dir: &TempDir) -> Objects {
    Objects::open(&format!("file://{}", dir.path().display())).unwrap()
}

mod on_files {
    use super::*;
    conformance_suite!(shared_block_store, async {
        let dir = tempfile::tempdir().unwrap();
        let directory = RecordDirectory::open(Arc::new(MemoryMetadata::default())).await.unwrap();
        Temp(open(&files(&dir), Arc::new(directory)).await, dir)
    });
}

mod in_memory {
    use super::*;
    conformance_suite!(shared_block_store, async {
        let objects = Objects::on(Arc::new(InMemory::new()));
        Arc::new(open(&objects, Arc::new(MemoryPacks::default())).await)
    });
}

fn in_memory() -> (Arc<InMemory>, Objects, Arc<MemoryPacks>) {
    let store = Arc::new(InMemory::new());
    let objects = Objects::on(Arc::clone(&store) as _);
    (store, objects, Arc::new(MemoryPacks::default()))
}

pub(super) async fn names(objects: &Objects, prefix: &str) -> Vec<String> {
    let found = objects.list(&Path::from(prefix)).await.unwrap();
    found.into_iter().map(|meta| meta.location.to_string()).collect()
}

#[tokio::test]
async fn one_put_is_one_object() {
    let (_, objects, directory) = in_memory();
    let store = open(&objects, directory).await;
    let blocks: Vec<_> = (0..20).map(block).collect();
    put(&store, &blocks).await;
    assert_eq!(names(&objects, "packs").await.len(), 1);
    let large: Vec<_> = (0..40).map(|n| Block::new(Codec::Raw, vec![n; BLOCK_BYTES_MAX])).collect();
    put(&store, &large).await;
    assert_eq!(names(&objects, "packs").await.len(), 4, "40 MiB are three packs of 16 MiB");
    for block in blocks.iter().chain(&large) {
        assert_eq!(store.get(&block.cid()).await.unwrap().as_ref(), Some(block));
    }
}

#[tokio::test]
async fn another_master_finds_what_was_put_since_it_looked() {
    let (_, objects, directory) = in_memory();
    let one = open(&objects, Arc::clone(&directory) as _).await;
    let other = open(&objects, directory).await;
    for n in 0..10 {
        put(&one, &[block(n), block(100 + n)]).await;
        assert_eq!(other.get(&block(n).cid()).await.unwrap(), Some(block(n)));
        assert_eq!(other.size(&block(100 + n).cid()).await.unwrap(), Some(4));
    }
}

#[tokio::test]
async fn blocks_are_found_through_merges_by_every_master() {
    let (_, objects, directory) = in_memory();
    let one = open(&objects, Arc::clone(&directory) as _).await;
    let other = open(&objects, Arc::clone(&directory) as _).await;
    let mut n = 0;
    for round in 0..6 {
        for _ in 0..50 {
            put(&one, &[block(n), block(n + 1)]).await;
            n += 2;
        }
        // The other has seen some of it before, and some not.
        other.get(&block(n - 60).cid()).await.unwrap().unwrap();
        put(&other, &[block(0), block(1_000_000 + round)]).await;
        one.places.merge(true, || (one.fresh_id)()).await.unwrap().unwrap();
        assert_eq!(read_all(directory.as_ref()).await.unwrap().entries, []);
        let newcomer = open(&objects, Arc::clone(&directory) as _).await;
        for store in [&one, &other, &newcomer] {
            for n in 0..n {
                assert_eq!(store.get(&block(n).cid()).await.unwrap(), Some(block(n)));
            }
            assert_eq!(store.get(&block(2_000_000).cid()).await.unwrap(), None);
        }
    }
    let runs = one.places.run_records();
    assert!(runs.len() < 4 && runs.iter().sum::<u64>() >= u64::from(n), "{runs:?}");
}

#[tokio::test]
async fn of_masters_that_merge_at_the_same_time_one_does() {
    let (_, objects, directory) = in_memory();
    let stores =
        [open(&objects, Arc::clone(&directory) as _).await, open(&objects, directory).await];
    for n in 0..20 {
        put(&stores[0], &[block(2 * n)]).await;
        put(&stores[1], &[block(2 * n + 1)]).await;
    }
    let merges = stores.iter().map(|store| store.places.merge(true, || (store.fresh_id)()));
    let merged = futures::future::join_all(merges).await;
    // The second finds nothing new, or loses.
    assert!(merged.iter().all(Result::is_ok), "{merged:?}");
    for store in &stores {
        for n in 0..40 {
            assert_eq!(store.get(&block(n).cid()).await.unwrap(), Some(block(n)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_merged_before_it_grows_long() {
    let (_, objects, directory) = in_memory();
    let store = open(&objects, Arc::clone(&directory) as _).await;
    let count = 5000;
    for n in 0..count {
        put(&store, &[block(n)]).await;
    }
    // A merge runs in the background: wait for the one that the last turn began.
    store.places.merge(true, || (store.fresh_id)()).await.unwrap();
    let page = read_all(directory.as_ref()).await.unwrap();
    assert!(page.manifest_version >= 2, "merged {} times", page.manifest_version);
    for n in 0..count {
        assert_eq!(store.size(&block(n).cid()).await.unwrap(), Some(4));
    }
}

#[tokio::test]
async fn an_arbiter_that_went_back_is_noticed_and_its_packs_are_listed_anew() {
    let (_, objects, directory) = in_memory();
    let store = open(&objects, Arc::clone(&directory) as _).await;
    for n in 0..30 {
        put(&store, &[block(n)]).await;
    }
    // A directory as of a backup: only the first packs, and numbers begin again from there.
    let restored = Arc::new(MemoryPacks::default());
    for (_, pack) in &read_all(directory.as_ref()).await.unwrap().entries[..10] {
        restored.add(pack).await.unwrap();
    }
    let switch = Arc::new(Switch::new(directory));
    let store = open(&objects, Arc::clone(&switch) as _).await;
    assert_eq!(store.get(&block(29).cid()).await.unwrap(), Some(block(29)));
    switch.to(Arc::clone(&restored) as _);
    // Numbers that were given twice do not hide anything.
    let other = open(&objects, Arc::clone(&restored) as _).await;
    assert_eq!(other.get(&block(29).cid()).await.unwrap(), None);
    put(&other, &[block(100)]).await;
    assert_eq!(store.get(&block(100).cid()).await.unwrap(), Some(block(100)));
    // By a master that knew them all before.
    assert_eq!(store.list_anew().await.unwrap(), 20);
    assert_eq!(other.list_anew().await.unwrap(), 0);
    for n in 0..30 {
        for store in [&store, &other] {
            assert_eq!(store.get(&block(n).cid()).await.unwrap(), Some(block(n)));
        }
    }
}

#[tokio::test]
async fn a_master_that_missed_that_the_arbiter_went_back_merges_nothing_away() {
    let (_, objects, directory) = in_memory();
    let switch = Arc::new(Switch::new(Arc::clone(&directory) as _));
    let unaware = open(&objects, Arc::clone(&switch) as _).await;
    for n in 0..30 {
        put(&unaware, &[block(n)]).await;
    }
    unaware.get(&block(1000).cid()).await.unwrap();
    // After the restore the others go beyond what it knows, before it looks again.
    let restored = Arc::new(MemoryPacks::default());
    for (_, pack) in &read_all(directory.as_ref()).await.unwrap().entries[..10] {
        restored.add(pack).await.unwrap();
    }
    let other = open(&objects, Arc::clone(&restored) as _).await;
    for n in 100..130 {
        put(&other, &[block(n)]).await;
    }
    other.list_anew().await.unwrap();
    switch.to(Arc::clone(&restored) as _);
    unaware.places.merge(true, || (unaware.fresh_id)()).await.unwrap().unwrap();
    let newcomer = open(&objects, restored).await;
    for store in [&unaware, &other, &newcomer] {
        for n in (0..30).chain(100..130) {
            assert_eq!(store.get(&block(n).cid()).await.unwrap(), Some(block(n)), "{n}");
        }
    }
}

#[tokio::test]
async fn a_master_with_an_old_manifest_finds_what_is_in_newer_runs() {
    let (_, objects, directory) = in_memory();
    let one = open(&objects, Arc::clone(&directory) as _).await;
    let merge = async || one.places.merge(true, || (one.fresh_id)()).await.unwrap().unwrap();
    for n in 0..20 {
        put(&one, &[block(n)]).await;
    }
    merge().await;
    let outdated = open(&objects, directory).await;
    outdated.get(&block(0).cid()).await.unwrap().unwrap();
    for n in 20..60 {
        put(&one, &[block(n)]).await;
        if n % 10 == 0 {
            merge().await;
        }
    }
    // The run that it knows is gone: it was replaced more than one merge ago.
    assert!(names(&objects, "index").await.len() <= 3);
    for n in 1..60 {
        assert_eq!(outdated.get(&block(n).cid()).await.unwrap(), Some(block(n)), "{n}");
    }
}

#[tokio::test]
async fn a_store_that_is_not_mounted_is_not_taken_for_one_without_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (mounted, away) = (dir.path().join("mounted"), dir.path().join("away"));
    let objects = Objects::open(&format!("file://{}", mounted.display())).unwrap();
    objects.identify("name").await.unwrap();
    let directory = Arc::new(MemoryPacks::default());
    let store = open(&objects, Arc::clone(&directory) as _).await;
    put(&store, &[block(1)]).await;
    store.places.merge(true, || (store.fresh_id)()).await.unwrap().unwrap();
    let before = directory.read(0, 1).await.unwrap();
    std::fs::rename(&mounted, &away).unwrap();
    std::fs::create_dir(&mounted).unwrap();
    let refused = store.list_anew().await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    // Nor is a run written beside it.
    let refused = store.places.merge(true, || (store.fresh_id)()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    assert_eq!(directory.read(0, 1).await.unwrap(), before);
    std::fs::remove_dir(&mounted).unwrap();
    std::fs::rename(&away, &mounted).unwrap();
    assert_eq!(store.get(&block(1).cid()).await.unwrap(), Some(block(1)));
}

#[tokio::test]
async fn of_two_copies_of_a_block_the_good_one_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let objects = files(&dir);
    let directory = Arc::new(MemoryPacks::default());
    let one = open(&objects, Arc::clone(&directory) as _).await;
    let other = open(&objects, directory).await;
    let twice = block(1);
    put(&one, std::slice::from_ref(&twice)).await;
    assert_eq!(other.get(&twice.cid()).await.unwrap().as_ref(), Some(&twice));
    let place = one.places.locate(&Tag::new(&one.key, &twice.cid())).await.unwrap().unwrap();
    let file = dir.path().join(path_of(&place.pack).as_ref());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[HEAD_BYTES] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    put(&one, std::slice::from_ref(&twice)).await;
    // To a master that started since, and to one that knew the first copy before.
    let newcomer = open(&objects, Arc::clone(&one.places.directory()) as _).await;
    for store in [&newcomer, &other] {
        store.whole.remove(&place.pack);
        assert_eq!(store.get(&twice.cid()).await.unwrap().as_ref(), Some(&twice));
    }
}

#[tokio::test]
async fn a_lost_index_run_is_named_and_made_anew() {
    let (_, objects, directory) = in_memory();
    let store = open(&objects, Arc::clone(&directory) as _).await;
    for n in 0..100 {
        put(&store, &[block(n)]).await;
    }
    store.places.merge(true, || (store.fresh_id)()).await.unwrap().unwrap();
    let run = names(&objects, "index").await.remove(0);
    for n in 100..110 {
        put(&store, &[block(n)]).await;
    }
    store.places.merge(true, || (store.fresh_id)()).await.unwrap().unwrap();
    assert_eq!(store.places.run_records(), [10, 100]);
    objects.delete(&Path::from(run.as_str())).await.unwrap();
    let store = open(&objects, Arc::clone(&directory) as _).await;
    // What other runs know is found all the same, and merges go on.
    assert_eq!(store.get(&block(105).cid()).await.unwrap(), Some(block(105)));
    put(&store, &[block(200)]).await;
    store.places.merge(true, || (store.fresh_id)()).await.unwrap().unwrap();
    let lost = store.get(&block(1).cid()).await.unwrap_err();
    let StoreError::Unavailable { source, .. } = lost else { panic!("{lost:?}") };
    assert!(source.to_string().contains(&run), "{source}");
    assert_eq!(store.list_anew().await.unwrap(), 100);
    for n in (0..110).chain([200]) {
        assert_eq!(store.get(&block(n).cid()).await.unwrap(), Some(block(n)));
    }
}

#[tokio::test]
async fn what_was_changed_in_a_pack_is_not_returned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&files(&dir), Arc::new(MemoryPacks::default())).await;
    let old = Block::new(Codec::Raw, "as it was");
    put(&store, std::slice::from_ref(&old)).await;
    let place = store.places.locate(&Tag::new(&store.key, &old.cid())).await.unwrap().unwrap();
    let file = dir.path().join(path_of(&place.pack).as_ref());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[HEAD_BYTES] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let read = store.get(&old.cid()).await;
    assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
    // Putting it again mends it.
    put(&store, std::slice::from_ref(&old)).await;
    assert_eq!(store.get(&old.cid()).await.unwrap().as_ref(), Some(&old));
}

#[tokio::test]
async fn a_pack_is_not_written_over_another() {
    let (_, objects, directory) = in_memory();
    let one_name: FreshId = Arc::new(|| [7; 16]);
    let store = PackedBlocks::open(objects, "a store", directory, one_name).await.unwrap();
    put(&store, &[block(1)]).await;
    // The same again, as when the answer to a request was lost.
    put(&store, &[block(1)]).await;
    let refused = store.put(&[block(2)], Placement::Commit).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert_eq!(store.get(&block(1).cid()).await.unwrap(), Some(block(1)));
}

#[tokio::test]
async fn blocks_of_earlier_builds_are_read_and_listed() {
    let (raw, objects, directory) = in_memory();
    // An earlier build may begin to write at any time.
    let started_before = open(&objects, Arc::clone(&directory) as _).await;
    let (old, both) = (block(1), block(2));
    for block in [&old, &both] {
        let payload = PutPayload::from_bytes(block.bytes().clone());
        raw.put(&single_path(&block.cid()), payload).await.unwrap();
    }
    let store = open(&objects, directory).await;
    put(&store, &[both.clone(), block(3)]).await;
    for block in [&old, &both, &block(3)] {
        assert_eq!(store.get(&block.cid()).await.unwrap().as_ref(), Some(block));
        assert_eq!(store.size(&block.cid()).await.unwrap(), Some(4));
    }
    assert_eq!(started_before.get(&old.cid()).await.unwrap().as_ref(), Some(&old));
    let mut listed = list_all(&store).await.unwrap();
    listed.sort_unstable();
    let mut expected = [old, both, block(3)].map(|block| (block.cid(), 4));
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn nothing_is_put_into_a_directory_that_is_not_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let (mounted, away) = (dir.path().join("mounted"), dir.path().join("away"));
    let objects = Objects::open(&format!("file://{}", mounted.display())).unwrap();
    objects.identify("name").await.unwrap();
    let store = open(&objects, Arc::new(MemoryPacks::default())).await;
    let put = async |n| store.put(&[block(n)], Placement::Commit).await;
    put(1).await.unwrap();
    std::fs::rename(&mounted, &away).unwrap();
    for is_there in [false, true] {
        if is_there {
            std::fs::create_dir(&mounted).unwrap();
        }
        let refused = put(2).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
        // What cannot be read is not said to be absent.
        for n in [1, 7] {
            let read = store.get(&block(n).cid()).await;
            assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{n}: {read:?}");
        }
        assert!(!mounted.join("packs").exists(), "{is_there}");
    }
    // Somebody began another store there.
    Objects::open(&format!("file://{}", mounted.display()))
        .unwrap()
        .identify("other")
        .await
        .unwrap();
    let refused = put(2).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    std::fs::remove_file(mounted.join("fula-store")).unwrap();
    std::fs::remove_dir(&mounted).unwrap();
    std::fs::rename(&away, &mounted).unwrap();
    put(3).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_in_a_run_is_found_while_the_arbiter_is_away() {
    // The arbiter fails before the store answers.
    let config = ThrottleConfig {
        wait_get_per_call: std::time::Duration::from_millis(10),
        ..ThrottleConfig::default()
    };
    let objects = Objects::on(Arc::new(ThrottledStore::new(InMemory::new(), config)));
    let switch = Arc::new(Switch::new(Arc::new(MemoryPacks::default())));
    let store = open(&objects, Arc::clone(&switch) as _).await;
    put(&store, &[block(1)]).await;
    store.places.merge(true, || (store.fresh_id)()).await.unwrap().unwrap();
    switch.to(Arc::new(Away));
    store.places.forget_looks();
    assert_eq!(store.get(&block(1).cid()).await.unwrap(), Some(block(1)));
    let read = store.get(&block(2).cid()).await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
}
