//! Tests of buckets as streams, and of following what changes.

use std::{collections::BTreeMap, time::Duration};

use fula_core::{Cid, cbor::Reader, in_memory::MemoryBlocks, tree::Node};
use fula_service::{
    BatchAction, BatchChange, ChangesRequest, ListRequest, ListingLine, Snapshot, SnapshotRequest,
};
use proptest::prelude::*;

use super::*;

/// Entity tag and metadata value of an object.
type Told = (String, Option<String>);

/// A stream that was read.
#[derive(Debug)]
struct Read {
    version: u64,
    root: Cid,
    since: Option<u64>,
    /// What the stream says of each key; `None` for one that was removed.
    keys: Vec<(String, Option<Told>)>,
}

/// Reads a stream to its end.
async fn read(snapshot: Snapshot) -> Read {
    let pieces: Vec<Bytes> = snapshot.items.try_collect().await.unwrap();
    let all = Bytes::from(pieces.concat());
    let mut reader = Reader::new(&all);
    reader.tuple(5).unwrap();
    assert_eq!(reader.uint(), Ok(0));
    let (version, root) = (reader.uint().unwrap(), reader.link().unwrap());
    assert_eq!((version, root), (snapshot.version, snapshot.root));
    let since = if reader.null() { None } else { Some(reader.uint().unwrap()) };
    reader.map().unwrap();
    let mut keys = Vec::new();
    loop {
        let length = reader.array().unwrap();
        match (reader.uint().unwrap(), length) {
            (1, 8) => {
                let key = reader.text().unwrap().to_owned();
                reader.uint().unwrap();
                let etag = reader.text().unwrap().to_owned();
                reader.uint().unwrap();
                reader.tuple(2).unwrap();
                assert!(reader.uint().unwrap() <= version);
                reader.uint().unwrap();
                let meta =
                    if reader.null() { None } else { Some(reader.text().unwrap().to_owned()) };
                keys.push((key, Some((etag, meta))));
            }
            (2, 3) => keys.push((reader.text().unwrap().to_owned(), None)),
            (3, 3) => {
                assert_eq!(reader.uint(), Ok(keys.len() as u64));
                assert_eq!(reader.map(), Ok(0));
                reader.end().unwrap();
                return Read { version, root, since, keys };
            }
            other => panic!("an item begins with {other:?}"),
        }
        assert_eq!(reader.map(), Ok(0));
    }
}

fn two() -> [Master; 2] {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)]
}

async fn snapshot(master: &Master, request: SnapshotRequest) -> Read {
    let found = master.service.snapshot(&master.user, &bucket(), request).await.unwrap();
    read(found).await
}

async fn changes(master: &Master, request: ChangesRequest) -> Result<Read, ServiceError> {
    let found = master.service.changes(&master.user, &bucket(), request).await?;
    Ok(read(found).await)
}

fn since(version: u64) -> ChangesRequest {
    ChangesRequest { since: version, ..ChangesRequest::default() }
}

fn names(read: &Read) -> Vec<&str> {
    read.keys.iter().map(|(key, _)| key.as_str()).collect()
}

fn put(key: &str, body: &str, meta: &str) -> BatchChange {
    let metadata = [("m".to_owned(), meta.to_owned())].into();
    let facts = ObjectFacts { metadata, ..ObjectFacts::default() };
    let action = BatchAction::Put { body: Bytes::copy_from_slice(body.as_bytes()), facts };
    BatchChange { key: object_key(key), conditions: WriteConditions::default(), action }
}

fn delete(key: &str) -> BatchChange {
    let conditions = WriteConditions::default();
    BatchChange { key: object_key(key), conditions, action: BatchAction::Delete }
}

