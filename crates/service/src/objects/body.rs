//! Receives bodies: turns bytes into durable blocks and digests, with a few MiB of memory whatever the
//! length.
//!
//! A body of up to one block stays in memory and is stored with the commit. A longer body is cut into
//! leaves. Each is hashed and stored while the next one arrives. All are made durable before the change is
//! queued, so that rounds stay short. A body that breaks off leaves only unreferenced blocks.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fula_core::{
    Block, BlockStore, Cid, Codec,
    block::{Placement, SyncMark},
    bucket::{Checksum, ChecksumAlgorithm, ETag, Salt},
    content::{
        DagBuilder, FileLink, LEAF_BYTES,
        encrypted::{CHUNK_BYTES, ENCRYPTED_LEAF_BYTES},
    },
};
use futures::{Stream, StreamExt};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::{
    budget::MemoryPermit,
    caller::Seen,
    error::ServiceError,
    objects::checksum::Digests,
    pins::{PinRegistry, PinnedBlocks, RequestPins},
    sse::BodyCipher,
};

/// The stream of a body: bytes, or the error that ended it.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, ServiceError>> + Send>>;

/// Largest number of bytes that are hashed on the thread of the caller. More would delay other requests.
const HASH_INLINE_BYTES: usize = 64 << 10;

/// Returns the MD5 and the checksum of a small body.
pub fn digests_of(body: &[u8], algorithm: ChecksumAlgorithm) -> ([u8; 16], Vec<Checksum>) {
    let mut digests = Digests::new([algorithm]);
    digests.update(body);
    digests.finish()
}

/// Returns the checksum that a client sends after the body, once the body was read.
pub type Trailer = Box<dyn FnOnce() -> Result<Option<Bytes>, ServiceError> + Send>;

/// The facts that a client announces about a body.
pub struct BodyFacts {
    /// Announced length in bytes.
    pub length: Option<u64>,
    /// Largest accepted length in bytes.
    pub length_max: u64,
    /// Required MD5.
    pub md5: Option<[u8; 16]>,
    /// Algorithm of the checksum that is stored.
    pub keep: ChecksumAlgorithm,
    /// Algorithm of the checksum that the client sends. If it is not the stored one, both are computed.
    pub sent: ChecksumAlgorithm,
    /// Required value of the checksum that the client sends.
    pub checksum: Option<Bytes>,
    /// Source of that value when it follows the body.
    pub trailer: Option<Trailer>,
}

/// A body that was received.
#[derive(Debug)]
pub struct Taken {
    /// Address of the content.
    pub content: Cid,
    /// Length in bytes.
    pub size: u64,
    /// MD5 of the content.
    pub md5: [u8; 16],
    /// Checksums of the content: the one to store, and the one that the client sent if it is another.
    pub checksums: Vec<Checksum>,
    /// The body itself, when it is stored with the commit.
    pub riding: Option<Block>,
    /// Salt of the body, if it was encrypted.
    pub salt: Option<Salt>,
}

impl Taken {
    /// Returns the entity tag of a body that was put in one piece.
    pub fn etag(&self) -> ETag {
        ETag::Md5(self.md5)
    }
}

/// The destination of a body.
pub(crate) struct Intake<'a> {
    pub(crate) blocks: &'a Arc<dyn BlockStore>,
    pub(crate) pin_registry: &'a Arc<PinRegistry>,
    /// Keeps the stored blocks from the collector.
    pub(crate) pins: &'a RequestPins,
    /// Memory permit of the body.
    pub(crate) permit: &'a MemoryPermit,
    /// Receives the time that the store took after the last byte.
    pub(crate) seen: &'a Seen,
    /// Longest time that the store may take for a leaf, and for the rest after the last byte.
    pub(crate) deadline: Duration,
    /// What the body is encrypted with before it is stored; `None` to store it as it is.
    pub(crate) cipher: Option<BodyCipher>,
}

