//! Appends records, checks that the disk has room for them, and begins new segments.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    HUNG, Index, Kind, Log, LogPlace, Need, Place, Record, SegmentFooter, Slot, Stream, StreamName,
    Tail, encode_into, encoded_len, poisoned,
    segment::{HEADER_BYTES, Segment},
};

/// Largest buffer that a stream keeps for later appends, in bytes: two of the largest blocks as records.
const BUFFER_KEPT_BYTES: usize = (2 << 20) + (4 << 10);

impl Log {
    /// Appends `records` and indexes them. Returns the position that a sync must reach.
    ///
    /// On an error nothing of them is in the log.
    pub(crate) fn append(
        &self,
        name: StreamName,
        records: &[Record<'_>],
        need: Need,
    ) -> io::Result<u64> {
        self.append_within(name, records, need, HUNG)
    }

    /// Does the same as [`Self::append`]. `patience` is as in [`Stream::lock_tail`].
    pub(crate) fn append_within(
        &self,
        name: StreamName,
        records: &[Record<'_>],
        need: Need,
        patience: Duration,
    ) -> io::Result<u64> {
        let bytes = records.iter().map(encoded_len).sum::<usize>() as u64;
        let _granted = self.grant(need, bytes)?;
        self.append_if(name, records, patience, |_, _| true).map(|(end, _)| end)
    }

    /// Appends only the records for which `wanted(index, i)` is true. Also returns the number of bytes
    /// appended. `patience` is as in [`Stream::lock_tail`].
    pub(super) fn append_if(
        &self,
        name: StreamName,
        records: &[Record<'_>],
        patience: Duration,
        wanted: impl Fn(&Index, usize) -> bool,
    ) -> io::Result<(u64, u64)> {
        let stream = self.stream(name);
        let mut tail = stream.lock_tail(patience)?;
        let _writing = stream.writing.begin(self.opened);
        self.check_writable()?;
        if tail.offset >= self.segment_bytes {
            self.roll(stream, &mut tail)?;
        }
        let durable_to = stream.durable_to(&tail);
        let room: usize = records.iter().map(encoded_len).sum();
        let mut buffer = std::mem::take(&mut tail.buffer);
        buffer.clear();
        buffer.reserve(room);
        let mut placed = Vec::with_capacity(records.len());
        {
            let index = self.index();
            for (_, record) in records.iter().enumerate().filter(|(n, _)| wanted(&index, *n)) {
                let offset = tail.offset + buffer.len() as u64;
                encode_into(record, &tail.segment.seed, offset, durable_to, &mut buffer);
                let (key, value) = (record.key.len(), record.value.len());
                placed.push((record, Slot::new(tail.segment.id, offset, key, value)));
            }
        }
        self.write(stream, &mut tail, &buffer)?;
        let len = buffer.len() as u64;
        if buffer.capacity() <= BUFFER_KEPT_BYTES {
            tail.buffer = buffer;
        }
        for (record, _) in &placed {
            tail.footer.add(record.kind, record.key, record.value.len());
        }
        let mut index = self.index_mut();
        for (record, slot) in placed {
            index.insert(record, slot);
        }
        Ok((tail.appended, len))
    }

    /// Returns the place at which the next record of a stream begins.
    pub(crate) fn end_of_stream(&self, name: StreamName) -> LogPlace {
        let tail = self.stream(name).tail.lock();
        let offset = u32::try_from(tail.offset).expect("segments are small");
        LogPlace { segment: tail.segment.id, offset }
    }

    /// Writes records at the end of a stream. On an error nothing of them is there.
    fn write(&self, stream: &Stream, tail: &mut Tail, records: &[u8]) -> io::Result<()> {
        if !tail.is_named {
            let name = BTreeSet::from([tail.segment.name().to_owned()]);
            self.manifest.lock().add(self.disk.as_ref(), &name)?;
            tail.is_named = true;
        }
        if let Err(error) = tail.segment.write_at(records, tail.offset) {
            // The remains of a failed write could be taken for records later, so they are cut off.
            if tail.segment.truncate(tail.offset).is_err() {
                stream.poisoned.store(true, Ordering::Release);
            }
            return Err(error);
        }
        let len = records.len() as u64;
        tail.offset += len;
        tail.appended += len;
        self.counters.appended_bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the footer of a segment that is about to be sealed, unless it is there already because
    /// beginning the next segment failed.
    fn end(&self, stream: &Stream, tail: &mut Tail) -> io::Result<()> {
        if tail.ended == tail.offset {
            return Ok(());
        }
        let (begin, durable_to) = (tail.offset, stream.durable_to(tail));
        let told = tail.footer.end(&tail.segment.seed, begin, durable_to);
        // Where space is short, it is left for what compaction has to copy.
        let fits = |len: usize| {
            let room = self.disk.room();
            room.is_ok_and(|room| room.free.saturating_sub(room.kept()) >= len as u64)
        };
        let told = told.filter(|told| fits(told.len()));
        if told.is_none_or(|told| self.write(stream, tail, &told).is_err()) {
            if stream.poisoned.load(Ordering::Acquire) {
                return Err(poisoned());
            }
            // Without a footer nothing is lost. But a crash may have left a footer that lists lost records,
            // and only the last record of a segment is believed. So a record that is not the end of a
            // footer is appended.
            tail.footer = SegmentFooter::omitted();
            let (mark, mut record) =
                (Record { kind: Kind::Mark, key: &[], value: &[] }, Vec::new());
            encode_into(&mark, &tail.segment.seed, begin, durable_to, &mut record);
            self.write(stream, tail, &record)?;
        }
        tail.segment.set_contents_bytes(tail.offset - begin);
        tail.ended = tail.offset;
        Ok(())
    }

    /// Seals the segment, and begins the next one.
    pub(super) fn roll(&self, stream: &Stream, tail: &mut Tail) -> io::Result<()> {
        self.check_writable()?;
        let _writing = stream.writing.begin(self.opened);
        self.end(stream, tail)?;
        let synced = self.fsync(&tail.segment);
        synced.inspect_err(|_| stream.poisoned.store(true, Ordering::Release))?;
        stream.synced.fetch_max(tail.appended, Ordering::AcqRel);
        // A number that was tried before is not used again: what is left of that segment may come back
        // after a crash.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let segment = Arc::new(Segment::create(self.disk.as_ref(), stream.name.prefix(), id)?);
        // The order matters. Compaction reads the list of segments first, and then which of them are
        // written to. It must not find this segment without learning that it is written to.
        *stream.place.lock() = Place { segment: id, base: tail.appended };
        self.segments.write().insert(id, Arc::clone(&segment));
        (tail.segment, tail.is_named) = (segment, false);
        tail.footer = SegmentFooter::empty();
        tail.offset = HEADER_BYTES;
        tail.appended += HEADER_BYTES;
        stream.synced.fetch_max(tail.appended, Ordering::AcqRel);
        Ok(())
    }
}
