//! Which writes encrypt, reading what is encrypted, and the default encryption of buckets.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use fula_core::{
    BucketName, Cid, Codec, StoreError,
    block::require,
    bucket::{BucketRoot, ObjectRecord, PartSpan, SealedKey, TextMap, settings},
    content::{FileNode, encrypted::stored_len},
};
use futures::{StreamExt, stream, stream::BoxStream};

use super::{
    chunks::{BodyCipher, StoredBody, damaged},
    keys::{MasterKeys, ObjectCipher},
};
use crate::{
    auth::access::{Action, Setting},
    caller::Caller,
    commit::{Change, content_of},
    error::ServiceError,
    service::{Part, Service},
};

/// Name of the setting with the default encryption of a bucket, as a map of texts.
const ENCRYPTION: &str = "encryption";

impl Service {
    /// Encrypts objects under these keys.
    #[must_use]
    pub fn with_master_keys(mut self, keys: MasterKeys) -> Self {
        self.encryption.keys = keys;
        self
    }

    /// Returns the default encryption of the bucket that a root describes.
    async fn default_encryption(&self, root: &BucketRoot) -> Result<Option<TextMap>, ServiceError> {
        let Some(link) = &root.settings else { return Ok(None) };
        if let Some(known) = self.encryption.defaults.get(link) {
            return Ok(known);
        }
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let found = settings::read_map(blocks, Some(link), ENCRYPTION).await?;
        self.encryption.defaults.insert(*link, found.clone());
        Ok(found)
    }

    /// Returns whether the bucket that a root describes encrypts what is put.
    pub(crate) async fn encrypts(&self, root: &BucketRoot) -> Result<bool, ServiceError> {
        if root.settings.is_none() {
            return Ok(false);
        }
        Ok(Box::pin(self.default_encryption(root)).await?.is_some())
    }

    /// Returns the key of a new object, if it has to be encrypted: because the request asks for it, or because
    /// the bucket encrypts.
    ///
    /// # Errors
    /// [`ServiceError::NoMasterKey`].
    pub(crate) async fn cipher_for(
        &self,
        caller: &Caller,
        root: &BucketRoot,
        is_asked: bool,
    ) -> Result<Option<ObjectCipher>, ServiceError> {
        let is_default = !is_asked
            && match root.settings.map(|link| self.encryption.defaults.get(&link)) {
                None => false,
                Some(Some(known)) => known.is_some(),
                Some(None) => self.before_write(caller, "block store", self.encrypts(root)).await?,
            };
        if is_asked || is_default { self.fresh_cipher().map(Some) } else { Ok(None) }
    }

    /// Returns the key of a new object.
    pub(crate) fn fresh_cipher(&self) -> Result<ObjectCipher, ServiceError> {
        let (key, sealed) = self.encryption.keys.fresh(&*self.random)?;
        Ok(ObjectCipher { key, sealed })
    }

    /// Returns what encrypts one more body of an object; `None` for one that is not encrypted.
    pub(crate) fn body_cipher(
        &self,
        cipher: Option<&ObjectCipher>,
    ) -> Result<Option<BodyCipher>, ServiceError> {
        cipher.map(|cipher| cipher.body(self.random())).transpose()
    }

    /// Returns the key of an object that exists, or of an upload; `None` if it is not encrypted.
    ///
    /// # Errors
    /// [`ServiceError::NoMasterKey`].
    pub(crate) fn cipher_of(
        &self,
        record: &ObjectRecord,
    ) -> Result<Option<ObjectCipher>, ServiceError> {
        let Some(field) = &record.sse else { return Ok(None) };
        let (key, sealed) = self.encryption.keys.open(field)?;
        Ok(Some(ObjectCipher { key, sealed }))
    }

