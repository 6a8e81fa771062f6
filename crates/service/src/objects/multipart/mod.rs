//! Multipart uploads: all their state hangs off the bucket's root, like everything else.

mod complete;
mod list;
mod part;

use bytes::Bytes;
use fula_core::{
    BucketName, ObjectKey, StoreError,
    bucket::{ChecksumAlgorithm, PartRecord, UploadRecord, keys},
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
    objects::object::{CopySourceRequest, ObjectFacts, bare_record},
    service::{Part, Service},
};

/// An upload to begin.
#[derive(Clone, Debug)]
pub struct CreateUploadRequest {
    /// Key of the object it will make.
    pub key: ObjectKey,
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

/// A part being put.
pub struct PutPartRequest {
    /// Key of the object.
    pub key: ObjectKey,
    /// Which upload.
    pub id: String,
    /// Its number.
    pub number: u32,
    /// Its bytes.
    pub body: BodyStream,
    /// What the client says about them.
    pub body_facts: BodyFacts,
}

/// A part copied from another object.
#[derive(Clone, Debug)]
pub struct CopyPartRequest {
    /// Key of the object that the upload will make.
    pub key: ObjectKey,
    /// Which upload.
    pub id: String,
    /// Its number.
    pub number: u32,
    /// Where from.
    pub source: CopySourceRequest,
    /// First and last byte of the source to copy, or `None` for all of it.
    pub range: Option<(u64, u64)>,
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
    pub key: ObjectKey,
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
    /// Most lines; capped at [`PAGE_MAX`](crate::limits::PAGE_MAX).
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
    let key = ObjectKey::parse(key).map_err(ServiceError::bug)?;
    Ok((key, id, number))
}

impl Service {
    /// Begins an upload and returns its id.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn create_upload(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: CreateUploadRequest,
    ) -> Result<UploadId, ServiceError> {
        let CreateUploadRequest { key, facts, checksum } = request;
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(&key)).await?;
        let acl = facts.acl.clone();
        let (headers, metadata, blocks) = facts.attach()?;
        let now = self.before_write(caller, "arbiter", self.arbiter().now()).await?;
        let id = UploadId::new(now, self.random());
        let record = UploadRecord {
            initiated: now,
            initiator: caller
                .identity
                .as_ref()
                .map(|identity| identity.user.clone())
                .unwrap_or_default(),
            template: bare_record(headers, metadata, acl),
            checksum: checksum.map(|(algorithm, composite)| (algorithm as u8, composite)),
            completed: None,
        };
        let asked = record.checksum.map_or([0; 3], |(code, whole)| [1, code, u8::from(whole)]);
        let idempotency_key = caller.idempotency_key(
            "create-upload",
            key.as_str(),
            &[&record.template.encode(), &asked],
        );
        let expired = self.expired_uploads(&head, now);
        let expired = self.before_write(caller, "block store", expired).await?;
        let change = Change::CreateUpload { key, id, record: Box::new(record), blocks, expired };
        match self.change(caller, &head, change, idempotency_key).await? {
            Answer::Upload(id) => Ok(id),
            other => Err(ServiceError::bug(format!("an upload answered {other:?}"))),
        }
    }

    /// Looks at a few uploads, others than last time, for completed ones past their time. As many
    /// are looked at as begin, and more, so none stays for ever in a bucket that is in use.
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

    /// Returns what an upload in progress computes, so that a part's checksum can be.
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

    /// Returns up to `limit` parts from number `first` on.
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

    /// Ends an upload and forgets its parts.
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
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(key)).await?;
        let (key, id) = (key.clone(), parse_upload_id(id)?);
        let idempotency_key = caller.idempotency_key("abort-upload", key.as_str(), &[&id.0]);
        self.change(caller, &head, Change::AbortUpload { key, id }, idempotency_key).await.map(drop)
    }
}
