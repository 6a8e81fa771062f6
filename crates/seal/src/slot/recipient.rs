//! Public keys of slots, and wrapping keys for them: HPKE (RFC 9180) in base mode with X-Wing (0x647A),
//! HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! As text, a public key is a recipient of age: `age1pq1…`. What is wrapped here is no file of age, for the
//! `info` of HPKE differs.

use std::{convert::Infallible, fmt, str::FromStr};

use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable,
    aead::ChaCha20Poly1305,
    kdf::HkdfSha256,
    kem::{Kem, XWing},
    rand_core::{TryCryptoRng, TryRng},
};
use zeroize::Zeroizing;

use crate::{Entropy, SealError, VaultId, bech32, draw, key::Secret, slot::Wrapped};

/// Bytes of a public key.
pub(super) const PUBLIC_KEY_BYTES: usize = 1216;
/// Bytes of an encapsulated key.
pub(super) const ENCAPSULATED_BYTES: usize = 1120;
/// Bytes of a wrapped key: the key, and a tag.
pub(super) const WRAPPED_BYTES: usize = 48;

const PREFIX: &str = "age1pq";
const WHAT: &str = "the recipient";
const WHAT_SLOT: &str = "the slot";

fn info(vault: VaultId) -> Vec<u8> {
    [b"fula 2026 slot", vault.0.as_slice()].concat()
}

/// The public key of a slot. As text it is a recipient of age 1.3 and newer: `age1pq1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(Box<[u8; PUBLIC_KEY_BYTES]>);

impl Recipient {
    /// Checks a public key.
    pub(super) fn of_bytes(bytes: &[u8; PUBLIC_KEY_BYTES]) -> Option<Self> {
        <XWing as Kem>::PublicKey::from_bytes(bytes).ok()?;
        Some(Self(Box::new(*bytes)))
    }

    /// Returns the public key of a seed.
    pub(super) fn of_seed(seed: &Secret) -> Self {
        let public = XWing::sk_to_pk(&private_key(seed)).to_bytes();
        Self(Box::new(public.as_slice().try_into().expect("a public key of 1216 bytes")))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Wraps a key. Only the holder of the private key can unwrap it, and only for this vault.
    pub(super) fn wrap(
        &self,
        vault: VaultId,
        key: &Secret,
        entropy: &mut dyn Entropy,
    ) -> Result<Wrapped, SealError> {
        let malformed = |_| SealError::Malformed { what: WHAT, why: "its key is invalid" };
        let public = <XWing as Kem>::PublicKey::from_bytes(self.as_bytes()).map_err(malformed)?;
        let mut random = Random::new(draw(entropy)?);
        let (encapsulated, sealed) =
            hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
                &OpModeS::Base,
                &public,
                &info(vault),
                key.expose(),
                &[],
                &mut random,
            )
            .map_err(malformed)?;
        let encapsulated = encapsulated.to_bytes().as_slice().try_into();
        Ok(Wrapped {
            encapsulated: encapsulated.expect("an encapsulated key of 1120 bytes"),
            sealed: sealed.try_into().expect("a wrapped key of 48 bytes"),
        })
    }
}

/// Unwraps a key with the private key of a seed.
pub(super) fn unwrap(
    seed: &Secret,
    vault: VaultId,
    encapsulated: &[u8; ENCAPSULATED_BYTES],
    sealed: &[u8; WRAPPED_BYTES],
) -> Result<Secret, SealError> {
    let damaged = |_| SealError::Damaged { what: WHAT_SLOT };
    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(encapsulated).map_err(damaged)?;
    let key = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
        &OpModeR::Base,
        &private_key(seed),
        &encapsulated,
        &info(vault),
        sealed,
        &[],
    );
    let key = Zeroizing::new(key.map_err(damaged)?);
    let key: Result<[u8; 32], _> = key.as_slice().try_into();
    key.map(Secret::new).map_err(|_| SealError::Damaged { what: WHAT_SLOT })
}

fn private_key(seed: &Secret) -> <XWing as Kem>::PrivateKey {
    <XWing as Kem>::PrivateKey::from_bytes(seed.expose()).expect("a seed of 32 bytes")
}

impl FromStr for Recipient {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let malformed = |why| SealError::Malformed { what: WHAT, why };
        let bytes = bech32::read_bech32(WHAT, PREFIX, text)?;
        let bytes: &[u8; PUBLIC_KEY_BYTES] =
            bytes.as_slice().try_into().map_err(|_| malformed("it has another length"))?;
        Self::of_bytes(bytes).ok_or(malformed("its key is invalid"))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::bech32(PREFIX, self.as_bytes()))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "Recipient({}…)", &text[..20])
    }
}

/// A generator for one encapsulation: BLAKE3 of 32 random bytes.
struct Random(blake3::OutputReader);

impl Random {
    fn new(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let mut hasher = blake3::Hasher::new_derive_key("fula 2026 encapsulation");
        Self(hasher.update(seed.as_slice()).finalize_xof())
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill(&mut out);
        out
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for Random {}
