//! The object store that the masters share: a directory, or a bucket of S3, Google Cloud or Azure.
//!
//! Every call has a time bound, and an error says what the caller can do next.

mod archive;
mod open;
mod unfinished;

use std::{
    fmt, io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use fula_core::StoreError;
use futures::TryStreamExt;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    buffered::BufWriter, path::Path,
};

pub use self::{
    archive::{Archive, ArchiveError, ArchiveFile},
    open::ObjectStoreError,
};

/// Time after which a store counts as hung that has not read, found or deleted an object.
const ANSWER: Duration = Duration::from_secs(10);

/// The same for writing one. Commits and uploads have deadlines of their own.
pub(crate) const WRITTEN: Duration = Duration::from_mins(1);

/// Object that holds the store's own name.
const NAME: &str = "fula-store";

/// Longest name that a store can have, in bytes.
const NAME_BYTES_MAX: u64 = 1024;

/// Objects of a store that several masters share.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Directory of the objects, if they are files. Its file system may be unmounted.
    directory: Option<PathBuf>,
    /// The store's name, once it is known ([`Self::identify`]).
    known_name: Arc<OnceLock<String>>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.store)
    }
}

impl Objects {
    pub(crate) fn on(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, directory: None, known_name: Arc::default() }
    }

    /// Refuses a directory that has lost the store's name: its file system is not mounted, and what is put
    /// there would be hidden as soon as it is.
    pub(crate) async fn check_mounted(&self) -> Result<(), StoreError> {
        let (Some(_), Some(name)) = (&self.directory, self.known_name.get()) else { return Ok(()) };
        let text = match self.get(&Path::from(NAME), NAME_BYTES_MAX).await? {
            Found::Whole(found) if found == name.as_bytes() => return Ok(()),
            Found::None => {
                "the directory that FULA_BLOCKS names has no file fula-store any more: is its file system mounted?"
            }
            _ => {
                "the directory that FULA_BLOCKS names is another block store than before: is its file system \
                 mounted?"
            }
        };
        Err(StoreError::Unavailable { backend: "block store", action: "use", source: text.into() })
    }

    /// Returns what tells this store from any other: `fresh`, unless it was named before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also for an S3 server without conditional writes.
    pub async fn identify(&self, fresh: &str) -> Result<String, StoreError> {
        let name = Path::from(NAME);
        let payload = PutPayload::from(fresh.to_owned());
        let put = self.store.put_opts(&name, payload, PutMode::Create.into());
        let put = within(ANSWER, "put", put).await?;
        match put {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(failed("put", error)),
        }
        if put.is_ok() {
            drop(self.known_name.set(fresh.to_owned()));
            return Ok(fresh.to_owned());
        }
        let there = object_store::Error::NotFound { path: NAME.to_owned(), source: NAME.into() };
        self.name().await?.ok_or_else(|| failed("get", there))
    }

    /// Returns the store's own name, unless it has none yet.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn name(&self) -> Result<Option<String>, StoreError> {
        match self.get(&Path::from(NAME), NAME_BYTES_MAX).await? {
            Found::Whole(bytes) => {
                let name = String::from_utf8_lossy(&bytes).into_owned();
                drop(self.known_name.set(name.clone()));
                Ok(Some(name))
            }
            Found::None | Found::TooLong => Ok(None),
        }
    }

    /// Asks whether the store can be used.
    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        self.check_mounted().await?;
        self.size(&Path::from(NAME)).await.map(drop)
    }

    /// Refuses a store in which not even its own name is found: then what is not found there need not be lost.
    pub(crate) async fn check_named(&self) -> Result<(), StoreError> {
        self.check_mounted().await?;
        if self.known_name.get().is_none() || self.size(&Path::from(NAME)).await?.is_some() {
            return Ok(());
        }
        let source =
            "the block store has no object fula-store any more: is it the right one, and whole?"
                .into();
        Err(StoreError::Unavailable { backend: "block store", action: "use", source })
    }

    /// Writes a new object, and returns once it is durable; `false` where there is one of that name.
    pub(crate) async fn create(
        &self,
        path: &Path,
        payload: PutPayload,
    ) -> Result<bool, StoreError> {
        self.check_mounted().await?;
        let put = self.store.put_opts(path, payload, PutMode::Create.into());
        match within(WRITTEN, "put", put).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(failed("put", error)),
        }
    }

    /// Returns a writer of a new object of any length, which is durable once the writer is shut down.
    pub(crate) fn writer(&self, path: Path) -> BufWriter {
        BufWriter::new(Arc::clone(&self.store), path)
    }

    /// Returns a range of an object, or less where the object ends before; `None` where there is no such
    /// object.
    pub(crate) async fn get_range(
        &self,
        path: &Path,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StoreError> {
        let range = Some(GetRange::Bounded(range));
        let options = GetOptions { range, ..GetOptions::default() };
        let read = async { self.store.get_opts(path, options).await?.bytes().await };
        match within(ANSWER, "get", read).await? {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("get", error)),
        }
    }

    /// Returns a whole object, unless it is longer than `max` bytes.
    pub(crate) async fn get(&self, path: &Path, max: u64) -> Result<Found, StoreError> {
        let found = match within(ANSWER, "get", self.store.get(path)).await? {
            Err(object_store::Error::NotFound { .. }) => return Ok(Found::None),
            found => found.map_err(|error| failed("get", error))?,
        };
        if found.meta.size > max {
            return Ok(Found::TooLong);
        }
        let bytes = within(ANSWER, "get", found.bytes()).await?;
        bytes.map(Found::Whole).map_err(|error| failed("get", error))
    }

    /// Returns the length of an object in bytes, or `None` where there is no such object.
    pub(crate) async fn size(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        match within(ANSWER, "size", self.store.head(path)).await? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("size", error)),
        }
    }

    /// Removes an object, if it is there.
    pub(crate) async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        match within(ANSWER, "delete", self.store.delete(path)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", error)),
        }
    }

    /// Returns the objects below a prefix.
    pub(crate) async fn list(&self, prefix: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut listed = self.store.list(Some(prefix));
        let mut found = Vec::new();
        // A store that hangs in the middle of a listing counts as hung, too.
        while let Some(meta) = within(ANSWER, "list", listed.try_next())
            .await?
            .map_err(|error| failed("list", error))?
        {
            found.push(meta);
        }
        Ok(found)
    }

    /// Removes files of a directory that somebody began to write and that are older than the object `than` by
    /// at least `age`. Returns their number. Other stores keep no such objects.
    pub(crate) async fn remove_unfinished(
        &self,
        than: &Path,
        age: Duration,
    ) -> Result<u64, StoreError> {
        let Some(directory) = self.directory.clone() else { return Ok(0) };
        let than = directory.join(than.as_ref());
        let removed = tokio::task::spawn_blocking(move || {
            let until = std::fs::metadata(than)?.modified()?.checked_sub(age);
            until.map_or(Ok(0), |until| unfinished::remove(&directory, until))
        });
        let removed = removed.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        removed.map_err(|error| StoreError::Unavailable {
            backend: "object store",
            action: "remove unfinished files",
            source: error.into(),
        })
    }

    /// Returns whether there is any object below a prefix.
    pub(crate) async fn has_any(&self, prefix: &Path) -> Result<bool, StoreError> {
        let mut listed = self.store.list(Some(prefix));
        let first = within(ANSWER, "list", listed.try_next()).await?;
        Ok(first.map_err(|error| failed("list", error))?.is_some())
    }
}

