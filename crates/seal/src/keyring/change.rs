//! Changes of a keyring: the first generation, and every next one.

use std::fmt;

use fula_core::cbor::Invalid;

use crate::{
    Entropy, Padding, SealError, VaultId, VaultKeys, draw,
    key::Secret,
    keyring::{
        document::{self, LABEL_BYTES_MAX, Private, Public, SLOTS_MAX, SealedKeyring},
        member::{MEMBERS_MAX, Member, Role},
        opening::Keyring,
    },
    signature::{DeviceId, PublicKey, SigningKey},
    slot::{Identity, Recipient, Slot, SlotId, SlotKind},
};

/// An identity that a vault is created with. It is an admin.
#[derive(Clone, Copy, Debug)]
pub struct Founder<'a> {
    /// The identity.
    pub identity: &'a Identity,
    /// Where its seed comes from.
    pub kind: SlotKind,
    /// Name of the slot and the member: at most 64 bytes. The server does not see it.
    pub label: &'a str,
}

impl Keyring {
    /// Creates a vault. The first founder signs the keyring. The root key signs the founders, and is wiped.
    ///
    /// A vault whose `vault` is given was prepared: the message that a wallet signs has the id.
    ///
    /// # Errors
    /// [`SealError::NotAllowed`]: no founders, only wallets, an identity twice. [`SealError::TooLarge`] for a
    /// long label. [`SealError::NoEntropy`].
    pub fn create(
        vault: Option<VaultId>,
        padding: Padding,
        founders: &[Founder<'_>],
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealError> {
        let vault = match vault {
            Some(vault) => vault,
            None => VaultId(draw(entropy)?),
        };
        let first = founders.first().ok_or(SealError::NotAllowed { why: "a vault has a slot" })?;
        let (key, keys) = (Secret::generate(entropy)?, VaultKeys::generate(vault, entropy)?);
        let root = SigningKey::from_seed(&Secret::generate(entropy)?);
        let mut next = Next {
            public: Public {
                vault,
                padding,
                generation: 1,
                root: root.public(),
                previous: None,
                slots: Vec::new(),
                members: Vec::new(),
            },
            private: Private { keys, labels: Default::default() },
            key,
        };
        for founder in founders {
            let slot = (founder.identity, founder.kind, founder.label);
            next.enrol(slot, Some((Role::Admin, (&root, None))), entropy)?;
        }
        next.seal((0, first.identity.signing_key()), entropy)
    }

    /// Begins a change. The signer is an active admin.
    ///
    /// # Errors
    /// [`SealError::NotAdmin`].
    pub fn edit<'a>(&self, signer: &'a SigningKey) -> Result<Draft<'a>, SealError> {
        let position = self.admin(signer)?;
        let generation = self.generation() + 1;
        let previous = Some(self.sealed.hash());
        let public = Public { generation, previous, ..self.sealed.public.clone() };
        let private = Private { keys: self.keys.clone(), labels: self.labels.clone() };
        let next = Next { public, private, key: self.key.clone() };
        Ok(Draft { next, signer, position })
    }
}

/// The next generation of a keyring.
pub struct Draft<'a> {
    next: Next,
    signer: &'a SigningKey,
    /// Position of the signer among the members.
    position: usize,
}

impl Draft<'_> {
    /// Adds a slot for an identity at hand. With a role, it becomes a member too.
    ///
    /// # Errors
    /// [`SealError::NotAllowed`]: it has a slot, or was a member before. [`SealError::TooLarge`],
    /// [`SealError::NoEntropy`].
    pub fn enrol(
        &mut self,
        identity: &Identity,
        (kind, label): (SlotKind, &str),
        role: Option<Role>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealError> {
        let issuer = (self.signer, Some(self.position));
        self.next.enrol((identity, kind, label), role.map(|role| (role, issuer)), entropy)
    }

    /// Adds a slot for someone else, who can read from then on. They open the vault with its fingerprint.
    ///
    /// # Errors
    /// As [`enrol`](Self::enrol).
    pub fn invite(
        &mut self,
        recipient: &Recipient,
        label: &str,
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealError> {
        let slot = Slot::invite(self.next.public.vault, &self.next.key, recipient, entropy)?;
        self.next.add_slot(slot, label)
    }

    /// Admits the signing key of someone who was invited.
    ///
    /// # Errors
    /// [`SealError::NotAllowed`]: the key was a member before. [`SealError::TooLarge`].
    pub fn admit(&mut self, key: PublicKey, role: Role, label: &str) -> Result<(), SealError> {
        self.next.admit((key, role, label), (self.signer, Some(self.position)))
    }

    /// Removes slots and members. The vault gets a new key and a new epoch, so they cannot read what is sealed
    /// from then on. A member whose key attested a removed slot leaves with it.
    ///
    /// # Errors
    /// [`SealError::NotAllowed`]: there is no such slot or member, the signer would remove itself, or nobody could
    /// open the vault any more. [`SealError::TooLarge`] after 4 096 epochs. [`SealError::NoEntropy`].
    pub fn remove(
        &mut self,
        slots: &[SlotId],
        members: &[DeviceId],
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealError> {
        let leaving = self.next.leaving(slots, members)?;
        if leaving.contains(&self.position) {
            return Err(SealError::NotAllowed { why: "another admin removes this key" });
        }
        self.next.renew(slots, entropy)?;
        let epoch = self.next.private.keys.epoch();
        for member in leaving {
            self.next.public.members[member].until.get_or_insert(epoch);
        }
        Ok(())
    }

    /// Begins an epoch, with a new key of the vault.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] after 4 096 epochs. [`SealError::NoEntropy`].
    pub fn begin_epoch(&mut self, entropy: &mut dyn Entropy) -> Result<(), SealError> {
        self.next.renew(&[], entropy)
    }

    /// Has every client refuse what members have signed that left. Call it once all files were sealed again: a file
    /// that such a member wrote last cannot be read from then on.
    pub fn forget_records_of_removed_members(&mut self) {
        for member in &mut self.next.public.members {
            member.until = member.until.map(|_| 0);
        }
    }

    /// Seals and signs the generation. The client stores its bytes on condition that the object has not
    /// changed.
    ///
    /// # Errors
    /// [`SealError::TooLarge`], [`SealError::NoEntropy`].
    pub fn seal(self, entropy: &mut dyn Entropy) -> Result<Keyring, SealError> {
        self.next.seal((self.position, self.signer), entropy)
    }
}

impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Draft").field(&self.next.public.generation).finish()
    }
}

