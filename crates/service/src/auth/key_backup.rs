//! Records of access keys as a backup has them: sealed, as they are stored (docs/adr/0054).

use bytes::Bytes;
use fula_core::metadata::{Table, WriteOutcome};

use super::{
    key_record::{Stored, is_bound},
    keys::KeyRing,
};
use crate::error::{Applied, ServiceError};

/// What became of a record that was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// The record was missing, and is there now.
    Restored,
    /// The same record is there.
    Already,
    /// There is another record of this id, which stays.
    Differs,
}

impl KeyRing {
    /// Returns a fingerprint of the key that seals the secrets, which does not reveal it.
    pub fn sealing_fingerprint(&self) -> String {
        self.sealing().fingerprint()
    }

    /// Returns the fingerprints of all lines of the key file.
    pub fn sealing_lines(&self) -> Vec<String> {
        self.sealing().fingerprints()
    }

    /// Lets the line with a fingerprint encrypt secrets from now on, if there is one.
    pub fn seal_with(&self, fingerprint: &str) {
        self.sealing().use_line(fingerprint);
    }

    /// Returns up to `limit` records after `after` by access key id, with those of revoked keys.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn records_after(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, ServiceError> {
        let page = self.records().metadata.list(Table::Keys, after, limit).await?;
        Ok(page.into_iter().filter_map(|(id, entry)| Some((id, entry.value?))).collect())
    }

    /// Stores the record of a key again that the arbiter has lost. A record that is there stays as it is.
    ///
    /// # Errors
    /// [`ServiceError::Internal`]: the record is malformed, or sealed under another key.
    /// [`ServiceError::Busy`]: try again. [`ServiceError::Unavailable`].
    pub async fn put_back(&self, id: &str, record: Bytes) -> Result<PutBack, ServiceError> {
        let stored = Stored::parse(&record)?;
        if !super::keys::is_key_id(id) {
            return Err(ServiceError::bug("malformed access key id in a backup"));
        }
        if !stored.is_revoked() {
            if is_bound(id) {
                Stored::parse_bound(id, &record, self.sealing())?;
            } else {
                self.sealing().open(id, &stored.sealed)?;
            }
        }
        let metadata = &self.records().metadata;
        let version = match metadata.read(Table::Keys, id).await? {
            Some(entry) => match entry.value {
                Some(value) if value == record || self.is_same_key(id, &value, &stored) => {
                    return Ok(PutBack::Already);
                }
                Some(_) => return Ok(PutBack::Differs),
                None => entry.version,
            },
            None => 0,
        };
        self.records().forget(Table::Keys, id);
        match metadata.write(Table::Keys, id, version, Some(record.clone())).await? {
            WriteOutcome::Done(_) => {
                if let Some(memory) = self.memory() {
                    memory.note(id, &record).await?;
                }
                Ok(PutBack::Restored)
            }
            WriteOutcome::Conflict(_) => Err(ServiceError::Busy(Applied::None)),
        }
    }

    /// Returns whether a record differs from `other` only in how its secret is encrypted.
    fn is_same_key(&self, id: &str, record: &Bytes, other: &Stored) -> bool {
        let open = |stored: &Stored| self.sealing().open(id, &stored.sealed).ok();
        let Ok(stored) = Stored::parse(record) else { return false };
        let is_same = (&stored.user, stored.created) == (&other.user, other.created);
        let secrets = open(&stored).zip(open(other));
        is_same && secrets.is_some_and(|(one, two)| one.expose() == two.expose())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use fula_core::in_memory::MemoryMetadata;

    use super::*;
    use crate::{auth::SealingKey, system_random};

    fn ring(key: &str) -> KeyRing {
        let sealing = SealingKey::parse(&key.repeat(64)).unwrap();
        let metadata = Arc::new(MemoryMetadata::default());
        KeyRing::new(metadata, sealing, system_random(), Duration::ZERO)
    }

    #[tokio::test]
    async fn keys_come_back_as_they_were_and_replace_none() {
        let old = ring("1");
        let (kept, secret) = old.create("carol", 1).await.unwrap();
        let (revoked, _) = old.create("dave", 2).await.unwrap();
        assert!(old.revoke(&revoked.id, None).await.unwrap());
        let records = old.records_after(None, 10).await.unwrap();
        assert_eq!(records.len(), 2);
        let new = ring("1");
        for (id, record) in &records {
            assert_eq!(new.put_back(id, record.clone()).await.unwrap(), PutBack::Restored);
            assert_eq!(new.put_back(id, record.clone()).await.unwrap(), PutBack::Already);
        }
        let found = new.find(&kept.id).await.unwrap().unwrap();
        assert_eq!(found.secret.expose(), secret.expose());
        assert!(new.find(&revoked.id).await.unwrap().is_none());
        // A key that was revoked since stays so.
        assert!(new.revoke(&kept.id, None).await.unwrap());
        let record = records.iter().find(|(id, _)| *id == kept.id).unwrap().1.clone();
        assert_eq!(new.put_back(&kept.id, record.clone()).await.unwrap(), PutBack::Differs);
        assert!(new.find(&kept.id).await.unwrap().is_none());
        // Nobody could open the secret.
        assert!(ring("2").put_back(&kept.id, record).await.is_err());
    }
}
