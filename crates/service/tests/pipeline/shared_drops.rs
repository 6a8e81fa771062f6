//! Rows of deleted buckets that masters share are dropped, and no master takes that for a fault or brings a bucket
//! back (docs/adr/0067).

use std::time::Duration;

use fula_core::metadata::Table;
use fula_service::{Forgotten, fault_injection::Fault};

use super::{
    forks::world::{Federation, run},
    regression::{Member, is_refused, memory},
    *,
};

const DAY: Duration = Duration::from_hours(24);

/// The version of the tombstone of a bucket that was created, written to once, emptied, and deleted.
const LAST: u64 = 4;

/// Lets the first master create the bucket, and all of them read it. Then the first one deletes it, and a month
/// passes in which the others do not look at it.
async fn end(federation: &Federation, members: &[&Member]) {
    let first = &members[0].master;
    first.create().await;
    first.put("k", b"1").await.unwrap();
    for member in members {
        assert_eq!(member.master.get("k").await.unwrap(), b"1");
    }
    first.delete("k").await.unwrap();
    first.service.delete_bucket(&first.user, &bucket()).await.unwrap();
    assert_eq!(federation.version_of(&first.address()).await, Some(LAST));
    federation.pass(31 * DAY);
    beat(members).await;
}

/// Lets masters send heartbeats. They learn the time of the arbiter by a read of another bucket.
async fn beat(members: &[&Member]) {
    for member in members {
        let absent = bucket_name("never-there");
        let read = member.master.service.bucket(&member.master.user, &absent).await;
        assert!(is_absent(&read), "{read:?}");
        member.recovery.beat().await.unwrap();
    }
}

async fn drop_rows(member: &Member, retention: Duration) -> Result<u64, ServiceError> {
    member.master.service.drop_deleted_shared(&member.recovery, retention, true).await
}

/// Drops rows, and lets the other masters send heartbeats meanwhile and do nothing else.
async fn drop_beside(member: &Member, others: &[&Member]) -> Result<u64, ServiceError> {
    let beating = async {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            beat(others).await;
        }
    };
    tokio::select! {
        dropped = drop_rows(member, Duration::ZERO) => dropped,
        () = beating => unreachable!("it goes on for ever"),
    }
}

fn is_absent<T: std::fmt::Debug>(result: &Result<T, ServiceError>) -> bool {
    matches!(result, Err(ServiceError::NoSuchBucket))
}

