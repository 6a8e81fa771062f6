//! Tests on a disk that hangs: threads are left for other work, and what waits is refused in time.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use fula_core::{
    Block, BlockStore, Codec, MetadataStore, StoreError, block::Placement, metadata::Table,
};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::log::{DiskFile, HUNG, sim_disk::SimDisk};

/// A gate through which writes, fsyncs and reads of the disk go.
#[derive(Debug, Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set_closed(&self, is_closed: bool) {
        *self.is_closed.lock() = is_closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_closed = self.is_closed.lock();
        while *is_closed {
            self.opened.wait(&mut is_closed);
        }
    }
}

/// A disk that hangs while its gate is closed.
#[derive(Debug)]
struct HangingDisk(SimDisk, Arc<Gate>);

#[derive(Debug)]
struct HangingFile(Box<dyn DiskFile>, Arc<Gate>);

impl HangingDisk {
    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HangingFile(file, Arc::clone(&self.1)))
    }
}

impl Disk for HangingDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.1.pass();
        Ok(self.file(self.0.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.0.open(name)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.1.pass();
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.1.pass();
        self.0.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync()
    }

    fn room(&self) -> io::Result<Room> {
        self.0.room()
    }
}

impl DiskFile for HangingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.pass();
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.pass();
        self.0.read_at(buffer, offset)
    }

    /// Nothing is cached while the disk hangs.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let is_closed = *self.1.is_closed.lock();
        if is_closed { Ok(false) } else { self.0.read_cached(buffer, offset) }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.1.pass();
        self.0.truncate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync()
    }
}

fn open() -> (Arc<LocalStore>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let disk = Arc::new(HangingDisk(SimDisk::default(), Arc::clone(&gate)));
    let opened = LocalStore::open_on(Path::new("sim"), disk, system_clock(), false, None);
    (Arc::new(opened.unwrap()), gate)
}

fn block(seed: u8, len: usize) -> Block {
    let mut bytes = vec![seed; len];
    bytes[0] = seed.wrapping_add(1);
    Block::new(Codec::Raw, bytes)
}

async fn put(store: &LocalStore, block: Block, placement: Placement) -> Result<(), StoreError> {
    let mark = store.blocks.put(&[block], placement).await?;
    store.blocks.sync(mark).await
}

/// As many threads as on a machine with two cores.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_on_a_disk_that_hangs_leave_threads_for_other_work() {
    let (store, gate) = open();
    put(&store, block(0, 100), Placement::Commit).await.unwrap();
    gate.set_closed(true);
    let mut waiting = tokio::task::JoinSet::new();
    for n in 1..40 {
        let store = Arc::clone(&store);
        waiting.spawn(async move {
            match n % 4 {
                0 => put(&store, block(n, 1 << 20), Placement::Bulk).await,
                1 => put(&store, block(n, 5000), Placement::Bulk).await,
                2 => put(&store, block(n, 5000), Placement::Commit).await,
                _ => {
                    let (name, value) = (format!("r{n}"), Some("x".into()));
                    store.metadata.write(Table::Modes, &name, 0, value).await.map(drop)
                }
            }
        });
    }
    // Other work goes on all the time.
    let ticks = Arc::new(AtomicUsize::new(0));
    let ticking = Arc::clone(&ticks);
    let ticker = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ticking.fetch_add(1, Ordering::Relaxed);
        }
    });
    let begun = Instant::now();
    while store.pending_for() < HUNG {
        assert!(begun.elapsed() < HUNG * 30, "nothing seems to hang");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = ticks.load(Ordering::Relaxed);
    // About 200 on an idle machine, and next to none when no thread is left for them.
    assert!(before > 20, "only {before} ticks");
    // Now everything is refused at once: nothing waits for the disk once more.
    let begun = Instant::now();
    for placement in [Placement::Commit, Placement::Bulk] {
        let refused = put(&store, block(99, 5000), placement).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    let refused = store.metadata.write(Table::Modes, "more", 0, Some("x".into())).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert!(begun.elapsed() < HUNG, "{:?}", begun.elapsed());
    gate.set_closed(false);
    // What was waiting is carried out or was refused, and the log can be used as before.
    while let Some(ended) = waiting.join_next().await {
        let ended = ended.unwrap();
        assert!(matches!(ended, Ok(()) | Err(StoreError::Unavailable { .. })), "{ended:?}");
    }
    put(&store, block(99, 5000), Placement::Commit).await.unwrap();
    assert_eq!(store.pending_for(), Duration::ZERO);
    assert_eq!(store.verify().unwrap(), []);
    ticker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_from_a_disk_that_hangs_end_in_time() {
    let (store, gate) = open();
    let content = block(7, 5000);
    put(&store, content.clone(), Placement::Bulk).await.unwrap();
    gate.set_closed(true);
    let begun = Instant::now();
    let cid = content.cid();
    let reads = (0..40).map(|_| store.blocks.get(&cid));
    for read in futures::future::join_all(reads).await {
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
    }
    assert!(begun.elapsed() < HUNG * 2, "{:?}", begun.elapsed());
    gate.set_closed(false);
    assert_eq!(store.blocks.get(&content.cid()).await.unwrap(), Some(content));
}
