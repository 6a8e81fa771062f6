//! The pins of owners: what they ask to have pinned by its CID, and the blocks below it (docs/adr/0056).
//!
//! The pins of an owner are objects of a hidden bucket of that owner, so every change goes through the commit
//! pipeline, all masters see it, and collection keeps what a pin has. The key of a pin tells when it was made, the
//! newest first. Its state is metadata of the object. Its content is the blocks of the DAG, one after another, and
//! behind them an index with the CID and the length of each.
//!
//! # Invariants
//! - The owner whose pins a request reaches is the caller, decided in [`access`] alone.
//! - A pin is `pinned` only in the commit that links all of its blocks, each of which matches its CID.
//! - A change of a pin applies to the state that it was made from, or not at all.

pub mod access;
mod fetcher;
mod intake;
mod query;
mod requests;
mod state;

pub use self::{
    access::PinAction,
    fetcher::{PinBlocks, StoredPin},
    intake::{DagIntake, Totals},
    query::{NameMatch, PinPage, PinQuery},
    requests::NewPin,
    state::{PinState, PinStatus},
};
