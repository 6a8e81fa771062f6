//! Records that masters exchange during a recovery, in tables that all of them share.

use bytes::Bytes;
use fula_core::{MetadataStore, metadata::Table, root::TimeMs};
use serde::{Deserialize, Serialize};

use crate::{error::ServiceError, limits::PAGE_MAX};

/// A recovery as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Current {
    pub(super) id: String,
    pub(super) reason: String,
    /// Whether an operator forces the recovery to continue without masters that do not answer.
    pub(super) forced: bool,
    pub(super) closed: bool,
    pub(super) healed: Vec<String>,
}

/// A state that a master remembers and the arbiter lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryClaim {
    /// Address of its root.
    pub root: String,
    /// Version of its root.
    pub version: u64,
}

/// What a master says when it has posted all its claims. Earlier versions say nothing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Posted {
    /// The highest generation of shared blocks that it knows.
    pub(super) generation: u64,
}

/// The lease of a master, as its record has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    /// Random text that tells it from earlier leases.
    pub(super) id: String,
    /// The highest generation that the master has seen; 0 before it knows, and while the arbiter is in doubt.
    pub(super) generation: u64,
    /// The master needs what it has put under this generation and later ones.
    pub(super) floor: u64,
    /// Its readers need the roots that were current at this time or later, by the arbiter's clock.
    pub(super) reads_since: TimeMs,
}

impl Lease {
    /// Returns the lease of a master that has stopped, and needs nothing.
    pub(super) fn of_none() -> Self {
        let max = u64::MAX;
        Self { id: String::new(), generation: max, floor: max, reads_since: max }
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Returns the live records of a table whose names begin with `prefix`.
pub(super) async fn records(
    metadata: &dyn MetadataStore,
    table: Table,
    prefix: &str,
) -> Result<Vec<(String, Bytes)>, ServiceError> {
    let mut found = Vec::new();
    let mut after = Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty());
    loop {
        let page = metadata.list(table, after.as_deref(), PAGE_MAX).await?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(last.clone());
        for (name, entry) in page {
            if !name.starts_with(prefix) {
                return Ok(found);
            }
            found.extend(entry.value.map(|value| (name, value)));
        }
    }
}

pub(super) fn parse<T: for<'a> Deserialize<'a>>(value: &Bytes) -> Result<T, ServiceError> {
    serde_json::from_slice(value)
        .map_err(|error| ServiceError::bug(format!("malformed recovery record: {error}")))
}
