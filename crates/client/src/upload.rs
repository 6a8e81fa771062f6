//! Writing objects: in one request, or in parts, of which several are in flight within the memory for uploads.
//! An upload in parts can be resumed from a journal.

use std::{collections::BTreeMap, fmt::Write, path::Path, sync::Arc};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    checksum,
    client::{Bucket, MEMORY_UNIT},
    error::{Error, Result},
    ingest, journal,
    meta::{Version, etag, version},
    put::{PART_BYTES, Put, PutOptions, not_there},
    request::Request,
    source::{Reader, Source, Stamp},
    xml,
};

/// Shortest part but the last, in bytes.
const PART_MIN: usize = 5 << 20;

/// Largest number of parts.
const PARTS_MAX: u64 = 10_000;

/// Longest part of a source whose length is known, in bytes.
const PART_MAX: u64 = 5 << 30;

/// Number of parts after which the parts of a source of unknown length get longer.
const GROWTH: u32 = 1000;

/// Largest number of parts in flight.
const IN_FLIGHT: usize = 16;

/// Checks that an object can have this length: 10 000 parts of 5 GiB.
fn check_size(size: u64) -> Result<()> {
    if size > PARTS_MAX * PART_MAX {
        return Err(Error::Invalid(format!("{size} bytes are more than an object can have")));
    }
    Ok(())
}

/// Returns the length of the parts: of all of them if the length of the source is known, otherwise of part
/// number `number`.
fn part_length(part: usize, len: Option<u64>, number: u32) -> usize {
    match len {
        Some(len) => {
            let needed = len.div_ceil(PARTS_MAX).next_multiple_of(1 << 20);
            usize::try_from(needed).unwrap_or(usize::MAX).max(part)
        }
        None => part << ((number - 1) / GROWTH).min(3),
    }
}

/// A part that the server has.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) etag: String,
    pub(crate) crc: u64,
    pub(crate) size: u64,
}

/// What a journal says about an upload.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    endpoint: String,
    bucket: String,
    key: String,
    upload: String,
    size: u64,
    modified_ns: u128,
    part: usize,
    content_type: Option<String>,
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Initiated {
    upload_id: String,
}

#[derive(Deserialize)]
struct Completed {
    #[serde(rename = "ETag", default)]
    etag: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default, rename = "Part")]
    parts: Vec<ListedPart>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_part_number_marker: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedPart {
    part_number: u32,
    #[serde(rename = "ETag")]
    etag: String,
    size: u64,
    #[serde(rename = "ChecksumCRC64NVME", default)]
    crc: Option<String>,
}

impl Bucket {
    /// Writes an object. It becomes visible as a whole, or not at all.
    ///
    /// A source of more than one part is sent as a multipart upload, with up to the memory for uploads in
    /// flight. Every byte is covered by a CRC-64/NVME, which the server compares.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::Changed`] if a condition failed; [`Error::Io`] for the source;
    /// [`Error::Unavailable`] with [`crate::Outcome::Unknown`] if the object may have been written.
    pub async fn put(
        &self,
        key: &str,
        body: impl Into<Source>,
        options: PutOptions,
    ) -> Result<Put> {
        self.put_watched(key, body.into(), options, None).await
    }

    /// Writes an object as [`Self::put`] does. `watch` learns of an upload in parts while it runs.
    pub(crate) async fn put_watched(
        &self,
        key: &str,
        source: Source,
        options: PutOptions,
        watch: Option<Arc<dyn Watch>>,
    ) -> Result<Put> {
        let part = options.part_bytes.unwrap_or(PART_BYTES).max(PART_MIN);
        let again = ingest::again(&source);
        if let Some(put) = self.put_via_nodes(key, again, &options).await? {
            return Ok(put);
        }
        let mut reader = Reader::open(source).await?;
        if let Some(len) = reader.len {
            check_size(len)?;
        }
        // One byte more tells whether this is all. A file that fits is read at once.
        let expected = reader.len.and_then(|len| usize::try_from(len).ok()).unwrap_or(part);
        let permit = self.client().memory(expected.min(part).max(MEMORY_UNIT)).await;
        if reader.len.is_none_or(|len| len > part as u64) {
            let first = match reader.len {
                Some(_) => None,
                None => Some(reader.read(part).await?),
            };
            if first.as_ref().is_none_or(|first| first.len() == part) {
                let upload = Upload { watch, ..Upload::new(self, key, options, part) };
                return upload.run(reader, first, permit).await;
            }
            return self.put_bytes(key, first.unwrap_or_default(), &options).await;
        }
        let bytes = reader.read(part + 1).await?;
        reader.check_unchanged().await?;
        let put = self.put_bytes(key, bytes, &options).await;
        drop(permit);
        put
    }

