//! Access control lists of buckets and objects, and the object ownership that lets them count (docs/adr/0061).

use fula_core::{
    BucketName, ObjectKey,
    bucket::{VersionId, settings},
};

use crate::{
    arbiter::Head,
    auth::{
        access::{Action, Property, Setting, Which},
        acl::{Acl, AclRequest, BUCKET_ACL, OWNERSHIP, Ownership},
        bucket_policy::{Openness, ownership_of},
    },
    caller::Caller,
    commit::{Amendment, Change},
    error::ServiceError,
    service::{Part, Service},
};

/// Returns the name of a version as part of what identifies a request.
fn named(version: Option<VersionId>) -> String {
    version.map(|version| version.to_string()).unwrap_or_default()
}

impl Service {
    /// Returns the object ownership of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn ownership(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Ownership, ServiceError> {
        let action = Action::GetSetting(Setting::Ownership);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        ownership_of(self.arbiter().nodes().blocks().as_ref(), &head.root).await
    }

    /// Sets the object ownership of a bucket. The bucket claims or releases its global name accordingly, because
    /// lists may let in callers without a credential.
    ///
    /// # Errors
    /// [`ServiceError::BucketAclInUse`] when lists shall no longer count, and that of the bucket lets others in;
    /// [`ServiceError::TooManyPublicBuckets`].
    pub async fn set_ownership(
        &self,
        caller: &Caller,
        name: &BucketName,
        ownership: Ownership,
    ) -> Result<(), ServiceError> {
        let action = Action::PutSetting(Setting::Ownership);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        let owner = head.row.address.owner;
        if ownership == Ownership::Enforced
            && self.list_of(caller, &head).await? != Acl::private(owner)
        {
            return Err(ServiceError::BucketAclInUse);
        }
        let has_acls = ownership != Ownership::Enforced;
        let open = Openness { has_acls, ..self.openness(&head).await? };
        self.check_reach(caller, &head, &open).await?;
        let text = ownership.to_text();
        let idempotency_key =
            caller.idempotency_key("ownership", "", &[text.unwrap_or_default().as_bytes()]);
        let value = text.map(settings::text_block);
        let change = Change::Set { name: OWNERSHIP, value, names: Some(self.names) };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }

    /// Returns the access control list of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn bucket_acl(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Acl, ServiceError> {
        let action = Action::GetSetting(Setting::Acl);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        self.list_of(caller, &head).await
    }

    /// Returns the list of a bucket that was found.
    async fn list_of(&self, caller: &Caller, head: &Head) -> Result<Acl, ServiceError> {
        let access = self.access_of(caller, &head.root, Action::GetSetting(Setting::Acl)).await?;
        let owner = head.row.address.owner;
        Ok(access.acls().map_or_else(|| Acl::private(owner), |acls| acls.bucket(owner)))
    }

    /// Replaces the access control list of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::AclsNotSupported`] where lists do not count, unless it lets only the owner in;
    /// [`ServiceError::AccessDenied`] for one that the public access block forbids.
    pub async fn set_bucket_acl(
        &self,
        caller: &Caller,
        name: &BucketName,
        asked: &AclRequest,
    ) -> Result<(), ServiceError> {
        let action = Action::PutSetting(Setting::Acl);
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        let owner = head.row.address.owner;
        let access = self.access_of(caller, &head.root, action).await?;
        let Some(acls) = access.acls() else {
            return asked.check_enforced(owner);
        };
        let acl = acls.resolve(asked, owner, owner)?;
        let text = (acl != Acl::private(owner)).then(|| acl.to_text());
        let made_of = text.clone().unwrap_or_default();
        let idempotency_key = caller.idempotency_key("acl", "", &[made_of.as_bytes()]);
        let value = text.as_deref().map(settings::text_block);
        let change = Change::Set { name: BUCKET_ACL, value, names: None };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }

    /// Returns the access control list of an object or a version.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn object_acl(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<Acl, ServiceError> {
        let action = Action::GetProperty(Property::Acl, Which::of(version));
        let head = self.resolve(caller, bucket, action, Part::of(key, version)).await?;
        let record = self.found(&head, key, version).await?;
        let access = self.access_of(caller, &head.root, action).await?;
        Ok(access.acl_of(record.acl.as_deref(), head.row.address.owner))
    }

    /// Replaces the access control list of an object or a version. It is otherwise unchanged, also its time.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], and those of [`Self::set_bucket_acl`].
    pub async fn set_object_acl(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: ObjectKey,
        version: Option<VersionId>,
        asked: &AclRequest,
    ) -> Result<(), ServiceError> {
        let action = Action::PutProperty(Property::Acl, Which::of(version));
        let head = self.resolve(caller, bucket, action, Part::of(&key, version)).await?;
        let holder = head.row.address.owner;
        let found = self.found(&head, &key, version);
        let record = self.before_write(caller, "block store", found).await?;
        let access = self.access_of(caller, &head.root, action).await?;
        let Some(acls) = access.acls() else {
            return asked.check_enforced(holder);
        };
        let owner = access.acl_of(record.acl.as_deref(), holder).owner;
        let acl = acls.resolve(asked, owner, holder)?;
        let text = (acl != Acl::private(holder)).then(|| acl.to_text());
        let (made_of, version_name) = (text.clone().unwrap_or_default(), named(version));
        let made_of = [made_of.as_bytes(), version_name.as_bytes()];
        let idempotency_key = caller.idempotency_key("object-acl", key.as_str(), &made_of);
        let (amendment, blocks) = (Amendment::Acl(text), Vec::new());
        let change = Change::Amend { key, version, amendment, blocks };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }
}
