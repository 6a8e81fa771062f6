//! Appending to objects: the new object links the content of the old one, and the bytes that are added.

use fula_core::{
    Block, BucketName, Codec, ObjectKey,
    bucket::{Checksum, ETag, ObjectKind, ObjectRecord, PartSpan, Seq, write_parts},
    content::{self, FileLink, FileNode},
};

use crate::{
    arbiter::Head,
    auth::access::Action,
    caller::Caller,
    commit::{Answer, Append, Change, Source, empty_block},
    error::{Applied, ServiceError},
    limits::PARTS_MAX,
    objects::{
        body::{self, BodyFacts, BodyStream, Intake, Taken},
        checksum,
        condition::WriteConditions,
        multipart::JOINS_MAX,
        object::ObjectFacts,
        record::bare_record,
    },
    service::{Part, Service, WriteTarget},
    sse::{ObjectCipher, length_of, salt_of},
};

/// A request to append to an object.
pub struct AppendRequest {
    /// Key of the object.
    pub key: ObjectKey,
    /// Length of the object in bytes, at whose end the body is added; 0 for one that does not exist.
    pub offset: u64,
    /// Headers and metadata, if the object does not exist. Otherwise those of the object stay.
    pub facts: ObjectFacts,
    /// Conditions on the object.
    pub conditions: WriteConditions,
    /// The bytes that are added.
    pub body: BodyStream,
    /// Facts that the client announces about them.
    pub body_facts: BodyFacts,
}

/// The object that is appended to.
struct Base {
    record: ObjectRecord,
    /// The parts that it was made of: their places in the content, and their links.
    spans: Vec<PartSpan>,
    links: Vec<FileLink>,
}

