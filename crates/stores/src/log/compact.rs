//! Giving space back: live records move to the end of the log, and their segment goes.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    Index, Key, Log, Slot, StreamName, is_lost, lock, read, recover,
    segment::{HEADER_BYTES, Segment},
    write,
};

/// Bytes of records moved at a time.
const MOVE_BYTES: usize = 256 << 10;

impl Log {
    /// Rewrites the live records of the sealed segment with fewest of them, if at least
    /// `dead_percent` of it is dead, and deletes the segment: one that needs no rewriting goes first,
    /// for the disk may be full. Returns the bytes freed; 0 when there was nothing to do. Calls `rest`
    /// now and then.
    pub(crate) fn compact(&self, dead_percent: u64, rest: &dyn Fn()) -> io::Result<u64> {
        let _one_at_a_time = lock(&self.compacting);
        // In this order: a segment that becomes the tail later is not among the candidates, and
        // one that was sealed meanwhile only seems emptier than it is.
        let segments: Vec<_> = read(&self.segments).values().cloned().collect();
        let active: Vec<u32> =
            self.streams.iter().map(|stream| lock(&stream.place).segment).collect();
        let mut worth: Vec<(u64, Arc<Segment>)> = Vec::new();
        for segment in segments {
            let size = segment.len()?;
            let live = self.index().live_in(segment.id);
            // What tells of the living is of use as long as there are some.
            let told = if live > 0 { segment.contents_bytes() } else { 0 };
            let dead = size.saturating_sub(live + HEADER_BYTES + told);
            let is_left = active.contains(&segment.id) || lock(&self.damaged).contains(&segment.id);
            if !is_left && dead * 100 >= size * dead_percent && dead > 0 {
                worth.push((live, segment));
            }
        }
        worth.sort_by_key(|(live, _)| *live);
        for (_, segment) in worth {
            let size = segment.len()?;
            let moved = self.move_records(&segment, rest)?;
            // Damage, or a head that is not readable any more, is left in place for fsck to report:
            // a copy would carry a valid checksum.
            if !moved || self.index().live_in(segment.id) > 0 {
                lock(&self.damaged).insert(segment.id);
                tracing::warn!(segment = segment.name(), "a damaged segment is not compacted");
                continue;
            }
            segment.delete(self.disk.as_ref())?;
            write(&self.segments).remove(&segment.id);
            return Ok(size);
        }
        Ok(0)
    }

    /// Seals the segments being written to of which at least `dead_percent` is dead.
    pub(crate) fn seal(&self, dead_percent: u64) -> io::Result<()> {
        for stream in &self.streams {
            let mut tail = lock(&stream.tail);
            let live = self.index().live_in(tail.segment.id) + HEADER_BYTES;
            let dead = tail.offset.saturating_sub(live);
            if dead > 0 && dead * 100 >= tail.offset * dead_percent {
                self.roll(stream, &mut tail)?;
            }
        }
        Ok(())
    }

    /// Returns the bytes of all segments, and those of records in use.
    pub(crate) fn sizes(&self) -> io::Result<(u64, u64)> {
        let segments: Vec<_> = read(&self.segments).values().cloned().collect();
        let mut all = 0;
        for segment in segments {
            all += segment.len()?;
        }
        Ok((all, self.index().live()))
    }

    /// Copies the records in use to the end of the log; false when one of them is damaged or cannot be
    /// read. On return they are durable, and so is whatever has replaced the others.
    pub(super) fn move_records(&self, segment: &Segment, rest: &dyn Fn()) -> io::Result<bool> {
        let name = if segment.is_bulk() { StreamName::Bulk } else { StreamName::Commit };
        let mut batch: Vec<(Key, Slot, Bytes)> = Vec::new();
        let mut bytes = 0;
        for (key, slot) in recover::records(segment)? {
            if self.index().get(&key) != Some(slot) {
                continue;
            }
            let value = match self.read_whole(&key, &slot) {
                Err(error) if is_lost(&error) => None,
                read => read?,
            };
            let Some(value) = value else { return Ok(false) };
            bytes += value.len();
            batch.push((key, slot, value));
            if bytes >= MOVE_BYTES {
                self.move_batch(name, &batch)?;
                batch.clear();
                bytes = 0;
                rest();
            }
        }
        self.move_batch(name, &batch)?;
        // A row here may have been replaced by one that is not durable yet.
        for name in StreamName::ALL {
            self.flush(name)?;
            self.mark(name);
        }
        Ok(true)
    }

    /// Appends records again that are still where they were found.
    fn move_batch(&self, name: StreamName, batch: &[(Key, Slot, Bytes)]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let records: Vec<_> = batch.iter().map(|(key, _, value)| key.record(value)).collect();
        let is_there = |index: &Index, n: usize| index.get(&batch[n].0) == Some(batch[n].1);
        let (_, bytes) = self.append_if(name, &records, is_there)?;
        self.counters.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}