    /// Refuses a mapping where the content would have to be encrypted: storage nodes hold it as it is.
    pub(crate) async fn refuse_mapping(
        &self,
        caller: &Caller,
        root: &BucketRoot,
        is_asked: bool,
    ) -> Result<(), ServiceError> {
        if !is_asked && !self.before_write(caller, "block store", self.encrypts(root)).await? {
            return Ok(());
        }
        let text = "The content of a mapping is held by storage nodes and cannot be encrypted. Put the \
                    object, or map it in a bucket without default encryption.";
        Err(ServiceError::InvalidRequest(text.to_owned()))
    }

    /// Returns the bodies that encrypted content is made of, in order. Empty ones are left out.
    async fn stored_bodies(
        &self,
        record: &ObjectRecord,
        field: &Bytes,
    ) -> Result<Vec<(PartSpan, Cid)>, ServiceError> {
        let content = content_of(record)?;
        if let Some(salt) = SealedKey::decode(field)?.salt {
            let (size, salt) = (record.size, Some(salt));
            return Ok(vec![(PartSpan { number: 1, size, checksum: None, salt }, content)]);
        }
        let mut spans = self.parts_of(record).await?;
        spans.retain(|span| span.size > 0);
        if spans.len() < 2 {
            return Ok(spans.into_iter().map(|span| (span, content)).collect());
        }
        if content.codec() != Codec::DagPb {
            return Err(damaged("it lacks the node of its parts"));
        }
        let root = require(self.arbiter().nodes().blocks().as_ref(), &content).await?;
        let links = FileNode::from_block(&root)?.links;
        let sizes = spans.iter().map(|span| stored_len(span.size));
        if !sizes.eq(links.iter().map(|link| link.size)) {
            return Err(damaged("its node and its table of parts differ"));
        }
        Ok(spans.into_iter().zip(links).map(|(span, link)| (span, link.cid)).collect())
    }

    /// Streams `range` of an encrypted object. Bodies are opened one after another.
    ///
    /// # Errors
    /// [`ServiceError::NoMasterKey`], and those of reading the table of parts.
    pub(crate) async fn decrypted(
        &self,
        record: &ObjectRecord,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, ServiceError> {
        let field = record.sse.as_ref().ok_or_else(|| damaged("its key is missing"))?;
        let (key, _) = self.encryption.keys.open(field)?;
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let (mut wanted, mut start) = (Vec::new(), 0_u64);
        for (span, cid) in self.stored_bodies(record, field).await? {
            let end = start.saturating_add(span.size);
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                let salt = span.salt.ok_or_else(|| damaged("a part has no salt"))?;
                wanted.push((cid, span.size, salt, from - start..to - start));
            }
            start = end;
        }
        if start != record.size {
            return Err(damaged("its parts do not add up to its length"));
        }
        let blocks = Arc::clone(self.arbiter().nodes().blocks());
        let bodies = stream::iter(wanted).flat_map(move |(cid, size, salt, range)| {
            if let Ok(key) = key.of_body(salt) {
                return StoredBody { cid, size, key }.read(Arc::clone(&blocks), &range).boxed();
            }
            let why = "a key of a body cannot be derived";
            let malformed = StoreError::Malformed { what: "encrypted content", why };
            stream::iter([Err(malformed)]).boxed()
        });
        Ok(bodies.boxed())
    }

    /// Returns the default encryption of a bucket, as it was set.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn bucket_encryption(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Option<TextMap>, ServiceError> {
        let action = Action::GetSetting(Setting::Encryption);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        self.default_encryption(&head.root).await
    }

    /// Sets or removes the default encryption of a bucket. Objects that exist stay as they are.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn set_bucket_encryption(
        &self,
        caller: &Caller,
        name: &BucketName,
        value: Option<&TextMap>,
    ) -> Result<(), ServiceError> {
        let action = Action::PutSetting(Setting::Encryption);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        let value = value.map(settings::map_block);
        let made_of = value.as_ref().map_or(&[][..], |block| block.bytes());
        let idempotency_key = caller.idempotency_key("encryption", "", &[made_of]);
        let change = Change::Set { name: ENCRYPTION, value, names: None };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }
}
