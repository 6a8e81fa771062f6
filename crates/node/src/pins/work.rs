//! Work on the pins of one bucket: who does it, and one change of a pin.

use std::sync::Arc;

use fula_core::{BucketAddress, Cid, metadata::Table};
use fula_service::error::chain;
use tokio::time::Instant;

use super::{
    Current, Job, Pinner, TAKEN_OVER_AFTER, TOUCH_EVERY, Target, pause_after,
    record::{self, Pinned, Record, STALE_MAX},
};
use crate::turn::Turn;

/// What a target is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Pin this root, or a newer one.
    Pin(Cid, u64),
    /// Remove every pin of the bucket.
    Unpin,
}

impl Pinner {
    /// Compares what each target has of a bucket with what it is to have, and begins to work on what is due.
    pub(super) async fn tend(
        self: &Arc<Self>,
        bucket: &BucketAddress,
        current: Option<Current>,
    ) -> Result<(), String> {
        let mut due = Vec::new();
        let (mut is_behind, mut is_over) = (false, false);
        {
            let (now, mut buckets) = (Instant::now(), self.buckets.lock());
            let Some(known) = buckets.get_mut(bucket) else { return Ok(()) };
            known.current = current;
            for n in 0..self.targets.len() {
                let goal = self.goal(&known.record, n, current);
                let progress = &mut known.targets[n];
                let Some(goal) = goal else {
                    progress.behind_since = None;
                    continue;
                };
                is_behind = true;
                let since = *progress.behind_since.get_or_insert(now);
                // What is written at one time is pinned at once, and not in its first moments.
                let begin = match goal {
                    Goal::Pin(..) => Some(since + self.config.interval).max(progress.not_before),
                    Goal::Unpin => progress.not_before,
                };
                if !progress.is_busy && begin.is_none_or(|time| time <= now) {
                    due.push((n, goal));
                }
            }
            is_over |= current.is_none() && !is_behind;
        }
        if is_over {
            return self.forget(bucket).await;
        }
        if !is_behind || !self.holds(bucket).await? {
            return Ok(());
        }
        for (n, goal) in due {
            let Ok(permit) = Arc::clone(&self.jobs).try_acquire_owned() else { break };
            if let Some(known) = self.buckets.lock().get_mut(bucket) {
                known.targets[n].is_busy = true;
            }
            let (pinner, bucket) = (Arc::clone(self), bucket.clone());
            tokio::spawn(async move {
                let result = pinner.work(&bucket, n, goal, current).await;
                pinner.note(&bucket, n, result);
                drop(permit);
                pinner.look_soon();
            });
        }
        Ok(())
    }

    /// Returns what a target is to do; `None` if it has what it is to have.
    fn goal(&self, record: &Record, n: usize, current: Option<Current>) -> Option<Goal> {
        let (name, target) = &self.targets[n];
        let pinned = record.targets.get(name);
        let Some(current) = current else { return pinned.map(|_| Goal::Unpin) };
        let (root, version) = match target {
            Target::Kubo(_) => (current.root, current.version),
            // They fetch the blocks from a kubo that has them.
            Target::Cluster(_) | Target::Psa(_) => self.at_kubos(record)?,
        };
        let is_there = pinned.is_some_and(|pinned| {
            pinned.root.as_deref() == Some(root.to_string().as_str()) && pinned.stale.is_empty()
        });
        (!is_there).then_some(Goal::Pin(root, version))
    }

    /// Returns the newest root that a kubo has, with its version.
    fn at_kubos(&self, record: &Record) -> Option<(Cid, u64)> {
        let kubos = self.targets.iter().filter(|(_, target)| matches!(target, Target::Kubo(_)));
        let pinned = kubos.filter_map(|(name, _)| record.targets.get(name));
        let roots =
            pinned.filter_map(|pinned| Some((pinned.root.as_ref()?.parse().ok()?, pinned.version)));
        roots.max_by_key(|(_, version)| *version)
    }

