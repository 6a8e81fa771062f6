//! The state of a gateway and its stores, which `fula status` prints on one page.

use std::sync::atomic::Ordering;

use fula_core::root::TimeMs;
use fula_ingest::SignerId;
use fula_service::{Master, Status, error::chain};
use serde::Serialize;

use crate::{
    gauges,
    node::Node,
    readiness,
    scrub::{self, Progress},
    space::Sizes,
    state::Ledger,
};

/// The state of a gateway and its stores at one time.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    version: &'static str,
    gateway: Option<Gateway>,
    /// The reason why requests cannot be served, if they cannot.
    not_ready: Option<String>,
    /// `None` if no data directory was named: then the page covers only what the masters share.
    data_dir: Option<String>,
    arbiter: String,
    blocks: String,
    /// The masters of a shared arbiter.
    masters: Vec<Master>,
    /// Numbers of buckets in the embedded arbiter.
    buckets: Option<Buckets>,
    disk: Option<Disk>,
    log: Option<Sizes>,
    collections: Option<Ledger>,
    scrub: Option<Progress>,
    /// Problems that need attention, each with its remedy.
    problems: Vec<String>,
}

/// The gateway process. Sizes are in bytes.
#[derive(Debug, Serialize)]
struct Gateway {
    started_ms: TimeMs,
    listen: Option<String>,
    connections: usize,
    connections_max: usize,
    resident_bytes: Option<u64>,
    body_bytes: usize,
    body_bytes_max: usize,
    cache_bytes: u64,
}

/// Numbers of buckets.
#[derive(Debug, Serialize)]
struct Buckets {
    live: usize,
    /// Deleted buckets whose rows are kept.
    deleted: usize,
}

/// The disk of the data directory.
#[derive(Debug, Serialize)]
struct Disk {
    #[serde(rename = "free_bytes")]
    free: u64,
    #[serde(rename = "size_bytes")]
    size: u64,
    /// Free space below which writes are refused.
    #[serde(rename = "reserved_bytes")]
    reserved: u64,
}

/// Returns the page. If a part of the state cannot be read, the page lists that as a problem.
pub(crate) async fn page(node: &Node) -> Page {
    let mut problems = Vec::new();
    let gateway = gateway(node);
    let is_scratch = node.backends.is_scratch;
    let unusable = readiness::check(node).await.err();
    let stopped = if gateway.is_none() && !is_scratch { Some(stopped(node).await) } else { None };
    problems.extend(stopped.iter().chain(&unusable).cloned());
    let not_ready = stopped.or(unusable);
    problems
        .extend(node.masters.get().into_iter().flat_map(|links| silent_masters(&links.silent())));
    let masters = masters(node, &mut problems).await;
    problems.extend(missing_masters(&masters, gateway.is_some()));
    if is_scratch && !masters.iter().any(|master| master.is_alive) {
        problems.push("no master was seen in the last minute: start `fula gateway`".to_owned());
    }
    let collections = node.collections.ledger();
    if let Some(failure) = &collections.failure {
        problems.push(format!("the last collection deleted nothing: {failure}; see fula fsck"));
    }
    damage(node, &mut problems);
    let scrub = scrub(node, &mut problems).await;
    let (mut disk_found, mut log) = (None, None);
    if !is_scratch {
        disk_found = disk(node, &mut problems);
        let sizes = Sizes::of(node, collections.last.as_ref());
        log = sizes.map_err(|error| problems.push(format!("the log: {}", chain(&error)))).ok();
    }
    Page {
        version: env!("CARGO_PKG_VERSION"),
        gateway,
        not_ready,
        data_dir: (!is_scratch).then(|| node.backends.data_dir.display().to_string()),
        arbiter: node.backends.arbiter_name(),
        blocks: node.backends.blocks_name().to_owned(),
        masters,
        buckets: node.recovery.is_none().then(|| {
            let (live, deleted) = node.store.roots.counts();
            Buckets { live, deleted }
        }),
        disk: disk_found,
        log,
        collections: (!is_scratch).then_some(collections),
        scrub,
        problems,
    }
}

