//! Tests of retries: a retry gets the first answer from any master, and changes nothing again.

use fula_core::in_memory::MemoryBlocks;
use fula_service::{
    BucketOwner, CompletePart, CompleteRequest, ConditionName, CopyRequest, CopySourceRequest,
    CreateUploadRequest, Invocation, PutPartRequest,
};

use super::*;

/// Returns two masters on one arbiter, and a bucket.
async fn two_masters() -> (Arc<FaultyRoots>, [Master; 2]) {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    (roots, masters)
}

/// Returns the caller of one attempt of a numbered call.
fn attempt(master: &Master, id: &str, attempt: u32) -> Caller {
    Caller { invocation: Invocation::new(id, attempt), ..Caller::of(identity(master)) }
}

fn identity(master: &Master) -> Identity {
    master.user.identity.clone().unwrap()
}

async fn put(
    master: &Master,
    caller: &Caller,
    body: &'static [u8],
    conditions: WriteConditions,
) -> Result<ObjectRecord, ServiceError> {
    let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from_static(body))]));
    master.put_as(caller, "k", body, conditions).await
}

async fn delete(master: &Master, caller: &Caller) -> Result<(), ServiceError> {
    let request = DeleteKey { key: object_key("k"), conditions: WriteConditions::default() };
    master.service.delete_object(caller, &bucket(), request).await
}

async fn root(master: &Master) -> fula_core::bucket::BucketRoot {
    let address = master.address();
    master.service.arbiter().current(&address).await.unwrap().unwrap().root.clone()
}

#[tokio::test]
async fn a_retried_conditional_put_gets_its_first_answer_from_another_master() {
    let (_, [one, two]) = two_masters().await;
    let first = put(&one, &attempt(&one, "i", 1), b"x", if_absent()).await.unwrap();
    let caller = attempt(&two, "i", 2);
    let again = put(&two, &caller, b"x", if_absent()).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(caller.seen.version(), Some(first.seq.version));
    assert_eq!(two.version().await, first.seq.version, "the retry was committed again");
    // Another call, or another body with the same number, is another write.
    for (id, body) in [("j", b"x".as_slice()), ("i", b"y")] {
        let other = put(&two, &attempt(&two, id, 2), body, if_absent()).await;
        let refused = ServiceError::PreconditionFailed(ConditionName::IfNoneMatch);
        assert_eq!(other.unwrap_err().to_string(), refused.to_string());
    }
}

#[tokio::test]
async fn a_retry_does_not_undo_what_came_after_its_first_attempt() {
    let (_, [one, two]) = two_masters().await;
    let none = WriteConditions::default;
    let first = put(&one, &attempt(&one, "i", 1), b"first", none()).await.unwrap();
    put(&two, &attempt(&two, "j", 1), b"second", none()).await.unwrap();
    let again = put(&two, &attempt(&two, "i", 2), b"first", none()).await.unwrap();
    assert_eq!((again.etag, again.seq), (first.etag, first.seq));
    assert_eq!(again.content, first.content);
    assert_eq!(one.get("k").await.unwrap(), b"second");
    // The retry of a delete changes nothing either.
    delete(&one, &attempt(&one, "d", 1)).await.unwrap();
    put(&two, &attempt(&two, "l", 1), b"third", none()).await.unwrap();
    delete(&two, &attempt(&two, "d", 2)).await.unwrap();
    assert_eq!(one.get("k").await.unwrap(), b"third");
    // The outcome of a write is known too after a delete has removed its object.
    delete(&one, &attempt(&one, "e", 1)).await.unwrap();
    put(&two, &attempt(&two, "l", 2), b"third", none()).await.unwrap();
    assert!(matches!(one.get("k").await, Err(ServiceError::NoSuchKey)));
}

