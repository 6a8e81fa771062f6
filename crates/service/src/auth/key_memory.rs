//! Access keys as a master remembers them on its own disk: an arbiter that is restored from a backup cannot
//! make them unknown (docs/adr/0038).
//!
//! Every master copies the records of all keys, sealed as they are, from the arbiter to its own disk, a page
//! a second. A record that the arbiter lacks without having deleted it is written again, and meanwhile the
//! key is no unknown one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    MetadataStore,
    metadata::{Entry, Table, WriteOutcome},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{arbiter::Arbiter, error::ServiceError};

/// Between two looks at the arbiter's keys.
const LOOK: Duration = Duration::from_secs(1);

/// Keys compared at each look.
const PAGE: usize = 256;

/// A record as a master remembers it.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    /// Its version in the arbiter.
    version: u64,
    /// The record itself, as it lies there.
    record: String,
}

/// A key that the arbiter has lost.
pub(super) struct Lost {
    pub(super) id: String,
    /// The record.
    pub(super) record: Bytes,
    /// The version that the arbiter has it at, 0 for none.
    at: u64,
}

/// The keys that one master remembers.
#[derive(Debug)]
pub(super) struct KeyMemory {
    arbiter: Arbiter,
    /// The arbiter's records.
    metadata: Arc<dyn MetadataStore>,
    /// This master's own.
    disk: Arc<dyn MetadataStore>,
    /// Where the next look begins.
    after: Mutex<Option<String>>,
    /// Told when somebody asks for a key that the arbiter has lost.
    missed: Notify,
}

impl KeyMemory {
    pub(super) fn new(
        arbiter: Arbiter,
        metadata: Arc<dyn MetadataStore>,
        disk: Arc<dyn MetadataStore>,
    ) -> Self {
        Self { arbiter, metadata, disk, after: Mutex::default(), missed: Notify::new() }
    }

