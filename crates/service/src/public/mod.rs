//! Reads of public objects by CID, without a bucket and a key (docs/adr/0050).
//!
//! An index in memory says which public objects have a block. A background task keeps it up to date: it looks
//! at the rows of all buckets, and compares the trees of the public ones with those it saw before. The index is
//! only a hint. Each read asks again whether the object is public and still has that content, so a block is
//! given out only if anyone could read the object at that moment.

mod index;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fula_core::{
    Block, BlockStore, BucketAddress, Cid, Codec, ObjectKey, StoreError,
    block::require,
    bucket::{BucketRoot, ObjectKind, ObjectRecord},
    content::FileNode,
    root::RootRow,
    tree::{Change, Cursor, Entry, Tree, diff},
};
use parking_lot::RwLock;
use tokio::time::Instant;

use self::index::{Candidate, Index};
use crate::{
    auth::{access::Action, bucket_policy::BucketAccess},
    caller::Caller,
    commit::content_of,
    error::ServiceError,
    pins::PinnedBlocks,
    service::{Freshness, Service},
};

/// Number of rows that are read at a time.
const PAGE: usize = 512;

/// Shortest time between two looks at all rows.
const REST_MIN: Duration = Duration::from_secs(1);

/// A look rests this many times as long as it took.
const REST_PART: u32 = 9;

/// Number of entries after which a walk lets requests go first.
const STEP: u32 = 64;

/// The blocks of one public object. They stay while this is held.
#[derive(Debug)]
pub struct PublicObject {
    blocks: Arc<dyn BlockStore>,
    _kept: PinnedBlocks,
}

impl PublicObject {
    /// Returns a block of the object.
    ///
    /// # Errors
    /// [`StoreError`], also for a block that is missing.
    pub async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        require(self.blocks.as_ref(), cid).await
    }
}

/// The reason why it cannot be said whether a block is public.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The process started a moment ago. Try again later.
    #[error("the index of public objects is not complete yet")]
    NotReady,
    /// A bucket cannot be read.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// What the index knows of a bucket.
#[derive(Debug)]
struct Known {
    root: Cid,
    /// Address of the settings, which have the policy.
    settings: Option<Cid>,
    objects: Tree,
}

/// Finds public objects by the blocks that they have. Clones share one index.
#[derive(Clone, Debug)]
pub struct PublicReads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service,
    index: RwLock<Index>,
    /// Whether all buckets were looked at since the start.
    is_complete: AtomicBool,
}

impl PublicReads {
    /// Serves the public objects of `service`, with an index of at most `bytes_max` bytes.
    pub fn new(service: Service, bytes_max: usize) -> Self {
        let index = RwLock::new(Index::new(bytes_max));
        Self(Arc::new(Inner { service, index, is_complete: AtomicBool::new(false) }))
    }

    /// Finds a public object that has a block. `None` if there is none.
    ///
    /// # Errors
    /// [`FindError::NotReady`] for any block that is not found while the index is not complete. The errors of
    /// reading a bucket.
    pub async fn find(&self, cid: &Cid) -> Result<Option<PublicObject>, FindError> {
        let found = self.0.index.read().find(cid);
        for candidate in found {
            if let Some(object) = self.open(&candidate).await? {
                return Ok(Some(object));
            }
        }
        if self.0.is_complete.load(Ordering::Acquire) { Ok(None) } else { Err(FindError::NotReady) }
    }

