//! Changes to a bucket, and how each is checked against the state of the bucket and applied.
//!
//! A change is data: it can wait in a queue, and be checked again on a newer root. Every decision that
//! depends on a root is made here, at the commit, whatever was decided before.

use bytes::Bytes;
use fula_core::{
    Block, BucketId,
    bucket::{
        BucketRoot, Fingerprint, ObjectRecord, PartRecord, UploadRecord, VersionId, Versioning,
    },
    id::{ObjectKey, UploadId},
    root::GlobalName,
    tree::{Salt, Tree},
};

use super::{
    append::Append,
    completion::{CompleteUpload, is_expired},
    deleted::{Deleted, KeyToDelete},
    edits::{Answer, bytes_of, open_upload},
    expiry::{Expiry, expire},
    source::Source,
    step::{Step, Steps},
    versions::{Amendment, amend, delete_many, remove, remove_version, rename, write},
    working::Working,
};
use crate::{
    auth::{
        acl::OWNERSHIP,
        bucket_policy::{CORS, Openness, POLICY},
        public_access::PUBLIC_ACCESS,
    },
    error::ServiceError,
    names::NamePolicy,
    objects::condition::{ReadConditions, WriteConditions},
};

/// Name of the setting that holds the tags of the bucket, as a map of texts.
pub(crate) const TAGGING: &str = "tagging";

/// Name of the setting that holds the location which the client asked for, as text.
pub(crate) const LOCATION: &str = "location";

/// The content of a bucket that another one begins with.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(super) objects: Tree,
    pub(super) versions: Tree,
    pub(super) versioning: Option<Versioning>,
    /// Highest version of the bucket that it comes from. The versions of the new bucket are higher, so that its
    /// changes are later than those that made the content.
    pub(super) version: u64,
}

impl Content {
    /// Returns the sum of the sizes of all objects and versions, in bytes.
    fn bytes(&self) -> u64 {
        self.objects.bytes.saturating_add(self.versions.bytes)
    }

    /// Returns the content of a root of a bucket that is at `version` now.
    pub(crate) fn of(root: &BucketRoot, version: u64) -> Self {
        let (objects, versions, versioning) = (root.objects, root.versions, root.versioning);
        Self { objects, versions, versioning, version }
    }
}

/// A change to one bucket.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    CreateBucket {
        id: BucketId,
        salt: Salt,
        /// The first settings, by name.
        settings: Vec<(&'static str, Block)>,
        global_name: GlobalName,
        /// Content of another bucket with the same salt that the new one begins with.
        content: Option<Box<Content>>,
    },
    DeleteBucket,
    /// Sets or removes a setting of the bucket.
    Set {
        name: &'static str,
        value: Option<Block>,
        /// What decides about the global name, if the setting can change who reaches the bucket.
        names: Option<NamePolicy>,
    },
    /// Brings the global name in line with the name policy.
    SettleName(NamePolicy),
    Write {
        key: ObjectKey,
        source: Source,
        conditions: WriteConditions,
        /// Small body and attached maps, which are stored with the commit.
        blocks: Vec<Block>,
    },
    /// Makes an object longer.
    Append(Box<Append>),
    Delete(KeyToDelete),
    /// Gives an object another key.
    Rename {
        from: ObjectKey,
        to: ObjectKey,
        /// Conditions on the object.
        source: ReadConditions,
        /// Conditions on the object that is replaced.
        conditions: WriteConditions,
    },
    /// Replaces what an object has beside its content.
    Amend {
        key: ObjectKey,
        version: Option<VersionId>,
        amendment: Amendment,
        /// The tags, if they are large.
        blocks: Vec<Block>,
    },
    DeleteMany(Vec<KeyToDelete>),
    /// Ends what lifecycle rules end.
    Expire(Vec<Expiry>),
    /// Sets whether the bucket keeps versions.
    SetVersioning(Versioning),
    CreateUpload {
        key: ObjectKey,
        id: UploadId,
        record: Box<UploadRecord>,
        blocks: Vec<Block>,
        /// Completed uploads whose answers may have expired.
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
    /// Several changes of different keys.
    Commit(Steps),
    AbortUpload {
        key: ObjectKey,
        id: UploadId,
    },
}

impl Change {
    /// Returns whether the change only deletes, so that less space is used once its history is collected.
    pub(crate) fn takes_away(&self) -> bool {
        match self {
            Self::DeleteBucket
            | Self::Delete(_)
            | Self::DeleteMany(_)
            | Self::Expire(_)
            | Self::AbortUpload { .. } => true,
            Self::Commit(steps) => steps.all.iter().all(Step::takes_away),
            _ => false,
        }
    }

