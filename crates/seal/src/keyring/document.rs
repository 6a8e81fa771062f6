//! The keyring as bytes, and what can be read of it without a key.

use std::{fmt, str::FromStr};

use fula_core::cbor::{Invalid, Reader, Writer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    Entropy, Padding, SUITE, SealError, VaultId, VaultKeys, aead,
    key::{EPOCHS_MAX, Secret},
    keyring::member::{self, Member},
    signature::{PublicKey, SIGNATURE_BYTES, SigningKey},
    slot::{Identity, Slot, SlotKind, WalletSalt},
    text,
};

pub(super) const WHAT: &str = "the keyring";
const PURPOSE: &str = "fula 2026 keyring";
const FORMAT: u64 = 1;
const FIELDS: usize = 14;
/// Largest keyring in bytes. A client reads no more of the object.
pub const BYTES_MAX: usize = 1 << 20;
/// Most slots of a vault.
pub(super) const SLOTS_MAX: usize = 64;
/// Most slots with a passphrase. Each costs a client up to 1 GiB of memory and some seconds.
const PASSPHRASES_MAX: usize = 4;
/// Longest label of a slot or a member in bytes.
pub(super) const LABEL_BYTES_MAX: usize = 64;
/// The encrypted part has a length that is a multiple of this, so it tells little of the labels.
const PADDED_BYTES: usize = 256;

/// The identity of a vault: 20 bytes of a hash of its id and its root key. The person who invites passes it on by
/// another way than the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 20]);

impl Fingerprint {
    /// Computes the fingerprint of a vault.
    pub(super) fn of(vault: VaultId, root: PublicKey) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("fula 2026 vault fingerprint");
        let mut out = [0; 20];
        hasher.update(&vault.0).update(&root.0).finalize_xof().fill(&mut out);
        Self(out)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::base32(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let why = "it has 32 letters and digits";
        text::read_base32(text)
            .map(Self)
            .ok_or(SealError::Malformed { what: "the fingerprint", why })
    }
}

/// What everyone can read of a keyring.
#[derive(Clone, Debug)]
pub(super) struct Public {
    pub(super) vault: VaultId,
    pub(super) padding: Padding,
    pub(super) generation: u64,
    pub(super) root: PublicKey,
    /// Hash of the previous generation.
    pub(super) previous: Option<[u8; 32]>,
    pub(super) slots: Vec<Slot>,
    pub(super) members: Vec<Member>,
}

/// What the key of the vault encrypts.
pub(super) struct Private {
    pub(super) keys: VaultKeys,
    /// Labels of the slots, and of the members, in their order.
    pub(super) labels: [Vec<String>; 2],
}

/// A keyring as it is stored: of the right form, and not verified. To open it takes an identity.
#[derive(Clone)]
pub struct SealedKeyring {
    pub(super) public: Public,
    sealed: Vec<u8>,
    pub(super) signer: usize,
    signature: [u8; SIGNATURE_BYTES],
    mac: [u8; 32],
    bytes: Vec<u8>,
    /// How many bytes the signature covers, and the MAC.
    covered: [usize; 2],
}

