//! Collection of blocks that masters share.
//!
//! # Invariants
//! - The generation is raised in every root pointer before one is read. So a swap that a collection has not
//!   seen is refused, and its master puts again what the swap links, under the new generation.
//! - Only what was put under earlier generations is deleted, and nothing that the lease of a master keeps.
//! - Forks are read before the rows. So one that is merged meanwhile is marked as a fork, or was in its row.
//! - Nothing is deleted while the arbiter is in doubt.

use std::time::Duration;

use fula_core::{Cid, Codec, StoreError, block::Kept, root::TimeMs};

use super::{Collection, Collector};
use crate::{
    admin::fsck,
    arbiter::{Begun, Forks, Recovery},
    error::{ServiceError, chain},
    fault_injection::Fault,
    service::Service,
};

impl Service {
    /// Deletes the blocks of a shared store that nothing needs, as [`Self::collect`] does of a store of this
    /// master alone. `recovery` is the part that this master takes among others; `None` where the arbiter is
    /// its own.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: something cannot be read, or must not be collected now;
    /// [`ServiceError::Regressed`]. Some garbage may be deleted all the same.
    pub async fn collect_shared(
        &self,
        recovery: Option<&Recovery>,
        retention: Duration,
        rest: &(dyn Fn() -> u32 + Sync),
    ) -> Result<Collection, ServiceError> {
        self.require_collecting()?;
        let _one_at_a_time = self.collecting.lock().await;
        let faults = self.committer.limits().faults;
        let begun = match recovery {
            Some(recovery) => recovery.begin_collection().await?,
            None => Begun::alone(self.arbiter()).await?,
        };
        let mut collector =
            Collector::begin(self.arbiter(), faults, retention, rest, Some(begun)).await?;
        let mut forks = Forks::new();
        if let Some(recovery) = recovery
            && !faults.has(Fault::ForksReadLate)
        {
            forks = recovery.forks().await?;
        }
        collector.mark_all().await?;
        if let Some(recovery) = recovery {
            if faults.has(Fault::ForksReadLate) {
                forks = recovery.forks().await?;
            }
            collector.mark_forks(&forks).await?;
            if !faults.has(Fault::ForkWithoutBase) {
                collector.mark_bases(recovery, &forks).await?;
            }
        }
        collector.sweep(recovery.map(|recovery| (recovery, &begun))).await?;
        Ok(collector.done)
    }
}

impl Collector<'_> {
    /// Marks every side of the forked buckets. A side that has lost a block keeps nothing else back.
    async fn mark_forks(&mut self, forks: &Forks) -> Result<(), ServiceError> {
        self.kept_for = (Kept::Now, TimeMs::MAX);
        for claim in forks.values().flatten() {
            let Ok(root) = claim.root.parse::<Cid>() else { continue };
            match self.mark_tree(root).await {
                Err(StoreError::Missing { cid }) => {
                    tracing::error!(%root, %cid, "a side of a forked bucket lacks a block");
                }
                marked => marked?,
            }
        }
        Ok(())
    }

    /// Marks what merges compare the sides of forks with: the root blocks down to the newest common state, and
    /// the trees of that state. The content of its objects may be gone. So this comes after everything whose
    /// content is needed.
    async fn mark_bases(&mut self, recovery: &Recovery, forks: &Forks) -> Result<(), ServiceError> {
        for (bucket, claims) in forks {
            let (passed, bases) = match recovery.bases(bucket, claims).await {
                Err(error @ ServiceError::Damaged(_)) => {
                    tracing::warn!(%bucket, error = chain(&error), "a side of a fork cannot be read");
                    continue;
                }
                found => found?,
            };
            self.mark(&passed);
            for base in bases {
                self.mark_nodes(base).await?;
            }
        }
        Ok(())
    }

    /// Marks a root and the nodes of its trees. What is missing was collected before the bucket was forked.
    async fn mark_nodes(&mut self, root: Cid) -> Result<(), ServiceError> {
        self.mark(&[root]);
        let mut stack = vec![root];
        while let Some(cid) = stack.pop() {
            let Some(block) = self.blocks.get(&cid).await? else {
                tracing::warn!(%root, %cid, "the common state of a fork lacks a node");
                continue;
            };
            let mut links = fsck::links(&cid, &block)
                .map_err(|why| StoreError::Malformed { what: "block", why })?;
            links.retain(|link| link.codec() == Codec::DagCbor);
            stack.extend(self.mark(&links));
            self.step().await;
        }
        Ok(())
    }
}
