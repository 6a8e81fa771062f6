//! The record of an access key, and ids that are bound to their secrets.

use bytes::Bytes;
use fula_core::root::TimeMs;
use serde::{Deserialize, Serialize};

use super::sealing::{SealingKey, Secret};
use crate::error::ServiceError;

/// Characters of generated ids, and of secrets: no look-alikes, nothing to escape.
pub(super) const ID_CHARACTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What the ids of keys begin with that were made here.
const PREFIX: &str = "FULK";

/// Characters of such an id after the prefix, with 5 bits in each.
const DIGITS: usize = 16;

/// A key as stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) user: String,
    /// Milliseconds since 1970.
    pub(super) created: TimeMs,
    /// Hex of nonce and sealed secret.
    pub(super) sealed: String,
    /// Where it was made, for a person: host, or host/master. Earlier builds wrote none, and pass over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made_on: Option<String>,
}

impl Stored {
    /// Parses a record.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] for one that no build wrote.
    pub(super) fn parse(value: &Bytes) -> Result<Self, ServiceError> {
        serde_json::from_slice(value)
            .map_err(|error| ServiceError::bug(format!("malformed key record: {error}")))
    }

    /// Returns the record.
    ///
    /// # Errors
    /// [`ServiceError::Internal`].
    pub(super) fn encode(&self) -> Result<Bytes, ServiceError> {
        serde_json::to_vec(self).map(Bytes::from).map_err(ServiceError::bug)
    }

    /// Parses the record of key `id`, and checks that it holds the one secret that the id is bound to.
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
                "key {id} has a secret that it was not made with"
            )));
        }
        Ok(stored)
    }
}

/// Returns the id of the key that is made with a secret: a hash of it. A secret of 200 random bits loses
/// nothing by the 80 bits of its hash, and the id can never have another secret (docs/adr/0038).
pub(super) fn id_of(secret: &Secret) -> String {
    let hash = blake3::derive_key("fula 2026 access key id", secret.expose().as_bytes());
    let digit = |byte: &u8| char::from(ID_CHARACTERS[usize::from(byte % 32)]);
    PREFIX.chars().chain(hash.iter().take(DIGITS).map(digit)).collect()
}

/// Returns whether an id has the form of those that [`id_of`] returns: no other secret is accepted for it.
pub(super) fn is_bound(id: &str) -> bool {
    id.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|digit| ID_CHARACTERS.contains(&digit))
    })
}
