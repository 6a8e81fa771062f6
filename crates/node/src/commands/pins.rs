//! `fula pins`.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    Failure,
    admin::{finish, perform},
    text::text,
};
use crate::{
    admin::Request,
    cli::{AdminArgs, PinsArgs, PinsCommand},
    output::say,
    state::PinsAction,
};

/// Runs `fula pins`.
pub(crate) async fn run(args: PinsArgs) -> ExitCode {
    let ask = async |common: &AdminArgs, action, bucket| -> Result<Value, Failure> {
        perform(common, Request::Pins { action, bucket }).await
    };
    match args.command {
        PinsCommand::List { bucket, common } => {
            let listed = ask(&common, PinsAction::List, bucket).await;
            finish(common.json, listed, show_list)
        }
        PinsCommand::Status { common } => {
            let status = ask(&common, PinsAction::Status, None).await;
            let is_behind = status.as_ref().is_ok_and(|status| {
                let targets = status["targets"].as_array().into_iter().flatten();
                targets.into_iter().any(|target| target["behind"] != 0)
            });
            let shown = finish(common.json, status, show_status);
            if is_behind { ExitCode::FAILURE } else { shown }
        }
        PinsCommand::Retry { bucket, common } => {
            let retried = ask(&common, PinsAction::Retry, bucket).await;
            finish(common.json, retried, |done| say!("{} pins are tried again", done["retried"]))
        }
        PinsCommand::Verify { bucket, common } => {
            let verified = ask(&common, PinsAction::Verify, bucket).await;
            let is_good = verified.as_ref().is_ok_and(|lines| {
                lines.as_array().into_iter().flatten().all(|line| line["state"] == "whole")
            });
            let shown = finish(common.json, verified, show_verified);
            if is_good { shown } else { ExitCode::FAILURE }
        }
    }
}

fn show_list(lines: &Value) {
    let row = |bucket: &str, target: &str, pinned: &str, version: &str, state: &str| {
        say!("{bucket:<24} {target:<34} {pinned:>8} {version:>8}  {state}");
    };
    row("BUCKET", "TARGET", "PINNED", "NEWEST", "STATE");
    for line in lines.as_array().into_iter().flatten() {
        let number = |field: &str| line[field].as_u64().map_or("-".to_owned(), |n| n.to_string());
        let state = match (line["behind_s"].as_u64(), line["error"].as_str()) {
            (None, _) => "pinned".to_owned(),
            (Some(behind), Some(error)) => format!("behind for {behind} s: {error}"),
            (Some(behind), None) if line["busy"] == true => {
                format!("being pinned, behind for {behind} s")
            }
            (Some(behind), None) if line["here"] == true => format!("behind for {behind} s"),
            (Some(_), None) => format!("master {} pins it", text(&line["master"])),
        };
        let pinned =
            if line["pinned_root"].is_null() { "-".to_owned() } else { number("pinned_version") };
        row(text(&line["bucket"]), text(&line["target"]), &pinned, &number("version"), &state);
    }
}

fn show_status(status: &Value) {
    for target in status["targets"].as_array().into_iter().flatten() {
        let behind = target["behind"].as_u64().unwrap_or(0);
        let name = text(&target["target"]);
        if behind == 0 {
            say!("{name}: all {} buckets are pinned", target["buckets"]);
            continue;
        }
        say!(
            "{name}: {behind} of {} buckets behind, for up to {} s",
            target["buckets"],
            target["lag_s"]
        );
        if let Some(error) = target["error"].as_str() {
            say!("  {error}");
        }
    }
}

fn show_verified(lines: &Value) {
    for line in lines.as_array().into_iter().flatten() {
        let why = line["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        let state = match line["state"].as_str() {
            Some("whole") => "all is there",
            Some("lost") => "something is lost, and is sent again",
            Some("behind") => "the newest root is not there yet",
            _ => "not known",
        };
        say!("bucket {} at {}: {state}{why}", text(&line["bucket"]), text(&line["target"]));
    }
}
