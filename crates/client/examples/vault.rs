//! Keeps files in a vault, whose server sees neither content nor names, and opens it on a second device with a
//! passphrase.
//!
//! ```sh
//! cargo run --locked --ignore-rust-version -p fula-client --example vault -- BUCKET PASSPHRASE
//! ```
//!
//! Address and key come from the environment, as for every AWS tool: `AWS_ENDPOINT_URL`,
//! `AWS_SHARED_CREDENTIALS_FILE`.

use std::path::Path;

use fula_client::{
    Bucket, Client, Error, Result, Settings,
    vault::{CreateOptions, Place, Unlock, Vault, VaultGetOptions, VaultPutOptions},
};
use fula_seal::{
    Entropy, SealError, VaultPath,
    keyring::Founder,
    slot::{Identity, PassphraseCost, SlotKind},
};

/// The random number generator of the operating system.
struct System;

impl Entropy for System {
    fn fill(&mut self, out: &mut [u8]) -> std::result::Result<(), SealError> {
        getrandom::fill(out).map_err(|_| SealError::NoEntropy)
    }
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bucket, passphrase] = arguments.as_slice() else {
        eprintln!("usage: vault BUCKET PASSPHRASE");
        return std::process::ExitCode::from(2);
    };
    match run(bucket, passphrase).await {
        Ok(lines) => {
            for line in lines {
                println!("{line}");
            }
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(bucket: &str, passphrase: &str) -> Result<Vec<String>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "an example has no node that reads the environment"
    )]
    let settings = Settings::read(None, |name| std::env::var(name).ok())?;
    let endpoint =
        settings.endpoint.ok_or_else(|| Error::Invalid("set AWS_ENDPOINT_URL".into()))?;
    let client = Client::builder().endpoint(endpoint).credentials(settings.credentials).build()?;
    share(&client.bucket(bucket)?, passphrase, Path::new(".")).await
}

/// Writes a file on a first device, and reads it on a second one that knows the passphrase. Each device has a
/// directory for what it has seen of the vault.
async fn share(bucket: &Bucket, passphrase: &str, states: &Path) -> Result<Vec<String>> {
    let place = Place::new(bucket.clone(), "private")?;
    let cost = PassphraseCost::new(64 * 1024, 3, &mut System)?;
    let (device, typed) =
        (Identity::generate(&mut System)?, Identity::from_passphrase(passphrase, &cost)?);
    let founders = [
        Founder { identity: &device, kind: SlotKind::Device, label: "laptop" },
        Founder { identity: &typed, kind: SlotKind::Passphrase(cost), label: "passphrase" },
    ];
    let (laptop, phone) = (states.join("laptop"), states.join("phone"));
    let options = CreateOptions::default();
    let vault = Vault::create(place.clone(), options, &founders, &laptop).await?;
    let path = VaultPath::new(b"plans/today.txt")?;
    vault.put(&path, "attack at dawn", VaultPutOptions::default()).await?;

    let opened = Vault::open(place, Unlock::Passphrase(passphrase), None, &phone).await?;
    let content = opened.get(&path, VaultGetOptions::default()).await?.bytes(1 << 20).await?;
    let mut lines = vec![format!("the phone reads: {}", String::from_utf8_lossy(&content))];
    for entry in opened.list(b"").await?.entries {
        lines.push(format!(
            "{} bytes: {}",
            entry.size,
            String::from_utf8_lossy(entry.path.as_bytes())
        ));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {

    use super::*;

    mod gateway {
        include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs"));
    }

    #[tokio::test]
    async fn a_second_device_reads_what_the_first_one_wrote() {
        let (bucket, folder) = (gateway::bucket().await, tempfile::tempdir().unwrap());
        let lines = share(&bucket, "correct horse", folder.path()).await.unwrap();
        assert_eq!(lines, ["the phone reads: attack at dawn", "14 bytes: plans/today.txt"]);
    }
}
