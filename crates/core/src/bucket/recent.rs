//! Remembered outcomes of writes, from which retries are answered.
//!
//! The record of a current object carries the fingerprint of the request that wrote it. The tree
//! `recent` holds the outcome when the object is replaced or deleted soon after, and for writes
//! that leave no record. It has no links, so it does not keep replaced content from being collected.

use bytes::Bytes;

use super::object::{Attached, ObjectRecord};
use crate::{
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::{Cid, UploadId},
    root::TimeMs,
};

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecentOutcome {
    /// The write was carried out; its answer carries nothing else.
    Done,
    /// The write stored this object. Headers, metadata, tags and the table of parts are left out.
    Stored(Box<ObjectRecord>),
    /// The write began this upload.
    Upload(UploadId),
    /// The write was refused; the service defines the code.
    Refused(u8),
    /// The outcomes of the changes of a commit of several keys.
    Each {
        /// One byte for each: 0 if it was carried out, else the service's code of the refusal.
        codes: Bytes,
        /// Four bytes for each, in which the service tells of delete markers; empty when there are none.
        markers: Bytes,
    },
}

/// The remembered outcome of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent {
    /// Time at which the write was committed. The entry is removed when it has become old.
    pub time: TimeMs,
    /// Version of the root that the write was published with.
    pub version: u64,
    /// The outcome.
    pub outcome: RecentOutcome,
}

impl Recent {
    /// Returns the outcome to remember for an object whose record is replaced or deleted.
    pub fn displaced(record: &ObjectRecord) -> Self {
        let bare = ObjectRecord {
            headers: Attached::default(),
            metadata: Attached::default(),
            tags: Attached::default(),
            parts: None,
            null_at: None,
            ..record.clone()
        };
        let outcome = RecentOutcome::Stored(Box::new(bare));
        Self { time: record.time, version: record.seq.version, outcome }
    }

    /// Encodes the entry: `[time ms, version, kind, value, {}]`.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(192);
        out.array(5).uint(self.time).uint(self.version);
        match &self.outcome {
            RecentOutcome::Done => out.uint(0).null(),
            RecentOutcome::Stored(record) => {
                let unlinked = ObjectRecord { content: None, ..ObjectRecord::clone(record) };
                out.uint(1).array(3).uint(record.size);
                match &record.content {
                    Some(cid) => out.bytes(&cid.to_bytes()),
                    None => out.null(),
                };
                out.raw(&unlinked.encode())
            }
            RecentOutcome::Upload(id) => out.uint(2).bytes(&id.0),
            RecentOutcome::Refused(code) => out.uint(3).uint(u64::from(*code)),
            RecentOutcome::Each { codes, .. } => out.uint(4).bytes(codes),
        };
        match &self.outcome {
            RecentOutcome::Each { markers, .. } if !markers.is_empty() => {
                out.map(1).text("m").bytes(markers)
            }
            _ => out.map(0),
        };
        out.finish()
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for bytes that are not such an entry.
    pub fn decode(value: &Bytes) -> Result<Self, StoreError> {
        let wrong = |invalid: Invalid| invalid.of("remembered outcome");
        let mut reader = Reader::new(value);
        let mut stored = None;
        let mut read = || {
            reader.tuple(5)?;
            let (time, version) = (reader.uint()?, reader.uint()?);
            let outcome = match reader.uint()? {
                0 if reader.null() => RecentOutcome::Done,
                1 => {
                    reader.tuple(3)?;
                    let size = reader.uint()?;
                    let content = if reader.null() {
                        None
                    } else {
                        let cid = Cid::from_bytes(&reader.bytes()?);
                        Some(cid.map_err(|_| Invalid("bad content"))?)
                    };
                    stored = Some((size, content, reader.raw()?));
                    RecentOutcome::Done
                }
                2 => RecentOutcome::Upload(UploadId(reader.array_of()?)),
                3 => {
                    let code = reader.uint()?.try_into();
                    RecentOutcome::Refused(code.map_err(|_| Invalid("bad refusal"))?)
                }
                4 => RecentOutcome::Each { codes: reader.bytes()?, markers: Bytes::new() },
                _ => return Err(Invalid("unknown outcome")),
            };
            let outcome = with_markers(outcome, &mut reader)?;
            reader.end()?;
            Ok(Self { time, version, outcome })
        };
        let mut recent = read().map_err(wrong)?;
        if let Some((size, content, record)) = stored {
            let record = ObjectRecord { content, ..ObjectRecord::decode(&record, size)? };
            recent.outcome = RecentOutcome::Stored(Box::new(record));
        }
        Ok(recent)
    }
}

/// Reads the extensions of an entry. Those of later programs are skipped.
fn with_markers(
    mut outcome: RecentOutcome,
    reader: &mut Reader<'_>,
) -> Result<RecentOutcome, Invalid> {
    let mut names = reader.names()?;
    for _ in 0..names.count() {
        match (names.next(reader)?, &mut outcome) {
            ("m", RecentOutcome::Each { markers, .. }) => *markers = reader.bytes()?,
            _ => drop(reader.raw()?),
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bucket::{ETag, Fingerprint, ObjectKind, Seq},
        id::Codec,
    };

    #[test]
    fn outcomes_round_trip_and_keep_no_link() {
        let record = ObjectRecord {
            kind: ObjectKind::Object,
            size: 5,
            etag: ETag::Md5([9; 16]),
            checksums: Vec::new(),
            time: 7,
            seq: Seq { version: 3, index: 0 },
            headers: Attached::Inline([("content-type".into(), "text/plain".into())].into()),
            metadata: Attached::default(),
            tags: Attached::default(),
            acl: None,
            lock: None,
            sse: None,
            class: None,
            content: Some(Cid::of(Codec::Raw, b"hello")),
            parts: Some(Cid::of(Codec::DagCbor, b"parts")),
            fingerprint: Some(Fingerprint([1; 16])),
            is_versioned: true,
            null_at: None,
        };
        let displaced = Recent::displaced(&record);
        assert_eq!((displaced.time, displaced.version), (7, 3));
        let encoded = displaced.encode();
        assert_eq!(Recent::decode(&encoded).unwrap(), displaced);
        // No link (tag 42) is in it.
        assert!(!encoded.windows(2).any(|pair| pair == [0xd8, 0x2a]));
        for outcome in [
            RecentOutcome::Done,
            RecentOutcome::Upload(UploadId([4; 16])),
            RecentOutcome::Refused(3),
            RecentOutcome::Each { codes: Bytes::from_static(&[0, 2]), markers: Bytes::new() },
            RecentOutcome::Each {
                codes: Bytes::from_static(&[0]),
                markers: Bytes::from_static(&[0, 0, 0, 1]),
            },
        ] {
            let recent = Recent { time: 1, version: 2, outcome };
            assert_eq!(Recent::decode(&recent.encode()).unwrap(), recent);
        }
        let recent = Recent { time: 1, version: 2, outcome: RecentOutcome::Refused(3) };
        assert_eq!(hex::encode(recent.encode()), "8501020303a0");
        for cut in 0..encoded.len() {
            assert!(Recent::decode(&encoded.slice(..cut)).is_err());
        }
    }
}
