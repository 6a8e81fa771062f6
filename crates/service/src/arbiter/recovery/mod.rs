//! Recovery from an arbiter that went back in time (docs/adr/0008).
//!
//! The master that notices opens a recovery in the metadata store. Every master joins it, writes no bucket
//! meanwhile, and posts the states that it remembers and the arbiter lacks. Once all known masters have
//! posted, or an operator forces it, each bucket is healed: a new root is published on top of the claim
//! that includes all others. Claims that exclude one another are a fork: they are kept, and the bucket is
//! sealed and reported.

mod drops;
mod heal;
mod leases;
mod masters;
mod records;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    BucketAddress, MetadataStore, WriterId,
    metadata::{Table, WriteOutcome},
};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

pub(super) use self::heal::Candidate;
use self::{
    masters::BEAT,
    records::{Current, Posted, json, parse, records},
};
pub use self::{
    masters::{Forgotten, Master, MasterInfo},
    records::RecoveryClaim,
};
use super::Arbiter;
use crate::{
    Random,
    error::{ServiceError, chain},
    names::NamePolicy,
};

/// Interval between two looks at the arbiter.
const LOOK: Duration = Duration::from_secs(1);

/// Name of the record of the recovery under way, or of the last one.
const CURRENT: &str = "current";

/// Name of the record on this master's disk that holds its own name.
const SELF: &str = "self";

/// Number of known buckets that are compared with the arbiter at each look outside a recovery.
const COMPARED_A_LOOK: usize = 64;

/// The state of the arbiter and of the recovery, for operators.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Reason why nothing is written; `None` when there is no alarm.
    pub alarm: Option<String>,
    /// Known masters, and whether each has posted its claims.
    pub masters: BTreeMap<String, bool>,
    /// Buckets that are quarantined as forks, with their claims.
    pub forks: BTreeMap<String, Vec<RecoveryClaim>>,
    /// Buckets that the last recovery healed.
    pub healed: Vec<String>,
}

/// The buckets that are quarantined as forks, with the claims on each.
pub(crate) type Forks = BTreeMap<BucketAddress, Vec<RecoveryClaim>>;

