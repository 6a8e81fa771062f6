//! Limits of an owner: buckets, and names that public buckets hold.

use super::*;

#[tokio::test]
async fn an_owner_may_have_so_many_buckets() {
    let shop = Shop::new();
    let limits = Limits { buckets_per_owner: 2, ..Limits::default() };
    let service = shop.service(1, NamePolicy::PerOwner, limits);
    let (alice, bob) = (user("key:alice"), user("key:bob"));
    for name in ["one", "two"] {
        service.create_bucket(&alice, &bucket_name(name), None).await.unwrap();
    }
    let refused = service.create_bucket(&alice, &bucket_name("three"), None).await;
    assert!(matches!(refused, Err(ServiceError::TooManyBuckets(2))), "{refused:?}");
    let again = service.create_bucket(&alice, &bucket_name("two"), None).await;
    assert!(matches!(again, Err(ServiceError::BucketAlreadyOwned)), "{again:?}");
    service.create_bucket(&bob, &bucket_name("three"), None).await.unwrap();
    // Deleted buckets are not counted.
    service.delete_bucket(&alice, &bucket_name("one")).await.unwrap();
    service.create_bucket(&alice, &bucket_name("three"), None).await.unwrap();
    let again = service.create_bucket(&alice, &bucket_name("one"), None).await;
    assert!(matches!(again, Err(ServiceError::TooManyBuckets(2))), "{again:?}");
}

#[tokio::test]
async fn a_retried_creation_gets_its_first_answer_at_the_limit() {
    let shop = Shop::new();
    let limits = Limits { buckets_per_owner: 1, ..Limits::default() };
    let service = shop.service(1, NamePolicy::PerOwner, limits);
    for attempt in 1..=2 {
        let invocation = Invocation::new("call", attempt);
        let alice = Caller { invocation, ..user("key:alice") };
        service.create_bucket(&alice, &bucket(), None).await.unwrap();
    }
}

#[tokio::test]
async fn an_owner_may_hold_so_many_names() {
    let shop = Shop::new();
    let limits = Limits { public_buckets_per_owner: 1, ..Limits::default() };
    let service = shop.service(1, NamePolicy::PerOwner, limits.clone());
    let (alice, bob) = (user("key:alice"), user("key:bob"));
    for name in ["one", "two"] {
        service.create_bucket(&alice, &bucket_name(name), None).await.unwrap();
        service.create_bucket(&bob, &bucket_name(name), None).await.unwrap();
    }
    let set = async |who: &Caller, name: &str| {
        let result = service.set_policy(who, &bucket_name(name), Some(&public(name))).await;
        let is_refused = matches!(result, Err(ServiceError::TooManyPublicBuckets(1)));
        assert!(is_refused || result.is_ok(), "{result:?}");
        !is_refused
    };
    assert!(set(&alice, "one").await);
    assert!(!set(&alice, "two").await);
    // Another policy for the bucket that holds its name is allowed, and one that makes nothing public.
    assert!(set(&alice, "one").await);
    service.set_policy(&alice, &bucket_name("two"), Some(PRIVATE)).await.unwrap();
    assert!(set(&bob, "two").await);
    service.set_policy(&alice, &bucket_name("one"), None).await.unwrap();
    service.set_policy(&bob, &bucket_name("two"), None).await.unwrap();
    assert!(set(&alice, "two").await);
    assert_eq!(shop.holder("two").await, Some(owner(&alice)));
    // Under the global policy every bucket holds its name.
    let service = shop.service(2, NamePolicy::Global, limits);
    for name in ["four", "five"] {
        service.create_bucket(&alice, &bucket_name(name), None).await.unwrap();
        service.set_policy(&alice, &bucket_name(name), Some(&public(name))).await.unwrap();
    }
}
