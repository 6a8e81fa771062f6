//! Keyrings: who opens them, who changes them, and what clients compare. [`attacks`](super::attacks) has the rest.

use fula_core::{Cid, Codec};

use super::{
    testing::{create, follow, founder, identity, open, parse},
    *,
};
use crate::{
    Padding, SealError, VaultPath,
    body::{FileSealer, Layout, Metadata, open_whole},
    slot::{Identity, PassphraseCost, Slot, SlotId, SlotKind, WalletSalt},
    testing::Recorded,
};

const NO_SLOT: SealError = SealError::WrongKey { what: "the keyring" };

fn seal_file(keyring: &Keyring, content: &[u8], entropy: &mut Recorded) -> Vec<u8> {
    let sealer = FileSealer::new(keyring.keys(), entropy).unwrap();
    let (segment, mut body) = sealer.seal_segment(0, content, entropy).unwrap();
    let layout = Layout::new(content.len() as u64, vec![segment]).unwrap();
    let metadata = Metadata::of(VaultPath::new(b"a").unwrap());
    body.extend(sealer.finish(&layout, &metadata, entropy).unwrap().bytes);
    body
}

#[test]
fn every_kind_of_slot_opens_a_vault_on_a_new_machine() {
    let mut entropy = Recorded::new(1);
    let vault = crate::VaultId([3; 16]);
    let cost = PassphraseCost::new(64 * 1024, 3, &mut entropy).unwrap();
    let passphrase = Identity::from_passphrase("correct horse", &cost).unwrap();
    let salt = WalletSalt([5; 32]);
    let wallet = Identity::enrol_wallet(vault, &salt, [&[3; 65], &[3; 65]]).unwrap();
    let (device, words) = (identity(1), identity(2));
    let founders = [
        founder(&device, "laptop"),
        Founder { identity: &words, kind: SlotKind::Mnemonic, label: "drawer" },
        Founder { identity: &passphrase, kind: SlotKind::Passphrase(cost), label: "head" },
        Founder { identity: &wallet, kind: SlotKind::Wallet(salt), label: "wallet" },
    ];
    let created = Keyring::create(Some(vault), Padding::None, &founders, &mut entropy).unwrap();
    let stored = parse(&created);
    assert_eq!((stored.vault(), stored.generation(), created.padding()), (vault, 1, Padding::None));
    assert!(stored.as_bytes().len() <= BYTES_MAX && OBJECT == "fula.vault");

    let again = Identity::from_words(&words.to_words()).unwrap();
    let typed = stored.identity_of_passphrase("correct horse").unwrap();
    let salts: Vec<_> = stored.wallet_salts().collect();
    let signed = Identity::from_wallet(vault, &salts[0], &[3; 65]).unwrap();
    for identity in [&device, &again, &typed, &signed] {
        let opened = open(&created, identity).unwrap();
        assert_eq!(opened.keys().secrets().0.expose(), created.keys().secrets().0.expose());
        let labels: Vec<_> = opened.slots().map(|(_, label)| label.to_owned()).collect();
        assert_eq!(labels, ["laptop", "drawer", "head", "wallet"]);
        assert!(opened.members().all(|(member, _)| member.is_active_admin()));
        assert!(opened.edit(identity.signing_key()).is_ok());
    }
    entropy.assert_all_different();
}

#[test]
fn a_wrong_passphrase_and_a_wrong_key_are_told_apart() {
    let mut entropy = Recorded::new(1);
    let cost = PassphraseCost::new(64 * 1024, 3, &mut entropy).unwrap();
    let passphrase = Identity::from_passphrase("correct horse", &cost).unwrap();
    let kind = SlotKind::Passphrase(cost);
    let founders = [Founder { identity: &passphrase, kind, label: "" }];
    let vault = Keyring::create(None, Padding::Padme, &founders, &mut entropy).unwrap();
    let stored = parse(&vault);
    assert_eq!(stored.identity_of_passphrase("wrong").unwrap_err(), SealError::WrongPassphrase);
    assert_eq!(open(&vault, &identity(9)).unwrap_err(), NO_SLOT);
    let without = parse(&create(&[&identity(1)], &mut entropy)).identity_of_passphrase("x");
    assert!(matches!(without, Err(SealError::WrongKey { .. })));
}