impl SealedKeyring {
    /// Reads a keyring. Verifies nothing.
    ///
    /// # Errors
    /// [`SealError::TooLarge`], [`SealError::Truncated`], [`SealError::Malformed`], and
    /// [`SealError::Unsupported`] for a newer format or suite.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealError> {
        SealError::limit("a keyring (bytes)", bytes.len(), BYTES_MAX)?;
        let all = bytes.to_vec().into();
        let mut reader = Reader::new(&all);
        let malformed = SealError::in_cbor(WHAT);
        let vault = read_versions(&mut reader)?;
        let (public, sealed, signer) = read(vault, &mut reader).map_err(malformed)?;
        let mut covered = [reader.position(); 2];
        let signature = reader.array_of().map_err(malformed)?;
        covered[1] = reader.position();
        let mac = reader.array_of().map_err(malformed)?;
        reader.end().map_err(malformed)?;
        Ok(Self { public, sealed, signer, signature, mac, bytes: bytes.to_vec(), covered })
    }

    /// Seals and signs a generation.
    pub(super) fn seal(
        public: &Public,
        private: &Private,
        key: &Secret,
        (signer, signing_key): (usize, &SigningKey),
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealError> {
        let mut out = Writer::with_capacity(4096 * (1 + public.slots.len()));
        out.array(FIELDS).uint(FORMAT).bytes(&public.vault.0).uint(SUITE.into()).uint(0);
        out.uint(padding_number(public.padding)).uint(public.generation).bytes(&public.root.0);
        match &public.previous {
            Some(hash) => out.bytes(hash),
            None => out.null(),
        };
        out.array(public.slots.len());
        for slot in &public.slots {
            slot.encode(&mut out);
        }
        member::encode(&public.members, &mut out);
        let plain = private.encode();
        let aad: [&[u8]; 2] = [&public.vault.0, &public.generation.to_be_bytes()];
        out.bytes(&aead::seal(&key.derive("epochs", &[]), &aad, &plain, entropy)?);
        out.uint(signer as u64);
        let signature = signing_key.sign(PURPOSE, &[out.written()]);
        out.bytes(&signature);
        let mac = key.derive("mac", &[out.written()]);
        out.bytes(mac.expose());
        Self::parse(out.written())
    }

    /// Returns whether the key is the one that the keyring was sealed with.
    pub(super) fn is_sealed_with(&self, key: &Secret) -> bool {
        let mac = key.derive("mac", &[&self.bytes[..self.covered[1]]]);
        mac.expose().ct_eq(&self.mac).into()
    }

    /// Returns whether its admin signed it.
    pub(super) fn is_signed(&self) -> bool {
        let signer = &self.public.members[self.signer];
        signer.is_active_admin()
            && signer.key.verifies(PURPOSE, &[&self.bytes[..self.covered[0]]], &self.signature)
    }

    /// Decrypts the keys and the labels.
    pub(super) fn open_private(&self, key: &Secret) -> Result<Private, SealError> {
        let aad: [&[u8]; 2] = [&self.public.vault.0, &self.public.generation.to_be_bytes()];
        let plain = aead::open(WHAT, &key.derive("epochs", &[]), &aad, &self.sealed)?;
        let plain = plain.into();
        let private = Private::decode(&self.public, &mut Reader::new(&plain));
        // The only owner of the bytes gets them back, and wipes them.
        drop(Zeroizing::new(Vec::from(plain)));
        private.map_err(SealError::in_cbor(WHAT))
    }

    /// Returns the bytes to store: in the vault, and as the keyring that this client saw last.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the hash of the bytes.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// Returns the id of the vault. It is not verified.
    pub fn vault(&self) -> VaultId {
        self.public.vault
    }

    /// Returns the fingerprint of the vault. It is not verified.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.public.vault, self.public.root)
    }

    /// Returns the number of changes of the keyring, from 1. It is not verified.
    pub fn generation(&self) -> u64 {
        self.public.generation
    }

    /// Returns the slots. They are not verified.
    pub fn slots(&self) -> &[Slot] {
        &self.public.slots
    }

    /// Returns the salts of the slots of wallets: the wallet signs the message of one.
    pub fn wallet_salts(&self) -> impl Iterator<Item = WalletSalt> {
        self.public.slots.iter().filter_map(|slot| match slot.kind() {
            SlotKind::Wallet(salt) => Some(salt),
            _ => None,
        })
    }

    /// Returns the identity of a passphrase. It tries the slots with passphrases one after another.
    ///
    /// # Errors
    /// [`SealError::WrongPassphrase`]: it opens none. [`SealError::WrongKey`]: there is no such slot.
    pub fn identity_of_passphrase(&self, passphrase: &str) -> Result<Identity, SealError> {
        let mut error = SealError::WrongKey { what: "a keyring without a passphrase" };
        for slot in &self.public.slots {
            let SlotKind::Passphrase(cost) = slot.kind() else { continue };
            let identity = Identity::from_passphrase(passphrase, &cost)?;
            if identity.recipient() == *slot.recipient() {
                return Ok(identity);
            }
            error = SealError::WrongPassphrase;
        }
        Err(error)
    }
}

impl fmt::Debug for SealedKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SealedKeyring");
        out.field("vault", &self.public.vault).field("generation", &self.public.generation);
        out.finish_non_exhaustive()
    }
}

fn padding_number(padding: Padding) -> u64 {
    match padding {
        Padding::None => 0,
        Padding::Padme => 1,
    }
}

/// Reads the fields that say which program can read the rest. Returns the vault.
fn read_versions(reader: &mut Reader<'_>) -> Result<VaultId, SealError> {
    let malformed = SealError::in_cbor(WHAT);
    let fields = reader.array().map_err(malformed)?;
    let format = reader.uint().map_err(malformed)?;
    if format != FORMAT {
        return Err(SealError::Unsupported { what: WHAT, found: format });
    }
    if fields != FIELDS {
        return Err(SealError::Malformed { what: WHAT, why: "it has another number of fields" });
    }
    let vault = VaultId(reader.array_of().map_err(malformed)?);
    let suite = reader.uint().map_err(malformed)?;
    if suite != u64::from(SUITE) {
        return Err(SealError::Unsupported { what: "the suite of the vault", found: suite });
    }
    let levels = reader.uint().map_err(malformed)?;
    if levels != 0 {
        return Err(SealError::Unsupported { what: "the levels of the vault", found: levels });
    }
    Ok(vault)
}

