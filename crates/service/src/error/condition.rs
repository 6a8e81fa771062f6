//! The names of conditions.

use std::fmt;

/// The name of a condition that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionName {
    /// `If-Match`.
    IfMatch,
    /// `If-None-Match`.
    IfNoneMatch,
    /// `If-Unmodified-Since`.
    IfUnmodifiedSince,
    /// `If-Modified-Since`.
    IfModifiedSince,
    /// `x-fula-if-version`.
    BucketVersion,
}

impl fmt::Display for ConditionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IfMatch => "If-Match",
            Self::IfNoneMatch => "If-None-Match",
            Self::IfUnmodifiedSince => "If-Unmodified-Since",
            Self::IfModifiedSince => "If-Modified-Since",
            Self::BucketVersion => "x-fula-if-version",
        })
    }
}
