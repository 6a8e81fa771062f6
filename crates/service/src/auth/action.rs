//! The actions that authorization tells apart, and their names in policies.

use fula_identity::Verb;

use super::policy::ActionId;

/// An action. Every S3 operation is one of these, on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Asks whether a bucket exists.
    HeadBucket,
    /// Asks where a bucket is.
    GetLocation,
    /// Lists objects.
    ListObjects,
    /// Reads an object or its metadata, or copies from it.
    GetObject,
    /// Reads a version of an object, or copies from it.
    GetVersion,
    /// Puts an object in one piece, in parts, or by copy.
    PutObject,
    /// Deletes an object.
    DeleteObject,
    /// Removes a version of an object for good.
    DeleteVersion,
    /// Lists uploads in progress.
    ListUploads,
    /// Lists the parts of an upload.
    ListParts,
    /// Ends an upload without an object.
    AbortUpload,
    /// Creates a bucket.
    CreateBucket,
    /// Deletes a bucket.
    DeleteBucket,
    /// Reads the policy of a bucket.
    GetPolicy,
    /// Asks whether the policy of a bucket makes it public.
    GetPolicyStatus,
    /// Sets the policy of a bucket.
    PutPolicy,
    /// Removes the policy of a bucket.
    DeletePolicy,
    /// Reads a setting of a bucket other than its policy.
    GetSetting(Setting),
    /// Sets or removes a setting of a bucket other than its policy.
    PutSetting(Setting),
    /// Reads what an object, or one of its versions, has beside its content.
    GetProperty(Property, Which),
    /// Replaces it.
    PutProperty(Property, Which),
    /// Removes the tags of an object or of one of its versions.
    DeleteTags(Which),
    /// Lists the versions of objects.
    ListVersions,
    /// Reads everything that a bucket has, with uploads in progress and its policy.
    ExportBucket,
}

/// A setting of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as on AWS")]
pub enum Setting {
    Abac,
    Accelerate,
    Acl,
    Analytics,
    Cors,
    Encryption,
    IntelligentTiering,
    Inventory,
    Lifecycle,
    Logging,
    MetadataTable,
    Metrics,
    Notification,
    ObjectLock,
    Ownership,
    PublicAccess,
    Replication,
    RequestPayment,
    Tagging,
    Versioning,
    Website,
}

impl Setting {
    /// All settings.
    pub const ALL: [Self; 21] = [
        Self::Abac,
        Self::Accelerate,
        Self::Acl,
        Self::Analytics,
        Self::Cors,
        Self::Encryption,
        Self::IntelligentTiering,
        Self::Inventory,
        Self::Lifecycle,
        Self::Logging,
        Self::MetadataTable,
        Self::Metrics,
        Self::Notification,
        Self::ObjectLock,
        Self::Ownership,
        Self::PublicAccess,
        Self::Replication,
        Self::RequestPayment,
        Self::Tagging,
        Self::Versioning,
        Self::Website,
    ];

    /// Returns the names of the actions that read and change it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Abac => ("s3:GetBucketAbac", "s3:PutBucketAbac"),
            Self::Accelerate => ("s3:GetAccelerateConfiguration", "s3:PutAccelerateConfiguration"),
            Self::Acl => ("s3:GetBucketAcl", "s3:PutBucketAcl"),
            Self::Analytics => ("s3:GetAnalyticsConfiguration", "s3:PutAnalyticsConfiguration"),
            Self::Cors => ("s3:GetBucketCORS", "s3:PutBucketCORS"),
            Self::Encryption => ("s3:GetEncryptionConfiguration", "s3:PutEncryptionConfiguration"),
            Self::IntelligentTiering => {
                ("s3:GetIntelligentTieringConfiguration", "s3:PutIntelligentTieringConfiguration")
            }
            Self::Inventory => ("s3:GetInventoryConfiguration", "s3:PutInventoryConfiguration"),
            Self::Lifecycle => ("s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
            Self::Logging => ("s3:GetBucketLogging", "s3:PutBucketLogging"),
            Self::MetadataTable => (
                "s3:GetBucketMetadataTableConfiguration",
                "s3:CreateBucketMetadataTableConfiguration",
            ),
            Self::Metrics => ("s3:GetMetricsConfiguration", "s3:PutMetricsConfiguration"),
            Self::Notification => ("s3:GetBucketNotification", "s3:PutBucketNotification"),
            Self::ObjectLock => {
                ("s3:GetBucketObjectLockConfiguration", "s3:PutBucketObjectLockConfiguration")
            }
            Self::Ownership => ("s3:GetBucketOwnershipControls", "s3:PutBucketOwnershipControls"),
            Self::PublicAccess => {
                ("s3:GetBucketPublicAccessBlock", "s3:PutBucketPublicAccessBlock")
            }
            Self::Replication => {
                ("s3:GetReplicationConfiguration", "s3:PutReplicationConfiguration")
            }
            Self::RequestPayment => ("s3:GetBucketRequestPayment", "s3:PutBucketRequestPayment"),
            Self::Tagging => ("s3:GetBucketTagging", "s3:PutBucketTagging"),
            Self::Versioning => ("s3:GetBucketVersioning", "s3:PutBucketVersioning"),
            // It can only be removed.
            Self::Website => ("s3:GetBucketWebsite", "s3:DeleteBucketWebsite"),
        }
    }
}

/// What an object has beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// Its tags.
    Tags,
    /// Its access control list.
    Acl,
    /// Its attributes, which can only be read.
    Attributes,
}

