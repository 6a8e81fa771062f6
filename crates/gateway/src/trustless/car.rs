//! CAR files of the blocks of a file, depth first, sent while they are read.

use std::{collections::HashSet, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use fula_core::{Block, Cid, Codec, StoreError, car, content::FileNode};
use futures::{Stream, stream};

use super::PublicDag;

/// Largest number of levels of a file.
const DEPTH_MAX: usize = 8;

/// Largest number of blocks that are remembered so that each is sent once. They need 3 MiB of memory.
const SEEN_MAX: usize = 1 << 16;

/// Length of the tag of a block in bytes.
const TAG: usize = 16;

/// What is done about blocks that occur several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dups {
    /// Each is sent every time.
    Sent,
    /// Each is sent once. A file with too many blocks ends early.
    Left,
    /// Each is sent once, as long as there are not too many blocks.
    Unknown,
}

impl Dups {
    /// Returns what is done for a request about content with this root.
    pub(super) fn of(asked: Option<bool>, root: &Block) -> Self {
        // Of a file with one level it is known that its blocks are few enough.
        let is_flat = root.cid().codec() == Codec::Raw
            || FileNode::from_block(root).is_ok_and(|node| {
                node.links.len() < SEEN_MAX
                    && node.links.iter().all(|link| link.cid.codec() == Codec::Raw)
            });
        match asked {
            Some(true) => Self::Sent,
            Some(false) => Self::Left,
            None if is_flat => Self::Left,
            None => Self::Unknown,
        }
    }
}

/// A node on the way down, the index of its next child, and the offset of that child in the file.
struct Level {
    node: FileNode,
    next: usize,
    offset: u64,
}

/// The blocks that are still to be sent.
pub(super) struct Walk {
    dag: Arc<dyn PublicDag>,
    dups: Dups,
    seen: HashSet<[u8; TAG]>,
    /// Inner nodes below which everything was sent. Without them a small file with many equal parts would take
    /// for ever.
    done: HashSet<[u8; TAG]>,
    /// Bytes of the file whose blocks are wanted.
    range: Range<u64>,
    levels: Vec<Level>,
    /// The root, until it is sent.
    root: Option<Block>,
}

fn tag_of(cid: &Cid) -> [u8; TAG] {
    let mut tag = [0; TAG];
    tag.copy_from_slice(&cid.digest()[..TAG]);
    tag
}

impl Walk {
    /// Walks the blocks of `range` of the content at `root`. An empty range is that of the root alone.
    pub(super) fn new(dag: Arc<dyn PublicDag>, root: Block, range: Range<u64>, dups: Dups) -> Self {
        let (seen, done, levels) = (HashSet::new(), HashSet::new(), Vec::new());
        Self { dag, dups, seen, done, range, levels, root: Some(root) }
    }

