//! Object records: what the tree stores for a key.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    checksum::Checksum,
    etag::ETag,
    version::{Seq, VersionId},
};
use crate::{
    block::Block,
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::{Cid, Codec},
    root::TimeMs,
};

/// Largest map, in encoded bytes, that is kept inside a record. Larger maps get a block of their own.
const INLINE_BYTES_MAX: usize = 1024;

/// Number of fields of a record. Fields of later formats go into the extension map, which is the last.
const FIELDS: usize = 16;

/// Names and values, e.g. user metadata.
pub type TextMap = BTreeMap<String, String>;

/// What a record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// An object whose content this system holds.
    Object,
    /// The absence of an object, in a versioned bucket.
    DeleteMarker,
    /// An object whose content is held elsewhere. Its `ETag` is the CID of the content.
    Mapped,
}

/// Hash that identifies one request of one user, so that a retry of it is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

/// A map kept in the record, or in a block of its own when it is large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The map itself, in the record.
    Inline(TextMap),
    /// The address of the block that holds the map.
    Linked(Cid),
}

impl Default for Attached {
    fn default() -> Self {
        Self::Inline(TextMap::new())
    }
}

impl Attached {
    /// Keeps `map` inline if it is small. Otherwise also returns the block that has to be stored.
    pub fn new(map: TextMap) -> (Self, Option<Block>) {
        let mut out = Writer::default();
        write_map(&map, &mut out);
        if out.len() <= INLINE_BYTES_MAX {
            return (Self::Inline(map), None);
        }
        let block = Block::new(Codec::DagCbor, out.finish());
        (Self::Linked(block.cid()), Some(block))
    }

    /// Reads the block of a linked map.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for a block that is not such a map.
    pub fn read_block(block: &Block) -> Result<TextMap, StoreError> {
        let mut reader = Reader::new(block.bytes());
        let read = read_map(&mut reader).and_then(|map| reader.end().map(|()| map));
        read.map_err(|invalid| invalid.of("attached map"))
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Inline(map) if map.is_empty() => drop(out.null()),
            Self::Inline(map) => write_map(map, out),
            Self::Linked(cid) => drop(out.link(cid)),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        if reader.null() {
            Ok(Self::default())
        } else if reader.is_link() {
            reader.link().map(Self::Linked)
        } else {
            match read_map(reader)? {
                map if map.is_empty() => Err(Invalid("a map is empty, and not null")),
                map => Ok(Self::Inline(map)),
            }
        }
    }
}

pub(super) fn write_map(map: &TextMap, out: &mut Writer) {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by_key(|(name, _)| (name.len(), name.as_bytes()));
    out.map(pairs.len());
    for (name, value) in pairs {
        out.text(name).text(value);
    }
}

fn read_map(reader: &mut Reader<'_>) -> Result<TextMap, Invalid> {
    let mut names = reader.names()?;
    (0..names.count())
        .map(|_| Ok((names.next(reader)?.to_owned(), reader.text()?.to_owned())))
        .collect()
}

/// Everything about one version of one object, except its size, which is the tree entry's weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// What the record describes.
    pub kind: ObjectKind,
    /// Length of the content in bytes; kept as the weight of the tree entry.
    pub size: u64,
    /// The entity tag.
    pub etag: ETag,
    /// Checksums that the client sent, or the default one.
    pub checksums: Vec<Checksum>,
    /// Last-Modified, by the arbiter's clock.
    pub time: TimeMs,
    /// Position in the history of the bucket.
    pub seq: Seq,
    /// System headers by lower-case name, e.g. `content-type`.
    pub headers: Attached,
    /// User metadata by name without `x-amz-meta-`.
    pub metadata: Attached,
    /// Tags.
    pub tags: Attached,
    /// Canned ACL, when one was given.
    pub acl: Option<String>,
    /// Encoded lock and retention. Always `None`: object lock is not implemented.
    pub lock: Option<Bytes>,
    /// How the content is encrypted, as [`SealedKey`](super::SealedKey) encodes it; `None` if it is not.
    pub sse: Option<Bytes>,
    /// Storage class, when it is not `STANDARD`.
    pub class: Option<String>,
    /// Address of the content: a raw block or the root of a `UnixFS` file. `None` for a delete marker.
    pub content: Option<Cid>,
    /// Address of the table of parts, for an object that a multipart upload made.
    pub parts: Option<Cid>,
    /// Fingerprint of the request that wrote it, when that request can be retried.
    pub fingerprint: Option<Fingerprint>,
    /// Whether it is a version with an id of its own. Otherwise it is the null version.
    pub is_versioned: bool,
    /// Position of the null version of the key, when that is an older one. It counts only in the newest
    /// version of the key.
    pub null_at: Option<Seq>,
}

/// Stands for the key of an encrypted object where requests are compared.
const ENCRYPTED: &[u8] = b"encrypted";

