//! Copying objects.

use std::sync::Arc;

use fula_core::{
    Block, BucketName,
    bucket::{
        Attached, Checksum, ChecksumAlgorithm, ObjectKind, ObjectRecord, TextMap, write_parts,
    },
};
use futures::{StreamExt, TryStreamExt};

use crate::{
    arbiter::Head,
    auth::access::{Action, Property, Which},
    budget,
    caller::Caller,
    commit::{Answer, Change, Replacement, Source},
    error::{Applied, ServiceError},
    limits::PUT_BYTES_MAX,
    objects::body::{self, BodyFacts, Intake},
    objects::checksum::Digests,
    objects::multipart::JOINS_MAX,
    objects::object::{CopyRequest, CopySourceRequest, ObjectFacts},
    objects::record::{Maps, bare_record},
    service::{Part, Service},
    sse::ObjectCipher,
};

/// Returns the maps that a copy replaces, and the blocks of those that are large.
fn replacement(request: &CopyRequest) -> Result<(Replacement, Vec<Block>), ServiceError> {
    let (mut replacement, mut blocks) = (Replacement::default(), Vec::new());
    if let Some(facts) = request.replace.clone() {
        let (maps, attached) = ObjectFacts { tags: TextMap::new(), ..facts }.attach()?;
        blocks.extend(attached);
        replacement.facts = Some(maps);
    }
    if let Some(tags) = request.tags.clone() {
        let (tags, block) = Attached::new(tags);
        blocks.extend(block);
        replacement.tags = Some(tags);
    }
    Ok((replacement, blocks))
}

/// Returns whether an object has a checksum of this algorithm over all its bytes.
fn has_whole(record: &ObjectRecord, algorithm: ChecksumAlgorithm) -> bool {
    let mut all = record.checksums.iter();
    all.any(|checksum| checksum.algorithm == algorithm && checksum.composite_parts == 0)
}