    /// Returns the parts of the file: its header, and a section for each block.
    pub(super) fn stream(self) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
        let header = self.root.as_ref().map(|root| car::header(&[root.cid()]));
        let sections = stream::try_unfold(self, |mut walk| async move {
            let block = walk.next().await?;
            Ok(block.map(|block| (section(&block), walk)))
        });
        futures::StreamExt::chain(stream::iter(header.map(Ok)), sections)
    }

    /// Returns whether a block is to be sent.
    fn is_wanted(&mut self, cid: &Cid) -> Result<bool, StoreError> {
        if self.dups == Dups::Sent {
            return Ok(true);
        }
        let tag = tag_of(cid);
        if self.seen.len() < SEEN_MAX || self.seen.contains(&tag) {
            return Ok(self.seen.insert(tag));
        }
        match self.dups {
            Dups::Left => Err(TOO_MANY),
            _ => Ok(true),
        }
    }

    async fn next(&mut self) -> Result<Option<Block>, StoreError> {
        if let Some(root) = self.root.take() {
            self.is_wanted(&root.cid())?;
            self.enter(&root, 0)?;
            return Ok(Some(root));
        }
        while let Some(level) = self.levels.last_mut() {
            let (Some(link), true) =
                (level.node.links.get(level.next).copied(), level.offset < self.range.end)
            else {
                self.levels.pop();
                continue;
            };
            let start = level.offset;
            level.next += 1;
            level.offset = start.checked_add(link.size).ok_or(MALFORMED)?;
            if level.offset <= self.range.start || link.size == 0 {
                continue;
            }
            let is_whole = self.range.start <= start && level.offset <= self.range.end;
            let is_wanted = self.is_wanted(&link.cid)?;
            let is_done = link.cid.codec() == Codec::Raw || self.done.contains(&tag_of(&link.cid));
            if !is_wanted && is_done {
                continue;
            }
            if is_whole
                && link.cid.codec() == Codec::DagPb
                && self.dups != Dups::Sent
                && self.done.len() < SEEN_MAX
            {
                self.done.insert(tag_of(&link.cid));
            }
            let block = self.dag.get(&link.cid).await?;
            self.enter(&block, start)?;
            if is_wanted {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Goes on below a block that begins at this offset of the file.
    fn enter(&mut self, block: &Block, offset: u64) -> Result<(), StoreError> {
        if block.cid().codec() == Codec::Raw || self.range.is_empty() {
            return Ok(());
        }
        if self.levels.len() >= DEPTH_MAX {
            return Err(MALFORMED);
        }
        self.levels.push(Level { node: FileNode::from_block(block)?, next: 0, offset });
        Ok(())
    }
}

const MALFORMED: StoreError =
    StoreError::Malformed { what: "file", why: "a child is not what its parent says" };

const TOO_MANY: StoreError =
    StoreError::Malformed { what: "CAR file", why: "too many blocks for dups=n; ask for dups=y" };

fn section(block: &Block) -> Bytes {
    let mut out = BytesMut::new();
    car::put_section(&mut out, &block.cid(), block.bytes());
    out.freeze()
}

/// Returns a CAR file whose only root is an identity CID. It has no blocks.
pub(super) fn of_identity(binary: &[u8]) -> Bytes {
    let length = u8::try_from(binary.len() + 1).unwrap_or(u8::MAX);
    let head: &[u8] = if length < 24 { &[0x40 | length] } else { &[0x58, length] };
    let header =
        [b"\xa2\x65roots\x81\xd8\x2a".as_slice(), head, &[0], binary, b"\x67version\x01"].concat();
    let mut out = vec![u8::try_from(header.len()).unwrap_or(u8::MAX)];
    out.extend(header);
    out.into()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use fula_core::content::{FileLink, LINKS_MAX};
    use futures::TryStreamExt;
    use parking_lot::Mutex;

    use super::*;

    /// Blocks in memory, and those that were read.
    #[derive(Debug, Default)]
    struct Dag(std::collections::HashMap<Cid, Block>, Mutex<Vec<Cid>>);

    #[async_trait]
    impl PublicDag for Dag {
        async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
            self.1.lock().push(*cid);
            self.0.get(cid).cloned().ok_or(StoreError::Missing { cid: *cid })
        }
    }

    fn leaf(n: u8) -> Block {
        Block::new(Codec::Raw, vec![n; 10])
    }

    fn link(block: &Block) -> FileLink {
        FileLink { cid: block.cid(), size: 10, dag_bytes: 10 }
    }

    /// A file of two levels: (1 2 1) (2 3) (1 2 1).
    fn file() -> (Arc<Dag>, Block) {
        let parts = [vec![1, 2, 1], vec![2, 3], vec![1, 2, 1]];
        let (mut all, mut links) = (Vec::new(), Vec::new());
        for part in parts {
            let leaves: Vec<Block> = part.into_iter().map(leaf).collect();
            let (node, link) = FileNode { links: leaves.iter().map(link).collect() }.to_block();
            all.extend(leaves);
            all.push(node);
            links.push(link);
        }
        let (root, _) = FileNode { links }.to_block();
        let map = all.into_iter().map(|block| (block.cid(), block)).collect();
        (Arc::new(Dag(map, Mutex::default())), root)
    }

    async fn walk(range: Range<u64>, dups: Dups) -> Vec<Cid> {
        let (dag, root) = file();
        let parts: Vec<Bytes> =
            Walk::new(dag, root, range, dups).stream().try_collect().await.unwrap();
        let mut reader = car::CarReader::default();
        let mut found = Vec::new();
        for part in parts {
            reader.push(&part);
            while let Some((cid, bytes)) = reader.next_block().unwrap() {
                assert!(Block::verify(cid, bytes).is_ok());
                found.push(cid);
            }
        }
        reader.end().unwrap();
        found
    }

    #[tokio::test]
    async fn blocks_come_depth_first_with_or_without_those_that_came_before() {
        let (_, root) = file();
        let node = FileNode::from_block(&root).unwrap();
        let [one, two, _] = [0, 1, 2].map(|n| node.links[n].cid);
        let [a, b, c] = [1, 2, 3].map(|n| leaf(n).cid());
        let all = [root.cid(), one, a, b, a, two, b, c, one, a, b, a];
        assert_eq!(walk(0..80, Dups::Sent).await, all);
        let once = [root.cid(), one, a, b, two, c];
        assert_eq!(walk(0..80, Dups::Left).await, once);
        assert_eq!(walk(0..80, Dups::Unknown).await, once);
        assert_eq!(walk(0..0, Dups::Left).await, [root.cid()]);
        assert_eq!(walk(35..36, Dups::Sent).await, [root.cid(), two, b]);
        assert_eq!(walk(29..31, Dups::Sent).await, [root.cid(), one, a, two, b]);
        assert_eq!(walk(79..80, Dups::Sent).await, [root.cid(), one, a]);
    }

    /// Six levels of 1024 equal children are 2^60 leaves, and seven blocks.
    #[tokio::test]
    async fn equal_parts_are_walked_once() {
        let mut map = std::collections::HashMap::from([(leaf(1).cid(), leaf(1))]);
        let (mut root, mut child) = (leaf(1), link(&leaf(1)));
        for _ in 0..6 {
            (root, child) = FileNode { links: vec![child; LINKS_MAX] }.to_block();
            map.insert(root.cid(), root.clone());
        }
        let dag = Arc::new(Dag(map, Mutex::default()));
        let walk = Walk::new(Arc::clone(&dag) as _, root, 0..child.size, Dups::Unknown);
        let parts: Vec<Bytes> = walk.stream().try_collect().await.unwrap();
        assert_eq!((parts.len(), dag.1.lock().len()), (8, 6));
    }

    #[tokio::test]
    async fn a_missing_block_ends_the_file_early() {
        let (dag, root) = file();
        let mut dag = Dag(dag.0.clone(), Mutex::default());
        dag.0.remove(&leaf(3).cid());
        let walk = Walk::new(Arc::new(dag), root, 0..80, Dups::Sent);
        let parts: Vec<_> = futures::StreamExt::collect(walk.stream()).await;
        let good = parts.iter().take_while(|part| part.is_ok()).count();
        assert_eq!((good, parts.len()), (8, 9));
    }

    #[test]
    fn whether_blocks_repeat_is_said_when_it_is_known() {
        let (_, deep) = file();
        let (flat, _) = FileNode { links: vec![link(&leaf(1)); LINKS_MAX] }.to_block();
        for (asked, root, expected) in [
            (Some(true), &deep, Dups::Sent),
            (Some(false), &deep, Dups::Left),
            (None, &deep, Dups::Unknown),
            (None, &flat, Dups::Left),
            (None, &leaf(1), Dups::Left),
        ] {
            assert_eq!(Dups::of(asked, root), expected);
        }
    }
}
