//! Tests of the service on stores in memory that crash, and on an arbiter with faults.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod appends;
mod cars;
mod clones;
mod collect;
mod commit_actions;
mod commits;
mod credentials;
mod drops;
mod encryption;
mod faults;
mod forks;
mod full;
mod generations;
mod hung;
mod lifecycle;
mod lost;
mod mappings;
mod masters;
mod model;
mod names;
mod nodes;
mod own_disk;
mod policies;
mod public;
mod regression;
mod retries;
mod rounds;
mod settings;
mod settle;
mod shared_drops;
mod slow;
mod snapshots;
mod versions;

use std::sync::Arc;

use bytes::Bytes;
use fula_core::{
    BlockStore, BucketAddress, BucketName, ObjectKey, RootPointerStore, WriterId,
    bucket::{ChecksumAlgorithm, ObjectRecord},
    in_memory::MemoryBlocks,
    tree::Nodes,
};
use fula_service::{
    Arbiter, Caller, DeleteKey, Identity, Limits, NamePolicy, ObjectFacts, PutRequest,
    RollbackGuard, Service, ServiceError,
    body::{BodyFacts, BodyStream},
    condition::{ReadConditions, Tags, WriteConditions},
    system_random,
};
use futures::{StreamExt, TryStreamExt};

use crate::faults::FaultyRoots;

/// One master on shared stores, with a user and a bucket.
struct Master {
    service: Service,
    user: Caller,
}

const BUCKET: &str = "bucket";

/// Returns the name of the bucket that most tests use.
fn bucket() -> BucketName {
    bucket_name(BUCKET)
}

fn bucket_name(text: &str) -> BucketName {
    BucketName::parse(text).unwrap()
}

fn object_key(text: &str) -> ObjectKey {
    ObjectKey::parse(text.to_owned()).unwrap()
}

impl Master {
    fn new(blocks: &Arc<MemoryBlocks>, roots: &Arc<FaultyRoots>, writer: u8) -> Self {
        Self::with_limits(blocks, roots, writer, Limits::default())
    }

    fn with_limits(
        blocks: &Arc<MemoryBlocks>,
        roots: &Arc<FaultyRoots>,
        writer: u8,
        limits: Limits,
    ) -> Self {
        let blocks: Arc<dyn BlockStore> = Arc::clone(blocks) as _;
        let roots: Arc<dyn RootPointerStore> = Arc::clone(roots) as _;
        let nodes = Arc::new(Nodes::new(blocks, limits.cache_bytes));
        let guard = RollbackGuard::new(None, true);
        let arbiter = Arbiter::new(nodes, roots, WriterId([writer; 16]), &limits, guard);
        let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
        Self { service, user: Caller::of(Identity::of_user("key:test")) }
    }

    /// Returns the address of the bucket that most tests use.
    fn address(&self) -> BucketAddress {
        BucketAddress::new(self.owner(), bucket())
    }

    fn owner(&self) -> fula_core::OwnerId {
        self.user.identity.as_ref().unwrap().owner
    }

    async fn create(&self) {
        self.service.create_bucket(&self.user, &bucket(), None).await.unwrap();
    }

    async fn put(&self, key: &str, body: &[u8]) -> Result<ObjectRecord, ServiceError> {
        self.put_if(key, body, WriteConditions::default()).await
    }

    async fn put_if(
        &self,
        key: &str,
        body: &[u8],
        conditions: WriteConditions,
    ) -> Result<ObjectRecord, ServiceError> {
        let frames: Vec<_> =
            body.chunks(100_000).map(|frame| Ok(Bytes::copy_from_slice(frame))).collect();
        self.put_stream(key, Box::pin(futures::stream::iter(frames)), conditions).await
    }

    async fn put_stream(
        &self,
        key: &str,
        body: BodyStream,
        conditions: WriteConditions,
    ) -> Result<ObjectRecord, ServiceError> {
        self.put_as(&self.user, key, body, conditions).await
    }

    async fn put_as(
        &self,
        caller: &Caller,
        key: &str,
        body: BodyStream,
        conditions: WriteConditions,
    ) -> Result<ObjectRecord, ServiceError> {
        let request = PutRequest {
            key: object_key(key),
            facts: ObjectFacts::default(),
            conditions,
            body,
            body_facts: body_facts(),
        };
        self.service.put_object(caller, &bucket(), request).await
    }

    async fn delete(&self, key: &str) -> Result<(), ServiceError> {
        let request = DeleteKey { key: object_key(key), conditions: WriteConditions::default() };
        self.service.delete_object(&self.user, &bucket(), request).await
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ServiceError> {
        let user = &self.user;
        let none = ReadConditions::default();
        let record =
            self.service.get_object(user, &bucket(), &object_key(key), &none).await?.record;
        let parts: Vec<Bytes> =
            self.service.read(user, &record, 0..record.size).await?.try_collect().await?;
        Ok(parts.concat())
    }

    async fn version(&self) -> u64 {
        let name = bucket();
        let head =
            self.service.arbiter().current(&BucketAddress::new(self.owner(), name)).await.unwrap();
        head.unwrap().row.pointer.version
    }
}

fn body_facts() -> BodyFacts {
    BodyFacts {
        length: None,
        length_max: 1 << 30,
        md5: None,
        keep: ChecksumAlgorithm::Crc32,
        sent: ChecksumAlgorithm::Crc32,
        checksum: None,
        trailer: None,
    }
}

fn if_absent() -> WriteConditions {
    WriteConditions { if_match: None, if_none_match: Some(Tags::Any) }
}

fn if_matches(record: &ObjectRecord) -> WriteConditions {
    let tag = Tags::Of(vec![record.etag.to_string()]);
    WriteConditions { if_match: Some(tag), if_none_match: None }
}
