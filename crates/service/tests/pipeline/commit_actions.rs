//! Tests of copies, checks and independent changes in multi-key commits.

use fula_core::in_memory::MemoryBlocks;
use fula_service::{
    BatchAction, BatchChange, BatchSource, CompletePart, ConditionName, CreateUploadRequest,
    EachResult, Invocation, PutPartRequest,
};

use super::*;

fn two() -> [Master; 2] {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)]
}

fn change(key: &str, action: BatchAction) -> BatchChange {
    BatchChange { key: object_key(key), conditions: WriteConditions::default(), action }
}

fn put(key: &str, body: &'static str) -> BatchChange {
    let body = Bytes::from_static(body.as_bytes());
    change(key, BatchAction::Put { body, facts: ObjectFacts::default() })
}

fn source(bucket: Option<&str>, key: &str) -> BatchSource {
    BatchSource {
        bucket: bucket.map(bucket_name),
        key: object_key(key),
        version: None,
        conditions: ReadConditions::default(),
    }
}

fn copy(key: &str, from: &str) -> BatchChange {
    change(key, BatchAction::Copy { source: source(None, from), replace: None })
}

fn delete(key: &str) -> BatchChange {
    change(key, BatchAction::Delete)
}

fn check(key: &str, conditions: WriteConditions) -> BatchChange {
    BatchChange { conditions, ..change(key, BatchAction::Check) }
}

fn facts(value: &str) -> ObjectFacts {
    let metadata = [("m".to_owned(), value.to_owned())].into();
    ObjectFacts { metadata, ..ObjectFacts::default() }
}

fn attempt(n: u32) -> Caller {
    let invocation = Invocation::new("commit", n);
    Caller { invocation, ..Caller::of(Identity::of_user("key:test")) }
}

fn codes(results: &[EachResult]) -> Vec<Option<String>> {
    let code = |(_, result): &EachResult| result.as_ref().err().map(ToString::to_string);
    results.iter().map(code).collect()
}

async fn metadata(master: &Master, key: &str) -> Option<String> {
    let (bucket, key, none) = (bucket(), object_key(key), ReadConditions::default());
    let object = master.service.get_object(&master.user, &bucket, &key, &none);
    object.await.unwrap().metadata.get("m").cloned()
}

#[tokio::test]
async fn copies_read_the_state_before_the_commit() {
    let [one, two] = two();
    one.create().await;
    one.put("a", b"1").await.unwrap();
    one.put("b", b"2").await.unwrap();
    let before = one.version().await;
    let swap = [copy("a", "b"), copy("b", "a")];
    let made = one.service.commit(&one.user, &bucket(), &swap).await.unwrap();
    assert_eq!(one.version().await, before + 1);
    assert_eq!(
        (two.get("a").await.unwrap(), two.get("b").await.unwrap()),
        (b"2".into(), b"1".into())
    );
    // The entity tags of the answer are those of the objects.
    let again = one.put("x", b"2").await.unwrap();
    assert_eq!(made[0].1, Some(again.etag));
    // A rename: the source is deleted in the same commit, whatever comes first.
    let replace = Some(facts("new"));
    let renamed = BatchAction::Copy { source: source(None, "a"), replace };
    let rename = [delete("a"), change("c", renamed), put("z", "3")];
    two.service.commit(&two.user, &bucket(), &rename).await.unwrap();
    assert_eq!(one.get("c").await.unwrap(), b"2");
    assert_eq!(metadata(&one, "c").await.as_deref(), Some("new"));
    assert!(matches!(one.get("a").await, Err(ServiceError::NoSuchKey)));
}

#[tokio::test]
async fn a_copy_that_cannot_be_made_undoes_the_commit() {
    let [one, _] = two();
    one.create().await;
    one.put("a", b"1").await.unwrap();
    let stranger = Caller::of(Identity::of_user("key:stranger"));
    one.service.create_bucket(&stranger, &bucket_name("theirs"), None).await.unwrap();
    let before = one.version().await;
    let foreign = BatchAction::Copy { source: source(Some("theirs"), "k"), replace: None };
    let absent = BatchAction::Copy { source: source(Some("nowhere"), "k"), replace: None };
    let mut changed = source(None, "a");
    changed.conditions.if_match = Some(Tags::Of(vec!["other".to_owned()]));
    let changed = BatchAction::Copy { source: changed, replace: None };
    for (action, expected) in [
        (foreign, "the bucket does not exist"),
        (absent, "the bucket does not exist"),
        (changed, "If-Match"),
        (BatchAction::Copy { source: source(None, "none"), replace: None }, "does not exist"),
        (BatchAction::Copy { source: source(None, "b"), replace: None }, "onto itself"),
    ] {
        one.put("b", b"2").await.unwrap();
        let changes = [put("p", "1"), change("b", action)];
        let refused = one.service.commit(&one.user, &bucket(), &changes).await.unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
        assert!(matches!(one.get("p").await, Err(ServiceError::NoSuchKey)));
    }
    assert_eq!(one.version().await, before + 5);
}

