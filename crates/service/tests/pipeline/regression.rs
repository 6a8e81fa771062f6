//! Tests of an arbiter that goes back in time: it is noticed, and buckets are healed or reported as forks.

use fula_core::{
    BucketAddress, MetadataStore,
    in_memory::{MemoryBlocks, MemoryMetadata},
};
use fula_service::{Forgotten, MasterInfo, Recovery};

use super::*;

/// Masters with separate local states on one arbiter that can be restored.
pub(crate) struct Federation {
    pub(crate) blocks: Arc<MemoryBlocks>,
    pub(crate) roots: Arc<FaultyRoots>,
    metadata: Arc<MemoryMetadata>,
}

/// A master, and its part in recoveries.
pub(crate) struct Member {
    pub(crate) master: Master,
    pub(crate) recovery: Recovery,
}

impl Federation {
    pub(crate) fn new() -> Self {
        let blocks = Arc::new(MemoryBlocks::default());
        let roots = FaultyRoots::new(&blocks);
        Self { blocks, roots, metadata: Arc::default() }
    }

    pub(crate) async fn join(&self, writer: u8, memory: &Arc<dyn MetadataStore>) -> Member {
        let blocks: Arc<dyn BlockStore> = Arc::clone(&self.blocks) as _;
        let roots: Arc<dyn RootPointerStore> = Arc::clone(&self.roots) as _;
        let nodes = Arc::new(Nodes::new(blocks, 1 << 20));
        let guard = RollbackGuard::open(Some(Arc::clone(memory))).await.unwrap();
        let writer = WriterId([writer; 16]);
        let limits = Limits::default();
        let arbiter = Arbiter::new(nodes, roots, writer, &limits, guard);
        let random = system_random();
        let recovery = Recovery::open(
            arbiter.clone(),
            Arc::clone(&self.metadata) as _,
            Arc::clone(memory),
            &random,
            NamePolicy::PerOwner,
            true,
        );
        let recovery = recovery.await.unwrap();
        let service = Service::new(arbiter, limits, random, NamePolicy::PerOwner);
        let user = Caller::of(Identity::of_user("key:test"));
        Member { master: Master { service, user }, recovery }
    }
}

pub(crate) fn memory() -> Arc<dyn MetadataStore> {
    Arc::new(MemoryMetadata::default())
}

pub(crate) fn address(member: &Member) -> BucketAddress {
    member.master.address()
}

pub(crate) fn is_refused<T: std::fmt::Debug>(result: &Result<T, ServiceError>) -> bool {
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
    // The master that committed notices. Nothing is adopted and nothing written.
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
    // A master that remembers nothing continues from the restored state.
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
    // Other buckets are not affected.
    one.master.service.create_bucket(&one.master.user, &bucket_name("other"), None).await.unwrap();

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

#[tokio::test]
async fn an_arbiter_that_went_back_is_caught_though_its_mark_went_on() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    one.master.create().await;
    one.master.put("before", b"1").await.unwrap();
    let backup = federation.roots.backup();
    one.master.put("after", b"2").await.unwrap();
    federation.roots.restore_quietly(backup.clone());
    assert!(is_refused(&one.master.get("after").await), "a lower version was adopted");
    for _ in 0..3 {
        one.recovery.tick().await.unwrap();
    }
    assert_eq!(one.master.get("after").await.unwrap(), b"2");

    // The same, while a master that remembers nothing has written beyond all known versions.
    federation.roots.restore_quietly(backup);
    let two = federation.join(2, &memory()).await;
    for n in 0..9 {
        two.master.put(&format!("new-{n}"), b"x").await.unwrap();
    }
    assert!(two.master.version().await > 9);
    assert!(is_refused(&one.master.get("after").await), "a root without its commits was adopted");
}

#[tokio::test]
async fn buckets_are_not_listed_from_an_arbiter_in_doubt() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    let (service, user) = (&one.master.service, &one.master.user);
    let backup = federation.roots.backup();
    one.master.create().await;
    federation.roots.restore(backup);
    assert!(is_refused(&service.buckets(user, "", None, 10).await));
    for _ in 0..3 {
        one.recovery.tick().await.unwrap();
    }
    assert_eq!(service.buckets(user, "", None, 10).await.unwrap().buckets.len(), 1);
}

async fn begin_upload(member: &Member) -> String {
    let facts = fula_service::ObjectFacts::default();
    let key = object_key("upload");
    let begun = fula_service::CreateUploadRequest { key, facts, checksum: None };
    let Master { service, user } = &member.master;
    service.create_upload(user, &bucket(), begun).await.unwrap().to_string()
}

