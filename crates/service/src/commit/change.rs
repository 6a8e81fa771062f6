//! Changes to a bucket, and how each is judged against the state it meets.
//!
//! A change is data: it can wait in a queue, be judged again on a newer root, or be handed to
//! another master. Everything that was decided from a root is decided here, again, at commit.

use bytes::Bytes;
use fula_core::{
    Block, BucketId,
    bucket::{Attached, Completed, ETag, Fingerprint, ObjectRecord, PartRecord, UploadRecord},
    id::{ObjectKey, UploadId},
    root::{GlobalName, TimeMs},
    tree::Salt,
};

use super::working::Working;
use crate::{
    error::{ServiceError, in_commit},
    limits::COMPLETED_KEPT_MS,
    names::NamePolicy,
    objects::condition::{ReadConditions, WriteConditions},
};

/// Where the record of a write comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Given in full, but for time and place in history.
    Record(Box<ObjectRecord>),
    /// An object elsewhere that cannot be copied; a retry's first attempt may have found it still.
    Refused(ServiceError),
    /// Another object of the same bucket, as it is at commit.
    SameBucket {
        key: ObjectKey,
        conditions: ReadConditions,
        /// Replaces headers and metadata when set.
        replace: Option<Box<(Attached, Attached)>>,
    },
}

/// Name of the setting that holds where a bucket was asked to be: a text, as it was sent.
pub(crate) const LOCATION: &str = "location";

/// A change to one bucket.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    CreateBucket {
        id: BucketId,
        salt: Salt,
        /// Value of the setting [`LOCATION`].
        location: Option<Block>,
        global_name: GlobalName,
    },
    DeleteBucket,
    /// Sets or removes a setting of the bucket.
    Set {
        name: &'static str,
        value: Option<Block>,
        /// What the setting means for the global name.
        global_name: GlobalName,
    },
    /// Brings the global name in line with the mode.
    SettleName(NamePolicy),
    Write {
        key: ObjectKey,
        source: Source,
        conditions: WriteConditions,
        /// Small body and attached maps, stored with the commit.
        blocks: Vec<Block>,
    },
    Delete {
        key: ObjectKey,
        conditions: WriteConditions,
    },
    DeleteMany(Vec<(ObjectKey, WriteConditions)>),
    CreateUpload {
        key: ObjectKey,
        id: UploadId,
        record: Box<UploadRecord>,
        blocks: Vec<Block>,
        /// Completed uploads whose answers may be forgotten by now.
        expired: Vec<(ObjectKey, UploadId)>,
    },
    PutPart {
        key: ObjectKey,
        id: UploadId,
        number: u32,
        part: PartRecord,
        blocks: Vec<Block>,
    },
    CompleteUpload(Box<CompleteUpload>),
    /// All or nothing; no key twice.
    Commit(Vec<Step>),
    AbortUpload {
        key: ObjectKey,
        id: UploadId,
    },
}

/// A completion whose content was joined before queueing.
#[derive(Clone, Debug)]
pub(crate) struct CompleteUpload {
    pub(crate) key: ObjectKey,
    pub(crate) id: UploadId,
    pub(crate) conditions: WriteConditions,
    pub(crate) record: ObjectRecord,
    /// The parts the content was joined from, as they were then.
    pub(crate) joined: Vec<(u32, PartRecord)>,
    pub(crate) parts_hash: [u8; 32],
    /// The table of parts.
    pub(crate) blocks: Vec<Block>,
}

/// One change of a commit.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) key: ObjectKey,
    pub(crate) conditions: WriteConditions,
    pub(crate) kind: StepKind,
}

/// What one change of a commit does.
#[derive(Clone, Debug)]
pub(crate) enum StepKind {
    Write {
        record: Box<ObjectRecord>,
        /// Body and attached maps, stored with the commit.
        blocks: Vec<Block>,
    },
    Complete(Box<CompleteUpload>),
    /// The upload was completed before: only a remembered commit can have done that rightly.
    Completed(Box<ObjectRecord>),
    Delete,
}

