//! What lies in a segment, told at its end: opening and compaction read that, not the whole of it
//! (docs/adr/0028).
//!
//! The entries of all records, in order and without a gap, fill the values of *contents* records; one
//! more, the last record of the segment, says where these begin. Whatever does not fit together is not
//! believed, and the segment is scanned. One that goes on after its contents is scanned as well: the
//! last record is another.
#![expect(
    clippy::cast_possible_truncation,
    reason = "records and segments are bounded far below these types by constants"
)]

use std::io;

use super::{
    index::{Key, Slot},
    record::{ALIGN, HEAD_BYTES, Head, Kind, Record, Seed, crc32c, encode_into},
    segment::{HEADER_BYTES, Segment},
};

/// Of an entry before the key: value length u32, key length u16, kind u8.
const ENTRY_BYTES: usize = 7;

/// Longest entries that are told, all together, for they are in memory until then: those of 128 MiB
/// of records of 800 bytes.
const ENTRIES_BYTES_MAX: usize = 8 << 20;

/// Bytes of entries in one record.
const CHUNK_BYTES: usize = 1 << 20;

/// The last record: its key is where the contents begin, u64.
const LAST_BYTES: usize = HEAD_BYTES + 8;
const _: () = assert!((LAST_BYTES as u64).is_multiple_of(ALIGN));

/// Entries of the segment being written; none when they cannot be told.
#[derive(Debug)]
pub(super) struct Contents(Option<Vec<u8>>);

impl Contents {
    /// Of a segment without a record.
    pub(super) fn of_none() -> Self {
        Self(Some(Vec::new()))
    }

    /// Of a segment that is to be scanned.
    pub(super) fn untold() -> Self {
        Self(None)
    }

    /// Adds the record that follows the last.
    pub(super) fn add(&mut self, kind: Kind, key: &[u8], value_len: usize) {
        let Some(entries) = &mut self.0 else { return };
        if kind == Kind::Contents || entries.len() + ENTRY_BYTES + key.len() > ENTRIES_BYTES_MAX {
            self.0 = None;
            return;
        }
        entries.extend((value_len as u32).to_le_bytes());
        entries.extend((key.len() as u16).to_le_bytes());
        entries.push(kind as u8);
        entries.extend(key);
    }

    /// Returns the records that end a segment at `offset`. One that does not tell its contents ends
    /// with a mark: it may hold contents from before a crash, after which records were missing.
    pub(super) fn end(self, seed: &Seed, offset: u64, durable_to: u64) -> Vec<u8> {
        let Some(entries) = self.0 else {
            let (mark, mut out) = (Record { kind: Kind::Mark, key: &[], value: &[] }, Vec::new());
            encode_into(&mark, seed, offset, durable_to, &mut out);
            return out;
        };
        let mut out = Vec::with_capacity(entries.len() + entries.len() / 1024 + 1024);
        let begin = offset.to_le_bytes();
        let chunks = entries.chunks(CHUNK_BYTES).map(|value| (&[] as &[u8], value));
        for (key, value) in chunks.chain([(&begin as &[u8], &[] as &[u8])]) {
            let record = Record { kind: Kind::Contents, key, value };
            let at = offset + out.len() as u64;
            encode_into(&record, seed, at, durable_to, &mut out);
        }
        out
    }
}

/// Returns the records that a sealed segment of `len` bytes tells at its end, and notes how much of it
/// tells them; `None` when it does not, or not so that it can be believed.
pub(super) fn read(segment: &Segment, len: u64) -> io::Result<Option<Vec<(Key, Slot)>>> {
    let Some(begin) = begin(segment, len)? else { return Ok(None) };
    let mut told = vec![0; (len - begin) as usize];
    segment.read_at(&mut told, begin)?;
    let Some(entries) = entries(&segment.seed, begin, &told) else { return Ok(None) };
    let found = slots(segment.id, &entries, begin);
    if found.is_some() {
        segment.set_contents_bytes(len - begin);
    }
    Ok(found)
}

