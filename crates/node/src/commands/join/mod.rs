//! `fula join`, `fula invite` and `fula leave` (docs/adr/0055).

mod check;
mod invite;
mod leave;
mod start;
mod unit;
mod write;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use fula_service::system_random;
use fula_stores::local::system_clock;
use serde_json::json;

pub(crate) use self::{invite::run as invite, leave::run as leave};
use crate::{
    cli::{JOIN_KEY, JoinArgs, JoinCommand, JoinHow},
    join::{self, Role},
    output::{note, say},
};

/// Runs `fula join`.
pub(crate) async fn join(args: JoinArgs) -> ExitCode {
    let (role, how) = match args.command {
        None => return make_key(&args.join_key),
        Some(JoinCommand::Master(how)) => (Role::Master, how),
        Some(JoinCommand::Storage(how)) => (Role::Storage, how),
    };
    match carry_out(role, &how, &args.join_key).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            note!("fula: {why}");
            ExitCode::FAILURE
        }
    }
}

fn make_key(file: &Path) -> ExitCode {
    match join::make_key(file, &system_random()) {
        Ok(key) => {
            say!("{key}");
            let usual = Path::new(JOIN_KEY) == file;
            let option =
                if usual { String::new() } else { format!(" --join-key {}", file.display()) };
            note!("Run on a master: fula invite --for {key} > invitation");
            note!(
                "Copy the invitation here, and run: fula join master --invite invitation{option} --start"
            );
            ExitCode::SUCCESS
        }
        Err(why) => {
            note!("fula: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Checks, and writes what is needed. Returns false if something is in the way.
async fn carry_out(role: Role, how: &JoinHow, key_file: &PathBuf) -> Result<bool, String> {
    let invitation = join::open(&how.invite, key_file, role, system_clock()())?;
    let plan = write::Plan::of(role, how, &invitation)?;
    let mut found = check::machine(&invitation, &plan);
    let stores = match role {
        Role::Master => check::stores(&mut found, &invitation).await,
        Role::Storage => None,
    };
    check::peers(&mut found, role, &invitation).await;
    let is_well = found.is_well();
    let is_done = is_well && !how.dry_run;
    if !how.json {
        found.show();
    }
    if is_done {
        // An invitation that another machine takes at the same moment leaves nothing behind here.
        if let Some(stores) = &stores {
            stores.take(&invitation).await?;
        }
        plan.write(how.data_dir.is_some())?;
        std::fs::remove_file(key_file).map_err(|error| {
            format!("{}: {}", key_file.display(), fula_core::error::io_text(&error))
        })?;
    }
    // The process that is started opens them itself.
    drop(stores);
    let files: Vec<String> = plan.files().map(|file| file.display().to_string()).collect();
    if how.json {
        say!(
            "{:#}",
            json!({"checks": found.json(), "files": files, "written": is_done, "start": plan.start()})
        );
    } else if is_done {
        say!("Wrote {}.", files.join(", "));
        if !how.start {
            say!("Start it as a service: {}", plan.start_service());
            say!("Or without systemd: {}", plan.start());
        }
    } else if is_well {
        say!("Would write {}. Nothing was changed.", files.join(", "));
    } else {
        note!("fula: nothing was changed: fix the problems, and run the command again");
    }
    if is_done && how.start {
        start::start(&plan).await?;
    }
    Ok(is_well)
}
