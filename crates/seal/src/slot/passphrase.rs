//! Passphrases: Argon2id (RFC 9106).

use argon2::{Algorithm, Argon2, Params, Version};
use fula_core::cbor::{Invalid, Reader, Writer};
use zeroize::Zeroizing;

use crate::{Entropy, SealError, draw, key::Secret};

/// Least memory in KiB, and least passes: at least the second recommendation of RFC 9106.
const MEMORY_KIB_MIN: u32 = 64 * 1024;
const PASSES_MIN: u32 = 3;
/// Most that opening a slot may cost. A hostile keyring could ask for more.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 32;
const LANES_MAX: u32 = 16;

/// What it costs to try a passphrase, and the salt that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 16],
}

impl PassphraseCost {
    /// Chooses a cost for a new slot: memory in KiB (64 MiB to 1 GiB) and passes (3 to 32), with 4 lanes.
    ///
    /// # Errors
    /// [`SealError::Malformed`] outside of these ranges, [`SealError::NoEntropy`].
    pub fn new(memory_kib: u32, passes: u32, entropy: &mut dyn Entropy) -> Result<Self, SealError> {
        let cost = Self { memory_kib, passes, lanes: 4, salt: draw(entropy)? };
        cost.check().map_err(|Invalid(why)| SealError::Malformed { what: "the cost", why })
    }

    fn check(self) -> Result<Self, Invalid> {
        if !(MEMORY_KIB_MIN..=MEMORY_KIB_MAX).contains(&self.memory_kib) {
            return Err(Invalid("a passphrase takes 64 MiB to 1 GiB of memory"));
        }
        if !(PASSES_MIN..=PASSES_MAX).contains(&self.passes) {
            return Err(Invalid("a passphrase takes 3 to 32 passes"));
        }
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return Err(Invalid("a passphrase takes 1 to 16 lanes"));
        }
        Ok(self)
    }

    /// Derives the seed of a slot. It takes as much memory and time as was chosen.
    pub(super) fn seed(&self, passphrase: &str) -> Result<Secret, SealError> {
        let malformed = |_| SealError::Malformed { what: "the passphrase", why: "it is too long" };
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let params = params.map_err(malformed)?;
        let mut out = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &self.salt, out.as_mut_slice())
            .map_err(malformed)?;
        Ok(Secret::new(*out))
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        out.array(4).uint(self.memory_kib.into()).uint(self.passes.into());
        out.uint(self.lanes.into()).bytes(&self.salt);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        reader.tuple(4)?;
        let mut number =
            || reader.uint().and_then(|n| n.try_into().map_err(|_| Invalid("a cost is too large")));
        let (memory_kib, passes, lanes) = (number()?, number()?, number()?);
        Self { memory_kib, passes, lanes, salt: reader.array_of()? }.check()
    }
}
