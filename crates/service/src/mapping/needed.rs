//! Which of the blocks that a storage node asks about are needed by some bucket.
//!
//! It walks the current roots of all buckets, and the entries that roots had which were replaced lately. So a
//! mapping that moves from one bucket to another during the walk is found in one of them.

use std::collections::HashSet;

use fula_core::{
    Block, Cid, Codec, StoreError,
    block::require,
    bucket::{BucketRoot, ObjectKind, ObjectRecord},
    content::FileNode,
    root::TimeMs,
    tree::{Change, Cursor, Entry, Tree, diff},
};

use fula_ingest::{SignerId, mapping::Place};

use super::holders::Holders;
use crate::{error::ServiceError, service::Service};

/// Number of rows that are read at a time.
const PAGE: usize = 512;

/// Least time for which replaced roots are looked at: longer than any commit is in flight.
const SINCE_MIN_MS: u64 = 10 * 60 * 1000;

/// Number of entries after which the walk lets requests go first.
const STEP: u32 = 64;

impl Service {
    /// Returns those of `asked` that some object has on `node`. A node learns nothing about blocks that no
    /// record places there. Reads every tree of every bucket, so it is for background work.
    ///
    /// # Errors
    /// [`ServiceError`]: something cannot be read, so nothing may be taken for not needed.
    pub async fn needed(
        &self,
        node: SignerId,
        asked: HashSet<Cid>,
    ) -> Result<HashSet<Cid>, ServiceError> {
        let arbiter = self.arbiter();
        let now = arbiter.now().await?;
        let retention = self.committer.limits().retention.as_millis();
        let retention = u64::try_from(retention).unwrap_or(u64::MAX).max(SINCE_MIN_MS);
        let since = now.saturating_sub(retention);
        let needed = HashSet::new();
        let mut walk = Walk { service: self, node, asked, needed, since, steps: 0 };
        let mut after = None;
        loop {
            let page = arbiter.scan_buckets(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.address.clone());
            for row in page {
                walk.bucket(row.pointer.root).await?;
            }
        }
        Ok(walk.needed)
    }
}

struct Walk<'a> {
    service: &'a Service,
    node: SignerId,
    asked: HashSet<Cid>,
    needed: HashSet<Cid>,
    since: TimeMs,
    steps: u32,
}

impl Walk<'_> {
    async fn bucket(&mut self, current: Cid) -> Result<(), ServiceError> {
        let nodes = self.service.arbiter().nodes();
        let blocks = nodes.blocks().as_ref();
        let mut root = BucketRoot::from_block(&require(blocks, &current).await?)?;
        for tree in [root.objects, root.versions] {
            self.tree(&tree).await?;
        }
        // The roots that were current lately, each by its difference from the one that replaced it.
        while root.time >= self.since
            && let Some(parent) = root.parent
        {
            let older = match blocks.get(&parent).await? {
                Some(block) => BucketRoot::from_block(&block)?,
                None => break,
            };
            for (old, new) in [(older.objects, root.objects), (older.versions, root.versions)] {
                let changes = match diff(nodes, &old, &new).await {
                    // A collection with a shorter retention has deleted a part of it.
                    Err(StoreError::Missing { .. }) => break,
                    changes => changes?,
                };
                for change in changes {
                    if let Change::Removed(entry) | Change::Changed { old: entry, .. } = change {
                        self.entry(&entry).await?;
                    }
                }
            }
            root = older;
        }
        Ok(())
    }

    async fn tree(&mut self, tree: &Tree) -> Result<(), ServiceError> {
        let nodes = self.service.arbiter().nodes();
        let mut cursor = Cursor::new(nodes, tree);
        cursor.seek(b"").await?;
        while let Some(entry) = cursor.next().await? {
            self.entry(&entry).await?;
        }
        Ok(())
    }

    async fn entry(&mut self, entry: &Entry) -> Result<(), ServiceError> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEP) {
            tokio::task::yield_now().await;
        }
        let record = ObjectRecord::decode(&entry.value, entry.weight)?;
        let (ObjectKind::Mapped, Some(content), Some(holders)) =
            (record.kind, record.content, record.parts)
        else {
            return Ok(());
        };
        let blocks = self.service.arbiter().nodes().blocks().as_ref();
        let (mut stack, mut seen, mut found) = (vec![content], HashSet::new(), Vec::new());
        while let Some(cid) = stack.pop() {
            if self.asked.contains(&cid) && !self.needed.contains(&cid) {
                found.push(cid);
            }
            if cid.codec() == Codec::DagPb && seen.insert(cid) {
                let block: Block = require(blocks, &cid).await?;
                stack.extend(FileNode::from_block(&block)?.links.iter().map(|link| link.cid));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let holders = Holders::from_block(&require(blocks, &holders).await?)?;
        let is_here = |place: &Place| place.nodes.contains(&self.node);
        found.retain(|cid| match cid.codec() {
            Codec::Raw => holders.place_of(cid).is_some_and(is_here),
            // A node may have inner nodes of the files whose leaves it has.
            _ => holders.places().any(is_here),
        });
        self.needed.extend(found);
        Ok(())
    }
}
