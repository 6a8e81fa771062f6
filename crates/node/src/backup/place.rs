//! A place for backups: small files, and volumes that are encrypted and hashed on their way.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use fula_core::StoreError;
use fula_service::{Random, error::chain, system_random};
use fula_stores::{Archive, ArchiveFile};
use futures::{StreamExt, stream, stream::BoxStream};
use serde::{Deserialize, Serialize};

use super::{
    manifest::{FORMAT, Manifest, Volume},
    seal::{self, BackupKey, Opener, Sealer},
};

/// File that says what the place is.
const MARK: &str = "fula-backup";

const MARK_BYTES_MAX: u64 = 4096;

/// Directory of the manifests.
const MANIFESTS: &str = "backups";

/// Longest manifest in bytes.
const MANIFEST_BYTES_MAX: u64 = 512 << 20;

/// Bytes of a file that are handed on.
pub(crate) type Read = BoxStream<'static, Result<Bytes, String>>;

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    format: u32,
    /// Fingerprint of the key that encrypts everything else; none if nothing is encrypted.
    key: Option<String>,
}

/// A place for backups.
#[derive(Clone)]
pub(crate) struct Place {
    archive: Archive,
    key: Option<Arc<BackupKey>>,
    random: Random,
}

impl Place {
    /// Opens a place. With `begins`, a place that is empty becomes one for backups.
    ///
    /// # Errors
    /// The reason why it cannot be used, in words for the operator.
    pub(crate) async fn open(
        place: &str,
        key_file: Option<&Path>,
        begins: bool,
    ) -> Result<Self, String> {
        let key = key_file.map(BackupKey::read).transpose().map_err(|error| chain(&error))?;
        let archive = Archive::open(&absolute(place)?, begins);
        let archive =
            archive.map_err(|error| format!("the place of the backups: {}", chain(&error)))?;
        let key = key.map(Arc::new);
        let opened = Self { archive, key, random: system_random() };
        opened.check_mark(begins).await?;
        Ok(opened)
    }

    async fn check_mark(&self, begins: bool) -> Result<(), String> {
        let ours = self.key.as_ref().map(|key| key.fingerprint());
        let mut found = self.archive.read(MARK, MARK_BYTES_MAX).await.map_err(unusable)?;
        if found.is_none() {
            if !begins {
                return Err(
                    "there are no backups at this place: it has no file fula-backup".to_owned()
                );
            }
            let others = self.archive.list("").await.map_err(unusable)?;
            if let Some((name, _)) = others.first() {
                return Err(format!(
                    "the place is not empty, and has no backups: it holds {name}; name a directory or a prefix of \
                     its own"
                ));
            }
            let mark = Mark { format: FORMAT, key: ours.clone() };
            let mark = serde_json::to_vec(&mark).unwrap_or_default();
            if self.archive.create(MARK, mark.into()).await.map_err(unusable)? {
                return Ok(());
            }
            found = self.archive.read(MARK, MARK_BYTES_MAX).await.map_err(unusable)?;
        }
        let mark: Mark = serde_json::from_slice(&found.unwrap_or_default())
            .map_err(|_| "the file fula-backup of this place is damaged".to_owned())?;
        if mark.format > FORMAT {
            return Err(
                "these backups were made by a newer version of Fula: use that one".to_owned()
            );
        }
        match (mark.key, ours) {
            (theirs, ours) if theirs == ours => Ok(()),
            (Some(_), None) => {
                Err("these backups are encrypted: name the file of their key with --key-file \
                                    (FULA_BACKUP_KEY_FILE)"
                    .to_owned())
            }
            (Some(_), Some(_)) => {
                Err("these backups are encrypted with another key than --key-file \
                                       (FULA_BACKUP_KEY_FILE) names"
                    .to_owned())
            }
            (None, _) => Err("the backups at this place are not encrypted: leave --key-file \
                              (FULA_BACKUP_KEY_FILE) out, or begin at another place"
                .to_owned()),
        }
    }

