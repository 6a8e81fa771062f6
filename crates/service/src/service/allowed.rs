//! What the settings of a bucket allow the caller.

use std::sync::Arc;

use fula_core::{
    ObjectKey,
    bucket::{BucketRoot, ObjectRecord, TextMap, VersionId},
};

use super::{Freshness, Part, Service};
use crate::{
    arbiter::Head,
    auth::{
        access::{self, Action, Holder},
        acl::{self, AclRequest},
        bucket_policy::BucketAccess,
        request::RequestValues,
    },
    caller::Caller,
    error::ServiceError,
};

impl Service {
    /// Decides whether the caller may do `action` to a part of the bucket of `head`.
    pub(crate) async fn authorize(
        &self,
        caller: &Caller,
        head: &Head,
        action: Action,
        part: Part<'_>,
    ) -> Result<(), ServiceError> {
        let access = self.access_of(caller, &head.root, action).await?;
        let (owner, object) = (head.row.address.owner, part.object());
        let needs_list = access.acls().is_some() && acl::needs_object(action);
        let (mut tags, mut list) = (None, None);
        if let Some((key, version)) = object
            && (needs_list || access.needs_tags())
        {
            let found = Box::pin(self.object_of(caller, head, key, version)).await?;
            list = found.as_ref().map(|(record, _)| access.acl_of(record.acl.as_deref(), owner));
            tags = found.map(|(_, tags)| tags);
        }
        let (time, version) = (self.arbiter().time(), object.and_then(|(_, version)| version));
        let values = RequestValues { caller, owner, time, version, tags };
        let holder = Holder { owner, access: &access, object: list.as_ref() };
        let target = part.target(&head.row.address.name);
        access::authorize(caller.identity.as_ref(), action, target, Some(holder), &values)
    }

    /// Returns what the settings of a bucket say about who may do what.
    pub(crate) async fn access_of(
        &self,
        caller: &Caller,
        root: &BucketRoot,
        action: Action,
    ) -> Result<Arc<BucketAccess>, ServiceError> {
        let Some(settings) = root.settings else { return Ok(Arc::clone(&self.no_access)) };
        if let Some(access) = self.access.get(&settings) {
            return Ok(access);
        }
        // Most requests find it in memory. The future of others is not part of theirs.
        let read = BucketAccess::of_root(self.arbiter().nodes().blocks().as_ref(), root);
        let read = Box::pin(read);
        let access = match Freshness::of(action) {
            Freshness::MayBeStale => read.await?,
            Freshness::Newest => self.before_write(caller, "block store", read).await?,
        };
        let access = Arc::new(access);
        self.access.insert(settings, Arc::clone(&access));
        Ok(access)
    }

    /// Returns an object or a version, and its tags, if there is one.
    async fn object_of(
        &self,
        caller: &Caller,
        head: &Head,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<Option<(ObjectRecord, TextMap)>, ServiceError> {
        let read = async {
            match self.found(head, key, version).await {
                Ok(record) => {
                    let tags = self.attached(&record.tags).await?;
                    Ok(Some((record, tags)))
                }
                Err(
                    ServiceError::NoSuchKey
                    | ServiceError::NoSuchVersion
                    | ServiceError::DeleteMarker { .. },
                ) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.before_write(caller, "block store", read).await
    }

    /// Returns the stored access control list of an object that the caller puts.
    ///
    /// # Errors
    /// Those of [`acl::object_acl`].
    pub(crate) async fn acl_of_write(
        &self,
        caller: &Caller,
        head: &Head,
        asked: Option<&AclRequest>,
    ) -> Result<Option<String>, ServiceError> {
        let access = self.access_of(caller, &head.root, Action::PutObject).await?;
        let writer = caller.identity.as_ref().map(|identity| identity.owner);
        acl::object_acl(access.acls(), head.row.address.owner, writer, asked)
    }
}
