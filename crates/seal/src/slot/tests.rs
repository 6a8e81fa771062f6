//! Slots of every kind, and what a server may try with them.

use std::sync::LazyLock;

use super::*;
use crate::{signature::SigningKey, testing::Recorded};

const VAULT: VaultId = VaultId([7; 16]);
const DAMAGED: SealError = SealError::Damaged { what: "the slot" };

static KEY: LazyLock<Secret> = LazyLock::new(|| Secret::new([9; 32]));

fn root(seed: u8) -> PublicKey {
    SigningKey::from_seed(&Secret::new([seed; 32])).public()
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed(Secret::new([seed; 32]))
}

fn enrol(identity: &Identity, kind: SlotKind, entropy: &mut Recorded) -> Slot {
    Slot::enrol((VAULT, root(1)), &KEY, identity, kind, entropy).unwrap()
}

fn round_trip(slot: &Slot) -> Result<Slot, Invalid> {
    let mut out = Writer::default();
    slot.encode(&mut out);
    let bytes = out.finish();
    let mut reader = Reader::new(&bytes);
    let slot = Slot::decode(&mut reader)?;
    reader.end().map(|()| slot)
}

#[test]
fn a_slot_of_every_kind_opens_after_it_was_stored() {
    let mut entropy = Recorded::new(1);
    let cost = PassphraseCost::new(64 * 1024, 3, &mut entropy).unwrap();
    let salt = WalletSalt([5; 32]);
    let signature = [3; 65];
    let device = Identity::generate(&mut entropy).unwrap();
    let words = Identity::from_words(&device.to_words().to_ascii_uppercase()).unwrap();
    assert_eq!(words.recipient(), device.recipient());
    let of_passphrase = |text| Identity::from_passphrase(text, &cost).unwrap();
    let cases = [
        (SlotKind::Device, &device),
        (SlotKind::Mnemonic, &words),
        (SlotKind::Passphrase(cost), &of_passphrase("correct horse")),
        (SlotKind::Wallet(salt), &Identity::from_wallet(VAULT, &salt, &signature).unwrap()),
    ];
    for (kind, identity) in cases {
        let slot = round_trip(&enrol(identity, kind, &mut entropy)).unwrap();
        assert_eq!(slot.kind(), kind);
        assert_eq!(slot.unwrap(VAULT, identity).unwrap().expose(), KEY.expose());
        assert!(slot.attests(VAULT, root(1), identity));
    }
    assert_ne!(
        of_passphrase("correct horse").recipient(),
        of_passphrase("correct hors").recipient()
    );
    entropy.assert_all_different();
}

#[test]
fn a_recipient_opens_what_was_wrapped_for_it_and_attested_nothing() {
    let mut entropy = Recorded::new(1);
    let identity = identity(4);
    let mut slot = Slot::invite(VAULT, &KEY, &identity.recipient(), &mut entropy).unwrap();
    let slot_before = slot.clone();
    assert_eq!(round_trip(&slot), Ok(slot.clone()));
    assert!(!slot.attests(VAULT, root(1), &identity));
    let other = Secret::new([8; 32]);
    slot.wrap_again(VAULT, &other, &mut entropy).unwrap();
    assert_eq!(slot.unwrap(VAULT, &identity).unwrap().expose(), other.expose());
    assert_ne!(slot, slot_before);
}

#[test]
fn attack_a_vault_of_the_server_for_a_known_public_key() {
    // The server wraps a key of its own, and takes the attestation of another vault or root.
    let mut entropy = Recorded::new(1);
    let victim = identity(4);
    let genuine = enrol(&victim, SlotKind::Device, &mut entropy);
    let mut forged = genuine.clone();
    forged.wrap_again(VAULT, &Secret::new([66; 32]), &mut entropy).unwrap();
    assert!(forged.unwrap(VAULT, &victim).is_ok(), "HPKE has no sender");
    assert!(!forged.attests(VAULT, root(2), &victim), "the root key of the server");
    assert!(!genuine.attests(VaultId([8; 16]), root(1), &victim));
    assert!(!genuine.attests(VAULT, root(1), &identity(5)));
}

