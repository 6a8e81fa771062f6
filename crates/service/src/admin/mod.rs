//! Operator functions on buckets: checks, restoring older roots, and history.

pub mod fsck;
pub mod history;
pub mod restore;
