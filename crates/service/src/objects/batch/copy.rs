//! Copies within a commit. No content is read or written.

use std::{collections::HashMap, sync::Arc};

use fula_core::{
    BucketName, ObjectKey,
    bucket::{Attached, ETag, Fingerprint, Recent, RecentOutcome, TextMap, keys},
};

use super::BatchSource;
use crate::{
    arbiter::Head,
    auth::access::{Action, Property, Which},
    caller::{BucketOwner, Caller},
    commit::{Replacement, Source, StepKind},
    error::ServiceError,
    objects::object::ObjectFacts,
    service::{Part, Service},
};

impl Service {
    /// Prepares a copy to `key` of the bucket `newest`. A source in the same bucket is read at the commit.
    pub(super) async fn copy_step(
        &self,
        caller: &Caller,
        newest: &Arc<Head>,
        key: &ObjectKey,
        (source, replace): (&BatchSource, Option<&ObjectFacts>),
        sources: &mut HashMap<BucketName, Arc<Head>>,
    ) -> Result<StepKind, ServiceError> {
        let from = self.source_of_copy(caller, newest, source, sources).await?;
        let is_same = from.root.id == newest.root.id;
        if is_same && source.key == *key && source.version.is_none() && replace.is_none() {
            let text = "a copy of an object onto itself has new metadata";
            return Err(ServiceError::InvalidRequest(text.to_owned()));
        }
        let found = self.found(&from, &source.key, source.version);
        let record = self.before_write(caller, "block store", found).await?;
        // A copy shows the tags that it takes over, so the caller must be allowed to read them.
        if record.tags != Attached::default() {
            let read_tags = Action::GetProperty(Property::Tags, Which::of(source.version));
            let part = Part::of(&source.key, source.version);
            self.authorize(caller, &from, read_tags, part).await?;
        }
        let is_encrypted = self.cipher_for(caller, &newest.root, false).await?.is_some();
        if record.sse.is_some() != is_encrypted {
            let text = "a commit copies no content, and only one of source and copy would be encrypted; send \
                        a PUT with x-amz-copy-source, which stores the content again";
            return Err(ServiceError::InvalidRequest(text.to_owned()));
        }
        let (mut replacement, mut blocks) = (Replacement::default(), Vec::new());
        if let Some(facts) = replace.cloned() {
            let (maps, attached) = ObjectFacts { tags: TextMap::new(), ..facts }.attach()?;
            replacement.facts = Some(maps);
            blocks = attached;
        }
        replacement.acl = self.acl_of_write(caller, newest, None).await?;
        let (version, conditions) = (source.version, source.conditions.clone());
        let source = if is_same {
            let (key, replace) = (source.key.clone(), Box::new(replacement));
            Source::SameBucket { key, version, conditions, replace, is_encrypted }
        } else {
            conditions.judge_source(&record)?;
            caller.pins.note_source(from.row.pointer.generation);
            let mut record = record;
            replacement.apply(&mut record);
            Source::Record(Box::new(record))
        };
        Ok(StepKind::Copy { source: Box::new(source), blocks })
    }

    /// Returns the state of the bucket of a source, from which the caller may read the source. Each bucket is found
    /// once.
    async fn source_of_copy(
        &self,
        caller: &Caller,
        newest: &Arc<Head>,
        source: &BatchSource,
        sources: &mut HashMap<BucketName, Arc<Head>>,
    ) -> Result<Arc<Head>, ServiceError> {
        let (key, version) = (&source.key, source.version);
        let known = match &source.bucket {
            None => Some(newest),
            Some(bucket) => sources.get(bucket),
        };
        if let Some(head) = known {
            let action = if version.is_some() { Action::GetVersion } else { Action::GetObject };
            self.authorize(caller, head, action, Part::of(key, version)).await?;
            return Ok(Arc::clone(head));
        }
        let bucket = source.bucket.as_ref().unwrap_or(&newest.address().name);
        let head = self.resolve_source(caller, BucketOwner::Unsaid, bucket, key, version).await?;
        sources.insert(bucket.clone(), Arc::clone(&head));
        Ok(head)
    }

    /// Returns the entity tag of the object that a commit with this fingerprint has made; `None` if that was
    /// replaced or deleted so long ago that it is not remembered.
    pub(super) async fn etag_of_copy(
        &self,
        newest: &Head,
        key: &ObjectKey,
        fingerprint: Fingerprint,
    ) -> Result<Option<ETag>, ServiceError> {
        let Some(newest) = self.arbiter().current(newest.address()).await? else {
            return Ok(None);
        };
        if let Some(record) = self.record(&newest, key).await?
            && record.fingerprint == Some(fingerprint)
        {
            return Ok(Some(record.etag));
        }
        let place = keys::recent(key.as_str(), fingerprint);
        let entry = newest.root.recent.get(self.arbiter().nodes(), &place).await?;
        let recent = entry.map(|entry| Recent::decode(&entry.value)).transpose()?;
        Ok(match recent.map(|recent| recent.outcome) {
            Some(RecentOutcome::Stored(record)) => Some(record.etag),
            _ => None,
        })
    }
}
