//! Replays: a retry gets the answer of the first attempt, from any master.
//!
//! A write with an idempotency key is looked up before it is examined: first in the record of the current
//! object, then among the remembered outcomes (docs/adr/0006). Rounds that add outcomes also sweep a few
//! expired ones, so the number of outcomes is bounded by the rate of writes.

use bytes::Bytes;
use fula_core::{
    bucket::{ObjectRecord, Recent, RecentOutcome, VersionId, keys},
    tree::Cursor,
};

use super::{deleted::Deleted, edits::Answer, working::Working};
use crate::{
    caller::IdempotencyKey,
    error::{ConditionName, ServiceError},
    limits::is_recent_expired,
};

/// Number of entries that a sweep visits for each entry added. It is greater than one, so that the sweep
/// always catches up.
const SWEEP_FACTOR: usize = 2;

/// A result, and the version of the root that it was published with.
pub(super) type Remembered = (Result<Answer, ServiceError>, u64);

/// Refusals that are remembered, with their stored codes.
const REFUSALS: [(u8, ServiceError); 12] = [
    (1, ServiceError::NoSuchKey),
    (2, ServiceError::PreconditionFailed(ConditionName::IfMatch)),
    (3, ServiceError::PreconditionFailed(ConditionName::IfNoneMatch)),
    (4, ServiceError::PreconditionFailed(ConditionName::IfUnmodifiedSince)),
    (5, ServiceError::PreconditionFailed(ConditionName::IfModifiedSince)),
    (6, ServiceError::PreconditionFailed(ConditionName::BucketVersion)),
    (7, ServiceError::NoSuchUpload),
    (8, ServiceError::BucketAlreadyOwned),
    (9, ServiceError::BucketNotEmpty),
    (10, ServiceError::NoSuchBucket),
    (11, ServiceError::NoSuchVersion),
    // Only a marker that the request names is refused. Its time is not remembered.
    (12, ServiceError::DeleteMarker { id: VersionId::Null, time_ms: 0, is_named: true }),
];

/// Code of a change that was refused for another reason than those of [`REFUSALS`], in a commit whose other changes
/// were carried out.
const REFUSED_OTHERWISE: u8 = 255;

fn code_of(refusal: &ServiceError) -> Option<u8> {
    // The key of the commit that the refusal was about is not stored.
    if let ServiceError::InCommit { error, .. } = refusal {
        return code_of(error);
    }
    let same = |known: &ServiceError| match (known, refusal) {
        (ServiceError::PreconditionFailed(a), ServiceError::PreconditionFailed(b)) => a == b,
        (known, refusal) => std::mem::discriminant(known) == std::mem::discriminant(refusal),
    };
    REFUSALS.iter().find(|(_, known)| same(known)).map(|(code, _)| *code)
}

fn refusal_of(code: u8) -> ServiceError {
    if code == REFUSED_OTHERWISE {
        let text = "this change was refused before, for a reason that is not remembered; send it in a new request";
        return ServiceError::InvalidRequest(text.to_owned());
    }
    let found = REFUSALS.iter().find(|(known, _)| *known == code);
    // A newer program may have stored a code that is unknown here. A change that it refused must not be
    // carried out.
    found.map_or(ServiceError::bug(format!("refused with code {code}")), |(_, e)| e.clone())
}

fn answer_of(outcome: RecentOutcome, version: u64) -> Result<Answer, ServiceError> {
    match outcome {
        RecentOutcome::Done => Ok(Answer::Done),
        RecentOutcome::Stored(record) => Ok(Answer::Object(record)),
        RecentOutcome::Upload(id) => Ok(Answer::Upload(id)),
        RecentOutcome::Refused(code) => Err(refusal_of(code)),
        RecentOutcome::Each { codes, markers } => {
            let mut markers = markers.as_chunks().0.iter();
            let mut each = |code: &u8| {
                let marker = markers.next().copied().map(u32::from_be_bytes);
                let deleted =
                    marker.map_or(Deleted::Plain, |marker| Deleted::of_code(marker, version));
                if *code == 0 { Ok(deleted) } else { Err(refusal_of(*code)) }
            };
            Ok(Answer::Each(codes.iter().map(&mut each).collect()))
        }
    }
}

