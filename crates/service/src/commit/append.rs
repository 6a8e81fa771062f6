//! Appending to an object at the commit.

use fula_core::{
    Block,
    bucket::{Fingerprint, ObjectRecord, Seq},
    id::ObjectKey,
};

use super::{edits::Answer, versions::write, working::Working};
use crate::{error::ServiceError, objects::condition::WriteConditions};

/// An object with a body at its end, whose content was joined before the change was queued.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) key: ObjectKey,
    /// Position of the object that was joined; `None` if there was none.
    pub(crate) base: Option<Seq>,
    pub(crate) conditions: WriteConditions,
    pub(crate) record: ObjectRecord,
    /// The table of parts, and nodes and bodies that are stored with the commit.
    pub(crate) blocks: Vec<Block>,
}

impl Append {
    /// Makes the object, if the one that was joined is still the current one. Its tags may have changed.
    pub(super) async fn apply(
        &self,
        work: &mut Working<'_>,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Answer, ServiceError> {
        let newest = work.newest(&self.key).await?;
        let current = newest.current.as_ref();
        work.judge(&self.conditions, current)?;
        if current.map(|current| current.seq) != self.base {
            return Ok(Answer::JoinAgain);
        }
        let mut record = self.record.clone();
        if let Some(current) = current {
            record.tags = current.tags.clone();
        }
        record.fingerprint = fingerprint;
        work.require_bucket()?;
        work.carry(&self.blocks);
        write(work, &self.key, &newest, &mut record);
        Ok(Answer::Object(Box::new(record)))
    }
}
