//! Uploads of large files that go on after an interruption.
//!
//! A segment is a part. What the server has stays as it is, if the file has the same content there. Every other segment
//! is sealed with a new salt, since no salt is ever used twice. So the salts differ from those that the name has which
//! was sent when the upload began: a commit completes it, and replaces the name (`?fula-commit`, docs/format.md).

use std::sync::Arc;

use bytes::Bytes;
use fula_seal::{
    FileId, JournalKey, VaultPath,
    body::{EndingSigner, FileSealer, Layout, PlannedSegment},
};
use futures::{StreamExt, stream::FuturesOrdered};

use super::{
    BODY_TYPE, Current, Found, Vault, VaultPutOptions,
    body::{self, Lengths},
    entropy::System,
    note::{self, Note, Noted},
    write::{self, Named},
};
use crate::{
    batch::BatchPut,
    checksum,
    error::Result,
    meta::Version,
    put::PutOptions,
    send::Meter,
    source::{Reader, Stamp},
    upload::{Upload, Watch},
};

/// Shortest file in bytes whose upload is noted. Below it, sending it anew costs less.
pub(super) const NOTED_MIN: u64 = 64 << 20;
/// Parts in flight.
const IN_FLIGHT: usize = 2;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// A segment: the server has it, or it is to be sealed.
enum Part {
    /// The hash of its sealed bytes, and its entity tag.
    Known([u8; 32], String),
    Missing(Box<PlannedSegment>),
}

impl Vault {
    /// Opens the note about the upload of a file; `None` for short files and for what is no file, for servers other than
    /// Fula, and if another process uploads the same file.
    pub(super) async fn note(
        &self,
        path: &VaultPath,
        stamp: Option<Stamp>,
        options: &VaultPutOptions,
    ) -> Result<Option<(Arc<Note>, Option<Noted>)>> {
        let is_long = stamp.is_some_and(|stamp| stamp.size >= NOTED_MIN);
        if !is_long || !self.0.place.bucket.client().is_fula().await {
            return Ok(None);
        }
        let file = self.0.state.lock().note(self.current().keyring.keys().sealed_key(path));
        let is_tried_again = options.condition == super::Condition::None;
        let opened = Note::open(&file, is_tried_again)?;
        Ok(opened.map(|(note, noted)| (Arc::new(note), noted)))
    }

    /// Goes on with an upload that was interrupted; `None` if the file has to be sent anew.
    pub(super) async fn resume(
        &self,
        path: &VaultPath,
        reader: &mut Reader,
        options: &VaultPutOptions,
        found: Option<&Found>,
        (note, noted): (&Note, &Noted),
    ) -> Result<Option<Version>> {
        let current = self.current();
        let bucket = &self.0.place.bucket;
        let key = self.0.place.key(current.keyring.keys().sealed_key(path));
        let put = PutOptions { meter: options.meter.clone(), ..PutOptions::default() };
        let upload = Upload::new(bucket, &key, put, 0);
        let Some((stamp, journal, sealer)) = usable(&current, reader, noted)? else {
            // Nobody goes on with it. If it is gone already, nothing is left to end.
            drop(upload.abort(&noted.head.upload).await);
            return Ok(None);
        };
        let Some(there) = upload.listed(&noted.head.upload).await? else { return Ok(None) };
        let lengths = Lengths::new(&current, stamp.size);
        let is_there = |part: &note::Part| {
            let number = u32::try_from(part.ordinal + 1).unwrap_or(u32::MAX);
            there.get(&number).is_some_and(|there| {
                there.etag == part.etag && there.size == part.segment().sealed_bytes()
            })
        };
        let (mut segments, mut parts, mut end) = (Vec::new(), Vec::new(), 0);
        for ordinal in 0..lengths.count {
            let (wanted, padded) = lengths.of(ordinal);
            let content = hash(reader, &journal, ordinal, wanted).await?;
            let known = noted.parts.get(&ordinal).filter(|part| part.content == content);
            // The last segment with content is followed by padding alone, which no hash covers.
            end += wanted as u64;
            let is_whole = end < stamp.size;
            let known = known.filter(|part| is_whole && is_there(part));
            if let Some(part) = known {
                segments.push(part.segment());
                parts.push(Part::Known(part.sealed, part.etag.clone()));
                continue;
            }
            let (segment, planned) = sealer.plan_segment(ordinal, padded as u64, &mut System)?;
            segments.push(segment);
            parts.push(Part::Missing(Box::new(planned)));
        }
        let layout = Layout::new(stamp.size, segments.clone())?;
        let ending = sealer.plan_end(&layout, &write::metadata(path, options), &mut System)?;
        let named =
            self.named(&current, path, (stamp.size, options.modified), found, &ending.anchor)?;
        note.begin(sealer.epoch(), sealer.file(), journal, segments, stamp);
        let (meter, id) = (options.meter.as_ref(), &*noted.head.upload);
        let running = Running { vault: self, lengths, meter, note, upload: &upload, id };
        let sent = match running.send(reader, parts, ending).await {
            Ok(etags) => self.complete(&key, (&noted.head.upload, etags), named, found).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &sent
            && !note.keeps(error)
        {
            drop(upload.abort(&noted.head.upload).await);
        }
        sent.map(Some)
    }

    async fn complete(
        &self,
        key: &str,
        (upload, etags): (&str, Vec<(u32, String)>),
        named: Named,
        found: Option<&Found>,
    ) -> Result<Version> {
        let put = BatchPut {
            body: Bytes::new(),
            content_type: Some(BODY_TYPE.to_owned()),
            metadata: named.metadata,
            if_match: found.map(|found| found.etag.clone()),
            if_absent: found.is_none(),
        };
        let batch = self.0.place.bucket.batch().complete(key, (upload, etags), put);
        let mut done = batch.commit().await?;
        self.0.state.lock().remember(&[(named.key, named.clock)])?;
        self.settle().await?;
        let etag = done.etags.pop().flatten().unwrap_or_default();
        Ok(Version { etag, bucket: Some(done.version) })
    }
}

/// Returns what seals the rest of an upload; `None` if the source is another one, or a newer epoch began.
fn usable(
    current: &Current,
    reader: &Reader,
    noted: &Noted,
) -> Result<Option<(Stamp, JournalKey, FileSealer)>> {
    let (keys, file) = (current.keyring.keys(), FileId(noted.head.file));
    let sealer = match FileSealer::resume(keys, noted.head.epoch, file) {
        Err(fula_seal::SealError::UnknownEpoch { .. }) => None,
        sealer => sealer?,
    };
    let Some((sealer, stamp)) = sealer.zip(reader.stamp()) else { return Ok(None) };
    let journal = keys.journal(noted.head.epoch, file)?;
    let is_same = note::source(&journal, stamp) == noted.head.source;
    Ok(is_same.then_some((stamp, journal, sealer)))
}

/// Reads a segment of the file, and returns the keyed hash of its content.
async fn hash(
    reader: &mut Reader,
    journal: &JournalKey,
    ordinal: u64,
    wanted: usize,
) -> Result<[u8; 32]> {
    let (mut hasher, mut left) = (journal.hasher(ordinal), wanted);
    while left > 0 {
        let plain = reader.read(left.min(PIECE)).await?;
        if plain.is_empty() {
            return Err(body::shorter());
        }
        left -= plain.len();
        hasher.update(&plain);
    }
    Ok(hasher.finish())
}

/// An upload whose rest is sent.
struct Running<'a> {
    vault: &'a Vault,
    lengths: Lengths,
    meter: Option<&'a Meter>,
    note: &'a Note,
    upload: &'a Upload<'a>,
    id: &'a str,
}

