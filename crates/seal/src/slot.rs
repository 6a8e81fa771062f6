//! Slots: who can open a vault.
//!
//! A slot is a key pair of X-Wing (ML-KEM-768 and X25519), for which the key of the vault is wrapped with HPKE.
//! The seed of the pair comes from a device, a passphrase, 24 words, a wallet, or someone else's age identity.
//! Wrapping takes the public key alone, so a vault changes its key without anyone typing a passphrase.
//!
//! A server can make slots too, for a key of its own: public keys are public. So a client that makes a slot for
//! an identity at hand has it attest the root key of the vault, and opening checks that.
//!
//! # Example
//!
//! An identity is the same wherever its words or its passphrase are typed:
//!
//! ```
//! # struct Counter(u64);
//! # impl fula_seal::Entropy for Counter {
//! #     fn fill(&mut self, out: &mut [u8]) -> Result<(), fula_seal::SealError> {
//! #         self.0 += 1;
//! #         blake3::Hasher::new().update(&self.0.to_be_bytes()).finalize_xof().fill(out);
//! #         Ok(())
//! #     }
//! # }
//! # let mut entropy = Counter(0);
//! use fula_seal::slot::{Identity, PassphraseCost};
//!
//! let identity = Identity::generate(&mut entropy)?;
//! let words = identity.to_words(); // 24 words, to be written on paper
//! assert_eq!(words.split(' ').count(), 24);
//! assert_eq!(Identity::from_words(&words)?.seed().expose(), identity.seed().expose());
//!
//! let cost = PassphraseCost::new(64 * 1024, 3, &mut entropy)?; // 64 MiB, three passes
//! let typed = Identity::from_passphrase("correct horse", &cost)?;
//! let again = Identity::from_passphrase("correct horse", &cost)?;
//! assert_eq!(typed.seed().expose(), again.seed().expose());
//! # Ok::<(), fula_seal::SealError>(())
//! ```

mod identity;
mod passphrase;
mod recipient;
mod wallet;

use std::fmt;

use fula_core::cbor::{Invalid, Reader, Writer};

use self::recipient::{ENCAPSULATED_BYTES, PUBLIC_KEY_BYTES, WRAPPED_BYTES};
pub use self::{
    identity::Identity,
    passphrase::PassphraseCost,
    recipient::Recipient,
    wallet::{WalletSalt, wallet_message},
};
use crate::{
    Entropy, SealError, VaultId,
    key::Secret,
    signature::{PublicKey, SIGNATURE_BYTES},
};

const PURPOSE: &str = "fula 2026 attestation";

/// Where the seed of a slot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// A file or a key store of one device.
    Device,
    /// A passphrase, stretched with Argon2id.
    Passphrase(PassphraseCost),
    /// 24 words of BIP 39.
    Mnemonic,
    /// An age identity of someone else.
    Recipient,
    /// The signature of a wallet.
    Wallet(WalletSalt),
}

/// The short name of a slot: the first 8 bytes of the BLAKE3 hash of its public key. It selects a slot and proves
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub [u8; 8]);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A slot of a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    kind: SlotKind,
    recipient: Recipient,
    wrapped: Wrapped,
    /// Signature over vault and root key by the key of this slot, from when it was made.
    attestation: Option<[u8; SIGNATURE_BYTES]>,
}

/// The key of a vault, wrapped for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wrapped {
    encapsulated: [u8; ENCAPSULATED_BYTES],
    sealed: [u8; WRAPPED_BYTES],
}

impl Slot {
    /// Makes a slot for someone else. They check the fingerprint of the vault when they open it first.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn invite(
        vault: VaultId,
        key: &Secret,
        recipient: &Recipient,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealError> {
        Ok(Self {
            kind: SlotKind::Recipient,
            recipient: recipient.clone(),
            wrapped: recipient.wrap(vault, key, entropy)?,
            attestation: None,
        })
    }