#[test]
fn someone_invited_opens_the_vault_with_its_fingerprint_and_writes_once_admitted() {
    let mut entropy = Recorded::new(1);
    let (owner, guest) = (identity(1), identity(2));
    let first = create(&[&owner], &mut entropy);
    let mut draft = first.edit(owner.signing_key()).unwrap();
    draft.invite(&guest.recipient(), "Bo", &mut entropy).unwrap();
    let second = draft.seal(&mut entropy).unwrap();
    assert_eq!(open(&second, &guest).unwrap_err(), SealError::ForeignVault);
    let text = second.fingerprint().to_string();
    assert_eq!(text.len(), 32);
    let fingerprint = Some(text.parse().unwrap());
    let seen = parse(&second).open(&guest, &Trust { fingerprint, seen: None }).unwrap();
    assert!(seen.edit(guest.signing_key()).is_err(), "it reads only");
    assert_eq!(seen.writer(guest.signing_key().id(), 0), None);

    let mut draft = second.edit(owner.signing_key()).unwrap();
    draft.admit(guest.signing_key().public(), Role::Writer, "Bo").unwrap();
    let third = follow(&seen, &draft.seal(&mut entropy).unwrap(), &guest).unwrap();
    assert_eq!(third.writer(guest.signing_key().id(), 0), Some(guest.signing_key().public()));
    assert_eq!(third.edit(guest.signing_key()).unwrap_err(), SealError::NotAdmin);
    assert_eq!(third.generation(), 3);
    for wrong in ["", "a", &text[1..], &text.replace(&text[..1], "1")] {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
    }
}

#[test]
fn a_removed_member_opens_nothing_new_and_the_others_type_nothing() {
    let mut entropy = Recorded::new(1);
    let (owner, lost) = (identity(1), identity(2));
    let first = create(&[&owner, &lost], &mut entropy);
    let before = seal_file(&first, b"old plans", &mut entropy);
    let mut draft = first.edit(owner.signing_key()).unwrap();
    let slot = first.sealed().slots()[1].id();
    draft.remove(&[slot], &[], &mut entropy).unwrap();
    let second = draft.seal(&mut entropy).unwrap();
    assert_eq!(follow(&first, &second, &lost).unwrap_err(), NO_SLOT);
    let opened = follow(&first, &second, &owner).unwrap();
    assert_eq!(opened.keys().epoch(), 1);
    assert_ne!(opened.key.expose(), first.key.expose());
    let after = seal_file(&opened, b"new plans", &mut entropy);
    assert_eq!(open_whole(opened.keys(), &before).unwrap().content, b"old plans");
    let unknown = SealError::UnknownEpoch { epoch: 1 };
    assert_eq!(open_whole(first.keys(), &after).unwrap_err(), unknown);

    // Its key left with its slot. What it wrote before counts, until all was sealed again.
    let id = lost.signing_key().id();
    assert_eq!(opened.writer(id, 0), Some(lost.signing_key().public()));
    assert_eq!(opened.writer(id, 1), None);
    let mut draft = opened.edit(owner.signing_key()).unwrap();
    draft.forget_records_of_removed_members();
    let third = follow(&opened, &draft.seal(&mut entropy).unwrap(), &owner).unwrap();
    assert_eq!(third.writer(id, 0), None);
    assert!(third.writer(owner.signing_key().id(), 0).is_some());
    entropy.assert_all_different();
}

#[test]
fn changes_that_lock_somebody_out_are_refused() {
    let mut entropy = Recorded::new(1);
    let (owner, other) = (identity(1), identity(2));
    let keyring = create(&[&owner, &other], &mut entropy);
    let why = |result: Result<(), SealError>| match result.unwrap_err() {
        SealError::NotAllowed { why } => why,
        other => panic!("{other:?}"),
    };
    let mut draft = keyring.edit(owner.signing_key()).unwrap();
    let slots: Vec<_> = keyring.sealed().slots().iter().map(Slot::id).collect();
    let own = owner.signing_key().id();
    assert!(why(draft.remove(&[], &[own], &mut entropy)).contains("another admin"));
    assert!(why(draft.remove(&slots[..1], &[], &mut entropy)).contains("another admin"));
    assert!(why(draft.remove(&[SlotId([0; 8])], &[], &mut entropy)).contains("no such"));
    assert!(why(draft.invite(&other.recipient(), "x", &mut entropy)).contains("has a slot"));
    let label = "x".repeat(65);
    assert!(draft.invite(&identity(3).recipient(), &label, &mut entropy).is_err());

    // A key that left never comes back, also not with another role.
    draft.remove(&slots[1..], &[], &mut entropy).unwrap();
    let gone = other.signing_key();
    assert!(why(draft.remove(&[], &[gone.id()], &mut entropy)).contains("no such"));
    assert!(why(draft.admit(gone.public(), Role::Writer, "")).contains("was a member"));

    let wallet = SlotKind::Wallet(WalletSalt([1; 32]));
    let only = [Founder { identity: &owner, kind: wallet, label: "" }];
    let refused = Keyring::create(None, Padding::Padme, &only, &mut entropy).unwrap_err();
    assert!(matches!(refused, SealError::NotAllowed { .. }), "{refused:?}");
    assert!(Keyring::create(None, Padding::Padme, &[], &mut entropy).is_err());
    let twice = [founder(&owner, "a"), founder(&owner, "b")];
    assert!(Keyring::create(None, Padding::Padme, &twice, &mut entropy).is_err());
    assert_eq!(keyring.edit(identity(7).signing_key()).unwrap_err(), SealError::NotAdmin);
}

