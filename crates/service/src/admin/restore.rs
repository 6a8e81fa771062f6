//! Finds the newest readable root of a bucket whose current root cannot be read (docs/adr/0040).

use std::collections::{BTreeMap, BTreeSet};

use fula_core::{
    Block, BlockStore, BucketAddress, Cid, Codec, RootPointer, StoreError,
    block::Position,
    bucket::{AUTHORS_MAX, Author, BucketRoot, ROOT_BYTES_MAX},
    root::{RootRow, TimeMs},
    tree::Nodes,
};
use futures::{StreamExt, TryStreamExt, stream};

use super::fsck::{Checked, Fault, Place, Problem, check_bucket};
use crate::limits::AUTHORS_KEPT_MS;

/// Number of roots of one bucket, the newest ones, that are kept while the store is searched.
const ROOTS_MAX: usize = 256;

/// Number of blocks that are read at a time.
const CONCURRENCY: usize = 16;

/// An older root that a bucket can be restored to.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Row of the bucket in the arbiter.
    pub row: RootRow,
    /// Address of the root.
    pub root: Cid,
    /// Version of the root. The commits after it, up to the version of the row, are lost.
    pub version: u64,
    /// Time of the commit of the root.
    pub time: TimeMs,
    /// Number of objects in the root, and sum of their sizes in bytes.
    pub objects: (u64, u64),
    /// The same for the current root, if its root block can be read.
    pub lost_objects: Option<(u64, u64)>,
    /// Blocks of the root that are missing or damaged. Only content of single keys is affected.
    pub problems: Vec<Problem>,
}

/// Returns whether a problem affects more than single keys, so that the bucket as a whole cannot be used.
pub fn is_unreadable(problems: &[Problem]) -> bool {
    problems.iter().any(|Problem { place, fault }| {
        let is_lost = matches!(fault, Fault::Missing(_) | Fault::Damaged(_));
        is_lost && matches!(place, Place::Bucket | Place::Tree(_) | Place::Keys(..))
    })
}

/// A bucket whose current root cannot be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Row of the bucket.
    pub row: RootRow,
    /// Authors of the current root, if they are known ([`crate::Arbiter::authors_of`]).
    pub authors: Option<Vec<Author>>,
}

/// Finds for each bucket the newest root of which everything can be read except content of single keys.
/// Reads every block of the store that may be a root.
///
/// # Errors
/// [`StoreError::Unavailable`]. Blocks that cannot be read are skipped.
pub async fn offers(
    nodes: &Nodes,
    buckets: &[Unreadable],
    checked: &mut Checked,
) -> Result<Vec<Offer>, StoreError> {
    let mut candidates = search(nodes.blocks().as_ref(), buckets).await?;
    let mut offers = Vec::new();
    for Unreadable { row, .. } in buckets {
        let roots = candidates.remove(&row.address).unwrap_or_default();
        let current = roots.values().find(|found| found.cid == row.pointer.root);
        let lost_objects =
            current.map(|found| (found.root.objects.count, found.root.objects.bytes));
        for found in by_age(&roots) {
            if found.cid == row.pointer.root {
                continue;
            }
            let pointer =
                RootPointer { root: found.cid, version: found.root.version, generation: 0 };
            let older = RootRow { pointer, ..row.clone() };
            let report = check_bucket(nodes, &older, checked).await?;
            if is_unreadable(&report.problems) {
                continue;
            }
            offers.push(Offer {
                row: row.clone(),
                root: found.cid,
                version: found.root.version,
                time: found.root.time,
                objects: (found.root.objects.count, found.root.objects.bytes),
                lost_objects,
                problems: report.problems,
            });
            break;
        }
    }
    Ok(offers)
}

