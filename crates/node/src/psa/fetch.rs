//! Fetches the DAG of one pin: block by block from its root, each verified before it is stored.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    time::Duration,
};

use bytes::Bytes;
use fula_core::foreign::ForeignCid;
use fula_service::{
    DagIntake, Service, ServiceError, StoredPin,
    error::{ErrorKind, chain},
};
use futures::future::join_all;
use tokio::time::Instant;

use super::source::Source;

/// Number of blocks of one pin that are fetched at a time. Each has at most 2 MiB.
const WINDOW: usize = 8;

/// Longest path from the root to a block.
const DEPTH_MAX: u32 = 1024;

/// Why a pin is not whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may be whole later.
    ForNow(String),
    /// It never will be.
    ForGood(String),
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::OwnerQuotaExceeded(max) | ServiceError::QuotaExceeded(max) => {
                Self::ForGood(format!("with it you would store more than {max} bytes"))
            }
            error if error.kind() == ErrorKind::Full => {
                Self::ForNow("the disk of the service is full".to_owned())
            }
            error => {
                tracing::warn!(error = chain(&error), "the blocks of a pin cannot be stored now");
                Self::ForNow("the store of the service does not answer".to_owned())
            }
        }
    }
}

/// The bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes_max: u64,
    pub(super) blocks_max: u64,
    /// Bytes that the owner may still store with this pin.
    pub(super) room: u64,
    /// Time at which the pin has failed.
    pub(super) deadline: Instant,
}

/// One fetch.
pub(super) struct Fetch<'a> {
    pub(super) service: &'a Service,
    pub(super) sources: &'a [Source],
    pub(super) pin: &'a StoredPin,
    pub(super) bounds: Bounds,
    /// Called with the number of blocks and bytes after each step.
    pub(super) progress: &'a (dyn Fn(u64, u64) + Sync),
}

impl Fetch<'_> {
    /// Fetches everything below the root of the pin.
    ///
    /// # Errors
    /// [`Failure`]. What was stored is garbage.
    pub(super) async fn run(&self) -> Result<DagIntake, Failure> {
        let root = self.pin.state.root()?;
        self.connect().await;
        let had = self.had().await?;
        let mut intake = self.service.begin_dag();
        let mut seen = HashSet::from([root]);
        let mut stack = vec![(root, 0_u32)];
        while !stack.is_empty() {
            let batch = stack.split_off(stack.len().saturating_sub(WINDOW));
            let got = join_all(batch.iter().rev().map(|(cid, _)| self.block(*cid, &had))).await;
            let mut below = Vec::new();
            for ((cid, depth), bytes) in batch.iter().rev().zip(got) {
                let bytes = bytes?;
                let totals = intake.totals();
                self.check_room(totals.bytes + bytes.len() as u64)?;
                intake.add(cid, &bytes).await?;
                let links = cid.links(&bytes);
                let links = links.map_err(|error| Failure::ForGood(format!("{cid}: {error}")))?;
                for link in links {
                    if seen.insert(link) {
                        below.push((self.checked(link, depth + 1, seen.len())?, depth + 1));
                    }
                }
            }
            stack.extend(below.into_iter().rev());
            let totals = intake.totals();
            (self.progress)(totals.blocks, totals.bytes);
        }
        Ok(intake)
    }

    fn checked(&self, cid: ForeignCid, depth: u32, blocks: usize) -> Result<ForeignCid, Failure> {
        if blocks as u64 > self.bounds.blocks_max {
            let text = format!("it has more than {} blocks", self.bounds.blocks_max);
            return Err(Failure::ForGood(text));
        }
        if depth > DEPTH_MAX {
            let text = format!("a block is more than {DEPTH_MAX} links away from the root");
            return Err(Failure::ForGood(text));
        }
        cid.check_supported().map_err(|error| Failure::ForGood(format!("{cid}: {error}")))?;
        Ok(cid)
    }

    fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        if bytes > self.bounds.bytes_max {
            let text = format!("it has more than {} bytes", self.bounds.bytes_max);
            return Err(Failure::ForGood(text));
        }
        if bytes > self.bounds.room {
            let text = "with it you would store more than your quota".to_owned();
            return Err(Failure::ForGood(text));
        }
        Ok(())
    }

    /// Has the kubos connect to the peers that the client named, all at once.
    async fn connect(&self) {
        let pairs = self.sources.iter().flat_map(|source| {
            self.pin.state.origins.iter().map(move |origin| source.connect(origin))
        });
        join_all(pairs).await;
    }

    /// Returns the blocks of the pin that this one replaces.
    async fn had(&self) -> Result<HashMap<ForeignCid, Range<u64>>, Failure> {
        let blocks = self.service.pin_blocks(self.pin).await?;
        Ok(blocks.iter().collect())
    }

    /// Returns a block: that of the pin which is replaced, or what the first source has that has it.
    async fn block(
        &self,
        cid: ForeignCid,
        had: &HashMap<ForeignCid, Range<u64>>,
    ) -> Result<Bytes, Failure> {
        if let Some(bytes) = cid.inline() {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        if let Some(range) = had.get(&cid) {
            return Ok(self.service.read_pin(self.pin, range.clone()).await?);
        }
        let mut why = String::new();
        for source in self.sources {
            let left = self.bounds.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match source.block(cid, left.max(Duration::from_millis(1))).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => why = error,
            }
        }
        let late = || format!("{cid}: it was not found in time");
        Err(Failure::ForNow(if why.is_empty() { late() } else { why }))
    }
}
