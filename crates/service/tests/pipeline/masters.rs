//! Tests of one and two masters, with and without a reliable arbiter.

use std::{sync::atomic::Ordering, time::Duration};

use fula_core::in_memory::MemoryBlocks;
use fula_service::{
    BucketOwner, CompletePart, CompleteRequest, ConditionName, CopyRequest, CopySourceRequest,
    CreateUploadRequest, PutPartRequest,
};
use futures::future::join_all;

use fula_service::Applied;

use super::*;
use crate::faults::Fault;

fn stores() -> (Arc<MemoryBlocks>, Arc<FaultyRoots>) {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    (blocks, roots)
}

#[tokio::test]
async fn concurrent_writes_share_rounds() {
    let (blocks, roots) = stores();
    let master = Master::new(&blocks, &roots, 1);
    master.create().await;
    let keys: Vec<String> = (0..64).map(|n| format!("k{n}")).collect();
    let puts = keys.iter().map(|key| master.put(key, key.as_bytes()));
    for put in join_all(puts).await {
        put.unwrap();
    }
    let swaps = roots.swaps.load(Ordering::SeqCst);
    assert!(swaps <= 8, "{swaps} swaps for 64 concurrent writes");
    for key in &keys {
        assert_eq!(master.get(key).await.unwrap(), key.as_bytes());
    }
}

