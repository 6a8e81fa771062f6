//! Listing keys by prefix and delimiter, one page at a time.
//!
//! One seek skips all keys below a common prefix. A page therefore costs O(page × log n) nodes,
//! however many keys lie below its prefixes.

use std::collections::BTreeSet;

use crate::{
    error::StoreError,
    tree::{Cursor, Entry, Nodes, Tree, after_prefix},
};

/// Which keys a page lists, and how many at most.
#[derive(Clone, Debug, Default)]
pub struct ListQuery<'a> {
    /// Lists only keys that start with this.
    pub prefix: &'a str,
    /// Keys that contain this after the prefix are listed as one common prefix. Empty for no delimiter.
    pub delimiter: &'a str,
    /// Lists only keys and common prefixes that sort after this one.
    pub after: Option<&'a str>,
    /// Largest number of items, keys and common prefixes together.
    pub limit: usize,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A key and its entry.
    Key(String, Entry),
    /// A common prefix, including the delimiter.
    Prefix(String),
}

impl Listed {
    /// Returns the key, or the common prefix.
    pub fn name(&self) -> &str {
        match self {
            Self::Key(name, _) | Self::Prefix(name) => name,
        }
    }
}

/// One page of a listing, in order of name.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Keys and common prefixes.
    pub items: Vec<Listed>,
    /// Whether more items follow after the last one.
    pub truncated: bool,
}

/// Returns one page of the keys of `objects`.
///
/// # Errors
/// [`StoreError`] of a node read; [`StoreError::Malformed`] for a key that is not UTF-8.
///
/// # Example
///
/// ```
/// # use std::sync::Arc;
/// use fula_core::{
///     block::Placement,
///     bucket::{ListQuery, Listed, list_page},
///     cbor,
///     in_memory::MemoryBlocks,
///     tree::{Edits, Nodes, Salt, Tree, edit},
/// };
///
/// # futures::executor::block_on(async {
/// let nodes = Nodes::new(Arc::new(MemoryBlocks::default()), 1 << 20);
/// let mut edits = Edits::default();
/// for key in ["a.txt", "photos/1.jpg", "photos/2.jpg"] {
///     let mut record = cbor::Writer::default();
///     record.text(key);
///     edits.insert(key.into(), Some((0, record.finish())));
/// }
/// let objects = edit(&nodes, &Salt([7; 32]), &Tree::default(), &edits).await?;
/// nodes.blocks().put(&objects.blocks, Placement::Commit).await?;
///
/// let query = ListQuery { delimiter: "/", limit: 10, ..ListQuery::default() };
/// let page = list_page(&nodes, &objects.tree, &query).await?;
/// let names: Vec<&str> = page.items.iter().map(Listed::name).collect();
/// assert_eq!(names, ["a.txt", "photos/"]);
/// # Ok::<(), fula_core::StoreError>(())
/// # })
/// # .unwrap();
/// ```
pub async fn list_page(
    nodes: &Nodes,
    objects: &Tree,
    query: &ListQuery<'_>,
) -> Result<ListPage, StoreError> {
    let mut page = ListPage::default();
    if query.limit == 0 {
        return Ok(page);
    }
    let mut cursor = Cursor::new(nodes, objects);
    let Some(mut from) = first_key(query) else { return Ok(page) };
    let mut prefixes = BTreeSet::new();
    loop {
        cursor.seek(&from).await?;
        let skip_to = loop {
            let Some(entry) = cursor.next().await? else { return Ok(page) };
            let key = std::str::from_utf8(&entry.key)
                .map_err(|_| StoreError::Malformed { what: "object key", why: "not UTF-8" })?;
            let Some(rest) = key.strip_prefix(query.prefix) else { return Ok(page) };
            if page.items.len() == query.limit {
                page.truncated = true;
                return Ok(page);
            }
            match common_prefix(query, rest) {
                Some(prefix) => {
                    let next = after_prefix(prefix.as_bytes());
                    if prefixes.insert(prefix.clone()) {
                        page.items.push(Listed::Prefix(prefix));
                    }
                    break next;
                }
                None => page.items.push(Listed::Key(key.to_owned(), entry)),
            }
        };
        let Some(next) = skip_to else { return Ok(page) };
        from = next.to_vec();
    }
}

