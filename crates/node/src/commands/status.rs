//! `fula status`: prints the state of a gateway. It exits with 0 if a gateway runs without problems, with 1
//! if something needs attention, and with 2 if the state could not be read.

use std::{net::SocketAddr, process::ExitCode};

use serde_json::Value;

use super::{
    admin::perform,
    text::{ago, bytes, text, when},
};
use crate::{admin::Request, cli::StatusArgs, listeners::usable, output::say};

const NEEDS_ATTENTION: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;

/// Runs `fula status`.
pub(crate) async fn run(args: StatusArgs) -> ExitCode {
    match perform(&args.common, Request::Status).await {
        Ok(page) => {
            if args.common.json {
                say!("{page:#}");
            } else {
                show(&page);
            }
            let is_well = page["problems"].as_array().is_some_and(Vec::is_empty);
            if is_well { ExitCode::SUCCESS } else { ExitCode::from(NEEDS_ATTENTION) }
        }
        Err(failure) => {
            failure.report();
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

fn line(name: &str, value: &str) {
    say!("{name:<13}{value}");
}

/// Returns the address at which a client on this machine reaches a gateway.
fn listen(address: &Value) -> String {
    match text(address).parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            format!("{} and all other addresses", usable(address))
        }
        _ => text(address).to_owned(),
    }
}

fn show(page: &Value) {
    let gateway = &page["gateway"];
    let is_scratch = page["data_dir"].is_null();
    let serves = if is_scratch {
        "what masters share; for more, name a data directory with --data-dir".to_owned()
    } else if gateway.is_null() {
        "does not run".to_owned()
    } else {
        format!(
            "serves S3 on {} since {}",
            listen(&gateway["listen"]),
            when(&gateway["started_ms"])
        )
    };
    line("fula", &format!("{}, {serves}", text(&page["version"])));
    if !is_scratch {
        line("ready", page["not_ready"].as_str().map_or("yes", |_| "no"));
        line("data", text(&page["data_dir"]));
    }
    line("arbiter", text(&page["arbiter"]));
    line("blocks", text(&page["blocks"]));
    for master in page["masters"].as_array().into_iter().flatten() {
        let this = if master["is_self"] == true { "  (this one)" } else { "" };
        let (name, host, seen) =
            (text(&master["name"]), text(&master["host"]), ago(&master["age_ms"]));
        line("master", &format!("{name}  {host}  {}  {seen}{this}", text(&master["address"])));
    }
    let buckets = &page["buckets"];
    if !buckets.is_null() {
        line("buckets", &format!("{}, and {} deleted", buckets["live"], buckets["deleted"]));
    }
    show_space(page);
    if !gateway.is_null() {
        let (open, max) = (&gateway["connections"], &gateway["connections_max"]);
        line("connections", &format!("{open} of {max}"));
        let memory = format!(
            "{} in RAM; bodies {} of {}; tree nodes {}",
            bytes(&gateway["resident_bytes"]),
            bytes(&gateway["body_bytes"]),
            bytes(&gateway["body_bytes_max"]),
            bytes(&gateway["cache_bytes"]),
        );
        line("memory", &memory);
    }
    for problem in page["problems"].as_array().into_iter().flatten() {
        line("problem", problem.as_str().unwrap_or("-"));
    }
}

fn show_scrub(scrub: &Value) {
    let (last, current) = (&scrub["last"], &scrub["current"]);
    let count =
        |pass: &Value| format!("{} blocks read, {} damaged", pass["blocks"], pass["damaged"]);
    if !last.is_null() {
        line("scrub", &format!("ended {}: {}", when(&last["ended_ms"]), count(last)));
    }
    if !current.is_null() {
        line("scrub", &format!("since {}: {} so far", when(&current["begun_ms"]), count(current)));
    }
    if last.is_null() && current.is_null() {
        line("scrub", "none yet");
    }
}

fn show_space(page: &Value) {
    let (disk, log) = (&page["disk"], &page["log"]);
    if !disk.is_null() {
        let (free, size) = (bytes(&disk["free_bytes"]), bytes(&disk["size_bytes"]));
        let reserved = bytes(&disk["reserved_bytes"]);
        line("disk", &format!("{free} of {size} free; writes are refused below {reserved}"));
    }
    if !log.is_null() {
        let (all, live) = (bytes(&log["log_bytes"]), bytes(&log["live_bytes"]));
        let (retained, dead) = (bytes(&log["retained_bytes"]), bytes(&log["dead_bytes"]));
        line("log", &format!("{all}: {live} live, {retained} retained, {dead} dead"));
    }
    let collections = &page["collections"];
    let last = &collections["last"];
    if !last.is_null() {
        let (deleted, freed) = (&last["deleted_blocks"], bytes(&last["deleted_bytes"]));
        let at = when(&collections["ended_ms"]);
        line("collection", &format!("{at}: {deleted} blocks of {freed} deleted"));
    } else if !collections.is_null() {
        line("collection", "none since the start");
    }
    show_scrub(&page["scrub"]);
}