/// What a change that was carried out answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Object(Box<ObjectRecord>),
    Upload(UploadId),
    Each(Vec<Result<(), ServiceError>>),
    /// A part changed after the content was joined: join again.
    JoinAgain,
}

impl Change {
    /// Returns whether it only removes: once history is forgotten, less space is in use.
    pub(crate) fn takes_away(&self) -> bool {
        match self {
            Self::DeleteBucket
            | Self::Delete { .. }
            | Self::DeleteMany(_)
            | Self::AbortUpload { .. } => true,
            Self::Commit(steps) => steps.iter().all(|step| matches!(step.kind, StepKind::Delete)),
            _ => false,
        }
    }

    /// Returns the bytes of blocks that ride with the commit.
    pub(crate) fn bytes(&self) -> usize {
        let blocks: &[Block] = match self {
            Self::Write { blocks, .. }
            | Self::CreateUpload { blocks, .. }
            | Self::PutPart { blocks, .. } => blocks,
            Self::CompleteUpload(complete) => &complete.blocks,
            Self::Commit(steps) => return steps.iter().map(Step::bytes).sum(),
            Self::Set { value, .. } | Self::CreateBucket { location: value, .. } => {
                value.as_slice()
            }
            Self::DeleteBucket
            | Self::SettleName(_)
            | Self::Delete { .. }
            | Self::DeleteMany(_)
            | Self::AbortUpload { .. } => &[],
        };
        bytes_of(blocks)
    }

    /// Judges the change against `work` and applies it, in full or not at all.
    ///
    /// A record it makes carries `fingerprint`, by which a retry is known.
    pub(super) async fn apply(
        &self,
        work: &mut Working<'_>,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Answer, ServiceError> {
        match self {
            Self::CreateBucket { id, salt, location, global_name } => {
                if work.require_bucket().is_ok() {
                    return Err(ServiceError::BucketAlreadyOwned);
                }
                let recent = work.recent_anew().await?;
                work.create(*id, *salt, *global_name, recent);
                if location.is_some() {
                    set(work, LOCATION, location.as_ref(), GlobalName::Keep).await?;
                }
                Ok(Answer::Done)
            }
            Self::DeleteBucket => {
                if !work.is_empty().await? {
                    return Err(ServiceError::BucketNotEmpty);
                }
                let recent = work.recent_anew().await?;
                work.delete_bucket(recent);
                Ok(Answer::Done)
            }
            Self::Set { name, value, global_name } => {
                set(work, name, value.as_ref(), *global_name).await?;
                Ok(Answer::Done)
            }
            Self::SettleName(names) => work.settle_name(*names).await.map(|()| Answer::Done),
            Self::Write { key, source, conditions, blocks } => {
                let current = work.object(key).await?;
                work.judge(conditions, current.as_ref())?;
                let mut record = source.record(work).await?;
                work.carry(blocks);
                record.fingerprint = fingerprint;
                write(work, key, current.as_ref(), &mut record);
                Ok(Answer::Object(Box::new(record)))
            }
            Self::Delete { key, conditions } => {
                let current = work.object(key).await?;
                work.judge(conditions, current.as_ref())?;
                remove(work, key, current.as_ref());
                Ok(Answer::Done)
            }
            Self::DeleteMany(keys) => delete_many(work, keys).await,
            Self::CreateUpload { key, id, record, blocks, expired } => {
                create_upload(work, key, *id, record, blocks, expired).await
            }
            Self::PutPart { key, id, number, part, blocks } => {
                open_upload(work, key, *id).await?;
                let part = PartRecord { time: work.time(), ..part.clone() };
                work.carry(blocks);
                work.put_part(key, *id, *number, &part);
                Ok(Answer::Done)
            }
            Self::CompleteUpload(complete) => complete.apply(work).await,
            Self::Commit(steps) => commit(work, steps).await,
            Self::AbortUpload { key, id } => {
                open_upload(work, key, *id).await?;
                let parts = work.parts(key, *id).await?;
                work.remove_upload(key, *id, parts.iter().map(|(number, _)| *number), true);
                Ok(Answer::Done)
            }
        }
    }
}

