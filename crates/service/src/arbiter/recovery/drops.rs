//! Rounds in which masters that share an arbiter learn which buckets are deleted, before the rows of such buckets
//! are dropped (docs/adr/0067).
//!
//! A master that knows a bucket only as a live one takes its missing row for a fault, and would bring the bucket
//! back. So the master that drops rows begins a round. Every other master compares all that it knows with the
//! rows, remembers the tombstones that it finds, also on its own disk, and says so in its record. A row is dropped
//! only while all records have the round.

use std::{sync::Arc, time::Duration};

use fula_core::{
    metadata::{Table, WriteOutcome},
    root::{DropRound, TimeMs},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    super::Unverified,
    Recovery,
    leases::{parse as parse_master, unready},
    masters::BEAT,
    records::{json, parse},
};
use crate::{
    error::{ServiceError, chain},
    fault_injection::Fault,
};

/// Name of the record of the last round.
const ROUND: &str = "drop";

/// Least time between the beginnings of two rounds, unless an operator asks for one. Each makes every master
/// compare all that it knows.
const ROUND_EVERY_MS: TimeMs = 3_600_000;

/// Longest wait for the other masters: four heartbeats.
const WAIT_MAX: Duration = Duration::from_secs(4 * BEAT.as_secs());

/// Interval between two looks at the records of the masters.
const LOOK: Duration = Duration::from_millis(500);

/// Number of known buckets that are compared with the arbiter at a time.
const COMPARED: usize = 256;

/// A round as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Round {
    id: String,
    began_ms: TimeMs,
}

impl Recovery {
    async fn last_round(&self) -> Result<(u64, Round), ServiceError> {
        let Some(entry) = self.metadata.read(Table::Recovery, ROUND).await? else {
            return Ok((0, Round::default()));
        };
        let round = entry.value.as_ref().map(parse).transpose()?;
        Ok((entry.version, round.unwrap_or_default()))
    }

    /// Returns the round that this master puts into its record with the next heartbeat. `recorded` is what its
    /// record says. It takes part in a new round once it has learnt every deletion.
    pub(super) async fn next_round(&self, recorded: Option<String>) -> Option<String> {
        let learnt = async {
            let (_, round) = self.last_round().await?;
            if round.id.is_empty() || recorded.as_ref() == Some(&round.id) {
                return Ok(recorded.clone());
            }
            if self.arbiter.guard().alarm().is_some() {
                return Ok(None);
            }
            self.learn_deletions().await?;
            Ok(Some(round.id))
        };
        learnt.await.unwrap_or_else(|error: ServiceError| {
            let error = chain(&error);
            tracing::warn!(
                error,
                "rows of deleted buckets stay: this master cannot compare what it knows"
            );
            None
        })
    }

    /// Compares everything that this master knows with the arbiter, and remembers the deletions that it finds.
    /// Removes what is known of buckets whose rows an earlier round has dropped. All of it is on this master's own
    /// disk when the call returns.
    async fn learn_deletions(&self) -> Result<(), ServiceError> {
        let guard = self.arbiter.guard();
        let ended = self.compare_known().await?;
        for (row, known) in ended.deleted {
            let (bucket, asked) = (row.address.clone(), guard.asked_with(known));
            self.arbiter.adopt(&bucket, Unverified { row: Some(row), asked }).await?;
        }
        guard.forget_dropped(&ended.dropped);
        guard.flush().await
    }

    /// Begins a round, and waits until every other master takes part. Returns `None` if the last one began less
    /// than an hour ago and `now` is not set, or another master begins one.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] of the arbiter, or where a master does not take part;
    /// [`ServiceError::Regressed`].
    pub(crate) async fn begin_drop(&self, now: bool) -> Result<Option<DropRound>, ServiceError> {
        self.may_drop().await?;
        let (version, last) = self.last_round().await?;
        let time = self.arbiter.now().await?;
        if !now && time < last.began_ms.saturating_add(ROUND_EVERY_MS) {
            return Ok(None);
        }
        let mut id = [0; 16];
        (self.random)(&mut id);
        let round = Round { id: hex::encode(id), began_ms: time };
        let written = self.metadata.write(Table::Recovery, ROUND, version, Some(json(&round)));
        if !matches!(written.await?, WriteOutcome::Done(_)) {
            return Ok(None);
        }
        self.learn_deletions().await?;
        if !self.arbiter.0.faults.has(Fault::DroppedUnawares) {
            self.wait_for_round(&round).await?;
        }
        Ok(Some(DropRound { id: round.id, master: self.name.clone() }))
    }

    async fn wait_for_round(&self, round: &Round) -> Result<(), ServiceError> {
        let began = Instant::now();
        loop {
            let records = self.master_records().await?;
            let mut awaited = self.forgotten_master(&records).await?;
            for (name, entry) in records {
                let has_round = parse_master(&entry).dropping.as_ref() == Some(&round.id);
                if name != self.name && !has_round {
                    awaited = Some(name);
                }
            }
            let Some(awaited) = awaited else { return Ok(()) };
            if began.elapsed() > WAIT_MAX {
                return Err(unready(format!(
                    "the master {awaited} does not say that it has learnt all deletions: it may run an earlier \
                     version, or cannot compare what it knows"
                )));
            }
            sleep(LOOK).await;
        }
    }

    /// Refuses to drop rows where nothing may be collected, and while a master is away: it may know deleted
    /// buckets as live ones.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn may_drop(&self) -> Result<(), ServiceError> {
        self.may_collect().await?;
        let now = self.arbiter.now().await?;
        let masters = self.known_masters().await?;
        let away =
            masters.iter().find(|(name, record)| **name != self.name && !record.is_alive(now));
        match away {
            Some((name, _)) => Err(unready(format!(
                "the master {name} is not running, and may not know which buckets were deleted: start it, or \
                 remove it with `fula masters forget`"
            ))),
            None => Ok(()),
        }
    }

    /// Removes what is known of buckets without a row, up to the version floor. This is for a master that an
    /// operator has removed and that comes back: rows were dropped without it.
    pub(super) async fn forget_what_was_dropped(&self) -> Result<(), ServiceError> {
        let roots = Arc::clone(self.arbiter.unchecked());
        for page in self.arbiter.guard().all_known().chunks(COMPARED) {
            let buckets: Vec<_> = page.iter().map(|(bucket, _)| bucket.clone()).collect();
            let rows = roots.get_roots(&buckets).await?.value;
            // The floor comes after the rows: a row that is missing was dropped before.
            let floor = roots.version_floor().await?.value;
            let known = page.iter().map(|(bucket, known)| (bucket.clone(), known.pointer.version));
            let dropped: Vec<_> = known
                .zip(&rows)
                .filter(|((_, version), row)| row.is_none() && *version <= floor)
                .map(|(known, _)| known)
                .collect();
            self.arbiter.guard().forget_dropped(&dropped);
        }
        Ok(())
    }
}
