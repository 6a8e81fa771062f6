//! Composite tree keys: an object key, then a suffix of fixed length.
//!
//! The byte order must equal the order of (key, suffix) even when one key is a prefix of another.
//! Therefore 0x00 in the key is written 0x00 0xff, and the key ends with 0x00 0x01.

use bytes::Bytes;

use super::{object::Fingerprint, version::Seq};
use crate::id::{ObjectKey, UploadId};

/// Length of the suffix of an upload key in bytes: upload id (16) and part number (4).
const UPLOAD_SUFFIX: usize = 20;

/// Length of the suffix of a version key in bytes: version (8) and index (4).
const VERSION_SUFFIX: usize = 12;

fn escaped(key: &str, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 2 + room);
    for &byte in key.as_bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out
}

fn terminated(key: &str, room: usize) -> Vec<u8> {
    let mut out = escaped(key, room);
    out.extend([0, 1]);
    out
}

/// Returns the key of an upload's header (part 0) or of one of its parts (1 to 10 000).
pub fn upload(key: &ObjectKey, id: UploadId, part: u32) -> Bytes {
    let mut out = terminated(key.as_str(), UPLOAD_SUFFIX);
    out.extend(id.0);
    out.extend(part.to_be_bytes());
    out.into()
}

/// Returns the smallest upload key of any object key that starts with `prefix`.
pub fn upload_prefix(prefix: &str) -> Bytes {
    escaped(prefix, 0).into()
}

/// Returns the smallest upload key that is greater than those of every upload of `key`.
pub fn after_uploads_of(key: &str) -> Bytes {
    let mut out = escaped(key, 2);
    out.extend([0, 2]);
    out.into()
}

/// Splits an upload key into object key, upload id and part; `None` when it was not made by [`upload`].
pub fn parse_upload(encoded: &[u8]) -> Option<(String, UploadId, u32)> {
    let (key, suffix) = encoded.split_at_checked(encoded.len().checked_sub(UPLOAD_SUFFIX)?)?;
    let key = unescape(key)?;
    let (id, part) = suffix.split_first_chunk::<16>()?;
    Some((key, UploadId(*id), u32::from_be_bytes(part.try_into().ok()?)))
}

fn unescape(terminated: &[u8]) -> Option<String> {
    let body = terminated.strip_suffix(&[0, 1])?;
    let mut out = Vec::with_capacity(body.len());
    let mut bytes = body.iter();
    while let Some(&byte) = bytes.next() {
        out.push(byte);
        if byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
    }
    String::from_utf8(out).ok()
}

/// Returns the key of a noncurrent version: newest first within an object key.
pub fn version(key: &ObjectKey, seq: Seq) -> Bytes {
    version_of(key.as_str(), seq)
}

/// Does the same for a key that a client named, which may be longer than a key can be.
pub(super) fn version_of(key: &str, seq: Seq) -> Bytes {
    let mut out = terminated(key, VERSION_SUFFIX);
    out.extend((!seq.version).to_be_bytes());
    out.extend((!seq.index).to_be_bytes());
    out.into()
}

/// Returns the smallest version key that is greater than those of every version of `key`.
pub fn after_versions_of(key: &ObjectKey) -> Bytes {
    after_uploads_of(key.as_str())
}

/// Returns the smallest version key of an object key.
pub fn versions_of(key: &ObjectKey) -> Bytes {
    terminated(key.as_str(), 0).into()
}

/// Splits a version key into object key and position; `None` when it was not made by [`version`].
pub fn parse_version(encoded: &[u8]) -> Option<(String, Seq)> {
    let (key, suffix) = encoded.split_at_checked(encoded.len().checked_sub(VERSION_SUFFIX)?)?;
    let (version, index) = suffix.split_first_chunk::<8>()?;
    let version = !u64::from_be_bytes(*version);
    let index = !u32::from_be_bytes(index.try_into().ok()?);
    Some((unescape(key)?, Seq { version, index }))
}

/// Returns the key of the remembered outcome of a write. An empty `key` stands for the bucket itself.
pub fn recent(key: &str, fingerprint: Fingerprint) -> Bytes {
    let mut out = terminated(key, 16);
    out.extend(fingerprint.0);
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text.to_owned()).unwrap()
    }

    proptest! {
        #[test]
        fn byte_order_is_key_then_suffix(
            a in "[\\x00\\x01a-c]{1,5}", b in "[\\x00\\x01a-c]{1,5}",
            m in any::<[u8; 16]>(), n in any::<[u8; 16]>(), p in 0_u32..4, q in 0_u32..4,
        ) {
            let (m, n) = (UploadId(m), UploadId(n));
            let encoded = upload(&key(&a), m, p).cmp(&upload(&key(&b), n, q));
            prop_assert_eq!(encoded, (&a, m, p).cmp(&(&b, n, q)));
            prop_assert_eq!(parse_upload(&upload(&key(&a), m, p)), Some((a, m, p)));
        }
    }

    #[test]
    fn composite_keys_match_the_vectors() {
        let (id, seq) = (UploadId([0xab; 16]), Seq { version: 1, index: 2 });
        let encoded = super::upload(&key("a\0b"), id, 3);
        assert_eq!(hex::encode(encoded), format!("6100ff620001{}00000003", "ab".repeat(16)));
        let encoded = super::version(&key("a"), seq);
        assert_eq!(hex::encode(encoded), "610001fffffffffffffffefffffffd");
    }

    #[test]
    fn versions_run_from_newest_to_oldest() {
        let at = |version, index| super::version(&key("k"), Seq { version, index });
        assert!(at(2, 0) < at(1, 5));
        assert!(at(1, 5) < at(1, 4));
        let (first, end) = (versions_of(&key("k")), after_versions_of(&key("k")));
        assert!(first < at(u64::MAX, u32::MAX) && at(0, 0) < end);
        assert!(end < super::version(&key("k\0"), Seq { version: u64::MAX, index: 0 }));
        let seq = Seq { version: 7, index: 9 };
        assert_eq!(parse_version(&at(7, 9)), Some(("k".to_owned(), seq)));
    }

    #[test]
    fn uploads_of_one_key_end_before_the_next_key() {
        let end = after_uploads_of("a");
        assert!(upload(&key("a"), UploadId([255; 16]), u32::MAX) < end);
        assert!(end < upload(&key("a\0"), UploadId([0; 16]), 0));
        assert!(upload_prefix("a") <= upload(&key("a"), UploadId([0; 16]), 0));
    }
}