/// Removes an object, if it is there.
fn remove(work: &mut Working<'_>, key: &ObjectKey, current: Option<&ObjectRecord>) {
    if let Some(current) = current {
        work.displace(key.as_str(), current);
        work.remove_object(key);
    }
}

/// Sets or removes a setting.
async fn set(
    work: &mut Working<'_>,
    name: &str,
    value: Option<&Block>,
    global_name: GlobalName,
) -> Result<(), ServiceError> {
    let mut settings = work.settings().await?;
    match value {
        Some(block) => {
            work.carry(std::slice::from_ref(block));
            settings.blocks.insert(name.to_owned(), block.cid());
        }
        None => drop(settings.blocks.remove(name)),
    }
    work.set_settings(&settings, global_name);
    Ok(())
}

/// Removes the objects whose conditions hold. All are judged before the first is removed.
async fn delete_many(
    work: &mut Working<'_>,
    keys: &[(ObjectKey, WriteConditions)],
) -> Result<Answer, ServiceError> {
    work.require_bucket()?;
    let mut outcomes = Vec::with_capacity(keys.len());
    let mut allowed = Vec::new();
    for (key, conditions) in keys {
        let current = work.object(key).await?;
        let outcome = work.judge(conditions, current.as_ref());
        if outcome.is_ok() {
            allowed.push((key, current));
        }
        outcomes.push(outcome);
    }
    for (key, current) in allowed {
        remove(work, key, current.as_ref());
    }
    Ok(Answer::Each(outcomes))
}

/// Begins an upload, and forgets completed ones whose time is over.
async fn create_upload(
    work: &mut Working<'_>,
    key: &ObjectKey,
    id: UploadId,
    record: &UploadRecord,
    blocks: &[Block],
    expired: &[(ObjectKey, UploadId)],
) -> Result<Answer, ServiceError> {
    work.require_bucket()?;
    let mut gone = Vec::new();
    for (key, id) in expired {
        let upload = work.upload(key, *id).await?;
        if upload.is_some_and(|upload| is_expired(&upload, work.time())) {
            gone.push((key, *id));
        }
    }
    for (key, id) in gone {
        work.remove_upload(key, id, std::iter::empty(), true);
    }
    let mut record = record.clone();
    record.initiated = work.time();
    work.carry(blocks);
    work.put_upload(key, id, &record);
    Ok(Answer::Upload(id))
}

impl Source {
    async fn record(&self, work: &Working<'_>) -> Result<ObjectRecord, ServiceError> {
        match self {
            Self::Record(record) => Ok(ObjectRecord::clone(record)),
            Self::Refused(error) => Err(error.clone()),
            Self::SameBucket { key, conditions, replace } => {
                let mut record = work.object(key).await?.ok_or(ServiceError::NoSuchKey)?;
                conditions.judge_source(&record)?;
                if let Some(replace) = replace {
                    (record.headers, record.metadata) = (**replace).clone();
                }
                record.fingerprint = None;
                Ok(record)
            }
        }
    }
}