/// Returns where the contents begin, if the last record says so.
fn begin(segment: &Segment, len: u64) -> io::Result<Option<u64>> {
    let Some(at) = len.checked_sub(LAST_BYTES as u64).filter(|at| *at > HEADER_BYTES) else {
        return Ok(None);
    };
    let mut last = [0; LAST_BYTES];
    segment.read_at(&mut last, at)?;
    let is_last = Head::parse(&last).is_some_and(|head| {
        head.kind == Kind::Contents && head.record_len() == LAST_BYTES as u64 && head.key_len == 8
    });
    if !is_last || !Head::is_intact(&segment.seed, at, &last) {
        return Ok(None);
    }
    let begin = u64::from_le_bytes(last[HEAD_BYTES..].try_into().expect("8 bytes"));
    // No longer than what can have been told, whoever wrote it.
    let chunks = (ENTRIES_BYTES_MAX / CHUNK_BYTES * (CHUNK_BYTES + HEAD_BYTES)) as u64;
    let is_there = begin >= HEADER_BYTES && begin <= at && at - begin <= chunks;
    Ok((is_there && begin.is_multiple_of(ALIGN)).then_some(begin))
}

/// Returns the entries in the records of `told`, which begins at `begin`, if all are intact.
fn entries(seed: &Seed, begin: u64, told: &[u8]) -> Option<Vec<u8>> {
    let mut entries = Vec::with_capacity(told.len());
    let mut at = 0;
    while at < told.len() - LAST_BYTES {
        let record = &told[at..];
        let head = Head::parse(record).filter(|head| head.kind == Kind::Contents)?;
        let value = record.get(HEAD_BYTES..HEAD_BYTES + head.value_len)?;
        let is_intact = head.key_len == 0
            && Head::is_intact(seed, begin + at as u64, &record[..HEAD_BYTES])
            && head.value_crc == crc32c(value);
        entries.extend(is_intact.then_some(value)?);
        at += head.record_len() as usize;
    }
    (at == told.len() - LAST_BYTES).then_some(entries)
}

/// Returns where the records lie that entries tell of, if they fill the segment up to `end`.
fn slots(segment: u32, mut entries: &[u8], end: u64) -> Option<Vec<(Key, Slot)>> {
    let mut found = Vec::new();
    let mut offset = HEADER_BYTES;
    while let Some((entry, rest)) = entries.split_first_chunk::<ENTRY_BYTES>() {
        let [a, b, c, d, key_low, key_high, kind] = *entry;
        let kind = Kind::from_code(kind)?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes([key_low, key_high]).into())?;
        let value_len = u32::from_le_bytes([a, b, c, d]) as usize;
        let bytes = ((HEAD_BYTES + key.len() + value_len) as u64).next_multiple_of(ALIGN);
        if bytes > end - offset {
            return None;
        }
        if let Some(key_of) = Key::of(kind, key) {
            found.push((key_of, Slot::new(segment, offset, key.len(), value_len)));
        }
        offset += bytes;
        entries = rest;
    }
    (entries.is_empty() && offset == end).then_some(found)
}

