//! `fula fsck`: exits with 0 when all is well, 1 when something is wrong, 2 when it could not
//! look.

use std::process::ExitCode;

use fula_core::RootPointerStore;
use fula_service::{Limits, error::chain, fsck};
use serde_json::Value;

use super::admin::perform;
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
    if args.repair
        && let Err(text) = repair(&args.common).await
    {
        eprintln!("fula: {text}");
        return ExitCode::from(COULD_NOT_LOOK);
    }
    match perform(&args.common, Request::Fsck).await {
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
        println!("damaged: {what} ({} at {})", damage["segment"], damage["offset"]);
    }
    for bucket in report["buckets"].as_array().into_iter().flatten() {
        let name = bucket["bucket"].as_str().unwrap_or("-");
        let problems = bucket["problems"].as_array().map_or(0, Vec::len);
        println!("{name}: {} blocks, {problems} problems", bucket["blocks"]);
        for problem in bucket["problems"].as_array().into_iter().flatten() {
            println!("  {}", problem.as_str().unwrap_or("-"));
        }
    }
    if let Some(cut) = report["unfinished_bytes_cut"].as_u64().filter(|cut| *cut > 0) {
        println!("{cut} bytes of unfinished writes were cut off the log when it was opened");
    }
    if report["unfinished_repair"] == true {
        println!("a repair did not end: run `fula fsck --repair` again");
    }
    println!("{} problems", report["problems"]);
}

/// Sets damaged segments aside and gives every bucket the newest root that its blocks tell of.
async fn repair(args: &AdminArgs) -> Result<(), String> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let backends = backends.map_err(|error| error.to_string())?;
    if backends.shared.is_some() || backends.blocks_url.is_some() {
        let text = "only a data directory that keeps blocks and root pointers can be repaired";
        return Err(text.to_owned());
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