/// Waits for the block store as long as a write may.
async fn in_time<T>(
    deadline: Duration,
    stored: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    let stored = tokio::time::timeout(deadline, stored).await;
    stored.unwrap_or_else(|_| Err(ServiceError::late("block store", "put")))
}

/// Reads the whole body, and checks it against `facts`. Holds no more memory than its permit. On return
/// everything is durable except a block that is stored with the commit, and `pins` holds it.
///
/// # Errors
/// [`ServiceError::EntityTooLarge`], [`ServiceError::IncompleteBody`], [`ServiceError::BadDigest`],
/// [`ServiceError::Unavailable`] for a store that takes too long, and the errors of the stream and the
/// store.
pub(crate) async fn take(
    intake: Intake<'_>,
    mut body: BodyStream,
    facts: BodyFacts,
) -> Result<Taken, ServiceError> {
    if facts.length.is_some_and(|length| length > facts.length_max) {
        return Err(ServiceError::EntityTooLarge(facts.length_max));
    }
    let Intake { blocks, pin_registry, pins, permit, seen, deadline, cipher } = intake;
    let leaf_bytes = if cipher.is_some() { ENCRYPTED_LEAF_BYTES } else { LEAF_BYTES };
    // There is room for the tags, so that a leaf is encrypted in its place.
    let tags = if cipher.is_some() { LEAF_BYTES - ENCRYPTED_LEAF_BYTES } else { 0 };
    pins.end_write();
    let announced = facts.length.and_then(|length| usize::try_from(length).ok());
    let mut leaf = BytesMut::with_capacity(announced.unwrap_or(0).min(leaf_bytes) + tags);
    let mut leaves = Leaves::new(blocks, pin_registry, [facts.keep, facts.sent], cipher);
    let mut size = 0_u64;
    while let Some(bytes) = body.next().await {
        let mut bytes = bytes?;
        permit.moved(bytes.len());
        size += bytes.len() as u64;
        if size > facts.length_max {
            return Err(ServiceError::EntityTooLarge(facts.length_max));
        }
        while !bytes.is_empty() {
            // A full leaf is stored only when more bytes follow, because a single block is stored with the
            // commit.
            if leaf.len() == leaf_bytes {
                let full = std::mem::replace(&mut leaf, BytesMut::with_capacity(LEAF_BYTES));
                permit.pause_stall_timer();
                in_time(deadline, leaves.push(full.freeze(), false)).await?;
                permit.resume_stall_timer();
            }
            let room = leaf_bytes - leaf.len();
            leaf.extend_from_slice(&bytes.split_to(bytes.len().min(room)));
        }
    }
    permit.pause_stall_timer();
    if let Some(announced) = facts.length
        && announced != size
    {
        return Err(ServiceError::IncompleteBody { announced, received: size });
    }
    let arrived = Instant::now();
    let (taken, kept) = in_time(seen.left_of(deadline), leaves.finish(leaf.freeze(), size)).await?;
    seen.note_waited(arrived.elapsed());
    check(facts, &taken)?;
    pins.begin_write(pin_registry);
    if taken.riding.is_none() {
        pins.pin_blocks(kept);
    }
    Ok(taken)
}

fn check(facts: BodyFacts, taken: &Taken) -> Result<(), ServiceError> {
    if facts.md5.is_some_and(|md5| !bool::from(md5.ct_eq(&taken.md5))) {
        return Err(ServiceError::BadDigest("Content-MD5"));
    }
    let trailing = match facts.trailer {
        Some(trailer) => trailer()?,
        None => None,
    };
    let ours = taken.checksums.iter().find(|checksum| checksum.algorithm == facts.sent);
    for value in [facts.checksum, trailing].into_iter().flatten() {
        if !ours.is_some_and(|ours| bool::from(value.ct_eq(&ours.value))) {
            return Err(ServiceError::BadDigest("checksum"));
        }
    }
    Ok(())
}

