//! Tests of what bucket names mean, which buckets hold their global name, and the limits of an owner.

mod limits;

use std::sync::atomic::Ordering;

use fula_core::{
    BucketName, OwnerId,
    bucket::TextMap,
    in_memory::{MemoryBlocks, MemoryMetadata},
    root::RootRow,
};
use fula_service::{
    BatchAction, BatchChange, BucketOwner, ChangesRequest, CopyPartRequest, CopyRequest,
    CopySourceRequest, CreateUploadRequest, Invocation, ListRequest, Settled, SnapshotRequest,
};

use super::*;
use crate::{
    faults::Fault,
    regression::{Federation, memory},
};

/// Stores that masters of either policy share, with their metadata store.
pub(crate) struct Shop {
    blocks: Arc<MemoryBlocks>,
    pub(crate) roots: Arc<FaultyRoots>,
    pub(crate) metadata: Arc<MemoryMetadata>,
}

impl Shop {
    pub(crate) fn new() -> Self {
        let blocks = Arc::new(MemoryBlocks::default());
        let roots = FaultyRoots::new(&blocks);
        Self { blocks, roots, metadata: Arc::default() }
    }

    /// Returns a master with the writer id `writer`.
    fn service(&self, writer: u8, names: NamePolicy, limits: Limits) -> Service {
        let (blocks, roots) = (Arc::clone(&self.blocks) as _, Arc::clone(&self.roots) as _);
        let nodes = Arc::new(Nodes::new(blocks, limits.cache_bytes));
        let guard = RollbackGuard::new(None, true);
        let arbiter = Arbiter::new(nodes, roots, WriterId([writer; 16]), &limits, guard);
        Service::new(arbiter, limits, system_random(), names)
    }

    pub(crate) fn owners(&self, writer: u8) -> Service {
        self.service(writer, NamePolicy::PerOwner, Limits::default())
    }

    pub(crate) fn global(&self, writer: u8) -> Service {
        self.service(writer, NamePolicy::Global, Limits::default())
    }

    pub(crate) async fn holder(&self, bucket: &str) -> Option<OwnerId> {
        let found = self.roots.find_bucket(&BucketName::parse(bucket).unwrap()).await.unwrap();
        found.value.map(|row| row.address.owner)
    }

    pub(crate) async fn row(&self, who: &Caller, bucket: &str) -> RootRow {
        let name = fula_core::BucketAddress::new(owner(who), BucketName::parse(bucket).unwrap());
        self.roots.get_roots(&[name]).await.unwrap().value.pop().unwrap().unwrap()
    }

    pub(crate) async fn settle(&self, service: &Service) -> Option<Settled> {
        service.settle_names_once(self.metadata.as_ref()).await.unwrap()
    }
}

pub(crate) fn user(name: &str) -> Caller {
    Caller::of(Identity::of_user(name))
}

pub(crate) fn owner(who: &Caller) -> OwnerId {
    who.identity.as_ref().unwrap().owner
}

/// Returns the same caller in a request that names the owner of the bucket.
fn of(who: &Caller, owner: OwnerId) -> Caller {
    Caller { bucket_owner: BucketOwner::Named(owner), ..who.clone() }
}

/// Returns a policy that lets everyone read and list a bucket.
pub(crate) fn public(bucket: &str) -> String {
    format!(
        r#"{{"Version": "2012-10-17", "Statement": [
            {{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
              "Resource": "arn:aws:s3:::{bucket}/*"}},
            {{"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket",
              "Resource": "arn:aws:s3:::{bucket}"}}]}}"#
    )
}

/// A policy that lets in one user alone.
pub(crate) const PRIVATE: &str = r#"{"Version": "2012-10-17", "Statement": {"Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam:::user/key:friend"}, "Action": "s3:GetObject", "Resource": "*"}}"#;

async fn put(service: &Service, who: &Caller, body: &'static str) -> Result<(), ServiceError> {
    put_key(service, who, "k", body).await
}

