//! Tests on disks of 64 MB to 2 GB that are filled, partly emptied, collected, and filled again.
//!
//! A case is a seed and a size. It does to the stores what a gateway does: content goes to bulk or with the
//! commit, each change replaces a node and swaps the pointer, and deletions use the reserve. Every second
//! case begins with segments as large as earlier builds made them, whatever the size of the disk.
//! `FULA_FULL_CASES` and `FULA_FULL_SEED` choose the cases.

use std::collections::BTreeMap;

use fula_core::{
    Block, BlockStore, BucketAddress, BucketId, BucketName, Cid, Codec, OwnerId, RootPointer,
    RootPointerStore, StoreError,
    block::{BLOCK_BYTES_MAX, Kept, Placement, sweep_all},
    error::SwapError,
    root::{GlobalName, NewRoot},
};
use fula_testkit::rng::Rng;

use super::*;
use crate::log::sim_disk::{Fault, SimDisk};

const OWNER: OwnerId = OwnerId([1; 16]);

/// Sizes of the disks in bytes. By default there is one case of each, and cases of random sizes in between.
const SIZES: [u64; 6] = [64_000_000, 100_000_000, 300_000_000, 700_000_000, 1 << 30, 2_000_000_000];

/// Dead share in percent that makes a segment worth rewriting, as in `fula gc --now`.
const DEAD_PERCENT: u64 = 20;

/// Largest object in bytes.
const OBJECT_BYTES_MAX: u64 = 20 << 20;

/// Length in bytes of the node that each change replaces.
const NODE_BYTES: u64 = 16 << 10;

/// Size in bytes of the segments that earlier builds made on every disk.
const EARLIER_SEGMENT_BYTES: u64 = 128 << 20;

/// Most deleting changes between two collections. Together they need far less than the reserve.
const REMOVALS: usize = 32;

/// Largest part of the disk that a collection may leave unfreed: segments of which less than 5 % is dead,
/// and partly filled pages of files.
const LEFT_PART: u64 = 16;

/// Additional bytes of a small disk that may be left: what the changes since the last collection have
/// replaced.
const LEFT_BYTES: u64 = 1 << 20;

#[derive(Debug)]
struct Object {
    bytes: u64,
    blocks: Vec<Cid>,
}

struct Case {
    rng: Rng,
    disk: SimDisk,
    store: LocalStore,
    objects: BTreeMap<u64, Object>,
    /// Address of the newest node, which each change replaces.
    node: Option<Cid>,
    version: u64,
    drawn: u64,
}

fn open_sim(disk: &SimDisk, segment_bytes: Option<u64>) -> LocalStore {
    let (clock, disk): (Clock, _) = (Arc::new(|| 1), Arc::new(disk.clone()));
    let store = LocalStore::open_on(Path::new("sim"), disk, clock, false, segment_bytes).unwrap();
    assert!(store.recovery.damaged.is_empty(), "{:?}", store.recovery);
    store
}

impl Case {
    fn new(seed: u64, size: u64) -> Self {
        let disk = SimDisk::default();
        disk.set_room(Room { free: size, size });
        let store = open_sim(&disk, (seed % 2 == 1).then_some(EARLIER_SEGMENT_BYTES));
        let rng = Rng::new(seed);
        Self { rng, disk, store, objects: BTreeMap::new(), node: None, version: 0, drawn: 0 }
    }

    /// Returns a block that was not put before.
    fn block(&mut self, len: u64) -> Block {
        self.drawn += 1;
        let mut bytes = self.drawn.to_be_bytes().to_vec();
        bytes.resize(usize::try_from(len).unwrap().max(8), 7);
        Block::new(Codec::Raw, bytes)
    }

    /// Replaces the node, and points the bucket to it.
    async fn change(&mut self, placement: Placement) -> Result<(), StoreError> {
        let node = self.block(NODE_BYTES);
        self.store.blocks.put(std::slice::from_ref(&node), placement).await?;
        let pointer = |version, root| RootPointer { root, version, generation: 0 };
        let expected = self.node.map(|root| pointer(self.version, root));
        let new = NewRoot {
            pointer: pointer(self.version + 1, node.cid()),
            bucket_id: BucketId([1; 16]),
            created: 1,
            deleted: None,
            global_name: GlobalName::ClaimIfFree,
            lease: None,
        };
        let bucket = BucketAddress::new(OWNER, BucketName::parse("bucket").unwrap());
        match self.store.roots.cas_root(&bucket, expected, &new).await {
            Ok(_) => {}
            Err(SwapError::NotSent(error) | SwapError::Unknown(error)) => return Err(error),
        }
        (self.node, self.version) = (Some(node.cid()), self.version + 1);
        Ok(())
    }

