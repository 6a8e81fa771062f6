//! Recovery: reads a log, finds its records, and tells a torn tail from damage.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::Arc,
};

use fula_core::Cid;

use super::{
    disk::{Disk, is_lost},
    footer::{self, SegmentFooter},
    index::{Index, Key},
    listed::{Listed, forget_removed},
    manifest::Manifest,
    record::{ALIGN, HEAD_BYTES, Head, Kind, Record, crc32c, encode_into},
    segment::{HEADER_BYTES, Opened, Segment, name_of, parse_name},
    slot::Slot,
};

/// Number of bytes that are read at a time while scanning.
const WINDOW_BYTES: usize = 1 << 20;

/// Longest record that fills a gap, in bytes.
const FILLER_BYTES_MAX: u64 = 1 << 20;

/// Number of bytes that are read at a time while only heads are needed.
const HEADS_WINDOW_BYTES: usize = 16 << 10;

/// A place in the log that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// File name of the segment.
    pub segment: String,
    /// Position of the first byte affected.
    pub offset: u64,
    /// Number of bytes affected.
    pub bytes: u64,
    /// Address of the block affected, when it is still readable.
    pub cid: Option<Cid>,
}

/// The result of opening a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether a repair has begun and not ended. Pointers may then be lost although nothing is damaged.
    pub is_unrepaired: bool,
    /// Unfinished writes that were cut off the end. They were never acknowledged.
    pub truncated: Vec<Damage>,
    /// Damage before the end of the log.
    pub damaged: Vec<Damage>,
    /// Segments that must exist and are missing or empty, although neither compaction nor a repair has
    /// removed them.
    pub missing: Vec<String>,
    /// Segments that the manifest named and that an earlier build, which keeps no manifest, has removed.
    pub forgotten: Vec<String>,
}

impl Recovery {
    /// Returns whether a segment of root pointers and metadata is missing.
    pub fn lacks_rows(&self) -> bool {
        self.missing.iter().any(|segment| segment.starts_with("commit"))
    }

    /// Returns the number of damaged places and missing segments that may have held root pointers or
    /// metadata. A repair that did not end adds one.
    pub fn pointers_at_risk(&self) -> usize {
        let nameless = self.damaged.iter().filter(|damage| damage.cid.is_none());
        let damaged = nameless.filter(|damage| damage.segment.starts_with("commit")).count();
        let missing = self.missing.iter().filter(|segment| segment.starts_with("commit")).count();
        damaged + missing + usize::from(self.is_unrepaired)
    }
}

pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) segments: BTreeMap<u32, Arc<Segment>>,
    /// Segment, position and footer so far with which each stream continues.
    pub(super) tails: HashMap<String, (Arc<Segment>, u64, SegmentFooter)>,
    pub(super) report: Recovery,
    /// A number above that of every segment that exists or existed, readable or not.
    pub(super) next_id: u32,
    pub(super) manifest: Manifest,
}

/// A part of a segment.
enum Stretch {
    Record {
        offset: u64,
        head: Head,
        key: Vec<u8>,
    },
    Gap {
        offset: u64,
        bytes: u64,
        key: Option<(Kind, Vec<u8>)>,
        /// The error that reading it gave, if it cannot be read.
        error: Option<io::Error>,
    },
}

impl Stretch {
    fn end(&self) -> u64 {
        match self {
            Self::Record { offset, head, .. } => offset + head.record_len(),
            Self::Gap { offset, bytes, .. } => offset + bytes,
        }
    }
}

/// Smallest number of bytes that a disk loses together.
const SECTOR_BYTES: u64 = 4096;

