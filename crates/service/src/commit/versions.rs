//! How writes and deletions make, keep and remove versions (docs/adr/0045).
//!
//! Everything that a change needs is read first; then its edits cannot fail.

use fula_core::{
    bucket::{Attached, ETag, Fingerprint, ObjectKind, ObjectRecord, Seq, VersionId, Versioning},
    id::ObjectKey,
};

use super::{
    deleted::{Deleted, KeyToDelete},
    edits::Answer,
    working::{Newest, Working},
};
use crate::{
    error::ServiceError,
    objects::{
        condition::{ReadConditions, WriteConditions},
        record::{Maps, bare_record},
    },
};

/// What replaces something that an object has beside its content.
#[derive(Clone, Debug)]
pub(crate) enum Amendment {
    Tags(Attached),
    /// A stored access control list; `None` lets only the owner of the bucket in.
    Acl(Option<String>),
}

impl Amendment {
    pub(super) fn apply(&self, record: &mut ObjectRecord) {
        match self {
            Self::Tags(tags) => record.tags.clone_from(tags),
            Self::Acl(acl) => record.acl.clone_from(acl),
        }
    }
}

/// Makes a record the current object instead of `newest`. Gives it its time, its position in the history and
/// what makes it a version.
pub(super) fn write(
    work: &mut Working<'_>,
    key: &ObjectKey,
    newest: &Newest,
    record: &mut ObjectRecord,
) {
    if let Some(current) = &newest.current {
        work.displace(key.as_str(), current);
    }
    (record.is_versioned, record.null_at) = keep(work, key, newest);
    record.time = work.time();
    record.seq = work.seq();
    work.put_object(key, record);
}

/// Deletes the current object. Where the bucket keeps versions, a delete marker takes its place.
pub(super) fn remove(work: &mut Working<'_>, key: &ObjectKey, newest: &Newest) -> Deleted {
    if let Some(current) = &newest.current {
        work.displace(key.as_str(), current);
    }
    let (is_versioned, null_at) = keep(work, key, newest);
    if newest.current.is_some() {
        work.remove_object(key);
    }
    if work.versioning().is_none() {
        return Deleted::Plain;
    }
    let marker = ObjectRecord {
        kind: ObjectKind::DeleteMarker,
        etag: ETag::Md5([0; 16]),
        time: work.time(),
        seq: work.seq(),
        is_versioned,
        null_at,
        ..bare_record(Maps::default(), None)
    };
    work.put_marker(key, &marker);
    Deleted::MadeMarker(marker.version_id())
}

/// Moves the current object to the older versions where it is kept, and removes the null version where a new
/// one takes its place. Returns whether the new version has an id of its own, and where an older null
/// version of the key is.
fn keep(work: &mut Working<'_>, key: &ObjectKey, newest: &Newest) -> (bool, Option<Seq>) {
    let Some(versioning) = work.versioning() else { return (false, None) };
    let is_enabled = versioning == Versioning::Enabled;
    let null = newest.null();
    match &newest.current {
        Some(current) if is_enabled || current.is_versioned => {
            work.put_version(key, &ObjectRecord { null_at: None, ..current.clone() });
        }
        _ => {}
    }
    if is_enabled {
        return (true, null);
    }
    // The current object is replaced where it lies.
    if let Some(seq) = null
        && newest.current.as_ref().is_none_or(|current| current.seq != seq)
    {
        work.remove_version(key, seq);
    }
    (false, None)
}

/// A version that was found, and whether it is the newest of its key.
struct FoundVersion {
    record: ObjectRecord,
    is_current: bool,
    is_head: bool,
}

/// Returns a version of a key.
async fn find(
    work: &Working<'_>,
    key: &ObjectKey,
    newest: &Newest,
    id: VersionId,
) -> Result<Option<FoundVersion>, ServiceError> {
    let seq = match id {
        VersionId::At(seq) => seq,
        VersionId::Null => match newest.null() {
            Some(seq) => seq,
            None => return Ok(None),
        },
    };
    let is_it = |record: &&ObjectRecord| record.seq == seq && record.version_id() == id;
    if let Some(record) = newest.current.as_ref().filter(is_it) {
        return Ok(Some(FoundVersion { record: record.clone(), is_current: true, is_head: true }));
    }
    let found = work.version_at(key, seq).await?.filter(|record| is_it(&record));
    let is_head =
        newest.current.is_none() && newest.marker.as_ref().is_some_and(|marker| marker.seq == seq);
    Ok(found.map(|record| FoundVersion { record, is_current: false, is_head }))
}

/// Removes one version of a key for good. The version before the newest one becomes the newest.
pub(super) async fn remove_version(
    work: &mut Working<'_>,
    key: &ObjectKey,
    id: VersionId,
) -> Result<Deleted, ServiceError> {
    let newest = work.newest(key).await?;
    let Some(found) = find(work, key, &newest, id).await? else { return Ok(Deleted::Plain) };
    let seq = found.record.seq;
    let next = if found.is_head { work.version_before(key, seq).await? } else { None };
    let null = newest.null().filter(|null| *null != seq);
    if found.is_current {
        work.displace(key.as_str(), &found.record);
        work.remove_object(key);
    } else {
        work.remove_version(key, seq);
    }
    if let Some(next) = next {
        become_head(work, key, next, null);
    } else if !found.is_head && id == VersionId::Null {
        // The newest version still names the place of the null version.
        let head = newest.head().cloned();
        if let Some(head) = head {
            let head = ObjectRecord { null_at: None, ..head };
            if newest.current.is_some() {
                work.put_object(key, &head);
            } else {
                work.put_version(key, &head);
            }
        }
    }
    let is_marker = found.record.kind == ObjectKind::DeleteMarker;
    Ok(if is_marker { Deleted::RemovedMarker } else { Deleted::Plain })
}

