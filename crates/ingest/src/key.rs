//! Keys of nodes and masters: Ed25519 (RFC 8032).

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

/// Length of a signature in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// The short name of a node or of the masters of one arbiter: the first 8 bytes of the BLAKE3 hash of the
/// public key. It selects a known key and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerId(pub [u8; 8]);

impl fmt::Display for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The public key of a node, or of the masters of one arbiter. As text it is base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// Text that is not a public key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a public key is 43 characters of base64url")]
pub struct InvalidPublicKey;

impl PublicKey {
    /// Returns the short name of the key.
    pub fn id(&self) -> SignerId {
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(&self.0).as_bytes()[..8]);
        SignerId(id)
    }

    /// Returns whether `signature` is one of this key over `purpose`, a zero byte and `message`.
    pub fn verifies(&self, purpose: &str, message: &[u8], signature: &[u8]) -> bool {
        let signed = [purpose.as_bytes(), &[0], message].concat();
        UnparsedPublicKey::new(&ED25519, &self.0).verify(&signed, signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidPublicKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidPublicKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The private key of a node, or of the masters of one arbiter. It is not shown in debug output.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

impl SigningKey {
    /// Returns the key pair of a seed of 32 secret random bytes.
    ///
    /// # Panics
    /// Never: every seed has a key pair.
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed of 32 bytes");
        let public = pair.public_key().as_ref().try_into().expect("a public key of 32 bytes");
        Self { pair, public: PublicKey(public) }
    }

    /// Returns the public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns the short name of the key.
    pub fn id(&self) -> SignerId {
        self.public.id()
    }

    /// Signs `purpose`, a zero byte and `message`. Every kind of document has a purpose of its own.
    pub fn sign(&self, purpose: &str, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signed = [purpose.as_bytes(), &[0], message].concat();
        self.pair.sign(&signed).as_ref().try_into().expect("a signature of 64 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_matches_the_vector_of_rfc_8032() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(seed, bytes.as_mut_slice()).unwrap();
        let key = SigningKey::from_seed(&bytes);
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(hex::encode(key.public().0), public);
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        assert!(!format!("{key:?}").contains("9d61b1"));
    }

    #[test]
    fn a_signature_is_for_one_purpose_and_one_message() {
        let key = SigningKey::from_seed(&Zeroizing::new([1; 32]));
        let signature = key.sign("one", b"message");
        assert!(key.public().verifies("one", b"message", &signature));
        assert!(!key.public().verifies("two", b"message", &signature));
        assert!(!key.public().verifies("one", b"messagE", &signature));
        assert!(!key.public().verifies("one\0mess", b"age", &signature));
        assert!("short".parse::<PublicKey>().is_err());
    }
}
