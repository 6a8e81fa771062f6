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

use crate::{error::ServiceError, sse::MasterKeys};

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

/// The content of a key file of which a line is not 64 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("a secrets key is 64 hex digits on each line")]
pub struct InvalidSealingKey;

/// Largest number of keys in a file.
const KEYS_MAX: usize = 64;

/// The key that encrypts secrets. The other keys of its file encrypt objects only.
#[derive(Clone)]
pub struct SealingKey {
    key: Zeroizing<[u8; 32]>,
    others: Vec<Zeroizing<[u8; 32]>>,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(…)")
    }
}

impl SealingKey {
    /// Parses 64 hex digits on each line, at most 64 of them. Empty lines and white space around keys are
    /// ignored. The first key encrypts secrets.
    ///
    /// # Errors
    /// [`InvalidSealingKey`] for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidSealingKey> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut keys = lines.map(|line| {
            let mut key = Zeroizing::new([0; 32]);
            let read = hex::decode_to_slice(line, key.as_mut_slice());
            read.map(|()| key).map_err(|_| InvalidSealingKey)
        });
        let key = keys.next().ok_or(InvalidSealingKey)??;
        let others = keys.collect::<Result<Vec<_>, _>>()?;
        if others.len() < KEYS_MAX { Ok(Self { key, others }) } else { Err(InvalidSealingKey) }
    }

    /// Returns the keys that encrypt objects: those of all lines. The last one encrypts new objects.
    pub fn master_keys(&self) -> MasterKeys {
        let all = std::iter::once(&self.key).chain(&self.others);
        MasterKeys::derived(all.map(|key| &**key))
    }

    /// Returns a fingerprint that identifies the key and does not reveal it.
    pub fn fingerprint(&self) -> String {
        let hash = blake3::derive_key("fula 2026 sealing key fingerprint", self.key.as_slice());
        hex::encode(&hash[..16])
    }

    /// Returns the key with which the masters of one arbiter sign tickets and requests to storage nodes. It is
    /// derived, so every master that has the sealing key has it.
    pub fn ticket_key(&self) -> SigningKey {
        let seed = blake3::derive_key("fula 2026 ticket key", self.key.as_slice());
        SigningKey::from_seed(&Zeroizing::new(seed))
    }

    /// Returns the key with which a storage node signs receipts and requests to masters.
    pub fn node_key(&self) -> SigningKey {
        let seed = blake3::derive_key("fula 2026 node key", self.key.as_slice());
        SigningKey::from_seed(&Zeroizing::new(seed))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.key).into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_of_a_file_seals_and_the_others_are_for_objects() {
        let (first, second) = ("01".repeat(32), "02".repeat(32));
        let one = SealingKey::parse(&format!(" {first}\n")).unwrap();
        let both = SealingKey::parse(&format!("{first}\r\n\n{second}\n")).unwrap();
        assert_eq!(one.fingerprint(), both.fingerprint());
        assert_ne!(format!("{:?}", one.master_keys()), format!("{:?}", both.master_keys()));
        let most = format!("{first}\n").repeat(KEYS_MAX);
        assert!(SealingKey::parse(&most).is_ok());
        for wrong in ["", "\n", &first[1..], &format!("{first}\nx"), &format!("{most}{first}")] {
            assert!(SealingKey::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
