//! Checks proofs: every block must be the one that a block before it links, from the root on.

use bytes::Bytes;
use fula_core::{
    Block, Cid, Codec,
    bucket::{BucketRoot, ObjectRecord},
    car::CarReader,
    content::FileNode,
    tree::{Node, after_prefix},
};

/// Takes in a proof in the order in which a server sends it.
pub(super) struct Proof<S> {
    source: S,
    reader: CarReader,
}

/// Something that the bytes of a proof come from.
pub(super) trait Pieces {
    /// Returns the next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, String>;
}

impl<S: Pieces> Proof<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, reader: CarReader::default() }
    }

    /// Reads the next block, which must be this one.
    async fn block(&mut self, wanted: Cid) -> Result<Block, String> {
        loop {
            let found = self.reader.next_block();
            let found = found.map_err(|error| {
                format!("at byte {} of the proof: {error}", self.reader.offset())
            })?;
            if let Some((cid, bytes)) = found {
                if cid != wanted {
                    return Err(format!("the server sent block {cid} where {wanted} has to be"));
                }
                let block = Block::verify(cid, bytes);
                return block
                    .map_err(|_| format!("the server sent other bytes than those of block {cid}"));
            }
            match self.source.next().await? {
                Some(piece) => self.reader.push(&piece),
                None => return Err(format!("the proof ends before block {wanted}")),
            }
        }
    }

    /// Reads the root.
    ///
    /// # Errors
    /// What is not proved, in words for the user.
    pub(super) async fn root(&mut self, root: Cid) -> Result<BucketRoot, String> {
        let block = self.block(root).await?;
        BucketRoot::from_block(&block).map_err(|_| format!("{root} is no root of a bucket"))
    }

    async fn node(&mut self, cid: Cid, level: Option<u8>) -> Result<Node, String> {
        let block = self.block(cid).await?;
        let node = Node::decode(block.bytes()).ok();
        let node = node.filter(|node| level.is_none_or(|level| node.level() == level));
        node.ok_or_else(|| format!("the block {cid} is not the node of a tree that it has to be"))
    }

    /// Returns the object of a key; `None` if it is proved that there is none.
    ///
    /// # Errors
    /// What is not proved, in words for the user.
    pub(super) async fn find(
        &mut self,
        root: &BucketRoot,
        key: &str,
    ) -> Result<Option<ObjectRecord>, String> {
        let (mut next, mut level) = (root.objects.root, None);
        while let Some(cid) = next {
            let node = self.node(cid, level).await?;
            let found = node.find(key.as_bytes());
            level = node.level().checked_sub(1);
            if level.is_none() {
                let Ok(index) = found else { return Ok(None) };
                let entry = node.entry(index);
                let record = ObjectRecord::decode(&entry.value, entry.weight);
                return record.map(Some).map_err(|error| error.to_string());
            }
            let index = found.unwrap_or_else(|after| after);
            next = (index < node.len()).then(|| node.child(index));
        }
        Ok(None)
    }

    /// Reads the content of an object, and hands its bytes to `write` in order.
    ///
    /// # Errors
    /// What is not proved, in words for the user; errors of `write`.
    pub(super) async fn content(
        &mut self,
        record: &ObjectRecord,
        mut write: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut stack: Vec<Cid> = record.content.into_iter().collect();
        let mut left = record.size;
        while let Some(cid) = stack.pop() {
            let block = self.block(cid).await?;
            if cid.codec() != Codec::Raw {
                let node = FileNode::from_block(&block);
                let node = node.map_err(|_| format!("the block {cid} is no part of a file"))?;
                stack.extend(node.links.iter().rev().map(|link| link.cid));
                continue;
            }
            let length = block.bytes().len() as u64;
            left = left.checked_sub(length).ok_or("the content is longer than the object")?;
            write(block.bytes())?;
        }
        if left == 0 { Ok(()) } else { Err("the content is shorter than the object".to_owned()) }
    }

    /// Returns the objects of a page in order of key, and whether more follow.
    ///
    /// # Errors
    /// What is not proved, in words for the user.
    pub(super) async fn page(
        &mut self,
        root: &BucketRoot,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, ObjectRecord)>, bool), String> {
        let begin = after.unwrap_or_default().max(prefix).as_bytes();
        let end = after_prefix(prefix.as_bytes());
        let mut found = Vec::new();
        let mut stack: Vec<(Cid, Option<u8>)> =
            root.objects.root.into_iter().map(|cid| (cid, None)).collect();
        while let Some((cid, level)) = stack.pop() {
            let node = self.node(cid, level).await?;
            let first = node.find(begin).unwrap_or_else(|after| after);
            if let Some(below) = node.level().checked_sub(1) {
                stack.extend((first..node.len()).rev().map(|n| (node.child(n), Some(below))));
                continue;
            }
            for index in first..node.len() {
                let entry = node.entry(index);
                if end.as_ref().is_some_and(|end| entry.key >= *end) {
                    return Ok((found, false));
                }
                if after.is_some_and(|after| &entry.key[..] <= after.as_bytes()) {
                    continue;
                }
                if found.len() == limit {
                    return Ok((found, true));
                }
                let record = ObjectRecord::decode(&entry.value, entry.weight);
                let record = record.map_err(|error| error.to_string())?;
                found.push((String::from_utf8_lossy(&entry.key).into_owned(), record));
            }
        }
        Ok((found, false))
    }
}
