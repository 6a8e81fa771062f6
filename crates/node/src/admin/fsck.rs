//! Checks every byte of the log, and every block that a bucket needs.

use std::collections::HashSet;

use fula_core::Cid;
use fula_service::{
    NodesChecked,
    error::chain,
    fsck::{self, Checked, Fault, Place, Problem, TreeName},
};
use fula_stores::Damage;
use serde_json::{Value, json};

use super::{Progress, Refused, all_rows, users};
use crate::{config::Backends, node::Node, scrub};

/// Most bytes of an answer that describe problems; further problems are only counted.
const NAMED_BYTES_MAX: usize = 8 << 20;

const COPY_BACK: &str = "copy the block back from a backup of the block store, or look at what fula fsck \
                         --repair offers";

/// The state of a check: the blocks that buckets need, and the problems found so far.
#[derive(Default)]
struct Needed {
    checked: Checked,
    /// Blocks whose records in the log are damaged. They are reported as damaged, not as missing.
    damaged: HashSet<Cid>,
    /// Blocks that a bucket needs and that are missing or damaged.
    faulty: HashSet<Cid>,
    /// Advice for a place in the log that may have held rows.
    lost_rows: &'static str,
    problems: u64,
    /// Number of problems that the answer counts and does not describe.
    left_off: u64,
    named_bytes: usize,
}

/// Reads every byte of the log, and every block reachable from the roots.
pub(super) async fn check(node: &Node, progress: &Progress) -> Result<Value, Refused> {
    let times_damaged = node.store.times_damaged();
    node.nodes.blocks().drop_copies();
    let report = |n, of| progress.say(format!("segment {} of {of} of the log", n + 1));
    let damaged = tokio::task::block_in_place(|| node.store.verify_reporting(&report));
    let damaged =
        damaged.map_err(|error| Refused(format!("cannot read the log: {}", chain(&error))))?;
    let checked = Checked::counting(progress.blocks());
    let mut needed = Needed {
        checked,
        lost_rows: lost_rows(node),
        damaged: damaged.iter().filter_map(|damage| damage.cid).collect(),
        ..Needed::default()
    };
    let users = users::by_owner(node).await;
    let mut buckets = Vec::new();
    let rows = all_rows(node).await?;
    let count = rows.len();
    for (n, row) in rows.into_iter().enumerate() {
        progress.say(format!("bucket {} of {count}, {}", n + 1, row.address.name));
        // A commit may have replaced the row since it was read: check the newest one.
        let newest = node.roots().get_roots(std::slice::from_ref(&row.address)).await?;
        let row = newest.value.into_iter().next().flatten().unwrap_or(row);
        // The head is held during the check, so that none of its blocks is collected.
        let held = node.service.arbiter().current(&row.address).await.ok().flatten();
        let row = held.as_ref().map_or(row, |head| head.row.clone());
        let report = fsck::check_bucket(&node.nodes, &row, &mut needed.checked).await?;
        drop(held);
        buckets.push(json!({
            "owner": report.bucket.owner.to_string(),
            "user": users.get(&report.bucket.owner),
            "bucket": report.bucket.name.as_str(),
            "blocks": report.blocks,
            "count": report.count,
            "problems": needed.name(&report),
        }));
    }
    note_suspects(node, &damaged);
    let places: Vec<Value> = damaged.iter().map(|damage| needed.place(damage)).collect();
    let is_unrepaired = node.store.recovery.is_unrepaired;
    let on_nodes = match on_nodes(node, progress).await {
        // The check of the nodes reads the same trees, and ends at what is damaged.
        Err(Refused(why)) if needed.problems > 0 => {
            tracing::warn!(why, "storage nodes were not checked");
            progress.say(why);
            None
        }
        checked => checked?,
    };
    let lost = on_nodes.as_ref().map_or(0, |checked| checked.lost_count);
    let problems = needed.problems + u64::from(is_unrepaired) + lost;
    note_outcome(node, problems, times_damaged).await;
    let cut: u64 = node.store.recovery.truncated.iter().map(|cut| cut.bytes).sum();
    Ok(json!({
        "problems": problems,
        "left_off": needed.left_off,
        "log_checked": !node.backends.is_scratch,
        "damaged": places,
        "buckets": buckets,
        "unfinished_bytes_cut": cut,
        "unfinished_repair": is_unrepaired,
        "storage_nodes": on_nodes.map(|checked| nodes_json(&checked)),
    }))
}

