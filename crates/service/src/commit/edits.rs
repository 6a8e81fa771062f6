//! Edits that several kinds of changes make, and the answers that changes give.

use fula_core::{
    Block,
    bucket::{ETag, ObjectRecord, UploadRecord},
    id::{ObjectKey, UploadId},
};

use super::{deleted::Deleted, working::Working};
use crate::error::ServiceError;

/// The answer of a change that was carried out.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Object(Box<ObjectRecord>),
    /// What is remembered of an object whose tags were replaced: which version it is.
    Amended(Box<ObjectRecord>),
    Upload(UploadId),
    /// The outcome of each key of a deletion of several keys, or of one that concerns a delete marker.
    Each(Vec<Result<Deleted, ServiceError>>),
    /// The entity tag that each change of a commit of several keys has made, or why that change was refused.
    Committed(Vec<Result<Option<ETag>, ServiceError>>),
    /// The settings are not those by which the change was allowed. Decide again whether it is.
    AllowAgain,
    /// A part or the source was replaced after the content was joined or read. Do that again.
    JoinAgain,
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
