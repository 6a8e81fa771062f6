//! Multi-key commits: changes of several keys of a bucket, of which all or none are carried out, or each by
//! itself.

mod copy;
mod identity;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use fula_core::{
    Block, BucketName, Codec, ObjectKey,
    bucket::{ChecksumAlgorithm, ETag, Fingerprint, ObjectRecord, VersionId},
};

use self::identity::identity_of;
use crate::{
    arbiter::Head,
    auth::access::Action,
    caller::Caller,
    commit::{Answer, Change, Step, StepKind, Steps},
    error::{Applied, ServiceError, in_commit},
    limits::{COMMIT_BODY_BYTES_MAX, COMMIT_CHANGES_MAX},
    mapping::{Admitted, Delivery, MapRequest, fingerprint_of},
    objects::body::digests_of,
    objects::condition::{ReadConditions, WriteConditions},
    objects::multipart::{CompletePart, CompleteRequest, JOINS_MAX, Joined, Named},
    objects::object::ObjectFacts,
    objects::record::bare_record,
    service::{Part, Service},
    sse::{BodyCipher, ObjectCipher},
};

/// The action on one key.
#[derive(Clone, Debug)]
pub enum BatchAction {
    /// Stores these bytes.
    Put {
        /// Content of the object, at most [`COMMIT_BODY_BYTES_MAX`] bytes.
        body: Bytes,
        /// Headers and metadata of the object.
        facts: ObjectFacts,
    },
    /// Makes an object of the parts of an upload.
    Complete {
        /// Id of the upload, which is for the same key.
        id: String,
        /// Its parts, in order.
        parts: Vec<CompletePart>,
        /// Headers and metadata that replace those which the upload was begun with; `None` to keep them.
        replace: Option<ObjectFacts>,
    },
    /// Maps the key to content that storage nodes hold.
    Map(Box<MapRequest>),
    /// Makes an object with the content of another one. No content is read or written.
    Copy {
        /// The source, as it is before the commit.
        source: BatchSource,
        /// Headers and metadata that replace those of the source; `None` to keep them. The tags are kept.
        replace: Option<ObjectFacts>,
    },
    /// Changes nothing: only the conditions count.
    Check,
    /// Deletes the object, if there is one.
    Delete,
}

/// The source of a copy within a commit.
#[derive(Clone, Debug)]
pub struct BatchSource {
    /// Bucket of the source; `None` for the bucket of the commit.
    pub bucket: Option<BucketName>,
    /// Key of the source.
    pub key: ObjectKey,
    /// Version of the source; `None` for the current object.
    pub version: Option<VersionId>,
    /// Conditions on the source.
    pub conditions: ReadConditions,
}

/// One change of a multi-key commit.
#[derive(Clone, Debug)]
pub struct BatchChange {
    /// Key of the change. No other change of the commit has it.
    pub key: ObjectKey,
    /// Conditions on the object before the commit.
    pub conditions: WriteConditions,
    /// The action.
    pub action: BatchAction,
}

/// What the preparation of all changes of a commit gathers.
#[derive(Default)]
struct Prepared {
    /// What identifies the changes, for a retry.
    made_of: Vec<Vec<u8>>,
    /// Pins that follow the commit, each with the place of its change.
    deliveries: Vec<(usize, Delivery)>,
    /// States of the buckets that copies read from.
    sources: HashMap<BucketName, Arc<Head>>,
}

/// A key and the entity tag of its new object; `None` for a deletion or a check.
pub type BatchResult = (ObjectKey, Option<ETag>);

/// A key, and the entity tag of its new object or the reason why the change was refused.
pub type EachResult = (ObjectKey, Result<Option<ETag>, ServiceError>);

impl Service {
    /// Carries out all `changes` in one commit, or none of them.
    ///
    /// # Errors
    /// [`ServiceError::InCommit`] with the key of the first change that was refused;
    /// [`ServiceError::InvalidRequest`] for a list that is empty, too long, or names a key twice.
    pub async fn commit(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        changes: &[BatchChange],
    ) -> Result<Vec<BatchResult>, ServiceError> {
        let results = self.commit_steps(caller, bucket, changes, false).await?;
        let each = |(key, result): EachResult| {
            let etag = result.map_err(|error| in_commit(key.as_str(), error))?;
            Ok((key, etag))
        };
        results.into_iter().map(each).collect()
    }

