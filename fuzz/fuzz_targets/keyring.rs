//! Reads any bytes as a keyring. One that is accepted is stored as the same bytes, and only the one that an
//! admin sealed opens.
#![no_main]

use std::sync::LazyLock;

use fula_fuzz::Repeating;
use fula_seal::{
    Padding,
    key::Secret,
    keyring::{Founder, Keyring, Role, SealedKeyring, Trust},
    slot::{Identity, SlotKind},
};
use libfuzzer_sys::fuzz_target;

fn identity(seed: u8) -> Identity {
    Identity::from_seed(Secret::new([seed; 32]))
}

/// Two generations of a keyring.
static SAMPLES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let (mut entropy, owner, guest) = (Repeating(0), identity(1), identity(2));
    let founder = Founder { identity: &owner, kind: SlotKind::Device, label: "laptop" };
    let first =
        Keyring::create(None, Padding::Padme, &[founder], &mut entropy).expect("a keyring");
    let mut draft = first.edit(owner.signing_key()).expect("an admin");
    draft.invite(&guest.recipient(), "Bo", &mut entropy).expect("a slot");
    draft.admit(guest.signing_key().public(), Role::Writer, "Bo").expect("a member");
    let second = draft.seal(&mut entropy).expect("a keyring");
    [first, second].map(|keyring| keyring.sealed().as_bytes().to_vec())
});

fuzz_target!(|data: &[u8]| {
    let bytes = fula_fuzz::input(data, &*SAMPLES);
    let Ok(keyring) = SealedKeyring::parse(&bytes) else { return };
    assert_eq!(keyring.as_bytes(), &bytes[..]);
    let seen = SealedKeyring::parse(&SAMPLES[0]).expect("what was sealed");
    let opened = keyring.open(&identity(1), &Trust { fingerprint: None, seen: Some(&seen) });
    assert_eq!(opened.is_ok(), SAMPLES.iter().any(|sample| sample[..] == bytes[..]), "it was altered");
});