async fn commit(master: &Master, changes: &[BatchChange]) {
    for changes in changes.chunks(1000) {
        master.service.commit(&master.user, &bucket(), changes).await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_has_every_object_of_one_version() {
    let [one, two] = two();
    one.create().await;
    let large = "x".repeat(1500);
    let all: Vec<_> = (0..1500).map(|n| put(&format!("k{n:04}"), "body", &large)).collect();
    commit(&one, &all).await;
    let version = one.version().await;
    let request = SnapshotRequest { meta: Some("m".to_owned()), ..Default::default() };
    let stream = two.service.snapshot(&two.user, &bucket(), request).await.unwrap();
    // What is written while it is read is not in it.
    commit(&one, &[delete("k1499"), put("k1500", "", "")]).await;
    let found = read(stream).await;
    assert_eq!((found.version, found.since), (version, None));
    let expected: Vec<_> = (0..1500).map(|n| format!("k{n:04}")).collect();
    assert_eq!(names(&found), expected);
    assert!(found.keys.iter().all(|(_, told)| told.as_ref().unwrap().1.as_ref() == Some(&large)));
    let prefix = "k00".to_owned();
    let request = SnapshotRequest { prefix, after: Some("k0097".to_owned()), meta: None };
    let found = snapshot(&two, request).await;
    assert_eq!(names(&found), ["k0098", "k0099"]);
    assert!(found.keys.iter().all(|(_, told)| told.as_ref().unwrap().1.is_none()));
    let nothing = SnapshotRequest { prefix: "z".to_owned(), ..Default::default() };
    assert!(snapshot(&one, nothing).await.keys.is_empty());
}

/// Returns the last leaf of the objects of the bucket.
async fn last_leaf(master: &Master) -> Cid {
    let (arbiter, address) = (master.service.arbiter(), master.address());
    let mut cid = arbiter.current(&address).await.unwrap().unwrap().root.objects.root.unwrap();
    loop {
        let block = arbiter.nodes().blocks().get(&cid).await.unwrap().unwrap();
        let node = Node::decode(block.bytes()).unwrap();
        if node.level() == 0 {
            return cid;
        }
        cid = node.child(node.len() - 1);
    }
}

#[tokio::test]
async fn a_stream_that_cannot_go_on_has_no_end() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let [one, two, three] = [1, 2, 3].map(|writer| Master::new(&blocks, &roots, writer));
    one.create().await;
    let all: Vec<_> = (0..1500).map(|n| put(&format!("k{n:04}"), "body", "")).collect();
    commit(&one, &all).await;
    let (version, leaf) = (one.version().await, last_leaf(&one).await);
    let (name, all) = (bucket(), SnapshotRequest::default());
    let stream = two.service.snapshot(&two.user, &name, all).await.unwrap();
    commit(&one, &[put("k1499", "other", "")]).await;
    assert!(blocks.lose(&leaf));
    let pieces: Result<Vec<Bytes>, _> = stream.items.try_collect().await;
    assert!(matches!(pieces, Err(ServiceError::Damaged(_))), "{pieces:?}");
    // The difference needs what is lost. The newest state does not.
    let refused = changes(&three, since(version)).await;
    assert!(matches!(refused, Err(ServiceError::VersionExpired(_))), "{refused:?}");
    assert_eq!(snapshot(&three, SnapshotRequest::default()).await.keys.len(), 1500);
}

#[tokio::test]
async fn changes_are_the_difference_since_a_version() {
    let [one, two] = two();
    one.create().await;
    commit(&one, &[put("a", "1", "x"), put("b", "1", "x"), put("c", "1", "x")]).await;
    let before = snapshot(&one, SnapshotRequest::default()).await;
    commit(&one, &[put("b", "2", "y"), delete("c"), put("d", "1", "y")]).await;
    commit(&two, &[put("e", "1", "y")]).await;
    // It came and went.
    commit(&two, &[delete("e")]).await;
    for master in [&one, &two] {
        let meta = Some("m".to_owned());
        let found =
            changes(master, ChangesRequest { meta, ..since(before.version) }).await.unwrap();
        assert_eq!(found.since, Some(before.version));
        assert_eq!(names(&found), ["b", "c", "d"]);
        assert!(found.keys[1].1.is_none());
        assert_eq!(found.keys[2].1.as_ref().unwrap().1.as_deref(), Some("y"));
        let prefix = "c".to_owned();
        let found = changes(master, ChangesRequest { prefix, ..since(before.version) }).await;
        assert_eq!(names(&found.unwrap()), ["c"]);
        let found = changes(master, since(found_version(master).await)).await.unwrap();
        assert!(found.keys.is_empty());
    }
    let root = Some(before.root);
    changes(&one, ChangesRequest { root, ..since(before.version) }).await.unwrap();
    // A version that is not there yet, and one whose root is another.
    let newest = found_version(&one).await;
    for request in [since(newest + 1), ChangesRequest { root, ..since(newest) }] {
        let refused = changes(&one, request).await;
        assert!(matches!(refused, Err(ServiceError::VersionExpired(_))), "{refused:?}");
    }
}

async fn found_version(master: &Master) -> u64 {
    master.version().await
}

#[tokio::test]
async fn a_version_beyond_the_retention_is_refused() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let limits = Limits { retention: Duration::ZERO, ..Limits::default() };
    let master = Master::with_limits(&blocks, &roots, 1, limits);
    master.create().await;
    let version = master.version().await;
    // A state that was not replaced does not end.
    changes(&master, since(version)).await.unwrap();
    master.put("a", b"1").await.unwrap();
    // The clock of the arbiter goes on.
    roots.set_time(u64::MAX / 2);
    let refused = changes(&master, since(version)).await;
    assert!(matches!(refused, Err(ServiceError::VersionExpired(_))), "{refused:?}");
}

