//! Writing and deleting files.

use std::{collections::BTreeMap, sync::Arc, time::UNIX_EPOCH};

use fula_seal::{
    SealedKey, VaultPath,
    body::Metadata,
    name::{Anchor, KEPT, LISTED, Name},
};

use super::{
    ATTEMPTS, BODY_TYPE, Current, Found, Place, Vault,
    body::{Body, sealed},
    entropy::System,
};
use crate::{
    error::{Error, Result},
    meta::Version,
    put::PutOptions,
    remove::DeleteOptions,
    send::Meter,
    source::{Reader, Source},
    upload::Watch,
};

/// Longest stream of unknown length, in bytes: one segment, which is held in memory.
const UNKNOWN_MAX: usize = 16_744_448;

/// What must hold for a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: the file is replaced.
    #[default]
    None,
    /// There is no file.
    Absent,
    /// The file has this entity tag, of [`VaultEntry`](super::VaultEntry) or of a write.
    Version(String),
}

/// Options of a write.
#[derive(Clone, Debug, Default)]
pub struct VaultPutOptions {
    /// What must hold.
    pub condition: Condition,
    /// Time of the last change of the file, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// Headers and metadata of S3 by name. They are sealed.
    pub entries: BTreeMap<String, String>,
    /// Counts the bytes that are sent.
    pub meter: Option<Meter>,
}

/// A file that is ready to be sent: everything but its content is sealed.
pub(super) struct Plan {
    pub(super) body: Body,
    pub(super) key: SealedKey,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) clock: u64,
}

/// A name that is ready to be sent.
pub(super) struct Named {
    pub(super) key: SealedKey,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) clock: u64,
}

/// Returns a source that can be read again; `None` for a stream.
fn again(source: &Source) -> Option<Source> {
    match source {
        Source::Bytes(bytes) => Some(Source::Bytes(bytes.clone())),
        Source::File(path) => Some(Source::File(path.clone())),
        Source::Stream { .. } => None,
    }
}

/// Returns the clock of a write that follows another one.
pub(super) fn next_clock(seen: u64) -> u64 {
    let since = crate::date::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or_default();
    now.max(seen.saturating_add(1))
}

/// Returns the two metadata values of a name.
pub(super) fn values(sealed: fula_seal::name::Sealed) -> BTreeMap<String, String> {
    [(LISTED.to_owned(), sealed.listed), (KEPT.to_owned(), sealed.kept)].into()
}

impl Vault {
    /// Writes a file. It is sealed segment by segment while it is sent, and becomes visible as a whole.
    ///
    /// Without a condition, it replaces the file of that moment. A stream that cannot be read again fails if
    /// another device writes the same file meanwhile.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::Changed`] if the condition failed; [`Error::Unsupported`] for a stream of
    /// unknown length that is longer than 16 MiB; [`Error::Sealed`] if the present file is not genuine: delete it first.
    pub async fn put(
        &self,
        path: &VaultPath,
        body: impl Into<Source> + Send,
        options: VaultPutOptions,
    ) -> Result<Version> {
        let mut source = body.into();
        for attempt in 1.. {
            let found = self.look_up(path).await?;
            check(&options.condition, found.as_ref(), &self.0.place)?;
            let next = again(&source);
            match Box::pin(self.put_once(path, source, &options, found)).await {
                Err(Error::Changed { .. } | Error::Exists { .. })
                    if options.condition == Condition::None && attempt < ATTEMPTS =>
                {
                    source = next.ok_or_else(|| Error::Changed {
                        what: self.0.place.shown(),
                        current: None,
                    })?;
                    self.yield_to_others(attempt).await;
                }
                put => return put,
            }
        }
        Err(Error::Canceled)
    }

