//! `fula fsck`: checks and repairs. It exits with 0 if there is no problem, with 1 if there is one, and with
//! 2 if the check was not possible.

use std::process::ExitCode;

use fula_core::RootPointerStore;
use fula_service::{Limits, error::chain, fsck};
use fula_stores::{LocalStore, OpenError, local::system_clock};
use serde_json::Value;

use super::{
    admin::perform,
    text::{counted, text, when},
};
use crate::{
    admin::Request,
    cli::{AdminArgs, CasMode, FsckArgs, RootsLeft},
    config::Backends,
    files::{self, DataDir},
    node::{Node, Purpose},
    output::{note, say},
};

const DAMAGED: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;

/// Runs `fula fsck`.
pub(crate) async fn run(args: FsckArgs) -> ExitCode {
    if args.repair {
        let mut repaired = repair(&args.common, args.roots).await;
        if repaired.is_ok() {
            let request = Request::RestoreRoots { apply: args.apply };
            let offers = perform(&args.common, request).await;
            repaired = offers.map(|offers| show_offers(&offers)).map_err(|failure| failure.text);
        }
        if let Err(text) = repaired {
            note!("fula: {text}");
            return ExitCode::from(COULD_NOT_LOOK);
        }
    }
    match perform(&args.common, Request::Fsck { progress: true }).await {
        Ok(report) => {
            if args.common.json {
                say!("{report:#}");
            } else {
                show(&report);
            }
            if report["problems"] == 0 { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
        }
        Err(failure) => {
            failure.report();
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

fn show(report: &Value) {
    for places in alike(&report["damaged"], &["segment", "meaning"]) {
        let first = places[0];
        let what = first["cid"].as_str().unwrap_or("records whose names are lost");
        let (segment, meaning) = (text(&first["segment"]), text(&first["meaning"]));
        let more = match places.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more places of this segment"),
        };
        say!("damaged: {what} ({segment} at {}){more}: {meaning}", first["offset"]);
    }
    for bucket in report["buckets"].as_array().into_iter().flatten() {
        let owner = text(&bucket["owner"]);
        let user = bucket["user"].as_str().map(|user| format!("{user}, ")).unwrap_or_default();
        say!(
            "bucket {} of {user}owner {owner}: {}, {}",
            text(&bucket["bucket"]),
            counted(&bucket["blocks"], "block"),
            counted(&bucket["count"], "problem")
        );
        for problems in alike(&bucket["problems"], &["where", "cleared_by"]) {
            let first = problems[0];
            let (place, what) = (text(&first["where"]), text(&first["what"]));
            let (more, them) = match problems.len() - 1 {
                0 => (String::new(), "it"),
                more => (format!(", and {more} more problems"), "them"),
            };
            say!("  {place}: {what}{more}. To clear {them}, {}.", text(&first["cleared_by"]));
        }
    }
    show_nodes(&report["storage_nodes"]);
    if let Some(more) = report["left_off"].as_u64().filter(|more| *more > 0) {
        say!("{more} more problems are not named");
    }
    if let Some(cut) = report["unfinished_bytes_cut"].as_u64().filter(|cut| *cut > 0) {
        say!("{cut} bytes of unfinished writes were cut off the log when it was opened");
    }
    if report["unfinished_repair"] == true {
        say!("a repair did not end: run `fula fsck --repair` again");
    }
    if report["log_checked"] == false {
        say!("the log of a gateway was not checked: name its data directory with --data-dir");
    }
    say!("{}", counted(&report["problems"], "problem"));
}

/// Prints what the storage nodes have lost.
fn show_nodes(report: &Value) {
    if report["blocks"].as_u64().unwrap_or(0) == 0 {
        return;
    }
    let blocks = counted(&report["blocks"], "block");
    say!("storage nodes: {blocks} of mapped objects, {} lost", report["lost_count"]);
    for lost in report["lost"].as_array().into_iter().flatten() {
        let (bucket, key, cid) = (text(&lost["bucket"]), text(&lost["key"]), text(&lost["cid"]));
        let owner = text(&lost["owner"]);
        let nodes: Vec<&str> =
            lost["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        say!(
            "  object {key} of bucket {bucket} of owner {owner}: block {cid} is lost on {}. To clear it, put the \
             object again, or delete it.",
            nodes.join(", ")
        );
    }
    let named = report["lost"].as_array().map_or(0, Vec::len) as u64;
    if let Some(more) = report["lost_count"].as_u64().and_then(|count| count.checked_sub(named))
        && more > 0
    {
        say!("  {more} more lost blocks are not named");
    }
    for away in report["away"].as_array().into_iter().flatten() {
        say!("  storage node {} does not answer: start it, and check again", text(away));
    }
    if let Some(unknown) = report["unknown"].as_u64().filter(|unknown| *unknown > 0) {
        say!("  {unknown} blocks were not checked");
    }
}

/// Splits a list into runs of values that are alike in some fields, so that each run is one line.
fn alike<'a>(list: &'a Value, fields: &[&str]) -> Vec<Vec<&'a Value>> {
    let mut runs: Vec<Vec<&Value>> = Vec::new();
    for value in list.as_array().into_iter().flatten() {
        match runs.last_mut() {
            Some(run) if fields.iter().all(|field| run[0][field] == value[field]) => {
                run.push(value);
            }
            _ => runs.push(vec![value]),
        }
    }
    runs
}

/// Prints on standard error which buckets can go back to an older root, or have done so.
fn show_offers(offers: &Value) {
    for offer in offers.as_array().into_iter().flatten() {
        let (bucket, owner) = (text(&offer["bucket"]), text(&offer["owner"]));
        note!("fula: the newest root of bucket {bucket} of owner {owner} cannot be read");
        if offer["from_memory"] == true {
            note!("  this gateway has it in memory, and can store it again");
        }
        show_loss(offer);
        match (offer["restored_version"].as_u64(), offer["why_not"].as_str()) {
            (Some(now), _) => note!("  the bucket can be read again, at version {now}"),
            (None, Some(why)) => note!("  nothing was changed: {why}"),
            (None, None) => note!("  nothing was changed; run again with --apply"),
        }
    }
}

/// Prints what a bucket loses when it goes back to an older root.
fn show_loss(offer: &Value) {
    let Some(version) = offer["version"].as_u64() else { return };
    let (lost, time) = (&offer["lost_version"], when(&offer["time_ms"]));
    note!("  the newest that can be read is {}", text(&offer["root"]));
    note!("  of {time}, at version {version}, with {} objects", offer["objects"]);
    note!("  lost: the commits after version {version} up to {lost}");
    if let Some(objects) = offer["lost_objects"].as_u64() {
        note!("  lost: a state with {objects} objects");
    }
    for problem in offer["problems"].as_array().into_iter().flatten() {
        note!("  lost: {}: {}", text(&problem["where"]), text(&problem["what"]));
    }
}

/// The error if a segment that held root pointers is missing and `--roots` is not given.
const SAY_HOW: &str = "a segment of the log is missing that held root pointers, and nothing was changed; run again \
                       with --roots keep to leave the root pointers that are there as they are, or with \
                       --roots rebuild to take the newest root of each bucket that is found among the \
                       blocks: it may belong to a change that was refused or never answered";

/// The same error if the blocks are not in the data directory.
const SAY_KEEP: &str = "a segment of the log is missing that held root pointers, and nothing was changed; copy the \
                        data directory back from a backup, or run again with --roots keep to go on with \
                        the root pointers that are there: they cannot be rebuilt from a block store \
                        outside the data directory, which may hold roots of other masters";

/// Repairs the log of a data directory.
async fn repair(args: &AdminArgs, roots: Option<RootsLeft>) -> Result<(), String> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let backends = backends.map_err(|error| error.to_string())?;
    let found = files::look_at(&backends.data_dir).map_err(|error| error.to_string())?;
    if found != DataDir::Used {
        if backends.shared.is_some() {
            return Ok(());
        }
        let dir = backends.data_dir.display();
        return Err(format!(
            "no gateway was ever started on the data directory {dir}; name that of a gateway with --data-dir or \
             FULA_DATA_DIR"
        ));
    }
    let socket = files::socket_path(&backends.data_dir);
    let is_running = tokio::net::UnixStream::connect(socket).await.is_ok();
    if backends.shared.is_some() || backends.blocks_url.is_some() {
        if is_running {
            // The gateway would not have started with a log that lacks segments.
            return Ok(());
        }
        return tokio::task::block_in_place(|| repair_log(&backends, roots));
    }
    if is_running {
        return Err("stop the gateway before repairing".to_owned());
    }
    repair_all(&backends, roots).await
}