    /// Returns whether this master works on a bucket, after it has taken the bucket over if nobody does.
    async fn holds(&self, bucket: &BucketAddress) -> Result<bool, String> {
        let is_alone = self.node.recovery.is_none();
        let (is_own, is_fresh) = {
            let buckets = self.buckets.lock();
            let Some(known) = buckets.get(bucket) else { return Ok(false) };
            let is_fresh = known.written.is_some_and(|at| at.elapsed() < TOUCH_EVERY);
            (known.record.holder.by == self.own && known.version > 0, is_fresh)
        };
        if is_own && (is_alone || is_fresh) {
            return Ok(true);
        }
        if !is_own && !is_alone {
            let read = record::read(self.node.metadata.as_ref(), bucket).await;
            let (record, version) = read.map_err(|error| chain(&error))?;
            let is_free = record.holder.is_free_for(&self.own, self.now().await?, TAKEN_OVER_AFTER);
            let mut buckets = self.buckets.lock();
            let Some(known) = buckets.get_mut(bucket) else { return Ok(false) };
            if version != known.version {
                (known.record, known.version) = (record, version);
            }
            if !is_free {
                return Ok(false);
            }
        }
        self.update(bucket, |_| {}).await
    }

    /// Changes the record of a bucket, and says that this master works on it. Returns false if another master
    /// has written it.
    pub(super) async fn update(
        &self,
        bucket: &BucketAddress,
        change: impl FnOnce(&mut Record) + Send,
    ) -> Result<bool, String> {
        let writing = match self.buckets.lock().get(bucket) {
            Some(known) => Arc::clone(&known.writing),
            None => return Ok(false),
        };
        let _one_at_a_time = writing.lock().await;
        let (mut record, version) = match self.buckets.lock().get(bucket) {
            Some(known) => (known.record.clone(), known.version),
            None => return Ok(false),
        };
        change(&mut record);
        let (metadata, name) = (self.node.metadata.as_ref(), bucket.to_string());
        let at = (Table::Pins, name.as_str());
        let mut turn = Turn::known(metadata, at, self.own.clone(), version, record);
        let is_ours = turn.take(self.now().await?).await.map_err(|error| chain(&error))?;
        let mut buckets = self.buckets.lock();
        let Some(known) = buckets.get_mut(bucket) else { return Ok(false) };
        known.version = turn.version();
        known.record = turn.record;
        if is_ours {
            known.written = Some(Instant::now());
        }
        Ok(is_ours)
    }

    /// Removes the record of a bucket that is not pinned any more.
    async fn forget(&self, bucket: &BucketAddress) -> Result<(), String> {
        let version = match self.buckets.lock().get(bucket) {
            Some(known) if known.record.targets.is_empty() => known.version,
            _ => return Ok(()),
        };
        if version > 0 {
            let metadata = self.node.metadata.as_ref();
            let gone = record::delete(metadata, bucket, version).await;
            gone.map_err(|error| chain(&error))?;
        }
        self.buckets.lock().remove(bucket);
        Ok(())
    }

    /// Carries out one change.
    async fn work(
        &self,
        bucket: &BucketAddress,
        n: usize,
        goal: Goal,
        current: Option<Current>,
    ) -> Result<(), String> {
        let (name, target) = &self.targets[n];
        let (record, is_settled) = match self.buckets.lock().get(bucket) {
            Some(known) => (known.record.clone(), known.targets[n].is_settled),
            None => return Ok(()),
        };
        let mut pinned = record.targets.get(name).cloned().unwrap_or_default();
        let (Goal::Pin(root, version), Some(current)) = (goal, current) else {
            return self.unpin(bucket, n, &pinned).await;
        };
        let label = &self.labels[n];
        let job = Job {
            node: &self.node,
            bucket,
            current,
            is_doubtful: !is_settled,
            sent_blocks: metrics::counter!("fula_pins_sent_blocks_total", "target" => label.clone()),
            sent_bytes: metrics::counter!("fula_pins_sent_bytes_total", "target" => label.clone()),
        };
        if pinned.stale.len() >= STALE_MAX {
            self.remove(target, &pinned.stale).await?;
            pinned.stale.clear();
            self.set(bucket, n, pinned.clone()).await?;
        }
        let known: Option<Cid> = pinned.root.as_ref().and_then(|root| root.parse().ok());
        let done = match target {
            Target::Kubo(kubo) => {
                // The note comes first: what a process that ends here has pinned is found by its name.
                if !record.targets.contains_key(name) {
                    self.set(bucket, n, Pinned::default()).await?;
                }
                let (root, version) = kubo.pin(&job, known, pinned.lost).await?;
                Pinned { root: Some(root.to_string()), version, ..Pinned::default() }
            }
            Target::Cluster(cluster) => {
                let mut next = pinned.clone();
                let text = root.to_string();
                if pinned.root.as_ref() != Some(&text) {
                    // A cluster that is away is not asked for anything.
                    cluster.has_pin(root).await?;
                    next.note_stale(pinned.root.clone().unwrap_or_default());
                    next.note_stale(text.clone());
                    next.root = None;
                    self.set(bucket, n, next.clone()).await?;
                    cluster.pin(root, &job.name()).await?;
                }
                next.stale.retain(|old| *old != text);
                self.remove(target, &next.stale).await?;
                Pinned { root: Some(text), version, ..Pinned::default() }
            }
            Target::Psa(service) => {
                let mut next = pinned.clone();
                let text = root.to_string();
                let mut id = pinned.id.clone();
                if pinned.root.as_ref() != Some(&text) {
                    let before = std::mem::take(&mut next.id);
                    next.note_stale(before);
                    next.root = None;
                    self.set(bucket, n, next.clone()).await?;
                    let (begun, outcome) =
                        service.pin(root, &job.name(), &self.origins().await).await?;
                    next.note_stale(begun.clone());
                    self.set(bucket, n, next.clone()).await?;
                    outcome?;
                    id = begun;
                }
                next.stale.retain(|old| *old != id);
                self.remove(target, &next.stale).await?;
                Pinned { root: Some(text), version, id, ..Pinned::default() }
            }
        };
        metrics::counter!("fula_pins_done_total", "target" => label.clone()).increment(1);
        let at_ms = self.now().await?;
        self.set(bucket, n, Pinned { at_ms, ..done }).await
    }

