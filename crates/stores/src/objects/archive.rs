//! A place for backups: named files in a directory, or in a bucket of S3, Google Cloud or Azure
//! (docs/adr/0054). A file appears whole or not at all.

use std::path::PathBuf;

use bytes::Bytes;
use fula_core::StoreError;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{ObjectStoreExt, PutPayload, buffered::BufWriter, path::Path};
use tokio::io::AsyncWriteExt;

use super::{ANSWER, Found, ObjectStoreError, Objects, WRITTEN, failed, within};

/// Bytes of a file that are sent at a time, and pieces that are on their way at a time.
const PIECE_BYTES: usize = 8 << 20;
const PIECES_AT_ONCE: usize = 2;

/// A place that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Correct the URL.
    #[error(
        "it is no place for backups; name a directory, or a URL: file:///directory, s3://bucket/prefix, \
         gs://bucket/prefix or az://container/prefix (credentials are given in the usual variables, which begin \
         with AWS_, GOOGLE_ or AZURE_)"
    )]
    Url,
    /// Check the path, and that its file system is mounted.
    #[error("the directory {0} does not exist; check the path and that its file system is mounted")]
    NoDirectory(PathBuf),
    /// The directory or the server cannot be used.
    #[error(transparent)]
    Other(ObjectStoreError),
}

impl From<ObjectStoreError> for ArchiveError {
    fn from(error: ObjectStoreError) -> Self {
        match error {
            ObjectStoreError::Url => Self::Url,
            ObjectStoreError::NoDirectory(path) => Self::NoDirectory(path),
            error => Self::Other(error),
        }
    }
}

/// A place for backups.
#[derive(Clone, Debug)]
pub struct Archive(Objects);

impl Archive {
    /// Opens the place that `url` names: a URL, or the absolute path of a directory. With `makes_directory`, a
    /// directory that does not exist is made.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn open(url: &str, makes_directory: bool) -> Result<Self, ArchiveError> {
        let file_url = format!("file://{url}");
        let url = if url.starts_with('/') { &file_url } else { url };
        let objects = if makes_directory {
            Objects::open_with(url, &[])?
        } else {
            Objects::open_existing(url, &[])?
        };
        Ok(Self(objects))
    }

    /// Writes a small file. Returns false, and changes nothing, if there is one of this name.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Unavailable`].
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<bool, StoreError> {
        self.0.create(&Path::from(name), PutPayload::from(bytes)).await
    }

    /// Begins a file of any length.
    pub fn begin(&self, name: &str) -> ArchiveFile {
        let store = std::sync::Arc::clone(&self.0.store);
        let writer = BufWriter::with_capacity(store, Path::from(name), PIECE_BYTES);
        ArchiveFile { writer: writer.with_max_concurrency(PIECES_AT_ONCE) }
    }

    /// Returns a small file; `None` if there is none of this name.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for a file longer than `max` bytes, [`StoreError::Unavailable`].
    pub async fn read(&self, name: &str, max: u64) -> Result<Option<Bytes>, StoreError> {
        match self.0.get(&Path::from(name), max).await? {
            Found::None => Ok(None),
            Found::Whole(bytes) => Ok(Some(bytes)),
            Found::TooLong => {
                Err(unreadable(format!("the file {name} is longer than {max} bytes")))
            }
        }
    }

    /// Returns the bytes of a file as they arrive; `None` if there is none of this name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also in the middle of the stream.
    pub async fn stream(
        &self,
        name: &str,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, StoreError>>>, StoreError> {
        let found = match within(ANSWER, "get", self.0.store.get(&Path::from(name))).await? {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| failed("get", error))?,
        };
        // A server that hangs in the middle counts as hung, too.
        let bytes = futures::stream::unfold(Some(found.into_stream()), |bytes| async move {
            let mut bytes = bytes?;
            match within(ANSWER, "get", bytes.try_next()).await {
                Ok(Ok(Some(piece))) => Some((Ok(piece), Some(bytes))),
                Ok(Ok(None)) => None,
                Ok(Err(error)) => Some((Err(failed("get", error)), None)),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Some(bytes.boxed()))
    }

    /// Returns the length of a file in bytes; `None` if there is none of this name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.0.size(&Path::from(name)).await
    }

    /// Returns the names of the files below a directory, each with its length in bytes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list(&self, below: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let found = self.0.list(&Path::from(below)).await?;
        Ok(found.into_iter().map(|meta| (meta.location.to_string(), meta.size)).collect())
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.0.delete(&Path::from(name)).await
    }

    /// Removes what killed processes began to write in a directory at least `age` before the file `than` was
    /// written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn remove_unfinished(
        &self,
        than: &str,
        age: std::time::Duration,
    ) -> Result<(), StoreError> {
        self.0.remove_unfinished(&Path::from(than), age).await.map(drop)
    }
}

