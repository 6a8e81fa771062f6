//! Multipart uploads. All their state is reachable from the root of the bucket, like everything else.

mod complete;
mod list;
mod part;

use std::fmt;

use bytes::Bytes;
use fula_core::{
    BucketName, ObjectKey, StoreError,
    bucket::{ChecksumAlgorithm, ObjectRecord, PartRecord, UploadRecord, keys},
    id::UploadId,
    root::TimeMs,
    tree::Cursor,
};

pub(crate) use self::complete::{JOINS_MAX, Joined, Named};
use crate::{
    arbiter::Head,
    auth::access::Action,
    caller::Caller,
    commit::{Answer, Change, decode_part, is_expired},
    error::ServiceError,
    limits::SWEEP_UPLOADS,
    objects::body::{BodyFacts, BodyStream},
    objects::condition::WriteConditions,
    objects::object::{CopySourceRequest, ObjectFacts},
    objects::record::bare_record,
    service::{Part, Service},
};

/// A request to begin an upload.
#[derive(Clone, Debug)]
pub struct CreateUploadRequest {
    /// Key of the object that the upload will make.
    pub key: ObjectKey,
    /// Headers and metadata of the object.
    pub facts: ObjectFacts,
    /// Checksum algorithm that the client asked for, and whether the checksum is a composite.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// An upload that was begun. It is shown as its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BegunUpload {
    /// Id of the upload.
    pub id: UploadId,
    /// Whether its object will be encrypted.
    pub is_encrypted: bool,
}

impl fmt::Display for BegunUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// The checksums that an upload computes for its parts and its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// Algorithm of the checksums of the parts.
    pub algorithm: ChecksumAlgorithm,
    /// Whether the checksum of the object is a composite of those of its parts.
    pub composite: bool,
    /// Whether the client asked for them; otherwise they are the default.
    pub asked: bool,
}

/// A request to put a part.
pub struct PutPartRequest {
    /// Key of the object.
    pub key: ObjectKey,
    /// Id of the upload.
    pub id: String,
    /// Part number.
    pub number: u32,
    /// Content of the part.
    pub body: BodyStream,
    /// Facts that the client announces about the content.
    pub body_facts: BodyFacts,
}

/// A request to copy a part from another object.
#[derive(Clone, Debug)]
pub struct CopyPartRequest {
    /// Key of the object that the upload will make.
    pub key: ObjectKey,
    /// Id of the upload.
    pub id: String,
    /// Part number.
    pub number: u32,
    /// The source.
    pub source: CopySourceRequest,
    /// First and last byte of the source to copy; `None` for all of it.
    pub range: Option<(u64, u64)>,
}

/// A part as the client names it when it completes the upload.
#[derive(Clone, Debug)]
pub struct CompletePart {
    /// Part number.
    pub number: u32,
    /// `ETag` of the part, without quotes.
    pub etag: String,
    /// Checksum of the part, if the client sends it again.
    pub checksum: Option<(ChecksumAlgorithm, Bytes)>,
}

/// A request to complete an upload.
#[derive(Clone, Debug)]
pub struct CompleteRequest {
    /// Key of the object.
    pub key: ObjectKey,
    /// Id of the upload.
    pub id: String,
    /// The parts, in order.
    pub parts: Vec<CompletePart>,
    /// Conditions on the object that is replaced.
    pub conditions: WriteConditions,
    /// Required checksum of the whole object.
    pub checksum: Option<(ChecksumAlgorithm, Bytes)>,
    /// Required length of the whole object in bytes.
    pub size: Option<u64>,
}

/// A stored part.
#[derive(Clone, Debug)]
pub struct PartInfo {
    /// Part number.
    pub number: u32,
    /// Record of the part.
    pub record: PartRecord,
}

/// A page of parts.
#[derive(Clone, Debug)]
pub struct PartsPage {
    /// Parts in order of number.
    pub parts: Vec<PartInfo>,
    /// Whether more parts follow.
    pub truncated: bool,
    /// The checksums that the upload computes.
    pub info: UploadInfo,
    /// Id of the user that began it.
    pub initiator: String,
}

/// The uploads to list.
#[derive(Clone, Debug, Default)]
pub struct ListUploadsRequest {
    /// Lists only keys that start with this.
    pub prefix: String,
    /// Keys that contain this after the prefix are listed as one common prefix. Empty for no delimiter.
    pub delimiter: String,
    /// Lists only uploads of keys after this one.
    pub key_marker: Option<String>,
    /// Id after which uploads of the key `key_marker` are listed too.
    pub id_marker: Option<String>,
    /// Largest number of lines, at most [`PAGE_MAX`](crate::limits::PAGE_MAX).
    pub limit: usize,
}

/// One line of a listing of uploads.
#[derive(Clone, Debug)]
pub enum UploadLine {
    /// An upload in progress.
    Upload {
        /// Key of the object.
        key: String,
        /// Id of the upload.
        id: UploadId,
        /// Time at which it began.
        initiated: TimeMs,
        /// Id of the user that began it.
        initiator: String,
        /// The checksums that it computes.
        info: UploadInfo,
    },
    /// A common prefix.
    Prefix(String),
}

