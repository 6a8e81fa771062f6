//! A simulated disk that keeps only what the kernel promises. Unsynced writes are lost, kept, partly kept,
//! or kept without those before them; and any call may fail.

mod content;

use std::{collections::BTreeMap, io, ops::Range, sync::Arc};

use fula_testkit::rng::Rng;
use parking_lot::{Mutex, MutexGuard};

use self::content::Content;
use super::{
    disk::{Disk, DiskFile},
    room::Room,
};

/// Number of bytes that become unreadable together.
const SECTOR_BYTES: usize = 4096;

/// The way in which a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The disk is full.
    Full,
    /// The disk reports an error.
    Io,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Io => io::Error::other("the disk fails"),
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write { offset: usize, bytes: Vec<u8> },
    Cut(usize),
}

impl Op {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, bytes } => content.write(*offset, bytes),
            Self::Cut(len) => content.resize(*len),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// Content as it is read.
    content: Content,
    /// Content as of the last sync.
    durable: Content,
    /// Writes since then.
    pending: Vec<Op>,
}

#[derive(Clone, Debug)]
enum NameOp {
    Add(String, usize),
    Remove(String),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameOp>,
    calls: u64,
    read_bytes: u64,
    /// Number of the first call that fails, the error, and whether all later calls fail too.
    fault: Option<(u64, Fault, bool)>,
    /// Whether the disk claims to sync and does not.
    lies: bool,
    /// Unreadable places: a file, and the range in it.
    lost: Vec<(usize, Range<usize>)>,
    lost_reads: u64,
    /// Size of the disk in bytes, if it is limited, and the bytes of other files on it.
    bound: Option<(u64, u64)>,
    /// Every write since recording began, and the state of the disk before it.
    tape: Option<Vec<Taped>>,
}

/// A recorded write, which can be torn.
#[derive(Clone, Debug)]
pub(crate) struct Taped {
    /// Number of the call.
    pub(crate) call: u64,
    footer: Vec<Content>,
    names: BTreeMap<String, usize>,
    inode: usize,
    offset: usize,
    bytes: Vec<u8>,
}

impl Taped {
    /// Returns the length of the write in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the disk with all earlier writes and the first `kept` bytes of this one.
    pub(crate) fn torn(&self, kept: usize) -> SimDisk {
        let inode = |content: &Content| Inode {
            content: content.clone(),
            durable: content.clone(),
            pending: Vec::new(),
        };
        let mut inodes: Vec<Inode> = self.footer.iter().map(inode).collect();
        let op = Op::Write { offset: self.offset, bytes: self.bytes[..kept].to_vec() };
        op.apply(&mut inodes[self.inode].content);
        op.apply(&mut inodes[self.inode].durable);
        let names = self.names.clone();
        let state = State { inodes, durable_names: names.clone(), names, ..State::default() };
        SimDisk(Arc::new(Mutex::new(state)))
    }
}

impl State {
    /// Counts a call, and fails if this call is to fail.
    fn step(&mut self) -> io::Result<()> {
        self.calls += 1;
        match self.fault {
            Some((at, fault, lasts)) if self.calls == at || (lasts && self.calls > at) => {
                Err(fault.error())
            }
            _ => Ok(()),
        }
    }

    fn apply(names: &mut BTreeMap<String, usize>, op: &NameOp) {
        match op {
            NameOp::Add(name, inode) => drop(names.insert(name.clone(), *inode)),
            NameOp::Remove(name) => drop(names.remove(name)),
        }
    }

    /// Returns the free space and the size of the disk.
    fn room(&self) -> Room {
        let Some((size, others)) = self.bound else {
            return Room { free: u64::MAX, size: u64::MAX };
        };
        let space = |inode: &usize| Content::space(self.inodes[*inode].content.len());
        let used: u64 = self.names.values().map(space).sum();
        Room { free: size.saturating_sub(others + used), size }
    }

    fn change(&mut self, op: NameOp) {
        Self::apply(&mut self.names, &op);
        self.pending_names.push(op);
    }
}

