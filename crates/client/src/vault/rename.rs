//! Renaming: a copy on the server with another name, and a deletion. No content is moved.

use fula_seal::{SealedKey, VaultPath, name::Name};
use futures::{StreamExt, TryStreamExt, stream};

use super::{ATTEMPTS, BODY_TYPE, Found, Vault, entropy::System, write};
use crate::{
    batch::BatchCopy,
    copy::CopyOptions,
    error::{Error, Result},
    meta::Version,
    remove::DeleteOptions,
};

/// Most files that are renamed in one step: each is a copy and a deletion in a commit.
pub const RENAMES_MAX: usize = 500;
/// Files that are looked up at a time.
const LOOK_UPS: usize = 16;

/// A file that gets another name.
struct Renamed {
    from: String,
    to: String,
    metadata: std::collections::BTreeMap<String, String>,
    etag: String,
    /// Clock of the new path, once the server has carried the change out.
    clock: (SealedKey, u64),
}

impl Vault {
    /// Renames a file in one step. There must be none with the new path.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Exists`]; [`Error::Changed`] if another device wrote it meanwhile.
    pub async fn rename(&self, from: &VaultPath, to: &VaultPath) -> Result<()> {
        self.rename_many(&[(from.clone(), to.clone())]).await
    }

    /// Renames files in one step, each from the first path to the second one. No file may have a new path yet.
    ///
    /// On servers other than Fula, they are renamed one after another. An error then leaves those before it renamed.
    ///
    /// # Errors
    /// As for [`Vault::rename`], and [`Error::Invalid`] for more than [`RENAMES_MAX`] files. Then nothing was
    /// renamed.
    pub async fn rename_many(&self, files: &[(VaultPath, VaultPath)]) -> Result<()> {
        if files.len() > RENAMES_MAX {
            return Err(Error::Invalid(format!("one step renames at most {RENAMES_MAX} files")));
        }
        let renamed = stream::iter(files).map(|(from, to)| async move {
            let found = self.look_up(from).await?.ok_or_else(|| self.missing())?;
            self.renamed(&found, to)
        });
        let renamed: Vec<_> = renamed.buffered(LOOK_UPS).try_collect().await?;
        self.commit(&renamed).await?;
        // A change that failed must not look as if it had been seen.
        let clocks: Vec<_> = renamed.iter().map(|file| file.clock).collect();
        self.0.state.lock().remember(&clocks)?;
        self.settle().await
    }

    /// Renames all files whose paths begin with `from`, and returns how many. Up to 500 are renamed in one step. If
    /// it fails in between, the same call goes on with the rest.
    ///
    /// # Errors
    /// As for [`Vault::rename`].
    pub async fn rename_all(&self, from: &[u8], to: &[u8]) -> Result<usize> {
        let listing = self.list(from).await?;
        for entries in listing.entries.chunks(RENAMES_MAX) {
            let pair = |entry: &super::VaultEntry| {
                let path = [to, &entry.path.as_bytes()[from.len()..]].concat();
                Ok((entry.path.clone(), VaultPath::new(path)?))
            };
            let files = entries.iter().map(pair).collect::<Result<Vec<_>>>()?;
            self.rename_many(&files).await?;
        }
        Ok(listing.entries.len())
    }

    /// Copies a file within the vault, and replaces the one that has the new path. No content is moved.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Changed`] if other devices write one of them all the time.
    pub async fn copy(&self, from: &VaultPath, to: &VaultPath) -> Result<Version> {
        if from == to {
            return Err(Error::Invalid("source and target are the same file".to_owned()));
        }
        let bucket = &self.0.place.bucket;
        for attempt in 1.. {
            let found = self.look_up(from).await?.ok_or_else(|| self.missing())?;
            let replaced = self.look_up(to).await?;
            let copy = self.renamed(&found, to)?;
            let options = CopyOptions {
                metadata: Some(copy.metadata),
                content_type: Some(BODY_TYPE.to_owned()),
                if_source_match: Some(copy.etag),
                if_absent: replaced.is_none(),
                if_match: replaced.map(|replaced| replaced.etag),
            };
            match bucket.copy(bucket, &copy.from, &copy.to, options).await {
                Err(Error::Changed { .. } | Error::Exists { .. }) if attempt < ATTEMPTS => {
                    self.yield_to_others(attempt).await;
                }
                copied => {
                    let version = copied?;
                    self.0.state.lock().remember(&[copy.clock])?;
                    self.settle().await?;
                    return Ok(version);
                }
            }
        }
        Err(Error::Canceled)
    }

    fn renamed(&self, found: &Found, to: &VaultPath) -> Result<Renamed> {
        let current = self.current();
        let keys = current.keyring.keys();
        let key = keys.sealed_key(to);
        let seen = self.0.state.lock().clock(key);
        let clock = write::next_clock(seen.max(found.name.clock));
        let name = Name { path: to.clone(), clock, ..found.name.clone() };
        let device = self.0.identity.signing_key();
        let sealed = name.seal(keys, &found.anchor, device, &mut System)?;
        Ok(Renamed {
            clock: (key, clock),
            from: self.0.place.key(keys.sealed_key(&found.name.path)),
            to: self.0.place.key(key),
            metadata: write::values(sealed),
            etag: found.etag.clone(),
        })
    }

    /// Renames files in one commit; on servers without copies in commits, one after another.
    async fn commit(&self, files: &[Renamed]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let bucket = &self.0.place.bucket;
        let batch = files.iter().fold(bucket.batch(), |batch, file| {
            let copy = BatchCopy {
                from: file.from.clone(),
                if_source_match: Some(file.etag.clone()),
                metadata: Some(file.metadata.clone()),
                content_type: Some(BODY_TYPE.to_owned()),
                if_match: None,
                if_absent: true,
            };
            batch.copy(&file.to, copy).delete(&file.from, Some(&file.etag))
        });
        match batch.commit().await {
            Ok(_) => Ok(()),
            Err(
                Error::Http { status: 400 | 405 | 501, .. }
                | Error::Unsupported(_)
                | Error::Invalid(_),
            ) => self.rename_one_by_one(files).await,
            Err(Error::Exists { .. } | Error::Changed { .. })
                if !self.has_commits(&files[0]).await? =>
            {
                self.rename_one_by_one(files).await
            }
            Err(error) => Err(error),
        }
    }

    /// Returns whether the server offers commits. S3 answers each POST that is no form with 412, which is also how a
    /// condition fails. A commit of independent changes never has this answer.
    async fn has_commits(&self, file: &Renamed) -> Result<bool> {
        let batch = self.0.place.bucket.batch().check(&file.from, Some(&file.etag));
        match self.each(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Unsupported(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn rename_one_by_one(&self, files: &[Renamed]) -> Result<()> {
        let bucket = &self.0.place.bucket;
        for file in files {
            let options = CopyOptions {
                metadata: Some(file.metadata.clone()),
                content_type: Some(BODY_TYPE.to_owned()),
                if_source_match: Some(file.etag.clone()),
                if_match: None,
                if_absent: true,
            };
            bucket.copy(bucket, &file.from, &file.to, options).await?;
            let if_match = Some(file.etag.clone());
            bucket.delete(&file.from, DeleteOptions { if_match }).await?;
        }
        Ok(())
    }
}
