//! Access keys. The operator makes them, and the metadata store keeps them with encrypted secrets.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fula_core::{
    MetadataStore,
    metadata::{Entry, Table, WriteOutcome},
    root::TimeMs,
};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use serde::Serialize;

use super::{
    key_memory::KeyMemory,
    key_record::{ID_CHARACTERS, Stored, id_of, is_bound},
    records::Records,
    sealing::{SealingKey, Secret},
};
use crate::{
    Random,
    arbiter::Arbiter,
    auth::access::Identity,
    error::ServiceError,
    limits::{KEYS_PER_USER, PAGE_MAX},
};

/// Prefix of the user ids of operator-made keys.
const USER_PREFIX: &str = "key:";

/// Returns the user id of a name, which may have the prefix `key:` or not.
pub fn user_of(name: &str) -> String {
    if name.starts_with(USER_PREFIX) { name.to_owned() } else { format!("{USER_PREFIX}{name}") }
}

/// Returns the name in a user id of access keys.
fn name_in(user: &str) -> &str {
    user.strip_prefix(USER_PREFIX).unwrap_or(user)
}

/// An access key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Access key id.
    pub id: String,
    /// User whose requests it signs.
    pub user: String,
    /// Time at which it was made, in milliseconds since 1970.
    pub created: TimeMs,
    /// Where it was made, as [`KeyRing::set_made_on`] was told; unknown for keys of earlier builds.
    pub made_on: Option<String>,
    /// Whether it was revoked. Its secret is gone then.
    pub is_revoked: bool,
}

/// An access key with its secret.
#[derive(Clone, Debug)]
pub struct AccessKey {
    /// The secret.
    pub secret: Secret,
    /// Identity of its user.
    pub identity: Identity,
    /// Time at which it was made, in milliseconds since 1970.
    pub created: TimeMs,
}

/// The access keys: creates, finds and revokes them.
#[derive(Clone)]
pub struct KeyRing {
    records: Records,
    sealing: SealingKey,
    random: Random,
    /// Largest number of keys of one user.
    keys_max: Arc<AtomicUsize>,
    /// Where the keys are made that are made here.
    made_on: Arc<Mutex<Option<String>>>,
    /// Recently used keys, and the records from which they were decrypted.
    opened: Arc<Cache<String, (Entry, AccessKey)>>,
    /// The copies of a shared arbiter's keys on this master.
    memory: Option<Arc<KeyMemory>>,
    /// The key in the settings of this master, if there is one.
    own: Arc<OnceLock<OwnKey>>,
}

/// A key whose id and secret the operator chose in the settings of this master.
struct OwnKey {
    name: String,
    info: KeyInfo,
    secret: Secret,
}

/// Number of keys that stay decrypted. A request needs its key twice.
const OPENED_MAX: usize = 256;

