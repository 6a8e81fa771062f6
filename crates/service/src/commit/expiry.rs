//! What ends by lifecycle rules. Each is compared with the state at the commit: it ends only if it is still
//! what the rules were compared with.

use fula_core::{
    bucket::{Attached, Seq},
    id::{ObjectKey, UploadId},
};

use super::{
    edits::Answer,
    versions::{remove, remove_version},
    working::Working,
};
use crate::error::ServiceError;

/// Something that ends.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    pub(crate) key: ObjectKey,
    pub(crate) what: Expired,
}

/// What of a key ends.
#[derive(Clone, Debug)]
pub(crate) enum Expired {
    /// The current object, with these tags. Where the bucket keeps versions, a delete marker takes its place.
    Current(Seq, Attached),
    /// A version that is not current, with these tags, for good.
    Version(Seq, Attached),
    /// A delete marker that is the only version.
    Marker(Seq),
    /// An upload in progress.
    Upload(UploadId),
}

/// Ends what is still as it was.
pub(super) async fn expire(
    work: &mut Working<'_>,
    ended: &[Expiry],
) -> Result<Answer, ServiceError> {
    work.require_bucket()?;
    let mut trial = work.clone();
    for Expiry { key, what } in ended {
        match what {
            Expired::Current(seq, tags) => {
                let newest = trial.newest(key).await?;
                let is_same = |current: &fula_core::bucket::ObjectRecord| {
                    current.seq == *seq && current.tags == *tags
                };
                if newest.current.as_ref().is_some_and(is_same) {
                    remove(&mut trial, key, &newest);
                }
            }
            Expired::Version(seq, tags) => {
                let newest = trial.newest(key).await?;
                let is_newest = newest.head().is_some_and(|head| head.seq == *seq);
                if let Some(found) = trial.version_at(key, *seq).await?
                    && !is_newest
                    && found.tags == *tags
                {
                    remove_version(&mut trial, key, found.version_id()).await?;
                }
            }
            Expired::Marker(seq) => {
                let newest = trial.newest(key).await?;
                if let Some(marker) = newest.marker.filter(|marker| marker.seq == *seq)
                    && trial.version_before(key, *seq).await?.is_none()
                {
                    remove_version(&mut trial, key, marker.version_id()).await?;
                }
            }
            Expired::Upload(id) => {
                let upload = trial.upload(key, *id).await?;
                if upload.is_some_and(|upload| upload.completed.is_none()) {
                    let parts = trial.parts(key, *id).await?;
                    trial.remove_upload(key, *id, parts.iter().map(|(number, _)| *number), true);
                }
            }
        }
    }
    *work = trial;
    Ok(Answer::Done)
}