impl Running<'_> {
    /// Sends the parts that are missing, and returns number and entity tag of all.
    async fn send(
        &self,
        reader: &mut Reader,
        parts: Vec<Part>,
        mut ending: EndingSigner,
    ) -> Result<Vec<(u32, String)>> {
        let (count, mut at) = (self.lengths.count, 0);
        let (mut etags, mut flying) = (Vec::new(), FuturesOrdered::new());
        for (ordinal, part) in (0..).zip(parts) {
            let number = u32::try_from(ordinal + 1).unwrap_or(u32::MAX);
            let (wanted, padded) = self.lengths.of(ordinal);
            let from = at;
            at += wanted as u64;
            let planned = match part {
                Part::Missing(planned) => *planned,
                Part::Known(hash, etag) => {
                    ending.known(hash);
                    if let Some(meter) = self.meter {
                        meter.add(wanted as u64);
                    }
                    etags.push((number, etag));
                    continue;
                }
            };
            while flying.len() >= IN_FLIGHT {
                self.took(flying.next().await, &mut etags)?;
            }
            let client = self.vault.0.place.bucket.client();
            let memory = loop {
                tokio::select! {
                    biased;
                    Some(sent) = flying.next(), if !flying.is_empty() => {
                        self.took(Some(sent), &mut etags)?;
                    }
                    memory = client.memory(padded) => break memory,
                }
            };
            reader.seek(from)?;
            let (is_last, hasher) = (ordinal + 1 == count, self.note.hasher(ordinal));
            let room = if is_last { ending.sealed_bytes() } else { 0 };
            let source = (&mut *reader, None);
            let sealing = body::seal_segment((planned, room), source, (wanted, padded), hasher);
            let (sealed, content) = sealing.await?;
            let hashing = body::blocking(move || {
                ending.update(&sealed);
                Ok((sealed, ending))
            });
            let (mut sealed, hashed) = hashing.await?;
            ending = hashed;
            if let Some(content) = content {
                self.note.sealed(ordinal, content, body::hash_of(&ending, ordinal));
            }
            if is_last {
                // The end is signed only if the whole content was the one that was planned.
                reader.check_unchanged().await?;
                sealed.extend(ending.clone().sign(self.vault.0.identity.signing_key())?);
            }
            let sealed = Bytes::from(sealed);
            let crc = checksum::of(&sealed);
            flying.push_back(self.upload.send_part(self.id, number, sealed, crc, memory));
        }
        while let Some(sent) = flying.next().await {
            self.took(Some(sent), &mut etags)?;
        }
        // Parts that were known come before others that were in flight.
        etags.sort_unstable();
        Ok(etags)
    }

    fn took(
        &self,
        sent: Option<Result<(u32, crate::upload::Part)>>,
        etags: &mut Vec<(u32, String)>,
    ) -> Result<()> {
        let Some(sent) = sent else { return Ok(()) };
        let (number, part) = sent?;
        self.note.sent(number, &part.etag);
        etags.push((number, part.etag));
        Ok(())
    }
}
