//! Who a request is from: access keys, sessions, tokens, and what was revoked.
//!
//! The gateway takes a request apart; everything that decides on it is here. What may be done by
//! whom is [`crate::access`]'s.

pub mod access;
mod action;
pub(crate) mod bucket_policy;
mod clock;
mod key_memory;
mod key_record;
mod keys;
pub mod policy;
mod proof;
mod records;
mod revocations;
mod sealing;
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
    keys::{AccessKey, KeyInfo, KeyRing, user_of},
    proof::{AuthMethod, COMMIT_ALLOWANCE, CredentialCheck, Proof},
    revocations::{Revocation, Revocations, Revoked},
    sealing::{InvalidSealingKey, SealingKey, Secret},
    sessions::{SESSIONS_MAX, SessionKeys},
};
use self::{key_memory::KeyMemory, sessions::Slots};
use crate::error::{ServiceError, chain};

/// The time of day, milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> TimeMs + Send + Sync>;

/// Verified tokens that are remembered.
const VERIFIED: usize = 4096;

/// Longest life of a session, and the shortest that can be asked for.
pub const SESSION_LIFE: std::ops::RangeInclusive<Seconds> = 900..=43_200;

/// A signed request, as far as its credential goes.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Access key id.
    pub access_key: &'a str,
    /// Session token, if there is one.
    pub session_token: Option<&'a str>,
    /// When the URL expires, in seconds since 1970, if the signature is in it.
    pub url_expires: Option<Seconds>,
    /// Whether nobody can have read along.
    pub is_private: bool,
}

/// Why someone is not let in; the texts name no credential.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    /// The token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It was good once.
    #[error("the credential was revoked")]
    Revoked,
    /// There is no such access key.
    #[error("there is no such access key")]
    UnknownKey,
    /// Begin another.
    #[error("the session has ended")]
    SessionExpired,
    /// The session token is missing or wrong, or there should be none.
    #[error("the session token does not go with the access key")]
    SessionToken,
    /// Use TLS, or the same machine.
    #[error(
        "a token is accepted over TLS or from the same machine only; use https, or where a proxy in \
         front of the gateway ends TLS, let the operator set FULA_TLS_TERMINATED=on"
    )]
    NotPrivate,
    /// Presign with a session, or with a token for that object alone.
    #[error("a token as access key may presign only if its scope is one object")]
    Presigned,
    /// Wait until one ends, revoke some, or raise the limit.
    #[error(
        "{of} has {max} sessions, the most that may exist at a time; wait until one ends, revoke some \
         (fula revoke session ID), or let the operator raise FULA_SESSIONS_PER_OWNER"
    )]
    TooManySessions {
        /// Whose sessions they are: the owner's, or those of one token.
        of: &'static str,
        /// The limit.
        max: usize,
    },
    /// It cannot be told.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Says who requests are from; cloned freely, shared by all.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    policy: RwLock<Arc<Policy>>,
    keys: KeyRing,
    revocations: Revocations,
    clock: Clock,
    /// Tokens found good, by a hash of their text; their time is checked each time.
    verified: Cache<[u8; 32], Arc<Verified>>,
    /// Most sessions of one user at a time, up to [`SESSIONS_MAX`].
    sessions_max: AtomicUsize,
    /// Told when a token names a key that the key set lacks.
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

/// Returns a name for a token that gives nothing away.
fn name_of_token(verified: &Verified) -> String {
    format!("token:{:.16}", verified.digest)
}

/// Characters that the log shows of an access key id that nobody has: it may be a secret that was put
/// in the wrong place.
const UNKNOWN_SHOWN: usize = 8;

