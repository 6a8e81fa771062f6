//! Crash tests of the embedded stores on a simulated disk that loses, reorders, tears and fails.
//!
//! A case is a seed. It runs random puts, swaps, metadata writes, deletions and compactions, with power
//! cuts in between. After each cut everything that was acknowledged must be there, nothing that was refused
//! may be, and the block of every pointer must be readable, whichever pointer survived. `FULA_CRASH_CASES`
//! and `FULA_CRASH_SEED` choose the cases.

mod drops;
mod failures;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use fula_core::{
    Block, BlockStore, BucketAddress, BucketId, BucketName, Cid, Codec, MetadataStore as _,
    OwnerId, RootPointer, RootPointerStore, StoreError,
    block::{Kept, Placement, sweep_all},
    error::SwapError,
    metadata::{Table, WriteOutcome},
    root::{CasOutcome, NewRoot},
};
use fula_testkit::rng::Rng;

use super::*;
use crate::log::sim_disk::{Fault, SimDisk};

const OWNER: OwnerId = OwnerId([1; 16]);

/// Number of cases when `FULA_CRASH_CASES` is not set.
const CASES: u64 = 10_000;

/// The state that the stores have acknowledged.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Blocks that must be there.
    blocks: BTreeMap<Cid, Block>,
    /// Pointers that a bucket may have: several after a swap with an unknown outcome.
    roots: BTreeMap<String, Vec<Option<RootPointer>>>,
    /// Versions and values that a record may have, in the same way.
    records: BTreeMap<String, Vec<(u64, Option<Bytes>)>>,
    /// Pointers of tombstones.
    tombstones: HashSet<RootPointer>,
    /// Lower bound of the version floor.
    floor: u64,
    drawn: u64,
}

struct Case {
    rng: Rng,
    disk: SimDisk,
    store: LocalStore,
    model: Model,
    /// Number of segments that had a footer after a power cut.
    told: usize,
}

fn open_sim(disk: &SimDisk) -> LocalStore {
    let clock: Clock = Arc::new(|| 1);
    let opened =
        LocalStore::open_on(Path::new("sim"), Arc::new(disk.clone()), clock, false, Some(4096));
    opened.unwrap()
}

fn address(owner: OwnerId, name: &str) -> BucketAddress {
    BucketAddress::new(owner, BucketName::parse(name).unwrap())
}

