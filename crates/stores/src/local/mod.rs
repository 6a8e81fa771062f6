//! A data directory: the log, and the three storage traits on top of it.
//!
//! Blocks, root pointers and metadata records share one log. A pointer is appended in the same stream as
//! the blocks that it needs, and after them, so one fsync covers both. A crash that keeps the pointer keeps
//! the blocks, because a torn tail is cut at its first unreadable record.

mod arbiter;
mod blocks;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod full_disks;
#[cfg(test)]
mod hung;
#[cfg(test)]
mod missing;
#[cfg(test)]
mod races;
mod rows;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fula_core::{
    Cid, KeyedLocks, StoreError,
    error::SwapError,
    root::{RootRow, TimeMs},
};
use parking_lot::{Mutex, RwLock};

use self::rows::Rows;
pub use self::{
    arbiter::{LocalMetadata, LocalRoots},
    blocks::LocalBlocks,
};
use crate::log::{
    DISK_BYTES_MIN, Damage, Disk, FsDisk, Log, ReadOnlyDisk, Recovery, Room, StreamName,
};

/// Number of locks that serialise swaps of one bucket name.
const STRIPES: usize = 64;

/// The reason why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory. Stop it, or choose another directory.
    #[error(
        "{0} is in use by another fula process; end that one, or name another directory with --data-dir \
         (FULA_DATA_DIR)"
    )]
    InUse(PathBuf),
    /// The disk or the permissions do not allow it. Check both.
    #[error(
        "cannot open the data directory {0}; check its disk and its permissions, or name another directory with \
         --data-dir (FULA_DATA_DIR)"
    )]
    Io(PathBuf, #[source] io::Error),
    /// The log is damaged and may have lost root pointers. Run `fula fsck --repair`.
    #[error(
        "the log in {0} is damaged where root pointers are kept ({1} places); \
         run `fula fsck --repair` before serving from it, with `--roots keep` where FULA_BLOCKS is set"
    )]
    Damaged(PathBuf, usize),
    /// Segments are missing. Copy them back, or run `fula fsck --repair` to give them up.
    #[error(
        "segments of the log in {0} are missing or empty, and this build did not remove them: {segments}. They \
         held {held}. Copy them back from a backup of the directory, or run {way_out} to continue without them; \
         `fula fsck` then lists the objects that lack blocks. If an earlier build of fula has run on \
         the directory since, it may have removed them correctly, and nothing is lost",
        segments = .1.join(", "), held = held_by(.1), way_out = way_out(.1)
    )]
    Missing(PathBuf, Vec<String>),
    /// The disk is smaller than the smallest size that is supported. Use a larger one.
    #[error(
        "the disk of {dir} is too small: it has {} KiB, and the smallest that can be used has {} KiB",
        .size >> 10, DISK_BYTES_MIN >> 10
    )]
    TooSmall {
        /// Path of the data directory.
        dir: PathBuf,
        /// Size of the whole disk in bytes.
        size: u64,
    },
    /// The disk is full. Remove other files from it, or make it larger.
    #[error(
        "the disk of {dir} is full: it has {} KiB of free space, and the log cannot be opened without \
         writing; remove other files from it, or make it larger", .free >> 10
    )]
    Full {
        /// Path of the data directory.
        dir: PathBuf,
        /// Free space in bytes.
        free: u64,
    },
}

/// Returns whether one of the segments belongs to the commit stream.
fn has_commit(segments: &[String]) -> bool {
    segments.iter().any(|name| name.starts_with(StreamName::Commit.prefix()))
}

/// Returns, as text for an operator, what the segments held.
fn held_by(segments: &[String]) -> &'static str {
    if has_commit(segments) {
        "root pointers and nodes of buckets, small objects, and records such as access keys; on a master that \
         shares its arbiter, what it remembers of that"
    } else {
        "content of objects over 1 MiB"
    }
}

/// Returns, as text for an operator, the command that gives the segments up.
fn way_out(segments: &[String]) -> &'static str {
    if has_commit(segments) {
        "`fula fsck --repair --roots keep` or, to take the newest root of each bucket that is found among the \
         blocks and may never have been published, `fula fsck --repair --roots rebuild`"
    } else {
        "`fula fsck --repair`"
    }
}

/// A source of the time of day, which tests can replace.
pub type Clock = Arc<dyn Fn() -> TimeMs + Send + Sync>;

/// Returns the clock of the machine.
#[expect(clippy::disallowed_methods, reason = "this is where the time of day comes from")]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// An open data directory. The process holds its lock until this is dropped.
#[derive(Debug)]
pub struct LocalStore {
    /// The block store.
    pub blocks: Arc<LocalBlocks>,
    /// The embedded arbiter.
    pub roots: Arc<LocalRoots>,
    /// The embedded metadata store.
    pub metadata: Arc<LocalMetadata>,
    /// Findings of the recovery when the log was opened.
    pub recovery: Recovery,
    log: Arc<Log>,
    /// Lock on the directory; `None` where the disk is not a directory.
    lock: Option<File>,
}

