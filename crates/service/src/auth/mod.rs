//! Authentication: access keys, sessions, tokens, and revocations.
//!
//! The gateway parses the credential of a request, and this module decides on it. What an authenticated
//! user may do is decided in [`access`].

pub mod access;
pub mod acl;
mod action;
pub(crate) mod bucket_policy;
mod claimed;
mod clock;
mod fault;
mod key_backup;
mod key_memory;
mod key_record;
mod keys;
pub mod policy;
mod proof;
pub(crate) mod public_access;
mod records;
pub(crate) mod request;
mod reseal;
mod revocations;
mod sealing;
mod session_copy;
mod sessions;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fula_core::{
    metadata::{Entry, Table},
    root::TimeMs,
};
use fula_identity::{Policy, Seconds, TokenError, Verified, jwt::KeySet};
use parking_lot::RwLock;
use quick_cache::sync::Cache;
use tokio::sync::Notify;

pub use self::{
    clock::CredentialClock,
    fault::AuthError,
    key_backup::PutBack,
    keys::{AccessKey, KeyInfo, KeyRing, user_of},
    proof::{AuthMethod, COMMIT_ALLOWANCE, CredentialCheck, Proof},
    reseal::Resealed,
    revocations::{Revocation, Revocations, Revoked},
    sealing::{InvalidSealingKey, SealingKey, Secret},
    sessions::{SESSIONS_MAX, SessionKeys},
};
use self::{key_memory::KeyMemory, sessions::Slots};
use crate::error::{ServiceError, chain};

/// A source of the time of day in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> TimeMs + Send + Sync>;

/// Number of verified tokens that are cached.
const VERIFIED: usize = 4096;

/// Shortest and longest life of a session in seconds.
pub const SESSION_LIFE: std::ops::RangeInclusive<Seconds> = 900..=43_200;

/// The credential of a signed request.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Access key id.
    pub access_key: &'a str,
    /// Session token, if there is one.
    pub session_token: Option<&'a str>,
    /// Time at which a presigned URL expires, in seconds since 1970; `None` for a signed header.
    pub url_expires: Option<Seconds>,
    /// Whether nobody can have read the request on its way.
    pub is_private: bool,
}

/// Authenticates requests. Clones share one state.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    policy: RwLock<Arc<Policy>>,
    keys: KeyRing,
    revocations: Revocations,
    clock: Clock,
    /// Verified tokens by a hash of their text. Their times are checked at each use.
    verified: Cache<[u8; 32], Arc<Verified>>,
    /// Largest number of sessions of one user at a time, up to [`SESSIONS_MAX`].
    sessions_max: AtomicUsize,
    /// Notified when a token names a key that the key set lacks.
    keys_wanted: Notify,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// Returns whether an access key id is a token.
fn is_token(access_key: &str) -> bool {
    access_key.contains('.')
}

/// Returns a name of a token for the log that does not reveal it.
fn name_of_token(verified: &Verified) -> String {
    format!("token:{:.16}", verified.digest)
}

/// Number of characters that the log shows of an unknown access key id, which may be a misplaced secret.
const UNKNOWN_SHOWN: usize = 8;

