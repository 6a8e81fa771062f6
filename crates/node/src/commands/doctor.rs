//! `fula doctor`: prints what was looked at, and what to do. It exits with 0 if nothing is a problem, with 1 if
//! something is, and with 2 if nothing could be looked at.

use std::process::ExitCode;

use serde_json::Value;

use super::{admin::perform, text::text};
use crate::{admin::Request, cli::DoctorArgs, output::say};

const PROBLEM: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;

/// Runs `fula doctor`.
pub(crate) async fn run(args: DoctorArgs) -> ExitCode {
    let mut page = match perform(&args.common, Request::Doctor).await {
        Ok(page) => page,
        Err(failure) => {
            failure.report();
            return ExitCode::from(COULD_NOT_LOOK);
        }
    };
    let warning = other_program(&page["version"]);
    if let Some(checks) = page["checks"].as_array_mut() {
        checks.extend(warning);
    }
    let checks = page["checks"].as_array().cloned().unwrap_or_default();
    if args.common.json {
        say!("{page:#}");
    } else {
        for check in &checks {
            say!(
                "{:<8} {:<9} {}",
                text(&check["state"]),
                text(&check["name"]),
                text(&check["text"])
            );
        }
    }
    let is_well = checks.iter().all(|check| check["state"] != "problem");
    if is_well { ExitCode::SUCCESS } else { ExitCode::from(PROBLEM) }
}

/// Returns a warning if the gateway runs another version than this program.
fn other_program(theirs: &Value) -> Option<Value> {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = theirs.as_str().filter(|theirs| *theirs != ours)?;
    let text = format!("the gateway runs version {theirs}, and this program is {ours}: restart it");
    Some(serde_json::json!({"name": "gateway", "state": "warning", "text": text}))
}
