//! Invitations: the settings that a new master or storage node needs, sealed to a key that it made
//! (docs/adr/0055).
//!
//! The sealing is HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.

mod given;

use std::{collections::BTreeMap, convert::Infallible, path::Path};

use fula_service::{Random, error::chain};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::ChaCha20Poly1305,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::{TryCryptoRng, TryRng},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(crate) use self::given::Given;
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

/// Public key of a new machine.
pub(crate) type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncapsulatedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// The random number generator of the operating system, as the crate `hpke` asks for one.
struct System<'a>(&'a Random);

impl System<'_> {
    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.0)(&mut bytes);
        bytes
    }
}

impl TryRng for System<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_ne_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_ne_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        (self.0)(out);
        Ok(())
    }
}

impl TryCryptoRng for System<'_> {}

/// Makes a key, writes it to a new file, and returns the public key. If the file has a key already, that one stays
/// and is returned.
///
/// # Errors
/// The reason why the file cannot be read or written.
pub(crate) fn make_key(file: &Path, random: &Random) -> Result<String, String> {
    if std::fs::symlink_metadata(file).is_ok() {
        return read_key(file).map(|key| text_of(&X25519HkdfSha256::sk_to_pk(&key)));
    }
    let (private, public) = X25519HkdfSha256::gen_keypair_with_rng(&mut System(random));
    let text = Zeroizing::new(format!("{}\n", hex::encode(private.to_bytes())));
    files::write_new(file, &text).map_err(|error| chain(&error))?;
    Ok(text_of(&public))
}

fn text_of(key: &PublicKey) -> String {
    format!("{KEY_PREFIX}{}", hex::encode(key.to_bytes()))
}

fn read_key(file: &Path) -> Result<PrivateKey, String> {
    if !file.exists() {
        return Err(format!(
            "there is no key in {}: `fula join` makes one before the invitation is written, and removes it once it \
             was used",
            file.display()
        ));
    }
    let text = files::read_secret(file).map_err(|error| chain(&error))?;
    let bytes = hex::decode(&*text).map(Zeroizing::new);
    let key = bytes.ok().and_then(|bytes| PrivateKey::from_bytes(&bytes).ok());
    key.ok_or_else(|| format!("{} is no key that `fula join` has made", file.display()))
}

/// Parses a public key.
///
/// # Errors
/// The reason, for the command line.
pub(crate) fn public_key(text: &str) -> Result<PublicKey, String> {
    let bytes = text.strip_prefix(KEY_PREFIX).and_then(|digits| hex::decode(digits).ok());
    let key = bytes.and_then(|bytes| PublicKey::from_bytes(&bytes).ok());
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
    let (key, sealed) = hpke::single_shot_seal_with_rng::<
        ChaCha20Poly1305,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, to, INFO, &message, &associated, &mut System(random))
    .map_err(|_| "the invitation cannot be encrypted: the key of the new machine is invalid")?;
    let document = Document { head, key: hex::encode(key.to_bytes()), sealed: hex::encode(sealed) };
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
    let to = text_of(&X25519HkdfSha256::sk_to_pk(&ours));
    if head.to != to {
        return Err(format!(
            "{shown} was made for another key than that in {}: run `fula invite --for {to}`",
            key_file.display(),
        ));
    }
    if now_ms > head.expires_ms {
        return Err(format!("{shown} has expired: ask for another one"));
    }
    let associated = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
    let damaged = || format!("{shown}: it is damaged, or was made for another key");
    let [key, sealed] = [key, sealed].map(|text| hex::decode(text).unwrap_or_default());
    let key = EncapsulatedKey::from_bytes(&key).map_err(|_| damaged())?;
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &ours,
        &key,
        INFO,
        &sealed,
        &associated,
    );
    let opened = opened.map(Zeroizing::new).map_err(|_| damaged())?;
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
        assert_eq!(make_key(&at("key"), &random).unwrap(), public, "a key is not replaced");
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
        // A key of few bits, and an encapsulated one, are refused.
        let weak = format!("{KEY_PREFIX}{}", "00".repeat(32));
        let weak = public_key(&weak).unwrap();
        assert!(seal(&invitation, Role::Master, &weak, 1000, &random).is_err());
        let mut document: Document = serde_json::from_str(&text).unwrap();
        for key in ["00".repeat(32), "00".to_owned()] {
            document.key = key;
            std::fs::write(at("weak"), serde_json::to_string(&document).unwrap()).unwrap();
            let opened = super::open(&at("weak"), &at("key"), Role::Master, 1);
            assert!(opened.unwrap_err().contains("damaged"));
        }
        // A later expiry is not believed.
        std::fs::write(at("invite"), text.replace("1000", "9000")).unwrap();
        assert!(open("key", Role::Master, 5000).unwrap_err().contains("damaged"));
        assert!(public_key("fulajoin00").is_err());
    }
}