/// Counts of physical work since the start.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Number of fsyncs of log segments.
    pub fsyncs: u64,
    /// Bytes appended to the log, including heads and padding.
    pub appended_bytes: u64,
    /// Bytes among them that compaction moved from other segments.
    pub moved_bytes: u64,
}

impl LocalStore {
    /// Opens `dir`, creating it if necessary, and recovers the log.
    ///
    /// # Errors
    /// [`OpenError`]. A damaged log is opened only with `despite_damage`, for repair.
    pub fn open(dir: &Path, clock: Clock, despite_damage: bool) -> Result<Self, OpenError> {
        Self::open_with(dir, clock, despite_damage, None)
    }

    fn open_with(
        dir: &Path,
        clock: Clock,
        despite_damage: bool,
        segment_bytes: Option<u64>,
    ) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io(dir.to_owned(), error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        crate::permissions::warn_if_open(dir);
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let disk = Arc::new(FsDisk::open(&dir.join("log")).map_err(failed)?);
        let mut store = Self::open_on(dir, disk, clock, despite_damage, segment_bytes)?;
        store.lock = Some(lock);
        Ok(store)
    }

    /// Opens `dir` for reading only, and changes nothing in it. Writes that were unfinished when the last
    /// process ended are left out, because a start would cut them off.
    ///
    /// # Errors
    /// [`OpenError`], also for a path that is not a data directory.
    pub fn open_read_only(dir: &Path, clock: Clock) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io(dir.to_owned(), error);
        let lock = File::open(dir.join("lock")).map_err(failed)?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let disk = Arc::new(ReadOnlyDisk::open(&dir.join("log")).map_err(failed)?);
        let mut store = Self::open_on(dir, disk, clock, false, None)?;
        store.lock = Some(lock);
        Ok(store)
    }

    /// Opens the log on a disk; errors name it `dir`. Segments have a size that suits the disk, unless a
    /// size is given.
    fn open_on(
        dir: &Path,
        disk: Arc<dyn Disk>,
        clock: Clock,
        despite_damage: bool,
        segment_bytes: Option<u64>,
    ) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io(dir.to_owned(), error);
        let room = disk.room().map_err(failed)?;
        if room.size < DISK_BYTES_MIN && !despite_damage {
            return Err(OpenError::TooSmall { dir: dir.to_owned(), size: room.size });
        }
        let segment_bytes = segment_bytes.unwrap_or(room.segment_bytes());
        let opened = Log::open(disk, segment_bytes);
        let (log, mut recovery) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => OpenError::Full { dir: dir.to_owned(), free: room.free },
            _ => failed(error),
        })?;
        let log = Arc::new(log);
        let rows = Rows::load(&log, &mut recovery).map_err(failed)?;
        if !recovery.missing.is_empty() && !despite_damage {
            return Err(OpenError::Missing(dir.to_owned(), recovery.missing));
        }
        match recovery.pointers_at_risk() {
            0 => {}
            places if !despite_damage => return Err(OpenError::Damaged(dir.to_owned(), places)),
            _ => {}
        }
        Ok(Self {
            blocks: Arc::new(LocalBlocks { log: Arc::clone(&log) }),
            roots: Arc::new(LocalRoots {
                log: Arc::clone(&log),
                state: RwLock::new(rows.roots),
                stripes: Stripes::default(),
                dropping: tokio::sync::Mutex::default(),
                last_time: Mutex::new(0),
                clock,
            }),
            metadata: Arc::new(LocalMetadata {
                log: Arc::clone(&log),
                records: RwLock::new(rows.records),
                stripes: Stripes::default(),
            }),
            recovery,
            log,
            lock: None,
        })
    }

    /// Reads the whole log, and returns the places that fail their checksum. Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn verify(&self) -> io::Result<Vec<Damage>> {
        self.log.verify()
    }

    /// Does the same as [`Self::verify`], and calls `report` with the number of segments read and of all
    /// segments.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn verify_reporting(&self, report: &dyn Fn(usize, usize)) -> io::Result<Vec<Damage>> {
        self.log.verify_reporting(report)
    }

    /// Records the blocks that [`Self::verify`] found damaged, durably, so that a put stores them anew.
    /// Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn note_suspects(&self, cids: &[Cid]) -> io::Result<()> {
        self.log.note_suspects(cids)
    }

    /// Returns whether damage was found, by this process or an earlier one, since the last check that found
    /// no problem.
    pub fn is_damage_known(&self) -> bool {
        self.log.is_damage_known()
    }

    /// Returns how often damage was found by this process.
    pub fn times_damaged(&self) -> u64 {
        self.log.times_damaged()
    }

    /// Records durably that a check found problems. Blocks the thread.
    pub fn note_damage(&self) {
        self.log.note_damage();
    }

    /// Forgets the damage after a check that found no problem. `times` is the result of
    /// [`Self::times_damaged`] before the check: damage that was found since is kept. Compaction then
    /// rewrites the segments in question. Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn forget_damage(&self, times: u64) -> io::Result<()> {
        self.log.forget_damage(times)
    }

    /// Records that a repair begins which will rebuild root pointers. They count as lost until
    /// [`Self::end_repair`]. Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn begin_repair(&self) -> io::Result<()> {
        self.log.begin_repair()
    }

    /// Gives up the missing segments, so that they are no longer reported. Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn give_up_missing(&self) -> io::Result<()> {
        self.log.give_up_missing()
    }

    /// Records that everything is repaired. Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn end_repair(&self) -> io::Result<()> {
        self.log.end_repair()
    }

    /// Moves intact records out of damaged segments, renames those to `*.damaged`, and returns their
    /// number. Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn set_damaged_aside(&self) -> io::Result<usize> {
        self.log.set_damaged_aside()
    }

    /// Rewrites the segment with the most dead bytes, if at least `dead_percent` of it are dead. Returns
    /// the bytes freed. Blocks the thread, and calls `rest` from time to time.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn compact(&self, dead_percent: u64, rest: &dyn Fn()) -> io::Result<u64> {
        self.log.compact(dead_percent, rest)
    }

    /// Seals the segments that are being written to and of which at least `dead_percent` is dead, so that
    /// [`Self::compact`] can free their space as well. Blocks the thread.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn seal(&self, dead_percent: u64) -> io::Result<()> {
        self.log.seal(dead_percent)
    }

    /// Rewrites segments until none is worth it. A segment is worth it when at least `worth()` percent of
    /// it are dead, or 5 % where space is short. With `seal`, this includes segments that are being written
    /// to. Returns the bytes of the removed segments. Blocks the thread, and calls `rest` from time to
    /// time.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn rewrite(&self, worth: &dyn Fn() -> u64, seal: bool, rest: &dyn Fn()) -> io::Result<u64> {
        self.log.rewrite(worth, seal, rest)
    }

    /// Returns the free space and the size of the disk.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn room(&self) -> io::Result<Room> {
        self.log.room()
    }

    /// Returns the size of the log in bytes, and how much of it is in use.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn sizes(&self) -> io::Result<(u64, u64)> {
        self.log.sizes()
    }

    /// Returns the bytes of the log that root pointers and metadata use. Takes time proportional to their
    /// number.
    pub fn row_bytes(&self) -> u64 {
        self.log.row_bytes()
    }

    /// Returns whether a write or an fsync failed in such a way that nothing can be written until a
    /// restart.
    pub fn has_failed(&self) -> bool {
        StreamName::ALL.iter().any(|name| self.log.is_poisoned(*name))
    }

    /// Returns for how long the slowest pending write or fsync has been waiting for the disk; zero if there
    /// is none.
    pub fn pending_for(&self) -> Duration {
        self.log.pending_for()
    }

    /// Writes a row unchanged, to rebuild the arbiter.
    ///
    /// # Errors
    /// [`SwapError`] of the log.
    pub async fn restore_row(&self, row: RootRow) -> Result<(), SwapError> {
        self.roots.persist(&row).await?;
        self.roots.state.write().apply(row);
        Ok(())
    }

    /// Returns the counts of physical work.
    pub fn work(&self) -> Work {
        Work {
            fsyncs: self.log.counters.fsyncs.load(Ordering::Relaxed),
            appended_bytes: self.log.counters.appended_bytes.load(Ordering::Relaxed),
            moved_bytes: self.log.counters.moved_bytes.load(Ordering::Relaxed),
        }
    }
}

fn unavailable(action: &'static str, error: io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded {
        return StoreError::Full { backend: "log" };
    }
    StoreError::Unavailable { backend: "log", action, source: error.into() }
}

/// Locks that serialise writers of one name.
#[derive(Debug)]
struct Stripes {
    locks: KeyedLocks<tokio::sync::Mutex<()>>,
}

impl Default for Stripes {
    fn default() -> Self {
        Self { locks: KeyedLocks::new(STRIPES) }
    }
}

impl Stripes {
    fn stripe_of(&self, name: &str) -> usize {
        self.locks.index_of(name)
    }

    async fn lock(&self, name: &str) -> tokio::sync::MutexGuard<'_, ()> {
        self.locks.of(name).lock().await
    }

    /// Returns once every writer that holds a lock at the time of the call has ended.
    async fn ended(&self) {
        for stripe in self.locks.all() {
            drop(stripe.lock().await);
        }
    }
}