async fn put_key(
    service: &Service,
    who: &Caller,
    key: &str,
    body: &'static str,
) -> Result<(), ServiceError> {
    let request = PutRequest {
        key: object_key(key),
        facts: ObjectFacts::default(),
        conditions: WriteConditions::default(),
        body: Box::pin(futures::stream::iter([Ok(Bytes::from_static(body.as_bytes()))])),
        body_facts: body_facts(),
    };
    service.put_object(who, &bucket(), request).await.map(drop)
}

async fn get(service: &Service, who: &Caller) -> Result<Vec<u8>, ServiceError> {
    let record = service
        .get_object(who, &bucket(), &object_key("k"), &ReadConditions::default())
        .await?
        .record;
    let parts: Vec<Bytes> = service.read(who, &record, 0..record.size).await?.try_collect().await?;
    Ok(parts.concat())
}

fn source(bucket: &str, owner: BucketOwner) -> CopySourceRequest {
    let conditions = ReadConditions::default();
    CopySourceRequest {
        owner,
        bucket: bucket_name(bucket),
        key: object_key("k"),
        version: None,
        conditions,
    }
}

/// Copies `k` of a bucket into the caller's bucket `mine`, as a whole and as a part.
async fn copy(
    service: &Service,
    who: &Caller,
    owner: BucketOwner,
) -> [Result<(), ServiceError>; 2] {
    let request = CopyRequest {
        source: source(BUCKET, owner),
        key: object_key("copy"),
        replace: None,
        tags: None,
        acl: None,
        checksum: None,
        encrypt: false,
        conditions: WriteConditions::default(),
    };
    let whole = service.copy_object(who, &bucket_name("mine"), request).await.map(drop);
    let begin = CreateUploadRequest {
        key: object_key("up"),
        facts: ObjectFacts::default(),
        checksum: None,
    };
    let id = service.create_upload(who, &bucket_name("mine"), begin).await.unwrap().to_string();
    let source = source(BUCKET, owner);
    let copy = CopyPartRequest { key: object_key("up"), id, number: 1, source, range: None };
    let part = service.copy_part(who, &bucket_name("mine"), copy).await.map(drop);
    [whole, part]
}

/// Requests `BUCKET` in every possible way. Returns the outcome of each.
async fn in_every_way(
    service: &Service,
    who: &Caller,
) -> Vec<(&'static str, Result<(), ServiceError>)> {
    let delete = || DeleteKey { key: object_key("k"), conditions: WriteConditions::default() };
    let action = BatchAction::Delete;
    let conditions = WriteConditions::default();
    let change = BatchChange { key: object_key("k"), conditions, action };
    let begin =
        CreateUploadRequest { key: object_key("k"), facts: ObjectFacts::default(), checksum: None };
    let retry = Caller { invocation: Invocation::new("call", 2), ..who.clone() };
    let list = ListRequest { limit: 1, ..ListRequest::default() };
    let [whole, part] = copy(service, who, BucketOwner::Unsaid).await;
    vec![
        ("head", service.bucket(who, &bucket()).await.map(drop)),
        ("get", get(service, who).await.map(drop)),
        ("put", put(service, who, "x").await),
        ("delete", service.delete_object(who, &bucket(), delete()).await),
        ("delete many", service.delete_objects(who, &bucket(), vec![delete()]).await.map(drop)),
        ("list", service.list_objects(who, &bucket(), &list).await.map(drop)),
        ("commit", service.commit(who, &bucket(), std::slice::from_ref(&change)).await.map(drop)),
        ("commit each", service.commit_each(who, &bucket(), &[change]).await.map(drop)),
        ("snapshot", service.snapshot(who, &bucket(), SnapshotRequest::default()).await.map(drop)),
        ("changes", service.changes(who, &bucket(), ChangesRequest::default()).await.map(drop)),
        ("upload", service.create_upload(who, &bucket(), begin).await.map(drop)),
        ("copy from", whole),
        ("copy a part from", part),
        ("get policy", service.policy(who, &bucket()).await.map(drop)),
        ("set policy", service.set_policy(who, &bucket(), None).await.map(drop)),
        ("delete bucket", service.delete_bucket(who, &bucket()).await),
        ("delete bucket again", service.delete_bucket(&retry, &bucket()).await),
    ]
}

