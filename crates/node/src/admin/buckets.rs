//! What buckets and owners store, and clones of buckets.

use std::collections::{BTreeMap, HashMap};

use fula_core::{
    BucketName, OwnerId, StoreError, block::require, bucket::BucketRoot, root::RootRow,
};
use fula_service::error::chain;
use fula_stores::local::system_clock;
use futures::future;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Refused,
    rows::{all_rows, find_row},
    users,
};
use crate::{gc::horizon, node::Node};

/// Roots that are read at a time.
const AT_ONCE: usize = 16;

/// Numbers of things, and the sums of their sizes in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Usage {
    /// Current objects.
    objects: u64,
    bytes: u64,
    /// Older versions and delete markers.
    versions: u64,
    version_bytes: u64,
    /// Parts of uploads that are not completed.
    upload_bytes: u64,
    /// All bytes: what `FULA_BUCKET_QUOTA` bounds.
    total_bytes: u64,
}

impl Usage {
    fn of(root: &BucketRoot) -> Self {
        let (objects, versions, uploads) = (root.objects, root.versions, root.uploads);
        Self {
            objects: objects.count,
            bytes: objects.bytes,
            versions: versions.count,
            version_bytes: versions.bytes,
            upload_bytes: uploads.bytes,
            total_bytes: objects.bytes + versions.bytes + uploads.bytes,
        }
    }

    fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.versions += other.versions;
        self.version_bytes += other.version_bytes;
        self.upload_bytes += other.upload_bytes;
        self.total_bytes += other.total_bytes;
    }
}

/// Returns what each bucket and each owner stores, or those of one user. The root of a bucket has its sums, so one
/// block is read for each bucket.
pub(super) async fn usage(node: &Node, user: Option<&str>) -> Result<Value, Refused> {
    let mut rows = all_rows(node).await?;
    let owner = user.map(users::owner_id);
    rows.retain(|row| {
        row.deleted.is_none() && owner.is_none_or(|owner| row.address.owner == owner)
    });
    let names = users::by_owner(node).await;
    let mut owners: BTreeMap<OwnerId, (u64, Usage)> = BTreeMap::new();
    let mut buckets = Vec::with_capacity(rows.len());
    for rows in rows.chunks(AT_ONCE) {
        let found = future::join_all(rows.iter().map(|row| root_of(node, row))).await;
        for (row, root) in rows.iter().zip(found) {
            let used = root.as_ref().map(Usage::of).unwrap_or_default();
            let (count, sum) = owners.entry(row.address.owner).or_default();
            *count += 1;
            sum.add(&used);
            let mut shown = shown(row.address.owner, &names, used);
            shown["bucket"] = json!(row.address.name.as_str());
            shown["version"] = json!(row.pointer.version);
            if let Err(error) = root {
                shown["problem"] =
                    json!(format!("cannot be read: {}; run fula fsck", chain(&error)));
            }
            buckets.push(shown);
        }
    }
    let owners = owners.into_iter().map(|(owner, (count, used))| {
        let mut shown = shown(owner, &names, used);
        shown["buckets"] = json!(count);
        shown
    });
    Ok(json!({"owners": owners.collect::<Vec<_>>(), "buckets": buckets}))
}

fn shown(owner: OwnerId, names: &HashMap<OwnerId, String>, used: Usage) -> Value {
    let mut shown = json!(used);
    shown["owner"] = json!(owner.to_string());
    shown["user"] = json!(names.get(&owner));
    shown
}

async fn root_of(node: &Node, row: &RootRow) -> Result<BucketRoot, StoreError> {
    let block = require(node.nodes.blocks().as_ref(), &row.pointer.root).await?;
    BucketRoot::from_block(&block)
}

/// Makes a bucket with the objects of another one at a version, or as they are now.
pub(super) async fn clone(
    node: &Node,
    (bucket, user): (&str, Option<&str>),
    version: Option<u64>,
    name: &str,
) -> Result<Value, Refused> {
    let row = find_row(node, bucket, user).await?;
    let new = BucketName::parse(name)
        .map_err(|error| Refused(format!("{name:?} cannot be the name of a bucket: {error}")))?;
    let kept_since = horizon::kept_since(node, system_clock()()).await?;
    let cloned = node.service.clone_bucket(&row.address, version, new, kept_since).await;
    let cloned = cloned.map_err(|error| Refused(format!("{bucket}: {}", chain(&error))))?;
    Ok(json!({
        "bucket": name,
        "source": bucket,
        "version": cloned.from,
        "objects": cloned.objects,
        "bytes": cloned.bytes,
    }))
}
