//! Records of multipart uploads: those in progress, and the remembered answers of completed ones.

use bytes::Bytes;

use super::{checksum::Checksum, etag::ETag, object::ObjectRecord, sse::Salt};
use crate::{
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::Cid,
    root::TimeMs,
};

/// The answer of a completed upload. It is kept for a day, so that completing again gives it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Time at which it was completed.
    pub time: TimeMs,
    /// Hash of the list of parts that it was completed with.
    pub parts_hash: [u8; 32],
    /// The object record that was written. The blocks that it links to may have been collected.
    pub record: ObjectRecord,
}

/// The header of an upload, which holds everything about its object that is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRecord {
    /// Time at which the upload began.
    pub initiated: TimeMs,
    /// Id of the user that began it.
    pub initiator: String,
    /// Headers, metadata and the like. Content, size and entity tag are filled in on completion.
    pub template: ObjectRecord,
    /// Checksum that the client asked for: code of the algorithm, and whether it is a composite.
    pub checksum: Option<(u8, bool)>,
    /// The remembered answer, once the upload was completed.
    pub completed: Option<Completed>,
}

impl UploadRecord {
    /// Encodes the header.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(512);
        out.array(6).uint(self.initiated).text(&self.initiator);
        out.raw(&self.template.encode());
        match self.checksum {
            Some((code, composite)) => {
                out.array(2).uint(u64::from(code)).uint(u64::from(composite))
            }
            None => out.null(),
        };
        match &self.completed {
            Some(completed) => {
                out.array(4).uint(completed.time).bytes(&completed.parts_hash);
                // As a byte string it has no links, so it does not keep a replaced object from being
                // collected.
                out.uint(completed.record.size).bytes(&completed.record.encode());
            }
            None => drop(out.null()),
        }
        out.map(0);
        out.finish()
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for bytes that are not such a record.
    pub fn decode(value: &Bytes) -> Result<Self, StoreError> {
        let wrong = |invalid: Invalid| invalid.of("upload record");
        let mut reader = Reader::new(value);
        let mut read = || {
            reader.tuple(6)?;
            let initiated = reader.uint()?;
            let initiator = reader.text()?.to_owned();
            let template = reader.raw()?;
            let checksum = if reader.null() {
                None
            } else {
                reader.tuple(2)?;
                let code = reader.uint()?.try_into().map_err(|_| Invalid("bad algorithm"))?;
                Some((code, reader.uint()? == 1))
            };
            let completed = if reader.null() {
                None
            } else {
                reader.tuple(4)?;
                Some((reader.uint()?, reader.array_of()?, reader.uint()?, reader.bytes()?))
            };
            reader.raw()?;
            reader.end()?;
            Ok((initiated, initiator, template, checksum, completed))
        };
        let (initiated, initiator, template, checksum, completed) = read().map_err(wrong)?;
        let completed = match completed {
            Some((time, parts_hash, size, record)) => {
                Some(Completed { time, parts_hash, record: ObjectRecord::decode(&record, size)? })
            }
            None => None,
        };
        let template = ObjectRecord::decode(&template, 0)?;
        Ok(Self { initiated, initiator, template, checksum, completed })
    }
}

/// One uploaded part. Its size is the weight of the tree entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    /// Length in bytes.
    pub size: u64,
    /// MD5 of the part.
    pub etag: ETag,
    /// Time at which it was uploaded.
    pub time: TimeMs,
    /// Checksum of the part, by the algorithm of the upload.
    pub checksum: Option<Checksum>,
    /// Address of the content.
    pub content: Cid,
    /// Salt of the part, if the object of the upload is encrypted.
    pub salt: Option<Salt>,
}

impl PartRecord {
    /// Encodes the part without its size, which the tree keeps as the weight of the entry.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(128);
        out.array(5);
        self.etag.write(&mut out);
        out.uint(self.time);
        match &self.checksum {
            Some(checksum) => checksum.write(&mut out),
            None => drop(out.null()),
        }
        out.link(&self.content);
        write_extensions(self.salt, &mut out);
        out.finish()
    }

    /// Decodes the part of a tree entry whose weight is `size`.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for bytes that are not such a record.
    pub fn decode(value: &Bytes, size: u64) -> Result<Self, StoreError> {
        let mut reader = Reader::new(value);
        let mut read = || {
            reader.tuple(5)?;
            let etag = ETag::read(&mut reader)?;
            let time = reader.uint()?;
            let checksum = if reader.null() { None } else { Some(Checksum::read(&mut reader)?) };
            let content = reader.link()?;
            let salt = read_extensions(&mut reader)?;
            reader.end()?;
            Ok(Self { size, etag, time, checksum, content, salt })
        };
        read().map_err(|invalid: Invalid| invalid.of("part record"))
    }
}

/// Appends the extensions of a part: `{"s": salt}` for an encrypted one.
fn write_extensions(salt: Option<Salt>, out: &mut Writer) {
    out.map(usize::from(salt.is_some()));
    if let Some(salt) = salt {
        out.text("s").bytes(&salt.0);
    }
}

/// Reads the extensions of a part. Those of later programs are skipped.
fn read_extensions(reader: &mut Reader<'_>) -> Result<Option<Salt>, Invalid> {
    let mut salt = None;
    let mut names = reader.names()?;
    for _ in 0..names.count() {
        match names.next(reader)? {
            "s" => salt = Some(Salt(reader.array_of()?)),
            _ => drop(reader.raw()?),
        }
    }
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bucket::{Attached, ObjectKind, Seq},
        id::Codec,
    };

    #[test]
    fn uploads_and_parts_round_trip() {
        let template = ObjectRecord {
            kind: ObjectKind::Object,
            size: 0,
            etag: ETag::Md5([0; 16]),
            checksums: Vec::new(),
            time: 5,
            seq: Seq::default(),
            headers: Attached::default(),
            metadata: Attached::Inline([("k".into(), "v".into())].into()),
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
        };
        let mut upload = UploadRecord {
            initiated: 5,
            initiator: "key:me".into(),
            template: template.clone(),
            checksum: Some((2, false)),
            completed: None,
        };
        assert_eq!(UploadRecord::decode(&upload.encode()).unwrap(), upload);
        let content = Some(Cid::of(Codec::Raw, b"content"));
        let etag = ETag::Multipart([1; 16], 2);
        let record = ObjectRecord { size: 77, etag, content, ..template };
        upload.completed = Some(Completed { time: 6, parts_hash: [4; 32], record });
        upload.checksum = None;
        let encoded = upload.encode();
        assert_eq!(UploadRecord::decode(&encoded).unwrap(), upload);
        let mut links = Vec::new();
        Reader::links(&encoded, &mut |link| links.push(link)).unwrap();
        assert!(links.is_empty(), "a remembered answer keeps no content: {links:?}");

        let part = PartRecord {
            size: 9,
            etag: ETag::Md5([2; 16]),
            time: 8,
            checksum: None,
            content: Cid::of(Codec::Raw, b"part"),
            salt: None,
        };
        assert_eq!(PartRecord::decode(&part.encode(), 9).unwrap(), part);
        let part = PartRecord { salt: Some(Salt([6; 16])), ..part };
        assert_eq!(PartRecord::decode(&part.encode(), 9).unwrap(), part);
    }
}
