//! Multi-key commits: changes of several keys of a bucket, of which all or none are carried out.

use std::collections::BTreeSet;

use bytes::Bytes;
use fula_core::{
    Block, BucketName, Codec, ObjectKey,
    bucket::{ChecksumAlgorithm, ETag, ObjectRecord},
};

use crate::{
    auth::access::Action,
    caller::Caller,
    commit::{Answer, Change, Step, StepKind},
    error::{Applied, ServiceError, in_commit},
    limits::{COMMIT_BODY_BYTES_MAX, COMMIT_CHANGES_MAX},
    mapping::{Admitted, Delivery, MapRequest, fingerprint_of},
    objects::body::digests_of,
    objects::condition::WriteConditions,
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
    /// Makes an object of the parts of an upload, whose headers and metadata were given when it began.
    Complete {
        /// Id of the upload, which is for the same key.
        id: String,
        /// Its parts, in order.
        parts: Vec<CompletePart>,
    },
    /// Maps the key to content that storage nodes hold.
    Map(Box<MapRequest>),
    /// Deletes the object, if there is one.
    Delete,
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
    /// Pins that follow the commit.
    deliveries: Vec<Delivery>,
}

/// A key and the entity tag of its new object; `None` for a deletion.
pub type BatchResult = (ObjectKey, Option<ETag>);

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
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Anything).await?;
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
        for _ in 0..JOINS_MAX {
            let newest = self.arbiter().current(head.address());
            let newest = self.before_write(caller, "arbiter", newest).await?;
            let newest = newest.ok_or(ServiceError::NoSuchBucket)?;
            let mut steps = Vec::with_capacity(changes.len());
            let mut prepared = Prepared::default();
            for change in changes {
                let within = |error| in_commit(change.key.as_str(), error);
                let step =
                    self.step(caller, &newest, change, &mut prepared).await.map_err(within)?;
                steps.push(step);
            }
            let Prepared { made_of, deliveries } = prepared;
            let etag = |(step, change): (&Step, &BatchChange)| match &change.action {
                BatchAction::Map(request) => Some(ETag::Cid(request.cid)),
                _ => step.etag(),
            };
            let results = steps.iter().zip(changes);
            let results = results.map(|both| (both.0.key.clone(), etag(both))).collect();
            let parts: Vec<&[u8]> = made_of.iter().map(Vec::as_slice).collect();
            let idempotency_key = caller.idempotency_key("commit", "", &parts);
            match self.change(caller, &head, Change::Commit(steps), idempotency_key).await? {
                Answer::Done => {
                    self.deliver(deliveries);
                    return Ok(results);
                }
                Answer::JoinAgain => {}
                other => {
                    return Err(ServiceError::bug(format!("a commit answered {other:?}")));
                }
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Prepares one change. Adds to `prepared` what identifies it, and what follows the commit.
    async fn step(
        &self,
        caller: &Caller,
        newest: &crate::Head,
        change: &BatchChange,
        prepared: &mut Prepared,
    ) -> Result<Step, ServiceError> {
        let Prepared { made_of, deliveries } = prepared;
        let action = match change.action {
            BatchAction::Delete => Action::DeleteObject,
            BatchAction::Put { .. } | BatchAction::Complete { .. } | BatchAction::Map(_) => {
                Action::PutObject
            }
        };
        let key = &change.key;
        self.authorize(caller, newest, action, Part::Key(key)).await?;
        self.may_compare(caller, newest, key, &change.conditions).await?;
        made_of.push(key.as_bytes().to_vec());
        made_of.push(change.conditions.to_bytes());
        let kind = match &change.action {
            BatchAction::Delete => {
                made_of.push(b"delete".to_vec());
                StepKind::Delete
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
                let (record, blocks) = inline(body, facts, cipher)?;
                made_of.push(record.repeatable().encode().to_vec());
                StepKind::Write { record: Box::new(record), blocks }
            }
            BatchAction::Map(request) => {
                made_of.push(fingerprint_of(request)?);
                self.refuse_mapping(caller, &newest.root, request.facts.encrypt).await?;
                match self.admit_mapping(caller, request).await {
                    Ok(Admitted { record, blocks, delivery }) => {
                        deliveries.push(delivery);
                        StepKind::Write { record: Box::new(record), blocks }
                    }
                    // The first attempt may have been carried out. Only the commit can tell.
                    Err(error) if caller.is_retry() => StepKind::Refused(error),
                    Err(error) => return Err(error),
                }
            }
            BatchAction::Complete { id, parts } => {
                made_of.push(id.as_bytes().to_vec());
                made_of.extend(parts.iter().map(|part| part.etag.clone().into_bytes()));
                self.completion(caller, newest, key, id, parts).await?
            }
        };
        Ok(Step { key: key.clone(), conditions: change.conditions.clone(), kind })
    }

    async fn completion(
        &self,
        caller: &Caller,
        newest: &crate::Head,
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

/// Returns the record of a body inside the request, and the blocks that are stored with the commit.
fn inline(
    body: &Bytes,
    facts: &ObjectFacts,
    cipher: Option<(ObjectCipher, BodyCipher)>,
) -> Result<(ObjectRecord, Vec<Block>), ServiceError> {
    if body.len() > COMMIT_BODY_BYTES_MAX {
        return Err(ServiceError::EntityTooLarge(COMMIT_BODY_BYTES_MAX as u64));
    }
    let acl = facts.acl.clone();
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
