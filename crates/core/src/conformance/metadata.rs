//! The clauses of the contract of [`MetadataStore`].

use bytes::Bytes;
use futures::future::join_all;

use crate::{
    error::StoreError,
    metadata::{Entry, MetadataStore, NAME_BYTES_MAX, Table, VALUE_BYTES_MAX, WriteOutcome},
};

#[expect(clippy::unnecessary_wraps, reason = "a write takes an option")]
fn value(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

/// Reading a record that was never written returns `None`.
pub async fn absent_is_none(store: &dyn MetadataStore) {
    assert_eq!(store.read(Table::Keys, "a").await.unwrap(), None);
    assert_eq!(store.list(Table::Keys, None, 10).await.unwrap(), []);
    let refused = store.write(Table::Keys, "a", 3, value("x")).await.unwrap();
    assert_eq!(refused, WriteOutcome::Conflict(None));
}

/// Every write raises the version by one.
pub async fn versions_rise_by_one(store: &dyn MetadataStore) {
    for (version, text) in (0..).zip(["one", "two", "three"]) {
        let outcome = store.write(Table::Keys, "a", version, value(text)).await.unwrap();
        assert_eq!(outcome, WriteOutcome::Done(version + 1));
        let entry = Entry { version: version + 1, value: value(text) };
        assert_eq!(store.read(Table::Keys, "a").await.unwrap(), Some(entry));
    }
}

/// A write that expects another version changes nothing and returns the current record.
pub async fn stale_write_changes_nothing(store: &dyn MetadataStore) {
    store.write(Table::Keys, "a", 0, value("one")).await.unwrap();
    let current = Entry { version: 1, value: value("one") };
    for stale in [0, 2] {
        let outcome = store.write(Table::Keys, "a", stale, value("two")).await.unwrap();
        assert_eq!(outcome, WriteOutcome::Conflict(Some(current.clone())));
    }
    assert_eq!(store.read(Table::Keys, "a").await.unwrap(), Some(current));
}

/// A deleted record keeps its version, so that a stale writer cannot overwrite a record made later.
pub async fn deleted_keeps_its_version(store: &dyn MetadataStore) {
    store.write(Table::Keys, "a", 0, value("one")).await.unwrap();
    let outcome = store.write(Table::Keys, "a", 1, None).await.unwrap();
    assert_eq!(outcome, WriteOutcome::Done(2));
    let gone = Some(Entry { version: 2, value: None });
    assert_eq!(store.read(Table::Keys, "a").await.unwrap(), gone);
    let outcome = store.write(Table::Keys, "a", 0, value("two")).await.unwrap();
    assert_eq!(outcome, WriteOutcome::Conflict(gone));
}

/// A listing names the records that exist, in order of name and in pages.
pub async fn lists_live_records_in_order(store: &dyn MetadataStore) {
    for name in ["c", "a", "d", "b"] {
        store.write(Table::Keys, name, 0, value("x")).await.unwrap();
    }
    store.write(Table::Keys, "b", 1, None).await.unwrap();
    let names =
        |page: Vec<(String, Entry)>| page.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(store.list(Table::Keys, None, 2).await.unwrap()), ["a", "c"]);
    assert_eq!(names(store.list(Table::Keys, Some("c"), 2).await.unwrap()), ["d"]);
}

/// Names and values over the limits are refused.
pub async fn refuses_oversized_records(store: &dyn MetadataStore) {
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    let refused = store.write(Table::Keys, &long, 0, value("x")).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    let large = Some(Bytes::from(vec![0; VALUE_BYTES_MAX + 1]));
    let refused = store.write(Table::Keys, "a", 0, large).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    let largest = Some(Bytes::from(vec![0; VALUE_BYTES_MAX]));
    let outcome = store.write(Table::Keys, &long[1..], 0, largest).await.unwrap();
    assert_eq!(outcome, WriteOutcome::Done(1));
}

/// Equal names in different tables are different records.
pub async fn tables_are_kept_apart(store: &dyn MetadataStore) {
    store.write(Table::Keys, "a", 0, value("key")).await.unwrap();
    store.write(Table::Modes, "a", 0, value("mode")).await.unwrap();
    let read = store.read(Table::Keys, "a").await.unwrap().unwrap();
    assert_eq!(read.value, value("key"));
    assert_eq!(store.list(Table::Modes, None, 10).await.unwrap().len(), 1);
}

/// Of concurrent writers of one record, exactly one wins each version.
pub async fn racing_writers_lose_nothing(store: &dyn MetadataStore) {
    let writers = (0..8).map(|_| async {
        let mut won = 0;
        while won < 5 {
            let version = store.read(Table::Keys, "a").await.unwrap().map_or(0, |e| e.version);
            let outcome = store.write(Table::Keys, "a", version, value("x")).await.unwrap();
            won += u32::from(outcome == WriteOutcome::Done(version + 1));
        }
    });
    join_all(writers).await;
    assert_eq!(store.read(Table::Keys, "a").await.unwrap().unwrap().version, 40);
}
