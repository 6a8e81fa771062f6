//! Clauses of [`PackDirectory`].

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::{join, join_all};

use crate::{
    error::StoreError,
    packs::{Added, INDEX_BYTES_MAX, PackDirectory, PackEntry, PackId, read_all},
};

fn pack(n: u8) -> PackEntry {
    let id = PackId([n; 16]);
    PackEntry { id, generation: u64::from(n), bytes: 1 << n.min(40), index: vec![n; 24].into() }
}

/// A new directory has no entries and no manifest.
pub async fn absent_is_none(store: &dyn PackDirectory) {
    let page = store.read(0, 10).await.unwrap();
    assert_eq!((page.manifest_version, page.last, page.entries.len()), (0, 0, 0));
    assert!(page.manifest.is_empty());
}

/// Entries are returned whole, in the order in which they were added, in pages.
pub async fn lists_in_order(store: &dyn PackDirectory) {
    for n in 1..=5 {
        assert_eq!(store.add(&pack(n)).await.unwrap(), Added::At(u64::from(n)));
    }
    let expected: Vec<_> = (1..=5).map(|n| (u64::from(n), pack(n))).collect();
    assert_eq!(store.read(0, 3).await.unwrap().entries, expected[..3]);
    assert_eq!(store.read(3, 3).await.unwrap().entries, expected[3..]);
    assert_eq!(store.read(5, 3).await.unwrap().entries, []);
    assert_eq!(read_all(store).await.unwrap().entries, expected);
}

/// A manifest takes the place of the entries that it covers, and of no others; numbers go on.
pub async fn a_manifest_replaces_entries(store: &dyn PackDirectory) {
    for n in 1..=4 {
        store.add(&pack(n)).await.unwrap();
    }
    assert!(store.replace_manifest(0, Bytes::from_static(b"one"), 3, 0).await.unwrap());
    let page = store.read(0, 10).await.unwrap();
    assert_eq!((page.manifest_version, &page.manifest[..]), (1, &b"one"[..]));
    assert_eq!(page.entries, [(4, pack(4))]);
    assert!(store.replace_manifest(1, Bytes::from_static(b"two"), 4, 0).await.unwrap());
    assert_eq!(store.add(&pack(5)).await.unwrap(), Added::At(5));
    let page = store.read(2, 10).await.unwrap();
    assert_eq!((page.manifest_version, page.last, &page.manifest[..]), (2, 5, &b"two"[..]));
    assert_eq!(page.entries, [(5, pack(5))]);
    // The last number is known when no entry is left, too.
    assert!(store.replace_manifest(2, Bytes::new(), 5, 0).await.unwrap());
    assert_eq!(store.read(5, 10).await.unwrap().last, 5);
}

/// Who expects another manifest changes nothing.
pub async fn a_stale_manifest_changes_nothing(store: &dyn PackDirectory) {
    store.add(&pack(1)).await.unwrap();
    for stale in [1, 7] {
        assert!(!store.replace_manifest(stale, Bytes::from_static(b"x"), 1, 0).await.unwrap());
    }
    assert!(store.replace_manifest(0, Bytes::from_static(b"one"), 0, 0).await.unwrap());
    assert!(!store.replace_manifest(0, Bytes::from_static(b"x"), 1, 0).await.unwrap());
    let page = store.read(0, 10).await.unwrap();
    assert_eq!((page.manifest_version, &page.manifest[..]), (1, &b"one"[..]));
    assert_eq!(page.entries, [(1, pack(1))]);
}

/// A pack below the lowest generation is not added, and changes nothing. The lowest generation never falls.
pub async fn refuses_packs_of_a_past_generation(store: &dyn PackDirectory) {
    assert_eq!(store.add(&pack(2)).await.unwrap(), Added::At(1));
    assert!(store.replace_manifest(0, Bytes::from_static(b"one"), 0, 5).await.unwrap());
    assert!(!store.replace_manifest(0, Bytes::from_static(b"x"), 0, 9).await.unwrap());
    assert!(store.replace_manifest(1, Bytes::from_static(b"two"), 0, 3).await.unwrap());
    for below in [0, 4] {
        assert_eq!(store.add(&pack(below)).await.unwrap(), Added::BelowGeneration(5));
    }
    assert_eq!(store.add(&pack(5)).await.unwrap(), Added::At(2));
    let page = store.read(0, 10).await.unwrap();
    assert_eq!((page.min_generation, page.last), (5, 2));
    assert_eq!(page.entries, [(1, pack(2)), (2, pack(5))]);
}

/// Of masters that replace one manifest at the same time, one does.
pub async fn racing_manifests_have_one_winner(store: &dyn PackDirectory) {
    for round in 0..5 {
        let racers = (0..4_u8).map(|n| store.replace_manifest(round, vec![n].into(), 0, 0));
        let won = join_all(racers).await.into_iter().filter(|won| *won.as_ref().unwrap()).count();
        assert_eq!(won, 1, "round {round}");
    }
}

/// Too large an index or manifest is refused; the largest allowed is kept.
pub async fn refuses_oversized_records(store: &dyn PackDirectory) {
    let large = Bytes::from(vec![0; INDEX_BYTES_MAX + 1]);
    let refused = store.add(&PackEntry { index: large.clone(), ..pack(1) }).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    let refused = store.replace_manifest(0, large.clone(), 0, 0).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    let largest = PackEntry { index: large.slice(1..), ..pack(1) };
    store.add(&largest).await.unwrap();
    assert_eq!(store.read(0, 1).await.unwrap().entries, [(1, largest)]);
}

/// A reader that follows the end while many add never passes over an entry.
pub async fn a_reader_that_follows_misses_nothing(store: &dyn PackDirectory) {
    const EACH: u8 = 20;
    let adding = join_all((0..4_u8).map(|task| async move {
        for n in 0..EACH {
            store.add(&pack(task * EACH + n)).await.unwrap();
            yield_now().await;
        }
    }));
    let following = async {
        let (mut after, mut seen) = (0, BTreeSet::new());
        while seen.len() < 4 * usize::from(EACH) {
            for (seq, pack) in store.read(after, 7).await.unwrap().entries {
                assert_eq!(seq, after + 1, "an entry was passed over");
                after = seq;
                assert!(seen.insert(pack.id));
            }
            yield_now().await;
        }
    };
    join(adding, following).await;
}

/// Lets other tasks run once, on any runtime.
async fn yield_now() {
    let mut is_first = true;
    std::future::poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(())
    })
    .await;
}