    /// Returns whether backups at this place are encrypted.
    pub(crate) fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Returns the names and lengths in bytes of all files with content.
    ///
    /// # Errors
    /// The reason why they cannot be listed.
    pub(crate) async fn files(&self) -> Result<Vec<(String, u64)>, String> {
        self.archive.list("data").await.map_err(unusable)
    }

    /// Returns the name of the file of a manifest.
    pub(super) fn manifest_file(id: &str) -> String {
        format!("{MANIFESTS}/{id}.json")
    }

    /// Returns the ids of all backups, oldest first.
    ///
    /// # Errors
    /// The reason why they cannot be listed.
    pub(crate) async fn ids(&self) -> Result<Vec<String>, String> {
        let found = self.archive.list(MANIFESTS).await.map_err(unusable)?;
        let id = |name: &str| {
            let name = name.strip_prefix(MANIFESTS)?.strip_prefix('/')?;
            name.strip_suffix(".json").map(str::to_owned)
        };
        let mut ids: Vec<String> = found.iter().filter_map(|(name, _)| id(name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    pub(crate) async fn manifest(&self, id: &str) -> Result<Manifest, String> {
        let name = Self::manifest_file(id);
        let stored = self.archive.read(&name, MANIFEST_BYTES_MAX).await.map_err(unusable)?;
        let stored = stored.ok_or_else(|| format!("there is no backup {id}"))?;
        let failed = |why: &str| format!("the file {name}: {why}");
        let content = match &self.key {
            Some(key) => {
                let opened = seal::open(key, &name, &stored);
                opened.map_err(|error| failed(&error.to_string()))?
            }
            None => stored,
        };
        let found: Manifest = serde_json::from_slice(&content)
            .map_err(|_| failed("it is damaged, or written by a newer version of Fula"))?;
        if found.format > FORMAT {
            return Err(failed("it was written by a newer version of Fula: use that one"));
        }
        if found.id != id {
            return Err(failed("it is the manifest of another backup"));
        }
        Ok(found)
    }

    /// Writes a manifest. From now on the backup counts.
    ///
    /// # Errors
    /// The reason why it does not.
    pub(crate) async fn publish(&self, manifest: &Manifest) -> Result<(), String> {
        let name = Self::manifest_file(&manifest.id);
        let content = serde_json::to_vec(manifest).map_err(|error| error.to_string())?;
        if content.len() as u64 > MANIFEST_BYTES_MAX / 2 {
            return Err("there are too many buckets for one backup".to_owned());
        }
        let stored = match &self.key {
            Some(key) => seal::seal(key, &name, &content, &self.random),
            None => content.into(),
        };
        if self.archive.create(&name, stored).await.map_err(unusable)? {
            Ok(())
        } else {
            Err(format!("there is a backup {} already", manifest.id))
        }
    }

    /// Begins a volume.
    pub(super) fn begin_volume(&self, name: String) -> VolumeWriter {
        let file = self.archive.begin(&name);
        let (sealer, head) = match &self.key {
            Some(key) => {
                let (sealer, head) = Sealer::begin(key, &name, &self.random);
                (Some(sealer), head)
            }
            None => (None, Bytes::new()),
        };
        let hash = blake3::Hasher::new();
        VolumeWriter { file, sealer, head: Some(head), hash, name, bytes: 0, content: 0 }
    }

    /// Returns the content of a volume. The stream ends with an error unless the file is exactly what was written.
    pub(super) async fn volume(&self, volume: &Volume) -> Result<Read, String> {
        let name = &volume.file;
        let found = self.archive.stream(name).await;
        let found = found.map_err(|error| format!("the file {name}: {}", chain(&error)))?;
        let bytes = found.ok_or_else(|| format!("the file {name} is missing"))?;
        let opener = self.key.as_ref().map(|key| Opener::begin(Arc::clone(key), name.clone()));
        let (volume, hash) = (volume.clone(), blake3::Hasher::new());
        let reading = Reading { bytes, opener, volume, hash, count: 0, is_done: false };
        let pieces = stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|piece| (piece, reading)))
        });
        Ok(pieces.boxed())
    }
}

