//! Sharing by link: one file, or a folder as it is now, for people who are no members.
//!
//! What is shared is sealed anew, below the folder `s/` of the vault, under a key that stands in the link alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_seal::{
    BodyKey, SealError, VaultPath,
    body::{Footer, Metadata, RangeReader, Trailer},
    share::{ENTRIES_MAX, FOLDER, Link, LinkKind, Manifest, ShareId, SharedEntry},
};
use futures::{StreamExt, TryStreamExt, stream};
use zeroize::Zeroizing;

use super::{
    Piped, Vault, VaultEntry, VaultGetOptions, body,
    entropy::System,
    link::{MANIFEST_MAX, Tail},
};
use crate::{
    encode,
    error::{Error, Result},
    list::{Entry, ListOptions},
    put::PutOptions,
    remove::DeleteOptions,
    source::{Reader, Source},
};

/// Sealed metadata that says what a shared body is.
const KIND: &str = "fula-share";
/// Requests in flight.
const AT_ONCE: usize = 8;

/// A link that was made.
#[derive(Debug)]
pub struct Share {
    /// The link. Everyone who has it reads what it leads to.
    pub url: Zeroizing<String>,
    /// Key of the object that it leads to.
    pub key: String,
}

/// Something that is shared, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The link without its secret part, by which it is taken back.
    pub url: String,
    /// Path of the file or the folder when it was shared.
    pub path: VaultPath,
    /// Whether it is a folder.
    pub is_folder: bool,
}

impl Vault {
    /// Shares a file as it is now, and returns a link to it.
    ///
    /// The server must let everyone read what lies below `s/` in the vault.
    ///
    /// # Errors
    /// As for [`Vault::get`] and for every write.
    pub async fn share(&self, path: &VaultPath) -> Result<Share> {
        let name = name_of(path.as_bytes())?;
        let (id, key, modified) = self.share_body(path, "file").await?;
        self.link(id, Link { kind: LinkKind::File, name, modified, key })
    }

