//! Tests of encryption at rest: retries, races, and settings that change on another master.

use fula_core::{bucket::TextMap, in_memory::MemoryBlocks};
use fula_service::{
    AppendRequest, BucketOwner, CopyRequest, CopySourceRequest, CreateUploadRequest, Invocation,
    auth::SealingKey,
};

use super::*;

/// Returns two masters on one arbiter with the same master key, and a bucket.
async fn two_masters() -> (Arc<MemoryBlocks>, [Master; 2]) {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let keys = SealingKey::parse(&"5a".repeat(32)).unwrap().master_keys();
    let masters = [1, 2].map(|writer| {
        let Master { service, user } = Master::new(&blocks, &roots, writer);
        Master { service: service.with_master_keys(keys.clone()), user }
    });
    masters[0].create().await;
    (blocks, masters)
}

fn asking() -> ObjectFacts {
    ObjectFacts { encrypt: true, ..ObjectFacts::default() }
}

fn attempt(master: &Master, attempt: u32) -> Caller {
    let identity = master.user.identity.clone().unwrap();
    Caller { invocation: Invocation::new("i", attempt), ..Caller::of(identity) }
}

fn frames(bytes: &[u8]) -> BodyStream {
    Box::pin(futures::stream::iter([Ok(Bytes::copy_from_slice(bytes))]))
}

impl Master {
    async fn put_encrypted(&self, caller: &Caller, body: &[u8]) -> ObjectRecord {
        let request = PutRequest {
            key: object_key("k"),
            facts: asking(),
            conditions: WriteConditions::default(),
            body: frames(body),
            body_facts: body_facts(),
        };
        self.service.put_object(caller, &bucket(), request).await.unwrap()
    }

    async fn append_encrypted(
        &self,
        caller: &Caller,
        offset: u64,
        body: &[u8],
    ) -> Result<ObjectRecord, ServiceError> {
        let request = AppendRequest {
            key: object_key("k"),
            offset,
            facts: asking(),
            conditions: WriteConditions::default(),
            body: frames(body),
            body_facts: body_facts(),
        };
        self.service.append_object(caller, &bucket(), request).await
    }

    async fn copy(&self, to: &str, encrypt: bool) -> Result<ObjectRecord, ServiceError> {
        let request = CopyRequest {
            source: CopySourceRequest {
                owner: BucketOwner::Unsaid,
                bucket: bucket(),
                key: object_key("k"),
                version: None,
                conditions: ReadConditions::default(),
            },
            key: object_key(to),
            replace: None,
            tags: None,
            acl: None,
            checksum: None,
            encrypt,
            conditions: WriteConditions::default(),
        };
        self.service.copy_object(&self.user, &bucket(), request).await
    }

    async fn encrypt_by_default(&self) {
        let value = TextMap::from([("algorithm".to_owned(), "AES256".to_owned())]);
        let set = self.service.set_bucket_encryption(&self.user, &bucket(), Some(&value)).await;
        set.unwrap();
    }
}

#[tokio::test]
async fn a_retry_of_an_encrypted_write_gets_its_first_answer() {
    let (_, [one, two]) = two_masters().await;
    let first = one.put_encrypted(&attempt(&one, 1), b"body").await;
    let again = two.put_encrypted(&attempt(&two, 2), b"body").await;
    assert_eq!((again.seq, again.content), (first.seq, first.content));
    assert!(first.sse.is_some() && two.get("k").await.unwrap() == b"body");
    // Another body, or the same in plain text, is another write.
    let other = two.put_encrypted(&attempt(&two, 2), b"BODY").await;
    let caller = attempt(&one, 2);
    let plain =
        one.put_as(&caller, "k", frames(b"body"), WriteConditions::default()).await.unwrap();
    assert!(plain.seq > other.seq && other.seq > first.seq);

    let base = one.put_encrypted(&one.user, b"base").await;
    let first = one.append_encrypted(&attempt(&one, 1), 4, b" more").await.unwrap();
    let again = two.append_encrypted(&attempt(&two, 2), 4, b" more").await.unwrap();
    assert!(again.seq == first.seq && first.seq > base.seq);
    assert_eq!(two.get("k").await.unwrap(), b"base more");

    let begin = || CreateUploadRequest { key: object_key("u"), facts: asking(), checksum: None };
    let begun = one.service.create_upload(&attempt(&one, 1), &bucket(), begin()).await.unwrap();
    let again = two.service.create_upload(&attempt(&two, 2), &bucket(), begin()).await.unwrap();
    assert_eq!(begun, again);
}

#[tokio::test]
async fn a_put_by_older_settings_is_never_stored_in_plain_text() {
    let (_, [one, two]) = two_masters().await;
    two.put("k", b"plain").await.unwrap();
    one.encrypt_by_default().await;
    let record = match two.put("k", b"body").await {
        Ok(record) => record,
        Err(ServiceError::Busy(_)) => two.put("k", b"body").await.unwrap(),
        Err(error) => panic!("{error}"),
    };
    assert!(record.sse.is_some());
    assert_eq!(one.get("k").await.unwrap(), b"body");
}

#[tokio::test]
async fn a_copy_stores_content_again_only_where_that_is_needed() {
    let (blocks, [one, two]) = two_masters().await;
    let body = vec![7; 3_000_000];
    let source = one.put_encrypted(&one.user, &body).await;
    let copy = one.copy("sealed", true).await.unwrap();
    assert_eq!((copy.content, copy.sse), (source.content, source.sse.clone()));
    let opened = two.copy("opened", false).await.unwrap();
    assert!(opened.sse.is_none() && opened.content != source.content);
    assert_eq!(
        (opened.etag, opened.size, &opened.checksums),
        (source.etag, source.size, &source.checksums)
    );
    blocks.crash();
    for key in ["k", "sealed", "opened"] {
        assert_eq!(two.get(key).await.unwrap(), body, "{key}");
    }
}

#[tokio::test]
async fn a_master_without_the_key_names_it_and_serves_the_rest() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let keys = SealingKey::parse(&"5a".repeat(32)).unwrap().master_keys();
    let Master { service, user } = Master::new(&blocks, &roots, 1);
    let with = Master { service: service.with_master_keys(keys), user };
    with.create().await;
    let record = with.put_encrypted(&with.user, b"body").await;
    let without = Master::new(&blocks, &roots, 2);
    assert!(matches!(without.get("k").await, Err(ServiceError::NoMasterKey(id)) if id.len() == 16));
    let appended = without.append_encrypted(&without.user, 4, b"x").await;
    assert!(matches!(appended, Err(ServiceError::NoMasterKey(_))));
    assert!(matches!(without.copy("copy", true).await, Err(ServiceError::NoMasterKey(_))));
    assert!(matches!(without.copy("copy", false).await, Err(ServiceError::NoMasterKey(_))));
    without.put("plain", b"x").await.unwrap();
    assert_eq!(with.get("k").await.unwrap(), b"body");
    assert_eq!(record.size, 4);
}