impl Unreadable {
    /// Returns whether a root may have been published before the current one. If the authors of the current
    /// root are known, they tell a published root from one that lost its swap: a published root has exactly
    /// those commits of the current one that are not newer than it.
    fn may_have_had(&self, root: &BucketRoot) -> bool {
        let row = &self.row;
        if row.bucket_id != root.id || root.version > row.pointer.version {
            return false;
        }
        let Some(authors) = &self.authors else { return true };
        let newest = |writer| authors.iter().find(|author| author.writer == writer);
        // A full list drops its oldest entries, and every list drops old ones.
        let oldest = authors.iter().map(|author| author.version).min().unwrap_or(0);
        let latest = authors.iter().map(|author| author.time).max().unwrap_or(0);
        let is_forgotten = |author: &Author| {
            (authors.len() >= AUTHORS_MAX && author.version < oldest)
                || author.time.saturating_add(AUTHORS_KEPT_MS) <= latest
        };
        let is_known = |author: &Author| {
            newest(author.writer).is_some_and(|newest| newest.version >= author.version)
                || is_forgotten(author)
        };
        let is_there = |author: &Author| root.authored(author.writer) >= Some(author.version);
        let mut earlier = authors.iter().filter(|author| author.version <= root.version);
        root.authors.iter().all(is_known) && earlier.all(is_there)
    }
}

/// A root block that was found.
#[derive(Clone, Debug)]
struct FoundRoot {
    cid: Cid,
    root: BucketRoot,
}

/// Roots of one bucket by version, time and address.
type Roots = BTreeMap<(u64, TimeMs, [u8; Cid::BYTES]), FoundRoot>;

/// Returns the roots, newest first. Only one of several roots with one version was published. If a later
/// root names one as its parent, it was that one. Otherwise the younger comes first: it was tried after the
/// swap of the other had failed.
fn by_age(roots: &Roots) -> Vec<&FoundRoot> {
    let parents: BTreeSet<Cid> = roots.values().filter_map(|found| found.root.parent).collect();
    let mut sorted: Vec<&FoundRoot> = roots.values().collect();
    let age =
        |found: &&FoundRoot| (found.root.version, parents.contains(&found.cid), found.root.time);
    sorted.sort_by_key(|found| std::cmp::Reverse(age(found)));
    sorted
}

/// Finds the newest roots of some buckets among all blocks of a store. Leaves out roots of another life of
/// the name, and roots beyond the version that the arbiter has.
async fn search(
    blocks: &dyn BlockStore,
    buckets: &[Unreadable],
) -> Result<BTreeMap<BucketAddress, Roots>, StoreError> {
    let wanted: BTreeMap<&BucketAddress, &Unreadable> =
        buckets.iter().map(|bucket| (&bucket.row.address, bucket)).collect();
    let mut found: BTreeMap<BucketAddress, Roots> = BTreeMap::new();
    let mut from = Some(Position::default());
    while let Some(position) = from {
        let listed = blocks.list(position).await?;
        from = listed.next;
        let may_be_root = |(cid, bytes): &(Cid, u64)| {
            cid.codec() == Codec::DagCbor && *bytes <= ROOT_BYTES_MAX as u64
        };
        let reads: Vec<_> = listed
            .blocks
            .into_iter()
            .filter(may_be_root)
            .map(|(cid, _)| readable(blocks, cid))
            .collect();
        let mut reads = stream::iter(reads).buffer_unordered(CONCURRENCY);
        while let Some(read) = reads.try_next().await? {
            let Some(block) = read else { continue };
            let Ok(root) = BucketRoot::from_block(&block) else { continue };
            let address = BucketAddress::new(root.owner, root.name.clone());
            let wanted = wanted.get(&address).filter(|bucket| bucket.may_have_had(&root));
            let Some(bucket) = wanted else { continue };
            let cid = block.cid();
            let roots = found.entry(bucket.row.address.clone()).or_default();
            roots.insert((root.version, root.time, cid.to_bytes()), FoundRoot { cid, root });
            if roots.len() > ROOTS_MAX {
                roots.pop_first();
            }
        }
    }
    Ok(found)
}

/// Reads a block. Returns `None` for a block that cannot be read.
async fn readable(blocks: &dyn BlockStore, cid: Cid) -> Result<Option<Block>, StoreError> {
    match blocks.get(&cid).await {
        Err(StoreError::Damaged { .. }) => Ok(None),
        read => read,
    }
}
