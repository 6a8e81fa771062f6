//! Revocations: a list that only grows and is the same on every master.
//!
//! In the arbiter it is a log, one record after another with rising numbers, so that a master reads only
//! new records. Each master also keeps everything that it has read on its own disk. So an arbiter that went
//! back in time cannot undo a revocation, and gets back what it lost.
//!
//! # Invariants
//! - A revocation is never removed from the set.
//! - While the log cannot be read for longer than [`OUTAGE_MAX`], all requests with credentials are
//!   refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    MetadataStore, OwnerId, StoreError,
    metadata::{Table, WriteOutcome},
    root::TimeMs,
};
use fula_identity::{Seconds, TokenDigest};
use fula_ingest::ticket::{CredentialTag, Ticket};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::records::OUTAGE_MAX;
use crate::{
    error::{ServiceError, chain},
    limits::PAGE_MAX,
};

/// Interval between two looks at the arbiter's log.
const LOOK: Duration = Duration::from_secs(1);

/// The subject of a revocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revoked {
    /// All credentials of a user: a wallet, `key:NAME`, or the subject of a JWT.
    User(String),
    /// Credentials of a user that were issued before a time, in seconds since 1970.
    IssuedBefore(String, Seconds),
    /// A token by its digest, 64 hex digits, and the sessions that were issued for it.
    Token(String),
    /// An access key or a session, by its access key id.
    Key(String),
}

/// A revocation as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revocation {
    /// Subject of the revocation.
    pub revoked: Revoked,
    /// Time at which it was made, in milliseconds since 1970.
    pub at: TimeMs,
}

/// The facts of a credential that revocations are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct RevocationSubject<'a> {
    pub(super) user: &'a str,
    pub(super) issued: Seconds,
    pub(super) digest: Option<TokenDigest>,
    pub(super) key_id: Option<&'a str>,
}

#[derive(Debug, Default)]
struct Set {
    all: BTreeSet<Revocation>,
    /// Revocations in the set that are not on this master's disk yet.
    unsaved: BTreeSet<Revocation>,
    /// Time before which issued credentials are refused, by user.
    users: BTreeMap<String, Seconds>,
    tokens: HashSet<TokenDigest>,
    keys: HashSet<String>,
    /// The same by owner, and by tag of the credential, as tickets name them.
    owners: BTreeMap<OwnerId, Seconds>,
    tags: HashSet<CredentialTag>,
}

impl Set {
    fn add(&mut self, revocation: Revocation) {
        match &revocation.revoked {
            Revoked::User(user) => {
                self.users.insert(user.clone(), Seconds::MAX);
                self.owners.insert(OwnerId::of_user(user), Seconds::MAX);
            }
            Revoked::IssuedBefore(user, before) => {
                let known = self.users.entry(user.clone()).or_default();
                *known = (*known).max(*before);
                let known = self.owners.entry(OwnerId::of_user(user)).or_default();
                *known = (*known).max(*before);
            }
            Revoked::Token(digest) => {
                self.tokens.extend(TokenDigest::parse(digest));
                self.tags.insert(CredentialTag::of(digest));
            }
            Revoked::Key(id) => {
                self.keys.insert(id.clone());
                self.tags.insert(CredentialTag::of(id));
            }
        }
        if self.all.insert(revocation.clone()) {
            self.unsaved.insert(revocation);
        }
    }

    fn refuses(&self, subject: RevocationSubject<'_>) -> bool {
        let before = self.users.get(subject.user).copied().unwrap_or(0);
        before == Seconds::MAX
            || subject.issued < before
            || subject.digest.is_some_and(|digest| self.tokens.contains(&digest))
            || subject.key_id.is_some_and(|id| self.keys.contains(id))
    }
}

/// Number and content of the last record that was read from the arbiter's log.
type End = Option<(u64, Bytes)>;

/// All revocations that are known.
#[derive(Debug)]
pub struct Revocations {
    /// The log in the arbiter.
    log: Arc<dyn MetadataStore>,
    /// This master's own disk; `None` where the arbiter is on it.
    disk: Option<Arc<dyn MetadataStore>>,
    set: RwLock<Set>,
    /// End of the log. Its lock lets one task at a time read or write the log.
    end: tokio::sync::Mutex<End>,
    /// Time at which the last successful read of the log began.
    read: Mutex<Instant>,
}

