//! The world of one run: arbiter, blocks, masters, and the faults between them.

mod collections;
mod drops;
mod link;
mod restores;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fula_core::{
    Block, BlockStore, BucketAddress, Cid, MetadataStore, RootPointer, RootPointerStore,
    StoreError, WriterId,
    block::{Epoch, Kept, Listed, Marked, Placement, Position, Swept, SyncMark},
    error::SwapError,
    in_memory::{MemoryBlocks, MemoryMetadata, MemoryRoots},
    root::{CasOutcome, NewRoot, RootRow, Stamped},
    tree::Nodes,
};
use fula_service::{
    Arbiter, Limits, NamePolicy, Random, Recovery, RollbackGuard, Service,
    fault_injection::{Fault, FaultInjection},
    fsck,
};
use fula_testkit::rng::Rng;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::link::Link;

/// Number of masters of a run.
pub(crate) const MASTERS: usize = 3;

/// What a swap compares of the pointer that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Nothing,
    AllButGeneration,
    /// Everything, but the first row of a bucket may have any generation.
    AllButFirstGeneration,
    All,
}

/// What becomes of the rows of deleted buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drops {
    Never,
    AfterMonths,
    /// They are dropped, and the version floor is not raised.
    WithoutFloor,
}

/// The probability of each fault, per 1000 steps or messages.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) request_lost: u64,
    pub(crate) answer_lost: u64,
    pub(crate) not_sent: u64,
    /// A swap whose request seemed lost is carried out later, or a second time.
    pub(crate) late: u64,
    pub(crate) slow: u64,
    pub(crate) crash: u64,
    pub(crate) pause: u64,
    pub(crate) arbiter_away: u64,
    /// What swaps compare of the pointer that they replace.
    pub(crate) compared: Compared,
    /// The rule of the pipeline that is left out.
    pub(crate) omitted: FaultInjection,
    /// Whether the arbiter is restored from an earlier state once in a run.
    pub(crate) regresses: bool,
    /// Whether masters collect garbage all the time.
    pub(crate) collects: bool,
    /// Whether months pass in which rows of deleted buckets are dropped. Masters collect garbage, too.
    pub(crate) drops: Drops,
    /// Longest pause of a master in milliseconds.
    pub(crate) pause_ms: u64,
    /// Whether a put is satisfied by a block that is there already, whatever generation it was put under.
    pub(crate) puts_only_new: bool,
    /// Of so many puts of a run with collections, one has a long body and three are copies.
    pub(crate) puts_of_a_kind: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            request_lost: 30,
            answer_lost: 60,
            not_sent: 15,
            late: 40,
            slow: 60,
            crash: 4,
            pause: 6,
            arbiter_away: 3,
            compared: Compared::All,
            omitted: FaultInjection::default(),
            regresses: false,
            collects: false,
            drops: Drops::Never,
            pause_ms: 8_000,
            puts_only_new: false,
            puts_of_a_kind: 24,
        }
    }
}

/// A master in one of its lives.
#[derive(Clone)]
pub(crate) struct Master {
    pub(crate) service: Service,
    pub(crate) recovery: Option<Recovery>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    trace: blake3::Hasher,
    /// The current life of each master. Calls of an earlier life never return.
    lives: [u64; MASTERS],
    asleep_until: [Instant; MASTERS],
    arbiter_away_until: Instant,
    faults: usize,
    calm: bool,
    violations: Vec<String>,
    now_ns: u64,
    forked: bool,
    /// Number of times that the arbiter was replaced by an older one.
    server: u64,
    /// Time at which the arbiter went back without a sign in its mark.
    blind_from_ns: Option<u64>,
    /// Time from which on no faults happen.
    calm_from_ns: u64,
    /// Number of blocks that were collected.
    deleted: u64,
    /// Number of rows of deleted buckets that were dropped.
    dropped: u64,
    /// Milliseconds by which the clock of the arbiter is ahead of the run.
    passed_ms: u64,
}

/// The state that the masters of one run share.
pub(crate) struct World {
    faults: Faults,
    state: Mutex<State>,
    roots: MemoryRoots,
    metadata: Arc<MemoryMetadata>,
    /// The local state of each master.
    memories: [Arc<dyn MetadataStore>; MASTERS],
    pub(crate) blocks: Arc<MemoryBlocks>,
    /// Blocks that are known to be durable together with everything that they link to.
    durable: tokio::sync::Mutex<fsck::Checked>,
    start: Instant,
    tell: bool,
}

