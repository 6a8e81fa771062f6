//! Renaming objects.

use fula_core::{BucketName, ObjectKey, bucket::ObjectRecord};

use crate::{
    auth::access::{Action, Property, Which},
    caller::Caller,
    commit::Change,
    error::ServiceError,
    objects::condition::{ReadConditions, WriteConditions},
    service::{Part, Service, WriteTarget},
};

/// A request to give an object another key.
#[derive(Clone, Debug)]
pub struct RenameRequest {
    /// Key of the object.
    pub from: ObjectKey,
    /// New key of the object.
    pub to: ObjectKey,
    /// Conditions on the object.
    pub source: ReadConditions,
    /// Conditions on the object that is replaced.
    pub conditions: WriteConditions,
}

impl Service {
    /// Gives an object another key, in one commit. No content is read or written.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::PreconditionFailed`];
    /// [`ServiceError::InvalidRequest`] for a key that stays the same.
    pub async fn rename_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: RenameRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        let RenameRequest { from, to, source, conditions } = request;
        if from == to {
            let text = "The source and the destination of a rename must differ";
            return Err(ServiceError::InvalidRequest(text.to_owned()));
        }
        let head = self.resolve(caller, bucket, Action::DeleteObject, Part::Key(&from)).await?;
        self.authorize(caller, &head, Action::PutObject, Part::Key(&to)).await?;
        self.may_compare(caller, &head, &to, &conditions).await?;
        // What is renamed could be read under its new key, with its tags.
        let read_tags = Action::GetProperty(Property::Tags, Which::Current);
        for action in [Action::GetObject, read_tags] {
            self.authorize(caller, &head, action, Part::Key(&from)).await?;
        }
        let made_of: [&[u8]; 3] =
            [from.as_bytes(), &format!("{source:?}").into_bytes(), &conditions.to_bytes()];
        let idempotency_key = caller.idempotency_key("rename", to.as_str(), &made_of);
        let change = Change::Rename { from, to, source, conditions };
        self.write(caller, &WriteTarget { head, guessed: None }, change, idempotency_key).await
    }
}