/// Which object an action is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The current one.
    Current,
    /// A version that the request names.
    Version,
}

impl Which {
    /// Returns which object a request is about that may name a version.
    pub fn of<T>(version: Option<T>) -> Self {
        if version.is_some() { Self::Version } else { Self::Current }
    }
}

impl Action {
    /// Returns all actions.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::HeadBucket,
            Self::GetLocation,
            Self::ListObjects,
            Self::GetObject,
            Self::GetVersion,
            Self::PutObject,
            Self::DeleteObject,
            Self::DeleteVersion,
            Self::ListUploads,
            Self::ListParts,
            Self::AbortUpload,
            Self::CreateBucket,
            Self::DeleteBucket,
            Self::GetPolicy,
            Self::GetPolicyStatus,
            Self::PutPolicy,
            Self::DeletePolicy,
            Self::ListVersions,
            Self::ExportBucket,
        ];
        all.extend(Setting::ALL.map(Self::GetSetting));
        all.extend(Setting::ALL.map(Self::PutSetting));
        for which in [Which::Current, Which::Version] {
            let properties = [Property::Tags, Property::Acl, Property::Attributes];
            all.extend(properties.map(|property| Self::GetProperty(property, which)));
            let properties = [Property::Tags, Property::Acl];
            all.extend(properties.map(|property| Self::PutProperty(property, which)));
            all.push(Self::DeleteTags(which));
        }
        all
    }

    /// Returns the name of the action in policies, as on AWS.
    pub fn name(self) -> &'static str {
        use Property::{Acl, Attributes, Tags};
        use Which::{Current, Version};
        match self {
            Self::HeadBucket | Self::ListObjects => "s3:ListBucket",
            Self::GetLocation => "s3:GetBucketLocation",
            Self::GetObject => "s3:GetObject",
            Self::GetVersion => "s3:GetObjectVersion",
            Self::PutObject => "s3:PutObject",
            Self::DeleteObject => "s3:DeleteObject",
            Self::DeleteVersion => "s3:DeleteObjectVersion",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::ListParts => "s3:ListMultipartUploadParts",
            Self::AbortUpload => "s3:AbortMultipartUpload",
            Self::CreateBucket => "s3:CreateBucket",
            Self::DeleteBucket => "s3:DeleteBucket",
            // An export contains the policy, and a caller who may not read the policy gets no export.
            Self::GetPolicy | Self::ExportBucket => "s3:GetBucketPolicy",
            Self::GetPolicyStatus => "s3:GetBucketPolicyStatus",
            Self::PutPolicy => "s3:PutBucketPolicy",
            Self::DeletePolicy => "s3:DeleteBucketPolicy",
            Self::GetSetting(setting) => setting.names().0,
            Self::PutSetting(setting) => setting.names().1,
            Self::GetProperty(Tags, Current) => "s3:GetObjectTagging",
            Self::GetProperty(Tags, Version) => "s3:GetObjectVersionTagging",
            Self::GetProperty(Acl, Current) => "s3:GetObjectAcl",
            Self::GetProperty(Acl, Version) => "s3:GetObjectVersionAcl",
            Self::GetProperty(Attributes, Current) => "s3:GetObjectAttributes",
            Self::GetProperty(Attributes, Version) => "s3:GetObjectVersionAttributes",
            Self::PutProperty(Tags, Current) => "s3:PutObjectTagging",
            Self::PutProperty(Tags, Version) => "s3:PutObjectVersionTagging",
            Self::PutProperty(Acl | Attributes, Current) => "s3:PutObjectAcl",
            Self::PutProperty(Acl | Attributes, Version) => "s3:PutObjectVersionAcl",
            Self::DeleteTags(Current) => "s3:DeleteObjectTagging",
            Self::DeleteTags(Version) => "s3:DeleteObjectVersionTagging",
            Self::ListVersions => "s3:ListBucketVersions",
        }
    }

    /// Returns the action in policies. Every name is one that policies know, which a test shows.
    pub fn id(self) -> ActionId {
        ActionId::find(self.name()).expect("policies know every action")
    }

    /// Returns whether the action is about the policy, which the owner of the bucket alone can always read,
    /// set and remove. An export contains it.
    pub(super) fn is_about_policy(self) -> bool {
        matches!(self, Self::GetPolicy | Self::PutPolicy | Self::DeletePolicy | Self::ExportBucket)
    }

    /// Returns the verb that a scope must have to allow the action.
    pub fn verb(self) -> Verb {
        match self {
            Self::HeadBucket
            | Self::GetLocation
            | Self::ListObjects
            | Self::GetObject
            | Self::GetVersion
            | Self::GetSetting(_)
            | Self::GetProperty(..)
            | Self::ListVersions => Verb::Read,
            // Uploads in progress concern only those who may write.
            Self::PutObject
            | Self::DeleteObject
            | Self::DeleteVersion
            | Self::ListUploads
            | Self::ListParts
            | Self::AbortUpload
            | Self::PutProperty(..)
            | Self::DeleteTags(_) => Verb::Write,
            Self::CreateBucket
            | Self::DeleteBucket
            | Self::GetPolicy
            | Self::GetPolicyStatus
            | Self::PutPolicy
            | Self::DeletePolicy
            | Self::PutSetting(_)
            | Self::ExportBucket => Verb::Admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_know_every_action() {
        for action in Action::all() {
            assert!(ActionId::find(action.name()).is_some(), "{action:?}");
        }
    }
}
