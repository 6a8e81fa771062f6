//! Keys of a vault, and the names that objects have in its bucket.
//!
//! Every key is derived from the two kinds that the keyring holds: one key for names, and one for each epoch.
//! File keys are derived and not wrapped, so there is nothing that a server could exchange.

use std::fmt;

use zeroize::Zeroizing;

use crate::{Entropy, SealError, draw, text};

/// Most epochs of a vault.
pub(crate) const EPOCHS_MAX: usize = 4096;

/// Longest path of a file in bytes.
pub(crate) const PATH_BYTES_MAX: usize = 1024;

/// The random name of a vault. It is public.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VaultId(pub [u8; 16]);

/// The random name of one upload of a file. It is public, and never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(pub [u8; 32]);

/// Writes bytes in hex, as the debug output of identifiers.
fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Debug for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// The path of a file in a vault: 1 to 1 024 bytes, compared byte by byte. A client that makes one from a file name
/// writes it in the form NFC of Unicode, so that it has the same key from every system (docs/adr/0066).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VaultPath(Vec<u8>);

impl VaultPath {
    /// Checks the length of a path.
    ///
    /// # Errors
    /// [`SealError::Malformed`] for an empty path, [`SealError::TooLarge`] for a long one.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self, SealError> {
        let path = path.into();
        if path.is_empty() {
            return Err(SealError::Malformed { what: "a path", why: "it is empty" });
        }
        SealError::limit("a path (bytes)", path.len(), PATH_BYTES_MAX)?;
        Ok(Self(path))
    }

    /// Returns the bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for VaultPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultPath(…)")
    }
}

/// The S3 key of a file without the prefix of its vault: 32 small letters and digits, which tell nothing of
/// the path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealedKey([u8; 32]);

impl SealedKey {
    /// Reads the last part of an S3 key. Returns `None` for what is no sealed key.
    pub fn parse(key: &str) -> Option<Self> {
        let bytes: [u8; 32] = key.as_bytes().try_into().ok()?;
        let is_base32 = |byte: &u8| matches!(byte, b'a'..=b'z' | b'2'..=b'7');
        bytes.iter().all(is_base32).then_some(Self(bytes))
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A secret of 32 bytes. It is wiped when it is dropped, and not shown in debug output.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Takes 32 bytes that nobody can predict.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Draws a secret.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn generate(entropy: &mut dyn Entropy) -> Result<Self, SealError> {
        draw(entropy).map(Self::new)
    }

    /// Returns the bytes, to be stored where nobody else reads them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives a key for one purpose: BLAKE3 over the label and the parts, keyed with this one. No label of a
    /// key is a prefix of another label of the same key.
    pub(crate) fn derive(&self, label: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(label.as_bytes());
        for part in parts {
            hasher.update(part);
        }
        Self::new(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Bytes of a [`BodyKey`].
pub(crate) const BODY_KEY_BYTES: usize = 40;

/// The key of one body, and which body it is: what a link carries. It opens nothing else of its vault.
#[derive(Clone)]
pub struct BodyKey {
    key: Secret,
    check: [u8; 8],
}

impl fmt::Debug for BodyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyKey(…)")
    }
}

impl BodyKey {
    fn new(key: Secret, file: FileId) -> Self {
        let check = check_of(&key, file);
        Self { key, check }
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; BODY_KEY_BYTES]> {
        let mut out = Zeroizing::new([0; BODY_KEY_BYTES]);
        out[..32].copy_from_slice(self.key.expose());
        out[32..].copy_from_slice(&self.check);
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; BODY_KEY_BYTES]) -> Self {
        let (mut key, mut check) = (Zeroizing::new([0; 32]), [0; 8]);
        key.copy_from_slice(&bytes[..32]);
        check.copy_from_slice(&bytes[32..]);
        Self { key: Secret::new(*key), check }
    }

    /// Returns the keys of segments and of the layout, if the body with this id is the one that the key is for.
    ///
    /// # Errors
    /// [`SealError::Misplaced`]: it is another body.
    pub(crate) fn of_body(&self, file: FileId) -> Result<(Secret, Secret), SealError> {
        if check_of(&self.key, file) != self.check {
            return Err(SealError::Misplaced { what: "the shared file" });
        }
        Ok((self.key.derive("segment", &[]), self.key.derive("trailer", &[])))
    }
}

/// Returns by what a link tells its body from others.
fn check_of(key: &Secret, file: FileId) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&key.derive("link", &[&file.0]).expose()[..8]);
    out
}