/// A simulated disk. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Makes the call after the next `after` calls fail. With `lasts`, all later calls fail too.
    pub(crate) fn fail(&self, after: u64, fault: Fault, lasts: bool) {
        let mut state = self.state();
        state.fault = Some((state.calls + after + 1, fault, lasts));
    }

    /// Makes all calls succeed from now on.
    pub(crate) fn mend(&self) {
        self.state().fault = None;
    }

    /// Limits the size of the disk, and its free space.
    pub(crate) fn set_room(&self, Room { free, size }: Room) {
        let mut state = self.state();
        state.bound = Some((size, 0));
        let others = state.room().free - free;
        state.bound = Some((size, others));
    }

    /// Records all writes from now on.
    pub(crate) fn record(&self) {
        self.state().tape = Some(Vec::new());
    }

    /// Returns the recorded writes.
    pub(crate) fn recorded(&self) -> Vec<Taped> {
        self.state().tape.take().unwrap_or_default()
    }

    /// Makes the sector of a file around a position unreadable. Returns its range.
    pub(crate) fn lose(&self, name: &str, at: usize) -> Range<usize> {
        let begin = at / SECTOR_BYTES * SECTOR_BYTES;
        let part = begin..begin + SECTOR_BYTES;
        let mut state = self.state();
        let inode = state.names[name];
        state.lost.push((inode, part.clone()));
        part
    }

    /// Makes the disk claim to sync without doing so.
    pub(crate) fn lie(&self) {
        self.state().lies = true;
    }

    /// Returns the number of calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Returns the number of reads of unreadable places.
    pub(crate) fn lost_reads(&self) -> u64 {
        self.state().lost_reads
    }

    /// Returns the number of bytes that were read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// Returns the disk as a power cut leaves it.
    pub(crate) fn crash(&self, rng: &mut Rng) -> Self {
        let old = self.state();
        let (durable_names, lost) = (old.durable_names.clone(), old.lost.clone());
        let mut new = State { durable_names, lost, bound: old.bound, ..State::default() };
        for op in &old.pending_names {
            if rng.below(2) == 0 {
                State::apply(&mut new.durable_names, op);
            }
        }
        new.names.clone_from(&new.durable_names);
        new.inodes = old.inodes.iter().map(|inode| inode.after_crash(rng)).collect();
        Self(Arc::new(Mutex::new(new)))
    }
}

impl Inode {
    fn after_crash(&self, rng: &mut Rng) -> Self {
        let mut content = self.durable.clone();
        // Nothing is kept, or everything, or the first writes, or a random selection.
        let (mode, most) = (rng.below(4), rng.below(self.pending.len() as u64 + 1));
        for (n, op) in self.pending.iter().enumerate() {
            let is_kept = match mode {
                0 => false,
                1 => true,
                2 => (n as u64) < most,
                _ => rng.below(2) == 0,
            };
            if !is_kept {
                continue;
            }
            match op {
                Op::Write { offset, bytes } if rng.below(3) == 0 => {
                    let kept = usize::try_from(rng.below(bytes.len() as u64 + 1)).unwrap_or(0);
                    let bytes = bytes[..kept].to_vec();
                    Op::Write { offset: *offset, bytes }.apply(&mut content);
                }
                op => op.apply(&mut content),
            }
        }
        Self { durable: content.clone(), content, pending: Vec::new() }
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.step()?;
        let len = |inode: &usize| state.inodes[*inode].content.len() as u64;
        Ok(state.names.iter().map(|(name, inode)| (name.clone(), len(inode))).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change(NameOp::Add(name.to_owned(), inode));
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        let inode = state.names.get(name).copied();
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameOp::Remove(name.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let inode = state.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        state.change(NameOp::Add(to.to_owned(), inode));
        state.change(NameOp::Remove(from.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        Ok(self.state().room())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.step()?;
        Ok(state.inodes[self.inode].content.len() as u64)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let failed = state.step();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        // Half of a failed write is there.
        let len = if failed.is_err() { bytes.len() / 2 } else { bytes.len() };
        let space = Content::space(state.inodes[self.inode].content.len());
        if Content::space(offset + len).saturating_sub(space) > state.room().free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let op = Op::Write { offset, bytes: bytes[..len].to_vec() };
        if state.tape.is_some() {
            let taped = Taped {
                call: state.calls,
                footer: state.inodes.iter().map(|inode| inode.content.clone()).collect(),
                names: state.names.clone(),
                inode: self.inode,
                offset,
                bytes: bytes.to_vec(),
            };
            state.tape.get_or_insert_default().push(taped);
        }
        let inode = &mut state.inodes[self.inode];
        op.apply(&mut inode.content);
        inode.pending.push(op);
        failed
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        state.read_bytes += buffer.len() as u64;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let is_lost = |(inode, part): &(usize, Range<usize>)| {
            *inode == self.inode && part.start < offset + buffer.len() && offset < part.end
        };
        if state.lost.iter().any(is_lost) {
            state.lost_reads += 1;
            return Err(rustix::io::Errno::IO.into());
        }
        let is_there = state.inodes[self.inode].content.read(offset, buffer);
        if is_there { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let op = Op::Cut(usize::try_from(len).map_err(io::Error::other)?);
        let inode = &mut state.inodes[self.inode];
        op.apply(&mut inode.content);
        inode.pending.push(op);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let failed = state.step();
        if state.lies {
            return Ok(());
        }
        let inode = &mut state.inodes[self.inode];
        // The kernel forgets what it could not write. It is read as if it were there, and a later sync
        // reports nothing.
        if failed.is_ok() {
            let pending = std::mem::take(&mut inode.pending);
            for op in &pending {
                op.apply(&mut inode.durable);
            }
        }
        inode.pending.clear();
        failed
    }
}
