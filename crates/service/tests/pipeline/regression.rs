//! An arbiter that goes back in time is caught, healed, or reported as a fork.

use fula_core::{
    BucketName, Directory,
    memory::{MemoryBlocks, MemoryDirectory},
};
use fula_service::Recovery;

use super::*;

/// Masters with memories of their own on one arbiter that can be restored.
struct Federation {
    blocks: Arc<MemoryBlocks>,
    roots: Arc<FaultyRoots>,
    directory: Arc<dyn Directory>,
}

/// A master and its part in recoveries.
struct Member {
    master: Master,
    recovery: Recovery,
}

impl Federation {
    fn new() -> Self {
        let blocks = Arc::new(MemoryBlocks::default());
        let roots = FaultyRoots::new(&blocks);
        Self { blocks, roots, directory: Arc::new(MemoryDirectory::default()) }
    }

    async fn join(&self, writer: u8, memory: &Arc<dyn Directory>) -> Member {
        let blocks: Arc<dyn BlockStore> = Arc::clone(&self.blocks) as _;
        let roots: Arc<dyn RootPointerStore> = Arc::clone(&self.roots) as _;
        let nodes = Arc::new(Nodes::new(blocks, 1 << 20));
        let witness = Witness::open(Some(Arc::clone(memory))).await.unwrap();
        let writer = WriterId([writer; 16]);
        let committer = Committer::new(nodes, roots, writer, Limits::default(), witness);
        let random = system_random();
        let recovery = Recovery::open(
            committer.clone(),
            Arc::clone(&self.directory),
            memory.as_ref(),
            &random,
        );
        let recovery = recovery.await.unwrap();
        let service = Service::new(committer, random, NamePolicy::PerOwner);
        let user = Caller::of(Identity::of_user("key:test"));
        Member { master: Master { service, user }, recovery }
    }
}

fn memory() -> Arc<dyn Directory> {
    Arc::new(MemoryDirectory::default())
}

fn address(member: &Member) -> (fula_core::OwnerId, BucketName) {
    (member.master.owner(), BucketName::parse(BUCKET).unwrap())
}

fn is_refused<T: std::fmt::Debug>(result: &Result<T, ServiceError>) -> bool {
    matches!(result, Err(ServiceError::Regressed(_)))
}

#[tokio::test]
async fn what_was_acknowledged_comes_back_once_all_masters_have_spoken() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    let two = federation.join(2, &memory()).await;
    one.master.create().await;
    one.master.put("before", b"1").await.unwrap();
    let backup = federation.roots.backup();
    two.master.put("after", b"2").await.unwrap();
    let version = two.master.version().await;
    federation.roots.restore(backup);
    // Who committed it knows; nothing is adopted, nothing written.
    assert!(is_refused(&two.master.get("after").await));
    assert!(is_refused(&two.master.put("more", b"x").await));
    two.recovery.tick().await.unwrap();
    two.recovery.tick().await.unwrap();
    assert!(is_refused(&two.master.put("more", b"x").await), "it did not wait for master one");
    let status = two.recovery.status().await.unwrap();
    assert_eq!(status.masters.values().filter(|posted| **posted).count(), 1);
    one.recovery.tick().await.unwrap();
    assert!(is_refused(&one.master.put("more", b"x").await), "master one was not told");
    for member in [&two, &one, &two, &one] {
        member.recovery.tick().await.unwrap();
    }
    for member in [&one, &two] {
        assert_eq!(member.master.get("after").await.unwrap(), b"2");
        assert_eq!(member.master.get("before").await.unwrap(), b"1");
        member.master.put("more", b"x").await.unwrap();
        let status = member.recovery.status().await.unwrap();
        assert_eq!((status.alarm, status.forks.len(), status.healed.len()), (None, 0, 1));
    }
    assert!(one.master.version().await > version);
}

#[tokio::test]
async fn a_master_that_restarts_still_knows() {
    let federation = Federation::new();
    let kept = memory();
    let one = federation.join(1, &kept).await;
    one.master.create().await;
    let backup = federation.roots.backup();
    one.master.put("k", b"v").await.unwrap();
    drop(one);
    federation.roots.restore(backup);
    let one = federation.join(3, &kept).await;
    assert!(is_refused(&one.master.get("k").await));
    for _ in 0..3 {
        one.recovery.tick().await.unwrap();
    }
    assert_eq!(one.master.get("k").await.unwrap(), b"v");
}

#[tokio::test]
async fn an_operator_can_go_on_without_a_master_that_is_gone() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    drop(federation.join(2, &memory()).await);
    one.master.create().await;
    let backup = federation.roots.backup();
    one.master.put("k", b"v").await.unwrap();
    federation.roots.restore(backup);
    assert!(is_refused(&one.master.get("k").await));
    for _ in 0..5 {
        one.recovery.tick().await.unwrap();
    }
    assert!(is_refused(&one.master.get("k").await));
    one.recovery.force().await.unwrap();
    assert_eq!(one.master.get("k").await.unwrap(), b"v");
    assert!(one.recovery.force().await.is_err(), "there is nothing to force any more");
}

#[tokio::test]
async fn states_that_exclude_one_another_are_kept_and_merged() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    one.master.create().await;
    one.master.put("both", b"base").await.unwrap();
    one.master.put("gone", b"base").await.unwrap();
    let backup = federation.roots.backup();
    one.master.put("both", b"one").await.unwrap();
    one.master.put("mine", b"one").await.unwrap();
    one.master.delete("gone").await.unwrap();
    federation.roots.restore(backup);
    // A master that remembers nothing goes on from the restored state.
    federation.roots.set_time(5_000);
    let two = federation.join(2, &memory()).await;
    two.master.put("both", b"two").await.unwrap();
    two.master.put("theirs", b"two").await.unwrap();
    assert!(is_refused(&one.master.get("mine").await));
    for member in [&one, &two, &one, &two, &one] {
        member.recovery.tick().await.unwrap();
    }
    let status = one.recovery.status().await.unwrap();
    assert_eq!((status.alarm, status.forks.len()), (None, 1), "{:?}", status.masters);
    for member in [&one, &two] {
        assert!(is_refused(&member.master.put("k", b"x").await), "a fork was written to");
        assert!(is_refused(&member.master.get("both").await), "a fork was read");
    }
    // Other buckets go on.
    one.master.service.create_bucket(&one.master.user, "other").await.unwrap();

    let bucket = address(&one);
    let planned = two.recovery.merge(&bucket, true).await.unwrap();
    assert!(is_refused(&two.master.get("both").await), "a dry run changed something");
    let done = two.recovery.merge(&bucket, false).await.unwrap();
    assert_eq!(done, planned);
    assert_eq!(done.base, 3);
    assert_eq!(done.taken, ["gone", "mine"]);
    let (name, kept) = &done.both[0];
    assert_eq!(name, "both");
    one.recovery.tick().await.unwrap();
    for member in [&one, &two] {
        let master = &member.master;
        assert_eq!(master.get("mine").await.unwrap(), b"one");
        assert_eq!(master.get("theirs").await.unwrap(), b"two");
        assert_eq!(master.get("both").await.unwrap(), b"two");
        assert_eq!(master.get(kept.as_ref().unwrap()).await.unwrap(), b"one");
        assert!(matches!(master.get("gone").await, Err(ServiceError::NoSuchKey)));
        master.put("k", b"x").await.unwrap();
    }
    assert!(one.recovery.merge(&bucket, true).await.is_err(), "it is no fork any more");
}
