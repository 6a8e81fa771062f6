//! Sealing files of older epochs again, with the keys of the newest one.

use std::collections::HashSet;

use fula_seal::{
    SealError,
    name::{KEPT, Kept},
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::{ATTEMPTS, Piped, Vault, VaultEntry, VaultPutOptions};
use crate::{
    error::{Error, Result},
    items::{Listed, Told},
    send::Meter,
};

/// How often the vault is listed again to find files that devices with an older keyring wrote meanwhile.
const PASSES: u32 = 20;

/// Options of [`Vault::reseal`].
#[derive(Clone, Debug)]
pub struct ResealOptions {
    /// Files at a time. Each takes about 32 MiB, if it is large.
    pub at_once: usize,
    /// Counts the bytes that are sent.
    pub meter: Option<Meter>,
}

impl Default for ResealOptions {
    fn default() -> Self {
        Self { at_once: 4, meter: None }
    }
}

/// What became of a file.
#[derive(Debug)]
pub enum Resealing<'a> {
    /// It is sealed with the newest keys now.
    Done(&'a VaultEntry),
    /// It is as it was before. The key of its object, and why.
    Failed(&'a str, &'a Error),
}

/// What [`Vault::reseal`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Files that were sealed again.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Files that failed.
    pub failed: u64,
}

/// Keys of objects, and those that are refused, with the reason.
type Outdated = (Vec<String>, Vec<(String, Error)>);

impl Vault {
    /// Returns the keys of objects whose content is sealed in an older epoch, and of those that are no files.
    async fn outdated_keys(&self) -> Result<Outdated> {
        self.refresh().await?;
        let epoch = self.current().keyring.keys().epoch();
        let take = |(keys, refused): &mut Outdated, _, object: Listed| {
            let kept = match &object.value {
                Told::Value(kept) => Kept::parse(kept),
                Told::Nothing | Told::Unasked => Err(SealError::Truncated { what: "the name" }),
            };
            match kept {
                Ok(kept) if kept.anchor.footer().epoch < epoch => keys.push(object.key),
                Ok(_) => {}
                Err(error) => refused.push((object.key, error.into())),
            }
        };
        Ok(self.objects(KEPT, take).await?.0)
    }

    /// Returns how many files have content that is sealed in an older epoch. A renamed file keeps its content.
    ///
    /// # Errors
    /// As for [`Vault::list`].
    pub async fn outdated(&self) -> Result<usize> {
        Ok(self.outdated_keys().await?.0.len())
    }

    /// Seals all files of older epochs again, with the keys of the newest one. `note` gets every file.
    ///
    /// Each file is replaced in one step, on condition that nobody else wrote it meanwhile, so it can be interrupted
    /// at any time and begun again: what was done is done. Files that others write meanwhile stay as they write
    /// them. What was shared by link is not changed.
    ///
    /// # Errors
    /// As for [`Vault::list`]; [`Error::Changed`] if devices that have not read the newest keyring write all the
    /// time. A file that fails is no error.
    pub async fn reseal(
        &self,
        options: &ResealOptions,
        note: impl Fn(Resealing<'_>),
    ) -> Result<Resealed> {
        let (total, failed) = (Mutex::new(Resealed::default()), Mutex::new(HashSet::new()));
        for _ in 0..PASSES {
            let (mut keys, refused) = self.outdated_keys().await?;
            for (key, error) in &refused {
                if failed.lock().insert(key.clone()) {
                    note(Resealing::Failed(key, error));
                }
            }
            keys.retain(|key| !failed.lock().contains(key));
            if keys.is_empty() {
                self.settle().await?;
                let failed = failed.lock().len() as u64;
                return Ok(Resealed { failed, ..*total.lock() });
            }
            let (total, failed, note) = (&total, &failed, &note);
            let files = stream::iter(keys).for_each_concurrent(options.at_once.max(1), |key| {
                let meter = options.meter.clone();
                async move {
                    match Box::pin(self.reseal_one(&key, meter)).await {
                        Ok(None) => {}
                        Ok(Some(entry)) => {
                            let mut total = total.lock();
                            total.files += 1;
                            total.bytes += entry.size;
                            drop(total);
                            note(Resealing::Done(&entry));
                        }
                        Err(error) => {
                            note(Resealing::Failed(&key, &error));
                            failed.lock().insert(key);
                        }
                    }
                }
            });
            files.await;
        }
        let what = format!("{} (a device writes with an older keyring)", self.place());
        Err(Error::Changed { what, current: None })
    }

    /// Seals a file again; `None` if someone else has written, renamed or deleted it meanwhile.
    async fn reseal_one(&self, key: &str, meter: Option<Meter>) -> Result<Option<VaultEntry>> {
        let bucket = &self.0.place.bucket;
        let Some(sealed) = self.0.place.sealed_key(key) else { return Ok(None) };
        for attempt in 1.. {
            let meta = match bucket.head(key).await {
                Err(Error::NotFound { .. }) => return Ok(None),
                meta => meta?,
            };
            let found = self.name_of(sealed, &meta).await?;
            if found.anchor.footer().epoch >= self.current().keyring.keys().epoch() {
                return Ok(None);
            }
            match Box::pin(self.reseal_found(found, meter.clone())).await {
                // Another device was first: what it wrote is looked at.
                Err(Error::Changed { .. } | Error::Exists { .. } | Error::NotFound { .. })
                    if attempt < ATTEMPTS =>
                {
                    self.yield_to_others(attempt).await;
                }
                resealed => return resealed.map(Some),
            }
        }
        Ok(None)
    }

    async fn reseal_found(&self, found: super::Found, meter: Option<Meter>) -> Result<VaultEntry> {
        let (trailer, proof) = self.ending(&found).await?;
        let get = self.read_found(&found, (&trailer.layout, proof), None, None).await?;
        let entry = VaultEntry::of(&found);
        let options = VaultPutOptions {
            modified: entry.modified,
            entries: trailer.metadata.entries,
            meter,
            ..VaultPutOptions::default()
        };
        let piped = Piped::new(get.into_stream(), entry.size);
        let put = piped
            .through(|source| Box::pin(self.put_once(&entry.path, source, &options, Some(found))))
            .await?;
        Ok(VaultEntry { etag: put.etag, ..entry })
    }

    /// Says that what removed members wrote counts nowhere any more. Everything must have been sealed again before:
    /// a file that one of them wrote last is refused from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a file of an older epoch is left, and as for [`Vault::change_keyring`].
    pub async fn forget_removed(&self) -> Result<()> {
        let left = self.outdated().await?;
        if left > 0 {
            return Err(Error::Invalid(format!(
                "{left} files are sealed with older keys: seal them again first"
            )));
        }
        let forget = |draft: &mut fula_seal::keyring::Draft<'_>, _: &mut dyn fula_seal::Entropy| {
            draft.forget_records_of_removed_members();
            Ok(())
        };
        self.change_keyring(forget).await
    }
}