/// The keys of one file.
#[derive(Debug)]
pub(crate) struct FileKeys {
    /// What a link to the body has.
    pub(crate) body: BodyKey,
    /// Input key of its segments.
    pub(crate) segment: Secret,
    /// Key of the layout in its trailer.
    pub(crate) trailer: Secret,
    /// Key of the metadata in its trailer.
    pub(crate) metadata: Secret,
}

/// Everything that reading and writing the files of a vault takes: what the keyring holds.
#[derive(Clone, Debug)]
pub struct VaultKeys {
    vault: VaultId,
    names: Secret,
    /// By epoch. Never empty.
    epochs: Vec<Secret>,
}

impl VaultKeys {
    /// Draws the keys of a new vault, in epoch 0.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn generate(vault: VaultId, entropy: &mut dyn Entropy) -> Result<Self, SealError> {
        let (names, first) = (Secret::generate(entropy)?, Secret::generate(entropy)?);
        Ok(Self { vault, names, epochs: vec![first] })
    }

    /// Returns the names key, and the keys of all epochs.
    pub(crate) fn secrets(&self) -> (&Secret, &[Secret]) {
        (&self.names, &self.epochs)
    }

    /// Returns the keys that [`secrets`](Self::secrets) returned. There must be an epoch, and not too many.
    pub(crate) fn from_secrets(vault: VaultId, names: Secret, epochs: Vec<Secret>) -> Option<Self> {
        let is_valid = (1..=EPOCHS_MAX).contains(&epochs.len());
        is_valid.then_some(Self { vault, names, epochs })
    }

    /// Begins a new epoch: what is sealed from now on cannot be read with the keys so far.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`], and [`SealError::TooLarge`] after 4 096 epochs.
    pub fn begin_epoch(&mut self, entropy: &mut dyn Entropy) -> Result<(), SealError> {
        SealError::limit("a vault (epochs)", self.epochs.len() + 1, EPOCHS_MAX)?;
        self.epochs.push(Secret::generate(entropy)?);
        Ok(())
    }

    /// Returns the vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Returns the newest epoch, in which everything new is sealed.
    pub fn epoch(&self) -> u32 {
        u32::try_from(self.epochs.len() - 1).unwrap_or(u32::MAX)
    }

    /// Returns the S3 key of a path, without the prefix of the vault. It is the same in all epochs.
    pub fn sealed_key(&self, path: &VaultPath) -> SealedKey {
        let hash = self.names.derive("key", &[path.as_bytes()]);
        let text = text::base32(&hash.expose()[..20]);
        SealedKey(text.as_bytes().try_into().expect("20 bytes are 32 digits of base32"))
    }

    fn of_epoch(&self, epoch: u32) -> Result<&Secret, SealError> {
        let found = usize::try_from(epoch).ok().and_then(|epoch| self.epochs.get(epoch));
        found.ok_or(SealError::UnknownEpoch { epoch })
    }

    /// Returns the key of an epoch that a label and an object choose, for what listings and trailers show.
    pub(crate) fn listing(
        &self,
        epoch: u32,
        label: &str,
        object: &[u8],
    ) -> Result<Secret, SealError> {
        Ok(self.of_epoch(epoch)?.derive("list", &[]).derive(label, &[object]))
    }

    /// Returns the key of a file, from which all its other keys are derived.
    pub(crate) fn file_key(&self, epoch: u32, file: FileId) -> Result<Secret, SealError> {
        Ok(self.of_epoch(epoch)?.derive("fula 2026 file", &[&self.vault.0, &file.0]))
    }

    pub(crate) fn file(&self, epoch: u32, file: FileId) -> Result<FileKeys, SealError> {
        let key = self.file_key(epoch, file)?;
        Ok(FileKeys {
            segment: key.derive("segment", &[]),
            trailer: key.derive("trailer", &[]),
            metadata: self.listing(epoch, "file", &file.0)?,
            body: BodyKey::new(key, file),
        })
    }
}
