//! Following a vault: what other devices change, as they change it (`?fula-changes`, ADR 0057).

use std::{collections::BTreeMap, time::Duration};

use fula_seal::{VaultPath, name::LISTED};
use http::Method;

use super::{Vault, VaultEntry};
use crate::{
    error::{Error, Result},
    items::ItemStream,
    request::Request,
};

/// A change of a vault.
#[derive(Debug)]
pub enum VaultChange {
    /// A file is new, or has another content, name or time.
    Written(VaultEntry),
    /// A file is gone. One that was renamed is gone here, and written there.
    Removed(VaultPath),
    /// An object looks like a file and does not open: its key, and why.
    Refused(String, Error),
}

fn unsupported() -> Error {
    Error::Unsupported("following needs GET ?fula-changes".to_owned())
}

/// What a client knows of a vault that it follows.
#[derive(Debug)]
pub struct Follower {
    vault: Vault,
    /// Files by the keys of their objects.
    known: BTreeMap<String, VaultEntry>,
    version: u64,
}

impl Vault {
    /// Begins to follow the vault. [`Follower::entries`] are the files as they are now.
    ///
    /// # Errors
    /// [`Error::Unsupported`] from servers other than Fula, and as for [`Vault::list`].
    pub async fn follow(&self) -> Result<Follower> {
        let listing = self.list(b"").await?;
        let version = listing.version.ok_or_else(unsupported)?;
        let known = listing.entries.into_iter().map(|entry| (self.object_key(&entry.path), entry));
        Ok(Follower { vault: self.clone(), known: known.collect(), version })
    }

    fn object_key(&self, path: &VaultPath) -> String {
        self.0.place.key(self.current().keyring.keys().sealed_key(path))
    }
}

impl Follower {
    /// Returns the files as they were at [`Self::version`].
    pub fn entries(&self) -> impl Iterator<Item = &VaultEntry> {
        self.known.values()
    }

    /// Returns the version of the bucket that is known.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Waits up to `wait`, and at most 30 s, for changes since the version that is known. Returns none if there were
    /// none. If the server does not have that version any more, the vault is listed again, and nothing is missed.
    ///
    /// # Errors
    /// As for [`Vault::list`]. After an error, the same call goes on.
    pub async fn next(&mut self, wait: Duration) -> Result<Vec<VaultChange>> {
        let place = &self.vault.0.place;
        let request = Request::of_bucket(Method::GET, place.bucket.name())
            .query("fula-changes", "")
            .query("meta", LISTED)
            .query("prefix", &*place.prefix)
            .query("since", self.version.to_string())
            .query("wait", wait.as_secs().min(30).to_string());
        let items = match ItemStream::open(&place.bucket, &request, true).await {
            Err(Error::Http { status: 410, .. }) => return self.list_again().await,
            stream => stream?.ok_or_else(unsupported)?.all().await?,
        };
        let version = items.version.unwrap_or(self.version);
        self.vault.see_bucket(version)?;
        if !items.found.is_empty() {
            // Names may be sealed in an epoch that began meanwhile.
            self.vault.refresh().await?;
        }
        let (mut changes, mut clocks) = (Vec::new(), Vec::new());
        for key in items.removed {
            changes.extend(self.known.remove(&key).map(|entry| VaultChange::Removed(entry.path)));
        }
        for object in items.found {
            let Some(sealed) = self.vault.0.place.sealed_key(&object.key) else { continue };
            match self.vault.entry(sealed, &object) {
                Ok((entry, clock)) => {
                    clocks.push((sealed, clock));
                    self.known.insert(object.key, entry.clone());
                    changes.push(VaultChange::Written(entry));
                }
                Err(error) => changes.push(VaultChange::Refused(object.key, error)),
            }
        }
        self.vault.0.state.lock().remember(&clocks)?;
        self.vault.settle().await?;
        self.version = version;
        Ok(changes)
    }

    /// Compares a new listing with what is known.
    async fn list_again(&mut self) -> Result<Vec<VaultChange>> {
        let listing = self.vault.list(b"").await?;
        let mut changes = Vec::new();
        let mut known = BTreeMap::new();
        for entry in listing.entries {
            let key = self.vault.object_key(&entry.path);
            let before = self.known.remove(&key);
            if before.is_none_or(|before| before.etag != entry.etag) {
                changes.push(VaultChange::Written(entry.clone()));
            }
            known.insert(key, entry);
        }
        let removed = std::mem::replace(&mut self.known, known).into_values();
        changes.extend(removed.map(|entry| VaultChange::Removed(entry.path)));
        changes.extend(
            listing.refused.into_iter().map(|(key, error)| VaultChange::Refused(key, error)),
        );
        self.version = listing.version.unwrap_or(self.version);
        Ok(changes)
    }
}