    /// Waits until it is time to look again.
    pub(super) async fn next_look(&self) {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = self.missed.notified() => *self.after.lock() = None,
        }
    }

    /// Refuses to call a key unknown that the arbiter has no record of, unless the arbiter is trusted and
    /// this master knows of no such key.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Unavailable`].
    pub(super) async fn check_unknown(&self, id: &str) -> Result<(), ServiceError> {
        if self.known(id).await?.is_some() {
            self.missed.notify_one();
            let text = "it lacks access keys that this master remembers and writes again";
            return Err(ServiceError::Regressed(text.to_owned()));
        }
        self.check_arbiter().await
    }

    /// Asks the arbiter how far it has come: one that went back may have lost what nobody here knows.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Unavailable`].
    pub(super) async fn check_arbiter(&self) -> Result<(), ServiceError> {
        self.arbiter.check().await
    }

    /// Copies a page of the arbiter's records; returns those that the arbiter has lost.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub(super) async fn look(&self) -> Result<Vec<Lost>, ServiceError> {
        let after = self.after.lock().clone();
        let page = |store: &Arc<dyn MetadataStore>| {
            let (store, after) = (Arc::clone(store), after.clone());
            async move { store.list(Table::Keys, after.as_deref(), PAGE).await }
        };
        // The arbiter's last: a key that is made meanwhile is not missed there.
        let (ours, theirs) = (page(&self.disk).await?, page(&self.metadata).await?);
        let end_of = |page: &[(String, Entry)]| {
            (page.len() >= PAGE).then(|| page.last().map(|(id, _)| id.clone())).flatten()
        };
        let end = [end_of(&ours), end_of(&theirs)].into_iter().flatten().min();
        let in_page = |(id, _): &(String, Entry)| end.as_ref().is_none_or(|end| id <= end);
        let theirs: BTreeMap<String, Entry> = theirs.into_iter().filter(in_page).collect();
        let ids: BTreeSet<String> = ours.into_iter().filter(in_page).map(|(id, _)| id).collect();
        let mut lost = Vec::new();
        for id in ids.iter().chain(theirs.keys().filter(|id| !ids.contains(*id))) {
            let found = match theirs.get(id) {
                Some(found) => Some(found.clone()),
                None => self.metadata.read(Table::Keys, id).await?,
            };
            lost.extend(self.compare(id, found).await?);
        }
        *self.after.lock() = end;
        Ok(lost)
    }

    /// Brings what is remembered of a key in line with the arbiter's record, unless that is older.
    async fn compare(&self, id: &str, found: Option<Entry>) -> Result<Option<Lost>, ServiceError> {
        let known = self.known(id).await?;
        let at = found.as_ref().map_or(0, |entry| entry.version);
        let record = found.and_then(|entry| entry.value);
        match (known, record) {
            (Some(known), Some(record)) if known.record.as_bytes() == record => {
                if known.version != at {
                    self.note(id, at, &record).await?;
                }
            }
            (Some(known), _) if known.version > at => {
                return Ok(Some(Lost { id: id.to_owned(), record: known.record.into(), at }));
            }
            (_, Some(record)) => self.note(id, at, &record).await?,
            (_, None) => self.forget(id).await?,
        }
        Ok(None)
    }

    /// Writes a key again that the arbiter has lost.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub(super) async fn write_back(&self, lost: Lost) -> Result<(), ServiceError> {
        let Lost { id, record, at } = lost;
        let written = self.metadata.write(Table::Keys, &id, at, Some(record.clone())).await?;
        match written {
            WriteOutcome::Done(version) => self.note(&id, version, &record).await,
            // Another master was first; the next look tells.
            WriteOutcome::Conflict(_) => self.forget(&id).await,
        }
    }

    async fn known(&self, id: &str) -> Result<Option<Remembered>, ServiceError> {
        let value = self.disk.read(Table::Keys, id).await?.and_then(|entry| entry.value);
        let parsed = value.map(|value| serde_json::from_slice(&value)).transpose();
        parsed.map_err(|error| ServiceError::bug(format!("malformed remembered key: {error}")))
    }

    /// Remembers a record that is at `version` in the arbiter.
    ///
    /// # Errors
    /// [`ServiceError::Full`], [`ServiceError::Unavailable`] of this master's own disk.
    pub(super) async fn note(
        &self,
        id: &str,
        version: u64,
        record: &Bytes,
    ) -> Result<(), ServiceError> {
        let record = String::from_utf8_lossy(record).into_owned();
        let value = serde_json::to_vec(&Remembered { version, record });
        self.write(id, Some(value.map_err(ServiceError::bug)?.into())).await
    }

    /// Forgets a key that is deleted.
    ///
    /// # Errors
    /// As [`Self::note`].
    pub(super) async fn forget(&self, id: &str) -> Result<(), ServiceError> {
        self.write(id, None).await
    }

    async fn write(&self, id: &str, value: Option<Bytes>) -> Result<(), ServiceError> {
        let current = self.disk.read(Table::Keys, id).await?;
        let is_there = current.as_ref().is_some_and(|entry| entry.value.is_some());
        if value.is_none() && !is_there {
            return Ok(());
        }
        let version = current.map_or(0, |entry| entry.version);
        // Only this process writes here; what meets another write is looked at again.
        self.disk.write(Table::Keys, id, version, value).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fula_core::{
        WriterId,
        in_memory::{MemoryBlocks, MemoryMetadata, MemoryRoots},
        tree::Nodes,
    };
    use fula_identity::Policy;

    use super::*;
    use crate::{
        arbiter::RollbackGuard,
        auth::{AuthError, Authenticator, KeyRing, Revocations, Revoked, SealingKey},
        limits::Limits,
    };

    /// A master on an arbiter's metadata, with a disk of its own.
    async fn master(log: &Arc<MemoryMetadata>, disk: &Arc<MemoryMetadata>) -> Authenticator {
        let (metadata, disk): (Arc<dyn MetadataStore>, Arc<dyn MetadataStore>) =
            (Arc::clone(log) as _, Arc::clone(disk) as _);
        let nodes = Arc::new(Nodes::new(Arc::new(MemoryBlocks::default()), 1 << 20));
        let (guard, writer) = (RollbackGuard::new(None, true), WriterId([1; 16]));
        let roots = Arc::new(MemoryRoots::default());
        let arbiter = Arbiter::new(nodes, roots, writer, &Limits::default(), guard);
        let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
        let fresh = Duration::from_secs(2);
        let keys = KeyRing::new(Arc::clone(&metadata), sealing, crate::system_random(), fresh);
        let keys = keys.remembered_on(Arc::clone(&disk), arbiter);
        let revocations = Revocations::open(metadata, Some(disk)).await.unwrap();
        let master = Authenticator::new(keys, revocations, Arc::new(|| 1_000_000));
        master.set_policy(Policy::default());
        master
    }

    fn is_doubtful<T>(found: &Result<T, AuthError>) -> bool {
        matches!(found, Err(AuthError::Service(ServiceError::Regressed(_))))
    }

    #[tokio::test]
    async fn what_a_restored_arbiter_lacks_is_in_doubt_and_written_again() {
        let log = Arc::new(MemoryMetadata::default());
        let disks = [(); 2].map(|()| Arc::new(MemoryMetadata::default()));
        let [one, two] = [master(&log, &disks[0]).await, master(&log, &disks[1]).await];
        let (early, _) = one.keys().create("early", 1).await.unwrap();
        two.look_at_keys().await.unwrap();
        let backup = log.backup();
        let (late, secret) = one.keys().create("late", 2).await.unwrap();
        let (revoked, _) = one.keys().create("revoked", 2).await.unwrap();
        let (deleted, _) = one.keys().create("deleted", 2).await.unwrap();
        one.keys().revoke(&deleted.id, None).await.unwrap();
        two.look_at_keys().await.unwrap();
        one.revoke(Revoked::Key(revoked.id.clone())).await.unwrap();
        log.restore(backup);
        // On the master that made it and on one that only heard of it, also after a restart.
        for master in [&one, &two, &master(&log, &disks[1]).await] {
            assert!(is_doubtful(&master.secret_of(&late.id).await));
            let unknown = master.secret_of(&deleted.id).await;
            assert!(is_doubtful(&unknown) || matches!(unknown, Err(AuthError::UnknownKey)));
            assert!(matches!(master.secret_of("FULANOBODY").await, Err(AuthError::UnknownKey)));
        }
        two.revocations().look().await.unwrap();
        one.revocations().look().await.unwrap();
        two.revocations().look().await.unwrap();
        two.look_at_keys().await.unwrap();
        let again = master(&log, &Arc::default()).await;
        for master in [&one, &two, &again] {
            assert_eq!(master.secret_of(&late.id).await.unwrap().expose(), secret.expose());
            master.secret_of(&early.id).await.unwrap();
        }
        one.look_at_keys().await.unwrap();
        let listed = one.keys().list(None).await.unwrap();
        assert!(listed.iter().all(|key| key.id != revoked.id), "a revoked key is back");
    }

    #[tokio::test]
    async fn pages_of_keys_are_compared_in_turns() {
        let log = Arc::new(MemoryMetadata::default());
        let one = master(&log, &Arc::default()).await;
        one.keys().set_keys_max(usize::MAX);
        let backup = log.backup();
        for n in 0..2 * PAGE + 3 {
            one.keys().create(&format!("user{}", n % 7), 1).await.unwrap();
        }
        let two = master(&log, &Arc::default()).await;
        for _ in 0..3 {
            two.look_at_keys().await.unwrap();
        }
        log.restore(backup);
        for _ in 0..3 {
            two.look_at_keys().await.unwrap();
        }
        assert_eq!(two.keys().list(None).await.unwrap().len(), 2 * PAGE + 3);
    }
}
