//! Multipart uploads: all their state hangs off the bucket's root, like everything else.

use std::sync::PoisonError;

use bytes::Bytes;
use fula_core::{
    Block, Cid, StoreError,
    block::Placement,
    bucket::{
        Checksum, ChecksumAlgorithm, ETag, ObjectRecord, PartRecord, PartSpan, UploadRecord, keys,
        write_parts,
    },
    content::{self, FileLink},
    id::{ObjectKey, UploadId},
    root::TimeMs,
    tree::{Cursor, after_prefix},
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Service,
    access::{Action, Identity},
    body::{self, BodyFacts, BodyStream, Taken},
    checksum,
    commit::{
        Answer, Change, CompleteUpload, Head, content_of, decode_part, empty_block, is_expired,
        parts_hash,
    },
    condition::{ReadConditions, WriteConditions},
    error::ServiceError,
    limits::{PAGE_MAX, PART_BYTES_MIN, PARTS_MAX, PUT_BYTES_MAX, SWEEP_UPLOADS},
    object::{CopySourceRequest, ObjectFacts, bare_record},
    parse_key,
};

/// Times a completion is joined again because a part changed under it.
const JOINS_MAX: u32 = 4;

/// Parts whose nodes are read at a time while joining.
const JOIN_READS: usize = 16;

/// An upload to begin.
#[derive(Clone, Debug)]
pub struct CreateUploadRequest {
    /// Key of the object it will make.
    pub key: String,
    /// What the object will keep.
    pub facts: ObjectFacts,
    /// Checksum asked for, and whether composite.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// What an upload computes for its parts and its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// Algorithm of the parts' checksums.
    pub algorithm: ChecksumAlgorithm,
    /// Whether the object's checksum will be over the parts' checksums.
    pub composite: bool,
    /// Whether the client asked for them, or they are the default.
    pub asked: bool,
}

/// A part as the client names it when completing.
#[derive(Clone, Debug)]
pub struct CompletePart {
    /// Its number.
    pub number: u32,
    /// Its `ETag`, without quotes.
    pub etag: String,
    /// Its checksum, when the client sends it again.
    pub checksum: Option<(ChecksumAlgorithm, Bytes)>,
}

/// A completion.
#[derive(Clone, Debug)]
pub struct CompleteRequest {
    /// Key of the object.
    pub key: String,
    /// Which upload.
    pub id: String,
    /// The parts, in order.
    pub parts: Vec<CompletePart>,
    /// Conditions on what the object replaces.
    pub conditions: WriteConditions,
    /// Checksum the whole must have.
    pub checksum: Option<(ChecksumAlgorithm, Bytes)>,
    /// Length the whole must have.
    pub size: Option<u64>,
}

/// A part that was stored.
#[derive(Clone, Debug)]
pub struct PartInfo {
    /// Its number.
    pub number: u32,
    /// Its record.
    pub record: PartRecord,
}

/// A page of parts.
#[derive(Clone, Debug)]
pub struct PartsPage {
    /// Parts in order of number.
    pub parts: Vec<PartInfo>,
    /// Whether there are more.
    pub truncated: bool,
    /// What the upload computes.
    pub info: UploadInfo,
    /// User id of who began it.
    pub initiator: String,
}

/// Which uploads to list.
#[derive(Clone, Debug, Default)]
pub struct ListUploadsRequest {
    /// Only keys that start with this.
    pub prefix: String,
    /// Roll up keys that have this after the prefix; empty for none.
    pub delimiter: String,
    /// Only after this key.
    pub key_marker: Option<String>,
    /// With a key marker: only after this upload of that key.
    pub id_marker: Option<String>,
    /// Most lines; capped at [`PAGE_MAX`].
    pub limit: usize,
}

/// One line of a listing of uploads.
#[derive(Clone, Debug)]
pub enum UploadLine {
    /// An upload in progress.
    Upload {
        /// Its key.
        key: String,
        /// Its id.
        id: UploadId,
        /// When it began.
        initiated: TimeMs,
        /// User id of who began it.
        initiator: String,
        /// What it computes.
        info: UploadInfo,
    },
    /// A rolled-up prefix.
    Prefix(String),
}

