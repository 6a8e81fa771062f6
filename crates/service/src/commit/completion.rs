//! Completing an upload at the commit.

use fula_core::{
    Block,
    bucket::{Completed, ObjectRecord, PartRecord, UploadRecord},
    id::{ObjectKey, UploadId},
    root::TimeMs,
};

use super::{edits::Answer, versions::write, working::Working};
use crate::{error::ServiceError, limits::COMPLETED_KEPT_MS, objects::condition::WriteConditions};

/// A completion of an upload whose content was joined before the change was queued.
#[derive(Clone, Debug)]
pub(crate) struct CompleteUpload {
    pub(crate) key: ObjectKey,
    pub(crate) id: UploadId,
    pub(crate) conditions: WriteConditions,
    pub(crate) record: ObjectRecord,
    /// The parts that the content was joined from, as they were then.
    pub(crate) joined: Vec<(u32, PartRecord)>,
    /// Hash of the list of parts that the request names.
    pub(crate) parts_hash: [u8; 32],
    /// The table of parts, and nodes of the content that are stored with the commit.
    pub(crate) blocks: Vec<Block>,
}

impl CompleteUpload {
    /// Returns whether the joined parts are still among `parts`.
    pub(super) fn is_unchanged(&self, parts: &[(u32, PartRecord)]) -> bool {
        self.joined.iter().all(|joined| {
            let found = parts.binary_search_by_key(&joined.0, |(number, _)| *number);
            found.is_ok_and(|index| parts[index] == *joined)
        })
    }

    /// Makes the object of the upload. Completing again with the same parts gives the same answer.
    pub(super) async fn apply(&self, work: &mut Working<'_>) -> Result<Answer, ServiceError> {
        let mut upload =
            work.upload(&self.key, self.id).await?.ok_or(ServiceError::NoSuchUpload)?;
        if let Some(completed) = upload.completed {
            return if completed.parts_hash == self.parts_hash {
                Ok(Answer::Object(Box::new(completed.record)))
            } else {
                Err(ServiceError::NoSuchUpload)
            };
        }
        let newest = work.newest(&self.key).await?;
        work.judge(&self.conditions, newest.current.as_ref())?;
        let parts = work.parts(&self.key, self.id).await?;
        if !self.is_unchanged(&parts) {
            return Ok(Answer::JoinAgain);
        }
        let mut record = self.record.clone();
        work.carry(&self.blocks);
        write(work, &self.key, &newest, &mut record);
        work.remove_upload(&self.key, self.id, parts.iter().map(|(number, _)| *number), false);
        upload.completed = Some(Completed {
            time: work.time(),
            parts_hash: self.parts_hash,
            record: record.clone(),
        });
        work.put_upload(&self.key, self.id, &upload);
        Ok(Answer::Object(Box::new(record)))
    }
}

/// Returns whether an upload was completed so long ago that its answer need not be kept.
pub(crate) fn is_expired(upload: &UploadRecord, now: TimeMs) -> bool {
    let completed = upload.completed.as_ref();
    completed.is_some_and(|completed| completed.time.saturating_add(COMPLETED_KEPT_MS) <= now)
}

/// Returns a hash of the list of parts that a completion names. Each text is preceded by its length.
pub(crate) fn parts_hash<'a>(parts: impl Iterator<Item = (u32, &'a str)>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("fula 2026 completed parts");
    for (number, etag) in parts {
        hasher.update(&number.to_be_bytes());
        hasher.update(&(etag.len() as u64).to_be_bytes());
        hasher.update(etag.as_bytes());
    }
    *hasher.finalize().as_bytes()
}
