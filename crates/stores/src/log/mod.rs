//! An append-only log of checksummed records, in segments, with an index in memory.
//!
//! There are two streams: *commit* (nodes, roots, pointers, small bodies) and *bulk* (content of more than
//! one block). So flushing a small commit never flushes a large upload. Format: docs/format.md, decision:
//! docs/adr/0003.
//!
//! # Invariants
//! - A record counts once an fsync that began after it was written has returned.
//! - A new segment begins only when the one before is durable as a whole.
//! - After a failed fsync nothing is appended any more: what the kernel has dropped is unknown.
//! - A record that fails its checksum is never returned.

mod append;
mod blocks;
mod check;
mod compact;
mod damage;
mod disk;
mod entry;
mod footer;
mod hang;
mod index;
mod listed;
mod manifest;
mod read_only;
mod record;
mod recover;
mod room;
mod segment;
#[cfg(test)]
pub(crate) mod sim_disk;
mod slot;
mod tags;
mod void;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fula_core::{Block, Cid};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::{runtime::Handle, sync::Semaphore};

#[cfg(test)]
pub(crate) use self::disk::DiskFile;
pub(crate) use self::{
    blocks::Mark,
    disk::{Disk, FsDisk, is_lost},
    hang::HUNG,
    index::{Index, Key},
    read_only::ReadOnlyDisk,
    record::{Kind, Record, crc32c},
    room::{DISK_BYTES_MIN, Need},
    slot::{LogPlace, Slot},
};
use self::{
    damage::KnownDamage,
    footer::SegmentFooter,
    hang::{Busy, READS, SLOW},
    manifest::Manifest,
    record::{encode_into, encoded_len},
    room::Allowance,
    segment::{HEADER_BYTES, Segment},
};
pub use self::{
    recover::{Damage, Recovery},
    room::Room,
};

/// The stream that a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamName {
    /// Everything that a commit needs.
    Commit,
    /// Content of more than one block.
    Bulk,
}

impl StreamName {
    pub(crate) const ALL: [Self; 2] = [Self::Commit, Self::Bulk];

    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Bulk => "bulk",
        }
    }
}

/// Number of appended bytes after which a sync is started without a request.
const WRITE_BEHIND_BYTES: u64 = 8 << 20;

/// Largest number of blocks that are remembered as unreadable.
const SUSPECTS_MAX: usize = 64 << 10;

#[derive(Debug)]
struct Tail {
    segment: Arc<Segment>,
    /// Position of the next record in the segment.
    offset: u64,
    /// Bytes appended since the log was opened, including headers. It never falls.
    appended: u64,
    /// Buffer in which records are encoded. It is kept for later appends.
    buffer: Vec<u8>,
    /// Footer of the segment so far.
    footer: SegmentFooter,
    /// Position at which the segment was ended, or 0.
    ended: u64,
    /// Whether the manifest names the segment.
    is_named: bool,
}

/// The segment that a stream writes to, and the position of its first byte.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u32,
    base: u64,
}

#[derive(Debug)]
struct Stream {
    name: StreamName,
    tail: Mutex<Tail>,
    /// Never held during a disk operation, unlike the tail.
    place: Mutex<Place>,
    /// Whether a write or an fsync failed in a way that leaves the end unknown. It is set while the tail is
    /// locked, and read without the lock by callers that must not wait for the disk.
    poisoned: AtomicBool,
    /// Value of `appended` up to which everything is on stable storage.
    synced: AtomicU64,
    /// Held during large appends, so that not each of them keeps a thread waiting for the tail.
    turn: tokio::sync::Mutex<()>,
    /// Held during an fsync. A caller that waits for it finds its own records synced as well.
    syncing: tokio::sync::Mutex<()>,
    /// Position up to which an unrequested sync was started.
    behind: AtomicU64,
    /// The append or the beginning of a segment that waits for the disk.
    writing: Busy,
    /// The fsync that waits for the disk.
    flushing: Busy,
}

