//! Reads the newest heads of buckets, and caches them.

use std::{sync::Arc, time::Duration};

use fula_core::{
    BucketAddress, RootPointer, StoreError,
    block::require,
    bucket::BucketRoot,
    root::{Mark, RootRow, TimeMs},
};

use tokio::time::timeout;

use super::{Arbiter, Head, KnownState, Unverified, rollback::Asked};
use crate::{caller::Seen, error::ServiceError, fault_injection::Fault};

/// Longest time that a reader waits for the arbiter if it may be answered from the last known state.
const STALE_AFTER: Duration = Duration::from_secs(2);

impl Arbiter {
    /// Returns the state of the bucket as of some moment after the call, or `None` when it does not exist.
    /// The read is linearizable: a change that was acknowledged before the call is included.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: the arbiter or the root block cannot be read.
    pub async fn current(&self, bucket: &BucketAddress) -> Result<Option<Arc<Head>>, ServiceError> {
        if self.0.faults.has(Fault::ReadFromCachedRoot)
            && let Some(head) = self.0.heads.get(bucket)
        {
            return Ok(Some(head).filter(|head| head.row.deleted.is_none()));
        }
        let head = self.newest(bucket).await?;
        Ok(head.filter(|head| head.row.deleted.is_none()))
    }

    /// Does the same, but also returns the tombstone of a deleted bucket.
    pub(crate) async fn newest(
        &self,
        bucket: &BucketAddress,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        let _reading = self.0.pins.begin_read();
        let row = self.0.reader.read(bucket).await?;
        self.adopt(bucket, row).await
    }

    /// Returns the newest known state of a bucket, which may have been replaced since.
    pub(crate) fn last_known(&self, bucket: &BucketAddress) -> Option<Arc<Head>> {
        self.0.heads.get(bucket).filter(|head| head.row.deleted.is_none())
    }

    /// Returns a state that a swap may start from without a read. If it is stale, the swap fails. It is
    /// never older than a state that this master has known, even a dropped one. An arbiter that went back
    /// to an older state would accept the swap. This master would then use a version a second time, and
    /// `authors` could no longer tell its commits apart.
    pub(crate) fn swap_base(&self, bucket: &BucketAddress) -> Option<Arc<Head>> {
        let head = self.0.heads.get(bucket)?;
        self.0.guard.is_newest_known(bucket, head.row.pointer.version).then_some(head)
    }

