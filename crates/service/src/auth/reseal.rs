//! Changing the key that encrypts the secrets of access keys (docs/adr/0053).
//!
//! Each line of the key file decrypts, and one line encrypts: the one that the arbiter names. So a new line is
//! given to all masters first, then the arbiter names it, and then the records are encrypted anew. Meanwhile, a
//! record that is encrypted with another line can be read as before.

use bytes::Bytes;
use fula_core::metadata::{Table, WriteOutcome};

use super::{key_record::Stored, keys::KeyRing, sealing::SealingKey};
use crate::error::ServiceError;

/// Number of records that are read at a time.
const PAGE: usize = 500;

/// What became of the records of access keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Number of secrets that were encrypted anew.
    pub changed: u64,
    /// Number of secrets that the line encrypts already.
    pub already: u64,
    /// Number of secrets that another process changed meanwhile, or that no line of the key file decrypts.
    pub left: u64,
}

impl KeyRing {
    /// Encrypts the secrets of all access keys with the line of the key file that encrypts now. Revoked keys have
    /// no secret. Sessions are left alone: they end within hours.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Full`]: some are done. Call it again.
    pub async fn reseal(&self) -> Result<Resealed, ServiceError> {
        let metadata = &self.records().metadata;
        let (mut done, mut after) = (Resealed::default(), None::<String>);
        loop {
            let page = metadata.list(Table::Keys, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(done) };
            after = Some(last.clone());
            for (id, entry) in page {
                let Some(value) = entry.value else { continue };
                let new = match self.resealed(&id, &value) {
                    Ok(Some(new)) => new,
                    Ok(None) => {
                        done.already += 1;
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(key = id, %error, "the secret of an access key stays as it is");
                        done.left += 1;
                        continue;
                    }
                };
                self.records().forget(Table::Keys, &id);
                let written = metadata.write(Table::Keys, &id, entry.version, Some(new.clone()));
                match written.await? {
                    WriteOutcome::Done(_) => done.changed += 1,
                    WriteOutcome::Conflict(_) => {
                        done.left += 1;
                        continue;
                    }
                }
                if let Some(memory) = self.memory() {
                    memory.note(&id, &new).await?;
                }
            }
        }
    }

    /// Returns the record of a key with its secret encrypted anew, or `None` if there is nothing to change.
    fn resealed(&self, id: &str, value: &Bytes) -> Result<Option<Bytes>, ServiceError> {
        let stored = Stored::parse(value)?;
        let sealing: &SealingKey = self.sealing();
        if stored.is_revoked() || sealing.is_current(id, &stored.sealed) {
            return Ok(None);
        }
        let secret = sealing.open(id, &stored.sealed)?;
        let sealed = sealing.seal(self.nonce(), id, &secret)?;
        Stored { sealed, ..stored }.encode().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use fula_core::in_memory::MemoryMetadata;

    use super::*;
    use crate::system_random;

    /// Returns a key ring whose file has these lines.
    fn ring(metadata: &Arc<MemoryMetadata>, lines: &[&str]) -> (KeyRing, SealingKey) {
        let text = lines.iter().fold(String::new(), |text, digit| text + &digit.repeat(64) + "\n");
        let sealing = SealingKey::parse(&text).unwrap();
        let metadata = Arc::clone(metadata) as _;
        let ring = KeyRing::new(metadata, sealing.clone(), system_random(), Duration::ZERO);
        (ring, sealing)
    }

    #[tokio::test]
    async fn the_first_line_can_go_once_all_secrets_are_sealed_anew() {
        let metadata = Arc::new(MemoryMetadata::default());
        let (old, _) = ring(&metadata, &["1"]);
        let (key, secret) = old.create("carol", 1).await.unwrap();
        let (gone, _) = old.create("dave", 2).await.unwrap();
        assert!(old.revoke(&gone.id, None).await.unwrap());
        // Masters that have the new line, and still encrypt with the old one.
        let (both, sealing) = ring(&metadata, &["1", "2"]);
        let (later, _) = both.create("erin", 3).await.unwrap();
        assert!(old.find(&later.id).await.unwrap().is_some(), "a master without the line reads it");
        assert_eq!(both.reseal().await.unwrap().changed, 0);
        let last = sealing.fingerprints().pop().unwrap();
        assert!(last != sealing.fingerprint() && sealing.use_line(&last));
        assert_eq!(both.reseal().await.unwrap(), Resealed { changed: 2, already: 1, left: 0 });
        assert_eq!(both.reseal().await.unwrap(), Resealed { changed: 0, already: 3, left: 0 });
        let (new, _) = ring(&metadata, &["2"]);
        let found = new.find(&key.id).await.unwrap().unwrap();
        assert_eq!(found.secret.expose(), secret.expose());
        assert!(new.find(&later.id).await.unwrap().is_some());
        assert!(new.find(&gone.id).await.unwrap().is_none(), "a revoked key stays revoked");
        let (old, _) = ring(&metadata, &["1"]);
        assert!(old.find(&key.id).await.is_err());
        assert_eq!(old.reseal().await.unwrap().left, 2, "what it cannot read, it leaves alone");
        assert!(new.find(&key.id).await.unwrap().is_some());
    }
}
