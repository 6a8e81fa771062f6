//! What is known of the pins of a bucket: a record in the metadata store for each bucket, which is the lease of
//! the master that pins the bucket, too (docs/adr/0047).

use std::collections::BTreeMap;

use fula_core::{
    BucketAddress, MetadataStore, StoreError,
    metadata::{Entry, Table},
    root::TimeMs,
};
use serde::{Deserialize, Serialize};

use crate::turn::{self, Holder};

/// Number of records that are read at a time.
const PAGE: usize = 256;

/// Number of roots that a target was asked for, and that are not removed yet, from which on they are removed
/// before another root is asked for.
pub(super) const STALE_MAX: usize = 16;

/// The pins of one bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The master that pins the bucket, by its name.
    #[serde(flatten)]
    pub(crate) holder: Holder,
    /// What each target has, by name.
    pub(crate) targets: BTreeMap<String, Pinned>,
}

impl turn::Record for Record {
    fn holder(&self) -> &Holder {
        &self.holder
    }

    fn holder_mut(&mut self) -> &mut Holder {
        &mut self.holder
    }
}

/// What one target has of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pinned {
    /// The root that is pinned; none while that is not known.
    pub(crate) root: Option<String>,
    /// Version of the bucket that the root is.
    pub(crate) version: u64,
    /// Time at which it was pinned, by the arbiter's clock.
    pub(crate) at_ms: TimeMs,
    /// Whether a check found that it lacks blocks of what it pins.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lost: bool,
    /// Id of the request at a pinning service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
    /// Older roots, or ids of their requests, that are to be removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stale: Vec<String>,
}

impl Pinned {
    /// Notes something that is to be removed.
    pub(super) fn note_stale(&mut self, what: String) {
        if !what.is_empty() && !self.stale.contains(&what) {
            self.stale.push(what);
        }
    }
}

fn parse(entry: &Entry) -> Option<Record> {
    // A record of a later version is as good as none.
    Some(serde_json::from_slice(entry.value.as_ref()?).unwrap_or_default())
}

/// Returns all records, with their versions.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn all(
    metadata: &dyn MetadataStore,
) -> Result<Vec<(BucketAddress, Record, u64)>, StoreError> {
    let (mut found, mut after): (Vec<_>, Option<String>) = (Vec::new(), None);
    loop {
        let page = metadata.list(Table::Pins, after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(last.clone());
        let records = page
            .iter()
            .filter_map(|(name, entry)| Some((name.parse().ok()?, parse(entry)?, entry.version)));
        found.extend(records);
    }
}

/// Reads the record of a bucket. Returns it with its version; an empty one if there is none.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn read(
    metadata: &dyn MetadataStore,
    bucket: &BucketAddress,
) -> Result<(Record, u64), StoreError> {
    let (version, record) = turn::parse(metadata.read(Table::Pins, &bucket.to_string()).await?);
    Ok((record, version))
}

/// Deletes a record that is at a version. Nothing is done if another master has written it.
///
/// # Errors
/// [`StoreError`]: it may be deleted all the same.
pub(super) async fn delete(
    metadata: &dyn MetadataStore,
    bucket: &BucketAddress,
    version: u64,
) -> Result<(), StoreError> {
    metadata.write(Table::Pins, &bucket.to_string(), version, None).await.map(drop)
}
