//! Tests of settings that change at the same moment, and of what copies, renames and tags may show.

use fula_core::{
    bucket::{TextMap, VersionId, Versioning},
    in_memory::MemoryBlocks,
};
use fula_identity::Grant;
use fula_service::{
    BucketOwner, CopyRequest, CopySourceRequest, Invocation, PublicAccessBlock, RenameRequest,
};

use super::{
    names::{Shop, owner, public, user},
    slow::{World, caller, whole},
    *,
};

/// Does both while a swap waits, so that they are one round, in this order.
async fn in_one_round<A, B>(
    world: &World,
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    world.roots.swaps.close();
    let pause = async |turns: usize| {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    let work = async {
        world.roots.swaps.waited_at().await;
        let second = async {
            pause(100).await;
            second.await
        };
        let open = async {
            pause(300).await;
            world.roots.swaps.open();
        };
        let (first, second, ()) = tokio::join!(first, second, open);
        (first, second)
    };
    let (before, done) = tokio::join!(world.put(BUCKET, "before", whole(vec![3; 100])), work);
    before.unwrap();
    done
}

async fn holds_name(world: &World) -> bool {
    let found = world.roots.inner.find_bucket(&bucket()).await.unwrap().value;
    found.is_some_and(|row| row.address.owner == owner(&caller()))
}

/// A setting that says nothing against it does not take away the global name that a policy of the same round
/// claims.
#[tokio::test]
async fn settings_of_one_round_decide_together_about_the_global_name() {
    let world = World::new(None, None).await;
    let (user, policy, name) = (caller(), public(BUCKET), bucket());
    let (made_public, no_cors) = Box::pin(in_one_round(
        &world,
        world.service.set_policy(&user, &name, Some(&policy)),
        world.service.set_cors(&user, &name, None),
    ))
    .await;
    made_public.unwrap();
    no_cors.unwrap();
    assert!(holds_name(&world).await);
    let (restricted, again) = Box::pin(in_one_round(
        &world,
        world.service.set_public_access(
            &user,
            &name,
            Some(PublicAccessBlock { restrict_buckets: true, ..PublicAccessBlock::default() }),
        ),
        world.service.set_policy(&user, &name, Some(&policy)),
    ))
    .await;
    restricted.unwrap();
    again.unwrap();
    assert!(!holds_name(&world).await);
}

#[tokio::test]
async fn a_policy_does_not_pass_a_public_access_block_of_the_same_round() {
    let world = World::new(None, None).await;
    let (user, policy, name) = (caller(), public(BUCKET), bucket());
    let block = PublicAccessBlock { block_policy: true, ..PublicAccessBlock::default() };
    let (blocked, put) = Box::pin(in_one_round(
        &world,
        world.service.set_public_access(&user, &name, Some(block)),
        world.service.set_policy(&user, &name, Some(&policy)),
    ))
    .await;
    blocked.unwrap();
    assert!(matches!(put, Err(ServiceError::PublicPolicyBlocked)), "{put:?}");
    assert!(matches!(world.service.policy(&user, &name).await, Err(ServiceError::NoSuchPolicy)));
}

/// Tags are answered with the version that they were put on, also if it was made after they were asked for.
#[tokio::test]
async fn tags_name_the_version_that_has_them() {
    let world = World::new(None, None).await;
    let (user, name) = (caller(), bucket());
    world.service.set_versioning(&user, &name, Versioning::Enabled).await.unwrap();
    world.put(BUCKET, "k", whole(vec![1; 10])).await.unwrap();
    let (put, tagged) = Box::pin(in_one_round(
        &world,
        world.put(BUCKET, "k", whole(vec![2; 10])),
        world.service.tag_object(&user, &name, object_key("k"), None, TextMap::new()),
    ))
    .await;
    put.unwrap();
    let none = ReadConditions::default();
    let found = world.service.get_object(&user, &name, &object_key("k"), &none).await.unwrap();
    assert_eq!(tagged.unwrap(), found.version);
}

/// Returns two masters on one arbiter, and a bucket.
async fn two_masters() -> [Master; 2] {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    masters
}

fn copy_of(owner: BucketOwner, version: Option<VersionId>) -> CopyRequest {
    let source = CopySourceRequest {
        owner,
        bucket: bucket(),
        key: object_key("k"),
        version,
        conditions: ReadConditions::default(),
    };
    CopyRequest {
        source,
        key: object_key("copy"),
        replace: None,
        tags: None,
        acl: None,
        checksum: None,
        encrypt: false,
        conditions: WriteConditions::default(),
    }
}

#[tokio::test]
async fn a_version_that_a_retry_did_not_find_stays_missing_for_the_first_attempt() {
    let [one, two] = two_masters().await;
    one.service.set_versioning(&one.user, &bucket(), Versioning::Enabled).await.unwrap();
    one.put("k", b"1").await.unwrap();
    let attempt = |id: &str, n| Caller { invocation: Invocation::new(id, n), ..one.user.clone() };
    let copy = async |master: &Master, caller: Caller| {
        let request = copy_of(BucketOwner::Unsaid, Some(VersionId::Null));
        master.service.copy_object(&caller, &bucket(), request).await
    };
    let tag = async |master: &Master, caller: Caller| {
        let (key, version) = (object_key("k"), Some(VersionId::Null));
        master.service.tag_object(&caller, &bucket(), key, version, TextMap::new()).await
    };
    let copied = copy(&two, attempt("c", 2)).await;
    assert!(matches!(copied, Err(ServiceError::NoSuchVersion)), "{copied:?}");
    let tagged = tag(&two, attempt("t", 2)).await;
    assert!(matches!(tagged, Err(ServiceError::NoSuchVersion)), "{tagged:?}");
    one.service.set_versioning(&one.user, &bucket(), Versioning::Suspended).await.unwrap();
    one.put("k", b"null").await.unwrap();
    for found in
        [copy(&one, attempt("c", 1)).await.map(drop), tag(&one, attempt("t", 1)).await.map(drop)]
    {
        assert!(matches!(found, Err(ServiceError::NoSuchVersion)), "{found:?}");
    }
    // A delete marker that was named is remembered with its id.
    one.delete("k").await.unwrap();
    for _ in 0..2 {
        let refused = tag(&two, attempt("m", 2)).await;
        let Err(ServiceError::DeleteMarker { id, is_named, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((id, is_named), (VersionId::Null, true));
    }
}

/// On a full disk a delete marker does not fit, and removing a version does.
#[tokio::test]
async fn a_delete_marker_takes_space() {
    let world = World::new(None, None).await;
    let (user, name) = (caller(), bucket());
    world.put(BUCKET, "k", whole(vec![1; 100])).await.unwrap();
    world.service.set_versioning(&user, &name, Versioning::Enabled).await.unwrap();
    *world.blocks.full.lock().unwrap() = Some(Vec::new());
    let deleted = world.delete(BUCKET, "k").await;
    assert!(matches!(deleted, Err(ServiceError::Full)), "{deleted:?}");
    let key = DeleteKey { key: object_key("k"), conditions: WriteConditions::default() };
    world.service.delete_version(&user, &name, key, Some(VersionId::Null)).await.unwrap();
}

async fn put_tagged(service: &Service, who: &Caller) {
    let tags = TextMap::from([("secret".to_owned(), "1".to_owned())]);
    let request = PutRequest {
        key: object_key("k"),
        facts: ObjectFacts { tags, ..ObjectFacts::default() },
        conditions: WriteConditions::default(),
        body: whole(vec![1; 10]),
        body_facts: body_facts(),
    };
    service.put_object(who, &bucket(), request).await.unwrap();
}

/// Who may read an object and not its tags copies it only with tags of its own.
#[tokio::test]
async fn a_copy_shows_no_tags_that_its_caller_may_not_read() {
    let service = Shop::new().owners(1);
    let (alice, bob) = (user("key:alice"), user("key:bob"));
    service.create_bucket(&alice, &bucket(), None).await.unwrap();
    put_tagged(&service, &alice).await;
    service.set_policy(&alice, &bucket(), Some(&public(BUCKET))).await.unwrap();
    service.create_bucket(&bob, &bucket_name("mine"), None).await.unwrap();
    let request = || copy_of(BucketOwner::Named(owner(&alice)), None);
    let copied = service.copy_object(&bob, &bucket_name("mine"), request()).await;
    assert!(matches!(copied, Err(ServiceError::AccessDenied)), "{copied:?}");
    let replaced = CopyRequest { tags: Some(TextMap::new()), ..request() };
    service.copy_object(&bob, &bucket_name("mine"), replaced).await.unwrap();
}

/// A rename shows the object under another key, so its caller must be allowed to read it.
#[tokio::test]
async fn a_rename_needs_the_right_to_read_the_source() {
    let service = Shop::new().owners(1);
    let alice = user("key:alice");
    service.create_bucket(&alice, &bucket(), None).await.unwrap();
    put_tagged(&service, &alice).await;
    let scoped = |scopes: &[&str]| {
        Caller::of(Identity::restricted("key:alice", Grant::parse(Some(scopes)).unwrap()))
    };
    let rename = async |who: Caller| {
        let request = RenameRequest {
            from: object_key("k"),
            to: object_key("shown/k"),
            source: ReadConditions::default(),
            conditions: WriteConditions::default(),
        };
        service.rename_object(&who, &bucket(), request).await
    };
    let refused = rename(scoped(&["write:bucket", "read:bucket/shown/"])).await;
    assert!(matches!(refused, Err(ServiceError::AccessDenied)), "{refused:?}");
    rename(scoped(&["write:bucket", "read:bucket"])).await.unwrap();
}
