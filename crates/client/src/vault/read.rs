//! Reading files: a whole one, or a range. Plaintext is handed out chunk by chunk, after its tag was verified.

use std::{collections::BTreeMap, mem, ops::Range};

use bytes::Bytes;
use fula_seal::{
    SealError, VaultPath,
    body::{FOOTER_BYTES, Layout, Proof, RangeReader, Trailer, open_named},
};
use futures::{Stream, stream};

use super::{Found, Vault};
use crate::{
    error::{Error, Result},
    get::{Get, GetOptions, Span},
    send::Meter,
};

/// Files below this size in bytes have one segment, also if they were written by another program: it is the shortest
/// part of an upload. The name says where the segment is.
const SINGLE_BYTES: u64 = 5 << 20;
/// Files of up to this size in bytes are read as a whole, with the end of their body, and compared with what was signed
/// before any of it is handed out.
const WHOLE_BYTES: u64 = 1 << 20;
/// Longest body of such a file in bytes: content, padding, trailer and proof.
const WHOLE_BODY_BYTES: usize = 4 << 20;

/// Options of a read.
#[derive(Clone, Debug, Default)]
pub struct VaultGetOptions {
    /// Bytes of the content; everything by default. It is cut at the end of the content.
    pub range: Option<Range<u64>>,
    /// Counts the bytes that arrive.
    pub meter: Option<Meter>,
}

/// A file that is being read.
#[derive(Debug)]
pub struct VaultGet {
    /// Size of the content in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// Entity tag, for conditions.
    pub etag: String,
    /// Bytes of the content that are read.
    pub range: Range<u64>,
    /// Content that is left to be handed out, and was verified.
    pub(super) ready: Bytes,
    /// What is left to be read.
    pub(super) body: Option<(Get, RangeReader)>,
}

impl Vault {
    /// Returns size, time and version of a file.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Sealed`] if the file is not genuine.
    pub async fn head(&self, path: &VaultPath) -> Result<super::VaultEntry> {
        let found = self.look_up(path).await?.ok_or_else(|| self.missing())?;
        self.settle().await?;
        Ok(super::VaultEntry::of(&found))
    }

    /// Returns what [`Self::head`] returns, and the headers and metadata of S3 by name, as they were when the
    /// content was written.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Sealed`] if the file is not genuine.
    pub async fn stat(
        &self,
        path: &VaultPath,
    ) -> Result<(super::VaultEntry, BTreeMap<String, String>)> {
        let found = self.look_up(path).await?.ok_or_else(|| self.missing())?;
        let entries = self.ending(&found).await?.0.metadata.entries;
        self.settle().await?;
        Ok((super::VaultEntry::of(&found), entries))
    }

    pub(super) fn missing(&self) -> Error {
        Error::NotFound { what: format!("the file in {}", self.0.place.shown()) }
    }

    /// Reads a file. If it is overwritten meanwhile, the read fails, and no bytes of two versions are mixed.
    ///
    /// Every byte is verified with the keys of the vault before it is handed out. That a writer sealed it is verified
    /// before anything is handed out of a file of up to 1 MiB, and segment by segment of a larger one: its last bytes
    /// come after the hash of the whole matched. A range is not compared with the hash.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Changed`]; [`Error::Sealed`] with what is wrong with the file.
    pub async fn get(&self, path: &VaultPath, options: VaultGetOptions) -> Result<VaultGet> {
        let found = self.look_up(path).await?.ok_or_else(|| self.missing())?;
        let VaultGetOptions { range, meter } = options;
        let is_whole = range.as_ref().is_none_or(|range| {
            range.start == 0 && range.end >= found.name.size && found.name.size > 0
        });
        if is_whole && found.name.size <= WHOLE_BYTES {
            self.settle().await?;
            return self.read_whole(found, meter).await;
        }
        let (layout, proof) = if !is_whole && found.name.size < SINGLE_BYTES {
            // A file of one segment has it in its name.
            (found.anchor.single_segment(found.name.size, found.bytes)?, None)
        } else {
            let (trailer, proof) = self.ending(&found).await?;
            (trailer.layout, proof)
        };
        self.settle().await?;
        self.read_found(&found, (&layout, proof), range, meter).await
    }

