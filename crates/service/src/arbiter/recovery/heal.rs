//! Heals buckets in a recovery: publishes a new root on top of the claim that includes all others.

use std::{collections::BTreeMap, sync::Arc};

use fula_core::{
    Block, BlockStore, BucketAddress, Cid, RootPointer, StoreError,
    block::Placement,
    bucket::BucketRoot,
    metadata::Table,
    root::{CasOutcome, GlobalName, NewRoot, RootRow},
};

use super::{
    Recovery,
    records::{Current, Posted, RecoveryClaim, json, parse},
};
use crate::{
    arbiter::{KnownState, rollback::join_authors},
    error::{Applied, ServiceError, chain},
    fault_injection::Fault,
    limits::AUTHORS_KEPT_MS,
};

/// Number of times that healing a bucket is repeated because its pointer moved.
const TRIES: usize = 8;

/// Number of buckets that are compared with the arbiter at a time.
const COMPARED: usize = 256;

/// Rows of the arbiter, and the version floor afterwards where it matters.
struct Rows {
    rows: Vec<Option<RootRow>>,
    floor: u64,
}

/// What a comparison has found of deleted buckets.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Rows of buckets that are deleted, and of which this master does not know that yet.
    pub(super) deleted: Vec<(RootRow, Arc<KnownState>)>,
    /// Buckets whose rows were dropped, and the versions of their tombstones.
    pub(super) dropped: Vec<(BucketAddress, u64)>,
}

/// A state from which a bucket may continue.
#[derive(Clone, Debug)]
pub(in crate::arbiter) struct Candidate {
    pub(in crate::arbiter) pointer: RootPointer,
    pub(in crate::arbiter) root: BucketRoot,
}

impl Candidate {
    fn known(&self) -> KnownState {
        KnownState::of_root(self.pointer, &self.root)
    }

    pub(in crate::arbiter) fn includes(&self, other: &Self) -> bool {
        other.known().is_included_in(&self.pointer, &self.root)
    }
}

/// Returns the pointer to the root that a claim names.
fn pointer_of(claim: &RecoveryClaim) -> Result<RootPointer, ServiceError> {
    let malformed = |_| StoreError::Malformed { what: "claim", why: "bad root" };
    let root = claim.root.parse::<Cid>().map_err(malformed)?;
    Ok(RootPointer { root, version: claim.version, generation: 0 })
}

impl Recovery {
    /// Compares everything that this master remembers with the arbiter. Returns what the arbiter lacks.
    pub(super) async fn lacking(
        &self,
    ) -> Result<Vec<(BucketAddress, Arc<KnownState>)>, ServiceError> {
        let mut lacking = Vec::new();
        for page in self.arbiter.guard().all_known().chunks(COMPARED) {
            let Rows { rows, floor } = self.rows_of(page).await?;
            for (row, (bucket, known)) in rows.iter().zip(page) {
                let is_there = self.has(row.as_ref(), known, floor).await.unwrap_or_else(|error| {
                    // A root that cannot be read contains nothing to rely on.
                    tracing::error!(%bucket, error = chain(&error), "cannot read the current root");
                    false
                });
                if !is_there {
                    lacking.push((bucket.clone(), Arc::clone(known)));
                }
            }
        }
        Ok(lacking)
    }

    /// Compares everything that this master knows with what the arbiter has now. A state that is neither in the
    /// row of its bucket nor in a fork raises the alarm. Returns what was learnt of deleted buckets.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`] in that case. [`ServiceError::Unavailable`], [`ServiceError::Damaged`]:
    /// something cannot be read, so not everything was compared.
    pub(super) async fn compare_known(&self) -> Result<Ended, ServiceError> {
        let mut ended = Ended::default();
        if !self.arbiter.guard().compares() {
            return Ok(ended);
        }
        // Forks come first. One that was merged since is in the row.
        let forks = self.forks().await?;
        for page in self.arbiter.guard().all_known().chunks(COMPARED) {
            let Rows { rows, floor } = self.rows_of(page).await?;
            for (row, (bucket, known)) in rows.into_iter().zip(page) {
                let sides = forks.get(bucket).map(Vec::as_slice).unwrap_or_default();
                let is_there = self.has(row.as_ref(), known, floor).await?;
                if !is_there && !self.is_in(sides, known).await? {
                    return Err(self.arbiter.guard().note_lost(bucket));
                }
                match row {
                    None if is_there => {
                        ended.dropped.push((bucket.clone(), known.pointer.version));
                    }
                    Some(row) if row.deleted.is_some() && known.deleted.is_none() => {
                        ended.deleted.push((row, Arc::clone(known)));
                    }
                    _ => {}
                }
            }
        }
        Ok(ended)
    }

