//! Tests of multi-key commits: all changes or none are carried out.

use fula_core::in_memory::MemoryBlocks;
use fula_service::{
    BatchAction, BatchChange, CompletePart, ConditionName, CreateUploadRequest, Invocation,
    PutPartRequest,
};

use super::*;

fn put(key: &str, body: &'static str, conditions: WriteConditions) -> BatchChange {
    let body = Bytes::from_static(body.as_bytes());
    let action = BatchAction::Put { body, facts: ObjectFacts::default() };
    BatchChange { key: object_key(key), conditions, action }
}

fn delete(key: &str) -> BatchChange {
    let conditions = WriteConditions::default();
    BatchChange { key: object_key(key), conditions, action: BatchAction::Delete }
}

fn two() -> [Master; 2] {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)]
}

async fn begin(master: &Master, key: &str) -> (String, CompletePart) {
    let (service, user) = (&master.service, &master.user);
    let create =
        CreateUploadRequest { key: object_key(key), facts: ObjectFacts::default(), checksum: None };
    let id = service.create_upload(user, &bucket(), create).await.unwrap().to_string();
    let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"uploaded"))]));
    let (key, body_facts) = (object_key(key), body_facts());
    let put = PutPartRequest { key, id: id.clone(), number: 1, body, body_facts };
    let taken = service.put_part(user, &bucket(), put).await.unwrap();
    (id, CompletePart { number: 1, etag: taken.etag().to_string(), checksum: None })
}

#[tokio::test]
async fn a_commit_is_one_step_of_the_bucket() {
    let [one, two] = two();
    one.create().await;
    one.put("old", b"x").await.unwrap();
    let (id, part) = begin(&two, "up").await;
    let none = WriteConditions::default;
    let before = one.version().await;
    let action = BatchAction::Complete { id, parts: vec![part], replace: None };
    let changes = [
        put("a", "1", if_absent()),
        put("b", "2", none()),
        BatchChange { key: object_key("up"), conditions: none(), action },
        delete("old"),
        delete("never-there"),
    ];
    let results = one.service.commit(&one.user, &bucket(), &changes).await.unwrap();
    assert_eq!(one.version().await, before + 1);
    assert_eq!(one.user.seen.version(), Some(before + 1));
    assert_eq!(results.iter().filter(|(_, etag)| etag.is_some()).count(), 3);
    assert_eq!(two.get("a").await.unwrap(), b"1");
    assert_eq!(two.get("up").await.unwrap(), b"uploaded");
    assert!(matches!(two.get("old").await, Err(ServiceError::NoSuchKey)));
    // The upload has been completed and is gone.
    let again = one.service.commit(&one.user, &bucket(), &changes[2..3]).await;
    assert!(matches!(again, Err(ServiceError::InCommit { .. })), "{again:?}");
}

#[tokio::test]
async fn one_condition_that_fails_undoes_all() {
    let [one, two] = two();
    one.create().await;
    one.put("there", b"x").await.unwrap();
    let before = one.version().await;
    let changes =
        [put("a", "1", WriteConditions::default()), put("there", "2", if_absent()), delete("a")];
    let refused = two.service.commit(&two.user, &bucket(), &changes[..2]).await;
    let Err(ServiceError::InCommit { key, error }) = refused else { panic!("{refused:?}") };
    assert_eq!(key, "there");
    let expected = ServiceError::PreconditionFailed(ConditionName::IfNoneMatch);
    assert_eq!(error.to_string(), expected.to_string());
    assert!(matches!(one.get("a").await, Err(ServiceError::NoSuchKey)));
    assert_eq!(one.version().await, before);
    let twice = one.service.commit(&one.user, &bucket(), &[changes[0].clone(), delete("a")]).await;
    assert!(matches!(twice, Err(ServiceError::InvalidRequest(_))), "{twice:?}");
}

#[tokio::test]
async fn a_retried_commit_gets_its_first_answer() {
    let [one, two] = two();
    one.create().await;
    let (id, part) = begin(&one, "up").await;
    let action = BatchAction::Complete { id, parts: vec![part], replace: None };
    let conditions = if_absent();
    let changes =
        [put("a", "1", if_absent()), BatchChange { key: object_key("up"), conditions, action }];
    let attempt = |n| Caller {
        invocation: Invocation::new("commit", n),
        ..Caller::of(Identity::of_user("key:test"))
    };
    let first = one.service.commit(&attempt(1), &bucket(), &changes).await.unwrap();
    let version = one.version().await;
    let caller = attempt(2);
    let again = two.service.commit(&caller, &bucket(), &changes).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(caller.seen.version(), Some(version));
    assert_eq!(two.version().await, version);
}

#[tokio::test]
async fn racing_commits_are_never_mixed() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let [one, two] = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    one.create().await;
    let write = |master: &Master, body: &'static str| {
        let changes: Vec<_> =
            (0..8).map(|n| put(&format!("k{n}"), body, WriteConditions::default())).collect();
        let (service, user) = (master.service.clone(), master.user.clone());
        async move { service.commit(&user, &bucket(), &changes).await.unwrap() }
    };
    for _ in 0..20 {
        tokio::join!(write(&one, "one"), write(&two, "two"));
        let all = fula_service::ListRequest { limit: 100, ..Default::default() };
        let listing = one.service.list_objects(&one.user, &bucket(), &all).await.unwrap();
        let tags: std::collections::BTreeSet<String> = listing
            .lines
            .into_iter()
            .map(|line| match line {
                fula_service::ListingLine::Object(_, record) => record.etag.to_string(),
                fula_service::ListingLine::Prefix(prefix) => prefix,
            })
            .collect();
        assert_eq!(tags.len(), 1, "{tags:?}");
    }
    let conflicts = roots.conflicts.load(std::sync::atomic::Ordering::SeqCst);
    assert!(conflicts > 0, "the masters never met");
}
