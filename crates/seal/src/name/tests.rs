//! Names, and every way in which a server or a member may alter one.

use super::*;
use crate::{
    SealError, SealedKey, VaultKeys, VaultPath,
    body::{FileSealer, Layout, Metadata},
    key::Secret,
    signature::{DeviceId, PublicKey, SigningKey},
    testing::{Recorded, vault},
};

const MOVED: SealError = SealError::Misplaced { what: "the name" };

fn device(seed: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::new([seed; 32]))
}

fn anchor(keys: &VaultKeys, entropy: &mut Recorded) -> Anchor {
    let sealer = FileSealer::new(keys, entropy).unwrap();
    let (segment, _) = sealer.seal_segment(0, b"content", entropy).unwrap();
    let layout = Layout::new(7, vec![segment]).unwrap();
    let metadata = Metadata::of(VaultPath::new(b"a").unwrap());
    sealer.finish(&layout, &metadata, entropy).unwrap().anchor
}

fn name(path: &[u8], clock: u64) -> Name {
    let etag = Some("d41d8cd98f00b204e9800998ecf8427e".to_owned());
    let path = VaultPath::new(path).unwrap();
    Name { path, size: 7, modified: Some(1_700_000_000_000_000_000), etag, clock }
}

/// Returns the key of device 1, which is the only writer.
fn writer(id: DeviceId, _epoch: u32) -> Option<PublicKey> {
    let public = device(1).public();
    (public.id() == id).then_some(public)
}

fn verify(opened: &Opened, keys: &VaultKeys, kept: &str) -> Result<Anchor, SealError> {
    opened.verify(keys, &Kept::parse(kept).unwrap(), writer)
}

#[test]
fn a_name_is_opened_and_verified() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let (anchor, name) = (anchor(&keys, &mut entropy), name(b"docs/plan.txt", 3));
    let sealed = name.seal(&keys, &anchor, &device(1), &mut entropy).unwrap();
    assert_eq!(sealed.kept.len(), 272);
    let opened = Opened::open(&keys, sealed.key, &sealed.listed).unwrap();
    assert_eq!((&opened.name, opened.epoch), (&name, 0));
    assert_eq!(verify(&opened, &keys, &sealed.kept), Ok(anchor));
    assert_eq!(opened.check_clock(3), Ok(()));
    assert_eq!(SealedKey::parse(sealed.key.as_str()), Some(sealed.key));
}

#[test]
fn both_values_fit_into_the_metadata_of_s3_and_show_little_of_the_length() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let anchor = anchor(&keys, &mut entropy);
    let mut lengths = std::collections::BTreeSet::new();
    for len in (1..=1024).step_by(11).chain([1024]) {
        let name = Name { etag: Some("e".repeat(48)), ..name(&vec![b'x'; len], u64::MAX) };
        let sealed = name.seal(&keys, &anchor, &device(1), &mut entropy).unwrap();
        assert!(LISTED.len() + KEPT.len() + sealed.listed.len() + sealed.kept.len() <= 2048);
        assert!(Opened::open(&keys, sealed.key, &sealed.listed).is_ok(), "{len}");
        lengths.insert(sealed.listed.len());
    }
    assert!(lengths.len() <= 8, "{lengths:?}");
    assert!(VaultPath::new([b'x'; 1025]).is_err() && VaultPath::new([]).is_err());
    let long = Name { etag: Some("e".repeat(49)), ..name(b"x", 1) };
    assert!(long.seal(&keys, &anchor, &device(1), &mut entropy).is_err());
    entropy.assert_all_different();
}

#[test]
fn the_key_of_a_path_is_the_same_in_all_epochs_and_another_in_each_vault() {
    let (mut keys, path) = (vault(1), VaultPath::new(b"a/b").unwrap());
    let before = keys.sealed_key(&path);
    keys.begin_epoch(&mut Recorded::new(2)).unwrap();
    assert_eq!(keys.sealed_key(&path), before);
    assert_ne!(vault(2).sealed_key(&path), before);
    let sibling = keys.sealed_key(&VaultPath::new(b"a/c").unwrap());
    assert!(sibling.as_str()[..4] != before.as_str()[..4], "nothing is shared in a directory");
    assert!(SealedKey::parse("short").is_none() && SealedKey::parse(&"A".repeat(32)).is_none());
}

