//! The connection of one master to the world: its arbiter and its blocks, behind a network with faults.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fula_core::{
    Block, BlockStore, BucketAddress, Cid, RootPointer, StoreError,
    block::{Epoch, Kept, Listed, Marked, Placement, Position, Swept, SyncMark},
    conformance::hooks::{RootHooks, RootRead},
    error::SwapError,
    in_memory::MemoryRoots,
    root::{CasOutcome, DeletedRow, DropTerms, NewRoot, Stamped},
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Swap, World, cut};

/// The connection of one life of a master.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) world: Arc<World>,
    pub(super) me: usize,
    pub(super) life: u64,
    /// Generation that this life puts blocks under, where masters collect.
    generation: Arc<AtomicU64>,
    /// Whether the master has started: until then nothing goes wrong.
    has_started: Arc<AtomicBool>,
    /// What the collection of this life has marked.
    marked: Arc<Mutex<HashSet<Cid>>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({}, {})", self.me, self.life)
    }
}

impl Link {
    pub(super) fn new(world: &Arc<World>, me: usize) -> Self {
        let (generation, has_started, marked) = Default::default();
        Self { world: Arc::clone(world), me, life: world.life(me), generation, has_started, marked }
    }

    /// From now on things go wrong.
    pub(super) fn start(&self) {
        self.has_started.store(true, Ordering::Relaxed);
    }

    fn strikes(&self, per_mille: u64, what: &str) -> bool {
        let may_strike = self.has_started.load(Ordering::Relaxed);
        self.world.strikes(if may_strike { per_mille } else { 0 }, what)
    }

    fn epoch(&self) -> Epoch {
        Epoch(u32::try_from(self.generation.load(Ordering::Relaxed)).unwrap())
    }

    /// Runs one step of the master, in which it may be slow, sleep, or end for ever.
    async fn step(&self, what: &str) {
        let Self { world, me, life, .. } = self;
        if world.life(*me) == *life && self.strikes(world.faults.crash, "a crash") {
            world.crash(*me);
        }
        if world.life(*me) == *life && self.strikes(world.faults.pause, "a pause") {
            let until =
                Instant::now() + Duration::from_millis(500 + world.draw(world.faults.pause_ms));
            world.state().asleep_until[*me] = until;
        }
        let slow = self.strikes(world.faults.slow, "slow");
        let wait = if slow { 1 + world.draw(400) } else { world.draw(4) };
        sleep(Duration::from_millis(wait)).await;
        loop {
            if world.life(*me) != *life {
                std::future::pending::<()>().await;
            }
            let until = world.state().asleep_until[*me];
            if until <= Instant::now() || !self.has_started.load(Ordering::Relaxed) {
                break;
            }
            sleep_until(until.min(Instant::now() + Duration::from_millis(100))).await;
        }
        world.note(&format!("master {me}.{life} {what}"));
    }

    async fn reach(&self) -> Result<(), StoreError> {
        let world = &self.world;
        if self.strikes(world.faults.arbiter_away, "the arbiter goes away") {
            let until = Instant::now() + Duration::from_millis(100 + world.draw(2_000));
            world.state().arbiter_away_until = until;
        }
        let has_started = self.has_started.load(Ordering::Relaxed);
        if has_started && world.state().arbiter_away_until > Instant::now() {
            sleep(Duration::from_millis(20)).await;
            return Err(cut());
        }
        Ok(())
    }

    /// Puts the blocks that are not there.
    async fn put_only_new(&self, blocks: &[Block], epoch: Epoch) -> Result<SyncMark, StoreError> {
        let mut new = Vec::new();
        for block in blocks {
            if self.world.blocks.get(&block.cid()).await?.is_none() {
                new.push(block.clone());
            }
        }
        self.world.blocks.put_under(&new, epoch)
    }

    /// Carries out a swap some time later.
    fn later(&self, swap: &Swap) {
        let (world, swap) = (Arc::clone(&self.world), swap.clone());
        let wait = Duration::from_millis(world.draw(15_000));
        let server = world.state().server;
        tokio::spawn(async move {
            sleep(wait).await;
            if world.state().server != server {
                return;
            }
            let ended = world.swap(&swap).await;
            let won = ended.is_ok_and(|stamped| stamped.value == CasOutcome::Won);
            world.note(&format!("a late swap is carried out, won: {won}"));
        });
    }
}

#[async_trait]
impl RootHooks for Link {
    fn inner(&self) -> &MemoryRoots {
        &self.world.roots
    }