#[tokio::test]
async fn of_many_that_create_a_key_one_wins() {
    let (blocks, roots) = stores();
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    for round in 0..50 {
        let key = format!("k{round}");
        let puts = (0..16_u8).map(|n| {
            let (master, key) = (&masters[usize::from(n % 2)], &key);
            async move { master.put_if(key, &[n], if_absent()).await }
        });
        let outcomes = join_all(puts).await;
        let winners: Vec<u8> = (0..16).filter(|n| outcomes[usize::from(*n)].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        for outcome in outcomes.iter().filter(|outcome| outcome.is_err()) {
            let expected = ServiceError::PreconditionFailed(ConditionName::IfNoneMatch);
            assert_eq!(outcome.as_ref().unwrap_err().to_string(), expected.to_string());
        }
        assert_eq!(masters[1].get(&key).await.unwrap(), winners);
    }
    assert!(roots.conflicts.load(Ordering::SeqCst) > 0, "the masters never met");
}

#[tokio::test]
async fn increments_by_etag_lose_nothing_across_masters() {
    let (blocks, roots) = stores();
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    masters[0].put("counter", b"0").await.unwrap();
    let counters = (0..6_u8).map(|n| {
        let master = &masters[usize::from(n % 2)];
        async move {
            let mut done = 0;
            while done < 10 {
                let none = ReadConditions::default();
                let user = &master.user;
                let seen = master
                    .service
                    .get_object(user, &bucket(), &object_key("counter"), &none)
                    .await
                    .unwrap();
                let bytes: Vec<Bytes> = master
                    .service
                    .read(user, &seen.record, 0..seen.record.size)
                    .await
                    .unwrap()
                    .try_collect()
                    .await
                    .unwrap();
                let value: u64 = String::from_utf8(bytes.concat()).unwrap().parse().unwrap();
                let next = (value + 1).to_string();
                let put = master.put_if("counter", next.as_bytes(), if_matches(&seen.record));
                done += u32::from(put.await.is_ok());
            }
        }
    });
    join_all(counters).await;
    assert_eq!(masters[0].get("counter").await.unwrap(), b"60");
    assert!(roots.conflicts.load(Ordering::SeqCst) > 0, "the masters never met");
}

#[tokio::test]
async fn unconditional_writers_on_two_masters_never_fail() {
    let (blocks, roots) = stores();
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    let writers = (0..8_u8).map(|n| {
        let master = &masters[usize::from(n % 2)];
        async move {
            for round in 0..20 {
                master.put(&format!("{n}/{round}"), b"x").await.unwrap();
                master.put("shared", &[n]).await.unwrap();
            }
        }
    });
    join_all(writers).await;
    let info = masters[1].service.bucket(&masters[1].user, &bucket()).await.unwrap();
    assert_eq!((info.objects, info.bytes), (161, 161));
    assert!(roots.conflicts.load(Ordering::SeqCst) > 0, "the masters never met");
}

#[tokio::test]
async fn a_refusal_is_judged_on_the_newest_root() {
    let (blocks, roots) = stores();
    let [one, two] = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    one.create().await;
    one.put("k", b"old").await.unwrap();
    // This happens without the knowledge of master one, whose cached root still has the key.
    two.delete("k").await.unwrap();
    one.put_if("k", b"new", if_absent()).await.unwrap();
    // The reverse: a key that it remembers as absent exists now.
    one.delete("k").await.unwrap();
    two.put("k", b"theirs").await.unwrap();
    one.delete("k").await.unwrap();
    assert!(matches!(two.get("k").await, Err(ServiceError::NoSuchKey)));
    // A creation does not read first. The cached bucket must not be taken for the current one.
    two.service.delete_bucket(&two.user, &bucket()).await.unwrap();
    one.create().await;
    one.service.delete_bucket(&one.user, &bucket()).await.unwrap();
    assert!(matches!(two.put("k", b"x").await, Err(ServiceError::NoSuchBucket)));
}

#[tokio::test(start_paused = true)]
async fn a_swap_whose_answer_is_lost_counts_once() {
    let (blocks, roots) = stores();
    let master = Master::new(&blocks, &roots, 1);
    master.create().await;
    let before = master.version().await;
    for (fault, n) in [Fault::AnswerLost, Fault::RequestLost].into_iter().zip(0_u8..) {
        roots.plan([fault]);
        let swaps = roots.swaps.load(Ordering::SeqCst);
        master.put("k", &[n]).await.unwrap();
        assert_eq!(master.version().await, before + u64::from(n) + 1, "{fault:?}");
        assert_eq!(roots.swaps.load(Ordering::SeqCst), swaps + 1, "{fault:?} was sent again");
        assert_eq!(master.get("k").await.unwrap(), [n]);
    }
    // A condition that would fail now because of its own first attempt is not checked again.
    roots.plan([Fault::AnswerLost]);
    master.put_if("once", b"x", if_absent()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_under_another_masters_commit() {
    let (blocks, roots) = stores();
    let [one, two] = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    one.create().await;
    roots.plan([Fault::AnswerHeld]);
    let (put, ()) = tokio::join!(one.put_if("k", b"mine", if_absent()), async {
        roots.held.notified().await;
        two.put("other", b"theirs").await.unwrap();
        roots.go_on.notify_one();
    });
    put.unwrap();
    assert_eq!(two.get("k").await.unwrap(), b"mine");
    assert_eq!(one.get("other").await.unwrap(), b"theirs");
    assert_eq!(one.version().await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_was_not_sent_changes_nothing() {
    let (blocks, roots) = stores();
    let master = Master::new(&blocks, &roots, 1);
    master.create().await;
    roots.plan([Fault::NotSent]);
    let refused = master.put("k", b"x").await;
    assert!(matches!(refused, Err(ServiceError::Unavailable(_))), "{refused:?}");
    assert!(matches!(master.get("k").await, Err(ServiceError::NoSuchKey)));
    master.put("k", b"x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_arbiter_that_stays_away_ends_in_an_honest_answer_in_time() {
    let (blocks, roots) = stores();
    let limits = Limits {
        commit_deadline: Duration::from_secs(3),
        resolve_for: Duration::from_secs(20),
        ..Limits::default()
    };
    let master = Master::with_limits(&blocks, &roots, 1, limits);
    master.create().await;
    master.put("k", b"before").await.unwrap();
    roots.plan([Fault::AnswerHeld]);
    let started = tokio::time::Instant::now();
    let (put, ()) = tokio::join!(master.put("k", b"after"), async {
        roots.held.notified().await;
        roots.set_unreachable(true);
        roots.go_on.notify_one();
    });
    assert!(matches!(put, Err(ServiceError::Busy(Applied::Unknown))), "{put:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(master.get("k").await.is_err(), "a read was answered without the arbiter");
    // When the arbiter is back, the outcome of the swap is found out and work continues.
    roots.set_unreachable(false);
    assert_eq!(master.get("k").await.unwrap(), b"after");
    master.put("k", b"later").await.unwrap();
    assert_eq!(master.get("k").await.unwrap(), b"later");
}

#[tokio::test(start_paused = true)]
async fn reads_without_the_arbiter_are_refused_or_marked() {
    let (blocks, roots) = stores();
    let limits = Limits { stale_reads: true, ..Limits::default() };
    let [strict, lax] =
        [Master::new(&blocks, &roots, 1), Master::with_limits(&blocks, &roots, 2, limits)];
    strict.create().await;
    strict.put("k", b"old").await.unwrap();
    assert_eq!(lax.get("k").await.unwrap(), b"old");
    assert!(!lax.user.seen.is_stale());
    let version = lax.version().await;
    strict.put("k", b"new").await.unwrap();
    roots.set_unreachable(true);
    assert!(matches!(strict.get("k").await, Err(ServiceError::Unavailable(_))));
    assert_eq!(lax.get("k").await.unwrap(), b"old");
    assert!(lax.user.seen.is_stale());
    assert_eq!(lax.user.seen.version(), Some(version));
    assert!(lax.put("k", b"x").await.is_err(), "a write was answered without the arbiter");
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_not_made_of_a_stale_source() {
    let (blocks, roots) = stores();
    let limits = Limits { stale_reads: true, ..Limits::default() };
    let [strict, lax] =
        [Master::new(&blocks, &roots, 1), Master::with_limits(&blocks, &roots, 2, limits)];
    strict.create().await;
    let target = bucket_name("target");
    strict.service.create_bucket(&strict.user, &target, None).await.unwrap();
    strict.put("k", b"old").await.unwrap();
    assert_eq!(lax.get("k").await.unwrap(), b"old");
    strict.put("k", b"new").await.unwrap();
    roots.lose(bucket());
    let copy = async || {
        let source = CopySourceRequest {
            owner: BucketOwner::default(),
            bucket: bucket(),
            key: object_key("k"),
            version: None,
            conditions: ReadConditions::default(),
        };
        let request = CopyRequest {
            source,
            key: object_key("copy"),
            replace: None,
            tags: None,
            acl: None,
            checksum: None,
            encrypt: false,
            conditions: WriteConditions::default(),
        };
        lax.service.copy_object(&lax.user, &target, request).await
    };
    let copied = copy().await;
    assert!(matches!(copied, Err(ServiceError::Unavailable(_))), "{copied:?}");
    // The read may be stale, and is marked.
    assert_eq!(lax.get("k").await.unwrap(), b"old");
    assert!(lax.user.seen.is_stale());
}

#[tokio::test(start_paused = true)]
async fn a_swap_given_up_that_lands_late_is_not_taken_for_the_next_one() {
    let (blocks, roots) = stores();
    let limits = Limits {
        commit_deadline: Duration::from_secs(3),
        resolve_for: Duration::from_secs(5),
        ..Limits::default()
    };
    let master = Master::with_limits(&blocks, &roots, 1, limits);
    master.create().await;
    // The swap is sent and resent, and all its copies are on their way when the writer gives up.
    roots.plan([Fault::Late; 200]);
    let first = master.put("first", b"1").await;
    assert!(matches!(first, Err(ServiceError::Busy(Applied::Unknown))), "{first:?}");
    master.service.committer().drained().await;
    roots.clear();
    // The next write finds the pointer unchanged. The late swap arrives just before its own.
    roots.plan([Fault::LateFirst]);
    master.put("second", b"2").await.unwrap();
    assert_eq!(master.get("second").await.unwrap(), b"2");
    assert_eq!(master.get("first").await.unwrap(), b"1");
}

#[tokio::test]
async fn a_change_meant_for_one_life_of_a_name_does_not_land_in_the_next() {
    let (blocks, roots) = stores();
    let [one, two] = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    // The first master has not seen the bucket before, so it reads the row.
    two.create().await;
    let (send, body) = futures::channel::mpsc::unbounded();
    let put = one.put_stream("k", Box::pin(body), WriteConditions::default());
    let (put, ()) = tokio::join!(put, async {
        // The body is being received when the bucket is deleted and created again.
        send.unbounded_send(Ok(Bytes::from_static(b"x"))).unwrap();
        tokio::task::yield_now().await;
        while !send.is_empty() {
            tokio::task::yield_now().await;
        }
        two.service.delete_bucket(&two.user, &bucket()).await.unwrap();
        two.create().await;
        send.close_channel();
    });
    assert!(matches!(put, Err(ServiceError::NoSuchBucket)), "{put:?}");
    assert!(matches!(two.get("k").await, Err(ServiceError::NoSuchKey)));
}

#[tokio::test]
async fn what_a_write_is_aimed_at_by_memory_is_found_out_at_commit() {
    let (blocks, roots) = stores();
    let [one, two] = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    one.create().await;
    one.put("k", b"old").await.unwrap();
    // The state that it remembers would refuse this.
    two.delete("k").await.unwrap();
    let record = one.put_if("k", b"new", if_absent()).await.unwrap();
    two.put("k", b"newer").await.unwrap();
    let refused = one.put_if("k", b"x", if_matches(&record)).await;
    assert!(matches!(refused, Err(ServiceError::PreconditionFailed(_))), "{refused:?}");
    // There is another life of the name, and then none.
    two.delete("k").await.unwrap();
    two.service.delete_bucket(&two.user, &bucket()).await.unwrap();
    two.create().await;
    one.put("k", b"in the next").await.unwrap();
    assert_eq!(two.get("k").await.unwrap(), b"in the next");
    two.delete("k").await.unwrap();
    two.service.delete_bucket(&two.user, &bucket()).await.unwrap();
    let gone = one.put("k", b"x").await;
    assert!(matches!(gone, Err(ServiceError::NoSuchBucket)), "{gone:?}");
    assert!(matches!(one.delete("k").await, Err(ServiceError::NoSuchBucket)));
}

#[tokio::test(start_paused = true)]
async fn a_change_past_its_deadline_is_not_applied() {
    let (blocks, roots) = stores();
    let limits = Limits { commit_deadline: Duration::from_secs(3), ..Limits::default() };
    let master = Master::with_limits(&blocks, &roots, 1, limits);
    master.create().await;
    roots.plan([Fault::AnswerHeld]);
    let late = async {
        roots.held.notified().await;
        // The change waits behind a round that does not end in time.
        let (late, ()) = tokio::join!(master.put("late", b"x"), async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            roots.go_on.notify_one();
        });
        late
    };
    let (_, late) = tokio::join!(master.put("k", b"x"), late);
    assert!(matches!(late, Err(ServiceError::Busy(_))), "{late:?}");
    master.service.committer().drained().await;
    assert!(matches!(master.get("late").await, Err(ServiceError::NoSuchKey)));
}

#[tokio::test]
async fn answers_of_completed_uploads_are_forgotten_in_time() {
    let (blocks, roots) = stores();
    let master = Master::new(&blocks, &roots, 1);
    master.create().await;
    let (service, user) = (&master.service, &master.user);
    let begin = async |key: &str| {
        let facts = ObjectFacts::default();
        let create = CreateUploadRequest { key: object_key(key), facts, checksum: None };
        service.create_upload(user, &bucket(), create).await.unwrap()
    };
    let mut completed = Vec::new();
    for n in 0..20 {
        let name = format!("k{n}");
        let (key, id) = (object_key(&name), begin(&name).await.to_string());
        let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"part"))]));
        let put = PutPartRequest {
            key: key.clone(),
            id: id.clone(),
            number: 1,
            body,
            body_facts: body_facts(),
        };
        let part = service.put_part(user, &bucket(), put).await.unwrap();
        let parts = vec![CompletePart { number: 1, etag: part.etag().to_string(), checksum: None }];
        let conditions = WriteConditions::default();
        let complete = CompleteRequest { key, id, parts, conditions, checksum: None, size: None };
        service.complete_upload(user, &bucket(), &complete).await.unwrap();
        completed.push(complete);
    }
    let headers = async || {
        let address = master.address();
        let head = service.arbiter().current(&address).await.unwrap().unwrap();
        head.root.uploads.count
    };
    let again = service.complete_upload(user, &bucket(), &completed[3]).await;
    assert!(again.is_ok());
    begin("still-open").await;
    assert_eq!(headers().await, 21);
    roots.set_time(25 * 3600 * 1000);
    for n in 0..4 {
        begin(&format!("later{n}")).await;
    }
    assert_eq!(headers().await, 5, "completed uploads stayed, or open ones went");
    let forgotten = service.complete_upload(user, &bucket(), &completed[3]).await;
    assert!(matches!(forgotten, Err(ServiceError::NoSuchUpload)));
    assert_eq!(master.get("k3").await.unwrap(), b"part");
}

#[tokio::test]
async fn a_name_lives_again_and_versions_go_on() {
    let (blocks, roots) = stores();
    let master = Master::new(&blocks, &roots, 1);
    let mut last = 0;
    for life in 0..3 {
        master.create().await;
        assert!(matches!(master.get("k").await, Err(ServiceError::NoSuchKey)), "life {life}");
        master.put("k", b"x").await.unwrap();
        let version = master.version().await;
        assert!(version > last);
        last = version;
        let refused = master.service.delete_bucket(&master.user, &bucket()).await;
        assert!(matches!(refused, Err(ServiceError::BucketNotEmpty)));
        master.delete("k").await.unwrap();
        master.service.delete_bucket(&master.user, &bucket()).await.unwrap();
    }
}
