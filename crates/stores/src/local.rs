//! A data directory: lock, log, and the three seams on top of them.
//!
//! Blocks, root pointers and directory records share one log. A pointer is appended after the
//! blocks it needs, in the same stream, so one fsync covers both: a crash that keeps the pointer
//! keeps the blocks, because a torn tail is cut at its first unreadable record.

use std::{
    fs::{File, TryLockError},
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, BucketId, BucketName, Cid, Directory, OwnerId, RootPointer,
    RootPointerStore, StoreError,
    block::{BLOCK_BYTES_MAX, Epoch, Placement, SyncMark},
    cbor::{Invalid, Reader, Writer},
    directory::{Entry, Table, WriteOutcome},
    error::SwapError,
    memory::{Judged, Records, RowSet},
    root::{CasOutcome, Mark, NewRoot, RootRow, Stamped, TimeMs},
};

use crate::log::{Damage, Kind, Log, Record, Recovery, SEGMENT_BYTES, StreamName};

/// Locks that keep swaps of one bucket name apart.
const STRIPES: usize = 64;

/// A data directory that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stop the other process, or choose another directory.
    #[error("{0} is in use by another fula process")]
    InUse(PathBuf),
    /// Look at the disk and the permissions.
    #[error("cannot open the data directory {0}")]
    Io(PathBuf, #[source] io::Error),
    /// Run `fula fsck --repair`: pointers may have been lost to damage.
    #[error(
        "the log in {0} is damaged where root pointers are kept ({1} places); \
         run `fula fsck --repair` before serving from it"
    )]
    Damaged(PathBuf, usize),
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
    /// The embedded directory.
    pub directory: Arc<LocalDirectory>,
    /// What opening found.
    pub recovery: Recovery,
    log: Arc<Log>,
    _lock: File,
}

/// Counts of physical work since the start.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// fsyncs of log segments.
    pub fsyncs: u64,
    /// Bytes appended to the log, heads and padding included.
    pub appended_bytes: u64,
}

impl LocalStore {
    /// Opens `dir`, creating it if need be, and reads the log back.
    ///
    /// # Errors
    /// [`OpenError`]; a damaged log is only opened with `despite_damage`, for repair.
    pub fn open(dir: &Path, clock: Clock, despite_damage: bool) -> Result<Self, OpenError> {
        Self::open_with(dir, clock, despite_damage, SEGMENT_BYTES)
    }

    fn open_with(
        dir: &Path,
        clock: Clock,
        despite_damage: bool,
        segment_bytes: u64,
    ) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io(dir.to_owned(), error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let (log, mut recovery) = Log::open(&dir.join("log"), segment_bytes).map_err(failed)?;
        let log = Arc::new(log);
        let rows = Rows::load(&log, &mut recovery).map_err(failed)?;
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
                last_time: Mutex::new(0),
                clock,
            }),
            directory: Arc::new(LocalDirectory {
                log: Arc::clone(&log),
                records: RwLock::new(rows.records),
                stripes: Stripes::default(),
            }),
            recovery,
            log,
            _lock: lock,
        })
    }

    /// Reads everything and returns what fails its checksum. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn verify(&self) -> io::Result<Vec<Damage>> {
        self.log.verify()
    }

    /// Moves what is intact out of damaged segments and sets those aside as `*.damaged`; returns
    /// how many. Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_damaged_aside(&self) -> io::Result<usize> {
        self.log.set_damaged_aside()
    }

    /// Frees the space of one segment that is mostly dead, if there is one; returns the bytes.
    /// Blocks the thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn compact(&self) -> io::Result<u64> {
        self.log.compact()
    }

    /// Returns every root row.
    pub fn rows(&self) -> Vec<RootRow> {
        read(&self.roots.state).rows.iter().cloned().collect()
    }

    /// Writes a row as it is, for a rebuilt arbiter.
    ///
    /// # Errors
    /// [`SwapError`] of the log.
    pub async fn restore_row(&self, row: RootRow) -> Result<(), SwapError> {
        self.roots.persist(&row).await?;
        write(&self.roots.state).apply(row);
        Ok(())
    }

    /// Returns counts of physical work.
    pub fn work(&self) -> Work {
        Work {
            fsyncs: self.log.counters.fsyncs.load(Ordering::Relaxed),
            appended_bytes: self.log.counters.appended_bytes.load(Ordering::Relaxed),
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
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
    hasher: RandomState,
    locks: [tokio::sync::Mutex<()>; STRIPES],
}

impl Default for Stripes {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            locks: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        }
    }
}