    /// Opens an object, if anyone may read it and it still has the content that was indexed.
    async fn open(&self, candidate: &Candidate) -> Result<Option<PublicObject>, ServiceError> {
        let (service, anyone) = (&self.0.service, Caller::default());
        let Ok(key) = ObjectKey::parse(candidate.key.to_string()) else { return Ok(None) };
        service.note_read(&anyone);
        let state = service.state(&anyone, &candidate.bucket, Freshness::MayBeStale).await?;
        let Some(head) = state else { return Ok(None) };
        let access = service.access_of(&anyone, &head.root, Action::GetObject).await?;
        if !access.opens_always(&resource(&candidate.bucket, key.as_str())) {
            return Ok(None);
        }
        anyone.pins.pin_head(&head);
        let record = match service.found(&head, &key, None).await {
            Ok(record) => record,
            Err(ServiceError::NoSuchKey | ServiceError::DeleteMarker { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // What is stored of an encrypted object is of no use to readers.
        if record.content != Some(candidate.content) || record.sse.is_some() {
            return Ok(None);
        }
        let began = anyone.pins.read_since().or(service.arbiter().time()).unwrap_or_default();
        let mut kept = PinnedBlocks::of_read(service.arbiter().pins(), began);
        kept.add([content_of(&record)?]);
        Ok(Some(PublicObject { blocks: service.blocks_of(&record), _kept: kept }))
    }

    /// Keeps the index up to date, for ever.
    pub async fn watch(self) {
        let (mut known, mut was_well, mut told) = (HashMap::new(), true, 0);
        loop {
            let began = Instant::now();
            match self.look(&mut known).await {
                Ok(()) => {
                    was_well = true;
                    self.0.is_complete.store(true, Ordering::Release);
                }
                Err(error) => {
                    let why = crate::error::chain(&error);
                    if std::mem::replace(&mut was_well, false) {
                        tracing::warn!(why, "public objects cannot be indexed; trying again");
                    }
                }
            }
            let (objects, left_out) = self.0.index.read().count();
            let count = u32::try_from(objects).unwrap_or(u32::MAX);
            metrics::gauge!("fula_public_objects").set(f64::from(count));
            if left_out > told {
                tracing::warn!(
                    left_out,
                    "the index of public objects is full: raise FULA_CID_INDEX, or some stay without reads by CID"
                );
                metrics::counter!("fula_public_left_out_total").absolute(left_out);
                told = left_out;
            }
            tokio::time::sleep((began.elapsed() * REST_PART).max(REST_MIN)).await;
        }
    }

    /// Looks at all buckets once.
    async fn look(
        &self,
        known: &mut HashMap<Arc<BucketAddress>, Known>,
    ) -> Result<(), ServiceError> {
        let (arbiter, mut after, mut seen) = (self.0.service.arbiter(), None, HashSet::new());
        loop {
            let page = arbiter.scan_buckets(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.address.clone());
            for row in page.into_iter().filter(|row| row.deleted.is_none()) {
                let address = Arc::new(row.address.clone());
                seen.insert(Arc::clone(&address));
                if known.get(&address).is_some_and(|known| known.root == row.pointer.root) {
                    continue;
                }
                match self.bucket(&address, &row, known.remove(&address)).await {
                    Ok(now) => {
                        known.insert(address, now);
                    }
                    // A root that was replaced meanwhile may be collected. The next look sees the newer one.
                    Err(ServiceError::Damaged(_)) => self.0.index.write().remove_bucket(&address),
                    Err(error) => return Err(error),
                }
            }
        }
        let gone: Vec<_> =
            known.keys().filter(|address| !seen.contains(*address)).cloned().collect();
        for address in gone {
            known.remove(&address);
            self.0.index.write().remove_bucket(&address);
        }
        Ok(())
    }

    /// Brings the index up to date with one bucket.
    async fn bucket(
        &self,
        address: &Arc<BucketAddress>,
        row: &RootRow,
        known: Option<Known>,
    ) -> Result<Known, ServiceError> {
        let nodes = self.0.service.arbiter().nodes();
        let blocks = nodes.blocks().as_ref();
        let root = BucketRoot::from_block(&require(blocks, &row.pointer.root).await?)?;
        let access = BucketAccess::of_root(blocks, &root).await?;
        let (settings, objects) = (root.settings, root.objects);
        let now = Known { root: row.pointer.root, settings, objects };
        let mut walk = Walk { reads: self, bucket: Arc::clone(address), access: &access, steps: 0 };
        match known.filter(|known| known.settings == now.settings) {
            _ if !access.mentions(None) => self.0.index.write().remove_bucket(address),
            Some(known) => match diff(nodes, &known.objects, &now.objects).await {
                Ok(changes) => walk.changes(changes).await?,
                Err(StoreError::Missing { .. }) => walk.all(&now.objects).await?,
                Err(error) => return Err(error.into()),
            },
            None => walk.all(&now.objects).await?,
        }
        Ok(now)
    }
}

/// A walk over objects of one bucket.
struct Walk<'a> {
    reads: &'a PublicReads,
    bucket: Arc<BucketAddress>,
    access: &'a BucketAccess,
    steps: u32,
}

/// Returns what a policy calls an object.
fn resource(bucket: &BucketAddress, key: &str) -> String {
    format!("{}/{key}", bucket.name)
}

impl Walk<'_> {
    /// Indexes all objects anew.
    async fn all(&mut self, objects: &Tree) -> Result<(), ServiceError> {
        self.reads.0.index.write().remove_bucket(&self.bucket);
        let nodes = self.reads.0.service.arbiter().nodes();
        let mut cursor = Cursor::new(nodes, objects);
        cursor.seek(b"").await?;
        while let Some(entry) = cursor.next().await? {
            self.put(&entry).await?;
        }
        Ok(())
    }

    async fn changes(&mut self, changes: Vec<Change>) -> Result<(), ServiceError> {
        for change in changes {
            match change {
                Change::Added(entry) | Change::Changed { new: entry, .. } => {
                    self.put(&entry).await?;
                }
                Change::Removed(entry) => {
                    if let Ok(key) = std::str::from_utf8(&entry.key) {
                        self.reads.0.index.write().remove(&self.bucket, key);
                    }
                }
            }
        }
        Ok(())
    }

    async fn put(&mut self, entry: &Entry) -> Result<(), ServiceError> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEP) {
            tokio::task::yield_now().await;
        }
        let Ok(key) = std::str::from_utf8(&entry.key) else { return Ok(()) };
        let record = ObjectRecord::decode(&entry.value, entry.weight)?;
        let is_content =
            matches!(record.kind, ObjectKind::Object | ObjectKind::Mapped) && record.sse.is_none();
        match record.content {
            Some(content)
                if is_content && self.access.opens_always(&resource(&self.bucket, key)) =>
            {
                let blocks = self.blocks(content).await?;
                let bucket = Arc::clone(&self.bucket);
                let candidate = Candidate { bucket, key: key.into(), content };
                self.reads.0.index.write().put(candidate, &blocks);
            }
            _ => self.reads.0.index.write().remove(&self.bucket, key),
        }
        Ok(())
    }

    /// Returns the blocks of some content, each once. Reads its inner nodes.
    async fn blocks(&self, content: Cid) -> Result<Vec<Cid>, ServiceError> {
        let blocks = self.reads.0.service.arbiter().nodes().blocks().as_ref();
        let (mut found, mut seen, mut stack) = (Vec::new(), HashSet::new(), vec![content]);
        while let Some(cid) = stack.pop() {
            if !seen.insert(cid) {
                continue;
            }
            found.push(cid);
            if cid.codec() == Codec::DagPb {
                let node = FileNode::from_block(&require(blocks, &cid).await?)?;
                stack.extend(node.links.iter().map(|link| link.cid));
            }
        }
        Ok(found)
    }
}
