//! Hashes of content for notes about uploads that may be interrupted.
//!
//! A client notes what it has sent on its disk. The hashes are keyed with the key of the upload, so that a thief
//! of the disk cannot compare them with content at hand.

use crate::{
    FileId, SealError,
    key::{Secret, VaultKeys},
};

/// Hashes the content of one upload.
#[derive(Clone, Debug)]
pub struct JournalKey(Secret);

impl VaultKeys {
    /// Returns what hashes the content of an upload for a note about it.
    ///
    /// # Errors
    /// [`SealError::UnknownEpoch`].
    pub fn journal(&self, epoch: u32, file: FileId) -> Result<JournalKey, SealError> {
        Ok(JournalKey(self.file_key(epoch, file)?.derive("journal", &[])))
    }
}

impl JournalKey {
    /// Begins the hash of a piece of content, which counts at its place alone.
    pub fn hasher(&self, ordinal: u64) -> JournalHasher {
        let key = self.0.derive("piece", &[&ordinal.to_be_bytes()]);
        JournalHasher(blake3::Hasher::new_keyed(key.expose()))
    }

    /// Returns the hash of facts about the source: its size and time, or its place.
    pub fn facts(&self, facts: &[&[u8]]) -> [u8; 32] {
        *self.0.derive("facts", facts).expose()
    }
}

/// A hash of content that comes in pieces.
#[derive(Debug)]
pub struct JournalHasher(blake3::Hasher);

impl JournalHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash.
    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        FileId,
        testing::{Recorded, vault},
    };

    #[test]
    fn hashes_depend_on_vault_upload_and_place() {
        let mut keys = vault(1);
        keys.begin_epoch(&mut Recorded::new(5)).unwrap();
        let hash = |keys: &crate::VaultKeys, epoch, file, ordinal| {
            let mut hasher = keys.journal(epoch, FileId([file; 32])).unwrap().hasher(ordinal);
            hasher.update(b"con");
            hasher.update(b"tent");
            hasher.finish()
        };
        let first = hash(&keys, 0, 1, 0);
        assert_eq!(first, hash(&keys, 0, 1, 0));
        let others = [
            hash(&keys, 1, 1, 0),
            hash(&keys, 0, 2, 0),
            hash(&keys, 0, 1, 1),
            hash(&vault(2), 0, 1, 0),
            *blake3::hash(b"content").as_bytes(),
            keys.journal(0, FileId([1; 32])).unwrap().facts(&[b"content"]),
        ];
        assert!(others.iter().all(|other| *other != first));
        assert!(keys.journal(2, FileId([1; 32])).is_err());
    }
}