/// What [`Objects::get`] found.
pub(crate) enum Found {
    None,
    TooLong,
    Whole(Bytes),
}

/// Waits for a call as long as a store may take that does not hang.
async fn within<T>(
    time: Duration,
    action: &'static str,
    call: impl Future<Output = object_store::Result<T>>,
) -> Result<object_store::Result<T>, StoreError> {
    tokio::time::timeout(time, call).await.map_err(|_| {
        let source = format!("no answer within {} s", time.as_secs()).into();
        StoreError::Unavailable { backend: "object store", action, source }
    })
}

pub(crate) fn failed(action: &'static str, error: object_store::Error) -> StoreError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        let full = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
        });
        if full {
            return StoreError::Full { backend: "object store" };
        }
        source = cause.source();
    }
    StoreError::Unavailable { backend: "object store", action, source: error.into() }
}

#[cfg(test)]
mod tests {
    use object_store::{
        memory::InMemory,
        throttle::{ThrottleConfig, ThrottledStore},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listing_of_a_store_that_hangs_is_given_up() {
        let hour = Duration::from_hours(1);
        let config = ThrottleConfig { wait_list_per_call: hour, ..ThrottleConfig::default() };
        let objects = Objects::on(Arc::new(ThrottledStore::new(InMemory::new(), config)));
        let begun = tokio::time::Instant::now();
        let refused = objects.list(&Path::from("packs")).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable { action: "list", .. }), "{refused}");
        assert!(begun.elapsed() <= ANSWER + Duration::from_secs(1));
    }
}
