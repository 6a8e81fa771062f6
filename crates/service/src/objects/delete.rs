//! Deleting objects and versions.

use fula_core::{BucketName, bucket::VersionId};

use crate::{
    auth::access::Action,
    caller::Caller,
    commit::{Answer, Change, Deleted, KeyToDelete},
    error::ServiceError,
    objects::object::DeleteKey,
    service::{Part, Service, WriteTarget},
};

impl Service {
    /// Deletes an object. Deleting an absent object succeeds unless a condition forbids it.
    ///
    /// # Errors
    /// [`ServiceError::PreconditionFailed`], [`ServiceError::NoSuchKey`] for a condition without an object.
    pub async fn delete_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: DeleteKey,
    ) -> Result<(), ServiceError> {
        self.delete_version(caller, bucket, request, None).await.map(drop)
    }

    /// Deletes an object, or removes one of its versions for good. Removing an absent version succeeds.
    ///
    /// # Errors
    /// [`ServiceError::PreconditionFailed`], [`ServiceError::NoSuchKey`] for a condition without an object.
    pub async fn delete_version(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: DeleteKey,
        version: Option<VersionId>,
    ) -> Result<Deleted, ServiceError> {
        let key = &request.key;
        let target = match version {
            None => self.resolve_for_write(caller, bucket, Action::DeleteObject, key).await?,
            Some(version) => {
                let part = Part::Version(key, version);
                let head = self.resolve(caller, bucket, Action::DeleteVersion, part).await?;
                WriteTarget { head, guessed: None }
            }
        };
        let DeleteKey { key, conditions } = request;
        self.may_compare(caller, &target.head, &key, &conditions).await?;
        let named = version.map(|version| version.to_string()).unwrap_or_default();
        let made_of = [conditions.to_bytes(), named.into_bytes()];
        let made_of: Vec<&[u8]> =
            made_of.iter().map(Vec::as_slice).take(1 + usize::from(version.is_some())).collect();
        let idempotency_key = caller.idempotency_key("delete", key.as_str(), &made_of);
        let change = Change::Delete(KeyToDelete { key, version, conditions });
        match self.change_at(caller, &target, change, idempotency_key).await? {
            Answer::Done => Ok(Deleted::Plain),
            Answer::Each(mut outcomes) if outcomes.len() == 1 => {
                outcomes.pop().unwrap_or(Ok(Deleted::Plain))
            }
            other => Err(ServiceError::bug(format!("a delete answered {other:?}"))),
        }
    }

    /// Deletes several objects in one commit. Returns one outcome for each key, in order.
    ///
    /// # Errors
    /// Errors about the request as a whole.
    pub async fn delete_objects(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        requests: Vec<DeleteKey>,
    ) -> Result<Vec<Result<(), ServiceError>>, ServiceError> {
        let requests = requests.into_iter().map(|request| (request, None)).collect();
        let outcomes = self.delete_versions(caller, bucket, requests).await?;
        Ok(outcomes.into_iter().map(|outcome| outcome.map(drop)).collect())
    }

    /// Deletes several objects or versions in one commit. Returns one outcome for each, in order.
    ///
    /// # Errors
    /// Errors about the request as a whole.
    pub async fn delete_versions(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        requests: Vec<(DeleteKey, Option<VersionId>)>,
    ) -> Result<Vec<Result<Deleted, ServiceError>>, ServiceError> {
        let head = self.resolve(caller, bucket, Action::DeleteObject, Part::Anything).await?;
        let mut allowed = Vec::with_capacity(requests.len());
        for (DeleteKey { key, conditions }, version) in requests {
            let action =
                if version.is_some() { Action::DeleteVersion } else { Action::DeleteObject };
            let may = self.authorize(caller, &head, action, Part::of(&key, version)).await;
            let may = match may {
                Ok(()) => self.may_compare(caller, &head, &key, &conditions).await,
                Err(error) => Err(error),
            };
            allowed.push(may.map(|()| KeyToDelete { key, version, conditions }));
        }
        let good: Vec<_> = allowed.iter().filter_map(|key| key.as_ref().ok().cloned()).collect();
        let mut named: Vec<Vec<u8>> = Vec::new();
        for KeyToDelete { key, version, conditions } in &good {
            named.extend([key.as_bytes().to_vec(), conditions.to_bytes()]);
            named.extend(version.map(|version| version.to_string().into_bytes()));
        }
        let named: Vec<&[u8]> = named.iter().map(Vec::as_slice).collect();
        let idempotency_key = caller.idempotency_key("delete-many", "", &named);
        let outcomes =
            match self.change(caller, &head, Change::DeleteMany(good), idempotency_key).await? {
                Answer::Each(outcomes) => outcomes,
                other => return Err(ServiceError::bug(format!("a delete answered {other:?}"))),
            };
        let mut outcomes = outcomes.into_iter();
        let outcome = |key: Result<_, ServiceError>| match key {
            Ok(_) => outcomes.next().unwrap_or(Ok(Deleted::Plain)),
            Err(error) => Err(error),
        };
        Ok(allowed.into_iter().map(outcome).collect())
    }
}
