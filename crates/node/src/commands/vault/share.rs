//! `fula vault share`, `shares` and `unshare`.

use fula_client::{
    Error, Result,
    vault::{Shared, Vault},
};
use serde_json::json;

use super::{
    place::{At, text_of},
    single::named,
};
use crate::{
    cli::VaultShareArgs,
    commands::objects::{link_options, place::printable},
    output::{note, say},
};

/// Makes a link to a file or a folder.
pub(super) async fn share(args: VaultShareArgs) -> Result<()> {
    let at = At::open(&args.place, &args.remote).await?;
    let share = if args.recursive {
        at.vault.share_folder(at.folder().as_bytes()).await
    } else {
        at.vault.share(&at.file()?).await
    };
    let share = named(share, &at)?;
    if args.remote.json {
        say!("{}", json!({"link": share.url.as_str(), "key": share.key}));
    } else {
        say!("{}", share.url.as_str());
    }
    let shared = Shared::parse(&share.url, &link_options(&args.remote)?)?;
    // Whether others reach the gateway is theirs to find out.
    if let Err(Error::NotFound { .. } | Error::Denied { .. }) = shared.check().await {
        warn(&at.vault);
    }
    Ok(())
}

fn warn(vault: &Vault) {
    let place = vault.place();
    note!(
        "fula: warning: nobody can read the link yet: let the policy of the bucket allow everyone s3:GetObject on \
         arn:aws:s3:::{}/s/*",
        printable(&place)
    );
}

/// Lists what is shared.
pub(super) async fn shares(vault: &Vault, json: bool) -> Result<()> {
    for shown in vault.shares().await? {
        let path = text_of(&shown.path)?;
        let kind = if shown.is_folder { "folder" } else { "file" };
        if json {
            say!("{}", json!({"link": shown.url, "kind": kind, "path": path}));
        } else {
            say!("{} {kind:<6} {}", printable(&shown.url), printable(path));
        }
    }
    Ok(())
}