impl ObjectRecord {
    /// Returns what a retry of the same request makes again. The key and the address of encrypted content are
    /// random, and are left out.
    #[must_use]
    pub fn repeatable(&self) -> Self {
        match self.sse {
            Some(_) => {
                Self { sse: Some(Bytes::from_static(ENCRYPTED)), content: None, ..self.clone() }
            }
            None => self.clone(),
        }
    }

    /// Returns the id of the version.
    pub fn version_id(&self) -> VersionId {
        if self.is_versioned { VersionId::At(self.seq) } else { VersionId::Null }
    }

    /// Appends the extensions: `{"n": [version, index], "v": 1}`, each only where it says something.
    fn write_extensions(&self, out: &mut Writer) {
        out.map(usize::from(self.is_versioned) + usize::from(self.null_at.is_some()));
        if let Some(Seq { version, index }) = self.null_at {
            out.text("n").array(2).uint(version).uint(u64::from(index));
        }
        if self.is_versioned {
            out.text("v").uint(1);
        }
    }

    /// Encodes the record without its size, which the tree keeps as the weight of the entry.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(256);
        out.array(FIELDS).uint(self.kind as u64);
        self.etag.write(&mut out);
        out.array(self.checksums.len());
        for checksum in &self.checksums {
            checksum.write(&mut out);
        }
        out.uint(self.time);
        out.array(2).uint(self.seq.version).uint(u64::from(self.seq.index));
        for map in [&self.headers, &self.metadata, &self.tags] {
            map.write(&mut out);
        }
        write_text(self.acl.as_deref(), &mut out);
        write_bytes(self.lock.as_deref(), &mut out);
        write_bytes(self.sse.as_deref(), &mut out);
        write_text(self.class.as_deref(), &mut out);
        out.link_or_null(self.content.as_ref()).link_or_null(self.parts.as_ref());
        write_bytes(self.fingerprint.as_ref().map(|print| print.0.as_slice()), &mut out);
        self.write_extensions(&mut out);
        out.finish()
    }

    /// Decodes the record of a tree entry whose weight is `size`.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for a block that is not such a map.
    pub fn decode(value: &Bytes, size: u64) -> Result<Self, StoreError> {
        let mut reader = Reader::new(value);
        let read = Self::parse(&mut reader, size);
        read.and_then(|record| reader.end().map(|()| record))
            .map_err(|invalid| invalid.of("object record"))
    }

    fn parse(reader: &mut Reader<'_>, size: u64) -> Result<Self, Invalid> {
        reader.tuple(FIELDS)?;
        let kind = match reader.uint()? {
            0 => ObjectKind::Object,
            1 => ObjectKind::DeleteMarker,
            2 => ObjectKind::Mapped,
            _ => return Err(Invalid("unknown kind")),
        };
        let etag = ETag::read(reader)?;
        let checksums =
            (0..reader.array()?).map(|_| Checksum::read(reader)).collect::<Result<_, _>>()?;
        let time = reader.uint()?;
        let seq = read_seq(reader)?;
        let [headers, metadata, tags] =
            [Attached::read(reader)?, Attached::read(reader)?, Attached::read(reader)?];
        let acl = read_text(reader)?;
        let lock = read_bytes(reader)?;
        let sse = read_bytes(reader)?;
        let class = read_text(reader)?;
        let (content, parts) = (reader.link_or_null()?, reader.link_or_null()?);
        let fingerprint = if reader.null() { None } else { Some(Fingerprint(reader.array_of()?)) };
        let (is_versioned, null_at) = read_extensions(reader)?;
        Ok(Self {
            kind,
            size,
            etag,
            checksums,
            time,
            seq,
            headers,
            metadata,
            tags,
            acl,
            lock,
            sse,
            class,
            content,
            parts,
            fingerprint,
            is_versioned,
            null_at,
        })
    }
}

fn read_seq(reader: &mut Reader<'_>) -> Result<Seq, Invalid> {
    reader.tuple(2)?;
    let version = reader.uint()?;
    let index = reader.uint()?.try_into().map_err(|_| Invalid("bad seq"))?;
    Ok(Seq { version, index })
}

/// Reads the extensions of a record. Those of later programs are skipped.
fn read_extensions(reader: &mut Reader<'_>) -> Result<(bool, Option<Seq>), Invalid> {
    let (mut is_versioned, mut null_at) = (false, None);
    let mut names = reader.names()?;
    for _ in 0..names.count() {
        match names.next(reader)? {
            "n" => null_at = Some(read_seq(reader)?),
            "v" => is_versioned = reader.uint()? == 1,
            _ => drop(reader.raw()?),
        }
    }
    Ok((is_versioned, null_at))
}

fn write_text(text: Option<&str>, out: &mut Writer) {
    match text {
        Some(text) => out.text(text),
        None => out.null(),
    };
}

fn read_text(reader: &mut Reader<'_>) -> Result<Option<String>, Invalid> {
    if reader.null() { Ok(None) } else { reader.text().map(|text| Some(text.to_owned())) }
}

fn write_bytes(bytes: Option<&[u8]>, out: &mut Writer) {
    match bytes {
        Some(bytes) => out.bytes(bytes),
        None => out.null(),
    };
}