    async fn before(&self, read: RootRead) -> Result<(), StoreError> {
        match read {
            RootRead::Get => self.step("asks for pointers").await,
            RootRead::List => self.step("lists buckets").await,
            RootRead::Count => self.step("counts buckets").await,
            RootRead::Find => self.step("looks for a name").await,
            RootRead::Generation => self.step("asks for the generation").await,
            RootRead::Floor if self.world.drops() => self.step("asks for the floor").await,
            RootRead::Scan if self.world.drops() => self.step("scans rows").await,
            RootRead::Scan | RootRead::Floor => {}
        }
        if matches!(read, RootRead::Get | RootRead::Count) {
            self.reach().await?;
        }
        if read == RootRead::Get {
            if self.strikes(self.world.faults.request_lost, "a read is lost") {
                sleep(Duration::from_millis(200)).await;
                return Err(cut());
            }
            self.world.tick();
        }
        Ok(())
    }

    async fn after(&self, read: RootRead) {
        if read == RootRead::Get {
            self.step("hears of pointers").await;
        }
    }

    async fn swap(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        let swap = Swap { bucket: bucket.clone(), expected, new: new.clone() };
        let (world, faults) = (&self.world, &self.world.faults);
        self.step(&format!("swaps to version {}", new.pointer.version)).await;
        if self.strikes(faults.not_sent, "a swap is not sent") {
            return Err(SwapError::NotSent(cut()));
        }
        self.reach().await.map_err(SwapError::Unknown)?;
        if self.strikes(faults.request_lost, "a swap is lost") {
            if self.strikes(500, "and will be late") {
                self.later(&swap);
            }
            sleep(Duration::from_millis(200)).await;
            return Err(SwapError::Unknown(cut()));
        }
        let outcome = world.swap(&swap).await?;
        if self.strikes(faults.late, "a swap is doubled") {
            self.later(&swap);
        }
        let lost = self.strikes(faults.answer_lost, "an answer is lost");
        self.step("hears of its swap").await;
        if lost {
            sleep(Duration::from_millis(200)).await;
            return Err(SwapError::Unknown(cut()));
        }
        Ok(outcome)
    }

    fn can_drop(&self) -> bool {
        self.world.drops()
    }

    async fn drop_rows(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        let (world, faults) = (&self.world, &self.world.faults);
        self.step("drops rows").await;
        self.reach().await?;
        if self.strikes(faults.request_lost, "a drop is late") {
            let (world, terms) = (Arc::clone(world), terms.clone());
            let wait = Duration::from_millis(world.draw(15_000));
            tokio::spawn(async move {
                sleep(wait).await;
                drop(world.drop_rows(rows, &terms).await);
            });
            sleep(Duration::from_millis(200)).await;
            return Err(cut());
        }
        let dropped = world.drop_rows(rows, terms).await?;
        let lost = self.strikes(faults.answer_lost, "an answer is lost");
        self.step("hears of its drop").await;
        if lost { Err(cut()) } else { Ok(dropped) }
    }
}

#[async_trait]
impl BlockStore for Link {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        self.step("puts blocks").await;
        if self.world.faults.collects {
            // A put takes the generation that its master knows when it begins.
            let epoch = self.epoch();
            self.step("has put blocks").await;
            if self.world.faults.puts_only_new {
                return self.put_only_new(blocks, epoch).await;
            }
            return self.world.blocks.put_under(blocks, epoch);
        }
        self.world.blocks.put(blocks, placement).await
    }

    fn generation(&self) -> Option<u64> {
        self.world.faults.collects.then(|| self.generation.load(Ordering::Relaxed))
    }

    fn observe_generation(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::Relaxed);
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        self.step("syncs").await;
        self.world.blocks.sync(mark).await
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if self.world.life(self.me) != self.life {
            std::future::pending::<()>().await;
        }
        self.world.blocks.get(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.world.blocks.size(cid).await
    }

    fn advance_epoch(&self) -> Epoch {
        self.marked.lock().clear();
        self.epoch()
    }

    fn mark(&self, cids: &[Cid], _: Epoch, _: Kept) -> Marked {
        let mut marked = self.marked.lock();
        let fresh = cids.iter().filter(|cid| marked.insert(**cid)).copied().collect();
        Marked { fresh, bytes: 0 }
    }

    async fn sweep(
        &self,
        Position(from): Position,
        _: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        self.step("deletes blocks").await;
        let marked = self.marked.lock();
        let deleted = self.world.blocks.delete_before(put_before, &marked, 20) as u64;
        let next = (deleted > 0).then_some(Position(from + 1));
        Ok(Swept { deleted, next, ..Swept::default() })
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.world.blocks.list(from).await
    }
}
