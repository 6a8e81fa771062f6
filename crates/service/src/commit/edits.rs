//! Edits that several kinds of changes make, and the answers that changes give.

use fula_core::{
    Block,
    bucket::{ObjectRecord, UploadRecord},
    id::{ObjectKey, UploadId},
};

use super::working::Working;
use crate::error::ServiceError;

/// The answer of a change that was carried out.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Object(Box<ObjectRecord>),
    Upload(UploadId),
    /// The outcome of each key of a deletion of several keys.
    Each(Vec<Result<(), ServiceError>>),
    /// A part was replaced after the content was joined. Join the parts again.
    JoinAgain,
}

/// Removes an object, if it exists.
pub(super) fn remove(work: &mut Working<'_>, key: &ObjectKey, current: Option<&ObjectRecord>) {
    if let Some(current) = current {
        work.displace(key.as_str(), current);
        work.remove_object(key);
    }
}

/// Gives a record its time and its position in the history, and makes it the current one instead of
/// `current`.
pub(super) fn write(
    work: &mut Working<'_>,
    key: &ObjectKey,
    current: Option<&ObjectRecord>,
    record: &mut ObjectRecord,
) {
    if let Some(current) = current {
        work.displace(key.as_str(), current);
    }
    record.time = work.time();
    record.seq = work.seq();
    work.put_object(key, record);
}

/// Returns the header of an upload in progress.
pub(super) async fn open_upload(
    work: &Working<'_>,
    key: &ObjectKey,
    id: UploadId,
) -> Result<UploadRecord, ServiceError> {
    let upload = work.upload(key, id).await?;
    upload.filter(|upload| upload.completed.is_none()).ok_or(ServiceError::NoSuchUpload)
}

/// Returns the length of all blocks in bytes.
pub(super) fn bytes_of(blocks: &[Block]) -> usize {
    blocks.iter().map(|block| block.bytes().len()).sum()
}