fn read_bytes(reader: &mut Reader<'_>) -> Result<Option<Bytes>, Invalid> {
    if reader.null() { Ok(None) } else { reader.bytes().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::ChecksumAlgorithm;

    fn record() -> ObjectRecord {
        ObjectRecord {
            kind: ObjectKind::Object,
            size: 5,
            etag: ETag::Md5([9; 16]),
            checksums: vec![Checksum {
                algorithm: ChecksumAlgorithm::Crc64Nvme,
                composite_parts: 0,
                value: Bytes::from_static(&[1; 8]),
            }],
            time: 1_700_000_000_000,
            seq: Seq { version: 7, index: 1 },
            headers: Attached::Inline([("content-type".into(), "text/plain".into())].into()),
            metadata: Attached::default(),
            tags: Attached::default(),
            acl: None,
            lock: None,
            sse: None,
            class: None,
            content: Some(Cid::of(Codec::Raw, b"hello")),
            parts: None,
            fingerprint: None,
            is_versioned: false,
            null_at: None,
        }
    }

    #[test]
    fn a_version_ends_with_its_extensions() {
        let plain = record().encode();
        let seq = Seq { version: 3, index: 1 };
        for (is_versioned, null_at, end) in [
            (true, None, "a1617601"),
            (false, Some(seq), "a1616e820301"),
            (true, Some(seq), "a2616e820301617601"),
        ] {
            let record = ObjectRecord { is_versioned, null_at, ..record() };
            let encoded = record.encode();
            assert_eq!(ObjectRecord::decode(&encoded, 5).unwrap(), record);
            let same = plain.len() - 1;
            assert_eq!(
                (&encoded[..same], hex::encode(&encoded[same..]).as_str()),
                (&plain[..same], end)
            );
        }
    }

    #[test]
    fn a_small_record_matches_the_vector() {
        let encoded = record().encode();
        assert_eq!(ObjectRecord::decode(&encoded, 5).unwrap(), record());
        assert_eq!(
            hex::encode(&encoded),
            "90005009090909090909090909090909090909818302004801010101010101011b0000018bcfe56800820701a16c636f6e74656e742d747970656a746578742f706c61696ef6f6f6f6f6f6d82a58250001551e20ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200ff6f6a0"
        );
    }

    #[test]
    fn a_full_record_round_trips() {
        let full = ObjectRecord {
            kind: ObjectKind::Mapped,
            etag: ETag::Multipart([1; 16], 10_000),
            metadata: Attached::Linked(Cid::of(Codec::DagCbor, b"m")),
            tags: Attached::Inline([("b".into(), "1".into()), ("aa".into(), "2".into())].into()),
            acl: Some("private".into()),
            lock: Some(Bytes::from_static(b"lock")),
            sse: Some(Bytes::from_static(b"sse")),
            class: Some("STANDARD".into()),
            parts: Some(Cid::of(Codec::DagCbor, b"p")),
            fingerprint: Some(Fingerprint([3; 16])),
            ..record()
        };
        assert_eq!(ObjectRecord::decode(&full.encode(), 5).unwrap(), full);
        let mapped = ObjectRecord { etag: ETag::Cid(Cid::of(Codec::Raw, b"x")), ..full };
        assert_eq!(ObjectRecord::decode(&mapped.encode(), 5).unwrap(), mapped);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let encoded = record().encode();
        for len in 0..encoded.len() {
            assert!(ObjectRecord::decode(&encoded.slice(..len), 5).is_err(), "{len}");
        }
    }

    #[test]
    fn a_map_has_one_form() {
        let read = |names: &[&str]| {
            let mut out = Writer::default();
            out.map(names.len());
            for name in names {
                out.text(name).text("v");
            }
            Attached::read_block(&Block::new(Codec::DagCbor, out.finish()))
        };
        assert_eq!(read(&["b", "aa", "ab"]).unwrap().len(), 3);
        assert!(read(&["aa", "b"]).is_err() && read(&["b", "a"]).is_err());
        assert!(read(&["a", "a"]).is_err(), "one of them would be lost");
        let encoded = record().encode();
        let tags = encoded.iter().rposition(|byte| *byte == 0xd8).unwrap() - 5;
        let mut empty = encoded.to_vec();
        assert_eq!(std::mem::replace(&mut empty[tags], 0xa0), 0xf6);
        assert!(ObjectRecord::decode(&empty.into(), 5).is_err());
    }

    #[test]
    fn large_maps_move_out() {
        let small: TextMap = [("a".into(), "1".into())].into();
        assert!(matches!(Attached::new(small), (Attached::Inline(_), None)));
        let large: TextMap = [("a".into(), "x".repeat(2_000))].into();
        let (attached, block) = Attached::new(large.clone());
        let block = block.unwrap();
        assert_eq!(attached, Attached::Linked(block.cid()));
        assert_eq!(Attached::read_block(&block).unwrap(), large);
    }
}
