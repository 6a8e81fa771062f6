//! Copies of access keys on a master's own disk, and the time since which it keeps them. With them the keys stay valid when the arbiter is restored
//! from a backup (docs/adr/0038).
//!
//! Every master copies the records of keys that were generated here, with their secrets encrypted, from the
//! arbiter to its own disk, one page a second. A record that the arbiter lacks without having deleted it is
//! written back. Until then requests with the key are refused as unavailable, not as unknown.
//!
//! # Invariants
//! - Only keys whose ids are bound to their secrets are copied, so no copy can hold an outdated secret.
//! - A copy never overwrites a record of the arbiter, or a deletion.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    MetadataStore,
    metadata::{Entry, Table},
    root::TimeMs,
};
use fula_identity::Seconds;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    key_record::{Stored, is_bound},
    sealing::SealingKey,
};
use crate::{
    arbiter::Arbiter,
    error::{ServiceError, chain},
};

/// Interval between two looks at the arbiter's keys.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Name of the record on a master's own disk that says since when it remembers.
const SINCE: &str = "remembers-since";

/// Number of keys that are compared at each look.
const PAGE: usize = 256;

/// Largest number of requested keys that wait to be compared out of turn.
const WANTED_MAX: usize = 256;

/// Largest number of keys whose failures are remembered as logged.
const TOLD_MAX: usize = 256;

/// A key that the arbiter has lost.
pub(super) struct Lost {
    /// User of the key.
    pub(super) user: String,
    /// Time at which it was made, in milliseconds since 1970.
    pub(super) created: TimeMs,
    /// Its record.
    pub(super) record: Bytes,
}

/// Keys that are compared together.
pub(super) struct Page {
    /// The keys, each with the arbiter's record if that was listed.
    pub(super) keys: Vec<(String, Option<Entry>)>,
    /// Key after which the next page begins; `None` for the first page.
    pub(super) end: Option<String>,
}

/// The access keys that one master remembers.
#[derive(Debug)]
pub(super) struct KeyMemory {
    arbiter: Arbiter,
    /// The records of the arbiter.
    metadata: Arc<dyn MetadataStore>,
    /// The records on this master's own disk.
    disk: Arc<dyn MetadataStore>,
    sealing: SealingKey,
    /// Key after which the next look begins.
    after: Mutex<Option<String>>,
    /// Keys that the arbiter has lost and a request needs.
    wanted: Mutex<BTreeSet<String>>,
    /// Notified when such a key is added.
    missed: Notify,
    /// Keys whose failures were logged.
    told: Mutex<BTreeSet<String>>,
    /// Time since which this master remembers, in seconds since 1970.
    since: OnceLock<Seconds>,
}

impl KeyMemory {
    pub(super) fn new(
        arbiter: Arbiter,
        metadata: Arc<dyn MetadataStore>,
        disk: Arc<dyn MetadataStore>,
        sealing: SealingKey,
    ) -> Self {
        Self {
            arbiter,
            metadata,
            disk,
            sealing,
            after: Mutex::default(),
            wanted: Mutex::default(),
            missed: Notify::new(),
            told: Mutex::default(),
            since: OnceLock::new(),
        }
    }

