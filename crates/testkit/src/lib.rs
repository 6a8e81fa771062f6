//! Real parts for tests and drills. Nothing here is shipped.

pub mod postgres;
