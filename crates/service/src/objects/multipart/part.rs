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
    objects::body::{self, BodyFacts, Taken},
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
        self.before_write(caller, "block store", self.open_upload(&head, &key, id)).await?;
        let permit = self.share_in(caller, body_facts.length).await?;
        let taken = body::take(self.intake(caller, &permit), body, body_facts).await?;
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
        // A retry stores the same part again, so it needs no key, unless it is bound to a version.
        let idempotency_key = caller.if_version.and_then(|_| {
            let number = number.to_be_bytes();
            caller.idempotency_key(
                "put-part",
                key.as_str(),
                &[&id.0, &number, &record.content.to_bytes()],
            )
        });
        let change = Change::PutPart { key, id, number, part: record.clone(), blocks };
        self.change(caller, head, change, idempotency_key).await?;
        Ok(record)
    }

    /// Stores a part with content of another object. A whole object in one piece is linked and not copied;
    /// a range is read and stored again.
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
        let info = info_of(&self.before_write(caller, "block store", upload).await?);
        let found = self.source(caller, &source).await?;
        let (first, last) = range.unwrap_or((0, found.size.saturating_sub(1)));
        if range.is_some() && (first > last || last >= found.size) {
            return Err(ServiceError::InvalidRange { size: found.size });
        }
        let whole = range.is_none() || (first == 0 && last + 1 == found.size);
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
            };
            let part = TakenPart { key, id, number, record, blocks: Vec::new() };
            return Ok((self.commit_part(caller, &head, part).await?, now));
        }
        let length = if found.size == 0 { 0 } else { last - first + 1 };
        // One permit covers both directions: waiting for a second one while holding the first could last
        // for ever.
        let range = first..first + length;
        let bytes = budget::bytes_out(found.size, &range) + budget::bytes_in(Some(length));
        let permit = Arc::new(self.body_budget.take(bytes, None).await?);
        let bytes = self.stream(&found, range, Arc::clone(&permit))?;
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
        let taken = body::take(self.intake(caller, &permit), Box::pin(bytes), facts).await?;
        let (record, blocks) = taken_part(&taken);
        let part = TakenPart { key, id, number, record, blocks };
        Ok((self.commit_part(caller, &head, part).await?, now))
    }

    async fn source(
        &self,
        caller: &Caller,
        source: &CopySourceRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let from = self
            .resolve_source(caller, source.owner, &source.bucket, &source.key, source.version)
            .await?;
        let found = self.found(&from, &source.key, source.version);
        let record = self.before_write(caller, "block store", found).await?;
        source.conditions.judge_source(&record)?;
        Ok(record)
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
    };
    (part, taken.riding.iter().cloned().collect())
}
