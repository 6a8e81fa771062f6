//! Listing all versions of keys by prefix and delimiter, one page at a time.
//!
//! The trees of current objects and of older versions are merged: both are in the order of keys, and the
//! versions of a key are in order from the newest. A page costs O(page × log n) nodes.

use super::{
    keys,
    list::{ListQuery, common_prefix},
    object::ObjectRecord,
    version::Seq,
};
use crate::{
    error::StoreError,
    tree::{Cursor, Entry, Nodes, Tree, after_prefix},
};

/// One line of a listing of versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedVersion {
    /// A version of an object, or a delete marker.
    Version {
        /// Key of the object.
        key: String,
        /// Record of the version.
        record: Box<ObjectRecord>,
        /// Whether it is the newest of its key.
        is_latest: bool,
    },
    /// A common prefix, including the delimiter.
    Prefix(String),
}

/// One page of a listing of versions, in order of key and then from the newest.
#[derive(Clone, Debug, Default)]
pub struct VersionPage {
    /// Versions, delete markers and common prefixes.
    pub items: Vec<ListedVersion>,
    /// Whether more items follow.
    pub truncated: bool,
}

/// A cursor, and the entry at its position with the key of its object.
struct Peeked<'a> {
    cursor: Cursor<'a>,
    key_of: fn(&Entry) -> Result<String, StoreError>,
    next: Option<(String, Entry)>,
}

impl<'a> Peeked<'a> {
    async fn at(
        nodes: &'a Nodes,
        tree: &Tree,
        from: &[u8],
        key_of: fn(&Entry) -> Result<String, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut peeked = Self { cursor: Cursor::new(nodes, tree), key_of, next: None };
        peeked.seek(from).await?;
        Ok(peeked)
    }

    async fn seek(&mut self, from: &[u8]) -> Result<(), StoreError> {
        self.cursor.seek(from).await?;
        self.take().await.map(drop)
    }

    fn key(&self) -> Option<&str> {
        self.next.as_ref().map(|(key, _)| key.as_str())
    }

    /// Returns the entry at the position, and goes on to the next one.
    async fn take(&mut self) -> Result<Option<(String, Entry)>, StoreError> {
        let next = match self.cursor.next().await? {
            Some(entry) => Some(((self.key_of)(&entry)?, entry)),
            None => None,
        };
        Ok(std::mem::replace(&mut self.next, next))
    }
}

fn object_key(entry: &Entry) -> Result<String, StoreError> {
    std::str::from_utf8(&entry.key)
        .map(str::to_owned)
        .map_err(|_| StoreError::Malformed { what: "object key", why: "not UTF-8" })
}

fn version_key(entry: &Entry) -> Result<String, StoreError> {
    keys::parse_version(&entry.key)
        .map(|(key, _)| key)
        .ok_or(StoreError::Malformed { what: "version key", why: "not of its form" })
}

/// Where a page begins in both trees.
struct Start {
    objects: Vec<u8>,
    versions: Vec<u8>,
    /// Key of which newer versions are on earlier pages.
    begun: Option<String>,
}

/// Returns where a page begins; `None` when nothing can follow.
fn start(query: &ListQuery<'_>, after_version: Option<Seq>) -> Option<Start> {
    let from = |objects: Vec<u8>, versions: Vec<u8>| Start { objects, versions, begun: None };
    let prefix = query.prefix.as_bytes();
    let Some(after) = query.after.filter(|after| after.as_bytes() >= prefix) else {
        return Some(from(prefix.to_vec(), keys::upload_prefix(query.prefix).to_vec()));
    };
    // When the last name was a common prefix, all keys below it were covered.
    if let Some(rest) = after.strip_prefix(query.prefix)
        && common_prefix(query, rest).is_some_and(|rolled| rolled == after)
    {
        let objects = after_prefix(after.as_bytes())?.to_vec();
        return Some(from(objects, after_prefix(&keys::upload_prefix(after))?.to_vec()));
    }
    let objects = [after.as_bytes(), &[0]].concat();
    Some(match after_version {
        Some(seq) => Start {
            objects,
            versions: [keys::version_of(after, seq).as_ref(), &[0]].concat(),
            begun: Some(after.to_owned()),
        },
        None => from(objects, keys::after_uploads_of(after).to_vec()),
    })
}

