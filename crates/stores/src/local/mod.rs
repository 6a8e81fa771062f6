//! A data directory: the log, and the three storage traits on top of it.
//!
//! Blocks, root pointers and metadata records share one log. A pointer is appended after the
//! blocks it needs, in the same stream, so one fsync covers both: a crash that keeps the pointer
//! keeps the blocks, because a torn tail is cut at its first unreadable record.

mod arbiter;
mod blocks;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod full_disks;
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
    time::{SystemTime, UNIX_EPOCH},
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

/// Locks that keep swaps of one bucket name apart.
const STRIPES: usize = 64;

/// A data directory that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stop the other process, or choose another directory.
    #[error(
        "{0} is in use by another fula process; end that one, or name another directory with --data-dir \
         (FULA_DATA_DIR)"
    )]
    InUse(PathBuf),
    /// Look at the disk and the permissions.
    #[error(
        "cannot open the data directory {0}; look at its disk and its permissions, or name another one with \
         --data-dir (FULA_DATA_DIR)"
    )]
    Io(PathBuf, #[source] io::Error),
    /// Run `fula fsck --repair`: pointers may have been lost to damage.
    #[error(
        "the log in {0} is damaged where root pointers are kept ({1} places); \
         run `fula fsck --repair` before serving from it, with `--roots keep` where FULA_BLOCKS is set"
    )]
    Damaged(PathBuf, usize),
    /// Copy the segments back, or run `fula fsck --repair`: what was in them is given up.
    #[error(
        "the log in {0} lacks {segments}, or what was in it, and this build did not remove it; it held \
         {held}; copy it back from a backup of the directory, or run {way_out} to go on without what was in it \
         (`fula fsck` then says which objects lack blocks); if an earlier build of fula has run on the \
         directory since, that may have removed it rightly, and nothing is lost",
        segments = .1.join(", "), held = held_by(.1), way_out = way_out(.1)
    )]
    Missing(PathBuf, Vec<String>),
    /// Use a larger disk.
    #[error(
        "the disk of {dir} is too small: it has {} KiB, and the smallest that can be used has {} KiB",
        .size >> 10, DISK_BYTES_MIN >> 10
    )]
    TooSmall {
        /// The data directory.
        dir: PathBuf,
        /// What the whole disk holds, in bytes.
        size: u64,
    },
    /// Remove other files from the disk, or make it larger.
    #[error(
        "the disk of {dir} is full: it has {} KiB of free space, and the log cannot be opened without \
         writing; remove other files from it, or make it larger", .free >> 10
    )]
    Full {
        /// The data directory.
        dir: PathBuf,
        /// What is free, in bytes.
        free: u64,
    },
}

/// Returns whether a segment of the commit stream is among some.
fn has_commit(segments: &[String]) -> bool {
    segments.iter().any(|name| name.starts_with(StreamName::Commit.prefix()))
}

/// Says what segments are for, to a person.
fn held_by(segments: &[String]) -> &'static str {
    if has_commit(segments) {
        "root pointers and nodes of buckets, small objects, and records such as access keys; on a master that \
         shares its arbiter, what it remembers of that"
    } else {
        "content of objects over 1 MiB"
    }
}

/// Says which command gives segments up.
fn way_out(segments: &[String]) -> &'static str {
    if has_commit(segments) {
        "`fula fsck --repair --roots keep` or, to take the newest root of each bucket that is found among the \
         blocks and may never have been published, `fula fsck --repair --roots rebuild`"
    } else {
        "`fula fsck --repair`"
    }
}

/// Makes the time of day a parameter of whatever needs it.
pub type Clock = Arc<dyn Fn() -> TimeMs + Send + Sync>;

/// Returns the machine's clock.
#[expect(clippy::disallowed_methods, reason = "this is where the time of day comes from")]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// An open data directory; the process holds its lock until this is dropped.
#[derive(Debug)]
pub struct LocalStore {
    /// Blocks on this disk.
    pub blocks: Arc<LocalBlocks>,
    /// The embedded arbiter.
    pub roots: Arc<LocalRoots>,
    /// The embedded metadata store.
    pub metadata: Arc<LocalMetadata>,
    /// What opening found.
    pub recovery: Recovery,
    log: Arc<Log>,
    /// None where no directory stands behind the disk.
    lock: Option<File>,
}

/// Counts of physical work since the start.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// fsyncs of log segments.
    pub fsyncs: u64,
    /// Bytes appended to the log, heads and padding included.
    pub appended_bytes: u64,
    /// How many of them were there before, in segments that were rewritten.
    pub moved_bytes: u64,
}

