//! What a backup needs of the arbiter apart from the content of buckets, and how it comes back.

use std::collections::BTreeSet;

use fula_core::{BucketAddress, BucketName, OwnerId, root::RootRow};
use fula_service::auth::{PutBack, Revoked};
use serde_json::{Value, json};

use super::{ROWS_PAGE, Refused, request::State};
use crate::node::Node;

/// Returns the rows of up to a thousand buckets after one, in order of owner and name.
pub(super) async fn rows(node: &Node, after: Option<(String, String)>) -> Result<Value, Refused> {
    let after = after.map(|(owner, name)| address(&owner, &name)).transpose()?;
    let page = node.roots().scan_roots(after.as_ref(), ROWS_PAGE).await?.value;
    let rows = page.iter().map(row_json).collect::<Vec<_>>();
    Ok(json!(rows))
}

/// Returns the address of a bucket whose owner is given by id.
pub(super) fn address(owner: &str, name: &str) -> Result<BucketAddress, Refused> {
    let wrong = || Refused(format!("{owner} is no owner id, or {name} no name of a bucket"));
    let owner: OwnerId = owner.parse().map_err(|_| wrong())?;
    Ok(BucketAddress::new(owner, BucketName::parse_stored(name).map_err(|_| wrong())?))
}

fn row_json(row: &RootRow) -> Value {
    json!({
        "owner": row.address.owner.to_string(),
        "bucket": row.address.name.as_str(),
        "root": row.pointer.root.to_string(),
        "version": row.pointer.version,
        "global_name": row.global_name,
        "deleted": row.deleted.is_some(),
    })
}

/// Returns all revocations, and the fingerprint of the key that encrypts the access keys.
pub(super) async fn facts(node: &Node) -> Result<Value, Refused> {
    let revocations = node.authenticator.revocations();
    revocations.look().await?;
    let all: Vec<_> =
        revocations.all().into_iter().map(|found| (found.revoked, found.at)).collect();
    let keys = node.authenticator.keys();
    let (secrets_key, lines) = (keys.sealing_fingerprint(), keys.sealing_lines());
    Ok(json!({"revocations": all, "secrets_key": secrets_key, "secrets_keys": lines}))
}

/// Returns the records of up to a thousand access keys after one, by id.
pub(super) async fn keys(node: &Node, after: Option<&str>) -> Result<Value, Refused> {
    let page = node.authenticator.keys().records_after(after, ROWS_PAGE).await?;
    let keys = page.iter().map(|(id, record)| (id, String::from_utf8_lossy(record)));
    Ok(json!(keys.collect::<Vec<_>>()))
}

/// Puts back what the arbiter lacks. What it has stays as it is.
pub(super) async fn put_back(node: &Node, state: State) -> Result<Value, Refused> {
    let known: BTreeSet<Revoked> =
        node.authenticator.revocations().all().into_iter().map(|found| found.revoked).collect();
    let mut revocations = 0;
    for (revoked, at) in state.revocations {
        if !known.contains(&revoked) {
            node.authenticator.revocations().revoke(revoked, at).await?;
            revocations += 1;
        }
    }
    let (mut restored, mut already, mut differ) = (0, 0, Vec::new());
    for (id, record) in state.keys {
        match node.authenticator.keys().put_back(&id, record.into()).await? {
            PutBack::Restored => restored += 1,
            PutBack::Already => already += 1,
            PutBack::Differs => differ.push(id),
        }
    }
    Ok(json!({"revocations": revocations, "keys": restored, "already": already, "differ": differ}))
}
