//! Settings of a bucket other than its policy, and what an object has beside its content.

use fula_core::{BucketName, ObjectKey, OwnerId};

use crate::{
    auth::access::Action,
    caller::Caller,
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
    ) -> Result<OwnerId, ServiceError> {
        let head = self.resolve(caller, name, Action::GetSettings, Part::Whole).await?;
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
    ) -> Result<OwnerId, ServiceError> {
        let head = self.resolve(caller, name, Action::PutSettings, Part::Whole).await?;
        Ok(head.row.address.owner)
    }

    /// Returns an object whose tags, ACL and attributes the caller may read, and its owner.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn object_properties(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<(OwnerId, Object), ServiceError> {
        let head = self.resolve(caller, bucket, Action::GetProperties, Part::Key(key)).await?;
        let record = self.record(&head, key).await?.ok_or(ServiceError::NoSuchKey)?;
        Ok((head.row.address.owner, self.with_maps(record).await?))
    }

    /// Returns the owner of an object whose tags and ACL the caller may replace.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn change_properties(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<OwnerId, ServiceError> {
        let head = self.resolve(caller, bucket, Action::PutProperties, Part::Key(key)).await?;
        self.record_for_write(caller, &head, key).await?.ok_or(ServiceError::NoSuchKey)?;
        Ok(head.row.address.owner)
    }
}