impl Stripes {
    async fn lock(&self, name: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let [low, ..] = self.hasher.hash_one(name).to_le_bytes();
        self.locks[usize::from(low) % STRIPES].lock().await
    }
}

/// Blocks in the log of a data directory.
#[derive(Debug)]
pub struct LocalBlocks {
    log: Arc<Log>,
}

impl LocalBlocks {
    /// Notes the blocks already there in `mark`, renewing them, and returns the others.
    fn absent(&self, blocks: &[Block], mark: &mut SyncMark) -> Vec<Block> {
        let mut index = self.log.index_mut();
        let epoch = index.epoch;
        let mut absent: Vec<Block> = Vec::new();
        let mut present = Vec::new();
        for block in blocks {
            match index.blocks.get_mut(&block.cid()) {
                Some((slot, put)) => {
                    *put = epoch;
                    present.push(*slot);
                }
                None if absent.iter().any(|other| other.cid() == block.cid()) => {}
                None => absent.push(block.clone()),
            }
        }
        drop(index);
        for slot in present {
            let (stream, position) = self.log.pending(&slot);
            let at = &mut mark.positions[stream as usize];
            *at = (*at).max(position);
        }
        absent
    }

    fn append(log: &Log, blocks: &[Block], stream: StreamName) -> io::Result<u64> {
        let keys: Vec<_> = blocks.iter().map(|block| block.cid().to_bytes()).collect();
        let records: Vec<_> = blocks
            .iter()
            .zip(&keys)
            .map(|(block, key)| Record { kind: Kind::Block, key, value: block.bytes() })
            .collect();
        log.append(stream, &records)
    }
}

/// Appends up to this many bytes on the caller's thread; larger ones may wait for the disk.
const INLINE_APPEND_BYTES: usize = 128 << 10;

#[async_trait]
impl BlockStore for LocalBlocks {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        if let Some(block) = blocks.iter().find(|block| block.bytes().len() > BLOCK_BYTES_MAX) {
            return Err(StoreError::TooLarge { len: block.bytes().len(), max: BLOCK_BYTES_MAX });
        }
        let mut mark = SyncMark::default();
        let absent = self.absent(blocks, &mut mark);
        if absent.is_empty() {
            return Ok(mark);
        }
        let stream = match placement {
            Placement::Commit => StreamName::Commit,
            Placement::Bulk => StreamName::Bulk,
        };
        let bytes: usize = absent.iter().map(|block| block.bytes().len()).sum();
        let position = if bytes <= INLINE_APPEND_BYTES {
            Self::append(&self.log, &absent, stream)
        } else {
            let log = Arc::clone(&self.log);
            tokio::task::spawn_blocking(move || Self::append(&log, &absent, stream))
                .await
                .unwrap_or_else(|panic| Err(io::Error::other(panic)))
        };
        let position = position.map_err(|error| unavailable("put", error))?;
        let at = &mut mark.positions[stream as usize];
        *at = (*at).max(position);
        Ok(mark)
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        for stream in StreamName::ALL {
            let position = mark.positions[stream as usize];
            self.log.sync(stream, position).await.map_err(|error| unavailable("sync", error))?;
        }
        Ok(())
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        // A block may move to another segment between look-up and read: look again once.
        for _ in 0..2 {
            let found = self.log.index().blocks.get(cid).copied();
            let Some((slot, _)) = found else { return Ok(None) };
            let value = match self.log.read_cached(&slot) {
                Ok(None) => {
                    let log = Arc::clone(&self.log);
                    tokio::task::spawn_blocking(move || log.read(&slot))
                        .await
                        .unwrap_or_else(|panic| Err(io::Error::other(panic)))
                        .map(Some)
                }
                read => read,
            };
            match value {
                Ok(Some(bytes)) => {
                    let verified = Block::verify(*cid, bytes);
                    return verified.inspect_err(|_| self.log.forget_damaged(cid, &slot)).map(Some);
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(StoreError::Damaged { cid: *cid });
                }
                Err(error) => return Err(unavailable("get", error)),
            }
        }
        Err(unavailable("get", io::Error::other("block keeps moving")))
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        let index = self.log.index();
        Ok(index.blocks.get(cid).map(|(slot, _)| u64::from(slot.value_len)))
    }

    fn advance_epoch(&self) -> Epoch {
        let mut index = self.log.index_mut();
        index.epoch.0 += 1;
        index.epoch
    }

    async fn delete_if(&self, cid: &Cid, put_before: Epoch) -> Result<bool, StoreError> {
        let mut index = self.log.index_mut();
        let old = index.blocks.get(cid).is_some_and(|(_, put)| *put < put_before);
        if old {
            index.blocks.remove(cid);
        }
        Ok(old)
    }

    async fn list(&self, after: Option<Cid>, limit: usize) -> Result<Vec<(Cid, u64)>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let index = self.log.index();
        let from = after.map_or(Unbounded, Excluded);
        let page = index.blocks.range((from, Unbounded)).take(limit);
        Ok(page.map(|(cid, (slot, _))| (*cid, u64::from(slot.value_len))).collect())
    }
}

