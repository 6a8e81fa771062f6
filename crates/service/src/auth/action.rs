//! The actions that authorization tells apart.

use fula_identity::Verb;

/// An action. Every S3 operation is one of these, on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Asks whether a bucket exists, and where.
    HeadBucket,
    /// Lists objects.
    ListObjects,
    /// Reads an object or its metadata, or copies from it.
    GetObject,
    /// Puts an object in one piece, in parts, or by copy.
    PutObject,
    /// Deletes an object.
    DeleteObject,
    /// Lists uploads in progress, or their parts.
    ListUploads,
    /// Creates a bucket.
    CreateBucket,
    /// Deletes a bucket.
    DeleteBucket,
    /// Reads the policy of a bucket.
    GetPolicy,
    /// Sets or removes the policy of a bucket.
    PutPolicy,
    /// Reads a setting of a bucket other than its policy.
    GetSettings,
    /// Sets or removes a setting of a bucket other than its policy.
    PutSettings,
    /// Reads the tags, the ACL, the attributes or an older version of an object.
    GetProperties,
    /// Replaces the tags or the ACL of an object.
    PutProperties,
    /// Lists the versions of objects.
    ListVersions,
    /// Reads everything that a bucket has, with uploads in progress and its policy.
    ExportBucket,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 16] = [
        Self::HeadBucket,
        Self::ListObjects,
        Self::GetObject,
        Self::PutObject,
        Self::DeleteObject,
        Self::ListUploads,
        Self::CreateBucket,
        Self::DeleteBucket,
        Self::GetPolicy,
        Self::PutPolicy,
        Self::GetSettings,
        Self::PutSettings,
        Self::GetProperties,
        Self::PutProperties,
        Self::ListVersions,
        Self::ExportBucket,
    ];

    /// Returns the verb that a scope must have to allow the action.
    pub fn verb(self) -> Verb {
        match self {
            Self::HeadBucket
            | Self::ListObjects
            | Self::GetObject
            | Self::GetSettings
            | Self::GetProperties
            | Self::ListVersions => Verb::Read,
            // Uploads in progress concern only those who may write.
            Self::PutObject | Self::DeleteObject | Self::ListUploads | Self::PutProperties => {
                Verb::Write
            }
            Self::CreateBucket
            | Self::DeleteBucket
            | Self::GetPolicy
            | Self::PutPolicy
            | Self::PutSettings
            | Self::ExportBucket => Verb::Admin,
        }
    }
}
