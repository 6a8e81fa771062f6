//! Conditions of requests, which are checked against an object's record.

use fula_core::{bucket::ObjectRecord, root::TimeMs};

use crate::error::{ConditionName, ServiceError};

/// The entity tags of a condition header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`.
    Any,
    /// These tags, without quotes.
    Of(Vec<String>),
}

impl Tags {
    fn matches(&self, record: &ObjectRecord) -> bool {
        match self {
            Self::Any => true,
            Self::Of(tags) => {
                let current = record.etag.to_string();
                tags.contains(&current)
            }
        }
    }
}

/// Conditions of a write on the object that it would replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteConditions {
    /// Value of `If-Match`.
    pub if_match: Option<Tags>,
    /// Value of `If-None-Match`.
    pub if_none_match: Option<Tags>,
}

impl WriteConditions {
    /// Returns whether there are no conditions.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// Returns the conditions as bytes. Different conditions have different bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for tags in [&self.if_match, &self.if_none_match] {
            match tags {
                None => out.push(0),
                Some(Tags::Any) => out.push(1),
                Some(Tags::Of(tags)) => {
                    out.push(2);
                    out.extend((tags.len() as u64).to_be_bytes());
                    for tag in tags {
                        out.extend((tag.len() as u64).to_be_bytes());
                        out.extend(tag.as_bytes());
                    }
                }
            }
        }
        out
    }

    /// Checks the conditions against the current object; `None` when there is none.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`] for `If-Match` on nothing, else
    /// [`ServiceError::PreconditionFailed`] (docs/semantics.md).
    pub fn judge(&self, current: Option<&ObjectRecord>) -> Result<(), ServiceError> {
        match (&self.if_match, current) {
            (Some(_), None) => return Err(ServiceError::NoSuchKey),
            (Some(tags), Some(record)) if !tags.matches(record) => {
                return Err(ServiceError::PreconditionFailed(ConditionName::IfMatch));
            }
            _ => {}
        }
        match (&self.if_none_match, current) {
            (Some(tags), Some(record)) if tags.matches(record) => {
                Err(ServiceError::PreconditionFailed(ConditionName::IfNoneMatch))
            }
            _ => Ok(()),
        }
    }
}

/// Conditions of a read, or of a copy on its source (RFC 9110 §13.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadConditions {
    /// Value of `If-Match`.
    pub if_match: Option<Tags>,
    /// Value of `If-None-Match`.
    pub if_none_match: Option<Tags>,
    /// Value of `If-Modified-Since`, in milliseconds since 1970.
    pub if_modified_since: Option<TimeMs>,
    /// Value of `If-Unmodified-Since`, in milliseconds since 1970.
    pub if_unmodified_since: Option<TimeMs>,
}

impl ReadConditions {
    /// Returns the first condition that does not hold, in order of precedence.
    fn failed(&self, record: &ObjectRecord) -> Option<ConditionName> {
        // HTTP dates have whole seconds.
        let modified = record.time / 1000;
        match (&self.if_match, self.if_unmodified_since) {
            (Some(tags), _) if !tags.matches(record) => return Some(ConditionName::IfMatch),
            (None, Some(since)) if modified > since / 1000 => {
                return Some(ConditionName::IfUnmodifiedSince);
            }
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(tags), _) if tags.matches(record) => Some(ConditionName::IfNoneMatch),
            (None, Some(since)) if modified <= since / 1000 => Some(ConditionName::IfModifiedSince),
            _ => None,
        }
    }

    /// Checks the conditions of a read.
    ///
    /// # Errors
    /// [`ServiceError::NotModified`] or [`ServiceError::PreconditionFailed`].
    pub fn judge_read(&self, record: &ObjectRecord) -> Result<(), ServiceError> {
        match self.failed(record) {
            None => Ok(()),
            Some(ConditionName::IfNoneMatch | ConditionName::IfModifiedSince) => {
                Err(ServiceError::NotModified { etag: record.etag, time_ms: record.time })
            }
            Some(name) => Err(ServiceError::PreconditionFailed(name)),
        }
    }

    /// Checks the conditions on the source of a copy, where every failure is a failed precondition.
    ///
    /// # Errors
    /// [`ServiceError::PreconditionFailed`].
    pub fn judge_source(&self, record: &ObjectRecord) -> Result<(), ServiceError> {
        self.failed(record).map_or(Ok(()), |name| Err(ServiceError::PreconditionFailed(name)))
    }
}