#[tokio::test]
async fn a_side_that_deleted_the_bucket_hides_nothing() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    one.master.create().await;
    let backup = federation.roots.backup();
    one.master.put("kept", b"one").await.unwrap();
    let id = begin_upload(&one).await;
    federation.roots.restore(backup);
    federation.roots.set_time(9_000);
    let two = federation.join(2, &memory()).await;
    two.master.service.delete_bucket(&two.master.user, &bucket()).await.unwrap();
    assert!(is_refused(&one.master.get("kept").await));
    for member in [&one, &two, &one, &two, &one] {
        member.recovery.tick().await.unwrap();
    }
    let done = two.recovery.merge(&address(&one), false).await.unwrap();
    // The merge continues from the side that has the bucket; nothing is taken from the other.
    assert_eq!((done.taken.len(), done.uploads), (0, 0));
    one.recovery.tick().await.unwrap();
    for member in [&one, &two] {
        assert_eq!(member.master.get("kept").await.unwrap(), b"one");
        let (service, user) = (&member.master.service, &member.master.user);
        assert!(service.upload_info(user, &bucket(), &object_key("upload"), &id).await.is_ok());
    }
}

#[tokio::test]
async fn uploads_of_the_older_side_are_merged() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    one.master.create().await;
    let backup = federation.roots.backup();
    let id = begin_upload(&one).await;
    federation.roots.restore(backup);
    federation.roots.set_time(9_000);
    let two = federation.join(2, &memory()).await;
    two.master.put("newer", b"two").await.unwrap();
    for member in [&one, &two, &one, &two, &one] {
        member.recovery.tick().await.unwrap();
    }
    let done = two.recovery.merge(&address(&one), false).await.unwrap();
    assert_eq!(done.uploads, 1);
    let (service, user) = (&two.master.service, &two.master.user);
    assert!(service.upload_info(user, &bucket(), &object_key("upload"), &id).await.is_ok());
    assert_eq!(two.master.get("newer").await.unwrap(), b"two");
}

#[tokio::test]
async fn masters_of_before_the_backup_are_waited_for_until_they_are_struck_off() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    let registered = federation.metadata.backup();
    one.master.create().await;
    let backup = federation.roots.backup();
    let two = federation.join(2, &memory()).await;
    one.recovery.tick().await.unwrap();
    one.master.put("k", b"v").await.unwrap();
    // The backup is older than the second master.
    federation.roots.restore(backup);
    federation.metadata.restore(registered);
    assert!(is_refused(&one.master.get("k").await));
    for _ in 0..5 {
        one.recovery.tick().await.unwrap();
    }
    assert!(is_refused(&one.master.get("k").await), "it did not wait for master two");
    let masters = one.recovery.status().await.unwrap().masters;
    let gone = masters.iter().find(|(_, posted)| !**posted).unwrap().0.clone();
    let forget = async |name: &str| one.recovery.forget_master(name, false).await.unwrap();
    assert_eq!(forget("nobody").await, Forgotten::Unknown);
    assert_eq!(forget(&gone).await, Forgotten::Done);
    for _ in 0..3 {
        one.recovery.tick().await.unwrap();
    }
    assert_eq!(one.master.get("k").await.unwrap(), b"v");
    // The master comes back, finds that the arbiter lacks what it knows, and is on the list again.
    assert_eq!(one.recovery.status().await.unwrap().masters.len(), 1);
    two.recovery.tick().await.unwrap();
    assert_eq!(one.recovery.status().await.unwrap().masters.len(), 2);
}

#[tokio::test]
async fn a_master_that_lives_is_forgotten_by_force_alone_and_enrols_again() {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    let two = federation.join(2, &memory()).await;
    let name = two.recovery.name().to_owned();
    let info = MasterInfo {
        host: "two.example".to_owned(),
        address: "192.0.2.2:9000".to_owned(),
        version: "9.9.9".to_owned(),
        secrets_keys: vec!["0123".to_owned()],
    };
    let found = async || {
        let masters = one.recovery.list_masters().await.unwrap();
        masters.into_iter().find(|master| master.name == name)
    };
    // A master that never sent a heartbeat may be of an earlier version.
    assert!(found().await.is_some_and(|master| !master.is_alive && master.seen_ms.is_none()));
    two.recovery.introduce(info.clone()).await.unwrap();
    let master = found().await.unwrap();
    assert_eq!((master.info, master.is_alive, master.is_self), (info.clone(), true, false));
    let forget = async |force| one.recovery.forget_master(&name, force).await.unwrap();
    assert!(matches!(forget(false).await, Forgotten::Alive(age) if age < 60_000));
    assert_eq!(forget(true).await, Forgotten::Done);
    assert_eq!(found().await, None);
    two.recovery.beat().await.unwrap();
    assert!(found().await.is_some_and(|master| master.is_alive && master.info == info));
    // A master that sends no heartbeat for a minute is not alive.
    federation.roots.set_time(120_000);
    assert!(found().await.is_some_and(|master| !master.is_alive));
    assert_eq!(forget(false).await, Forgotten::Done);
}
