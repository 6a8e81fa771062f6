//! Tests of mapped objects: who may map what, reads from nodes, and blocks that stay when a lease ends.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use fula_core::{
    Block, Cid, Codec, OwnerId,
    bucket::{ETag, ObjectKind},
    content::{FileLink, FileNode},
    in_memory::MemoryMetadata,
};
use fula_ingest::{
    DiskId, NodeLimits, SignerId, SigningKey, StorageNode,
    faults::{Fault as NodeFault, FaultInjection},
    mapping::{KnownNode, Offered},
    node::{Ended, Masters},
};
use fula_service::{
    CopyRequest, CopySourceRequest, Invocation, MapRequest, Mapping, NodeAway, StorageNodes, fsck,
};
use fula_testkit::rng::Rng;
use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use super::*;
use crate::faults::Fault;

const HOUR: u64 = 3600 * 1000;

/// A storage node that can be away, wiped, or lose requests.
#[derive(Debug)]
struct Site {
    node: RwLock<StorageNode>,
    is_away: AtomicBool,
    /// Whether pins get lost, as from a master that dies after its commit.
    loses_pins: AtomicBool,
    disks: Mutex<u8>,
}

/// Two sites, and the clock of the world.
#[derive(Debug)]
struct Sites {
    all: HashMap<SignerId, Site>,
    clock: Arc<AtomicU64>,
    limits: NodeLimits,
}

fn key(n: u8) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed(&Zeroizing::new([n; 32])))
}

impl Sites {
    async fn new(fault: Option<NodeFault>) -> Arc<Self> {
        let clock = Arc::new(AtomicU64::new(1_000));
        let limits = NodeLimits { faults: FaultInjection(fault), ..NodeLimits::default() };
        let mut all = HashMap::new();
        for n in [1, 2] {
            let node = open(n, 0, &clock, limits).await;
            let site = Site {
                node: RwLock::new(node),
                is_away: AtomicBool::new(false),
                loses_pins: AtomicBool::new(false),
                disks: Mutex::new(0),
            };
            all.insert(key(n).id(), site);
        }
        Arc::new(Self { all, clock, limits })
    }

    fn site(&self, n: u8) -> &Site {
        &self.all[&key(n).id()]
    }

    fn node(&self, n: u8) -> StorageNode {
        self.site(n).node.read().clone()
    }

    async fn wipe(&self, n: u8) {
        let disk = {
            let mut disks = self.site(n).disks.lock();
            *disks += 1;
            *disks
        };
        let fresh = open(n, disk, &self.clock, self.limits).await;
        *self.site(n).node.write() = fresh;
    }

    fn reach(&self, node: SignerId) -> Result<StorageNode, NodeAway> {
        let site = &self.all[&node];
        if site.is_away.load(Ordering::Relaxed) {
            return Err(NodeAway { name: self.name(node), why: "it is away".to_owned() });
        }
        Ok(site.node.read().clone())
    }

    fn away(&self, n: u8, is_away: bool) {
        self.site(n).is_away.store(is_away, Ordering::Relaxed);
    }
}

async fn open(n: u8, disk: u8, clock: &Arc<AtomicU64>, limits: NodeLimits) -> StorageNode {
    let (blocks, records) =
        (Arc::new(MemoryBlocks::default()), Arc::new(MemoryMetadata::default()));
    let clock = Arc::clone(clock);
    let now = Arc::new(move || clock.load(Ordering::Relaxed));
    StorageNode::open(blocks, records, key(n), DiskId([disk; 16]), limits, now).await.unwrap()
}

#[async_trait]
impl StorageNodes for Sites {
    fn ids(&self) -> Vec<SignerId> {
        vec![key(1).id(), key(2).id()]
    }

    fn known(&self, node: SignerId) -> Option<KnownNode> {
        let node = self.all.get(&node)?.node.read().clone();
        Some(KnownNode { key: node.key().public(), disk: Some(node.disk()) })
    }

    fn name(&self, node: SignerId) -> String {
        if node == key(1).id() { "north".to_owned() } else { "south".to_owned() }
    }

