//! Tests of appending: one commit, no byte copied, nothing lost to another writer.

use fula_core::{
    block::list_all,
    bucket::{TextMap, Versioning},
    in_memory::MemoryBlocks,
};
use fula_service::{AppendRequest, Invocation};
use fula_testkit::rng::Rng;

use super::*;

async fn world() -> (Arc<MemoryBlocks>, [Master; 2]) {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    (blocks, masters)
}

impl Master {
    async fn append_as(
        &self,
        caller: &Caller,
        offset: u64,
        bytes: &[u8],
    ) -> Result<ObjectRecord, ServiceError> {
        let frame = Ok(Bytes::copy_from_slice(bytes));
        let request = AppendRequest {
            key: object_key("k"),
            offset,
            facts: ObjectFacts::default(),
            conditions: WriteConditions::default(),
            body: Box::pin(futures::stream::iter([frame])),
            body_facts: body_facts(),
        };
        self.service.append_object(caller, &bucket(), request).await
    }

    async fn append(&self, offset: u64, bytes: &[u8]) -> Result<ObjectRecord, ServiceError> {
        self.append_as(&self.user, offset, bytes).await
    }
}

fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..length).map(|_| rng.below(256).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn an_object_grows_by_what_is_appended() {
    let (_, [one, two]) = world().await;
    let mut whole = Vec::new();
    // Small bodies, a body of several blocks, and none.
    for (n, length) in [(0, 10), (1, 0), (2, 3_000_000), (3, 1), (4, 70_000)] {
        let bytes = random(length, n);
        let record = one.append(whole.len() as u64, &bytes).await.unwrap();
        whole.extend(bytes);
        assert_eq!(record.size, whole.len() as u64);
        assert_eq!(two.get("k").await.unwrap(), whole, "after append {n}");
    }
    // The checksum is that of the whole, as if it had been put in one piece.
    let none = ReadConditions::default();
    let appended = one.service.get_object(&one.user, &bucket(), &object_key("k"), &none).await;
    let appended = appended.unwrap().record;
    let put = one.put("whole", &whole).await.unwrap();
    assert_eq!(appended.checksums, put.checksums);
    assert_ne!(appended.etag, put.etag);
    let parts = one.service.parts_of(&appended).await.unwrap();
    assert_eq!(parts.iter().map(|part| part.size).sum::<u64>(), appended.size);
    // What was put in one piece grows, too.
    let frame = |master: &Master, offset| {
        let request = AppendRequest {
            key: object_key("whole"),
            offset,
            facts: ObjectFacts::default(),
            conditions: WriteConditions::default(),
            body: Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"end"))])),
            body_facts: body_facts(),
        };
        let (service, user) = (master.service.clone(), master.user.clone());
        async move { service.append_object(&user, &bucket(), request).await }
    };
    frame(&two, put.size).await.unwrap();
    whole.extend(b"end");
    assert_eq!(one.get("whole").await.unwrap(), whole);
}

#[tokio::test]
async fn no_byte_of_the_object_is_copied() {
    let (blocks, [one, _]) = world().await;
    one.put("k", &random(20 << 20, 1)).await.unwrap();
    let count = async || list_all(blocks.as_ref()).await.unwrap().len();
    let (before, version) = (count().await, one.version().await);
    one.append(20 << 20, b"more").await.unwrap();
    assert_eq!(one.version().await, version + 1);
    // The body, the node over both, the table of parts, the path to the record, and the root.
    let made = count().await - before;
    assert!(made <= 6, "{made} blocks");
    // A hundred appends make no deeper tree: the node links all of them.
    for n in 0..100_u64 {
        one.append((20 << 20) + 4 + n, b"x").await.unwrap();
    }
    let none = ReadConditions::default();
    let found =
        one.service.get_object(&one.user, &bucket(), &object_key("k"), &none).await.unwrap();
    let content = found.record.content.unwrap();
    let root = fula_core::block::require(blocks.as_ref(), &content).await.unwrap();
    let node = fula_core::content::FileNode::from_block(&root).unwrap();
    assert_eq!(node.links.len(), 102);
}

#[tokio::test]
async fn a_body_is_added_at_the_end_alone() {
    let (_, [one, two]) = world().await;
    for (offset, expected) in [(5, 0), (1, 0)] {
        let refused = one.append(offset, b"x").await;
        assert!(matches!(refused, Err(ServiceError::InvalidWriteOffset(size)) if size == expected));
    }
    one.append(0, b"abc").await.unwrap();
    for offset in [0, 2, 4] {
        let refused = two.append(offset, b"x").await;
        assert!(matches!(refused, Err(ServiceError::InvalidWriteOffset(3))), "{refused:?}");
    }
    // Of several at the same place, one is carried out.
    let appends: Vec<_> = [(&one, b"d"), (&two, b"e"), (&one, b"f"), (&two, b"g")]
        .into_iter()
        .map(|(master, bytes)| Box::pin(master.append(3, bytes)))
        .collect();
    let done = futures::future::join_all(appends).await;
    assert_eq!(done.iter().filter(|append| append.is_ok()).count(), 1, "{done:?}");
    assert_eq!(one.get("k").await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_retried_append_is_carried_out_once() {
    let (_, [one, two]) = world().await;
    one.put("k", b"abc").await.unwrap();
    let attempt = |id: &str, n| Caller { invocation: Invocation::new(id, n), ..one.user.clone() };
    let first = one.append_as(&attempt("i", 1), 3, b"d").await.unwrap();
    let again = two.append_as(&attempt("i", 2), 3, b"d").await.unwrap();
    assert_eq!(again, first);
    one.append(4, b"e").await.unwrap();
    assert_eq!(two.append_as(&attempt("i", 3), 3, b"d").await.unwrap().seq, first.seq);
    assert_eq!(one.get("k").await.unwrap(), b"abcde");
    let other = two.append_as(&attempt("j", 2), 3, b"d").await;
    assert!(matches!(other, Err(ServiceError::InvalidWriteOffset(_))), "{other:?}");
}

#[tokio::test]
async fn an_append_keeps_tags_and_makes_a_version() {
    let (_, [one, two]) = world().await;
    one.service.set_versioning(&one.user, &bucket(), Versioning::Enabled).await.unwrap();
    let first = one.put("k", b"abc").await.unwrap();
    let tags = TextMap::from([("t".to_owned(), "1".to_owned())]);
    one.service
        .tag_object(&one.user, &bucket(), object_key("k"), None, tags.clone())
        .await
        .unwrap();
    let longer = two.append(3, b"d").await.unwrap();
    assert_ne!(longer.version_id(), first.version_id());
    let none = ReadConditions::default();
    let found =
        one.service.get_object(&one.user, &bucket(), &object_key("k"), &none).await.unwrap();
    assert_eq!((found.tags, found.version), (tags, Some(longer.version_id())));
    let old = one
        .service
        .get_version(&one.user, &bucket(), &object_key("k"), Some(first.version_id()), &none)
        .await;
    assert_eq!(old.unwrap().record.size, 3);
}
