//! Checks a store: whether every block that a root needs is there and intact, and whether the counters are
//! right.

mod walk;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fula_core::{
    BlockStore, BucketAddress, Cid, Codec, RootPointer, StoreError,
    block::Position,
    bucket::{BucketRoot, keys},
    cbor::Reader,
    content::FileNode,
    root::{RootRow, TimeMs},
    tree::{Cursor, Nodes, Tree},
};

use self::walk::Walk;

/// Largest number of problems that are listed. Of more problems only the number is reported.
pub const NAMED_MAX: usize = 20_000;

/// A fault of a block or of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A block that is needed is missing.
    Missing(Cid),
    /// The bytes of a block do not match its address.
    Damaged(Cid),
    /// A block is intact, but is not what its parent says.
    Malformed(Cid, &'static str),
    /// The root and the row of a bucket disagree.
    RowDisagrees,
    /// The counters of a tree do not match its entries.
    Counters {
        /// Count and bytes according to the root.
        said: (u64, u64),
        /// Count and bytes that were found.
        found: (u64, u64),
    },
}

impl Fault {
    /// Returns the block that is missing, damaged or malformed.
    pub fn cid(&self) -> Option<Cid> {
        match self {
            Self::Missing(cid) | Self::Damaged(cid) | Self::Malformed(cid, _) => Some(*cid),
            Self::RowDisagrees | Self::Counters { .. } => None,
        }
    }
}

/// The name of a tree of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TreeName {
    /// Objects by key.
    Objects,
    /// Older versions of objects.
    Versions,
    /// Uploads in progress, and their parts.
    Uploads,
    /// Answers that are remembered for retries.
    Recent,
}

impl TreeName {
    /// Returns the object key of an entry of the tree.
    fn object_key(self, key: &[u8]) -> String {
        let upload = match self {
            Self::Uploads => keys::parse_upload(key).map(|(key, _, _)| key),
            Self::Objects | Self::Versions | Self::Recent => None,
        };
        upload.unwrap_or_else(|| String::from_utf8_lossy(key).into_owned())
    }
}

/// The part of a bucket that a problem affects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole bucket.
    Bucket,
    /// A whole tree.
    Tree(TreeName),
    /// Content or attributes of one entry.
    Key(TreeName, String),
    /// All entries after one key and up to another. `None` stands for the beginning or the end of the tree.
    Keys(TreeName, Option<String>, Option<String>),
}

/// A problem of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The affected part.
    pub place: Place,
    /// The fault.
    pub fault: Fault,
}

/// The result of checking one bucket.
#[derive(Clone, Debug)]
pub struct Report {
    /// Address of the bucket.
    pub bucket: BucketAddress,
    /// Number of blocks that were read for it.
    pub blocks: u64,
    /// The problems, up to [`NAMED_MAX`].
    pub problems: Vec<Problem>,
    /// Number of all problems.
    pub count: u64,
}

/// Results of earlier checks, so that blocks which several buckets share are read once.
#[derive(Debug, Default)]
pub struct Checked {
    /// Blocks that are good, with everything below them.
    good: HashSet<Cid>,
    /// Faults of blocks of content, and of those below them.
    content: HashMap<Cid, Found<Fault>>,
    /// Problems of tree nodes, and of the blocks below them.
    trees: HashMap<(TreeName, Cid), Found<Problem>>,
    /// Number of blocks read so far.
    blocks: Arc<AtomicU64>,
}

impl Checked {
    /// Returns an empty value that also counts the blocks read in `blocks`, to show progress.
    pub fn counting(blocks: Arc<AtomicU64>) -> Self {
        Self { blocks, ..Self::default() }
    }

    /// Returns whether a block was found good, with everything below it.
    pub fn is_good(&self, cid: &Cid) -> bool {
        self.good.contains(cid)
    }
}

/// A list of findings that keeps the first ones and the number of all.
#[derive(Clone, Debug)]
struct Found<T> {
    named: Vec<T>,
    count: u64,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { named: Vec::new(), count: 0 }
    }
}

impl<T> Found<T> {
    fn one(found: T) -> Self {
        Self { named: vec![found], count: 1 }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, more: Self) {
        let room = NAMED_MAX.saturating_sub(self.named.len());
        self.named.extend(more.named.into_iter().take(room));
        self.count += more.count;
    }

    /// Leaves out findings. Those that are not named are taken for the same kind as the named ones.
    fn without(mut self, is_left_out: impl Fn(&T) -> bool) -> Self {
        let unnamed = self.count - self.named.len() as u64;
        self.named.retain(|found| !is_left_out(found));
        self.count = if self.named.is_empty() { 0 } else { self.named.len() as u64 + unnamed };
        self
    }

    fn map<U>(self, with: impl FnMut(T) -> U) -> Found<U> {
        Found { named: self.named.into_iter().map(with).collect(), count: self.count }
    }
}

/// Checks everything that is reachable from a row. `checked` holds the results of earlier checks.
///
/// # Errors
/// [`StoreError::Unavailable`]: the check could not be made.
pub async fn check_bucket(
    nodes: &Nodes,
    row: &RootRow,
    checked: &mut Checked,
) -> Result<Report, StoreError> {
    let before = checked.blocks.load(Ordering::Relaxed);
    let mut walk = Walk::new(nodes.blocks().as_ref(), checked);
    let mut found = walk.root(row.pointer.root).await?;
    if found.is_empty() {
        found.add(check_root(nodes, row).await?);
    }
    let blocks = checked.blocks.load(Ordering::Relaxed) - before;
    let Found { named: problems, count } = found;
    Ok(Report { bucket: row.address.clone(), blocks, problems, count })
}

/// Returns the links of a block.
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

/// Returns the trees of a root, by name.
pub(crate) fn trees(root: &BucketRoot) -> [(TreeName, Tree); 4] {
    [
        (TreeName::Objects, root.objects),
        (TreeName::Versions, root.versions),
        (TreeName::Uploads, root.uploads),
        (TreeName::Recent, root.recent),
    ]
}

/// Compares a complete root with its row, and its counters with its entries.
async fn check_root(nodes: &Nodes, row: &RootRow) -> Result<Found<Problem>, StoreError> {
    let mut found = Found::default();
    let Some(block) = nodes.blocks().get(&row.pointer.root).await? else { return Ok(found) };
    let root = BucketRoot::from_block(&block)?;
    let agree = (root.owner, &root.name) == (row.address.owner, &row.address.name)
        && (root.version, root.id) == (row.pointer.version, row.bucket_id);
    if !agree {
        let fault = Fault::RowDisagrees;
        found.add(Found::one(Problem { place: Place::Bucket, fault }));
    }
    for (name, tree) in trees(&root) {
        let counted = totals(nodes, &tree).await?;
        let said = (tree.count, tree.bytes);
        if said != counted {
            let fault = Fault::Counters { said, found: counted };
            found.add(Found::one(Problem { place: Place::Tree(name), fault }));
        }
    }
    Ok(found)
}

/// Counts the entries of a tree one by one.
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

/// Finds the newest root of every bucket among all blocks of a store, which is what its arbiter knew last.
///
/// # Errors
/// [`StoreError::Unavailable`]. Blocks that cannot be read are skipped.
pub async fn newest_roots(blocks: &dyn BlockStore) -> Result<Vec<RootRow>, StoreError> {
    // Of two roots with one version, the younger one was tried after the swap of the other had failed.
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
