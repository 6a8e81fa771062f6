//! Runs the suites of the storage traits on a data directory, and tests crashes and damage.

use std::{collections::BTreeSet, os::unix::fs::FileExt};

use bytes::Bytes;
use fula_core::{
    Block, BlockStore, BucketAddress, BucketId, BucketName, Cid, Codec, MetadataStore, OwnerId,
    RootPointer, RootPointerStore,
    block::{Kept, Placement, Position, sweep_all},
    conformance_suite,
    metadata::Table,
    root::NewRoot,
};
use tempfile::TempDir;

use super::*;

mod suspects;

/// A store and its directory, which is removed with it.
struct Temp<T> {
    part: Arc<T>,
    _store: LocalStore,
    _dir: TempDir,
}

impl<T> std::ops::Deref for Temp<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.part
    }
}

fn open(dir: &TempDir) -> LocalStore {
    LocalStore::open_with(dir.path(), system_clock(), false, Some(64 << 10)).unwrap()
}

fn temp<T>(part: impl FnOnce(&LocalStore) -> Arc<T>) -> Temp<T> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    Temp { part: part(&store), _store: store, _dir: dir }
}

mod blocks {
    use super::*;
    conformance_suite!(block_store, async { temp(|store| Arc::clone(&store.blocks)) });
}

mod roots {
    use super::*;
    conformance_suite!(root_store, async { temp(|store| Arc::clone(&store.roots)) });
}

mod metadata {
    use super::*;
    conformance_suite!(metadata, async { temp(|store| Arc::clone(&store.metadata)) });
}

fn block(seed: u64, len: usize) -> Block {
    let mut bytes = vec![0; len.max(8)];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Block::new(Codec::Raw, bytes)
}

async fn put(store: &LocalStore, block: &Block, placement: Placement) {
    let mark = store.blocks.put(std::slice::from_ref(block), placement).await.unwrap();
    store.blocks.sync(mark).await.unwrap();
}

fn address(owner: OwnerId, name: &str) -> BucketAddress {
    BucketAddress::new(owner, BucketName::parse(name).unwrap())
}

fn new_root(version: u64) -> NewRoot {
    NewRoot {
        pointer: RootPointer {
            root: Cid::of(Codec::DagCbor, &version.to_be_bytes()),
            version,
            generation: 0,
        },
        bucket_id: BucketId([1; 16]),
        created: 1,
        deleted: None,
        global_name: fula_core::root::GlobalName::ClaimIfFree,
        lease: None,
    }
}

/// Returns the only segment of a stream that holds records.
fn segment(dir: &TempDir, prefix: &str) -> PathBuf {
    let files = std::fs::read_dir(dir.path().join("log")).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    paths.sort();
    paths.pop().unwrap()
}

/// Returns the offsets of all records that hold blocks.
fn block_heads(path: &Path) -> Vec<u64> {
    heads(path, 1)
}

/// Returns the offsets of all records of a kind.
fn heads(path: &Path, kind: u8) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    let is_head = |at: &usize| bytes[*at..].starts_with(b"RLF1") && bytes[at + 14] == kind;
    (0..bytes.len() - 32).step_by(8).filter(is_head).map(|at| at as u64).collect()
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let owner = OwnerId([1; 16]);
    let blocks: Vec<Block> = (0..200).map(|n| block(n, 4096)).collect();
    {
        let store = open(&dir);
        for (n, block) in blocks.iter().enumerate() {
            let placement = if n % 2 == 0 { Placement::Commit } else { Placement::Bulk };
            put(&store, block, placement).await;
        }
        let expected = None;
        store.roots.cas_root(&address(owner, "one"), expected, &new_root(1)).await.unwrap();
        let expected = Some(new_root(1).pointer);
        store.roots.cas_root(&address(owner, "one"), expected, &new_root(2)).await.unwrap();
        let value = Some(Bytes::from_static(b"v"));
        store.metadata.write(Table::Keys, "k", 0, value).await.unwrap();
    }
    let store = open(&dir);
    assert!(store.recovery.truncated.is_empty() && store.recovery.damaged.is_empty());
    for block in &blocks {
        assert_eq!(store.blocks.get(&block.cid()).await.unwrap().as_ref(), Some(block));
    }
    let found = store.roots.find_bucket(&BucketName::parse("one").unwrap()).await.unwrap();
    assert_eq!(found.value.unwrap().pointer, new_root(2).pointer);
    assert_eq!(found.mark.position, 2);
    let entry = store.metadata.read(Table::Keys, "k").await.unwrap().unwrap();
    assert_eq!(entry.version, 1);
    assert!(std::fs::read_dir(dir.path().join("log")).unwrap().count() > 10, "never rolled");
    assert!(store.verify().unwrap().is_empty());
}