/// The part that one master takes in recoveries.
#[derive(Clone)]
pub struct Recovery {
    arbiter: Arbiter,
    metadata: Arc<dyn MetadataStore>,
    /// This master's own disk. It remembers every known master, in case the arbiter forgets them.
    memory: Arc<dyn MetadataStore>,
    name: String,
    /// Description of this master.
    info: Arc<Mutex<MasterInfo>>,
    /// Whether recoveries wait for this process; `false` for administrative commands.
    is_master: bool,
    /// Policy of which buckets hold their global name.
    names: NamePolicy,
    /// Writer id of recoveries, different from that of the pipeline: `authors` must never mix up their
    /// commits.
    writer: WriterId,
    /// The bucket that was last compared with the arbiter.
    compared: Arc<Mutex<Option<BucketAddress>>>,
    random: Random,
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recovery").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Recovery {
    /// Takes part under the name kept in `memory`, which is drawn at the first start. Recoveries wait for
    /// this process if `is_master`.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn open(
        arbiter: Arbiter,
        metadata: Arc<dyn MetadataStore>,
        memory: Arc<dyn MetadataStore>,
        random: &Random,
        names: NamePolicy,
        is_master: bool,
    ) -> Result<Self, ServiceError> {
        let known = memory.read(Table::Remembered, SELF).await?.and_then(|entry| entry.value);
        let name = if let Some(name) = known {
            String::from_utf8_lossy(&name).into_owned()
        } else {
            let mut bytes = [0; 8];
            random(&mut bytes);
            let name = hex::encode(bytes);
            let value = Some(Bytes::from(name.clone()));
            memory.write(Table::Remembered, SELF, 0, value).await?;
            name
        };
        let mut writer = [0; 16];
        random(&mut writer);
        let writer = WriterId(writer);
        let recovery = Self {
            arbiter,
            metadata,
            memory,
            name,
            info: Arc::default(),
            is_master,
            names,
            writer,
            compared: Arc::default(),
            random: Arc::clone(random),
        };
        let known = recovery.arbiter.guard().all_known();
        let highest = known.iter().map(|(_, known)| known.pointer.generation).max();
        recovery.arbiter.observe_generation(highest.unwrap_or_default());
        recovery.register().await?;
        // From here on this master knows how far the arbiter had come, and of a recovery under way. A disk
        // that cannot be written is reported by the guard, and does not prevent reads.
        recovery.look().await?;
        drop(recovery.arbiter.guard().flush().await);
        Ok(recovery)
    }

    /// Looks at the arbiter every second, for ever, and sends heartbeats.
    pub async fn run(self) {
        let mut was_well = true;
        let (mut beaten, mut told) = (Instant::now(), self.arbiter.generation());
        loop {
            tokio::time::sleep(LOOK).await;
            // A collector waits until each master has seen the generation.
            let generation = self.arbiter.generation();
            if beaten.elapsed() >= BEAT || generation > told {
                (beaten, told) = (Instant::now(), generation);
                if let Err(error) = self.beat().await {
                    tracing::debug!(
                        error = chain(&error),
                        "cannot send a heartbeat to the arbiter"
                    );
                }
            }
            let looked = self.tick().await;
            if let Err(error) = &looked
                && was_well
            {
                tracing::warn!(error = chain(error), "cannot check the arbiter; trying again");
            }
            was_well = looked.is_ok();
        }
    }

    /// Looks at the arbiter once: notices when it went back, takes part in a recovery under way, and writes
    /// down what was learnt.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: try again later.
    pub async fn tick(&self) -> Result<(), ServiceError> {
        let looked = self.look().await;
        // A disk that cannot be written does not keep this master from taking part in recoveries.
        let kept = self.arbiter.guard().flush().await;
        looked.and(kept)
    }

    async fn look(&self) -> Result<(), ServiceError> {
        let guard = self.arbiter.guard();
        // A few known buckets are compared at each look: one that no request asks for may have gone back
        // too.
        let after = self.compared.lock().clone();
        let page = guard.known_after(after.as_ref(), COMPARED_A_LOOK);
        *self.compared.lock() = page.last().map(|(bucket, _)| bucket.clone());
        let mark = self.arbiter.compare(&page).await?;
        let found = self.current().await?;
        let alarm = guard.alarm();
        match (found, alarm) {
            (Some((version, current)), _) if !current.closed => {
                guard.join(&current.id, &current.reason);
                self.take_part(version, current).await
            }
            (found, Some(alarm)) => {
                let is_over = |(_, current): &(u64, Current)| {
                    alarm.recovery.as_ref().is_some_and(|joined| *joined == current.id)
                };
                if alarm.recovery.is_some() && found.as_ref().is_some_and(is_over) {
                    guard.calm(mark, self.forked().await?);
                    return self.register().await;
                }
                let version = found.map_or(0, |(version, _)| version);
                self.begin(version, &alarm.reason).await
            }
            (_, None) => {
                guard.set_forked(self.forked().await?);
                self.look_at_masters().await
            }
        }
    }

    async fn current(&self) -> Result<Option<(u64, Current)>, ServiceError> {
        let Some(entry) = self.metadata.read(Table::Recovery, CURRENT).await? else {
            return Ok(None);
        };
        let Some(value) = entry.value else { return Ok(None) };
        Ok(Some((entry.version, parse(&value)?)))
    }

    async fn write_current(&self, version: u64, current: &Current) -> Result<bool, ServiceError> {
        let value = Some(json(current));
        let written = self.metadata.write(Table::Recovery, CURRENT, version, value).await?;
        Ok(matches!(written, WriteOutcome::Done(_)))
    }

    async fn begin(&self, version: u64, reason: &str) -> Result<(), ServiceError> {
        self.register().await?;
        let now = self.arbiter.now().await?;
        let current = Current {
            id: format!("{now}-{}", self.name),
            reason: reason.to_owned(),
            forced: false,
            closed: false,
            healed: Vec::new(),
        };
        self.write_current(version, &current).await.map(drop)
    }

    /// Posts what this master remembers, and heals once all masters have posted.
    async fn take_part(&self, version: u64, current: Current) -> Result<(), ServiceError> {
        let ack = format!("ack/{}/{}", current.id, self.name);
        if self.metadata.read(Table::Recovery, &ack).await?.is_none() {
            self.register().await?;
            for (bucket, known) in self.lacking().await? {
                let name = format!("claim/{}/{bucket}/{}", current.id, self.name);
                let claim = RecoveryClaim {
                    root: known.pointer.root.to_string(),
                    version: known.pointer.version,
                };
                self.metadata.write(Table::Recovery, &name, 0, Some(json(&claim))).await?;
            }
            let value = Some(json(&Posted { generation: self.arbiter.generation() }));
            self.metadata.write(Table::Recovery, &ack, 0, value).await?;
        }
        let all_posted = self.posted(&current.id).await?.values().all(|posted| *posted);
        if all_posted || current.forced { self.close(version, current).await } else { Ok(()) }
    }

    /// Returns every known master, and whether it has posted.
    async fn posted(&self, id: &str) -> Result<BTreeMap<String, bool>, ServiceError> {
        let prefix = format!("ack/{id}/");
        let acks = self.records(&prefix).await?;
        let acks: BTreeSet<&str> =
            acks.iter().filter_map(|(name, _)| name.strip_prefix(&prefix)).collect();
        let posted = |name: String| {
            let posted = acks.contains(name.as_str());
            (name, posted)
        };
        Ok(self.masters().await?.into_iter().map(posted).collect())
    }

    /// Returns the records about recoveries whose names begin with `prefix`.
    async fn records(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, ServiceError> {
        records(self.metadata.as_ref(), Table::Recovery, prefix).await
    }

    /// Returns the buckets that are quarantined as forks.
    async fn forked(&self) -> Result<BTreeSet<BucketAddress>, ServiceError> {
        Ok(self.forks().await?.into_keys().collect())
    }

    /// Returns the buckets that are quarantined as forks, with the claims on each.
    pub(crate) async fn forks(&self) -> Result<Forks, ServiceError> {
        let mut forks = Forks::new();
        for (name, claims) in self.records("fork/").await? {
            let bucket = name.strip_prefix("fork/").and_then(|name| name.parse().ok());
            if let Some(bucket) = bucket {
                forks.insert(bucket, parse(&claims)?);
            }
        }
        Ok(forks)
    }

    /// Returns the claims on a forked bucket, and the version of their record.
    pub(super) async fn fork(
        &self,
        bucket: &BucketAddress,
    ) -> Result<Option<(u64, Vec<RecoveryClaim>)>, ServiceError> {
        let name = format!("fork/{bucket}");
        let Some(entry) = self.metadata.read(Table::Recovery, &name).await? else {
            return Ok(None);
        };
        let Some(value) = entry.value else { return Ok(None) };
        Ok(Some((entry.version, parse(&value)?)))
    }

    /// Unseals a bucket that was merged.
    pub(super) async fn end_fork(
        &self,
        bucket: &BucketAddress,
        version: u64,
    ) -> Result<(), ServiceError> {
        let name = format!("fork/{bucket}");
        self.metadata.write(Table::Recovery, &name, version, None).await?;
        self.arbiter.guard().set_forked(self.forked().await?);
        Ok(())
    }

    /// Continues the recovery without masters that have not posted.
    ///
    /// # Errors
    /// [`ServiceError::InvalidRequest`] when no recovery is under way.
    pub async fn force(&self) -> Result<(), ServiceError> {
        self.tick().await?;
        match self.current().await? {
            Some((version, mut current)) if !current.closed => {
                current.forced = true;
                self.write_current(version, &current).await?;
                self.tick().await?;
                self.tick().await
            }
            _ => Err(ServiceError::InvalidRequest("no recovery is under way".to_owned())),
        }
    }

    /// Returns the state of the arbiter and of the recovery.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn status(&self) -> Result<Status, ServiceError> {
        let alarm = self.arbiter.guard().alarm().map(|alarm| alarm.reason);
        let current = self.current().await?;
        let id = current.as_ref().map(|(_, current)| current.id.clone()).unwrap_or_default();
        let healed = current.map(|(_, current)| current.healed).unwrap_or_default();
        let mut forks = BTreeMap::new();
        for (name, value) in self.records("fork/").await? {
            let name = name.strip_prefix("fork/").unwrap_or_default().to_owned();
            forks.insert(name, parse(&value)?);
        }
        Ok(Status { alarm, masters: self.posted(&id).await?, forks, healed })
    }

    /// Returns the arbiter that the recovery is about.
    pub(super) fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }
}
