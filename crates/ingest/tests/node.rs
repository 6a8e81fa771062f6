//! A storage node under faults: power cuts, a wiped disk, masters that do not answer, doubled and lost
//! requests. Everything is drawn from a seed, and each rule that is left out is found.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, Codec, MetadataStore, OwnerId, StoreError,
    block::{Listed, Placement, Position, SyncMark},
    metadata::{Entry, Table, WriteOutcome},
};
use fula_ingest::{
    DiskId, NodeError, NodeLimits, Receipt, SigningKey, StorageNode,
    faults::{Fault, FaultInjection},
    holds::CHARGE_MIN,
    node::{Ended, Masters},
};
use parking_lot::Mutex;
use zeroize::Zeroizing;

const HOUR: u64 = 3600 * 1000;

/// What a test does while blocks are being synced.
#[derive(Default)]
struct OnSync(Option<Box<dyn FnMut() -> Result<(), StoreError> + Send>>);

impl std::fmt::Debug for OnSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnSync")
    }
}

/// A disk with one log, as the embedded store has: what was appended is durable once something behind it was
/// synced.
#[derive(Debug, Default)]
struct Disk(Mutex<Content>, Mutex<OnSync>);

#[derive(Clone, Debug, Default)]
struct Content {
    blocks: HashMap<Cid, Block>,
    records: BTreeMap<(Table, String), Entry>,
    durable: (HashMap<Cid, Block>, BTreeMap<(Table, String), Entry>),
}

impl Disk {
    fn cut_power(&self) {
        let mut content = self.0.lock();
        (content.blocks, content.records) = content.durable.clone();
    }

    /// What the collector of the node does.
    fn collect(&self, kept: &[Cid]) {
        let kept: HashSet<_> = kept.iter().collect();
        let mut content = self.0.lock();
        content.blocks.retain(|cid, _| kept.contains(cid));
        content.durable.0.retain(|cid, _| kept.contains(cid));
    }

    fn flush(content: &mut Content) {
        content.durable = (content.blocks.clone(), content.records.clone());
    }
}

#[async_trait]
impl BlockStore for Disk {
    async fn put(&self, blocks: &[Block], _: Placement) -> Result<SyncMark, StoreError> {
        let mut content = self.0.lock();
        content.blocks.extend(blocks.iter().map(|block| (block.cid(), block.clone())));
        Ok(SyncMark::default())
    }

    async fn sync(&self, _: SyncMark) -> Result<(), StoreError> {
        if let Some(on_sync) = &mut self.1.lock().0 {
            on_sync()?;
        }
        Self::flush(&mut self.0.lock());
        Ok(())
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        Ok(self.0.lock().blocks.get(cid).cloned())
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.0.lock().blocks.get(cid).map(|block| block.bytes().len() as u64))
    }

    async fn list(&self, _: Position) -> Result<Listed, StoreError> {
        Ok(Listed::default())
    }
}

#[async_trait]
impl MetadataStore for Disk {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.0.lock().records.get(&(table, name.to_owned())).cloned())
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let mut content = self.0.lock();
        let key = (table, name.to_owned());
        let current = content.records.get(&key).cloned();
        if current.as_ref().map_or(0, |entry| entry.version) != expected {
            return Ok(WriteOutcome::Conflict(current));
        }
        content.records.insert(key, Entry { version: expected + 1, value });
        Self::flush(&mut content);
        Ok(WriteOutcome::Done(expected + 1))
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        let content = self.0.lock();
        let named = content.records.iter().filter(|((found, name), entry)| {
            *found == table
                && entry.value.is_some()
                && after.is_none_or(|after| name.as_str() > after)
        });
        Ok(named.take(limit).map(|((_, name), entry)| (name.clone(), entry.clone())).collect())
    }
}

#[derive(Debug, Default)]
struct Needs {
    cids: Mutex<HashSet<Cid>>,
    is_away: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Masters for Needs {
    async fn needed(&self, cids: &[Cid]) -> Result<HashSet<Cid>, String> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err("no master answers".to_owned());
        }
        let needed = self.cids.lock();
        Ok(cids.iter().filter(|cid| needed.contains(cid)).copied().collect())
    }
}

