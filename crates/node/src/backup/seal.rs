//! Sealed files: AES-256-GCM in chunks of 64 KiB, in the STREAM construction (Hoang, Reyhanitabar, Rogaway and
//! Vizár, 2015) with the nonces of age: 11 bytes of counter, and a byte that is 1 in the last chunk. Each file has
//! a key of its own, derived from the backup key and a random salt. The name of the file is associated data, so no
//! file can stand in the place of another one.

use std::{path::Path, sync::Arc};

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Nonce, Payload},
};
use bytes::{Buf, Bytes, BytesMut};
use fula_service::Random;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// Beginning of a sealed file.
const MAGIC: &[u8; 8] = b"fulabak1";

const SALT_BYTES: usize = 32;

/// Bytes of content in a chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes by which a sealed chunk is longer.
const TAG_BYTES: usize = 16;

/// A file that cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    /// The file does not begin as a sealed one does.
    #[error("it is damaged, or was not encrypted")]
    NotSealed,
    /// A chunk was changed, or sealed with another key or under another name.
    #[error("it is damaged at byte {0}, or was encrypted with another key")]
    Damaged(u64),
    /// The last chunk is missing.
    #[error("it is cut off")]
    CutOff,
}

/// The key that encrypts backups. It is not shown in debug output, and is erased from memory when dropped.
pub(crate) struct BackupKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackupKey(…)")
    }
}

impl BackupKey {
    /// Reads a private file with 64 hex digits, as `fula secrets keygen` makes it.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn read(file: &Path) -> Result<Self, FileError> {
        let setting = FileError::of_setting("--key-file (FULA_BACKUP_KEY_FILE)");
        let text = files::read_secret(file).map_err(&setting)?;
        let mut key = Zeroizing::new([0; 32]);
        let read = hex::decode_to_slice(text.trim_ascii(), key.as_mut_slice());
        read.map_err(|_| setting(FileError::NotAKey(file.to_owned())))?;
        Ok(Self(key))
    }

    /// Returns a fingerprint that identifies the key and does not reveal it.
    pub(crate) fn fingerprint(&self) -> String {
        let hash = blake3::derive_key("fula 2026 backup key fingerprint", self.0.as_slice());
        hex::encode(&hash[..16])
    }

    fn cipher(&self, salt: &[u8; SALT_BYTES]) -> Aes256Gcm {
        let mut material = Zeroizing::new([0; 32 + SALT_BYTES]);
        material[..32].copy_from_slice(self.0.as_slice());
        material[32..].copy_from_slice(salt);
        let key = Zeroizing::new(blake3::derive_key("fula 2026 backup file key", &*material));
        Aes256Gcm::new((&*key).into())
    }
}

/// The cipher of one file, and the place in it.
struct Chunks {
    cipher: Aes256Gcm,
    name: String,
    number: u64,
}

impl Chunks {
    fn nonce(&self, is_last: bool) -> Nonce<Aes256Gcm> {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = u8::from(is_last);
        nonce.into()
    }

    fn seal(&mut self, chunk: &[u8], is_last: bool, out: &mut BytesMut) {
        let payload = Payload { msg: chunk, aad: self.name.as_bytes() };
        let sealed = self.cipher.encrypt(&self.nonce(is_last), payload);
        out.extend_from_slice(&sealed.expect("a chunk is shorter than the cipher allows"));
        self.number += 1;
    }

    fn open(&mut self, chunk: &[u8], is_last: bool, out: &mut BytesMut) -> Result<(), SealError> {
        let payload = Payload { msg: chunk, aad: self.name.as_bytes() };
        let at = (MAGIC.len() + SALT_BYTES) as u64 + self.number * (CHUNK_BYTES + TAG_BYTES) as u64;
        let opened = self.cipher.decrypt(&self.nonce(is_last), payload);
        out.extend_from_slice(&opened.map_err(|_| SealError::Damaged(at))?);
        self.number += 1;
        Ok(())
    }
}

/// Seals a file that is pushed as it comes.
pub(super) struct Sealer {
    chunks: Chunks,
    waiting: BytesMut,
}

impl Sealer {
    /// Begins a file. Returns its first bytes, too.
    pub(super) fn begin(key: &BackupKey, name: &str, random: &Random) -> (Self, Bytes) {
        let mut salt = [0; SALT_BYTES];
        random(&mut salt);
        let chunks = Chunks { cipher: key.cipher(&salt), name: name.to_owned(), number: 0 };
        let head = [MAGIC.as_slice(), &salt].concat();
        (Self { chunks, waiting: BytesMut::new() }, head.into())
    }

    /// Adds content. Returns the sealed bytes that are known so far.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.waiting.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while self.waiting.len() > CHUNK_BYTES {
            let chunk = self.waiting.split_to(CHUNK_BYTES);
            self.chunks.seal(&chunk, false, &mut out);
        }
        out.freeze()
    }

    /// Ends the file. Returns its last bytes.
    pub(super) fn finish(mut self) -> Bytes {
        let mut out = BytesMut::new();
        self.chunks.seal(&self.waiting, true, &mut out);
        out.freeze()
    }
}

