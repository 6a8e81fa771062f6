//! Test vectors: `tests/vectors/{objects,keyrings,links,refused}.json`, for readers of the format in other languages.
//!
//! They are generated here, from entropy that repeats. The test fails when the format gives other bytes than
//! those that were committed. `FULA_WRITE_VECTORS=1 cargo test -p fula-seal vectors` writes them.

mod keyrings;
mod links;
mod objects;
mod refused;

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::{
    VaultId, VaultKeys,
    key::Secret,
    signature::{DeviceId, PublicKey},
};

/// Compares a file of vectors with what is generated now, or writes it.
fn check(name: &str, vectors: &Value) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    let text = format!("{}\n", serde_json::to_string_pretty(vectors).unwrap());
    if std::env::var_os("FULA_WRITE_VECTORS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap();
    assert!(committed == text, "the format changed: {name} has other bytes");
}

fn text(bytes: &[u8]) -> Value {
    hex::encode(bytes).into()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// Writes the keys of a vault.
fn of_keys(keys: &VaultKeys) -> Value {
    let (names, epochs) = keys.secrets();
    let epochs: Vec<_> = epochs.iter().map(|epoch| text(epoch.expose())).collect();
    serde_json::json!({"vault": text(&keys.vault().0), "names_key": text(names.expose()), "epoch_keys": epochs})
}

/// Reads the keys of a vault.
fn keys_of(value: &Value) -> VaultKeys {
    let epochs = value["epoch_keys"].as_array().unwrap();
    let epochs = epochs.iter().map(|epoch| Secret::new(array(epoch))).collect();
    let names = Secret::new(array(&value["names_key"]));
    VaultKeys::from_secrets(VaultId(array(&value["vault"])), names, epochs).unwrap()
}

/// Returns the key of a device that may write in an epoch, of a list `[[public key, end or null], …]`.
fn writer(writers: &Value, device: DeviceId, epoch: u32) -> Option<PublicKey> {
    let found = writers.as_array().unwrap().iter().find_map(|writer| {
        let key = PublicKey(array(&writer[0]));
        let counts = writer[1].as_u64().is_none_or(|end| u64::from(epoch) < end);
        (key.id() == device).then_some((key, counts))
    });
    found.filter(|(_, counts)| *counts).map(|(key, _)| key)
}
