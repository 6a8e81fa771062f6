//! Deletions: what is asked, and what became of delete markers.

use fula_core::{
    bucket::{Seq, VersionId},
    id::ObjectKey,
};

use crate::objects::condition::WriteConditions;

/// A key to delete.
#[derive(Clone, Debug)]
pub(crate) struct KeyToDelete {
    pub(crate) key: ObjectKey,
    /// Version to remove for good; `None` to delete the current object.
    pub(crate) version: Option<VersionId>,
    pub(crate) conditions: WriteConditions,
}

/// What a deletion did with delete markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It removed an object or a version, or there was nothing to remove.
    Plain,
    /// It made a delete marker with this id.
    MadeMarker(VersionId),
    /// It removed a delete marker.
    RemovedMarker,
}

impl Deleted {
    const PLAIN: u32 = u32::MAX;
    const MADE_NULL: u32 = u32::MAX - 1;
    const REMOVED: u32 = u32::MAX - 2;

    /// Returns the code under which a remembered answer keeps it. The version of the commit is kept beside
    /// it.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Plain => Self::PLAIN,
            Self::MadeMarker(VersionId::At(seq)) => seq.index,
            Self::MadeMarker(VersionId::Null) => Self::MADE_NULL,
            Self::RemovedMarker => Self::REMOVED,
        }
    }

    /// Returns what a code of a commit with this version stands for.
    pub(super) fn of_code(code: u32, version: u64) -> Self {
        match code {
            Self::PLAIN => Self::Plain,
            Self::MADE_NULL => Self::MadeMarker(VersionId::Null),
            Self::REMOVED => Self::RemovedMarker,
            index => Self::MadeMarker(VersionId::At(Seq { version, index })),
        }
    }
}
