//! Root pointers and commits, as answers of administrative requests.

use fula_core::{OwnerId, root::RootRow};
use fula_service::history;
use serde_json::{Value, json};

use super::{ROWS_PAGE, Refused, user_id};
use crate::node::Node;

/// Returns the root pointers of all buckets, or of those with one name, and the state of the recovery.
pub(super) async fn show_roots(node: &Node, bucket: Option<&str>) -> Result<Value, Refused> {
    let rows = all_rows(node).await?;
    let named =
        rows.iter().filter(|row| bucket.is_none_or(|name| row.address.name.as_str() == name));
    let buckets: Vec<Value> = named.map(row_json).collect();
    let status = match &node.recovery {
        Some(recovery) => Some(recovery.status().await?),
        None => None,
    };
    Ok(json!({"buckets": buckets, "recovery": status}))
}

fn row_json(row: &RootRow) -> Value {
    json!({
        "owner": row.address.owner.to_string(),
        "bucket": row.address.name.as_str(),
        "root": row.pointer.root.to_string(),
        "version": row.pointer.version,
        "generation": row.pointer.generation,
        "created_ms": row.created,
        "deleted_ms": row.deleted,
        "global_name": row.global_name,
    })
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
    let owner: Option<OwnerId> = user.map(|user| OwnerId::of_user(&user_id(user)));
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
            let whose = user.map(|user| format!(" of {}", user_id(user))).unwrap_or_default();
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