/// Gives up the missing segments of a log that holds no blocks, or no root pointers.
fn repair_log(backends: &Backends, roots: Option<RootsLeft>) -> Result<(), String> {
    if !backends.data_dir.join("log").is_dir() {
        return Ok(());
    }
    let store = match LocalStore::open(&backends.data_dir, system_clock(), true) {
        // The next step reports the process that uses it.
        Err(OpenError::InUse(_)) => return Ok(()),
        store => store.map_err(|error| chain(&error))?,
    };
    let has_roots = backends.shared.is_none();
    let must_say = has_roots && store.recovery.lacks_rows() && roots.is_none();
    if must_say || (has_roots && roots == Some(RootsLeft::Rebuild)) {
        return Err(SAY_KEEP.to_owned());
    }
    let missing = store.recovery.missing.join(", ");
    let given_up = store.give_up_missing();
    given_up.map_err(|error| format!("cannot give up {missing}: {}", chain(&error)))?;
    if !missing.is_empty() {
        note!("fula: gave up what was in {missing}");
    }
    if roots == Some(RootsLeft::Keep) {
        set_aside_and_end(&store)?;
    }
    Ok(())
}

/// Sets damaged segments aside, and leaves root pointers as they are.
fn set_aside_and_end(store: &LocalStore) -> Result<(), String> {
    let aside = store.set_damaged_aside();
    let aside =
        aside.map_err(|error| format!("cannot set damaged segments aside: {}", chain(&error)))?;
    let ended = store.end_repair();
    ended.map_err(|error| format!("cannot note that the repair has ended: {}", chain(&error)))?;
    note!("fula: set {aside} damaged segments aside, left root pointers as they are");
    Ok(())
}