fn name(number: u64) -> String {
    format!("{number:016}")
}

fn encode(revocation: &Revocation) -> Bytes {
    serde_json::to_vec(revocation).unwrap_or_default().into()
}

fn decode(value: &Bytes) -> Result<Revocation, ServiceError> {
    serde_json::from_slice(value)
        .map_err(|error| ServiceError::bug(format!("malformed revocation: {error}")))
}

/// Reads a log from after record `after` to its end.
async fn read_log(log: &dyn MetadataStore, after: u64) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let mut found: Vec<(u64, Bytes)> = Vec::new();
    loop {
        let last = found.last().map_or(after, |(number, _)| *number);
        let page = log.list(Table::Revocations, Some(&name(last)), PAGE_MAX).await?;
        if page.is_empty() {
            return Ok(found);
        }
        for (name, entry) in page {
            let number = name.parse().map_err(|_| StoreError::Malformed {
                what: "revocation",
                why: "its name is no number",
            })?;
            found.extend(entry.value.map(|value| (number, value)));
        }
    }
}

impl Revocations {
    /// Reads the revocations from this master's disk and from the arbiter.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn open(
        log: Arc<dyn MetadataStore>,
        disk: Option<Arc<dyn MetadataStore>>,
    ) -> Result<Self, ServiceError> {
        let mut set = Set::default();
        if let Some(disk) = &disk {
            for (_, value) in read_log(disk.as_ref(), 0).await? {
                set.add(decode(&value)?);
            }
            set.unsaved.clear();
        }
        let opened = Self {
            log,
            disk,
            set: RwLock::new(set),
            end: tokio::sync::Mutex::default(),
            read: Mutex::new(Instant::now()),
        };
        opened.look().await?;
        Ok(opened)
    }

    /// Looks at the arbiter every second, for ever.
    pub async fn run(&self) {
        let mut was_well = true;
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = self.look().await;
            if let Err(error) = &looked
                && was_well
            {
                tracing::warn!(
                    error = chain(error),
                    "revocations cannot be read from the arbiter, or cannot be stored in the data directory"
                );
            }
            was_well = looked.is_ok();
        }
    }

    /// Reads new records of the arbiter's log.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn look(&self) -> Result<(), ServiceError> {
        let mut end = self.end.lock().await;
        self.catch_up(&mut end).await
    }

    async fn catch_up(&self, end: &mut End) -> Result<(), ServiceError> {
        let began = Instant::now();
        // The read begins with the last known record, which must still be there.
        let after = end.as_ref().map_or(0, |(number, _)| number - 1);
        let mut found = read_log(self.log.as_ref(), after).await?;
        if let Some(last) = end.as_ref()
            && found.first() != Some(last)
        {
            tracing::error!("the arbiter has lost revocations; this master writes them back");
            found = read_log(self.log.as_ref(), 0).await?;
            *end = None;
        }
        let starts_over = end.is_none();
        for (number, value) in &found {
            self.add(decode(value)?);
            *end = Some((*number, value.clone()));
        }
        if starts_over {
            self.write_back(end, &found).await?;
        }
        *self.read.lock() = began;
        self.save().await
    }

    /// Writes revocations that this master knows and the arbiter lacks.
    async fn write_back(&self, end: &mut End, found: &[(u64, Bytes)]) -> Result<(), ServiceError> {
        let there: HashSet<&Bytes> = found.iter().map(|(_, value)| value).collect();
        let lacking: Vec<Bytes> = {
            let set = self.set.read();
            set.all.iter().map(encode).filter(|value| !there.contains(value)).collect()
        };
        for value in lacking {
            self.append(end, value).await?;
        }
        Ok(())
    }

    /// Appends a record to the arbiter's log.
    async fn append(&self, end: &mut End, value: Bytes) -> Result<(), ServiceError> {
        loop {
            let number = end.as_ref().map_or(0, |(number, _)| *number) + 1;
            let written =
                self.log.write(Table::Revocations, &name(number), 0, Some(value.clone())).await?;
            match written {
                WriteOutcome::Done(_) => {
                    *end = Some((number, value));
                    return Ok(());
                }
                // Another master was first.
                WriteOutcome::Conflict(current) => {
                    let theirs = current.and_then(|entry| entry.value).unwrap_or_default();
                    if let Ok(revocation) = decode(&theirs) {
                        self.add(revocation);
                    }
                    *end = Some((number, theirs));
                }
            }
        }
    }

    /// Adds a revocation to the set. It takes effect at once, whether or not it can be stored.
    fn add(&self, revocation: Revocation) {
        self.set.write().add(revocation);
    }

    /// Writes missing revocations to this master's disk. A failed write is repeated at the next look.
    async fn save(&self) -> Result<(), ServiceError> {
        let (unsaved, saved) = {
            let set = self.set.read();
            (set.unsaved.clone(), (set.all.len() - set.unsaved.len()) as u64)
        };
        let mut number = saved;
        for revocation in unsaved {
            if let Some(disk) = &self.disk {
                let value = encode(&revocation);
                // Only this process writes here, so a number that is taken is from an earlier write.
                loop {
                    number += 1;
                    let (name, value) = (name(number), Some(value.clone()));
                    let written = disk.write(Table::Revocations, &name, 0, value).await?;
                    if let WriteOutcome::Done(_) = written {
                        break;
                    }
                }
            }
            self.set.write().unsaved.remove(&revocation);
        }
        Ok(())
    }

    /// Revokes something, at once on this master and within seconds on all others.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn revoke(&self, revoked: Revoked, now: TimeMs) -> Result<(), ServiceError> {
        let revocation = Revocation { revoked, at: now };
        let mut end = self.end.lock().await;
        self.catch_up(&mut end).await?;
        self.append(&mut end, encode(&revocation)).await?;
        self.add(revocation);
        self.save().await
    }

    /// Returns all revocations, in order of what they refuse.
    pub fn all(&self) -> Vec<Revocation> {
        let set = self.set.read();
        set.all.iter().cloned().collect()
    }

    /// Returns whether a key of a user is refused, as far as this master knows. The key is one made at
    /// `created`, in milliseconds since 1970, with or without an id.
    pub fn refuses_key(&self, user: &str, created: TimeMs, id: Option<&str>) -> bool {
        let subject = RevocationSubject { user, issued: created / 1000, digest: None, key_id: id };
        self.set.read().refuses(subject)
    }

    /// Returns whether the credential that a ticket was given for was revoked.
    pub fn refuses_ticket(&self, ticket: &Ticket) -> bool {
        let set = self.set.read();
        let before = set.owners.get(&ticket.owner).copied().unwrap_or(0);
        before == Seconds::MAX
            || ticket.credential_issued < before
            || set.tags.contains(&ticket.credential)
    }

    /// Returns whether a credential was revoked.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] when the list is too old to tell.
    pub(super) fn refuses(&self, subject: RevocationSubject<'_>) -> Result<bool, ServiceError> {
        let read = *self.read.lock();
        let set = self.set.read();
        if set.refuses(subject) {
            return Ok(true);
        }
        if read.elapsed() > OUTAGE_MAX {
            let source = "revocations could not be read for too long".into();
            let late = StoreError::Unavailable { backend: "arbiter", action: "list", source };
            return Err(late.into());
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use fula_core::in_memory::MemoryMetadata;

    use super::*;

    fn subject(user: &str, issued: Seconds) -> RevocationSubject<'_> {
        RevocationSubject { user, issued, digest: None, key_id: None }
    }

    async fn master(log: &Arc<MemoryMetadata>, disk: &Arc<MemoryMetadata>) -> Revocations {
        Revocations::open(Arc::clone(log) as _, Some(Arc::clone(disk) as _)).await.unwrap()
    }

    #[tokio::test]
    async fn everything_can_be_revoked_and_nothing_else_is() {
        let log = Arc::new(MemoryMetadata::default());
        let revocations = Revocations::open(log, None).await.unwrap();
        let refuses = |subject| revocations.refuses(subject).unwrap();
        let token =
            |byte| RevocationSubject { digest: Some(TokenDigest([byte; 32])), ..subject("0xc", 5) };
        let key = |key_id| RevocationSubject { key_id: Some(key_id), ..subject("key:d", 5) };
        assert!(!refuses(subject("0xa", 5)));
        for revoked in [
            Revoked::User("0xa".into()),
            Revoked::IssuedBefore("0xb".into(), 100),
            Revoked::IssuedBefore("0xb".into(), 50),
            Revoked::Token(TokenDigest([1; 32]).to_string()),
            Revoked::Key("FULA1".into()),
        ] {
            revocations.revoke(revoked, 1).await.unwrap();
        }
        assert!(refuses(subject("0xa", 5)) && refuses(subject("0xa", Seconds::MAX)));
        assert!(refuses(subject("0xb", 99)) && !refuses(subject("0xb", 100)));
        assert!(refuses(token(1)) && !refuses(token(2)));
        assert!(refuses(key("FULA1")) && !refuses(key("FULA2")));
        assert_eq!(revocations.all().len(), 5);
    }

    #[tokio::test]
    async fn masters_hear_of_each_others_revocations() {
        let log = Arc::new(MemoryMetadata::default());
        let disks = [(); 2].map(|()| Arc::new(MemoryMetadata::default()));
        let [one, two] = [master(&log, &disks[0]).await, master(&log, &disks[1]).await];
        // Revocations made at the same moment are put one after the other.
        let revoke = |master: &'static str| Revoked::User(master.to_owned());
        let (a, b) = tokio::join!(one.revoke(revoke("0xa"), 1), two.revoke(revoke("0xb"), 1));
        a.unwrap();
        b.unwrap();
        for master in [&one, &two] {
            master.look().await.unwrap();
            assert_eq!(master.all().len(), 2);
        }
        assert_eq!(read_log(log.as_ref(), 0).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_a_full_disk_did_not_take_is_kept_later() {
        let log = Arc::new(MemoryMetadata::default());
        let disk = Arc::new(crate::auth::tests::Cut::default());
        let one = Revocations::open(Arc::clone(&log) as _, Some(Arc::clone(&disk) as _)).await;
        let one = one.unwrap();
        disk.1.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(one.revoke(Revoked::User("0xa".into()), 1).await.is_err());
        assert!(one.refuses(subject("0xa", 5)).unwrap(), "it counts all the same");
        assert!(one.look().await.is_err());
        disk.1.store(false, std::sync::atomic::Ordering::SeqCst);
        one.look().await.unwrap();
        let empty = Arc::new(MemoryMetadata::default());
        let again = Revocations::open(empty, Some(disk)).await.unwrap();
        assert!(again.refuses(subject("0xa", 5)).unwrap());
    }

    #[tokio::test]
    async fn a_restored_arbiter_cannot_unrevoke() {
        let log = Arc::new(MemoryMetadata::default());
        let disks = [(); 3].map(|()| Arc::new(MemoryMetadata::default()));
        let one = master(&log, &disks[0]).await;
        one.revoke(Revoked::User("0xkept".into()), 1).await.unwrap();
        let backup = log.backup();
        one.revoke(Revoked::User("0xforgotten".into()), 2).await.unwrap();
        log.restore(backup);
        // Another master continues where the restored log ends.
        let two = master(&log, &disks[1]).await;
        two.revoke(Revoked::User("0xnew".into()), 3).await.unwrap();
        assert!(one.refuses(subject("0xforgotten", 5)).unwrap());
        one.look().await.unwrap();
        two.look().await.unwrap();
        for master in [&one, &two] {
            assert_eq!(master.all().len(), 3);
        }
        // A master that starts on an empty restored log keeps its revocations too.
        log.restore(Arc::new(MemoryMetadata::default()).backup());
        let again = master(&log, &disks[0]).await;
        assert!(again.refuses(subject("0xforgotten", 5)).unwrap());
        let fresh = master(&log, &disks[2]).await;
        assert!(fresh.refuses(subject("0xforgotten", 5)).unwrap());
    }
}
