//! The masters of a shared arbiter: who they are, when each was last seen, and whom recoveries wait for.

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
    records::{json, records},
};
use crate::error::{Applied, ServiceError};

/// Between two notes of a master that it lives.
pub(super) const BEAT: Duration = Duration::from_secs(15);

/// A master that was seen within this time counts as alive, in milliseconds.
const ALIVE_MS: TimeMs = 60_000;

/// Times that a record is written again because somebody else wrote it.
const TRIES: usize = 8;

/// Longest text that a master says of itself, in characters.
const TEXT_MAX: usize = 255;

/// What a master says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MasterInfo {
    /// The machine that it runs on.
    pub host: String,
    /// Where it serves S3.
    pub address: String,
    /// Its version.
    pub version: String,
}

/// A master's record in the arbiter. Earlier versions wrote an empty one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct MasterRecord {
    #[serde(flatten)]
    info: MasterInfo,
    /// When it last said that it lives, by the arbiter's clock.
    seen: Option<TimeMs>,
}

impl MasterRecord {
    fn is_alive(&self, now: TimeMs) -> bool {
        self.seen.is_some_and(|seen| now.saturating_sub(seen) < ALIVE_MS)
    }
}

/// One master of a shared arbiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Master {
    /// Its name, made up at its first start.
    pub name: String,
    /// What it says of itself.
    #[serde(flatten)]
    pub info: MasterInfo,
    /// When it was last seen, by the arbiter's clock; unknown for one that never said.
    pub seen_ms: Option<TimeMs>,
    /// How long ago that was, in milliseconds.
    pub age_ms: Option<TimeMs>,
    /// Whether it was seen within the last minute.
    pub is_alive: bool,
    /// Whether it is the one that was asked.
    pub is_self: bool,
}

/// What came of striking a master off the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It is off the list.
    Done,
    /// No master has that name.
    Unknown,
    /// It stays: it was seen so many milliseconds ago.
    Alive(TimeMs),
}

impl Recovery {
    /// Returns the name of this master.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says who this master is, and that it lives.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn introduce(&self, info: MasterInfo) -> Result<(), ServiceError> {
        let bounded = |text: String| text.chars().take(TEXT_MAX).collect();
        let MasterInfo { host, address, version } = info;
        *self.info.lock() = MasterInfo {
            host: bounded(host),
            address: bounded(address),
            version: bounded(version),
        };
        self.beat().await
    }

    /// Notes in the arbiter that this master lives. One that was struck off the list is on it again.
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
        if entry.is_some_and(|entry| entry.value.is_none()) {
            let master = &self.name;
            tracing::warn!(master, "this master was forgotten and lives: it is on the list again");
        }
        let record = MasterRecord { info: self.info.lock().clone(), seen: Some(now) };
        // Only this master writes its record, and an operator who forgets it: then the next beat does.
        self.metadata.write(Table::Masters, &self.name, version, Some(json(&record))).await?;
        self.look_at_masters().await
    }

    /// Notes on this master's own disk which masters there are, and counts them.
    pub(super) async fn look_at_masters(&self) -> Result<(), ServiceError> {
        let now = self.arbiter.now().await?;
        let masters = self.known_masters().await?;
        let alive = masters.values().filter(|record| record.is_alive(now)).count();
        let gauge = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        metrics::gauge!("fula_masters").set(gauge(masters.len()));
        metrics::gauge!("fula_masters_seen").set(gauge(alive));
        Ok(())
    }

    /// Returns the arbiter's time, also while it is in doubt.
    async fn arbiter_time(&self) -> Result<TimeMs, ServiceError> {
        Ok(self.arbiter.unchecked().get_roots(&[]).await?.time)
    }

    /// Makes this master one of those that a recovery waits for, again if it was forgotten.
    pub(super) async fn register(&self) -> Result<(), ServiceError> {
        if !self.is_master {
            return Ok(());
        }
        let entry = self.metadata.read(Table::Masters, &self.name).await?;
        let version = entry.as_ref().map_or(0, |entry| entry.version);
        if entry.is_none_or(|entry| entry.value.is_none()) {
            let record = MasterRecord { info: self.info.lock().clone(), seen: None };
            self.metadata.write(Table::Masters, &self.name, version, Some(json(&record))).await?;
        }
        Ok(())
    }

    /// Returns the masters that a recovery waits for: those in the arbiter's list, and those that
    /// this master knows of from before the arbiter went back.
    pub(super) async fn masters(&self) -> Result<BTreeSet<String>, ServiceError> {
        Ok(self.known_masters().await?.into_keys().collect())
    }

    /// The same, with their records in the arbiter's list.
    async fn known_masters(&self) -> Result<BTreeMap<String, MasterRecord>, ServiceError> {
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
                // Struck off the list by an operator.
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

    /// Notes on this master's own disk whether a master is on the arbiter's list. A disk that cannot be
    /// written must not keep this master from the others' recoveries; it writes no bucket meanwhile.
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
            let MasterRecord { info, seen } = record;
            let age_ms = seen.map(|seen| now.saturating_sub(seen));
            Master { name, info, seen_ms: seen, age_ms, is_alive, is_self }
        });
        Ok(masters.collect())
    }

    /// Strikes a master that will not come back off the list: a recovery no longer waits for what it
    /// remembers. One that was seen within the last minute stays, unless `force` is set; if it lives, it
    /// is on the list again within 15 seconds.
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
        // What the arbiter does not list is written first, so that its deletion is on record.
        self.metadata.write(Table::Masters, name, 0, Some(Bytes::from_static(b"{}"))).await?;
        // It may note meanwhile that it lives.
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