    /// Puts an object. Returns false when the disk is full.
    async fn put(&mut self, bytes: u64) -> bool {
        let placement =
            if bytes > BLOCK_BYTES_MAX as u64 { Placement::Bulk } else { Placement::Commit };
        let mut object = Object { bytes, blocks: Vec::new() };
        let mut left = bytes;
        while left > 0 {
            let leaf = self.block(left.min(BLOCK_BYTES_MAX as u64));
            left -= left.min(leaf.bytes().len() as u64);
            object.blocks.push(leaf.cid());
            let mark = match self.store.blocks.put(&[leaf], placement).await {
                Err(StoreError::Full { .. }) => return false,
                mark => mark.unwrap(),
            };
            if left == 0 {
                self.store.blocks.sync(mark).await.unwrap();
            }
        }
        match self.change(Placement::Commit).await {
            Err(StoreError::Full { .. }) => return false,
            changed => changed.unwrap(),
        }
        self.objects.insert(self.drawn, object);
        true
    }

    /// Puts objects until no object of 64 KiB fits any more, or until `most` bytes were put.
    async fn fill(&mut self, most: u64) -> u64 {
        let (mut put, mut fits) = (0, OBJECT_BYTES_MAX);
        while put < most {
            // The written part of an object that does not fit takes space until it is collected.
            let limit = fits.min(most - put);
            let bytes = match self.rng.below(3) {
                0 => limit,
                1 => 1 + self.rng.below(limit),
                _ => limit.min(1 + self.rng.below(256 << 10)),
            };
            if self.put(bytes).await {
                put += bytes;
                continue;
            }
            fits = bytes / 2;
            if fits < 64 << 10 {
                break;
            }
        }
        put
    }

    /// Deletes a part of the objects, many in one change as a client does. Returns their bytes.
    async fn delete(&mut self) -> u64 {
        let percent = [50, 10, 30, 90, 100][usize::try_from(self.rng.below(5)).unwrap()];
        let rng = &mut self.rng;
        let mut chosen: Vec<u64> = match rng.below(3) {
            // Deletes every second object, a random choice, or the oldest.
            0 => self.objects.keys().copied().step_by(2).collect(),
            1 => self.objects.keys().copied().filter(|_| rng.below(100) < percent).collect(),
            _ => self.objects.keys().copied().take(self.objects.len() / 2).collect(),
        };
        let mut bytes = 0;
        let at_once = chosen.len().div_ceil(REMOVALS).max(1);
        while !chosen.is_empty() {
            let some = chosen.split_off(chosen.len().saturating_sub(at_once));
            self.change(Placement::Removal).await.expect("there is room for deletions");
            for object in some {
                bytes += self.objects.remove(&object).unwrap().bytes;
            }
        }
        bytes
    }

    /// Collects garbage and compacts, as `fula gc --now` does.
    async fn collect(&self) -> io::Result<u64> {
        let blocks = &self.store.blocks;
        let cut = blocks.advance_epoch();
        let objects = self.objects.values().flat_map(|object| object.blocks.iter().copied());
        let needed: Vec<Cid> = objects.chain(self.node).collect();
        blocks.mark(&needed, cut, Kept::Now);
        sweep_all(&**blocks, cut, cut).await.unwrap();
        self.store.rewrite(&|| DEAD_PERCENT, true, &|| {})
    }

    /// Starts a collection that does not end, because the disk fails or the power is cut, and starts the
    /// store again.
    async fn interrupt(&mut self) {
        let after = self.rng.below(400);
        self.disk.fail(after, Fault::Io, true);
        let is_interrupted = self.collect().await.is_err();
        self.disk.mend();
        if is_interrupted || self.rng.below(2) == 0 {
            self.disk = self.disk.crash(&mut self.rng);
        }
        self.restart().await;
    }

    async fn restart(&mut self) {
        self.store = open_sim(&self.disk, None);
        self.look().await;
    }

    /// Checks that every block is there, and reads some of them.
    async fn look(&mut self) {
        for object in self.objects.values() {
            for cid in &object.blocks {
                assert!(self.store.blocks.size(cid).await.unwrap().is_some());
            }
            let n = usize::try_from(self.rng.below(object.blocks.len() as u64 * 8)).unwrap();
            if let Some(cid) = object.blocks.get(n) {
                assert!(self.store.blocks.get(cid).await.unwrap().is_some());
            }
        }
    }

