//! Finds an older readable root for each bucket whose newest root cannot be read (ADR 0040).

use fula_core::root::RootRow;
use fula_service::{
    error::chain,
    fsck::{self, Checked, Problem},
    restore::{self, Offer, Unreadable},
};
use serde_json::{Value, json};

use super::{Progress, Refused, all_rows, fsck::problem_json};
use crate::node::Node;

/// Most problems of one offer that the answer describes.
const NAMED_MAX: usize = 1000;

const DELETED: &str =
    "it is deleted, and cannot be created again before its root is copied back from a backup";

const UNKNOWN: &str = "this master never knew its newest state: run the command on the master that wrote to \
                       the bucket last, which remembers it";

const NOTHING_FOUND: &str =
    "no older root of it can be read: copy its blocks back from a backup of the block store";

/// Finds the buckets whose newest root cannot be read, and an older root for each. With `apply`, the buckets
/// go back to those roots.
pub(super) async fn roots(node: &Node, apply: bool, progress: &Progress) -> Result<Value, Refused> {
    progress.say("looking for packs that are not listed".to_owned());
    node.nodes.blocks().drop_copies();
    let packs = node.nodes.blocks().recover().await?;
    if packs > 0 {
        progress.say(format!("listed {packs} packs of blocks that were not listed"));
    }
    let mut checked = Checked::counting(progress.blocks());
    let mut unreadable: Vec<RootRow> = Vec::new();
    let mut answers = Vec::new();
    for row in all_rows(node).await? {
        progress.say(format!("looking at bucket {}", row.address.name));
        let report = fsck::check_bucket(&node.nodes, &row, &mut checked).await?;
        if !restore::is_unreadable(&report.problems) {
            continue;
        }
        let is_lost = |problem: &Problem| problem.fault.cid() == Some(row.pointer.root);
        if report.problems.iter().any(is_lost)
            && node.service.arbiter().root_in_memory(&row).is_some()
        {
            answers.push(from_memory(node, &row, apply).await);
        } else {
            unreadable.push(row);
        }
    }
    if unreadable.is_empty() {
        return Ok(Value::Array(answers));
    }
    progress.say("searching all blocks for older roots".to_owned());
    let mut buckets = Vec::new();
    for row in unreadable {
        let authors = node.service.arbiter().authors_of(&row).await?;
        match (row.deleted, &authors) {
            (Some(_), _) => answers.push(without_offer(&row, DELETED)),
            (None, None) if node.recovery.is_some() => answers.push(without_offer(&row, UNKNOWN)),
            (None, _) => buckets.push(Unreadable { row, authors }),
        }
    }
    let offers = restore::offers(&node.nodes, &buckets, &mut checked).await?;
    for Unreadable { row, .. } in &buckets {
        answers.push(match offers.iter().find(|offer| offer.row.address == row.address) {
            Some(offer) => answer(node, offer, apply).await,
            None => without_offer(row, NOTHING_FOUND),
        });
    }
    Ok(Value::Array(answers))
}

fn without_offer(row: &RootRow, why: &str) -> Value {
    json!({
        "owner": row.address.owner.to_string(),
        "bucket": row.address.name.as_str(),
        "lost_version": row.pointer.version,
        "why_not": why,
    })
}

/// Describes a root block that is lost and that this gateway has in memory, and stores it again if `apply` is
/// set. Other blocks of the bucket may be lost as well; a check finds them once the root can be read.
async fn from_memory(node: &Node, row: &RootRow, apply: bool) -> Value {
    let (mut restored, mut why_not) = (None, None);
    if apply {
        match node.service.arbiter().put_root_back(row).await {
            Ok(true) => restored = Some(row.pointer.version),
            Ok(false) => why_not = Some("the bucket has a newer root: run again".to_owned()),
            Err(error) => why_not = Some(chain(&error)),
        }
    }
    json!({
        "owner": row.address.owner.to_string(),
        "bucket": row.address.name.as_str(),
        "lost_root": row.pointer.root.to_string(),
        "lost_version": row.pointer.version,
        "from_memory": true,
        "restored_version": restored,
        "why_not": why_not,
    })
}

/// Describes an offer, and carries it out if `apply` is set.
async fn answer(node: &Node, offer: &Offer, apply: bool) -> Value {
    let (mut restored, mut why_not) = (None, None);
    if apply {
        let (arbiter, random) = (node.service.arbiter(), fula_service::system_random());
        let is_shared = node.recovery.is_some();
        let done =
            arbiter.restore_root(&offer.row, offer.root, node.names, &random, is_shared).await;
        match done {
            Ok(version) => restored = Some(version),
            Err(error) => why_not = Some(chain(&error)),
        }
    }
    let problems = offer.problems.iter().take(NAMED_MAX);
    json!({
        "owner": offer.row.address.owner.to_string(),
        "bucket": offer.row.address.name.as_str(),
        "lost_root": offer.row.pointer.root.to_string(),
        "lost_version": offer.row.pointer.version,
        "lost_objects": offer.lost_objects.map(|(count, _)| count),
        "root": offer.root.to_string(),
        "version": offer.version,
        "time_ms": offer.time,
        "objects": offer.objects.0,
        "bytes": offer.objects.1,
        "problems": problems.map(problem_json).collect::<Vec<_>>(),
        "restored_version": restored,
        "why_not": why_not,
    })
}
