//! The clauses of the contract of [`BlockStore`].

use bytes::Bytes;
use futures::future::join_all;

use crate::{
    block::{BLOCK_BYTES_MAX, Block, BlockStore, Kept, Placement, list_all, sweep_all},
    error::StoreError,
    id::{Cid, Codec},
};

fn block(seed: u8, len: usize) -> Block {
    Block::new(Codec::Raw, vec![seed; len])
}

/// A block is returned as it was put, for every placement, codec and size, before and after a sync.
pub async fn returns_what_was_put(store: &dyn BlockStore) {
    let blocks = [
        block(1, 0),
        block(2, 5),
        block(3, BLOCK_BYTES_MAX),
        Block::new(Codec::DagCbor, Bytes::from_static(&[0x80])),
    ];
    for placement in [Placement::Commit, Placement::Bulk] {
        let mark = store.put(&blocks, placement).await.unwrap();
        for _ in 0..2 {
            for block in &blocks {
                assert_eq!(store.get(&block.cid()).await.unwrap().as_ref(), Some(block));
                let size = store.size(&block.cid()).await.unwrap();
                assert_eq!(size, Some(block.bytes().len() as u64));
            }
            store.sync(mark).await.unwrap();
        }
    }
}

/// Reading a block that was never put returns `None` and no error.
pub async fn absent_is_none(store: &dyn BlockStore) {
    let cid = Cid::of(Codec::Raw, b"never put");
    assert_eq!(store.get(&cid).await.unwrap(), None);
    assert_eq!(store.size(&cid).await.unwrap(), None);
    let epoch = store.advance_epoch();
    assert_eq!(sweep_all(store, epoch, epoch).await.unwrap().deleted, 0);
}

/// Equal blocks are stored once, within one batch and across batches.
pub async fn putting_twice_is_once(store: &dyn BlockStore) {
    let same = block(1, 100);
    store.put(&[same.clone(), same.clone()], Placement::Commit).await.unwrap();
    store.put(std::slice::from_ref(&same), Placement::Bulk).await.unwrap();
    assert_eq!(list_all(store).await.unwrap(), [(same.cid(), 100)]);
}

/// A block over the limit is refused.
pub async fn refuses_oversized_blocks(store: &dyn BlockStore) {
    let refused = store.put(&[block(1, BLOCK_BYTES_MAX + 1)], Placement::Commit).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
}

/// A put of a block that is stored but not yet durable returns a mark that covers it.
pub async fn sync_covers_what_was_already_there(store: &dyn BlockStore) {
    let shared = block(1, 100);
    let first = store.put(std::slice::from_ref(&shared), Placement::Bulk).await.unwrap();
    let second = store.put(std::slice::from_ref(&shared), Placement::Commit).await.unwrap();
    assert_eq!(second.and(first), second, "the second mark does not cover the first");
    store.sync(second).await.unwrap();
}

/// An unmarked block that was last put before the epoch is deleted.
pub async fn old_blocks_are_deleted(store: &dyn BlockStore) {
    let (old, new) = (block(1, 10), block(2, 10));
    store.put(std::slice::from_ref(&old), Placement::Commit).await.unwrap();
    let cut = store.advance_epoch();
    store.put(std::slice::from_ref(&new), Placement::Commit).await.unwrap();
    let swept = sweep_all(store, cut, cut).await.unwrap();
    assert_eq!((swept.deleted, swept.bytes), (1, old.bytes().len() as u64));
    assert_eq!(store.get(&old.cid()).await.unwrap(), None);
    assert_eq!(store.get(&new.cid()).await.unwrap(), Some(new));
}

/// A put after the epoch began renews a block, so that a collector does not delete it.
pub async fn a_new_put_saves_from_deletion(store: &dyn BlockStore) {
    let shared = block(1, 10);
    store.put(std::slice::from_ref(&shared), Placement::Commit).await.unwrap();
    let cut = store.advance_epoch();
    store.put(std::slice::from_ref(&shared), Placement::Commit).await.unwrap();
    assert_eq!(sweep_all(store, cut, cut).await.unwrap().deleted, 0);
    assert_eq!(store.get(&shared.cid()).await.unwrap(), Some(shared));
}

/// A marked block stays, whenever it was put, until a later collection finds it unmarked. A
/// collection reports it as newly marked only once.
pub async fn marked_blocks_stay(store: &dyn BlockStore) {
    let (marked, other) = (block(1, 10), block(2, 10));
    store.put(&[marked.clone(), other.clone()], Placement::Commit).await.unwrap();
    let cut = store.advance_epoch();
    let mark = |cids: &[Cid]| store.mark(cids, cut, Kept::Now).fresh;
    assert_eq!(mark(&[marked.cid(), marked.cid()]), [marked.cid()]);
    assert_eq!(mark(&[marked.cid()]), []);
    // A missing node is reported: if it were skipped, the blocks below it would be deleted.
    let node = Cid::of(Codec::DagCbor, b"a node that is lost");
    assert_eq!(mark(&[node]), [node]);
    sweep_all(store, cut, cut).await.unwrap();
    assert_eq!(store.get(&other.cid()).await.unwrap(), None);
    assert_eq!(store.get(&marked.cid()).await.unwrap().as_ref(), Some(&marked));
    let later = store.advance_epoch();
    sweep_all(store, later, later).await.unwrap();
    assert_eq!(store.get(&marked.cid()).await.unwrap(), None);
}

/// A block that was put since the oldest write in flight began stays, although the epoch began later.
pub async fn blocks_of_writes_in_flight_stay(store: &dyn BlockStore) {
    let (before, since) = (block(1, 10), block(2, 10));
    store.put(std::slice::from_ref(&before), Placement::Commit).await.unwrap();
    let oldest = store.advance_epoch();
    store.put(std::slice::from_ref(&since), Placement::Commit).await.unwrap();
    let cut = store.advance_epoch();
    sweep_all(store, cut, oldest).await.unwrap();
    assert_eq!(store.get(&before.cid()).await.unwrap(), None);
    assert_eq!(store.get(&since.cid()).await.unwrap(), Some(since));
}

/// A listing names every block once.
pub async fn lists_what_is_held(store: &dyn BlockStore) {
    let blocks: Vec<Block> = (0..25).map(|seed| block(seed, usize::from(seed) + 1)).collect();
    store.put(&blocks, Placement::Commit).await.unwrap();
    let mut expected: Vec<_> =
        blocks.iter().map(|block| (block.cid(), block.bytes().len() as u64)).collect();
    expected.sort();
    let mut found = list_all(store).await.unwrap();
    found.sort();
    assert_eq!(found, expected);
}

/// Concurrent puts and syncs of overlapping batches all take effect.
pub async fn concurrent_puts_all_hold(store: &dyn BlockStore) {
    let tasks = (0..8_u8).map(|task| async move {
        for round in 0..10_u8 {
            let blocks = [block(task ^ round, 300), block(round, 200)];
            let mark = store.put(&blocks, Placement::Commit).await.unwrap();
            store.sync(mark).await.unwrap();
            for block in blocks {
                assert_eq!(store.get(&block.cid()).await.unwrap(), Some(block));
            }
        }
    });
    join_all(tasks).await;
}
