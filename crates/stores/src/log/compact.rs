//! Compaction: live records are moved to the end of the log, and their segment is deleted.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    HUNG, Index, Key, Log, Slot, StreamName, is_lost, recover,
    segment::{HEADER_BYTES, Segment},
};

/// Bytes of records that are moved at a time.
const MOVE_BYTES: usize = 256 << 10;

/// Dead share of a segment, in percent, that makes it worth rewriting where space is short.
const DEAD_PERCENT_SHORT: u64 = 5;

impl Log {
    /// Rewrites segments until none is worth it. A segment is worth it when at least `worth()` percent of
    /// it are dead. Returns the bytes of the removed segments. With `seal`, this includes segments that are
    /// being written to.
    pub(crate) fn rewrite(
        &self,
        worth: &dyn Fn() -> u64,
        seal: bool,
        rest: &dyn Fn(),
    ) -> io::Result<u64> {
        let worth = || {
            let is_short = self.disk.room()?.is_short();
            io::Result::Ok(if is_short { worth().min(DEAD_PERCENT_SHORT) } else { worth() })
        };
        let mut bytes = 0;
        let mut compact = || loop {
            match self.compact(worth()?, rest)? {
                0 => return io::Result::Ok(()),
                freed => bytes += freed,
            }
        };
        // This comes before sealing: on a full disk the next segment needs the space that this frees.
        compact()?;
        if seal {
            self.seal(worth()?)?;
            compact()?;
        }
        Ok(bytes)
    }

