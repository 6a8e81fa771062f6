//! Versions of objects: finding one, listing them, and whether a bucket keeps them (docs/adr/0045).

use fula_core::{
    BucketName, ObjectKey, OwnerId,
    bucket::{
        ListQuery, ListedVersion, ObjectKind, ObjectRecord, Seq, VersionId, Versioning, keys,
        list_versions,
    },
    tree::{Cursor, after_prefix},
};

use crate::{
    arbiter::Head,
    auth::access::{Action, Setting},
    caller::Caller,
    commit::Change,
    error::ServiceError,
    limits::PAGE_MAX,
    objects::list::ListRequest,
    service::{Part, Service},
};

/// A page of a listing of versions, which is a snapshot of one root.
#[derive(Clone, Debug)]
pub struct VersionListing {
    /// Owner of the bucket.
    pub owner: OwnerId,
    /// Whether access control lists count, so that objects may have other owners.
    pub has_owners: bool,
    /// Lines in order of key, and then from the newest version.
    pub lines: Vec<ListedVersion>,
    /// Whether more lines follow.
    pub truncated: bool,
}

impl Service {
    /// Returns whether a bucket keeps versions; `None` when it never did.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn versioning(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Option<Versioning>, ServiceError> {
        let head = self
            .resolve(caller, name, Action::GetSetting(Setting::Versioning), Part::Whole)
            .await?;
        Ok(head.root.versioning)
    }

    /// Sets whether a bucket keeps versions.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn set_versioning(
        &self,
        caller: &Caller,
        name: &BucketName,
        versioning: Versioning,
    ) -> Result<(), ServiceError> {
        let head = self
            .resolve(caller, name, Action::PutSetting(Setting::Versioning), Part::Whole)
            .await?;
        let code = [u8::from(versioning == Versioning::Enabled)];
        let idempotency_key = caller.idempotency_key("versioning", "", &[&code]);
        let change = Change::SetVersioning(versioning);
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }

    /// Returns the newest delete marker of a key that has no current object.
    async fn marker(
        &self,
        head: &Head,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        if head.root.versions.count == 0 {
            return Ok(None);
        }
        let mut cursor = Cursor::new(self.arbiter().nodes(), &head.root.versions);
        cursor.seek(&keys::versions_of(key)).await?;
        let entry = cursor.next().await?;
        let entry = entry.filter(|entry| entry.key < keys::after_versions_of(key));
        Ok(entry.map(|entry| ObjectRecord::decode(&entry.value, entry.weight)).transpose()?)
    }

    /// Returns the position of the null version of a key.
    async fn null_version(
        &self,
        head: &Head,
        key: &ObjectKey,
        current: Option<ObjectRecord>,
    ) -> Result<Option<Seq>, ServiceError> {
        let newest = match current {
            Some(current) => Some(current),
            None => self.marker(head, key).await?,
        };
        Ok(newest.and_then(
            |newest| {
                if newest.is_versioned { newest.null_at } else { Some(newest.seq) }
            },
        ))
    }

    /// Returns the current object of a key, or one of its versions.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::NoSuchVersion`], [`ServiceError::DeleteMarker`].
    pub(crate) async fn found(
        &self,
        head: &Head,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<ObjectRecord, ServiceError> {
        let current = self.record(head, key).await?;
        let Some(id) = version else {
            if let Some(current) = current {
                return Ok(current);
            }
            return Err(match self.marker(head, key).await? {
                Some(marker) => ServiceError::delete_marker(&marker, false),
                None => ServiceError::NoSuchKey,
            });
        };
        if let Some(current) = current.as_ref().filter(|current| current.version_id() == id) {
            return Ok(current.clone());
        }
        let seq = match id {
            VersionId::At(seq) => seq,
            VersionId::Null => {
                let null = self.null_version(head, key, current).await?;
                null.ok_or(ServiceError::NoSuchVersion)?
            }
        };
        let nodes = self.arbiter().nodes();
        let entry = head.root.versions.get(nodes, &keys::version(key, seq)).await?;
        let entry = entry.ok_or(ServiceError::NoSuchVersion)?;
        let record = ObjectRecord::decode(&entry.value, entry.weight)?;
        if record.version_id() != id {
            return Err(ServiceError::NoSuchVersion);
        }
        if record.kind == ObjectKind::DeleteMarker {
            return Err(ServiceError::delete_marker(&record, true));
        }
        Ok(record)
    }

    /// Returns a page of the versions of the objects of a bucket. With `after_version`, it goes on behind
    /// that version of the key `request.after`.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn list_versions(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: &ListRequest,
        after_version: Option<VersionId>,
    ) -> Result<VersionListing, ServiceError> {
        let part = Part::Prefix(&request.prefix);
        let head = self.resolve(caller, bucket, Action::ListVersions, part).await?;
        let owner = head.row.address.owner;
        let access = self.access_of(caller, &head.root, Action::ListVersions).await?;
        let has_owners = access.acls().is_some();
        // Nothing can follow a name that is beyond every key with the prefix.
        let beyond = after_prefix(request.prefix.as_bytes());
        if let (Some(after), Some(beyond)) = (&request.after, beyond)
            && after.as_bytes() >= beyond.as_ref()
        {
            return Ok(VersionListing { owner, has_owners, lines: Vec::new(), truncated: false });
        }
        let after_key = request.after.clone().and_then(|after| ObjectKey::parse(after).ok());
        let seq = match (after_version, after_key) {
            (Some(VersionId::At(seq)), _) => Some(seq),
            (Some(VersionId::Null), Some(key)) => {
                let current = self.record(&head, &key).await?;
                self.null_version(&head, &key, current).await?
            }
            _ => None,
        };
        let query = ListQuery {
            prefix: &request.prefix,
            delimiter: &request.delimiter,
            after: request.after.as_deref(),
            limit: request.limit.min(PAGE_MAX),
        };
        let trees = (&head.root.objects, &head.root.versions);
        let page = list_versions(self.arbiter().nodes(), trees, &query, seq).await?;
        Ok(VersionListing { owner, has_owners, lines: page.items, truncated: page.truncated })
    }
}
