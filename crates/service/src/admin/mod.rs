//! The operator's view of buckets.

pub mod fsck;
pub mod history;
pub mod restore;