    /// Runs one round: fills the disk, deletes a part, collects, and fills it again.
    async fn round(&mut self) {
        self.fill(u64::MAX).await;
        let size = self.disk.room().unwrap().size;
        let deleted = self.delete().await;
        match self.rng.below(4) {
            0 => self.restart().await,
            1 => self.interrupt().await,
            _ => {}
        }
        let promised = deleted.saturating_sub(size / LEFT_PART + LEFT_BYTES);
        let (mut put, mut times) = (0, 0);
        while put < promised {
            self.collect().await.expect("a collection needs no more than is kept for it");
            let more = self.fill(promised - put).await;
            put += more;
            times += 1;
            let room = self.disk.room().unwrap();
            assert!(times < 6, "{put} of {deleted} bytes again, of {promised} promised; {room:?}");
        }
        self.look().await;
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

#[expect(clippy::disallowed_methods, reason = "which cases a test runs is no configuration")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_full_disk_gives_back_what_is_deleted() {
    let first = number("FULA_FULL_SEED");
    let cases = first.map_or(number("FULA_FULL_CASES").unwrap_or(12), |_| 1);
    for seed in (first.unwrap_or(0)..).take(usize::try_from(cases).unwrap()) {
        let case = std::panic::catch_unwind(|| {
            let mut rng = Rng::new(seed);
            let between = SIZES[0] + rng.below(SIZES[3] - SIZES[0]);
            let size = SIZES.get(usize::try_from(seed).unwrap()).copied().unwrap_or(between);
            let mut case = Case::new(seed, size);
            // A large disk takes long to fill, so it gets fewer rounds.
            let rounds = if size > SIZES[3] { 1 } else { 4 };
            block_on(async {
                for _ in 0..rounds {
                    case.round().await;
                }
            });
        });
        case.unwrap_or_else(|_| panic!("replay with FULA_FULL_SEED={seed}"));
    }
}

/// Leaves the disk `free` bytes of free space.
fn leave(disk: &SimDisk, free: u64) {
    disk.set_room(Room { free, size: 1 << 30 });
}

/// Returns the names of the files on a disk.
fn names(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_disk_without_any_space_starts_and_gives_back_what_needs_no_copy() {
    block_on(async {
        let disk = SimDisk::default();
        leave(&disk, 1 << 30);
        let store = open_sim(&disk, Some(4096));
        let blocks: Vec<Block> = (0..8).map(|n| Block::new(Codec::Raw, vec![n; 4000])).collect();
        for block in &blocks {
            let mark = store.blocks.put(std::slice::from_ref(block), Placement::Bulk).await;
            store.blocks.sync(mark.unwrap()).await.unwrap();
        }
        // Only the newest node is needed.
        let cut = store.blocks.advance_epoch();
        store.blocks.mark(&[blocks[7].cid()], cut, Kept::Now);
        sweep_all(&*store.blocks, cut, cut).await.unwrap();
        let before = names(&disk);
        leave(&disk, 0);
        assert!(store.compact(1, &|| {}).unwrap() > 0, "a segment is removed without any space");
        drop(store);
        let after = names(&disk);
        assert!(after.len() < before.len(), "{after:?}");
        // Whatever the manifest says now, no segment is reported missing.
        leave(&disk, 0);
        let store = open_sim(&disk, Some(4096));
        assert_eq!(store.blocks.get(&blocks[7].cid()).await.unwrap().as_ref(), Some(&blocks[7]));
        // With free space the manifest names all segments again, so that a loss is noticed.
        leave(&disk, 1 << 20);
        let mark = store.blocks.put(&[Block::new(Codec::Raw, vec![9; 10])], Placement::Bulk).await;
        drop((mark, store));
        leave(&disk, 1 << 29);
        drop(open_sim(&disk, Some(4096)));
        assert!(names(&disk).iter().any(|name| name == "manifest"));
    });
}

#[test]
fn a_segment_that_is_named_and_not_begun_needs_no_space_at_a_start() {
    block_on(async {
        let disk = SimDisk::default();
        leave(&disk, 1 << 30);
        let store = open_sim(&disk, Some(4096));
        let blocks: Vec<Block> = (0..4).map(|n| Block::new(Codec::Raw, vec![n; 5000])).collect();
        for block in &blocks[..3] {
            let mark = store.blocks.put(std::slice::from_ref(block), Placement::Bulk).await;
            store.blocks.sync(mark.unwrap()).await.unwrap();
        }
        drop(store);
        // The state after a first record that found no space.
        let newest = names(&disk).into_iter().filter(|name| name.starts_with("bulk")).max();
        disk.open(&newest.unwrap()).unwrap().truncate(80).unwrap();
        leave(&disk, 0);
        let store = open_sim(&disk, Some(4096));
        leave(&disk, 1 << 29);
        store.blocks.put(&blocks[3..], Placement::Bulk).await.unwrap();
        drop(store);
        let store = open_sim(&disk, Some(4096));
        for n in [0, 1, 3] {
            let found = store.blocks.get(&blocks[n].cid()).await.unwrap();
            assert_eq!(found.as_ref(), Some(&blocks[n]));
        }
    });
}