#[cfg(test)]
mod tests {
    use fula_core::bucket::{Attached, ETag, ObjectKind, Seq};

    use super::*;

    fn record() -> ObjectRecord {
        ObjectRecord {
            kind: ObjectKind::Object,
            size: 1,
            etag: ETag::Md5([0xab; 16]),
            checksums: Vec::new(),
            time: 10_500,
            seq: Seq::default(),
            headers: Attached::default(),
            metadata: Attached::default(),
            tags: Attached::default(),
            acl: None,
            lock: None,
            sse: None,
            class: None,
            content: None,
            parts: None,
            fingerprint: None,
            is_versioned: false,
            null_at: None,
        }
    }

    fn same() -> Tags {
        Tags::Of(vec!["00".repeat(16), "ab".repeat(16)])
    }

    fn other() -> Tags {
        Tags::Of(vec!["cd".repeat(16)])
    }

    /// Checks the status table of AWS for an absent, a matching and a different object.
    #[test]
    fn writes_are_judged_as_on_aws() {
        let record = record();
        let judge = |if_match, if_none_match, exists: bool| {
            let conditions = WriteConditions { if_match, if_none_match };
            match conditions.judge(exists.then_some(&record)) {
                Ok(()) => 200,
                Err(ServiceError::NoSuchKey) => 404,
                Err(ServiceError::PreconditionFailed(_)) => 412,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(judge(None, Some(Tags::Any), false), 200);
        assert_eq!(judge(None, Some(Tags::Any), true), 412);
        assert_eq!(judge(None, Some(same()), true), 412);
        assert_eq!(judge(None, Some(other()), true), 200);
        assert_eq!(judge(Some(same()), None, false), 404);
        assert_eq!(judge(Some(Tags::Any), None, false), 404);
        assert_eq!(judge(Some(same()), None, true), 200);
        assert_eq!(judge(Some(Tags::Any), None, true), 200);
        assert_eq!(judge(Some(other()), None, true), 412);
    }

    #[test]
    fn reads_follow_the_precedence_of_http() {
        let record = record();
        let judge = |conditions: ReadConditions| match conditions.judge_read(&record) {
            Ok(()) => 200,
            Err(ServiceError::NotModified { .. }) => 304,
            Err(ServiceError::PreconditionFailed(_)) => 412,
            Err(error) => panic!("{error}"),
        };
        let none = ReadConditions::default;
        assert_eq!(judge(none()), 200);
        assert_eq!(judge(ReadConditions { if_match: Some(other()), ..none() }), 412);
        assert_eq!(judge(ReadConditions { if_none_match: Some(same()), ..none() }), 304);
        assert_eq!(judge(ReadConditions { if_modified_since: Some(10_000), ..none() }), 304);
        assert_eq!(judge(ReadConditions { if_modified_since: Some(9_000), ..none() }), 200);
        assert_eq!(judge(ReadConditions { if_unmodified_since: Some(9_000), ..none() }), 412);
        assert_eq!(judge(ReadConditions { if_unmodified_since: Some(10_000), ..none() }), 200);
        let match_wins =
            ReadConditions { if_match: Some(same()), if_unmodified_since: Some(9_000), ..none() };
        assert_eq!(judge(match_wins.clone()), 200);
        assert!(match_wins.judge_source(&record).is_ok());
        let none_match_wins = ReadConditions {
            if_none_match: Some(other()),
            if_modified_since: Some(10_000),
            ..none()
        };
        assert_eq!(judge(none_match_wins), 200);
        let both = ReadConditions {
            if_none_match: Some(same()),
            if_modified_since: Some(9_000),
            ..none()
        };
        assert!(both.judge_source(&record).is_err());
    }
}