    /// Makes a slot for an identity at hand, which attests the root key of the vault.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn enrol(
        vault: (VaultId, PublicKey),
        key: &Secret,
        identity: &Identity,
        kind: SlotKind,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealError> {
        let (vault, root) = vault;
        let attestation = identity.signing_key().sign(PURPOSE, &[&vault.0, &root.0]);
        let invited = Self::invite(vault, key, &identity.recipient(), entropy)?;
        Ok(Self { kind, attestation: Some(attestation), ..invited })
    }

    /// Wraps another key for the same recipient.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn wrap_again(
        &mut self,
        vault: VaultId,
        key: &Secret,
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealError> {
        self.wrapped = self.recipient.wrap(vault, key, entropy)?;
        Ok(())
    }

    /// Returns the kind of the slot.
    pub fn kind(&self) -> SlotKind {
        self.kind
    }

    /// Returns the short name of the slot.
    pub fn id(&self) -> SlotId {
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(self.recipient.as_bytes()).as_bytes()[..8]);
        SlotId(id)
    }

    /// Returns the public key of the slot.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Returns the key of the vault with the identity that the slot is for. It proves nothing about who made the
    /// slot: see [`attests`](Self::attests).
    ///
    /// # Errors
    /// [`SealError::Damaged`]: the slot belongs to another identity or vault, or was altered.
    pub fn unwrap(&self, vault: VaultId, identity: &Identity) -> Result<Secret, SealError> {
        identity.unwrap(vault, &self.wrapped.encapsulated, &self.wrapped.sealed)
    }

    /// Returns whether the identity itself said, when the slot was made, that this is the root key.
    pub fn attests(&self, vault: VaultId, root: PublicKey, identity: &Identity) -> bool {
        self.is_attested_by(vault, root, identity.signing_key().public())
    }

    /// Returns whether the slot belongs to the identity with this key for signatures.
    pub(crate) fn is_attested_by(
        &self,
        vault: VaultId,
        root: PublicKey,
        public: PublicKey,
    ) -> bool {
        let signature = self.attestation.as_ref();
        signature.is_some_and(|signature| public.verifies(PURPOSE, &[&vault.0, &root.0], signature))
    }

    /// Writes the slot, as an item of a keyring.
    pub fn encode(&self, out: &mut Writer) {
        out.array(6);
        match self.kind {
            SlotKind::Device => drop(out.uint(0).null()),
            SlotKind::Passphrase(cost) => cost.encode(out.uint(1)),
            SlotKind::Mnemonic => drop(out.uint(2).null()),
            SlotKind::Recipient => drop(out.uint(3).null()),
            SlotKind::Wallet(salt) => drop(out.uint(4).bytes(&salt.0)),
        }
        out.bytes(self.recipient.as_bytes());
        out.bytes(&self.wrapped.encapsulated).bytes(&self.wrapped.sealed);
        match &self.attestation {
            Some(signature) => out.bytes(signature),
            None => out.null(),
        };
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`Invalid`] for anything else, and for a passphrase that costs too much to try.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        reader.tuple(6)?;
        let kind = match reader.uint()? {
            1 => SlotKind::Passphrase(PassphraseCost::decode(reader)?),
            4 => SlotKind::Wallet(WalletSalt(reader.array_of()?)),
            0 if reader.null() => SlotKind::Device,
            2 if reader.null() => SlotKind::Mnemonic,
            3 if reader.null() => SlotKind::Recipient,
            _ => {
                return Err(Invalid(
                    "a slot is of an unknown kind, or has parameters that its kind does not take",
                ));
            }
        };
        let public: [u8; PUBLIC_KEY_BYTES] = reader.array_of()?;
        let recipient = Recipient::of_bytes(&public);
        let recipient = recipient.ok_or(Invalid("a slot has an invalid public key"))?;
        let wrapped = Wrapped { encapsulated: reader.array_of()?, sealed: reader.array_of()? };
        let attestation = if reader.null() { None } else { Some(reader.array_of()?) };
        Ok(Self { kind, recipient, wrapped, attestation })
    }
}

#[cfg(test)]
mod tests;
