//! `fula vault watch`.

use std::time::Duration;

use fula_client::{
    Result,
    vault::{Vault, VaultChange},
};
use serde_json::json;

use crate::{
    commands::objects::place::printable,
    output::{note, say},
};

/// Longest time that a request waits for a change.
const WAIT: Duration = Duration::from_secs(30);

/// Prints changes until the process is ended.
pub(super) async fn watch(vault: &Vault, json: bool) -> Result<()> {
    let mut follower = vault.follow().await?;
    if json {
        say!("{}", json!({"version": follower.version()}));
    }
    loop {
        for change in follower.next(WAIT).await? {
            show(&change, json);
        }
    }
}

fn show(change: &VaultChange, json: bool) {
    let text = |path: &fula_seal::VaultPath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    match change {
        VaultChange::Written(entry) if json => {
            let (path, size, etag) = (text(&entry.path), entry.size, &entry.etag);
            say!("{}", json!({"change": "written", "path": path, "size": size, "etag": etag}));
        }
        VaultChange::Written(entry) => say!("written {}", printable(&text(&entry.path))),
        VaultChange::Removed(path) if json => {
            say!("{}", json!({"change": "removed", "path": text(path)}));
        }
        VaultChange::Removed(path) => say!("removed {}", printable(&text(path))),
        VaultChange::Refused(key, error) => {
            if json {
                say!("{}", json!({"failed": key, "error": error.to_string()}));
            }
            note!("fula: failed: {}: {}", printable(key), printable(&error.to_string()));
        }
    }
}
