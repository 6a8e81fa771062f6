//! The client against a gateway in this process, whose network can fail.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batches;
mod downloads;
mod faults;
#[expect(dead_code, reason = "examples use the rest")]
mod gateway;
mod hostile;
mod listings;
mod nodes;
mod operations;
mod proofs;
mod reseal;
mod resume;
mod site;
mod small;
mod uploads;
mod vaults;