impl LocalStore {
    /// Opens `dir`, creating it if need be, and reads the log back.
    ///
    /// # Errors
    /// [`OpenError`]; a damaged log is only opened with `despite_damage`, for repair.
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

    /// Opens `dir` for reading alone, and leaves everything in it as it is. What was being written when the
    /// last process ended is left out, as a start would cut it off.
    ///
    /// # Errors
    /// [`OpenError`], also for a directory that is none.
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

    /// Opens what lies on a disk, which stands for `dir` in errors. Segments are of a size that suits the
    /// disk, unless it is given.
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

    /// Reads everything and returns what fails its checksum. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn verify(&self) -> io::Result<Vec<Damage>> {
        self.log.verify()
    }

    /// The same as [`Self::verify`]; calls `report` with how many of all segments it has read.
    ///
    /// # Errors
    /// The disk's.
    pub fn verify_reporting(&self, report: &dyn Fn(usize, usize)) -> io::Result<Vec<Damage>> {
        self.log.verify_reporting(report)
    }

    /// Notes which blocks [`Self::verify`] found damaged, here and for later starts, so that a put stores
    /// them anew. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn note_suspects(&self, cids: &[Cid]) -> io::Result<()> {
        self.log.note_suspects(cids)
    }

    /// Notes that a repair begins, which will rebuild root pointers: until [`Self::end_repair`], they
    /// count as lost. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin_repair(&self) -> io::Result<()> {
        self.log.begin_repair()
    }

    /// Gives up the segments that are missing: they are not missed any more. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn give_up_missing(&self) -> io::Result<()> {
        self.log.give_up_missing()
    }

    /// Notes that everything is repaired. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn end_repair(&self) -> io::Result<()> {
        self.log.end_repair()
    }

    /// Moves what is intact out of damaged segments and sets those aside as `*.damaged`; returns
    /// how many. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_damaged_aside(&self) -> io::Result<usize> {
        self.log.set_damaged_aside()
    }

    /// Frees the space of the segment with most dead bytes, if at least `dead_percent` of it are;
    /// returns the bytes. Blocks the thread, and calls `rest` now and then.
    ///
    /// # Errors
    /// The disk's.
    pub fn compact(&self, dead_percent: u64, rest: &dyn Fn()) -> io::Result<u64> {
        self.log.compact(dead_percent, rest)
    }

    /// Seals segments that are being written to, if at least `dead_percent` of them are dead, so that
    /// [`Self::compact`] can free their space as well. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn seal(&self, dead_percent: u64) -> io::Result<()> {
        self.log.seal(dead_percent)
    }

    /// Rewrites segments until none is worth it: of one that is, at least as many percent are dead as
    /// `worth` says, or 5 where space is short. With `seal`, also those that are being written to. Returns
    /// the bytes of those that are gone. Blocks the thread, and calls `rest` now and then.
    ///
    /// # Errors
    /// The disk's.
    pub fn rewrite(&self, worth: &dyn Fn() -> u64, seal: bool, rest: &dyn Fn()) -> io::Result<u64> {
        self.log.rewrite(worth, seal, rest)
    }

    /// Returns how much space the disk has.
    ///
    /// # Errors
    /// The disk's.
    pub fn room(&self) -> io::Result<Room> {
        self.log.room()
    }

    /// Returns how large the log is in bytes, and how much of it is in use.
    ///
    /// # Errors
    /// The disk's.
    pub fn sizes(&self) -> io::Result<(u64, u64)> {
        self.log.sizes()
    }

    /// Returns how many bytes of the log root pointers and metadata use. Takes time with their number.
    pub fn row_bytes(&self) -> u64 {
        self.log.row_bytes()
    }

    /// Returns whether a write or fsync failed in a way that lets nothing be written until a restart.
    pub fn has_failed(&self) -> bool {
        StreamName::ALL.iter().any(|name| self.log.is_poisoned(*name))
    }

    /// Writes a row as it is, for a rebuilt arbiter.
    ///
    /// # Errors
    /// [`SwapError`] of the log.
    pub async fn restore_row(&self, row: RootRow) -> Result<(), SwapError> {
        self.roots.persist(&row).await?;
        self.roots.state.write().apply(row);
        Ok(())
    }

    /// Returns counts of physical work.
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

/// Keeps writers of one name apart, and mostly only those.
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

    /// Returns once every writer has ended that holds a lock when this is called.
    async fn ended(&self) {
        for stripe in self.locks.all() {
            drop(stripe.lock().await);
        }
    }
}
