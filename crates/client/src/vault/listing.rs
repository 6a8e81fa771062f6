//! Listing a vault. The server lists all objects of the vault in one stream; paths are decrypted and sorted here.

use fula_seal::{
    SealError, SealedKey, VaultPath,
    name::{LISTED, Opened as OpenedName},
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Found, Vault};
use crate::{
    error::{Error, Result},
    items::{Listed, Told},
    list::{Entry, ListOptions},
};

/// Requests in flight for the names of objects, on servers without the stream.
const HEADS: usize = 16;

/// A file in a listing. Path, size and time are those that the name has; its signature is verified when the file is
/// read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultEntry {
    /// Path.
    pub path: VaultPath,
    /// Size of the content in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// Entity tag of the object, for conditions.
    pub etag: String,
}

impl VaultEntry {
    pub(super) fn of(found: &Found) -> Self {
        let (name, etag) = (&found.name, found.etag.clone());
        Self { path: name.path.clone(), size: name.size, modified: name.modified, etag }
    }
}

/// The files of a vault at one time, in order of their paths.
#[derive(Debug, Default)]
pub struct VaultListing {
    /// Files.
    pub entries: Vec<VaultEntry>,
    /// Objects that look like files and do not open, with the reason. They are damaged, or someone else put them
    /// there.
    pub refused: Vec<(String, Error)>,
    /// Version of the bucket; `None` from servers other than Fula.
    pub version: Option<u64>,
}

impl Vault {
    /// Lists the files whose paths begin with `prefix`.
    ///
    /// # Errors
    /// As for every request; [`Error::Sealed`] with [`SealError::RolledBack`] if the server shows an older state
    /// of the bucket. A file that does not open is no error: see [`VaultListing::refused`].
    pub async fn list(&self, prefix: &[u8]) -> Result<VaultListing> {
        self.refresh().await?;
        let take = |opened: &mut Opening, key, object: Listed| match self.entry(key, &object) {
            Ok((entry, clock)) => {
                opened.clocks.push((key, clock));
                if entry.path.as_bytes().starts_with(prefix) {
                    opened.entries.push(entry);
                }
            }
            Err(error) => opened.refused.push((object.key, error)),
        };
        let (Opening { mut entries, refused, clocks }, version) =
            self.objects(LISTED, take).await?;
        // Two objects never have the same path: their key is made of it.
        entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        self.0.state.lock().remember(&clocks)?;
        self.settle().await?;
        Ok(VaultListing { entries, refused, version })
    }

    /// Lists all objects that may be files, with one metadata value of each, and hands them to `take`. Returns what
    /// `take` has made of them, and the version of the bucket. All of them are of one version: a stream that
    /// breaks off is read again from its begin, with a new `T`. Otherwise a file that is renamed meanwhile could be
    /// missing.
    pub(super) async fn objects<T: Default>(
        &self,
        meta: &str,
        take: impl Fn(&mut T, SealedKey, Listed),
    ) -> Result<(T, Option<u64>)> {
        let place = &self.0.place;
        for attempt in 1.. {
            let Some(mut stream) = place.bucket.streamed(&place.prefix, Some(meta), None).await?
            else {
                break;
            };
            let mut taken = T::default();
            let broken = loop {
                for object in stream.items.found.drain(..) {
                    if let Some(key) = place.sealed_key(&object.key) {
                        take(&mut taken, key, object);
                    }
                }
                if stream.items.is_done {
                    break None;
                }
                if let Err(error) = stream.read().await {
                    break Some(error);
                }
            };
            match (broken, stream.items.version) {
                (None, Some(version)) => {
                    self.see_bucket(version)?;
                    return Ok((taken, Some(version)));
                }
                (Some(error), _) => {
                    place.bucket.client().retry_policy().rest(attempt, error).await?;
                }
                // A stream that is done has a begin.
                (None, None) => break,
            }
        }
        let mut taken = T::default();
        for object in self.headed(meta).await? {
            if let Some(key) = place.sealed_key(&object.key) {
                take(&mut taken, key, object);
            }
        }
        Ok((taken, None))
    }

    /// Opens the name of an object. Returns its clock, too.
    pub(super) fn entry(&self, key: SealedKey, object: &Listed) -> Result<(VaultEntry, u64)> {
        let Told::Value(listed) = &object.value else {
            return Err(SealError::Truncated { what: "the name" }.into());
        };
        let opened = OpenedName::open(self.current().keyring.keys(), key, listed)?;
        opened.check_clock(self.0.state.lock().clock(key))?;
        let (name, etag) = (opened.name, object.etag.clone());
        let entry = VaultEntry { path: name.path, size: name.size, modified: name.modified, etag };
        Ok((entry, name.clock))
    }

    /// Lists all objects in pages, and asks for the metadata of each: for servers without the stream.
    async fn headed(&self, meta: &str) -> Result<Vec<Listed>> {
        let place = &self.0.place;
        let listing = place.bucket.list(&place.prefix, ListOptions::default());
        let keys = listing.try_filter_map(|entry| async move {
            Ok(match entry {
                Entry::Object { key, .. } if place.sealed_key(&key).is_some() => Some(key),
                Entry::Object { .. } | Entry::Prefix(_) => None,
            })
        });
        let keys: Vec<String> = keys.try_collect().await?;
        let heads = stream::iter(keys).map(|key| async move {
            match place.bucket.head(&key).await {
                Ok(mut found) => {
                    let value = found.metadata.remove(meta).map_or(Told::Nothing, Told::Value);
                    let (size, etag, modified) = (found.size, found.version.etag, found.modified);
                    Ok(Some(Listed { key, size, etag, modified, value }))
                }
                // It was deleted meanwhile.
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        heads.buffered(HEADS).try_filter_map(|listed| async { Ok(listed) }).try_collect().await
    }
}

/// The names that were opened so far.
#[derive(Default)]
struct Opening {
    entries: Vec<VaultEntry>,
    refused: Vec<(String, Error)>,
    clocks: Vec<(SealedKey, u64)>,
}
