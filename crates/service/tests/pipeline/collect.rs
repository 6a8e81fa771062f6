//! Tests of collection while serving: needed blocks stay, others are deleted, and the tests notice when a
//! rule is left out.

use std::{sync::atomic::Ordering, time::Duration};

use fula_core::{
    StoreError,
    block::{Kept, list_all, sweep_all},
    bucket::{VersionId, Versioning},
    in_memory::MemoryBlocks,
};
use fula_service::{fault_injection::Fault, fsck, history};
use fula_testkit::rng::Rng;
use futures::{StreamExt, future::join_all};

use super::{
    slow::{LARGE, OTHER, World, caller, whole},
    *,
};

#[tokio::test(start_paused = true)]
async fn what_was_replaced_goes_and_the_rest_stays() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "kept", whole(vec![1; LARGE])).await.unwrap();
    for n in 0..20 {
        world.put(BUCKET, "replaced", whole(vec![n; 100])).await.unwrap();
        world.put(BUCKET, "large", whole(vec![n; LARGE])).await.unwrap();
    }
    world.delete(BUCKET, "large").await.unwrap();
    let before = world.count().await;
    let done = world.collect().await;
    assert!(done.deleted > 60 && done.deleted_bytes > 18 * LARGE as u64, "{done:?}");
    assert_eq!(world.count().await, before - usize::try_from(done.deleted).unwrap());
    assert_eq!(world.problems().await, []);
    assert_eq!(world.get(BUCKET, "kept").await.unwrap(), vec![1; LARGE]);
    assert_eq!(world.get(BUCKET, "replaced").await.unwrap(), vec![19; 100]);
    // The history is read from the roots themselves.
    let blocks = world.service.arbiter().nodes().blocks();
    let row =
        world.rows().await.into_iter().find(|row| row.address.name.as_str() == BUCKET).unwrap();
    assert_eq!(history::log(blocks.as_ref(), row.pointer.root, 100).await.unwrap().len(), 43);
    assert_eq!(world.collect().await.deleted, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_while_collections_are_off() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let limits = |collects| Limits { collects, ..Limits::default() };
    let master = |writer, collects| Master::with_limits(&blocks, &roots, writer, limits(collects));
    let off = master(1, false);
    off.create().await;
    off.put("k", b"1").await.unwrap();
    off.delete("k").await.unwrap();
    off.service.delete_bucket(&off.user, &bucket()).await.unwrap();
    let count = async || list_all(blocks.as_ref()).await.unwrap().len();
    let before = count().await;
    let collected = off.service.collect(Duration::ZERO, &|| 0).await;
    let dropped = off.service.drop_deleted(Duration::ZERO, true).await;
    for refused in [collected.unwrap_err(), dropped.unwrap_err()] {
        assert!(refused.to_string().contains("FULA_COLLECT"), "{refused}");
    }
    assert_eq!((count().await, roots.scan_roots(None, 9).await.unwrap().value.len()), (before, 1));
    // What could be freed is still counted.
    off.service.survey(Duration::ZERO, &|| 0).await.unwrap();
    let on = master(2, true);
    assert_eq!(on.service.drop_deleted(Duration::ZERO, true).await.unwrap(), 1);
    assert!(on.service.collect(Duration::ZERO, &|| 0).await.unwrap().deleted > 0);
    assert!(count().await < before);
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_lately_stays_readable() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "k", whole(vec![1; LARGE])).await.unwrap();
    let old = world.rows().await.remove(0);
    world.put(BUCKET, "k", whole(vec![2; LARGE])).await.unwrap();
    let retained = world.service.collect(Duration::from_hours(1), &|| 4).await.unwrap();
    assert_eq!(retained.deleted, 0);
    let nodes = world.service.arbiter().nodes();
    let report = fsck::check_bucket(nodes, &old, &mut fsck::Checked::default()).await.unwrap();
    assert_eq!(report.problems, []);
}

/// Replaces and collects an object while it is being read. Returns what the reader gets.
fn read_while_collected(fault: Option<Fault>) -> Result<Vec<u8>, StoreError> {
    runtime().block_on(async {
        let world = World::new(None, fault).await;
        let body: Vec<u8> = (0..5 * LARGE).map(|n| (n >> 18).to_le_bytes()[0]).collect();
        world.put(BUCKET, "k", whole(body.clone())).await.unwrap();
        let reader = caller();
        let none = ReadConditions::default();
        let record = world
            .service
            .get_object(&reader, &bucket(), &object_key("k"), &none)
            .await
            .unwrap()
            .record;
        let mut stream = world.service.read(&reader, &record, 0..record.size).await.unwrap();
        drop(reader);
        let mut read = stream.next().await.unwrap()?.to_vec();
        for n in 0..3 {
            world.put(BUCKET, "k", whole(vec![n])).await.unwrap();
        }
        world.collect().await;
        while let Some(bytes) = stream.next().await {
            read.extend(bytes?);
        }
        assert_eq!(read, body);
        drop(stream);
        let done = world.collect().await;
        assert!(done.deleted_bytes > 4 << 20, "what nobody reads any more stays: {done:?}");
        Ok(read)
    })
}

