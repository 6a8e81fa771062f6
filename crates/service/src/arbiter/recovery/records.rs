//! Records that masters exchange during a recovery, in tables that all of them share.

use bytes::Bytes;
use fula_core::{MetadataStore, metadata::Table};
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