/// Number of times that an import is repeated because another master wrote the key in the meantime.
const IMPORT_TRIES: usize = 5;

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("records", &self.records).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Stores keys in `metadata`, encrypted with `sealing`. Changes by other masters take effect after
    /// `fresh_for`, which is zero for a store that no other process writes.
    pub fn new(
        metadata: Arc<dyn MetadataStore>,
        sealing: SealingKey,
        random: Random,
        fresh_for: Duration,
    ) -> Self {
        let opened = Arc::new(Cache::new(OPENED_MAX));
        let records = Records::new(metadata, fresh_for);
        let keys_max = Arc::new(AtomicUsize::new(KEYS_PER_USER));
        let made_on = Arc::default();
        let own = Arc::default();
        Self { records, sealing, random, keys_max, made_on, opened, memory: None, own }
    }

    /// Returns a key ring that also keeps copies of the keys on this master's own `disk`, because `arbiter`
    /// is shared and may be restored from a backup.
    #[must_use]
    pub fn remembered_on(self, disk: Arc<dyn MetadataStore>, arbiter: Arbiter) -> Self {
        let (metadata, sealing) = (Arc::clone(&self.records.metadata), self.sealing.clone());
        Self { memory: Some(Arc::new(KeyMemory::new(arbiter, metadata, disk, sealing))), ..self }
    }

    /// Returns the copies of a shared arbiter's keys.
    pub(super) fn memory(&self) -> Option<&KeyMemory> {
        self.memory.as_deref()
    }

    /// Checks how far a shared arbiter has come. Call it before something that the arbiter lacks is called
    /// unknown.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Unavailable`].
    pub(super) async fn check_arbiter(&self) -> Result<(), ServiceError> {
        match &self.memory {
            Some(memory) => memory.check_arbiter().await,
            None => Ok(()),
        }
    }

    /// Sets the largest number of keys of one user.
    pub fn set_keys_max(&self, max: usize) {
        self.keys_max.store(max, Ordering::Relaxed);
    }

    /// Sets where keys are made from now on: host, or host/master.
    pub fn set_made_on(&self, place: String) {
        *self.made_on.lock() = Some(place);
    }

    /// Returns random letters and digits, with 5 bits in each.
    pub(super) fn draw(&self, characters: usize) -> String {
        let mut bytes = vec![0; characters];
        (self.random)(&mut bytes);
        bytes.iter().map(|byte| char::from(ID_CHARACTERS[usize::from(byte % 32)])).collect()
    }

    /// Generates a key for the user `name`, and returns it with its secret, which is never shown again.
    /// Keys that are made at the same moment may together exceed the limit.
    ///
    /// # Errors
    /// [`ServiceError::InvalidArgument`] for a bad name, or a user with the largest allowed number of keys;
    /// [`ServiceError::Unavailable`].
    pub async fn create(&self, name: &str, now: TimeMs) -> Result<(KeyInfo, Secret), ServiceError> {
        let name = name_in(name);
        let max = self.keys_max.load(Ordering::Relaxed);
        let keys = self.list(Some(name)).await?;
        if keys.iter().filter(|key| !key.is_revoked).count() >= max {
            return Err(ServiceError::InvalidArgument(format!(
                "user {name} has {max} access keys, which is the most that one user may have; revoke one \
                 with `fula keys revoke ID` (`fula keys list --user {name}` shows them), or raise \
                 FULA_KEYS_PER_USER"
            )));
        }
        let secret = Secret::new(self.draw(40));
        let id = id_of(&secret);
        let info = self.import(name, &id, &secret, now).await?;
        Ok((info, secret))
    }

    /// Stores a key whose id and secret were chosen elsewhere. Storing it again with another secret
    /// replaces the secret. An id that [`Self::create`] generated always keeps its secret.
    ///
    /// # Errors
    /// [`ServiceError::InvalidArgument`] for a bad name, id or secret, for a generated id with another
    /// secret, and for an id of another user; [`ServiceError::Unavailable`].
    pub async fn import(
        &self,
        name: &str,
        id: &str,
        secret: &Secret,
        now: TimeMs,
    ) -> Result<KeyInfo, ServiceError> {
        check_name(name)?;
        check_key(id, secret)?;
        let mut tries = 0;
        loop {
            tries += 1;
            // Masters that are given the same key import it at the same moment.
            match self.import_once(name, id, secret, now).await {
                Err(ServiceError::Busy(_)) if tries < IMPORT_TRIES => {}
                ended => return ended,
            }
        }
    }

    /// Stores the key that the settings of this master name, as [`Self::import`] does. If a shared arbiter
    /// loses it later, because it was restored from a backup, the next request with it stores it again.
    ///
    /// # Errors
    /// The errors of [`Self::import`].
    pub async fn import_own(
        &self,
        name: &str,
        id: &str,
        secret: &Secret,
        now: TimeMs,
    ) -> Result<(), ServiceError> {
        let info = self.import(name, id, secret, now).await?;
        let (name, secret) = (name.to_owned(), secret.clone());
        drop(self.own.set(OwnKey { name, info, secret }));
        Ok(())
    }

    /// Stores this master's own key again, if the arbiter has lost the key `id` and it is that one. Returns
    /// whether it did.
    async fn restore_own(&self, id: &str) -> Result<bool, ServiceError> {
        let Some(own) = self.own.get().filter(|own| own.info.id == id) else { return Ok(false) };
        self.check_arbiter().await?;
        tracing::warn!(
            key = id,
            "the arbiter has lost the access key of the settings; it is stored again"
        );
        self.import(&own.name, id, &own.secret, own.info.created).await?;
        Ok(true)
    }

    async fn import_once(
        &self,
        name: &str,
        id: &str,
        secret: &Secret,
        now: TimeMs,
    ) -> Result<KeyInfo, ServiceError> {
        let user = format!("{USER_PREFIX}{name}");
        let current = self.records.metadata.read(Table::Keys, id).await?;
        let version = current.as_ref().map_or(0, |entry| entry.version);
        let mut created = now;
        let mut made_on = self.made_on.lock().clone();
        if let Some(value) = current.and_then(|entry| entry.value) {
            let stored = Stored::parse(&value)?;
            if stored.user != user {
                let text = format!("access key {id} belongs to user {}", stored.user);
                return Err(ServiceError::InvalidArgument(text));
            }
            if stored.is_revoked() {
                let text = format!("access key {id} was revoked; choose another id");
                return Err(ServiceError::InvalidArgument(text));
            }
            if self.sealing.open(id, &stored.sealed)?.expose() == secret.expose() {
                let Stored { created, made_on, .. } = stored;
                let id = id.to_owned();
                return Ok(KeyInfo { id, user, created, made_on, is_revoked: false });
            }
            (created, made_on) = (stored.created, stored.made_on);
        }
        let sealed = self.sealing.seal(self.nonce(), id, secret)?;
        let stored = Stored { user: user.clone(), created, sealed, made_on: made_on.clone() };
        let value = stored.encode()?;
        self.records.forget(Table::Keys, id);
        let written = self.records.metadata.write(Table::Keys, id, version, Some(value.clone()));
        match written.await? {
            WriteOutcome::Done(_) => {
                if let Some(memory) = &self.memory
                    && let Err(error) = memory.note(id, &value).await
                {
                    tracing::warn!(%error, "cannot copy an access key to this master's disk");
                }
                Ok(KeyInfo { id: id.to_owned(), user, created, made_on, is_revoked: false })
            }
            WriteOutcome::Conflict(_) => Err(ServiceError::Busy(crate::error::Applied::None)),
        }
    }

    /// Returns the secret and the identity of a key, or `None` when there is no such key.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]; [`ServiceError::Regressed`] when a shared arbiter has lost the key or
    /// may have lost it.
    pub async fn find(&self, id: &str) -> Result<Option<AccessKey>, ServiceError> {
        // A text that cannot be a key id is neither looked up nor cached.
        if !is_key_id(id) {
            return Ok(None);
        }
        let mut found = self.records.read(Table::Keys, id).await?;
        if found.is_none() && self.restore_own(id).await? {
            found = self.records.read(Table::Keys, id).await?;
        }
        let Some(entry) = found else {
            if let Some(memory) = &self.memory {
                let checked = memory.check_unknown(id).await;
                // The next request reads it again.
                checked.inspect_err(|_| self.records.forget(Table::Keys, id))?;
            }
            return Ok(None);
        };
        let Some(value) = &entry.value else { return Ok(None) };
        if let Some((opened, found)) = self.opened.get(id)
            && opened == entry
        {
            return Ok(Some(found));
        }
        let stored = Stored::parse(value)?;
        if stored.is_revoked() {
            return Ok(None);
        }
        let secret = self.sealing.open(id, &stored.sealed)?;
        let identity = Identity::of_user(&stored.user);
        let found = AccessKey { secret, identity, created: stored.created };
        self.opened.insert(id.to_owned(), (entry, found.clone()));
        Ok(Some(found))
    }

    /// Returns a fresh nonce.
    pub(super) fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        (self.random)(&mut nonce);
        nonce
    }

    /// Returns the key that encrypts the secrets.
    pub(super) fn sealing(&self) -> &SealingKey {
        &self.sealing
    }

    /// Returns the cache through which key records are read.
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Returns random bytes.
    pub(super) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    /// Returns all keys of the user `name`, or of all users, with the revoked ones.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn list(&self, name: Option<&str>) -> Result<Vec<KeyInfo>, ServiceError> {
        let user = name.map(user_of);
        let mut keys = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.records.metadata.list(Table::Keys, after.as_deref(), PAGE_MAX).await?;
            let Some((last, _)) = page.last() else { return Ok(keys) };
            after = Some(last.clone());
            for (id, entry) in page {
                let Some(value) = entry.value else { continue };
                let stored = Stored::parse(&value)?;
                if user.as_ref().is_none_or(|user| *user == stored.user) {
                    let is_revoked = stored.is_revoked();
                    let Stored { user, created, made_on, .. } = stored;
                    keys.push(KeyInfo { id, user, created, made_on, is_revoked });
                }
            }
        }
    }

    /// Returns whether there is such a key that was not revoked. With `name`, considers only keys of that
    /// user.
    ///
    /// # Errors
    /// [`ServiceError::InvalidArgument`] when the key belongs to another user;
    /// [`ServiceError::Unavailable`].
    pub async fn exists(&self, id: &str, name: Option<&str>) -> Result<bool, ServiceError> {
        Ok(self.owned(id, name).await?.is_some_and(|(_, stored)| !stored.is_revoked()))
    }

    /// Returns whether there was such a key and it was revoked.
    ///
    /// # Errors
    /// The errors of [`Self::exists`].
    pub async fn was_revoked(&self, id: &str, name: Option<&str>) -> Result<bool, ServiceError> {
        Ok(self.owned(id, name).await?.is_some_and(|(_, stored)| stored.is_revoked()))
    }

    /// Returns a key's record and its version, if there is one.
    async fn owned(
        &self,
        id: &str,
        name: Option<&str>,
    ) -> Result<Option<(u64, Stored)>, ServiceError> {
        let Some(entry) = self.records.metadata.read(Table::Keys, id).await? else {
            return Ok(None);
        };
        let Some(value) = entry.value else { return Ok(None) };
        let stored = Stored::parse(&value)?;
        if name.is_some_and(|name| user_of(name) != stored.user) {
            let text = format!("access key {id} belongs to user {}", stored.user);
            return Err(ServiceError::InvalidArgument(text));
        }
        Ok(Some((entry.version, stored)))
    }

    /// Deletes the secret of a key. Its record stays, so that lists show the key as revoked. Returns whether
    /// there was such a key that was not revoked. With `name`, considers only keys of that user.
    ///
    /// # Errors
    /// [`ServiceError::InvalidArgument`] when the key belongs to another user;
    /// [`ServiceError::Unavailable`].
    pub async fn revoke(&self, id: &str, name: Option<&str>) -> Result<bool, ServiceError> {
        let Some((version, stored)) = self.owned(id, name).await? else { return Ok(false) };
        if stored.is_revoked() {
            return Ok(false);
        }
        let value = stored.revoked().encode()?;
        self.records.forget(Table::Keys, id);
        match self.records.metadata.write(Table::Keys, id, version, Some(value)).await? {
            WriteOutcome::Done(_) => Ok(true),
            WriteOutcome::Conflict(_) => Err(ServiceError::Busy(crate::error::Applied::None)),
        }
    }
}

fn check_name(name: &str) -> Result<(), ServiceError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if (1..=64).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    let text = "user names are 1 to 64 letters, digits, '-', '_', '.' and '@'";
    Err(ServiceError::InvalidArgument(text.to_owned()))
}

pub(super) fn is_key_id(id: &str) -> bool {
    (3..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric())
}

fn check_key(id: &str, secret: &Secret) -> Result<(), ServiceError> {
    let id_ok = is_key_id(id);
    let secret_ok = (8..=256).contains(&secret.expose().len())
        && secret.expose().chars().all(|c| c.is_ascii_graphic());
    if id_ok && secret_ok && is_bound(id) && id_of(secret) != id {
        return Err(ServiceError::InvalidArgument(format!(
            "access key {id} was made by Fula with another secret, which cannot be changed; use that one, or \
             choose another id"
        )));
    }
    if id_ok && secret_ok {
        return Ok(());
    }
    let text =
        "access key ids are 3 to 128 letters and digits, secrets 8 to 256 printable characters";
    Err(ServiceError::InvalidArgument(text.to_owned()))
}

#[cfg(test)]
mod tests;
