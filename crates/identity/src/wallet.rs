//! Ethereum wallets: addresses, and signatures over a digest.
//!
//! Of the two valid signatures over one digest only the one whose `s` is in the lower half is accepted
//! (EIP-2).

use std::fmt;

use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use sha3::{Digest, Keccak256};
use zeroize::Zeroizing;

/// Length of a signature in bytes: r (32), s (32), v (1).
pub const SIGNATURE_BYTES: usize = 65;

/// Returns the Keccak-256 hash of bytes.
pub fn keccak(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// The address of a wallet: the last 20 bytes of the Keccak-256 hash of its public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 20]);

impl Address {
    /// The zero address, which stands for no wallet.
    pub const ZERO: Self = Self([0; 20]);

    /// Parses `0x` and 40 hex digits, in upper or lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text.strip_prefix("0x")?, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    fn of(key: &VerifyingKey) -> Self {
        let point = key.to_sec1_point(false);
        let hash = keccak(&point.as_bytes()[1..]);
        let mut bytes = [0; 20];
        bytes.copy_from_slice(&hash[12..]);
        Self(bytes)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns the wallet that made the signature over `digest`. Returns `None` when there is no such
/// wallet, when `s` is in the upper half, or when `v` is not 0, 1, 27 or 28.
pub fn recover(digest: &[u8; 32], signature: &[u8; SIGNATURE_BYTES]) -> Option<Address> {
    let [rs @ .., v] = signature;
    let parity = match v {
        0 | 27 => 0,
        1 | 28 => 1,
        _ => return None,
    };
    let parsed = Signature::from_slice(rs).ok()?;
    if parsed.normalize_s() != parsed {
        return None;
    }
    let id = RecoveryId::from_byte(parity)?;
    VerifyingKey::recover_from_prehash(digest, &parsed, id).ok().map(|key| Address::of(&key))
}

/// The private key of a wallet. It is not shown in debug output, and is erased from memory when dropped.
#[derive(Clone)]
pub struct WalletKey(SigningKey);

impl fmt::Debug for WalletKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WalletKey").field(&self.address()).finish()
    }
}

impl WalletKey {
    /// Returns the key of 32 bytes; `None` when they are not a private key of the curve.
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        SigningKey::from_slice(bytes).ok().map(Self)
    }

    /// Returns the private key, to store it encrypted.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// Returns the address of the wallet.
    pub fn address(&self) -> Address {
        Address::of(self.0.verifying_key())
    }

    /// Signs a digest without randomness (RFC 6979). `s` is in the lower half, and `v` is 27 or 28.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; SIGNATURE_BYTES] {
        let (signature, id) = self.0.sign_prehash_recoverable(digest);
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = 27 + id.to_byte();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

    fn key() -> WalletKey {
        let mut bytes = [0; 32];
        hex::decode_to_slice(KEY, &mut bytes).unwrap();
        WalletKey::new(&bytes).unwrap()
    }

    #[test]
    fn a_well_known_key_has_its_well_known_address() {
        let address = key().address();
        assert_eq!(address.to_string(), "0x70997970c51812dc3a010c7d01b50e0d17dc79c8");
        assert_eq!(Address::parse("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"), Some(address));
        assert_eq!(format!("{:?}", key()), format!("WalletKey({address})"));
    }

    #[test]
    fn addresses_have_one_form() {
        let digits = "70997970c51812dc3a010c7d01b50e0d17dc79c8";
        for wrong in [digits, &format!("0X{digits}"), &format!("0x{digits}00"), "0x", "", "0xzz"] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_one_signature_over_a_digest_is_accepted() {
        let digest = keccak(b"digest");
        let good = key().sign(&digest);
        assert_eq!(recover(&digest, &good), Some(key().address()));
        // With v in the other convention it is the same signature.
        let mut other = good;
        other[64] -= 27;
        assert_eq!(recover(&digest, &other), Some(key().address()));
        // The other signature, n - s with v flipped, is valid ECDSA and must be refused.
        let parsed = Signature::from_slice(&good[..64]).unwrap();
        let (r, s) = parsed.split_scalars();
        let twin = Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap();
        let mut flipped = [0; SIGNATURE_BYTES];
        flipped[..64].copy_from_slice(&twin.to_bytes());
        flipped[64] = 27 + 28 - good[64];
        let id = RecoveryId::from_byte(flipped[64] - 27).unwrap();
        let twin_key = VerifyingKey::recover_from_prehash(&digest, &twin, id).unwrap();
        assert_eq!(Address::of(&twin_key), key().address(), "the twin is no twin");
        assert_eq!(recover(&digest, &flipped), None);
        for v in [2, 3, 26, 29, 30, 37, 255] {
            let mut wrong = good;
            wrong[64] = v;
            assert_eq!(recover(&digest, &wrong), None, "v {v}");
        }
        let mut wrong = good;
        wrong[64] = 27 + 28 - good[64];
        assert_ne!(recover(&digest, &wrong), Some(key().address()));
        assert_eq!(recover(&digest, &[0; SIGNATURE_BYTES]), None);
    }
}
