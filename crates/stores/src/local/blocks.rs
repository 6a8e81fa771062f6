//! The block store of a data directory, on its log.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, Codec, StoreError,
    block::{BLOCK_BYTES_MAX, Epoch, Kept, Listed, Marked, Placement, Position, Swept, SyncMark},
};
use hashbrown::HashSet;

use super::unavailable;
use crate::log::{HUNG, Kind, Log, Mark, Need, Record, Slot, StreamName, blocking, is_lost};

/// The block store of a data directory.
#[derive(Debug)]
pub struct LocalBlocks {
    pub(super) log: Arc<Log>,
}

impl LocalBlocks {
    /// Renews the blocks that are stored already and adds them to `mark`. Returns the others, each once,
    /// and those that could not be read.
    fn absent(&self, blocks: &[Block], mark: &mut SyncMark) -> Vec<Block> {
        let cids: Vec<_> = blocks.iter().map(Block::cid).collect();
        let mut index = self.log.index_mut();
        let epoch = index.epoch;
        // The look-ups are not interleaved with other work, so that the processor waits for the memory of
        // several at once.
        let found: Vec<_> = cids.iter().map(|cid| index.blocks.find(cid)).collect();
        let present: Vec<_> =
            found.iter().flatten().map(|at| index.blocks.renew(*at, epoch)).collect();
        drop(index);
        for slot in present {
            let (stream, position) = self.log.pending(&slot);
            let at = &mut mark.positions[stream as usize];
            *at = (*at).max(position);
        }
        let mut seen = HashSet::with_capacity(blocks.len());
        let new = blocks.iter().zip(cids).zip(found);
        let new = new.filter(|((_, cid), found)| found.is_none() || self.log.is_suspect(cid));
        new.filter(|((_, cid), _)| seen.insert(*cid)).map(|((block, _), _)| block.clone()).collect()
    }

    fn append(
        log: &Log,
        blocks: &[Block],
        placement: Placement,
        patience: Duration,
    ) -> io::Result<u64> {
        let need = if placement == Placement::Removal { Need::Removal } else { Need::More };
        let keys: Vec<_> = blocks.iter().map(|block| block.cid().to_bytes()).collect();
        let records: Vec<_> = blocks
            .iter()
            .zip(&keys)
            .map(|(block, key)| Record { kind: Kind::Block, key, value: block.bytes() })
            .collect();
        let position = log.append_within(stream_of(placement), &records, need, patience)?;
        log.trust(blocks);
        Ok(position)
    }
}

/// Largest append of a commit in bytes that runs on the thread of the caller. Longer ones, and the content of
/// large objects, may wait for the disk and run elsewhere. A round of a dozen changes in a large bucket stays
/// below it.
const INLINE_APPEND_BYTES: usize = 512 << 10;

fn stream_of(placement: Placement) -> StreamName {
    match placement {
        Placement::Commit | Placement::Removal => StreamName::Commit,
        Placement::Bulk => StreamName::Bulk,
    }
}

impl LocalBlocks {
    /// Returns what is stored under an address, and where. It was not hashed.
    async fn read(&self, cid: &Cid) -> Result<Option<(Bytes, Slot)>, StoreError> {
        // A block may be moved to another segment between look-up and read, so a failed read is repeated
        // once.
        for _ in 0..2 {
            let found = self.log.index().blocks.get(cid);
            let Some(slot) = found else { return Ok(None) };
            let value = match self.log.read_cached(&slot) {
                Ok(None) => self.log.read_waiting(slot).await.map(Some),
                read => read,
            };
            match value {
                Ok(Some(bytes)) => return Ok(Some((bytes, slot))),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // The block was moved, and its segment cut off.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    if self.log.forget_damaged(cid, &slot) {
                        self.log.found_damage(slot.segment);
                        return Err(StoreError::Damaged { cid: *cid });
                    }
                }
                // The block may become readable again later.
                Err(error) if is_lost(&error) => {
                    self.log.suspect(cid);
                    self.log.found_damage(slot.segment);
                    return Err(StoreError::Damaged { cid: *cid });
                }
                Err(error) => return Err(unavailable("get", error)),
            }
        }
        Err(unavailable(
            "get",
            io::Error::other("the block was moved during each attempt to read it"),
        ))
    }
}

#[async_trait]
impl BlockStore for LocalBlocks {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        if let Some(block) = blocks.iter().find(|block| block.bytes().len() > BLOCK_BYTES_MAX) {
            return Err(StoreError::TooLarge { len: block.bytes().len(), max: BLOCK_BYTES_MAX });
        }
        let mut mark = SyncMark::default();
        let absent = self.absent(blocks, &mut mark);
        if absent.is_empty() {
            return Ok(mark);
        }
        let stream = stream_of(placement);
        let bytes: usize = absent.iter().map(|block| block.bytes().len()).sum();
        let position = if bytes <= INLINE_APPEND_BYTES && placement != Placement::Bulk {
            let append = move |log: &Log, patience| Self::append(log, &absent, placement, patience);
            self.log.quickly(append).await
        } else {
            self.log.check_answers().map_err(|error| unavailable("put", error))?;
            let _turn = self.log.turn(stream).await;
            let log = Arc::clone(&self.log);
            blocking(move || Self::append(&log, &absent, placement, HUNG)).await
        };
        let position = position.map_err(|error| unavailable("put", error))?;
        if placement == Placement::Bulk {
            self.log.write_behind(stream, position);
        }
        let at = &mut mark.positions[stream as usize];
        *at = (*at).max(position);
        Ok(mark)
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        for stream in StreamName::ALL {
            let position = mark.positions[stream as usize];
            self.log.sync(stream, position).await.map_err(|error| unavailable("sync", error))?;
        }
        Ok(())
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let Some((bytes, slot)) = self.read(cid).await? else { return Ok(None) };
        let verified = Block::verify(*cid, bytes);
        if verified.is_err() && self.log.forget_damaged(cid, &slot) {
            self.log.found_damage(slot.segment);
        }
        verified.map(Some)
    }

    async fn get_unverified(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read(cid).await?.map(|(bytes, _)| bytes))
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        let index = self.log.index();
        Ok(index.blocks.get(cid).map(|slot| u64::from(slot.value_len)))
    }

    fn advance_epoch(&self) -> Epoch {
        self.log.index_mut().advance_epoch()
    }

    fn mark(&self, cids: &[Cid], cut: Epoch, _: Kept) -> Marked {
        let mut marked = Marked::default();
        self.log.index_mut().blocks.mark(cids, cut, |cid, mark| match mark {
            Mark::New(slot) => {
                marked.fresh.push(*cid);
                marked.bytes += u64::from(slot.bytes());
            }
            Mark::Missing if cid.codec() != Codec::Raw => marked.fresh.push(*cid),
            Mark::Missing | Mark::Known => {}
        });
        marked
    }

    async fn sweep(
        &self,
        from: Position,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        Ok(self.log.index_mut().sweep(from, cut, put_before))
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        let log = Arc::clone(&self.log);
        let listed = blocking(move || log.list(from)).await;
        listed.map_err(|error| unavailable("list", error))
    }
}