    async fn have(
        &self,
        node: SignerId,
        owner: OwnerId,
        cids: &[Cid],
    ) -> Result<Option<Offered>, NodeAway> {
        let found = self.reach(node)?.have(owner, cids);
        Ok(found.map(|found| Offered { receipt: found.receipt, blocks: found.blocks }))
    }

    async fn get(&self, node: SignerId, cid: &Cid) -> Result<Option<Block>, NodeAway> {
        Ok(self.reach(node)?.get_for_master(cid).await.unwrap())
    }

    async fn pin(&self, node: SignerId, owner: OwnerId, cids: &[Cid]) -> Result<usize, NodeAway> {
        let there = self.reach(node)?;
        if self.all[&node].loses_pins.load(Ordering::Relaxed) {
            return Ok(cids.len());
        }
        let pinned = there.pin(owner, cids).await.unwrap();
        Ok(pinned.map_or(0, |pinned| pinned.blocks.len()))
    }
}

/// A master that a node asks.
#[derive(Debug)]
struct Asked(Option<Service>);

#[async_trait]
impl Masters for Asked {
    async fn needed(&self, cids: &[Cid]) -> Result<HashSet<Cid>, String> {
        let service = self.0.as_ref().ok_or("no master answers")?;
        service.needed(cids.iter().copied().collect()).await.map_err(|error| error.to_string())
    }
}

/// Two masters with one arbiter, and two nodes.
struct World {
    sites: Arc<Sites>,
    masters: [Master; 2],
    roots: Arc<FaultyRoots>,
}

impl World {
    async fn new(fault: Option<NodeFault>, copies: bool) -> Self {
        let sites = Sites::new(fault).await;
        let blocks = Arc::new(MemoryBlocks::default());
        let roots = FaultyRoots::new(&blocks);
        let masters = [1, 2].map(|writer| {
            let Master { service, user } = Master::new(&blocks, &roots, writer);
            let nodes = Arc::clone(&sites) as Arc<dyn StorageNodes>;
            let service = service.with_mapping(Mapping { nodes, accepts: true, copies });
            Master { service, user }
        });
        masters[0].create().await;
        let world = Self { sites, masters, roots };
        world.tick(0).await;
        world
    }

    fn user(&self) -> &Caller {
        &self.masters[0].user
    }

    /// Sends a block of a user to a node, and returns the receipt.
    async fn send(&self, n: u8, user: &Caller, block: &Block) -> Offered {
        let owner = user.identity.as_ref().unwrap().owner;
        let stored = self.sites.node(n).put(owner, std::slice::from_ref(block)).await.unwrap();
        Offered { receipt: stored.receipt, blocks: stored.blocks }
    }

    async fn map(&self, key: &str, request: &MapRequest) -> Result<ObjectRecord, ServiceError> {
        self.map_as(self.user(), key, request, WriteConditions::default()).await
    }

    async fn map_as(
        &self,
        user: &Caller,
        key: &str,
        request: &MapRequest,
        conditions: WriteConditions,
    ) -> Result<ObjectRecord, ServiceError> {
        let service = &self.masters[0].service;
        let (bucket, key) = (bucket(), object_key(key));
        let mapped = service.map_object(user, &bucket, key, request, conditions).await;
        // Pins are sent in the background.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        mapped
    }

    /// Lets time pass, for nodes and masters.
    async fn tick(&self, ms: u64) {
        let now = self.sites.clock.fetch_add(ms, Ordering::Relaxed) + ms;
        self.roots.set_time(now);
        for master in &self.masters {
            master.service.arbiter().current(&master.address()).await.unwrap();
        }
    }

    /// Lets time pass, and has both nodes ask about what has ended. Their collectors then run.
    async fn pass(&self, ms: u64, asked: Option<usize>) {
        self.tick(ms).await;
        let master = Asked(asked.map(|n| self.masters[n].service.clone()));
        for n in [1, 2] {
            let node = self.sites.node(n);
            while let Ok(ended) = node.settle_ended(&master).await
                && ended != Ended::default()
            {}
            let kept = node.kept();
            let epoch = node.blocks().advance_epoch();
            node.blocks().mark(&kept, epoch);
            fula_core::block::sweep_all(node.blocks().as_ref(), epoch, epoch).await.unwrap();
        }
    }
}

