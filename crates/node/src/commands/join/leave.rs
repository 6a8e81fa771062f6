//! `fula leave`: stops a master, takes it off the list, and says when it is safe to switch off.

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{
    Failure,
    admin::{finish, perform},
    text::text,
};
use super::{check::Stores, invite::of_gateway};
use crate::{
    admin::{Request, transfer},
    cli::LeaveArgs,
    config,
    join::{Given, Role},
    output::{note, say},
};

/// Longest wait for the end of a gateway, which has a grace period of its own.
const PATIENCE: Duration = Duration::from_mins(10);

/// Interval between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(200);

/// Runs `fula leave`.
pub(crate) async fn run(args: LeaveArgs) -> ExitCode {
    let json = args.common.json;
    finish(json, leave(args).await, show)
}

async fn leave(args: LeaveArgs) -> Result<Value, Failure> {
    let dir = config::data_dir(&args.common.data)?;
    let is_running = transfer::connect(&dir).await.is_some();
    let stops = is_running && !args.dry_run;
    if !is_running && !args.dry_run {
        return Err("no gateway runs on this data directory, so its last changes may not be known to the others: start \
                    it, and run the command again; if it cannot start, run `fula masters forget`"
            .to_owned()
            .into());
    }
    let may = perform(&args.common, Request::Leave { stops: false }).await?;
    if !stops {
        return Ok(may);
    }
    // The settings may be those of a service, and are asked for while it runs.
    let Some(given) = of_gateway(&dir, Role::Master, None).await? else {
        return Err("the gateway has ended meanwhile: start it, and run the command again"
            .to_owned()
            .into());
    };
    let mut told = perform(&args.common, Request::Leave { stops: true }).await?;
    note!("fula: the master takes no more requests, and finishes those that it has");
    let began = Instant::now();
    while transfer::connect(&dir).await.is_some() {
        if began.elapsed() > PATIENCE {
            return Err("the gateway has not ended within 10 minutes: look at its log"
                .to_owned()
                .into());
        }
        tokio::time::sleep(LOOK).await;
    }
    let name = text(&told["master"]).to_owned();
    let Given { settings, files, .. } = given;
    let stores = Stores::open(&settings, &files).await?;
    stores.ask(Request::MastersForget { name, force: true }).await?;
    told["left"] = json!(true);
    Ok(told)
}

fn show(told: &Value) {
    let (name, others) = (text(&told["master"]), &told["others"]);
    if told["left"] != true {
        say!("Master {name} may leave: {others} other masters are there. Nothing was changed.");
        return;
    }
    say!(
        "Master {name} has left. It is safe to switch the machine off, and to remove its data directory."
    );
    if told["others"] == 0 {
        note!("fula: no other master is there: nothing is served until one starts");
    }
}
