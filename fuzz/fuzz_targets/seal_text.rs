//! Reads any text as what people type or paste: recipients, age identities, words, fingerprints, checkpoints and
//! keys. What is accepted is written as the same text, up to capital letters and spaces.
#![no_main]

use fula_core::{Cid, Codec};
use fula_fuzz::Repeating;
use fula_seal::{
    Padding, SealedKey,
    key::Secret,
    keyring::{Checkpoint, Fingerprint, Founder, Keyring},
    slot::{Identity, Recipient, SlotKind},
};
use libfuzzer_sys::fuzz_target;

fn samples() -> [Vec<u8>; 4] {
    let (mut entropy, identity) = (Repeating(0), Identity::from_seed(Secret::new([1; 32])));
    let founder = Founder { identity: &identity, kind: SlotKind::Device, label: "" };
    let keyring = Keyring::create(None, Padding::None, &[founder], &mut entropy).expect("a keyring");
    let checkpoint = Checkpoint::of(&keyring, 7, Cid::of(Codec::DagCbor, b"root"));
    let (words, recipient) = (identity.to_words().to_string(), identity.recipient().to_string());
    [words, recipient, keyring.fingerprint().to_string(), checkpoint.to_string()].map(String::into_bytes)
}

fuzz_target!(|data: &[u8]| {
    let text = fula_fuzz::input(data, &samples());
    let Ok(text) = std::str::from_utf8(&text) else { return };
    let lower = text.trim().to_ascii_lowercase();
    if let Ok(recipient) = text.parse::<Recipient>() {
        assert_eq!(recipient.to_string(), lower);
    }
    if let Ok(checkpoint) = text.parse::<Checkpoint>() {
        assert_eq!(checkpoint.to_string(), lower);
    }
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string(), lower);
    }
    if let Ok(identity) = Identity::from_words(text) {
        let words: Vec<_> = lower.split_whitespace().collect();
        assert_eq!(*identity.to_words(), words.join(" "));
    }
    if let Some(key) = SealedKey::parse(text) {
        assert_eq!(key.as_str(), text);
    }
    let _ = Identity::from_age(text);
});