impl Case {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::default();
        let store = open_sim(&disk);
        Self { rng: Rng::new(seed), disk, store, model: Model::default(), told: 0 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// Returns a block that no case has put before.
    fn block(&mut self) -> Block {
        self.model.drawn += 1;
        let (drawn, len) = (self.model.drawn, self.rng.below(900));
        let mut bytes = drawn.to_be_bytes().to_vec();
        bytes.resize(8 + usize::try_from(len).unwrap(), 7);
        Block::new(Codec::Raw, bytes)
    }

    /// Runs one random operation. Returns false when the store reported that it cannot work any more.
    async fn step(&mut self) -> bool {
        match self.below(23) {
            0..=6 => self.put().await,
            7..=11 => self.swap().await,
            20 | 21 => self.end_bucket().await,
            22 => self.drop_deleted().await,
            12..=14 => self.write().await,
            15 | 16 => self.delete().await,
            17 => self.store.seal(0).is_ok(),
            18 => {
                let dead_percent = self.below(60);
                self.store.compact(dead_percent, &|| {}).is_ok()
            }
            _ => true,
        }
    }

    async fn put(&mut self) -> bool {
        let placement = if self.below(2) == 0 { Placement::Commit } else { Placement::Bulk };
        self.put_in(placement).await
    }

    async fn put_in(&mut self, placement: Placement) -> bool {
        let mut blocks: Vec<Block> = (0..=self.below(3)).map(|_| self.block()).collect();
        let known = self.model.blocks.len() as u64;
        if known > 0 && self.below(3) == 0 {
            let n = usize::try_from(self.below(known)).unwrap();
            blocks.extend(self.model.blocks.values().nth(n).cloned());
        }
        let Ok(mark) = self.store.blocks.put(&blocks, placement).await else { return false };
        if self.below(3) == 0 {
            return true; // Never synced: nothing is promised.
        }
        let synced = self.store.blocks.sync(mark).await.is_ok();
        if synced {
            self.model.blocks.extend(blocks.into_iter().map(|block| (block.cid(), block)));
        }
        synced
    }

    async fn swap(&mut self) -> bool {
        let bucket = format!("bucket{}", self.below(3));
        self.swap_in(bucket, false).await
    }

    /// Puts a block and points a bucket to it, with one sync for both.
    async fn swap_in(&mut self, bucket: String, is_deleted: bool) -> bool {
        let root = self.block();
        if self.store.blocks.put(std::slice::from_ref(&root), Placement::Commit).await.is_err() {
            return false;
        }
        let may = self.model.roots.entry(bucket.clone()).or_insert_with(|| vec![None]);
        if may.len() > 1 {
            return false;
        }
        let expected = may[0];
        let floor = self.store.roots.floor();
        let version = expected.map_or(floor, |pointer| pointer.version) + 1;
        let pointer = RootPointer { root: root.cid(), version, generation: 0 };
        let new = NewRoot {
            pointer,
            bucket_id: BucketId([1; 16]),
            created: 1,
            deleted: is_deleted.then_some(1),
            global_name: fula_core::root::GlobalName::ClaimIfFree,
            lease: None,
        };
        if is_deleted {
            self.model.tombstones.insert(pointer);
        }
        match self.store.roots.cas_root(&address(OWNER, &bucket), expected, &new).await {
            Ok(answer) => {
                assert_eq!(answer.value, CasOutcome::Won);
                *may = vec![Some(pointer)];
                self.model.blocks.insert(root.cid(), root);
                true
            }
            Err(SwapError::NotSent(_)) => false,
            Err(SwapError::Unknown(_)) => {
                may.push(Some(pointer));
                false
            }
        }
    }

    async fn write(&mut self) -> bool {
        let record = format!("record{}", self.below(3));
        let may = self.model.records.entry(record.clone()).or_insert_with(|| vec![(0, None)]);
        if may.len() > 1 {
            return false;
        }
        let version = may[0].0;
        self.model.drawn += 1;
        let value = (self.rng.below(4) > 0).then(|| Bytes::from(self.model.drawn.to_string()));
        let written = self.store.metadata.write(Table::Keys, &record, version, value.clone());
        if let Ok(outcome) = written.await {
            assert_eq!(outcome, WriteOutcome::Done(version + 1));
            *may = vec![(version + 1, value)];
            return true;
        }
        may.push((version + 1, value));
        false
    }

    /// Deletes unmarked blocks that no root needs, as a collector does.
    async fn delete(&mut self) -> bool {
        let blocks = &self.store.blocks;
        let cut = blocks.advance_epoch();
        let roots: BTreeSet<Cid> =
            self.model.roots.values().flatten().flatten().map(|pointer| pointer.root).collect();
        let rng = &mut self.rng;
        self.model.blocks.retain(|cid, _| roots.contains(cid) || rng.below(2) == 0);
        let kept: Vec<Cid> = self.model.blocks.keys().chain(&roots).copied().collect();
        blocks.mark(&kept, cut, Kept::Now);
        sweep_all(&**blocks, cut, cut).await.unwrap();
        true
    }

    /// Compares the contents of the store with the model.
    async fn look(&mut self) -> bool {
        for (cid, block) in &self.model.blocks {
            assert_eq!(self.store.blocks.get(cid).await.unwrap().as_ref(), Some(block));
        }
        for (bucket, may) in &mut self.model.roots {
            let rows = self.store.roots.get_roots(&[address(OWNER, bucket)]).await.unwrap();
            let found = rows.value[0].as_ref().map(|row| row.pointer);
            assert!(may.contains(&found), "{bucket} is at {found:?}, and may be at {may:?}");
            if let Some(pointer) = found {
                let root = self.store.blocks.get(&pointer.root).await.unwrap();
                let root = root.expect("a pointer's block is there");
                self.model.blocks.insert(root.cid(), root);
                let is_deleted = rows.value[0].as_ref().is_some_and(|row| row.deleted.is_some());
                assert_eq!(is_deleted, self.model.tombstones.contains(&pointer), "{bucket}");
            } else if let Some(pointer) = may[0] {
                // A drop that returned an error has taken effect.
                self.model.floor = self.model.floor.max(pointer.version);
            }
            *may = vec![found];
        }
        for (record, may) in &mut self.model.records {
            let found = self.store.metadata.read(Table::Keys, record).await.unwrap();
            let found = found.map_or((0, None), |entry| (entry.version, entry.value));
            assert!(may.contains(&found), "{record} is {found:?}, and may be {may:?}");
            *may = vec![found];
        }
        assert!(self.store.roots.floor() >= self.model.floor, "the floor fell");
        true
    }

    /// Checks that readers see exactly what was acknowledged, without a power cut.
    async fn see_only_what_was_acknowledged(&mut self) {
        for (bucket, may) in &self.model.roots {
            let rows = self.store.roots.get_roots(&[address(OWNER, bucket)]).await.unwrap();
            assert_eq!(rows.value[0].as_ref().map(|row| row.pointer), may[0], "{bucket}");
        }
        for (record, may) in &self.model.records {
            let found = self.store.metadata.read(Table::Keys, record).await.unwrap();
            let found = found.map_or((0, None), |entry| (entry.version, entry.value));
            assert_eq!(found, may[0], "{record}");
        }
    }

    /// Cuts the power, and checks what is left.
    async fn crash(&mut self) {
        self.disk = self.disk.crash(&mut self.rng);
        self.store = open_sim(&self.disk);
        assert!(self.store.recovery.damaged.is_empty(), "{:?}", self.store.recovery);
        assert!(self.store.recovery.forgotten.is_empty(), "{:?}", self.store.recovery);
        self.look().await;
        self.told += self.store.log.hold_footers_against_scans();
    }

    /// Starts again, as after a failed sync, when reads may show what is not on the disk.
    async fn restart(&mut self) {
        self.store = open_sim(&self.disk);
        assert!(self.store.recovery.damaged.is_empty(), "{:?}", self.store.recovery);
        assert!(self.store.recovery.forgotten.is_empty(), "{:?}", self.store.recovery);
        self.look().await;
    }

    async fn run(mut self) -> usize {
        for _ in 0..=self.below(3) {
            if self.below(4) == 0 {
                let fault = if self.below(2) == 0 { Fault::Full } else { Fault::Io };
                let (after, lasts) = (self.below(20), self.below(2) == 0);
                self.disk.fail(after, fault, lasts);
            }
            // After a failure the case goes on for a while.
            let mut failures = 0;
            for _ in 0..=self.below(16) {
                failures += u32::from(!self.step().await);
                if failures > 4 {
                    break;
                }
            }
            if self.below(3) == 0 {
                self.disk.mend();
                self.restart().await;
            } else {
                self.crash().await;
            }
        }
        self.crash().await;
        self.told
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
fn no_power_cut_and_no_failing_call_loses_or_invents_anything() {
    let first = number("FULA_CRASH_SEED");
    let cases = first.map_or(number("FULA_CRASH_CASES").unwrap_or(CASES), |_| 1);
    let mut told = 0;
    for seed in (first.unwrap_or(0)..).take(usize::try_from(cases).unwrap()) {
        let case = std::panic::catch_unwind(|| block_on(Case::new(seed).run()));
        told += case.unwrap_or_else(|_| panic!("replay with FULA_CRASH_SEED={seed}"));
    }
    // If no segment had a footer, the cases would not test footers.
    assert!(first.is_some() || told as u64 > cases / 10, "{told} segments told");
}

/// The test notices a disk that claims to sync and does not.
#[test]
fn a_disk_that_lies_is_found() {
    let found = (0..100).find(|seed| {
        let case = || {
            let case = Case::new(*seed);
            case.disk.lie();
            block_on(case.run())
        };
        std::panic::catch_unwind(case).is_err()
    });
    assert!(found.is_some());
}

/// Each kind of write is torn at each byte. What was acknowledged before it stays, and the write itself is
/// there in full or not at all.
#[test]
fn a_write_torn_at_any_byte_takes_nothing_with_it() {
    block_on(async {
        let mut case = Case::new(1);
        case.disk.record();
        let mut states = vec![(0, case.model.clone())];
        for n in 0..40 {
            let is_done = match n % 8 {
                0 => case.put_in(Placement::Commit).await,
                1 | 4 => case.swap().await,
                2 => case.put_in(Placement::Bulk).await,
                3 => case.write().await,
                5 => case.delete().await,
                6 => case.store.seal(0).is_ok(),
                _ => case.store.compact(1, &|| {}).is_ok(),
            };
            assert!(is_done);
            states.push((case.disk.calls(), case.model.clone()));
        }
        let (mut torn, mut moved) = (0, 0);
        for write in case.disk.recorded() {
            let after = states.iter().position(|(calls, _)| *calls >= write.call).unwrap();
            moved += usize::from(after % 8 == 0);
            let (before, after) = (&states[after - 1].1, &states[after].1);
            for kept in 0..=write.len() {
                let store = open_sim(&write.torn(kept));
                assert!(store.recovery.damaged.is_empty(), "{:?}", store.recovery);
                before_or_after(&store, before, after).await;
                torn += 1;
            }
        }
        assert!(torn > 5_000 && moved > 0, "{torn} torn, {moved} writes of compactions");
    });
}

/// Checks that each part of a store is in one of two states.
async fn before_or_after(store: &LocalStore, before: &Model, after: &Model) {
    for (cid, block) in before.blocks.iter().filter(|(cid, _)| after.blocks.contains_key(*cid)) {
        assert_eq!(store.blocks.get(cid).await.unwrap().as_ref(), Some(block));
    }
    for (bucket, may) in &after.roots {
        let rows = store.roots.get_roots(&[address(OWNER, bucket)]).await.unwrap();
        let found = rows.value[0].as_ref().map(|row| row.pointer);
        let old = before.roots.get(bucket).and_then(|may| may[0]);
        assert!(found == old || found == may[0], "{bucket} is at {found:?}");
        if let Some(pointer) = found {
            assert!(store.blocks.get(&pointer.root).await.unwrap().is_some());
        }
    }
    for (record, may) in &after.records {
        let found = store.metadata.read(Table::Keys, record).await.unwrap();
        let found = found.map_or((0, None), |entry| (entry.version, entry.value));
        let old = before.records.get(record).map_or((0, None), |may| may[0].clone());
        assert!(found == old || found == may[0], "{record} is {found:?}");
    }
}