/// A page of uploads.
#[derive(Clone, Debug, Default)]
pub struct UploadsPage {
    /// Lines in order of key, then initiation.
    pub lines: Vec<UploadLine>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Returns what an upload computes.
fn info_of(upload: &UploadRecord) -> UploadInfo {
    let asked = upload.checksum.and_then(|(code, composite)| {
        Some((*ChecksumAlgorithm::ALL.get(usize::from(code))?, composite))
    });
    let (algorithm, composite) = asked.unwrap_or((ChecksumAlgorithm::Crc64Nvme, false));
    UploadInfo { algorithm, composite, asked: asked.is_some() }
}

fn parse_upload_id(id: &str) -> Result<UploadId, ServiceError> {
    id.parse().map_err(|_| ServiceError::NoSuchUpload)
}

fn parse_upload_key(encoded: &[u8]) -> Result<(ObjectKey, UploadId, u32), ServiceError> {
    let malformed = StoreError::Malformed { what: "upload key", why: "not of its form" };
    let (key, id, number) = keys::parse_upload(encoded).ok_or(malformed)?;
    let key = ObjectKey::parse(key).map_err(|error| ServiceError::Internal(error.to_string()))?;
    Ok((key, id, number))
}

fn check_number(number: u32) -> Result<(), ServiceError> {
    if (1..=PARTS_MAX).contains(&number) {
        return Ok(());
    }
    let text = "Part number must be an integer between 1 and 10000, inclusive";
    Err(ServiceError::InvalidArgument(text.to_owned()))
}

impl Service {
    /// Begins an upload and returns its id.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn create_upload(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        request: CreateUploadRequest,
    ) -> Result<UploadId, ServiceError> {
        let head = self.resolve(identity, bucket, Action::Write).await?;
        let key = parse_key(&request.key)?;
        let acl = request.facts.acl.clone();
        let (headers, metadata, blocks) = request.facts.attach()?;
        let now = self.committer.now().await?;
        let id = UploadId::new(now, self.random());
        let record = UploadRecord {
            initiated: now,
            initiator: identity.map(|identity| identity.user.clone()).unwrap_or_default(),
            template: bare_record(headers, metadata, acl),
            checksum: request.checksum.map(|(algorithm, composite)| (algorithm as u8, composite)),
            completed: None,
        };
        let expired = self.expired_uploads(&head, now).await?;
        let change = Change::CreateUpload { key, id, record: Box::new(record), blocks, expired };
        self.change(&head, change).await?;
        Ok(id)
    }

    /// Looks at a few uploads, others than last time, for completed ones past their time. As many
    /// are looked at as begin, and more, so none stays for ever in a bucket that is in use.
    async fn expired_uploads(
        &self,
        head: &Head,
        now: TimeMs,
    ) -> Result<Vec<(ObjectKey, UploadId)>, ServiceError> {
        let lock = || self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from = lock().remove(&head.address()).unwrap_or_default();
        let mut cursor = Cursor::new(self.committer.nodes(), &head.root.uploads);
        let mut expired = Vec::new();
        for _ in 0..SWEEP_UPLOADS {
            cursor.seek(&from).await?;
            // At the end, the next look begins at the front again.
            let Some(entry) = cursor.next().await? else { return Ok(expired) };
            let (key, id, number) = parse_upload_key(&entry.key)?;
            from = keys::upload(&key, id, u32::MAX);
            if number == 0 && is_expired(&UploadRecord::decode(&entry.value)?, now) {
                expired.push((key, id));
            }
        }
        let mut sweeps = lock();
        if sweeps.len() >= self.committer.limits().heads_max {
            sweeps.clear();
        }
        sweeps.insert(head.address(), from);
        Ok(expired)
    }

