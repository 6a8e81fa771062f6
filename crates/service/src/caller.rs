//! What a request brings along besides what it asks for, and what its answer is told of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fula_core::{OwnerId, bucket::Fingerprint};

use crate::{
    auth::CredentialCheck, auth::access::Identity, budget::ConnectionCloser, error::ServiceError,
    limits::INVOCATION_BYTES_MAX, pins::RequestPins,
};

/// One attempt of one call of an SDK, by which a retry is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// `amz-sdk-invocation-id`: the same for every attempt.
    pub id: String,
    /// From `amz-sdk-request`; 1 is the first.
    pub attempt: u32,
}

impl Invocation {
    /// Returns the invocation, unless the id is too long to be one.
    pub fn new(id: &str, attempt: u32) -> Option<Self> {
        let fits = (1..=INVOCATION_BYTES_MAX).contains(&id.len());
        fits.then(|| Self { id: id.to_owned(), attempt })
    }
}

/// How a retry of a write is known.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyKey {
    pub(crate) fingerprint: Fingerprint,
    /// Its object key; empty for writes about the bucket.
    pub(crate) key: String,
    /// Whether this is known not to be the first attempt.
    pub(crate) is_retry: bool,
}

/// Whose bucket a name is about (`x-amz-expected-bucket-owner`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BucketOwner {
    /// Nothing is said: what a bare name means ([`crate::NamePolicy`]).
    #[default]
    Unsaid,
    /// This owner's.
    Named(OwnerId),
    /// That of no owner of ours.
    Nobody,
}

impl BucketOwner {
    /// Returns whether it is said to be someone else's.
    pub(crate) fn is_foreign(self, caller: &Caller) -> bool {
        match self {
            Self::Unsaid => false,
            Self::Named(owner) => caller.identity.as_ref().is_none_or(|who| who.owner != owner),
            Self::Nobody => true,
        }
    }
}

/// Who asks, and on what terms.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// As far as a signature proved it; `None` is anonymous.
    pub identity: Option<Identity>,
    /// By which the credential is judged again before a write is committed.
    pub credential_check: Option<CredentialCheck>,
    /// Which call of an SDK this is an attempt of.
    pub invocation: Option<Invocation>,
    /// Whose bucket is meant.
    pub bucket_owner: BucketOwner,
    /// `x-fula-if-version`: a write is carried out only if the bucket is at this version.
    pub if_version: Option<u64>,
    /// What the answer turns out to rest on.
    pub seen: Arc<Seen>,
    /// Ends the connection that the request came over.
    pub closer: Option<ConnectionCloser>,
    /// What this request keeps from the collector.
    pub pins: RequestPins,
}

/// The state of the bucket that an answer rests on.
#[derive(Debug, Default)]
pub struct Seen {
    version: AtomicU64,
    stale: AtomicBool,
    /// Milliseconds that a write has waited for stores before it was queued.
    waited_ms: AtomicU64,
}

impl Seen {
    /// Notes the bucket version that the answer holds at; the last one noted counts.
    pub(crate) fn note(&self, version: u64) {
        self.version.store(version, Ordering::Relaxed);
    }

    /// Notes time spent waiting for a store, which a write's deadline includes.
    pub fn note_waited(&self, waited: Duration) {
        let waited = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.waited_ms.fetch_add(waited, Ordering::Relaxed);
    }

    /// Returns what is left of `deadline` after the waits noted.
    pub(crate) fn left_of(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(Duration::from_millis(self.waited_ms.load(Ordering::Relaxed)))
    }

    /// Notes that the answer is from a root that may have been replaced.
    pub(crate) fn note_stale(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Returns the bucket version that the answer holds at, when it is about a bucket.
    pub fn version(&self) -> Option<u64> {
        Some(self.version.load(Ordering::Relaxed)).filter(|version| *version > 0)
    }

    /// Returns whether the answer may be outdated.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

impl Caller {
    /// Returns a caller of whom nothing else is known.
    pub fn of(identity: Identity) -> Self {
        Self { identity: Some(identity), ..Self::default() }
    }

    /// Finds out whether the caller's credential still allows a write that is committed within
    /// `deadline`.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] for one that was revoked since the request began;
    /// [`ServiceError::CredentialExpired`] for one that ended too long ago.
    pub(crate) fn check_credential(&self, deadline: Duration) -> Result<(), ServiceError> {
        self.credential_check
            .as_ref()
            .map_or(Ok(()), |credential_check| credential_check.check(deadline))
    }

    /// Returns whether this is known to be a second or later attempt.
    pub(crate) fn is_retry(&self) -> bool {
        self.invocation.as_ref().is_some_and(|invocation| invocation.attempt > 1)
    }

    /// Returns how this write is known when it is tried again; `key` is empty for writes about
    /// the bucket. `None` when the client does not number its calls.
    pub(crate) fn idempotency_key(
        &self,
        operation: &str,
        key: &str,
        parts: &[&[u8]],
    ) -> Option<IdempotencyKey> {
        let parts: Vec<&[u8]> = [key.as_bytes()].iter().chain(parts).copied().collect();
        let fingerprint = self.fingerprint(operation, &parts)?;
        Some(IdempotencyKey { fingerprint, key: key.to_owned(), is_retry: self.is_retry() })
    }

    /// Returns what identifies a write of this call: the same for each attempt, another for any
    /// other write.
    fn fingerprint(&self, operation: &str, parts: &[&[u8]]) -> Option<Fingerprint> {
        let (identity, invocation) = (self.identity.as_ref()?, self.invocation.as_ref()?);
        let mut hasher = blake3::Hasher::new_derive_key("fula 2026 request fingerprint");
        let version = self.if_version.unwrap_or_default().to_be_bytes();
        let first: [&[u8]; 4] =
            [identity.user.as_bytes(), invocation.id.as_bytes(), operation.as_bytes(), &version];
        for part in first.iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let [bytes @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            *hasher.finalize().as_bytes();
        Some(Fingerprint(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_writes_apart_and_attempts_together() {
        let caller = |user: &str, id: &str, attempt| Caller {
            invocation: Invocation::new(id, attempt),
            ..Caller::of(Identity::of_user(user))
        };
        let fingerprint =
            |caller: &Caller, parts: &[&[u8]]| caller.fingerprint("put", parts).unwrap();
        let first = fingerprint(&caller("key:a", "i", 1), &[b"k", b"body"]);
        assert_eq!(fingerprint(&caller("key:a", "i", 2), &[b"k", b"body"]), first);
        assert_ne!(fingerprint(&caller("key:b", "i", 1), &[b"k", b"body"]), first);
        assert_ne!(fingerprint(&caller("key:a", "j", 1), &[b"k", b"body"]), first);
        assert_ne!(fingerprint(&caller("key:a", "i", 1), &[b"kb", b"ody"]), first);
        assert!(Caller::of(Identity::of_user("key:a")).fingerprint("put", &[]).is_none());
        assert!(Invocation::new("", 1).is_none());
    }
}