    /// Shares all files whose paths begin with `folder`, as they are now, and returns one link to all of them.
    /// `folder` is empty or ends with a slash.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there are none; [`Error::Sealed`] with [`SealError::TooLarge`] for more than 10 000
    /// files, or for one that is not genuine. Nothing is shared then.
    pub async fn share_folder(&self, folder: &[u8]) -> Result<Share> {
        let listing = self.list(folder).await?;
        if let Some((_, error)) = listing.refused.into_iter().next() {
            return Err(error);
        }
        if listing.entries.is_empty() {
            return Err(self.missing());
        }
        if listing.entries.len() > ENTRIES_MAX {
            let (found, max) = (listing.entries.len() as u64, ENTRIES_MAX as u64);
            return Err(SealError::TooLarge { what: "a shared folder (files)", found, max }.into());
        }
        let parts = stream::iter(listing.entries).map(|entry| self.share_part(entry, folder.len()));
        let parts: Vec<Result<SharedEntry>> = parts.buffered(AT_ONCE).collect().await;
        let (mut entries, mut failed) = (Vec::new(), None);
        for part in parts {
            match part {
                Ok(entry) => entries.push(entry),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let shared = match failed {
            Some(error) => Err(error),
            None => self.share_manifest(folder, &entries).await,
        };
        match shared {
            Ok(share) => Ok(share),
            Err(error) => {
                for entry in entries {
                    // What stays can be read by nobody: its key was never given away.
                    drop(self.delete_shared(&entry.id.key()).await);
                }
                Err(error)
            }
        }
    }

    async fn share_part(&self, entry: VaultEntry, skipped: usize) -> Result<SharedEntry> {
        let (id, key, modified) = self.share_body(&entry.path, "part").await?;
        let path = entry.path.as_bytes()[skipped..].to_vec();
        Ok(SharedEntry { path, id, key, size: entry.size, modified })
    }

    async fn share_manifest(&self, folder: &[u8], entries: &[SharedEntry]) -> Result<Share> {
        let content = Manifest(entries.to_vec()).encode()?;
        let shown = match folder.strip_suffix(b"/") {
            Some(folder) if !folder.is_empty() => folder,
            _ => b"vault",
        };
        let name = name_of(shown)?;
        let metadata = metadata(VaultPath::new(shown)?, None, "folder");
        let (len, bytes) = (content.len() as u64, Bytes::copy_from_slice(&content));
        let (id, key) = self.put_shared(bytes.into(), len, &metadata).await?;
        self.link(id, Link { kind: LinkKind::Folder, name, modified: None, key })
    }

    /// Seals a file anew for a link.
    async fn share_body(
        &self,
        path: &VaultPath,
        kind: &str,
    ) -> Result<(ShareId, BodyKey, Option<u64>)> {
        let get = self.get(path, VaultGetOptions::default()).await?;
        let (size, modified) = (get.size, get.modified);
        let metadata = metadata(path.clone(), modified, kind);
        let piped = Piped::new(get.into_stream(), size);
        let put = piped.through(|source| self.put_shared(source, size, &metadata)).await?;
        Ok((put.0, put.1, modified))
    }

    async fn put_shared(
        &self,
        source: Source,
        size: u64,
        metadata: &Metadata,
    ) -> Result<(ShareId, BodyKey)> {
        let reader = Reader::open(source).await?;
        let id = ShareId::generate(&mut System)?;
        let body = self.plan_body(&self.current(), size, metadata)?;
        let key = body.key.clone();
        let options = PutOptions {
            content_type: Some(super::BODY_TYPE.to_owned()),
            if_absent: true,
            part_bytes: Some(body.part_bytes),
            ..PutOptions::default()
        };
        let len = Some(body.sealed_bytes);
        let place = &self.0.place;
        let body = Source::stream(body::sealed(body, reader, (None, None)), len);
        place.bucket.put(&format!("{}{}", place.prefix, id.key()), body, options).await?;
        Ok((id, key))
    }

    fn url(&self, key: &str) -> String {
        let bucket = &self.0.place.bucket;
        let (name, key) = (encode::path(bucket.name()), encode::path(key));
        format!("{}/{name}/{key}", bucket.client().endpoint())
    }

    fn link(&self, id: ShareId, link: Link) -> Result<Share> {
        let key = format!("{}{}", self.0.place.prefix, id.key());
        let secret = link.to_text()?;
        Ok(Share { url: Zeroizing::new(format!("{}#{}", self.url(&key), *secret)), key })
    }

    /// Returns what is shared.
    ///
    /// # Errors
    /// As for every request. What does not open is left out: someone else put it there.
    pub async fn shares(&self) -> Result<Vec<Shown>> {
        let place = &self.0.place;
        let prefix = format!("{}{FOLDER}", place.prefix);
        let listing = place.bucket.list(&prefix, ListOptions::default());
        let keys: Vec<String> = listing
            .try_filter_map(|entry| async move {
                Ok(match entry {
                    Entry::Object { key, .. } => Some(key),
                    Entry::Prefix(_) => None,
                })
            })
            .try_collect()
            .await?;
        let opened = stream::iter(keys).map(|key| async move {
            let found = match self.open_shared(&key).await {
                Ok((_, _, trailer)) => trailer.metadata,
                Err(Error::Sealed(_) | Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let kind = found.entries.get(KIND).map(String::as_str);
            let is_folder = kind == Some("folder");
            let is_part = kind == Some("part");
            Ok((!is_part).then(|| Shown { url: self.url(&key), path: found.path, is_folder }))
        });
        opened.buffered(AT_ONCE).try_filter_map(|shown| async { Ok(shown) }).try_collect().await
    }

    /// Opens the trailer of something shared with the keys of the vault.
    async fn open_shared(&self, key: &str) -> Result<(Tail, Footer, Trailer)> {
        let tail = Tail::read(&self.0.place.bucket, key).await?;
        let (footer, sealed) = tail.trailer().await?;
        let current = self.current();
        let trailer = Trailer::open(current.keyring.keys(), &footer, &sealed, tail.size, None)?;
        Ok((tail, footer, trailer))
    }

    /// Takes back what a link leads to. Who read it already keeps it. The secret part of the link is not needed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a link of another vault; [`Error::NotFound`] if it was taken back before.
    pub async fn unshare(&self, url: &str) -> Result<()> {
        let wrong = || Error::Invalid("the link is none of this vault".to_owned());
        let url = url.split('#').next().unwrap_or_default();
        let id = url.rsplit('/').next().and_then(ShareId::parse).ok_or_else(wrong)?;
        let key = format!("{}{}", self.0.place.prefix, id.key());
        if url != self.url(&key) {
            return Err(wrong());
        }
        match self.open_shared(&key).await {
            Ok((tail, footer, trailer))
                if trailer.metadata.entries.get(KIND).is_some_and(|kind| kind == "folder") =>
            {
                let current = self.current();
                let all = 0..trailer.layout.size();
                let reader =
                    RangeReader::new(current.keyring.keys(), &footer, &trailer.layout, all)?;
                let get = tail.content(reader, trailer.layout.size(), None, None).await?;
                let manifest = Manifest::decode(get.bytes(MANIFEST_MAX).await?.to_vec())?;
                for entry in manifest.0 {
                    self.delete_shared(&entry.id.key()).await?;
                }
            }
            // What does not open is deleted, too.
            Ok(_) | Err(Error::Sealed(_)) => {}
            Err(error) => return Err(error),
        }
        self.delete_shared(&id.key()).await
    }

    async fn delete_shared(&self, key: &str) -> Result<()> {
        let place = &self.0.place;
        let key = format!("{}{key}", place.prefix);
        place.bucket.delete(&key, DeleteOptions::default()).await.map(drop)
    }
}

fn metadata(path: VaultPath, modified: Option<u64>, kind: &str) -> Metadata {
    let entries = BTreeMap::from([(KIND.to_owned(), kind.to_owned())]);
    Metadata { path, modified, etag: None, entries }
}

/// Returns the last part of a path as text.
fn name_of(path: &[u8]) -> Result<String> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| {
        Error::Invalid("the name of the file is not UTF-8, so it cannot stand in a link".to_owned())
    })?;
    Ok(name.to_owned())
}
