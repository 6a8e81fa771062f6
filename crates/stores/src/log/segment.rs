//! A segment: one file of the log.
#![expect(
    clippy::cast_possible_truncation,
    reason = "records and segments are bounded far below these types by constants"
)]

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    StreamName,
    disk::{Disk, DiskFile, is_lost},
    record::{HEAD_BYTES, Head, Seed, crc32c},
    slot::Slot,
};

/// Length in bytes of the part before the first record: the header twice, so that one damaged byte loses
/// nothing.
pub(super) const HEADER_BYTES: u64 = 2 * HEADER_COPY_BYTES as u64;

/// Length in bytes of one copy of the header: magic, id, stream, seed, and a check over them.
const HEADER_COPY_BYTES: usize = 40;

/// Number of bytes that are rewritten at a time.
const AGAIN_BYTES: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"FULALOG\x01";

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u32,
    pub(super) seed: Seed,
    name: String,
    file: Box<dyn DiskFile>,
    /// Whether a sync failed. The kernel reports a lost write only once, so every later sync must fail too.
    failed: Mutex<bool>,
    /// Length of its footer in bytes.
    footer_bytes: AtomicU64,
}

/// The result of opening a file.
pub(super) enum Opened {
    Segment(Segment),
    /// The file has this length and no readable header.
    Unreadable(u64),
}

/// Returns the stream prefix and the id of a file name.
pub(super) fn parse_name(name: &str) -> Option<(&str, u32)> {
    let (prefix, id) = name.strip_suffix(".log")?.split_once('-')?;
    let is_stream = StreamName::ALL.iter().any(|stream| stream.prefix() == prefix);
    let id = id.parse().ok().filter(|id| *id < u32::MAX)?;
    is_stream.then_some((prefix, id))
}

/// Returns the file name of a segment.
pub(super) fn name_of(prefix: &str, id: u32) -> String {
    format!("{prefix}-{id:08}.log")
}

/// Returns one copy of a header.
fn header_copy(prefix: &str, id: u32, seed: Seed) -> [u8; HEADER_COPY_BYTES] {
    let mut copy = [0; HEADER_COPY_BYTES];
    copy[..8].copy_from_slice(MAGIC);
    copy[8..12].copy_from_slice(&id.to_le_bytes());
    copy[12..16].copy_from_slice(&prefix.as_bytes()[..4]);
    copy[16..32].copy_from_slice(&seed.0);
    let check = blake3::hash(&copy[..32]);
    copy[32..].copy_from_slice(&check.as_bytes()[..8]);
    copy
}

/// Returns the seed in a header, from the copy that is intact.
fn seed_in(header: &[u8], prefix: &str, id: u32) -> Option<Seed> {
    header.chunks_exact(HEADER_COPY_BYTES).find_map(|copy| {
        let seed = Seed(copy[16..32].try_into().ok()?);
        (copy == header_copy(prefix, id, seed)).then_some(seed)
    })
}

impl Segment {
    fn new(id: u32, seed: Seed, name: String, file: Box<dyn DiskFile>) -> Self {
        Self { id, seed, name, file, failed: Mutex::default(), footer_bytes: AtomicU64::default() }
    }

    /// Creates a segment. The file is durable when the call returns.
    pub(super) fn create(disk: &dyn Disk, prefix: &str, id: u32) -> io::Result<Self> {
        let name = name_of(prefix, id);
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let file = disk.create(&name)?;
        let copy = header_copy(prefix, id, Seed(seed));
        let header = [copy, copy].concat();
        let written = file.write_at(&header, 0).and_then(|()| file.sync());
        if let Err(error) = written.and_then(|()| disk.sync()) {
            // Otherwise the next attempt would find the name taken when there is space again.
            drop(disk.remove(&name));
            return Err(error);
        }
        Ok(Self::new(id, Seed(seed), name, file))
    }

    /// Opens a segment.
    pub(super) fn open(disk: &dyn Disk, prefix: &str, id: u32) -> io::Result<Opened> {
        let name = name_of(prefix, id);
        let file = disk.open(&name)?;
        let mut found = [0; HEADER_BYTES as usize];
        let len = file.len()?;
        if len >= HEADER_BYTES {
            match file.read_at(&mut found, 0) {
                Err(error) if is_lost(&error) => return Ok(Opened::Unreadable(len)),
                read => read?,
            }
        }
        if let Some(seed) = seed_in(&found, prefix, id) {
            return Ok(Opened::Segment(Self::new(id, seed, name, file)));
        }
        Ok(Opened::Unreadable(len))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.name.starts_with("bulk")
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    pub(super) fn footer_bytes(&self) -> u64 {
        self.footer_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_contents_bytes(&self, bytes: u64) {
        self.footer_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    /// Writes the content again, and makes it durable.
    pub(super) fn write_again(&self, from: u64, to: u64) -> io::Result<()> {
        let mut buffer = vec![0; AGAIN_BYTES];
        for at in (from..to).step_by(AGAIN_BYTES) {
            let part = &mut buffer[..(to - at).min(AGAIN_BYTES as u64) as usize];
            self.file.read_at(part, at)?;
            match self.file.write_at(part, at) {
                // Overwriting needs new space on this file system, and there is none. On such a file system
                // nothing that was not synced is left.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                written => written?,
            }
        }
        self.sync()
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    /// Reads a whole record. Returns its value if head and value are as they were written.
    pub(super) fn read_intact(&self, slot: &Slot) -> io::Result<Option<Bytes>> {
        let mut record = vec![0; slot.bytes() as usize];
        self.file.read_at(&mut record, u64::from(slot.offset))?;
        let value_at = HEAD_BYTES + usize::from(slot.key_len);
        let value_end = value_at + slot.value_len as usize;
        let is_head = Head::is_intact(&self.seed, u64::from(slot.offset), &record[..value_at]);
        let head = Head::parse(&record).filter(|_| is_head);
        let is_intact =
            head.is_some_and(|head| head.value_crc == crc32c(&record[value_at..value_end]));
        Ok(is_intact.then(|| Bytes::from(record).slice(value_at..value_end)))
    }

    /// Frees the space of a sealed segment from `len` on, including its footer.
    pub(super) fn cut(&self, len: u64) -> io::Result<()> {
        self.set_contents_bytes(0);
        self.truncate(len)
    }

    pub(super) fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)?;
        self.sync()
    }

    /// Makes everything durable that was written before the call.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if *failed {
            return Err(io::Error::other("an earlier fsync of this file failed"));
        }
        self.file.sync().inspect_err(|_| *failed = true)
    }

    /// Fills `value` from `offset`. Without `may_wait`, returns false when not all of it is in memory.
    pub(super) fn fill(&self, value: &mut [u8], offset: u64, may_wait: bool) -> io::Result<bool> {
        if may_wait {
            return self.file.read_at(value, offset).map(|()| true);
        }
        self.file.read_cached(value, offset)
    }

    /// Deletes the file. Readers that hold the segment can still finish.
    pub(super) fn delete(&self, disk: &dyn Disk) -> io::Result<()> {
        match disk.remove(&self.name) {
            // An earlier call that failed later has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        disk.sync()
    }
}

/// Renames a file so that it no longer belongs to the log.
pub(super) fn set_aside(disk: &dyn Disk, name: &str) -> io::Result<()> {
    disk.rename(name, &format!("{name}.damaged"))?;
    disk.sync()
}
