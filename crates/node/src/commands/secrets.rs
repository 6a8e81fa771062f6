//! `fula secrets` and `fula migrate`: the key file, and the tables of a shared arbiter.

use std::{path::Path, process::ExitCode};

use fula_stores::PostgresArbiter;
use serde_json::{Value, json};

use super::{
    Failure,
    admin::{finish, perform},
};
use crate::{
    admin::Request,
    cli::{MigrateArgs, SecretsArgs, SecretsCommand},
    config::database_url,
    files,
    output::{note, say},
};

/// Runs `fula secrets`.
pub(crate) async fn secrets(args: SecretsArgs) -> ExitCode {
    let file = match args.command {
        SecretsCommand::Keygen { file } => file,
        SecretsCommand::Public { file, json } => return public_keys(&file, json),
        SecretsCommand::Reseal { common } => {
            let done = perform(&common, Request::Reseal).await;
            return finish(common.json, done, show_resealed);
        }
    };
    match files::make_sealing_key(&file, &fula_service::system_random()) {
        Ok(()) => {
            note!("Made {}. Copy it to every master, and keep a backup.", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => super::fail(&error),
    }
}

fn show_resealed(done: &Value) {
    say!(
        "{} access keys are encrypted with the last line of the key file now, and {} were; {} are left",
        done["changed"],
        done["already"],
        done["left"]
    );
    if done["left"] != 0 {
        note!("Run it again. If some are left then, the log of the gateway names them.");
    }
    if done["other_masters"] != 0 {
        note!(
            "Restart the other masters, and run it again: they encrypt new keys with the earlier line until then."
        );
    }
}

/// Prints the public keys that follow from a sealing key.
fn public_keys(file: &Path, as_json: bool) -> ExitCode {
    let key = match files::read_key(file) {
        Ok(key) => key,
        Err(error) => return super::fail(&error),
    };
    let (master, node) = (key.ticket_key().public(), key.node_key().public());
    if as_json {
        say!("{}", json!({"master": master.to_string(), "node": node.to_string()}));
    } else {
        say!("master  {master}");
        say!("node    {node}");
    }
    ExitCode::SUCCESS
}

/// Runs `fula migrate`.
pub(crate) async fn migrate(args: MigrateArgs) -> ExitCode {
    let url = match database_url(args.database_url, args.database_url_file.as_deref()) {
        Ok(url) => url.unwrap_or_default(),
        Err(error) => return Failure::from(error).report(),
    };
    match PostgresArbiter::migrate(&url, &args.roles).await {
        Ok(grants) => {
            // This goes to standard error, so that standard output can be sent to the database as it is.
            note!("The arbiter's tables are up to date.");
            for grant in grants {
                say!("{grant}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => super::fail(&error),
    }
}
