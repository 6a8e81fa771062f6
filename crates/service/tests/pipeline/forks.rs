//! Restores of an arbiter whose masters collect shared blocks: what only a master knows is not collected
//! before the arbiter has it again (docs/adr/0065).

pub(crate) mod world;

use std::time::Duration;

use fula_service::{Applied, fault_injection::Fault};
use tokio::sync::oneshot;

use self::world::{Federation, collect, pause, run};
use super::{regression::Member, *};

/// Lets masters find out what the arbiter has lost, and bring it back.
async fn recover() {
    tokio::time::sleep(Duration::from_mins(5)).await;
}

/// Number of buckets that a master needs several looks to compare.
const MANY: usize = 130;

/// A master has changed the last of many buckets, and the arbiter is restored without a sign. Another master, which
/// knows nothing of it, collects before the first one has looked at that bucket. Returns what is lost.
async fn collect_what_another_master_knows(fault: Option<Fault>) -> Vec<String> {
    let federation = Federation::new(fault);
    let two = federation.join(2).await;
    let (service, user) = (&two.master.service, &two.master.user);
    for n in 0..MANY {
        service.create_bucket(user, &bucket_name(&format!("a{n:03}")), None).await.unwrap();
    }
    two.master.create().await;
    let backup = federation.backup();
    two.master.put("k", b"acknowledged").await.unwrap();
    pause().await;
    federation.restore_quietly(backup);
    let one = federation.join(1).await;
    let (_first, _second) = (run(&one), run(&two));
    // It may be refused, or wait in vain.
    drop(collect(&one).await);
    recover().await;
    let mut lost = federation.problems().await;
    lost.extend(federation.read("k").await.err().map(|error| error.to_string()));
    lost
}

#[tokio::test(start_paused = true)]
async fn a_master_compares_everything_before_it_has_seen_a_collection() {
    assert_eq!(collect_what_another_master_knows(None).await, Vec::<String>::new());
    let lost = collect_what_another_master_knows(Some(Fault::KnownNotCompared)).await;
    assert!(!lost.is_empty(), "a master that compares later loses nothing");
}

/// A master that has changed a bucket collects, after the arbiter was restored without a sign.
async fn collect_what_the_collector_knows(fault: Option<Fault>) -> Vec<String> {
    let federation = Federation::new(fault);
    let one = federation.join(1).await;
    one.master.create().await;
    let backup = federation.backup();
    one.master.put("k", b"acknowledged").await.unwrap();
    pause().await;
    federation.restore_quietly(backup);
    drop(collect(&one).await);
    let _running = run(&one);
    recover().await;
    let mut lost = federation.problems().await;
    lost.extend(federation.read("k").await.err().map(|error| error.to_string()));
    lost
}

#[tokio::test(start_paused = true)]
async fn a_collector_compares_everything_that_it_knows_itself() {
    assert_eq!(collect_what_the_collector_knows(None).await, Vec::<String>::new());
    let lost = collect_what_the_collector_knows(Some(Fault::KnownNotCompared)).await;
    assert!(!lost.is_empty(), "a collector that does not compare loses nothing");
}

/// The arbiter is restored without a sign to a state of before a master joined, and another master collects.
async fn collect_what_a_forgotten_master_knows(fault: Option<Fault>) -> Vec<String> {
    let federation = Federation::new(fault);
    let one = federation.join(1).await;
    one.master.create().await;
    let backup = federation.backup();
    let two = federation.join(2).await;
    one.recovery.tick().await.unwrap();
    two.master.put("k", b"acknowledged").await.unwrap();
    pause().await;
    federation.restore_quietly(backup);
    let (_first, _second) = (run(&one), run(&two));
    drop(collect(&one).await);
    recover().await;
    let mut lost = federation.problems().await;
    lost.extend(federation.read("k").await.err().map(|error| error.to_string()));
    lost
}

#[tokio::test(start_paused = true)]
async fn a_collection_waits_for_a_master_that_the_arbiter_has_forgotten() {
    assert_eq!(collect_what_a_forgotten_master_knows(None).await, Vec::<String>::new());
    let lost = collect_what_a_forgotten_master_knows(Some(Fault::ForgottenNotAwaited)).await;
    assert!(!lost.is_empty(), "a collection that does not wait loses nothing");
}

