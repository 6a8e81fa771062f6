//! The clauses of the contract of [`RootPointerStore`].

mod drops;

use std::time::Duration;

use futures::future::join_all;

pub use self::drops::{
    drops_only_what_it_is_told, versions_go_on_after_a_drop, young_rows_are_not_dropped,
};
use crate::{
    id::{BucketAddress, BucketId, BucketName, Cid, Codec, OwnerId},
    root::{
        CasOutcome, GlobalName, LeaseId, NewRoot, RootCounts, RootPointer, RootPointerStore,
        RootRow,
    },
};

const OWNER: OwnerId = OwnerId([1; 16]);
const OTHER: OwnerId = OwnerId([2; 16]);

fn name(text: &str) -> BucketName {
    BucketName::parse(text).unwrap()
}

fn address(owner: OwnerId, text: &str) -> BucketAddress {
    BucketAddress::new(owner, name(text))
}

fn pointer(seed: u64, version: u64) -> RootPointer {
    RootPointer { root: Cid::of(Codec::DagCbor, &seed.to_be_bytes()), version, generation: 0 }
}

fn new_root(pointer: RootPointer) -> NewRoot {
    NewRoot {
        pointer,
        bucket_id: BucketId([7; 16]),
        created: 5,
        deleted: None,
        global_name: GlobalName::ClaimIfFree,
        lease: None,
    }
}

async fn swap(
    store: &dyn RootPointerStore,
    owner: OwnerId,
    bucket: &str,
    expected: Option<RootPointer>,
    new: RootPointer,
) -> CasOutcome {
    store.cas_root(&address(owner, bucket), expected, &new_root(new)).await.unwrap().value
}

async fn get(store: &dyn RootPointerStore, owner: OwnerId, bucket: &str) -> Option<RootRow> {
    store.get_roots(&[address(owner, bucket)]).await.unwrap().value.pop().unwrap()
}

/// A name that was never used has no row.
pub async fn absent_is_none(store: &dyn RootPointerStore) {
    assert_eq!(get(store, OWNER, "bucket").await, None);
    assert_eq!(store.find_bucket(&name("bucket")).await.unwrap().value, None);
    assert_eq!(store.get_roots(&[]).await.unwrap().value, []);
    let stale = swap(store, OWNER, "bucket", Some(pointer(1, 1)), pointer(2, 2)).await;
    assert_eq!(stale, CasOutcome::Conflict { current: None });
}

/// The first swap creates the row with every field as given; later swaps replace it.
pub async fn first_swap_creates(store: &dyn RootPointerStore) {
    assert_eq!(swap(store, OWNER, "bucket", None, pointer(1, 1)).await, CasOutcome::Won);
    let deleted = NewRoot {
        pointer: RootPointer { generation: 3, ..pointer(2, 9) },
        bucket_id: BucketId([8; 16]),
        created: 6,
        deleted: Some(7),
        global_name: GlobalName::Keep,
        lease: None,
    };
    let outcome = store.cas_root(&address(OWNER, "bucket"), Some(pointer(1, 1)), &deleted).await;
    assert_eq!(outcome.unwrap().value, CasOutcome::Won);
    let row = RootRow {
        address: address(OWNER, "bucket"),
        pointer: deleted.pointer,
        bucket_id: deleted.bucket_id,
        created: 6,
        deleted: Some(7),
        global_name: true,
        claim: None,
    };
    assert_eq!(get(store, OWNER, "bucket").await, Some(row));
}

/// A swap that expects a stale pointer changes nothing and returns the current row.
pub async fn stale_swap_changes_nothing(store: &dyn RootPointerStore) {
    swap(store, OWNER, "bucket", None, pointer(1, 1)).await;
    swap(store, OWNER, "bucket", Some(pointer(1, 1)), pointer(2, 2)).await;
    for stale in [None, Some(pointer(1, 1)), Some(pointer(9, 2))] {
        let outcome = swap(store, OWNER, "bucket", stale, pointer(3, 3)).await;
        let CasOutcome::Conflict { current: Some(current) } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(current.pointer, pointer(2, 2));
    }
    assert_eq!(get(store, OWNER, "bucket").await.unwrap().pointer, pointer(2, 2));
}