#[test]
fn attack_a_slot_of_another_vault_or_an_altered_one() {
    let mut entropy = Recorded::new(1);
    let (identity, other) = (identity(4), identity(5));
    let slot = enrol(&identity, SlotKind::Device, &mut entropy);
    assert_eq!(slot.unwrap(VaultId([8; 16]), &identity).unwrap_err(), DAMAGED);
    for change in [0, 500, ENCAPSULATED_BYTES - 1] {
        let mut altered = slot.clone();
        altered.wrapped.encapsulated[change] ^= 1;
        assert_eq!(altered.unwrap(VAULT, &identity).unwrap_err(), DAMAGED);
    }
    let mut altered = slot.clone();
    altered.wrapped.sealed[47] ^= 1;
    assert_eq!(altered.unwrap(VAULT, &identity).unwrap_err(), DAMAGED);
    assert_eq!(slot.unwrap(VAULT, &other).unwrap_err(), DAMAGED);
}

#[test]
fn attack_a_passphrase_that_costs_too_much_or_too_little() {
    let mut entropy = Recorded::new(1);
    for (memory, passes) in [(1 << 21, 3), (1 << 16, 33), (1 << 15, 3), (1 << 16, 2), (0, 0)] {
        assert!(PassphraseCost::new(memory, passes, &mut entropy).is_err());
        let mut out = Writer::default();
        out.array(4).uint(memory.into()).uint(passes.into()).uint(4).bytes(&[0; 16]);
        assert!(PassphraseCost::decode(&mut Reader::new(&out.finish())).is_err());
    }
    let mut out = Writer::default();
    out.array(4).uint(1 << 40).uint(3).uint(4).bytes(&[0; 16]);
    assert!(PassphraseCost::decode(&mut Reader::new(&out.finish())).is_err());
}

#[test]
fn cut_off_slots_are_refused() {
    let mut out = Writer::default();
    enrol(&identity(4), SlotKind::Device, &mut Recorded::new(1)).encode(&mut out);
    let bytes = out.finish();
    for len in (0..bytes.len()).step_by(13) {
        let bytes = bytes[..len].to_vec().into();
        assert!(Slot::decode(&mut Reader::new(&bytes)).is_err(), "{len}");
    }
}

#[test]
fn words_that_were_mistyped_are_found() {
    let words = identity(0).to_words();
    assert!(words.ends_with("abandon art"), "the vector of BIP 39 for 32 zero bytes");
    let why = |text: &str| match Identity::from_words(text) {
        Err(SealError::Malformed { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert!(why(&words.replace(" art", " arm")).contains("checksum"));
    assert!(why(&words.replace(" art", " arty")).contains("not in the list"));
    assert!(why("abandon ability").contains("24 words"));
    let twelve = "abandon ".repeat(11) + "about";
    assert!(why(&twelve).contains("24 words"));
}

#[test]
fn a_wallet_that_signs_differently_each_time_is_refused() {
    let salt = WalletSalt([5; 32]);
    let (one, mut two) = ([3; 65], [3; 65]);
    two[64] = 28;
    let enrolled = Identity::enrol_wallet(VAULT, &salt, [&one, &two]).unwrap();
    let opened = Identity::from_wallet(VAULT, &salt, &one).unwrap();
    assert_eq!(enrolled.recipient(), opened.recipient(), "v is not part of the key");
    two[0] ^= 1;
    let refused = Identity::enrol_wallet(VAULT, &salt, [&one, &two]).unwrap_err();
    assert_eq!(refused, SealError::UnstableWallet);
    let mut high = [3; 65];
    high[32] = 0x80;
    assert!(Identity::from_wallet(VAULT, &salt, &high).is_err());
    let other = Identity::from_wallet(VaultId([8; 16]), &salt, &one).unwrap();
    assert_ne!(other.recipient(), opened.recipient());
    let message: serde_json::Value = serde_json::from_str(&wallet_message(VAULT, &salt)).unwrap();
    assert_eq!(message["domain"]["name"], "Fula Vault");
    assert_eq!(message["message"]["vault"], format!("0x{}{}", "07".repeat(16), "00".repeat(16)));
}

#[test]
fn identities_and_recipients_of_age_are_read() {
    let text = include_str!("../../tests/vectors/age_keygen_pq.txt");
    let (identity, recipient) = text.trim().split_once('\n').unwrap();
    let identity = Identity::from_age(identity).unwrap();
    assert_eq!(identity.recipient().to_string(), recipient);
    let parsed: Recipient = recipient.parse().unwrap();
    assert_eq!(parsed, identity.recipient());
    assert!(recipient.replace("age1pq", "age1tag").parse::<Recipient>().is_err());
    assert!(recipient[..1900].parse::<Recipient>().is_err());
    assert!(Identity::from_age("AGE-SECRET-KEY-1QQQ").is_err());
    assert!(!format!("{identity:?}").contains("SECRET-KEY"));
}