/// Returns one page of the versions of keys. With `after_version`, it goes on behind that version of the key
/// `query.after`.
///
/// # Errors
/// [`StoreError`] of a node read; [`StoreError::Malformed`] for an entry that is not of its form.
pub async fn list_versions(
    nodes: &Nodes,
    (objects, versions): (&Tree, &Tree),
    query: &ListQuery<'_>,
    after_version: Option<Seq>,
) -> Result<VersionPage, StoreError> {
    let mut page = VersionPage::default();
    let Some(start) = start(query, after_version).filter(|_| query.limit > 0) else {
        return Ok(page);
    };
    let mut current = Peeked::at(nodes, objects, &start.objects, object_key).await?;
    let mut older = Peeked::at(nodes, versions, &start.versions, version_key).await?;
    loop {
        let (is_object, key) = match (current.key(), older.key()) {
            (Some(object), Some(version)) if version < object => (false, version),
            (Some(object), _) => (true, object),
            (None, Some(version)) => (false, version),
            (None, None) => return Ok(page),
        };
        let Some(rest) = key.strip_prefix(query.prefix) else { return Ok(page) };
        if page.items.len() == query.limit {
            page.truncated = true;
            return Ok(page);
        }
        if let Some(prefix) = common_prefix(query, rest) {
            let next = after_prefix(prefix.as_bytes());
            let escaped = after_prefix(&keys::upload_prefix(&prefix));
            page.items.push(ListedVersion::Prefix(prefix));
            let (Some(next), Some(escaped)) = (next, escaped) else { return Ok(page) };
            current.seek(&next).await?;
            older.seek(&escaped).await?;
            continue;
        }
        let side = if is_object { &mut current } else { &mut older };
        let Some((key, entry)) = side.take().await? else { return Ok(page) };
        let record = Box::new(ObjectRecord::decode(&entry.value, entry.weight)?);
        // The versions of a key follow each other, from the newest.
        let is_latest = match page.items.last() {
            Some(ListedVersion::Version { key: before, .. }) => *before != key,
            Some(ListedVersion::Prefix(_)) => true,
            None => start.begun.as_ref() != Some(&key),
        };
        page.items.push(ListedVersion::Version { key, record, is_latest });
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use bytes::Bytes;
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::{BlockStore, Placement},
        bucket::{Attached, ETag, ObjectKind},
        id::ObjectKey,
        in_memory::MemoryBlocks,
        tree::{Edits, Salt, edit},
    };

    fn record(version: u64, kind: ObjectKind) -> ObjectRecord {
        ObjectRecord {
            kind,
            size: 0,
            etag: ETag::Md5([0; 16]),
            checksums: Vec::new(),
            time: version,
            seq: Seq { version, index: 0 },
            headers: Attached::default(),
            metadata: Attached::default(),
            tags: Attached::default(),
            acl: None,
            lock: None,
            sse: None,
            class: None,
            content: None,
            parts: None,
            fingerprint: None,
            is_versioned: true,
            null_at: None,
        }
    }

    /// Returns the trees of keys whose versions are markers or objects, from the oldest.
    fn trees(keys_of: &BTreeMap<String, Vec<bool>>) -> (Nodes, Tree, Tree) {
        let (mut objects, mut versions) = (Edits::new(), Edits::new());
        for (key, all) in keys_of {
            for (n, is_marker) in all.iter().enumerate() {
                let kind = if *is_marker { ObjectKind::DeleteMarker } else { ObjectKind::Object };
                let record = record(n as u64 + 1, kind);
                let value = Some((0, record.encode()));
                if n + 1 == all.len() && !is_marker {
                    objects.insert(Bytes::from(key.clone()), value);
                } else {
                    let key = ObjectKey::parse(key.clone()).unwrap();
                    versions.insert(keys::version(&key, record.seq), value);
                }
            }
        }
        let blocks = Arc::new(MemoryBlocks::default());
        let nodes = Nodes::new(blocks.clone(), 1 << 20);
        let trees = [objects, versions].map(|edits| {
            let edited = block_on(edit(&nodes, &Salt([1; 32]), &Tree::default(), &edits)).unwrap();
            block_on(blocks.put(&edited.blocks, Placement::Commit)).unwrap();
            edited.tree
        });
        (nodes, trees[0], trees[1])
    }

    type Line = (String, u64, bool);

    /// What a listing is, straight from its definition.
    fn model(keys_of: &BTreeMap<String, Vec<bool>>, prefix: &str, delimiter: &str) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for (key, all) in keys_of {
            let Some(rest) = key.strip_prefix(prefix) else { continue };
            if let Some(at) = rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                lines.push((format!("{prefix}{}", &rest[..at + delimiter.len()]), 0, false));
                continue;
            }
            for n in (0..all.len()).rev() {
                lines.push((key.clone(), n as u64 + 1, n + 1 == all.len()));
            }
        }
        lines.dedup();
        lines
    }

    proptest! {
        #[test]
        fn pages_join_to_the_whole_listing(
            keys_of in prop::collection::btree_map(
                "[\\x00a/]{1,4}", prop::collection::vec(any::<bool>(), 1..5), 0..40),
            prefix in "[a/]{0,2}",
            delimiter in prop_oneof![Just(""), Just("/")],
            limit in 1_usize..7,
        ) {
            let (nodes, objects, versions) = trees(&keys_of);
            let mut lines: Vec<Line> = Vec::new();
            let mut after: Option<(String, Option<Seq>)> = None;
            loop {
                let query = ListQuery {
                    prefix: &prefix,
                    delimiter,
                    after: after.as_ref().map(|(key, _)| key.as_str()),
                    limit,
                };
                let seq = after.as_ref().and_then(|(_, seq)| *seq);
                let page =
                    block_on(list_versions(&nodes, (&objects, &versions), &query, seq)).unwrap();
                prop_assert!(page.items.len() <= limit);
                for item in page.items {
                    let (line, seq) = match item {
                        ListedVersion::Version { key, record, is_latest } => {
                            ((key, record.seq.version, is_latest), Some(record.seq))
                        }
                        ListedVersion::Prefix(prefix) => ((prefix, 0, false), None),
                    };
                    after = Some((line.0.clone(), seq));
                    lines.push(line);
                }
                if !page.truncated {
                    break;
                }
            }
            prop_assert_eq!(lines, model(&keys_of, &prefix, delimiter));
        }
    }
}