#[test]
fn a_reader_keeps_what_it_reads() {
    assert_eq!(read_while_collected(None).unwrap().len(), 5 * LARGE);
}

/// Replaces and collects an object after a reader got the pointer of its bucket, and before the reader uses
/// it.
fn looked_while_collected(fault: Option<Fault>) -> Result<Vec<u8>, ServiceError> {
    runtime().block_on(async {
        let world = World::new(None, fault).await;
        world.put(BUCKET, "k", whole(vec![1; LARGE])).await.unwrap();
        world.roots.reads.close();
        let others = async {
            world.roots.reads.waited_at().await;
            for n in 0..3 {
                world.put(BUCKET, "k", whole(vec![n])).await.unwrap();
            }
            world.collect().await;
        };
        let opener = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.roots.reads.open();
        };
        let (read, (), ()) = tokio::join!(world.get(BUCKET, "k"), others, opener);
        read
    })
}

#[test]
fn a_pointer_that_is_being_read_keeps_what_it_leads_to() {
    assert_eq!(looked_while_collected(None).unwrap(), vec![1; LARGE]);
}

/// Runs collections while an upload is half done. They hold nothing of other requests back. Returns the
/// problems in the end.
fn collected_while_put(fault: Option<Fault>) -> Vec<fsck::Problem> {
    runtime().block_on(async {
        let world = World::new(None, fault).await;
        let (send, receive) = futures::channel::mpsc::unbounded();
        for n in 0..4 {
            send.unbounded_send(Ok(Bytes::from(vec![n; 1 << 20]))).unwrap();
        }
        let put = world.put(BUCKET, "k", Box::pin(receive));
        let meanwhile = async {
            while world.count().await < 5 {
                tokio::task::yield_now().await;
            }
            for n in 0..3 {
                world.put(OTHER, "k", whole(vec![10 + n; LARGE])).await.unwrap();
            }
            let (began, done) = (tokio::time::Instant::now(), world.collect().await);
            assert!(!done.held_back && began.elapsed() < Duration::from_secs(9), "{done:?}");
            assert!(done.deleted_bytes > 2 * LARGE as u64, "{done:?}");
            world.collect().await;
            drop(send);
        };
        let (put, ()) = tokio::join!(put, meanwhile);
        put.unwrap();
        world.problems().await
    })
}

#[test]
fn an_upload_keeps_what_it_put() {
    assert_eq!(collected_while_put(None), []);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_broke_off_is_collected() {
    let world = World::new(None, None).await;
    let before = world.count().await;
    let lost = ServiceError::BodyFailed("gone".to_owned());
    let frames = vec![Ok(Bytes::from(vec![7; 3 << 20])), Err(lost)];
    let put = world.put(BUCKET, "k", Box::pin(futures::stream::iter(frames))).await;
    assert!(put.is_err() && world.count().await > before);
    // The leaf that was in flight is kept until it is put.
    for _ in 0..10_000 {
        world.collect().await;
        if world.count().await == before {
            return;
        }
    }
    panic!("what broke off stays");
}

#[tokio::test(start_paused = true)]
async fn roots_that_are_made_while_the_collector_walks_need_no_walk() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "k", whole(vec![1; 30])).await.unwrap();
    // The first block that the collector reads is that of the first row.
    world.blocks.gets.close();
    let others = async {
        world.blocks.gets.waited_at().await;
        for n in 0..50 {
            world.put(BUCKET, "k", whole(vec![n; 30])).await.unwrap();
        }
        world.blocks.gets.open();
    };
    let (done, ()) = tokio::join!(world.collect(), others);
    assert!(done.roots < 10, "{done:?}");
    assert_eq!(world.problems().await, []);
}

