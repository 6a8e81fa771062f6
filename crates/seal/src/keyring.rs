//! The keyring of a vault: who opens it, who writes in it, and the keys of all epochs.
//!
//! It is the object [`OBJECT`]. A server stores it and can replace it, so everything in it is verified:
//!
//! 1. [`SealedKeyring::parse`] checks the form. Nothing is believed yet.
//! 2. A slot gives the key of the vault to an [`Identity`](crate::slot::Identity). A MAC under that key covers
//!    the whole object.
//! 3. The root key is the one of the invitation, of the attestation of the slot, or of the keyring that this
//!    client saw last ([`Trust`]).
//! 4. Every member was admitted by an earlier one or by the root key, and an admin signed the whole.
//! 5. It follows the keyring that this client saw last.
//!
//! A [`Draft`] makes the next generation. The client stores it on condition that the object is still the one
//! that it read.
//!
//! # Example
//!
//! A vault is made on a laptop, and shared with a person whose client has sent its public key. Both read the same keys:
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
//! use fula_seal::{
//!     Padding,
//!     keyring::{Founder, Keyring, Role, SealedKeyring, Trust},
//!     slot::{Identity, SlotKind},
//! };
//!
//! let (laptop, guest) = (Identity::generate(&mut entropy)?, Identity::generate(&mut entropy)?);
//! let founder = Founder { identity: &laptop, kind: SlotKind::Device, label: "laptop" };
//! let first = Keyring::create(None, Padding::Padme, &[founder], &mut entropy)?;
//!
//! let mut draft = first.edit(laptop.signing_key())?;
//! draft.invite(&guest.recipient(), "Bo", &mut entropy)?;
//! draft.admit(guest.signing_key().public(), Role::Writer, "Bo")?;
//! let second = draft.seal(&mut entropy)?;
//!
//! // The guest has the bytes from a server, and the fingerprint from the laptop.
//! let stored = SealedKeyring::parse(second.sealed().as_bytes())?;
//! let trust = Trust { fingerprint: Some(first.fingerprint()), seen: None };
//! let opened = stored.open(&guest, &trust)?;
//! let path = fula_seal::VaultPath::new(b"plans/today.txt")?;
//! assert_eq!(opened.keys().sealed_key(&path), second.keys().sealed_key(&path));
//! assert!(opened.edit(guest.signing_key()).is_err(), "a writer changes files, and an admin the keyring");
//! # Ok::<(), fula_seal::SealError>(())
//! ```
//!
//! Decision: docs/adr/0058. Format: docs/format.md.

mod change;
mod checkpoint;
mod document;
mod member;
mod opening;

pub use self::{
    change::{Draft, Founder},
    checkpoint::Checkpoint,
    document::{BYTES_MAX, Fingerprint, SealedKeyring},
    member::{Member, Role},
    opening::{Keyring, Trust},
};

/// Name of the object, below the prefix of the vault.
pub const OBJECT: &str = "fula.vault";

#[cfg(test)]
mod attacks;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