/// Makes a public bucket of Alice's, and a bucket `mine` of Bob's.
async fn alice_is_public(service: &Service) -> (Caller, Caller) {
    let (alice, bob) = (user("key:alice"), user("key:bob"));
    service.create_bucket(&alice, &bucket(), None).await.unwrap();
    put(service, &alice, "of alice").await.unwrap();
    service.set_policy(&alice, &bucket(), Some(&public(BUCKET))).await.unwrap();
    service.create_bucket(&bob, &bucket_name("mine"), None).await.unwrap();
    (alice, bob)
}

#[tokio::test]
async fn a_signed_request_without_an_owner_reaches_the_callers_own_buckets_alone() {
    let shop = Shop::new();
    let service = shop.owners(1);
    let (alice, bob) = alice_is_public(&service).await;
    assert_eq!(shop.holder(BUCKET).await, Some(owner(&alice)));
    let expect_none = async |when: &str| {
        for (what, result) in in_every_way(&service, &bob).await {
            assert!(
                matches!(result, Err(ServiceError::NoSuchBucket)),
                "{when}: {what}: {result:?}"
            );
        }
    };
    expect_none("bob never had one").await;
    service.create_bucket(&bob, &bucket(), None).await.unwrap();
    put(&service, &bob, "of bob").await.unwrap();
    assert_eq!(get(&service, &bob).await.unwrap(), b"of bob");
    for copied in copy(&service, &bob, BucketOwner::Unsaid).await {
        copied.unwrap();
    }
    let key = DeleteKey { key: object_key("k"), conditions: WriteConditions::default() };
    service.delete_object(&bob, &bucket(), key).await.unwrap();
    service.delete_bucket(&bob, &bucket()).await.unwrap();
    expect_none("bob deleted his own").await;
    // Another master has never seen Bob's bucket.
    let service = shop.owners(2);
    assert!(matches!(get(&service, &bob).await, Err(ServiceError::NoSuchBucket)));
    // Alice's bucket is unchanged, and a request that names her reaches it.
    assert_eq!(get(&service, &of(&bob, owner(&alice))).await.unwrap(), b"of alice");
    for copied in copy(&service, &bob, BucketOwner::Named(owner(&alice))).await {
        copied.unwrap();
    }
    assert!(matches!(
        put(&service, &of(&bob, owner(&alice)), "x").await,
        Err(ServiceError::AccessDenied)
    ));
}

#[tokio::test]
async fn with_global_names_a_bare_name_reaches_its_holder() {
    let shop = Shop::new();
    let service = shop.global(1);
    let (alice, bob) = alice_is_public(&service).await;
    assert_eq!(get(&service, &bob).await.unwrap(), b"of alice");
    for copied in copy(&service, &bob, BucketOwner::Unsaid).await {
        copied.unwrap();
    }
    let taken = service.create_bucket(&bob, &bucket(), None).await;
    assert!(matches!(taken, Err(ServiceError::BucketNameTaken)), "{taken:?}");
    // The name is kept until the bucket is deleted, whatever is public.
    service.set_policy(&alice, &bucket(), None).await.unwrap();
    assert_eq!(shop.holder(BUCKET).await, Some(owner(&alice)));
    assert!(matches!(get(&service, &bob).await, Err(ServiceError::NoSuchBucket)));
    let key = DeleteKey { key: object_key("k"), conditions: WriteConditions::default() };
    service.delete_object(&alice, &bucket(), key).await.unwrap();
    service.delete_bucket(&alice, &bucket()).await.unwrap();
    service.create_bucket(&bob, &bucket(), None).await.unwrap();
    assert_eq!(shop.holder(BUCKET).await, Some(owner(&bob)));
}