#[tokio::test]
async fn a_refusal_given_to_a_retry_binds_the_first_attempt() {
    let (_, [one, two]) = two_masters().await;
    two.put("k", b"there").await.unwrap();
    let refused = put(&two, &attempt(&two, "i", 2), b"x", if_absent()).await;
    assert!(matches!(refused, Err(ServiceError::PreconditionFailed(_))), "{refused:?}");
    two.delete("k").await.unwrap();
    // The first attempt was delayed and arrives now.
    let late = put(&one, &attempt(&one, "i", 1), b"x", if_absent()).await;
    assert!(matches!(late, Err(ServiceError::PreconditionFailed(_))), "{late:?}");
    assert!(matches!(one.get("k").await, Err(ServiceError::NoSuchKey)));
    // The same holds for a delete that found nothing.
    delete(&two, &attempt(&two, "d", 2)).await.unwrap();
    two.put("k", b"new").await.unwrap();
    delete(&one, &attempt(&one, "d", 1)).await.unwrap();
    assert_eq!(one.get("k").await.unwrap(), b"new");
}

#[tokio::test]
async fn retries_about_buckets_and_uploads_get_their_first_answer() {
    let (_, [one, two]) = two_masters().await;
    let begin = async |master: &Master, caller: &Caller| {
        let facts = ObjectFacts::default();
        let create = CreateUploadRequest { key: object_key("up"), facts, checksum: None };
        master.service.create_upload(caller, &bucket(), create).await.unwrap()
    };
    let id = begin(&one, &attempt(&one, "u", 1)).await;
    assert_eq!(begin(&two, &attempt(&two, "u", 2)).await, id);
    let id = id.to_string();
    for (master, n) in [(&one, 1), (&two, 2)] {
        let caller = attempt(master, "a", n);
        master.service.abort_upload(&caller, &bucket(), &object_key("up"), &id).await.unwrap();
    }
    one.service.delete_bucket(&attempt(&one, "db", 1), &bucket()).await.unwrap();
    two.service.delete_bucket(&attempt(&two, "db", 2), &bucket()).await.unwrap();
    let gone = two.service.delete_bucket(&attempt(&two, "dc", 2), &bucket()).await;
    assert!(matches!(gone, Err(ServiceError::NoSuchBucket)));
    one.service.create_bucket(&attempt(&one, "cb", 1), &bucket(), None).await.unwrap();
    two.service.create_bucket(&attempt(&two, "cb", 2), &bucket(), None).await.unwrap();
    let taken = two.service.create_bucket(&attempt(&two, "cc", 2), &bucket(), None).await;
    assert!(matches!(taken, Err(ServiceError::BucketAlreadyOwned)));
    // The deletion of the former life is not one of this life.
    one.service.delete_bucket(&attempt(&one, "db", 2), &bucket()).await.unwrap();
}

#[tokio::test]
async fn answers_are_kept_for_their_time_and_then_forgotten() {
    let (roots, [one, _]) = two_masters().await;
    roots.set_time(1_000_000);
    let none = WriteConditions::default;
    for n in 0..200 {
        put(&one, &attempt(&one, &format!("i{n}"), 1), b"x", none()).await.unwrap();
    }
    assert_eq!(root(&one).await.recent.count, 199);
    roots.set_time(1_000_000 + 15 * 60 * 1000);
    let again = put(&one, &attempt(&one, "i7", 2), b"x", none()).await.unwrap();
    assert_eq!(again.time, 1_000_000);
    roots.set_time(1_000_000 + 30 * 60 * 1000);
    for n in 0..300 {
        put(&one, &attempt(&one, &format!("j{n}"), 1), b"x", none()).await.unwrap();
    }
    let kept = root(&one).await.recent.count;
    assert!(kept <= 300, "{kept} remembered outcomes, of which 299 are recent");
}

