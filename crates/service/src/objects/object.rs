//! Operations on objects: put, get, delete.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use fula_core::{
    Block, BucketName, ObjectKey, StoreError,
    block::require,
    bucket::{
        Attached, ChecksumAlgorithm, ObjectKind, ObjectRecord, PartSpan, TextMap, VersionId,
        read_parts,
    },
    content,
};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{
    arbiter::Head,
    auth::access::{Action, Property, Which},
    auth::acl::AclRequest,
    budget::{self, MemoryPermit},
    caller::IdempotencyKey,
    caller::{BucketOwner, Caller},
    commit::{Answer, Change, Source, content_of},
    error::ServiceError,
    lifecycle::End,
    limits::METADATA_BYTES_MAX,
    objects::body::{self, BodyFacts, BodyStream, Intake},
    objects::condition::{ReadConditions, Tags, WriteConditions},
    objects::record::{Maps, bare_record},
    pins::PinnedBlocks,
    service::{Part, Service, WriteTarget},
};

/// Headers and metadata that an object keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectFacts {
    /// System headers by lower-case name.
    pub headers: TextMap,
    /// User metadata by name without its prefix.
    pub metadata: TextMap,
    /// Tags.
    pub tags: TextMap,
    /// Access control list that the request asks for.
    pub acl: Option<AclRequest>,
    /// Whether the client asks for encryption. It is not stored among the facts.
    pub encrypt: bool,
}

/// A request to put an object.
pub struct PutRequest {
    /// Key of the object.
    pub key: ObjectKey,
    /// Headers and metadata of the object.
    pub facts: ObjectFacts,
    /// Conditions on the object that is replaced.
    pub conditions: WriteConditions,
    /// Content of the object.
    pub body: BodyStream,
    /// Facts that the client announces about the content.
    pub body_facts: BodyFacts,
}

/// An object that was found, with its linked maps.
#[derive(Clone, Debug)]
pub struct Object {
    /// Record of the object.
    pub record: ObjectRecord,
    /// System headers by lower-case name.
    pub headers: TextMap,
    /// User metadata.
    pub metadata: TextMap,
    /// Tags. They are empty for a caller who may not read them.
    pub tags: TextMap,
    /// Id of the version, if the bucket keeps versions or once did.
    pub version: Option<VersionId>,
    /// When the object ends by a lifecycle rule, if it is current.
    pub end: Option<End>,
}

/// The source of a copy.
#[derive(Clone, Debug)]
pub struct CopySourceRequest {
    /// Owner of the bucket.
    pub owner: BucketOwner,
    /// Bucket of the source.
    pub bucket: BucketName,
    /// Key of the source.
    pub key: ObjectKey,
    /// Version of the source; `None` for the current object.
    pub version: Option<VersionId>,
    /// Conditions on the source.
    pub conditions: ReadConditions,
}

/// A request to copy an object.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// The source.
    pub source: CopySourceRequest,
    /// Key of the copy.
    pub key: ObjectKey,
    /// New headers and metadata; `None` to keep those of the source. Their tags do not count.
    pub replace: Option<ObjectFacts>,
    /// New tags; `None` to keep those of the source.
    pub tags: Option<TextMap>,
    /// Access control list of the copy. It never has that of the source.
    pub acl: Option<AclRequest>,
    /// Algorithm of the copy's checksum; `None` to keep the checksums of the source.
    pub checksum: Option<ChecksumAlgorithm>,
    /// Whether the client asks for encryption of the copy.
    pub encrypt: bool,
    /// Conditions on the object that is replaced.
    pub conditions: WriteConditions,
}

/// One key of a batch delete.
#[derive(Clone, Debug)]
pub struct DeleteKey {
    /// The key.
    pub key: ObjectKey,
    /// Conditions on the object.
    pub conditions: WriteConditions,
}