#[cfg(test)]
impl super::Log {
    /// Checks that sealed segments tell what a scan finds, and returns how many tell it.
    pub(crate) fn hold_contents_against_scans(&self) -> usize {
        let mut told = 0;
        let tails = self.streams.each_ref().map(|stream| super::lock(&stream.place).segment);
        let segments = super::read(&self.segments);
        for segment in segments.values().filter(|segment| !tails.contains(&segment.id)) {
            let len = segment.len().unwrap();
            let Some(found) = read(segment, len).unwrap() else { continue };
            assert_eq!(found, super::recover::scanned(segment, len).unwrap());
            told += 1;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fula_core::{Block, Codec};

    use super::*;
    use crate::log::{
        Log, Need, StreamName,
        sim_disk::{Fault, SimDisk},
    };

    const SEGMENT: u64 = 16 << 10;

    fn open(disk: &SimDisk) -> Log {
        let (log, recovery) = Log::open(Arc::new(disk.clone()), SEGMENT).unwrap();
        assert!(recovery.damaged.is_empty() && recovery.truncated.is_empty(), "{recovery:?}");
        log
    }

    fn block(n: u64) -> Block {
        let mut bytes = n.to_be_bytes().to_vec();
        bytes.resize(900, 7);
        Block::new(Codec::Raw, bytes)
    }

    /// Appends a block and a row, and a mark of how far all is durable.
    fn append(log: &Log, n: u64) -> std::io::Result<()> {
        let block = block(n);
        let cid = block.cid().to_bytes();
        let row = format!("row {}", n % 3);
        let records = [
            Record { kind: Kind::Block, key: &cid, value: block.bytes() },
            Record { kind: Kind::Root, key: row.as_bytes(), value: b"value" },
            Record { kind: Kind::Mark, key: &[], value: &[] },
        ];
        log.append(StreamName::Commit, &records, Need::More)?;
        log.flush(StreamName::Commit)
    }

    fn all(log: &Log) -> Vec<(Key, Slot)> {
        let segments: Vec<_> = super::super::read(&log.segments).keys().copied().collect();
        segments.into_iter().flat_map(|id| log.index().in_segment(id)).collect()
    }

    fn sorted(mut slots: Vec<(Key, Slot)>) -> Vec<String> {
        slots.sort_by_key(|(_, slot)| (slot.segment, slot.offset));
        slots.into_iter().map(|found| format!("{found:?}")).collect()
    }

    #[test]
    fn opening_reads_what_is_told_and_no_values() {
        let disk = SimDisk::default();
        let before = {
            let log = open(&disk);
            (0..400).for_each(|n| append(&log, n).unwrap());
            sorted(all(&log))
        };
        let read = disk.read_bytes();
        let log = open(&disk);
        let read = disk.read_bytes() - read;
        assert_eq!(sorted(all(&log)), before);
        // Of the two tails all is read.
        let (len, _) = log.sizes().unwrap();
        assert!(len > 400 << 10 && read < 2 * SEGMENT + len / 10, "read {read} of {len}");
        assert!(log.hold_contents_against_scans() > 20);
    }

    #[test]
    fn no_changed_byte_of_what_is_told_is_believed() {
        let disk = SimDisk::default();
        let log = open(&disk);
        (0..40).for_each(|n| append(&log, n).unwrap());
        let segment = super::super::read(&log.segments).first_key_value().unwrap().1.clone();
        let len = segment.len().unwrap();
        let whole = read(&segment, len).unwrap().expect("it tells");
        let begin = len - segment.contents_bytes();
        let mut refused = 0;
        for at in begin..len {
            let mut byte = [0];
            segment.read_at(&mut byte, at).unwrap();
            segment.write_at(&[byte[0] ^ 0x20], at).unwrap();
            match read(&segment, len).unwrap() {
                Some(found) => assert_eq!(found, whole, "byte {at} of {begin}..{len}"),
                None => refused += 1,
            }
            segment.write_at(&byte, at).unwrap();
        }
        // All but the zeros that fill a record up.
        assert!(refused > len - begin - ALIGN, "{refused} of {}", len - begin);
        // Nor is what a segment of another length tells.
        for cut in 1..=len - begin {
            assert_eq!(read(&segment, len - cut).unwrap(), None);
        }
    }

    #[test]
    fn a_segment_that_goes_on_after_its_contents_is_scanned() {
        let disk = SimDisk::default();
        let log = open(&disk);
        append(&log, 1).unwrap();
        append(&log, 2).unwrap();
        // The contents are written and synced; that the next segment is made fails.
        disk.fail(2, Fault::Full, false);
        let sealed = log.seal(0);
        assert_eq!(sealed.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        append(&log, 3).unwrap();
        log.seal(0).unwrap();
        append(&log, 4).unwrap();
        let before = sorted(all(&log));
        assert_eq!(log.hold_contents_against_scans(), 0);
        drop(log);
        assert_eq!(sorted(all(&open(&disk))), before);
    }

    /// A power cut may keep the contents and not what they tell of.
    #[test]
    fn contents_that_a_crash_left_behind_are_not_believed() {
        let disk = SimDisk::default();
        let log = open(&disk);
        let first = block(1);
        let cid = first.cid();
        let key = cid.to_bytes();
        let records = [Record { kind: Kind::Block, key: &key, value: first.bytes() }; 2];
        log.append(StreamName::Bulk, &records, Need::More).unwrap();
        let (id, slot) = {
            let slot = log.index().blocks.get(&cid).unwrap().slot();
            (slot.segment, slot)
        };
        disk.fail(2, Fault::Full, false);
        log.seal(0).unwrap_err();
        let segment = super::super::read(&log.segments)[&id].clone();
        assert!(read(&segment, segment.len().unwrap()).unwrap().is_some(), "it tells");
        drop(log);
        // The record that counts is gone, head and all.
        let lost = vec![0; usize::try_from(slot.bytes()).unwrap()];
        segment.write_at(&lost, slot.offset.into()).unwrap();

        let (log, recovery) = Log::open(Arc::new(disk.clone()), SEGMENT).unwrap();
        assert_eq!(recovery.truncated.len(), 1, "{recovery:?}");
        {
            let mut tail = super::super::lock(&log.stream(StreamName::Bulk).tail);
            log.roll(log.stream(StreamName::Bulk), &mut tail).unwrap();
        }
        // Else the segment is no segment yet, and the one before goes on.
        let other = block(2);
        let key = other.cid().to_bytes();
        let record = Record { kind: Kind::Block, key: &key, value: other.bytes() };
        log.append(StreamName::Bulk, &[record], Need::More).unwrap();
        let kept = sorted(all(&log));
        drop(log);
        assert_eq!(sorted(all(&open(&disk))), kept);
    }

    #[test]
    fn more_than_is_kept_in_memory_is_not_told() {
        let mut contents = Contents::of_none();
        let key = [7; 36];
        let most = ENTRIES_BYTES_MAX / (ENTRY_BYTES + key.len());
        (0..most).for_each(|_| contents.add(Kind::Block, &key, 0));
        let seed = Seed([1; 16]);
        let offset = HEADER_BYTES + (most * (HEAD_BYTES + 40)) as u64;
        let told = contents.end(&seed, offset, 0);
        let entries = entries(&seed, offset, &told).expect("intact");
        assert_eq!(entries.len(), most * (ENTRY_BYTES + key.len()));

        let mut contents = Contents::of_none();
        (0..=most).for_each(|_| contents.add(Kind::Block, &key, 0));
        assert_eq!(contents.end(&seed, offset, 0).len(), HEAD_BYTES);
    }

    /// Entries that would leave a record out, or reach beyond it.
    #[test]
    fn entries_that_do_not_fill_the_segment_are_not_believed() {
        let mut contents = Contents::of_none();
        contents.add(Kind::Block, &[7; 36], 100);
        contents.add(Kind::Root, b"row", 5);
        let entries = contents.0.unwrap();
        let end = HEADER_BYTES + 168 + 40;
        assert_eq!(slots(1, &entries, end).unwrap().len(), 2);
        for other in [end - 8, end + 8, end + 40] {
            assert_eq!(slots(1, &entries, other), None);
        }
        for cut in 1..entries.len() {
            assert_eq!(slots(1, &entries[..cut], end), None);
        }
        let mut huge = entries;
        huge[..4].fill(0xff);
        assert_eq!(slots(1, &huge, end), None);
    }
}