/// Leaves that are being stored, one at a time, and hashed in order.
struct Leaves {
    blocks: Arc<dyn BlockStore>,
    /// Digests of everything so far. A task owns them while a leaf is in flight.
    work: Option<Work>,
    in_flight: Option<tokio::task::JoinHandle<Result<Stored, ServiceError>>>,
    dag: DagBuilder,
    mark: SyncMark,
    cipher: Option<BodyCipher>,
    /// Number of chunks that were encrypted.
    chunks: u64,
}

struct Work {
    digests: Digests,
    kept: PinnedBlocks,
}

struct Stored {
    work: Work,
    link: FileLink,
    mark: SyncMark,
}

impl Leaves {
    fn new(
        blocks: &Arc<dyn BlockStore>,
        pin_registry: &Arc<PinRegistry>,
        algorithms: [ChecksumAlgorithm; 2],
        cipher: Option<BodyCipher>,
    ) -> Self {
        Self {
            blocks: Arc::clone(blocks),
            work: Some(Work {
                digests: Digests::new(algorithms),
                kept: PinnedBlocks::new(pin_registry),
            }),
            in_flight: None,
            dag: DagBuilder::default(),
            mark: SyncMark::default(),
            cipher,
            chunks: 0,
        }
    }

    /// Returns what encrypts the next leaf of `length` bytes.
    fn next_leaf(&mut self, length: usize, is_end: bool) -> Option<LeafCipher> {
        let cipher = self.cipher.clone()?;
        let first = self.chunks;
        self.chunks += length.div_ceil(CHUNK_BYTES) as u64;
        Some(LeafCipher { cipher, first, is_end })
    }

    /// Starts to hash and store a leaf while the caller continues.
    async fn push(&mut self, bytes: Bytes, is_end: bool) -> Result<(), ServiceError> {
        self.settle().await?;
        let Work { digests, mut kept } = self.work.take().ok_or_else(lost_work)?;
        let blocks = Arc::clone(&self.blocks);
        let cipher = self.next_leaf(bytes.len(), is_end);
        self.in_flight = Some(tokio::spawn(async move {
            let (block, digests) = hash(bytes, digests, cipher).await?;
            let size = block.bytes().len() as u64;
            let link = FileLink { cid: block.cid(), size, dag_bytes: size };
            kept.add([block.cid()]);
            let mark = blocks.put(&[block], Placement::Bulk).await?;
            Ok(Stored { work: Work { digests, kept }, link, mark })
        }));
        Ok(())
    }

    /// Waits for the leaf in flight, and links it.
    async fn settle(&mut self) -> Result<(), ServiceError> {
        let Some(task) = self.in_flight.take() else { return Ok(()) };
        let stored = task.await.map_err(ServiceError::bug)??;
        let mut work = stored.work;
        self.mark = self.mark.and(stored.mark);
        let nodes = self.dag.push(stored.link);
        if !nodes.is_empty() {
            work.kept.add(nodes.iter().map(Block::cid));
            self.mark = self.mark.and(self.blocks.put(&nodes, Placement::Bulk).await?);
            work.kept.replace(self.dag.open_links().map(|link| link.cid));
        }
        self.work = Some(work);
        Ok(())
    }

    /// Adds the last leaf, and makes everything durable.
    async fn finish(
        mut self,
        last: Bytes,
        size: u64,
    ) -> Result<(Taken, PinnedBlocks), ServiceError> {
        let single = if size == last.len() as u64 {
            Some(last)
        } else {
            self.push(last, true).await?;
            self.settle().await?;
            None
        };
        let salt = self.cipher.as_ref().map(|cipher| cipher.salt);
        let Work { digests, mut kept } = self.work.take().ok_or_else(lost_work)?;
        if let Some(last) = single {
            let cipher = self.next_leaf(last.len(), true);
            let (block, digests) = hash(last, digests, cipher).await?;
            let (md5, checksums) = digests.finish();
            let (content, riding) = (block.cid(), Some(block));
            return Ok((Taken { content, size, md5, checksums, riding, salt }, kept));
        }
        let none = || ServiceError::bug("a file without leaves");
        let (root, nodes) = self.dag.finish().ok_or_else(none)?;
        kept.add(nodes.iter().map(Block::cid));
        let mark = self.blocks.put(&nodes, Placement::Bulk).await?;
        kept.replace([root.cid]);
        self.blocks.sync(self.mark.and(mark)).await?;
        let (md5, checksums) = digests.finish();
        Ok((Taken { content: root.cid, size, md5, checksums, riding: None, salt }, kept))
    }
}