#[tokio::test]
async fn a_bucket_of_the_same_name_is_another_one() {
    let [one, two] = two();
    one.create().await;
    let last = one.version().await;
    one.service.delete_bucket(&one.user, &bucket()).await.unwrap();
    two.create().await;
    for version in last..one.version().await {
        let refused = changes(&one, since(version)).await;
        assert!(matches!(refused, Err(ServiceError::VersionExpired(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_request_waits_for_a_change_of_any_master() {
    let [one, two] = two();
    one.create().await;
    for writer in [&one, &two] {
        let version = one.version().await;
        let wait = Duration::from_mins(1);
        let waiting = changes(&one, ChangesRequest { wait, ..since(version) });
        let write = async {
            while one.service.waits() == 0 {
                tokio::task::yield_now().await;
            }
            writer.put("k", b"new").await.unwrap();
        };
        let (found, ()) = tokio::join!(waiting, write);
        let found = found.unwrap();
        assert_eq!((names(&found), found.version), (vec!["k"], version + 1));
        assert_eq!(one.service.waits(), 0);
        one.delete("k").await.unwrap();
    }
    // Nothing waits during a shutdown.
    let wait = Duration::from_mins(1);
    let version = one.version().await;
    let waiting = changes(&one, ChangesRequest { wait, ..since(version) });
    let stop = async {
        while one.service.waits() == 0 {
            tokio::task::yield_now().await;
        }
        one.service.stop_waits();
    };
    let (found, ()) = tokio::join!(waiting, stop);
    let found = found.unwrap();
    assert!(found.keys.is_empty() && found.version == version);
    changes(&one, ChangesRequest { wait, ..since(version) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_no_longer_than_it_asks_for() {
    let [one, _] = two();
    one.create().await;
    let version = one.version().await;
    let began = tokio::time::Instant::now();
    let wait = Duration::from_secs(7);
    let found = changes(&one, ChangesRequest { wait, ..since(version) }).await.unwrap();
    assert!(found.keys.is_empty());
    assert!(began.elapsed() >= wait && began.elapsed() < Duration::from_secs(8));
    let wait = Duration::from_hours(1);
    changes(&one, ChangesRequest { wait, ..since(version) }).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(70));
}

#[tokio::test]
async fn a_stranger_is_told_nothing() {
    let [one, _] = two();
    one.create().await;
    let stranger = Caller::of(Identity::of_user("key:stranger"));
    let list = one.service.snapshot(&stranger, &bucket(), SnapshotRequest::default()).await;
    assert!(matches!(list, Err(ServiceError::NoSuchBucket)), "{list:?}");
    let wait = Duration::from_mins(1);
    let request = ChangesRequest { wait, ..since(one.version().await) };
    let found = one.service.changes(&stranger, &bucket(), request).await;
    assert!(matches!(found, Err(ServiceError::NoSuchBucket)), "{found:?}");
    assert_eq!(one.service.waits(), 0);
}

/// The keys that a listing shows, with their entity tags.
async fn listed(master: &Master) -> BTreeMap<String, String> {
    let all = ListRequest { limit: 1000, ..Default::default() };
    let listing = master.service.list_objects(&master.user, &bucket(), &all).await.unwrap();
    let line = |line| match line {
        ListingLine::Object(key, record) => (key, record.etag.to_string()),
        ListingLine::Prefix(prefix) => panic!("{prefix}"),
    };
    listing.lines.into_iter().map(line).collect()
}

/// Follows a bucket from version to version until it is at `last`, and returns the mirror. Each answer must change
/// what the mirror has.
async fn follow(
    master: &Master,
    last: &tokio::sync::watch::Receiver<u64>,
) -> BTreeMap<String, String> {
    let begun = snapshot(master, SnapshotRequest::default()).await;
    let (mut version, mut root) = (begun.version, begun.root);
    let mut mirror = BTreeMap::new();
    apply(&mut mirror, begun.keys);
    while version != *last.borrow() {
        let wait = Duration::from_millis(100);
        let request = ChangesRequest { root: Some(root), wait, ..since(version) };
        let found = changes(master, request).await.unwrap();
        assert_eq!(found.since, Some(version));
        assert!(found.version >= version);
        apply(&mut mirror, found.keys);
        (version, root) = (found.version, found.root);
    }
    mirror
}

fn apply(mirror: &mut BTreeMap<String, String>, keys: Vec<(String, Option<Told>)>) {
    for (key, told) in keys {
        match told {
            // An object that is put again with the same content is a change, too.
            Some((etag, _)) => drop(mirror.insert(key, etag)),
            None => assert!(mirror.remove(&key).is_some(), "{key} was removed twice"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Followers of either master end with what a listing shows, however two masters write.
    #[test]
    fn a_mirror_that_follows_is_the_bucket(
        writes in prop::collection::vec((0_u8..12, prop::option::of(0_u8..3), any::<bool>()), 1..60),
    ) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let blocks = Arc::new(MemoryBlocks::default());
            let roots = FaultyRoots::with_power(&blocks);
            let [one, two] = [1, 2].map(|writer| Master::new(&blocks, &roots, writer));
            one.create().await;
            let (told, last) = tokio::sync::watch::channel(0);
            let write = |master: &Master, is_first: bool| {
                let mine: Vec<_> = writes.iter().filter(|write| write.2 == is_first).copied().collect();
                let (service, user) = (master.service.clone(), master.user.clone());
                async move {
                    for (key, value, _) in mine {
                        let key = format!("k{key}");
                        let change = match value {
                            Some(value) => put(&key, &format!("{value}"), ""),
                            None => delete(&key),
                        };
                        service.commit(&user, &bucket(), &[change]).await.unwrap();
                    }
                }
            };
            let write_all = async {
                tokio::join!(write(&one, true), write(&two, false));
                told.send(one.version().await).unwrap();
            };
            let (of_one, of_two, ()) = tokio::join!(follow(&one, &last), follow(&two, &last), write_all);
            let expected = listed(&one).await;
            assert_eq!(of_one, expected);
            assert_eq!(of_two, expected);
        });
    }
}