struct World {
    disk: Arc<Disk>,
    disks: u8,
    clock: Arc<AtomicU64>,
    limits: NodeLimits,
    needs: Needs,
    node: StorageNode,
}

fn key() -> SigningKey {
    SigningKey::from_seed(&Zeroizing::new([7; 32]))
}

fn owner(n: u8) -> OwnerId {
    OwnerId([n; 16])
}

fn block(n: u64) -> Block {
    Block::new(Codec::Raw, n.to_be_bytes().to_vec())
}

impl World {
    async fn new(limits: NodeLimits) -> Self {
        let (disk, clock) =
            (Arc::new(Disk::default()), Arc::new(AtomicU64::new(1_700_000_000_000)));
        let node = Self::open(&disk, 1, &clock, limits).await;
        Self { disk, disks: 1, clock, limits, needs: Needs::default(), node }
    }

    async fn open(
        disk: &Arc<Disk>,
        n: u8,
        clock: &Arc<AtomicU64>,
        limits: NodeLimits,
    ) -> StorageNode {
        let clock = Arc::clone(clock);
        let now = Arc::new(move || clock.load(Ordering::Relaxed));
        let (blocks, records) = (Arc::clone(disk) as _, Arc::clone(disk) as _);
        StorageNode::open(blocks, records, Arc::new(key()), DiskId([n; 16]), limits, now)
            .await
            .unwrap()
    }

    async fn restart(&mut self) {
        self.disk.cut_power();
        self.node = Self::open(&self.disk, self.disks + 1, &self.clock, self.limits).await;
    }

