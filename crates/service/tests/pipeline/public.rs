//! Tests of public objects that are found by their blocks.

use std::time::Duration;

use fula_core::{Cid, Codec};
use fula_service::{FindError, PublicReads};

use super::*;

const INDEX_BYTES: usize = 1 << 20;

/// A policy that makes the keys below `pub/` public.
const POLICY: &str = r#"{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*",
    "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/pub/*"}}"#;

/// Two masters, of which the second indexes public objects.
async fn world() -> (Master, PublicReads) {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let (one, two) = (Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2));
    one.create().await;
    let reads = PublicReads::new(two.service, INDEX_BYTES);
    tokio::spawn(reads.clone().watch());
    (one, reads)
}

fn raw(bytes: &[u8]) -> Cid {
    Cid::of(Codec::Raw, bytes)
}

/// Lets the background task look at all buckets.
async fn look() {
    tokio::time::sleep(Duration::from_secs(30)).await;
}

async fn is_found(reads: &PublicReads, cid: Cid) -> bool {
    match reads.find(&cid).await.unwrap() {
        Some(object) => object.get(&cid).await.unwrap().cid() == cid,
        None => false,
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_anyone_may_read_now_is_found() {
    let (master, reads) = world().await;
    assert!(matches!(reads.find(&raw(b"one")).await, Err(FindError::NotReady)));
    for (key, body) in [("pub/one", b"one"), ("pub/two", b"two"), ("private", b"key")] {
        master.put(key, body).await.unwrap();
    }
    look().await;
    assert!(!is_found(&reads, raw(b"one")).await, "there is no policy yet");
    master.service.set_policy(&master.user, &bucket(), Some(POLICY)).await.unwrap();
    look().await;
    for (body, expected) in [(b"one", true), (b"two", true), (b"key", false), (b"xxx", false)] {
        assert_eq!(is_found(&reads, raw(body)).await, expected, "{body:?}");
    }
    // What is replaced or deleted is refused before anybody looks again.
    master.put("pub/one", b"new").await.unwrap();
    master.delete("pub/two").await.unwrap();
    assert!(!is_found(&reads, raw(b"one")).await && !is_found(&reads, raw(b"two")).await);
    look().await;
    assert!(is_found(&reads, raw(b"new")).await && !is_found(&reads, raw(b"one")).await);
    // The same content under another key is enough.
    master.put("pub/again", b"new").await.unwrap();
    look().await;
    master.delete("pub/one").await.unwrap();
    assert!(is_found(&reads, raw(b"new")).await);
    // Without the policy nothing is public.
    master.service.set_policy(&master.user, &bucket(), None).await.unwrap();
    assert!(!is_found(&reads, raw(b"new")).await);
    look().await;
    assert!(!is_found(&reads, raw(b"new")).await);
}

#[tokio::test(start_paused = true)]
async fn every_block_of_a_file_is_found_and_those_of_a_deleted_bucket_are_not() {
    let (master, reads) = world().await;
    master.service.set_policy(&master.user, &bucket(), Some(POLICY)).await.unwrap();
    let body: Vec<u8> = (0..2_500_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let record = master.put("pub/file", &body).await.unwrap();
    look().await;
    let root = record.content.unwrap();
    assert_eq!(root.codec(), Codec::DagPb);
    assert!(is_found(&reads, root).await);
    for leaf in body.chunks(1 << 20) {
        assert!(is_found(&reads, raw(leaf)).await);
    }
    // Nodes of trees and roots of buckets are blocks of no object.
    let head = master.service.arbiter().current(&master.address()).await.unwrap().unwrap();
    assert!(!is_found(&reads, head.row.pointer.root).await);
    master.delete("pub/file").await.unwrap();
    master.service.delete_bucket(&master.user, &bucket()).await.unwrap();
    assert!(!is_found(&reads, root).await);
    look().await;
    assert!(!is_found(&reads, root).await);
}
