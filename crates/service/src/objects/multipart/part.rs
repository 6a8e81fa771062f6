//! Storing the parts of an upload.

use std::sync::Arc;

use fula_core::{
    Block, BucketName, ObjectKey,
    bucket::{ETag, ObjectRecord, PartRecord},
    id::UploadId,
    root::TimeMs,
};
use futures::TryStreamExt;

use super::{CopyPartRequest, PutPartRequest, info_of, parse_upload_id};
use crate::{
    arbiter::Head,
    auth::access::Action,
    budget,
    caller::Caller,
    commit::{Change, content_of},
    error::ServiceError,
    limits::{PARTS_MAX, PUT_BYTES_MAX},
    objects::body::{self, BodyFacts, Intake, Taken},
    objects::object::CopySourceRequest,
    service::{Part, Service},
};

/// A part whose content was received.
struct TakenPart {
    key: ObjectKey,
    id: UploadId,
    number: u32,
    record: PartRecord,
    /// Blocks that are stored with the commit.
    blocks: Vec<Block>,
}

impl Service {
    /// Stores one part.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`], and the errors of `body::take`.
    pub async fn put_part(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: PutPartRequest,
    ) -> Result<Taken, ServiceError> {
        let PutPartRequest { key, id, number, body, body_facts } = request;
        check_number(number)?;
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(&key)).await?;
        let id = parse_upload_id(&id)?;
        let upload = self.open_upload(&head, &key, id);
        let upload = self.before_write(caller, "block store", upload).await?;
        let cipher = self.cipher_of(&upload.template)?;
        let permit = self.share_in(caller, body_facts.length).await?;
        let intake =
            Intake { cipher: self.body_cipher(cipher.as_ref())?, ..self.intake(caller, &permit) };
        let taken = body::take(intake, body, body_facts).await?;
        let (record, blocks) = taken_part(&taken);
        self.commit_part(caller, &head, TakenPart { key, id, number, record, blocks }).await?;
        Ok(taken)
    }

    async fn commit_part(
        &self,
        caller: &Caller,
        head: &Head,
        part: TakenPart,
    ) -> Result<PartRecord, ServiceError> {
        let TakenPart { key, id, number, record, blocks } = part;
        // Encrypted content has another address at each attempt.
        let content = match (record.salt, record.etag) {
            (Some(_), ETag::Md5(md5)) => md5.to_vec(),
            _ => record.content.to_bytes().to_vec(),
        };
        // A retry stores the same part again, so it needs no key, unless it is bound to a version.
        let idempotency_key = caller.if_version.and_then(|_| {
            let number = number.to_be_bytes();
            caller.idempotency_key("put-part", key.as_str(), &[&id.0, &number, &content])
        });
        let change = Change::PutPart { key, id, number, part: record.clone(), blocks };
        self.change(caller, head, change, idempotency_key).await?;
        Ok(record)
    }

    /// Stores a part with content of another object. A whole object in one piece is linked and not copied;
    /// a range is read and stored again, and so is what is encrypted.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`], [`ServiceError::NoSuchKey`],
    /// [`ServiceError::InvalidRange`] for a range beyond the source.
    pub async fn copy_part(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: CopyPartRequest,
    ) -> Result<(PartRecord, TimeMs), ServiceError> {
        let CopyPartRequest { key, id, number, source, range } = request;
        check_number(number)?;
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(&key)).await?;
        let id = parse_upload_id(&id)?;
        let upload = self.open_upload(&head, &key, id);
        let upload = self.before_write(caller, "block store", upload).await?;
        let (info, cipher) = (info_of(&upload), self.cipher_of(&upload.template)?);
        let (found, generation) = self.source(caller, &source).await?;
        let (first, last) = range.unwrap_or((0, found.size.saturating_sub(1)));
        if range.is_some() && (first > last || last >= found.size) {
            return Err(ServiceError::InvalidRange { size: found.size });
        }
        // Encrypted content is read and encrypted again, under the key of the upload.
        let is_plain = cipher.is_none() && found.sse.is_none();
        let whole = is_plain && (range.is_none() || (first == 0 && last + 1 == found.size));
        let same = found
            .checksums
            .iter()
            .find(|checksum| checksum.algorithm == info.algorithm && checksum.composite_parts == 0);
        let now = self.before_write(caller, "arbiter", self.arbiter().now()).await?;
        if let (true, ETag::Md5(_), Some(checksum)) = (whole, found.etag, same) {
            let record = PartRecord {
                size: found.size,
                etag: found.etag,
                time: 0,
                checksum: Some(checksum.clone()),
                content: content_of(&found)?,
                salt: None,
            };
            let part = TakenPart { key, id, number, record, blocks: Vec::new() };
            caller.pins.note_source(generation);
            return Ok((self.commit_part(caller, &head, part).await?, now));
        }
        let length = if found.size == 0 { 0 } else { last - first + 1 };
        // One permit covers both directions: waiting for a second one while holding the first could last
        // for ever.
        let range = first..first + length;
        let bytes = budget::bytes_out(found.size, &range) + budget::bytes_in(Some(length));
        let permit = Arc::new(self.body_budget.take(bytes, None).await?);
        let bytes = self.stream(caller, &found, range, Arc::clone(&permit)).await?;
        let bytes = bytes.map_err(ServiceError::from);
        let facts = BodyFacts {
            length: Some(length),
            length_max: PUT_BYTES_MAX,
            md5: None,
            keep: info.algorithm,
            sent: info.algorithm,
            checksum: None,
            trailer: None,
        };
        let intake =
            Intake { cipher: self.body_cipher(cipher.as_ref())?, ..self.intake(caller, &permit) };
        let taken = body::take(intake, Box::pin(bytes), facts).await?;
        let (record, blocks) = taken_part(&taken);
        let part = TakenPart { key, id, number, record, blocks };
        Ok((self.commit_part(caller, &head, part).await?, now))
    }

    /// Returns the source of a copy, and the generation of the root that it is from.
    async fn source(
        &self,
        caller: &Caller,
        source: &CopySourceRequest,
    ) -> Result<(ObjectRecord, u64), ServiceError> {
        let from = self
            .resolve_source(caller, source.owner, &source.bucket, &source.key, source.version)
            .await?;
        let found = self.found(&from, &source.key, source.version);
        let record = self.before_write(caller, "block store", found).await?;
        source.conditions.judge_source(&record)?;
        Ok((record, from.row.pointer.generation))
    }
}

fn check_number(number: u32) -> Result<(), ServiceError> {
    if (1..=PARTS_MAX).contains(&number) {
        return Ok(());
    }
    let text = "Part number must be an integer between 1 and 10000, inclusive";
    Err(ServiceError::InvalidArgument(text.to_owned()))
}

/// Returns the record of a received part, and the block that is stored with its commit.
fn taken_part(taken: &Taken) -> (PartRecord, Vec<Block>) {
    let part = PartRecord {
        size: taken.size,
        etag: taken.etag(),
        time: 0,
        checksum: taken.checksums.first().cloned(),
        content: taken.content,
        salt: taken.salt,
    };
    (part, taken.riding.iter().cloned().collect())
}
