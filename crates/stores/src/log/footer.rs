//! The footer of a segment. It lists the records, so that opening the log and compaction need not read the
//! whole segment (docs/adr/0028).
//!
//! The values of *footer* records contain an entry for each record of the segment, in order and without a
//! gap. One more record, the last of the segment, tells where they begin. A footer that is not consistent
//! is not believed, and the segment is scanned. A segment that ends with any other record is scanned too.
#![expect(
    clippy::cast_possible_truncation,
    reason = "records and segments are bounded far below these types by constants"
)]

use std::io;

use super::{
    disk::is_lost,
    index::Key,
    record::{ALIGN, HEAD_BYTES, Head, Kind, Record, Seed, crc32c, encode_into, record_len},
    segment::{HEADER_BYTES, Segment},
    slot::Slot,
};

/// Length in bytes of an entry before the key: value length u32, key length u16, kind u8.
const ENTRY_BYTES: usize = 7;

/// Largest length in bytes of all entries of a segment. They are in memory until the segment ends, so a
/// segment with more entries gets no footer. It suffices for 128 MiB of records of 800 bytes.
const ENTRIES_BYTES_MAX: usize = 8 << 20;

/// Largest length of the entries in one record, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// Length of the last record in bytes. Its key is the position at which the footer begins, u64.
const LAST_BYTES: usize = HEAD_BYTES + 8;
const _: () = assert!((LAST_BYTES as u64).is_multiple_of(ALIGN));

/// The footer of the segment that is being written: its entries, or `None` when it will get no footer.
#[derive(Debug)]
pub(super) struct SegmentFooter(Option<Vec<u8>>);

impl SegmentFooter {
    /// Returns the footer of a segment without records.
    pub(super) fn empty() -> Self {
        Self(Some(Vec::new()))
    }

    /// Returns the footer of a segment that must be scanned.
    pub(super) fn omitted() -> Self {
        Self(None)
    }

    /// Adds the entry of the next record.
    pub(super) fn add(&mut self, kind: Kind, key: &[u8], value_len: usize) {
        let Some(entries) = &mut self.0 else { return };
        if entries.len() + ENTRY_BYTES + key.len() > ENTRIES_BYTES_MAX {
            self.0 = None;
            return;
        }
        entries.extend((value_len as u32).to_le_bytes());
        entries.extend((key.len() as u16).to_le_bytes());
        entries.push(kind as u8);
        entries.extend(key);
    }

    /// Returns the records that end a segment at `offset`, if a footer can be written. Adds entries for
    /// these records too, because the segment may be continued.
    pub(super) fn end(&mut self, seed: &Seed, offset: u64, durable_to: u64) -> Option<Vec<u8>> {
        let entries = self.0.as_ref()?;
        let mut out = Vec::with_capacity(entries.len() + entries.len() / 1024 + 1024);
        let begin = offset.to_le_bytes();
        let chunks = entries.chunks(CHUNK_BYTES).map(|value| (&[] as &[u8], value));
        for (key, value) in chunks.chain([(&begin as &[u8], &[] as &[u8])]) {
            let record = Record { kind: Kind::Footer, key, value };
            let at = offset + out.len() as u64;
            encode_into(&record, seed, at, durable_to, &mut out);
        }
        let lens: Vec<_> = entries.chunks(CHUNK_BYTES).map(<[u8]>::len).collect();
        for len in lens {
            self.add(Kind::Footer, &[], len);
        }
        self.add(Kind::Footer, &begin, 0);
        Some(out)
    }
}

/// The records that a footer lists; `None` when there is no footer, or not one that can be believed.
pub(super) type Told = Option<Vec<(Key, Slot)>>;

/// Returns the end of the records of a sealed segment of `len` bytes, without its footer.
pub(super) fn end_of_records(segment: &Segment, len: u64) -> io::Result<u64> {
    Ok(begin(segment, len)?.unwrap_or(len))
}