/// Asks the storage nodes of a gateway that runs whether they have what mapped objects need. `None` where there
/// is no gateway that could ask.
async fn on_nodes(node: &Node, progress: &Progress) -> Result<Option<NodesChecked>, Refused> {
    let Some(service) = node.with_nodes.get() else { return Ok(None) };
    progress.say("storage nodes".to_owned());
    let checked = service.check_nodes().await;
    let text = |error| Refused(format!("cannot check the storage nodes: {}", chain(&error)));
    Ok(Some(checked.map_err(text)?))
}

fn nodes_json(checked: &NodesChecked) -> Value {
    let lost = checked.lost.iter().map(|lost| {
        json!({
            "owner": lost.bucket.owner.to_string(),
            "bucket": lost.bucket.name.as_str(),
            "key": lost.key,
            "cid": lost.cid.to_string(),
            "nodes": lost.nodes,
        })
    });
    json!({
        "blocks": checked.blocks,
        "lost_count": checked.lost_count,
        "lost": lost.collect::<Value>(),
        "unknown": checked.unknown,
        "away": checked.away,
    })
}

/// Returns the advice for a damaged place in the log that may have held rows.
fn lost_rows(node: &Node) -> &'static str {
    let Backends { shared, blocks_url, .. } = &node.backends;
    if shared.is_some() {
        "it may have held this master's state of the arbiter: stop the gateway, and start it with an \
         empty data directory while all other masters run, or run fula fsck --repair --roots keep to \
         go on without it"
    } else if blocks_url.is_some() {
        "it may have held root pointers: copy the data directory back from a backup, or stop the gateway and run \
         fula fsck --repair --roots keep to go on without them"
    } else {
        "it may have held root pointers: stop the gateway and run fula fsck --repair"
    }
}

/// Marks damaged blocks, so that the next put of one of them stores it again.
fn note_suspects(node: &Node, damaged: &[Damage]) {
    let cids: Vec<Cid> = damaged.iter().filter_map(|damage| damage.cid).collect();
    let noted = tokio::task::block_in_place(|| node.store.note_suspects(&cids));
    if let Err(error) = noted {
        tracing::warn!(error = chain(&error), "cannot mark damaged blocks for being stored again");
    }
}

/// Keeps what `fula status` says about damage until a check finds no problem, and forgets it then.
/// `times_damaged` tells whether damage was found during the check.
async fn note_outcome(node: &Node, problems: u64, times_damaged: u64) {
    if node.backends.is_scratch {
        return;
    }
    if problems > 0 {
        return tokio::task::block_in_place(|| node.store.note_damage());
    }
    let forgotten = tokio::task::block_in_place(|| node.store.forget_damage(times_damaged));
    if let Err(error) = forgotten {
        tracing::warn!(error = chain(&error), "cannot record that no damage is left");
    }
    if let Err(error) = scrub::forget_damage(node.metadata.as_ref()).await {
        tracing::warn!(error = chain(&error), "cannot record that no block is damaged any more");
    }
}

impl Needed {
    /// Counts the problems of a bucket, and describes them as long as they fit the answer.
    fn name(&mut self, report: &fsck::Report) -> Vec<Value> {
        self.problems += report.count;
        self.faulty.extend(report.problems.iter().filter_map(|problem| problem.fault.cid()));
        let mut named = Vec::new();
        for problem in &report.problems {
            let mut problem = problem.clone();
            if let Fault::Missing(cid) = problem.fault
                && self.damaged.contains(&cid)
            {
                problem.fault = Fault::Damaged(cid);
            }
            let value = problem_json(&problem);
            let bytes = value.to_string().len();
            if self.named_bytes + bytes > NAMED_BYTES_MAX {
                break;
            }
            self.named_bytes += bytes;
            named.push(value);
        }
        self.left_off += report.count - named.len() as u64;
        named
    }

