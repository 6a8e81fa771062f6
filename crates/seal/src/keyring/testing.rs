//! Keyrings for tests, also such as no admin makes.

use super::{
    document::{Private, Public},
    *,
};
use crate::{
    Padding, SealError,
    key::Secret,
    signature::SigningKey,
    slot::{Identity, SlotKind},
    testing::Recorded,
};

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::from_seed(Secret::new([seed; 32]))
}

pub(crate) fn founder<'a>(identity: &'a Identity, label: &'a str) -> Founder<'a> {
    Founder { identity, kind: SlotKind::Device, label }
}

/// Creates a vault with these devices, which are admins.
pub(crate) fn create(devices: &[&Identity], entropy: &mut Recorded) -> Keyring {
    let founders: Vec<_> = devices.iter().map(|device| founder(device, "a device")).collect();
    Keyring::create(None, Padding::Padme, &founders, entropy).unwrap()
}

pub(crate) fn parse(keyring: &Keyring) -> SealedKeyring {
    SealedKeyring::parse(keyring.sealed().as_bytes()).unwrap()
}

/// Opens a keyring on a machine that saw none before.
pub(crate) fn open(keyring: &Keyring, identity: &Identity) -> Result<Keyring, SealError> {
    parse(keyring).open(identity, &Trust::default())
}

/// Opens a keyring on a machine that saw another one.
pub(crate) fn follow(
    seen: &Keyring,
    next: &Keyring,
    identity: &Identity,
) -> Result<Keyring, SealError> {
    parse(next).open(identity, &Trust { fingerprint: None, seen: Some(&parse(seen)) })
}

/// Makes a generation without asking whether it may be: with the key of the vault, and any signer.
pub(super) fn forge(
    base: &Keyring,
    change: impl FnOnce(&mut Public, &mut Private),
    signer: (usize, &SigningKey),
) -> Keyring {
    try_forge(base, change, signer).unwrap()
}

/// Makes a generation that may not even have the form of one.
pub(super) fn try_forge(
    base: &Keyring,
    change: impl FnOnce(&mut Public, &mut Private),
    signer: (usize, &SigningKey),
) -> Result<Keyring, SealError> {
    let previous = Some(base.sealed.hash());
    let mut public =
        Public { generation: base.generation() + 1, previous, ..base.sealed.public.clone() };
    let mut private = Private { keys: base.keys.clone(), labels: base.labels.clone() };
    change(&mut public, &mut private);
    let mut entropy = Recorded::new(99);
    let sealed = SealedKeyring::seal(&public, &private, &base.key, signer, &mut entropy)?;
    let Private { keys, labels } = private;
    Ok(Keyring { sealed, key: base.key.clone(), keys, labels })
}

/// Adds a member that `issuer` admits, at any position and in any generation.
pub(super) fn add_member(
    (key, role): (&SigningKey, Role),
    since: u64,
    issuer: (&SigningKey, Option<usize>),
) -> impl FnOnce(&mut Public, &mut Private) {
    move |public, private| {
        let vault = (public.vault, public.root);
        public.members.push(Member::admit(vault, (key.public(), role), since, issuer));
        private.labels[1].push(String::new());
    }
}

/// Lets a key admit itself, with the help of someone who has the key of the vault.
pub(crate) fn admit_oneself(base: &Keyring, key: &SigningKey, role: Role) -> Keyring {
    let add = add_member((key, role), base.generation() + 1, (key, Some(0)));
    forge(base, add, (base.sealed.public.members.len(), key))
}

/// Lets someone who has the key of the vault, and is no admin, sign the next generation.
pub(crate) fn signed_by_a_reader(base: &Keyring, key: &SigningKey) -> Keyring {
    forge(base, |_, _| {}, (0, key))
}