/// Reads what follows, up to the signature: the public fields, the encrypted ones, and the position of the signer.
fn read(vault: VaultId, reader: &mut Reader<'_>) -> Result<(Public, Vec<u8>, usize), Invalid> {
    let padding = match reader.uint()? {
        0 => Padding::None,
        1 => Padding::Padme,
        _ => return Err(Invalid("the padding is unknown")),
    };
    let generation = reader.uint()?;
    let root = PublicKey(reader.array_of()?);
    let previous = if reader.null() { None } else { Some(reader.array_of()?) };
    if generation == 0 || previous.is_none() != (generation == 1) {
        return Err(Invalid("only the first generation has none before it"));
    }
    let slots = read_slots(reader)?;
    let members = member::decode(reader, generation)?;
    let sealed = reader.byte_slice()?.to_vec();
    let signer = reader.uint()?;
    let signer = usize::try_from(signer).ok().filter(|signer| *signer < members.len());
    let signer = signer.ok_or(Invalid("it is signed by no member"))?;
    Ok((Public { vault, padding, generation, root, previous, slots, members }, sealed, signer))
}

fn read_slots(reader: &mut Reader<'_>) -> Result<Vec<Slot>, Invalid> {
    let count = reader.array()?;
    if count > SLOTS_MAX {
        return Err(Invalid("there are too many slots"));
    }
    let mut slots = Vec::<Slot>::with_capacity(count);
    for _ in 0..count {
        let slot = Slot::decode(reader)?;
        if slots.iter().any(|other| other.recipient() == slot.recipient()) {
            return Err(Invalid("a slot is there twice"));
        }
        slots.push(slot);
    }
    check_slots(&slots)?;
    Ok(slots)
}

/// Checks that somebody can open the vault, and that trying passphrases has a bound.
pub(super) fn check_slots(slots: &[Slot]) -> Result<(), Invalid> {
    let count = |is: fn(SlotKind) -> bool| slots.iter().filter(|slot| is(slot.kind())).count();
    if count(|kind| !matches!(kind, SlotKind::Wallet(_))) == 0 {
        return Err(Invalid("a wallet is never the only slot of a vault"));
    }
    if count(|kind| matches!(kind, SlotKind::Passphrase(_))) > PASSPHRASES_MAX {
        return Err(Invalid("a vault has at most 4 passphrases"));
    }
    if slots.len() > SLOTS_MAX {
        return Err(Invalid("a vault has at most 64 slots"));
    }
    Ok(())
}

impl Private {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (names, epochs) = self.keys.secrets();
        let labels = self.labels.iter().flatten().map(|label| label.len() + 2).sum::<usize>();
        let len = 64 + labels + 34 * epochs.len();
        // With its capacity, the buffer never moves, and leaves no copy behind.
        let mut out = Writer::with_capacity(len.next_multiple_of(PADDED_BYTES));
        out.array(4).bytes(names.expose()).array(epochs.len());
        for epoch in epochs {
            out.bytes(epoch.expose());
        }
        for labels in &self.labels {
            out.array(labels.len());
            for label in labels {
                out.text(label);
            }
        }
        let mut out = Vec::from(out.finish());
        out.resize(out.len().next_multiple_of(PADDED_BYTES), 0);
        Zeroizing::new(out)
    }

    fn decode(public: &Public, reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        reader.tuple(4)?;
        let names = Secret::new(reader.array_of()?);
        let count = reader.array()?;
        let mut epochs = Vec::with_capacity(count.min(EPOCHS_MAX));
        for _ in 0..count.min(EPOCHS_MAX + 1) {
            epochs.push(Secret::new(reader.array_of()?));
        }
        let keys = VaultKeys::from_secrets(public.vault, names, epochs);
        let keys = keys.ok_or(Invalid("it has no epoch, or too many"))?;
        let slots = read_labels(reader, public.slots.len())?;
        let labels = [slots, read_labels(reader, public.members.len())?];
        Ok(Self { keys, labels })
    }
}

fn read_labels(reader: &mut Reader<'_>, count: usize) -> Result<Vec<String>, Invalid> {
    reader.tuple(count)?;
    (0..count)
        .map(|_| match reader.text()? {
            label if label.len() <= LABEL_BYTES_MAX => Ok(label.to_owned()),
            _ => Err(Invalid("a label is too long")),
        })
        .collect()
}