/// What the rows of the log hold.
#[derive(Debug, Default)]
struct Rows {
    roots: RootsState,
    records: Records,
}

#[derive(Debug, Default)]
struct RootsState {
    rows: RowSet,
    position: u64,
}

impl RootsState {
    fn apply(&mut self, row: RootRow) {
        self.rows.apply(row);
    }
}

impl Rows {
    fn load(log: &Log, recovery: &mut Recovery) -> io::Result<Self> {
        let mut loaded = Self::default();
        let slots: Vec<_> =
            log.index().rows.iter().map(|((kind, _), slot)| (*kind, *slot)).collect();
        for (kind, slot) in slots {
            let value = log.read(&slot)?;
            let read = if slot.is_intact(&value) {
                loaded.read(kind, &value)
            } else {
                Err(Invalid("checksum"))
            };
            if read.is_err() {
                recovery.damaged.push(Damage {
                    segment: format!("commit-{:08}.log", slot.segment),
                    offset: u64::from(slot.offset),
                    bytes: u64::from(slot.bytes()),
                    cid: None,
                });
            }
        }
        Ok(loaded)
    }

    fn read(&mut self, kind: Kind, value: &Bytes) -> Result<(), Invalid> {
        let mut reader = Reader::new(value);
        match kind {
            Kind::Root => {
                let (position, row) = read_row(&mut reader)?;
                self.roots.rows.apply(row);
                self.roots.position = self.roots.position.max(position);
            }
            Kind::Directory => {
                let (table, name, entry) = read_entry(&mut reader)?;
                self.records.apply(table, &name, entry);
            }
            Kind::Block | Kind::Mark => return Err(Invalid("not a row")),
        }
        reader.end()
    }
}

fn write_row(position: u64, row: &RootRow) -> Bytes {
    let mut out = Writer::with_capacity(256);
    out.array(10).uint(position).bytes(&row.owner.0).text(row.bucket.as_str());
    out.link(&row.pointer.root).uint(row.pointer.version).uint(row.pointer.generation);
    out.bytes(&row.bucket_id.0).uint(row.created);
    match row.deleted {
        Some(time) => out.uint(time),
        None => out.null(),
    };
    out.uint(u64::from(row.global_name));
    out.finish()
}

fn read_row(reader: &mut Reader<'_>) -> Result<(u64, RootRow), Invalid> {
    reader.tuple(10)?;
    let position = reader.uint()?;
    let owner = OwnerId(reader.array_of()?);
    let bucket = BucketName::parse(reader.text()?).map_err(|_| Invalid("bad bucket name"))?;
    let pointer =
        RootPointer { root: reader.link()?, version: reader.uint()?, generation: reader.uint()? };
    let bucket_id = BucketId(reader.array_of()?);
    let created = reader.uint()?;
    let deleted = if reader.null() { None } else { Some(reader.uint()?) };
    let global_name = reader.uint()? == 1;
    Ok((position, RootRow { owner, bucket, pointer, bucket_id, created, deleted, global_name }))
}

fn write_entry(table: Table, name: &str, entry: &Entry) -> Bytes {
    let mut out = Writer::with_capacity(name.len() + 64);
    out.array(4).text(table.name()).text(name).uint(entry.version);
    match &entry.value {
        Some(value) => out.bytes(value),
        None => out.null(),
    };
    out.finish()
}

fn read_entry(reader: &mut Reader<'_>) -> Result<(Table, String, Entry), Invalid> {
    reader.tuple(4)?;
    let table = reader.text()?;
    let table = Table::ALL.into_iter().find(|known| known.name() == table);
    let name = reader.text()?.to_owned();
    let version = reader.uint()?;
    let value = if reader.null() { None } else { Some(reader.bytes()?) };
    Ok((table.ok_or(Invalid("unknown table"))?, name, Entry { version, value }))
}

