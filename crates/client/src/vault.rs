//! Sealed vaults: a bucket, or a prefix of one, whose server learns neither content nor names.
//!
//! [`Vault::create`] and [`Vault::open`] read and verify the keyring `fula.vault` (`fula_seal::keyring`). Then a
//! file is one object: its key is a keyed hash of its path, its name lies in two metadata values, and a write is
//! one request. The gateway's conditions hold for sealed files as for all others, so several devices write at once
//! and lose nothing.
//!
//! # Invariants
//! - No plaintext is handed out before its tag, and the signature of its name, were verified.
//! - Every write names the version that it replaces, so the clock of a path only grows.
//! - What lies on the disk of a client (`State`) is what the server has too: no path, no content, no key.
//!
//! # Example
//!
//! A file is written on a laptop, and read with the same identity. The server has an object without a telling name:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! # let folder = tempfile::tempdir().unwrap();
//! # let state = folder.path();
//! use fula_client::vault::{CreateOptions, Place, Unlock, Vault};
//! use fula_seal::{VaultPath, key::Secret, keyring::Founder, slot::{Identity, SlotKind}};
//!
//! // A program keeps 32 random bytes in the keychain of its device.
//! let identity = || Identity::from_seed(Secret::new([42; 32]));
//! let founder = Founder { identity: &identity(), kind: SlotKind::Device, label: "laptop" };
//! let place = Place::new(bucket.clone(), "private")?;
//! let vault = Vault::create(place.clone(), CreateOptions::default(), &[founder], state).await?;
//!
//! let path = VaultPath::new(b"plans/today.txt")?;
//! vault.put(&path, "attack at dawn", Default::default()).await?;
//!
//! let again = Vault::open(place, Unlock::Identity(identity()), None, state).await?;
//! assert_eq!(again.get(&path, Default::default()).await?.bytes(100).await?, "attack at dawn");
//! assert_eq!(again.list(b"plans/").await?.entries.len(), 1);
//! assert!(bucket.head("private/plans/today.txt").await.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! Decision: docs/adr/0059.

mod body;
mod download;
mod entropy;
mod follow;
mod keyring;
mod link;
mod listing;
mod note;
mod partial;
mod piped;
mod read;
mod recover;
mod remove;
mod rename;
mod reseal;
mod resume;
mod share;
mod sink;
mod small;
mod state;
mod write;

use std::{fmt, path::Path, sync::Arc};

use fula_seal::{
    Padding, SealedKey, VaultId, VaultPath,
    keyring::{self as ring, Fingerprint, Founder, Keyring, SealedKeyring, Trust},
    name::{KEPT, Kept, LISTED, Opened as OpenedName},
    slot::Identity,
};
use parking_lot::{Mutex, RwLock};

use self::{entropy::System, state::State};
use crate::{
    client::Bucket,
    error::{Error, Result},
    get::GetOptions,
    meta::Meta,
    put::PutOptions,
    retry,
};

pub use self::{
    download::VaultDownload,
    follow::{Follower, VaultChange},
    link::{LinkOptions, Shared},
    listing::{VaultEntry, VaultListing},
    piped::Piped,
    read::{VaultGet, VaultGetOptions},
    recover::Recovered,
    rename::RENAMES_MAX,
    reseal::{ResealOptions, Resealed, Resealing},
    share::{Share, Shown},
    small::{SMALL_BYTES_MAX, SMALL_MAX, SmallFile},
    write::{Condition, VaultPutOptions},
};

/// Media type of sealed bodies.
const BODY_TYPE: &str = "application/octet-stream";

/// How often a write without a condition is tried when other devices write first each time.
const ATTEMPTS: u32 = 40;

/// Where a vault lies.
#[derive(Clone, Debug)]
pub struct Place {
    bucket: Bucket,
    /// Empty, or ends with a slash.
    prefix: String,
}

impl Place {
    /// Returns the place of a vault: a bucket, and a prefix of its keys, which may be empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a prefix that leaves no room for keys.
    pub fn new(bucket: Bucket, prefix: &str) -> Result<Self> {
        let prefix = match prefix {
            "" => String::new(),
            prefix => format!("{}/", prefix.trim_end_matches('/')),
        };
        if prefix.len() > 900 {
            return Err(Error::Invalid("the prefix of a vault has at most 900 bytes".to_owned()));
        }
        Ok(Self { bucket, prefix })
    }