    /// Returns the length of the blocks that are stored with the commit, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let blocks: &[Block] = match self {
            Self::Write { blocks, .. }
            | Self::CreateUpload { blocks, .. }
            | Self::Amend { blocks, .. }
            | Self::PutPart { blocks, .. } => blocks,
            Self::CompleteUpload(complete) => &complete.blocks,
            Self::Append(append) => &append.blocks,
            Self::Commit(steps) => return steps.all.iter().map(Step::bytes).sum(),
            Self::Set { value, .. } => value.as_slice(),
            Self::CreateBucket { settings, .. } => {
                return settings.iter().map(|(_, block)| block.bytes().len()).sum();
            }
            Self::DeleteBucket
            | Self::SettleName(_)
            | Self::SetVersioning(_)
            | Self::Rename { .. }
            | Self::Delete(_)
            | Self::DeleteMany(_)
            | Self::Expire(_)
            | Self::AbortUpload { .. } => &[],
        };
        bytes_of(blocks)
    }

    /// Returns whether the change puts an object whose content is stored as it is.
    pub(crate) fn stores_plain(&self) -> bool {
        matches!(self, Self::Write { source: Source::Record(record), .. } if record.sse.is_none())
    }

    /// Returns whether it makes a bucket with the content of another one, which changes the version of the round.
    pub(super) fn takes_over(&self) -> bool {
        matches!(self, Self::CreateBucket { content: Some(_), .. })
    }

    /// Checks the change against `work` and applies it, in full or not at all.
    ///
    /// A record that it makes carries `fingerprint`, by which a retry is recognised.
    pub(super) async fn apply(
        &self,
        work: &mut Working<'_>,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Answer, ServiceError> {
        match self {
            Self::CreateBucket { id, salt, settings, global_name, content } => {
                if work.require_bucket().is_ok() {
                    return Err(ServiceError::BucketAlreadyOwned);
                }
                work.take_room(content.as_ref().map_or(0, |content| content.bytes()), 0)?;
                let recent = work.recent_anew().await?;
                work.create(*id, *salt, *global_name, recent);
                if let Some(content) = content {
                    work.take_over(content);
                }
                for (name, value) in settings {
                    Box::pin(set(work, name, Some(value), None)).await?;
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
            Self::Set { name, value, names } => {
                Box::pin(set(work, name, value.as_ref(), *names)).await?;
                Ok(Answer::Done)
            }
            Self::SettleName(names) => work.settle_name(*names).await.map(|()| Answer::Done),
            Self::Write { key, source, conditions, blocks } => {
                let newest = work.newest(key).await?;
                work.judge(conditions, newest.current.as_ref())?;
                let Some(mut record) = source.record(work).await? else {
                    return Ok(Answer::JoinAgain);
                };
                let freed = work.freed_by_replacing(newest.current.as_ref());
                work.take_room(record.size, freed)?;
                work.carry(blocks);
                record.fingerprint = fingerprint;
                write(work, key, &newest, &mut record);
                Ok(Answer::Object(Box::new(record)))
            }
            Self::Append(append) => append.apply(work, fingerprint).await,
            Self::Delete(delete) => {
                let newest = work.newest(&delete.key).await?;
                work.judge(&delete.conditions, newest.current.as_ref())?;
                let deleted = match delete.version {
                    Some(id) => remove_version(work, &delete.key, id).await?,
                    None => remove(work, &delete.key, &newest),
                };
                Ok(match deleted {
                    Deleted::Plain => Answer::Done,
                    deleted => Answer::Each(vec![Ok(deleted)]),
                })
            }
            Self::SetVersioning(versioning) => {
                work.require_bucket()?;
                work.set_versioning(*versioning);
                Ok(Answer::Done)
            }
            Self::Rename { from, to, source, conditions } => {
                let record = rename(work, from, to, (source, conditions), fingerprint).await?;
                Ok(Answer::Object(Box::new(record)))
            }
            Self::Amend { key, version, amendment, blocks } => {
                let record = amend(work, key, *version, amendment).await?;
                work.carry(blocks);
                Ok(Answer::Amended(Box::new(record)))
            }
            Self::DeleteMany(keys) => delete_many(work, keys).await,
            Self::Expire(ended) => Box::pin(expire(work, ended)).await,
            Self::CreateUpload { key, id, record, blocks, expired } => {
                create_upload(work, key, *id, record, blocks, expired).await
            }
            Self::PutPart { key, id, number, part, blocks } => {
                open_upload(work, key, *id).await?;
                work.take_room(part.size, 0)?;
                let part = PartRecord { time: work.time(), ..part.clone() };
                work.carry(blocks);
                work.put_part(key, *id, *number, &part);
                Ok(Answer::Done)
            }
            Self::CompleteUpload(complete) => complete.apply(work).await,
            Self::Commit(steps) => steps.apply(work, fingerprint).await,
            Self::AbortUpload { key, id } => {
                open_upload(work, key, *id).await?;
                let parts = work.parts(key, *id).await?;
                work.remove_upload(key, *id, parts.iter().map(|(number, _)| *number), true);
                Ok(Answer::Done)
            }
        }
    }
}

/// Sets or removes a setting. Whether the bucket holds its global name then follows from all settings that
/// the bucket has at the commit.
async fn set(
    work: &mut Working<'_>,
    name: &str,
    value: Option<&Block>,
    names: Option<NamePolicy>,
) -> Result<(), ServiceError> {
    let mut settings = work.settings().await?;
    match value {
        Some(block) => drop(settings.blocks.insert(name.to_owned(), block.cid())),
        None => drop(settings.blocks.remove(name)),
    }
    let mut global_name = GlobalName::Keep;
    if let Some(names) = names {
        let read = async |setting| match value {
            Some(block) if setting == name => Ok(Some(block.clone())),
            _ => work.setting(&settings, setting).await,
        };
        let (policy, block) = (read(POLICY).await?, read(PUBLIC_ACCESS).await?);
        let has = |name: &str| settings.blocks.contains_key(name);
        let open =
            Openness::of_blocks(policy.as_ref(), block.as_ref(), (has(CORS), has(OWNERSHIP)))?;
        if name == POLICY && value.is_some() {
            open.check_policy()?;
        }
        global_name = names.at_policy(open.is_reached());
    }
    work.carry(value.map(std::slice::from_ref).unwrap_or_default());
    work.set_settings(&settings, global_name);
    Ok(())
}

/// Begins an upload, and removes completed ones whose answers have expired.
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

/// Returns the address of the content, which every object has.
pub(crate) fn content_of(record: &ObjectRecord) -> Result<fula_core::Cid, ServiceError> {
    let none = || ServiceError::bug("object record has no content");
    record.content.ok_or_else(none)
}

/// Returns the empty block, which is the content of empty objects.
pub(crate) fn empty_block() -> Block {
    Block::new(fula_core::Codec::Raw, Bytes::new())
}
