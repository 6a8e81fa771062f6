//! Lifecycle rules: objects, versions, delete markers and uploads that end by themselves (docs/adr/0048).

mod rules;
mod work;

use std::sync::Arc;

use fula_core::{
    BucketAddress, BucketName, ObjectKey,
    bucket::{Attached, BucketRoot, ObjectRecord, TextMap, settings},
    root::TimeMs,
};

use self::rules::{Place, Version};
pub use self::{
    rules::{Expiration, Filter, FilterForm, Lifecycle, Noncurrent, Rule},
    work::{LifecycleCursor, LifecyclePage},
};
use crate::{
    auth::access::{Action, Setting},
    caller::Caller,
    commit::Change,
    error::ServiceError,
    service::{Part, Service},
};

/// Name of the setting that holds the rules, as text in a block of its own.
const LIFECYCLE: &str = "lifecycle";

/// When an object ends, and the name of the rule that ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Time in milliseconds since 1970.
    pub time: TimeMs,
    /// Name of the rule.
    pub rule: String,
}

impl Service {
    /// Returns the lifecycle rules of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn lifecycle(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Option<Lifecycle>, ServiceError> {
        let action = Action::GetSetting(Setting::Lifecycle);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        let rules = self.rules_of(&head.root).await?;
        Ok(rules.map(|rules| Lifecycle::clone(&rules)))
    }

    /// Sets or removes the lifecycle rules of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn set_lifecycle(
        &self,
        caller: &Caller,
        name: &BucketName,
        lifecycle: Option<&Lifecycle>,
    ) -> Result<(), ServiceError> {
        let action = Action::PutSetting(Setting::Lifecycle);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        let value = lifecycle.map(|lifecycle| settings::text_block(&lifecycle.to_text()));
        let made_of = value.as_ref().map_or(&[][..], |block| block.bytes());
        let idempotency_key = caller.idempotency_key("lifecycle", "", &[made_of]);
        let change = Change::Set { name: LIFECYCLE, value, names: None };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }

    /// Returns the rules of the bucket that a root describes.
    async fn rules_of(&self, root: &BucketRoot) -> Result<Option<Arc<Lifecycle>>, ServiceError> {
        let Some(link) = &root.settings else { return Ok(None) };
        if let Some(rules) = self.lifecycles.get(link) {
            return Ok(rules);
        }
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let text = settings::read_text(blocks, Some(link), LIFECYCLE).await?;
        let rules = text.map(|text| Lifecycle::parse(&text).map(Arc::new)).transpose()?;
        self.lifecycles.insert(*link, rules.clone());
        Ok(rules)
    }

    /// Returns when a current object ends.
    pub(crate) async fn end_of(
        &self,
        root: &BucketRoot,
        key: &str,
        record: &ObjectRecord,
    ) -> Result<Option<End>, ServiceError> {
        let Some(rules) = self.rules_of(root).await? else { return Ok(None) };
        let tags = self.tags_for(&rules, record).await?;
        let place = Place::Newest { alone: false };
        let end = rules.end(Version { key, record, tags: &tags, place });
        Ok(end.map(|(time, rule)| End { time, rule: rule.to_owned() }))
    }

    /// Returns when an object ends that was just written, if the state of its bucket is at hand.
    pub async fn end_of_written(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        record: &ObjectRecord,
    ) -> Option<End> {
        let owner = self.meaning(caller, caller.bucket_owner).owner()?;
        let head = self.arbiter().last_known(&BucketAddress::new(owner, bucket.clone()))?;
        // The write is acknowledged, whatever comes of this.
        self.end_of(&head.root, key.as_str(), record).await.ok().flatten()
    }

    /// Returns the tags of a version, if rules ask for any.
    async fn tags_for(
        &self,
        rules: &Lifecycle,
        record: &ObjectRecord,
    ) -> Result<TextMap, ServiceError> {
        if !rules.needs_tags() || record.tags == Attached::default() {
            return Ok(TextMap::new());
        }
        self.attached(&record.tags).await
    }
}