    /// Describes a damaged place of the log. Counts it as a problem, unless no bucket needs its block or the
    /// block is already counted with a bucket.
    fn place(&mut self, damage: &Damage) -> Value {
        let meaning = match damage.cid {
            Some(cid) if self.faulty.contains(&cid) => "named with the buckets that need it",
            Some(cid) if self.checked.is_good(&cid) => {
                self.problems += 1;
                "its bytes are whole, but not its record: stop the gateway and run fula fsck --repair"
            }
            Some(_) => "no bucket needs it any more",
            None if damage.segment.starts_with("commit") => {
                self.problems += 1;
                self.lost_rows
            }
            None => "if a bucket needs a block that was here, the block is listed as missing",
        };
        json!({
            "segment": damage.segment,
            "offset": damage.offset,
            "bytes": damage.bytes,
            "cid": damage.cid.map(|cid| cid.to_string()),
            "meaning": meaning,
        })
    }
}

pub(super) fn problem_json(problem: &Problem) -> Value {
    let Problem { place, fault } = problem;
    let key = match place {
        Place::Key(_, key) => Some(key),
        Place::Bucket | Place::Tree(_) | Place::Keys(..) => None,
    };
    json!({
        "cid": fault.cid().map(|cid| cid.to_string()),
        "key": key,
        "where": place_text(place),
        "what": fault_text(fault),
        "cleared_by": remedy(place, fault),
    })
}

fn tree_text(tree: TreeName) -> &'static str {
    match tree {
        TreeName::Objects => "objects",
        TreeName::Versions => "older versions",
        TreeName::Uploads => "uploads in progress",
        TreeName::Recent => "remembered answers",
    }
}

fn place_text(place: &Place) -> String {
    match place {
        Place::Bucket => "the whole bucket".to_owned(),
        Place::Tree(tree) => tree_text(*tree).to_owned(),
        Place::Key(TreeName::Objects, key) => format!("object {key}"),
        Place::Key(TreeName::Uploads, key) => format!("upload of {key}"),
        Place::Key(tree, key) => format!("{} of {key}", tree_text(*tree)),
        Place::Keys(tree, after, last) => {
            let what = tree_text(*tree);
            match (after, last) {
                (None, None) => format!("all {what}"),
                (Some(after), None) => format!("all {what} after {after}"),
                (None, Some(last)) => format!("all {what} up to {last}"),
                (Some(after), Some(last)) => format!("all {what} after {after} up to {last}"),
            }
        }
    }
}

fn fault_text(fault: &Fault) -> String {
    match fault {
        Fault::Missing(cid) => format!("block {cid} is missing"),
        Fault::Damaged(cid) => format!("block {cid} is damaged"),
        Fault::Malformed(cid, why) => format!("block {cid} is malformed: {why}"),
        Fault::RowDisagrees => "root block and root pointer disagree".to_owned(),
        Fault::Counters { said, found } => {
            let ((said, said_bytes), (found, found_bytes)) = (said, found);
            format!(
                "{said} entries of {said_bytes} bytes are counted, and {found} of {found_bytes} found"
            )
        }
    }
}

/// Returns what an operator or a user does to clear a problem.
fn remedy(place: &Place, fault: &Fault) -> &'static str {
    match (place, fault) {
        (Place::Key(TreeName::Objects, _), _) => "put the object again, or delete it",
        (Place::Key(TreeName::Uploads, _), _) => "abort the upload",
        (_, Fault::Missing(_) | Fault::Damaged(_)) => COPY_BACK,
        _ => "keep a copy of everything and report it: this is a fault of the software",
    }
}
