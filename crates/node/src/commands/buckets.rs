//! `fula usage` and `fula clone`.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    admin::perform,
    text::{bytes, counted, number, text},
};
use crate::{
    admin::Request,
    cli::{CloneArgs, UsageArgs},
    output::{note, say},
};

/// Runs `fula usage`.
pub(crate) async fn usage(args: UsageArgs) -> ExitCode {
    let UsageArgs { user, common } = args;
    let page = match perform(&common, Request::Usage { user }).await {
        Ok(page) => page,
        Err(failure) => return failure.report(),
    };
    if common.json {
        say!("{page:#}");
        return ExitCode::SUCCESS;
    }
    let rows = |name: &str| page[name].as_array().cloned().unwrap_or_default();
    say!("{:<34} {:>8} {:>12} {:>12} {:>12}", "OWNER", "BUCKETS", "OBJECTS", "SIZE", "IN ALL");
    for row in rows("owners") {
        say!("{:<34} {:>8} {}", whose(&row), number(&row["buckets"]), sizes(&row));
    }
    say!();
    say!("{:<34} {:<28} {:>12} {:>12} {:>12}", "OWNER", "BUCKET", "OBJECTS", "SIZE", "IN ALL");
    for row in rows("buckets") {
        say!("{:<34} {:<28} {}", whose(&row), text(&row["bucket"]), sizes(&row));
        if let Some(problem) = row["problem"].as_str() {
            note!("fula: bucket {} {problem}", text(&row["bucket"]));
        }
    }
    ExitCode::SUCCESS
}

/// Returns the user of a row, or the owner id if the user is not known.
fn whose(row: &Value) -> &str {
    row["user"].as_str().unwrap_or_else(|| text(&row["owner"]))
}

fn sizes(row: &Value) -> String {
    let (size, total) = (bytes(&row["bytes"]), bytes(&row["total_bytes"]));
    format!("{:>12} {size:>12} {total:>12}", number(&row["objects"]))
}

/// Runs `fula clone`.
pub(crate) async fn clone(args: CloneArgs) -> ExitCode {
    let CloneArgs { source, name, user, common } = args;
    let (bucket, version) = (source.bucket, source.version);
    match perform(&common, Request::Clone { bucket, version, name, user }).await {
        Ok(made) if common.json => say!("{made:#}"),
        Ok(made) => say!(
            "Made the bucket {} with {} ({}) of {} at version {}. Nothing was copied.",
            text(&made["bucket"]),
            counted(&made["objects"], "object"),
            bytes(&made["bytes"]),
            text(&made["source"]),
            made["version"],
        ),
        Err(failure) => return failure.report(),
    }
    ExitCode::SUCCESS
}