#[tokio::test]
async fn blocks_of_one_put_are_appended_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let [present, one, two] = [1, 2, 3].map(|n| block(n, 1000));
    let put = async |batch: &[Block]| {
        let before = store.work().appended_bytes;
        store.blocks.put(batch, Placement::Commit).await.unwrap();
        store.work().appended_bytes - before
    };
    let each = put(std::slice::from_ref(&present)).await;
    assert!(each > 1000);
    let batch = [&two, &present, &two, &one, &two].map(Clone::clone);
    assert_eq!(put(&batch).await, 2 * each);
    for block in [present, one, two] {
        assert_eq!(store.blocks.get(&block.cid()).await.unwrap(), Some(block));
    }
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(&dir);
    let second = LocalStore::open(dir.path(), system_clock(), false);
    assert!(matches!(second, Err(OpenError::InUse(_))));
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, torn) = (block(1, 100), block(2, 100));
    let (before, whole);
    {
        let store = open(&dir);
        put(&store, &kept, Placement::Commit).await;
        before = std::fs::metadata(segment(&dir, "commit")).unwrap().len();
        store.blocks.put(std::slice::from_ref(&torn), Placement::Commit).await.unwrap();
        whole = std::fs::read(segment(&dir, "commit")).unwrap();
    }
    let path = segment(&dir, "commit");
    for len in usize::try_from(before).unwrap()..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let store = open(&dir);
        assert_eq!(store.blocks.get(&kept.cid()).await.unwrap().as_ref(), Some(&kept));
        assert_eq!(store.blocks.get(&torn.cid()).await.unwrap(), None, "{len}");
        let cut: u64 = store.recovery.truncated.iter().map(|damage| damage.bytes).sum();
        assert_eq!(cut, len as u64 - before);
        assert!(store.recovery.damaged.is_empty());
        // The log continues where it was cut.
        put(&store, &torn, Placement::Commit).await;
        drop(store);
        let store = open(&dir);
        assert_eq!(store.blocks.get(&torn.cid()).await.unwrap().as_ref(), Some(&torn));
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_reported_and_never_returned() {
    let dir = tempfile::tempdir().unwrap();
    let blocks: Vec<Block> = (0..5).map(|n| block(n, 1000)).collect();
    {
        let store = open(&dir);
        for block in &blocks {
            put(&store, block, Placement::Commit).await;
        }
    }
    // Damages one byte of the value of the second record.
    let file = std::fs::OpenOptions::new().write(true).open(segment(&dir, "commit")).unwrap();
    let heads = block_heads(&segment(&dir, "commit"));
    file.write_all_at(&[0xff], heads[1] + 32 + Cid::BYTES as u64 + 500).unwrap();

    let store = open(&dir);
    let damaged = |store: &LocalStore| {
        store.recovery.damaged.iter().map(|damage| damage.cid).collect::<Vec<_>>()
    };
    assert_eq!(damaged(&store), [Some(blocks[1].cid())]);
    assert!(store.recovery.truncated.is_empty());
    assert_eq!(store.blocks.get(&blocks[1].cid()).await.unwrap(), None);
    for block in [&blocks[0], &blocks[2], &blocks[4]] {
        assert_eq!(store.blocks.get(&block.cid()).await.unwrap().as_ref(), Some(block));
    }
    drop(store);

    // Damages the head of the third record. Its name is lost, so pointers may be lost as well.
    file.write_all_at(&[0xff; 4], heads[2] + 8).unwrap();
    let refused = LocalStore::open(dir.path(), system_clock(), false);
    assert!(matches!(refused, Err(OpenError::Damaged(_, 1))), "{refused:?}");
    let store = LocalStore::open(dir.path(), system_clock(), true).unwrap();
    assert_eq!(damaged(&store), [Some(blocks[1].cid()), None]);
    assert_eq!(store.set_damaged_aside().unwrap(), 1);
    drop(store);
    let store = open(&dir);
    assert!(store.recovery.damaged.is_empty());
    for block in [&blocks[0], &blocks[3], &blocks[4]] {
        assert_eq!(store.blocks.get(&block.cid()).await.unwrap().as_ref(), Some(block));
    }
}