/// Reads all segments on `disk` in order.
pub(super) fn recover(disk: &dyn Disk) -> io::Result<Recovered> {
    let (mut listed, mut manifest) = (Listed::read(disk)?, Manifest::read(disk)?);
    let numbers = manifest.named().iter().filter_map(|name| parse_name(name).map(|(_, id)| id));
    // No other segment may get the number of a missing one.
    let next_id = listed.files.keys().copied().chain(numbers).max().map_or(1, |id| id + 1);
    listed.leave_segments(disk, &manifest)?;
    let (there, is_unrepaired) = (listed.names(), listed.is_unrepaired);
    // No build leaves an empty segment behind.
    let known: BTreeSet<String> = there.union(&listed.emptied).cloned().collect();
    let forgotten = forget_removed(&mut manifest, &known);
    let missing = manifest.compare(&there);
    let report = Recovery { is_unrepaired, missing, forgotten, ..Recovery::default() };
    // After a failed sync, files that are listed may not be durable, and removed ones may come back.
    disk.sync()?;
    manifest.add_or_wait(disk, &there)?;
    let mut recovered = Recovered {
        index: Index::default(),
        segments: BTreeMap::new(),
        tails: HashMap::new(),
        report,
        next_id,
        manifest,
    };
    let files = &listed.files;
    let newest: HashMap<&str, u32> =
        files.iter().map(|(id, (prefix, _))| (prefix.as_str(), *id)).collect();
    for (id, (prefix, _)) in files {
        let is_tail = newest.get(prefix.as_str()) == Some(id);
        let segment = match Segment::open(disk, prefix, *id)? {
            Opened::Segment(segment) => Arc::new(segment),
            Opened::Unreadable(bytes) => {
                let segment = name_of(prefix, *id);
                recovered.report.damaged.push(Damage { segment, offset: 0, bytes, cid: None });
                continue;
            }
        };
        if is_tail {
            let (end, footer) = recovered.read_tail(&segment)?;
            recovered.tails.insert(prefix.clone(), (Arc::clone(&segment), end, footer));
        } else {
            recovered.read_sealed(&segment)?;
        }
        recovered.segments.insert(*id, segment);
    }
    Ok(recovered)
}

impl Recovered {
    fn insert(&mut self, segment: &Segment, key: Key, slot: Slot) {
        // The bulk stream contains only blocks.
        if !segment.is_bulk() || matches!(key, Key::Block(_)) {
            self.index.insert_key(key, slot);
        }
    }

    /// Indexes a segment that another one follows.
    fn read_sealed(&mut self, segment: &Segment) -> io::Result<()> {
        let (end, told) = footer::read(segment, segment.len()?)?;
        let Some(told) = told else {
            self.index_stretches(segment, scan(segment, HEADER_BYTES, end, false)?, end, end)?;
            return Ok(());
        };
        for (key, slot) in told {
            self.insert(segment, key, slot);
        }
        Ok(())
    }

    /// Indexes the newest segment of a stream. Returns where it continues, and the footer so far. Only this
    /// segment can have a torn tail.
    fn read_tail(&mut self, segment: &Segment) -> io::Result<(u64, SegmentFooter)> {
        let len = segment.len()?;
        let mut stretches = scan(segment, HEADER_BYTES, len, true)?;
        let durable = stretches.iter().map(|stretch| match stretch {
            Stretch::Record { head, .. } => head.durable_to,
            Stretch::Gap { .. } => 0,
        });
        let durable = durable.max().unwrap_or(0);
        // What a killed process wrote may still be only in the memory of the kernel. After a failed sync
        // the kernel even treats it as written, and may forget it at any time. So it is written again
        // before it is read for good.
        segment.write_again(durable, len)?;
        let known = stretches.iter().take_while(|stretch| stretch.end() <= durable).count();
        stretches.truncate(known);
        let from = stretches.last().map_or(HEADER_BYTES, Stretch::end);
        stretches.extend(scan(segment, from, len, true)?);
        let found = self.index_stretches(segment, stretches, len, durable)?;
        // This makes the filled gaps durable.
        segment.sync()?;
        Ok(found)
    }