/// Returns the outcome to remember; `None` when the result is not an outcome, or is remembered otherwise.
fn outcome_of(result: &Result<Answer, ServiceError>, is_retry: bool) -> Option<RecentOutcome> {
    match result {
        Ok(Answer::Done) => Some(RecentOutcome::Done),
        Ok(Answer::Upload(id)) => Some(RecentOutcome::Upload(*id)),
        Ok(Answer::Amended(record)) => Some(RecentOutcome::Stored(record.clone())),
        Ok(Answer::Each(results)) => {
            let code = |result: &Result<Deleted, ServiceError>| match result {
                Ok(_) => Some(0),
                Err(refusal) => code_of(refusal),
            };
            let codes: Option<Vec<u8>> = results.iter().map(code).collect();
            let deleted = results.iter().map(|result| match result {
                Ok(deleted) => *deleted,
                Err(_) => Deleted::Plain,
            });
            let is_plain = deleted.clone().all(|deleted| deleted == Deleted::Plain);
            let markers: Vec<u8> =
                deleted.flat_map(|deleted| deleted.code().to_be_bytes()).collect();
            let markers = if is_plain { Bytes::new() } else { Bytes::from(markers) };
            codes.map(|codes| RecentOutcome::Each { codes: Bytes::from(codes), markers })
        }
        Ok(Answer::Committed(results)) if results.iter().all(Result::is_ok) => {
            Some(RecentOutcome::Done)
        }
        Ok(Answer::Committed(results)) => {
            let code = |result: &Result<_, ServiceError>| match result {
                Ok(_) => 0,
                Err(refusal) => code_of(refusal).unwrap_or(REFUSED_OTHERWISE),
            };
            let codes = results.iter().map(code).collect();
            Some(RecentOutcome::Each { codes, markers: Bytes::new() })
        }
        // The first attempt may still be under way, and must not succeed after this refusal.
        Err(refusal) if is_retry => code_of(refusal).map(RecentOutcome::Refused),
        // The record of an object remembers its write, and the header of an upload its completion. A
        // completion that must be joined again is not an outcome.
        Ok(Answer::Object(_) | Answer::JoinAgain | Answer::AllowAgain) | Err(_) => None,
    }
}

impl Working<'_> {
    /// Returns the remembered result of this write.
    pub(super) async fn remembered(
        &self,
        idempotency_key: &IdempotencyKey,
    ) -> Result<Option<Remembered>, ServiceError> {
        if !idempotency_key.key.is_empty()
            && let Some(record) = self.object_if_open(idempotency_key.key.as_bytes()).await?
            && record.fingerprint == Some(idempotency_key.fingerprint)
        {
            let version = record.seq.version;
            return Ok(Some((Ok(Answer::Object(Box::new(record))), version)));
        }
        let key = keys::recent(&idempotency_key.key, idempotency_key.fingerprint);
        let Some(value) = self.recent_entry(&key).await? else { return Ok(None) };
        let recent = Recent::decode(&value)?;
        Ok(Some((answer_of(recent.outcome, recent.version), recent.version)))
    }

    /// Remembers the outcome of a write, unless it is remembered otherwise.
    pub(super) fn remember(
        &mut self,
        idempotency_key: &IdempotencyKey,
        result: &Result<Answer, ServiceError>,
    ) {
        let Some(outcome) = outcome_of(result, idempotency_key.is_retry) else { return };
        let recent = Recent { time: self.time(), version: self.version(), outcome };
        self.put_recent(keys::recent(&idempotency_key.key, idempotency_key.fingerprint), &recent);
    }

    /// Remembers the answer of the write whose record is about to be replaced or removed.
    pub(super) fn displace(&mut self, key: &str, record: &ObjectRecord) {
        let Some(fingerprint) = record.fingerprint else { return };
        if !is_recent_expired(record.time, self.time()) {
            self.put_recent(keys::recent(key, fingerprint), &Recent::displaced(record));
        }
    }

    /// Removes expired outcomes, beginning at `from`. Returns where the next sweep begins.
    pub(super) async fn sweep_recent(&mut self, mut from: Bytes) -> Result<Bytes, ServiceError> {
        let (tree, added) = self.recent_edited();
        let mut expired = Vec::new();
        let mut cursor = Cursor::new(self.nodes(), &tree);
        cursor.seek(&from).await?;
        for _ in 0..added * SWEEP_FACTOR {
            let Some(entry) = cursor.next().await? else {
                // At the end of the tree, the next sweep starts again at the beginning.
                from = Bytes::new();
                break;
            };
            from = [entry.key.as_ref(), &[0]].concat().into();
            if is_recent_expired(Recent::decode(&entry.value)?.time, self.time()) {
                expired.push(entry.key);
            }
        }
        for key in expired {
            self.forget_recent(key);
        }
        Ok(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_remembered_refusal_comes_back_as_itself() {
        for (code, refusal) in REFUSALS {
            assert_eq!(code_of(&refusal), Some(code));
            assert_eq!(refusal_of(code).to_string(), refusal.to_string());
        }
        assert_eq!(code_of(&ServiceError::Full), None);
    }
}
