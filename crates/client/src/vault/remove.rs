//! Deleting many files in few requests: a commit of independent deletions (ADR 0057), or what S3 has for it.

use std::collections::BTreeMap;

use fula_seal::VaultPath;
use futures::{StreamExt, stream};

use super::{Condition, Vault};
use crate::{
    batch::CHANGES_MAX,
    error::{Error, Result},
};

/// Deletions in flight, on servers that delete one object at a time.
const ALONE: usize = 16;

impl Vault {
    /// Deletes up to [`CHANGES_MAX`] files with one request, each by itself and in the version of a listing. The
    /// result has one for each file, in their order.
    ///
    /// On servers other than Fula it is a request of S3 for many objects, which names the versions, too. A server
    /// that does not compare them deletes a file that changed meanwhile.
    ///
    /// # Errors
    /// [`Error::Invalid`] for too many files. Then, and if nothing is known of the single files, as for every
    /// request. Of one file: [`Error::Changed`] if another device wrote or deleted it meanwhile.
    pub async fn delete_many(&self, files: &[(VaultPath, String)]) -> Result<Vec<Result<()>>> {
        if files.len() > CHANGES_MAX {
            return Err(Error::Invalid(format!("one request deletes at most {CHANGES_MAX} files")));
        }
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let (current, bucket) = (self.current(), &self.0.place.bucket);
        let objects = files.iter().map(|(path, etag)| {
            let key = current.keyring.keys().sealed_key(path);
            (self.0.place.key(key), etag.as_str())
        });
        let objects: Vec<(String, &str)> = objects.collect();
        let batch =
            objects.iter().fold(bucket.batch(), |batch, (key, etag)| batch.delete(key, Some(etag)));
        match self.each(batch).await {
            Ok(done) => Ok(done.results.into_iter().map(|result| result.map(drop)).collect()),
            Err(Error::Unsupported(_)) => match self.delete_listed(&objects).await {
                Err(Error::Unsupported(_) | Error::Http { status: 400 | 405, .. }) => {
                    Ok(self.delete_alone(files).await)
                }
                done => done,
            },
            Err(error) => Err(error),
        }
    }

    /// Deletes objects with one request of S3.
    async fn delete_listed(&self, objects: &[(String, &str)]) -> Result<Vec<Result<()>>> {
        let bucket = &self.0.place.bucket;
        let listed: Vec<_> = objects.iter().map(|(key, etag)| (&**key, Some(*etag))).collect();
        let failures = bucket.delete_listed(&listed).await?;
        let mut failures: BTreeMap<_, _> =
            failures.into_iter().map(|failure| (failure.key, failure.error)).collect();
        let results = objects.iter().map(|(key, _)| match failures.remove(key) {
            None => Ok(()),
            // It was deleted, or is another version.
            Some(Error::NotFound { .. } | Error::Changed { .. }) => {
                Err(Error::Changed { what: self.some_file(), current: None })
            }
            Some(error) => Err(error),
        });
        let results = results.collect();
        match failures.pop_first() {
            None => Ok(results),
            Some((key, _)) => Err(Error::Http {
                what: bucket.name().to_owned(),
                status: 200,
                code: "InvalidAnswer".to_owned(),
                why: format!("it names {key}, which was not to be deleted"),
            }),
        }
    }

    /// Deletes files with one request each.
    async fn delete_alone(&self, files: &[(VaultPath, String)]) -> Vec<Result<()>> {
        let deletions = stream::iter(files).map(|(path, etag)| async move {
            self.delete(path, Condition::Version(etag.clone())).await.map(drop)
        });
        deletions.buffered(ALONE).collect().await
    }
}