    /// Indexes the records of a segment of `len` bytes. Returns where they end, and the footer for them.
    /// Beyond `durable` it may have a torn tail.
    fn index_stretches(
        &mut self,
        segment: &Segment,
        stretches: Vec<Stretch>,
        len: u64,
        durable: u64,
    ) -> io::Result<(u64, SegmentFooter)> {
        let mut footer = SegmentFooter::empty();
        for stretch in stretches {
            match stretch {
                Stretch::Record { offset, head, key } => {
                    let slot = Slot::new(segment.id, offset, head.key_len, head.value_len);
                    footer.add(head.kind, &key, head.value_len);
                    if let Some(key) = Key::of(head.kind, &key) {
                        self.insert(segment, key, slot);
                    }
                }
                Stretch::Gap { offset, bytes, key, error } => {
                    // An unreadable place may have been acknowledged even when no later record tells.
                    if let Some(error) = error
                        && offset + bytes > durable
                    {
                        return Err(error);
                    }
                    let damage = Damage {
                        segment: segment.name().to_owned(),
                        offset,
                        bytes,
                        cid: key.and_then(|(_, key)| Cid::from_bytes(&key).ok()),
                    };
                    let is_last = offset + bytes >= len;
                    if offset < durable {
                        self.report.damaged.push(damage);
                        footer = SegmentFooter::omitted();
                        continue;
                    }
                    // In the bulk stream, blocks behind an unfinished write are valid. The gap is filled,
                    // so that it is not taken for damage once the records behind it are durable.
                    if segment.is_bulk() && !is_last && fill(segment, offset, bytes)? {
                        self.report.truncated.push(Damage { cid: None, ..damage });
                        footer = SegmentFooter::omitted();
                        continue;
                    }
                    let bytes = len - offset;
                    self.report.truncated.push(Damage { bytes, cid: None, ..damage });
                    segment.truncate(offset)?;
                    return Ok((offset, footer));
                }
            }
        }
        Ok((len, footer))
    }
}

/// Writes records without content over an unfinished write. Returns false when it is too short for one.
fn fill(segment: &Segment, offset: u64, bytes: u64) -> io::Result<bool> {
    let (mut at, end) = (offset, offset + bytes);
    let mut filler = Vec::new();
    while at < end {
        let mut len = (end - at).min(FILLER_BYTES_MAX);
        // The rest must have room for a head, too.
        if (1..HEAD_BYTES as u64).contains(&(end - at - len)) {
            len -= HEAD_BYTES as u64;
        }
        let Some(value) = usize::try_from(len).ok().and_then(|len| len.checked_sub(HEAD_BYTES))
        else {
            return Ok(false);
        };
        let record = Record { kind: Kind::Mark, key: &[], value: &vec![0; value] };
        encode_into(&record, &segment.seed, at, 0, &mut filler);
        at += len;
    }
    segment.write_at(&filler, offset)?;
    Ok(true)
}

