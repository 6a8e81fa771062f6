//! `fula backup`: makes, lists and checks backups (docs/adr/0054).

mod create;
mod list;
mod state;
mod verify;

use std::process::ExitCode;

use fula_service::error::chain;
use serde_json::json;

pub(super) use self::state::{Part, put_back};
use super::{Failure, admin::finish, text::text};
use crate::{
    backup::Place,
    cli::{BackupArgs, BackupCommand, PlaceArgs},
    files,
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
                note!("Wrote the key that encrypts the access keys to {}.", text(&done["file"]));
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