    /// Returns the key of the keyring.
    fn keyring(&self) -> String {
        format!("{}{}", self.prefix, ring::OBJECT)
    }

    /// Returns the key of a file.
    fn key(&self, key: SealedKey) -> String {
        format!("{}{}", self.prefix, key.as_str())
    }

    /// Returns the file that has a key; `None` for what is no sealed file of this vault.
    fn sealed_key(&self, key: &str) -> Option<SealedKey> {
        SealedKey::parse(key.strip_prefix(&self.prefix)?)
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.bucket.name(), self.prefix)
    }
}

/// The keyring that is in use, and its entity tag.
struct Current {
    keyring: Keyring,
    etag: String,
}

struct Inner {
    place: Place,
    identity: Identity,
    current: RwLock<Arc<Current>>,
    state: Mutex<State>,
    /// The task that holds it makes the state durable, for all others that wait.
    syncing: tokio::sync::Mutex<()>,
}

/// A vault that was opened. Clones share it.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vault").field(&self.0.place.shown()).finish()
    }
}

/// Options of a new vault.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// Id of the vault, where a wallet signed a message with it; a random one by default.
    pub vault: Option<VaultId>,
    /// How the sizes of files are hidden.
    pub padding: Padding,
}

/// How an identity is found when a vault is opened.
pub enum Unlock<'a> {
    /// An identity at hand: of a device, of words, or of age.
    Identity(Identity),
    /// A passphrase.
    Passphrase(&'a str),
    /// A wallet: gets the message to sign with `eth_signTypedData_v4`, and returns `r ‖ s ‖ v`.
    Wallet(&'a mut (dyn FnMut(&str) -> std::io::Result<[u8; 65]> + Send)),
}

impl fmt::Debug for Unlock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity(_) => "Identity",
            Self::Passphrase(_) => "Passphrase",
            Self::Wallet(_) => "Wallet",
        })
    }
}

impl Unlock<'_> {
    fn identity(self, keyring: &SealedKeyring) -> Result<Identity> {
        match self {
            Self::Identity(identity) => Ok(identity),
            Self::Passphrase(passphrase) => Ok(keyring.identity_of_passphrase(passphrase)?),
            Self::Wallet(sign) => {
                let missing = || Error::Invalid("the vault has no slot of a wallet".to_owned());
                let salt = keyring.wallet_salts().next().ok_or_else(missing)?;
                let message = fula_seal::slot::wallet_message(keyring.vault(), &salt);
                let signature = sign(&message).map_err(Error::io("the wallet"))?;
                Ok(Identity::from_wallet(keyring.vault(), &salt, &signature)?)
            }
        }
    }
}

/// Reads the keyring at a place, with its entity tag.
async fn read_keyring(place: &Place) -> Result<(SealedKeyring, String)> {
    let get = place.bucket.get(&place.keyring(), GetOptions::default()).await?;
    let etag = get.meta.version.etag.clone();
    let bytes = get.bytes(ring::BYTES_MAX).await?;
    Ok((SealedKeyring::parse(&bytes)?, etag))
}

impl Vault {
    /// Waits until a write that other devices outran is tried again: a random time that grows with the first
    /// attempts, so that somebody's write always gets through.
    async fn yield_to_others(&self, attempt: u32) {
        let policy = self.0.place.bucket.client().retry_policy();
        tokio::time::sleep(policy.pause(attempt.min(5), None, retry::random())).await;
    }

