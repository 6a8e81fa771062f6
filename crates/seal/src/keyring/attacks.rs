//! Every way in which a server or a member may alter or exchange a keyring.

use super::{
    document::{Private, Public},
    testing::{
        add_member, admit_oneself, create, follow, forge, identity, open, parse,
        signed_by_a_reader, try_forge,
    },
    *,
};
use crate::{
    SealError,
    key::Secret,
    signature::SigningKey,
    slot::{Identity, PassphraseCost, Slot, SlotKind},
    testing::Recorded,
};

const DAMAGED: SealError = SealError::Damaged { what: "the keyring" };
const NOT_SIGNED: SealError = SealError::NotSigned { what: "the keyring" };
const FORKED: SealError = SealError::Forked { what: "the keyring" };

#[test]
fn attack_alter_a_byte_of_the_keyring() {
    let device = identity(1);
    let keyring = create(&[&device], &mut Recorded::new(1));
    let bytes = keyring.sealed().as_bytes();
    let try_open = |bytes: &[u8]| SealedKeyring::parse(bytes)?.open(&device, &Trust::default());
    for at in 0..bytes.len() {
        let mut altered = bytes.to_vec();
        altered[at] ^= 1;
        assert!(try_open(&altered).is_err(), "{at}");
    }
    let mut altered = bytes.to_vec();
    altered[bytes.len() - 1] ^= 1;
    assert_eq!(try_open(&altered).unwrap_err(), DAMAGED);
}