/// A generation that is being made.
struct Next {
    public: Public,
    private: Private,
    key: Secret,
}

impl Next {
    fn enrol(
        &mut self,
        (identity, kind, label): (&Identity, SlotKind, &str),
        role: Option<(Role, (&SigningKey, Option<usize>))>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealError> {
        let vault = (self.public.vault, self.public.root);
        let slot = Slot::enrol(vault, &self.key, identity, kind, entropy)?;
        if let Some((role, issuer)) = role {
            self.admit((identity.signing_key().public(), role, label), issuer)?;
        }
        self.add_slot(slot, label)
    }

    fn add_slot(&mut self, slot: Slot, label: &str) -> Result<(), SealError> {
        let slots = &mut self.public.slots;
        SealError::limit("a vault (slots)", slots.len() + 1, SLOTS_MAX)?;
        SealError::limit("a label (bytes)", label.len(), LABEL_BYTES_MAX)?;
        if slots.iter().any(|other| other.recipient() == slot.recipient()) {
            return Err(SealError::NotAllowed { why: "this key has a slot" });
        }
        slots.push(slot);
        self.private.labels[0].push(label.to_owned());
        Ok(())
    }

    fn admit(
        &mut self,
        (key, role, label): (PublicKey, Role, &str),
        issuer: (&SigningKey, Option<usize>),
    ) -> Result<(), SealError> {
        let (members, vault) = (&mut self.public.members, (self.public.vault, self.public.root));
        SealError::limit("a vault (members)", members.len() + 1, MEMBERS_MAX)?;
        SealError::limit("a label (bytes)", label.len(), LABEL_BYTES_MAX)?;
        if members.iter().any(|member| member.id() == key.id()) {
            return Err(SealError::NotAllowed {
                why: "this key is or was a member: make another one, which may have another role",
            });
        }
        members.push(Member::admit(vault, (key, role), self.public.generation, issuer));
        self.private.labels[1].push(label.to_owned());
        Ok(())
    }

    /// Returns the positions of members that leave with these slots, and of these members.
    fn leaving(&self, slots: &[SlotId], members: &[DeviceId]) -> Result<Vec<usize>, SealError> {
        let unknown = SealError::NotAllowed { why: "there is no such slot or member" };
        let public = &self.public;
        let known = |id: &SlotId| public.slots.iter().any(|slot| slot.id() == *id);
        if !slots.iter().all(known) {
            return Err(unknown);
        }
        let is_active = |id| move |member: &Member| member.id() == id && member.until.is_none();
        let mut leaving = Vec::new();
        for id in members {
            let found = public.members.iter().position(is_active(*id));
            leaving.push(found.ok_or(unknown)?);
        }
        for slot in public.slots.iter().filter(|slot| slots.contains(&slot.id())) {
            let owns = |member: &Member| slot.is_attested_by(public.vault, public.root, member.key);
            leaving.extend(public.members.iter().position(owns));
        }
        Ok(leaving)
    }

    /// Drops slots, begins an epoch, and wraps a new key of the vault for the other slots.
    fn renew(&mut self, without: &[SlotId], entropy: &mut dyn Entropy) -> Result<(), SealError> {
        self.private.keys.begin_epoch(entropy)?;
        let slots = std::mem::take(&mut self.public.slots).into_iter();
        let labels = std::mem::take(&mut self.private.labels[0]).into_iter();
        let kept = slots.zip(labels).filter(|(slot, _)| !without.contains(&slot.id()));
        (self.public.slots, self.private.labels[0]) = kept.unzip();
        self.key = Secret::generate(entropy)?;
        for slot in &mut self.public.slots {
            slot.wrap_again(self.public.vault, &self.key, entropy)?;
        }
        Ok(())
    }

    fn seal(
        self,
        signer: (usize, &SigningKey),
        entropy: &mut dyn Entropy,
    ) -> Result<Keyring, SealError> {
        let refused = |Invalid(why)| SealError::NotAllowed { why };
        document::check_slots(&self.public.slots).map_err(refused)?;
        let Self { public, private, key } = self;
        let sealed = SealedKeyring::seal(&public, &private, &key, signer, entropy)?;
        let Private { keys, labels } = private;
        Ok(Keyring { sealed, key, keys, labels })
    }
}