    /// Removes roots, or requests, from a target.
    async fn remove(&self, target: &Target, stale: &[String]) -> Result<(), String> {
        for old in stale {
            match target {
                Target::Kubo(_) => {}
                Target::Cluster(cluster) => cluster.unpin(old).await?,
                Target::Psa(service) => service.unpin(old).await?,
            }
        }
        Ok(())
    }

    /// Returns where pinning services find the blocks.
    async fn origins(&self) -> Vec<String> {
        for (_, target) in &self.targets {
            if let Target::Kubo(kubo) = target
                && let Ok(addresses) = kubo.addresses().await
            {
                return addresses;
            }
        }
        Vec::new()
    }

    async fn unpin(&self, bucket: &BucketAddress, n: usize, pinned: &Pinned) -> Result<(), String> {
        let (name, target) = &self.targets[n];
        let mut all = pinned.stale.clone();
        match target {
            Target::Kubo(kubo) => kubo.unpin(&bucket.to_string()).await?,
            Target::Cluster(_) => all.extend(pinned.root.clone()),
            Target::Psa(_) => all.extend(Some(pinned.id.clone()).filter(|id| !id.is_empty())),
        }
        self.remove(target, &all).await?;
        let name = name.clone();
        self.update(bucket, move |record| drop(record.targets.remove(&name))).await.map(drop)
    }

    /// Records what a target has.
    ///
    /// # Errors
    /// The record cannot be written, or another master has taken the bucket over.
    pub(super) async fn set(
        &self,
        bucket: &BucketAddress,
        n: usize,
        pinned: Pinned,
    ) -> Result<(), String> {
        let name = self.targets[n].0.clone();
        let set = move |record: &mut Record| drop(record.targets.insert(name, pinned));
        if self.update(bucket, set).await? {
            return Ok(());
        }
        Err("another master pins this bucket now".to_owned())
    }

    /// Notes how a change has ended.
    fn note(&self, bucket: &BucketAddress, n: usize, result: Result<(), String>) {
        let (now, mut buckets) = (Instant::now(), self.buckets.lock());
        let Some(known) = buckets.get_mut(bucket) else { return };
        let progress = &mut known.targets[n];
        (progress.is_busy, progress.is_settled) = (false, result.is_ok());
        match result {
            Ok(()) => {
                (progress.failures, progress.error) = (0, None);
                progress.not_before = Some(now + self.config.interval);
            }
            Err(error) => {
                let target = &self.targets[n].0;
                let label = self.labels[n].clone();
                metrics::counter!("fula_pins_failures_total", "target" => label).increment(1);
                progress.failures += 1;
                progress.not_before = Some(now + pause_after(progress.failures));
                if progress.failures == 1 {
                    tracing::warn!(%bucket, target, error, "a pin was not changed; it is tried again");
                }
                progress.error = Some(error);
            }
        }
    }
}
