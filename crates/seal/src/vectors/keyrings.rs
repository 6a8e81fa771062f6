//! Keyrings that open, with each kind of slot.

use fula_core::{Cid, Codec};
use serde_json::{Value, json};

use super::{array, bytes, check, keys_of, of_keys, text};
use crate::{
    Padding, SealError, VaultId,
    key::Secret,
    keyring::{Checkpoint, Founder, Keyring, Role, SealedKeyring, Trust, testing::identity},
    slot::{Identity, PassphraseCost, SlotKind, WalletSalt},
    testing::Recorded,
};

const VAULT: VaultId = VaultId([3; 16]);
const PASSPHRASE: &str = "correct horse battery staple";
const SALT: WalletSalt = WalletSalt([5; 32]);
const SIGNATURE: [u8; 65] = [0x33; 65];

/// Returns three generations: five kinds of slots, a member that is invited and admitted, and one that leaves.
pub(super) fn generations(entropy: &mut Recorded) -> [Keyring; 3] {
    let cost = PassphraseCost::new(64 * 1024, 3, entropy).unwrap();
    let passphrase = Identity::from_passphrase(PASSPHRASE, &cost).unwrap();
    let wallet = Identity::from_wallet(VAULT, &SALT, &SIGNATURE).unwrap();
    let (device, words, guest) = (identity(1), identity(2), identity(4));
    let founder = |identity, kind, label| Founder { identity, kind, label };
    let founders = [
        founder(&device, SlotKind::Device, "laptop"),
        founder(&words, SlotKind::Mnemonic, "drawer"),
        founder(&passphrase, SlotKind::Passphrase(cost), "head"),
        founder(&wallet, SlotKind::Wallet(SALT), "wallet"),
    ];
    let first = Keyring::create(Some(VAULT), Padding::Padme, &founders, entropy).unwrap();
    let mut draft = first.edit(device.signing_key()).unwrap();
    draft.invite(&guest.recipient(), "Bo", entropy).unwrap();
    draft.admit(guest.signing_key().public(), Role::Writer, "Bo").unwrap();
    let second = draft.seal(entropy).unwrap();
    let mut draft = second.edit(words.signing_key()).unwrap();
    let wallet = second.sealed().slots()[3].id();
    draft.remove(&[wallet], &[guest.signing_key().id()], entropy).unwrap();
    let third = draft.seal(entropy).unwrap();
    [first, second, third]
}

/// Returns the secrets that open a keyring: kind, and what a person or a device has.
fn secrets(keyring: &Keyring) -> Vec<Value> {
    let words = identity(2).to_words();
    keyring
        .slots()
        .map(|(slot, label)| match slot.kind() {
            SlotKind::Device => json!({"label": label, "seed": text(&[1; 32])}),
            SlotKind::Mnemonic => json!({"label": label, "seed": text(&[2; 32]), "words": *words}),
            SlotKind::Passphrase(_) => json!({"label": label, "passphrase": PASSPHRASE}),
            SlotKind::Wallet(_) => json!({"label": label, "signature": text(&SIGNATURE)}),
            SlotKind::Recipient => json!({"label": label, "seed": text(&[4; 32])}),
        })
        .collect()
}

/// Returns the identity behind a secret.
fn identity_of(keyring: &SealedKeyring, secret: &Value) -> Result<Identity, SealError> {
    if let Some(passphrase) = secret["passphrase"].as_str() {
        return keyring.identity_of_passphrase(passphrase);
    }
    if secret["signature"].is_string() {
        let salt = keyring.wallet_salts().next().unwrap();
        return Identity::from_wallet(keyring.vault(), &salt, &array(&secret["signature"]));
    }
    Ok(Identity::from_seed(Secret::new(array(&secret["seed"]))))
}

#[test]
fn vectors_of_keyrings_are_unchanged_and_open() {
    let mut entropy = Recorded::new(11);
    let root = Cid::of(Codec::DagCbor, b"root");
    let vectors = generations(&mut entropy).map(|keyring| {
        let members: Vec<_> = keyring
            .members()
            .map(|(member, label)| {
                let role = if member.role == Role::Admin { "admin" } else { "writer" };
                json!({"key": text(&member.key.0), "role": role, "since": member.since,
                   "until": member.until, "label": label})
            })
            .collect();
        json!({
            "keyring": text(keyring.sealed().as_bytes()), "generation": keyring.generation(),
            "fingerprint": keyring.fingerprint().to_string(), "keys": of_keys(keyring.keys()),
            "secrets": secrets(&keyring), "members": members,
            "checkpoint": {"version": 7, "root": text(&root.to_bytes()),
                           "text": Checkpoint::of(&keyring, 7, root).to_string()},
        })
    });
    entropy.assert_all_different();
    let vectors = Value::from(vectors.to_vec());
    check("keyrings.json", &vectors);

    let mut seen: Option<SealedKeyring> = None;
    for vector in vectors.as_array().unwrap() {
        let keyring = SealedKeyring::parse(&bytes(&vector["keyring"])).unwrap();
        for secret in vector["secrets"].as_array().unwrap() {
            let identity = identity_of(&keyring, secret).unwrap();
            let fingerprint = Some(vector["fingerprint"].as_str().unwrap().parse().unwrap());
            let trust = Trust { fingerprint, seen: seen.as_ref() };
            let opened = keyring.clone().open(&identity, &trust).unwrap();
            let expected = keys_of(&vector["keys"]);
            assert_eq!(of_keys(opened.keys()), of_keys(&expected));
        }
        seen = Some(keyring);
    }
}
