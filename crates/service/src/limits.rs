//! Every bound of the service, by name.

use std::time::Duration;

use crate::fault_injection::FaultInjection;

/// Bounds of one gateway process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a write may take from queueing to its answer.
    pub commit_deadline: Duration,
    /// How long a master goes on resolving an unanswered swap after its writers were told.
    pub resolve_for: Duration,
    /// Most changes in one round.
    pub round_changes_max: usize,
    /// Most bytes of small bodies in one round.
    pub round_bytes_max: usize,
    /// Most attempts of one commit round, the first included, whatever made the others necessary: mostly
    /// lost swaps.
    pub round_attempts_max: u32,
    /// Most changes waiting for one bucket.
    pub queue_max: usize,
    /// Most bytes of small bodies waiting for one bucket.
    pub queue_bytes_max: usize,
    /// How long roots that were replaced stay readable, and their blocks are kept.
    pub retention: Duration,
    /// Memory for bodies on their way in and out, in bytes.
    pub body_bytes: usize,
    /// Memory for decoded tree nodes, in bytes.
    pub cache_bytes: u64,
    /// Buckets whose root stays decoded.
    pub heads_max: usize,
    /// Most buckets of one owner.
    pub buckets_per_owner: u64,
    /// Most global names that one owner may hold where names are unique per owner: most buckets
    /// with something public.
    pub public_buckets_per_owner: u64,
    /// Whether reads are answered from the last known root while the arbiter cannot be asked.
    pub stale_reads: bool,
    /// Rules left out on purpose; none in anything shipped.
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
            retention: Duration::from_mins(10),
            body_bytes: 256 << 20,
            cache_bytes: 64 << 20,
            heads_max: 4096,
            buckets_per_owner: 10_000,
            public_buckets_per_owner: 100,
            stale_reads: false,
            faults: FaultInjection::default(),
        }
    }
}

/// Largest object of a single PUT or copy, in bytes.
pub const PUT_BYTES_MAX: u64 = 5 << 30;

/// Smallest part of a multipart upload except the last, in bytes.
pub const PART_BYTES_MIN: u64 = 5 << 20;

/// Highest part number.
pub const PARTS_MAX: u32 = 10_000;

/// Most user metadata of one object, names and values together, in bytes.
pub const METADATA_BYTES_MAX: usize = 2048;

/// Most entries in one page of any listing.
pub const PAGE_MAX: usize = 1000;

/// Most keys in one batch delete.
pub const DELETE_KEYS_MAX: usize = 1000;

/// Most access keys of one user, unless the operator says otherwise.
pub const KEYS_PER_USER: usize = 100;

/// Most changes of one multi-key commit.
pub const COMMIT_CHANGES_MAX: usize = 1000;

/// Largest body given in a multi-key commit itself, in bytes: one block.
pub const COMMIT_BODY_BYTES_MAX: usize = 1 << 20;

/// How long the answer of a completed upload is remembered.
pub const COMPLETED_KEPT_MS: u64 = 24 * 3600 * 1000;

/// How long the answer of a write is remembered for its retry: longer than any SDK retries.
pub const RECENT_KEPT_MS: u64 = 20 * 60 * 1000;

/// Returns whether an answer of that time may be forgotten now; both in milliseconds since 1970.
pub(crate) fn is_recent_expired(time: u64, now: u64) -> bool {
    time.saturating_add(RECENT_KEPT_MS) <= now
}

/// Most remembered answers that outlive the deletion of their bucket.
pub(crate) const RECENT_CARRIED_MAX: usize = 10_000;

/// Longest `amz-sdk-invocation-id` that is taken for one, in bytes.
pub(crate) const INVOCATION_BYTES_MAX: usize = 128;

/// Uploads looked at for expired answers whenever one begins.
pub(crate) const SWEEP_UPLOADS: usize = 16;

/// How long a writer's last commit is remembered in the root.
pub const AUTHORS_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
