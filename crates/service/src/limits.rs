//! The limits of the service, each with a name.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::fault_injection::FaultInjection;

/// A bound on the bytes of replaced and deleted content that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainedMax {
    /// There is none: the retention alone decides.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
    /// This share of the bytes in use, in percent.
    Percent(u32),
}

/// The limits of one gateway process that an operator can set.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest time from queueing a write to its answer.
    pub commit_deadline: Duration,
    /// Time for which a master continues to resolve an unanswered swap after its writers were told.
    pub resolve_for: Duration,
    /// Largest number of changes in one round.
    pub round_changes_max: usize,
    /// Largest number of bytes of small bodies in one round.
    pub round_bytes_max: usize,
    /// Largest number of attempts of one commit round, including the first. Most repetitions are caused by
    /// lost swaps.
    pub round_attempts_max: u32,
    /// Largest number of changes that wait for one bucket.
    pub queue_max: usize,
    /// Largest number of bytes of small bodies that wait for one bucket.
    pub queue_bytes_max: usize,
    /// Whether garbage is collected. If not, nothing is deleted that was replaced or deleted.
    pub collects: bool,
    /// Time for which replaced roots stay readable and their blocks are kept.
    pub retention: Duration,
    /// Largest number of bytes that are kept for the retention. Beyond it, the oldest go before their time.
    pub retained_max: RetainedMax,
    /// Memory for request and response bodies, in bytes.
    pub body_bytes: usize,
    /// Memory for decoded tree nodes, in bytes.
    pub cache_bytes: u64,
    /// Number of buckets whose decoded root is cached.
    pub heads_max: usize,
    /// Largest number of buckets of one owner.
    pub buckets_per_owner: u64,
    /// Largest number of global names that one owner may hold where bucket names are unique per owner. Each
    /// public bucket holds one.
    pub public_buckets_per_owner: u64,
    /// Largest sum of the sizes of all objects, versions and parts of one bucket in bytes; 0 for no limit.
    pub bucket_bytes_max: u64,
    /// The same of all buckets of one owner together; 0 for no limit.
    pub owner_bytes_max: u64,
    /// Whether reads are answered from the last known root while the arbiter is away.
    pub stale_reads: bool,
    /// Fault that tests inject. Shipped builds inject none.
    pub faults: FaultInjection,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            commit_deadline: Duration::from_secs(10),
            resolve_for: Duration::from_mins(1),
            round_changes_max: 256,
            round_bytes_max: 16 << 20,
            round_attempts_max: 64,
            queue_max: 4096,
            queue_bytes_max: 64 << 20,
            collects: true,
            retention: Duration::from_mins(10),
            retained_max: RetainedMax::Percent(100),
            body_bytes: 256 << 20,
            cache_bytes: 64 << 20,
            heads_max: 4096,
            buckets_per_owner: 10_000,
            public_buckets_per_owner: 100,
            bucket_bytes_max: 0,
            owner_bytes_max: 0,
            stale_reads: false,
            faults: FaultInjection::default(),
        }
    }
}

/// How many buckets one owner may have, and how large they may be. The numbers can change while the service runs.
#[derive(Debug)]
pub(crate) struct BucketLimits {
    buckets: AtomicU64,
    public_buckets: AtomicU64,
    bytes: AtomicU64,
    owner_bytes: AtomicU64,
}

impl BucketLimits {
    pub(crate) fn of(limits: &Limits) -> Self {
        Self {
            buckets: limits.buckets_per_owner.into(),
            public_buckets: limits.public_buckets_per_owner.into(),
            bytes: limits.bucket_bytes_max.into(),
            owner_bytes: limits.owner_bytes_max.into(),
        }
    }

    /// Returns the largest number of buckets.
    pub(crate) fn buckets(&self) -> u64 {
        self.buckets.load(Ordering::Relaxed)
    }

    /// Returns the largest number of public buckets where bucket names are unique per owner.
    pub(crate) fn public_buckets(&self) -> u64 {
        self.public_buckets.load(Ordering::Relaxed)
    }

    /// Returns the largest sum of the sizes of all objects, versions and parts of one bucket; 0 for no limit.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the largest sum of the sizes of all buckets of one owner; 0 for no limit.
    pub(crate) fn owner_bytes(&self) -> u64 {
        self.owner_bytes.load(Ordering::Relaxed)
    }

    /// Takes the numbers over from `limits`.
    pub(crate) fn set(&self, limits: &Limits) {
        self.buckets.store(limits.buckets_per_owner, Ordering::Relaxed);
        self.public_buckets.store(limits.public_buckets_per_owner, Ordering::Relaxed);
        self.bytes.store(limits.bucket_bytes_max, Ordering::Relaxed);
        self.owner_bytes.store(limits.owner_bytes_max, Ordering::Relaxed);
    }
}

/// Largest object of a single PUT or copy, in bytes.
pub const PUT_BYTES_MAX: u64 = 5 << 30;

/// Smallest part of a multipart upload except the last, in bytes.
pub const PART_BYTES_MIN: u64 = 5 << 20;

/// Highest part number.
pub const PARTS_MAX: u32 = 10_000;

/// Largest user metadata of one object, names and values together, in bytes.
pub const METADATA_BYTES_MAX: usize = 2048;

/// Largest number of entries in one page of any listing.
pub const PAGE_MAX: usize = 1000;

/// Largest number of keys in one batch delete.
pub const DELETE_KEYS_MAX: usize = 1000;

/// Default of the largest number of access keys of one user.
pub const KEYS_PER_USER: usize = 100;

/// Largest number of changes of one multi-key commit.
pub const COMMIT_CHANGES_MAX: usize = 1000;

/// Largest body inside a multi-key commit, in bytes: one block.
pub const COMMIT_BODY_BYTES_MAX: usize = 1 << 20;

/// Time for which the answer of a completed upload is remembered, in milliseconds.
pub const COMPLETED_KEPT_MS: u64 = 24 * 3600 * 1000;

/// Time for which the answer of a write is remembered for a retry, in milliseconds. It is longer than any
/// SDK retries.
pub const RECENT_KEPT_MS: u64 = 20 * 60 * 1000;

/// Returns whether an answer of the time `time` may be forgotten at `now`, both in milliseconds since 1970.
pub(crate) fn is_recent_expired(time: u64, now: u64) -> bool {
    time.saturating_add(RECENT_KEPT_MS) <= now
}

/// Largest number of remembered answers that survive the deletion of their bucket.
pub(crate) const RECENT_CARRIED_MAX: usize = 10_000;

/// Longest accepted `amz-sdk-invocation-id`, in bytes.
pub(crate) const INVOCATION_BYTES_MAX: usize = 128;

/// Number of uploads that are checked for expired answers whenever one begins.
pub(crate) const SWEEP_UPLOADS: usize = 16;

/// Time for which the last commit of a writer is remembered in the root, in milliseconds.
pub const AUTHORS_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