    async fn put_bytes(&self, key: &str, bytes: Bytes, options: &PutOptions) -> Result<Put> {
        let size = bytes.len() as u64;
        let request = Request::of_object(Method::PUT, self.name(), key)?
            .header(checksum::HEADER, checksum::text(checksum::of(&bytes)));
        let request = options.conditions(options.describe(request));
        let request = request.body(bytes).metered(options.meter.clone());
        let answer =
            self.client().send(&request).await.map_err(|error| not_there(error, options))?;
        Ok(Put { version: version(&answer.headers), size })
    }
}

/// A multipart upload.
pub(crate) struct Upload<'a> {
    bucket: &'a Bucket,
    key: &'a str,
    options: PutOptions,
    part: usize,
    watch: Option<Arc<dyn Watch>>,
}

/// What learns of an upload in parts while it runs, so that it can go on after an interruption.
pub(crate) trait Watch: Send + Sync {
    /// Takes the id of the upload, which the server has begun.
    fn begun(&self, upload: &str);

    /// Takes the entity tag of a part that the server has.
    fn sent(&self, number: u32, etag: &str);

    /// Returns whether the upload stays on the server after an error, because a later call goes on with it.
    fn keeps(&self, error: &Error) -> bool;
}

impl<'a> Upload<'a> {
    pub(crate) fn new(bucket: &'a Bucket, key: &'a str, options: PutOptions, part: usize) -> Self {
        Self { bucket, key, options, part, watch: None }
    }

    fn request(&self, method: Method, id: &str) -> Result<Request> {
        Ok(Request::of_object(method, self.bucket.name(), self.key)?.query("uploadId", id))
    }

