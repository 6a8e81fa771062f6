//! Writes during which a collection of shared blocks begins: what is in memory is put again, and what is not
//! is linked only if it is certainly there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use fula_core::{
    Block, Cid, StoreError,
    block::{Epoch, Listed, Placement, Position, SyncMark},
    in_memory::MemoryRoots,
};
use fula_service::{
    Applied, BucketOwner, CopyPartRequest, CopyRequest, CopySourceRequest, CreateUploadRequest,
};

use super::*;

/// Blocks of which each is put under a generation. A collection begins during a put if that is wanted.
#[derive(Debug)]
struct Shared {
    inner: MemoryBlocks,
    roots: Arc<MemoryRoots>,
    generation: AtomicU64,
    collects: AtomicBool,
}

#[async_trait]
impl BlockStore for Shared {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        let generation = self.generation.load(Ordering::SeqCst);
        if placement == Placement::Commit && self.collects.swap(false, Ordering::SeqCst) {
            self.roots.raise_generation(generation + 1).await?;
        }
        self.inner.put_under(blocks, Epoch(u32::try_from(generation).unwrap()))
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        self.inner.sync(mark).await
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.inner.get(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.inner.size(cid).await
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.inner.list(from).await
    }

    fn generation(&self) -> Option<u64> {
        Some(self.generation.load(Ordering::SeqCst))
    }

    fn observe_generation(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::SeqCst);
    }
}

/// A master, and the blocks that tell it to collect.
struct World {
    master: Master,
    blocks: Arc<Shared>,
}

const SOURCES: &str = "sources";

fn large() -> Vec<u8> {
    vec![7; 3 << 20]
}

impl World {
    async fn new() -> Self {
        let roots = Arc::new(MemoryRoots::default());
        let blocks = Arc::new(Shared {
            inner: MemoryBlocks::default(),
            roots: Arc::clone(&roots),
            generation: AtomicU64::new(0),
            collects: AtomicBool::new(false),
        });
        let limits = Limits::default();
        let nodes = Arc::new(Nodes::new(Arc::clone(&blocks) as _, limits.cache_bytes));
        let guard = RollbackGuard::new(None, true);
        let arbiter = Arbiter::new(nodes, roots, WriterId([1; 16]), &limits, guard);
        let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
        let master = Master { service, user: Caller::of(Identity::of_user("key:test")) };
        master.create().await;
        let sources = bucket_name(SOURCES);
        master.service.create_bucket(&master.user, &sources, None).await.unwrap();
        let world = Self { master, blocks };
        let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from("a source"))]));
        let (key, body_facts) = (object_key("source"), body_facts());
        let (facts, conditions) = (ObjectFacts::default(), WriteConditions::default());
        let request = PutRequest { key, facts, conditions, body, body_facts };
        let user = world.user();
        world.master.service.put_object(&user, &sources, request).await.unwrap();
        world.master.put("own", b"a source").await.unwrap();
        world
    }

    /// Returns a caller of a new request.
    fn user(&self) -> Caller {
        Caller { pins: fula_service::RequestPins::default(), ..self.master.user.clone() }
    }

    /// Lets a collection begin during the next commit.
    fn collect(&self) {
        self.blocks.collects.store(true, Ordering::SeqCst);
    }

    fn source(bucket: &str, key: &str) -> CopySourceRequest {
        CopySourceRequest {
            owner: BucketOwner::Unsaid,
            bucket: bucket_name(bucket),
            key: object_key(key),
            version: None,
            conditions: ReadConditions::default(),
        }
    }

    async fn copy(&self, from: &str, key: &str) -> Result<ObjectRecord, ServiceError> {
        let request = CopyRequest {
            source: Self::source(from, key),
            key: object_key("copy"),
            replace: None,
            tags: None,
            acl: None,
            checksum: None,
            encrypt: false,
            conditions: WriteConditions::default(),
        };
        self.master.service.copy_object(&self.user(), &bucket(), request).await
    }

    async fn put(&self, body: Vec<u8>) -> Result<ObjectRecord, ServiceError> {
        let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from(body))]));
        self.master.put_as(&self.user(), "k", body, WriteConditions::default()).await
    }
}

/// Asserts that a write was refused with nothing changed, and succeeds when it is tried again.
macro_rules! refused_once {
    ($world:expr, $write:expr) => {{
        $world.collect();
        let refused = $write.await;
        assert!(matches!(refused, Err(ServiceError::Busy(Applied::None))), "{refused:?}");
        $write.await.unwrap();
    }};
}

#[tokio::test]
async fn what_is_in_memory_is_put_again() {
    let world = World::new().await;
    world.collect();
    world.put(b"small".to_vec()).await.unwrap();
    let content = world.master.service.arbiter().nodes().blocks().generation();
    assert_eq!(content, Some(1));
    // Everything that the commit links and that was put before the collection can go.
    let address = world.master.address();
    let rows = world.blocks.roots.get_roots(&[address]).await.unwrap().value;
    let root = rows[0].as_ref().unwrap().pointer.root;
    let kept = std::collections::HashSet::from([Cid::of(fula_core::Codec::Raw, b"a source")]);
    assert!(world.blocks.inner.delete_before(Epoch(1), &kept, usize::MAX) > 0);
    assert!(world.blocks.inner.get(&root).await.unwrap().is_some());
    assert_eq!(world.master.get("k").await.unwrap(), b"small");
    // A copy within the bucket links what the newest root has.
    world.collect();
    world.copy(BUCKET, "own").await.unwrap();
}

#[tokio::test]
async fn a_copy_from_another_bucket_is_as_new_as_the_collection() {
    let world = World::new().await;
    refused_once!(world, world.copy(SOURCES, "source"));
}

#[tokio::test]
async fn a_part_that_is_a_copy_is_as_new_as_the_collection() {
    let world = World::new().await;
    let service = &world.master.service;
    let source = object_key("source");
    let found = service
        .get_object(&world.user(), &bucket_name(SOURCES), &source, &ReadConditions::default())
        .await
        .unwrap();
    // With the same checksum, the part links the content of the source.
    let checksum = Some((found.record.checksums[0].algorithm, false));
    let (key, facts) = (object_key("mp"), ObjectFacts::default());
    let request = CreateUploadRequest { key, facts, checksum };
    let id = service.create_upload(&world.user(), &bucket(), request).await.unwrap().to_string();
    let part = || CopyPartRequest {
        key: object_key("mp"),
        id: id.clone(),
        number: 1,
        source: World::source(SOURCES, "source"),
        range: None,
    };
    refused_once!(world, service.copy_part(&world.user(), &bucket(), part()));
}

#[tokio::test]
async fn a_streamed_body_needs_a_lease_or_is_as_new_as_the_collection() {
    let world = World::new().await;
    refused_once!(world, world.put(large()));
    world.master.service.arbiter().lease_to_itself();
    world.collect();
    world.put(large()).await.unwrap();
    assert_eq!(world.master.get("k").await.unwrap(), large());
}
