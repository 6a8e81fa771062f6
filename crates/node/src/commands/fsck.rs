//! `fula fsck`: exits with 0 when all is well, 1 when something is wrong, 2 when it could not
//! look.

use std::process::ExitCode;

use fula_core::RootPointerStore;
use fula_service::{Limits, error::chain, fsck};
use serde_json::Value;

use super::{
    admin::perform,
    text::{text, when},
};
use crate::{
    admin::Request,
    cli::{AdminArgs, CasMode, FsckArgs},
    config::Backends,
    files,
    node::{Node, Purpose},
};

const DAMAGED: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;

/// Runs `fula fsck`.
pub(crate) async fn run(args: FsckArgs) -> ExitCode {
    if args.repair {
        let mut repaired = repair(&args.common).await;
        if repaired.is_ok() {
            let request = Request::RestoreRoots { apply: args.apply };
            repaired = perform(&args.common, request).await.map(|offers| show_offers(&offers));
        }
        if let Err(text) = repaired {
            eprintln!("fula: {text}");
            return ExitCode::from(COULD_NOT_LOOK);
        }
    }
    match perform(&args.common, Request::Fsck { progress: true }).await {
        Ok(report) => {
            if args.common.json {
                println!("{report:#}");
            } else {
                show(&report);
            }
            if report["problems"] == 0 { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
        }
        Err(text) => {
            eprintln!("fula: {text}");
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

fn show(report: &Value) {
    for damage in report["damaged"].as_array().into_iter().flatten() {
        let what = damage["cid"].as_str().unwrap_or("records whose names are lost");
        let (segment, meaning) = (text(&damage["segment"]), text(&damage["meaning"]));
        println!("damaged: {what} ({segment} at {}): {meaning}", damage["offset"]);
    }
    for bucket in report["buckets"].as_array().into_iter().flatten() {
        let owner = text(&bucket["owner"]);
        let user = bucket["user"].as_str().map(|user| format!("{user}, ")).unwrap_or_default();
        println!(
            "bucket {} of {user}owner {owner}: {} blocks, {} problems",
            text(&bucket["bucket"]),
            bucket["blocks"],
            bucket["count"]
        );
        for problem in bucket["problems"].as_array().into_iter().flatten() {
            let (place, what) = (text(&problem["where"]), text(&problem["what"]));
            println!("  {place}: {what}. To clear it, {}.", text(&problem["cleared_by"]));
        }
    }
    if let Some(more) = report["left_off"].as_u64().filter(|more| *more > 0) {
        println!("{more} more problems are not named");
    }
    if let Some(cut) = report["unfinished_bytes_cut"].as_u64().filter(|cut| *cut > 0) {
        println!("{cut} bytes of unfinished writes were cut off the log when it was opened");
    }
    if report["unfinished_repair"] == true {
        println!("a repair did not end: run `fula fsck --repair` again");
    }
    println!("{} problems", report["problems"]);
}

/// Says on standard error which buckets can go back to an older root, or have.
fn show_offers(offers: &Value) {
    for offer in offers.as_array().into_iter().flatten() {
        let (bucket, owner) = (text(&offer["bucket"]), text(&offer["owner"]));
        eprintln!("fula: the newest root of bucket {bucket} of owner {owner} cannot be read");
        if offer["from_memory"] == true {
            eprintln!("  this gateway has it in memory: nothing of it is lost");
        }
        show_loss(offer);
        match (offer["restored_version"].as_u64(), offer["why_not"].as_str()) {
            (Some(now), _) => eprintln!("  the bucket can be read again, at version {now}"),
            (None, Some(why)) => eprintln!("  nothing was changed: {why}"),
            (None, None) => eprintln!("  nothing was changed; run again with --apply"),
        }
    }
}

/// Says what an older root lacks.
fn show_loss(offer: &Value) {
    let Some(version) = offer["version"].as_u64() else { return };
    let (lost, time) = (&offer["lost_version"], when(&offer["time_ms"]));
    eprintln!("  the newest that can be read is {}", text(&offer["root"]));
    eprintln!("  of {time}, at version {version}, with {} objects", offer["objects"]);
    eprintln!("  lost: the commits after version {version} up to {lost}");
    if let Some(objects) = offer["lost_objects"].as_u64() {
        eprintln!("  lost: a state with {objects} objects");
    }
    for problem in offer["problems"].as_array().into_iter().flatten() {
        eprintln!("  lost: {}: {}", text(&problem["where"]), text(&problem["what"]));
    }
}

/// Sets damaged segments aside and gives every bucket the newest root that its blocks tell of.
async fn repair(args: &AdminArgs) -> Result<(), String> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let backends = backends.map_err(|error| error.to_string())?;
    if backends.shared.is_some() || backends.blocks_url.is_some() {
        // There is no log that holds blocks and root pointers.
        return Ok(());
    }
    let dir = &backends.data_dir;
    if tokio::net::UnixStream::connect(files::socket_path(dir)).await.is_ok() {
        return Err("stop the gateway before repairing".to_owned());
    }
    let node = Node::open(&backends, Limits::default(), Purpose::Administer, true).await;
    let node = node.map_err(|error| chain(&error))?;
    let pointers_lost = node.store.recovery.pointers_at_risk() > 0;
    let aside = tokio::task::block_in_place(|| {
        // What is set aside is not found damaged again, if this is cut short.
        if pointers_lost {
            node.store.begin_repair()?;
        }
        node.store.set_damaged_aside()
    });
    let aside = aside.map_err(|error| format!("cannot set damaged segments aside: {error}"))?;
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
    let ended = tokio::task::block_in_place(|| node.store.end_repair());
    ended.map_err(|error| format!("cannot note that the repair has ended: {error}"))?;
    eprintln!("fula: set {aside} damaged segments aside, rebuilt {rebuilt} root pointers");
    Ok(())
}
