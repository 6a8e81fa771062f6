//! Root pointers and commits, as answers of administrative requests.

use std::collections::HashMap;

use fula_core::{
    OwnerId,
    root::{GlobalName, RootRow},
};
use fula_service::{NamePolicy, history};
use futures::future;
use serde_json::{Value, json};

use super::{ROWS_PAGE, Refused, users};
use crate::{node::Node, user::owner_id};

/// Returns the root pointers of all buckets, or of those with one name, and the state of the recovery.
pub(super) async fn show_roots(node: &Node, bucket: Option<&str>) -> Result<Value, Refused> {
    let mut rows = all_rows(node).await?;
    rows.retain(|row| bucket.is_none_or(|name| row.address.name.as_str() == name));
    let users = users::by_owner(node).await;
    let mut buckets = Vec::with_capacity(rows.len());
    for rows in rows.chunks(ROOTS_AT_ONCE) {
        let mut shown = Vec::with_capacity(rows.len());
        for row in rows {
            shown.push(row_json(node, row, &users));
        }
        buckets.extend(future::join_all(shown).await);
    }
    let status = match &node.recovery {
        Some(recovery) => Some(recovery.status().await?),
        None => None,
    };
    Ok(json!({"buckets": buckets, "recovery": status}))
}

/// Roots that are read at a time.
const ROOTS_AT_ONCE: usize = 16;

async fn row_json(node: &Node, row: &RootRow, users: &HashMap<OwnerId, String>) -> Value {
    json!({
        "owner": row.address.owner.to_string(),
        "user": users.get(&row.address.owner),
        "bucket": row.address.name.as_str(),
        "root": row.pointer.root.to_string(),
        "version": row.pointer.version,
        "generation": row.pointer.generation,
        "created_ms": row.created,
        "deleted_ms": row.deleted,
        "global_name": row.global_name,
        "public": is_public(node, row).await,
    })
}

/// Returns whether anything of a bucket is public, or `None` if its root or its policy cannot be read.
async fn is_public(node: &Node, row: &RootRow) -> Option<bool> {
    let blocks = node.nodes.blocks().as_ref();
    // With this policy a bucket claims its name if and only if something of it is public.
    let name = NamePolicy::PerOwner.of_pointer(blocks, &row.pointer.root).await.ok()?;
    Some(name == GlobalName::ClaimIfFree)
}

pub(super) fn commit_json(commit: &history::Commit) -> Value {
    json!({
        "root": commit.root.to_string(),
        "version": commit.version,
        "time_ms": commit.time,
        "writer": commit.writer.map(|writer| writer.to_string()),
        "objects": commit.objects,
        "bytes": commit.bytes,
        "deleted": commit.deleted,
    })
}

/// Returns every row of the arbiter.
pub(super) async fn all_rows(node: &Node) -> Result<Vec<RootRow>, Refused> {
    let mut rows: Vec<RootRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.address.clone());
        let page = node.roots().scan_roots(after.as_ref(), ROWS_PAGE).await;
        let page = page?.value;
        if page.is_empty() {
            return Ok(rows);
        }
        rows.extend(page);
    }
}

pub(super) async fn find_row(
    node: &Node,
    bucket: &str,
    user: Option<&str>,
) -> Result<RootRow, Refused> {
    let owner: Option<OwnerId> = user.map(owner_id);
    let mut rows = all_rows(node).await?;
    rows.retain(|row| owner.is_none_or(|owner| row.address.owner == owner));
    let candidates = candidates(&rows, bucket);
    rows.retain(|row| row.address.name.as_str() == bucket);
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => Ok(row),
        (Some(_), false) => {
            Err(Refused(format!("several users have a bucket {bucket}: name one with --user")))
        }
        (None, _) => {
            let whose = user.map(|user| format!(" of {}", users::shown(user))).unwrap_or_default();
            Err(Refused(format!("there is no bucket {bucket}{whose}{candidates}")))
        }
    }
}

/// Most bucket names in the error for a bucket that does not exist.
const CANDIDATES: usize = 10;

/// Returns the end of that error: the names of existing buckets, those most like `wanted` first.
fn candidates(rows: &[RootRow], wanted: &str) -> String {
    let live = rows.iter().filter(|row| row.deleted.is_none());
    let mut names: Vec<&str> = live.map(|row| row.address.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let shared = |name: &str| name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
    let is_like = |name: &str| name.contains(wanted) || wanted.contains(name);
    names.sort_by_key(|name| (!is_like(name), std::cmp::Reverse(shared(name))));
    let more = names.len().saturating_sub(CANDIDATES);
    names.truncate(CANDIDATES);
    match (names.is_empty(), more) {
        (true, _) => "; there is none at all".to_owned(),
        (false, 0) => format!("; there are: {}", names.join(", ")),
        (false, more) => format!("; there are: {} and {more} more", names.join(", ")),
    }
}
