//! Starts what was written.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use fula_core::error::io_text;

use super::{super::health, write::Plan};
use crate::output::say;

/// A directory that is there while systemd runs, as `sd_booted(3)` says.
const SYSTEMD: &str = "/run/systemd/system";

/// Longest wait until the service can serve.
const PATIENCE: Duration = Duration::from_mins(1);

/// Interval between two looks at whether it can.
const LOOK: Duration = Duration::from_millis(100);

/// Starts the service, and waits until it can serve. Without systemd, the process takes the place of this one.
///
/// # Errors
/// The reason, in words for the operator. What was written stays.
pub(super) async fn start(plan: &Plan) -> Result<(), String> {
    if !Path::new(SYSTEMD).is_dir() {
        return Err(become_it(plan));
    }
    let (began, unit) = (Instant::now(), plan.unit_name());
    let started = Command::new("systemctl").args(["enable", "--now"]).arg(plan.unit()).status();
    let is_started = started.map_err(|error| format!("systemctl: {}", io_text(&error)))?.success();
    if !is_started {
        return Err(format!(
            "the service was not started: look at `journalctl -u {unit}`, then run: {}",
            plan.start_service()
        ));
    }
    let [listen, admin] = plan.listeners();
    loop {
        match health::ask(admin, "/readyz").await {
            Ok(_) => break,
            Err(why) if began.elapsed() > PATIENCE => {
                return Err(format!(
                    "the service runs and cannot serve: {why}; look at `journalctl -u {unit}`"
                ));
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
    say!(
        "The service {unit} serves on {listen}, {:.1} s after its start.",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Replaces this process by the new one. Returns the reason why that is impossible.
fn become_it(plan: &Plan) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "fula".into());
    let mut process = Command::new(program);
    // As in a service, settings of this shell do not count.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"FULA_") {
            process.env_remove(name);
        }
    }
    let error = process.arg(plan.command()).envs(plan.settings()).exec();
    format!("cannot start: {}; run: {}", io_text(&error), plan.start())
}
