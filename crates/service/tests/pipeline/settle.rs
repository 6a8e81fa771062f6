//! Tests of settling names: private buckets that hold a global name release it once, and a change of the
//! policy settles all names again.

use std::{sync::atomic::Ordering, time::Duration};

use fula_core::MetadataStore;
use fula_service::{Settled, unsettle_names};

use super::*;
use crate::{
    faults::Fault,
    names::{PRIVATE, Shop, owner, public, user},
};

/// Makes buckets as older versions did, all of which hold their name. Alice's `open` is public, and one of
/// Bob's was deleted.
async fn as_before(shop: &Shop) -> (Caller, Caller) {
    let older = shop.global(9);
    let (alice, bob) = (user("key:alice"), user("key:bob"));
    for name in ["open", "shut", "shut-too"] {
        older.create_bucket(&alice, &bucket_name(name), None).await.unwrap();
    }
    older.set_policy(&alice, &bucket_name("open"), Some(&public("open"))).await.unwrap();
    older.set_policy(&alice, &bucket_name("shut-too"), Some(PRIVATE)).await.unwrap();
    older.create_bucket(&bob, &bucket_name("gone"), None).await.unwrap();
    older.delete_bucket(&bob, &bucket_name("gone")).await.unwrap();
    (alice, bob)
}

#[tokio::test]
async fn names_that_private_buckets_hold_are_released_once() {
    let shop = Shop::new();
    let (alice, bob) = as_before(&shop).await;
    let service = shop.owners(1);
    assert_eq!(shop.holder("shut").await, Some(owner(&alice)));
    // Until then the names do no harm: requests learn nothing about the buckets.
    let anonymous = service.bucket(&Caller::default(), &bucket_name("shut")).await;
    assert!(matches!(anonymous, Err(ServiceError::AccessDenied)), "{anonymous:?}");
    let signed = service.bucket(&bob, &bucket_name("shut")).await;
    assert!(matches!(signed, Err(ServiceError::NoSuchBucket)), "{signed:?}");

    let untouched = [shop.row(&alice, "open").await, shop.row(&bob, "gone").await];
    assert_eq!(shop.settle(&service).await, Some(Settled { changed: 2, left: 0 }));
    assert_eq!(shop.holder("shut").await, None);
    assert_eq!(shop.holder("shut-too").await, None);
    assert_eq!(shop.holder("open").await, Some(owner(&alice)));
    assert_eq!(untouched, [shop.row(&alice, "open").await, shop.row(&bob, "gone").await]);
    assert_eq!(service.policy(&alice, &bucket_name("shut-too")).await.unwrap(), PRIVATE);
    // It happens once. A master that starts later examines nothing.
    let swaps = shop.roots.swaps.load(Ordering::SeqCst);
    let later = shop.owners(2);
    later.create_bucket(&alice, &bucket_name("new"), None).await.unwrap();
    assert_eq!(shop.settle(&later).await, None);
    assert_eq!(shop.roots.swaps.load(Ordering::SeqCst), swaps + 1);
}

#[tokio::test]
async fn after_a_change_of_the_mode_names_are_settled_again() {
    let shop = Shop::new();
    let (alice, _) = as_before(&shop).await;
    let (owners, global) = (shop.owners(1), shop.global(2));
    assert_eq!(shop.settle(&owners).await, Some(Settled { changed: 2, left: 0 }));
    assert_eq!(shop.settle(&global).await, Some(Settled { changed: 2, left: 0 }));
    assert_eq!(shop.settle(&global).await, None);
    assert_eq!(shop.holder("shut").await, Some(owner(&alice)));
    assert_eq!(shop.settle(&owners).await, Some(Settled { changed: 2, left: 0 }));
    assert_eq!(shop.holder("shut").await, None);
    // A repair that rebuilds rows makes it happen again.
    unsettle_names(shop.metadata.as_ref()).await.unwrap();
    assert_eq!(shop.settle(&owners).await, Some(Settled { changed: 0, left: 0 }));
}

#[tokio::test(start_paused = true)]
async fn names_are_settled_once_the_arbiter_is_back() {
    let shop = Shop::new();
    as_before(&shop).await;
    let service = shop.owners(1);
    shop.roots.set_unreachable(true);
    assert!(service.settle_names_once(shop.metadata.as_ref()).await.is_err());
    shop.roots.set_unreachable(false);
    // One bucket fails. The others are settled, and it is tried again.
    shop.roots.plan([Fault::NotSent]);
    assert_eq!(shop.settle(&service).await, Some(Settled { changed: 1, left: 1 }));
    shop.roots.plan([Fault::NotSent]);
    let metadata = Arc::clone(&shop.metadata) as Arc<dyn MetadataStore>;
    service.clone().settle_names(metadata).await;
    assert_eq!(shop.holder("shut").await, None);
    assert_eq!(shop.holder("shut-too").await, None);
    assert_eq!(shop.settle(&service).await, None);
}

#[tokio::test]
async fn masters_that_settle_at_once_do_so_once() {
    let shop = Shop::new();
    as_before(&shop).await;
    let masters = [shop.owners(1), shop.owners(2), shop.owners(3)];
    futures::future::join_all(masters.iter().map(|service| shop.settle(service))).await;
    assert_eq!(shop.holder("shut").await, None);
    assert_eq!(shop.settle(&masters[0]).await, None);
}

#[tokio::test]
async fn a_bucket_that_is_made_public_while_names_are_settled_keeps_its_name() {
    let shop = Shop::new();
    let (alice, _) = as_before(&shop).await;
    let (one, two) = (shop.owners(1), shop.owners(2));
    shop.roots.plan([Fault::Held]);
    let publish = async {
        let held = tokio::time::timeout(Duration::from_secs(10), shop.roots.held.notified()).await;
        held.expect("no name was settled");
        // Master one has found `shut` to be private, and its swap is on its way.
        two.set_policy(&alice, &bucket_name("shut"), Some(&public("shut"))).await.unwrap();
        shop.roots.go_on.notify_one();
    };
    tokio::join!(shop.settle(&one), publish);
    assert!(shop.roots.conflicts.load(Ordering::SeqCst) > 0, "they did not meet");
    assert_eq!(shop.holder("shut").await, Some(owner(&alice)));
    assert_eq!(shop.holder("shut-too").await, None);
}