impl Stream {
    /// Returns the position up to which the segment of the tail is known to be durable.
    fn durable_to(&self, tail: &Tail) -> u64 {
        let base = tail.appended - tail.offset;
        self.synced.load(Ordering::Acquire).saturating_sub(base)
    }
}

/// Counts of physical work, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) fsyncs: AtomicU64,
    pub(crate) appended_bytes: AtomicU64,
    pub(crate) moved_bytes: AtomicU64,
}

/// The log of one data directory.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    /// Size in bytes at which a segment is sealed.
    segment_bytes: u64,
    streams: [Stream; 2],
    index: RwLock<Index>,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    /// Number of the next segment.
    next_id: AtomicU32,
    /// The segments that must exist.
    manifest: Mutex<Manifest>,
    compacting: Mutex<()>,
    allowance: Mutex<Allowance>,
    damage: KnownDamage,
    /// When the log was opened.
    opened: Instant,
    /// Limits the reads that wait for the disk.
    readers: Arc<Semaphore>,
    /// Blocks that could not be read.
    suspects: Mutex<BTreeSet<Cid>>,
    /// Number of such blocks.
    suspicions: AtomicUsize,
    pub(crate) counters: Counters,
}

/// Runs work that may wait long for the disk on a thread of its own. The caller may stop waiting; the work is
/// done all the same.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

fn poisoned() -> io::Error {
    io::Error::other("an earlier fsync or write failed; check the disk, then restart")
}

impl Log {
    /// Opens the log on `disk`, and recovers its contents.
    pub(crate) fn open(disk: Arc<dyn Disk>, segment_bytes: u64) -> io::Result<(Self, Recovery)> {
        let mut recovered = recover::recover(disk.as_ref())?;
        let mut tails = Vec::with_capacity(2);
        for name in StreamName::ALL {
            let (segment, offset, footer) =
                if let Some(tail) = recovered.tails.remove(name.prefix()) {
                    tail
                } else {
                    let id = recovered.next_id;
                    let segment = Arc::new(Segment::create(disk.as_ref(), name.prefix(), id)?);
                    recovered.segments.insert(id, Arc::clone(&segment));
                    recovered.next_id += 1;
                    (segment, HEADER_BYTES, SegmentFooter::empty())
                };
            let (appended, buffer) = (offset, Vec::new());
            tails.push(Stream {
                name,
                place: Mutex::new(Place { segment: segment.id, base: 0 }),
                poisoned: AtomicBool::new(false),
                tail: Mutex::new(Tail {
                    is_named: recovered.manifest.names(segment.name()),
                    segment,
                    offset,
                    appended,
                    buffer,
                    footer,
                    ended: 0,
                }),
                turn: tokio::sync::Mutex::new(()),
                synced: AtomicU64::new(offset),
                syncing: tokio::sync::Mutex::new(()),
                behind: AtomicU64::new(0),
                writing: Busy::default(),
                flushing: Busy::default(),
            });
        }
        let streams = <[Stream; 2]>::try_from(tails).map_err(|_| io::Error::other("streams"))?;
        let damage = KnownDamage::open(disk.as_ref(), &recovered.report.damaged);
        let log = Self {
            disk,
            segment_bytes,
            streams,
            index: RwLock::new(recovered.index),
            segments: RwLock::new(recovered.segments),
            next_id: AtomicU32::new(recovered.next_id),
            manifest: Mutex::new(recovered.manifest),
            compacting: Mutex::new(()),
            allowance: Mutex::default(),
            damage,
            opened: Instant::now(),
            readers: Arc::new(Semaphore::new(READS)),
            suspects: Mutex::default(),
            suspicions: AtomicUsize::new(0),
            counters: Counters::default(),
        };
        log.read_suspects();
        Ok((log, recovered.report))
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write()
    }

    fn stream(&self, name: StreamName) -> &Stream {
        &self.streams[name as usize]
    }

