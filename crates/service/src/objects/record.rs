//! Records that are being made.

use fula_core::bucket::{Attached, ETag, ObjectKind, ObjectRecord, Seq};

/// The maps of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) headers: Attached,
    pub(crate) metadata: Attached,
    pub(crate) tags: Attached,
}

/// Returns a record with maps only. Content, size and entity tag are filled in later.
pub(crate) fn bare_record(maps: Maps, acl: Option<String>) -> ObjectRecord {
    let Maps { headers, metadata, tags } = maps;
    ObjectRecord {
        kind: ObjectKind::Object,
        size: 0,
        etag: ETag::Md5([0; 16]),
        checksums: Vec::new(),
        time: 0,
        seq: Seq::default(),
        headers,
        metadata,
        tags,
        acl,
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
