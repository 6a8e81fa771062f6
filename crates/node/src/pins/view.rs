//! What operators ask about pins: lists, checks, and another attempt.

use std::sync::Arc;

use async_trait::async_trait;
use fula_core::{BucketAddress, Cid};
use fula_service::error::chain;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Bucket, Current, Pinner, Target, kubo::Lost, record::Pinned};
use crate::state::{Pins, PinsAction};

#[async_trait]
impl Pins for Pinner {
    async fn carry_out(
        self: Arc<Self>,
        action: PinsAction,
        bucket: Option<&str>,
        say: &(dyn Fn(String) + Sync),
    ) -> Result<Value, String> {
        // What was written so far is taken into account.
        self.look().await?;
        Ok(match action {
            PinsAction::List => self.list(bucket),
            PinsAction::Status => self.status(),
            PinsAction::Retry => self.retry(bucket),
            PinsAction::Verify => self.verify(bucket, say).await,
        })
    }
}

impl Pinner {
    fn chosen(&self, name: Option<&str>) -> Vec<BucketAddress> {
        let buckets = self.buckets.lock();
        let mut found: Vec<BucketAddress> = buckets
            .keys()
            .filter(|bucket| name.is_none_or(|name| bucket.name.as_str() == name))
            .cloned()
            .collect();
        found.sort();
        found
    }

    /// Returns what each target has of each bucket.
    fn list(&self, name: Option<&str>) -> Value {
        let chosen = self.chosen(name);
        let buckets = self.buckets.lock();
        let known = chosen.iter().filter_map(|bucket| Some((bucket, buckets.get(bucket)?)));
        let lines = known.flat_map(|(bucket, known)| {
            self.targets
                .iter()
                .enumerate()
                .map(move |(n, (target, _))| self.line(bucket, known, n, target))
        });
        Value::Array(lines.collect())
    }

    fn line(&self, bucket: &BucketAddress, known: &Bucket, n: usize, target: &str) -> Value {
        let (progress, pinned) = (&known.targets[n], known.record.targets.get(target));
        let seconds = |since: Option<Instant>| since.map(|since| since.elapsed().as_secs());
        let waits = progress
            .not_before
            .map(|time| time.saturating_duration_since(Instant::now()).as_secs());
        json!({
            "bucket": bucket.name.as_str(),
            "owner": bucket.owner.to_string(),
            "target": target,
            "root": known.current.map(|current| current.root.to_string()),
            "version": known.current.map(|current| current.version),
            "pinned_root": pinned.and_then(|pinned| pinned.root.clone()),
            "pinned_version": pinned.map(|pinned| pinned.version),
            "pinned_ms": pinned.map(|pinned| pinned.at_ms),
            "behind_s": seconds(progress.behind_since),
            "busy": progress.is_busy,
            "failures": progress.failures,
            "error": progress.error,
            "tried_in_s": waits.filter(|_| progress.failures > 0),
            "master": known.record.holder.by,
            "here": known.record.holder.by == self.own,
        })
    }

    /// Returns for each target how far it is behind.
    fn status(&self) -> Value {
        let buckets = self.buckets.lock();
        let targets = self.targets.iter().enumerate().map(|(n, (target, _))| {
            let all = || buckets.values().map(|bucket| &bucket.targets[n]);
            let behind = all().filter(|progress| progress.behind_since.is_some()).count();
            let lag = all().filter_map(|progress| progress.behind_since).min();
            let failing = all().filter(|progress| progress.failures > 0).count();
            json!({
                "target": target,
                "buckets": buckets.values().filter(|bucket| bucket.current.is_some()).count(),
                "behind": behind,
                "lag_s": lag.map_or(0, |since| since.elapsed().as_secs()),
                "failing": failing,
                "error": all().find_map(|progress| progress.error.clone()),
            })
        });
        json!({"targets": targets.collect::<Vec<_>>()})
    }

    /// Ends all pauses, so that the next look tries again.
    fn retry(&self, name: Option<&str>) -> Value {
        let chosen = self.chosen(name);
        let mut buckets = self.buckets.lock();
        let mut tried = 0;
        for bucket in &chosen {
            let Some(known) = buckets.get_mut(bucket) else { continue };
            for progress in known.targets.iter_mut().filter(|progress| progress.failures > 0) {
                progress.not_before = None;
                tried += 1;
            }
        }
        self.look_soon();
        json!({"retried": tried})
    }

    /// Checks what targets have, and has them get again what they have lost. Calls `say` with each step.
    async fn verify(self: &Arc<Self>, name: Option<&str>, say: &(dyn Fn(String) + Sync)) -> Value {
        let mut lines = Vec::new();
        for bucket in self.chosen(name) {
            for n in 0..self.targets.len() {
                say(format!("checking bucket {} at {}", bucket.name, self.targets[n].0));
                lines.extend(self.verify_one(&bucket, n).await);
            }
        }
        self.look_soon();
        Value::Array(lines)
    }

    async fn verify_one(&self, bucket: &BucketAddress, n: usize) -> Option<Value> {
        let (name, target) = &self.targets[n];
        let (current, pinned) = {
            let buckets = self.buckets.lock();
            let known = buckets.get(bucket)?;
            (known.current?, known.record.targets.get(name).cloned().unwrap_or_default())
        };
        let line = |state: &str, why: Option<String>| {
            Some(json!({
                "bucket": bucket.name.as_str(),
                "owner": bucket.owner.to_string(),
                "target": name,
                "state": state,
                "why": why,
            }))
        };
        let Some(root) = pinned.root.as_ref().and_then(|root| root.parse::<Cid>().ok()) else {
            return line("behind", None);
        };
        let lost = match self.compare(bucket, target, root, &pinned, current).await {
            Ok(None) => return line("whole", None),
            Ok(Some(why)) => why,
            Err(why) if why.is_empty() => return line("behind", None),
            Err(why) => return line("unknown", Some(why)),
        };
        // The target is behind from now on. A kubo gets the whole bucket.
        let forgotten = Pinned { root: None, lost: true, ..pinned };
        match self.set(bucket, n, forgotten).await {
            Ok(()) => line("lost", Some(lost)),
            Err(why) => line("unknown", Some(format!("{lost}; and {why}"))),
        }
    }

    /// Compares what a target has of a root. Returns what it lacks.
    ///
    /// # Errors
    /// Why that is not known; nothing while the target has not got the current root yet.
    async fn compare(
        &self,
        bucket: &BucketAddress,
        target: &Target,
        root: Cid,
        pinned: &Pinned,
        current: Current,
    ) -> Result<Option<String>, String> {
        let has_pin = match target {
            Target::Kubo(kubo) => kubo.has_pin(root).await?,
            Target::Cluster(cluster) => cluster.has_pin(root).await?,
            Target::Psa(service) => service.has_pin(&pinned.id).await?,
        };
        if !has_pin {
            return Ok(Some(format!("it does not pin {root}")));
        }
        let Target::Kubo(kubo) = target else { return Ok(None) };
        let there = match kubo.stat(root, current.objects).await {
            Ok(there) => there,
            Err(Lost::Away(why)) => return Err(why),
            Err(Lost::Block(why)) => return Ok(Some(why)),
        };
        let tally = self.node.service.tally(bucket).await.map_err(|error| chain(&error))?;
        let (now, tally) = tally;
        // The bucket has changed: what the target has is that of an older root.
        if root != now {
            return Err(String::new());
        }
        let told = |(blocks, bytes): (u64, u64)| format!("{blocks} blocks of {bytes} bytes");
        Ok((there != tally)
            .then(|| format!("it has {}, and the bucket {}", told(there), told(tally))))
    }
}
