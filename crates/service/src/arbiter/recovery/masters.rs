//! The list of masters of a shared arbiter: when each was last seen, and which of them recoveries wait for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    metadata::{Table, WriteOutcome},
    root::TimeMs,
};
use serde::{Deserialize, Serialize};

use super::{
    Recovery,
    records::{Lease, json, records},
};
use crate::error::{Applied, ServiceError};

/// Interval between two heartbeats of a master.
pub(super) const BEAT: Duration = Duration::from_secs(15);

/// Time in milliseconds within which a master must have been seen to count as alive.
const ALIVE_MS: TimeMs = 60_000;

/// Number of times that a write of a record is repeated because another master wrote it.
const TRIES: usize = 8;

/// Longest text in a master's description of itself, in characters.
const TEXT_MAX: usize = 255;

/// A master's description of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MasterInfo {
    /// Name of the machine that it runs on.
    pub host: String,
    /// Address at which it serves S3.
    pub address: String,
    /// Version of the program.
    pub version: String,
    /// Fingerprints of the lines of its key file. Earlier versions do not tell.
    pub secrets_keys: Vec<String>,
}

/// A master's record in the arbiter. Earlier versions wrote an empty one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MasterRecord {
    #[serde(flatten)]
    pub(super) info: MasterInfo,
    /// Time of its last heartbeat, by the arbiter's clock.
    pub(super) seen: Option<TimeMs>,
    /// Its lease, where masters share blocks. Earlier versions have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<Lease>,
    /// Id of the last round before a drop in which it took part. Earlier versions take part in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dropping: Option<String>,
}

impl MasterRecord {
    pub(super) fn is_alive(&self, now: TimeMs) -> bool {
        self.seen.is_some_and(|seen| now.saturating_sub(seen) < ALIVE_MS)
    }
}

/// One master of a shared arbiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Master {
    /// Name of the master, drawn at its first start.
    pub name: String,
    /// Its description of itself.
    #[serde(flatten)]
    pub info: MasterInfo,
    /// Time at which it was last seen, by the arbiter's clock; `None` if it never sent a heartbeat.
    pub seen_ms: Option<TimeMs>,
    /// Time since then in milliseconds.
    pub age_ms: Option<TimeMs>,
    /// Whether it was seen within the last minute.
    pub is_alive: bool,
    /// Whether it is the master that answers.
    pub is_self: bool,
}

/// The outcome of removing a master from the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The master was removed.
    Done,
    /// No master has this name.
    Unknown,
    /// The master was not removed, because it was seen this many milliseconds ago.
    Alive(TimeMs),
}