    /// Rewrites the live records of the sealed segment that has fewest of them, if at least `dead_percent`
    /// of it is dead, and deletes the segment. A segment without live records goes first, because the disk
    /// may be full. Returns the bytes freed; 0 when there was nothing to do. Calls `rest` from time to
    /// time.
    pub(crate) fn compact(&self, dead_percent: u64, rest: &dyn Fn()) -> io::Result<u64> {
        let _one_at_a_time = self.compacting.lock();
        // The order matters. A segment that is written to later is not among the candidates, and one that
        // was sealed in the meantime only seems emptier than it is.
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let active: Vec<u32> =
            self.streams.iter().map(|stream| stream.place.lock().segment).collect();
        let mut worth: Vec<(u64, Arc<Segment>)> = Vec::new();
        for segment in segments {
            let size = segment.len()?;
            let live = self.index().live_in(segment.id);
            // The footer is of use as long as the segment has live records.
            let told = if live > 0 { segment.footer_bytes() } else { 0 };
            let dead = size.saturating_sub(live + HEADER_BYTES + told);
            let is_left = active.contains(&segment.id) || self.damage.keeps(segment.id);
            if !is_left && dead * 100 >= size * dead_percent && dead > 0 {
                worth.push((live, segment));
            }
        }
        worth.sort_by_key(|(live, _)| *live);
        let mut full = None;
        for (_, segment) in worth {
            let size = segment.len()?;
            let moved = match self.empty(&segment, rest) {
                // The next segment may be larger at its end, or have shorter records.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    full = Some(error);
                    continue;
                }
                moved => moved?,
            };
            // Damage, and records whose head is not readable any more, stay in place so that `fula fsck`
            // can report them: a copy would carry a valid checksum.
            if !moved || self.index().live_in(segment.id) > 0 {
                self.mark_damaged(segment.id);
                self.note_damage();
                tracing::warn!(
                    segment = segment.name(),
                    "a segment is damaged and cannot be compacted; run `fula fsck`"
                );
                continue;
            }
            let name = BTreeSet::from([segment.name().to_owned()]);
            self.manifest.lock().remove(self.disk.as_ref(), &name)?;
            segment.delete(self.disk.as_ref())?;
            self.segments.write().remove(&segment.id);
            self.manifest.lock().catch_up(self.disk.as_ref());
            return Ok(size);
        }
        full.map_or(Ok(0), |error| Err(self.explain(error)))
    }

    /// Adds to an error of a full disk how much space is missing to copy a record.
    fn explain(&self, full: io::Error) -> io::Error {
        let Ok(room) = self.disk.room() else { return full };
        let (free, needed) = (room.free >> 10, room.for_compaction() >> 10);
        let text = format!(
            "rewriting a segment of the log needs {needed} KiB of free space, and the disk has {free} KiB: \
             remove other files from it, or make it larger"
        );
        io::Error::new(io::ErrorKind::StorageFull, text)
    }

    /// Seals the segments that are being written to and of which at least `dead_percent` is dead.
    pub(crate) fn seal(&self, dead_percent: u64) -> io::Result<()> {
        for stream in &self.streams {
            let mut tail = stream.tail.lock();
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
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let mut all = 0;
        for segment in segments {
            all += segment.len()?;
        }
        Ok((all, self.index().live()))
    }

    /// Returns the bytes of records in use other than blocks.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.index().row_bytes()
    }

    /// Copies the records in use to the end of the log. Returns false when one of them is damaged or cannot
    /// be read. On return the copies are durable, and so are the records that replaced the others. Where
    /// the disk has no space for all copies, it copies the last records first, and cuts the segment off
    /// behind the others.
    fn empty(&self, segment: &Segment, rest: &dyn Fn()) -> io::Result<bool> {
        let mut records = self.in_use(segment)?;
        let mut is_complete = false;
        while let Some((_, last)) = records.last() {
            let live = records.iter().map(|(_, slot)| u64::from(slot.bytes())).sum();
            let step = self.disk.room()?.step(live);
            if step < live {
                // A part that is cut off cannot be examined again.
                if !is_complete && !self.lists_all_in_use(segment, &records) {
                    return Ok(false);
                }
                is_complete = true;
                self.settle()?;
                segment.cut(last.end())?;
            }
            let step = records.split_off(begin_of_last(&records, step));
            if !self.copy(segment, &step, rest)? {
                return Ok(false);
            }
        }
        self.settle()?;
        Ok(true)
    }

    /// Does the same as [`Self::empty`], but leaves the segment as it is.
    pub(super) fn move_records(&self, segment: &Segment) -> io::Result<bool> {
        let is_whole = self.copy(segment, &self.in_use(segment)?, &|| {})?;
        self.settle()?;
        Ok(is_whole)
    }

    fn in_use(&self, segment: &Segment) -> io::Result<Vec<(Key, Slot)>> {
        let mut records = recover::records(segment)?;
        // The index is locked for one record at a time, because others wait for it.
        records.retain(|(key, slot)| self.index().get(key) == Some(*slot));
        Ok(records)
    }

    /// Returns whether `records` are all records of a segment that are in use. A record whose head cannot
    /// be read is missing in the list.
    fn lists_all_in_use(&self, segment: &Segment, records: &[(Key, Slot)]) -> bool {
        let index = self.index();
        let listed = records.iter().filter(|(key, slot)| index.get(key) == Some(*slot));
        listed.map(|(_, slot)| u64::from(slot.bytes())).sum::<u64>() == index.live_in(segment.id)
    }

    /// Appends records of a segment again. Returns false when one of them is damaged or cannot be read.
    fn copy(
        &self,
        segment: &Segment,
        records: &[(Key, Slot)],
        rest: &dyn Fn(),
    ) -> io::Result<bool> {
        let name = if segment.is_bulk() { StreamName::Bulk } else { StreamName::Commit };
        self.copy_to(name, records, rest)
    }

    /// Does the same as [`Self::copy`], but appends to the given stream.
    pub(super) fn copy_to(
        &self,
        name: StreamName,
        records: &[(Key, Slot)],
        rest: &dyn Fn(),
    ) -> io::Result<bool> {
        let mut batch: Vec<(Key, Slot, Bytes)> = Vec::new();
        let mut bytes = 0;
        for (key, slot) in records {
            if self.index().get(key) != Some(*slot) {
                continue;
            }
            let value = match self.read_whole(key, slot) {
                Err(error) if is_lost(&error) => None,
                read => read?,
            };
            let Some(value) = value else { return Ok(false) };
            bytes += value.len();
            batch.push((key.clone(), *slot, value));
            if bytes >= MOVE_BYTES {
                self.move_batch(name, &batch)?;
                batch.clear();
                bytes = 0;
                rest();
            }
        }
        self.move_batch(name, &batch)?;
        Ok(true)
    }

    /// Makes the appended records durable: the copies, and rows that have replaced others which may be
    /// deleted.
    fn settle(&self) -> io::Result<()> {
        for name in StreamName::ALL {
            self.flush(name)?;
            self.mark(name);
        }
        Ok(())
    }

    /// Appends those records again that are still where they were found.
    fn move_batch(&self, name: StreamName, batch: &[(Key, Slot, Bytes)]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let records: Vec<_> = batch.iter().map(|(key, _, value)| key.record(value)).collect();
        let is_there = |index: &Index, n: usize| index.get(&batch[n].0) == Some(batch[n].1);
        let (_, bytes) = self.append_if(name, &records, HUNG, is_there)?;
        self.counters.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns the index at which the longest end of `records` begins that takes at most `bytes`; at least the
/// last record is in it.
fn begin_of_last(records: &[(Key, Slot)], bytes: u64) -> usize {
    let mut taken = 0;
    let fits = |(_, slot): &&(Key, Slot)| {
        taken += u64::from(slot.bytes());
        taken <= bytes
    };
    let fitting = records.iter().rev().take_while(fits).count();
    records.len() - fitting.max(1)
}