    async fn rows_of(
        &self,
        page: &[(BucketAddress, Arc<KnownState>)],
    ) -> Result<Rows, ServiceError> {
        let buckets: Vec<_> = page.iter().map(|(bucket, _)| bucket.clone()).collect();
        let rows = self.arbiter.unchecked().get_roots(&buckets).await?.value;
        let needs_floor = |(row, (_, known)): (&Option<RootRow>, &(_, Arc<KnownState>))| {
            known.deleted.is_some()
                && row.as_ref().is_none_or(|row| row.bucket_id != known.bucket_id)
        };
        // The floor comes after the rows: a row that is missing was dropped before.
        let floor = if rows.iter().zip(page).any(needs_floor) {
            self.arbiter.unchecked().version_floor().await?.value
        } else {
            0
        };
        Ok(Rows { rows, floor })
    }

    /// Returns whether a row includes what is known of its bucket. A tombstone that is not above the version floor
    /// need not be in any row: the row was dropped.
    async fn has(
        &self,
        row: Option<&RootRow>,
        known: &KnownState,
        floor: u64,
    ) -> Result<bool, ServiceError> {
        let may_be_dropped = known.deleted.is_some() && known.pointer.version <= floor;
        let Some(row) = row else { return Ok(may_be_dropped) };
        if row.pointer.root == known.pointer.root {
            return Ok(true);
        }
        let found = self.candidate(row.pointer).await?;
        let is_over = may_be_dropped && known.is_followed_by(found.root.id, row.pointer.version);
        Ok(is_over || known.is_included_in(&found.pointer, &found.root))
    }