#[tokio::test(start_paused = true)]
async fn damage_ends_a_collection_with_nothing_deleted() {
    let world = World::new(None, None).await;
    world.put(BUCKET, "k", whole(vec![1; LARGE])).await.unwrap();
    world.put(BUCKET, "gone", whole(vec![2; LARGE])).await.unwrap();
    world.delete(BUCKET, "gone").await.unwrap();
    world.blocks.unreadable.store(true, Ordering::Relaxed);
    let before = world.count().await;
    assert!(world.service.collect(Duration::ZERO, &|| 4).await.is_err());
    assert_eq!(world.count().await, before);
    world.blocks.unreadable.store(false, Ordering::Relaxed);
    assert!(world.collect().await.deleted > 0);
}

/// Begins a copy after the collector has determined the readers. The root that it reads from is replaced
/// before its row is read, and the row of its target is read before the copy is in it.
fn copied_while_rows_are_read(fault: Option<Fault>) -> Result<Vec<u8>, ServiceError> {
    runtime().block_on(async {
        let world = World::new(None, fault).await;
        world.put(OTHER, "k", whole(vec![1; 30])).await.unwrap();
        // The head of the other bucket is evicted from the cache.
        for n in 0..8 {
            world.put(BUCKET, "x", whole(vec![n])).await.unwrap();
        }
        world.roots.scans.close();
        let copy = async {
            world.roots.scans.waited_at().await;
            world.roots.swaps.close();
            world.copy((OTHER, "k"), (BUCKET, "k")).await
        };
        let others = async {
            world.roots.swaps.waited_at().await;
            world.delete(OTHER, "k").await.unwrap();
            world.roots.scans.open();
        };
        let collect = async {
            let done = world.collect().await;
            world.roots.swaps.open();
            done
        };
        let (copied, (), _) = tokio::join!(copy, others, collect);
        copied?;
        world.get(BUCKET, "k").await
    })
}

#[test]
fn a_copy_keeps_what_it_copies_from_a_root_that_was_just_replaced() {
    assert_eq!(copied_while_rows_are_read(None).unwrap(), vec![1; 30]);
}

/// Reads an object after its root has become one of the history, of which collections mark only the block, and
/// was collected. The reader has looked the object up before.
fn read_from_a_root_of_the_history(fault: Option<Fault>) -> Result<Vec<u8>, ServiceError> {
    runtime().block_on(async {
        let world = World::new(None, fault).await;
        world.put(BUCKET, "k", whole(vec![1; 30])).await.unwrap();
        let (reader, none) = (caller(), ReadConditions::default());
        let found = world.service.get_object(&reader, &bucket(), &object_key("k"), &none).await;
        let record = found.unwrap().record;
        for n in 0..3 {
            world.put(BUCKET, "k", whole(vec![10 + n; 30])).await.unwrap();
        }
        world.collect().await;
        let stream = world.service.read(&reader, &record, 0..record.size).await?;
        let parts: Vec<Bytes> = stream.try_collect().await?;
        Ok(parts.concat())
    })
}

#[test]
fn a_root_of_the_history_that_a_request_reads_from_keeps_what_it_leads_to() {
    assert_eq!(read_from_a_root_of_the_history(None).unwrap(), vec![1; 30]);
}

/// Collects with a longer retention than before, where a root that was replaced has lost one tree, and shares
/// another one with a clone. Returns the problems in the end.
fn cloned_and_retained_longer(fault: Option<Fault>) -> Vec<fsck::Problem> {
    runtime().block_on(async {
        let world = World::new(None, fault).await;
        let (user, name) = (caller(), bucket());
        world.put(BUCKET, "k", whole(vec![1; LARGE])).await.unwrap();
        world.put(BUCKET, "y", whole(vec![9; 30])).await.unwrap();
        world.service.set_versioning(&user, &name, Versioning::Enabled).await.unwrap();
        world.put(BUCKET, "k", whole(vec![2; 30])).await.unwrap();
        let source = BucketAddress::new(user.identity.clone().unwrap().owner, name.clone());
        world.service.clone_bucket(&source, None, bucket_name("cloned"), None).await.unwrap();
        // The clone keeps the tree of versions, and nobody the tree of objects.
        world.put("cloned", "x", whole(vec![3; 30])).await.unwrap();
        let removed = ["k", "y"].map(|key| {
            let conditions = WriteConditions::default();
            (DeleteKey { key: object_key(key), conditions }, Some(VersionId::Null))
        });
        // One commit removes both.
        world.service.delete_versions(&user, &name, removed.to_vec()).await.unwrap();
        // The root before was replaced earlier than the collection begins.
        for n in 0..3 {
            world.put(OTHER, "x", whole(vec![4 + n; 30])).await.unwrap();
        }
        drop(user);
        assert!(world.collect().await.deleted > 0);
        world.service.collect(Duration::from_hours(1), &|| 4).await.unwrap();
        world.problems().await
    })
}

