//! How much of a disk the log may fill, and what it keeps back (docs/adr/0030).
//!
//! Appends are refused before the disk is full. What is left then is for deletions and, below that, for
//! compaction: it must write before it can give back. Compaction needs one [step](Room::step) at a time,
//! whatever the size of a segment, so a reserve of a few MiB is always enough.

use std::io;

use super::Log;

/// Smallest disk that a log is kept on, in bytes.
pub(crate) const DISK_BYTES_MIN: u64 = 32 << 20;

/// Size at which a segment is sealed, in bytes: this part of the disk, within bounds.
const SEGMENT_PART: u64 = 16;
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
const SEGMENT_BYTES_MAX: u64 = 128 << 20;

/// Space kept back from [`Need::More`], in bytes: this part of the disk, within bounds.
const KEPT_PART: u64 = 16;
const KEPT_BYTES_MIN: u64 = 8 << 20;
const KEPT_BYTES_MAX: u64 = 160 << 20;

/// The part of it that compaction alone may use, and its least size in bytes: several of the longest
/// records, and the beginnings of segments.
const COMPACTION_PART: u64 = 4;
const COMPACTION_BYTES_MIN: u64 = 4 << 20;

/// Longest step of compaction, as a part of that.
const STEP_PART: u64 = 4;

/// Most bytes that are appended between two looks at the disk.
const LOOK_EVERY_BYTES: u64 = 4 << 20;

/// What an append is for, and so how much of a disk that is nearly full it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// More of anything.
    More,
    /// Rows, and changes that only take away.
    Removal,
}

/// Space of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes that this process may still use.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
}

impl Room {
    /// Returns the size at which a segment is sealed, in bytes.
    pub fn segment_bytes(&self) -> u64 {
        (self.size / SEGMENT_PART).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    /// Returns the free bytes below which only removals and compaction go on.
    pub fn kept(&self) -> u64 {
        (self.size / KEPT_PART).clamp(KEPT_BYTES_MIN, KEPT_BYTES_MAX)
    }

    /// Returns whether little is free: it is worth much work to give space back.
    pub fn is_short(&self) -> bool {
        self.free < 2 * self.kept()
    }

    /// Returns the free bytes below which only compaction goes on.
    pub(super) fn for_compaction(&self) -> u64 {
        (self.kept() / COMPACTION_PART).max(COMPACTION_BYTES_MIN)
    }

    /// Returns how many bytes of records compaction may copy before it gives back the space of the
    /// originals, when `live` bytes are to be copied in all. One record may always be copied.
    pub(super) fn step(&self, live: u64) -> u64 {
        if self.free.saturating_sub(self.kept()) >= live {
            return live;
        }
        (self.for_compaction() / STEP_PART).min(self.free / 2)
    }
}

/// What may be appended without another look at the disk.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Bytes.
    left: u64,
    /// Bytes that were granted and may not be written yet.
    under_way: u64,
}

/// Bytes that an append was granted, until they are written.
#[derive(Debug)]
pub(super) struct Grant<'a> {
    log: &'a Log,
    bytes: u64,
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        self.log.allowance.lock().under_way -= self.bytes;
    }
}

impl Log {
    /// Returns how much space the disk has.
    pub(crate) fn room(&self) -> io::Result<Room> {
        self.disk.room()
    }

    /// Grants an append of so many bytes; fails when nothing is left but what is kept back for others.
    pub(super) fn grant(&self, need: Need, bytes: u64) -> io::Result<Grant<'_>> {
        let mut allowance = self.allowance.lock();
        if allowance.left < bytes {
            let room = self.disk.room()?;
            let free = room.free.saturating_sub(allowance.under_way);
            allowance.left = free.saturating_sub(room.kept()).min(LOOK_EVERY_BYTES.max(bytes));
            let is_removal = need == Need::Removal;
            let may_go_on = is_removal && free.saturating_sub(room.for_compaction()) >= bytes;
            if allowance.left < bytes && !may_go_on {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        allowance.left = allowance.left.saturating_sub(bytes);
        allowance.under_way += bytes;
        Ok(Grant { log: self, bytes })
    }
}
