//! What a gateway knows of itself while it runs.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use fula_core::root::TimeMs;
use fula_service::Collection;
use fula_stores::local::system_clock;
use parking_lot::Mutex;
use serde::Serialize;

/// A gateway that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// When it started, in milliseconds since 1970.
    pub(crate) started: TimeMs,
    /// Where it serves S3.
    pub(crate) listen: Option<SocketAddr>,
    /// Open connections of S3 clients.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Most of them.
    pub(crate) connections_max: usize,
}

/// What is known of the collections of this process.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Ledger>);

/// The newest of them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Ledger {
    /// When the last one that came to its end did so, in milliseconds since 1970, and what it found.
    pub(crate) ended: Option<(TimeMs, Collection)>,
    /// Why the last one failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Account {
    /// Returns what is known just now.
    pub(crate) fn ledger(&self) -> Ledger {
        self.0.lock().clone()
    }

    /// Notes what became of a collection.
    pub(crate) fn note(&self, collected: &Result<Collection, String>) {
        let mut ledger = self.0.lock();
        match collected {
            Ok(found) => {
                ledger.ended = Some((system_clock()(), *found));
                ledger.failure = None;
            }
            Err(error) => ledger.failure = Some(error.clone()),
        }
    }
}