impl Recovery {
    /// Returns the name of this master.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records the description of this master in the arbiter, with a heartbeat.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn introduce(&self, info: MasterInfo) -> Result<(), ServiceError> {
        let bounded = |text: String| text.chars().take(TEXT_MAX).collect();
        let MasterInfo { host, address, version, secrets_keys } = info;
        *self.info.lock() = MasterInfo {
            host: bounded(host),
            address: bounded(address),
            version: bounded(version),
            secrets_keys,
        };
        self.beat().await
    }

    /// Records a heartbeat of this master in the arbiter. A master that was removed is on the list again.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn beat(&self) -> Result<(), ServiceError> {
        if !self.is_master {
            return Ok(());
        }
        let now = self.arbiter_time().await?;
        let entry = self.metadata.read(Table::Masters, &self.name).await?;
        let version = entry.as_ref().map_or(0, |entry| entry.version);
        let kept = entry.as_ref().and_then(|entry| entry.value.as_ref());
        let kept: Option<MasterRecord> = kept.and_then(|value| serde_json::from_slice(value).ok());
        if entry.is_some_and(|entry| entry.value.is_none()) {
            let master = &self.name;
            tracing::warn!(
                master,
                "this master was removed, but is running: it is on the list again"
            );
        }
        let kept = kept.unwrap_or_default();
        let lease = self.next_lease(kept.lease, now).await?;
        let dropping = self.next_round(kept.dropping).await;
        let info = self.info.lock().clone();
        let record = MasterRecord { info, seen: Some(now), lease: lease.clone(), dropping };
        // This master writes its record, an operator who removes it, and a collector that takes the lease
        // away. In these cases the next heartbeat succeeds.
        let value = Some(json(&record));
        let written = self.metadata.write(Table::Masters, &self.name, version, value).await?;
        if let (WriteOutcome::Done(_), Some(lease)) = (written, lease) {
            self.use_lease(lease).await?;
        }
        self.look_at_masters().await
    }

    /// Records the list of masters on this master's own disk, and counts them.
    pub(super) async fn look_at_masters(&self) -> Result<(), ServiceError> {
        let now = self.arbiter.now().await?;
        let masters = self.known_masters().await?;
        let alive = masters.values().filter(|record| record.is_alive(now)).count();
        let gauge = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        metrics::gauge!("fula_masters").set(gauge(masters.len()));
        metrics::gauge!("fula_masters_seen").set(gauge(alive));
        Ok(())
    }

    /// Returns the arbiter's time, even while the arbiter is in doubt.
    async fn arbiter_time(&self) -> Result<TimeMs, ServiceError> {
        Ok(self.arbiter.unchecked().get_roots(&[]).await?.time)
    }

    /// Puts this master on the list that recoveries wait for, again if it was removed.
    pub(super) async fn register(&self) -> Result<(), ServiceError> {
        if !self.is_master {
            return Ok(());
        }
        let entry = self.metadata.read(Table::Masters, &self.name).await?;
        let version = entry.as_ref().map_or(0, |entry| entry.version);
        let was_removed = entry.as_ref().is_some_and(|entry| entry.value.is_none());
        if was_removed {
            self.forget_what_was_dropped().await?;
        }
        if entry.is_none() || was_removed {
            let info = self.info.lock().clone();
            let record = MasterRecord { info, ..MasterRecord::default() };
            self.metadata.write(Table::Masters, &self.name, version, Some(json(&record))).await?;
        }
        Ok(())
    }

    /// Returns the masters that a recovery waits for: those on the arbiter's list, and those that this
    /// master knows from before the arbiter went back.
    pub(super) async fn masters(&self) -> Result<BTreeSet<String>, ServiceError> {
        Ok(self.known_masters().await?.into_keys().collect())
    }

    /// Does the same, with their records on the arbiter's list.
    pub(super) async fn known_masters(
        &self,
    ) -> Result<BTreeMap<String, MasterRecord>, ServiceError> {
        let mut masters: BTreeMap<String, MasterRecord> = BTreeMap::new();
        for (name, value) in records(self.metadata.as_ref(), Table::Masters, "").await? {
            let known = self.memory.read(Table::Masters, &name).await?;
            if known.as_ref().is_none_or(|known| known.value.is_none()) {
                let version = known.map_or(0, |known| known.version);
                self.note_master(&name, version, true).await;
            }
            masters.insert(name, serde_json::from_slice(&value).unwrap_or_default());
        }
        for (name, _) in records(self.memory.as_ref(), Table::Masters, "").await? {
            if masters.contains_key(&name) {
                continue;
            }
            match self.metadata.read(Table::Masters, &name).await? {
                // An operator has removed it.
                Some(_) => {
                    let known = self.memory.read(Table::Masters, &name).await?;
                    let version = known.map_or(0, |known| known.version);
                    self.note_master(&name, version, false).await;
                }
                None => drop(masters.insert(name, MasterRecord::default())),
            }
        }
        Ok(masters)
    }

    /// Records on this master's own disk whether a master is on the arbiter's list. If that disk cannot be
    /// written, this master still takes part in recoveries, and writes no bucket meanwhile.
    async fn note_master(&self, name: &str, version: u64, is_listed: bool) {
        let value = is_listed.then(|| Bytes::from_static(b"{}"));
        if let Err(error) = self.memory.write(Table::Masters, name, version, value).await {
            self.arbiter.guard().note_disk_failure(error.into());
        }
    }

    /// Returns the masters that a recovery waits for, and when each was last seen.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn list_masters(&self) -> Result<Vec<Master>, ServiceError> {
        let known = self.known_masters().await?;
        let now = self.arbiter_time().await?;
        let masters = known.into_iter().map(|(name, record)| {
            let (is_alive, is_self) = (record.is_alive(now), name == self.name);
            let MasterRecord { info, seen, .. } = record;
            let age_ms = seen.map(|seen| now.saturating_sub(seen));
            Master { name, info, seen_ms: seen, age_ms, is_alive, is_self }
        });
        Ok(masters.collect())
    }

    /// Removes a master that will not come back, so that recoveries no longer wait for it. A master that
    /// was seen within the last minute stays, unless `force` is set. If it is alive, it is on the list
    /// again within 15 seconds.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]; [`ServiceError::Busy`]: its record keeps changing.
    pub async fn forget_master(&self, name: &str, force: bool) -> Result<Forgotten, ServiceError> {
        let masters = self.list_masters().await?;
        let Some(master) = masters.iter().find(|master| master.name == name) else {
            return Ok(Forgotten::Unknown);
        };
        if let Some(age) = master.age_ms.filter(|_| master.is_alive && !force) {
            return Ok(Forgotten::Alive(age));
        }
        // A name that the arbiter does not list is written first, so that its deletion is on record.
        self.metadata.write(Table::Masters, name, 0, Some(Bytes::from_static(b"{}"))).await?;
        // The master may send a heartbeat in the meantime.
        for _ in 0..TRIES {
            let entry = self.metadata.read(Table::Masters, name).await?;
            let version = entry.map_or(0, |entry| entry.version);
            let written = self.metadata.write(Table::Masters, name, version, None).await?;
            if matches!(written, WriteOutcome::Done(_)) {
                self.masters().await?;
                return Ok(Forgotten::Done);
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }
}
