//! The record of an access key, and key ids that are bound to their secrets.

use bytes::Bytes;
use fula_core::root::TimeMs;
use serde::{Deserialize, Serialize};

use super::sealing::{SealingKey, Secret};
use crate::error::ServiceError;

/// Characters of generated ids and secrets. None look alike, and none need escaping.
pub(super) const ID_CHARACTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Prefix of the ids of generated keys.
const PREFIX: &str = "FULK";

/// Number of characters of such an id after the prefix, with 5 bits in each.
const DIGITS: usize = 16;

/// An access key as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) user: String,
    /// Time at which it was made, in milliseconds since 1970.
    pub(super) created: TimeMs,
    /// Nonce and encrypted secret in hex; empty once the key was revoked.
    pub(super) sealed: String,
    /// Where it was made, for a person: host, or host/master. Earlier builds wrote none, and pass over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made_on: Option<String>,
}

impl Stored {
    /// Parses a record.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] for a record that no build has written.
    pub(super) fn parse(value: &Bytes) -> Result<Self, ServiceError> {
        serde_json::from_slice(value)
            .map_err(|error| ServiceError::bug(format!("malformed key record: {error}")))
    }

    /// Returns whether the key was revoked.
    pub(super) fn is_revoked(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Returns the record that remains of the key when it is revoked.
    pub(super) fn revoked(self) -> Self {
        Self { sealed: String::new(), ..self }
    }

    /// Encodes the record.
    ///
    /// # Errors
    /// [`ServiceError::Internal`].
    pub(super) fn encode(&self) -> Result<Bytes, ServiceError> {
        serde_json::to_vec(self).map(Bytes::from).map_err(ServiceError::bug)
    }

    /// Parses the record of the key `id`, and checks that it holds the secret to which the id is bound.
    ///
    /// # Errors
    /// [`ServiceError::Internal`].
    pub(super) fn parse_bound(
        id: &str,
        value: &Bytes,
        sealing: &SealingKey,
    ) -> Result<Self, ServiceError> {
        let stored = Self::parse(value)?;
        if id_of(&sealing.open(id, &stored.sealed)?) != id {
            return Err(ServiceError::bug(format!(
                "key {id} has another secret than the one that its id is bound to"
            )));
        }
        Ok(stored)
    }
}

/// Returns the id of the key that is generated with a secret: a hash of it. A secret of 200 random bits is
/// not weakened by the 80 bits of its hash, and the id can never have another secret (docs/adr/0038).
pub(super) fn id_of(secret: &Secret) -> String {
    let hash = blake3::derive_key("fula 2026 access key id", secret.expose().as_bytes());
    let digit = |byte: &u8| char::from(ID_CHARACTERS[usize::from(byte % 32)]);
    PREFIX.chars().chain(hash.iter().take(DIGITS).map(digit)).collect()
}

/// Returns whether an id has the form that [`id_of`] returns. Such an id accepts no other secret.
pub(super) fn is_bound(id: &str) -> bool {
    id.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|digit| ID_CHARACTERS.contains(&digit))
    })
}
