//! What is asked for, as far as access goes.

use fula_identity::Verb;

/// What is asked for; every S3 operation is one of these, on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask whether a bucket is there, and where.
    HeadBucket,
    /// List objects.
    ListObjects,
    /// Read an object, its head, or copy from it.
    GetObject,
    /// Put an object: in one piece, in parts, or by copy.
    PutObject,
    /// Delete an object.
    DeleteObject,
    /// List uploads in progress, or their parts.
    ListUploads,
    /// Create a bucket.
    CreateBucket,
    /// Delete a bucket.
    DeleteBucket,
    /// Read a bucket's policy.
    GetPolicy,
    /// Set or remove a bucket's policy.
    PutPolicy,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 10] = [
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
    ];

    /// Returns what a scope must say to allow it.
    pub fn verb(self) -> Verb {
        match self {
            Self::HeadBucket | Self::ListObjects | Self::GetObject => Verb::Read,
            // What is on its way is the business of whoever sends it.
            Self::PutObject | Self::DeleteObject | Self::ListUploads => Verb::Write,
            Self::CreateBucket | Self::DeleteBucket | Self::GetPolicy | Self::PutPolicy => {
                Verb::Admin
            }
        }
    }
}