/// Sets damaged segments aside, and gives every bucket the newest root that is found among its blocks.
async fn repair_all(backends: &Backends, roots: Option<RootsLeft>) -> Result<(), String> {
    let node = Node::open(backends, Limits::default(), Purpose::Administer, true).await;
    let node = node.map_err(|error| chain(&error))?;
    match roots {
        None if node.store.recovery.lacks_rows() => return Err(SAY_HOW.to_owned()),
        Some(RootsLeft::Keep) => {
            return tokio::task::block_in_place(|| set_aside_and_end(&node.store));
        }
        None | Some(RootsLeft::Rebuild) => {}
    }
    let pointers_lost = node.store.recovery.pointers_at_risk() > 0;
    let aside = tokio::task::block_in_place(|| {
        // Segments that are set aside are not found damaged again if the repair is interrupted, so it is
        // recorded first.
        if pointers_lost {
            node.store.begin_repair()?;
        }
        node.store.set_damaged_aside()
    });
    let aside =
        aside.map_err(|error| format!("cannot set damaged segments aside: {}", chain(&error)))?;
    let rebuilt = rebuild_roots(&node, pointers_lost).await?;
    let ended = tokio::task::block_in_place(|| node.store.end_repair());
    ended.map_err(|error| format!("cannot note that the repair has ended: {}", chain(&error)))?;
    note!("fula: set {aside} damaged segments aside, rebuilt {rebuilt} root pointers");
    Ok(())
}

/// Gives every bucket the newest root that is found among its blocks. Returns the number of changed root
/// pointers.
async fn rebuild_roots(node: &Node, pointers_lost: bool) -> Result<u64, String> {
    let blocks = node.nodes.blocks().as_ref();
    let newest = fsck::newest_roots(blocks).await.map_err(|error| chain(&error))?;
    let mut rebuilt = 0;
    for mut row in newest {
        let known = node.store.roots.get_roots(std::slice::from_ref(&row.address)).await;
        let known = known.map_err(|error| chain(&error))?;
        let known = known.value.into_iter().next().flatten();
        // The rows of deleted buckets are dropped, and their blocks may still be there.
        let was_dropped = known.is_none() && row.pointer.version <= node.store.roots.floor();
        if was_dropped && !pointers_lost {
            continue;
        }
        // A root above its row may be one that was never published: it is taken only when rows
        // were lost.
        let lost = known
            .as_ref()
            .is_none_or(|known| pointers_lost && known.pointer.version < row.pointer.version);
        if lost {
            let holder = node.store.roots.find_bucket(&row.address.name).await;
            let holder = holder.map_err(|error| chain(&error))?.value;
            let free = holder.is_none_or(|holder| holder.address.owner == row.address.owner);
            row.global_name = row.deleted.is_none() && free;
            node.store.restore_row(row).await.map_err(|error| chain(&error))?;
            rebuilt += 1;
        }
    }
    if rebuilt > 0 {
        // A rebuilt row holds its name if that is free; the next start decides whether it should.
        let unsettled = fula_service::unsettle_names(node.metadata.as_ref()).await;
        unsettled.map_err(|error| chain(&error))?;
    }
    Ok(rebuilt)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_alike_is_one_line() {
        let list = json!([
            {"where": "a", "what": 1, "cleared_by": "x"},
            {"where": "a", "what": 2, "cleared_by": "x"},
            {"where": "b", "what": 3, "cleared_by": "x"},
            {"where": "b", "what": 4, "cleared_by": "y"},
        ]);
        let runs = alike(&list, &["where", "cleared_by"]);
        assert_eq!(runs.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(alike(&json!(null), &["where"]).is_empty());
    }
}