fn unreadable(why: String) -> StoreError {
    StoreError::Unavailable { backend: "backup", action: "get", source: why.into() }
}

/// A file that is being written. It is not there before [`Self::finish`] returns.
pub struct ArchiveFile {
    writer: BufWriter,
}

impl std::fmt::Debug for ArchiveFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveFile").finish_non_exhaustive()
    }
}

impl ArchiveFile {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Unavailable`]: abandon the file.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let written = within(WRITTEN, "put", self.writer.put(bytes)).await?;
        written.map_err(|error| failed("put", error))
    }

    /// Makes the file durable and visible.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Unavailable`].
    pub async fn finish(mut self) -> Result<(), StoreError> {
        let end = async {
            self.writer.shutdown().await.map_err(|error| object_store::Error::Generic {
                store: "backup",
                source: error.into(),
            })
        };
        within(WRITTEN, "put", end).await?.map_err(|error| failed("put", error))
    }

    /// Gives the file up, and removes what was sent of it.
    pub async fn abandon(mut self) {
        drop(within(WRITTEN, "put", self.writer.abort()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_appear_whole_and_are_replaced_by_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("backups");
        let url = place.to_str().unwrap();
        assert!(matches!(Archive::open(url, false), Err(ArchiveError::NoDirectory(_))));
        assert!(matches!(Archive::open("backups", true), Err(ArchiveError::Url)));
        let archive = Archive::open(url, true).unwrap();
        assert!(archive.create("one", Bytes::from_static(b"1")).await.unwrap());
        assert!(!archive.create("one", Bytes::from_static(b"2")).await.unwrap());
        assert_eq!(archive.read("one", 9).await.unwrap().unwrap(), "1");
        assert!(archive.read("one", 0).await.is_err());
        assert!(archive.read("two", 9).await.unwrap().is_none());
        for length in [0, 100, PIECE_BYTES, 2 * PIECE_BYTES + 5] {
            let name = format!("data/{length}");
            let mut file = archive.begin(&name);
            file.write(vec![7; length].into()).await.unwrap();
            assert_eq!(archive.size(&name).await.unwrap(), None);
            file.finish().await.unwrap();
            let read: Vec<Bytes> =
                archive.stream(&name).await.unwrap().unwrap().try_collect().await.unwrap();
            assert_eq!(read.concat(), vec![7; length]);
        }
        let mut abandoned = archive.begin("data/gone");
        abandoned.write(vec![7; 2 * PIECE_BYTES].into()).await.unwrap();
        abandoned.abandon().await;
        let mut listed = archive.list("data").await.unwrap();
        listed.sort();
        assert_eq!((listed.len(), listed[0].clone()), (4, ("data/0".to_owned(), 0)));
        archive.delete("data/0").await.unwrap();
        archive.delete("data/0").await.unwrap();
        assert_eq!(archive.size("data/0").await.unwrap(), None);
        assert_eq!(std::fs::read_dir(place.join("data")).unwrap().count(), 3, "nothing is left");
    }
}
