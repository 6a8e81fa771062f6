//! Appending: room for it, what an append leaves behind, and one segment after the other.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Index, Kind, Log, LogPlace, Need, Place, Record, SegmentFooter, Slot, Stream, StreamName, Tail,
    encode_into, encoded_len, poisoned,
    segment::{HEADER_BYTES, Segment},
};

/// Largest buffer that stays with a stream, in bytes.
const BUFFER_KEPT_BYTES: usize = 2 << 20;

impl Log {
    /// Appends `records` and indexes them; returns the position that a sync must reach.
    ///
    /// On an error nothing of them is in the log.
    pub(crate) fn append(
        &self,
        name: StreamName,
        records: &[Record<'_>],
        need: Need,
    ) -> io::Result<u64> {
        let bytes = records.iter().map(encoded_len).sum::<usize>() as u64;
        let _granted = self.grant(need, bytes)?;
        self.append_if(name, records, |_, _| true).map(|(end, _)| end)
    }

    /// Like [`Self::append`], leaving out records that `wanted` refuses by their place in `records`;
    /// returns also how many bytes it appended.
    pub(super) fn append_if(
        &self,
        name: StreamName,
        records: &[Record<'_>],
        wanted: impl Fn(&Index, usize) -> bool,
    ) -> io::Result<(u64, u64)> {
        let stream = self.stream(name);
        let mut tail = stream.tail.lock();
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

    /// Returns where the next record of a stream goes.
    pub(crate) fn end_of_stream(&self, name: StreamName) -> LogPlace {
        let tail = self.stream(name).tail.lock();
        let offset = u32::try_from(tail.offset).expect("segments are small");
        LogPlace { segment: tail.segment.id, offset }
    }

    /// Writes records at the end of a stream; on an error nothing of them is there.
    fn write(&self, stream: &Stream, tail: &mut Tail, records: &[u8]) -> io::Result<()> {
        if !tail.is_named {
            let name = BTreeSet::from([tail.segment.name().to_owned()]);
            self.manifest.lock().add(self.disk.as_ref(), &name)?;
            tail.is_named = true;
        }
        if let Err(error) = tail.segment.write_at(records, tail.offset) {
            // Remains of a failed write could pass for records later on: cut them off.
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

    /// Writes what a sealed segment ends with, unless it is there and only the next did not begin.
    fn end(&self, stream: &Stream, tail: &mut Tail) -> io::Result<()> {
        if tail.ended == tail.offset {
            return Ok(());
        }
        let (begin, durable_to) = (tail.offset, stream.durable_to(tail));
        let told = tail.footer.end(&tail.segment.seed, begin, durable_to);
        // Where space is short, that is for what compaction has to copy.
        let fits = |len: usize| {
            let room = self.disk.room();
            room.is_ok_and(|room| room.free.saturating_sub(room.kept()) >= len as u64)
        };
        let told = told.filter(|told| fits(told.len()));
        if told.is_none_or(|told| self.write(stream, tail, &told).is_err()) {
            if stream.poisoned.load(Ordering::Acquire) {
                return Err(poisoned());
            }
            // Nothing is lost without them. But only the last record is believed, so there must be one
            // that is no end of a footer: a crash may have left one that lists lost records.
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

    /// Seals the segment and begins the next one.
    pub(super) fn roll(&self, stream: &Stream, tail: &mut Tail) -> io::Result<()> {
        self.check_writable()?;
        self.end(stream, tail)?;
        let synced = self.fsync(&tail.segment);
        synced.inspect_err(|_| stream.poisoned.store(true, Ordering::Release))?;
        stream.synced.fetch_max(tail.appended, Ordering::AcqRel);
        // Never one that was tried before: what is left of that may come back with a crash.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let segment = Arc::new(Segment::create(self.disk.as_ref(), stream.name.prefix(), id)?);
        // In this order: compaction looks at the segments first, then which are written to, and must
        // not find this one without being told that it is.
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
