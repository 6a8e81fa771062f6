//! Settings of a bucket other than its policy, and what an object has beside its content.
//!
//! A setting is a text in a block of its own, as it was sent (docs/adr/0044).

use fula_core::{
    BucketName, ObjectKey, OwnerId,
    bucket::{Attached, TextMap, VersionId, settings},
};

use crate::{
    auth::access::{Action, Property, Setting, Which},
    caller::Caller,
    commit::{Amendment, Answer, Change, TAGGING},
    error::ServiceError,
    objects::object::Object,
    service::{Part, Service},
};

impl Service {
    /// Returns the owner of a bucket whose settings the caller may read.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn read_settings(
        &self,
        caller: &Caller,
        name: &BucketName,
        setting: Setting,
    ) -> Result<OwnerId, ServiceError> {
        let head = self.resolve(caller, name, Action::GetSetting(setting), Part::Whole).await?;
        Ok(head.row.address.owner)
    }

    /// Returns the owner of a bucket whose settings the caller may change.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn change_settings(
        &self,
        caller: &Caller,
        name: &BucketName,
        setting: Setting,
    ) -> Result<OwnerId, ServiceError> {
        let head = self.resolve(caller, name, Action::PutSetting(setting), Part::Whole).await?;
        Ok(head.row.address.owner)
    }

    /// Returns an object of which the caller may read a property, and its owner.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn object_properties(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        property: Property,
    ) -> Result<(OwnerId, Object), ServiceError> {
        let action = Action::GetProperty(property, Which::of(version));
        let head = self.resolve(caller, bucket, action, Part::of(key, version)).await?;
        let record = self.found(&head, key, version).await?;
        Ok((head.row.address.owner, self.with_maps(&head, record, true).await?))
    }

    /// Replaces the tags of an object or of a version, or removes them, if the request has none. It is otherwise unchanged, also its time. Returns the
    /// id of the version, if the bucket keeps versions.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn tag_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: ObjectKey,
        version: Option<VersionId>,
        tags: TextMap,
    ) -> Result<Option<VersionId>, ServiceError> {
        let which = Which::of(version);
        let action = if tags.is_empty() && caller.request_tags.is_none() {
            Action::DeleteTags(which)
        } else {
            Action::PutProperty(Property::Tags, which)
        };
        let head = self.resolve(caller, bucket, action, Part::of(&key, version)).await?;
        let encoded = settings::map_block(&tags);
        let named = version.map(|version| version.to_string()).unwrap_or_default();
        let made_of: [&[u8]; 2] = [encoded.bytes(), named.as_bytes()];
        let idempotency_key = caller.idempotency_key("tag", key.as_str(), &made_of);
        let (tags, block) = Attached::new(tags);
        let (amendment, blocks) = (Amendment::Tags(tags), block.into_iter().collect());
        let change = Change::Amend { key, version, amendment, blocks };
        match self.change(caller, &head, change, idempotency_key).await {
            Ok(Answer::Amended(record) | Answer::Object(record)) => {
                Ok(head.root.versioning.map(|_| record.version_id()))
            }
            // An older build remembered no version.
            Ok(_) => Ok(version),
            Err(ServiceError::DeleteMarker { time_ms, is_named, .. }) => {
                let id = version.unwrap_or(VersionId::Null);
                Err(ServiceError::DeleteMarker { id, time_ms, is_named })
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the tags of a bucket. They are empty if none were set.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn bucket_tags(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<TextMap, ServiceError> {
        let head =
            self.resolve(caller, name, Action::GetSetting(Setting::Tagging), Part::Whole).await?;
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let tags = settings::read_map(blocks, head.root.settings.as_ref(), TAGGING).await?;
        Ok(tags.unwrap_or_default())
    }

    /// Replaces the tags of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn tag_bucket(
        &self,
        caller: &Caller,
        name: &BucketName,
        tags: &TextMap,
    ) -> Result<(), ServiceError> {
        let head =
            self.resolve(caller, name, Action::PutSetting(Setting::Tagging), Part::Whole).await?;
        let value = settings::map_block(tags);
        let idempotency_key = caller.idempotency_key("tag-bucket", "", &[value.bytes()]);
        let value = Some(value).filter(|_| !tags.is_empty());
        let change = Change::Set { name: TAGGING, value, names: None };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }
}
