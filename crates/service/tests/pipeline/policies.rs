//! Tests of policies in the pipeline: they hold on every master with their commit.

use std::time::Instant;

use fula_core::in_memory::MemoryBlocks;
use fula_service::{BatchAction, BatchChange, BucketOwner, CreateUploadRequest, policy::Policy};

use super::{names::user, *};

fn statement(effect: &str, who: &Caller, action: &str, resource: &str) -> String {
    let id = who.identity.as_ref().unwrap().owner;
    format!(
        r#"{{"Effect": "{effect}", "Principal": {{"AWS": "{id}"}}, "Action": "{action}",
            "Resource": "arn:aws:s3:::{resource}"}}"#
    )
}

fn policy(statements: &[String]) -> String {
    format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, statements.join(","))
}

/// Returns two masters on one arbiter, and a bucket.
async fn two_masters() -> [Master; 2] {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    masters
}

/// A master that remembers an older state allows no write by it that the newest state forbids.
#[tokio::test]
async fn a_denial_holds_on_another_master_from_its_commit_on() {
    let [one, two] = two_masters().await;
    // The second master knows the bucket from a write of its own.
    two.put("before", b"x").await.unwrap();
    let deny = policy(&[statement("Deny", &one.user, "s3:PutObject", "bucket/*")]);
    one.service.set_policy(&one.user, &bucket(), Some(&deny)).await.unwrap();
    let refused = two.put("k", b"x").await;
    assert!(matches!(refused, Err(ServiceError::AccessDenied)), "{refused:?}");
    two.delete("before").await.unwrap();
    // The owner can always change the policy. What it allows again is allowed at once.
    two.service.set_policy(&two.user, &bucket(), None).await.unwrap();
    one.put("k", b"x").await.unwrap();
    // A setting that forbids nothing refuses nothing.
    two.put("l", b"x").await.unwrap();
    one.service.set_cors(&one.user, &bucket(), Some("[]")).await.unwrap();
    two.put("m", b"x").await.unwrap();
}

/// A user whom a policy names reads and writes as far as it says, in every form.
#[tokio::test]
async fn a_named_user_does_what_the_policy_says() {
    let [one, _] = two_masters().await;
    let (service, alice) = (&one.service, &one.user);
    let owner = BucketOwner::Named(one.owner());
    let bob = Caller { bucket_owner: owner, ..user("key:bob") };
    let carol = Caller { bucket_owner: owner, ..user("key:carol") };
    let text = policy(&[
        statement("Allow", &bob, "s3:*Object", "bucket/in/*"),
        statement("Allow", &bob, "s3:ListBucket", "bucket"),
        statement("Deny", &bob, "s3:DeleteObject", "bucket/in/kept"),
    ]);
    service.set_policy(alice, &bucket(), Some(&text)).await.unwrap();
    let put = async |who: &Caller, key: &str| {
        let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"x"))]));
        one.put_as(who, key, body, WriteConditions::default()).await
    };
    for key in ["in/k", "in/kept", "in/l"] {
        put(&bob, key).await.unwrap();
    }
    assert!(matches!(put(&bob, "out").await, Err(ServiceError::AccessDenied)));
    assert!(matches!(put(&carol, "in/k").await, Err(ServiceError::AccessDenied)));
    assert_eq!(one.get("in/k").await.unwrap(), b"x");
    let key =
        |text: &str| DeleteKey { key: object_key(text), conditions: WriteConditions::default() };
    let keys = vec![key("in/k"), key("in/kept"), key("out")];
    let deleted = service.delete_objects(&bob, &bucket(), keys).await.unwrap();
    assert!(deleted[0].is_ok());
    assert!(deleted[1..].iter().all(|one| matches!(one, Err(ServiceError::AccessDenied))));
    let begin = CreateUploadRequest {
        key: object_key("in/up"),
        facts: ObjectFacts::default(),
        checksum: None,
    };
    service.create_upload(&bob, &bucket(), begin).await.unwrap();
    let change = |key: &str| BatchChange {
        key: object_key(key),
        conditions: WriteConditions::default(),
        action: BatchAction::Delete,
    };
    service.commit(&bob, &bucket(), &[change("in/l")]).await.unwrap();
    let refused = service.commit(&bob, &bucket(), &[change("in/m"), change("out")]).await;
    assert!(matches!(refused, Err(ServiceError::InCommit { .. })), "{refused:?}");
    // The policy itself is its owner's alone.
    let all = policy(&[statement("Allow", &bob, "s3:*", "bucket")]);
    service.set_policy(alice, &bucket(), Some(&all)).await.unwrap();
    assert!(matches!(service.policy(&bob, &bucket()).await, Err(ServiceError::AccessDenied)));
    let put = service.set_policy(&bob, &bucket(), None).await;
    assert!(matches!(put, Err(ServiceError::AccessDenied)), "{put:?}");
}

/// The figure of a large policy: 100 statements, of which each is asked, in 20 KB.
#[test]
fn a_large_policy_is_decided_in_time() {
    let one = |n: usize| {
        format!(
            r#"{{"Sid":"s{n}","Effect":"Deny","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::bucket/team-{n}/*/x","Condition":{{"StringLike":{{"aws:Referer":["https://*.example.com/{n}/*"]}}}}}}"#
        )
    };
    let statements: Vec<String> = (0..100).map(one).collect();
    let text = policy(&statements);
    assert!((17_000..20 << 10).contains(&text.len()), "{} bytes", text.len());
    let policy = Policy::check(&text, &bucket()).unwrap();
    let values =
        |key: &str| (key == "aws:referer").then(|| vec!["https://a.example.com/x/y".to_owned()]);
    let asked = fula_service::policy::Asked {
        who: None,
        as_named: true,
        action: fula_service::access::Action::GetObject.id(),
        resource: "bucket/team-99/some/long/key/of/an/object/x",
    };
    let (batches, rounds) = (20, 100_u32);
    let batch = |_| {
        let began = Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(policy.decide(std::hint::black_box(&asked), &values));
        }
        began.elapsed() / rounds
    };
    // The fastest of them is one that nothing else interrupted.
    let each = (0..batches).map(batch).min().unwrap();
    println!("a decision by 100 statements takes {each:?}");
    // The figure is 10 µs; a busy machine may be slower.
    assert!(each.as_micros() < 200, "{each:?}");
}
