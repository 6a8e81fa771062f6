//! Damage that was found in the log. It stays known, also over restarts, until a check of everything finds no
//! problem any more, and compaction leaves the segments in question as they are.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Damage, Disk, Log, segment::parse_name};

/// Name of a file that exists from the time when damage was found until a check finds no problem.
const FOUND: &str = "damage-found";

/// What is known of the damage in a log.
#[derive(Debug, Default)]
pub(super) struct KnownDamage {
    /// Segments that compaction leaves as they are, because a damaged record in them may be needed. Their
    /// copies would have valid checksums, and records that nobody can read would be gone without a trace.
    segments: Mutex<BTreeSet<u32>>,
    /// Number of times that damage was found by this process.
    times: AtomicU64,
    /// Whether damage was found since the last check without a problem.
    is_known: AtomicBool,
    /// Whether the file exists. Held while it is written or removed.
    has_file: Mutex<bool>,
}

impl KnownDamage {
    /// Returns what an earlier process and the recovery found.
    pub(super) fn open(disk: &dyn Disk, recovered: &[Damage]) -> Self {
        let has_file = disk.open(FOUND).is_ok();
        let numbers = recovered.iter().filter_map(|damage| parse_name(&damage.segment));
        let segments: BTreeSet<u32> = numbers.map(|(_, id)| id).collect();
        let is_known = has_file || !recovered.is_empty();
        Self {
            segments: Mutex::new(segments),
            times: AtomicU64::default(),
            is_known: AtomicBool::new(is_known),
            has_file: Mutex::new(has_file),
        }
    }

    /// Returns whether compaction leaves a segment as it is.
    pub(super) fn keeps(&self, segment: u32) -> bool {
        self.segments.lock().contains(&segment)
    }
}

impl Log {
    /// Returns whether damage was found, by this process or an earlier one, since the last check that found
    /// no problem.
    pub(crate) fn is_damage_known(&self) -> bool {
        self.damage.is_known.load(Ordering::Acquire)
    }

    /// Returns how often damage was found by this process.
    pub(crate) fn times_damaged(&self) -> u64 {
        self.damage.times.load(Ordering::Acquire)
    }

    /// Records that a segment is damaged, in memory. Call [`Self::note_damage`] afterwards.
    pub(super) fn mark_damaged(&self, segment: u32) {
        self.damage.segments.lock().insert(segment);
        self.damage.times.fetch_add(1, Ordering::AcqRel);
        self.damage.is_known.store(true, Ordering::Release);
    }

    /// Records that a block could not be read from a segment, without waiting for the disk.
    pub(crate) fn found_damage(self: &Arc<Self>, segment: u32) {
        self.mark_damaged(segment);
        let log = Arc::clone(self);
        tokio::task::spawn_blocking(move || log.note_damage());
    }

    /// Makes durable that damage was found. If that fails, this process knows it all the same.
    pub(crate) fn note_damage(&self) {
        self.damage.is_known.store(true, Ordering::Release);
        let mut has_file = self.damage.has_file.lock();
        if *has_file {
            return;
        }
        let disk = self.disk.as_ref();
        let made = match disk.create(FOUND) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.and_then(|file| file.sync()).and_then(|()| disk.sync()),
        };
        match made {
            Ok(()) => *has_file = true,
            Err(error) => tracing::warn!(%error, "cannot record durably that damage was found"),
        }
    }

    /// Forgets the damage after a check that found no problem. `times` is the result of
    /// [`Self::times_damaged`] before the check: damage that was found since is kept. Compaction then looks
    /// at every segment again.
    pub(crate) fn forget_damage(&self, times: u64) -> io::Result<()> {
        let mut has_file = self.damage.has_file.lock();
        let mut segments = self.damage.segments.lock();
        if self.times_damaged() != times {
            return Ok(());
        }
        if *has_file {
            match self.disk.remove(FOUND) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.disk.sync()?,
            }
            *has_file = false;
        }
        segments.clear();
        self.damage.is_known.store(false, Ordering::Release);
        Ok(())
    }
}