#[test]
fn attack_swap_names_between_keys_or_vaults() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let anchor = anchor(&keys, &mut entropy);
    let [one, two] = [b"one", b"two"]
        .map(|path| name(path, 1).seal(&keys, &anchor, &device(1), &mut entropy).unwrap());
    assert_eq!(Opened::open(&keys, one.key, &two.listed), Err(MOVED));
    assert_eq!(Opened::open(&vault(2), one.key, &one.listed), Err(MOVED));
}

#[test]
fn attack_exchange_the_body_of_a_name() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let [old, new] = [1, 2].map(|clock| {
        let anchor = anchor(&keys, &mut entropy);
        name(b"one", clock).seal(&keys, &anchor, &device(1), &mut entropy).unwrap()
    });
    let opened = Opened::open(&keys, new.key, &new.listed).unwrap();
    let misplaced = SealError::Misplaced { what: "the record of the body" };
    assert_eq!(verify(&opened, &keys, &old.kept), Err(misplaced));
    assert!(verify(&opened, &keys, &new.kept).is_ok());
}

#[test]
fn attack_show_an_older_version() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let anchor = anchor(&keys, &mut entropy);
    let old = name(b"one", 4).seal(&keys, &anchor, &device(1), &mut entropy).unwrap();
    let old = Opened::open(&keys, old.key, &old.listed).unwrap();
    let replayed = SealError::Replayed { what: "the name", seen: 5, found: 4 };
    assert_eq!(old.check_clock(5), Err(replayed));
}

#[test]
fn attack_alter_a_value() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let anchor = anchor(&keys, &mut entropy);
    let sealed = name(b"one", 1).seal(&keys, &anchor, &device(1), &mut entropy).unwrap();
    let opened = Opened::open(&keys, sealed.key, &sealed.listed).unwrap();
    let alter = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'Q' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    for at in 0..sealed.listed.len() {
        assert!(Opened::open(&keys, sealed.key, &alter(&sealed.listed, at)).is_err(), "{at}");
    }
    for at in 0..sealed.kept.len() {
        let found = Kept::parse(&alter(&sealed.kept, at));
        assert!(found.and_then(|kept| opened.verify(&keys, &kept, writer)).is_err(), "{at}");
    }
    for len in 0..sealed.listed.len() {
        assert!(Opened::open(&keys, sealed.key, &sealed.listed[..len]).is_err(), "{len}");
    }
    assert!(Kept::parse(&sealed.kept[..268]).is_err() && Kept::parse(&"A".repeat(10_000)).is_err());
    let last = alter(&sealed.listed, sealed.listed.len() - 5);
    let damaged = SealError::Damaged { what: "the name" };
    assert_eq!(Opened::open(&keys, sealed.key, &last), Err(damaged));
}

#[test]
fn attack_a_member_who_may_only_read_writes() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let anchor = anchor(&keys, &mut entropy);
    let forged = name(b"one", 9).seal(&keys, &anchor, &device(2), &mut entropy).unwrap();
    let opened = Opened::open(&keys, forged.key, &forged.listed).unwrap();
    let refused = SealError::NotSigned { what: "the name" };
    assert_eq!(verify(&opened, &keys, &forged.kept), Err(refused));
    // With the name of a writer, the signature is wrong.
    let mut kept = Kept::parse(&forged.kept).unwrap();
    kept.device = device(1).id();
    assert!(opened.verify(&keys, &kept, writer).is_err());
    // A key of the right id that did not sign is refused too.
    let kept = Kept::parse(&forged.kept).unwrap();
    let other = opened.verify(&keys, &kept, |_, _| Some(device(1).public()));
    assert_eq!(other, Err(refused));
}
