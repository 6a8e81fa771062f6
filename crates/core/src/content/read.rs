//! Reads a range of a file. It fetches only the blocks that the range needs, a few at a time.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::dag_pb::{FileLink, FileNode};
use crate::{
    block::{BlockStore, require},
    error::StoreError,
    id::{Cid, Codec},
};

/// Number of leaves that are fetched at a time while the reader consumes one.
const READ_AHEAD: usize = 2;

/// Largest number of levels. With 1024 links a node, six levels hold 2^64 bytes.
const DEPTH_MAX: usize = 8;

/// A leaf to fetch, and the range of its bytes that is wanted.
struct Wanted {
    link: FileLink,
    range: Range<usize>,
}

/// How the leaves of a file are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// Each is hashed and compared with its address.
    Verified,
    /// They are taken as they are stored, for a reader that authenticates every byte of them. Nodes are
    /// verified all the same.
    Unverified,
}

/// State of a walk: the nodes from the root down, each with the index of its next child and the
/// offset of that child in the file.
struct Walk {
    blocks: Arc<dyn BlockStore>,
    range: Range<u64>,
    stack: Vec<(FileNode, usize, u64)>,
}

/// Streams `range` of the content at `cid`, which is `size` bytes long.
///
/// Holds at most a few leaves and one node per level. The stream never yields wrong bytes: it fails
/// with [`StoreError::Missing`], [`StoreError::Damaged`] or [`StoreError::Malformed`].
pub fn stream(
    blocks: Arc<dyn BlockStore>,
    cid: Cid,
    size: u64,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    stream_leaves(blocks, cid, size, range, Leaves::Verified)
}

/// Streams like [`stream()`], with a choice of how leaves are read.
pub fn stream_leaves(
    blocks: Arc<dyn BlockStore>,
    cid: Cid,
    size: u64,
    range: Range<u64>,
    leaves: Leaves,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    let root = FileNode { links: vec![FileLink { cid, size, dag_bytes: 0 }] };
    let stack = if range.is_empty() { Vec::new() } else { vec![(root, 0, 0)] };
    let walk = Walk { blocks: Arc::clone(&blocks), range, stack };
    stream::try_unfold(walk, |mut walk| async move {
        Ok(walk.next().await?.map(|wanted| (wanted, walk)))
    })
    .map_ok(move |wanted| {
        let blocks = Arc::clone(&blocks);
        async move { leaf(blocks.as_ref(), &wanted, leaves).await }
    })
    .try_buffered(READ_AHEAD)
    .boxed()
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Wanted>, StoreError> {
        while let Some((node, index, offset)) = self.stack.last_mut() {
            let (Some(link), true) = (node.links.get(*index).copied(), *offset < self.range.end)
            else {
                self.stack.pop();
                continue;
            };
            let start = *offset;
            let end = start.checked_add(link.size).ok_or(MALFORMED)?;
            *index += 1;
            *offset = end;
            if end <= self.range.start || link.size == 0 {
                continue;
            }
            if link.cid.codec() == Codec::Raw {
                let from = self.range.start.max(start) - start;
                let to = self.range.end.min(end) - start;
                let bytes = |n: u64| usize::try_from(n).map_err(|_| MALFORMED);
                return Ok(Some(Wanted { link, range: bytes(from)?..bytes(to)? }));
            }
            if self.stack.len() > DEPTH_MAX || link.cid.codec() != Codec::DagPb {
                return Err(MALFORMED);
            }
            let block = require(self.blocks.as_ref(), &link.cid).await?;
            let child = FileNode::from_block(&block)?;
            if child.size() != link.size {
                return Err(MALFORMED);
            }
            self.stack.push((child, 0, start));
        }
        Ok(None)
    }
}

const MALFORMED: StoreError =
    StoreError::Malformed { what: "file", why: "a child is not what its parent says" };

async fn leaf(
    blocks: &dyn BlockStore,
    wanted: &Wanted,
    leaves: Leaves,
) -> Result<Bytes, StoreError> {
    let cid = wanted.link.cid;
    let bytes = match leaves {
        Leaves::Verified => require(blocks, &cid).await?.bytes().clone(),
        Leaves::Unverified => {
            blocks.get_unverified(&cid).await?.ok_or(StoreError::Missing { cid })?
        }
    };
    if bytes.len() as u64 != wanted.link.size {
        return Err(MALFORMED);
    }
    // The only holder of a buffer may decrypt in it.
    Ok(if wanted.range == (0..bytes.len()) { bytes } else { bytes.slice(wanted.range.clone()) })
}

