//! Two masters and two storage nodes, whose clock the tests move.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use fula_core::{
    Block, Cid, Codec, OwnerId,
    content::{FileLink, FileNode},
    in_memory::MemoryMetadata,
};
use fula_ingest::{
    DiskId, NodeLimits, Receipt, SignerId, SigningKey, StorageNode,
    faults::{Fault as NodeFault, FaultInjection},
    mapping::{KnownNode, Offered},
    node::{Ended, Masters},
    receipt::Subject,
};
use fula_service::{MapRequest, Mapping, NodeAway, StorageNodes};
use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use crate::*;

pub(super) const HOUR: u64 = 3600 * 1000;

/// A storage node that can be away, wiped, or lose requests.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) node: RwLock<StorageNode>,
    pub(super) is_away: AtomicBool,
    /// Whether the masters never heard of it.
    pub(super) is_unmet: AtomicBool,
    /// Whether pins get lost, as from a master that dies after its commit.
    pub(super) loses_pins: AtomicBool,
    pub(super) disks: Mutex<u8>,
}

/// Two sites, and the clock of the world.
#[derive(Debug)]
pub(super) struct Sites {
    pub(super) all: HashMap<SignerId, Site>,
    pub(super) clock: Arc<AtomicU64>,
    pub(super) limits: NodeLimits,
}

pub(super) fn key(n: u8) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed(&Zeroizing::new([n; 32])))
}

impl Sites {
    pub(super) async fn new(fault: Option<NodeFault>) -> Arc<Self> {
        let clock = Arc::new(AtomicU64::new(1_000));
        let limits = NodeLimits { faults: FaultInjection(fault), ..NodeLimits::default() };
        let mut all = HashMap::new();
        for n in [1, 2] {
            let node = open(n, 0, &clock, limits).await;
            let site = Site {
                node: RwLock::new(node),
                is_away: AtomicBool::new(false),
                is_unmet: AtomicBool::new(false),
                loses_pins: AtomicBool::new(false),
                disks: Mutex::new(0),
            };
            all.insert(key(n).id(), site);
        }
        Arc::new(Self { all, clock, limits })
    }

    pub(super) fn site(&self, n: u8) -> &Site {
        &self.all[&key(n).id()]
    }

    pub(super) fn node(&self, n: u8) -> StorageNode {
        self.site(n).node.read().clone()
    }

    pub(super) async fn wipe(&self, n: u8) {
        let disk = {
            let mut disks = self.site(n).disks.lock();
            *disks += 1;
            *disks
        };
        let fresh = open(n, disk, &self.clock, self.limits).await;
        *self.site(n).node.write() = fresh;
    }

    pub(super) fn reach(&self, node: SignerId) -> Result<StorageNode, NodeAway> {
        let site = &self.all[&node];
        if site.is_away.load(Ordering::Relaxed) {
            return Err(NodeAway { name: self.name(node), why: "it is away".to_owned() });
        }
        Ok(site.node.read().clone())
    }

    pub(super) fn away(&self, n: u8, is_away: bool) {
        self.site(n).is_away.store(is_away, Ordering::Relaxed);
    }
}