/// Splits a segment from `from` to `len` into records and gaps, which are as long as possible. With
/// `values`, a record whose value fails its checksum is a gap, unless it holds nothing that counts.
fn scan(segment: &Segment, from: u64, len: u64, values: bool) -> io::Result<Vec<Stretch>> {
    let most = if values { WINDOW_BYTES } else { HEADS_WINDOW_BYTES };
    let mut window = Window { segment, len, most, start: 0, bytes: Vec::new(), narrow_to: 0 };
    let mut stretches = Vec::new();
    let mut at = from;
    let mut gap: Option<(u64, Option<io::Error>)> = None;
    while at < len {
        let (head, key) = match window.head(at) {
            Ok(Some(found)) => found,
            Ok(None) => {
                gap.get_or_insert((at, None));
                at += ALIGN;
                continue;
            }
            Err(error) if is_lost(&error) => {
                gap.get_or_insert((at, None)).1 = Some(error);
                at = (at + 1).next_multiple_of(SECTOR_BYTES).min(len);
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some((offset, error)) = gap.take() {
            stretches.push(Stretch::Gap { offset, bytes: at - offset, key: None, error });
        }
        let (offset, bytes) = (at, head.record_len());
        at += bytes;
        if !values || head.kind.is_note() {
            stretches.push(Stretch::Record { offset, head, key });
            continue;
        }
        let value_at = offset + (HEAD_BYTES + head.key_len) as u64;
        let (is_intact, error) = match window.bytes(value_at, head.value_len) {
            Ok(value) => (crc32c(value) == head.value_crc, None),
            Err(error) if is_lost(&error) => (false, Some(error)),
            Err(error) => return Err(error),
        };
        stretches.push(if is_intact {
            Stretch::Record { offset, head, key }
        } else {
            Stretch::Gap { offset, bytes, key: Some((head.kind, key)), error }
        });
    }
    if let Some((offset, error)) = gap {
        stretches.push(Stretch::Gap { offset, bytes: len - offset, key: None, error });
    }
    Ok(stretches)
}

/// Reads a segment through a buffer.
struct Window<'a> {
    segment: &'a Segment,
    len: u64,
    most: usize,
    start: u64,
    bytes: Vec<u8>,
    /// Position up to which a place cannot be read. Up to there the window reads sector by sector: each
    /// failing read may take seconds, so a lost sector must not be read again for every record before it.
    narrow_to: u64,
}

impl Window<'_> {
    fn fill(&mut self, at: u64, len: u64) -> io::Result<()> {
        self.start = at;
        self.bytes.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        self.segment.read_at(&mut self.bytes, at).inspect_err(|_| self.bytes.clear())
    }

    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let end = at + len as u64;
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let narrow = (end.next_multiple_of(SECTOR_BYTES) - at).min(self.len - at);
            let wide = (self.len - at).min(self.most.max(len) as u64);
            let wide = if at < self.narrow_to { narrow } else { wide };
            match self.fill(at, wide) {
                Err(error) if is_lost(&error) && wide > narrow => {
                    self.narrow_to = at + wide;
                    self.fill(at, narrow)?;
                }
                read => read?,
            }
        }
        let from = usize::try_from(at - self.start).map_err(io::Error::other)?;
        Ok(&self.bytes[from..from + len])
    }

    /// Returns the intact head at `at` and its key, if a whole record fits there.
    fn head(&mut self, at: u64) -> io::Result<Option<(Head, Vec<u8>)>> {
        if at + HEAD_BYTES as u64 > self.len {
            return Ok(None);
        }
        let bytes = self.bytes(at, HEAD_BYTES)?;
        let Some(head) = Head::parse(bytes).filter(|head| at + head.record_len() <= self.len)
        else {
            return Ok(None);
        };
        let seed = self.segment.seed;
        let head_and_key = self.bytes(at, HEAD_BYTES + head.key_len)?;
        if !Head::is_intact(&seed, at, head_and_key) {
            return Ok(None);
        }
        let key = head_and_key[HEAD_BYTES..].to_vec();
        Ok(Some((head, key)))
    }
}

/// Returns the records of a sealed segment without reading their values.
pub(super) fn records(segment: &Segment) -> io::Result<Vec<(Key, Slot)>> {
    match footer::read(segment, segment.len()?)? {
        (_, Some(told)) => Ok(told),
        (end, None) => scanned(segment, end),
    }
}

/// Returns the records of a sealed segment according to their heads.
pub(super) fn scanned(segment: &Segment, len: u64) -> io::Result<Vec<(Key, Slot)>> {
    let found = scan(segment, HEADER_BYTES, len, false)?.into_iter().filter_map(|stretch| {
        let Stretch::Record { offset, head, key } = stretch else { return None };
        let slot = Slot::new(segment.id, offset, head.key_len, head.value_len);
        Some((Key::of(head.kind, &key)?, slot))
    });
    Ok(found.collect())
}

/// Reads a segment up to `len`. Returns the damaged places, with the key where that is readable.
pub(super) fn verify(segment: &Segment, len: u64) -> io::Result<Vec<(Damage, Option<Key>)>> {
    let mut found = Vec::new();
    for stretch in scan(segment, HEADER_BYTES, len, true)? {
        let Stretch::Gap { offset, bytes, key, .. } = stretch else { continue };
        let cid = key.as_ref().and_then(|(_, key)| Cid::from_bytes(key).ok());
        let damage = Damage { segment: segment.name().to_owned(), offset, bytes, cid };
        found.push((damage, key.and_then(|(kind, key)| Key::of(kind, &key))));
    }
    Ok(found)
}