fn block(n: u64) -> Block {
    Block::new(Codec::Raw, n.to_be_bytes().to_vec())
}

fn of_block(block: &Block, receipts: Vec<Offered>) -> MapRequest {
    MapRequest {
        cid: block.cid(),
        size: block.bytes().len() as u64,
        nodes: Vec::new(),
        receipts,
        source: None,
        facts: ObjectFacts::default(),
    }
}

/// Returns the request for a file of several blocks.
fn of_file(leaves: &[Block], receipts: Vec<Offered>) -> (MapRequest, Vec<u8>) {
    let link = |leaf: &Block| {
        let size = leaf.bytes().len() as u64;
        FileLink { cid: leaf.cid(), size, dag_bytes: size }
    };
    let (node, root) = FileNode { links: leaves.iter().map(link).collect() }.to_block();
    let content = leaves.iter().flat_map(|leaf| leaf.bytes().to_vec()).collect();
    let request = MapRequest {
        cid: root.cid,
        size: root.size,
        nodes: vec![node],
        ..of_block(&leaves[0], receipts)
    };
    (request, content)
}

fn other_user() -> Caller {
    Caller::of(Identity::of_user("key:other"))
}

#[tokio::test(start_paused = true)]
async fn a_mapped_object_is_like_any_other() {
    let world = World::new(None, false).await;
    let leaves: Vec<Block> = (0..5).map(block).collect();
    let mut receipts = Vec::new();
    for (n, leaf) in leaves.iter().enumerate() {
        receipts.push(world.send(1 + u8::from(n > 2), world.user(), leaf).await);
    }
    let (request, content) = of_file(&leaves, receipts);
    let record = world.map("file", &request).await.unwrap();
    assert_eq!((record.kind, record.etag), (ObjectKind::Mapped, ETag::Cid(request.cid)));
    for master in &world.masters {
        assert_eq!(master.get("file").await.unwrap(), content);
    }
    // The holds are pins now, and a copy is the same content.
    assert_eq!(world.sites.node(1).charged(world.masters[0].owner()), 0);
    let source = CopySourceRequest {
        owner: fula_service::BucketOwner::Unsaid,
        bucket: bucket(),
        key: object_key("file"),
        version: None,
        conditions: ReadConditions::default(),
    };
    let copy = CopyRequest {
        source: source.clone(),
        key: object_key("copy"),
        replace: None,
        tags: None,
        checksum: None,
        conditions: WriteConditions::default(),
    };
    world.masters[1].service.copy_object(world.user(), &bucket(), copy).await.unwrap();
    world.masters[0].delete("file").await.unwrap();
    world.pass(30 * HOUR, Some(1)).await;
    assert_eq!(world.masters[1].get("copy").await.unwrap(), content);
    // Nothing is missing: the leaves are held elsewhere.
    let nodes = world.masters[0].service.arbiter().nodes();
    let row =
        world.masters[0].service.arbiter().current(&world.masters[0].address()).await.unwrap();
    let report = fsck::check_bucket(nodes, &row.unwrap().row, &mut fsck::Checked::default()).await;
    assert_eq!(report.unwrap().problems, []);
    // Without receipts, an object that the caller may read is proof of its leaves; for nobody else.
    let source = CopySourceRequest { key: object_key("copy"), ..source };
    let again = MapRequest { receipts: Vec::new(), source: Some(source), ..request };
    world.sites.away(1, true);
    assert_eq!(world.map("again", &again).await.unwrap().size, content.len() as u64);
    let refused = world.map_as(&other_user(), "x", &again, WriteConditions::default()).await;
    assert!(refused.is_err());
    // A node that is away is named.
    let error = world.masters[0].get("again").await.unwrap_err();
    assert!(matches!(&error, ServiceError::NodeAway(name) if name == "north"), "{error:?}");
    world.sites.away(1, false);
    world.sites.wipe(1).await;
    let error = world.masters[0].get("again").await.unwrap_err();
    assert!(matches!(error, ServiceError::Damaged(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn copies_need_no_node() {
    let world = World::new(None, true).await;
    let sent = block(1);
    let receipt = world.send(1, world.user(), &sent).await;
    world.map("copied", &of_block(&sent, vec![receipt])).await.unwrap();
    world.sites.wipe(1).await;
    world.sites.away(1, true);
    assert_eq!(world.masters[1].get("copied").await.unwrap(), *sent.bytes());
    // What cannot be fetched is not mapped.
    let lost = block(2);
    let receipt = world.send(2, world.user(), &lost).await;
    world.sites.away(2, true);
    let refused = world.map("lost", &of_block(&lost, vec![receipt])).await;
    assert!(matches!(refused, Err(ServiceError::NodeAway(name)) if name == "south"));
}

/// What goes wrong in one row of the failure matrix, and what the client is told.
struct Row {
    what: &'static str,
    expected: &'static str,
}

/// Carries out one row. Returns what the client is told.
async fn told(row: &Row) -> String {
    let world = World::new(None, false).await;
    let sent = block(1);
    let receipt = world.send(1, world.user(), &sent).await;
    let mut request = of_block(&sent, vec![receipt.clone()]);
    let mut conditions = WriteConditions::default();
    let mut user = world.user().clone();
    match row.what {
        "nothing" => {}
        "the flag is off" => {
            let service = world.masters[0].service.clone();
            let nodes = Arc::clone(&world.sites) as Arc<dyn StorageNodes>;
            let off = service.with_mapping(Mapping { nodes, accepts: false, copies: false });
            let none = WriteConditions::default();
            let mapped = off.map_object(&user, &bucket(), object_key("k"), &request, none).await;
            return mapped.map_or_else(|error| name_of(&error), |_| "done".to_owned());
        }
        "the node is away, and the receipt is there" => world.sites.away(1, true),
        "the node is away, and no receipt" => {
            world.sites.away(1, true);
            request.receipts.clear();
        }
        "no receipt, and the node holds it" => request.receipts.clear(),
        "no receipt, and nobody holds it" => request = of_block(&block(2), Vec::new()),
        "the lease is short" => {
            world.tick(23 * HOUR + 1).await;
        }
        "the lease was prolonged" => {
            world.tick(23 * HOUR).await;
            let owner = world.masters[0].owner();
            let longer = world.sites.node(1).prolong(owner, &[sent.cid()]).await.unwrap().unwrap();
            request.receipts = vec![Offered { receipt: longer.receipt, blocks: longer.blocks }];
        }
        "the node lost its disk" => world.sites.wipe(1).await,
        "the disk is lost, and the block was sent to another node" => {
            world.sites.wipe(1).await;
            request.receipts = vec![world.send(2, world.user(), &sent).await];
        }
        "the receipt is of another user" => {
            request.receipts = vec![world.send(1, &other_user(), &sent).await];
        }
        "the receipt is of another block" => {
            let other = world.send(1, world.user(), &block(2)).await;
            request.receipts = vec![Offered { blocks: receipt.blocks, ..other }];
        }
        "the receipt is forged" => request.receipts[0].receipt.insert(9, 'A'),
        "another user knows the CID" => {
            user = other_user();
            request.receipts.clear();
            world.masters[0].service.create_bucket(&user, &bucket(), None).await.unwrap();
        }
        "the size is wrong" => request.size += 1,
        "the condition fails" => {
            world.masters[0].put("k", b"there already").await.unwrap();
            conditions = if_absent();
        }
        "the answer of the commit was lost, and the node since" => {
            user.invocation = Invocation::new("call", 1);
            world.map_as(&user, "k", &request, conditions.clone()).await.unwrap();
            world.sites.wipe(1).await;
            user.invocation = Invocation::new("call", 2);
        }
        "the swap is not answered" => world.roots.plan([Fault::AnswerLost]),
        other => panic!("{other}"),
    }
    match world.map_as(&user, "k", &request, conditions).await {
        Ok(_) => "done".to_owned(),
        Err(error) => name_of(&error),
    }
}

fn name_of(error: &ServiceError) -> String {
    let text = format!("{error:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_failure_matrix_of_a_mapping() {
    for (what, expected) in [
        ("nothing", "done"),
        ("the flag is off", "InvalidRequest"),
        ("the node is away, and the receipt is there", "done"),
        ("the node is away, and no receipt", "NotHeld"),
        ("no receipt, and the node holds it", "done"),
        ("no receipt, and nobody holds it", "NotHeld"),
        ("the lease is short", "NotHeld"),
        ("the lease was prolonged", "done"),
        ("the node lost its disk", "NotHeld"),
        ("the disk is lost, and the block was sent to another node", "done"),
        ("the receipt is of another user", "NotProved"),
        ("the receipt is of another block", "NotProved"),
        ("the receipt is forged", "NotProved"),
        ("another user knows the CID", "NotHeld"),
        ("the size is wrong", "InvalidRequest"),
        ("the condition fails", "PreconditionFailed"),
        ("the answer of the commit was lost, and the node since", "done"),
        ("the swap is not answered", "done"),
    ] {
        let row = Row { what, expected };
        assert_eq!(told(&row).await, row.expected, "{what}");
    }
}

/// Runs requests and faults that `seed` draws. Returns the first promise that was broken.
async fn run(seed: u64, fault: Option<NodeFault>) -> Result<(), String> {
    let world = World::new(fault, false).await;
    let (mut rng, mut lost) = (Rng::new(seed), HashSet::new());
    let (users, mut sent) = ([world.user().clone(), other_user()], HashSet::new());
    world.masters[0].service.create_bucket(&users[1], &bucket(), None).await.unwrap();
    let mut objects: HashMap<(usize, String), (u64, u8)> = HashMap::new();
    for _ in 0..80 {
        let (who, n, site) =
            (usize_below(&mut rng, 2), rng.below(6), 1 + u8::from(rng.below(2) == 1));
        let key = format!("k{}", rng.below(4));
        match rng.below(10) {
            0..=2 => {
                world.send(site, &users[who], &block(n)).await;
                sent.insert((who, n, site));
            }
            3..=5 => {
                let is_lost = rng.below(2) == 0;
                world.sites.site(site).loses_pins.store(is_lost, Ordering::Relaxed);
                let mapped = of_block(&block(n), Vec::new());
                let none = WriteConditions::default();
                if world.map_as(&users[who], &key, &mapped, none).await.is_ok() {
                    if ![1, 2].iter().any(|site| sent.contains(&(who, n, *site))) {
                        return Err("a user mapped a block that they have never sent".to_owned());
                    }
                    objects.insert((who, key), (n, site));
                }
            }
            6 => {
                let request =
                    DeleteKey { key: object_key(&key), conditions: WriteConditions::default() };
                let master = &world.masters[usize_below(&mut rng, 2)];
                master.service.delete_object(&users[who], &bucket(), request).await.unwrap();
                objects.remove(&(who, key));
            }
            7 => {
                let asked = [None, Some(0), Some(1)][usize_below(&mut rng, 3)];
                let ms = rng.below(30) * HOUR;
                world.pass(ms, asked).await;
            }
            8 => world.sites.away(site, rng.below(2) == 0),
            _ if rng.below(20) == 0 => {
                world.sites.wipe(site).await;
                lost.insert(site);
                sent.retain(|(_, _, at)| *at != site);
            }
            _ => {}
        }
        if !lost.is_empty()
            || [1, 2].iter().any(|n| world.sites.site(*n).is_away.load(Ordering::Relaxed))
        {
            continue;
        }
        for ((who, key), (n, _)) in &objects {
            let master = Master {
                service: world.masters[usize_below(&mut rng, 2)].service.clone(),
                user: users[*who].clone(),
            };
            match master.get(key).await {
                Ok(found) if found == *block(*n).bytes() => {}
                other => return Err(format!("{key} of user {who}: {other:?}")),
            }
        }
    }
    Ok(())
}

fn usize_below(rng: &mut Rng, n: u64) -> usize {
    usize::try_from(rng.below(n)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn acknowledged_mappings_stay_readable_under_any_faults() {
    for seed in 0..60 {
        assert_eq!(run(seed, None).await, Ok(()), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_without_a_question_and_presence_as_proof_are_found() {
    for fault in [NodeFault::ReleaseWithoutAsking, NodeFault::PresenceIsReceipt] {
        let mut found = None;
        for seed in 0..60 {
            found = found.or(run(seed, Some(fault)).await.err());
        }
        assert!(found.is_some(), "{fault:?} was not noticed");
    }
}