#[test]
fn attack_truncate_or_extend_the_keyring() {
    let keyring = create(&[&identity(1)], &mut Recorded::new(1));
    let bytes = keyring.sealed().as_bytes();
    for len in 0..bytes.len() {
        let error = SealedKeyring::parse(&bytes[..len]).unwrap_err();
        assert_eq!(error, SealError::Truncated { what: "the keyring" }, "{len}");
    }
    let long = [bytes, &[0]].concat();
    assert!(matches!(SealedKeyring::parse(&long), Err(SealError::Malformed { .. })));
    let huge = SealedKeyring::parse(&vec![0x80; BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(huge, SealError::TooLarge { .. }));
}

#[test]
fn attack_pass_off_a_vault_of_the_server() {
    let mut entropy = Recorded::new(1);
    let (victim, server) = (identity(1), identity(66));
    let genuine = create(&[&victim], &mut entropy);
    // The server knows the public key of the victim, and makes a vault for it.
    let own = create(&[&server], &mut entropy);
    let mut draft = own.edit(server.signing_key()).unwrap();
    draft.invite(&victim.recipient(), "", &mut entropy).unwrap();
    let forged = draft.seal(&mut entropy).unwrap();
    assert_eq!(open(&forged, &victim).unwrap_err(), SealError::ForeignVault);
    assert_eq!(follow(&genuine, &forged, &victim).unwrap_err(), SealError::ForeignVault);
    let trust = Trust { fingerprint: Some(genuine.fingerprint()), seen: None };
    assert_eq!(parse(&forged).open(&victim, &trust).unwrap_err(), SealError::ForeignVault);

    // With the id, the root key, the slot and the attestation of the genuine one, it has no admin.
    let change = |public: &mut Public, _: &mut Private| {
        let members = std::mem::take(&mut public.members);
        *public = Public { generation: 2, ..genuine.sealed.public.clone() };
        public.previous = Some([0; 32]);
        public.members = members;
        let slot = &mut public.slots[0];
        slot.wrap_again(public.vault, &own.key, &mut Recorded::new(5)).unwrap();
    };
    let forged = forge(&own, change, (0, server.signing_key()));
    let refused = SealError::NotSigned { what: "a member of the keyring" };
    assert_eq!(open(&forged, &victim).unwrap_err(), refused);
}

#[test]
fn attack_add_a_slot() {
    let mut entropy = Recorded::new(1);
    let (owner, reader, server) = (identity(1), identity(2), identity(66));
    let keyring = create(&[&owner], &mut entropy);
    let add = |public: &mut Public, private: &mut Private| {
        let slot =
            Slot::invite(public.vault, &keyring.key, &server.recipient(), &mut Recorded::new(5));
        public.slots.push(slot.unwrap());
        private.labels[0].push(String::new());
    };
    // A reader helps the server: it has the key of the vault, and no key of an admin.
    let forged = forge(&keyring, add, (0, reader.signing_key()));
    assert_eq!(follow(&keyring, &forged, &owner).unwrap_err(), NOT_SIGNED);
    // Alone, the server does not even know the key of the vault.
    let other = create(&[&server], &mut entropy);
    let mut alone = parse(&forge(&keyring, add, (0, owner.signing_key())));
    assert!(alone.is_sealed_with(&keyring.key) && !alone.is_sealed_with(&other.key));
    alone.public.slots[0].wrap_again(alone.public.vault, &other.key, &mut entropy).unwrap();
    assert_eq!(alone.open(&owner, &Trust::default()).unwrap_err(), DAMAGED);
}

#[test]
fn attack_add_a_writer_or_an_admin() {
    let mut entropy = Recorded::new(1);
    let (owner, reader) = (identity(1), identity(2));
    let mut draft = create(&[&owner], &mut entropy).edit(owner.signing_key()).unwrap();
    draft.invite(&reader.recipient(), "", &mut entropy).unwrap();
    let keyring = draft.seal(&mut entropy).unwrap();
    for role in [Role::Writer, Role::Admin] {
        let refused = SealError::NotSigned { what: "a member of the keyring" };
        let forged = admit_oneself(&keyring, reader.signing_key(), role);
        assert_eq!(follow(&keyring, &forged, &owner).unwrap_err(), refused, "{role:?}");
        assert_eq!(open(&forged, &owner).unwrap_err(), refused);
    }
}

#[test]
fn attack_a_writer_acts_as_an_admin() {
    let mut entropy = Recorded::new(1);
    let (owner, writer) = (identity(1), identity(2));
    let mut draft = create(&[&owner], &mut entropy).edit(owner.signing_key()).unwrap();
    let kind = (SlotKind::Device, "tablet");
    draft.enrol(&writer, kind, Some(Role::Writer), &mut entropy).unwrap();
    let keyring = draft.seal(&mut entropy).unwrap();
    let key = writer.signing_key();
    let forged = forge(&keyring, |_, _| {}, (1, key));
    assert_eq!(follow(&keyring, &forged, &owner).unwrap_err(), NOT_SIGNED);
    let forged = signed_by_a_reader(&keyring, key);
    assert_eq!(follow(&keyring, &forged, &owner).unwrap_err(), NOT_SIGNED);
    // It calls itself an admin. Its certificate says otherwise.
    let promote = |public: &mut Public, _: &mut Private| public.members[1].role = Role::Admin;
    let forged = forge(&keyring, promote, (1, key));
    assert!(matches!(follow(&keyring, &forged, &owner), Err(SealError::NotSigned { .. })));
}

#[test]
fn attack_show_an_older_generation() {
    let mut entropy = Recorded::new(1);
    let owner = identity(1);
    let first = create(&[&owner], &mut entropy);
    let mut draft = first.edit(owner.signing_key()).unwrap();
    draft.begin_epoch(&mut entropy).unwrap();
    let second = draft.seal(&mut entropy).unwrap();
    let back = SealError::RolledBack { what: "the keyring", seen: 2, found: 1 };
    assert_eq!(follow(&second, &first, &owner).unwrap_err(), back);
    assert!(open(&first, &owner).is_ok(), "a client that saw nothing cannot know");
}

#[test]
fn attack_show_another_history() {
    let mut entropy = Recorded::new(1);
    let (one, two) = (identity(1), identity(2));
    let first = create(&[&one, &two], &mut entropy);
    let mut next = |base: &Keyring, signer: &Identity| {
        let mut draft = base.edit(signer.signing_key()).unwrap();
        draft.begin_epoch(&mut entropy).unwrap();
        draft.seal(&mut entropy).unwrap()
    };
    let (left, right) = (next(&first, &one), next(&first, &two));
    assert_eq!(follow(&left, &right, &one).unwrap_err(), FORKED, "the same generation");
    let right = next(&right, &two);
    assert_eq!(follow(&left, &right, &one).unwrap_err(), FORKED, "the next generation");
    assert!(follow(&first, &right, &one).is_ok());
}

#[test]
fn attack_a_removed_admin_comes_back() {
    let mut entropy = Recorded::new(1);
    let (owner, gone, puppet) = (identity(1), identity(2), identity(3));
    let first = create(&[&owner, &gone], &mut entropy);
    let mut draft = first.edit(owner.signing_key()).unwrap();
    draft.remove(&[first.sealed().slots()[1].id()], &[], &mut entropy).unwrap();
    let second = draft.seal(&mut entropy).unwrap();
    // It goes on from the generation in which it was an admin, as far as it likes.
    let mut fork = first.clone();
    for at in 0..4 {
        let mut draft = fork.edit(gone.signing_key()).unwrap();
        if at == 0 {
            let kind = (SlotKind::Device, "puppet");
            draft.enrol(&puppet, kind, Some(Role::Admin), &mut entropy).unwrap();
        }
        fork = draft.seal(&mut entropy).unwrap();
        assert_eq!(follow(&second, &fork, &owner).unwrap_err(), FORKED);
    }
    // It lets an admin sign that it admitted itself, and it copies its end.
    let copy = |public: &mut Public, _: &mut Private| public.members[1].until = Some(1);
    let fork = forge(&fork, copy, (2, puppet.signing_key()));
    assert_eq!(follow(&second, &fork, &owner).unwrap_err(), FORKED);
    // A later end than the one that was seen is refused, too, and none.
    for until in [Some(9), None] {
        let change = |public: &mut Public, _: &mut Private| public.members[1].until = until;
        for signer in [(0, &owner), (1, &gone)] {
            let forged = forge(&second, change, (signer.0, signer.1.signing_key()));
            assert!(follow(&second, &forged, &owner).is_err(), "{until:?}");
        }
        let forged = forge(&second, change, (0, owner.signing_key()));
        assert_eq!(follow(&second, &forged, &owner).unwrap_err(), FORKED);
    }
    // A reader gives it the new key of the vault. It admits its puppet after it was removed.
    let admin = (puppet.signing_key(), Role::Admin);
    let add = add_member(admin, 3, (gone.signing_key(), Some(1)));
    let forged = forge(&second, add, (2, puppet.signing_key()));
    assert_eq!(follow(&second, &forged, &owner).unwrap_err(), FORKED);
}

#[test]
fn attack_a_writer_admits_an_admin() {
    let mut entropy = Recorded::new(1);
    let (owner, writer, puppet) = (identity(1), identity(2), identity(3));
    let mut draft = create(&[&owner], &mut entropy).edit(owner.signing_key()).unwrap();
    draft.admit(writer.signing_key().public(), Role::Writer, "").unwrap();
    let keyring = draft.seal(&mut entropy).unwrap();
    let (admin, issuer) = ((puppet.signing_key(), Role::Admin), (writer.signing_key(), Some(1)));
    let forged = try_forge(&keyring, add_member(admin, 3, issuer), (2, puppet.signing_key()));
    assert!(matches!(forged, Err(SealError::Malformed { .. })), "{forged:?}");
    // A member that comes later in the list admits an earlier one.
    let issuer = (puppet.signing_key(), Some(2));
    let forged = try_forge(&keyring, add_member(admin, 3, issuer), (2, puppet.signing_key()));
    assert!(matches!(forged, Err(SealError::Malformed { .. })), "{forged:?}");
}

#[test]
fn attack_a_creator_that_kept_the_root_key() {
    let mut entropy = Recorded::new(1);
    let (owner, puppet) = (identity(1), identity(2));
    let first = create(&[&owner], &mut entropy);
    let seeds = entropy.drawn.iter().filter_map(|drawn| <[u8; 32]>::try_from(&drawn[..]).ok());
    let root = seeds.map(|seed| SigningKey::from_seed(&Secret::new(seed)));
    let root = root.into_iter().find(|key| key.public() == first.sealed.public.root).unwrap();
    let admin = (puppet.signing_key(), Role::Admin);
    let late = try_forge(&first, add_member(admin, 2, (&root, None)), (1, puppet.signing_key()));
    assert!(matches!(late, Err(SealError::Malformed { .. })), "{late:?}");
    let add = add_member(admin, 1, (&root, None));
    let forged = forge(&first, add, (0, owner.signing_key()));
    assert_eq!(follow(&first, &forged, &owner).unwrap_err(), FORKED);
}

#[test]
fn attack_downgrade_the_suite_the_format_or_the_levels() {
    let keyring = create(&[&identity(1)], &mut Recorded::new(1));
    let bytes = keyring.sealed().as_bytes();
    // An array of 14, the format, the vault, the suite, the levels.
    for (at, what) in
        [(1, "the keyring"), (19, "the suite of the vault"), (20, "the levels of the vault")]
    {
        for found in [0_u8, 2, 23] {
            let mut altered = bytes.to_vec();
            if altered[at] == found {
                continue;
            }
            altered[at] = found;
            let expected = SealError::Unsupported { what, found: found.into() };
            assert_eq!(SealedKeyring::parse(&altered).unwrap_err(), expected);
        }
    }
}

#[test]
fn attack_exhaust_a_client_with_passphrases() {
    let mut entropy = Recorded::new(1);
    let device = identity(1);
    let keyring = create(&[&device], &mut entropy);
    let add = |public: &mut Public, private: &mut Private| {
        for seed in 10..15 {
            let mut entropy = Recorded::new(seed.into());
            let cost = PassphraseCost::new(1024 * 1024, 32, &mut entropy).unwrap();
            let (vault, kind) = ((public.vault, public.root), SlotKind::Passphrase(cost));
            let slot = Slot::enrol(vault, &keyring.key, &identity(seed), kind, &mut entropy);
            public.slots.push(slot.unwrap());
            private.labels[0].push(String::new());
        }
    };
    let refused = try_forge(&keyring, add, (0, device.signing_key()));
    let why = "a vault has at most 4 passphrases";
    assert_eq!(refused.unwrap_err(), SealError::Malformed { what: "the keyring", why });
}