    /// Carries out each of `changes` by itself, all in one commit. A change that is refused does not keep the
    /// others from being carried out.
    ///
    /// # Errors
    /// [`ServiceError::InvalidRequest`] for a list that is empty, too long, or names a key twice. Errors of stores;
    /// then none was carried out.
    pub async fn commit_each(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        changes: &[BatchChange],
    ) -> Result<Vec<EachResult>, ServiceError> {
        self.commit_steps(caller, bucket, changes, true).await
    }

    async fn commit_steps(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        changes: &[BatchChange],
        each: bool,
    ) -> Result<Vec<EachResult>, ServiceError> {
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Anything).await?;
        check_list(changes)?;
        for _ in 0..JOINS_MAX {
            let newest = self.arbiter().current(head.address());
            let newest = self.before_write(caller, "arbiter", newest).await?;
            let newest = newest.ok_or(ServiceError::NoSuchBucket)?;
            let mut prepared = Prepared::default();
            let all = self.steps(caller, &newest, changes, each, &mut prepared).await?;
            let parts: Vec<&[u8]> = prepared.made_of.iter().map(Vec::as_slice).collect();
            let operation = if each { "commit-each" } else { "commit" };
            let idempotency_key = caller.idempotency_key(operation, "", &parts);
            let fingerprint = idempotency_key.as_ref().map(|key| key.fingerprint);
            // What a replay is answered needs no content.
            let made: Vec<_> =
                all.iter().zip(changes).map(|(step, of)| Made::by(step, of)).collect();
            let change = Change::Commit(Steps { all, each });
            let results = match self.change(caller, &head, change, idempotency_key).await? {
                Answer::Committed(results) => results,
                // This attempt is a retry, and an earlier one was carried out.
                Answer::Done => {
                    self.replayed(caller, &newest, made, |_| Ok(()), fingerprint).await?
                }
                Answer::Each(outcomes) => {
                    let outcome = |place: usize| match outcomes.get(place) {
                        Some(Err(error)) => Err(error.clone()),
                        _ => Ok(()),
                    };
                    self.replayed(caller, &newest, made, outcome, fingerprint).await?
                }
                Answer::JoinAgain => continue,
                other => return Err(ServiceError::bug(format!("a commit answered {other:?}"))),
            };
            let carried_out = |place: &usize| results.get(*place).is_some_and(Result::is_ok);
            let due = prepared.deliveries.into_iter().filter(|(place, _)| carried_out(place));
            self.deliver(due.map(|(_, delivery)| delivery));
            return Ok(changes.iter().map(|change| change.key.clone()).zip(results).collect());
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Prepares all changes.
    async fn steps(
        &self,
        caller: &Caller,
        newest: &Arc<Head>,
        changes: &[BatchChange],
        each: bool,
        prepared: &mut Prepared,
    ) -> Result<Vec<Step>, ServiceError> {
        let mut steps = Vec::with_capacity(changes.len());
        for (place, change) in changes.iter().enumerate() {
            let known = prepared.made_of.len();
            let kind = self.step(caller, newest, (place, change), prepared).await;
            if each {
                // A retry is recognised whatever becomes of single changes.
                prepared.made_of.truncate(known);
                prepared.made_of.extend(identity_of(change));
            }
            let kind = match kind {
                Ok(kind) => kind,
                Err(error) if each && error.is_refusal() => StepKind::Refused(error),
                Err(error) => return Err(in_commit(change.key.as_str(), error)),
            };
            let (key, conditions) = (change.key.clone(), change.conditions.clone());
            steps.push(Step { key, conditions, kind });
        }
        Ok(steps)
    }

    /// Prepares one change. Adds to `prepared` what identifies it, and what follows the commit.
    async fn step(
        &self,
        caller: &Caller,
        newest: &Arc<Head>,
        (place, change): (usize, &BatchChange),
        prepared: &mut Prepared,
    ) -> Result<StepKind, ServiceError> {
        let action = match change.action {
            BatchAction::Delete => Action::DeleteObject,
            BatchAction::Check => Action::GetObject,
            BatchAction::Put { .. }
            | BatchAction::Complete { .. }
            | BatchAction::Copy { .. }
            | BatchAction::Map(_) => Action::PutObject,
        };
        let key = &change.key;
        self.authorize(caller, newest, action, Part::Key(key)).await?;
        self.may_compare(caller, newest, key, &change.conditions).await?;
        prepared.made_of.push(key.as_bytes().to_vec());
        prepared.made_of.push(change.conditions.to_bytes());
        match &change.action {
            BatchAction::Delete => {
                prepared.made_of.push(b"delete".to_vec());
                Ok(StepKind::Delete)
            }
            BatchAction::Check => {
                prepared.made_of.push(b"check".to_vec());
                Ok(StepKind::Check)
            }
            BatchAction::Put { body, facts } => {
                let cipher = self.cipher_for(caller, &newest.root, facts.encrypt).await?;
                let cipher = match cipher {
                    Some(object) => {
                        let body = object.body(self.random())?;
                        Some((object, body))
                    }
                    None => None,
                };
                let acl = self.acl_of_write(caller, newest, facts.acl.as_ref()).await?;
                let (record, blocks) = inline(body, facts, acl, cipher)?;
                prepared.made_of.push(record.repeatable().encode().to_vec());
                Ok(StepKind::Write { record: Box::new(record), blocks })
            }
            BatchAction::Map(request) => {
                prepared.made_of.push(fingerprint_of(request)?);
                self.refuse_mapping(caller, &newest.root, request.facts.encrypt).await?;
                match self.admit_mapping(caller, request).await {
                    Ok(Admitted { record, blocks, delivery }) => {
                        prepared.deliveries.push((place, delivery));
                        let acl = request.facts.acl.as_ref();
                        let acl = self.acl_of_write(caller, newest, acl).await?;
                        let record = ObjectRecord { acl, ..record };
                        Ok(StepKind::Write { record: Box::new(record), blocks })
                    }
                    // The first attempt may have been carried out. Only the commit can tell.
                    Err(error) if caller.is_retry() => Ok(StepKind::Refused(error)),
                    Err(error) => Err(error),
                }
            }
            BatchAction::Copy { source, replace } => {
                prepared.made_of.extend(identity_of(change));
                let source = (source, replace.as_ref());
                match self.copy_step(caller, newest, key, source, &mut prepared.sources).await {
                    Ok(kind) => Ok(kind),
                    // As above: the source may be gone since.
                    Err(error) if caller.is_retry() && error.is_refusal() => {
                        Ok(StepKind::Refused(error))
                    }
                    Err(error) => Err(error),
                }
            }
            BatchAction::Complete { id, parts, replace } => {
                prepared.made_of.push(id.as_bytes().to_vec());
                let etags = parts.iter().map(|part| part.etag.clone().into_bytes());
                prepared.made_of.extend(etags);
                let mut kind = self.completion(caller, newest, key, id, parts).await?;
                if let Some(facts) = replace {
                    prepared.made_of.extend(identity_of(change));
                    let (maps, blocks) = facts.clone().attach()?;
                    if let StepKind::Complete(complete) = &mut kind {
                        let record = &mut complete.record;
                        (record.headers, record.metadata) = (maps.headers, maps.metadata);
                        complete.blocks.extend(blocks);
                    }
                }
                Ok(kind)
            }
        }
    }

    /// Returns the results of an earlier attempt, of which `outcome` tells whether each change was carried out.
    async fn replayed(
        &self,
        caller: &Caller,
        newest: &Head,
        made: Vec<Made>,
        outcome: impl Fn(usize) -> Result<(), ServiceError>,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Vec<Result<Option<ETag>, ServiceError>>, ServiceError> {
        let mut results = Vec::with_capacity(made.len());
        for (place, made) in made.into_iter().enumerate() {
            results.push(match (outcome(place), made.refusal, fingerprint) {
                // The reason was not remembered. This attempt has found one, too.
                (Err(ServiceError::InvalidRequest(_)), Some(now), _) => Err(now),
                (Err(refusal), _, _) => Err(refusal),
                (Ok(()), _, Some(fingerprint)) if made.is_copy => {
                    let found = self.etag_of_copy(newest, &made.key, fingerprint);
                    Ok(self.before_write(caller, "block store", found).await?)
                }
                (Ok(()), _, _) => Ok(made.etag),
            });
        }
        Ok(results)
    }

    async fn completion(
        &self,
        caller: &Caller,
        newest: &Head,
        key: &ObjectKey,
        id: &str,
        parts: &[CompletePart],
    ) -> Result<StepKind, ServiceError> {
        let request = CompleteRequest {
            key: key.clone(),
            id: id.to_owned(),
            parts: parts.to_vec(),
            conditions: WriteConditions::default(),
            checksum: None,
            size: None,
        };
        let id = id.parse().map_err(|_| ServiceError::NoSuchUpload)?;
        let joined = self.join(newest, id, &request, Named::ByTag);
        match self.before_write(caller, "block store", joined).await? {
            Joined::Ready(complete) => Ok(StepKind::Complete(complete)),
            // The first attempt of this commit has completed the upload, or another request has. The commit
            // will tell.
            Joined::Already(record) if caller.is_retry() => {
                Ok(StepKind::Completed(Box::new(*record)))
            }
            Joined::Already(_) => Err(ServiceError::NoSuchUpload),
        }
    }
}

/// Refuses a list that is no commit.
fn check_list(changes: &[BatchChange]) -> Result<(), ServiceError> {
    if !(1..=COMMIT_CHANGES_MAX).contains(&changes.len()) {
        let text = format!("a commit has 1 to {COMMIT_CHANGES_MAX} changes");
        return Err(ServiceError::InvalidRequest(text));
    }
    let mut keys = BTreeSet::new();
    if let Some(twice) = changes.iter().find(|change| !keys.insert(&change.key)) {
        let key = twice.key.as_str();
        let text = format!("a commit changes each key once; {key:?} is there twice");
        return Err(ServiceError::InvalidRequest(text));
    }
    let is_empty = |change: &&BatchChange| {
        matches!(change.action, BatchAction::Check) && change.conditions.is_empty()
    };
    if let Some(empty) = changes.iter().find(is_empty) {
        let text = format!("{:?}: a check has ifMatch or ifNoneMatch", empty.key.as_str());
        return Err(ServiceError::InvalidRequest(text));
    }
    Ok(())
}

/// What a change makes, without its content.
struct Made {
    key: ObjectKey,
    etag: Option<ETag>,
    is_copy: bool,
    /// Why this attempt would refuse the change.
    refusal: Option<ServiceError>,
}

impl Made {
    fn by(step: &Step, change: &BatchChange) -> Self {
        let etag = match &change.action {
            BatchAction::Map(request) => Some(ETag::Cid(request.cid)),
            _ => step.etag(),
        };
        let refusal = match &step.kind {
            StepKind::Refused(error) => Some(error.clone()),
            _ => None,
        };
        let is_copy = matches!(change.action, BatchAction::Copy { .. });
        Self { key: step.key.clone(), etag, is_copy, refusal }
    }
}

/// Returns the record of a body inside the request, and the blocks that are stored with the commit.
fn inline(
    body: &Bytes,
    facts: &ObjectFacts,
    acl: Option<String>,
    cipher: Option<(ObjectCipher, BodyCipher)>,
) -> Result<(ObjectRecord, Vec<Block>), ServiceError> {
    if body.len() > COMMIT_BODY_BYTES_MAX {
        return Err(ServiceError::EntityTooLarge(COMMIT_BODY_BYTES_MAX as u64));
    }
    let (maps, mut blocks) = facts.clone().attach()?;
    let (md5, checksums) = digests_of(body, ChecksumAlgorithm::Crc64Nvme);
    let (stored, sse) = match cipher {
        Some((object, cipher)) => {
            (cipher.key.encrypt(0, body.clone(), true)?, Some(object.field(Some(cipher.salt))))
        }
        None => (body.clone(), None),
    };
    let block = Block::new(Codec::Raw, stored);
    let record = ObjectRecord {
        size: body.len() as u64,
        etag: ETag::Md5(md5),
        checksums,
        content: Some(block.cid()),
        sse,
        ..bare_record(maps, acl)
    };
    blocks.push(block);
    Ok((record, blocks))
}
