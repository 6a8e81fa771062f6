//! Checking a store: is everything a root needs there and intact, and do the counters hold?

use std::{
    collections::{BTreeMap, HashSet},
    hash::BuildHasher,
};

use fula_core::{
    BlockStore, BucketAddress, Cid, Codec, RootPointer, StoreError,
    block::Position,
    bucket::BucketRoot,
    cbor::Reader,
    content::FileNode,
    root::{RootRow, TimeMs},
    tree::{Cursor, Nodes, Tree},
};

/// Something wrong with a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A block is needed but not there.
    Missing(Cid),
    /// A block's bytes are not what its address says.
    Damaged(Cid),
    /// A block is intact but is not what its place calls for.
    Malformed(Cid, &'static str),
    /// Root and row disagree.
    RowDisagrees,
    /// A tree's counters are not those of its entries.
    Counters {
        /// Which tree.
        tree: &'static str,
        /// Count and bytes that the root says.
        said: (u64, u64),
        /// Count and bytes found.
        found: (u64, u64),
    },
}

/// What checking one bucket came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which bucket.
    pub bucket: BucketAddress,
    /// Blocks read.
    pub blocks: u64,
    /// Everything wrong.
    pub problems: Vec<Problem>,
}

/// Checks everything reachable from a row. `seen` holds blocks found good before.
///
/// # Errors
/// [`StoreError::Unavailable`]: the check could not be made.
pub async fn check_bucket(
    nodes: &Nodes,
    row: &RootRow,
    seen: &mut HashSet<Cid, impl BuildHasher>,
) -> Result<Report, StoreError> {
    let blocks = nodes.blocks().as_ref();
    let mut report = Report { bucket: row.address.clone(), blocks: 0, problems: Vec::new() };
    let mut stack = vec![row.pointer.root];
    while let Some(cid) = stack.pop() {
        if !seen.insert(cid) {
            continue;
        }
        report.blocks += 1;
        let problem = match blocks.get(&cid).await {
            Ok(Some(block)) => match links(&cid, &block) {
                Ok(found) => {
                    stack.extend(found);
                    continue;
                }
                Err(why) => Problem::Malformed(cid, why),
            },
            Ok(None) => Problem::Missing(cid),
            Err(StoreError::Damaged { .. }) => Problem::Damaged(cid),
            Err(error) => return Err(error),
        };
        report.problems.push(problem);
    }
    if report.problems.is_empty() {
        check_root(nodes, row, &mut report).await?;
    }
    Ok(report)
}

/// Returns what a block links to.
pub(crate) fn links(cid: &Cid, block: &fula_core::Block) -> Result<Vec<Cid>, &'static str> {
    let mut found = Vec::new();
    match cid.codec() {
        Codec::Raw => {}
        Codec::DagCbor => {
            Reader::links(block.bytes(), &mut |link| found.push(link)).map_err(|error| error.0)?;
        }
        Codec::DagPb => {
            let node = FileNode::from_block(block).map_err(|_| "not a file node")?;
            found.extend(node.links.iter().map(|link| link.cid));
        }
    }
    Ok(found)
}

async fn check_root(nodes: &Nodes, row: &RootRow, report: &mut Report) -> Result<(), StoreError> {
    let Some(block) = nodes.blocks().get(&row.pointer.root).await? else { return Ok(()) };
    let root = BucketRoot::from_block(&block)?;
    let agree = (root.owner, &root.name) == (row.address.owner, &row.address.name)
        && (root.version, root.id) == (row.pointer.version, row.bucket_id);
    if !agree {
        report.problems.push(Problem::RowDisagrees);
    }
    let trees = [
        ("objects", root.objects),
        ("versions", root.versions),
        ("uploads", root.uploads),
        ("recent", root.recent),
    ];
    for (name, tree) in trees {
        let found = totals(nodes, &tree).await?;
        let said = (tree.count, tree.bytes);
        if said != found {
            report.problems.push(Problem::Counters { tree: name, said, found });
        }
    }
    Ok(())
}

/// Counts a tree's entries one by one.
async fn totals(nodes: &Nodes, tree: &Tree) -> Result<(u64, u64), StoreError> {
    let mut cursor = Cursor::new(nodes, tree);
    cursor.seek(b"").await?;
    let mut totals = (0, 0);
    while let Some(entry) = cursor.next().await? {
        totals.0 += 1;
        totals.1 += entry.weight;
    }
    Ok(totals)
}

/// Finds the newest root of every bucket among all blocks of a store: what its arbiter said last.
///
/// # Errors
/// [`StoreError::Unavailable`]. Blocks that cannot be read are passed over.
pub async fn newest_roots(blocks: &dyn BlockStore) -> Result<Vec<RootRow>, StoreError> {
    // Of two roots with one version, the younger was tried after the other came to nothing.
    let mut newest: BTreeMap<BucketAddress, ((u64, TimeMs), RootRow)> = BTreeMap::new();
    let mut from = Some(Position::default());
    while let Some(position) = from {
        let listed = blocks.list(position).await?;
        from = listed.next;
        for (cid, bytes) in listed.blocks {
            let may_be_root =
                cid.codec() == Codec::DagCbor && bytes <= fula_core::bucket::ROOT_BYTES_MAX as u64;
            if !may_be_root {
                continue;
            }
            let block = match blocks.get(&cid).await {
                Ok(Some(block)) => block,
                Ok(None) | Err(StoreError::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let Ok(root) = BucketRoot::from_block(&block) else { continue };
            let row = RootRow {
                address: BucketAddress::new(root.owner, root.name),
                pointer: RootPointer { root: cid, version: root.version, generation: 0 },
                bucket_id: root.id,
                created: root.created,
                deleted: root.deleted,
                global_name: false,
                claim: None,
            };
            let age = (root.version, root.time);
            if newest.get(&row.address).is_none_or(|(known, _)| *known < age) {
                newest.insert(row.address.clone(), (age, row));
            }
        }
    }
    Ok(newest.into_values().map(|(_, row)| row).collect())
}
