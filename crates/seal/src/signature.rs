//! Signatures of devices: Ed25519 (RFC 8032). They say who wrote something, to readers who hold all keys.

use std::fmt;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::key::Secret;

/// Length of a signature in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// The short name of a device: the first 8 bytes of the BLAKE3 hash of its public key. It selects a known key
/// and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 8]);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The public key of a device, or of a vault.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Returns the short name of the key.
    pub fn id(&self) -> DeviceId {
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(&self.0).as_bytes()[..8]);
        DeviceId(id)
    }

    /// Returns whether `signature` is one of this key over `purpose`, a zero byte and `parts`.
    pub(crate) fn verifies(&self, purpose: &str, parts: &[&[u8]], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&message(purpose, parts), signature)
            .is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

/// Returns what is signed. Every kind of document has a purpose of its own, and parts of fixed lengths except
/// the last.
fn message(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    [&[purpose.as_bytes(), &[0]], parts].concat().concat()
}

/// The private key of a device. It is not shown in debug output.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// Returns the key pair of a seed.
    ///
    /// # Panics
    /// Never: every seed has a key pair.
    pub fn from_seed(seed: &Secret) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("a seed of 32 bytes");
        let public = pair.public_key().as_ref().try_into().expect("a public key of 32 bytes");
        Self { pair, public: PublicKey(public) }
    }

    /// Returns the public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns the short name of the key.
    pub fn id(&self) -> DeviceId {
        self.public.id()
    }

    /// Signs `purpose`, a zero byte and `parts`.
    pub(crate) fn sign(&self, purpose: &str, parts: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(&message(purpose, parts));
        signature.as_ref().try_into().expect("a signature of 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}