    /// Returns the stream of a segment, and the position that an fsync must reach to cover `slot`; 0 when
    /// it is durable already.
    pub(crate) fn pending(&self, slot: &Slot) -> (StreamName, u64) {
        for stream in &self.streams {
            let place = *stream.place.lock();
            if place.segment == slot.segment {
                let end = place.base + slot.end();
                let durable = stream.synced.load(Ordering::Acquire) >= end;
                return (stream.name, if durable { 0 } else { end });
            }
        }
        (StreamName::Commit, 0) // Sealed segments are durable.
    }

    /// Records that a block cannot be read at present, so that a later put stores it anew.
    pub(crate) fn suspect(&self, cid: &Cid) {
        let mut suspects = self.suspects.lock();
        if suspects.len() >= SUSPECTS_MAX {
            suspects.pop_first();
        }
        suspects.insert(*cid);
        self.suspicions.store(suspects.len(), Ordering::Relaxed);
    }

    /// Returns whether a block could not be read.
    pub(crate) fn is_suspect(&self, cid: &Cid) -> bool {
        self.suspicions.load(Ordering::Relaxed) > 0 && self.suspects.lock().contains(cid)
    }

    /// Records that blocks were stored anew.
    pub(crate) fn trust(&self, blocks: &[Block]) {
        if self.suspicions.load(Ordering::Relaxed) > 0 {
            let mut suspects = self.suspects.lock();
            for block in blocks {
                suspects.remove(&block.cid());
            }
            self.suspicions.store(suspects.len(), Ordering::Relaxed);
        }
    }

    /// Removes a block whose bytes were found damaged from the index, so that a later put stores it anew.
    /// Returns false when it does not lie there any more.
    pub(crate) fn forget_damaged(&self, cid: &Cid, slot: &Slot) -> bool {
        let mut index = self.index_mut();
        let is_there = index.blocks.get(cid).is_some_and(|found| found == *slot);
        if is_there {
            index.remove_block(cid);
        }
        is_there
    }

    fn fsync(&self, segment: &Segment) -> io::Result<()> {
        self.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
        segment.sync()
    }

    /// Returns once `position` of the stream is on stable storage. Concurrent calls share fsyncs.
    pub(crate) async fn sync(self: &Arc<Self>, name: StreamName, position: u64) -> io::Result<()> {
        let stream = self.stream(name);
        if stream.synced.load(Ordering::Acquire) >= position {
            return Ok(());
        }
        let _turn = stream.syncing.lock().await;
        if stream.synced.load(Ordering::Acquire) >= position {
            return Ok(());
        }
        if name == StreamName::Commit && Handle::current().metrics().num_workers() > 1 {
            // The fsync runs on the thread of the caller: to hand it over and back costs as much as an
            // fsync of a fast disk. One thread at a time waits here, and the node has one more thread than
            // cores.
            return self.quickly(move |log, patience| log.flush_and_mark(name, patience)).await;
        }
        self.check_answers()?;
        let log = Arc::clone(self);
        blocking(move || log.flush_and_mark(name, HUNG)).await
    }

    /// Starts to make appended records durable when there are many, so that a later request to sync finds
    /// most of them done.
    pub(crate) fn write_behind(self: &Arc<Self>, name: StreamName, position: u64) {
        let stream = self.stream(name);
        let begun =
            stream.behind.load(Ordering::Acquire).max(stream.synced.load(Ordering::Acquire));
        if position < begun + WRITE_BEHIND_BYTES {
            return;
        }
        stream.behind.store(position, Ordering::Release);
        let log = Arc::clone(self);
        tokio::spawn(async move {
            // The caller that needs it durable syncs and gets the error.
            if let Err(error) = log.sync(name, position).await {
                tracing::debug!(%error, "cannot sync appended records early; the commit that needs them will try again");
            }
        });
    }

    fn flush_and_mark(&self, name: StreamName, patience: Duration) -> io::Result<()> {
        self.flush_within(name, patience)?;
        self.mark(name);
        Ok(())
    }

    pub(crate) fn flush(&self, name: StreamName) -> io::Result<()> {
        self.flush_within(name, HUNG)
    }

