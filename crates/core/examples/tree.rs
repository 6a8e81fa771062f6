//! Makes a tree, edits it, and compares the two versions.
//!
//! A tree is an immutable sorted map, kept as blocks under one address. An edit makes a new tree that shares
//! all nodes but those on the changed paths, so old versions stay readable, and two versions are compared
//! without reading what they share.
//!
//! Run it with `cargo run --locked --ignore-rust-version -p fula-core --example tree`.

use std::sync::Arc;

use bytes::Bytes;
use fula_core::{
    StoreError,
    block::Placement,
    cbor,
    in_memory::MemoryBlocks,
    tree::{Change, Cursor, Edits, Entry, Nodes, Salt, Tree, diff, edit},
};
use futures::executor::block_on;

/// Bytes of decoded nodes that are kept in memory.
const CACHE_BYTES: u64 = 1 << 20;

/// Salt of the tree, on which the boundaries of nodes depend. Each bucket draws one at random.
const SALT: Salt = Salt([7; 32]);

/// Entries of the first version.
const ENTRIES: usize = 10_000;

fn main() -> Result<(), StoreError> {
    for line in block_on(compare())? {
        println!("{line}");
    }
    Ok(())
}

/// Returns the output of the program: a line about each version, and one for each difference.
async fn compare() -> Result<Vec<String>, StoreError> {
    let nodes = Nodes::new(Arc::new(MemoryBlocks::default()), CACHE_BYTES);

    let first: Edits = (0..ENTRIES).map(|n| set(&key(n), "as it was")).collect();
    let (old, made) = apply(&nodes, &Tree::default(), &first).await?;
    let mut said = vec![format!("{} entries in {made} new blocks", old.count)];

    let changes = Edits::from([
        set(&key(17), "changed"),
        set("a key of its own", "added"),
        (key(9_000).into(), None),
    ]);
    let (new, made) = apply(&nodes, &old, &changes).await?;
    said.push(format!("{} entries, with {made} new blocks", new.count));

    for change in diff(&nodes, &old, &new).await? {
        said.push(match change {
            Change::Added(entry) => format!("added {}", shown(&entry)),
            Change::Removed(entry) => format!("removed {}", shown(&entry)),
            Change::Changed { old, new } => format!("changed {} to {}", shown(&old), shown(&new)),
        });
    }

    // The old version is still there, and an entry is found by reading one node of each level.
    let before = old.get(&nodes, key(17).as_bytes()).await?;
    said.push(format!("before: {}", before.as_ref().map_or("nothing".to_owned(), shown)));

    let mut cursor = Cursor::new(&nodes, &new);
    cursor.seek(b"key 09999").await?;
    while let Some(entry) = cursor.next().await? {
        said.push(format!("at the end: {}", shown(&entry)));
    }
    Ok(said)
}

/// Edits a tree and stores its new nodes; returns the new tree and the number of these nodes.
async fn apply(nodes: &Nodes, tree: &Tree, edits: &Edits) -> Result<(Tree, usize), StoreError> {
    let edited = edit(nodes, &SALT, tree, edits).await?;
    nodes.blocks().put(&edited.blocks, Placement::Commit).await?;
    Ok((edited.tree, edited.blocks.len()))
}

fn key(n: usize) -> String {
    format!("key {n:05}")
}

/// Returns the edit that sets a key to a text. A record is one value in dag-cbor. Its weight is a number whose
/// sum the tree keeps; a bucket counts the bytes of its objects with it.
fn set(key: &str, text: &str) -> (Bytes, Option<(u64, Bytes)>) {
    let mut record = cbor::Writer::default();
    record.text(text);
    (Bytes::copy_from_slice(key.as_bytes()), Some((text.len() as u64, record.finish())))
}

fn shown(entry: &Entry) -> String {
    let text = cbor::Reader::new(&entry.value).text().unwrap_or("no text");
    format!("{:?} = {text:?}", String::from_utf8_lossy(&entry.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_share_what_did_not_change() {
        let said = block_on(compare()).unwrap();
        assert_eq!(
            said[2..],
            [
                r#"added "a key of its own" = "added""#,
                r#"changed "key 00017" = "as it was" to "key 00017" = "changed""#,
                r#"removed "key 09000" = "as it was""#,
                r#"before: "key 00017" = "as it was""#,
                r#"at the end: "key 09999" = "as it was""#,
            ]
        );
        assert!(said[0].starts_with("10000 entries"), "{said:?}");
        assert!(said[1].starts_with("10000 entries"), "{said:?}");
    }
}
