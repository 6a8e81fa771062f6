//! What an invitation gives to a new machine, taken from the settings that a gateway starts with.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use fula_service::{auth::SealingKey, error::chain};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Role;
use crate::{
    cli::{self, DataDirArgs, Setting},
    config::{self, PeerAddress},
    files,
};

/// Settings and secrets for a new machine.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Given {
    /// Settings by name of their variable.
    pub(crate) settings: BTreeMap<String, String>,
    /// Secret files by name: `secrets.key`, `database-url`, `blocks-credentials`, `jwt-secret`.
    pub(crate) files: BTreeMap<String, String>,
    /// What the operator must do by hand.
    pub(crate) notes: Vec<String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("notes", &self.notes).finish_non_exhaustive()
    }
}

impl Given {
    /// Collects what a new machine of a role gets from a gateway that starts with `start`. A storage node reaches
    /// that gateway at `url`.
    ///
    /// # Errors
    /// The reason why something is missing or cannot be read, in words for the operator.
    pub(crate) fn of(role: Role, start: &[Setting], url: Option<&str>) -> Result<Self, String> {
        let mut given = Self { settings: shared_settings(role, start)?, ..Self::default() };
        match role {
            Role::Master => given.add_secrets(start)?,
            Role::Storage => given.add_master(start, url.unwrap_or_default())?,
        }
        if let Some(text) = secret_in(start, "FULA_JWT_SECRET_FILE")? {
            given.files.insert("jwt-secret".to_owned(), text.to_string());
        }
        let jwks = given.settings.get("FULA_JWKS").filter(|jwks| !jwks.contains("://"));
        if let Some(jwks) = jwks {
            given
                .notes
                .push(format!("FULA_JWKS names the file {jwks}: copy it to the new machine"));
        }
        Ok(given)
    }

    fn add_secrets(&mut self, start: &[Setting]) -> Result<(), String> {
        let text = |name| value_of(start, name).map(ToOwned::to_owned);
        let url_file = text("FULA_DATABASE_URL_FILE").map(PathBuf::from);
        let url = config::database_url(text("FULA_DATABASE_URL"), url_file.as_deref());
        let url = url.map_err(|error| chain(&error))?.ok_or(
            "this master's arbiter is its own, so no other master can join: set FULA_DATABASE_URL, and move the \
             buckets with `fula roots import`",
        )?;
        self.files.insert("database-url".to_owned(), format!("{url}\n"));
        self.files.insert("secrets.key".to_owned(), format!("{}\n", secrets_key(start)?.trim()));
        match secret_in(start, "FULA_BLOCKS_CREDENTIALS_FILE")? {
            Some(text) => {
                let text = format!("{}\n", text.trim_end());
                self.files.insert("blocks-credentials".to_owned(), text);
            }
            None if value_of(start, "FULA_BLOCKS").is_some_and(|url| !url.starts_with("file:")) => {
                self.notes.push(
                    "the credentials of the block store are not in the invitation: set them on the new machine, or \
                     name their file here with FULA_BLOCKS_CREDENTIALS_FILE"
                        .to_owned(),
                );
            }
            None => {}
        }
        Ok(())
    }

    /// Adds the address and the key of the master to the settings of a storage node.
    fn add_master(&mut self, start: &[Setting], url: &str) -> Result<(), String> {
        let key = SealingKey::parse(&secrets_key(start)?).map_err(|error| error.to_string())?;
        let url = url.trim_end_matches('/');
        let masters = format!("master={url}#{}", key.ticket_key().public());
        PeerAddress::parse_list("--url", &masters).map_err(|error| chain(&error))?;
        self.settings.insert("FULA_MASTERS".to_owned(), masters);
        Ok(())
    }
}

fn value_of<'a>(start: &'a [Setting], name: &str) -> Option<&'a str> {
    start.iter().find(|setting| setting.name == name)?.value()?.to_str()
}

/// Returns the settings that all masters share, without those that are as they are by default.
fn shared_settings(role: Role, start: &[Setting]) -> Result<BTreeMap<String, String>, String> {
    let known = match role {
        Role::Master => cli::given_to_masters(),
        Role::Storage => cli::given_to_nodes(),
    };
    let is_given = |setting: &&Setting| {
        known.contains(&setting.name) && !["default", "unset"].contains(&setting.origin.name())
    };
    let mut found = BTreeMap::new();
    for setting in start.iter().filter(is_given) {
        let value = setting.value().and_then(|value| value.to_str()).unwrap_or_default();
        if value.contains(['\n', '\r']) {
            return Err(format!(
                "{} has a line end, which no settings file can hold",
                setting.name
            ));
        }
        found.insert(setting.name.clone(), value.to_owned());
    }
    Ok(found)
}

/// Reads the secret file that a setting names.
fn secret_in(start: &[Setting], name: &str) -> Result<Option<Zeroizing<String>>, String> {
    let Some(file) = value_of(start, name) else { return Ok(None) };
    read(Path::new(file)).map(Some)
}

fn secrets_key(start: &[Setting]) -> Result<Zeroizing<String>, String> {
    if let Some(text) = secret_in(start, "FULA_SECRETS_KEY_FILE")? {
        return Ok(text);
    }
    let data_dir = value_of(start, "FULA_DATA_DIR").map(PathBuf::from);
    let dir = config::data_dir(&DataDirArgs { data_dir }).map_err(|error| chain(&error))?;
    read(&files::own_sealing_key(&dir))
}

fn read(file: &Path) -> Result<Zeroizing<String>, String> {
    let text = files::read_secret(file).map_err(|error| chain(&error))?;
    let text = String::from_utf8(text.to_vec()).map(Zeroizing::new);
    text.map_err(|_| format!("{} holds no text", file.display()))
}
