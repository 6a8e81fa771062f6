//! How much of a disk the log may fill, and how much it reserves (docs/adr/0030).
//!
//! Appends are refused before the disk is full. The rest is reserved for deletions and, below that, for
//! compaction, which must write before it can free space. Compaction needs space for one [step](Room::step)
//! at a time, whatever the size of a segment, so a reserve of a few MiB is always enough.

use std::io;

use super::Log;

/// Smallest disk that a log supports, in bytes.
pub(crate) const DISK_BYTES_MIN: u64 = 32 << 20;

/// The size at which a segment is sealed is the size of the disk divided by this, within bounds.
const SEGMENT_PART: u64 = 16;
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
const SEGMENT_BYTES_MAX: u64 = 128 << 20;

/// The space reserved from [`Need::More`] is the size of the disk divided by this, within bounds.
const KEPT_PART: u64 = 16;
const KEPT_BYTES_MIN: u64 = 8 << 20;
const KEPT_BYTES_MAX: u64 = 160 << 20;

/// The part of the reserve that only compaction may use is the reserve divided by this. It has room for
/// several of the longest records and the beginnings of segments.
const COMPACTION_PART: u64 = 4;
const COMPACTION_BYTES_MIN: u64 = 4 << 20;

/// The longest step of compaction is that part divided by this.
const STEP_PART: u64 = 4;

/// Most bytes that are appended before the free space is determined again.
const LOOK_EVERY_BYTES: u64 = 4 << 20;

/// The purpose of an append, which decides how much of a nearly full disk it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Content of any kind.
    More,
    /// Rows, and changes that only delete.
    Removal,
}

/// The space of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes that this process may still use.
    pub free: u64,
    /// Size of the disk in bytes.
    pub size: u64,
}

impl Room {
    /// Returns the size in bytes at which a segment is sealed.
    pub fn segment_bytes(&self) -> u64 {
        (self.size / SEGMENT_PART).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    /// Returns the number of free bytes below which only deletions and compaction continue.
    pub fn kept(&self) -> u64 {
        (self.size / KEPT_PART).clamp(KEPT_BYTES_MIN, KEPT_BYTES_MAX)
    }

    /// Returns whether so little is free that freeing space is worth much work.
    pub fn is_short(&self) -> bool {
        self.free < 2 * self.kept()
    }

    /// Returns the number of free bytes below which only compaction continues.
    pub(super) fn for_compaction(&self) -> u64 {
        (self.kept() / COMPACTION_PART).max(COMPACTION_BYTES_MIN)
    }

    /// Returns the largest number of bytes of records that compaction may copy before it frees the
    /// originals, when `live` bytes are to be copied in all. One record may always be copied.
    pub(super) fn step(&self, live: u64) -> u64 {
        if self.free.saturating_sub(self.kept()) >= live {
            return live;
        }
        (self.for_compaction() / STEP_PART).min(self.free / 2)
    }
}

/// The number of bytes that may be appended before the free space is determined again.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Remaining bytes.
    left: u64,
    /// Bytes that were granted and may not have been written yet.
    under_way: u64,
}

/// A number of bytes that an append may write. It is released when they were written.
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
    /// Returns the free space and the size of the disk.
    pub(crate) fn room(&self) -> io::Result<Room> {
        self.disk.room()
    }

    /// Grants an append of `bytes` bytes. Fails when only space is left that is reserved for other
    /// purposes.
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
