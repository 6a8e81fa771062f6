//! Opening a keyring: everything that is verified before a key of the vault is used.

use std::fmt;

use crate::{
    Padding, SealError, VaultId, VaultKeys,
    key::Secret,
    keyring::{
        document::{Fingerprint, Private, SealedKeyring, WHAT},
        member::{self, Member},
    },
    signature::{DeviceId, PublicKey, SigningKey},
    slot::{Identity, Slot},
};

/// Why a client believes that a vault is the one that it means. One of these must hold; those that are given
/// must all hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    /// Fingerprint from an invitation.
    pub fingerprint: Option<Fingerprint>,
    /// The keyring that this client accepted last.
    pub seen: Option<&'a SealedKeyring>,
}

/// A keyring that was opened and verified.
#[derive(Clone)]
pub struct Keyring {
    pub(super) sealed: SealedKeyring,
    pub(super) key: Secret,
    pub(super) keys: VaultKeys,
    pub(super) labels: [Vec<String>; 2],
}

impl SealedKeyring {
    /// Opens and verifies a keyring. Without trust in `trust`, the identity must have attested the vault when its
    /// slot was made.
    ///
    /// # Errors
    /// - [`SealError::ForeignVault`]: it is another vault, or nothing proves who made it.
    /// - [`SealError::RolledBack`], [`SealError::Forked`]: it does not follow the keyring that this client saw.
    /// - [`SealError::WrongKey`]: the identity has no slot.
    /// - [`SealError::Damaged`]: it was altered, or the slot was.
    /// - [`SealError::NotSigned`]: no admin signed it, or a member was admitted by nobody.
    pub fn open(self, identity: &Identity, trust: &Trust<'_>) -> Result<Keyring, SealError> {
        let (vault, root) = (self.public.vault, self.public.root);
        if trust.fingerprint.is_some_and(|expected| expected != self.fingerprint()) {
            return Err(SealError::ForeignVault);
        }
        if let Some(seen) = trust.seen {
            if (seen.public.vault, seen.public.root) != (vault, root) {
                return Err(SealError::ForeignVault);
            }
            let (seen, found) = (seen.generation(), self.generation());
            if found < seen {
                return Err(SealError::RolledBack { what: WHAT, seen, found });
            }
        }
        let recipient = identity.recipient();
        let slot = self.public.slots.iter().find(|slot| *slot.recipient() == recipient);
        let slot = slot.ok_or(SealError::WrongKey { what: WHAT })?;
        let key = slot.unwrap(vault, identity)?;
        // HPKE does not commit to a key, and this does.
        if !self.is_sealed_with(&key) {
            return Err(SealError::Damaged { what: WHAT });
        }
        let is_known = trust.fingerprint.is_some() || trust.seen.is_some();
        if !is_known && !slot.attests(vault, root, identity) {
            return Err(SealError::ForeignVault);
        }
        member::verify(&self.public.members, vault, root)?;
        if !self.is_signed() {
            return Err(SealError::NotSigned { what: WHAT });
        }
        if let Some(seen) = trust.seen {
            self.check_follows(seen)?;
        }
        let Private { keys, labels } = self.open_private(&key)?;
        Ok(Keyring { sealed: self, key, keys, labels })
    }

    /// Checks that a keyring of the same vault is the one that was seen, or a later one.
    fn check_follows(&self, seen: &Self) -> Result<(), SealError> {
        let (then, now) = (&seen.public, &self.public);
        let is_successor = match now.generation.checked_sub(then.generation) {
            Some(0) => return check(self.hash() == seen.hash()),
            Some(1) => now.previous == Some(seen.hash()),
            _ => true,
        };
        check(is_successor)?;
        check(member::follow(&then.members, then.generation, &now.members, self.signer))
    }
}

fn check(follows: bool) -> Result<(), SealError> {
    if follows { Ok(()) } else { Err(SealError::Forked { what: WHAT }) }
}

impl Keyring {
    /// Returns the keyring as it is stored. The client keeps it as the one that it saw last.
    pub fn sealed(&self) -> &SealedKeyring {
        &self.sealed
    }

    /// Returns the keys of the files.
    pub fn keys(&self) -> &VaultKeys {
        &self.keys
    }

    /// Returns how files of the vault are padded.
    pub fn padding(&self) -> Padding {
        self.sealed.public.padding
    }

    /// Returns the vault.
    pub fn vault(&self) -> VaultId {
        self.sealed.vault()
    }

    /// Returns the fingerprint of the vault, for an invitation.
    pub fn fingerprint(&self) -> Fingerprint {
        self.sealed.fingerprint()
    }

    /// Returns the number of changes of the keyring, from 1.
    pub fn generation(&self) -> u64 {
        self.sealed.generation()
    }

    /// Returns the slots and their labels.
    pub fn slots(&self) -> impl Iterator<Item = (&Slot, &str)> {
        self.sealed.public.slots.iter().zip(self.labels[0].iter().map(String::as_str))
    }

    /// Returns the members and their labels, also those that left.
    pub fn members(&self) -> impl Iterator<Item = (&Member, &str)> {
        self.sealed.public.members.iter().zip(self.labels[1].iter().map(String::as_str))
    }

    /// Returns the key of a device if its records of an epoch count. It is what
    /// [`Opened::verify`](crate::name::Opened::verify) asks for.
    pub fn writer(&self, device: DeviceId, epoch: u32) -> Option<PublicKey> {
        let member = self.sealed.public.members.iter().find(|member| member.id() == device);
        member.filter(|member| member.writes_in(epoch)).map(|member| member.key)
    }

    /// Returns the position of an active admin.
    pub(super) fn admin(&self, signer: &SigningKey) -> Result<usize, SealError> {
        let public = signer.public();
        let is_admin = |member: &Member| member.key == public && member.is_active_admin();
        self.sealed.public.members.iter().position(is_admin).ok_or(SealError::NotAdmin)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.sealed).finish()
    }
}