#[test]
fn a_client_that_was_away_follows_admins_that_others_admitted() {
    let mut entropy = Recorded::new(1);
    let (one, two, three) = (identity(1), identity(2), identity(3));
    let first = create(&[&one, &two], &mut entropy);
    let mut draft = first.edit(two.signing_key()).unwrap();
    let kind = (SlotKind::Device, "third");
    draft.enrol(&three, kind, Some(Role::Admin), &mut entropy).unwrap();
    let second = draft.seal(&mut entropy).unwrap();
    let mut draft = second.edit(three.signing_key()).unwrap();
    draft.remove(&[second.sealed().slots()[1].id()], &[], &mut entropy).unwrap();
    let third = draft.seal(&mut entropy).unwrap();
    // The first machine saw neither the admission of the third device nor the removal of the second.
    let opened = follow(&first, &third, &one).unwrap();
    assert_eq!(opened.generation(), 3);
    assert!(open(&third, &one).is_ok() && open(&third, &three).is_ok());
    assert!(follow(&third, &third, &one).is_ok(), "the same again");
    let mut draft = third.edit(one.signing_key()).unwrap();
    draft.begin_epoch(&mut entropy).unwrap();
    assert_eq!(
        follow(&third, &draft.seal(&mut entropy).unwrap(), &three).unwrap().keys().epoch(),
        2
    );
}

#[test]
fn the_server_sees_no_label_and_little_of_their_length() {
    let mut entropy = Recorded::new(1);
    let device = identity(1);
    let lengths = ["", "the phone of Bo"].map(|label| {
        let founders = [founder(&device, label)];
        let keyring = Keyring::create(None, Padding::Padme, &founders, &mut entropy).unwrap();
        let bytes = keyring.sealed().as_bytes();
        assert!(label.is_empty() || !bytes.windows(label.len()).any(|w| w == label.as_bytes()));
        let secrets = keyring.keys().secrets();
        for secret in [secrets.0, &secrets.1[0], &keyring.key] {
            assert!(!bytes.windows(32).any(|window| window == secret.expose()));
        }
        assert!(!format!("{keyring:?}").contains("Bo"));
        bytes.len()
    });
    assert_eq!(lengths[0], lengths[1]);
}

#[test]
fn checkpoints_find_what_two_clients_saw_differently() {
    let mut entropy = Recorded::new(1);
    let owner = identity(1);
    let first = create(&[&owner], &mut entropy);
    let root = Cid::of(Codec::DagCbor, b"root");
    let earlier = Checkpoint::of(&first, 7, root);
    let text = earlier.to_string();
    assert!(text.starts_with("fulacheckpoint1"));
    assert_eq!(text.to_uppercase().parse(), Ok(earlier));
    for at in 0..text.len() {
        let mut wrong = text.clone().into_bytes();
        wrong[at] = if wrong[at] == b'q' { b'p' } else { b'q' };
        assert!(String::from_utf8(wrong).unwrap().parse::<Checkpoint>().is_err(), "{at}");
    }
    let draft = first.edit(owner.signing_key()).unwrap();
    let second = draft.seal(&mut entropy).unwrap();
    let later = Checkpoint::of(&second, 8, root);
    assert_eq!(later.check_follows(&earlier), Ok(()));
    assert_eq!(earlier.check_follows(&earlier), Ok(()));
    let back = |what, seen, found| Err(SealError::RolledBack { what, seen, found });
    assert_eq!(earlier.check_follows(&later), back("the keyring", 2, 1));
    let older = Checkpoint { version: 6, ..earlier };
    assert_eq!(older.check_follows(&earlier), back("the bucket", 7, 6));
    let other = Checkpoint { root: Cid::of(Codec::DagCbor, b"other"), ..earlier };
    assert_eq!(other.check_follows(&earlier), Err(SealError::Forked { what: "the bucket" }));
    let other = Checkpoint { keyring: [0; 32], ..earlier };
    assert_eq!(other.check_follows(&earlier), Err(SealError::Forked { what: "the keyring" }));
    let foreign = Checkpoint::of(&create(&[&owner], &mut entropy), 7, root);
    assert_eq!(foreign.check_follows(&earlier), Err(SealError::ForeignVault));
}
