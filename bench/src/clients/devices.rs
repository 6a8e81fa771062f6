//! Devices that update the same files of a vault, each update naming the version that it replaces, over a link
//! that loses answers.
//!
//! A file holds a count, and for each device the number of its last attempt that took effect. So after an update
//! that was answered as a conflict, the file itself tells whether that was true.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use fula_client::{
    Client, Credentials as ClientCredentials, Error,
    vault::{self, Condition, CreateOptions, Unlock, Vault, VaultGetOptions, VaultPutOptions},
};
use fula_seal::{
    Padding, VaultPath,
    key::Secret,
    keyring::Founder,
    slot::{Identity, SlotKind},
};
use fula_testkit::{link::Link, s3::Credentials};
use futures::future::try_join_all;

use crate::server::{Kind, Server};

/// Bucket of the vault.
const BUCKET: &str = "sealed";

const DEVICES: usize = 4;

/// Number of files that all devices update.
const FILES: usize = 4;

/// Number of answers in 1000 that get lost.
const LOST: u64 = 20;

/// A vault, as one device has it.
struct Place {
    endpoint: String,
    credentials: Credentials,
    state: PathBuf,
}

fn failed(error: Error) -> io::Error {
    io::Error::other(error)
}

impl Place {
    fn bucket(&self) -> io::Result<vault::Place> {
        let credentials = match &self.credentials {
            Credentials::Key { id, secret } => ClientCredentials::key(id.as_str(), secret.as_str()),
            Credentials::Bearer(token) => ClientCredentials::bearer(token.as_str()),
        };
        let client = Client::builder().endpoint(self.endpoint.clone()).credentials(credentials);
        let bucket = client.build().and_then(|client| client.bucket(BUCKET)).map_err(failed)?;
        vault::Place::new(bucket, "").map_err(failed)
    }

    /// Opens the vault as this device.
    async fn open(&self, device: u8) -> io::Result<Vault> {
        let unlock = Unlock::Identity(identity(device));
        Vault::open(self.bucket()?, unlock, None, &self.state).await.map_err(failed)
    }

    /// Makes the vault, whose devices are the numbers from 0 to `devices`.
    async fn create(&self, devices: u8) -> io::Result<Vault> {
        let identities: Vec<Identity> = (0..devices).map(identity).collect();
        let founder = |identity| Founder { identity, kind: SlotKind::Device, label: "bench" };
        let founders: Vec<_> = identities.iter().map(founder).collect();
        let options = CreateOptions { padding: Padding::Padme, vault: None };
        Vault::create(self.bucket()?, options, &founders, &self.state).await.map_err(failed)
    }
}

/// Returns the identity of a device of the benchmark.
fn identity(device: u8) -> Identity {
    Identity::from_seed(Secret::new([device + 1; 32]))
}

/// Content of a file: the count, and the last attempt of each device that took effect.
type Content = [u64; 1 + DEVICES];

fn encode(content: Content) -> Vec<u8> {
    content.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn decode(bytes: &[u8]) -> io::Result<Content> {
    let mut content = Content::default();
    if bytes.len() != 8 * content.len() {
        return Err(io::Error::other(format!("a file has {} bytes", bytes.len())));
    }
    for (number, bytes) in content.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
    }
    Ok(content)
}

fn file(n: usize) -> io::Result<VaultPath> {
    VaultPath::new(format!("shared/{n}").as_bytes()).map_err(io::Error::other)
}

/// Reads a file, and its version. A file that is overwritten meanwhile is read again.
async fn read(vault: &Vault, n: usize) -> io::Result<(Content, String)> {
    loop {
        let got = match vault.get(&file(n)?, VaultGetOptions::default()).await {
            Ok(get) => {
                let etag = get.etag.clone();
                get.bytes(1 << 10).await.map(|bytes| (bytes, etag))
            }
            Err(error) => Err(error),
        };
        match got {
            Ok((bytes, etag)) => return Ok((decode(&bytes)?, etag)),
            Err(Error::Changed { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// What became of the updates of a device.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    updates: [u64; FILES],
    conflicts: u64,
    /// Conflicts with an own write.
    false_conflicts: u64,
}

async fn updates(vault: Vault, device: usize, count: u64) -> io::Result<Tally> {
    let (mut tally, mut attempt) = (Tally::default(), 0);
    for n in 0..count {
        let n = (usize::try_from(n).unwrap_or(0) + device) % FILES;
        loop {
            attempt += 1;
            let (mut content, etag) = read(&vault, n).await?;
            content[0] += 1;
            content[1 + device] = attempt;
            let condition = Condition::Version(etag);
            let options = VaultPutOptions { condition, ..VaultPutOptions::default() };
            match vault.put(&file(n)?, encode(content), options).await {
                Ok(_) => break,
                Err(Error::Changed { .. }) => tally.conflicts += 1,
                Err(error) => return Err(failed(error)),
            }
            if read(&vault, n).await?.0[1 + device] == attempt {
                tally.false_conflicts += 1;
                break;
            }
        }
        tally.updates[n] += 1;
    }
    Ok(tally)
}

/// Lets four devices make `count` updates each, and prints what became of them.
///
/// # Errors
/// An error if an update was lost, or if a conflict was none.
pub(super) async fn run(count: u64) -> io::Result<()> {
    let server = Server::start(&Kind::Fula, &[]).await?;
    server.make_bucket(BUCKET).await?;
    let (link, dir) = (Link::open(server.address).await?, tempfile::tempdir()?);
    let place = |device: usize| Place {
        endpoint: format!("http://{}", link.address()),
        credentials: server.credentials.clone(),
        state: dir.path().join(device.to_string()),
    };
    let first = place(0).create(u8::try_from(DEVICES).map_err(io::Error::other)?).await?;
    let mut vaults = vec![first];
    for device in 1..DEVICES {
        vaults.push(place(device).open(u8::try_from(device).map_err(io::Error::other)?).await?);
    }
    for n in 0..FILES {
        let content = encode(Content::default());
        vaults[0].put(&file(n)?, content, VaultPutOptions::default()).await.map_err(failed)?;
    }
    link.drop_answers(LOST);
    let began = Instant::now();
    let work = vaults.iter().enumerate().map(|(n, vault)| updates(vault.clone(), n, count));
    let tallies = try_join_all(work).await?;
    let took: Duration = began.elapsed();
    link.drop_answers(0);
    let mut lost = 0;
    for n in 0..FILES {
        let answered: u64 = tallies.iter().map(|tally| tally.updates[n]).sum();
        lost += answered.abs_diff(read(&vaults[0], n).await?.0[0]);
    }
    let conflicts: u64 = tallies.iter().map(|tally| tally.conflicts).sum();
    let wrong: u64 = tallies.iter().map(|tally| tally.false_conflicts).sum();
    println!(
        "{DEVICES} devices, {count} updates each of {FILES} shared files: {:.1} s, {} answers lost, {conflicts} \
         conflicts, {wrong} false conflicts, {lost} lost updates",
        took.as_secs_f64(),
        link.dropped()
    );
    if lost + wrong > 0 {
        return Err(io::Error::other("updates were lost, or conflicts were none"));
    }
    Ok(())
}
