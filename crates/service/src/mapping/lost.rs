//! Whether the storage nodes still hold what records say that they hold.

use std::collections::{BTreeSet, HashSet};

use fula_core::{
    BucketAddress, Cid, Codec,
    block::require,
    bucket::{BucketRoot, ObjectKind, ObjectRecord},
    content::FileNode,
    tree::{Cursor, Entry, Tree},
};
use fula_ingest::mapping::Place;

use super::{Mapping, holders::Holders};
use crate::{error::ServiceError, service::Service};

/// Number of rows that are read at a time.
const PAGE: usize = 512;

/// Largest number of blocks that are named to a node at a time.
const ASKED_MAX: usize = 1024;

/// Largest number of lost blocks that are described. Further ones are counted.
const NAMED_MAX: usize = 1000;

/// A block that no node has which should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBlock {
    /// The bucket of the object.
    pub bucket: BucketAddress,
    /// The key of the object.
    pub key: String,
    /// The block.
    pub cid: Cid,
    /// Names of the nodes.
    pub nodes: Vec<String>,
}

/// The outcome of a check of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesChecked {
    /// Number of leaves of mapped objects that were asked about.
    pub blocks: u64,
    /// Lost blocks, of which at most 1000 are described.
    pub lost: Vec<LostBlock>,
    /// Number of lost blocks.
    pub lost_count: u64,
    /// Number of blocks that nobody can tell about, because a node is away.
    pub unknown: u64,
    /// Names of the nodes that are away.
    pub away: BTreeSet<String>,
}

/// A leaf that is asked about, and the object that has it.
struct Asked {
    bucket: BucketAddress,
    key: String,
    cid: Cid,
}

struct Check<'a> {
    service: &'a Service,
    mapping: &'a Mapping,
    found: NodesChecked,
    /// Leaves of one place that are not asked about yet.
    waiting: Option<(Place, Vec<Asked>)>,
}

impl Service {
    /// Asks all storage nodes whether they hold the leaves of all mapped objects. Nothing where there are no
    /// storage nodes.
    ///
    /// # Errors
    /// [`ServiceError`]: a bucket cannot be read.
    pub async fn check_nodes(&self) -> Result<NodesChecked, ServiceError> {
        let Some(mapping) = &self.mapping else { return Ok(NodesChecked::default()) };
        let found = NodesChecked::default();
        let mut check = Check { service: self, mapping, found, waiting: None };
        let mut after = None;
        loop {
            let page = self.arbiter().scan_buckets(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.address.clone());
            for row in page.into_iter().filter(|row| row.deleted.is_none()) {
                let Some(head) = self.arbiter().current(&row.address).await? else { continue };
                check.bucket(&row.address, &head.root).await?;
            }
        }
        check.ask().await?;
        Ok(check.found)
    }
}

impl Check<'_> {
    async fn bucket(
        &mut self,
        address: &BucketAddress,
        root: &BucketRoot,
    ) -> Result<(), ServiceError> {
        let nodes = self.service.arbiter().nodes();
        let tree: &Tree = &root.objects;
        let mut cursor = Cursor::new(nodes, tree);
        cursor.seek(b"").await?;
        while let Some(entry) = cursor.next().await? {
            self.entry(address, &entry).await?;
        }
        Ok(())
    }

    async fn entry(&mut self, address: &BucketAddress, entry: &Entry) -> Result<(), ServiceError> {
        let record = ObjectRecord::decode(&entry.value, entry.weight)?;
        let (ObjectKind::Mapped, Some(content), Some(holders)) =
            (record.kind, record.content, record.parts)
        else {
            return Ok(());
        };
        let blocks = self.service.arbiter().nodes().blocks().as_ref();
        let holders = Holders::from_block(&require(blocks, &holders).await?)?;
        let (mut stack, mut seen) = (vec![content], HashSet::new());
        while let Some(cid) = stack.pop() {
            if !seen.insert(cid) {
                continue;
            }
            if cid.codec() == Codec::DagPb {
                let node = FileNode::from_block(&require(blocks, &cid).await?)?;
                stack.extend(node.links.iter().map(|link| link.cid));
            } else if let Some(place) = holders.place_of(&cid) {
                let key = String::from_utf8_lossy(&entry.key).into_owned();
                self.wait(place, Asked { bucket: address.clone(), key, cid }).await?;
            }
        }
        Ok(())
    }

    /// Adds a leaf to those that are asked about together.
    async fn wait(&mut self, place: &Place, asked: Asked) -> Result<(), ServiceError> {
        let fits = self
            .waiting
            .as_ref()
            .is_some_and(|(waiting, all)| waiting == place && all.len() < ASKED_MAX);
        if !fits {
            self.ask().await?;
            self.waiting = Some((place.clone(), Vec::new()));
        }
        if let Some((_, all)) = &mut self.waiting {
            all.push(asked);
        }
        Ok(())
    }

    /// Asks the nodes of a place one after another, until all leaves are found.
    async fn ask(&mut self) -> Result<(), ServiceError> {
        let Some((place, mut left)) = self.waiting.take() else { return Ok(()) };
        self.found.blocks += left.len() as u64;
        if place.is_own {
            let own = self.service.arbiter().nodes().blocks();
            let mut missing = Vec::new();
            for asked in left {
                if own.size(&asked.cid).await?.is_none() {
                    missing.push(asked);
                }
            }
            left = missing;
        }
        let (mut is_away, nodes) = (false, &self.mapping.nodes);
        for node in &place.nodes {
            if left.is_empty() {
                return Ok(());
            }
            let cids: Vec<Cid> = left.iter().map(|asked| asked.cid).collect();
            match nodes.have(*node, place.owner, &cids).await {
                Ok(offered) => {
                    let there = offered.into_iter().flat_map(|offered| offered.blocks);
                    let there: HashSet<Cid> = there.map(|(cid, _)| cid).collect();
                    left.retain(|asked| !there.contains(&asked.cid));
                }
                Err(away) => {
                    is_away = true;
                    self.found.away.insert(away.name);
                }
            }
        }
        if is_away {
            self.found.unknown += left.len() as u64;
            return Ok(());
        }
        self.found.lost_count += left.len() as u64;
        let names: Vec<String> = place.nodes.iter().map(|node| nodes.name(*node)).collect();
        let room = NAMED_MAX.saturating_sub(self.found.lost.len());
        self.found.lost.extend(left.into_iter().take(room).map(|asked| LostBlock {
            bucket: asked.bucket,
            key: asked.key,
            cid: asked.cid,
            nodes: names.clone(),
        }));
        Ok(())
    }
}
