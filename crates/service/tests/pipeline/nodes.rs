//! Tests of cached tree nodes during commits.

use fula_core::{
    Codec,
    block::{Epoch, Kept, list_all, sweep_all},
};

use super::*;
use crate::faults::Fault;

/// Until a commit is published, all requests read the state before it. Its nodes stay in the cache.
#[tokio::test]
async fn the_state_before_is_read_from_memory_while_a_commit_is_on_its_way() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let master = Master::new(&blocks, &roots, 1);
    master.create().await;
    for n in 0..200 {
        master.put(&format!("key-{n:03}"), b"before").await.unwrap();
    }
    roots.plan([Fault::Held]);
    let reads = async {
        roots.held.notified().await;
        // The content is not cached.
        let all = list_all(&*blocks).await.unwrap().into_iter().map(|(cid, _)| cid);
        let raw: Vec<_> = all.filter(|cid| cid.codec() == Codec::Raw).collect();
        blocks.mark(&raw, Epoch(9), Kept::Now);
        let gone = sweep_all(&*blocks, Epoch(9), Epoch(9)).await.unwrap().deleted;
        assert!(gone > 200, "{gone} roots and nodes were deleted");
        for n in [0, 77, 199] {
            assert_eq!(master.get(&format!("key-{n:03}")).await.unwrap(), b"before");
        }
        roots.go_on.notify_one();
    };
    let (put, ()) = tokio::join!(master.put("key-077", b"after"), reads);
    put.unwrap();
    assert_eq!(master.get("key-077").await.unwrap(), b"after");
}