impl Service {
    /// Appends a body to an object, in one commit. No content of the object is read or written again.
    ///
    /// # Errors
    /// [`ServiceError::InvalidWriteOffset`], [`ServiceError::TooManyParts`],
    /// [`ServiceError::PreconditionFailed`], and the errors of `body::take`.
    pub async fn append_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: AppendRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let AppendRequest { key, offset, facts, conditions, body, mut body_facts } = request;
        let head = self.resolve(caller, bucket, Action::PutObject, Part::Key(&key)).await?;
        self.may_compare(caller, &head, &key, &conditions).await?;
        let current = self.record_for_write(caller, &head, &key).await?;
        // A retry may find the object of its own first attempt. Only the commit can tell.
        if !caller.is_retry() {
            conditions.judge(current.as_ref())?;
            check_offset(current.as_ref(), offset)?;
        }
        // The checksum of the whole follows from those of its parts.
        if let Some(kept) = current.as_ref().and_then(joinable) {
            body_facts.keep = kept.algorithm;
        }
        let cipher = self.append_cipher(caller, &head, current.as_ref(), facts.encrypt).await?;
        let acl = self.acl_of_write(caller, &head, facts.acl.as_ref()).await?;
        let (maps, attached) = facts.attach()?;
        let permit = self.share_in(caller, body_facts.length).await?;
        let intake =
            Intake { cipher: self.body_cipher(cipher.as_ref())?, ..self.intake(caller, &permit) };
        let taken = body::take(intake, body, body_facts).await?;
        let added = self.link_of(caller, &taken).await?;
        let made_of = [
            offset.to_be_bytes().to_vec(),
            match taken.salt {
                // Encrypted content has another address at each attempt.
                Some(_) => taken.md5.to_vec(),
                None => taken.content.to_bytes().to_vec(),
            },
            conditions.to_bytes(),
            bare_record(maps.clone(), acl.clone()).encode().to_vec(),
        ];
        let made_of: Vec<&[u8]> = made_of.iter().map(Vec::as_slice).collect();
        let idempotency_key = caller.idempotency_key("append", key.as_str(), &made_of);
        for _ in 0..JOINS_MAX {
            let newest = self.arbiter().current(head.address());
            let newest = self.before_write(caller, "arbiter", newest).await?;
            let newest = newest.ok_or(ServiceError::NoSuchBucket)?;
            let base = self.base(&newest, &key, offset);
            let base = match self.before_write(caller, "block store", base).await {
                Ok(base) => base,
                Err(
                    refused @ (ServiceError::InvalidWriteOffset(_) | ServiceError::TooManyParts),
                ) if caller.is_retry() => {
                    let (source, blocks) = (Source::Refused(refused), Vec::new());
                    let change = Change::Write { key, source, conditions, blocks };
                    let target = WriteTarget { head, guessed: None };
                    return self.write(caller, &target, change, idempotency_key).await;
                }
                Err(error) => return Err(error),
            };
            let (record, mut blocks) = if let Some(base) = &base {
                check_cipher(cipher.as_ref(), &base.record)?;
                appended(base, &taken, added, cipher.as_ref())
            } else {
                let record = ObjectRecord {
                    size: taken.size,
                    etag: taken.etag(),
                    checksums: taken.checksums.clone(),
                    content: Some(taken.content),
                    sse: cipher.as_ref().map(|cipher| cipher.field(taken.salt)),
                    ..bare_record(maps.clone(), acl.clone())
                };
                (record, attached.clone())
            };
            blocks.extend(taken.riding.clone());
            let base: Option<Seq> = base.map(|base| base.record.seq);
            let (named, conditions) = (key.clone(), conditions.clone());
            let append = Append { key: named, base, conditions, record, blocks };
            let change = Change::Append(Box::new(append));
            match self.change(caller, &head, change, idempotency_key.clone()).await? {
                Answer::Object(record) => return Ok(*record),
                Answer::JoinAgain => {}
                other => return Err(ServiceError::bug(format!("an append answered {other:?}"))),
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Returns the key of a body that is appended: that of the object, or that of a new one.
    async fn append_cipher(
        &self,
        caller: &Caller,
        head: &Head,
        current: Option<&ObjectRecord>,
        is_asked: bool,
    ) -> Result<Option<ObjectCipher>, ServiceError> {
        let Some(current) = current else {
            return self.cipher_for(caller, &head.root, is_asked).await;
        };
        let cipher = self.cipher_of(current)?;
        if is_asked && cipher.is_none() {
            let text = "The object is not encrypted, and an append cannot encrypt it. Copy it onto itself \
                        with x-amz-server-side-encryption.";
            return Err(ServiceError::InvalidRequest(text.to_owned()));
        }
        Ok(cipher)
    }

    /// Returns the link to a body that was taken.
    async fn link_of(&self, caller: &Caller, taken: &Taken) -> Result<FileLink, ServiceError> {
        let (cid, size) = (taken.content, length_of(taken.size, taken.salt.is_some()));
        if taken.riding.is_some() {
            return Ok(FileLink { cid, size, dag_bytes: size });
        }
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let read = async { Ok(content::dag_bytes(blocks, cid, size).await?) };
        self.before_write(caller, "block store", read).await
    }

    /// Returns the object that is appended to; `None` if there is none.
    async fn base(
        &self,
        head: &Head,
        key: &ObjectKey,
        offset: u64,
    ) -> Result<Option<Base>, ServiceError> {
        let current = self.record(head, key).await?;
        check_offset(current.as_ref(), offset)?;
        let Some(record) = current else { return Ok(None) };
        let content = record.content.unwrap_or_else(|| empty_block().cid());
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let length = |size| length_of(size, record.sse.is_some());
        let whole = content::dag_bytes(blocks, content, length(record.size)).await?;
        let own_salt = salt_of(&record)?;
        let mut spans = self.parts_of(&record).await?;
        let mut links = Vec::new();
        // Content of one block is no node, whatever empty bodies were appended to it.
        if spans.len() > 1 && content.codec() == Codec::DagPb && own_salt.is_none() {
            let root = fula_core::block::require(blocks, &content).await?;
            links = FileNode::from_block(&root)?.links;
        }
        // The node of an upload or an earlier append links one file for each part that is not empty.
        let sizes = spans.iter().map(|span| length(span.size)).filter(|size| *size > 0);
        if links.is_empty() || !sizes.eq(links.iter().map(|link| link.size)) {
            let checksum = joinable(&record).cloned();
            let only = spans.iter().find(|span| span.size > 0).and_then(|span| span.salt);
            let salt = own_salt.or(only);
            spans = vec![PartSpan { number: 1, size: record.size, checksum, salt }];
            links = vec![whole];
        }
        if spans.len() >= PARTS_MAX as usize {
            return Err(ServiceError::TooManyParts);
        }
        Ok(Some(Base { record, spans, links }))
    }
}

/// Returns the checksum of an object from which that of a longer one follows.
fn joinable(record: &ObjectRecord) -> Option<&Checksum> {
    let is_joinable = |checksum: &&Checksum| {
        let parts = [(checksum.value.clone(), record.size)];
        checksum.composite_parts == 0 && checksum::joined(checksum.algorithm, &parts).is_some()
    };
    record.checksums.iter().find(is_joinable)
}

/// Checks that a body is added at the end of an object.
fn check_offset(current: Option<&ObjectRecord>, offset: u64) -> Result<(), ServiceError> {
    if current.is_some_and(|current| current.kind == ObjectKind::Mapped) {
        let text = "This object is mapped to storage nodes. Put it before you append to it.";
        return Err(ServiceError::InvalidRequest(text.to_owned()));
    }
    let size = current.map_or(0, |current| current.size);
    if size != offset {
        return Err(ServiceError::InvalidWriteOffset(size));
    }
    Ok(())
}

/// Refuses to join a body with an object that was replaced meanwhile by one with another key.
fn check_cipher(cipher: Option<&ObjectCipher>, record: &ObjectRecord) -> Result<(), ServiceError> {
    let is_same = match cipher {
        Some(cipher) => cipher.is_of(record)?,
        None => record.sse.is_none(),
    };
    if is_same { Ok(()) } else { Err(ServiceError::Busy(Applied::None)) }
}

/// Returns the record of an object with a body at its end, and the blocks that are stored with the commit.
fn appended(
    base: &Base,
    taken: &Taken,
    added: FileLink,
    cipher: Option<&ObjectCipher>,
) -> (ObjectRecord, Vec<Block>) {
    let Base { record, spans, links } = base;
    let links: Vec<FileLink> = links.iter().copied().chain([added]).collect();
    let (content, node) = match content::join(&links) {
        Some((root, node)) => (root.cid, node),
        None => (empty_block().cid(), None),
    };
    let checksums = joinable(record).and_then(|old| {
        let new = taken.checksums.iter().find(|new| new.algorithm == old.algorithm)?;
        let parts = [(old.value.clone(), record.size), (new.value.clone(), taken.size)];
        checksum::joined(old.algorithm, &parts)
    });
    let number = u32::try_from(spans.len()).unwrap_or(u32::MAX).saturating_add(1);
    let checksum = taken.checksums.first().cloned();
    let mut spans = spans.clone();
    spans.push(PartSpan { number, size: taken.size, checksum, salt: taken.salt });
    let table = write_parts(&spans);
    let old = match record.etag {
        ETag::Md5(md5) | ETag::Multipart(md5, _) => md5,
        ETag::Cid(_) => [0; 16],
    };
    let record = ObjectRecord {
        size: record.size + taken.size,
        etag: ETag::Multipart(checksum::md5_of(&[old, taken.md5]), number),
        checksums: checksums.into_iter().collect(),
        content: Some(content),
        parts: Some(table.cid()),
        sse: cipher.map(|cipher| cipher.field(None)),
        fingerprint: None,
        ..record.clone()
    };
    (record, [Some(table), node].into_iter().flatten().collect())
}
