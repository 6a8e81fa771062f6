//! Clones of buckets: they have what the source had, share its blocks, and then go their own way.

use std::{sync::atomic::Ordering, time::Duration};

use fula_core::{bucket::Versioning, root::TimeMs};
use fula_service::clone::{CloneError, Cloned};

use super::{
    slow::{LARGE, OTHER, World, caller, whole},
    *,
};

/// Everything is kept.
const ALL: Option<TimeMs> = Some(0);

impl World {
    async fn clone(
        &self,
        name: &str,
        version: Option<u64>,
        kept_since: Option<TimeMs>,
    ) -> Result<Cloned, CloneError> {
        let source = BucketAddress::new(caller().identity.unwrap().owner, bucket());
        self.service.clone_bucket(&source, version, bucket_name(name), kept_since).await
    }

    async fn version(&self, bucket: &str) -> u64 {
        let rows = self.rows().await;
        rows.iter().find(|row| row.address.name.as_str() == bucket).unwrap().pointer.version
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_shares_blocks_and_then_goes_its_own_way() {
    let world = World::new(None, None).await;
    for n in 0..40 {
        world.put(BUCKET, &format!("k{n:02}"), whole(vec![n; 3000])).await.unwrap();
    }
    world.put(BUCKET, "large", whole(vec![7; LARGE])).await.unwrap();
    let before = world.count().await;
    let cloned = world.clone("cloned", None, None).await.unwrap();
    assert_eq!((cloned.objects, cloned.from), (41, world.version(BUCKET).await));
    // One block is new: the root.
    assert_eq!(world.count().await, before + 1);
    assert_eq!(world.get("cloned", "k07").await.unwrap(), vec![7; 3000]);
    world.put("cloned", "k07", whole(b"changed".to_vec())).await.unwrap();
    world.delete("cloned", "k08").await.unwrap();
    world.delete(BUCKET, "large").await.unwrap();
    world.collect().await;
    assert_eq!(world.get(BUCKET, "k07").await.unwrap(), vec![7; 3000]);
    assert_eq!(world.get(BUCKET, "k08").await.unwrap(), vec![8; 3000]);
    assert_eq!(world.get("cloned", "large").await.unwrap(), vec![7; LARGE]);
    assert_eq!(world.get("cloned", "k07").await.unwrap(), b"changed");
    assert!(matches!(world.clone("cloned", None, ALL).await, Err(CloneError::Taken)));
    assert_eq!(world.problems().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_version_can_be_cloned_while_it_is_kept() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "k", whole(b"old".to_vec())).await.unwrap();
    let old = world.version(BUCKET).await;
    let replaced = world.roots.time.load(Ordering::Relaxed);
    for n in 0..10 {
        world.put(BUCKET, "k", whole(vec![n; 2000])).await.unwrap();
    }
    world.clone("as-it-was", Some(old), ALL).await.unwrap();
    assert_eq!(world.get("as-it-was", "k").await.unwrap(), b"old");
    // A retry is later than what the source wrote since: its own changes come after those it took over.
    assert!(world.version("as-it-was").await > world.version(BUCKET).await);
    world.put("as-it-was", "k", whole(b"new".to_vec())).await.unwrap();
    assert_eq!(world.get("as-it-was", "k").await.unwrap(), b"new");
    let late = world.clone("late", Some(old), Some(replaced + 1000)).await;
    assert!(matches!(late, Err(CloneError::NotRetained(version)) if version == old));
    // Where others collect as well, nobody knows what is kept.
    let shared = world.clone("shared", Some(old), None).await;
    assert!(matches!(shared, Err(CloneError::NotCurrent)));
    for absent in [0, 1_000_000] {
        let absent = world.clone("absent", Some(absent), ALL).await;
        assert!(matches!(absent, Err(CloneError::NoSuchVersion(_))), "{absent:?}");
    }
    world.collect().await;
    assert_eq!(world.problems().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_collection_during_a_clone_leaves_what_it_needs() {
    for seed in 0..20 {
        let world = World::new(Some(seed), None).await;
        for n in 0..30 {
            world.put(BUCKET, &format!("k{n:02}"), whole(vec![n; 3000])).await.unwrap();
        }
        let old = world.version(BUCKET).await;
        for n in 0..30 {
            world.delete(BUCKET, &format!("k{n:02}")).await.unwrap();
        }
        // Whether the clone or the collection is first, the clone is whole or refused.
        let collected = world.service.collect(Duration::from_hours(1), &|| 4);
        let (cloned, collected) = tokio::join!(world.clone("cloned", Some(old), ALL), collected);
        collected.unwrap();
        match cloned {
            Ok(_) => {
                world.delete(BUCKET, "none").await.unwrap();
                world.collect().await;
                assert_eq!(world.get("cloned", "k29").await.unwrap(), vec![29; 3000]);
            }
            Err(CloneError::Collecting) => {}
            Err(error) => panic!("{seed}: {error}"),
        }
        assert_eq!(world.problems().await, [], "{seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn versions_come_along_and_uploads_do_not() {
    let world = World::new(None, None).await;
    world.service.set_versioning(&caller(), &bucket(), Versioning::Enabled).await.unwrap();
    for n in 0..3 {
        world.put(BUCKET, "k", whole(vec![n; 10])).await.unwrap();
    }
    world.upload(BUCKET, "uploaded", 1).await.unwrap();
    world.clone("cloned", None, None).await.unwrap();
    world.put("cloned", "k", whole(vec![9; 10])).await.unwrap();
    world.delete("cloned", "k").await.unwrap();
    let rows = world.rows().await;
    let roots = [BUCKET, "cloned"].map(|name| {
        let row = rows.iter().find(|row| row.address.name.as_str() == name).unwrap();
        row.pointer.root
    });
    let blocks = world.service.arbiter().nodes().blocks();
    let mut counts = Vec::new();
    for root in roots {
        let block = blocks.get(&root).await.unwrap().unwrap();
        let root = fula_core::bucket::BucketRoot::from_block(&block).unwrap();
        assert!(root.versioning.is_some());
        counts.push((root.versions.count, root.uploads.count > 0));
    }
    // Two older versions came along; the put and the deletion made two more, and a marker.
    assert_eq!(counts, [(2, true), (5, false)]);
    assert_eq!(world.problems().await, []);
}

/// Returns a master whose buckets may have this many bytes.
async fn bounded(bytes: u64) -> Master {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let limits = Limits { bucket_bytes_max: bytes, ..Limits::default() };
    let master = Master::with_limits(&blocks, &roots, 1, limits);
    master.create().await;
    master
}

fn is_exceeded_error(error: &ServiceError) -> bool {
    matches!(error, ServiceError::QuotaExceeded(_))
}

fn is_exceeded<T>(result: Result<T, ServiceError>) -> bool {
    result.err().as_ref().is_some_and(is_exceeded_error)
}

#[tokio::test(start_paused = true)]
async fn a_bucket_does_not_grow_beyond_its_quota() {
    let master = bounded(10_000).await;
    master.put("a", &[1; 6000]).await.unwrap();
    assert!(is_exceeded(master.put("b", &[2; 4001]).await));
    master.put("b", &[2; 4000]).await.unwrap();
    // What replaces an object needs only the difference, and deletions give room back.
    master.put("a", &[3; 6000]).await.unwrap();
    assert!(is_exceeded(master.put("a", &[3; 6001]).await));
    assert_eq!(master.get("a").await.unwrap(), [3; 6000]);
    master.delete("a").await.unwrap();
    master.put("c", &[4; 6000]).await.unwrap();
    // A lower quota takes nothing away, and lets nothing grow.
    master.service.set_bucket_limits(&Limits { bucket_bytes_max: 5000, ..Limits::default() });
    assert!(is_exceeded(master.put("d", &[5; 1]).await));
    master.put("c", &[4; 10]).await.unwrap();
    master.service.set_bucket_limits(&Limits::default());
    master.put("d", &[5; 10_000]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn writes_at_the_same_moment_do_not_exceed_a_quota_together() {
    let master = bounded(10_000).await;
    let keys: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    let writes = keys.iter().map(|key| master.put(key, &[1; 1000]));
    let results = futures::future::join_all(writes).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 10);
    assert_eq!(
        results
            .into_iter()
            .filter(|result| is_exceeded(result.as_ref().map_err(Clone::clone)))
            .count(),
        40
    );
}

#[tokio::test(start_paused = true)]
async fn the_buckets_of_an_owner_do_not_grow_beyond_a_quota_together() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let limits = Limits { owner_bytes_max: 10_000, ..Limits::default() };
    let [one, two] = [1, 2].map(|n| Master::with_limits(&blocks, &roots, n, limits.clone()));
    one.create().await;
    one.put("a", &[1; 4000]).await.unwrap();
    // A clone counts as any other bucket, and deleting objects makes room.
    let clone = async |name: &str| {
        let name = bucket_name(name);
        one.service.clone_bucket(&one.address(), None, name, None).await
    };
    clone("cloned").await.unwrap();
    assert!(clone("more").await.is_err());
    assert!(is_owner_exceeded(one.put("b", &[2; 2001]).await));
    // Many writes at the same moment do not exceed the quota together.
    let keys: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    let results = futures::future::join_all(keys.iter().map(|key| one.put(key, &[1; 1000]))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
    // What another master has committed counts.
    assert!(is_owner_exceeded(two.put("c", &[3; 1]).await));
    two.put("a", &[4; 4000]).await.unwrap();
    one.delete("a").await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(3)).await;
    two.put("c", &[3; 4000]).await.unwrap();
    assert!(is_owner_exceeded(two.put("d", &[3; 1]).await));
    // A lower quota takes nothing away, and 0 is none.
    one.service.set_bucket_limits(&Limits { owner_bytes_max: 10, ..Limits::default() });
    assert!(is_owner_exceeded(one.put("e", &[5; 1]).await));
    one.service.set_bucket_limits(&Limits::default());
    one.put("e", &[5; 10_000]).await.unwrap();
}

/// A round that ends while the sizes are read again counts, although the reading has seen its bucket before.
#[tokio::test(start_paused = true)]
async fn a_round_that_ends_while_sizes_are_read_counts() {
    let world = World::new(None, None).await;
    world.service.set_bucket_limits(&Limits { owner_bytes_max: 10_000, ..Limits::default() });
    world.put(OTHER, "a", whole(vec![1; 1])).await.unwrap();
    world.roots.swaps.close();
    let round = world.put(BUCKET, "a", whole(vec![1; 4000]));
    let reading = async {
        world.roots.swaps.waited_at().await;
        tokio::time::advance(Duration::from_secs(3)).await;
        world.roots.lists.close();
        let other = world.put(OTHER, "b", whole(vec![1; 1]));
        let go_on = async {
            world.roots.lists.waited_at().await;
            world.roots.swaps.open();
        };
        futures::join!(other, go_on).0
    };
    let ended = async {
        let ended = round.await;
        world.roots.lists.open();
        ended
    };
    let (ended, read) = futures::join!(ended, reading);
    ended.unwrap();
    read.unwrap();
    assert!(is_owner_exceeded(world.put(OTHER, "c", whole(vec![1; 6000])).await));
    world.put(OTHER, "c", whole(vec![1; 5900])).await.unwrap();
}

fn is_owner_exceeded<T>(result: Result<T, ServiceError>) -> bool {
    matches!(result, Err(ServiceError::OwnerQuotaExceeded(10_000 | 10)))
}
