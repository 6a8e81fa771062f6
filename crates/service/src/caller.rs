//! Per-request context: identity, invocation id, preconditions, pins, and the bucket version of the answer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fula_core::{
    OwnerId,
    bucket::{Fingerprint, TextMap},
};

use crate::{
    auth::CredentialCheck, auth::access::Identity, auth::policy::Values, budget::ConnectionCloser,
    error::ServiceError, limits::INVOCATION_BYTES_MAX, pins::RequestPins,
};

/// One attempt of one call of an SDK, by which retries are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Value of `amz-sdk-invocation-id`, which is the same for every attempt.
    pub id: String,
    /// Number of the attempt from `amz-sdk-request`; 1 is the first.
    pub attempt: u32,
}

impl Invocation {
    /// Returns the invocation; `None` when the id is too long to be one.
    pub fn new(id: &str, attempt: u32) -> Option<Self> {
        let fits = (1..=INVOCATION_BYTES_MAX).contains(&id.len());
        fits.then(|| Self { id: id.to_owned(), attempt })
    }
}

/// The key by which a retry of a write is recognised.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyKey {
    pub(crate) fingerprint: Fingerprint,
    /// Object key of the write; empty for writes that are about the bucket.
    pub(crate) key: String,
    /// Whether this is known not to be the first attempt.
    pub(crate) is_retry: bool,
}

/// The owner whose bucket a name means (`x-amz-expected-bucket-owner`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BucketOwner {
    /// The request names no owner. [`crate::NamePolicy`] decides.
    #[default]
    Unsaid,
    /// The request names this owner.
    Named(OwnerId),
    /// The request names an owner that does not exist here.
    Nobody,
}

impl BucketOwner {
    /// Returns whether the request names an owner other than the caller.
    pub(crate) fn is_foreign(self, caller: &Caller) -> bool {
        match self {
            Self::Unsaid => false,
            Self::Named(owner) => caller.identity.as_ref().is_none_or(|who| who.owner != owner),
            Self::Nobody => true,
        }
    }
}

/// The sender of a request, and the conditions of the request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Identity that a signature or a token proved; `None` is anonymous.
    pub identity: Option<Identity>,
    /// Check by which the credential is examined again before a write is committed.
    pub credential_check: Option<CredentialCheck>,
    /// The call of an SDK that this request is an attempt of.
    pub invocation: Option<Invocation>,
    /// The owner whose bucket is meant.
    pub bucket_owner: BucketOwner,
    /// Required bucket version of a write (`x-fula-if-version`).
    pub if_version: Option<u64>,
    /// The bucket version that the answer will hold at.
    pub seen: Arc<Seen>,
    /// Closes the connection that the request came over.
    pub closer: Option<ConnectionCloser>,
    /// Keeps blocks that the request uses from the collector.
    pub pins: RequestPins,
    /// What conditions of policies ask of the request.
    pub keys: RequestKeys,
    /// Tags in the body of the request, which conditions ask for, too.
    pub request_tags: Option<Arc<TextMap>>,
}

/// Values of condition keys that the request itself has. By default it has none.
#[derive(Clone, Default)]
pub struct RequestKeys(pub Option<Arc<dyn Values + Send + Sync>>);

impl fmt::Debug for RequestKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestKeys").finish_non_exhaustive()
    }
}

/// The state of the bucket that an answer is based on.
#[derive(Debug, Default)]
pub struct Seen {
    version: AtomicU64,
    stale: AtomicBool,
    /// Milliseconds that a write has waited for stores before it was queued.
    waited_ms: AtomicU64,
}

impl Seen {
    /// Records the bucket version that the answer holds at. The last call counts.
    pub(crate) fn note(&self, version: u64) {
        self.version.store(version, Ordering::Relaxed);
    }

    /// Records time spent waiting for a store. It counts towards the deadline of a write.
    pub fn note_waited(&self, waited: Duration) {
        let waited = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.waited_ms.fetch_add(waited, Ordering::Relaxed);
    }

    /// Returns the part of `deadline` that is left after the recorded waits.
    pub(crate) fn left_of(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(Duration::from_millis(self.waited_ms.load(Ordering::Relaxed)))
    }

    /// Records that the answer comes from a root that may have been replaced.
    pub(crate) fn note_stale(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Returns the bucket version that the answer holds at, if it is about a bucket.
    pub fn version(&self) -> Option<u64> {
        Some(self.version.load(Ordering::Relaxed)).filter(|version| *version > 0)
    }

    /// Returns whether the answer may be outdated.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

impl Caller {
    /// Returns the context of a request with this identity and no conditions.
    pub fn of(identity: Identity) -> Self {
        Self { identity: Some(identity), ..Self::default() }
    }

    /// Checks that the caller's credential still allows a write that will be committed within `deadline`.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] when it was revoked since the request began;
    /// [`ServiceError::CredentialExpired`] when it ended too long ago.
    pub(crate) fn check_credential(&self, deadline: Duration) -> Result<(), ServiceError> {
        self.credential_check
            .as_ref()
            .map_or(Ok(()), |credential_check| credential_check.check(deadline))
    }

    /// Returns whether this is known to be a second or later attempt.
    pub(crate) fn is_retry(&self) -> bool {
        self.invocation.as_ref().is_some_and(|invocation| invocation.attempt > 1)
    }

    /// Returns the key by which a retry of this write is recognised. `key` is empty for writes about the
    /// bucket. Returns `None` when the client does not number its calls.
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

    /// Returns a hash that identifies a write of this call. It is the same for each attempt, and different
    /// for any other write.
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