#[tokio::test]
async fn a_write_can_be_bound_to_a_version_of_the_bucket() {
    let (_, [one, two]) = two_masters().await;
    one.put("a", b"1").await.unwrap();
    let bound = |version| Caller { if_version: Some(version), ..Caller::of(identity(&one)) };
    let none = WriteConditions::default;
    let version = one.version().await;
    two.put("b", b"2").await.unwrap();
    let refused = put(&one, &bound(version), b"x", none()).await;
    let expected = ServiceError::PreconditionFailed(ConditionName::BucketVersion);
    assert_eq!(refused.unwrap_err().to_string(), expected.to_string());
    let version = one.version().await;
    let callers: Vec<Caller> = (0..8).map(|_| bound(version)).collect();
    let puts = callers.iter().map(|caller| put(&one, caller, b"x", none()));
    let done = futures::future::join_all(puts).await.iter().filter(|put| put.is_ok()).count();
    assert_eq!(done, 1);
    // They do not share a round with writes that are not bound to a version.
    let version = one.version().await;
    let callers: Vec<Caller> = (0..8).map(|_| bound(version)).collect();
    let puts = callers.iter().map(|caller| put(&one, caller, b"x", none()));
    let others = (0..8).map(|n| {
        let key = format!("other{n}");
        let one = &one;
        async move { one.put(&key, b"o").await }
    });
    let (bound, others) =
        tokio::join!(futures::future::join_all(puts), futures::future::join_all(others));
    assert!(bound.iter().filter(|put| put.is_ok()).count() <= 1, "{bound:?}");
    assert!(others.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_retried_copy_gets_its_first_answer_though_the_source_is_gone() {
    let (_, [one, two]) = two_masters().await;
    one.service.create_bucket(&one.user, &bucket_name("source"), None).await.unwrap();
    let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"x"))]));
    let (facts, conditions) = (ObjectFacts::default(), WriteConditions::default());
    let source =
        PutRequest { key: object_key("s"), facts, conditions, body, body_facts: body_facts() };
    one.service.put_object(&one.user, &bucket_name("source"), source).await.unwrap();
    let copy = async |master: &Master, caller: &Caller| {
        let source = CopySourceRequest {
            owner: BucketOwner::default(),
            bucket: bucket_name("source"),
            key: object_key("s"),
            version: None,
            conditions: ReadConditions::default(),
        };
        let conditions = WriteConditions::default();
        let request = CopyRequest {
            source,
            key: object_key("k"),
            replace: None,
            tags: None,
            acl: None,
            checksum: None,
            encrypt: false,
            conditions,
        };
        master.service.copy_object(caller, &bucket(), request).await
    };
    let first = copy(&one, &attempt(&one, "c", 1)).await.unwrap();
    let gone = DeleteKey { key: object_key("s"), conditions: WriteConditions::default() };
    two.service.delete_object(&two.user, &bucket_name("source"), gone).await.unwrap();
    assert_eq!(copy(&two, &attempt(&two, "c", 2)).await.unwrap(), first);
    two.service.delete_bucket(&two.user, &bucket_name("source")).await.unwrap();
    assert_eq!(copy(&two, &attempt(&two, "c", 3)).await.unwrap(), first);
    // A call that was never carried out is refused for good.
    let refused = copy(&two, &attempt(&two, "d", 2)).await;
    assert!(matches!(refused, Err(ServiceError::NoSuchBucket)), "{refused:?}");
    let refused = copy(&two, &attempt(&two, "d", 1)).await;
    assert!(matches!(refused, Err(ServiceError::NoSuchBucket)), "{refused:?}");
}

/// Begins an upload of `k` with one part. Returns its id, and a request that completes it.
async fn upload(master: &Master) -> (String, CompleteRequest) {
    let facts = ObjectFacts::default();
    let create = CreateUploadRequest { key: object_key("k"), facts, checksum: None };
    let id =
        master.service.create_upload(&master.user, &bucket(), create).await.unwrap().to_string();
    let etag = put_part(master, &master.user, &id).await.unwrap();
    let part = CompletePart { number: 1, etag, checksum: None };
    let request = CompleteRequest {
        key: object_key("k"),
        id: id.clone(),
        parts: vec![part],
        conditions: if_absent(),
        checksum: None,
        size: None,
    };
    (id, request)
}