    /// Reads a small file that was looked up, and verifies all of it.
    async fn read_whole(&self, found: Found, meter: Option<Meter>) -> Result<VaultGet> {
        let sealed = self.get_sealed(&found, 0..found.bytes, meter).await?;
        let sealed = sealed.bytes(WHOLE_BODY_BYTES).await?;
        let (current, anchor) = (self.current(), &found.anchor);
        let keyring = &current.keyring;
        let writer = |device, epoch| keyring.writer(device, epoch);
        let content = open_named(keyring.keys(), &sealed, anchor, writer)?.content;
        if content.len() as u64 != found.name.size {
            return Err(SealError::Misplaced { what: "the content" }.into());
        }
        let range = 0..found.name.size;
        let Found { name, etag, .. } = found;
        let (size, modified, ready) = (name.size, name.modified, content.into());
        Ok(VaultGet { size, modified, etag, range, ready, body: None })
    }

    /// Begins to read a file that was looked up. What is read as a whole is compared with the proof.
    pub(super) async fn read_found(
        &self,
        found: &Found,
        (layout, proof): (&Layout, Option<Proof>),
        range: Option<Range<u64>>,
        meter: Option<Meter>,
    ) -> Result<VaultGet> {
        let wanted = range.unwrap_or(0..layout.size());
        let range = wanted.start.min(layout.size())..wanted.end.min(layout.size());
        let current = self.current();
        let footer = found.anchor.footer();
        let mut reader = RangeReader::new(current.keyring.keys(), &footer, layout, range.clone())?;
        if let Some(proof) = proof {
            reader = reader.proved_by(proof);
        }
        let sealed = reader.sealed_range();
        let body = if sealed.is_empty() {
            None
        } else {
            Some((self.get_sealed(found, sealed, meter).await?, reader))
        };
        Ok(VaultGet {
            size: found.name.size,
            modified: found.name.modified,
            etag: found.etag.clone(),
            range,
            ready: Bytes::new(),
            body,
        })
    }

    async fn get_sealed(
        &self,
        found: &Found,
        range: Range<u64>,
        meter: Option<Meter>,
    ) -> Result<Get> {
        let key = self.0.place.key(self.current().keyring.keys().sealed_key(&found.name.path));
        let options = GetOptions {
            range: Some(Span::Between(range.start, range.end)),
            if_match: Some(found.etag.clone()),
            if_none_match: None,
            meter,
        };
        self.0.place.bucket.get(&key, options).await
    }

    /// Reads the end of a file: the trailer, which must be the one that the name belongs to, and the proof of the
    /// content. Files of older clients have no proof, and then the name says so.
    pub(super) async fn ending(&self, found: &Found) -> Result<(Trailer, Option<Proof>)> {
        let footer = found.anchor.footer();
        let range = footer.trailer_range(found.bytes)?;
        let tail = self.get_sealed(found, range.start..found.bytes, None).await?;
        let tail = tail.bytes(2 << 20).await?;
        let trailer_bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let sealed = tail.len().checked_sub(FOOTER_BYTES).map(|len| &tail[..len]);
        let sealed = sealed.and_then(|sealed| sealed.split_at_checked(trailer_bytes));
        let (sealed, proof) =
            sealed.ok_or(SealError::Truncated { what: "the trailer of the file" })?;
        let current = self.current();
        let (keyring, anchor) = (&current.keyring, Some(&found.anchor));
        let trailer = Trailer::open(keyring.keys(), &footer, sealed, found.bytes, anchor)?;
        let writer = |device, epoch| keyring.writer(device, epoch);
        let proof = Proof::open(keyring.keys().vault(), &footer, sealed, proof, writer)?;
        Ok((trailer, proof))
    }
}

impl VaultGet {
    /// Returns the next bytes, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Sealed`] and as for [`Get::chunk`]. Nothing more can be read after an error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.ready.is_empty() {
            return Ok(Some(mem::take(&mut self.ready)));
        }
        let Some((body, reader)) = &mut self.body else { return Ok(None) };
        let mut plain = Vec::new();
        while let Some(sealed) = body.chunk().await? {
            reader.push(&sealed, &mut plain)?;
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
        }
        reader.finish()?;
        self.body = None;
        Ok(None)
    }

    /// Reads everything into memory, up to `max` bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is more, and as for [`Self::chunk`].
    pub async fn bytes(mut self, max: usize) -> Result<Bytes> {
        let len = self.range.end - self.range.start;
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= max) else {
            return Err(Error::Invalid(format!("there are {len} bytes, and {max} are the most")));
        };
        let mut whole = Vec::with_capacity(len);
        while let Some(bytes) = self.chunk().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.into())
    }

    /// Returns the bytes as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, |mut get| async {
            let chunk = get.chunk().await?;
            Ok(chunk.map(|chunk| (chunk, get)))
        })
    }
}