    async fn wipe(&mut self) {
        self.disk = Arc::new(Disk::default());
        self.disks += 1;
        self.node = Self::open(&self.disk, self.disks, &self.clock, self.limits).await;
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    async fn settle(&self) {
        while let Ok(ended) = self.node.settle_ended(&self.needs).await
            && ended != Ended::default()
        {}
        self.disk.collect(&self.node.kept());
    }
}

/// A promise that the node has signed.
struct Promise {
    owner: OwnerId,
    cid: Cid,
    disk: DiskId,
    until: u64,
}

/// Returns whether some owner can read the block.
async fn is_there(node: &StorageNode, cid: &Cid) -> bool {
    for n in 0..3 {
        if node.get(owner(n), cid).await.unwrap().is_some() {
            return true;
        }
    }
    false
}

/// Runs requests and faults that `seed` draws. Returns the first promise that was broken.
async fn run(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    let limits = NodeLimits { faults: FaultInjection(fault), ..NodeLimits::default() };
    let mut world = World::new(limits).await;
    let mut promises: Vec<Promise> = Vec::new();
    let mut sent: HashSet<(OwnerId, Cid)> = HashSet::new();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    for _ in 0..120 {
        let (who, what) = (owner(u8::try_from(draw(3)).unwrap()), draw(12));
        let cid = block(what).cid();
        let stored = match draw(10) {
            // Also twice, as after a lost answer.
            0..=3 => {
                sent.insert((who, cid));
                Some(world.node.put(who, &[block(what)]).await.unwrap())
            }
            4 => world.node.have(who, &[cid]),
            5 => world.node.pin(who, &[cid]).await.unwrap(),
            6 => {
                // Somebody maps the block, or deletes the object; the mapper has a receipt with an hour left.
                let hold = world.node.hold(who, &cid);
                let may_map = hold.is_some_and(|hold| hold.until > world.node.now() + HOUR);
                let mut needed = world.needs.cids.lock();
                if !needed.remove(&cid) && may_map {
                    needed.insert(cid);
                }
                None
            }
            7 => {
                world.needs.is_away.store(draw(2) == 0, Ordering::Relaxed);
                world.pass(draw(30) * HOUR);
                world.settle().await;
                None
            }
            8 => {
                world.restart().await;
                None
            }
            _ if draw(20) == 0 => {
                world.wipe().await;
                world.needs.cids.lock().clear();
                sent.clear();
                None
            }
            _ => None,
        };
        if let Some(stored) = stored {
            let receipt = Receipt::verify(&stored.receipt, |_| Some(key().public())).unwrap();
            if !sent.contains(&(who, cid)) {
                return Err("a receipt for a block that the owner has never sent".to_owned());
            }
            let (disk, until) = (receipt.disk, receipt.until);
            promises.push(Promise { owner: who, cid, disk, until });
        }
        let (now, disk) = (world.node.now(), world.node.disk());
        for promise in promises.iter().filter(|promise| promise.disk == disk) {
            let is_due = promise.until > now && sent.contains(&(promise.owner, promise.cid));
            let held = world.node.get(promise.owner, &promise.cid).await.unwrap();
            if is_due && held.is_none() {
                return Err(format!("a leased block is gone: {}", promise.cid));
            }
        }
        let needed: Vec<Cid> = world.needs.cids.lock().iter().copied().collect();
        for cid in needed {
            if !is_there(&world.node, &cid).await {
                return Err(format!("a mapped block is gone: {cid}"));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn promises_hold_under_any_faults() {
    for seed in 0..300 {
        assert_eq!(run(seed, None).await, Ok(()), "seed {seed}");
    }
}

#[tokio::test]
async fn every_rule_that_is_left_out_is_found() {
    for fault in [Fault::AnswerBeforeFsync, Fault::PresenceIsReceipt, Fault::ReleaseWithoutAsking] {
        let mut found = None;
        for seed in 0..300 {
            found = found.or(run(seed, Some(fault)).await.err());
        }
        assert!(found.is_some(), "{fault:?} was not noticed");
    }
}

#[tokio::test]
async fn an_owner_reads_only_what_it_has_sent() {
    let world = World::new(NodeLimits::default()).await;
    let node = &world.node;
    let (mine, theirs) = (block(1), block(2));
    let stored = node.put(owner(1), std::slice::from_ref(&mine)).await.unwrap();
    node.put(owner(2), std::slice::from_ref(&theirs)).await.unwrap();
    assert_eq!(stored.blocks, [(mine.cid(), 8)]);
    assert_eq!(node.get(owner(1), &mine.cid()).await.unwrap(), Some(mine.clone()));
    assert_eq!(node.get(owner(1), &theirs.cid()).await.unwrap(), None);
    assert_eq!(node.get(owner(2), &theirs.cid()).await.unwrap(), Some(theirs.clone()));
    let have = node.have(owner(1), &[theirs.cid(), mine.cid(), mine.cid()]).unwrap();
    assert_eq!(have.blocks, [(mine.cid(), 8)]);
    assert!(node.have(owner(1), &[theirs.cid()]).is_none());
    assert!(node.prolong(owner(1), &[theirs.cid()]).await.unwrap().is_none());
    assert!(node.pin(owner(3), &[mine.cid()]).await.unwrap().is_none());
}

#[tokio::test]
async fn leases_can_be_prolonged_and_end() {
    let world = World::new(NodeLimits { quota: 2 * CHARGE_MIN, ..NodeLimits::default() }).await;
    let node = &world.node;
    let first = node.put(owner(1), &[block(1), block(2), block(1)]).await.unwrap();
    assert_eq!(first.blocks.len(), 2, "a block that is sent twice is held once");
    assert!(
        matches!(node.reserve(owner(1), 1), Err(NodeError::OverQuota(quota)) if quota == 2 * CHARGE_MIN)
    );
    world.pass(23 * HOUR);
    let longer = node.prolong(owner(1), &[block(1).cid()]).await.unwrap().unwrap();
    assert_eq!(longer.until, first.until + 23 * HOUR);
    world.pass(2 * HOUR);
    world.settle().await;
    assert_eq!(node.get(owner(1), &block(2).cid()).await.unwrap(), None);
    assert!(node.get(owner(1), &block(1).cid()).await.unwrap().is_some());
    assert_eq!(node.charged(owner(1)), CHARGE_MIN);
    drop(node.reserve(owner(1), CHARGE_MIN).unwrap());
    assert_eq!(node.charged(owner(1)), CHARGE_MIN);
    let too_many = vec![block(1).cid(); 1025];
    assert!(matches!(node.prolong(owner(1), &too_many).await, Err(NodeError::TooMany)));
}

#[tokio::test]
async fn records_use_their_places_again() {
    let mut world = World::new(NodeLimits::default()).await;
    for day in 0..20 {
        for n in 0..5 {
            world.node.put(owner(1), &[block(day * 5 + n)]).await.unwrap();
        }
        world.pass(25 * HOUR);
        world.settle().await;
        world.restart().await;
        assert_eq!(world.node.count(), (0, 0));
    }
    let records = world.disk.0.lock().records.len();
    assert_eq!(records, 6, "five places, and the name of the disk");
}

#[tokio::test]
async fn what_cannot_be_asked_about_is_kept() {
    let world = World::new(NodeLimits::default()).await;
    world.node.put(owner(1), &[block(1), block(2)]).await.unwrap();
    world.needs.cids.lock().insert(block(1).cid());
    world.needs.is_away.store(true, Ordering::Relaxed);
    world.pass(1000 * HOUR);
    assert!(world.node.settle_ended(&world.needs).await.is_err());
    world.settle().await;
    assert_eq!(world.node.kept().len(), 2);
    assert_eq!(world.node.charged(owner(1)), 0, "the quota is given back all the same");
    world.needs.is_away.store(false, Ordering::Relaxed);
    let ended = world.node.settle_ended(&world.needs).await.unwrap();
    assert_eq!(ended, Ended { pinned: 1, released: 1 });
    assert_eq!(world.node.kept(), [block(1).cid()]);
    // The object is deleted: a day later the pin is asked about, and ends.
    world.needs.cids.lock().clear();
    world.pass(24 * HOUR);
    assert_eq!(world.node.settle_ended(&world.needs).await.unwrap().released, 1);
}

/// A store in which a record can become durable before the blocks that lie in front of it.
#[tokio::test]
async fn a_hold_counts_only_when_its_blocks_are_durable() {
    let mut world = World::new(NodeLimits::default()).await;
    let (node, seen) = (world.node.clone(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&seen);
    world.disk.1.lock().0 = Some(Box::new(move || {
        let (hold, have) =
            (node.hold(owner(1), &block(1).cid()), node.have(owner(1), &[block(1).cid()]));
        assert!(hold.is_none() && have.is_none(), "a hold on a block that may get lost");
        count.fetch_add(1, Ordering::Relaxed);
        let source = "the disk is broken".into();
        Err(StoreError::Unavailable { backend: "disk", action: "sync", source })
    }));
    assert!(world.node.put(owner(1), &[block(1)]).await.is_err());
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    assert!(world.node.have(owner(1), &[block(1).cid()]).is_none());
    // Not even after a restart, for the record was taken back.
    world.disk.1.lock().0 = None;
    world.restart().await;
    assert!(world.node.have(owner(1), &[block(1).cid()]).is_none());
}

#[tokio::test]
async fn what_is_sent_or_pinned_again_takes_no_records_while_its_hold_is_fresh() {
    let world = World::new(NodeLimits::default()).await;
    let (node, blocks, cid) = (&world.node, [block(1)], block(1).cid());
    let first = node.put(owner(1), &blocks).await.unwrap();
    for _ in 0..100 {
        let again = node.put(owner(1), &blocks).await.unwrap();
        assert_eq!(again.until, first.until, "the receipt promises what the record says");
        node.prolong(owner(1), &[cid]).await.unwrap();
    }
    assert_eq!(node.count(), (1, 1));
    // A pin is more than a lease, and one is enough.
    for _ in 0..100 {
        node.pin(owner(1), &[cid]).await.unwrap();
    }
    assert_eq!((node.count(), node.charged(owner(1))), ((1, 2), 0));
    // What another owner sends is another hold, and what is no longer fresh is continued.
    node.put(owner(2), &blocks).await.unwrap();
    world.pass(2 * HOUR);
    let later = node.put(owner(1), &[block(1), block(2)]).await.unwrap();
    assert_eq!((later.until, node.count()), (first.until + 2 * HOUR, (3, 4)));
    // A list with a fresh block ends with it.
    world.pass(1000);
    let mixed = node.put(owner(1), &[block(2), block(3)]).await.unwrap();
    assert_eq!(mixed.until, later.until);
}
