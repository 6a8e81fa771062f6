//! Operator functions on buckets: checks, clones, restoring older roots, and history.

pub mod clone;
pub mod fsck;
pub mod history;
pub mod restore;
