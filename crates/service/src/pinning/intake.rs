//! Takes in the blocks of a DAG: stores each as leaves of a file, and keeps an index of them.

use std::sync::Arc;

use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, Codec, StoreError,
    block::{Placement, SyncMark},
    content::{DagBuilder, FileLink, LEAF_BYTES},
    foreign::ForeignCid,
};

use crate::{error::ServiceError, pins::PinnedBlocks, service::Service};

/// Blocks on their way in. What is not finished is garbage.
#[derive(Debug)]
pub struct DagIntake {
    blocks: Arc<dyn BlockStore>,
    kept: PinnedBlocks,
    dag: DagBuilder,
    mark: SyncMark,
    index: Vec<u8>,
    taken: Totals,
}

/// What an intake has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of blocks.
    pub blocks: u64,
    /// Their length in bytes.
    pub bytes: u64,
}

/// A whole DAG that is stored.
#[derive(Debug)]
pub(super) struct StoredDag {
    pub(super) content: (Cid, u64),
    pub(super) index_bytes: u64,
    pub(super) totals: Totals,
    pub(super) kept: PinnedBlocks,
}

impl Service {
    /// Begins to take in a DAG.
    pub fn begin_dag(&self) -> DagIntake {
        DagIntake {
            blocks: Arc::clone(self.arbiter().nodes().blocks()),
            kept: PinnedBlocks::new(self.arbiter().pins()),
            dag: DagBuilder::default(),
            mark: SyncMark::default(),
            index: Vec::new(),
            taken: Totals::default(),
        }
    }
}

impl DagIntake {
    /// Adds a block that was verified. The first one is the root of the DAG. A CID that contains its block gets an
    /// entry and no bytes.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Full`].
    pub async fn add(&mut self, cid: &ForeignCid, bytes: &Bytes) -> Result<(), ServiceError> {
        let len = if cid.inline().is_some() { 0 } else { bytes.len() };
        write_entry(&mut self.index, cid, len);
        self.taken.blocks += 1;
        self.taken.bytes += len as u64;
        for at in (0..len).step_by(LEAF_BYTES) {
            self.leaf(bytes.slice(at..len.min(at + LEAF_BYTES))).await?;
        }
        Ok(())
    }

    /// Returns what was added.
    pub fn totals(&self) -> Totals {
        self.taken
    }

    async fn leaf(&mut self, bytes: Bytes) -> Result<(), ServiceError> {
        let size = bytes.len() as u64;
        let hashed = tokio::task::spawn_blocking(move || Block::new(Codec::Raw, bytes)).await;
        let block = hashed.map_err(ServiceError::bug)?;
        let link = FileLink { cid: block.cid(), size, dag_bytes: size };
        self.put(&[block]).await?;
        let nodes = self.dag.push(link);
        if !nodes.is_empty() {
            self.put(&nodes).await?;
            self.kept.replace(self.dag.open_links().map(|link| link.cid));
        }
        Ok(())
    }

    async fn put(&mut self, blocks: &[Block]) -> Result<(), ServiceError> {
        self.kept.add(blocks.iter().map(Block::cid));
        self.mark = self.mark.and(self.blocks.put(blocks, Placement::Bulk).await?);
        Ok(())
    }

    /// Stores the index behind the blocks, and makes everything durable.
    pub(super) async fn finish(mut self) -> Result<StoredDag, ServiceError> {
        let index = Bytes::from(std::mem::take(&mut self.index));
        for at in (0..index.len()).step_by(LEAF_BYTES) {
            self.leaf(index.slice(at..index.len().min(at + LEAF_BYTES))).await?;
        }
        let dag = std::mem::take(&mut self.dag);
        let (root, nodes) = dag.finish().ok_or_else(|| ServiceError::bug("a DAG of no blocks"))?;
        self.put(&nodes).await?;
        self.kept.replace([root.cid]);
        self.blocks.sync(self.mark).await?;
        let (content, index_bytes) = ((root.cid, root.size), index.len() as u64);
        Ok(StoredDag { content, index_bytes, totals: self.taken, kept: self.kept })
    }
}

/// Appends an entry of the index: the length of the CID in one byte, the CID, and the length of the block in four.
fn write_entry(index: &mut Vec<u8>, cid: &ForeignCid, len: usize) {
    let cid = cid.to_bytes();
    index.push(u8::try_from(cid.len()).unwrap_or(u8::MAX));
    index.extend(cid);
    index.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

/// Reads an index: the CID and the length of each block, in order.
pub(super) fn read_index(mut index: &[u8]) -> Result<Vec<(ForeignCid, u32)>, StoreError> {
    let mut found = Vec::new();
    while let [len, rest @ ..] = index {
        let entry = rest.split_at_checked(usize::from(*len)).and_then(|(cid, rest)| {
            let (len, rest) = rest.split_first_chunk()?;
            Some((ForeignCid::from_bytes(cid).ok()?, u32::from_be_bytes(*len), rest))
        });
        let malformed = StoreError::Malformed { what: "pin", why: "its index is damaged" };
        let (cid, len, rest) = entry.ok_or(malformed)?;
        found.push((cid, len));
        index = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back() {
        let one: ForeignCid = "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN".parse().unwrap();
        let two: ForeignCid = Cid::of(Codec::Raw, b"x").to_string().parse().unwrap();
        let mut index = Vec::new();
        write_entry(&mut index, &one, 14);
        write_entry(&mut index, &two, 2 << 20);
        assert_eq!(read_index(&index).unwrap(), [(one, 14), (two, 2 << 20)]);
        assert!(read_index(&[]).unwrap().is_empty());
        for cut in [1, 20, index.len() - 1] {
            assert!(read_index(&index[..cut]).is_err());
        }
    }
}