/// Returns where the scan begins, or `None` when nothing can match.
fn first_key(query: &ListQuery<'_>) -> Option<Vec<u8>> {
    let prefix = query.prefix.as_bytes();
    let Some(after) = query.after.filter(|after| after.as_bytes() >= prefix) else {
        return Some(prefix.to_vec());
    };
    // When the last name was a common prefix, all keys below it were covered.
    if let Some(rest) = after.strip_prefix(query.prefix)
        && let Some(rolled) = common_prefix(query, rest)
        && rolled == after
    {
        return after_prefix(after.as_bytes()).map(|next| next.to_vec());
    }
    Some([after.as_bytes(), &[0]].concat())
}

pub(super) fn common_prefix(query: &ListQuery<'_>, rest: &str) -> Option<String> {
    if query.delimiter.is_empty() {
        return None;
    }
    let at = rest.find(query.delimiter)?;
    Some(format!("{}{}", query.prefix, &rest[..at + query.delimiter.len()]))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use bytes::Bytes;
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::{BlockStore, Placement},
        in_memory::MemoryBlocks,
        tree::{Edits, Salt, edit},
    };

    fn tree(keys: &BTreeSet<String>) -> (Nodes, Tree) {
        let blocks = Arc::new(MemoryBlocks::default());
        let nodes = Nodes::new(blocks.clone(), 1 << 20);
        let record = |key: &String| (Bytes::from(key.clone()), Some((1, Bytes::from_static(&[0]))));
        let edits: Edits = keys.iter().map(record).collect();
        let edited = block_on(edit(&nodes, &Salt([1; 32]), &Tree::default(), &edits)).unwrap();
        block_on(blocks.put(&edited.blocks, Placement::Commit)).unwrap();
        (nodes, edited.tree)
    }

    /// What S3 says a listing is, straight from its definition.
    fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str) -> Vec<String> {
        let mut names: Vec<String> = keys
            .iter()
            .filter_map(|key| {
                let rest = key.strip_prefix(prefix)?;
                let rolled = rest.find(delimiter).filter(|_| !delimiter.is_empty());
                let end = rolled.map_or(rest.len(), |at| at + delimiter.len());
                Some(format!("{prefix}{}", &rest[..end]))
            })
            .collect();
        names.dedup();
        names
    }

    proptest! {
        #[test]
        fn pages_join_to_the_whole_listing(
            keys in prop::collection::btree_set("[ab/]{1,6}", 0..80),
            prefix in "[ab/]{0,2}",
            delimiter in prop_oneof![Just(""), Just("/"), Just("b/")],
            limit in 1_usize..7,
        ) {
            let (nodes, tree) = tree(&keys);
            let mut names = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let query =
                    ListQuery { prefix: &prefix, delimiter, after: after.as_deref(), limit };
                let page = block_on(list_page(&nodes, &tree, &query)).unwrap();
                prop_assert!(page.items.len() <= limit);
                names.extend(page.items.iter().map(|item| item.name().to_owned()));
                if !page.truncated {
                    break;
                }
                prop_assert_eq!(page.items.len(), limit);
                after = names.last().cloned();
            }
            prop_assert_eq!(names, model(&keys, &prefix, delimiter));
        }
    }

    #[test]
    fn start_after_inside_a_prefix_still_lists_the_prefix() {
        let keys = ["a/1", "a/2", "b"].map(ToOwned::to_owned).into();
        let (nodes, tree) = tree(&keys);
        let query = ListQuery { delimiter: "/", after: Some("a/1"), limit: 10, prefix: "" };
        let page = block_on(list_page(&nodes, &tree, &query)).unwrap();
        let names: Vec<_> = page.items.iter().map(Listed::name).collect();
        assert_eq!(names, ["a/", "b"]);
    }

    #[test]
    fn a_limit_of_zero_lists_nothing_and_is_not_truncated() {
        let (nodes, tree) = tree(&["a".to_owned()].into());
        let page = block_on(list_page(&nodes, &tree, &ListQuery::default())).unwrap();
        assert!(page.items.is_empty() && !page.truncated);
    }
}