#[tokio::test]
async fn damage_while_open_is_an_error_and_verify_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let hit = block(1, 1000);
    put(&store, &hit, Placement::Bulk).await;
    let file = std::fs::OpenOptions::new().write(true).open(segment(&dir, "bulk")).unwrap();
    file.write_all_at(&[0xff], 32 + 32 + Cid::BYTES as u64 + 500).unwrap();
    let got = store.blocks.get(&hit.cid()).await;
    assert!(matches!(got, Err(StoreError::Damaged { cid }) if cid == hit.cid()), "{got:?}");
    let damage = store.verify().unwrap();
    assert_eq!(damage.iter().map(|d| d.cid).collect::<Vec<_>>(), [Some(hit.cid())]);
}

#[tokio::test]
async fn damage_after_the_last_write_is_not_taken_for_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let blocks: Vec<Block> = (0..4).map(|n| block(n, 1000)).collect();
    {
        let store = open(&dir);
        for placement in [Placement::Commit, Placement::Bulk] {
            // One sync covers all blocks, and nothing is synced after it.
            let (half, rest) = blocks.split_at(2);
            let batch = if placement == Placement::Commit { half } else { rest };
            let mark = store.blocks.put(batch, placement).await.unwrap();
            store.blocks.sync(mark).await.unwrap();
        }
    }
    for prefix in ["commit", "bulk"] {
        let path = segment(&dir, prefix);
        let head = block_heads(&path)[0];
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xff], head + 32 + Cid::BYTES as u64 + 500).unwrap();
    }
    let store = open(&dir);
    assert_eq!(store.recovery.truncated, []);
    let damaged: Vec<_> = store.recovery.damaged.iter().map(|damage| damage.cid).collect();
    assert_eq!(damaged, [Some(blocks[0].cid()), Some(blocks[2].cid())]);
    for intact in [&blocks[1], &blocks[3]] {
        assert_eq!(store.blocks.get(&intact.cid()).await.unwrap().as_ref(), Some(intact));
    }
    // Storing the same bytes again repairs the block.
    put(&store, &blocks[0], Placement::Commit).await;
    assert_eq!(store.blocks.get(&blocks[0].cid()).await.unwrap().as_ref(), Some(&blocks[0]));
}

#[tokio::test]
async fn stored_bytes_cannot_pass_for_records() {
    let dir = tempfile::tempdir().unwrap();
    let kept = block(1, 64);
    {
        let store = open(&dir);
        let forged = new_root(7);
        store.roots.cas_root(&address(OwnerId([9; 16]), "forged"), None, &forged).await.unwrap();
        put(&store, &kept, Placement::Commit).await;
    }
    // A client stores a copy of a whole log, aligned as records are, and the head of its record is torn.
    let mut copy = std::fs::read(segment(&dir, "commit")).unwrap();
    copy.drain(..4);
    let victim = tempfile::tempdir().unwrap();
    {
        let store = open(&victim);
        put(&store, &Block::new(Codec::Raw, copy), Placement::Commit).await;
        put(&store, &block(2, 64), Placement::Commit).await;
    }
    let path = segment(&victim, "commit");
    let head = block_heads(&path)[0];
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 4], head + 8).unwrap();
    let store = LocalStore::open(victim.path(), system_clock(), true).unwrap();
    assert_eq!(store.roots.scan_roots(None, 10).await.unwrap().value, []);
    assert_eq!(store.blocks.get(&kept.cid()).await.unwrap(), None);
    assert!(store.blocks.get(&block(2, 64).cid()).await.unwrap().is_some());
}

