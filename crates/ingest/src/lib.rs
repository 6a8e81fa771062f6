//! Storage nodes: blocks that clients send directly, the receipts for them, and the leases that keep them.
//!
//! The documents are pure functions: [`receipt`], [`ticket`], [`peer`], and the rule by which a mapping is
//! admitted, [`mapping`]. [`node::StorageNode`] keeps blocks under [`holds`], on the storage traits of
//! `fula-core`. Nothing here knows of HTTP, of a backend, or of the time of day.
//!
//! # Invariants
//! - A receipt is given only for blocks that are durable together with the record of their hold.
//! - Whether an owner may read a block is decided by holds alone, before the block store is asked.
//! - A hold that has ended is released only after the masters said that nobody needs the block.
//!
//! [`receipt`] has a runnable example.
//!
//! # Deliberately absent
//! HTTP (`fula-gateway`), links between processes and settings (`fula`), the trees of buckets (`fula-service`).
//!
//! Decision: docs/adr/0043. Formats: docs/format.md.

mod document;
pub mod faults;
pub mod holds;
pub mod intake;
pub mod key;
pub mod mapping;
pub mod node;
pub mod peer;
pub mod receipt;
pub mod ticket;

pub use self::{
    document::InvalidDocument,
    key::{PublicKey, SignerId, SigningKey},
    node::{NodeError, NodeLimits, StorageNode},
    receipt::{DiskId, Receipt},
    ticket::Ticket,
};