    /// Returns the state to read from. That is the current one, or, with `FULA_STALE_READS` and while the
    /// arbiter is away, the last known one; `seen` then records that. Only the first readers wait for the
    /// arbiter, until it answers again.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub(crate) async fn readable(
        &self,
        bucket: &BucketAddress,
        seen: &Seen,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        let known = self.0.heads.get(bucket).filter(|_| self.0.stale_reads);
        let Some(known) = known else { return self.current(bucket).await };
        if self.0.reader.is_away() {
            self.0.reader.probe(bucket);
        } else {
            match self.current_soon(bucket).await {
                Err(
                    ServiceError::Unavailable(_)
                    | ServiceError::Damaged(_)
                    | ServiceError::Regressed(_),
                ) => {}
                current => return current,
            }
        }
        // A state that was read in the meantime is newer.
        let known = self.0.heads.get(bucket).unwrap_or(known);
        seen.note_stale();
        Ok(Some(known).filter(|head| head.row.deleted.is_none()))
    }

    /// Returns the current state of the bucket. An arbiter that does not answer soon is considered away; a
    /// slow block store is not.
    async fn current_soon(
        &self,
        bucket: &BucketAddress,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        let _reading = self.0.pins.begin_read();
        let Ok(row) = timeout(STALE_AFTER, self.0.reader.read(bucket)).await else {
            self.0.reader.note_away();
            return Err(ServiceError::late("arbiter", "read"));
        };
        let head = timeout(STALE_AFTER, self.adopt(bucket, row?)).await;
        let head = head.map_err(|_| ServiceError::late("block store", "read"))??;
        Ok(head.filter(|head| head.row.deleted.is_none()))
    }

    /// Returns the state of the bucket once its version is beyond `version`, or as it is after `patience`.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn wait_beyond(
        &self,
        bucket: &BucketAddress,
        version: u64,
        patience: Duration,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        let (floor, asked) = (self.0.guard.floor(), self.0.guard.ask(bucket));
        metrics::counter!("fula_pointer_reads_total").increment(1);
        let stamped = self.0.roots.wait_root(bucket, version, patience).await?;
        self.0.guard.check_answer(&floor, &stamped.mark)?;
        self.0.clock.observe(&stamped);
        self.adopt(bucket, Unverified { row: stamped.value, asked }).await
    }

    /// Returns the arbiter's time. Reads it from the arbiter only if that has never answered before.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn now(&self) -> Result<TimeMs, ServiceError> {
        if let Some(now) = self.0.clock.now() {
            return Ok(now);
        }
        let stamped = self.0.roots.get_roots(&[]).await?;
        self.0.clock.observe(&stamped);
        Ok(stamped.time)
    }

    /// Returns the arbiter's time without a read: that of its last answer, extrapolated. Returns `None`
    /// before the first answer.
    pub fn time(&self) -> Option<TimeMs> {
        self.0.clock.now()
    }

    /// Compares rows of the arbiter with known states. A difference raises the alarm. Returns how far the
    /// arbiter has come.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: the arbiter does not answer.
    pub(super) async fn compare(
        &self,
        known: &[(BucketAddress, Arc<KnownState>)],
    ) -> Result<Mark, ServiceError> {
        let buckets: Vec<_> = known.iter().map(|(bucket, _)| bucket.clone()).collect();
        let floor = self.0.guard.floor();
        let stamped = self.0.roots.get_roots(&buckets).await?;
        self.0.clock.observe(&stamped);
        if self.0.guard.check_answer(&floor, &stamped.mark).is_ok() {
            let is_gone = |known: &KnownState, row: &Option<RootRow>| {
                known.deleted.is_some() && row.is_none()
            };
            // The floor is read once for all, and after the rows: a row that is missing was dropped before.
            let mut pairs = known.iter().zip(&stamped.value);
            let floor = if pairs.any(|((_, known), row)| is_gone(known, row)) {
                self.version_floor().await.unwrap_or_default()
            } else {
                0
            };
            for ((bucket, known), row) in known.iter().zip(stamped.value) {
                if is_gone(known, &row) && known.pointer.version <= floor {
                    continue;
                }
                let asked = self.0.guard.asked_with(Arc::clone(known));
                if let Err(error) = self.adopt(bucket, Unverified { row, asked }).await {
                    tracing::debug!(%bucket, %error, "a bucket differs from what this master knows");
                }
            }
        }
        Ok(stamped.mark)
    }

    /// Checks a row, or that there is none, against what was known when it was requested. The row of a bucket of
    /// which this master knows that it was deleted may be missing, if the version floor says that it was dropped.
    /// What is known is not removed here, because a restore may be filling the tables (docs/adr/0067).
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Unavailable`] of the arbiter.
    pub(super) async fn check_row(
        &self,
        bucket: &BucketAddress,
        asked: &Asked,
        row: Option<&RootRow>,
    ) -> Result<(), ServiceError> {
        if row.is_none()
            && let Some(ended) = asked.ended()
            && ended.pointer.version <= self.version_floor().await?
        {
            return self.0.guard.check_row(bucket, &asked.of_nothing(), row);
        }
        self.0.guard.check_row(bucket, asked, row)
    }

    /// Returns whether a root need not include what was known when its row was requested: the bucket was deleted,
    /// its row was dropped, and this is another bucket of the name.
    async fn is_over(
        &self,
        asked: &Asked,
        pointer: &RootPointer,
        root: &BucketRoot,
    ) -> Result<bool, ServiceError> {
        let Some(ended) = asked.ended() else { return Ok(false) };
        if !ended.is_followed_by(root.id, pointer.version) || ended.is_included_in(pointer, root) {
            return Ok(false);
        }
        Ok(ended.pointer.version <= self.version_floor().await?)
    }

    /// Returns the version floor of the arbiter.
    async fn version_floor(&self) -> Result<u64, ServiceError> {
        self.checked(self.0.roots.version_floor()).await
    }

    /// Returns the head of a row, unless the row is of the past.
    ///
    /// # Errors
    /// [`ServiceError::Regressed`]; [`ServiceError::Unavailable`]: the root cannot be read.
    pub(crate) async fn adopt(
        &self,
        bucket: &BucketAddress,
        Unverified { row, asked }: Unverified,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        self.check_row(bucket, &asked, row.as_ref()).await?;
        let Some(row) = row else {
            // A request that read the row before it was dropped may have cached the head afterwards.
            self.0.heads.remove(bucket);
            return Ok(None);
        };
        self.0.claims.note(&row, self.0.writer);
        self.observe_generation(row.pointer.generation);
        self.load(bucket, row, &asked).await.map(Some)
    }

    /// Returns the head of a row, from the cache if it is there.
    async fn load(
        &self,
        bucket: &BucketAddress,
        row: RootRow,
        asked: &Asked,
    ) -> Result<Arc<Head>, ServiceError> {
        if let Some(head) = self.0.heads.get(bucket)
            && head.row.pointer == row.pointer
        {
            return Ok(head);
        }
        // A collection raises the generation of a pointer, and changes nothing else.
        let known = self.0.heads.get(bucket).filter(|head| {
            let known = head.row.pointer;
            known.root == row.pointer.root && known.version == row.pointer.version
        });
        let root = match known {
            Some(head) => head.root.clone(),
            None => self.root(&row.pointer).await?,
        };
        let agree = root.owner == row.address.owner
            && root.name == row.address.name
            && root.version == row.pointer.version
            && root.id == row.bucket_id;
        if !agree {
            let why = "root block and pointer disagree";
            return Err(StoreError::Malformed { what: "bucket root", why }.into());
        }
        if !self.is_over(asked, &row.pointer, &root).await? {
            self.0.guard.check_root(bucket, asked, &row.pointer, &root)?;
        }
        let head = Arc::new(Head { row, root });
        self.0.pins.register_head(&head);
        if self.0.guard.learn(bucket, &head, asked) {
            self.keep(&head);
        }
        Ok(head)
    }

    /// Reads the root that a pointer names.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub(super) async fn root(&self, pointer: &RootPointer) -> Result<BucketRoot, ServiceError> {
        let block = require(self.0.nodes.blocks().as_ref(), &pointer.root).await?;
        Ok(BucketRoot::from_block(&block)?)
    }

    /// Records the head that a swap of this master made.
    ///
    /// # Errors
    /// [`ServiceError::Full`] or [`ServiceError::Unavailable`]: the swap was carried out, but this master's
    /// own disk does not have the state, so the writers must not get an answer of success.
    pub(crate) async fn remember_won(&self, head: &Arc<Head>) -> Result<(), ServiceError> {
        let remembered = self.0.guard.commit(head.address(), head).await;
        self.0.pins.register_head(head);
        self.keep(head);
        remembered
    }

    /// Caches a head, unless a newer one is cached.
    fn keep(&self, head: &Arc<Head>) {
        let known = self.0.heads.get(head.address());
        let age = |head: &Head| (head.row.pointer.version, head.row.pointer.generation);
        if known.is_none_or(|known| age(&known) < age(head)) {
            self.0.heads.insert(head.address().clone(), Arc::clone(head));
            self.0.watches.wake(head.address());
        }
    }

    /// Removes the cached head of a bucket, so that the next request reads it.
    pub(crate) fn forget_head(&self, bucket: &BucketAddress) {
        self.0.heads.remove(bucket);
    }
}
