//! The operations of a Fula gateway, without HTTP types and without names of backends.
//!
//! Requests come in as methods of [`Service`]. Reads find the newest root of the bucket and walk its trees.
//! Every change goes through the commit pipeline in [`commit`].

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
mod pins;
mod public;
mod service;
mod settle;
mod sse;

pub use self::{
    admin::{clone, fsck, history, restore},
    arbiter::{
        Alarm, Arbiter, Forgotten, Head, KnownState, Master, MasterInfo, Merged, Recovery,
        RecoveryClaim, RollbackGuard, Status,
    },
    auth::bucket_policy::PublicAccessBlock,
    auth::{
        access,
        access::{Grant, Identity},
        policy,
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
    objects::batch::{BatchAction, BatchChange, BatchResult},
    objects::bucket::{BucketInfo, BucketPage},
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
    pins::{Keeper, RequestPins},
    public::{FindError, PublicObject, PublicReads},
    service::{Random, Service, system_random},
    settle::{Settled, unsettle_names},
    sse::MasterKeys,
};
