//! Sessions: temporary access keys that clients get for a token. They are kept in the arbiter.
//!
//! A user has up to [`SESSIONS_MAX`] slots. Each slot is a record, which a new session reuses once the
//! session in it has ended or was revoked. So the number of records is bounded by the number of concurrent
//! sessions, and no record has to be deleted. The key id names the slot. The rest of it, the secret and the
//! session token are drawn anew for each session. The token also has a copy of the record
//! ([`session_copy`]), for an arbiter that has lost it.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fula_core::metadata::{Entry, Table, WriteOutcome};
use fula_identity::{Grant, Identity, Seconds, TokenDigest, Verified};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    AuthError, KeyRing, Revocations, Secret, revocations::RevocationSubject, session_copy,
};
use crate::error::{Applied, ServiceError};

/// Prefix of the key ids of sessions.
pub(super) const PREFIX: &str = "FULT";

/// Largest number of sessions of one user at a time that can be allowed.
pub const SESSIONS_MAX: usize = 1000;

/// One token may have the sessions of its user divided by this.
const TOKEN_PART: usize = 2;

/// Number of digits in a key id that stand for the user, for the slot, and for the random part.
const USER_DIGITS: usize = 16;
const SLOT_DIGITS: usize = 2;
const DRAWN_DIGITS: usize = 14;

/// Digits of the base32 of RFC 4648.
const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Number of new slots among which one is drawn at random.
const NEW_SLOTS: usize = 32;

/// Number of times that another slot is tried because a session was begun in this one in the meantime.
const TRIES: usize = 8;

/// A new session. Its secrets are never shown again.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: Secret,
    /// Session token, which must be sent with every request.
    pub token: Secret,
    /// Time at which it ends, in seconds since 1970.
    pub expires: Seconds,
}

/// A session that was found.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) secret: Secret,
    pub(super) identity: Identity,
    pub(super) digest: TokenDigest,
    pub(super) issued: Seconds,
    pub(super) expires: Seconds,
    pub(super) audience: Option<String>,
    token_hash: [u8; 32],
}

impl Session {
    /// Returns whether this is the token of the session. The comparison takes constant time.
    pub(super) fn has_token(&self, token: &str) -> bool {
        self.token_hash.ct_eq(&hash(token)).into()
    }
}

/// A session as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    user: String,
    /// Scopes; `None` stands for all.
    scopes: Option<Vec<String>>,
    sealed: String,
    /// Hex of a hash of the session token. The copy in the token itself has none.
    token: String,
    /// Digest of the token that the session was issued for.
    #[serde(rename = "meaning")]
    digest: String,
    issued: Seconds,
    expires: Seconds,
    /// Audience of that token, if it named one.
    audience: Option<String>,
    /// Time at which it began, in seconds since 1970; 0 for sessions of earlier builds, which have no copy.
    #[serde(default)]
    begun: Seconds,
}

/// The facts that decide which slots of a user are free.
#[derive(Clone, Copy)]
pub(super) struct Slots<'a> {
    /// Current time in seconds since 1970.
    pub(super) now: Seconds,
    /// Largest number of sessions of one user at a time.
    pub(super) max: usize,
    pub(super) revocations: &'a Revocations,
}

impl Slots<'_> {
    /// Returns whether a session has ended or was revoked.
    fn is_over(&self, stored: &Stored) -> Result<bool, ServiceError> {
        let subject = RevocationSubject {
            user: &stored.user,
            issued: stored.issued,
            digest: TokenDigest::parse(&stored.digest),
            key_id: Some(&stored.id),
        };
        Ok(stored.expires <= self.now || self.revocations.refuses(subject)?)
    }
}

fn hash(token: &str) -> [u8; 32] {
    blake3::derive_key("fula 2026 session token", token.as_bytes())
}

/// Returns the digits that stand for a user.
fn user_digits(user: &str) -> String {
    let hash = blake3::derive_key("fula 2026 session user", user.as_bytes());
    hash[..USER_DIGITS].iter().map(|byte| digit(usize::from(*byte))).collect()
}

fn digit(value: usize) -> char {
    char::from(DIGITS[value % DIGITS.len()])
}