#[tokio::test]
async fn no_damaged_header_byte_loses_anything() {
    let dir = tempfile::tempdir().unwrap();
    let kept = block(1, 64);
    put(&open(&dir), &kept, Placement::Commit).await;
    let path = segment(&dir, "commit");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..80 {
        let mut hit = whole.clone();
        hit[at] ^= 0x10;
        std::fs::write(&path, &hit).unwrap();
        let store = open(&dir);
        assert_eq!(store.recovery.truncated, [], "byte {at}");
        assert_eq!(store.blocks.get(&kept.cid()).await.unwrap().as_ref(), Some(&kept));
    }
    // With both copies damaged, the log is refused, the damage is reported, and a repair sets the segment
    // aside.
    let mut hit = whole;
    (hit[20], hit[60]) = (!hit[20], !hit[60]);
    std::fs::write(&path, &hit).unwrap();
    let refused = LocalStore::open(dir.path(), system_clock(), false);
    assert!(matches!(refused, Err(OpenError::Damaged(_, 1))), "{refused:?}");
    let store = LocalStore::open(dir.path(), system_clock(), true).unwrap();
    assert_eq!(store.verify().unwrap().len(), 1);
    assert_eq!(store.set_damaged_aside().unwrap(), 1);
    assert_eq!(store.verify().unwrap(), []);
    drop(store);
    assert_eq!(std::fs::read(path.with_extension("log.damaged")).unwrap(), hit);
    open(&dir);
}

#[tokio::test]
async fn repair_moves_what_is_intact_out_of_a_rotten_sealed_segment() {
    let dir = tempfile::tempdir().unwrap();
    let blocks: Vec<Block> = (0..60).map(|n| block(n, 4096)).collect();
    let oldest;
    {
        let store = open(&dir);
        for block in &blocks {
            put(&store, block, Placement::Commit).await;
        }
        oldest = dir.path().join("log/commit-00000001.log");
        assert_ne!(segment(&dir, "commit"), oldest, "never rolled");
    }
    let head = block_heads(&oldest)[0];
    let file = std::fs::OpenOptions::new().write(true).open(&oldest).unwrap();
    file.write_all_at(&[0xff], head + 32 + Cid::BYTES as u64 + 500).unwrap();
    let store = open(&dir);
    assert_eq!(store.set_damaged_aside().unwrap(), 1);
    assert!(!oldest.exists() && oldest.with_extension("log.damaged").exists());
    assert_eq!(store.verify().unwrap(), []);
    for intact in &blocks[1..] {
        assert_eq!(store.blocks.get(&intact.cid()).await.unwrap().as_ref(), Some(intact));
    }
}

/// The footer of the segment lists the pointer, so its loss is noticed even when its head is gone.
#[tokio::test]
async fn a_pointer_that_rots_in_a_sealed_segment_is_missed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let owner = OwnerId([1; 16]);
    {
        let store = open(&dir);
        store.roots.cas_root(&address(owner, "one"), None, &new_root(1)).await.unwrap();
        for n in 0..30 {
            put(&store, &block(n, 4096), Placement::Commit).await;
        }
    }
    let oldest = dir.path().join("log/commit-00000001.log");
    assert_ne!(segment(&dir, "commit"), oldest, "never rolled");
    let file = std::fs::OpenOptions::new().write(true).open(&oldest).unwrap();
    file.write_all_at(&[0xff; 32], heads(&oldest, 2)[0]).unwrap();
    let refused = LocalStore::open(dir.path(), system_clock(), false);
    assert!(matches!(refused, Err(OpenError::Damaged(_, 1))), "{refused:?}");
}