async fn put_part(master: &Master, caller: &Caller, id: &str) -> Result<String, ServiceError> {
    let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"part"))]));
    let (key, id, body_facts) = (object_key("k"), id.to_owned(), body_facts());
    let put = PutPartRequest { key, id, number: 1, body, body_facts };
    let taken = master.service.put_part(caller, &bucket(), put).await?;
    Ok(taken.etag().to_string())
}

#[tokio::test]
async fn a_refused_completion_stays_refused() {
    let (_, [one, two]) = two_masters().await;
    let (_, request) = upload(&one).await;
    two.put("k", b"there").await.unwrap();
    let complete = async |master: &Master, n| {
        let caller = attempt(master, "i", n);
        master.service.complete_upload(&caller, &bucket(), &request).await
    };
    assert!(matches!(complete(&two, 2).await, Err(ServiceError::PreconditionFailed(_))));
    two.delete("k").await.unwrap();
    // The first attempt was delayed and arrives now.
    assert!(matches!(complete(&one, 1).await, Err(ServiceError::PreconditionFailed(_))));
    // Another call may complete the upload, and its retry gets the same answer.
    let caller = attempt(&one, "j", 1);
    let done = one.service.complete_upload(&caller, &bucket(), &request).await.unwrap();
    let caller = attempt(&two, "j", 2);
    assert_eq!(two.service.complete_upload(&caller, &bucket(), &request).await.unwrap(), done);
}

#[tokio::test]
async fn a_retried_part_that_is_bound_to_a_version_gets_its_first_answer() {
    let (_, [one, two]) = two_masters().await;
    let (id, _) = upload(&one).await;
    let version = one.version().await;
    let bound =
        |master: &Master, n| Caller { if_version: Some(version), ..attempt(master, "p", n) };
    let first = put_part(&one, &bound(&one, 1), &id).await.unwrap();
    assert!(one.version().await > version);
    assert_eq!(put_part(&two, &bound(&two, 2), &id).await.unwrap(), first);
}

#[tokio::test]
async fn tags_hold_on_every_master_and_a_retry_sets_them_once() {
    let (_, [one, two]) = two_masters().await;
    let map = |value: &str| [("a".to_owned(), value.to_owned())].into();
    let tag = async |master: &Master, id, number, value| {
        let (caller, key) = (attempt(master, id, number), object_key("k"));
        master.service.tag_object(&caller, &bucket(), key, None, map(value)).await
    };
    let refused = tag(&one, "early", 2, "0").await;
    assert!(matches!(refused, Err(ServiceError::NoSuchKey)), "{refused:?}");
    let first = put(&one, &attempt(&one, "p", 1), b"x", if_absent()).await.unwrap();
    tag(&one, "i", 1, "1").await.unwrap();
    tag(&two, "j", 1, "2").await.unwrap();
    tag(&two, "i", 2, "1").await.unwrap();
    for master in [&one, &two] {
        let (name, key) = (bucket(), object_key("k"));
        let tags = fula_service::access::Property::Tags;
        let found = master.service.object_properties(&master.user, &name, &key, None, tags).await;
        let (_, found) = found.unwrap();
        assert_eq!(found.tags, map("2"));
        assert_eq!((found.record.time, found.record.seq), (first.time, first.seq));
    }
    // The object still remembers who put it, and the refused call stays refused.
    let again = put(&two, &attempt(&two, "p", 2), b"x", if_absent()).await.unwrap();
    assert_eq!(again.seq, first.seq);
    let refused = tag(&one, "early", 1, "0").await;
    assert!(matches!(refused, Err(ServiceError::NoSuchKey)), "{refused:?}");
    let settings = async |master: &Master, id, number, value| {
        let caller = attempt(master, id, number);
        master.service.tag_bucket(&caller, &bucket(), &map(value)).await.unwrap();
    };
    settings(&one, "s", 1, "1").await;
    settings(&two, "t", 1, "2").await;
    settings(&two, "s", 2, "1").await;
    assert_eq!(one.service.bucket_tags(&one.user, &bucket()).await.unwrap(), map("2"));
}