fn lost_work() -> ServiceError {
    ServiceError::bug("a leaf was pushed while another one was in flight")
}

/// What a leaf is encrypted with.
struct LeafCipher {
    cipher: BodyCipher,
    /// Number of its first chunk in the body.
    first: u64,
    /// Whether the body ends with it.
    is_end: bool,
}

/// Hashes a leaf, and encrypts it before that if it has to be. The digests are those of its content. A long
/// one is hashed on another thread.
async fn hash(
    bytes: Bytes,
    mut digests: Digests,
    cipher: Option<LeafCipher>,
) -> Result<(Block, Digests), ServiceError> {
    let is_small = bytes.len() <= HASH_INLINE_BYTES;
    let work = move || {
        digests.update(&bytes);
        let stored = match cipher {
            Some(LeafCipher { cipher, first, is_end }) => {
                cipher.key.encrypt(first, bytes, is_end)?
            }
            None => bytes,
        };
        Ok((Block::new(Codec::Raw, stored), digests))
    };
    if is_small {
        return work();
    }
    let hashed = tokio::task::spawn_blocking(work).await;
    hashed.map_err(ServiceError::bug)?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parking_lot::Mutex;

    use fula_core::{
        content::{self, LINKS_MAX},
        in_memory::MemoryBlocks,
    };
    use futures::TryStreamExt;

    use super::*;
    use crate::{admin::fsck, budget::MemoryBudget};

    fn facts() -> BodyFacts {
        BodyFacts {
            length: None,
            length_max: 100 << 20,
            md5: None,
            keep: ChecksumAlgorithm::Crc64Nvme,
            sent: ChecksumAlgorithm::Crc64Nvme,
            checksum: None,
            trailer: None,
        }
    }

    async fn take_in(
        blocks: &Arc<dyn BlockStore>,
        body: BodyStream,
        facts: BodyFacts,
    ) -> Result<Taken, ServiceError> {
        let permit = &MemoryBudget::new(4 << 20).take(0, None).await.unwrap();
        let (pin_registry, pins) = (&Arc::default(), &RequestPins::default());
        let (seen, deadline) = (&Seen::default(), Duration::from_secs(10));
        let cipher = None;
        take(Intake { blocks, pin_registry, pins, permit, seen, deadline, cipher }, body, facts)
            .await
    }

    fn body(bytes: &[u8], frame: usize) -> BodyStream {
        let frames: Vec<_> = bytes.chunks(frame).map(|f| Ok(Bytes::copy_from_slice(f))).collect();
        Box::pin(futures::stream::iter(frames))
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n / 251 + n).to_le_bytes()[0]).collect()
    }

    #[tokio::test]
    async fn bodies_of_any_length_read_back() {
        for len in [0, 1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 3 * LEAF_BYTES + 77] {
            let memory = Arc::new(MemoryBlocks::default());
            let blocks: Arc<dyn BlockStore> = memory.clone();
            let bytes = pattern(len);
            let taken = take_in(&blocks, body(&bytes, 70_001), facts()).await.unwrap();
            assert_eq!(taken.size, len as u64);
            assert_eq!(taken.riding.is_some(), len <= LEAF_BYTES);
            // Everything that is not stored with the commit survives a crash.
            memory.crash();
            if let Some(block) = &taken.riding {
                blocks.put(std::slice::from_ref(block), Placement::Commit).await.unwrap();
            }
            let size = taken.size;
            let stream = content::stream(Arc::clone(&blocks), taken.content, size, 0..size);
            let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
            assert_eq!(parts.concat(), bytes);
        }
    }

    /// Beyond 1 024 leaves a node links to the leaves before it, and is pinned instead of them. All leaves
    /// are equal here, so that the file takes 1 MiB of memory.
    #[tokio::test]
    async fn all_of_a_file_with_several_nodes_is_kept() {
        let memory = Arc::new(MemoryBlocks::default());
        let (blocks, pin_registry): (Arc<dyn BlockStore>, Arc<PinRegistry>) =
            (memory.clone(), Arc::default());
        let leaf = Bytes::from(vec![0; LEAF_BYTES]);
        let leaves = LINKS_MAX + 4;
        let looked = Arc::new(Mutex::new(BTreeSet::new()));
        let frames = {
            let (pin_registry, looked) = (Arc::clone(&pin_registry), Arc::clone(&looked));
            futures::stream::iter(0..leaves).map(move |n| {
                if n + 1 == leaves {
                    *looked.lock() = pin_registry.pinned_blocks().into_iter().collect();
                }
                Ok(leaf.clone())
            })
        };
        let permit = &MemoryBudget::new(4 << 20).take(0, None).await.unwrap();
        let pins = &RequestPins::default();
        let (seen, deadline) = (&Seen::default(), Duration::from_secs(10));
        let intake = Intake {
            blocks: &blocks,
            pin_registry: &pin_registry,
            pins,
            permit,
            seen,
            deadline,
            cipher: None,
        };
        let facts = BodyFacts { length_max: u64::MAX, ..facts() };
        let taken = take(intake, Box::pin(frames), facts).await.unwrap();

        let (first, root) = {
            let root = blocks.get(&taken.content).await.unwrap().unwrap();
            let links = fsck::links(&taken.content, &root).unwrap();
            assert_eq!(links.len(), 2, "the file has two nodes");
            (links[0], taken.content)
        };
        let looked = looked.lock().clone();
        assert!(looked.contains(&first), "a node of a body on its way is kept");
        assert_eq!(pin_registry.pinned_blocks(), [root], "of a body taken in its root is kept");
    }

    #[tokio::test]
    async fn lies_about_a_body_are_found() {
        let blocks: Arc<dyn BlockStore> = Arc::new(MemoryBlocks::default());
        let attempt = async |facts: BodyFacts| take_in(&blocks, body(b"hello", 2), facts).await;
        let right = attempt(facts()).await.unwrap();

        let short = attempt(BodyFacts { length: Some(6), ..facts() }).await;
        assert!(matches!(short, Err(ServiceError::IncompleteBody { announced: 6, received: 5 })));
        let large = attempt(BodyFacts { length_max: 4, ..facts() }).await;
        assert!(matches!(large, Err(ServiceError::EntityTooLarge(4))));
        let md5 = attempt(BodyFacts { md5: Some([0; 16]), ..facts() }).await;
        assert!(matches!(md5, Err(ServiceError::BadDigest(_))));
        let value = Some(Bytes::from_static(&[0; 8]));
        let checksum = attempt(BodyFacts { checksum: value.clone(), ..facts() }).await;
        assert!(matches!(checksum, Err(ServiceError::BadDigest(_))));
        let trailer: Trailer = Box::new(|| Ok(value));
        let trailing = attempt(BodyFacts { trailer: Some(trailer), ..facts() }).await;
        assert!(matches!(trailing, Err(ServiceError::BadDigest(_))));

        let good = BodyFacts {
            length: Some(5),
            md5: Some(right.md5),
            checksum: Some(right.checksums[0].value.clone()),
            trailer: Some(Box::new(move || Ok(Some(right.checksums[0].value.clone())))),
            ..facts()
        };
        assert!(attempt(good).await.is_ok());
    }
}