#[tokio::test]
async fn a_bucket_holds_its_name_while_something_of_it_is_public() {
    let shop = Shop::new();
    let service = shop.owners(1);
    let (alice, bob, anyone) = (user("key:alice"), user("key:bob"), Caller::default());
    let read = async || get(&service, &anyone).await.map_err(|error| error.to_string());
    let set = async |who: &Caller, policy: Option<&str>| {
        service.set_policy(who, &bucket(), policy).await.unwrap();
    };
    let all = public(BUCKET);
    for (who, body) in [(&alice, "of alice"), (&bob, "of bob")] {
        service.create_bucket(who, &bucket(), None).await.unwrap();
        put(&service, who, body).await.unwrap();
    }
    assert_eq!(shop.holder(BUCKET).await, None, "a private bucket holds its name");
    assert_eq!(read().await, Err(ServiceError::AccessDenied.to_string()));
    set(&bob, Some(&all)).await;
    assert_eq!(read().await.unwrap(), b"of bob");
    // Another owner holds the name. The policy has effect all the same.
    set(&alice, Some(&all)).await;
    assert_eq!(read().await.unwrap(), b"of bob");
    assert_eq!(get(&service, &of(&anyone, owner(&alice))).await.unwrap(), b"of alice");
    // Writes leave the name alone. A policy that makes nothing public releases it.
    put(&service, &bob, "newer").await.unwrap();
    assert_eq!(shop.holder(BUCKET).await, Some(owner(&bob)));
    set(&bob, Some(PRIVATE)).await;
    assert_eq!(shop.holder(BUCKET).await, None);
    set(&alice, Some(&all)).await;
    assert_eq!(read().await.unwrap(), b"of alice");
    set(&alice, None).await;
    assert_eq!(shop.holder(BUCKET).await, None);
    set(&bob, Some(&all)).await;
    let key = DeleteKey { key: object_key("k"), conditions: WriteConditions::default() };
    service.delete_object(&bob, &bucket(), key).await.unwrap();
    service.delete_bucket(&bob, &bucket()).await.unwrap();
    assert_eq!(shop.holder(BUCKET).await, None, "a deleted bucket holds its name");
}

type Change<'a> = futures::future::BoxFuture<'a, Result<(), ServiceError>>;

/// Queues changes behind one whose swap is held, so that they share the next round.
async fn in_one_round(shop: &Shop, service: &Service, who: &Caller, mut changes: Vec<Change<'_>>) {
    let before = shop.roots.swaps.load(Ordering::SeqCst);
    shop.roots.plan([Fault::Held]);
    let first = put_key(service, who, "first", "1");
    let then = async {
        shop.roots.held.notified().await;
        for change in &mut changes {
            // Each change is queued before the next one is requested.
            for _ in 0..100 {
                assert!(futures::poll!(&mut *change).is_pending());
                tokio::task::yield_now().await;
            }
        }
        shop.roots.go_on.notify_one();
        futures::future::join_all(changes).await
    };
    let (first, then) = tokio::join!(first, then);
    first.unwrap();
    for result in then {
        result.unwrap();
    }
    assert_eq!(shop.roots.swaps.load(Ordering::SeqCst), before + 2, "it was not one round");
}

#[tokio::test]
async fn of_a_round_the_last_that_says_anything_of_the_name_counts() {
    let shop = Shop::new();
    let service = shop.owners(1);
    let (alice, bucket, all) = (user("key:alice"), bucket(), public(BUCKET));
    let set = |policy| -> Change<'_> {
        let (service, alice, bucket) = (&service, &alice, &bucket);
        Box::pin(async move { service.set_policy(alice, bucket, policy).await.map(drop) })
    };
    // A write of an object would be allowed again after a change of the policy, in a round of its own.
    let other = |key: &str| -> Change<'_> {
        let (service, alice, bucket) = (&service, &alice, &bucket);
        let tags = TextMap::from([(key.to_owned(), String::new())]);
        Box::pin(async move { service.tag_bucket(alice, bucket, &tags).await })
    };
    service.create_bucket(&alice, &bucket, None).await.unwrap();
    in_one_round(&shop, &service, &alice, vec![set(None), set(Some(&all)), other("a")]).await;
    assert_eq!(shop.holder(BUCKET).await, Some(owner(&alice)));
    let changes = vec![set(Some(&all)), other("b"), set(Some(PRIVATE)), other("c")];
    in_one_round(&shop, &service, &alice, changes).await;
    assert_eq!(shop.holder(BUCKET).await, None);
}