impl ObjectFacts {
    /// Checks the limits, and decides what is kept in the record. Returns blocks for the rest.
    pub(crate) fn attach(self) -> Result<(Maps, Vec<Block>), ServiceError> {
        let bytes: usize = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > METADATA_BYTES_MAX {
            return Err(ServiceError::MetadataTooLarge(METADATA_BYTES_MAX));
        }
        let (headers, first) = Attached::new(self.headers);
        let (metadata, second) = Attached::new(self.metadata);
        let (tags, third) = Attached::new(self.tags);
        let blocks = [first, second, third].into_iter().flatten().collect();
        Ok((Maps { headers, metadata, tags }, blocks))
    }
}

impl Service {
    /// Stores an object. Conditions are checked before the body is read, and again at the commit.
    ///
    /// # Errors
    /// [`ServiceError::PreconditionFailed`], [`ServiceError::NoSuchKey`] for `If-Match` without an object,
    /// and the errors of `body::take`.
    pub async fn put_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: PutRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let (key, part) = (&request.key, Part::Key(&request.key));
        let mut target = self.resolve_for_write(caller, bucket, Action::PutObject, key).await?;
        self.may_compare(caller, &target.head, key, &request.conditions).await?;
        // A retry may find the object of its own first attempt. Only the commit can tell.
        if !request.conditions.is_empty() && !caller.is_retry() {
            let current = self.record_for_write(caller, &target.head, key).await?;
            let judged = request.conditions.judge(current.as_ref());
            if judged.is_err() && target.is_guess() {
                let head = self.resolve(caller, bucket, Action::PutObject, part).await?;
                let current = self.record_for_write(caller, &head, key).await?;
                target = WriteTarget { head, guessed: None };
                request.conditions.judge(current.as_ref())?;
            } else {
                judged?;
            }
        }
        let acl = self.acl_of_write(caller, &target.head, request.facts.acl.as_ref()).await?;
        let root = &target.head.root;
        let cipher = self.cipher_for(caller, root, request.facts.encrypt).await?;
        let (maps, mut blocks) = request.facts.attach()?;
        // The memory is held until the commit, because a small body is stored with the round.
        let permit = self.share_in(caller, request.body_facts.length).await?;
        let intake =
            Intake { cipher: self.body_cipher(cipher.as_ref())?, ..self.intake(caller, &permit) };
        let taken = body::take(intake, request.body, request.body_facts).await?;
        // Rounds of a bucket run one after another. Reading ahead lets the next one find its nodes in
        // memory.
        let read_ahead = async {
            target.head.root.objects.read_ahead(self.arbiter().nodes(), key.as_bytes()).await;
            Ok(())
        };
        self.before_write(caller, "block store", read_ahead).await?;
        let record = ObjectRecord {
            size: taken.size,
            etag: taken.etag(),
            checksums: taken.checksums,
            content: Some(taken.content),
            sse: cipher.map(|cipher| cipher.field(taken.salt)),
            ..bare_record(maps, acl)
        };
        blocks.extend(taken.riding);
        let conditions = request.conditions;
        let made_of = [record.repeatable().encode(), conditions.to_bytes().into()];
        let idempotency_key =
            caller.idempotency_key("put", key.as_str(), &[&made_of[0], &made_of[1]]);
        let source = Source::Record(Box::new(record));
        let change = Change::Write { key: request.key, source, conditions, blocks };
        self.write(caller, &target, change, idempotency_key).await
    }

    /// Returns the destination of a body of the caller, which is stored as it is.
    pub(crate) fn intake<'a>(&'a self, caller: &'a Caller, permit: &'a MemoryPermit) -> Intake<'a> {
        let (blocks, pin_registry) = (self.arbiter().nodes().blocks(), self.arbiter().pins());
        let deadline = self.committer.limits().commit_deadline;
        let (pins, seen, cipher) = (&caller.pins, &caller.seen, None);
        Intake { blocks, pin_registry, pins, permit, seen, deadline, cipher }
    }

    /// Takes memory for a request body.
    pub(crate) async fn share_in(
        &self,
        caller: &Caller,
        length: Option<u64>,
    ) -> Result<MemoryPermit, ServiceError> {
        caller.pins.end_write();
        self.body_budget.take(budget::bytes_in(length), caller.closer.as_ref()).await
    }

    /// Checks that the caller may know the entity tag that a condition is compared with. A caller who may
    /// only write could find it out by trying.
    pub(crate) async fn may_compare(
        &self,
        caller: &Caller,
        head: &Head,
        key: &ObjectKey,
        conditions: &WriteConditions,
    ) -> Result<(), ServiceError> {
        let compares =
            conditions.if_match.is_some() || matches!(conditions.if_none_match, Some(Tags::Of(_)));
        if !compares {
            return Ok(());
        }
        self.authorize(caller, head, Action::GetObject, Part::Key(key)).await
    }

    pub(crate) async fn write(
        &self,
        caller: &Caller,
        target: &WriteTarget,
        change: Change,
        idempotency_key: Option<IdempotencyKey>,
    ) -> Result<ObjectRecord, ServiceError> {
        match self.change_at(caller, target, change, idempotency_key).await? {
            Answer::Object(record) => Ok(*record),
            other => Err(ServiceError::bug(format!("a write answered {other:?}"))),
        }
    }

    /// Returns the current record of a key in one root.
    pub(crate) async fn record(
        &self,
        head: &Head,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        let found = head.root.objects.get(self.arbiter().nodes(), key.as_bytes()).await?;
        Ok(found.map(|entry| ObjectRecord::decode(&entry.value, entry.weight)).transpose()?)
    }

    /// Does the same for a write, within its deadline.
    pub(crate) async fn record_for_write(
        &self,
        caller: &Caller,
        head: &Head,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        self.before_write(caller, "block store", self.record(head, key)).await
    }

    /// Finds an object whose conditions hold.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::NotModified`],
    /// [`ServiceError::PreconditionFailed`].
    pub async fn get_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        conditions: &ReadConditions,
    ) -> Result<Object, ServiceError> {
        self.get_version(caller, bucket, key, None, conditions).await
    }

    /// Finds an object or one of its versions whose conditions hold.
    ///
    /// # Errors
    /// Those of [`Self::get_object`]; [`ServiceError::NoSuchVersion`], [`ServiceError::DeleteMarker`].
    pub async fn get_version(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        conditions: &ReadConditions,
    ) -> Result<Object, ServiceError> {
        let action = if version.is_some() { Action::GetVersion } else { Action::GetObject };
        let part = Part::of(key, version);
        let head = self.resolve(caller, bucket, action, part).await?;
        let record = match self.found(&head, key, version).await {
            Err(absent) => {
                return Err(Box::pin(self.absence(caller, &head, key, absent)).await);
            }
            Ok(record) => record,
        };
        conditions.judge_read(&record)?;
        let read_tags = Action::GetProperty(Property::Tags, Which::of(version));
        let may_read_tags = record.tags != Attached::default()
            && self.authorize(caller, &head, read_tags, part).await.is_ok();
        let end = match version {
            None if head.root.settings.is_some() => {
                Box::pin(self.end_of(&head.root, key.as_str(), &record)).await?
            }
            _ => None,
        };
        Ok(Object { end, ..self.with_maps(&head, record, may_read_tags).await? })
    }

    /// Returns the error for an object that cannot be found. As on AWS, it does not reveal that a key is absent
    /// to another user than the owner who may not list the bucket.
    async fn absence(
        &self,
        caller: &Caller,
        head: &Head,
        key: &ObjectKey,
        absent: ServiceError,
    ) -> ServiceError {
        let is_absence = matches!(
            absent,
            ServiceError::NoSuchKey | ServiceError::DeleteMarker { is_named: false, .. }
        );
        let owner = head.row.address.owner;
        if !is_absence || caller.identity.as_ref().is_some_and(|who| who.owner == owner) {
            return absent;
        }
        let part = Part::Prefix(key.as_str());
        match self.authorize(caller, head, Action::ListObjects, part).await {
            Ok(()) => absent,
            Err(refused) => refused,
        }
    }

    /// Reads the maps that a record links.
    pub(crate) async fn with_maps(
        &self,
        head: &Head,
        record: ObjectRecord,
        with_tags: bool,
    ) -> Result<Object, ServiceError> {
        let headers = self.attached(&record.headers).await?;
        let metadata = self.attached(&record.metadata).await?;
        let tags = if with_tags { self.attached(&record.tags).await? } else { TextMap::new() };
        let version = head.root.versioning.map(|_| record.version_id());
        Ok(Object { record, headers, metadata, tags, version, end: None })
    }

    pub(crate) async fn attached(&self, map: &Attached) -> Result<TextMap, ServiceError> {
        match map {
            Attached::Inline(map) => Ok(map.clone()),
            Attached::Linked(cid) => {
                let block = require(self.arbiter().nodes().blocks().as_ref(), cid).await?;
                Ok(Attached::read_block(&block)?)
            }
        }
    }

    /// Streams bytes of an object that was found. Reads only the blocks that the range needs. The first of
    /// them is read before this returns, so that a missing block store is reported with a status.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] for a record without content; [`ServiceError::Busy`] when other bodies
    /// use all the memory; [`ServiceError::Unavailable`] and [`ServiceError::Damaged`] of the first block.
    pub async fn read(
        &self,
        caller: &Caller,
        record: &ObjectRecord,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, ServiceError> {
        let bytes = budget::bytes_out(record.size, &range);
        let permit = self.body_budget.take(bytes, caller.closer.as_ref()).await?;
        let mut stream = self.stream(caller, record, range, Arc::new(permit)).await?;
        match stream.next().await.transpose()? {
            Some(first) => Ok(futures::stream::iter([Ok(first)]).chain(stream).boxed()),
            None => Ok(stream),
        }
    }

    /// Does the same with memory that was taken before. The caller holds the root that the object is from.
    pub(crate) async fn stream(
        &self,
        caller: &Caller,
        record: &ObjectRecord,
        range: Range<u64>,
        permit: Arc<MemoryPermit>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, ServiceError> {
        let blocks = self.blocks_of(record);
        let content = content_of(record)?;
        let stream = if record.sse.is_some() {
            Box::pin(self.decrypted(record, range)).await?
        } else {
            content::stream(blocks, content, record.size, range).boxed()
        };
        // The blocks that are read are pinned. Unlike a lease this holds back nothing else.
        let began = caller.pins.read_since().or(self.arbiter().time()).unwrap_or_default();
        let mut kept = PinnedBlocks::of_read(self.arbiter().pins(), began);
        kept.add([content]);
        let framed = move |bytes: Result<Bytes, StoreError>| {
            let _kept = &kept;
            let (held, failed) = match bytes {
                Ok(bytes) => (permit.hold(bytes), None),
                Err(error) => (Bytes::new(), Some(Err(error))),
            };
            let permit = Arc::clone(&permit);
            // A connection that asks for a frame has sent most of those before it.
            let sent = budget::frames(held).inspect(move |frame| permit.moved(frame.len()));
            futures::stream::iter(sent.map(Ok).chain(failed))
        };
        Ok(stream.flat_map(framed).boxed())
    }

    /// Returns the table of parts of an object that a multipart upload made.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn parts_of(&self, record: &ObjectRecord) -> Result<Vec<PartSpan>, ServiceError> {
        // The link of a mapped object is to its holders.
        let is_mapped = record.kind == ObjectKind::Mapped;
        let Some(cid) = record.parts.as_ref().filter(|_| !is_mapped) else {
            return Ok(Vec::new());
        };
        let block = require(self.arbiter().nodes().blocks().as_ref(), cid).await?;
        Ok(read_parts(&block)?)
    }
}