impl Service {
    /// Copies an object. No content is copied: the new record links the same content, and carries its key. The
    /// content is read when the copy shall have another checksum, and stored again when only one of both shall
    /// be encrypted.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::PreconditionFailed`],
    /// [`ServiceError::InvalidRequest`] for a copy onto itself that changes nothing.
    pub async fn copy_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: CopyRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let part = Part::Key(&request.key);
        let head = self.resolve(caller, bucket, Action::PutObject, part).await?;
        let (mut replace, mut blocks) = replacement(&request)?;
        replace.acl = self.acl_of_write(caller, &head, request.acl.as_ref()).await?;
        let CopySourceRequest { bucket: source_bucket, key: source_key, .. } = &request.source;
        let mut copied_from =
            [source_bucket.as_str().as_bytes(), b"/", source_key.as_bytes()].concat();
        if let Some(version) = request.source.version {
            copied_from.extend(format!("?{version}").into_bytes());
        }
        if let Some(maps) = &replace.facts {
            copied_from.extend(bare_record(maps.clone(), None).encode());
        }
        if let Some(acl) = &replace.acl {
            copied_from.push(b'@');
            copied_from.extend(acl.as_bytes());
        }
        if let Some(tags) = &replace.tags {
            let tags = Maps { tags: tags.clone(), ..Maps::default() };
            copied_from.push(b'#');
            copied_from.extend(bare_record(tags, None).encode());
        }
        if let Some(algorithm) = request.checksum {
            copied_from.extend([b'/', algorithm as u8]);
        }
        if request.encrypt {
            copied_from.extend(b"/encrypt");
        }
        let CopyRequest { key, conditions, .. } = &request;
        let idempotency_key =
            caller.idempotency_key("copy", key.as_str(), &[&copied_from, &conditions.to_bytes()]);
        let attached = blocks.len();
        for _ in 0..JOINS_MAX {
            blocks.truncate(attached);
            let found = self.copied(caller, &head, &request, replace.clone()).await;
            let source = match found {
                Ok((source, stored)) => {
                    blocks.extend(stored);
                    source
                }
                // The first attempt may have been carried out. Only the commit can tell.
                Err(error) if caller.is_retry() => Source::Refused(error),
                Err(error) => return Err(error),
            };
            let (key, conditions, blocks) = (key.clone(), conditions.clone(), blocks.clone());
            let change = Change::Write { key, source, conditions, blocks };
            match self.change(caller, &head, change, idempotency_key.clone()).await? {
                Answer::Object(record) => return Ok(*record),
                Answer::JoinAgain => {}
                other => return Err(ServiceError::bug(format!("a copy answered {other:?}"))),
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Checks the source of a copy, and returns it with the blocks that are stored with the commit.
    async fn copied(
        &self,
        caller: &Caller,
        head: &Head,
        request: &CopyRequest,
        replace: Replacement,
    ) -> Result<(Source, Vec<Block>), ServiceError> {
        let CopyRequest { source, key, conditions, .. } = request;
        self.may_compare(caller, head, key, conditions).await?;
        let from = self
            .resolve_source(caller, source.owner, &source.bucket, &source.key, source.version)
            .await?;
        let is_same = from.root.id == head.root.id;
        let changes_nothing =
            replace.facts.is_none() && request.checksum.is_none() && !request.encrypt;
        if is_same && source.key == *key && source.version.is_none() && changes_nothing {
            return Err(ServiceError::InvalidRequest(
                "This copy request is illegal because it is trying to copy an object to itself \
                 without changing the object's metadata, storage class, website redirect location \
                 or encryption attributes."
                    .to_owned(),
            ));
        }
        let found = self.found(&from, &source.key, source.version);
        // Whether the source is there is decided at the commit, where that can see it.
        let found = match self.before_write(caller, "block store", found).await {
            Err(
                absent @ (ServiceError::NoSuchKey
                | ServiceError::NoSuchVersion
                | ServiceError::DeleteMarker { .. }),
            ) => Err(absent),
            found => Ok(found?),
        };
        // A copy shows the tags that it takes over, so the caller must be allowed to read them.
        let has_tags = found.as_ref().is_ok_and(|record| record.tags != Attached::default());
        if replace.tags.is_none() && has_tags {
            let read_tags = Action::GetProperty(Property::Tags, Which::of(source.version));
            let part = Part::of(&source.key, source.version);
            self.authorize(caller, &from, read_tags, part).await?;
        }
        if found.as_ref().is_ok_and(|record| record.size > PUT_BYTES_MAX) {
            return Err(ServiceError::InvalidRequest(
                "The specified copy source is larger than the maximum allowable size for a copy \
                 source: 5368709120"
                    .to_owned(),
            ));
        }
        let conditions = source.conditions.clone();
        let is_read = match (&found, request.checksum) {
            (Ok(record), Some(algorithm)) => !has_whole(record, algorithm),
            _ => false,
        };
        let cipher = self.cipher_for(caller, &head.root, request.encrypt).await?;
        let is_encrypted = cipher.is_some();
        let is_kept = found.as_ref().is_ok_and(|record| record.sse.is_some() == is_encrypted);
        if is_same && !is_read && (is_kept || found.is_err()) {
            let key = source.key.clone();
            let (version, replace) = (source.version, Box::new(replace));
            let source = Source::SameBucket { key, version, conditions, replace, is_encrypted };
            return Ok((source, Vec::new()));
        }
        let record = found?;
        conditions.judge_source(&record)?;
        caller.pins.note_source(from.row.pointer.generation);
        let algorithm = request.checksum.filter(|_| is_read);
        let (mut record, blocks) = if !is_kept {
            self.stored_again(caller, record, cipher, algorithm).await?
        } else if let Some(algorithm) = algorithm {
            let checksums = vec![self.checksum_of(caller, &record, algorithm).await?];
            (ObjectRecord { checksums, ..record }, Vec::new())
        } else {
            (record, Vec::new())
        };
        record.fingerprint = None;
        replace.apply(&mut record);
        Ok((Source::Record(Box::new(record)), blocks))
    }

    /// Reads the content of an object, and stores it again, encrypted or not. Its `ETag`, checksums and parts stay,
    /// unless it is mapped or another checksum is asked for.
    async fn stored_again(
        &self,
        caller: &Caller,
        record: ObjectRecord,
        cipher: Option<ObjectCipher>,
        algorithm: Option<ChecksumAlgorithm>,
    ) -> Result<(ObjectRecord, Vec<Block>), ServiceError> {
        let (size, keep) = (record.size, algorithm.unwrap_or(ChecksumAlgorithm::Crc64Nvme));
        // One permit covers both directions, as for a copied part.
        let bytes = budget::bytes_out(size, &(0..size)) + budget::bytes_in(Some(size));
        let permit = Arc::new(self.body_budget.take(bytes, None).await?);
        let content = self.stream(caller, &record, 0..size, Arc::clone(&permit)).await?;
        let facts = BodyFacts {
            length: Some(size),
            length_max: PUT_BYTES_MAX,
            md5: None,
            keep,
            sent: keep,
            checksum: None,
            trailer: None,
        };
        let intake =
            Intake { cipher: self.body_cipher(cipher.as_ref())?, ..self.intake(caller, &permit) };
        let content = Box::pin(content.map_err(ServiceError::from));
        let taken = body::take(intake, content, facts).await?;
        let mut blocks: Vec<Block> = taken.riding.iter().cloned().collect();
        let is_mapped = record.kind == ObjectKind::Mapped;
        let mut spans = self.parts_of(&record).await?;
        let mut parts = record.parts.filter(|_| !is_mapped);
        // The content is one body now.
        if spans.iter().any(|span| span.salt.is_some()) {
            for span in &mut spans {
                span.salt = None;
            }
            let table = write_parts(&spans);
            parts = Some(table.cid());
            blocks.push(table);
        }
        let record = ObjectRecord {
            kind: ObjectKind::Object,
            etag: if is_mapped { taken.etag() } else { record.etag },
            checksums: match algorithm {
                None if !is_mapped => record.checksums,
                _ => taken.checksums,
            },
            content: Some(taken.content),
            sse: cipher.map(|cipher| cipher.field(taken.salt)),
            parts,
            ..record
        };
        Ok((record, blocks))
    }

    /// Reads an object, and returns its checksum.
    async fn checksum_of(
        &self,
        caller: &Caller,
        record: &ObjectRecord,
        algorithm: ChecksumAlgorithm,
    ) -> Result<Checksum, ServiceError> {
        let range = 0..record.size;
        let bytes = budget::bytes_out(record.size, &range);
        let permit = Arc::new(self.body_budget.take(bytes, None).await?);
        let mut stream = self.stream(caller, record, range, permit).await?;
        let mut digests = Digests::new([algorithm]);
        while let Some(bytes) = stream.next().await {
            digests.update(&bytes?);
        }
        let (_, checksums) = digests.finish();
        checksums.into_iter().next().ok_or_else(|| ServiceError::bug("no checksum was computed"))
    }
}