/// Returns a name for an access key id that nobody has: its beginning.
pub fn redacted_unknown(access_key: &str) -> String {
    let shown = redacted(access_key);
    match shown.char_indices().nth(UNKNOWN_SHOWN) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// Returns a name for an access key id that gives nothing away, if somebody has it or it is a token.
pub fn redacted(access_key: &str) -> String {
    if is_token(access_key) || access_key.len() > 128 {
        return "token".to_owned();
    }
    access_key.chars().filter(char::is_ascii_graphic).collect()
}

impl Authenticator {
    /// Lets in who has a key and was not revoked; no tokens before [`Self::set_policy`].
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

    /// Returns the operator-made keys.
    pub fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    /// Returns the revocations.
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Returns what is accepted.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.policy.read())
    }

    /// Sets which tokens are accepted.
    pub fn set_policy(&self, policy: Policy) {
        *self.0.policy.write() = Arc::new(policy);
        self.0.verified.clear();
    }

    /// Sets how many sessions a user may have at a time: from 1 to [`SESSIONS_MAX`], which it is at
    /// first. One token may have half of them, so that it does not take all.
    pub fn set_sessions_max(&self, max: usize) {
        self.0.sessions_max.store(max.clamp(1, SESSIONS_MAX), Ordering::Relaxed);
    }

    /// Replaces the key set that verifies JWTs: keys that are not in it any more count no longer.
    /// `None` says that the set cannot be read: its tokens are refused until it can. Returns whether
    /// that changed anything.
    pub fn set_jwt_keys(&self, keys: Option<KeySet>) -> bool {
        let mut policy = self.0.policy.write();
        let jwt = policy.jwt.with_keys(keys);
        if policy.jwt.has_same_keys(&jwt) {
            return false;
        }
        let jwt = Arc::new(jwt);
        *policy = Arc::new(Policy { jwt, ..Policy::clone(&policy) });
        drop(policy);
        // Whatever was verified with a key that is gone.
        self.0.verified.clear();
        true
    }

    /// Waits until somebody shows a JWT whose key is not in the set.
    pub async fn jwt_keys_wanted(&self) {
        self.0.keys_wanted.notified().await;
    }

    /// Returns the time that credentials and signatures are judged by, in seconds since 1970.
    pub fn now(&self) -> Seconds {
        (self.0.clock)() / 1000
    }

    /// Verifies a token, or remembers that it was good; judges its time in any case.
    fn verify(&self, token: &str) -> Result<Arc<Verified>, AuthError> {
        let now = self.now();
        if token.len() > fula_identity::TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid("its length").into());
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
        // Verified by a policy that was replaced meanwhile, it must not outlive it.
        if !Arc::ptr_eq(&policy, &self.policy()) {
            self.0.verified.remove(&key);
        }
        Ok(verified)
    }

    /// Says who shows a token.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn bearer(&self, token: &str) -> Result<Proof, AuthError> {
        self.inspect(token).map(|verified| self.proof_of(&verified))
    }

    /// Returns the proof that the bearer of a token has given.
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

    /// Returns the token's own facts, for whoever shows it.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn inspect(&self, token: &str) -> Result<Arc<Verified>, AuthError> {
        let verified = self.verify(token)?;
        self.proof_of(&verified).credential_check.judge()?;
        Ok(verified)
    }

    /// Returns the secret that requests with an access key are signed with.
    ///
    /// # Errors
    /// [`AuthError::UnknownKey`]; [`AuthError::Token`] for a token that is not good.
    pub async fn secret_of(&self, access_key: &str) -> Result<Secret, AuthError> {
        if is_token(access_key) {
            self.verify(access_key)?;
            return Ok(Secret::new(fula_identity::secret_of(access_key)));
        }
        if access_key.starts_with(sessions::PREFIX) {
            let session = self.0.keys.session(access_key).await?;
            if session.is_none() {
                self.0.keys.check_arbiter().await?;
            }
            return session.map(|session| session.secret).ok_or(AuthError::UnknownKey);
        }
        let found = self.0.keys.find(access_key).await?;
        found.map(|found| found.secret).ok_or(AuthError::UnknownKey)
    }

    /// Says who a request is from whose signature was found good.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn admit(&self, signed: Signed<'_>) -> Result<Proof, AuthError> {
        let mut proof = self.admit_credential(signed).await?;
        // A link ends by itself, or with the credential that signed it.
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
        // Revoked between the signature check and now.
        let found = self.0.keys.find(signed.access_key).await?.ok_or(AuthError::UnknownKey)?;
        let (user, key) = (&found.identity.user, signed.access_key);
        let credential_check =
            self.credential_check(user, found.created / 1000, None, None, Some(key));
        // Where the revocation is heard of before the deletion, it looks the same.
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
        // Whoever read it along the way can use it.
        if !signed.is_private {
            return Err(AuthError::NotPrivate);
        }
        let proof = self.bearer(signed.access_key)?;
        // A link is passed on, and would pass on all that the token may do.
        if signed.url_expires.is_some() && !proof.identity.grant.is_one_object() {
            return Err(AuthError::Presigned);
        }
        Ok(Proof { method: AuthMethod::TokenKey, ..proof })
    }

    async fn admit_session(&self, signed: Signed<'_>) -> Result<Proof, AuthError> {
        let session = self.0.keys.session(signed.access_key).await?;
        let session = session.ok_or(AuthError::UnknownKey)?;
        if !signed.session_token.is_some_and(|token| session.has_token(token)) {
            return Err(AuthError::SessionToken);
        }
        if session.expires <= self.now() {
            return Err(AuthError::SessionExpired);
        }
        // Begun on a master that accepts what this one does not.
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

    /// Begins a session for whoever showed a token that was [inspected](Self::inspect), for up to
    /// `life` seconds.
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

    /// Keeps the keys of a shared arbiter on this master's own disk, for ever: those that the arbiter has
    /// lost are written again. Does nothing where the arbiter is this master's own.
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
                tracing::warn!(
                    error,
                    "the arbiter's access keys cannot be compared with those known"
                );
            }
            was_well = looked.is_ok();
        }
    }

    /// Compares a page of the arbiter's keys with those that this master remembers. A key that fails ends
    /// the look, and the next look begins after it.
    async fn look_at_keys(&self) -> Result<(), ServiceError> {
        let Some(memory) = self.0.keys.memory() else { return Ok(()) };
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

    /// Compares a key with what this master remembers of it; writes it again if the arbiter lost it.
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
        tracing::warn!(key = id, user, "the arbiter has lost an access key: it is written again");
        memory.write_back(id, lost.record).await?;
        self.0.keys.records().forget(Table::Keys, id);
        Ok(())
    }

    /// Revokes something on every master; an access key is deleted as well.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn revoke(&self, revoked: Revoked) -> Result<(), ServiceError> {
        self.0.revocations.revoke(revoked, (self.0.clock)()).await
    }
}