/// Returns a name for an unknown access key id: its beginning.
pub fn redacted_unknown(access_key: &str) -> String {
    let shown = redacted(access_key);
    match shown.char_indices().nth(UNKNOWN_SHOWN) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// Returns a name for an access key id that does not reveal it, if it is known or a token.
pub fn redacted(access_key: &str) -> String {
    if is_token(access_key) || access_key.len() > 128 {
        return "token".to_owned();
    }
    access_key.chars().filter(char::is_ascii_graphic).collect()
}

impl Authenticator {
    /// Accepts the access keys of `keys` that are not revoked. Accepts no tokens before
    /// [`Self::set_policy`].
    pub fn new(keys: KeyRing, revocations: Revocations, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            policy: RwLock::default(),
            keys,
            revocations,
            clock,
            verified: Cache::new(VERIFIED),
            sessions_max: AtomicUsize::new(SESSIONS_MAX),
            keys_wanted: Notify::new(),
        }))
    }

    /// Returns the access keys.
    pub fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    /// Returns the revocations.
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Returns the policy of which tokens are accepted.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.policy.read())
    }

    /// Sets the policy of which tokens are accepted.
    pub fn set_policy(&self, policy: Policy) {
        *self.0.policy.write() = Arc::new(policy);
        self.0.verified.clear();
    }

    /// Replaces the policy of which tokens are accepted, and keeps the key set that verifies JWTs.
    pub fn replace_policy(&self, policy: Policy) {
        let mut current = self.0.policy.write();
        let jwt = Arc::new(policy.jwt.with_keys_of(&current.jwt));
        *current = Arc::new(Policy { jwt, ..policy });
        drop(current);
        self.0.verified.clear();
    }

    /// Sets the largest number of sessions of a user at a time, from 1 to [`SESSIONS_MAX`], which is the
    /// default. One token may have half of them, so that it does not use all.
    pub fn set_sessions_max(&self, max: usize) {
        self.0.sessions_max.store(max.clamp(1, SESSIONS_MAX), Ordering::Relaxed);
    }

    /// Replaces the key set that verifies JWTs. Keys that are no longer in it are not accepted any more.
    /// `None` means that the set cannot be read: tokens that need it are refused until it can. Returns
    /// whether this changed anything.
    pub fn set_jwt_keys(&self, keys: Option<KeySet>) -> bool {
        let mut policy = self.0.policy.write();
        let jwt = policy.jwt.with_keys(keys);
        if policy.jwt.has_same_keys(&jwt) {
            return false;
        }
        let jwt = Arc::new(jwt);
        *policy = Arc::new(Policy { jwt, ..Policy::clone(&policy) });
        drop(policy);
        // These include tokens that were verified with a key that is gone.
        self.0.verified.clear();
        true
    }

    /// Waits until a request carries a JWT whose key is not in the set.
    pub async fn jwt_keys_wanted(&self) {
        self.0.keys_wanted.notified().await;
    }

    /// Has the key set that verifies JWTs read again soon.
    pub fn want_jwt_keys(&self) {
        self.0.keys_wanted.notify_one();
    }

    /// Returns the time by which credentials and signatures are checked, in seconds since 1970.
    pub fn now(&self) -> Seconds {
        (self.0.clock)() / 1000
    }

    /// Verifies a token, or finds it among the verified ones. Checks its times in either case.
    fn verify(&self, token: &str) -> Result<Arc<Verified>, AuthError> {
        let now = self.now();
        if token.len() > fula_identity::TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid("it is too long").into());
        }
        let key = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(verified) = self.0.verified.get(&key) {
            if verified.expires <= now {
                return Err(TokenError::Expired.into());
            }
            return Ok(verified);
        }
        let policy = self.policy();
        let verified = match policy.verify(token, now) {
            Ok(verified) => Arc::new(verified),
            Err(error) => {
                if policy.jwt.lacks_key_of(token) {
                    self.0.keys_wanted.notify_one();
                }
                return Err(error.into());
            }
        };
        self.0.verified.insert(key, Arc::clone(&verified));
        // A token that was verified under a policy that was replaced in the meantime must not be cached.
        if !Arc::ptr_eq(&policy, &self.policy()) {
            self.0.verified.remove(&key);
        }
        Ok(verified)
    }

    /// Authenticates the bearer of a token.
    ///
    /// # Errors
    /// [`AuthError`] when the token is not accepted.
    pub fn bearer(&self, token: &str) -> Result<Proof, AuthError> {
        self.inspect(token).map(|verified| self.proof_of(&verified))
    }

    /// Returns the proof of identity that a verified token gives.
    pub fn proof_of(&self, verified: &Verified) -> Proof {
        let (user, digest) = (&verified.identity.user, Some(verified.digest));
        Proof {
            identity: verified.identity.clone(),
            method: AuthMethod::Bearer,
            credential: name_of_token(verified),
            credential_check: self.credential_check(
                user,
                verified.issued,
                Some(verified.expires),
                digest,
                None,
            ),
        }
    }

    /// Returns the content of a token that is accepted.
    ///
    /// # Errors
    /// [`AuthError`] when it is not accepted.
    pub fn inspect(&self, token: &str) -> Result<Arc<Verified>, AuthError> {
        let verified = self.verify(token)?;
        self.proof_of(&verified).credential_check.judge()?;
        Ok(verified)
    }

    /// Returns the secret that requests with an access key are signed with. `session_token` is what the request
    /// has beside it, by which a session is found that the arbiter has lost.
    ///
    /// # Errors
    /// [`AuthError::UnknownKey`]; [`AuthError::Token`] for a token that is not valid.
    pub async fn secret_of(
        &self,
        access_key: &str,
        session_token: Option<&str>,
    ) -> Result<Secret, AuthError> {
        if is_token(access_key) {
            self.verify(access_key)?;
            return Ok(Secret::new(fula_identity::secret_of(access_key)));
        }
        if access_key.starts_with(sessions::PREFIX) {
            let session = self.0.keys.session(access_key, session_token).await?;
            if session.is_none() {
                self.0.keys.check_arbiter().await?;
            }
            return session.map(|session| session.secret).ok_or(AuthError::UnknownKey);
        }
        let found = self.0.keys.find(access_key).await?;
        found.map(|found| found.secret).ok_or(AuthError::UnknownKey)
    }

    /// Authenticates a request whose signature was verified.
    ///
    /// # Errors
    /// [`AuthError`] when the credential is not accepted.
    pub async fn admit(&self, signed: Signed<'_>) -> Result<Proof, AuthError> {
        let mut proof = self.admit_credential(signed).await?;
        // A presigned URL ends at its own time, or with the credential that signed it.
        let ends = &mut proof.credential_check.ends;
        *ends = ends.iter().copied().chain(signed.url_expires).min();
        Ok(proof)
    }

    async fn admit_credential(&self, signed: Signed<'_>) -> Result<Proof, AuthError> {
        if is_token(signed.access_key) {
            return self.admit_token(signed);
        }
        if signed.access_key.starts_with(sessions::PREFIX) {
            return self.admit_session(signed).await;
        }
        if signed.session_token.is_some() {
            return Err(AuthError::SessionToken);
        }
        // The key may have been revoked since the signature was verified.
        let found = self.0.keys.find(signed.access_key).await?.ok_or(AuthError::UnknownKey)?;
        let (user, key) = (&found.identity.user, signed.access_key);
        let credential_check =
            self.credential_check(user, found.created / 1000, None, None, Some(key));
        // The revocation may arrive before the deletion of the key. The answer is the same.
        credential_check.judge().map_err(|error| match error {
            AuthError::Revoked => AuthError::UnknownKey,
            other => other,
        })?;
        let credential = signed.access_key.to_owned();
        Ok(Proof {
            identity: found.identity,
            method: AuthMethod::Key,
            credential,
            credential_check,
        })
    }

    fn admit_token(&self, signed: Signed<'_>) -> Result<Proof, AuthError> {
        if signed.session_token.is_some() {
            return Err(AuthError::SessionToken);
        }
        // Anyone who read the token on its way could use it.
        if !signed.is_private {
            return Err(AuthError::NotPrivate);
        }
        let proof = self.bearer(signed.access_key)?;
        // A URL can be passed on, and would pass on everything that the token may do.
        if signed.url_expires.is_some() && !proof.identity.grant.is_one_object() {
            return Err(AuthError::Presigned);
        }
        Ok(Proof { method: AuthMethod::TokenKey, ..proof })
    }

    async fn admit_session(&self, signed: Signed<'_>) -> Result<Proof, AuthError> {
        let session = self.0.keys.session(signed.access_key, signed.session_token).await?;
        let session = session.ok_or(AuthError::UnknownKey)?;
        if !signed.session_token.is_some_and(|token| session.has_token(token)) {
            return Err(AuthError::SessionToken);
        }
        if session.expires <= self.now() {
            return Err(AuthError::SessionExpired);
        }
        // The session may come from a master that accepts tokens which this one does not.
        self.policy().admits(&session.identity.user, session.audience.as_deref())?;
        let (user, key) = (&session.identity.user, signed.access_key);
        let (ends, digest) = (Some(session.expires), Some(session.digest));
        let credential_check = self.credential_check(user, session.issued, ends, digest, Some(key));
        credential_check.judge()?;
        let credential = signed.access_key.to_owned();
        Ok(Proof {
            identity: session.identity,
            method: AuthMethod::Session,
            credential,
            credential_check,
        })
    }

    /// Begins a session for the bearer of a token that was [inspected](Self::inspect), for up to `life`
    /// seconds.
    ///
    /// # Errors
    /// [`AuthError::TooManySessions`]; [`ServiceError::Busy`], [`ServiceError::Unavailable`].
    pub async fn begin_session(
        &self,
        verified: &Verified,
        life: Seconds,
    ) -> Result<SessionKeys, AuthError> {
        let life = life.clamp(*SESSION_LIFE.start(), *SESSION_LIFE.end());
        let slots = Slots {
            now: self.now(),
            max: self.0.sessions_max.load(Ordering::Relaxed),
            revocations: &self.0.revocations,
        };
        self.0.keys.begin_session(verified, life, slots).await
    }

    /// Copies the keys of a shared arbiter to this master's own disk, and writes back those that the
    /// arbiter has lost. Runs for ever. Does nothing where the arbiter is this master's own.
    pub async fn keep_keys(&self) {
        let Some(memory) = self.0.keys.memory() else { return };
        let mut looks = tokio::time::interval(key_memory::LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_well = true;
        loop {
            let wanted = tokio::select! {
                _ = looks.tick() => None,
                id = memory.next_wanted() => Some(id),
            };
            if let Some(id) = wanted {
                if let Err(error) = self.compare_key(memory, &id, None).await {
                    memory.tell_once(&id, &error);
                }
                continue;
            }
            let looked = self.look_at_keys().await;
            if let Err(error) = &looked
                && was_well
            {
                let error = chain(error);
                tracing::warn!(error, "cannot compare access keys with their copies; trying again");
            }
            was_well = looked.is_ok();
        }
    }

    /// Compares a page of the arbiter's keys with the copies of this master. A failure ends the look, and
    /// the next look begins after the key that failed.
    async fn look_at_keys(&self) -> Result<(), ServiceError> {
        let Some(memory) = self.0.keys.memory() else { return Ok(()) };
        memory.begin(self.now()).await?;
        let page = memory.page().await?;
        for (id, found) in page.keys {
            memory.turn_to(Some(id.clone()));
            if let Err(error) = self.compare_key(memory, &id, found).await {
                memory.tell_once(&id, &error);
                return Ok(());
            }
        }
        memory.turn_to(page.end);
        Ok(())
    }

    /// Compares a key with the copy of this master, and writes it back if the arbiter has lost it.
    async fn compare_key(
        &self,
        memory: &KeyMemory,
        id: &str,
        found: Option<Entry>,
    ) -> Result<(), ServiceError> {
        let Some(lost) = memory.compare(id, found).await? else { return Ok(()) };
        if self.0.revocations.refuses_key(&lost.user, lost.created, Some(id)) {
            return memory.forget(id).await;
        }
        let user = &lost.user;
        tracing::warn!(
            key = id,
            user,
            "the arbiter has lost an access key; this master writes it back"
        );
        memory.write_back(id, lost.record).await?;
        self.0.keys.records().forget(Table::Keys, id);
        Ok(())
    }

    /// Revokes a credential on every master. An access key is deleted as well.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn revoke(&self, revoked: Revoked) -> Result<(), ServiceError> {
        self.0.revocations.revoke(revoked, (self.0.clock)()).await
    }
}