/// The embedded arbiter: root pointers in the log of a data directory.
pub struct LocalRoots {
    log: Arc<Log>,
    state: RwLock<RootsState>,
    /// By bucket name alone: owners compete for the global name.
    stripes: Stripes,
    last_time: Mutex<TimeMs>,
    clock: Clock,
}

impl std::fmt::Debug for LocalRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalRoots").field("log", &self.log).finish_non_exhaustive()
    }
}

impl LocalRoots {
    fn stamp<T>(&self, answer: impl FnOnce(&RowSet) -> T) -> Stamped<T> {
        let (value, position) = {
            let state = read(&self.state);
            (answer(&state.rows), state.position)
        };
        let mut last: MutexGuard<'_, TimeMs> =
            self.last_time.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last).max((self.clock)());
        let mark = Mark { arbiter: "embedded".to_owned(), position };
        Stamped { value, time: *last, mark }
    }

    /// Makes a row durable; the error says whether it can be there all the same.
    async fn persist(&self, row: &RootRow) -> Result<(), SwapError> {
        let failed = |error| unavailable("swap", error);
        let position = {
            let mut state = write(&self.state);
            state.position += 1;
            state.position
        };
        let key = [&row.owner.0, row.bucket.as_str().as_bytes()].concat();
        let value = write_row(position, row);
        let record = Record { kind: Kind::Root, key: &key, value: &value };
        let appended = self.log.append(StreamName::Commit, &[record]);
        let position = appended.map_err(|error| {
            // A write that failed and was cut off again is certainly not there.
            let unknown = self.log.is_poisoned(StreamName::Commit);
            if unknown {
                SwapError::Unknown(failed(error))
            } else {
                SwapError::NotSent(failed(error))
            }
        })?;
        let synced = self.log.sync(StreamName::Commit, position).await;
        synced.map_err(|error| SwapError::Unknown(failed(error)))
    }
}

#[async_trait]
impl RootPointerStore for LocalRoots {
    async fn get_roots(
        &self,
        names: &[(OwnerId, BucketName)],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        Ok(self.stamp(|rows| {
            names.iter().map(|(owner, name)| rows.get(*owner, name).cloned()).collect()
        }))
    }

    async fn cas_root(
        &self,
        owner: OwnerId,
        bucket: &BucketName,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        let _turn = self.stripes.lock(bucket.as_str()).await;
        let judged = read(&self.state).rows.judge(owner, bucket, expected, new);
        let row = match judged {
            Judged::Write(row) => row,
            Judged::Refuse(outcome) => return Ok(self.stamp(|_| outcome)),
        };
        // Readers see the row once it is durable, never before.
        self.persist(&row).await?;
        write(&self.state).apply(row);
        Ok(self.stamp(|_| CasOutcome::Won))
    }

    fn covered_by_swap(&self, mark: SyncMark) -> SyncMark {
        let mut covered = SyncMark::default();
        let commit = StreamName::Commit as usize;
        covered.positions[commit] = mark.positions[commit];
        covered
    }

    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        Ok(self.stamp(|rows| rows.list(owner, after, limit)))
    }

    async fn find_bucket(
        &self,
        bucket: &BucketName,
    ) -> Result<Stamped<Option<RootRow>>, StoreError> {
        Ok(self.stamp(|rows| rows.find(bucket).cloned()))
    }
}

/// The embedded directory: records in the log of a data directory.
#[derive(Debug)]
pub struct LocalDirectory {
    log: Arc<Log>,
    records: RwLock<Records>,
    stripes: Stripes,
}

#[async_trait]
impl Directory for LocalDirectory {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(read(&self.records).get(table, name).cloned())
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let _turn = self.stripes.lock(name).await;
        let entry = match read(&self.records).judge(table, name, expected, value)? {
            Ok(entry) => entry,
            Err(refused) => return Ok(refused),
        };
        let key = [table.name().as_bytes(), &[0], name.as_bytes()].concat();
        let value = write_entry(table, name, &entry);
        let record = Record { kind: Kind::Directory, key: &key, value: &value };
        let failed = |error| unavailable("write", error);
        let position = self.log.append(StreamName::Commit, &[record]).map_err(failed)?;
        self.log.sync(StreamName::Commit, position).await.map_err(failed)?;
        let version = entry.version;
        write(&self.records).apply(table, name, entry);
        Ok(WriteOutcome::Done(version))
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        Ok(read(&self.records).list(table, after, limit))
    }
}

#[cfg(test)]
mod tests;
