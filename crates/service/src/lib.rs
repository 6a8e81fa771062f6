//! The operations of a Fula gateway, without HTTP types and without names of backends.
//!
//! Requests come in as methods of [`Service`]. Reads find the newest root of the bucket and walk its trees.
//! Every change goes through the commit pipeline in [`commit`].
//!
//! | to find | start at |
//! |---|---|
//! | what a request does | the method of [`Service`] with the name of the operation, in the module `objects` |
//! | how changes become one swap | [`commit`] |
//! | who may do what | [`access`], [`policy`], [`acl`]: one pure function each |
//! | credentials, sessions, revocations | [`auth`] |
//! | what happens when the arbiter goes back in time | [`Recovery`], [`RollbackGuard`] |
//! | what an error means for the caller | [`ServiceError`] and [`ErrorKind`] |
//! | how large anything may get | [`limits`] |
//!
//! # Invariants
//! - An answer comes from a swap that was won, or from a state that was current after the request arrived.
//! - Blocks are durable before the pointer that needs them, or together with it.
//! - A pointer is adopted only if it includes everything that this master remembers.
//! - Every queue, page, retry and body has a bound in [`limits`].
//!
//! # Example
//!
//! A gateway in memory. The second write finds an object, and is refused.
//!
//! ```
//! use std::sync::Arc;
//!
//! use fula_core::{
//!     BucketName, ObjectKey, WriterId,
//!     bucket::ChecksumAlgorithm,
//!     in_memory::{MemoryBlocks, MemoryRoots},
//!     tree::Nodes,
//! };
//! use fula_service::{
//!     Arbiter, Caller, Identity, Limits, NamePolicy, ObjectFacts, PutRequest, RollbackGuard, Service,
//!     ServiceError,
//!     body::BodyFacts,
//!     condition::{Tags, WriteConditions},
//!     system_random,
//! };
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! let limits = Limits::default();
//! let nodes = Arc::new(Nodes::new(Arc::new(MemoryBlocks::default()), limits.cache_bytes));
//! let (roots, guard) = (Arc::new(MemoryRoots::default()), RollbackGuard::new(None, true));
//! let arbiter = Arbiter::new(nodes, roots, WriterId([1; 16]), &limits, guard);
//! let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
//!
//! let alice = Caller::of(Identity::of_user("key:alice"));
//! let photos = BucketName::parse("photos").expect("the name is valid");
//! service.create_bucket(&alice, &photos, None).await?;
//! let write = || PutRequest {
//!     key: ObjectKey::parse("cat.jpg".to_owned()).expect("the key is valid"),
//!     facts: ObjectFacts::default(),
//!     conditions: WriteConditions { if_none_match: Some(Tags::Any), ..Default::default() },
//!     body: Box::pin(futures::stream::iter([Ok("meow".into())])),
//!     body_facts: BodyFacts {
//!         length: Some(4),
//!         length_max: 1 << 20,
//!         md5: None,
//!         keep: ChecksumAlgorithm::Crc64Nvme,
//!         sent: ChecksumAlgorithm::Crc64Nvme,
//!         checksum: None,
//!         trailer: None,
//!     },
//! };
//! assert_eq!(service.put_object(&alice, &photos, write()).await?.size, 4);
//! let second = service.put_object(&alice, &photos, write()).await;
//! assert!(matches!(second, Err(ServiceError::PreconditionFailed(_))));
//! # Ok::<(), ServiceError>(())
//! # })
//! # .unwrap();
//! ```
//!
//! # Deliberately absent
//! HTTP and XML (`fula-gateway`), backends (`fula-stores`), settings and timers (`fula`).

pub mod admin;
mod arbiter;
pub mod auth;
mod budget;
mod caller;
mod car;
pub mod commit;
pub mod error;
pub mod fault_injection;
mod gc;
mod lifecycle;
pub mod limits;
pub mod mapping;
mod names;
mod objects;
mod part;
pub mod pinning;
mod pins;
mod public;
mod service;
mod settle;
mod snapshot;
mod sse;

pub use self::{
    admin::{clone, fsck, history, restore},
    arbiter::{
        Alarm, Arbiter, Forgotten, Head, KnownState, Master, MasterInfo, Merged, Recovery,
        RecoveryClaim, RollbackGuard, Status,
    },
    auth::public_access::PublicAccessBlock,
    auth::{
        access,
        access::{Grant, Identity},
        acl, policy,
    },
    budget::{ConnectionCloser, MemoryBudget, MemoryPermit},
    caller::{BucketOwner, Caller, Invocation, RequestKeys, Seen},
    car::{BucketCar, CarCheck, Import, ImportError, ImportTarget, Imported, ProofOf},
    commit::{Committer, Deleted},
    error::{Applied, ConditionName, ErrorKind, Outage, ServiceError},
    gc::Collection,
    lifecycle::{
        End, Expiration, Filter, FilterForm, Lifecycle, LifecycleCursor, LifecyclePage, Noncurrent,
        Rule,
    },
    limits::Limits,
    mapping::{LostBlock, MapRequest, Mapping, NodeAway, NodesChecked, StorageNodes},
    names::NamePolicy,
    objects::append::AppendRequest,
    objects::batch::{BatchAction, BatchChange, BatchResult, BatchSource, EachResult},
    objects::bucket::{BucketInfo, BucketPage, FirstSettings},
    objects::list::{ListRequest, Listing, ListingLine},
    objects::multipart::{
        BegunUpload, CompletePart, CompleteRequest, CopyPartRequest, CreateUploadRequest,
        ListUploadsRequest, PartInfo, PartsPage, PutPartRequest, UploadInfo, UploadLine,
        UploadsPage,
    },
    objects::object::{CopyRequest, CopySourceRequest, DeleteKey, Object, ObjectFacts, PutRequest},
    objects::rename::RenameRequest,
    objects::versions::VersionListing,
    objects::{body, condition},
    pinning::{
        DagIntake, NameMatch, NewPin, PinAction, PinBlocks, PinPage, PinQuery, PinState, PinStatus,
        StoredPin, Totals,
    },
    pins::{Keeper, RequestPins},
    public::{FindError, PublicObject, PublicReads},
    service::{Random, Service, system_random},
    settle::{Settled, unsettle_names},
    snapshot::{ChangesRequest, Snapshot, SnapshotRequest},
    sse::MasterKeys,
};
