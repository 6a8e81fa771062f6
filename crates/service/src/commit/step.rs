//! Multi-key commits: several changes of objects, of which all or none are applied, or each by itself.

use fula_core::{
    Block,
    bucket::{ETag, Fingerprint, ObjectRecord},
    id::ObjectKey,
};

use super::{
    completion::CompleteUpload,
    edits::{Answer, bytes_of, open_upload},
    source::Source,
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
    Copy {
        source: Box<Source>,
        /// Attached maps that replace those of the source, which are stored with the commit.
        blocks: Vec<Block>,
    },
    Complete(Box<CompleteUpload>),
    /// The upload was completed before. Only an earlier attempt of this commit may have done that.
    Completed(Box<ObjectRecord>),
    /// A change that cannot be carried out. An earlier attempt of this commit may have been.
    Refused(ServiceError),
    /// Conditions without a change.
    Check,
    Delete,
}

/// The steps of a multi-key commit.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    pub(crate) all: Vec<Step>,
    /// Whether each step is applied by itself, whatever becomes of the others.
    pub(crate) each: bool,
}

/// What the check of a step found.
enum Checked {
    /// The step can be applied. A copy has the record of its source.
    Ready(Option<Box<ObjectRecord>>),
    /// Parts or the source must be read again before the step can be applied.
    ReadAgain,
}

impl Step {
    /// Returns the length of the blocks that are stored with the commit, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match &self.kind {
            StepKind::Write { blocks, .. } | StepKind::Copy { blocks, .. } => bytes_of(blocks),
            StepKind::Complete(complete) => bytes_of(&complete.blocks),
            StepKind::Completed(_) | StepKind::Refused(_) | StepKind::Check | StepKind::Delete => 0,
        }
    }

    /// Returns whether the step makes no object.
    pub(super) fn takes_away(&self) -> bool {
        matches!(self.kind, StepKind::Delete | StepKind::Check | StepKind::Refused(_))
    }

    /// Returns the entity tag of the object that it makes; `None` for a copy, whose source is read at the commit.
    pub(crate) fn etag(&self) -> Option<ETag> {
        match &self.kind {
            StepKind::Write { record, .. } | StepKind::Completed(record) => Some(record.etag),
            StepKind::Complete(complete) => Some(complete.record.etag),
            StepKind::Copy { .. } | StepKind::Refused(_) | StepKind::Check | StepKind::Delete => {
                None
            }
        }
    }

    /// Checks the step against the state before the commit.
    async fn check(&self, work: &Working<'_>) -> Result<Checked, ServiceError> {
        let current = work.object(&self.key).await?;
        work.judge(&self.conditions, current.as_ref())?;
        match &self.kind {
            StepKind::Complete(complete) => {
                open_upload(work, &self.key, complete.id).await?;
                let parts = work.parts(&self.key, complete.id).await?;
                let is_ready = complete.is_unchanged(&parts);
                Ok(if is_ready { Checked::Ready(None) } else { Checked::ReadAgain })
            }
            StepKind::Copy { source, .. } => {
                let found = source.record(work).await?;
                Ok(found
                    .map_or(Checked::ReadAgain, |record| Checked::Ready(Some(Box::new(record)))))
            }
            StepKind::Completed(_) => Err(ServiceError::NoSuchUpload),
            StepKind::Refused(error) => Err(error.clone()),
            StepKind::Write { .. } | StepKind::Check | StepKind::Delete => Ok(Checked::Ready(None)),
        }
    }

    /// Applies the step, which was checked. A copy makes `copied`. `room` is what deletions of the same commit free,
    /// and writes of it have not used. Returns the entity tag of the object that was made.
    ///
    /// # Errors
    /// A quota that has no room, or a store. Nothing was changed then.
    async fn apply(
        &self,
        work: &mut Working<'_>,
        copied: Option<Box<ObjectRecord>>,
        room: &mut u64,
    ) -> Result<Option<ETag>, ServiceError> {
        let newest = work.newest(&self.key).await?;
        let (mut record, blocks) = match &self.kind {
            StepKind::Write { record, blocks } => (ObjectRecord::clone(record), blocks),
            StepKind::Copy { blocks, .. } => {
                let none = || ServiceError::bug("a copy was applied without its source");
                (*copied.ok_or_else(none)?, blocks)
            }
            StepKind::Complete(complete) => {
                drop(complete.apply(work).await?);
                return Ok(Some(complete.record.etag));
            }
            StepKind::Delete => {
                remove(work, &self.key, &newest);
                return Ok(None);
            }
            StepKind::Completed(_) | StepKind::Refused(_) | StepKind::Check => return Ok(None),
        };
        let freed = work.freed_by_replacing(newest.current.as_ref());
        work.take_room(record.size, freed.saturating_add(*room))?;
        *room = room.saturating_sub(record.size.saturating_sub(freed));
        work.carry(blocks);
        write(work, &self.key, &newest, &mut record);
        Ok(Some(record.etag))
    }
}

impl Steps {
    /// Checks every step, and then applies those that can be: all or none of them, or each by itself. They have
    /// different keys, and what a copy reads is read before the first one is applied. So no step changes the
    /// state that another one is checked against. A step that was checked can fail only if a quota has no room
    /// for it.
    ///
    /// Copies carry `fingerprint`, so that a retry finds what they have made.
    pub(super) async fn apply(
        &self,
        work: &mut Working<'_>,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Answer, ServiceError> {
        work.require_bucket()?;
        let mut is_ready = true;
        let mut checked = Vec::with_capacity(self.all.len());
        for step in &self.all {
            let copied = match self.settle(step, step.check(work).await)? {
                Ok(Checked::Ready(copied)) => Ok(copied.map(|mut record| {
                    record.fingerprint = fingerprint;
                    record
                })),
                Ok(Checked::ReadAgain) => {
                    is_ready = false;
                    continue;
                }
                Err(refusal) => Err(refusal),
            };
            checked.push(copied);
        }
        if !is_ready {
            return Ok(Answer::JoinAgain);
        }
        let (mut trial, mut room) = (work.clone(), 0_u64);
        for (step, copied) in self.all.iter().zip(&checked) {
            if matches!(step.kind, StepKind::Delete) && copied.is_ok() {
                let current = work.object(&step.key).await?;
                room = room.saturating_add(work.freed_by_replacing(current.as_ref()));
            }
        }
        let mut results = Vec::with_capacity(self.all.len());
        for (step, copied) in self.all.iter().zip(checked) {
            results.push(match copied {
                Ok(copied) => self.settle(step, step.apply(&mut trial, copied, &mut room).await)?,
                Err(refusal) => Err(refusal),
            });
        }
        *work = trial;
        Ok(Answer::Committed(results))
    }

    /// Decides what an error of a step ends: the step alone, as the inner result, or the whole commit.
    fn settle<T>(
        &self,
        step: &Step,
        result: Result<T, ServiceError>,
    ) -> Result<Result<T, ServiceError>, ServiceError> {
        match result {
            Err(error) if self.each && error.is_refusal() => Ok(Err(error)),
            Err(error) => Err(in_commit(step.key.as_str(), error)),
            Ok(value) => Ok(Ok(value)),
        }
    }
}