    /// Sends everything. `first` was read already, and `permit` is the memory for one part.
    async fn run(
        self,
        mut reader: Reader,
        first: Option<Bytes>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Put> {
        let (id, known) = self.begin(reader.stamp(), reader.len).await?;
        let sent = self.send_parts(&id, &mut reader, known, first, permit).await;
        let done = match sent {
            Ok(parts) => match reader.check_unchanged().await {
                Ok(()) => self.complete(&id, &parts).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match done {
            Ok(put) => {
                self.forget();
                Ok(put)
            }
            Err(error) => {
                if !self.is_resumable(&error) {
                    self.forget();
                    // Why the upload failed matters more than whether its parts could be removed.
                    let request = self.request(Method::DELETE, &id)?;
                    drop(self.bucket.client().send(&request).await);
                }
                Err(error)
            }
        }
    }

    /// Returns whether a later call can go on with this upload.
    fn is_resumable(&self, error: &Error) -> bool {
        let is_passing = matches!(error, Error::Unavailable { .. } | Error::Canceled);
        let is_watched = self.watch.as_ref().is_some_and(|watch| watch.keeps(error));
        is_watched || is_passing && self.options.journal.is_some()
    }

    fn forget(&self) {
        if let Some(path) = &self.options.journal {
            journal::remove(path);
        }
    }

    fn note(&self, id: &str, stamp: Stamp, part: usize) -> Note {
        Note {
            endpoint: self.bucket.client().endpoint().to_string(),
            bucket: self.bucket.name().to_owned(),
            key: self.key.to_owned(),
            upload: id.to_owned(),
            size: stamp.size,
            modified_ns: stamp.modified_ns,
            part,
            content_type: self.options.content_type.clone(),
            metadata: self.options.metadata.clone(),
            headers: self.options.headers.clone(),
        }
    }

    /// Begins the upload, or goes on with the one in the journal. Returns its id and the parts that the
    /// server has.
    async fn begin(
        &self,
        stamp: Option<Stamp>,
        len: Option<u64>,
    ) -> Result<(String, BTreeMap<u32, Part>)> {
        let journaled = self.options.journal.as_deref().zip(stamp);
        let part = part_length(self.part, len, 1);
        if let Some((path, stamp)) = journaled
            && let Some(note) = journal::read::<Note>(path)
        {
            let is_same = note == self.note(&note.upload, stamp, part);
            match if is_same { self.listed(&note.upload).await } else { Ok(None) } {
                Ok(Some(known)) => return Ok((note.upload, known)),
                Ok(None) => self.discard(path, &note).await,
                Err(error) => return Err(error),
            }
        }
        let id = self.initiate().await?;
        if let Some(watch) = &self.watch {
            watch.begun(&id);
        }
        if let Some((path, stamp)) = journaled {
            journal::write(path, &self.note(&id, stamp, part))?;
        }
        Ok((id, BTreeMap::new()))
    }

    /// Begins a new upload, and returns its id.
    pub(crate) async fn initiate(&self) -> Result<String> {
        let request = Request::of_object(Method::POST, self.bucket.name(), self.key)?
            .query("uploads", "")
            .header("x-amz-checksum-algorithm", "CRC64NVME")
            .header("x-amz-checksum-type", "FULL_OBJECT");
        let answer = self.bucket.client().send(&self.options.describe(request)).await?;
        let status = answer.status.as_u16();
        Ok(xml::read::<Initiated>(self.key, status, &answer.body)?.upload_id)
    }

    /// Ends an upload, and removes its parts.
    pub(crate) async fn abort(&self, id: &str) -> Result<()> {
        let request = self.request(Method::DELETE, id)?;
        self.bucket.client().send(&request).await.map(drop)
    }

    /// Ends an upload that nobody will go on with.
    async fn discard(&self, path: &Path, note: &Note) {
        let is_here = note.endpoint == self.bucket.client().endpoint().to_string();
        if let Ok(request) = Request::of_object(Method::DELETE, &note.bucket, &note.key)
            && is_here
        {
            let request = request.query("uploadId", &note.upload);
            // If it is gone already, nothing is left to end.
            drop(self.bucket.client().send(&request).await);
        }
        journal::remove(path);
    }

    /// Returns the parts that the server has; `None` if it does not know the upload.
    pub(crate) async fn listed(&self, id: &str) -> Result<Option<BTreeMap<u32, Part>>> {
        let (mut known, mut after) = (BTreeMap::new(), 0);
        loop {
            let request =
                self.request(Method::GET, id)?.query("part-number-marker", after.to_string());
            let answer = match self.bucket.client().send(&request).await {
                Err(Error::NotFound { .. }) => return Ok(None),
                answer => answer?,
            };
            let page: Listed = xml::read(self.key, answer.status.as_u16(), &answer.body)?;
            for part in page.parts {
                // A part without a checksum cannot be compared, and is sent again.
                let crc = part.crc.and_then(|text| checksum::parse(&text));
                if let Some(crc) = crc {
                    let (etag, size) = (part.etag.trim_matches('"').to_owned(), part.size);
                    known.insert(part.part_number, Part { etag, crc, size });
                }
            }
            match page.next_part_number_marker {
                Some(next) if page.is_truncated && next > after => after = next,
                _ => return Ok(Some(known)),
            }
        }
    }

    /// Sends all parts but those that the server has with the same bytes.
    async fn send_parts(
        &self,
        id: &str,
        reader: &mut Reader,
        known: BTreeMap<u32, Part>,
        mut first: Option<Bytes>,
        permit: OwnedSemaphorePermit,
    ) -> Result<BTreeMap<u32, Part>> {
        let (mut done, mut flying) = (BTreeMap::new(), FuturesUnordered::new());
        let (mut number, mut is_end, mut permit) = (0, false, Some(permit));
        let len = reader.len;
        while !is_end || !flying.is_empty() {
            let memory = async {
                match permit.take() {
                    Some(permit) => permit,
                    None => {
                        self.bucket.client().memory(part_length(self.part, len, number + 1)).await
                    }
                }
            };
            tokio::select! {
                biased;
                Some(sent) = flying.next(), if !flying.is_empty() => {
                    let (number, part): (u32, Part) = sent?;
                    if let Some(watch) = &self.watch {
                        watch.sent(number, &part.etag);
                    }
                    done.insert(number, part);
                }
                memory = memory, if !is_end && flying.len() < IN_FLIGHT => {
                    number += 1;
                    let length = part_length(self.part, len, number);
                    let bytes = match first.take() {
                        Some(bytes) => bytes,
                        None => reader.read(length).await?,
                    };
                    is_end = bytes.len() < length;
                    if bytes.is_empty() && number > 1 {
                        continue;
                    }
                    if u64::from(number) > PARTS_MAX {
                        return Err(Error::Invalid("the source has more bytes than an upload can have".to_owned()));
                    }
                    let (crc, size) = (checksum::of(&bytes), bytes.len() as u64);
                    match known.get(&number) {
                        Some(part) if (part.crc, part.size) == (crc, size) => {
                            if let Some(meter) = &self.options.meter {
                                meter.add(size);
                            }
                            done.insert(number, part.clone());
                        }
                        _ => flying.push(self.send_part(id, number, bytes, crc, memory)),
                    }
                }
            }
        }
        Ok(done)
    }

    pub(crate) async fn send_part(
        &self,
        id: &str,
        number: u32,
        bytes: Bytes,
        crc: u64,
        memory: OwnedSemaphorePermit,
    ) -> Result<(u32, Part)> {
        let size = bytes.len() as u64;
        let request = self
            .request(Method::PUT, id)?
            .query("partNumber", number.to_string())
            .header(checksum::HEADER, checksum::text(crc))
            .body(bytes)
            .metered(self.options.meter.clone());
        let answer = self.bucket.client().send(&request).await?;
        drop((request, memory));
        Ok((number, Part { etag: etag(&answer.headers), crc, size }))
    }

    pub(crate) async fn complete(&self, id: &str, parts: &BTreeMap<u32, Part>) -> Result<Put> {
        let mut body = String::from("<CompleteMultipartUpload>");
        let (mut crc, mut size) = (checksum::of(b""), 0);
        for (number, part) in parts {
            (crc, size) = (checksum::combine(crc, part.crc, part.size), size + part.size);
            let (etag, part_crc) = (&part.etag, checksum::text(part.crc));
            // Writing to a string cannot fail.
            let _written = write!(
                body,
                "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag>\
                 <ChecksumCRC64NVME>{part_crc}</ChecksumCRC64NVME></Part>"
            );
        }
        body.push_str("</CompleteMultipartUpload>");
        let request = self
            .request(Method::POST, id)?
            .header("content-type", "application/xml")
            .header(checksum::HEADER, checksum::text(crc))
            .header("x-amz-checksum-type", "FULL_OBJECT")
            .header("x-amz-mp-object-size", size.to_string());
        let request = self.options.conditions(request).body(body);
        let answer = self.bucket.client().send(&request).await;
        let answer = answer.map_err(|error| not_there(error, &self.options))?;
        let completed: Completed = xml::read(self.key, answer.status.as_u16(), &answer.body)?;
        let etag = completed.etag.trim_matches('"').to_owned();
        Ok(Put { version: Version { etag, ..version(&answer.headers) }, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_long_enough_for_the_object() {
        let part = 8 << 20;
        assert_eq!(part_length(part, Some(100 << 20), 1), part);
        let long = part_length(part, Some(1 << 40), 1) as u64;
        assert!(long * PARTS_MAX >= 1 << 40 && long.is_multiple_of(1 << 20), "{long}");
        assert_eq!(part_length(part, None, 1000), part);
        assert_eq!(part_length(part, None, 1001), part << 1);
        assert_eq!(part_length(part, None, 10_000), part << 3);
        assert!(check_size(50 << 40).is_err() && check_size(5 << 40).is_ok());
    }
}
