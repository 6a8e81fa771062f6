//! What this process knows of the arbiter: heads of buckets, coalesced reads of root pointers, and the
//! guard that notices an arbiter that goes back in time.

mod head;
mod reader;
mod rollback;

pub(crate) use self::{
    head::BucketAddress,
    reader::{Heard, PointerReader},
    rollback::{Asked, bucket_of, join_authors, name_of, parse_root},
};
pub use self::{
    head::Head,
    rollback::{Alarm, KnownState, RollbackGuard},
};