    /// Makes everything durable that was appended to a stream before the call. `patience` is as in
    /// [`Stream::lock_tail`].
    fn flush_within(&self, name: StreamName, patience: Duration) -> io::Result<()> {
        let stream = self.stream(name);
        let (segment, appended) = {
            let tail = stream.lock_tail(patience)?;
            self.check_writable()?;
            (Arc::clone(&tail.segment), tail.appended)
        };
        let _flushing = stream.flushing.begin(self.opened);
        // Sealing makes older segments durable, so only the current one has to be flushed.
        if let Err(error) = self.fsync(&segment) {
            let _tail = stream.tail.lock();
            stream.poisoned.store(true, Ordering::Release);
            return Err(error);
        }
        stream.synced.fetch_max(appended, Ordering::AcqRel);
        Ok(())
    }

    /// Records in the log itself how far it is durable, so that damage up to there is never taken for a
    /// torn tail. Later records tell it as well. The record needs no fsync of its own: it matters only
    /// after the disk has had time to decay.
    fn mark(&self, name: StreamName) {
        let record = Record { kind: Kind::Mark, key: &[], value: &[] };
        let mark = self.append_if(name, &[record], SLOW, |_, _| true);
        if let Err(error) = mark {
            // The requested part is durable all the same. This fails e.g. while the disk is full.
            tracing::debug!(%error, "cannot record in the log how far it is durable");
        }
    }

    /// Waits until the caller may append a large amount.
    pub(crate) async fn turn(&self, name: StreamName) -> tokio::sync::MutexGuard<'_, ()> {
        self.stream(name).turn.lock().await
    }

    /// Refuses to write once writing has failed in either stream, because both are on one disk.
    fn check_writable(&self) -> io::Result<()> {
        if StreamName::ALL.iter().any(|name| self.is_poisoned(*name)) {
            return Err(poisoned());
        }
        Ok(())
    }

    /// Returns whether writing to a stream failed in a way that leaves its end unknown.
    pub(crate) fn is_poisoned(&self, name: StreamName) -> bool {
        self.stream(name).poisoned.load(Ordering::Acquire)
    }

    /// Reads the value of a record without waiting for the disk. Returns `None` when it would have to wait.
    pub(crate) fn read_cached(&self, slot: &Slot) -> io::Result<Option<Bytes>> {
        self.read_value(slot, false)
    }

    /// Reads the value of a record. Returns `None` when its head or its value fails its checksum.
    pub(crate) fn read_intact(&self, slot: &Slot) -> io::Result<Option<Bytes>> {
        self.segment(slot)?.read_intact(slot)
    }

    /// Reads the value of a record that is to be moved. Returns `None` when it is damaged. A block of which
    /// only the head is damaged is intact, as its hash proves.
    fn read_whole(&self, key: &Key, slot: &Slot) -> io::Result<Option<Bytes>> {
        let intact = self.read_intact(slot)?;
        let Key::Block(cid) = key else { return Ok(intact) };
        let Ok(cid) = Cid::from_bytes(cid) else { return Ok(intact) };
        match intact {
            None => {
                Ok(Block::verify(cid, self.read(slot)?).ok().map(|block| block.bytes().clone()))
            }
            intact => Ok(intact),
        }
    }

    /// Reads the value of a record without checking it.
    pub(crate) fn read(&self, slot: &Slot) -> io::Result<Bytes> {
        let value = self.read_value(slot, true)?;
        value.ok_or_else(|| io::Error::other("a blocking read did not read"))
    }

    fn read_value(&self, slot: &Slot, may_wait: bool) -> io::Result<Option<Bytes>> {
        let segment = self.segment(slot)?;
        let mut value = vec![0; slot.value_len as usize];
        let is_filled = segment.fill(&mut value, slot.value_offset(), may_wait)?;
        Ok(is_filled.then(|| value.into()))
    }

    fn segment(&self, slot: &Slot) -> io::Result<Arc<Segment>> {
        let segments = self.segments.read();
        segments.get(&slot.segment).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