    async fn upload(
        &self,
        head: &Head,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<UploadRecord, ServiceError> {
        let header = keys::upload(key, id, 0);
        let found = head.root.uploads.get(self.committer.nodes(), &header).await?;
        let entry = found.ok_or(ServiceError::NoSuchUpload)?;
        Ok(UploadRecord::decode(&entry.value)?)
    }

    async fn open_upload(
        &self,
        head: &Head,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<UploadRecord, ServiceError> {
        let upload = self.upload(head, key, id).await?;
        if upload.completed.is_some() { Err(ServiceError::NoSuchUpload) } else { Ok(upload) }
    }

    /// Returns what an upload in progress computes, so that a part's checksum can be.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`].
    pub async fn upload_info(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        key: &str,
        id: &str,
    ) -> Result<UploadInfo, ServiceError> {
        let head = self.resolve(identity, bucket, Action::Write).await?;
        let upload = self.open_upload(&head, &parse_key(key)?, parse_upload_id(id)?).await?;
        Ok(info_of(&upload))
    }

    /// Stores one part.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`], and what [`body::take`] finds.
    #[expect(clippy::too_many_arguments, reason = "upload, part and body are named separately")]
    pub async fn put_part(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        key: &str,
        id: &str,
        number: u32,
        body: BodyStream,
        facts: BodyFacts,
    ) -> Result<Taken, ServiceError> {
        check_number(number)?;
        let head = self.resolve(identity, bucket, Action::Write).await?;
        let (key, id) = (parse_key(key)?, parse_upload_id(id)?);
        self.open_upload(&head, &key, id).await?;
        let taken = body::take(self.committer.nodes().blocks(), body, facts).await?;
        let (part, blocks) = taken_part(&taken);
        self.commit_part(&head, key, id, number, part, blocks).await?;
        Ok(taken)
    }

    async fn commit_part(
        &self,
        head: &Head,
        key: ObjectKey,
        id: UploadId,
        number: u32,
        part: PartRecord,
        blocks: Vec<Block>,
    ) -> Result<PartRecord, ServiceError> {
        let change = Change::PutPart { key, id, number, part: part.clone(), blocks };
        self.change(head, change).await?;
        Ok(part)
    }

    /// Stores a part made of another object's bytes. A whole object in one piece is linked, not
    /// copied; a range is read and stored anew.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`], [`ServiceError::NoSuchKey`],
    /// [`ServiceError::InvalidArgument`] for a range beyond the source.
    #[expect(clippy::too_many_arguments, reason = "upload, part and source are named separately")]
    pub async fn copy_part(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        key: &str,
        id: &str,
        number: u32,
        source: CopySourceRequest,
        range: Option<(u64, u64)>,
    ) -> Result<(PartRecord, TimeMs), ServiceError> {
        check_number(number)?;
        let head = self.resolve(identity, bucket, Action::Write).await?;
        let (key, id) = (parse_key(key)?, parse_upload_id(id)?);
        let info = info_of(&self.open_upload(&head, &key, id).await?);
        let found = self.source(identity, &source).await?;
        let (first, last) = range.unwrap_or((0, found.size.saturating_sub(1)));
        if range.is_some() && (first > last || last >= found.size) {
            return Err(ServiceError::InvalidArgument(format!(
                "The x-amz-copy-source-range {first}-{last} is not satisfiable for a source of {} \
                 bytes",
                found.size
            )));
        }
        let whole = range.is_none() || (first == 0 && last + 1 == found.size);
        let same = found
            .checksums
            .iter()
            .find(|checksum| checksum.algorithm == info.algorithm && checksum.composite_parts == 0);
        let now = self.committer.now().await?;
        if let (true, ETag::Md5(_), Some(checksum)) = (whole, found.etag, same) {
            let part = PartRecord {
                size: found.size,
                etag: found.etag,
                time: 0,
                checksum: Some(checksum.clone()),
                content: content_of(&found)?,
            };
            let part = self.commit_part(&head, key, id, number, part, Vec::new()).await?;
            return Ok((part, now));
        }
        let length = if found.size == 0 { 0 } else { last - first + 1 };
        let bytes = self.read(&found, first..first + length)?.map_err(ServiceError::from);
        let facts = BodyFacts {
            length: Some(length),
            length_max: PUT_BYTES_MAX,
            md5: None,
            keep: info.algorithm,
            sent: info.algorithm,
            checksum: None,
            trailer: None,
        };
        let taken = body::take(self.committer.nodes().blocks(), Box::pin(bytes), facts).await?;
        let (part, blocks) = taken_part(&taken);
        let part = self.commit_part(&head, key, id, number, part, blocks).await?;
        Ok((part, now))
    }

    async fn source(
        &self,
        identity: Option<&Identity>,
        source: &CopySourceRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let none = ReadConditions::default();
        let object = self.get_object(identity, &source.bucket, &source.key, &none).await?;
        source.conditions.judge_source(&object.record)?;
        Ok(object.record)
    }

    /// Returns a page of the parts of an upload, after number `after`.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`].
    pub async fn list_parts(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        key: &str,
        id: &str,
        after: u32,
        limit: usize,
    ) -> Result<PartsPage, ServiceError> {
        let head = self.resolve(identity, bucket, Action::Read).await?;
        let (key, id) = (parse_key(key)?, parse_upload_id(id)?);
        let upload = self.open_upload(&head, &key, id).await?;
        let limit = limit.min(PAGE_MAX);
        let first = after.saturating_add(1);
        let mut parts = self.parts(&head, &key, id, first, limit.saturating_add(1)).await?;
        let truncated = parts.len() > limit;
        parts.truncate(limit);
        let parts = parts.into_iter().map(|(number, record)| PartInfo { number, record });
        Ok(PartsPage {
            parts: parts.collect(),
            truncated,
            info: info_of(&upload),
            initiator: upload.initiator,
        })
    }

    /// Returns up to `limit` parts from number `first` on.
    async fn parts(
        &self,
        head: &Head,
        key: &ObjectKey,
        id: UploadId,
        first: u32,
        limit: usize,
    ) -> Result<Vec<(u32, PartRecord)>, ServiceError> {
        let mut cursor = Cursor::new(self.committer.nodes(), &head.root.uploads);
        cursor.seek(&keys::upload(key, id, first)).await?;
        let end = keys::upload(key, id, u32::MAX);
        let mut parts = Vec::new();
        while parts.len() < limit {
            match cursor.next().await? {
                Some(entry) if entry.key < end => parts.push(decode_part(&entry)?),
                _ => break,
            }
        }
        Ok(parts)
    }

    /// Returns a page of the uploads in progress.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn list_uploads(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        request: &ListUploadsRequest,
    ) -> Result<UploadsPage, ServiceError> {
        let head = self.resolve(identity, bucket, Action::Read).await?;
        let limit = request.limit.min(PAGE_MAX);
        let mut page = UploadsPage::default();
        if limit == 0 {
            return Ok(page);
        }
        let mut cursor = Cursor::new(self.committer.nodes(), &head.root.uploads);
        let prefix = keys::upload_prefix(&request.prefix);
        let mut from = uploads_start(request)?.max(prefix);
        loop {
            cursor.seek(&from).await?;
            let Some(entry) = cursor.next().await? else { return Ok(page) };
            let (parsed, id, number) = parse_upload_key(&entry.key)?;
            let key = parsed.as_str().to_owned();
            let Some(rest) = key.strip_prefix(&request.prefix) else { return Ok(page) };
            // The next upload begins after all possible parts of this one.
            from = keys::upload(&parsed, id, u32::MAX);
            if number != 0 {
                continue;
            }
            let upload = UploadRecord::decode(&entry.value)?;
            if upload.completed.is_some() {
                continue;
            }
            if page.lines.len() == limit {
                page.truncated = true;
                return Ok(page);
            }
            let rolled = rest.find(&request.delimiter).filter(|_| !request.delimiter.is_empty());
            page.lines.push(match rolled {
                Some(at) => {
                    let end = request.prefix.len() + at + request.delimiter.len();
                    let prefix = key[..end].to_owned();
                    match after_prefix(&keys::upload_prefix(&prefix)) {
                        Some(next) => from = next,
                        None => from = Bytes::from_static(&[0xff]),
                    }
                    UploadLine::Prefix(prefix)
                }
                None => UploadLine::Upload {
                    key,
                    id,
                    initiated: upload.initiated,
                    info: info_of(&upload),
                    initiator: upload.initiator,
                },
            });
        }
    }

    /// Ends an upload and forgets its parts.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`].
    pub async fn abort_upload(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        key: &str,
        id: &str,
    ) -> Result<(), ServiceError> {
        let head = self.resolve(identity, bucket, Action::Write).await?;
        let change = Change::AbortUpload { key: parse_key(key)?, id: parse_upload_id(id)? };
        self.change(&head, change).await.map(drop)
    }

    /// Makes an object of an upload's parts. Completing twice with the same parts gives the same
    /// answer.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`], [`ServiceError::InvalidPart`],
    /// [`ServiceError::InvalidPartOrder`], [`ServiceError::PartTooSmall`],
    /// [`ServiceError::PreconditionFailed`], [`ServiceError::BadDigest`].
    pub async fn complete_upload(
        &self,
        identity: Option<&Identity>,
        bucket: &str,
        request: &CompleteRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let head = self.resolve(identity, bucket, Action::Write).await?;
        let (key, id) = (parse_key(&request.key)?, parse_upload_id(&request.id)?);
        for _ in 0..JOINS_MAX {
            let newest = self.committer.current(&head.address()).await?;
            let newest = newest.ok_or(ServiceError::NoSuchBucket)?;
            let complete = match self.join(&newest, &key, id, request).await? {
                Joined::Already(record) => return Ok(*record),
                Joined::Ready(complete) => complete,
            };
            let change = Change::CompleteUpload(complete);
            match self.change(&head, change).await? {
                Answer::Object(record) => return Ok(*record),
                Answer::JoinAgain => {}
                other => {
                    return Err(ServiceError::Internal(format!("a completion answered {other:?}")));
                }
            }
        }
        Err(ServiceError::Busy(crate::error::Outcome::None))
    }

    /// Checks the parts named and joins their content, outside the commit round.
    async fn join(
        &self,
        head: &Head,
        key: &ObjectKey,
        id: UploadId,
        request: &CompleteRequest,
    ) -> Result<Joined, ServiceError> {
        let named = request.parts.iter().map(|part| (part.number, part.etag.as_str()));
        let parts_hash = parts_hash(named);
        let upload = self.upload(head, key, id).await?;
        if let Some(completed) = upload.completed {
            return if completed.parts_hash == parts_hash {
                Ok(Joined::Already(Box::new(completed.record)))
            } else {
                Err(ServiceError::NoSuchUpload)
            };
        }
        if !request.conditions.is_empty() {
            let current = self.record(head, key).await?;
            request.conditions.judge(current.as_ref())?;
        }
        let info = info_of(&upload);
        let stored = self.parts(head, key, id, 1, PARTS_MAX as usize).await?;
        let joined = select(&request.parts, &stored, info)?;
        let (content, size, block) = self.join_content(&joined).await?;
        if request.size.is_some_and(|expected| expected != size) {
            return Err(ServiceError::InvalidRequest(
                "The provided 'x-amz-mp-object-size' header does not match the object".to_owned(),
            ));
        }
        let checksum = checksum_of(info, &joined);
        if let Some((algorithm, expected)) = &request.checksum {
            let same = checksum
                .as_ref()
                .is_some_and(|ours| ours.algorithm == *algorithm && ours.value == *expected);
            if !same {
                return Err(ServiceError::BadDigest("checksum"));
            }
        }
        let spans: Vec<PartSpan> = joined
            .iter()
            .map(|(number, part)| PartSpan {
                number: *number,
                size: part.size,
                checksum: part.checksum.clone(),
            })
            .collect();
        let table = write_parts(&spans);
        let record = ObjectRecord {
            size,
            etag: etag_of(&joined),
            checksums: checksum.into_iter().collect(),
            content: Some(content),
            parts: Some(table.cid()),
            ..upload.template
        };
        let blocks = [Some(table), block].into_iter().flatten().collect();
        let conditions = request.conditions.clone();
        let (key, id) = (key.clone(), id);
        let complete = CompleteUpload { key, id, conditions, record, joined, parts_hash, blocks };
        Ok(Joined::Ready(Box::new(complete)))
    }

    /// Puts one node over the parts' content; returns its address, length, and the block that
    /// rides with the commit if it is small.
    async fn join_content(
        &self,
        joined: &[(u32, PartRecord)],
    ) -> Result<(Cid, u64, Option<Block>), ServiceError> {
        let blocks = self.committer.nodes().blocks();
        let mut reads = Vec::with_capacity(joined.len());
        for (_, part) in joined {
            reads.push(content::dag_bytes(blocks.as_ref(), part.content, part.size));
        }
        let links: Vec<FileLink> = stream::iter(reads).buffered(JOIN_READS).try_collect().await?;
        match content::join(&links) {
            None => {
                let empty = empty_block();
                Ok((empty.cid(), 0, Some(empty)))
            }
            Some((root, None)) => Ok((root.cid, root.size, None)),
            Some((root, Some(block))) => {
                let mark = blocks.put(std::slice::from_ref(&block), Placement::Bulk).await?;
                blocks.sync(mark).await?;
                Ok((root.cid, root.size, None))
            }
        }
    }
}

/// Returns the record of a part taken in, and the block that rides with its commit.
fn taken_part(taken: &Taken) -> (PartRecord, Vec<Block>) {
    let part = PartRecord {
        size: taken.size,
        etag: taken.etag(),
        time: 0,
        checksum: taken.checksums.first().cloned(),
        content: taken.content,
    };
    (part, taken.riding.iter().cloned().collect())
}

/// What joining an upload's parts came to.
enum Joined {
    /// It was completed before, with this result.
    Already(Box<ObjectRecord>),
    /// It can be completed now.
    Ready(Box<CompleteUpload>),
}

/// Returns where a listing of uploads begins.
fn uploads_start(request: &ListUploadsRequest) -> Result<Bytes, ServiceError> {
    let Some(marker) = &request.key_marker else { return Ok(Bytes::new()) };
    if marker.is_empty() {
        return Ok(Bytes::new());
    }
    // A rolled-up prefix given as the last name covers all its keys.
    let rest = marker.strip_prefix(&request.prefix);
    let rolled = rest.is_some_and(|rest| {
        let at = rest.find(&request.delimiter).filter(|_| !request.delimiter.is_empty());
        at.is_some_and(|at| at + request.delimiter.len() == rest.len())
    });
    if rolled && let Some(next) = after_prefix(&keys::upload_prefix(marker)) {
        return Ok(next);
    }
    match &request.id_marker {
        Some(id) if !id.is_empty() => {
            let id = id.parse().map_err(|_| {
                ServiceError::InvalidArgument("The upload-id-marker is not an upload id".into())
            })?;
            let key = parse_key(marker)?;
            Ok(keys::upload(&key, id, u32::MAX))
        }
        _ => Ok(keys::after_uploads_of(marker)),
    }
}

/// Finds the parts a completion names among those stored.
fn select(
    named: &[CompletePart],
    stored: &[(u32, PartRecord)],
    info: UploadInfo,
) -> Result<Vec<(u32, PartRecord)>, ServiceError> {
    if named.is_empty() {
        let text = "You must specify at least one part";
        return Err(ServiceError::InvalidRequest(text.to_owned()));
    }
    if !named.is_sorted_by(|a, b| a.number < b.number) {
        return Err(ServiceError::InvalidPartOrder);
    }
    let mut joined = Vec::with_capacity(named.len());
    for part in named {
        let invalid = || ServiceError::InvalidPart(part.number);
        let index = stored.binary_search_by_key(&part.number, |(number, _)| *number);
        let found = &stored[index.map_err(|_| invalid())?];
        let checksum_differs = part.checksum.as_ref().is_some_and(|(algorithm, value)| {
            found.1.checksum.as_ref().is_none_or(|ours| {
                // A checksum nobody asked the upload for was verified with its part, not kept.
                let same = ours.algorithm == *algorithm;
                if same { ours.value != *value } else { info.asked }
            })
        });
        if found.1.etag.to_string() != part.etag || checksum_differs {
            return Err(invalid());
        }
        joined.push(found.clone());
    }
    let all_but_last = &joined[..joined.len() - 1];
    match all_but_last.iter().find(|(_, part)| part.size < PART_BYTES_MIN) {
        Some((number, _)) => Err(ServiceError::PartTooSmall(*number)),
        None => Ok(joined),
    }
}

fn etag_of(joined: &[(u32, PartRecord)]) -> ETag {
    let md5s: Vec<[u8; 16]> = joined
        .iter()
        .map(|(_, part)| match part.etag {
            ETag::Md5(md5) | ETag::Multipart(md5, _) => md5,
            // Parts are always seen by a gateway, so they have an MD5.
            ETag::Cid(_) => [0; 16],
        })
        .collect();
    let count = u32::try_from(joined.len()).unwrap_or(u32::MAX);
    ETag::Multipart(checksum::md5_of(&md5s), count)
}

fn checksum_of(info: UploadInfo, joined: &[(u32, PartRecord)]) -> Option<Checksum> {
    let values: Vec<(Bytes, u64)> = joined
        .iter()
        .map(|(_, part)| Some((part.checksum.as_ref()?.value.clone(), part.size)))
        .collect::<Option<_>>()?;
    if info.composite {
        let values: Vec<Bytes> = values.into_iter().map(|(value, _)| value).collect();
        return Some(checksum::composite(info.algorithm, &values));
    }
    checksum::joined(info.algorithm, &values)
}