pub(super) async fn open(
    n: u8,
    disk: u8,
    clock: &Arc<AtomicU64>,
    limits: NodeLimits,
) -> StorageNode {
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
        let site = self.all.get(&node)?;
        let (node, is_unmet) = (site.node.read().clone(), site.is_unmet.load(Ordering::Relaxed));
        Some(KnownNode { key: node.key().public(), disk: (!is_unmet).then(|| node.disk()) })
    }

    async fn meet(&self, node: SignerId) {
        if self.reach(node).is_ok() {
            self.all[&node].is_unmet.store(false, Ordering::Relaxed);
        }
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

    async fn get(
        &self,
        node: SignerId,
        owner: OwnerId,
        cid: &Cid,
    ) -> Result<Option<Block>, NodeAway> {
        Ok(self.reach(node)?.get(owner, cid).await.unwrap())
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
pub(super) struct Asked(Option<Service>, SignerId);

#[async_trait]
impl Masters for Asked {
    async fn needed(&self, cids: &[Cid]) -> Result<HashSet<Cid>, String> {
        let service = self.0.as_ref().ok_or("no master answers")?;
        service
            .needed(self.1, cids.iter().copied().collect())
            .await
            .map_err(|error| error.to_string())
    }
}

/// Two masters with one arbiter, and two nodes.
pub(super) struct World {
    pub(super) sites: Arc<Sites>,
    pub(super) masters: [Master; 2],
    pub(super) roots: Arc<FaultyRoots>,
}

impl World {
    pub(super) async fn new(fault: Option<NodeFault>, copies: bool) -> Self {
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

    pub(super) fn user(&self) -> &Caller {
        &self.masters[0].user
    }

    /// Sends a block of a user to a node, and returns the receipt.
    pub(super) async fn send(&self, n: u8, user: &Caller, block: &Block) -> Offered {
        let owner = user.identity.as_ref().unwrap().owner;
        let stored = self.sites.node(n).put(owner, std::slice::from_ref(block)).await.unwrap();
        Offered { receipt: stored.receipt, blocks: stored.blocks }
    }

    /// Returns a receipt that a node signs for a block which it never got.
    pub(super) fn lie(&self, n: u8, user: &Caller, block: &Block) -> Offered {
        let (node, blocks) = (self.sites.node(n), vec![(block.cid(), size_of(block))]);
        let receipt = Receipt {
            node: node.id(),
            disk: node.disk(),
            owner: user.identity.as_ref().unwrap().owner,
            subject: Subject::of(&blocks),
            bytes: u64::from(size_of(block)),
            count: 1,
            issued: node.now(),
            until: node.now() + 24 * HOUR,
        };
        Offered { receipt: receipt.sign(&key(n)), blocks }
    }

    pub(super) async fn map(
        &self,
        key: &str,
        request: &MapRequest,
    ) -> Result<ObjectRecord, ServiceError> {
        self.map_as(self.user(), key, request, WriteConditions::default()).await
    }

    pub(super) async fn map_as(
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
    pub(super) async fn tick(&self, ms: u64) {
        let now = self.sites.clock.fetch_add(ms, Ordering::Relaxed) + ms;
        self.roots.set_time(now);
        for master in &self.masters {
            master.service.arbiter().current(&master.address()).await.unwrap();
        }
    }

    /// Lets time pass, and has both nodes ask about what has ended. Their collectors then run.
    pub(super) async fn pass(&self, ms: u64, asked: Option<usize>) {
        self.tick(ms).await;
        for n in [1, 2] {
            let master = Asked(asked.map(|n| self.masters[n].service.clone()), key(n).id());
            let node = self.sites.node(n);
            while let Ok(ended) = node.settle_ended(&master).await
                && ended != Ended::default()
            {}
            let kept = node.kept();
            let epoch = node.blocks().advance_epoch();
            node.blocks().mark(&kept, epoch, fula_core::block::Kept::Now);
            fula_core::block::sweep_all(node.blocks().as_ref(), epoch, epoch).await.unwrap();
        }
    }
}

pub(super) fn block(n: u64) -> Block {
    Block::new(Codec::Raw, n.to_be_bytes().to_vec())
}

pub(super) fn of_block(block: &Block, receipts: Vec<Offered>) -> MapRequest {
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
pub(super) fn of_file(leaves: &[Block], receipts: Vec<Offered>) -> (MapRequest, Vec<u8>) {
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

pub(super) fn other_user() -> Caller {
    Caller::of(Identity::of_user("key:other"))
}

pub(super) fn size_of(block: &Block) -> u32 {
    u32::try_from(block.bytes().len()).unwrap()
}