#[tokio::test]
async fn compaction_keeps_what_lives_and_frees_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let owner = OwnerId([1; 16]);
    let blocks: Vec<Block> = (0..100).map(|n| block(n, 4096)).collect();
    let bytes = |dir: &TempDir| -> u64 {
        let files = std::fs::read_dir(dir.path().join("log")).unwrap();
        files.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    };
    let store = open(&dir);
    store.roots.cas_root(&address(owner, "one"), None, &new_root(1)).await.unwrap();
    for block in &blocks {
        put(&store, block, Placement::Commit).await;
    }
    let before = bytes(&dir);
    let cut = store.blocks.advance_epoch();
    // Some records in every segment stay in use.
    let lives = |n: &usize| n.is_multiple_of(10);
    let living: Vec<_> = (0..100).filter(lives).map(|n| blocks[n].cid()).collect();
    store.blocks.mark(&living, cut, Kept::Now);
    assert_eq!(sweep_all(&*store.blocks, cut, cut).await.unwrap().deleted, 90);
    let (mut freed, worked) = (0, store.work());
    loop {
        match store.compact(50, &|| {}).unwrap() {
            0 => break,
            more => freed += more,
        }
    }
    assert!(freed > before / 2, "freed {freed} of {before}");
    let (moved, appended) =
        (store.work().moved_bytes, store.work().appended_bytes - worked.appended_bytes);
    // The log also records how far it is durable.
    assert!(moved > 5 * 4096 && moved <= appended, "moved {moved} of {appended}");
    assert!(bytes(&dir) < before / 2);
    drop(store);
    let store = open(&dir);
    for block in (0..100).filter(lives).map(|n| &blocks[n]) {
        assert_eq!(store.blocks.get(&block.cid()).await.unwrap().as_ref(), Some(block));
    }
    let found =
        store.roots.find_bucket(&BucketName::parse("one").unwrap()).await.unwrap().value.unwrap();
    assert_eq!(found.pointer, new_root(1).pointer);
}

/// A walk may take long. Blocks that are rewritten in the meantime lie behind its end by then.
#[tokio::test]
async fn a_list_passes_everything_whatever_is_moved_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let blocks: Vec<Block> = (0..200).map(|n| block(n, 4096)).collect();
    for (n, block) in blocks.iter().enumerate() {
        put(&store, block, [Placement::Commit, Placement::Bulk][n % 2]).await;
    }
    let living: Vec<_> = blocks.iter().step_by(3).map(Block::cid).collect();
    let cut = store.blocks.advance_epoch();
    store.blocks.mark(&living, cut, Kept::Now);
    sweep_all(&*store.blocks, cut, cut).await.unwrap();
    let (mut pages, mut moves) = (0, 0);
    let (mut found, mut from) = (BTreeSet::new(), Some(Position::default()));
    while let Some(position) = from {
        let listed = store.blocks.list(position).await.unwrap();
        assert!(listed.blocks.iter().all(|(_, len)| *len == 4096));
        found.extend(listed.blocks.into_iter().map(|(cid, _)| cid));
        from = listed.next;
        pages += 1;
        moves += u32::from(store.compact(50, &|| {}).unwrap() > 0);
    }
    assert_eq!(found, living.into_iter().collect());
    assert!(pages > 5 && moves > 5, "{pages} pages, {moves} segments rewritten");
}

/// Marks are kept in few bits, and are removed before they could be taken for those of a later collection.
#[tokio::test]
async fn what_was_marked_long_ago_is_not_marked_now() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let kept = block(1, 64);
    put(&store, &kept, Placement::Commit).await;
    for collections in (1..10).chain(505..520).chain(1020..1030).chain([2048, 4096]) {
        // Collections that begin and do not end.
        let mut cut = store.blocks.advance_epoch();
        for _ in 1..collections {
            cut = store.blocks.advance_epoch();
        }
        let mark = || store.blocks.mark(&[kept.cid()], cut, Kept::Now).fresh;
        assert_eq!(mark(), [kept.cid()], "{collections}");
        assert_eq!(mark(), [], "{collections}");
    }
}

#[tokio::test]
async fn concurrent_syncs_share_fsyncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let before = store.work().fsyncs;
    let writers = (0..32_u64).map(|n| {
        let store = &store;
        async move { put(store, &block(n, 64), Placement::Commit).await }
    });
    futures::future::join_all(writers).await;
    let fsyncs = store.work().fsyncs - before;
    assert!(fsyncs < 8, "{fsyncs} fsyncs for 32 concurrent puts");
}