#[tokio::test]
async fn a_name_goes_with_a_bucket_that_is_made_again_in_the_same_round() {
    let shop = Shop::new();
    let service = shop.owners(1);
    let (alice, bucket, all) = (user("key:alice"), bucket(), public(BUCKET));
    service.create_bucket(&alice, &bucket, None).await.unwrap();
    service.set_policy(&alice, &bucket, Some(&all)).await.unwrap();
    let key = DeleteKey { key: object_key("first"), conditions: WriteConditions::default() };
    let changes: Vec<Change<'_>> = vec![
        Box::pin(service.delete_object(&alice, &bucket, key)),
        Box::pin(service.delete_bucket(&alice, &bucket)),
        Box::pin(service.create_bucket(&alice, &bucket, None)),
    ];
    in_one_round(&shop, &service, &alice, changes).await;
    assert!(service.policy(&alice, &bucket).await.is_err());
    assert_eq!(shop.holder(BUCKET).await, None, "the new bucket has nothing public");
}

#[tokio::test]
async fn a_policy_that_lost_its_swap_still_claims_the_name() {
    let shop = Shop::new();
    let (one, two) = (shop.owners(1), shop.owners(2));
    let (alice, bucket, all) = (user("key:alice"), bucket(), public(BUCKET));
    one.create_bucket(&alice, &bucket, None).await.unwrap();
    shop.roots.plan([Fault::Held]);
    let set = one.set_policy(&alice, &bucket, Some(&all));
    let write = async {
        shop.roots.held.notified().await;
        put(&two, &alice, "between").await.unwrap();
        shop.roots.go_on.notify_one();
    };
    tokio::join!(set, write).0.unwrap();
    assert!(shop.roots.conflicts.load(Ordering::SeqCst) > 0, "it did not lose");
    assert_eq!(get(&two, &Caller::default()).await.unwrap(), b"between");
}

#[tokio::test]
async fn a_healed_bucket_holds_its_name_only_while_it_is_public() {
    for is_public in [false, true] {
        let federation = Federation::new();
        let one = federation.join(1, &memory()).await;
        one.master.create().await;
        let (service, user) = (&one.master.service, &one.master.user);
        service.set_policy(user, &bucket(), Some(&public(BUCKET))).await.unwrap();
        let backup = federation.roots.backup();
        let policy = public(BUCKET);
        let policy = if is_public { policy.as_str() } else { PRIVATE };
        service.set_policy(user, &bucket(), Some(policy)).await.unwrap();
        // The arbiter goes back to when the bucket was public.
        federation.roots.restore(backup);
        assert!(one.master.get("k").await.is_err());
        for _ in 0..3 {
            one.recovery.tick().await.unwrap();
        }
        assert!(matches!(one.master.get("k").await, Err(ServiceError::NoSuchKey)));
        let name = bucket();
        let holder = federation.roots.find_bucket(&name).await.unwrap().value;
        assert_eq!(holder.is_some(), is_public);
    }
}

#[tokio::test]
async fn a_bucket_with_rules_for_other_origins_holds_its_name() {
    let shop = Shop::new();
    let (service, who) = (shop.owners(1), user("key:one"));
    let name = BucketName::parse("bucket").unwrap();
    service.create_bucket(&who, &name, None).await.unwrap();
    let anonymous = Caller::default();
    let found = service.cors_of_anyone(&anonymous, &name).await;
    assert!(matches!(found, Err(ServiceError::NoSuchBucket)), "{found:?}");
    service.set_cors(&who, &name, Some("[]")).await.unwrap();
    assert_eq!(shop.holder("bucket").await, Some(owner(&who)));
    let found = service.cors_of_anyone(&anonymous, &name).await.unwrap();
    assert_eq!(found.as_deref(), Some("[]"));
    // Removing a policy, and settling the names, leave it its name.
    service.set_policy(&who, &name, None).await.unwrap();
    shop.settle(&service).await;
    assert_eq!(shop.holder("bucket").await, Some(owner(&who)));
    service.set_cors(&who, &name, None).await.unwrap();
    assert_eq!(shop.holder("bucket").await, None);
}