/// Gives a record its time and place, and makes it the current one instead of `current`.
fn write(
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

/// Returns whether an upload was completed so long ago that its answer is not kept any more.
pub(crate) fn is_expired(upload: &UploadRecord, now: TimeMs) -> bool {
    let completed = upload.completed.as_ref();
    completed.is_some_and(|completed| completed.time.saturating_add(COMPLETED_KEPT_MS) <= now)
}

async fn open_upload(
    work: &Working<'_>,
    key: &ObjectKey,
    id: UploadId,
) -> Result<UploadRecord, ServiceError> {
    let upload = work.upload(key, id).await?;
    upload.filter(|upload| upload.completed.is_none()).ok_or(ServiceError::NoSuchUpload)
}

fn bytes_of(blocks: &[Block]) -> usize {
    blocks.iter().map(|block| block.bytes().len()).sum()
}

impl Step {
    fn bytes(&self) -> usize {
        match &self.kind {
            StepKind::Write { blocks, .. } => bytes_of(blocks),
            StepKind::Complete(complete) => bytes_of(&complete.blocks),
            StepKind::Completed(_) | StepKind::Delete => 0,
        }
    }

    /// Returns the tag of what it makes.
    pub(crate) fn etag(&self) -> Option<ETag> {
        match &self.kind {
            StepKind::Write { record, .. } | StepKind::Completed(record) => Some(record.etag),
            StepKind::Complete(complete) => Some(complete.record.etag),
            StepKind::Delete => None,
        }
    }

    /// Judges the step on what is there before the commit; `false` when it must be joined again.
    async fn judge(&self, work: &Working<'_>) -> Result<bool, ServiceError> {
        let current = work.object(&self.key).await?;
        work.judge(&self.conditions, current.as_ref())?;
        match &self.kind {
            StepKind::Complete(complete) => {
                open_upload(work, &self.key, complete.id).await?;
                Ok(complete.is_unchanged(&work.parts(&self.key, complete.id).await?))
            }
            StepKind::Completed(_) => Err(ServiceError::NoSuchUpload),
            StepKind::Write { .. } | StepKind::Delete => Ok(true),
        }
    }

    async fn apply(&self, work: &mut Working<'_>) -> Result<(), ServiceError> {
        let current = work.object(&self.key).await?;
        match &self.kind {
            StepKind::Write { record, blocks } => {
                let mut record = ObjectRecord::clone(record);
                work.carry(blocks);
                write(work, &self.key, current.as_ref(), &mut record);
            }
            StepKind::Complete(complete) => drop(complete.apply(work).await?),
            StepKind::Completed(_) => {}
            StepKind::Delete => {
                remove(work, &self.key, current.as_ref());
            }
        }
        Ok(())
    }
}

/// Judges every step before the first is applied: they touch different keys, so none changes
/// what another is judged on, and what was judged good cannot fail.
async fn commit(work: &mut Working<'_>, steps: &[Step]) -> Result<Answer, ServiceError> {
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
        step.apply(&mut trial).await?;
    }
    *work = trial;
    Ok(Answer::Done)
}

impl CompleteUpload {
    /// Returns whether the parts are still those that the content was joined from.
    fn is_unchanged(&self, parts: &[(u32, PartRecord)]) -> bool {
        self.joined.iter().all(|joined| {
            let found = parts.binary_search_by_key(&joined.0, |(number, _)| *number);
            found.is_ok_and(|index| parts[index] == *joined)
        })
    }

    async fn apply(&self, work: &mut Working<'_>) -> Result<Answer, ServiceError> {
        let mut upload =
            work.upload(&self.key, self.id).await?.ok_or(ServiceError::NoSuchUpload)?;
        if let Some(completed) = upload.completed {
            return if completed.parts_hash == self.parts_hash {
                Ok(Answer::Object(Box::new(completed.record)))
            } else {
                Err(ServiceError::NoSuchUpload)
            };
        }
        let current = work.object(&self.key).await?;
        work.judge(&self.conditions, current.as_ref())?;
        let parts = work.parts(&self.key, self.id).await?;
        if !self.is_unchanged(&parts) {
            return Ok(Answer::JoinAgain);
        }
        let mut record = self.record.clone();
        work.carry(&self.blocks);
        write(work, &self.key, current.as_ref(), &mut record);
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

/// Returns a hash of the list of parts a completion names, lengths before contents.
pub(crate) fn parts_hash<'a>(parts: impl Iterator<Item = (u32, &'a str)>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("fula 2026 completed parts");
    for (number, etag) in parts {
        hasher.update(&number.to_be_bytes());
        hasher.update(&(etag.len() as u64).to_be_bytes());
        hasher.update(etag.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Returns the record's content, which every object has.
pub(crate) fn content_of(record: &ObjectRecord) -> Result<fula_core::Cid, ServiceError> {
    let none = || ServiceError::bug("object record has no content");
    record.content.ok_or_else(none)
}

/// Returns an empty block, the content of empty objects.
pub(crate) fn empty_block() -> Block {
    Block::new(fula_core::Codec::Raw, Bytes::new())
}
