//! Where the record of a write comes from.

use fula_core::{
    bucket::{Attached, ObjectRecord, VersionId},
    id::ObjectKey,
};

use super::{versions::source_of, working::Working};
use crate::{
    error::ServiceError,
    objects::{condition::ReadConditions, record::Maps},
};

/// The source of the record of a write.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The record itself, without time and position in the history.
    Record(Box<ObjectRecord>),
    /// An object of another bucket that cannot be copied. The first attempt of a retry may have found it.
    Refused(ServiceError),
    /// Another object of the same bucket, as it is at the commit.
    SameBucket {
        key: ObjectKey,
        /// Version of the source; `None` for the current object.
        version: Option<VersionId>,
        conditions: ReadConditions,
        replace: Box<Replacement>,
        /// Whether the copy has to be encrypted. It carries the key of its source, or has none.
        is_encrypted: bool,
    },
}

/// What a copied record does not have from its source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replacement {
    /// Headers and metadata, if they are replaced. The tags among them do not count.
    pub(crate) facts: Option<Maps>,
    /// The tags, if they are replaced.
    pub(crate) tags: Option<Attached>,
    /// The access control list, which is always replaced.
    pub(crate) acl: Option<String>,
}

impl Replacement {
    pub(crate) fn apply(&self, record: &mut ObjectRecord) {
        if let Some(maps) = self.facts.clone() {
            (record.headers, record.metadata) = (maps.headers, maps.metadata);
        }
        if let Some(tags) = self.tags.clone() {
            record.tags = tags;
        }
        record.acl.clone_from(&self.acl);
    }
}

impl Source {
    /// Returns the record to write; `None` if the content has to be read and stored again.
    pub(super) async fn record(
        &self,
        work: &Working<'_>,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        match self {
            Self::Record(record) => Ok(Some(ObjectRecord::clone(record))),
            Self::Refused(error) => Err(error.clone()),
            Self::SameBucket { key, version, conditions, replace, is_encrypted } => {
                let mut record = source_of(work, key, *version).await?;
                conditions.judge_source(&record)?;
                if record.sse.is_some() != *is_encrypted {
                    return Ok(None);
                }
                replace.apply(&mut record);
                record.fingerprint = None;
                Ok(Some(record))
            }
        }
    }
}