fn slot_digits(slot: usize) -> String {
    [digit(slot / DIGITS.len()), digit(slot)].into_iter().collect()
}

/// Returns the record that a key id names; `None` when it is not the id of a session.
fn record_of(id: &str) -> Option<String> {
    let digits = id.strip_prefix(PREFIX)?;
    let is_ours = digits.len() == USER_DIGITS + SLOT_DIGITS + DRAWN_DIGITS && digits.is_ascii();
    is_ours.then(|| digits[..USER_DIGITS + SLOT_DIGITS].to_owned())
}

fn parse(entry: &Entry) -> Result<Option<Stored>, ServiceError> {
    let Some(value) = &entry.value else { return Ok(None) };
    serde_json::from_slice(value)
        .map(Some)
        .map_err(|error| ServiceError::bug(format!("malformed session: {error}")))
}

impl KeyRing {
    /// Begins a session for the bearer of a token. It ends no later than the token.
    ///
    /// # Errors
    /// [`AuthError::TooManySessions`]; [`ServiceError::Busy`] when other masters begin sessions of
    /// this user at the same time; [`ServiceError::Unavailable`].
    pub(super) async fn begin_session(
        &self,
        verified: &Verified,
        life: Seconds,
        slots: Slots<'_>,
    ) -> Result<SessionKeys, AuthError> {
        let expires = verified.expires.min(slots.now.saturating_add(life));
        let (secret, drawn) = (Secret::new(self.draw(40)), self.random::<32>());
        let drawn = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(drawn));
        for _ in 0..TRIES {
            let (record, version) = self.free_slot(verified, slots).await?;
            let id = format!("{PREFIX}{record}{}", self.draw(DRAWN_DIGITS));
            let mut stored = Stored {
                sealed: self.sealing().seal(self.random(), &id, &secret)?,
                id: id.clone(),
                user: verified.identity.user.clone(),
                scopes: verified.identity.grant.to_texts(),
                token: String::new(),
                digest: verified.digest.to_string(),
                issued: verified.issued,
                expires,
                audience: verified.audience.clone(),
                begun: slots.now,
            };
            let copy = Zeroizing::new(serde_json::to_vec(&stored).map_err(ServiceError::bug)?);
            let token = session_copy::token(self.sealing(), self.random(), (&id, &drawn), &copy)?;
            stored.token = hex::encode(hash(token.expose()));
            let value = serde_json::to_vec(&stored).map_err(ServiceError::bug)?;
            let metadata = &self.records().metadata;
            self.records().forget(Table::Sessions, &record);
            let written = metadata.write(Table::Sessions, &record, version, Some(value.into()));
            if let WriteOutcome::Done(_) = written.await.map_err(ServiceError::from)? {
                return Ok(SessionKeys { id, secret, token, expires });
            }
        }
        Err(ServiceError::Busy(Applied::None).into())
    }

    /// Returns a free slot and its version. The slot is drawn at random, so that masters which begin
    /// sessions at the same time seldom choose the same one.
    ///
    /// # Errors
    /// [`AuthError::TooManySessions`]; [`ServiceError::Unavailable`].
    async fn free_slot(
        &self,
        verified: &Verified,
        slots: Slots<'_>,
    ) -> Result<(String, u64), AuthError> {
        let user = user_digits(&verified.identity.user);
        let metadata = &self.records().metadata;
        let taken = metadata.list(Table::Sessions, Some(&user), SESSIONS_MAX).await;
        let taken = taken.map_err(ServiceError::from)?;
        let taken: Vec<_> =
            taken.into_iter().take_while(|(name, _)| name.starts_with(&user)).collect();
        let digest = verified.digest.to_string();
        let (mut free, mut of_user, mut of_token) = (Vec::new(), 0, 0);
        for (name, entry) in &taken {
            match parse(entry)? {
                Some(stored) if !slots.is_over(&stored)? => {
                    of_user += 1;
                    of_token += usize::from(stored.digest == digest);
                }
                _ => free.push((name.clone(), entry.version)),
            }
        }
        let max_of_token = slots.max.div_ceil(TOKEN_PART);
        for (of, count, max) in
            [("the owner", of_user, slots.max), ("the token", of_token, max_of_token)]
        {
            if count >= max {
                return Err(AuthError::TooManySessions { of, max });
            }
        }
        // Slots that were used before come first, so that there are as few as possible.
        if free.is_empty() {
            let names: BTreeSet<&str> = taken.iter().map(|(name, _)| name.as_str()).collect();
            let new = (0..slots.max).map(|slot| format!("{user}{}", slot_digits(slot)));
            let new = new.filter(|name| !names.contains(name.as_str())).take(NEW_SLOTS);
            free.extend(new.map(|name| (name, 0)));
        }
        let drawn = usize::from(u16::from_be_bytes(self.random()));
        if free.is_empty() {
            return Err(ServiceError::Busy(Applied::None).into());
        }
        Ok(free.swap_remove(drawn % free.len()))
    }

    /// Returns whether there is a session with a key id, ended or not.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn has_session(&self, id: &str) -> Result<bool, ServiceError> {
        Ok(self.session(id, None).await?.is_some())
    }

    /// Returns the session of a key id; `None` when there is none, or another one in its place. One that the
    /// arbiter has lost is found by its session token, if the request has it.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]; [`ServiceError::Regressed`] while the arbiter cannot be trusted.
    pub(super) async fn session(
        &self,
        id: &str,
        token: Option<&str>,
    ) -> Result<Option<Session>, ServiceError> {
        let Some(record) = record_of(id) else { return Ok(None) };
        let entry = self.records().read(Table::Sessions, &record).await?;
        let known = entry.as_ref().map(parse).transpose()?.flatten();
        let stored = match known.filter(|stored| stored.id == id) {
            Some(stored) => Some(stored),
            None => self.lost_session(id, token, entry.is_none()).await?,
        };
        let Some(stored) = stored else { return Ok(None) };
        let malformed = || ServiceError::bug("malformed session");
        let grant = Grant::parse(stored.scopes.as_deref()).map_err(|_| malformed())?;
        let mut token_hash = [0; 32];
        hex::decode_to_slice(&stored.token, &mut token_hash).map_err(|_| malformed())?;
        Ok(Some(Session {
            secret: self.sealing().open(id, &stored.sealed)?,
            identity: Identity::restricted(&stored.user, grant),
            digest: TokenDigest::parse(&stored.digest).ok_or_else(malformed)?,
            issued: stored.issued,
            expires: stored.expires,
            audience: stored.audience,
            token_hash,
        }))
    }

    /// Returns the session in a token, of which the arbiter has no record, and writes the record back if the
    /// slot is empty. The arbiter must be trusted, and this master must know all revocations since the session
    /// began. In a slot that is used again, the earlier session has ended or was revoked, or was lost.
    async fn lost_session(
        &self,
        id: &str,
        token: Option<&str>,
        is_empty: bool,
    ) -> Result<Option<Stored>, ServiceError> {
        let (Some(memory), Some(token)) = (self.memory(), token) else { return Ok(None) };
        let Some(copy) = session_copy::record_in(self.sealing(), id, token) else {
            return Ok(None);
        };
        let malformed = |error| ServiceError::bug(format!("malformed session: {error}"));
        let mut stored: Stored = serde_json::from_slice(&copy).map_err(malformed)?;
        memory.check_arbiter().await?;
        let record = record_of(id).filter(|_| stored.id == id);
        let Some(record) = record else { return Ok(None) };
        if !memory.was_there(stored.begun).await? {
            return Ok(None);
        }
        stored.token = hex::encode(hash(token));
        if is_empty {
            let value = serde_json::to_vec(&stored).map_err(ServiceError::bug)?;
            // Another master may have been first, or another session: then this one is not written back.
            let metadata = &self.records().metadata;
            metadata.write(Table::Sessions, &record, 0, Some(value.into())).await?;
            self.records().forget(Table::Sessions, &record);
            tracing::warn!(key = id, "the arbiter has lost a session; this master writes it back");
        }
        Ok(Some(stored))
    }
}