    pub(super) async fn put_once(
        &self,
        path: &VaultPath,
        source: Source,
        options: &VaultPutOptions,
        found: Option<Found>,
    ) -> Result<Version> {
        let mut reader = Reader::open(source).await?;
        let note = self.note(path, reader.stamp(), options).await?;
        if let Some((note, Some(noted))) = &note {
            let resumed = self.resume(path, &mut reader, options, found.as_ref(), (note, noted));
            let resumed = resumed.await;
            match &resumed {
                Err(error) if note.keeps(error) => {}
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => note.remove(),
            }
            if let Some(version) = resumed? {
                return Ok(version);
            }
        }
        let note = note.map(|(note, _)| note);
        let (size, first) = if let Some(len) = reader.len {
            (len, None)
        } else {
            let first = reader.read(UNKNOWN_MAX + 1).await?;
            if first.len() > UNKNOWN_MAX {
                let text =
                    "a stream of unknown length of more than 16 MiB: write it to a file first";
                return Err(Error::Unsupported(text.to_owned()));
            }
            (first.len() as u64, Some(first))
        };
        let current = self.current();
        let plan = self.plan(&current, path, size, options, found.as_ref())?;
        let (key, clock, metadata) = (plan.key, plan.clock, plan.metadata.clone());
        let put = PutOptions {
            content_type: Some(BODY_TYPE.to_owned()),
            metadata,
            if_match: found.as_ref().map(|found| found.etag.clone()),
            if_absent: found.is_none(),
            meter: options.meter.clone(),
            part_bytes: Some(plan.body.part_bytes),
            ..PutOptions::default()
        };
        if let Some((note, stamp)) = note.as_ref().zip(reader.stamp()) {
            let Body { epoch, file, ref listed, .. } = plan.body;
            let journal = current.keyring.keys().journal(epoch, file)?;
            note.begin(epoch, file, journal, listed.clone(), stamp);
        }
        let len = Some(plan.body.sealed_bytes);
        let body = Source::stream(sealed(plan.body, reader, (first, note.clone())), len);
        let watch = note.clone().map(|note| note as Arc<dyn Watch>);
        let put = self.0.place.bucket.put_watched(&self.0.place.key(key), body, put, watch).await;
        if let Some(note) = note
            && !put.as_ref().is_err_and(|error| note.keeps(error))
        {
            note.remove();
        }
        let put = put?;
        self.0.state.lock().remember(&[(key, clock)])?;
        self.settle().await?;
        Ok(put.version)
    }

    /// Seals everything of a file but its content.
    pub(super) fn plan(
        &self,
        current: &Current,
        path: &VaultPath,
        size: u64,
        options: &VaultPutOptions,
        found: Option<&Found>,
    ) -> Result<Plan> {
        let body = self.plan_body(current, size, &metadata(path, options))?;
        let name =
            self.named(current, path, (size, options.modified), found, &body.ending.anchor)?;
        let Named { key, metadata, clock } = name;
        Ok(Plan { body, key, metadata, clock })
    }

    /// Seals the name of a file whose body is sealed, or planned.
    pub(super) fn named(
        &self,
        current: &Current,
        path: &VaultPath,
        (size, modified): (u64, Option<u64>),
        found: Option<&Found>,
        anchor: &Anchor,
    ) -> Result<Named> {
        let keys = current.keyring.keys();
        let key = keys.sealed_key(path);
        let seen = self.0.state.lock().clock(key);
        let clock = next_clock(seen.max(found.map_or(0, |found| found.name.clock)));
        let name = Name { path: path.clone(), size, modified, etag: None, clock };
        let device = self.0.identity.signing_key();
        let name = name.seal(keys, anchor, device, &mut System)?;
        Ok(Named { key, metadata: values(name), clock })
    }

    /// Deletes a file. To delete one that does not exist is no error, unless a version is named.
    ///
    /// # Errors
    /// [`Error::Changed`] if the file is another version.
    pub async fn delete(&self, path: &VaultPath, condition: Condition) -> Result<Version> {
        let key = self.current().keyring.keys().sealed_key(path);
        let if_match = match condition {
            Condition::Version(etag) => Some(etag),
            Condition::None | Condition::Absent => None,
        };
        self.0.place.bucket.delete(&self.0.place.key(key), DeleteOptions { if_match }).await
    }
}

/// Returns the metadata that is sealed with a body.
pub(super) fn metadata(path: &VaultPath, options: &VaultPutOptions) -> Metadata {
    let (modified, entries) = (options.modified, options.entries.clone());
    Metadata { modified, etag: None, entries, path: path.clone() }
}

/// Checks a condition against what was looked up.
fn check(condition: &Condition, found: Option<&Found>, place: &Place) -> Result<()> {
    let what = || format!("the file in {}", place.shown());
    match (condition, found) {
        (Condition::Absent, Some(_)) => Err(Error::Exists { what: what() }),
        (Condition::Version(etag), Some(found)) if *etag == found.etag => Ok(()),
        (Condition::Version(_), found) => {
            let current = found.map(|found| found.etag.clone());
            Err(Error::Changed { what: what(), current })
        }
        (Condition::None | Condition::Absent, _) => Ok(()),
    }
}