    /// Creates a vault. The first founder opens it from now on, on this client.
    ///
    /// `state` is a directory for what this client has seen of its vaults. Others cannot read it.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a vault; [`Error::Sealed`] for founders that cannot be.
    pub async fn create(
        place: Place,
        options: CreateOptions,
        founders: &[Founder<'_>],
        state: &Path,
    ) -> Result<Self> {
        let keyring = Keyring::create(options.vault, options.padding, founders, &mut System)?;
        let bytes = keyring.sealed().as_bytes().to_vec();
        let options = PutOptions { if_absent: true, ..PutOptions::default() };
        let put = place.bucket.put(&place.keyring(), bytes, options).await?;
        let identity = Identity::from_seed(founders[0].identity.seed().clone());
        Self::with(place, identity, keyring, put.version.etag, state)
    }

    /// Opens a vault. On a client that has not seen it, the fingerprint of the invitation proves which vault it is,
    /// or the slot that the identity attested when it was made.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no vault; [`Error::Sealed`] with the reason why the keyring is not
    /// believed or does not open.
    pub async fn open(
        place: Place,
        unlock: Unlock<'_>,
        fingerprint: Option<Fingerprint>,
        state: &Path,
    ) -> Result<Self> {
        let (sealed, etag) = read_keyring(&place).await?;
        let seen = State::open(state, &place)?.seen()?;
        let identity = unlock.identity(&sealed)?;
        let keyring = sealed.open(&identity, &Trust { fingerprint, seen: seen.as_ref() })?;
        Self::with(place, identity, keyring, etag, state)
    }

    fn with(
        place: Place,
        identity: Identity,
        keyring: Keyring,
        etag: String,
        state: &Path,
    ) -> Result<Self> {
        let state = State::open(state, &place)?;
        state.remember_keyring(keyring.sealed())?;
        let current = RwLock::new(Arc::new(Current { keyring, etag }));
        let (state, syncing) = (Mutex::new(state), tokio::sync::Mutex::default());
        Ok(Self(Arc::new(Inner { place, identity, current, state, syncing })))
    }

    /// Makes durable what was seen, once for all operations that end meanwhile.
    async fn settle(&self) -> Result<()> {
        let _turn = self.0.syncing.lock().await;
        let Some(sync) = self.0.state.lock().unsynced() else { return Ok(()) };
        let failed = |error| Error::io("the state of the vault")(std::io::Error::other(error));
        tokio::task::spawn_blocking(sync).await.map_err(failed)?
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.current.read())
    }

    /// Returns the place of the vault: bucket and prefix.
    pub fn place(&self) -> String {
        self.0.place.shown().trim_end_matches('/').to_owned()
    }

    /// Returns the fingerprint of the vault, for invitations.
    pub fn fingerprint(&self) -> Fingerprint {
        self.current().keyring.fingerprint()
    }

    /// Opens and verifies the name of an object, and remembers its clock.
    ///
    /// A name of an epoch that this client does not know makes it read the keyring again.
    async fn name_of(&self, key: SealedKey, meta: &Meta) -> Result<Found> {
        let value = |name: &str| {
            let missing = || Error::Sealed(fula_seal::SealError::Truncated { what: "the name" });
            meta.metadata.get(name).ok_or_else(missing)
        };
        let (listed, kept) = (value(LISTED)?, Kept::parse(value(KEPT)?)?);
        let mut current = self.current();
        let opened = match OpenedName::open(current.keyring.keys(), key, listed) {
            Err(fula_seal::SealError::UnknownEpoch { .. }) => {
                self.refresh().await?;
                current = self.current();
                OpenedName::open(current.keyring.keys(), key, listed)
            }
            opened => opened,
        }?;
        let keyring = &current.keyring;
        let writer = |device, epoch| keyring.writer(device, epoch);
        let anchor = opened.verify(keyring.keys(), &kept, writer)?;
        let mut state = self.0.state.lock();
        opened.check_clock(state.clock(key))?;
        state.remember(&[(key, opened.name.clock)])?;
        Ok(Found { name: opened.name, anchor, etag: meta.version.etag.clone(), bytes: meta.size })
    }

    /// Returns the current version of a file; `None` if there is none.
    async fn look_up(&self, path: &VaultPath) -> Result<Option<Found>> {
        let key = self.current().keyring.keys().sealed_key(path);
        match self.0.place.bucket.head(&self.0.place.key(key)).await {
            Ok(meta) => self.name_of(key, &meta).await.map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A file that was looked up, with its verified name.
struct Found {
    name: fula_seal::name::Name,
    anchor: fula_seal::name::Anchor,
    /// Entity tag of the object.
    etag: String,
    /// Length of the object.
    bytes: u64,
}