/// Returns an absolute path for a path of a directory, and leaves URLs as they are.
fn absolute(place: &str) -> Result<String, String> {
    if place.contains("://") || place.starts_with("file:") || place.starts_with('/') {
        return Ok(place.to_owned());
    }
    let path = std::path::absolute(place);
    let path = path.map_err(|error| format!("{place}: {}", fula_core::error::io_text(&error)))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Returns the text for an error of the place.
pub(super) fn unusable(error: StoreError) -> String {
    format!("the place of the backups: {}", chain(&error))
}

/// A volume that is being written.
pub(super) struct VolumeWriter {
    file: ArchiveFile,
    sealer: Option<Sealer>,
    head: Option<Bytes>,
    hash: blake3::Hasher,
    name: String,
    bytes: u64,
    content: u64,
}

impl VolumeWriter {
    /// Returns the number of bytes of content so far.
    pub(super) fn content(&self) -> u64 {
        self.content
    }

    async fn store(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.file.write(bytes).await
    }

    /// Appends content.
    pub(super) async fn write(&mut self, content: Bytes) -> Result<(), StoreError> {
        if let Some(head) = self.head.take() {
            self.store(head).await?;
        }
        self.content += content.len() as u64;
        let stored = match &mut self.sealer {
            Some(sealer) => sealer.push(&content),
            None => content,
        };
        self.store(stored).await
    }

    /// Ends the volume, which is durable then.
    pub(super) async fn finish(mut self) -> Result<Volume, StoreError> {
        self.write(Bytes::new()).await?;
        if let Some(sealer) = self.sealer.take() {
            let last = sealer.finish();
            self.store(last).await?;
        }
        self.file.finish().await?;
        let blake3 = self.hash.finalize().to_hex().to_string();
        Ok(Volume { file: self.name, bytes: self.bytes, blake3 })
    }

    /// Gives the volume up.
    pub(super) async fn abandon(self) {
        self.file.abandon().await;
    }
}

/// A volume that is being read.
struct Reading {
    bytes: BoxStream<'static, Result<Bytes, StoreError>>,
    opener: Option<Opener>,
    volume: Volume,
    hash: blake3::Hasher,
    count: u64,
    is_done: bool,
}

impl Reading {
    fn failed(&self, why: &str) -> String {
        format!("the file {}: {why}", self.volume.file)
    }

    /// Returns the next piece of content; `None` at the end of a file that is as it was written.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        while !self.is_done {
            let Some(piece) = self.bytes.next().await else {
                self.is_done = true;
                return self.end();
            };
            let piece = piece.map_err(|error| self.failed(&chain(&error)))?;
            self.count += piece.len() as u64;
            if self.count > self.volume.bytes {
                return Err(self.failed("it is longer than what was written"));
            }
            self.hash.update(&piece);
            let content = match &mut self.opener {
                Some(opener) => opener.push(&piece),
                None => Ok(piece),
            };
            let content = content.map_err(|error| self.failed(&error.to_string()))?;
            if !content.is_empty() {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<Option<Bytes>, String> {
        if self.count < self.volume.bytes {
            return Err(self.failed("it is cut off"));
        }
        if self.hash.finalize().to_hex().as_str() != self.volume.blake3 {
            return Err(self.failed("it is damaged: its bytes are not those that were written"));
        }
        let Some(opener) = self.opener.take() else { return Ok(None) };
        let last = opener.finish().map_err(|error| self.failed(&error.to_string()))?;
        Ok(Some(last).filter(|last| !last.is_empty()))
    }
}
