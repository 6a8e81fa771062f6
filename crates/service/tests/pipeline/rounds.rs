//! Tests of successive rounds.

use std::sync::{Arc, atomic::Ordering};

use fula_core::in_memory::MemoryBlocks;

use crate::{
    Master,
    faults::{Fault, FaultyRoots},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn who_was_answered_does_not_wait_for_the_next_round() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let master = Arc::new(Master::new(&blocks, &roots, 1));
    master.create().await;
    roots.plan([Fault::Held, Fault::ThreadHeld]);
    let first = tokio::spawn({
        let (master, roots) = (Arc::clone(&master), Arc::clone(&roots));
        async move {
            master.put("first", b"1").await.unwrap();
            // The swap of the second round blocks the thread that answered the first change.
            roots.door.open();
        }
    });
    roots.held.notified().await;
    let mut second = Box::pin(master.put("second", b"2"));
    // On stores in memory it waits only for its round.
    for _ in 0..100 {
        assert!(futures::poll!(&mut second).is_pending());
        tokio::task::yield_now().await;
    }
    roots.go_on.notify_one();
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(roots.swaps.load(Ordering::SeqCst), 3);
}