/// A master was away while a recovery was forced and a bucket was forked. When it comes back, the bucket is sealed
/// before it has looked at it, and it knows a third side. Returns what is lost after a collection and a merge.
async fn come_back_to_a_fork(fault: Option<Fault>) -> Vec<String> {
    let federation = Federation::new(fault);
    let one = federation.join(1).await;
    one.master.create().await;
    let [two, three] = [federation.join(2).await, federation.join(3).await];
    let base = federation.backup();
    one.master.put("of-one", b"1").await.unwrap();
    federation.restore_quietly(base.clone());
    three.master.put("of-three", b"3").await.unwrap();
    three.recovery.tick().await.unwrap();
    federation.restore_quietly(base);
    two.master.put("of-two", b"2").await.unwrap();
    let (_first, _second) = (run(&one), run(&two));
    pause().await;
    one.recovery.force().await.unwrap();
    pause().await;
    assert_eq!(one.recovery.status().await.unwrap().forks.len(), 1);
    let refused = collect(&one).await.unwrap_err().to_string();
    assert!(refused.contains("forced without the master"), "{refused}");
    let _third = run(&three);
    for _ in 0..3 {
        drop(collect(&one).await);
        recover().await;
    }
    drop(federation.join(4).await.recovery.merge(&one.master.address(), false).await);
    recover().await;
    let mut lost = federation.problems().await;
    for key in ["of-one", "of-two", "of-three"] {
        let read = federation.read(key).await;
        lost.extend(read.err().map(|error| format!("{key}: {error}")));
    }
    lost
}

#[tokio::test(start_paused = true)]
async fn a_master_that_comes_back_to_a_fork_adds_its_side() {
    assert_eq!(come_back_to_a_fork(None).await, Vec::<String>::new());
    let lost = come_back_to_a_fork(Some(Fault::KnownNotCompared)).await;
    assert!(!lost.is_empty(), "a side that is not compared is not lost");
}

/// A bucket is forked: both masters changed `both`, and each has an object of its own. Both look at the arbiter.
async fn forked(fault: Option<Fault>) -> (Federation, Member, Member) {
    let federation = Federation::new(fault);
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    one.master.create().await;
    one.master.put("both", b"base").await.unwrap();
    let backup = federation.backup();
    one.master.put("both", b"1").await.unwrap();
    one.master.put("of-one", b"1").await.unwrap();
    federation.restore_quietly(backup);
    pause().await;
    two.master.put("both", b"2").await.unwrap();
    two.master.put("of-two", b"2").await.unwrap();
    for member in [&one, &two, &one, &two, &one] {
        member.recovery.tick().await.unwrap();
    }
    let status = one.recovery.status().await.unwrap();
    assert_eq!((status.alarm, status.forks.len()), (None, 1));
    run(&one);
    run(&two);
    pause().await;
    (federation, one, two)
}

/// Returns what is lost of a fork that was merged.
async fn lost_of(federation: &Federation) -> Vec<String> {
    let mut lost = federation.problems().await;
    for key in ["both", "of-one", "of-two"] {
        let read = federation.read(key).await;
        lost.extend(read.err().map(|error| format!("{key}: {error}")));
    }
    lost
}

/// An operator merges a fork while a collection that has read the rows goes on.
async fn merge_during_a_collection(fault: Option<Fault>) -> Vec<String> {
    let (federation, one, two) = forked(fault).await;
    let collecting = federation.collect_until_rows_are_read(&one).await;
    two.recovery.merge(&one.master.address(), false).await.unwrap();
    collecting.go_on().await.unwrap();
    lost_of(&federation).await
}

#[tokio::test(start_paused = true)]
async fn a_fork_that_is_merged_during_a_collection_is_kept() {
    assert_eq!(merge_during_a_collection(None).await, Vec::<String>::new());
    let lost = merge_during_a_collection(Some(Fault::ForksReadLate)).await;
    assert!(!lost.is_empty(), "forks that are read after the rows are not lost");
}

/// A fork is merged after a collection, by a master that has nothing in memory. Returns what that lost.
async fn merge_after_a_collection(fault: Option<Fault>) -> Vec<String> {
    let (federation, one, _two) = forked(fault).await;
    assert!(collect(&one).await.unwrap().deleted > 0, "the state before both sides has no garbage");
    let merging = federation.join(3).await;
    match merging.recovery.merge(&one.master.address(), false).await {
        Ok(merged) => assert_eq!((merged.base, merged.taken), (2, vec!["of-one".to_owned()])),
        Err(error) => return vec![error.to_string()],
    }
    lost_of(&federation).await
}

#[tokio::test(start_paused = true)]
async fn the_state_before_a_fork_is_kept_until_it_is_merged() {
    assert_eq!(merge_after_a_collection(None).await, Vec::<String>::new());
    let lost = merge_after_a_collection(Some(Fault::ForkWithoutBase)).await;
    assert!(!lost.is_empty(), "a fork whose common state is not kept is merged");
}

/// A body of several blocks, the last of which arrives when the sender says so.
fn upload() -> (oneshot::Sender<()>, BodyStream) {
    let (go_on, waiting) = oneshot::channel();
    // No two blocks are alike: one that arrives later does not put an earlier one again.
    let block = |n: u8| Ok(Bytes::from(vec![n; 1 << 20]));
    let first = futures::stream::iter((0..4).map(block));
    let last = futures::stream::once(async move {
        waiting.await.unwrap();
        Ok(Bytes::from_static(b"the end"))
    });
    (go_on, Box::pin(first.chain(last)))
}