/// Milliseconds since 1970 at which a run begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, tell: bool) -> Arc<Self> {
        let start = Instant::now();
        let state = State {
            rng: Rng::new(seed),
            trace: blake3::Hasher::new(),
            lives: [0; MASTERS],
            asleep_until: [start; MASTERS],
            arbiter_away_until: start,
            faults: 0,
            calm: true,
            violations: Vec::new(),
            now_ns: 0,
            forked: false,
            server: 0,
            blind_from_ns: None,
            calm_from_ns: 0,
            deleted: 0,
            dropped: 0,
            passed_ms: 0,
        };
        let metadata: Arc<MemoryMetadata> = Arc::default();
        Arc::new(Self {
            faults,
            state: Mutex::new(state),
            roots: MemoryRoots::with_leases(Arc::clone(&metadata)),
            metadata,
            memories: std::array::from_fn(|_| Arc::new(MemoryMetadata::default()) as _),
            blocks: Arc::default(),
            durable: tokio::sync::Mutex::default(),
            start,
            tell,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Ends or begins the time without faults.
    pub(crate) fn set_calm(&self, calm: bool) {
        let now = self.now_ns();
        let mut state = self.state();
        state.calm_from_ns = now;
        state.calm = calm;
        if calm {
            state.asleep_until = [self.start; MASTERS];
            state.arbiter_away_until = self.start;
        }
    }

    pub(crate) fn trace(&self) -> [u8; 32] {
        *self.state().trace.finalize().as_bytes()
    }

    pub(crate) fn regresses(&self) -> bool {
        self.faults.regresses
    }

    pub(crate) fn collects(&self) -> bool {
        self.faults.collects
    }

    pub(crate) fn puts_of_a_kind(&self) -> u64 {
        self.faults.puts_of_a_kind
    }

    pub(crate) fn fault_count(&self) -> usize {
        self.state().faults
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(crate) fn violate(&self, what: String) {
        self.state().violations.push(what);
    }

    /// Returns the time since the run began in nanoseconds, never the same twice.
    pub(crate) fn now_ns(&self) -> u64 {
        let elapsed = u64::try_from(self.start.elapsed().as_nanos()).unwrap();
        let mut state = self.state();
        state.now_ns = elapsed.max(state.now_ns + 1);
        state.now_ns
    }

    /// Records an event in the trace.
    pub(crate) fn note(&self, what: &str) {
        let line = format!("{:>12} {what}\n", self.now_ns());
        if self.tell {
            print!("{line}");
        }
        self.state().trace.update(line.as_bytes());
    }

    /// Draws a number below `bound`.
    pub(crate) fn draw(&self, bound: u64) -> u64 {
        self.state().rng.below(bound)
    }

    /// Decides whether a fault happens now.
    fn strikes(&self, per_mille: u64, what: &str) -> bool {
        let mut state = self.state();
        let hit = state.rng.below(1000) < per_mille && !state.calm;
        state.faults += usize::from(hit);
        drop(state);
        if hit {
            self.note(what);
        }
        hit
    }

    /// Ends the life of a master: its pending calls never return.
    pub(crate) fn crash(&self, me: usize) {
        self.note(&format!("master {me} crashes"));
        self.state().lives[me] += 1;
    }

    /// Returns the current life of a master.
    pub(crate) fn life(&self, me: usize) -> u64 {
        self.state().lives[me]
    }

    pub(crate) fn forked(&self) -> bool {
        self.state().forked
    }

    /// Starts a master in its present life.
    pub(crate) async fn master(self: &Arc<Self>, me: usize) -> Master {
        let link = Link::new(self, me);
        let limits = Limits {
            commit_deadline: Duration::from_secs(3),
            resolve_for: Duration::from_secs(10),
            faults: self.faults.omitted,
            // There are fewer than the buckets of a run, so that heads are evicted and read again.
            heads_max: 1,
            ..Limits::default()
        };
        let started = link.clone();
        let nodes = Arc::new(Nodes::new(Arc::new(link.clone()), 1 << 20));
        let mut writer = [u8::try_from(me).unwrap(); 16];
        writer[..8].copy_from_slice(&link.life.to_be_bytes());
        let (roots, guard) = (Arc::new(link.clone()), self.guard(me).await);
        let arbiter = Arbiter::new(nodes, roots, WriterId(writer), &limits, guard);
        let random: Random = Arc::new(move |bytes: &mut [u8]| {
            for byte in bytes {
                *byte = link.world.draw(256).to_le_bytes()[0];
            }
        });
        let mut recovery = None;
        if self.faults.regresses || self.faults.collects {
            let metadata: Arc<dyn MetadataStore> = Arc::clone(&self.metadata) as _;
            let memory = Arc::clone(&self.memories[me]);
            let opened = Recovery::open(
                arbiter.clone(),
                metadata,
                memory,
                &random,
                NamePolicy::PerOwner,
                true,
            )
            .await
            .unwrap();
            // While the arbiter is away, the first heartbeat comes later.
            drop(opened.beat().await);
            tokio::spawn(opened.clone().run());
            recovery = Some(opened);
        }
        started.start();
        let service = Service::new(arbiter, limits, random, NamePolicy::PerOwner);
        if let Some(recovery) = &recovery
            && self.faults.collects
        {
            tokio::spawn(Arc::clone(self).collect_for_ever(service.clone(), recovery.clone(), me));
        }
        Master { service, recovery }
    }

    async fn guard(&self, me: usize) -> RollbackGuard {
        let is_faulty = self.faults.omitted == FaultInjection(Some(Fault::RegressedAdopted));
        if (self.faults.regresses || self.drops()) && !is_faulty {
            return RollbackGuard::open(Some(Arc::clone(&self.memories[me]))).await.unwrap();
        }
        RollbackGuard::new(None, self.faults.compared != Compared::Nothing && !is_faulty)
    }

    async fn row(&self, bucket: &BucketAddress) -> Option<RootRow> {
        self.roots.get_roots(std::slice::from_ref(bucket)).await.unwrap().value.remove(0)
    }

    /// Carries out a swap, and checks that what it publishes would survive a power cut.
    async fn swap(&self, swap: &Swap) -> Result<Stamped<CasOutcome>, SwapError> {
        self.tick();
        let mut expected = swap.expected;
        if self.faults.compared == Compared::AllButGeneration
            && let (Some(expected), Some(row)) = (&mut expected, self.row(&swap.bucket).await)
        {
            expected.generation = row.pointer.generation;
        }
        let mut new = swap.new.clone();
        if self.faults.compared == Compared::AllButFirstGeneration && expected.is_none() {
            new.pointer.generation = self.roots.generation().await.unwrap().value;
        }
        if self.faults.compared == Compared::Nothing {
            let row = self.row(&swap.bucket).await;
            expected = row.map(|row| row.pointer);
            if expected.is_some_and(|current| current.version >= new.pointer.version) {
                // An earlier implementation overwrote without comparing.
                new.pointer.version = expected.map_or(0, |current| current.version) + 1;
                new.pointer.root = self.renumbered(&new).await;
            }
        }
        let outcome = self.roots.cas_root(&swap.bucket, expected, &new).await?;
        if outcome.value == CasOutcome::Won {
            let row = self.row(&swap.bucket).await.unwrap();
            self.check_durable(&row).await;
        }
        Ok(outcome)
    }

    /// Returns the address of the same root with another version, for an arbiter that does not compare.
    async fn renumbered(&self, new: &NewRoot) -> Cid {
        let block = self.blocks.get(&new.pointer.root).await.unwrap().unwrap();
        let mut root = fula_core::bucket::BucketRoot::from_block(&block).unwrap();
        root.version = new.pointer.version;
        let block = root.to_block();
        let mark = self.blocks.put(std::slice::from_ref(&block), Placement::Commit).await.unwrap();
        self.blocks.sync(mark).await.unwrap();
        block.cid()
    }

    async fn check_durable(&self, row: &RootRow) {
        let view: Arc<dyn BlockStore> = Arc::new(DurableView(Arc::clone(&self.blocks)));
        let mut seen = self.durable.lock().await;
        if self.faults.collects {
            // What was whole before may have been collected.
            *seen = fsck::Checked::default();
        }
        let report = fsck::check_bucket(&Nodes::new(view, 1 << 20), row, &mut seen).await.unwrap();
        if !report.problems.is_empty() {
            self.violate(format!("published what is not durable: {:?}", report.problems[0]));
        }
    }

    fn tick(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap();
        self.roots.set_time(EPOCH_MS + self.state().passed_ms + elapsed);
    }
}

/// A swap in transit.
#[derive(Clone, Debug)]
struct Swap {
    bucket: BucketAddress,
    expected: Option<RootPointer>,
    new: NewRoot,
}

fn cut() -> StoreError {
    StoreError::Unavailable { backend: "sim", action: "anything", source: "cut".into() }
}

/// The blocks that would survive a power cut.
#[derive(Debug)]
struct DurableView(Arc<MemoryBlocks>);

#[async_trait]
impl BlockStore for DurableView {
    async fn put(&self, _: &[Block], _: Placement) -> Result<SyncMark, StoreError> {
        Err(cut())
    }

    async fn sync(&self, _: SyncMark) -> Result<(), StoreError> {
        Err(cut())
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        Ok(self.0.get_durable(cid))
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.0.get_durable(cid).map(|block| block.bytes().len() as u64))
    }

    fn advance_epoch(&self) -> Epoch {
        self.0.advance_epoch()
    }

    fn mark(&self, cids: &[Cid], cut: Epoch, kept: Kept) -> Marked {
        self.0.mark(cids, cut, kept)
    }

    async fn sweep(&self, _: Position, _: Epoch, _: Epoch) -> Result<Swept, StoreError> {
        Err(cut())
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.0.list(from).await
    }
}
