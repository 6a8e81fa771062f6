//! Multi-key commits: several changes of objects, of which all or none are applied.

use fula_core::{
    Block,
    bucket::{ETag, ObjectRecord},
    id::ObjectKey,
};

use super::{
    completion::CompleteUpload,
    edits::{Answer, bytes_of, open_upload},
    versions::{remove, write},
    working::Working,
};
use crate::{
    error::{ServiceError, in_commit},
    objects::condition::WriteConditions,
};

/// One change of a multi-key commit.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) key: ObjectKey,
    pub(crate) conditions: WriteConditions,
    pub(crate) kind: StepKind,
}

/// The action of one change of a multi-key commit.
#[derive(Clone, Debug)]
pub(crate) enum StepKind {
    Write {
        record: Box<ObjectRecord>,
        /// Body and attached maps, which are stored with the commit.
        blocks: Vec<Block>,
    },
    Complete(Box<CompleteUpload>),
    /// The upload was completed before. Only an earlier attempt of this commit may have done that.
    Completed(Box<ObjectRecord>),
    /// A mapping that cannot be admitted. An earlier attempt of this commit may have been.
    Refused(ServiceError),
    Delete,
}

impl Step {
    /// Returns the length of the blocks that are stored with the commit, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match &self.kind {
            StepKind::Write { blocks, .. } => bytes_of(blocks),
            StepKind::Complete(complete) => bytes_of(&complete.blocks),
            StepKind::Completed(_) | StepKind::Refused(_) | StepKind::Delete => 0,
        }
    }

    /// Returns the entity tag of the object that it makes.
    pub(crate) fn etag(&self) -> Option<ETag> {
        match &self.kind {
            StepKind::Write { record, .. } | StepKind::Completed(record) => Some(record.etag),
            StepKind::Complete(complete) => Some(complete.record.etag),
            StepKind::Refused(_) | StepKind::Delete => None,
        }
    }

    /// Checks the step against the state before the commit. Returns `false` when the parts of its upload must
    /// be joined again.
    async fn judge(&self, work: &Working<'_>) -> Result<bool, ServiceError> {
        let current = work.object(&self.key).await?;
        work.judge(&self.conditions, current.as_ref())?;
        match &self.kind {
            StepKind::Complete(complete) => {
                open_upload(work, &self.key, complete.id).await?;
                Ok(complete.is_unchanged(&work.parts(&self.key, complete.id).await?))
            }
            StepKind::Completed(_) => Err(ServiceError::NoSuchUpload),
            StepKind::Refused(error) => Err(error.clone()),
            StepKind::Write { .. } | StepKind::Delete => Ok(true),
        }
    }

    async fn apply(&self, work: &mut Working<'_>) -> Result<(), ServiceError> {
        let newest = work.newest(&self.key).await?;
        match &self.kind {
            StepKind::Write { record, blocks } => {
                let mut record = ObjectRecord::clone(record);
                let freed = work.freed_by_replacing(newest.current.as_ref());
                work.take_room(record.size, freed)?;
                work.carry(blocks);
                write(work, &self.key, &newest, &mut record);
            }
            StepKind::Complete(complete) => drop(complete.apply(work).await?),
            StepKind::Completed(_) | StepKind::Refused(_) => {}
            StepKind::Delete => {
                remove(work, &self.key, &newest);
            }
        }
        Ok(())
    }
}

/// Checks every step, and then applies all of them. They have different keys, so none changes the state that
/// another one is checked against. A step that was checked can fail only if the quota of the bucket has no room for it.
pub(super) async fn commit(work: &mut Working<'_>, steps: &[Step]) -> Result<Answer, ServiceError> {
    work.require_bucket()?;
    let mut is_ready = true;
    for step in steps {
        let judged = step.judge(work).await;
        is_ready &= judged.map_err(|error| in_commit(step.key.as_str(), error))?;
    }
    if !is_ready {
        return Ok(Answer::JoinAgain);
    }
    let mut trial = work.clone();
    for step in steps {
        let applied = step.apply(&mut trial).await;
        applied.map_err(|error| in_commit(step.key.as_str(), error))?;
    }
    *work = trial;
    Ok(Answer::Done)
}