/// Returns the problem that nothing runs on a data directory.
async fn stopped(node: &Node) -> String {
    if node.is_of_storage_node().await.unwrap_or(false) {
        "no storage node runs on this data directory: start `fula storage-node`".to_owned()
    } else {
        "no gateway runs on this data directory: start `fula gateway`".to_owned()
    }
}

/// Returns a problem of a storage node for each arbiter of which no master answers.
fn silent_masters(arbiters: &[SignerId]) -> Vec<String> {
    let text = |id: &SignerId| {
        format!(
            "no master with the key {id} answers this storage node, which accepts and serves nothing without them: run \
             fula doctor, which asks each"
        )
    };
    arbiters.iter().map(text).collect()
}

/// End of a problem whose cause is that of an earlier one.
pub(crate) const SAME_CAUSE: &str = ", for the same reason";

/// Adds that something could not be looked at. A cause that is among the problems is not repeated.
fn note_failure(problems: &mut Vec<String>, what: &str, cause: &str) {
    if problems.iter().any(|problem| problem.ends_with(cause)) {
        problems.push(format!("{what}{SAME_CAUSE}"));
    } else {
        problems.push(format!("{what}: {cause}"));
    }
}

/// Returns the progress of the scrub, and adds damaged blocks to the problems.
async fn scrub(node: &Node, problems: &mut Vec<String>) -> Option<Progress> {
    match scrub::progress(node.metadata.as_ref()).await {
        Ok(progress) => {
            let found = [&progress.last, &progress.current];
            let damaged = found.into_iter().flatten().map(|pass| pass.damaged).max();
            if let Some(damaged @ 1..) = damaged {
                problems.push(format!(
                    "the scrub found {damaged} damaged blocks: run fula fsck, which names the objects that \
                     need them"
                ));
            }
            Some(progress)
        }
        Err(error) => {
            note_failure(problems, "the state of the scrub cannot be read", &chain(&error));
            None
        }
    }
}

fn gateway(node: &Node) -> Option<Gateway> {
    let running = node.running.get()?;
    let budget = node.service.body_budget();
    Some(Gateway {
        started_ms: running.started,
        listen: running.listen.map(|address| address.to_string()),
        connections: running.connections.load(Ordering::Relaxed),
        connections_max: running.connections_max,
        resident_bytes: gauges::resident_bytes(),
        body_bytes: budget.used_bytes(),
        body_bytes_max: budget.bytes(),
        cache_bytes: node.nodes.cache_bytes(),
    })
}

/// Returns the masters of a shared arbiter, and adds forks to the problems.
async fn masters(node: &Node, problems: &mut Vec<String>) -> Vec<Master> {
    let Some(recovery) = &node.recovery else { return Vec::new() };
    match recovery.status().await {
        Ok(Status { forks, .. }) => {
            let texts = forks.keys().map(|bucket| {
                format!(
                    "bucket {bucket} is quarantined by a fork: look at it with fula roots merge"
                )
            });
            problems.extend(texts);
        }
        Err(error) => note_failure(problems, "forks cannot be listed", &chain(&error)),
    }
    recovery.list_masters().await.unwrap_or_else(|error| {
        note_failure(problems, "masters cannot be listed", &chain(&error));
        Vec::new()
    })
}

/// Returns a problem for each master that was not seen in the last minute. If this master was not seen
/// either, the arbiter did not answer, and nothing is known about the others.
fn missing_masters(masters: &[Master], runs_here: bool) -> Vec<String> {
    let is_away = |master: &&Master| !master.is_alive;
    if runs_here && masters.iter().filter(is_away).any(|master| master.is_self) {
        return vec![
            "no master could report in the last minute, because the arbiter did not answer: look \
             again in 15 seconds"
                .to_owned(),
        ];
    }
    let others = masters.iter().filter(is_away).filter(|master| !master.is_self);
    let text = |Master { name, info, .. }: &Master| {
        let host = if info.host.is_empty() { "" } else { " on " };
        format!(
            "master {name}{host}{} was not seen in the last minute: check whether it runs; only if it will not \
             come back, run fula masters forget {name}",
            info.host
        )
    };
    others.map(text).collect()
}

