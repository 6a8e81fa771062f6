//! Secrets, and the key that encrypts them at rest.
//!
//! `SigV4` needs the secret itself, so it is encrypted and not hashed: AES-256-GCM under a key that never
//! enters the metadata store. The access key id is the associated data, so an encrypted secret cannot be
//! moved to another id.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Nonce, Payload},
};
use fula_ingest::SigningKey;
use zeroize::Zeroizing;

use crate::error::ServiceError;

/// A secret access key. It is not shown in debug output, and is erased from memory when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// Returns the secret itself, for signing or to give it to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The content of a key file that is not 64 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("a secrets key is 64 hex digits")]
pub struct InvalidSealingKey;

/// The key that encrypts secrets.
#[derive(Clone)]
pub struct SealingKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(…)")
    }
}

impl SealingKey {
    /// Parses 64 hex digits. Surrounding white space is ignored.
    ///
    /// # Errors
    /// [`InvalidSealingKey`] for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidSealingKey> {
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), key.as_mut_slice()).map_err(|_| InvalidSealingKey)?;
        Ok(Self(key))
    }

    /// Returns a fingerprint that identifies the key and does not reveal it.
    pub fn fingerprint(&self) -> String {
        let hash = blake3::derive_key("fula 2026 sealing key fingerprint", self.0.as_slice());
        hex::encode(&hash[..16])
    }

    /// Returns the key with which the masters of one arbiter sign tickets and requests to storage nodes. It is
    /// derived, so every master that has the sealing key has it.
    pub fn ticket_key(&self) -> SigningKey {
        let seed = blake3::derive_key("fula 2026 ticket key", self.0.as_slice());
        SigningKey::from_seed(&Zeroizing::new(seed))
    }

    /// Returns the key with which a storage node signs receipts and requests to masters.
    pub fn node_key(&self) -> SigningKey {
        let seed = blake3::derive_key("fula 2026 node key", self.0.as_slice());
        SigningKey::from_seed(&Zeroizing::new(seed))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.0).into())
    }

    pub(super) fn seal(
        &self,
        nonce: [u8; 12],
        id: &str,
        secret: &Secret,
    ) -> Result<String, ServiceError> {
        let payload = Payload { msg: secret.expose().as_bytes(), aad: id.as_bytes() };
        let sealed = self.cipher().encrypt(&Nonce::<Aes256Gcm>::from(nonce), payload);
        let sealed = sealed.map_err(|_| ServiceError::bug("cannot encrypt a secret"))?;
        Ok(hex::encode([nonce.as_slice(), &sealed].concat()))
    }

    pub(super) fn open(&self, id: &str, sealed: &str) -> Result<Secret, ServiceError> {
        let wrong = || {
            ServiceError::bug(format!(
                "the secret of key {id} cannot be decrypted: secrets.key is not the one it was encrypted with"
            ))
        };
        let bytes = hex::decode(sealed).map_err(|_| wrong())?;
        let (nonce, sealed) = bytes.split_first_chunk::<12>().ok_or_else(wrong)?;
        let payload = Payload { msg: sealed, aad: id.as_bytes() };
        let secret = self.cipher().decrypt(&Nonce::<Aes256Gcm>::from(*nonce), payload);
        let secret = secret.map_err(|_| wrong())?;
        String::from_utf8(secret).map(Secret::new).map_err(|_| wrong())
    }
}
