//! The state of a running gateway that `fula status` and the metrics show.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use async_trait::async_trait;
use fula_core::root::TimeMs;
use fula_service::Collection;
use fula_stores::local::system_clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Running {
    /// Time of its start, in milliseconds since 1970.
    pub(crate) started: TimeMs,
    /// Address on which it serves S3.
    pub(crate) listen: Option<SocketAddr>,
    /// Number of open connections of S3 clients.
    pub(crate) connections: Arc<AtomicUsize>,
    /// Limit of these connections.
    pub(crate) connections_max: usize,
}

/// What is to be done about pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PinsAction {
    /// List what targets have.
    List,
    /// Show how far targets are behind.
    Status,
    /// Try again what has failed.
    Retry,
    /// Check what targets have.
    Verify,
}

/// What pins buckets, as administrative requests see it.
#[async_trait]
pub(crate) trait Pins: std::fmt::Debug + Send + Sync {
    /// Carries out a request about buckets of one name, or about all. Calls `say` with each step.
    ///
    /// # Errors
    /// The buckets cannot be looked at.
    async fn carry_out(
        self: Arc<Self>,
        action: PinsAction,
        bucket: Option<&str>,
        say: &(dyn Fn(String) + Sync),
    ) -> Result<Value, String>;
}

/// The outcome of the collections of this process.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Ledger>);

/// The outcome of the newest collections.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Ledger {
    /// End of the last collection that succeeded, in milliseconds since 1970.
    pub(crate) ended_ms: Option<TimeMs>,
    /// Result of that collection.
    pub(crate) last: Option<Collection>,
    /// The reason why the last collection failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Account {
    /// Returns the outcome of the newest collections.
    pub(crate) fn ledger(&self) -> Ledger {
        self.0.lock().clone()
    }

    /// Forgets that a collection failed.
    pub(crate) fn forget_failure(&self) {
        self.0.lock().failure = None;
    }

    /// Records the outcome of a collection.
    pub(crate) fn note(&self, collected: &Result<Collection, String>) {
        let mut ledger = self.0.lock();
        match collected {
            Ok(found) => {
                (ledger.ended_ms, ledger.last) = (Some(system_clock()()), Some(*found));
                ledger.failure = None;
            }
            Err(error) => ledger.failure = Some(error.clone()),
        }
    }
}
