//! `fula backup`: makes, lists and checks backups (docs/adr/0054).

mod create;
mod list;
mod state;
mod verify;

use std::process::ExitCode;

use fula_service::{Limits, error::chain};
use serde_json::json;

pub(super) use self::state::{Part, own_secrets_key, put_back};
use super::{
    Failure,
    admin::{finish, say_if_slow, scratch_for},
    text::text,
};
use crate::{
    admin::{Request, transfer},
    backup::{Place, Source},
    cli::{AdminArgs, BackupArgs, BackupCommand, CasMode, PlaceArgs},
    config::Backends,
    files,
    node::{Node, Purpose},
    output::{note, say},
};

/// Runs `fula backup`.
pub(crate) async fn run(args: BackupArgs) -> ExitCode {
    match args.command {
        BackupCommand::Create { place, full, keep, with_secrets_key, common } => {
            let keep = keep.map(|keep| usize::try_from(keep).unwrap_or(usize::MAX));
            let wanted = create::Wanted { full, keep, with_secrets_key };
            let made = Box::pin(create::run(&place, &wanted, &common)).await;
            let is_whole = made.as_ref().is_ok_and(|made| made["problems"] == json!([]));
            let shown = finish(common.json, made, create::show);
            if is_whole { shown } else { ExitCode::FAILURE }
        }
        BackupCommand::List { place, backup, json } => {
            let is_one = backup.is_some();
            let found = list::run(&place, backup).await;
            finish(json, found, if is_one { list::show_buckets } else { list::show })
        }
        BackupCommand::Verify { place, backup, all, json } => {
            verify::run(&place, backup, all, json).await
        }
        BackupCommand::SecretsKey { place, file } => {
            let written = write_secrets_key(&place, &file).await;
            finish(false, written, |done| {
                note!("Wrote the key that seals the access keys to {}.", text(&done["file"]));
            })
        }
    }
}

/// Opens a place that has backups.
///
/// # Errors
/// The reason why it cannot be used.
pub(super) async fn open_place(args: &PlaceArgs, begins: bool) -> Result<Place, String> {
    Place::open(&args.place, args.key_file.as_deref(), begins).await
}

/// Reaches the gateway that runs on the data directory, or opens the stores. `request` decides whether an empty data
/// directory may be used.
///
/// # Errors
/// The reason why neither is possible.
pub(super) async fn open_source(args: &AdminArgs, request: &Request) -> Result<Source, Failure> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let mut backends = backends?;
    let dir = backends.data_dir.clone();
    let scratch = scratch_for(&mut backends, request)?;
    if let Some(stream) = transfer::connect(&dir).await {
        stream?;
        return Ok(Source::Gateway(dir));
    }
    let opening = Node::open(&backends, Limits::default(), Purpose::Administer, false);
    let node = say_if_slow(opening, &backends).await.map_err(|error| chain(&error))?;
    Ok(Source::Here(std::sync::Arc::new(node), scratch))
}

async fn write_secrets_key(
    args: &PlaceArgs,
    file: &std::path::Path,
) -> Result<serde_json::Value, Failure> {
    let place = open_place(args, false).await?;
    let ids = place.ids().await?;
    let newest = ids.last().ok_or_else(|| "there is no backup yet".to_owned())?;
    let key = state::secrets_key(&place, &place.manifest(newest).await?).await?;
    let key = key.ok_or_else(|| {
        format!(
            "backup {newest} was made without --with-secrets-key: copy secrets.key from where you keep it"
        )
    })?;
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        files::make_data_dir(dir).map_err(|error| chain(&error))?;
    }
    files::write_new(file, &format!("{}\n", key.as_str())).map_err(|error| chain(&error))?;
    say!("{}", file.display());
    Ok(json!({"file": file.display().to_string()}))
}