fn assert_well(member: &Member) {
    assert_eq!(member.master.service.arbiter().guard().alarm(), None);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_knew_a_dropped_bucket_neither_errs_nor_brings_it_back() {
    let federation = Federation::new(None);
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    end(&federation, &[&one, &two]).await;
    let address = one.master.address();
    assert_eq!(drop_beside(&one, &[&two]).await.unwrap(), 1);
    assert_eq!(federation.version_of(&address).await, None);
    for member in [&one, &two] {
        assert!(is_absent(&member.master.get("k").await));
        member.recovery.tick().await.unwrap();
        assert!(is_absent(&member.master.put("k", b"2").await));
        assert_well(member);
    }
    assert_eq!(federation.version_of(&address).await, None);
    // The name can be used again, above every version that a master has seen of it.
    two.master.create().await;
    assert_eq!(federation.version_of(&address).await, Some(LAST + 1));
    one.master.put("k", b"3").await.unwrap();
    assert_eq!(two.master.get("k").await.unwrap(), b"3");
    for member in [&one, &two] {
        member.recovery.tick().await.unwrap();
        assert_well(member);
    }
}

/// Two masters know a bucket, one of them only as a live one. Its row is dropped. Returns what the other one finds.
async fn read_after_a_drop(
    fault: Option<Fault>,
    forgets_floor: bool,
) -> Result<Vec<u8>, ServiceError> {
    let federation = Federation::new(fault);
    if forgets_floor {
        federation.forget_floors();
    }
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    end(&federation, &[&one, &two]).await;
    assert_eq!(drop_beside(&one, &[&two]).await.unwrap(), 1);
    // A master that knows nothing of it creates the bucket again.
    let three = federation.join(3).await;
    three.master.create().await;
    three.master.put("k", b"of a new life").await.unwrap();
    two.master.get("k").await
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_is_not_raised_is_found() {
    assert_eq!(read_after_a_drop(None, false).await.unwrap(), b"of a new life");
    let found = read_after_a_drop(None, true).await;
    assert!(is_refused(&found), "a version was used twice, and nobody noticed: {found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drop_of_which_a_master_has_not_learnt_is_found() {
    let federation = Federation::new(Some(Fault::DroppedUnawares));
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    end(&federation, &[&one, &two]).await;
    assert_eq!(drop_rows(&one, Duration::ZERO).await.unwrap(), 1);
    assert!(is_refused(&two.master.get("k").await), "the missing row was no fault");
}

#[tokio::test(start_paused = true)]
async fn a_recovery_brings_no_dropped_bucket_back() {
    let federation = Federation::new(None);
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    end(&federation, &[&one, &two]).await;
    assert_eq!(drop_beside(&one, &[&two]).await.unwrap(), 1);
    // The arbiter goes back to a moment of after the drop, and both masters still know the tombstone.
    let backup = federation.backup();
    let other = bucket_name("other");
    one.master.service.create_bucket(&one.master.user, &other, None).await.unwrap();
    federation.restore(backup);
    let _running = [run(&one), run(&two)];
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_well(&one);
    assert_eq!(federation.version_of(&one.master.address()).await, None);
    let other = BucketAddress::new(one.master.owner(), other);
    assert!(federation.version_of(&other).await > Some(LAST), "what was lost is back");
}

#[tokio::test(start_paused = true)]
async fn a_restore_to_before_a_drop_is_no_fault_either() {
    let federation = Federation::new(None);
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    end(&federation, &[&one, &two]).await;
    let backup = federation.backup();
    assert_eq!(drop_beside(&one, &[&two]).await.unwrap(), 1);
    two.master.create().await;
    two.master.put("k", b"acknowledged").await.unwrap();
    federation.restore_quietly(backup);
    let _running = [run(&one), run(&two)];
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(one.master.get("k").await.unwrap(), b"acknowledged");
    assert_eq!(one.recovery.status().await.unwrap().forks.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_is_away_holds_drops_back_until_it_is_removed() {
    let federation = Federation::new(None);
    let disk = memory();
    let (one, three) = (federation.join(1).await, federation.join_with(3, &disk).await);
    // What it knows is on its disk.
    end(&federation, &[&one, &three]).await;
    three.recovery.tick().await.unwrap_or_default();
    let name = three.recovery.name().to_owned();
    drop(three);
    federation.pass(DAY);
    beat(&[&one]).await;
    let refused = drop_rows(&one, Duration::ZERO).await.unwrap_err().to_string();
    assert!(refused.contains(&name), "{refused}");
    let removed = one.recovery.forget_master(&name, false).await.unwrap();
    assert_eq!(removed, Forgotten::Done);
    assert_eq!(drop_rows(&one, Duration::ZERO).await.unwrap(), 1);
    // It comes back, with what it knew.
    let three = federation.join_with(3, &disk).await;
    assert!(is_absent(&three.master.get("k").await));
    assert_well(&three);
    assert_eq!(federation.version_of(&one.master.address()).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_does_not_take_part_holds_drops_back() {
    let federation = Federation::new(None);
    let [one, two] = [federation.join(1).await, federation.join(2).await];
    end(&federation, &[&one, &two]).await;
    // The second one is alive, and never says that it has learnt the deletions, as an earlier version.
    let refused = drop_rows(&one, Duration::ZERO).await.unwrap_err().to_string();
    assert!(refused.contains(two.recovery.name()), "{refused}");
    assert_eq!(federation.version_of(&one.master.address()).await, Some(LAST));
}

#[tokio::test(start_paused = true)]
async fn rows_stay_for_thirty_days_and_for_the_retention() {
    let federation = Federation::new(None);
    let one = federation.join(1).await;
    one.master.create().await;
    one.master.service.delete_bucket(&one.master.user, &bucket()).await.unwrap();
    federation.pass(29 * DAY);
    beat(&[&one]).await;
    assert_eq!(drop_rows(&one, Duration::ZERO).await.unwrap(), 0);
    federation.pass(2 * DAY);
    beat(&[&one]).await;
    assert_eq!(drop_rows(&one, 40 * DAY).await.unwrap(), 0);
    assert_eq!(drop_rows(&one, Duration::ZERO).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_live_bucket_is_never_taken_for_a_dropped_one() {
    let federation = Federation::new(None);
    let one = federation.join(1).await;
    let live = bucket_name("live");
    one.master.service.create_bucket(&one.master.user, &live, None).await.unwrap();
    end(&federation, &[&one]).await;
    assert_eq!(drop_rows(&one, Duration::ZERO).await.unwrap(), 1);
    // While a restore fills the tables, no row is there, and the floor is above the version of the live bucket.
    federation.set_empty(true);
    assert!(is_absent(&one.master.get("k").await));
    let live = one.master.service.bucket(&one.master.user, &live).await;
    assert!(is_refused(&live), "{live:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_dropped_buckets_is_removed_with_the_next_round() {
    let federation = Federation::new(None);
    let disk = memory();
    let [one, two] = [federation.join(1).await, federation.join_with(2, &disk).await];
    let address = one.master.address();
    let name = address.to_string();
    let remembered = async || disk.read(Table::Remembered, &name).await.unwrap().unwrap();
    end(&federation, &[&one, &two]).await;
    assert_eq!(drop_beside(&one, &[&two]).await.unwrap(), 1);
    let guard = |member: &Member| member.master.service.arbiter().guard().known(&address);
    assert!(guard(&two).is_some() && remembered().await.value.is_some());
    let service = &one.master.service;
    let other = bucket_name("other");
    service.create_bucket(&one.master.user, &other, None).await.unwrap();
    service.delete_bucket(&one.master.user, &other).await.unwrap();
    federation.pass(31 * DAY);
    beat(&[&one, &two]).await;
    assert_eq!(drop_beside(&one, &[&two]).await.unwrap(), 1);
    assert!(guard(&one).is_none() && guard(&two).is_none());
    assert_eq!(remembered().await.value, None);
    // After a restart it learns the next bucket of the name like any other.
    one.master.create().await;
    let two = federation.join_with(2, &disk).await;
    two.master.put("k", b"2").await.unwrap();
    assert!(remembered().await.value.is_some());
    assert!(two.master.service.arbiter().guard().disk_failure().is_none());
    assert_well(&two);
}