    /// Returns whether one of these claims includes what is known of their bucket.
    async fn is_in(
        &self,
        claims: &[RecoveryClaim],
        known: &KnownState,
    ) -> Result<bool, ServiceError> {
        for claim in claims {
            let side = pointer_of(claim)?;
            if side.root == known.pointer.root {
                return Ok(true);
            }
            let side = self.candidate(side).await?;
            if known.is_included_in(&side.pointer, &side.root) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn candidate(&self, pointer: RootPointer) -> Result<Candidate, ServiceError> {
        Ok(Candidate { pointer, root: self.arbiter.root(&pointer).await? })
    }

    fn blocks(&self) -> &dyn BlockStore {
        self.arbiter.nodes().blocks().as_ref()
    }

    /// Heals every bucket that has a claim, and ends the recovery.
    pub(super) async fn close(
        &self,
        version: u64,
        mut current: Current,
    ) -> Result<(), ServiceError> {
        // The roots that masters claim lie in packs that the arbiter may have forgotten.
        let packs = self.blocks().recover().await?;
        if packs > 0 {
            tracing::warn!(
                packs,
                "the arbiter had forgotten packs of blocks: they are listed again"
            );
        }
        if self.blocks().generation().is_some() {
            // A collector may have taken a lease away that the arbiter has again.
            self.end_leases().await?;
            // The arbiter may have forgotten generations in which blocks were collected.
            let roots = self.arbiter.unchecked();
            let known = roots.generation().await?.value.max(self.highest_known(&current.id).await?);
            roots.raise_generation(known + 1).await?;
            self.arbiter.observe_generation(known + 1);
        }
        let prefix = format!("claim/{}/", current.id);
        let mut claimed: BTreeMap<BucketAddress, Vec<RecoveryClaim>> = BTreeMap::new();
        for (name, value) in self.records(&prefix).await? {
            let rest = name.strip_prefix(&prefix).and_then(|rest| rest.rsplit_once('/'));
            let Some(bucket) = rest.and_then(|(bucket, _)| bucket.parse::<BucketAddress>().ok())
            else {
                continue;
            };
            claimed.entry(bucket).or_default().push(parse(&value)?);
        }
        let (mut healed, mut failed) = (Vec::new(), None);
        for (bucket, claims) in claimed {
            match self.heal(&bucket, &claims).await {
                Ok(true) => healed.push(bucket.to_string()),
                Ok(false) => {}
                // A bucket that cannot be healed now does not delay the others. When an operator has forced
                // the recovery, it does not keep the arbiter sealed either.
                Err(error) => {
                    tracing::error!(%bucket, error = chain(&error), "cannot heal a bucket");
                    if current.forced {
                        self.seal(&bucket, &claims).await?;
                    } else {
                        failed = Some(error);
                    }
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        (current.closed, current.healed) = (true, healed);
        self.write_current(version, &current).await.map(drop)
    }

    /// Returns the highest generation that a master knows which has posted.
    async fn highest_known(&self, id: &str) -> Result<u64, ServiceError> {
        let mut highest = self.arbiter.generation();
        if self.arbiter.0.faults.has(Fault::GenerationsForgotten) {
            return Ok(highest);
        }
        for (_, posted) in self.records(&format!("ack/{id}/")).await? {
            highest = highest.max(parse::<Posted>(&posted)?.generation);
        }
        Ok(highest)
    }

    /// Puts a bucket on top of the claim that includes all others. Returns `false` for a fork.
    async fn heal(
        &self,
        bucket: &BucketAddress,
        claims: &[RecoveryClaim],
    ) -> Result<bool, ServiceError> {
        for _ in 0..TRIES {
            let (row, candidates) = self.candidates(bucket, claims).await?;
            let includes_all =
                |best: &&Candidate| candidates.iter().all(|other| best.includes(other));
            let Some(best) = candidates.iter().find(includes_all) else {
                self.seal(bucket, claims).await?;
                return Ok(false);
            };
            if row.as_ref().is_some_and(|row| row.pointer == best.pointer) {
                return Ok(true);
            }
            if self.publish(bucket, row, best.root.clone(), &candidates, Vec::new()).await? {
                return Ok(true);
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Seals a bucket against reads and writes until its claims are merged. The sides of an earlier fork stay: the
    /// masters that claimed them may be gone.
    async fn seal(
        &self,
        bucket: &BucketAddress,
        claims: &[RecoveryClaim],
    ) -> Result<(), ServiceError> {
        tracing::error!(%bucket, "the bucket is forked and quarantined; run `fula roots merge`");
        let name = format!("fork/{bucket}");
        let entry = self.metadata.read(Table::Recovery, &name).await?;
        let version = entry.as_ref().map_or(0, |entry| entry.version);
        let mut sides = Vec::new();
        if let Some(value) = entry.and_then(|entry| entry.value)
            && !self.arbiter.0.faults.has(Fault::SidesForgotten)
        {
            sides = parse::<Vec<RecoveryClaim>>(&value)?;
        }
        for claim in claims {
            if !sides.contains(claim) {
                sides.push(claim.clone());
            }
        }
        self.metadata.write(Table::Recovery, &name, version, Some(json(&sides))).await?;
        Ok(())
    }

    /// Returns the arbiter's row, and every state from which the bucket may continue.
    pub(in crate::arbiter) async fn candidates(
        &self,
        bucket: &BucketAddress,
        claims: &[RecoveryClaim],
    ) -> Result<(Option<RootRow>, Vec<Candidate>), ServiceError> {
        let found = self.arbiter.unchecked().get_roots(std::slice::from_ref(bucket)).await?;
        let row = found.value.into_iter().next().flatten();
        let mut candidates: Vec<Candidate> = Vec::new();
        if let Some(row) = &row {
            candidates.push(self.candidate(row.pointer).await?);
        }
        for claim in claims {
            let side = pointer_of(claim)?;
            if candidates.iter().all(|candidate| candidate.pointer.root != side.root) {
                candidates.push(self.candidate(side).await?);
            }
        }
        Ok((row, candidates))
    }

    /// Publishes `root` above every candidate, with the authors of all of them. Returns `false` when the
    /// pointer moved in the meantime.
    pub(in crate::arbiter) async fn publish(
        &self,
        bucket: &BucketAddress,
        row: Option<RootRow>,
        mut root: BucketRoot,
        candidates: &[Candidate],
        mut blocks: Vec<Block>,
    ) -> Result<bool, ServiceError> {
        let newest = candidates.iter().max_by_key(|candidate| candidate.pointer.version);
        root.parent = newest.map(|candidate| candidate.pointer.root);
        root.version = newest.map_or(0, |candidate| candidate.pointer.version) + 1;
        if row.is_none() {
            let floor = self.arbiter.unchecked().version_floor().await?.value;
            root.version = root.version.max(floor + 1);
        }
        root.time = root.time.max(self.arbiter.now().await?);
        for candidate in candidates {
            root.authors = join_authors(&root.authors, &candidate.root.authors);
        }
        root.sign(self.writer, root.time.saturating_sub(AUTHORS_KEPT_MS));
        let block = root.to_block();
        let new = NewRoot {
            pointer: RootPointer {
                root: block.cid(),
                version: root.version,
                generation: row
                    .as_ref()
                    .map_or(self.arbiter.generation(), |row| row.pointer.generation),
            },
            bucket_id: root.id,
            created: root.created,
            deleted: root.deleted,
            global_name: self.global_name(bucket, &root).await,
            lease: None,
        };
        blocks.push(block);
        self.arbiter.observe_generation(new.pointer.generation);
        let mark = self.blocks().put(&blocks, Placement::Commit).await?;
        self.blocks().sync(mark).await?;
        let expected = row.map(|row| row.pointer);
        let swapped = self.arbiter.unchecked().cas_root(bucket, expected, &new).await;
        match swapped {
            Ok(stamped) => {
                if stamped.value == CasOutcome::BelowGeneration {
                    let generation = self.arbiter.unchecked().generation().await?.value;
                    self.arbiter.observe_generation(generation);
                }
                Ok(stamped.value == CasOutcome::Won)
            }
            Err(error) => Err(ServiceError::unavailable(error)),
        }
    }

    /// Returns what the root of a healed or merged bucket does with its global name.
    async fn global_name(&self, bucket: &BucketAddress, root: &BucketRoot) -> GlobalName {
        self.names.of_root(self.blocks(), root).await.unwrap_or_else(|error| {
            // The rest of the bucket is healed all the same: nothing is public while its policy cannot be
            // read.
            tracing::error!(%bucket, error = chain(&error), "cannot read the policy of a bucket");
            GlobalName::Keep
        })
    }
}