#[test]
fn a_root_that_lacks_a_block_keeps_nothing_of_others_from_being_marked() {
    assert_eq!(cloned_and_retained_longer(None), []);
}

/// Runs one client, which sends random requests to two buckets. Returns the first error.
async fn client(world: &World, mut rng: Rng) -> Result<(), ServiceError> {
    let buckets = [BUCKET, OTHER];
    for _ in 0..12 {
        let mut pick = |n: u64| usize::try_from(rng.below(n)).unwrap();
        let (bucket, key) = (buckets[pick(2)], ["a", "b", "c"][pick(3)]);
        let (source, from, byte) =
            (buckets[pick(2)], ["a", "b", "c"][pick(3)], u8::try_from(pick(200)).unwrap());
        let done = match pick(10) {
            0..=2 => world.put(bucket, key, whole(vec![byte; 30])).await,
            3 => world.put(bucket, key, whole(vec![byte; LARGE])).await,
            4 => world.upload(bucket, key, byte).await,
            5 | 6 => world.copy((source, from), (bucket, key)).await,
            7 => world.delete(bucket, key).await,
            _ => world.get(bucket, key).await.map(drop),
        };
        match done {
            Ok(()) | Err(ServiceError::NoSuchKey | ServiceError::InvalidRequest(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Runs clients beside a collector that never pauses. Returns what it broke, if anything. The seed
/// determines requests and delays. It does not determine the order of threads that hash large bodies.
fn trial(seed: u64) -> Option<String> {
    runtime().block_on(async {
        let world = World::new(Some(seed), None).await;
        let mut rng = Rng::new(seed);
        let clients = join_all((0..5).map(|_| client(&world, rng.fork())));
        let collector = async {
            loop {
                if let Err(error) = world.service.collect(Duration::ZERO, &|| 4).await {
                    return error;
                }
            }
        };
        tokio::select! {
            biased;
            done = clients => {
                if let Some(error) = done.into_iter().find_map(Result::err) {
                    return Some(format!("{error}"));
                }
            }
            error = collector => return Some(format!("collector: {error}")),
        }
        world.roots.tick();
        world.collect().await;
        let problems = world.problems().await;
        (!problems.is_empty()).then(|| format!("{problems:?}"))
    })
}

#[test]
fn nothing_that_is_needed_goes_while_clients_work() {
    for seed in 0..100 {
        let broken = trial(seed);
        assert_eq!(broken, None, "seed {seed}");
    }
}

#[test]
fn each_rule_left_out_is_found() {
    assert_ne!(collected_while_put(Some(Fault::CollectDespiteWrites)), []);
    assert!(read_while_collected(Some(Fault::CollectDespiteReaders)).is_err());
    assert!(looked_while_collected(Some(Fault::CollectDespiteReads)).is_err());
    assert!(copied_while_rows_are_read(Some(Fault::CollectJustReplaced)).is_err());
    assert!(read_from_a_root_of_the_history(Some(Fault::CollectMarkedRoots)).is_err());
    assert_ne!(cloned_and_retained_longer(Some(Fault::CollectHalfMarked)), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_lost_ends_every_collection() {
    let world = World::new(None, None).await;
    world
        .put(BUCKET, "k", whole((0..5 * LARGE).map(|n| (n >> 20).to_le_bytes()[0]).collect()))
        .await
        .unwrap();
    let blocks = &world.blocks.inner;
    let all = list_all(blocks).await.unwrap().into_iter().map(|(cid, _)| cid);
    let others: Vec<_> = all.filter(|cid| cid.codec() != fula_core::Codec::DagPb).collect();
    let cut = blocks.advance_epoch();
    blocks.mark(&others, cut, Kept::Now);
    assert_eq!(sweep_all(blocks, cut, cut).await.unwrap().deleted, 1);
    let before = world.count().await;
    // The second collection must not delete what is below it either.
    for _ in 0..3 {
        assert!(world.service.collect(Duration::ZERO, &|| 4).await.is_err());
        assert_eq!(world.count().await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_longer_retention_than_before_is_no_damage() {
    let world = World::new(None, None).await;
    for n in 0..5 {
        world.put(BUCKET, "k", whole(vec![n; LARGE])).await.unwrap();
    }
    assert!(world.collect().await.deleted > 0);
    world.put(BUCKET, "k", whole(vec![9; LARGE])).await.unwrap();
    world.service.collect(Duration::from_hours(1), &|| 4).await.unwrap();
    assert_eq!(world.problems().await, []);
}