/// Returns the end of the records of a sealed segment of `len` bytes, and the records that its footer
/// lists. Stores the length of the footer in the segment.
pub(super) fn read(segment: &Segment, len: u64) -> io::Result<(u64, Told)> {
    let Some(begin) = begin(segment, len)? else { return Ok((len, None)) };
    segment.set_contents_bytes(len - begin);
    let mut told = vec![0; (len - begin) as usize];
    let entries = match segment.read_at(&mut told, begin) {
        Err(error) if is_lost(&error) => None,
        read => read.map(|()| entries(&segment.seed, begin, &told))?,
    };
    let found = entries.and_then(|entries| slots(segment.id, &entries, begin));
    if found.is_none() {
        tracing::warn!(
            segment = segment.name(),
            "the footer of a segment is damaged; the segment is scanned instead"
        );
    }
    Ok((begin, found))
}

/// Returns where the footer begins, if the last record tells.
fn begin(segment: &Segment, len: u64) -> io::Result<Option<u64>> {
    let Some(at) = len.checked_sub(LAST_BYTES as u64).filter(|at| *at > HEADER_BYTES) else {
        return Ok(None);
    };
    let mut last = [0; LAST_BYTES];
    match segment.read_at(&mut last, at) {
        Err(error) if is_lost(&error) => return Ok(None),
        read => read?,
    }
    let is_last = Head::parse(&last).is_some_and(|head| {
        head.kind == Kind::Footer && head.record_len() == LAST_BYTES as u64 && head.key_len == 8
    });
    if !is_last || !Head::is_intact(&segment.seed, at, &last) {
        return Ok(None);
    }
    let begin = u64::from_le_bytes(last[HEAD_BYTES..].try_into().expect("8 bytes"));
    // A footer cannot be longer than this, whatever a damaged record says.
    let chunks = (ENTRIES_BYTES_MAX / CHUNK_BYTES * (CHUNK_BYTES + HEAD_BYTES)) as u64;
    let is_there = begin >= HEADER_BYTES && begin <= at && at - begin <= chunks;
    Ok((is_there && begin.is_multiple_of(ALIGN)).then_some(begin))
}

/// Returns the entries in the footer records of `told`, which begins at `begin`, if all are intact.
fn entries(seed: &Seed, begin: u64, told: &[u8]) -> Option<Vec<u8>> {
    let mut entries = Vec::with_capacity(told.len());
    let mut at = 0;
    while at < told.len() - LAST_BYTES {
        let record = &told[at..];
        let head = Head::parse(record).filter(|head| head.kind == Kind::Footer)?;
        let value = record.get(HEAD_BYTES..HEAD_BYTES + head.value_len)?;
        let is_intact = head.key_len == 0
            && Head::is_intact(seed, begin + at as u64, &record[..HEAD_BYTES])
            && head.value_crc == crc32c(value);
        entries.extend(is_intact.then_some(value)?);
        at += head.record_len() as usize;
    }
    (at == told.len() - LAST_BYTES).then_some(entries)
}

/// Returns the places of the records that the entries describe, if these fill the segment up to `end`.
fn slots(segment: u32, mut entries: &[u8], end: u64) -> Told {
    let mut found = Vec::new();
    let mut offset = HEADER_BYTES;
    while let Some((entry, rest)) = entries.split_first_chunk::<ENTRY_BYTES>() {
        let [a, b, c, d, key_low, key_high, kind] = *entry;
        let kind = Kind::from_code(kind)?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes([key_low, key_high]).into())?;
        let value_len = u32::from_le_bytes([a, b, c, d]) as usize;
        let bytes = record_len(key.len(), value_len);
        if !kind.is_plausible(key.len(), value_len) || bytes > end - offset {
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
    /// Checks that the footers of sealed segments list what a scan finds. Returns the number of footers.
    pub(crate) fn hold_footers_against_scans(&self) -> usize {
        let mut told = 0;
        let tails = self.streams.each_ref().map(|stream| stream.place.lock().segment);
        let segments = self.segments.read();
        for segment in segments.values().filter(|segment| !tails.contains(&segment.id)) {
            let len = segment.len().unwrap();
            let (end, found) = read(segment, len).unwrap();
            let Some(found) = found else { continue };
            assert_eq!(found, super::recover::scanned(segment, end).unwrap());
            told += 1;
        }
        told
    }
}

#[cfg(test)]
mod tests;
