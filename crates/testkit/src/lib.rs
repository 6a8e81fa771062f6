//! Real parts for tests and drills. Nothing here is shipped.

pub mod check;
pub mod history;
pub mod postgres;
