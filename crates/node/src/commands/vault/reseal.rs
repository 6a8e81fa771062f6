//! `fula vault reseal`.

use std::{process::ExitCode, sync::Arc};

use fula_client::{
    Result,
    vault::{ResealOptions, Resealing, Vault},
};
use serde_json::json;

use crate::{
    cli::VaultResealArgs,
    commands::objects::{
        progress::{Progress, Shown},
        report::{Action, Report},
    },
    output::say,
};

/// Seals files of older epochs again.
pub(super) async fn reseal(vault: &Vault, args: &VaultResealArgs) -> Result<ExitCode> {
    let json = args.remote.json;
    if args.dry_run {
        let files = vault.outdated().await?;
        if json {
            say!("{}", json!({"outdated": files}));
        } else {
            say!("{files} files would be sealed again");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (report, progress) = (Report::new(json, false), Arc::<Progress>::default());
    let shown = Shown::begin(&progress, args.no_progress || json);
    let options = ResealOptions {
        at_once: usize::try_from(args.transfers).unwrap_or(usize::MAX),
        meter: Some(progress.moved.clone()),
    };
    let note = |file: Resealing<'_>| match file {
        Resealing::Done(entry) => {
            progress.expect(entry.size);
            progress.done();
            let path = String::from_utf8_lossy(entry.path.as_bytes());
            report.done(Action::Reseal, &path, None, entry.size);
        }
        Resealing::Failed(key, error) => report.failed(key, error),
    };
    let done = vault.reseal(&options, note).await;
    drop(shown);
    done?;
    if args.forget_removed && !report.has_failed() {
        vault.forget_removed().await?;
    }
    Ok(report.end(false))
}
