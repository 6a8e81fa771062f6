//! What this device keeps about vaults: its key, the places of vaults by name, and what it has seen of them. The
//! directory is `fula` below `XDG_CONFIG_HOME`, or below `~/.config`.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use fula_client::{
    Client, Error, Result,
    vault::{Place, Unlock, Vault},
};
use fula_seal::{
    Entropy, SealError,
    key::Secret,
    keyring::Fingerprint,
    slot::{Identity, PassphraseCost},
};
use fula_service::error::chain;
use zeroize::Zeroizing;

use super::names::normal;
use crate::{cli::VaultSecretArgs, files};

/// Cost of a passphrase: 256 MiB and 3 passes take about half a second.
const PASSPHRASE_KIB: u32 = 256 * 1024;
const PASSPHRASE_PASSES: u32 = 3;

/// The random number generator of the operating system.
pub(super) struct System;

impl Entropy for System {
    fn fill(&mut self, out: &mut [u8]) -> std::result::Result<(), SealError> {
        (fula_service::system_random())(out);
        Ok(())
    }
}

/// The directory of this device.
pub(super) struct Local(PathBuf);

impl Local {
    /// Opens the directory, and makes it, mode 0700.
    pub(super) fn open() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
        let config =
            config.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")));
        let config = config.ok_or_else(|| {
            Error::Invalid("set HOME: the key of this device is kept below it".to_owned())
        })?;
        let directory = config.join("fula");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(Error::io(directory.display().to_string()))?;
        Ok(Self(directory))
    }

    fn key_file(&self) -> PathBuf {
        self.0.join("device.key")
    }

    /// Returns the directory for what was seen of vaults.
    pub(super) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Returns the identity of this device, and makes it the first time.
    pub(super) fn device(&self) -> Result<Identity> {
        let file = self.key_file();
        if !file.exists() {
            let identity = Identity::generate(&mut System)?;
            let text = Zeroizing::new(format!("{}\n", hex::encode(identity.seed().expose())));
            files::write_new(&file, &text).map_err(|error| Error::Invalid(chain(&error)))?;
            return Ok(identity);
        }
        let text = files::read_secret(&file).map_err(|error| Error::Invalid(chain(&error)))?;
        let bytes = hex::decode(&*text).map(Zeroizing::new).ok();
        let seed = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        let wrong = || Error::Invalid(format!("{} is no key of a device", file.display()));
        Ok(Identity::from_seed(Secret::new(seed.ok_or_else(wrong)?)))
    }

    fn entry(&self, name: &str) -> Result<PathBuf> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(is_plain) {
            return Err(Error::Invalid(format!(
                "{name:?} is no name of a vault: write small letters, digits and hyphens"
            )));
        }
        Ok(self.0.join("vaults").join(name))
    }

    /// Checks that a name is free.
    pub(super) fn check_free(&self, name: &str) -> Result<()> {
        if self.entry(name)?.exists() {
            return Err(Error::Exists { what: format!("the vault {name} on this device") });
        }
        Ok(())
    }

    /// Gives a vault a name on this device.
    pub(super) fn remember(&self, name: &str, place: &str) -> Result<()> {
        let entry = self.entry(name)?;
        let folder = self.0.join("vaults");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(Error::io(folder.display().to_string()))?;
        files::write_new(&entry, &format!("{place}\n"))
            .map_err(|error| Error::Invalid(chain(&error)))
    }

    /// Opens a vault that has a name, with the key of this device.
    pub(super) async fn vault(&self, client: &Client, name: &str) -> Result<Vault> {
        let entry = self.entry(name)?;
        let text = fs::read_to_string(&entry).map_err(|_| Error::NotFound {
            what: format!(
                "the vault {name} on this device (`fula vault open {name} PLACE` opens one for the first time)"
            ),
        })?;
        let place = place(client, text.trim())?;
        Vault::open(place, Unlock::Identity(self.device()?), None, &self.state()).await
    }
}

/// Parses `bucket/prefix`.
pub(super) fn place(client: &Client, text: &str) -> Result<Place> {
    let text = text.strip_prefix("s3://").unwrap_or(text);
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    Place::new(client.bucket(bucket)?, prefix)
}

/// Splits `bucket/prefix#fingerprint`.
pub(super) fn with_fingerprint(text: &str) -> Result<(&str, Option<Fingerprint>)> {
    let text = text.strip_prefix("vault:").unwrap_or(text);
    match text.split_once('#') {
        None => Ok((text, None)),
        Some((place, fingerprint)) => Ok((place, Some(fingerprint.parse()?))),
    }
}

/// Returns the passphrase that options choose; `None` if they choose none. A new one is typed twice.
pub(super) fn passphrase(
    args: &VaultSecretArgs,
    is_new: bool,
) -> Result<Option<Zeroizing<String>>> {
    if let Some(file) = &args.passphrase_file {
        let text = fs::read_to_string(file).map(Zeroizing::new);
        let text = text.map_err(Error::io(file.display().to_string()))?;
        let line = text.lines().next().unwrap_or_default().to_owned();
        return checked(Zeroizing::new(line)).map(Some);
    }
    if !args.passphrase {
        return Ok(None);
    }
    let ask = |text: &str| {
        let asked = rpassword::prompt_password(text).map(Zeroizing::new);
        asked.map_err(Error::io("the terminal"))
    };
    let typed = ask("Passphrase: ")?;
    if is_new && ask("The same again: ")? != typed {
        return Err(Error::Invalid("the passphrases differ".to_owned()));
    }
    checked(typed).map(Some)
}

/// Checks the length of a passphrase, and returns it in NFC: keyboards give the same text in different bytes.
fn checked(passphrase: Zeroizing<String>) -> Result<Zeroizing<String>> {
    let passphrase = Zeroizing::new(normal(&passphrase));
    if passphrase.chars().count() < 8 {
        return Err(Error::Invalid("a passphrase has at least 8 characters".to_owned()));
    }
    Ok(passphrase)
}

/// Returns the cost of a new passphrase.
pub(super) fn cost() -> Result<PassphraseCost> {
    Ok(PassphraseCost::new(PASSPHRASE_KIB, PASSPHRASE_PASSES, &mut System)?)
}

/// Returns the label of this device.
pub(super) fn label(given: Option<&str>) -> String {
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = given.map_or_else(host, str::to_owned).trim().to_owned();
    if label.is_empty() { "a device".to_owned() } else { label }
}