/// Returns the link that a parent would hold to the content at `cid`. Reads its root node, if it
/// has one.
///
/// # Errors
/// [`StoreError`] of reading the root node.
pub async fn dag_bytes(
    blocks: &dyn BlockStore,
    cid: Cid,
    size: u64,
) -> Result<FileLink, StoreError> {
    if cid.codec() == Codec::Raw {
        return Ok(FileLink { cid, size, dag_bytes: size });
    }
    let block = require(blocks, &cid).await?;
    let node = FileNode::from_block(&block)?;
    let below = node.links.iter().map(|link| link.dag_bytes).fold(0, u64::saturating_add);
    let dag_bytes = below.saturating_add(block.bytes().len() as u64);
    Ok(FileLink { cid, size, dag_bytes })
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::{
        block::{Block, Kept, Placement, list_all, sweep_all},
        content::{DagBuilder, LINKS_MAX, join},
        in_memory::MemoryBlocks,
    };

    /// Builds a file of leaves of three bytes each, so that a deep file needs little memory.
    fn file(blocks: &MemoryBlocks, leaves: usize) -> (FileLink, Vec<u8>) {
        let (mut builder, mut content) = (DagBuilder::default(), Vec::new());
        for n in 0..leaves {
            let bytes = n.to_be_bytes()[5..].to_vec();
            content.extend(&bytes);
            let leaf = Block::new(Codec::Raw, bytes);
            let link = FileLink { cid: leaf.cid(), size: 3, dag_bytes: 3 };
            block_on(blocks.put(&[leaf], Placement::Bulk)).unwrap();
            block_on(blocks.put(&builder.push(link), Placement::Bulk)).unwrap();
        }
        let (root, nodes) = builder.finish().unwrap();
        block_on(blocks.put(&nodes, Placement::Bulk)).unwrap();
        (root, content)
    }

    fn read(blocks: &Arc<MemoryBlocks>, root: &FileLink, range: Range<u64>) -> Vec<u8> {
        let parts: Vec<Bytes> =
            block_on(stream(blocks.clone(), root.cid, root.size, range).try_collect()).unwrap();
        parts.concat()
    }

    #[test]
    fn any_range_of_any_shape_reads_back() {
        for leaves in [1, 2, LINKS_MAX, LINKS_MAX + 1, 3 * LINKS_MAX + 7] {
            let blocks = Arc::new(MemoryBlocks::default());
            let (root, content) = file(&blocks, leaves);
            assert_eq!(root.size, content.len() as u64);
            assert_eq!(block_on(dag_bytes(blocks.as_ref(), root.cid, root.size)).unwrap(), root);
            let len = content.len();
            for range in [0..len, 0..1, len - 1..len, len / 2..len / 2 + 5, 2..2] {
                let range = range.start..range.end.min(len);
                let found = read(&blocks, &root, range.start as u64..range.end as u64);
                assert_eq!(found, content[range]);
            }
        }
    }

    #[test]
    fn joined_parts_read_as_one() {
        let blocks = Arc::new(MemoryBlocks::default());
        let (first, a) = file(&blocks, 5);
        let (second, b) = file(&blocks, LINKS_MAX + 1);
        let empty = FileLink { cid: Cid::of(Codec::Raw, b""), size: 0, dag_bytes: 0 };
        let (root, block) = join(&[first, empty, second]).unwrap();
        block_on(blocks.put(&[block.unwrap()], Placement::Bulk)).unwrap();
        assert_eq!(read(&blocks, &root, 0..root.size), [a, b].concat());
        assert!(join(&[empty]).is_none());
        assert_eq!(join(&[empty, first]).unwrap(), (first, None));
    }

    #[test]
    fn a_wrong_size_or_missing_leaf_is_an_error_not_bytes() {
        let blocks = Arc::new(MemoryBlocks::default());
        let (root, _) = file(&blocks, 2);
        let longer: Result<Vec<_>, _> = block_on(
            stream(blocks.clone(), root.cid, root.size + 1, 0..root.size + 1).try_collect(),
        );
        assert!(matches!(longer, Err(StoreError::Malformed { .. })));
        let leaf = Cid::of(Codec::Raw, &[0, 0, 1]);
        let epoch = blocks.advance_epoch();
        let all = block_on(list_all(&*blocks)).unwrap().into_iter().map(|(cid, _)| cid);
        blocks.mark(&all.filter(|cid| *cid != leaf).collect::<Vec<_>>(), epoch, Kept::Now);
        assert_eq!(block_on(sweep_all(&*blocks, epoch, epoch)).unwrap().deleted, 1);
        let found: Vec<_> = block_on(stream(blocks, root.cid, 6, 0..6).collect());
        assert!(found[0].is_ok());
        assert!(matches!(found[1], Err(StoreError::Missing { .. })));
    }
}
