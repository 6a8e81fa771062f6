//! Real parts for tests and drills. Nothing in this crate is shipped.

pub mod check;
pub mod cluster;
pub mod history;
pub mod link;
pub mod multiplexer;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod rng;
pub mod s3;
