//! Secrets, and the key that encrypts them at rest.
//!
//! `SigV4` needs the secret itself, so it is encrypted and not hashed: AES-256-GCM under a key that never
//! enters the metadata store. The access key id is the associated data, so an encrypted secret cannot be
//! moved to another id.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

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

/// The keys of a key file. One of them encrypts secrets, and each decrypts them.
#[derive(Clone)]
pub struct SealingKey {
    /// The keys of all lines; at least one.
    lines: Vec<Zeroizing<[u8; 32]>>,
    /// The line that encrypts secrets. Clones share it.
    seals: Arc<AtomicUsize>,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(…)")
    }
}

impl SealingKey {
    /// Parses 64 hex digits on each line, at most 64 of them. Empty lines and white space around keys are
    /// ignored. The first key encrypts secrets, until [`Self::use_line`] names another one.
    ///
    /// # Errors
    /// [`InvalidSealingKey`] for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidSealingKey> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.map(|line| {
            let mut key = Zeroizing::new([0; 32]);
            let read = hex::decode_to_slice(line, key.as_mut_slice());
            read.map(|()| key).map_err(|_| InvalidSealingKey)
        });
        let lines = keys.collect::<Result<Vec<_>, _>>()?;
        if (1..=KEYS_MAX).contains(&lines.len()) {
            Ok(Self { lines, seals: Arc::default() })
        } else {
            Err(InvalidSealingKey)
        }
    }

    /// Returns the keys that encrypt objects: those of all lines. The last one encrypts new objects.
    pub fn master_keys(&self) -> MasterKeys {
        MasterKeys::derived(self.lines.iter().map(|key| &**key))
    }

    /// Returns a fingerprint that identifies the key that encrypts secrets, and does not reveal it.
    pub fn fingerprint(&self) -> String {
        fingerprint_of(self.current())
    }

    /// Returns the fingerprints of all lines.
    pub fn fingerprints(&self) -> Vec<String> {
        self.lines.iter().map(fingerprint_of).collect()
    }

    /// Lets the line with a fingerprint encrypt secrets from now on. Returns false if there is no such line.
    pub fn use_line(&self, fingerprint: &str) -> bool {
        let found = self.lines.iter().position(|key| fingerprint_of(key) == fingerprint);
        found.inspect(|line| self.seals.store(*line, Ordering::Relaxed)).is_some()
    }

    fn current(&self) -> &Zeroizing<[u8; 32]> {
        &self.lines[self.seals.load(Ordering::Relaxed)]
    }

    /// Returns the key with which the masters of one arbiter sign tickets and requests to storage nodes. It is
    /// derived from the first line, so every master that has the file has it.
    pub fn ticket_key(&self) -> SigningKey {
        let seed = blake3::derive_key("fula 2026 ticket key", self.lines[0].as_slice());
        SigningKey::from_seed(&Zeroizing::new(seed))
    }

    /// Returns the keys with which a storage node can sign receipts and requests to masters: one for each line, in
    /// their order. A new node takes the first one and keeps it, wherever its line stands later.
    pub fn node_keys(&self) -> impl Iterator<Item = SigningKey> {
        self.lines.iter().map(|line| {
            let seed = blake3::derive_key("fula 2026 node key", line.as_slice());
            SigningKey::from_seed(&Zeroizing::new(seed))
        })
    }

    /// Returns the key with which a new storage node signs. It is derived from the first line.
    ///
    /// # Panics
    /// Never: a key file has a line.
    pub fn node_key(&self) -> SigningKey {
        self.node_keys().next().expect("a line")
    }

    pub(super) fn seal(
        &self,
        nonce: [u8; 12],
        id: &str,
        secret: &Secret,
    ) -> Result<String, ServiceError> {
        self.seal_bytes(nonce, id, secret.expose().as_bytes()).map(hex::encode)
    }

    /// Encrypts bytes that open for `id` alone. The nonce comes first.
    pub(super) fn seal_bytes(
        &self,
        nonce: [u8; 12],
        id: &str,
        bytes: &[u8],
    ) -> Result<Vec<u8>, ServiceError> {
        let payload = Payload { msg: bytes, aad: id.as_bytes() };
        let sealed = cipher_of(self.current()).encrypt(&Nonce::<Aes256Gcm>::from(nonce), payload);
        let sealed = sealed.map_err(|_| ServiceError::bug("cannot encrypt a secret"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Returns whether a secret is encrypted with the line that encrypts now.
    pub(super) fn is_current(&self, id: &str, sealed: &str) -> bool {
        hex::decode(sealed).is_ok_and(|sealed| opened(self.current(), id, &sealed).is_some())
    }

    /// Decrypts a secret, whichever line has encrypted it.
    pub(super) fn open(&self, id: &str, sealed: &str) -> Result<Secret, ServiceError> {
        let wrong = || {
            ServiceError::bug(format!(
                "the secret of key {id} cannot be decrypted: secrets.key lacks the line that it was encrypted with"
            ))
        };
        let bytes = hex::decode(sealed).map_err(|_| wrong())?;
        let secret = self.open_bytes(id, &bytes).ok_or_else(wrong)?;
        String::from_utf8(secret.to_vec()).map(Secret::new).map_err(|_| wrong())
    }

    /// Decrypts what [`Self::seal_bytes`] made, with whichever line; `None` for anything else.
    pub(super) fn open_bytes(&self, id: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut keys = std::iter::once(self.current()).chain(&self.lines);
        keys.find_map(|key| opened(key, id, sealed))
    }
}

fn fingerprint_of(key: &Zeroizing<[u8; 32]>) -> String {
    let hash = blake3::derive_key("fula 2026 sealing key fingerprint", key.as_slice());
    hex::encode(&hash[..16])
}

fn cipher_of(key: &Zeroizing<[u8; 32]>) -> Aes256Gcm {
    Aes256Gcm::new((&**key).into())
}

fn opened(key: &Zeroizing<[u8; 32]>, id: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
    let payload = Payload { msg: sealed, aad: id.as_bytes() };
    let opened = cipher_of(key).decrypt(&Nonce::<Aes256Gcm>::from(*nonce), payload);
    opened.map(Zeroizing::new).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_of_a_file_seals_until_another_one_is_named() {
        let (first, second) = ("01".repeat(32), "02".repeat(32));
        let one = SealingKey::parse(&format!(" {first}\n")).unwrap();
        let both = SealingKey::parse(&format!("{first}\r\n\n{second}\n")).unwrap();
        assert_eq!(one.fingerprint(), both.fingerprint());
        assert_ne!(format!("{:?}", one.master_keys()), format!("{:?}", both.master_keys()));
        assert_eq!(both.fingerprints()[0], both.fingerprint());
        let clone = both.clone();
        assert!(!both.use_line("of no line") && both.use_line(&both.fingerprints()[1]));
        assert_eq!(clone.fingerprint(), both.fingerprints()[1], "clones share the line");
        let most = format!("{first}\n").repeat(KEYS_MAX);
        assert!(SealingKey::parse(&most).is_ok());
        for wrong in ["", "\n", &first[1..], &format!("{first}\nx"), &format!("{most}{first}")] {
            assert!(SealingKey::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
