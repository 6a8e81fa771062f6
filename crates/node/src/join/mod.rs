//! Invitations: the settings that a new master or storage node needs, sealed to a key that it made
//! (docs/adr/0055).

mod hpke;

use std::{collections::BTreeMap, path::Path};

use fula_service::{Random, error::chain};
use k256::{PublicKey, SecretKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files;

/// Beginning of a public key as text.
const KEY_PREFIX: &str = "fulajoin";

/// Purpose of the sealing.
const INFO: &[u8] = b"fula 2026 invitation";

/// Longest invitation in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// What an invitation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// A gateway that shares the arbiter
    Master,
    /// A process that keeps blocks for masters
    Storage,
}

/// What everybody can read in an invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    fula_invitation: u32,
    role: Role,
    /// Public key that it is for.
    to: String,
    /// Milliseconds since 1970.
    expires_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    #[serde(flatten)]
    head: Head,
    key: String,
    sealed: String,
}

/// What an invitation tells.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Invitation {
    /// Random text. The arbiter knows it until it is used.
    pub(crate) id: String,
    /// Version of the program of the master.
    pub(crate) version: String,
    /// Settings by name of their variable.
    pub(crate) settings: BTreeMap<String, String>,
    /// Secret files by name: `secrets.key`, `database-url`, `blocks-credentials`.
    pub(crate) files: BTreeMap<String, String>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Makes a key, writes it to a new file, and returns the public key.
///
/// # Errors
/// The reason why the file cannot be written.
pub(crate) fn make_key(file: &Path, random: &Random) -> Result<String, String> {
    let key =
        hpke::generate(random).ok_or("no key could be made: the source of randomness fails")?;
    let text = Zeroizing::new(format!("{}\n", hex::encode(key.to_bytes())));
    files::write_new(file, &text).map_err(|error| chain(&error))?;
    Ok(text_of(&key.public_key()))
}

fn text_of(key: &PublicKey) -> String {
    format!("{KEY_PREFIX}{}", hex::encode(key.to_sec1_bytes()))
}

fn read_key(file: &Path) -> Result<SecretKey, String> {
    let text = files::read_secret(file).map_err(|error| chain(&error))?;
    let bytes = hex::decode(&*text).map(Zeroizing::new);
    let key = bytes.ok().and_then(|bytes| SecretKey::from_slice(&bytes).ok());
    key.ok_or_else(|| format!("{} is no key that `fula join` has made", file.display()))
}

/// Parses a public key.
///
/// # Errors
/// The reason, for the command line.
pub(crate) fn public_key(text: &str) -> Result<PublicKey, String> {
    let bytes = text.strip_prefix(KEY_PREFIX).and_then(|digits| hex::decode(digits).ok());
    let key = bytes.and_then(|bytes| PublicKey::from_sec1_bytes(&bytes).ok());
    key.ok_or_else(|| "it is what `fula join` prints, and begins with fulajoin".to_owned())
}

/// Returns an invitation as text.
///
/// # Errors
/// The reason why it cannot be sealed.
pub(crate) fn seal(
    invitation: &Invitation,
    role: Role,
    to: &PublicKey,
    expires_ms: u64,
    random: &Random,
) -> Result<String, String> {
    let head = Head { fula_invitation: 1, role, to: text_of(to), expires_ms };
    let associated = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
    let message =
        Zeroizing::new(serde_json::to_vec(invitation).map_err(|error| error.to_string())?);
    let (key, sealed) = hpke::seal(to, INFO, &associated, &message, random)
        .ok_or("the invitation cannot be sealed: the source of randomness fails")?;
    let document = Document { head, key: hex::encode(key), sealed: hex::encode(sealed) };
    serde_json::to_string_pretty(&document).map_err(|error| error.to_string())
}

/// Opens an invitation with the key in a file.
///
/// # Errors
/// The reason why it cannot be used, in words for the operator.
pub(crate) fn open(
    file: &Path,
    key_file: &Path,
    role: Role,
    now_ms: u64,
) -> Result<Invitation, String> {
    let shown = file.display();
    let failed = |error: std::io::Error| format!("{shown}: {}", fula_core::error::io_text(&error));
    let length = std::fs::metadata(file).map_err(failed)?.len();
    let wrong =
        || format!("{shown} is no invitation: `fula invite` on a running master writes one");
    if length > BYTES_MAX {
        return Err(wrong());
    }
    let text = std::fs::read(file).map_err(failed)?;
    let document: Document = serde_json::from_slice(&text).map_err(|_| wrong())?;
    let Document { head, key, sealed } = document;
    if head.fula_invitation != 1 {
        return Err(format!("{shown} was written by a newer version of Fula: use that one"));
    }
    if head.role != role {
        let other = if role == Role::Master { "storage" } else { "master" };
        return Err(format!("{shown} is for the other role: run `fula join {other}`"));
    }
    let ours = read_key(key_file)?;
    if head.to != text_of(&ours.public_key()) {
        return Err(format!(
            "{shown} was made for another key than that in {}: run `fula invite --for {}`",
            key_file.display(),
            text_of(&ours.public_key())
        ));
    }
    if now_ms > head.expires_ms {
        return Err(format!("{shown} has expired: ask for another one"));
    }
    let associated = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
    let [key, sealed] = [key, sealed].map(|text| hex::decode(text).unwrap_or_default());
    let opened = hpke::open(&ours, INFO, &associated, &key, &sealed);
    let opened = opened.map_err(|error| format!("{shown}: {error}"))?;
    serde_json::from_slice(&opened).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_opens_for_its_key_its_role_and_in_time() {
        let (random, dir) = (fula_service::system_random(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name);
        let public = make_key(&at("key"), &random).unwrap();
        assert!(make_key(&at("key"), &random).unwrap_err().contains("another name"));
        make_key(&at("other"), &random).unwrap();
        let invitation = Invitation {
            id: "1".to_owned(),
            version: "v".to_owned(),
            settings: BTreeMap::new(),
            files: [("secrets.key".to_owned(), "hush".to_owned())].into(),
        };
        assert!(!format!("{invitation:?}").contains("hush"));
        let to = public_key(&public).unwrap();
        let text = seal(&invitation, Role::Master, &to, 1000, &random).unwrap();
        assert!(!text.contains("hush"));
        std::fs::write(at("invite"), &text).unwrap();
        let open = |key: &str, role, now| open(&at("invite"), &at(key), role, now);
        assert_eq!(open("key", Role::Master, 1000).unwrap().files["secrets.key"], "hush");
        assert!(open("key", Role::Master, 1001).unwrap_err().contains("has expired"));
        assert!(open("key", Role::Storage, 1).unwrap_err().contains("fula join master"));
        assert!(open("other", Role::Master, 1).unwrap_err().contains("another key"));
        // A later expiry is not believed.
        std::fs::write(at("invite"), text.replace("1000", "9000")).unwrap();
        assert!(open("key", Role::Master, 5000).unwrap_err().contains("damaged"));
        assert!(public_key("fulajoin00").is_err());
    }
}