/// Makes an older version the newest one of its key.
fn become_head(work: &mut Working<'_>, key: &ObjectKey, record: ObjectRecord, null: Option<Seq>) {
    let null_at = null.filter(|null| *null != record.seq);
    let head = ObjectRecord { null_at, ..record };
    if head.kind == ObjectKind::DeleteMarker {
        work.put_version(key, &head);
    } else {
        work.remove_version(key, head.seq);
        work.put_object(key, &head);
    }
}

/// Replaces something that an object or one of its versions has beside its content. Returns what is remembered of
/// the record: which version it is.
pub(super) async fn amend(
    work: &mut Working<'_>,
    key: &ObjectKey,
    version: Option<VersionId>,
    amendment: &Amendment,
) -> Result<ObjectRecord, ServiceError> {
    let (mut record, is_current) = object_or_version(work, key, version).await?;
    amendment.apply(&mut record);
    if is_current {
        work.put_object(key, &record);
    } else {
        work.put_version(key, &record);
    }
    let ObjectRecord { seq, is_versioned, content, etag, .. } = record;
    Ok(ObjectRecord { seq, is_versioned, content, etag, ..bare_record(Maps::default(), None) })
}

/// Gives an object another key. Its content, headers and tags stay.
pub(super) async fn rename(
    work: &mut Working<'_>,
    from: &ObjectKey,
    to: &ObjectKey,
    (source, conditions): (&ReadConditions, &WriteConditions),
    fingerprint: Option<Fingerprint>,
) -> Result<ObjectRecord, ServiceError> {
    let (old, replaced) = (work.newest(from).await?, work.newest(to).await?);
    work.judge(conditions, replaced.current.as_ref())?;
    let mut record = old.current.clone().ok_or(ServiceError::NoSuchKey)?;
    source.judge_source(&record)?;
    // Where the bucket keeps versions, the object stays as one under its old key.
    let freed = work.freed_by_replacing(replaced.current.as_ref());
    let freed = freed.saturating_add(work.freed_by_replacing(Some(&record)));
    work.take_room(record.size, freed)?;
    record.fingerprint = fingerprint;
    write(work, to, &replaced, &mut record);
    remove(work, from, &old);
    Ok(record)
}

/// Returns the object or the version that is copied.
pub(super) async fn source_of(
    work: &Working<'_>,
    key: &ObjectKey,
    version: Option<VersionId>,
) -> Result<ObjectRecord, ServiceError> {
    Ok(object_or_version(work, key, version).await?.0)
}

/// Returns an object or one of its versions that is no delete marker, and whether it is current.
async fn object_or_version(
    work: &Working<'_>,
    key: &ObjectKey,
    version: Option<VersionId>,
) -> Result<(ObjectRecord, bool), ServiceError> {
    let newest = work.newest(key).await?;
    let Some(id) = version else {
        return Ok((newest.current.ok_or(ServiceError::NoSuchKey)?, true));
    };
    let found = find(work, key, &newest, id).await?.ok_or(ServiceError::NoSuchVersion)?;
    if found.record.kind == ObjectKind::DeleteMarker {
        return Err(ServiceError::delete_marker(&found.record, true));
    }
    Ok((found.record, found.is_current))
}

/// Removes the objects whose conditions hold. All conditions are checked before the first is removed.
pub(super) async fn delete_many(
    work: &mut Working<'_>,
    keys: &[KeyToDelete],
) -> Result<Answer, ServiceError> {
    work.require_bucket()?;
    let mut outcomes = Vec::with_capacity(keys.len());
    let mut allowed = Vec::new();
    for (index, delete) in keys.iter().enumerate() {
        let newest = work.newest(&delete.key).await?;
        let outcome = work.judge(&delete.conditions, newest.current.as_ref());
        if outcome.is_ok() {
            allowed.push((index, newest));
        }
        outcomes.push(outcome.map(|()| Deleted::Plain));
    }
    if work.versioning().is_none() {
        for (index, newest) in allowed {
            // The null version of an object in such a bucket is the object itself.
            if matches!(keys[index].version, None | Some(VersionId::Null)) {
                remove(work, &keys[index].key, &newest);
            }
        }
        return Ok(Answer::Each(outcomes));
    }
    // Versions of one key may be removed one after another, so each sees the state that the last one left.
    let mut trial = work.clone();
    for (index, _) in allowed {
        let KeyToDelete { key, version, .. } = &keys[index];
        outcomes[index] = Ok(if let Some(id) = version {
            remove_version(&mut trial, key, *id).await?
        } else {
            let newest = trial.newest(key).await?;
            remove(&mut trial, key, &newest)
        });
    }
    *work = trial;
    Ok(Answer::Each(outcomes))
}