#[tokio::test]
async fn a_copy_comes_from_another_bucket_of_the_caller() {
    let [one, two] = two();
    one.create().await;
    let other = bucket_name("other");
    one.service.create_bucket(&one.user, &other, None).await.unwrap();
    one.service.commit(&one.user, &other, &[put("k", "there")]).await.unwrap();
    let action = BatchAction::Copy { source: source(Some("other"), "k"), replace: None };
    two.service.commit(&two.user, &bucket(), &[change("here", action)]).await.unwrap();
    assert_eq!(one.get("here").await.unwrap(), b"there");
}

#[tokio::test]
async fn a_check_guards_the_others_and_changes_nothing() {
    let [one, two] = two();
    one.create().await;
    let lock = one.put("lock", b"mine").await.unwrap();
    let before = one.version().await;
    let guarded = [check("lock", if_matches(&lock)), put("a", "1")];
    one.service.commit(&one.user, &bucket(), &guarded).await.unwrap();
    assert_eq!(one.version().await, before + 1);
    two.put("lock", b"theirs").await.unwrap();
    let refused = one.service.commit(&one.user, &bucket(), &guarded).await;
    let Err(ServiceError::InCommit { key, error }) = refused else { panic!("{refused:?}") };
    assert_eq!(key, "lock");
    assert!(matches!(*error, ServiceError::PreconditionFailed(ConditionName::IfMatch)));
    // Checks alone make no version. The answer holds at the newest one.
    let version = one.version().await;
    let caller = Caller::of(Identity::of_user("key:test"));
    let alone = [check("none", if_absent())];
    one.service.commit(&caller, &bucket(), &alone).await.unwrap();
    assert_eq!((one.version().await, caller.seen.version()), (version, Some(version)));
    let without =
        one.service.commit(&one.user, &bucket(), &[check("a", WriteConditions::default())]).await;
    assert!(matches!(without, Err(ServiceError::InvalidRequest(_))), "{without:?}");
}

#[tokio::test]
async fn each_change_is_carried_out_by_itself() {
    let [one, two] = two();
    one.create().await;
    one.put("there", b"x").await.unwrap();
    one.put("source", b"content").await.unwrap();
    let before = one.version().await;
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    let large = BatchAction::Put { body: large, facts: ObjectFacts::default() };
    let changes = [
        put("a", "1"),
        BatchChange { conditions: if_absent(), ..put("there", "2") },
        change("large", large),
        copy("copy", "source"),
        copy("never", "none"),
        check("source", if_absent()),
        delete("old"),
    ];
    let first = one.service.commit_each(&attempt(1), &bucket(), &changes).await.unwrap();
    let refusals = [
        None,
        Some("the condition If-None-Match does not hold"),
        Some("the request is larger than 1048576 bytes"),
        None,
        Some("the object does not exist"),
        Some("the condition If-None-Match does not hold"),
        None,
    ];
    assert_eq!(codes(&first), refusals.map(|text| text.map(ToOwned::to_owned)));
    assert_eq!(one.version().await, before + 1);
    assert_eq!(two.get("a").await.unwrap(), b"1");
    assert_eq!(two.get("there").await.unwrap(), b"x");
    // A retry gets the same answer from any master, also when what it was about has changed meanwhile.
    for key in ["there", "source", "a"] {
        one.delete(key).await.unwrap();
    }
    one.put("copy", b"another").await.unwrap();
    one.put("none", b"now").await.unwrap();
    let version = one.version().await;
    let again = two.service.commit_each(&attempt(2), &bucket(), &changes).await.unwrap();
    assert_eq!(codes(&again), codes(&first));
    let etags = |results: &[EachResult]| -> Vec<_> {
        results.iter().filter_map(|(_, result)| result.as_ref().ok().copied()).collect()
    };
    assert_eq!(etags(&again), etags(&first));
    assert_eq!(two.version().await, version);
}

#[tokio::test]
async fn a_retried_copy_is_answered_when_its_source_is_gone() {
    let [one, two] = two();
    one.create().await;
    one.put("a", b"content").await.unwrap();
    let rename = [copy("b", "a"), delete("a")];
    let first = one.service.commit(&attempt(1), &bucket(), &rename).await.unwrap();
    let again = two.service.commit(&attempt(2), &bucket(), &rename).await.unwrap();
    assert_eq!(again, first);
    assert!(first[0].1.is_some() && first[1].1.is_none());
}

#[tokio::test]
async fn an_upload_gets_its_metadata_when_it_is_completed() {
    let [one, two] = two();
    one.create().await;
    for (replace, expected) in [(Some(facts("late")), "late"), (None, "early")] {
        let (service, user) = (&one.service, &one.user);
        let create =
            CreateUploadRequest { key: object_key("up"), facts: facts("early"), checksum: None };
        let id = service.create_upload(user, &bucket(), create).await.unwrap().to_string();
        let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"part"))]));
        let key = object_key("up");
        let put = PutPartRequest { key, id: id.clone(), number: 1, body, body_facts: body_facts() };
        let taken = service.put_part(user, &bucket(), put).await.unwrap();
        let part = CompletePart { number: 1, etag: taken.etag().to_string(), checksum: None };
        let action = BatchAction::Complete { id, parts: vec![part], replace };
        service.commit(user, &bucket(), &[change("up", action)]).await.unwrap();
        assert_eq!(metadata(&two, "up").await.as_deref(), Some(expected));
        assert_eq!(two.get("up").await.unwrap(), b"part");
    }
}