/// A page of uploads.
#[derive(Clone, Debug, Default)]
pub struct UploadsPage {
    /// Lines in order of key, then of time.
    pub lines: Vec<UploadLine>,
    /// Whether more lines follow.
    pub truncated: bool,
}

/// Returns the checksums that an upload computes.
fn info_of(upload: &UploadRecord) -> UploadInfo {
    let asked = upload.checksum.and_then(|(code, composite)| {
        Some((*ChecksumAlgorithm::ALL.get(usize::from(code))?, composite))
    });
    let (algorithm, composite) = asked.unwrap_or((ChecksumAlgorithm::Crc64Nvme, false));
    UploadInfo { algorithm, composite, asked: asked.is_some() }
}

pub(crate) fn parse_upload_id(id: &str) -> Result<UploadId, ServiceError> {
    id.parse().map_err(|_| ServiceError::NoSuchUpload)
}

fn parse_upload_key(encoded: &[u8]) -> Result<(ObjectKey, UploadId, u32), ServiceError> {
    let malformed = StoreError::Malformed { what: "upload key", why: "not of its form" };
    let (key, id, number) = keys::parse_upload(encoded).ok_or(malformed)?;
    let key = ObjectKey::parse(key).map_err(ServiceError::bug)?;
    Ok((key, id, number))
}

impl Service {
    /// Begins an upload.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn create_upload(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: CreateUploadRequest,
    ) -> Result<BegunUpload, ServiceError> {
        let CreateUploadRequest { key, facts, checksum } = request;
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(&key)).await?;
        let acl = self.acl_of_write(caller, &head, facts.acl.as_ref()).await?;
        let cipher = self.cipher_for(caller, &head.root, facts.encrypt).await?;
        let (maps, blocks) = facts.attach()?;
        let now = self.before_write(caller, "arbiter", self.arbiter().now()).await?;
        let id = UploadId::new(now, self.random());
        let record = UploadRecord {
            initiated: now,
            initiator: caller
                .identity
                .as_ref()
                .map(|identity| identity.user.clone())
                .unwrap_or_default(),
            template: ObjectRecord {
                sse: cipher.as_ref().map(|cipher| cipher.field(None)),
                ..bare_record(maps, acl)
            },
            checksum: checksum.map(|(algorithm, composite)| (algorithm as u8, composite)),
            completed: None,
        };
        let asked = record.checksum.map_or([0; 3], |(code, whole)| [1, code, u8::from(whole)]);
        let idempotency_key = caller.idempotency_key(
            "create-upload",
            key.as_str(),
            &[&record.template.repeatable().encode(), &asked],
        );
        let expired = self.expired_uploads(&head, now);
        let expired = self.before_write(caller, "block store", expired).await?;
        let change = Change::CreateUpload { key, id, record: Box::new(record), blocks, expired };
        match self.change(caller, &head, change, idempotency_key).await? {
            Answer::Upload(id) => Ok(BegunUpload { id, is_encrypted: cipher.is_some() }),
            other => Err(ServiceError::bug(format!("an upload answered {other:?}"))),
        }
    }

    /// Returns a few completed uploads whose time is over, and others at each call. It examines more
    /// uploads than begin, so none stays for ever in a bucket that is in use.
    async fn expired_uploads(
        &self,
        head: &Head,
        now: TimeMs,
    ) -> Result<Vec<(ObjectKey, UploadId)>, ServiceError> {
        let lock = || self.sweeps.lock();
        let mut from = lock().remove(head.address()).unwrap_or_default();
        let mut cursor = Cursor::new(self.arbiter().nodes(), &head.root.uploads);
        let mut expired = Vec::new();
        for _ in 0..SWEEP_UPLOADS {
            cursor.seek(&from).await?;
            // At the end, the next search starts at the beginning again.
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
        sweeps.insert(head.address().clone(), from);
        Ok(expired)
    }

    async fn upload(
        &self,
        head: &Head,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<UploadRecord, ServiceError> {
        let header = keys::upload(key, id, 0);
        let found = head.root.uploads.get(self.arbiter().nodes(), &header).await?;
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

    /// Returns the checksums that an upload in progress computes, so that they can be computed for a part.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`].
    pub async fn upload_info(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        id: &str,
    ) -> Result<UploadInfo, ServiceError> {
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(key)).await?;
        let upload = self.open_upload(&head, key, parse_upload_id(id)?).await?;
        Ok(info_of(&upload))
    }

    /// Returns up to `limit` parts, from number `first` on.
    async fn parts(
        &self,
        head: &Head,
        key: &ObjectKey,
        id: UploadId,
        first: u32,
        limit: usize,
    ) -> Result<Vec<(u32, PartRecord)>, ServiceError> {
        let mut cursor = Cursor::new(self.arbiter().nodes(), &head.root.uploads);
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

    /// Ends an upload, and removes its parts.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`].
    pub async fn abort_upload(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        id: &str,
    ) -> Result<(), ServiceError> {
        let head = self.resolve(caller, bucket, Action::AbortUpload, Part::Key(key)).await?;
        let (key, id) = (key.clone(), parse_upload_id(id)?);
        let idempotency_key = caller.idempotency_key("abort-upload", key.as_str(), &[&id.0]);
        self.change(caller, &head, Change::AbortUpload { key, id }, idempotency_key).await.map(drop)
    }
}
