//! Completes an upload: checks its parts and joins their content.

use bytes::Bytes;
use fula_core::{
    Block, BucketName, Cid,
    bucket::{Checksum, ETag, ObjectRecord, PartRecord, PartSpan, write_parts},
    content::{self, FileLink},
    id::UploadId,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{CompletePart, CompleteRequest, UploadInfo, info_of, parse_upload_id};
use crate::{
    arbiter::Head,
    auth::access::Action,
    caller::Caller,
    commit::{Answer, Change, CompleteUpload, empty_block, parts_hash},
    error::{Applied, ServiceError},
    limits::{PART_BYTES_MIN, PARTS_MAX},
    objects::checksum,
    service::{Part, Service},
    sse::length_of,
};

/// Number of times that a completion is joined again because a part was replaced in the meantime.
pub(crate) const JOINS_MAX: u32 = 4;

/// Number of parts whose nodes are read at a time while joining.
const JOIN_READS: usize = 16;

impl Service {
    /// Makes an object of the parts of an upload. Completing again with the same parts gives the same
    /// answer.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`], [`ServiceError::InvalidPart`],
    /// [`ServiceError::InvalidPartOrder`], [`ServiceError::PartTooSmall`],
    /// [`ServiceError::PreconditionFailed`], [`ServiceError::BadDigest`].
    pub async fn complete_upload(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: &CompleteRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let key = &request.key;
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(key)).await?;
        let id = parse_upload_id(&request.id)?;
        self.may_compare(caller, &head, key, &request.conditions).await?;
        let named = request.parts.iter().map(|part| (part.number, part.etag.as_str()));
        let idempotency_key = caller.idempotency_key(
            "complete-upload",
            key.as_str(),
            &[&id.0, &parts_hash(named), &request.conditions.to_bytes()],
        );
        for _ in 0..JOINS_MAX {
            let current = self.arbiter().current(head.address());
            let newest = self.before_write(caller, "arbiter", current).await?;
            let newest = newest.ok_or(ServiceError::NoSuchBucket)?;
            // The first attempt of a retry may still be under way. The commit refuses the retry, where the
            // refusal is remembered.
            if !caller.is_retry() && !request.conditions.is_empty() {
                let current = self.record_for_write(caller, &newest, key).await?;
                let upload = self.upload(&newest, key, id);
                let upload = self.before_write(caller, "block store", upload).await?;
                if upload.completed.is_none() {
                    request.conditions.judge(current.as_ref())?;
                }
            }
            let joined = self.join(&newest, id, request, Named::ByChecksum);
            let complete = match self.before_write(caller, "block store", joined).await? {
                Joined::Already(record) => {
                    caller.seen.note(record.seq.version);
                    return Ok(*record);
                }
                Joined::Ready(complete) => complete,
            };
            let change = Change::CompleteUpload(complete);
            match self.change(caller, &head, change, idempotency_key.clone()).await? {
                Answer::Object(record) => return Ok(*record),
                Answer::JoinAgain => {}
                other => {
                    return Err(ServiceError::bug(format!("a completion answered {other:?}")));
                }
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Checks the named parts and joins their content, before the commit round.
    pub(crate) async fn join(
        &self,
        head: &Head,
        id: UploadId,
        request: &CompleteRequest,
        named_by: Named,
    ) -> Result<Joined, ServiceError> {
        let key = &request.key;
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
        let info = info_of(&upload);
        let stored = self.parts(head, key, id, 1, PARTS_MAX as usize).await?;
        if named_by == Named::ByChecksum && info.composite && info.asked {
            check_named(&request.parts)?;
        }
        let joined = select(&request.parts, &stored, info)?;
        let (content, block) = self.join_content(&joined).await?;
        let size: u64 = joined.iter().map(|(_, part)| part.size).sum();
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
                salt: part.salt,
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

    /// Makes one node over the content of the parts. Returns its address and the block, which is stored with
    /// the commit.
    async fn join_content(
        &self,
        joined: &[(u32, PartRecord)],
    ) -> Result<(Cid, Option<Block>), ServiceError> {
        let blocks = self.arbiter().nodes().blocks();
        let mut reads = Vec::with_capacity(joined.len());
        for (_, part) in joined {
            let size = length_of(part.size, part.salt.is_some());
            reads.push(content::dag_bytes(blocks.as_ref(), part.content, size));
        }
        let links: Vec<FileLink> = stream::iter(reads).buffered(JOIN_READS).try_collect().await?;
        match content::join(&links) {
            None => {
                let empty = empty_block();
                Ok((empty.cid(), Some(empty)))
            }
            Some((root, block)) => Ok((root.cid, block)),
        }
    }
}

/// The way in which a completion names the parts of an upload that computes checksums of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The parts are named by their entity tags.
    ByTag,
    /// The parts are named by their checksums too, as S3 requires.
    ByChecksum,
}

/// Refuses a completion that lacks the checksum of a part.
fn check_named(parts: &[CompletePart]) -> Result<(), ServiceError> {
    let Some(part) = parts.iter().find(|part| part.checksum.is_none()) else { return Ok(()) };
    Err(ServiceError::InvalidRequest(format!(
        "The upload was created using a checksum for each part. The complete request must include the \
         checksum for each part. It was missing for part {} in the request.",
        part.number
    )))
}

/// The result of joining the parts of an upload.
pub(crate) enum Joined {
    /// The upload was completed before, with this result.
    Already(Box<ObjectRecord>),
    /// The upload can be completed now.
    Ready(Box<CompleteUpload>),
}

/// Selects the named parts among the stored ones.
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
                // A checksum of another algorithm than the upload's was verified with its part, and not
                // stored.
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
            // The gateway receives the bytes of every part, so each part has an MD5.
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
