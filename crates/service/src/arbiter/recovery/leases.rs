//! Leases of masters that share blocks, and what a collector asks of them (docs/adr/0042).
//!
//! The lease of a master is in its record in the arbiter. It says from which generation on the master needs
//! what it has put, and from which time on its readers need replaced roots. A collector keeps both. It also
//! waits until every master has seen the new generation. It takes the lease of a master away that does not
//! answer; from then on, no swap of that master can rely on it.
//!
//! No clocks of masters are compared. A collector counts the time in which a record stayed the same by its
//! own clock; and a swap compares the lease in the arbiter, so the master needs no clock at all.

use std::{collections::BTreeMap, time::Duration};

use fula_core::{
    metadata::{Entry, Table, WriteOutcome},
    root::{LeaseId, TimeMs},
};
use tokio::time::{Instant, sleep};

use super::{
    super::collection::{Begun, epoch_of},
    Recovery,
    masters::{BEAT, MasterRecord},
    records::{Lease, json},
};
use crate::{
    error::{Applied, ServiceError, chain},
    fault_injection::Fault,
    limits::PAGE_MAX,
};

/// Time for which a collector waits for a sign of a master before it takes the lease away: four heartbeats.
const LENGTH: Duration = Duration::from_secs(4 * BEAT.as_secs());

/// Longest wait for all masters.
const WAIT_MAX: Duration = Duration::from_secs(3 * LENGTH.as_secs());

/// Number of times that a lease is taken away again from a master that renews it.
const TRIES: usize = 8;

/// Interval between two looks at the records of the masters.
const LOOK: Duration = Duration::from_millis(500);

impl Recovery {
    /// Returns the lease that this master asks for with its next heartbeat: the one that it has, or a new one.
    /// `None` where masters do not share blocks.
    pub(super) async fn next_lease(
        &self,
        recorded: Option<Lease>,
        now: TimeMs,
    ) -> Result<Option<Lease>, ServiceError> {
        let (arbiter, pins) = (&self.arbiter, self.arbiter.pins());
        if arbiter.nodes().blocks().generation().is_none() {
            return Ok(None);
        }
        let held = pins.lease();
        let is_kept = |lease: &Lease| held.as_ref().is_some_and(|held| held.id == lease.id);
        let Some(kept) = recorded.filter(is_kept) else {
            pins.set_lease(None);
            let mut id = [0; 16];
            (self.random)(&mut id);
            // Until the record is seen by every collector that begins later, it keeps everything.
            return Ok(Some(Lease { id: hex::encode(id), ..Lease::default() }));
        };
        let generation = match arbiter.guard().alarm() {
            Some(_) => 0,
            None => self.seen_generation(kept.generation).await?,
        };
        let floor = u64::from(pins.floor().0);
        let reads_since = pins.oldest_read().unwrap_or(now).min(now);
        Ok(Some(Lease { id: kept.id, generation, floor, reads_since }))
    }

