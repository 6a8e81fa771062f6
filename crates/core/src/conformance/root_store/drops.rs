//! The clauses about rows of deleted buckets.

use super::{OWNER, address, get, new_root, pointer, swap};
use crate::root::{
    CasOutcome, DeletedRow, DropTerms, GlobalName, NewRoot, RootPointer, RootPointerStore,
};

/// A drop removes only rows of deleted buckets that are still as given. An arbiter that drops
/// nothing keeps all of them.
pub async fn drops_only_what_it_is_told(store: &dyn RootPointerStore) {
    let tombstone = |seed, version| NewRoot {
        deleted: Some(9),
        global_name: GlobalName::Release,
        ..new_root(pointer(seed, version))
    };
    let given = |bucket: &str, pointer: RootPointer| DeletedRow {
        address: address(OWNER, bucket),
        pointer,
    };
    for bucket in ["alive", "again", "deleted", "other-root"] {
        swap(store, OWNER, bucket, None, pointer(1, 1)).await;
    }
    for bucket in ["again", "deleted", "other-root"] {
        let (bucket, expected, new) =
            (address(OWNER, bucket), Some(pointer(1, 1)), tombstone(2, 2));
        let deleted = store.cas_root(&bucket, expected, &new).await;
        assert_eq!(deleted.unwrap().value, CasOutcome::Won);
    }
    swap(store, OWNER, "again", Some(pointer(2, 2)), pointer(3, 3)).await;
    let rows = [
        given("alive", pointer(1, 1)),
        given("again", pointer(2, 2)),
        given("deleted", pointer(2, 2)),
        given("never", pointer(2, 2)),
        given("other-root", pointer(4, 2)),
    ];
    let dropped = store.drop_roots(rows.to_vec(), &DropTerms::default()).await.unwrap();
    let found = |bucket: &'static str| async move {
        get(store, OWNER, bucket).await.map(|row| row.pointer)
    };
    assert_eq!(found("alive").await, Some(pointer(1, 1)));
    assert_eq!(found("again").await, Some(pointer(3, 3)));
    assert_eq!(found("other-root").await, Some(pointer(2, 2)));
    if !store.can_drop_roots() {
        assert_eq!((dropped.len(), found("deleted").await), (0, Some(pointer(2, 2))));
        return;
    }
    assert_eq!(dropped, [rows[2].clone()]);
    assert_eq!(found("deleted").await, None);
    let listed = store.list_roots(OWNER, None, 9).await.unwrap().value;
    let listed: Vec<_> = listed.iter().map(|row| row.address.name.as_str()).collect();
    assert_eq!(listed, ["again", "alive", "other-root"]);
}

/// A row whose bucket was deleted less long ago than the drop requires stays.
pub async fn young_rows_are_not_dropped(store: &dyn RootPointerStore) {
    let now = store.get_roots(&[]).await.unwrap().time;
    let tombstone = NewRoot { deleted: Some(now), ..new_root(pointer(2, 2)) };
    let address = address(OWNER, "deleted");
    swap(store, OWNER, "deleted", None, pointer(1, 1)).await;
    store.cas_root(&address, Some(pointer(1, 1)), &tombstone).await.unwrap();
    let row = DeletedRow { address, pointer: tombstone.pointer };
    let young = DropTerms { age: 3_600_000, round: None };
    assert_eq!(store.drop_roots(vec![row.clone()], &young).await.unwrap(), []);
    assert_eq!(get(store, OWNER, "deleted").await.unwrap().deleted, Some(now));
    assert_eq!(store.version_floor().await.unwrap().value, 0);
    let dropped = store.drop_roots(vec![row.clone()], &DropTerms::default()).await.unwrap();
    assert_eq!(dropped, if store.can_drop_roots() { vec![row] } else { Vec::new() });
}

/// The version of a name without a row begins above that of every row that was ever dropped.
pub async fn versions_go_on_after_a_drop(store: &dyn RootPointerStore) {
    if !store.can_drop_roots() {
        return;
    }
    let begin =
        |bucket: &'static str, version| swap(store, OWNER, bucket, None, pointer(1, version));
    let below = CasOutcome::BelowFloor { floor: 7 };
    swap(store, OWNER, "alive", None, pointer(1, 1)).await;
    for (bucket, last) in [("first", 7), ("second", 3)] {
        let floor = if bucket == "first" { 0 } else { 7 };
        assert_eq!(begin(bucket, floor + 1).await, CasOutcome::Won);
        let deleted = pointer(2, floor + last);
        let tombstone = NewRoot { deleted: Some(9), ..new_root(deleted) };
        let expected = Some(pointer(1, floor + 1));
        let address = address(OWNER, bucket);
        store.cas_root(&address, expected, &tombstone).await.unwrap();
        let row = DeletedRow { address, pointer: deleted };
        let terms = DropTerms::default();
        assert_eq!(store.drop_roots(vec![row], &terms).await.unwrap().len(), 1);
        assert_eq!(store.version_floor().await.unwrap().value, floor + last);
        if floor == 0 {
            for bucket in ["first", "second", "never"] {
                assert_eq!(begin(bucket, 1).await, below, "{bucket}");
                assert_eq!(begin(bucket, 7).await, below, "{bucket}");
            }
        }
    }
    // The floor never falls, and it does not restrict rows that exist.
    assert_eq!(begin("first", 10).await, CasOutcome::BelowFloor { floor: 10 });
    assert_eq!(begin("first", 11).await, CasOutcome::Won);
    let next = swap(store, OWNER, "alive", Some(pointer(1, 1)), pointer(2, 2)).await;
    assert_eq!(next, CasOutcome::Won);
}