/// A conflict never reports the expected pointer as current, or the loser would retry for ever.
pub async fn current_is_never_what_was_expected(store: &dyn RootPointerStore) {
    swap(store, OWNER, "bucket", None, pointer(0, 1)).await;
    let racers = (1..=8_u64).map(|racer| async move {
        let mut expected = pointer(0, 1);
        for _ in 0..20 {
            let next = pointer(racer << 32 | expected.version, expected.version + 1);
            yield_now().await;
            match swap(store, OWNER, "bucket", Some(expected), next).await {
                CasOutcome::Won => expected = next,
                CasOutcome::Conflict { current } => {
                    let current = current.unwrap().pointer;
                    assert_ne!(current, expected);
                    expected = current;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    join_all(racers).await;
}

/// A swap compares root, version and generation.
pub async fn every_field_of_the_pointer_is_compared(store: &dyn RootPointerStore) {
    let current = RootPointer { generation: 4, ..pointer(1, 5) };
    swap(store, OWNER, "bucket", None, current).await;
    let wrong = [
        RootPointer { root: pointer(2, 5).root, ..current },
        RootPointer { version: 4, ..current },
        RootPointer { generation: 3, ..current },
    ];
    for expected in wrong {
        let outcome = swap(store, OWNER, "bucket", Some(expected), pointer(3, 6)).await;
        assert!(matches!(outcome, CasOutcome::Conflict { .. }), "{expected:?}");
    }
    assert_eq!(swap(store, OWNER, "bucket", Some(current), pointer(3, 6)).await, CasOutcome::Won);
}

/// With eight writers of ten commits each, every commit builds on the one before it, and some
/// swaps collide.
pub async fn racing_writers_lose_nothing(store: &dyn RootPointerStore) {
    let writers = (1..=8_u64).map(|writer| async move {
        let mut conflicts = 0;
        for round in 0..10 {
            loop {
                let seen = get(store, OWNER, "bucket").await.map(|row| row.pointer);
                yield_now().await; // An in-memory store never waits by itself.
                let version = seen.map_or(1, |seen| seen.version + 1);
                let next = pointer(writer << 32 | round << 16 | version, version);
                match swap(store, OWNER, "bucket", seen, next).await {
                    CasOutcome::Won => break,
                    CasOutcome::Conflict { .. } => conflicts += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        conflicts
    });
    let conflicts: u32 = join_all(writers).await.into_iter().sum();
    assert_eq!(get(store, OWNER, "bucket").await.unwrap().pointer.version, 80);
    assert!(conflicts > 0, "the writers never met: this race tested nothing");
}

/// Of many concurrent creations of one name, exactly one wins.
pub async fn racing_creators_make_one(store: &dyn RootPointerStore) {
    let creators = (1..=8_u64).map(|creator| async move {
        yield_now().await;
        swap(store, OWNER, "bucket", None, pointer(creator, 1)).await
    });
    let outcomes = join_all(creators).await;
    let won: Vec<_> = (1..=8).zip(&outcomes).filter(|(_, o)| **o == CasOutcome::Won).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    assert_eq!(get(store, OWNER, "bucket").await.unwrap().pointer, pointer(won[0].0, 1));
}

/// A swap changes no row of another name or owner. A batch of reads keeps its order.
pub async fn rows_are_kept_apart(store: &dyn RootPointerStore) {
    swap(store, OWNER, "one", None, pointer(1, 1)).await;
    swap(store, OWNER, "two", None, pointer(2, 1)).await;
    swap(store, OTHER, "one", None, pointer(3, 1)).await;
    let names = [address(OTHER, "one"), address(OWNER, "absent"), address(OWNER, "two")];
    let rows = store.get_roots(&names).await.unwrap().value;
    let pointers: Vec<_> = rows.into_iter().map(|row| row.map(|row| row.pointer)).collect();
    assert_eq!(pointers, [Some(pointer(3, 1)), None, Some(pointer(2, 1))]);
}

/// A listing names the rows of one owner in order of name and in pages, including deleted ones.
pub async fn lists_one_owner_in_order(store: &dyn RootPointerStore) {
    for bucket in ["ccc", "aaa", "bbb"] {
        swap(store, OWNER, bucket, None, pointer(1, 1)).await;
    }
    swap(store, OTHER, "aab", None, pointer(1, 1)).await;
    let tombstone = NewRoot { deleted: Some(9), ..new_root(pointer(2, 2)) };
    store.cas_root(&address(OWNER, "bbb"), Some(pointer(1, 1)), &tombstone).await.unwrap();
    let first = store.list_roots(OWNER, None, 2).await.unwrap().value;
    let names: Vec<_> = first.iter().map(|row| row.address.name.as_str()).collect();
    assert_eq!(names, ["aaa", "bbb"]);
    assert_eq!(first[1].deleted, Some(9));
    let rest = store.list_roots(OWNER, Some(&name("bbb")), 2).await.unwrap().value;
    assert_eq!(rest.iter().map(|row| row.address.name.as_str()).collect::<Vec<_>>(), ["ccc"]);
}

/// A scan continues after a given address, through the rows of every owner.
pub async fn scans_all_owners_in_order(store: &dyn RootPointerStore) {
    for (owner, bucket) in [(OTHER, "aaa"), (OWNER, "b.c"), (OWNER, "b-c"), (OTHER, "bbb")] {
        assert_eq!(swap(store, owner, bucket, None, pointer(1, 1)).await, CasOutcome::Won);
    }
    let mut seen: Vec<BucketAddress> = Vec::new();
    loop {
        let page = store.scan_roots(seen.last(), 3).await.unwrap().value;
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|row| row.address));
    }
    let all = [(OWNER, "b-c"), (OWNER, "b.c"), (OTHER, "aaa"), (OTHER, "bbb")];
    assert_eq!(seen, all.map(|(owner, bucket)| address(owner, bucket)));
}

/// The first owner to claim a global name holds it until it is released. A swap that requires a
/// name that is taken is refused.
pub async fn global_names_have_one_holder(store: &dyn RootPointerStore) {
    swap(store, OWNER, "bucket", None, pointer(1, 1)).await;
    swap(store, OTHER, "bucket", None, pointer(2, 1)).await;
    assert!(!get(store, OTHER, "bucket").await.unwrap().global_name);
    let holder = |found: Option<RootRow>| found.map(|row| row.address.owner);
    let found = store.find_bucket(&name("bucket")).await.unwrap().value;
    assert_eq!(holder(found), Some(OWNER));
    let required = NewRoot { global_name: GlobalName::Require, ..new_root(pointer(3, 2)) };
    let outcome = store.cas_root(&address(OTHER, "bucket"), Some(pointer(2, 1)), &required).await;
    assert_eq!(outcome.unwrap().value, CasOutcome::NameTaken);
    assert_eq!(get(store, OTHER, "bucket").await.unwrap().pointer, pointer(2, 1));
    let released = NewRoot { global_name: GlobalName::Release, ..new_root(pointer(4, 2)) };
    store.cas_root(&address(OWNER, "bucket"), Some(pointer(1, 1)), &released).await.unwrap();
    assert_eq!(store.find_bucket(&name("bucket")).await.unwrap().value, None);
    let outcome = store.cas_root(&address(OTHER, "bucket"), Some(pointer(2, 1)), &required).await;
    assert_eq!(outcome.unwrap().value, CasOutcome::Won);
    let found = store.find_bucket(&name("bucket")).await.unwrap().value;
    assert_eq!(holder(found), Some(OTHER));
}

/// Of many owners that claim one name at the same moment, exactly one holds it, and every swap wins.
pub async fn racing_claims_have_one_holder(store: &dyn RootPointerStore) {
    let owners = (1..=8).map(|n| OwnerId([n; 16]));
    for n in 0..5 {
        let bucket = format!("bucket-{n}");
        let bucket = bucket.as_str();
        let claims = owners.clone().enumerate().map(|(owner, id)| async move {
            yield_now().await;
            // Some owners claim the name with their first swap, the others with their second.
            let first = NewRoot { global_name: GlobalName::Keep, ..new_root(pointer(1, 1)) };
            let mut seen = None;
            if owner % 2 == 0 {
                store.cas_root(&address(id, bucket), None, &first).await.unwrap();
                seen = Some(first.pointer);
            }
            swap(store, id, bucket, seen, pointer(2, 2)).await
        });
        let outcomes = join_all(claims).await;
        assert!(outcomes.iter().all(|outcome| *outcome == CasOutcome::Won), "{outcomes:?}");
        let mut holders = Vec::new();
        for owner in owners.clone() {
            let row = get(store, owner, bucket).await.unwrap();
            holders.extend(row.global_name.then_some(owner));
        }
        let found = store.find_bucket(&name(bucket)).await.unwrap().value.unwrap();
        assert_eq!(holders, [found.address.owner]);
    }
}

/// A count covers the live buckets of one owner, and the global names that these hold.
pub async fn counts_what_an_owner_has(store: &dyn RootPointerStore) {
    let counts = async |owner| {
        let RootCounts { buckets, global_names } = store.count_roots(owner).await.unwrap().value;
        (buckets, global_names)
    };
    let change = async |version, deleted, global_name| {
        let new = NewRoot { deleted, global_name, ..new_root(pointer(version, version)) };
        let old = Some(pointer(version - 1, version - 1)).filter(|_| version > 1);
        let outcome = store.cas_root(&address(OWNER, "bucket"), old, &new).await.unwrap().value;
        assert_eq!(outcome, CasOutcome::Won);
    };
    assert_eq!(counts(OWNER).await, (0, 0));
    swap(store, OTHER, "other", None, pointer(1, 1)).await;
    swap(store, OWNER, "other", None, pointer(1, 1)).await;
    assert_eq!(counts(OWNER).await, (1, 0), "the name is another owner's");
    change(1, None, GlobalName::ClaimIfFree).await;
    assert_eq!(counts(OWNER).await, (2, 1));
    change(2, None, GlobalName::Keep).await;
    assert_eq!(counts(OWNER).await, (2, 1));
    change(3, None, GlobalName::Release).await;
    assert_eq!(counts(OWNER).await, (2, 0));
    change(4, None, GlobalName::Require).await;
    assert_eq!(counts(OWNER).await, (2, 1));
    // A swap that is refused changes no count.
    swap(store, OWNER, "bucket", None, pointer(9, 9)).await;
    assert_eq!(counts(OWNER).await, (2, 1));
    change(5, Some(9), GlobalName::Release).await;
    assert_eq!(counts(OWNER).await, (1, 0));
    change(6, Some(9), GlobalName::Keep).await;
    assert_eq!(counts(OWNER).await, (1, 0));
    change(7, None, GlobalName::ClaimIfFree).await;
    assert_eq!(counts(OWNER).await, (2, 1));
    // A deleted row is not counted even while it holds its name.
    change(8, Some(9), GlobalName::Keep).await;
    assert_eq!(counts(OWNER).await, (1, 0));
    assert_eq!(counts(OTHER).await, (1, 1));
}

/// The mark and the time of an arbiter never go back while its identity stays the same.
pub async fn marks_and_time_do_not_fall(store: &dyn RootPointerStore) {
    let before = store.get_roots(&[]).await.unwrap();
    let (bucket, first) = (address(OWNER, "bucket"), new_root(pointer(1, 1)));
    let swapped = store.cas_root(&bucket, None, &first).await.unwrap();
    let after = store.list_roots(OWNER, None, 1).await.unwrap();
    assert_eq!(before.mark.arbiter, after.mark.arbiter);
    assert!(before.mark.position <= after.mark.position);
    assert!(swapped.mark.position <= after.mark.position);
    assert!(before.time <= swapped.time && swapped.time <= after.time);
}

/// A wait ends when the row is beyond the given version, or when `patience` has passed.
pub async fn waits_end(store: &dyn RootPointerStore) {
    let (bucket, patience) = (address(OWNER, "bucket"), Duration::from_millis(50));
    assert_eq!(store.wait_root(&bucket, 0, patience).await.unwrap().value, None);
    assert_eq!(swap(store, OWNER, "bucket", None, pointer(1, 1)).await, CasOutcome::Won);
    // The row is beyond the version already, so the call returns at once.
    let found = store.wait_root(&bucket, 0, Duration::from_hours(1)).await.unwrap();
    assert_eq!(found.value.unwrap().pointer, pointer(1, 1));
    let found = store.wait_root(&bucket, 1, patience).await.unwrap();
    assert_eq!(found.value.unwrap().pointer, pointer(1, 1));
}

/// Once a generation is raised, swaps that expect a lower one are refused, and so are first rows below it.
pub async fn a_raised_generation_refuses_what_began_before(store: &dyn RootPointerStore) {
    let at = |seed, version, generation| RootPointer { generation, ..pointer(seed, version) };
    for bucket in ["one", "two"] {
        assert_eq!(swap(store, OWNER, bucket, None, pointer(1, 1)).await, CasOutcome::Won);
    }
    assert_eq!(store.generation().await.unwrap().value, 0);
    store.raise_generation(5).await.unwrap();
    // A lower one changes nothing.
    store.raise_generation(3).await.unwrap();
    assert_eq!(store.generation().await.unwrap().value, 5);
    for bucket in ["one", "two"] {
        assert_eq!(get(store, OWNER, bucket).await.unwrap().pointer, at(1, 1, 5));
    }
    let stale = swap(store, OWNER, "one", Some(pointer(1, 1)), pointer(2, 2)).await;
    assert!(matches!(stale, CasOutcome::Conflict { current: Some(_) }), "{stale:?}");
    assert_eq!(swap(store, OWNER, "one", Some(at(1, 1, 5)), at(2, 2, 5)).await, CasOutcome::Won);
    assert_eq!(get(store, OWNER, "two").await.unwrap().pointer, at(1, 1, 5));
    for below in [0, 4] {
        let refused = swap(store, OWNER, "new", None, at(1, 1, below)).await;
        assert_eq!(refused, CasOutcome::BelowGeneration, "generation {below}");
    }
    assert_eq!(get(store, OWNER, "new").await, None);
    assert_eq!(swap(store, OWNER, "new", None, at(1, 1, 5)).await, CasOutcome::Won);
}

/// Of swaps and a new generation that race, each swap is either seen by who raised it, or refused.
pub async fn racing_swaps_are_seen_or_refused(store: &dyn RootPointerStore) {
    swap(store, OWNER, "bucket", None, pointer(0, 1)).await;
    let writing = async {
        let mut expected = pointer(0, 1);
        for seed in 1..=20 {
            let next = pointer(seed, expected.version + 1);
            if swap(store, OWNER, "bucket", Some(expected), next).await != CasOutcome::Won {
                break;
            }
            expected = next;
            yield_now().await;
        }
        expected
    };
    let raising = async {
        yield_now().await;
        store.raise_generation(1).await.unwrap();
        get(store, OWNER, "bucket").await.unwrap().pointer
    };
    let (won, seen) = futures::future::join(writing, raising).await;
    assert_eq!(seen, RootPointer { generation: 1, ..won });
}

/// A swap that relies on a lease which the arbiter does not have changes nothing.
pub async fn an_unknown_lease_is_refused(store: &dyn RootPointerStore) {
    swap(store, OWNER, "bucket", None, pointer(1, 1)).await;
    for id in ["00112233445566778899aabbccddeeff", "", "{"] {
        let lease = Some(LeaseId { master: "someone".to_owned(), id: id.to_owned() });
        let new = NewRoot { lease, ..new_root(pointer(2, 2)) };
        let refused = store.cas_root(&address(OWNER, "bucket"), Some(pointer(1, 1)), &new).await;
        assert_eq!(refused.unwrap().value, CasOutcome::LeaseBroken, "lease {id:?}");
    }
    assert_eq!(get(store, OWNER, "bucket").await.unwrap().pointer, pointer(1, 1));
}

/// Lets the other tasks run, on any executor.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