    /// Returns the generation that this master may say it has seen. `said` is what its record says, as the
    /// arbiter has it. From then on a collector relies on rows of that generation alone, so everything that this
    /// master knows is compared first with what the arbiter has under it. Returns 0 if the arbiter lacks something.
    ///
    /// It compares with the record of the arbiter, because a restored arbiter may use a generation again.
    async fn seen_generation(&self, said: u64) -> Result<u64, ServiceError> {
        let generation = self.arbiter.learn_generation().await?;
        if generation <= said || self.arbiter.0.faults.has(Fault::KnownNotCompared) {
            return Ok(generation);
        }
        match self.compare_known().await {
            Ok(_) => Ok(generation),
            Err(ServiceError::Regressed(_)) => Ok(0),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(
                    error,
                    "a collection waits: this master cannot compare what it knows"
                );
                Ok(said)
            }
        }
    }

    /// Uses a lease that the arbiter has now.
    pub(super) async fn use_lease(&self, lease: Lease) -> Result<(), ServiceError> {
        if self.arbiter.pins().lease().is_none() {
            // A collector that has not seen the record has raised the generation before.
            self.arbiter.learn_generation().await?;
            let lease = LeaseId { master: self.name.clone(), id: lease.id };
            self.arbiter.pins().set_lease(Some(lease));
            Box::pin(self.beat()).await?;
        }
        Ok(())
    }

    /// Gives the lease of this master up, because it stops: no collector waits for it.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: a collector waits until it takes the lease away.
    pub async fn give_lease_up(&self) -> Result<(), ServiceError> {
        if self.arbiter.pins().lease().is_none() {
            return Ok(());
        }
        self.arbiter.pins().set_lease(None);
        let Some(entry) = self.metadata.read(Table::Masters, &self.name).await? else {
            return Ok(());
        };
        let record = MasterRecord { lease: Some(Lease::of_none()), ..parse(&entry) };
        let value = Some(json(&record));
        self.metadata.write(Table::Masters, &self.name, entry.version, value).await?;
        Ok(())
    }

    /// Begins a collection: raises the generation, waits until every master has seen it, and takes away the
    /// leases of masters that do not answer.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] of the arbiter, or where nothing may be collected now.
    pub(crate) async fn begin_collection(&self) -> Result<Begun, ServiceError> {
        self.may_collect().await?;
        let recovery = self.current().await?.map_or(0, |(version, _)| version);
        let (generation, reads_since) = self.arbiter.raise_generation().await?;
        if !self.arbiter.0.faults.has(Fault::KnownNotCompared) {
            drop(self.compare_known().await?);
        }
        let begun = Begun { generation, bound: epoch_of(generation), reads_since, recovery };
        if self.arbiter.0.faults.has(Fault::LeasesIgnored) {
            return Ok(begun);
        }
        self.wait_for_masters(begun).await
    }

    async fn wait_for_masters(&self, first: Begun) -> Result<Begun, ServiceError> {
        let started = Instant::now();
        // When each record was first seen as it is.
        let mut unchanged: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
        loop {
            let mut begun = first;
            begun.keep_own(&self.arbiter);
            let now = self.arbiter.now().await?;
            let records = self.master_records().await?;
            let mut awaited = self.forgotten_master(&records).await?;
            for (name, entry) in records {
                if name == self.name {
                    continue;
                }
                let record = parse(&entry);
                match &record.lease {
                    Some(lease) if lease.generation >= first.generation => {
                        begun.keep(lease.floor, lease.reads_since);
                    }
                    None if !record.is_alive(now) => {}
                    lease => {
                        let since = unchanged.entry(name.clone()).or_insert((0, Instant::now()));
                        if since.0 != entry.version {
                            *since = (entry.version, Instant::now());
                        }
                        if since.1.elapsed() < LENGTH {
                            awaited = Some(name);
                        } else if lease.is_some() {
                            self.take_lease(&name, &entry, record).await?;
                            awaited = Some(name);
                        }
                    }
                }
            }
            let Some(awaited) = awaited else { return Ok(begun) };
            if started.elapsed() > WAIT_MAX {
                return Err(unready(format!(
                    "the master {awaited} does not see that a collection has begun: it may run an earlier \
                     version, cannot reach the arbiter, or is gone since the arbiter was restored: start it, or \
                     remove it with `fula masters forget`"
                )));
            }
            sleep(LOOK).await;
        }
    }

    /// Returns a master that this one knows from before the arbiter was restored, and that the arbiter does not
    /// list. It lists itself again with its next heartbeat, and may know what the arbiter lacks.
    pub(super) async fn forgotten_master(
        &self,
        records: &[(String, Entry)],
    ) -> Result<Option<String>, ServiceError> {
        if self.arbiter.0.faults.has(Fault::ForgottenNotAwaited) {
            return Ok(None);
        }
        let is_listed = |name: &String| records.iter().any(|(listed, _)| listed == name);
        let mut known = self.masters().await?;
        known.retain(|name| !is_listed(name) && *name != self.name);
        Ok(known.pop_first())
    }

    /// Takes the lease of a master away that does not renew it.
    async fn take_lease(
        &self,
        name: &str,
        entry: &Entry,
        record: MasterRecord,
    ) -> Result<(), ServiceError> {
        tracing::info!(
            master = name,
            "the master does not answer: the collection goes on without it"
        );
        let value = Some(json(&MasterRecord { lease: None, ..record }));
        // If the master has renewed it in the meantime, the next look tells.
        self.metadata.write(Table::Masters, name, entry.version, value).await?;
        Ok(())
    }

    /// Takes all leases away, because the arbiter went back: it may have a lease again that was taken away before,
    /// and blocks that it kept may be gone. Masters get new ones with their next heartbeats.
    pub(super) async fn end_leases(&self) -> Result<(), ServiceError> {
        if self.arbiter.0.faults.has(Fault::LeasesOutliveRecovery) {
            return Ok(());
        }
        for (name, mut entry) in self.master_records().await? {
            for tried in 0.. {
                let record = parse(&entry);
                if record.lease.is_none() {
                    break;
                }
                let value = Some(json(&MasterRecord { lease: None, ..record }));
                match self.metadata.write(Table::Masters, &name, entry.version, value).await? {
                    WriteOutcome::Done(_) => break,
                    // The master has renewed it, or was removed.
                    WriteOutcome::Conflict(Some(current)) if tried < TRIES => entry = current,
                    WriteOutcome::Conflict(_) => return Err(ServiceError::Busy(Applied::None)),
                }
            }
        }
        Ok(())
    }

    pub(super) async fn master_records(&self) -> Result<Vec<(String, Entry)>, ServiceError> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.metadata.list(Table::Masters, after.as_deref(), PAGE_MAX).await?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            after = Some(last.clone());
            found.extend(page);
        }
    }

    /// Refuses to go on with a collection where it [may not begin](Self::may_collect), or after the arbiter has
    /// gone back and was healed meanwhile.
    ///
    /// # Errors
    /// As [`Self::may_collect`].
    pub(crate) async fn may_go_on(&self, begun: &Begun) -> Result<(), ServiceError> {
        self.may_collect().await?;
        let recovery = self.current().await?.map_or(0, |(version, _)| version);
        let generation = self.arbiter.unchecked().generation().await?.value;
        if recovery != begun.recovery || generation < begun.generation {
            return Err(unready("the arbiter went back while the collection ran".to_owned()));
        }
        Ok(())
    }

    /// Refuses to collect while the arbiter is in doubt, during a recovery, after a recovery that was forced
    /// without a master that has not come back, and while a master without a lease is alive.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn may_collect(&self) -> Result<(), ServiceError> {
        self.arbiter.check().await?;
        let now = self.arbiter.now().await?;
        let masters = self.known_masters().await?;
        if let Some((_, current)) = self.current().await? {
            if !current.closed {
                return Err(unready("a recovery of the arbiter is under way".to_owned()));
            }
            if current.forced {
                let posted = self.posted(&current.id).await?;
                let is_absent = |(name, record): &(&String, &MasterRecord)| {
                    let has_compared =
                        record.lease.as_ref().is_some_and(|lease| lease.generation > 0);
                    let is_back = record.is_alive(now) && has_compared;
                    !posted.get(*name).copied().unwrap_or(false) && !is_back
                };
                if let Some((name, _)) = masters.iter().find(is_absent) {
                    return Err(unready(format!(
                        "the last recovery was forced without the master {name}, which may know newer states: \
                         start it, or remove it with `fula masters forget`"
                    )));
                }
            }
        }
        if !self.is_master
            && let Some((name, _)) = masters.iter().find(|(_, record)| !record.is_alive(now))
        {
            return Err(unready(format!(
                "the master {name} is not running, and may know states that this command does not know: start \
                 it, or remove it with `fula masters forget`"
            )));
        }
        let is_other = |name: &String| *name != self.name;
        let without = masters.iter().find(|(name, record)| {
            is_other(name) && record.is_alive(now) && record.lease.is_none()
        });
        match without {
            Some((name, _)) => Err(unready(format!(
                "the master {name} has no lease: it runs an earlier version, or has just started"
            ))),
            None => Ok(()),
        }
    }
}

pub(super) fn parse(entry: &Entry) -> MasterRecord {
    let value = entry.value.as_ref();
    value.and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default()
}

pub(super) fn unready(why: String) -> ServiceError {
    ServiceError::unavailable(why)
}