/// Adds the damage that was found, now or earlier, to the problems.
fn damage(node: &Node, problems: &mut Vec<String>) {
    let recovery = &node.store.recovery;
    if !recovery.missing.is_empty() {
        problems.push(format!(
            "segments of the log are missing, and a gateway refuses to start: {}; copy them back from a backup, \
             or see fula fsck --repair",
            recovery.missing.join(", ")
        ));
    }
    if recovery.is_unrepaired {
        problems.push("a repair did not end: run fula fsck --repair again".to_owned());
    }
    if node.store.is_damage_known() {
        let at_start = match recovery.damaged.len() {
            0 => String::new(),
            places => format!(", in {places} places at the start"),
        };
        problems.push(format!(
            "damage was found{at_start}: run fula fsck, which names what is affected; this stays until fula \
             fsck finds no problem"
        ));
    }
}

fn disk(node: &Node, problems: &mut Vec<String>) -> Option<Disk> {
    let room = match node.store.room() {
        Ok(room) => room,
        Err(error) => {
            problems.push(format!("the disk of the data directory: {}", chain(&error)));
            return None;
        }
    };
    let (free, reserved) = (room.free, room.kept());
    if free <= reserved {
        problems.push(format!(
            "the disk is full: {free} bytes are free, and writes are refused below {reserved}; delete \
             objects and run fula gc --now --retention 0s, remove other files, or use a larger disk"
        ));
    } else if room.is_short() {
        problems.push(format!(
            "the disk is nearly full: {free} bytes are free, and writes are refused below {reserved}; delete \
             objects and run fula gc --now --retention 0s, remove other files, or use a larger disk"
        ));
    }
    Some(Disk { free, size: room.size, reserved })
}

#[cfg(test)]
mod tests {
    use fula_service::MasterInfo;

    use super::*;

    fn master(name: &str, is_alive: bool, is_self: bool) -> Master {
        let info = MasterInfo { host: format!("host-{name}"), ..MasterInfo::default() };
        let name = name.to_owned();
        Master { name, info, seen_ms: Some(1), age_ms: Some(0), is_alive, is_self }
    }

    #[test]
    fn a_cause_is_told_once() {
        let mut problems = vec!["the arbiter does not answer: no answer".to_owned()];
        note_failure(&mut problems, "forks cannot be listed", "no answer");
        note_failure(&mut problems, "masters cannot be listed", "a record is damaged");
        assert_eq!(problems[1], "forks cannot be listed, for the same reason");
        assert_eq!(problems[2], "masters cannot be listed: a record is damaged");
    }

    #[test]
    fn nobody_is_told_to_forget_a_master_that_runs_here() {
        let [here, other, gone] =
            [master("a", true, true), master("b", true, false), master("c", false, false)];
        assert!(missing_masters(&[here.clone(), other], true).is_empty());
        let said = missing_masters(&[here, gone.clone()], true);
        assert!(said.len() == 1 && said[0].contains("fula masters forget c"), "{said:?}");
        assert!(said[0].contains("master c on host-c"), "{said:?}");
        // Right after an outage no master was seen, and none is to be forgotten.
        let said = missing_masters(&[master("a", false, true), gone.clone()], true);
        assert!(said.len() == 1 && said[0].contains("look again"), "{said:?}");
        // Another part of the page says that the master here does not run.
        let said = missing_masters(&[master("a", false, true), gone], false);
        assert!(said.len() == 1 && said[0].contains("fula masters forget c"), "{said:?}");
    }
}
