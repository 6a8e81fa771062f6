//! What of a bucket a request is about.

use fula_core::{BucketName, ObjectKey, bucket::VersionId};

use crate::auth::access::Target;

/// The part of a bucket that an action is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// The bucket as a whole.
    Whole,
    /// Whether the bucket exists.
    Anything,
    /// Keys with a prefix.
    Prefix(&'a str),
    /// One key.
    Key(&'a ObjectKey),
    /// A version of a key.
    Version(&'a ObjectKey, VersionId),
}

impl<'a> Part<'a> {
    pub(crate) fn target(self, bucket: &'a BucketName) -> Target<'a> {
        let bucket = bucket.as_str();
        match self {
            Self::Whole => Target::Bucket(bucket),
            Self::Anything => Target::Anything(bucket),
            Self::Prefix(prefix) => Target::Prefix(bucket, prefix),
            Self::Key(key) | Self::Version(key, _) => Target::Object(bucket, key.as_str()),
        }
    }

    /// Returns a key, or a version of it.
    pub(crate) fn of(key: &'a ObjectKey, version: Option<VersionId>) -> Self {
        version.map_or(Self::Key(key), |version| Self::Version(key, version))
    }

    /// Returns the key and the version, if it is about one object.
    pub(crate) fn object(self) -> Option<(&'a ObjectKey, Option<VersionId>)> {
        match self {
            Self::Whole | Self::Anything | Self::Prefix(_) => None,
            Self::Key(key) => Some((key, None)),
            Self::Version(key, version) => Some((key, Some(version))),
        }
    }
}