/// Opens a file that is pushed as it comes. No byte of it is returned that was not verified.
pub(super) struct Opener {
    key: Arc<BackupKey>,
    name: String,
    chunks: Option<Chunks>,
    waiting: BytesMut,
}

impl Opener {
    /// Begins a file.
    pub(super) fn begin(key: Arc<BackupKey>, name: String) -> Self {
        Self { key, name, chunks: None, waiting: BytesMut::new() }
    }

    /// Adds bytes of the file. Returns the content that is verified.
    ///
    /// # Errors
    /// [`SealError`].
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Bytes, SealError> {
        self.waiting.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        if self.chunks.is_none() {
            if self.waiting.len() < MAGIC.len() + SALT_BYTES {
                return Ok(Bytes::new());
            }
            if !self.waiting.starts_with(MAGIC) {
                return Err(SealError::NotSealed);
            }
            self.waiting.advance(MAGIC.len());
            let mut salt = [0; SALT_BYTES];
            self.waiting.copy_to_slice(&mut salt);
            let cipher = self.key.cipher(&salt);
            self.chunks = Some(Chunks { cipher, name: self.name.clone(), number: 0 });
        }
        if let Some(chunks) = &mut self.chunks {
            while self.waiting.len() > CHUNK_BYTES + TAG_BYTES {
                let chunk = self.waiting.split_to(CHUNK_BYTES + TAG_BYTES);
                chunks.open(&chunk, false, &mut out)?;
            }
        }
        Ok(out.freeze())
    }

    /// Ends the file. Returns the rest of its content.
    ///
    /// # Errors
    /// [`SealError`].
    pub(super) fn finish(self) -> Result<Bytes, SealError> {
        let mut chunks = self.chunks.ok_or(SealError::CutOff)?;
        if self.waiting.len() < TAG_BYTES {
            return Err(SealError::CutOff);
        }
        let mut out = BytesMut::new();
        chunks.open(&self.waiting, true, &mut out)?;
        Ok(out.freeze())
    }
}

/// Seals a small file.
pub(super) fn seal(key: &BackupKey, name: &str, content: &[u8], random: &Random) -> Bytes {
    let (mut sealer, head) = Sealer::begin(key, name, random);
    let body = sealer.push(content);
    [head, body, sealer.finish()].concat().into()
}

/// Opens a small file.
///
/// # Errors
/// [`SealError`].
pub(super) fn open(key: &Arc<BackupKey>, name: &str, sealed: &[u8]) -> Result<Bytes, SealError> {
    let mut opener = Opener::begin(Arc::clone(key), name.to_owned());
    let body = opener.push(sealed)?;
    Ok([body, opener.finish()?].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Arc<BackupKey> {
        Arc::new(BackupKey(Zeroizing::new([byte; 32])))
    }

    #[test]
    fn what_was_sealed_opens_under_its_key_and_its_name_alone() {
        let random = fula_service::system_random();
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let content: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let sealed = seal(&key(1), "a", &content, &random);
            let whole = open(&key(1), "a", &sealed).unwrap();
            assert_eq!(whole, content);
            let mut opener = Opener::begin(key(1), "a".to_owned());
            let mut found = Vec::new();
            for piece in sealed.chunks(1000) {
                found.extend(opener.push(piece).unwrap());
            }
            found.extend(opener.finish().unwrap());
            assert_eq!(found, content);
            assert!(open(&key(2), "a", &sealed).is_err());
            assert!(open(&key(1), "b", &sealed).is_err());
            assert_ne!(seal(&key(1), "a", &content, &random), sealed, "salts differ");
        }
    }

    #[test]
    fn every_change_is_noticed() {
        let random = fula_service::system_random();
        let content = vec![7; 2 * CHUNK_BYTES + 9];
        let sealed = seal(&key(1), "a", &content, &random);
        for at in [0, 8, 40, 41, CHUNK_BYTES, sealed.len() - 1] {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert!(open(&key(1), "a", &changed).is_err(), "byte {at}");
        }
        // Cut at the end of a chunk, within one, and longer.
        let chunk = CHUNK_BYTES + TAG_BYTES;
        for length in [0, 5, 40, 40 + chunk, 40 + 2 * chunk, sealed.len() - 1] {
            assert!(open(&key(1), "a", &sealed[..length]).is_err(), "{length}");
        }
        assert!(open(&key(1), "a", &[&sealed[..], &[0]].concat()).is_err());
        // Two chunks in the other order.
        let swapped =
            [&sealed[..40], &sealed[40 + chunk..40 + 2 * chunk], &sealed[40..40 + chunk]].concat();
        assert!(open(&key(1), "a", &swapped).is_err());
        assert_eq!(open(&key(1), "a", &content), Err(SealError::NotSealed));
    }

    #[test]
    fn no_key_is_shown() {
        assert_eq!(format!("{:?}", key(7)), "BackupKey(…)");
        assert_ne!(key(1).fingerprint(), key(2).fingerprint());
    }
}