    /// Notes on this master's own disk, once, since when it remembers keys and revocations.
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`] of this master's own disk.
    pub(super) async fn begin(&self, now: Seconds) -> Result<(), ServiceError> {
        if self.since().await?.is_none() {
            self.disk.write(Table::Modes, SINCE, 0, Some(now.to_string().into())).await?;
        }
        Ok(())
    }

    async fn since(&self) -> Result<Option<Seconds>, ServiceError> {
        if let Some(since) = self.since.get() {
            return Ok(Some(*since));
        }
        let entry = self.disk.read(Table::Modes, SINCE).await?;
        let Some(value) = entry.and_then(|entry| entry.value) else { return Ok(None) };
        let since = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        let since = since.ok_or_else(|| ServiceError::bug(format!("malformed record {SINCE}")))?;
        Ok(Some(*self.since.get_or_init(|| since)))
    }

    /// Returns whether this master remembers since before a time. Then it knows all revocations of what began
    /// later.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] of this master's own disk.
    pub(super) async fn was_there(&self, at: Seconds) -> Result<bool, ServiceError> {
        Ok(self.since().await?.is_some_and(|since| since < at))
    }

    /// Waits for a key that the arbiter has lost and a request needs. The call may be cancelled at any
    /// time.
    pub(super) async fn next_wanted(&self) -> String {
        loop {
            let next = self.wanted.lock().pop_first();
            match next {
                Some(id) => return id,
                None => self.missed.notified().await,
            }
        }
    }

    fn want(&self, id: &str) {
        let mut wanted = self.wanted.lock();
        if wanted.len() < WANTED_MAX {
            wanted.insert(id.to_owned());
            self.missed.notify_one();
        }
    }

    /// Logs that a key cannot be compared, the first time that this happens.
    pub(super) fn tell_once(&self, id: &str, error: &ServiceError) {
        let mut told = self.told.lock();
        if told.len() < TOLD_MAX && told.insert(id.to_owned()) {
            let error = chain(error);
            tracing::warn!(
                key = id,
                error,
                "an access key cannot be copied to this master's disk and is skipped"
            );
        }
    }

    /// Checks that a key without a record in the arbiter may be called unknown: the arbiter must be
    /// trusted, and this master must not remember the key.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Unavailable`].
    pub(super) async fn check_unknown(&self, id: &str) -> Result<(), ServiceError> {
        if self.known(id).await?.is_some() {
            self.want(id);
            let text = "it has lost access keys, which this master writes back";
            return Err(ServiceError::Regressed(text.to_owned()));
        }
        self.check_arbiter().await
    }

    /// Checks how far the arbiter has come. An arbiter that went back may have lost keys that this master
    /// never saw.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Unavailable`].
    pub(super) async fn check_arbiter(&self) -> Result<(), ServiceError> {
        self.arbiter.check().await
    }

    /// Returns the next page of keys.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub(super) async fn page(&self) -> Result<Page, ServiceError> {
        let after = self.after.lock().clone();
        let ours = self.disk.list(Table::RememberedKeys, after.as_deref(), PAGE).await?;
        // The arbiter is read last, so that a key which is made in the meantime does not seem to be
        // missing.
        let theirs = self.metadata.list(Table::Keys, after.as_deref(), PAGE).await?;
        let end_of = |page: &[(String, Entry)]| {
            (page.len() >= PAGE).then(|| page.last().map(|(id, _)| id.clone())).flatten()
        };
        let end = [end_of(&ours), end_of(&theirs)].into_iter().flatten().min();
        let in_page = |id: &String| end.as_ref().is_none_or(|end| id <= end);
        let ours = ours.into_iter().map(|(id, _)| (id, None));
        let theirs = theirs.into_iter().map(|(id, entry)| (id, Some(entry)));
        let keys: BTreeMap<String, Option<Entry>> =
            ours.chain(theirs).filter(|(id, _)| in_page(id)).collect();
        Ok(Page { keys: keys.into_iter().collect(), end })
    }

    /// Sets the key after which the next look begins.
    pub(super) fn turn_to(&self, after: Option<String>) {
        *self.after.lock() = after;
    }

    /// Updates the copy of a key from the arbiter's record, which is read unless it was `found`. Returns
    /// the key if the arbiter has lost it.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], and the errors of [`Self::note`].
    pub(super) async fn compare(
        &self,
        id: &str,
        found: Option<Entry>,
    ) -> Result<Option<Lost>, ServiceError> {
        let found = match found {
            Some(found) => Some(found),
            None => self.metadata.read(Table::Keys, id).await?,
        };
        match found.map(|entry| entry.value) {
            None => return self.known(id).await,
            Some(None) => self.forget(id).await?,
            Some(Some(record)) if Stored::parse(&record).is_ok_and(|key| key.is_revoked()) => {
                self.forget(id).await?;
            }
            Some(Some(record)) => self.note(id, &record).await?,
        }
        Ok(None)
    }

    /// Writes back a key that the arbiter has lost. Does nothing if the arbiter has a record again, or a
    /// deletion: the next look handles that.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub(super) async fn write_back(&self, id: &str, record: Bytes) -> Result<(), ServiceError> {
        self.metadata.write(Table::Keys, id, 0, Some(record)).await?;
        Ok(())
    }

    /// Returns the remembered key, or `None` if there is none or its record cannot be used.
    async fn known(&self, id: &str) -> Result<Option<Lost>, ServiceError> {
        if !is_bound(id) {
            return Ok(None);
        }
        let entry = self.disk.read(Table::RememberedKeys, id).await?;
        let Some(record) = entry.and_then(|entry| entry.value) else { return Ok(None) };
        Ok(self.check(id, &record).map(|Stored { user, created, .. }| Lost {
            user,
            created,
            record,
        }))
    }

    /// Returns a record if it is that of a key that was generated here.
    fn check(&self, id: &str, record: &Bytes) -> Option<Stored> {
        let parsed = Stored::parse_bound(id, record, &self.sealing);
        parsed.inspect_err(|error| self.tell_once(id, error)).ok()
    }

    /// Remembers a record of the arbiter, unless the key may get another secret.
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`] of this master's own disk.
    pub(super) async fn note(&self, id: &str, record: &Bytes) -> Result<(), ServiceError> {
        if !is_bound(id) {
            return Ok(());
        }
        let current = self.disk.read(Table::RememberedKeys, id).await?;
        let is_same = current.as_ref().is_some_and(|entry| entry.value.as_ref() == Some(record));
        if is_same || self.check(id, record).is_none() {
            return Ok(());
        }
        self.write(id, current, Some(record.clone())).await
    }

    /// Removes the copy of a deleted or revoked key.
    ///
    /// # Errors
    /// The errors of [`Self::note`].
    pub(super) async fn forget(&self, id: &str) -> Result<(), ServiceError> {
        let current = self.disk.read(Table::RememberedKeys, id).await?;
        if current.as_ref().is_none_or(|entry| entry.value.is_none()) {
            return Ok(());
        }
        self.write(id, current, None).await
    }

    async fn write(
        &self,
        id: &str,
        current: Option<Entry>,
        value: Option<Bytes>,
    ) -> Result<(), ServiceError> {
        let version = current.map_or(0, |entry| entry.version);
        // Only this process writes here. A write that meets another one is repeated at the next look.
        self.disk.write(Table::RememberedKeys, id, version, value).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