/// A master sleeps while it takes in a body. A collection takes its lease away, and the arbiter is restored to a
/// state in which the master has it. Then the rest of the body arrives. Returns the answer, and what is lost.
async fn upload_across_a_restore(fault: Option<Fault>) -> (bool, Vec<String>) {
    let federation = Federation::new(fault);
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    one.master.create().await;
    let _first = run(&one);
    let (go_on, body) = upload();
    let putting = two.master.put_stream("k", body, WriteConditions::default());
    let meanwhile = async {
        pause().await;
        let backup = federation.backup();
        assert!(collect(&one).await.unwrap().deleted > 0, "the body was not collected");
        federation.restore(backup);
        let _second = run(&two);
        recover().await;
        assert_eq!(two.recovery.status().await.unwrap().alarm, None);
        go_on.send(()).unwrap();
    };
    let (put, ()) = futures::join!(putting, meanwhile);
    (is_untouched(&put), federation.problems().await)
}

fn is_untouched(put: &Result<ObjectRecord, ServiceError>) -> bool {
    matches!(put, Err(ServiceError::Busy(Applied::None)))
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_before_a_restore_is_worth_nothing() {
    assert_eq!(upload_across_a_restore(None).await, (true, Vec::new()));
    let (is_refused, lost) = upload_across_a_restore(Some(Fault::LeasesOutliveRecovery)).await;
    assert!(!is_refused && !lost.is_empty(), "a lease that outlives a recovery does no harm");
}

/// The same, but the body began in a generation that the restored arbiter has forgotten, and the master that ends
/// the recovery never knew.
async fn upload_across_forgotten_generations(fault: Option<Fault>) -> (bool, Vec<String>) {
    let federation = Federation::new(fault);
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    one.master.create().await;
    let (first, second) = (run(&one), run(&two));
    let backup = federation.backup();
    pause().await;
    collect(&one).await.unwrap();
    let (go_on, body) = upload();
    let putting = two.master.put_stream("k", body, WriteConditions::default());
    let meanwhile = async {
        pause().await;
        second.abort();
        assert!(collect(&one).await.unwrap().deleted > 0, "the body was not collected");
        // The collector is gone with what it knows.
        first.abort();
        federation.restore(backup);
        let three = federation.join(3).await;
        let _second = run(&two);
        tokio::time::sleep(Duration::from_secs(5)).await;
        three.recovery.force().await.unwrap();
        let _third = run(&three);
        recover().await;
        assert_eq!(two.recovery.status().await.unwrap().alarm, None);
        go_on.send(()).unwrap();
    };
    let (put, ()) = futures::join!(putting, meanwhile);
    (is_untouched(&put), federation.problems().await)
}

#[tokio::test(start_paused = true)]
async fn a_recovery_goes_above_every_generation_that_a_master_knows() {
    assert_eq!(upload_across_forgotten_generations(None).await, (true, Vec::new()));
    let fault = Some(Fault::GenerationsForgotten);
    let (is_refused, lost) = upload_across_forgotten_generations(fault).await;
    assert!(!is_refused && !lost.is_empty(), "a generation that is used again does no harm");
}

/// A bucket is forked a second time while a master is gone that claimed a side of the first fork.
async fn fork_again(fault: Option<Fault>) -> Vec<String> {
    let federation = Federation::new(fault);
    let [one, two, three] =
        [federation.join(1).await, federation.join(2).await, federation.join(3).await];
    one.master.create().await;
    let base = federation.backup();
    one.master.put("both", b"1").await.unwrap();
    one.master.put("of-one", b"1").await.unwrap();
    federation.restore_quietly(base.clone());
    three.master.put("of-three", b"3").await.unwrap();
    federation.restore_quietly(base);
    two.master.put("of-two", b"2").await.unwrap();
    let (first, _second) = (run(&one), run(&two));
    pause().await;
    one.recovery.force().await.unwrap();
    pause().await;
    first.abort();
    let _third = run(&three);
    pause().await;
    two.recovery.force().await.unwrap();
    recover().await;
    two.recovery.forget_master(one.recovery.name(), true).await.unwrap();
    collect(&two).await.unwrap();
    two.recovery.merge(&two.master.address(), false).await.unwrap();
    let mut lost = lost_of(&federation).await;
    lost.extend(federation.read("of-three").await.err().map(|error| error.to_string()));
    lost
}

#[tokio::test(start_paused = true)]
async fn a_fork_that_is_forked_again_keeps_all_sides() {
    assert_eq!(fork_again(None).await, Vec::<String>::new());
    let lost = fork_again(Some(Fault::SidesForgotten)).await;
    assert!(!lost.is_empty(), "a side that is forgotten is not lost");
}
