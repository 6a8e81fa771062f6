//! A storage node: blocks under holds, on the storage traits of `fula-core`.
//!
//! # Invariants
//! - A receipt is given only for blocks that are durable together with the record of their hold.
//! - Whether an owner may read a block is decided by the holds, before the block store is asked. So a block of
//!   somebody else cannot be told from one that is not there.
//! - A hold that has ended is released only after every arbiter's masters said that nobody needs the block.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Block, BlockStore, Cid, MetadataStore, OwnerId, StoreError,
    block::SyncMark,
    metadata::{Table, WriteOutcome},
    root::TimeMs,
};
use parking_lot::{Mutex, MutexGuard};

use crate::{
    faults::{Fault, FaultInjection},
    holds::{BATCH_BLOCKS_MAX, Batch, Hold, Holds, Slot},
    key::{SignerId, SigningKey},
    receipt::{DiskId, Receipt, SizedCid, Subject},
};

/// Name of the record of the disk.
const DISK: &str = "disk";

/// Number of records that are read at a time.
const PAGE: usize = 256;

/// Part of a lease within which a hold is fresh: an hour of a day.
const FRESH_PART: u64 = 24;

/// Largest number of blocks in one question to the masters, which costs them a walk over all buckets.
pub const ASKED_MAX: usize = 65_536;

/// The limits of a storage node.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Time for which a lease lasts, in milliseconds. A pin is asked about again after this time.
    pub lease_ms: u64,
    /// Most bytes of leases of one owner.
    pub quota: u64,
    /// Fault that tests inject. Shipped builds inject none.
    pub faults: FaultInjection,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self { lease_ms: 24 * 3600 * 1000, quota: 64 << 30, faults: FaultInjection::default() }
    }
}

/// The reason why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The owner has used up the quota. Map or wait until leases end.
    #[error(
        "the quota of {0} bytes of leases is used up; map what was sent, or wait until leases end"
    )]
    OverQuota(u64),
    /// There are too many blocks in one request.
    #[error("a request has at most {BATCH_BLOCKS_MAX} blocks")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The masters that a node asks which blocks are needed.
#[async_trait]
pub trait Masters: fmt::Debug + Send + Sync {
    /// Returns those of `cids` that some bucket needs.
    ///
    /// # Errors
    /// The reason, if the masters of any arbiter did not answer: then nothing may be deleted.
    async fn needed(&self, cids: &[Cid]) -> Result<HashSet<Cid>, String>;
}

/// Blocks that were stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The blocks, with lengths in bytes, in the order of the receipt.
    pub blocks: Vec<SizedCid>,
    /// Time until which they are kept, in milliseconds since 1970.
    pub until: TimeMs,
    /// Text of the receipt.
    pub receipt: String,
}

/// The outcome of a look at ended holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Number of blocks that a master needs, and that are pinned now.
    pub pinned: usize,
    /// Number of blocks that nobody needs. The collector deletes them.
    pub released: usize,
}

/// A source of the time of day in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> TimeMs + Send + Sync>;

/// A storage node. Clones share one state.
#[derive(Clone)]
pub struct StorageNode(Arc<Inner>);

struct Inner {
    blocks: Arc<dyn BlockStore>,
    records: Arc<dyn MetadataStore>,
    key: Arc<SigningKey>,
    disk: DiskId,
    limits: NodeLimits,
    clock: Clock,
    holds: Mutex<Holds>,
    /// Version of each record that was written, by its place.
    versions: Mutex<HashMap<Slot, u64>>,
    /// Whether ended holds are being asked about.
    is_asking: AtomicBool,
}

impl fmt::Debug for StorageNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { key, disk, .. } = self.0.as_ref();
        f.debug_struct("StorageNode").field("key", key).field("disk", disk).finish_non_exhaustive()
    }
}

/// Bytes of a quota that a body on its way has reserved.
#[derive(Debug)]
pub struct Reservation {
    node: StorageNode,
    owner: OwnerId,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.node.holds().give_back(self.owner, self.bytes);
    }
}

/// Blocks that the collector leaves alone while they are being put.
struct Expected<'a>(&'a StorageNode, Vec<Cid>);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.holds().expect_no_more(self.1.drain(..));
    }
}

fn record_name(slot: Slot) -> String {
    format!("hold-{slot:010}")
}

impl StorageNode {
    /// Reads the holds back. `fresh` names the disk if it has no name yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(
        blocks: Arc<dyn BlockStore>,
        records: Arc<dyn MetadataStore>,
        key: Arc<SigningKey>,
        fresh: DiskId,
        limits: NodeLimits,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let disk = disk_of(records.as_ref(), fresh).await?;
        let (mut holds, mut versions) = (Holds::default(), HashMap::new());
        let (mut after, mut last) = (Some("hold-".to_owned()), 0);
        loop {
            let page = records.list(Table::Holds, after.as_deref(), PAGE).await?;
            let Some((name, _)) = page.last() else { break };
            after = Some(name.clone());
            for (name, entry) in page {
                let slot = name.strip_prefix("hold-").and_then(|slot| slot.parse().ok());
                let (Some(slot), Some(value)) = (slot, entry.value) else { continue };
                let batch = Batch::decode(&value)
                    .map_err(|invalid| StoreError::Malformed { what: "holds", why: invalid.0 })?;
                holds.add(slot, batch);
                versions.insert(slot, entry.version);
                last = last.max(slot);
            }
        }
        // Deleted records are not listed, and keep their versions.
        for slot in (1..=last).filter(|slot| !versions.contains_key(slot)).collect::<Vec<_>>() {
            holds.free_slot(slot);
        }
        let (holds, versions) = (Mutex::new(holds), Mutex::new(versions));
        Ok(Self(Arc::new(Inner {
            blocks,
            records,
            key,
            disk,
            limits,
            clock,
            holds,
            versions,
            is_asking: AtomicBool::new(false),
        })))
    }

    pub(crate) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.0.holds.lock()
    }

    /// Returns the time of day in milliseconds since 1970.
    pub fn now(&self) -> TimeMs {
        (self.0.clock)()
    }

    /// Returns the key of the node.
    pub fn key(&self) -> &SigningKey {
        &self.0.key
    }

    /// Returns the short name of the node.
    pub fn id(&self) -> SignerId {
        self.0.key.id()
    }

    /// Returns the name of the disk.
    pub fn disk(&self) -> DiskId {
        self.0.disk
    }

    /// Returns the limits.
    pub fn limits(&self) -> &NodeLimits {
        &self.0.limits
    }

    /// Returns the block store.
    pub fn blocks(&self) -> &Arc<dyn BlockStore> {
        &self.0.blocks
    }

    /// Returns every block that the collector must leave alone.
    pub fn kept(&self) -> Vec<Cid> {
        self.holds().kept()
    }

    /// Returns the number of holds, and of records.
    pub fn count(&self) -> (usize, usize) {
        self.holds().count()
    }

    /// Returns the bytes of leases of an owner, and of bodies on their way.
    pub fn charged(&self, owner: OwnerId) -> u64 {
        self.holds().charged(owner)
    }

    /// Reserves bytes of the quota of an owner for a body, until the reservation is dropped.
    ///
    /// # Errors
    /// [`NodeError::OverQuota`].
    pub fn reserve(&self, owner: OwnerId, bytes: u64) -> Result<Reservation, NodeError> {
        let quota = self.0.limits.quota;
        let reserved = self.holds().reserve(owner, bytes, quota);
        reserved.map_err(|_| NodeError::OverQuota(quota))?;
        Ok(Reservation { node: self.clone(), owner, bytes })
    }

    /// Writes the record of a batch behind the blocks of `mark`, and lets it count once all of that is durable.
    /// Leaves out holds that are fresh. Returns the time until which all blocks are kept.
    pub(crate) async fn begin(
        &self,
        mut batch: Batch,
        mark: SyncMark,
    ) -> Result<TimeMs, StoreError> {
        // A hold that began within the last part of a lease is as good as a new one. So one that is begun
        // again and again takes a bounded number of records.
        let fresh = batch.until.saturating_sub(self.0.limits.lease_ms / FRESH_PART);
        let mut until = batch.until;
        {
            let holds = self.holds();
            batch.blocks.retain(|(cid, _)| match holds.get(batch.owner, cid) {
                Some(hold) if hold.until > fresh && hold.is_pinned >= batch.is_pinned => {
                    until = until.min(hold.until);
                    false
                }
                _ => true,
            });
        }
        if batch.blocks.is_empty() {
            self.0.blocks.sync(mark).await?;
            return Ok(until);
        }
        let slot = self.holds().take_slot();
        // If a write fails, its record may be there after a restart, so its place stays taken until then.
        self.write(slot, Some(batch.encode())).await?;
        if let Err(error) = self.0.blocks.sync(mark).await {
            self.write(slot, None).await?;
            return Err(error);
        }
        self.holds().add(slot, batch);
        Ok(until)
    }

    async fn write(&self, slot: Slot, value: Option<Bytes>) -> Result<(), StoreError> {
        let name = record_name(slot);
        let mut expected = self.0.versions.lock().get(&slot).copied().unwrap_or(0);
        for _ in 0..2 {
            let written =
                self.0.records.write(Table::Holds, &name, expected, value.clone()).await?;
            match written {
                WriteOutcome::Done(version) => {
                    self.0.versions.lock().insert(slot, version);
                    return Ok(());
                }
                // The place was used before the last restart.
                WriteOutcome::Conflict(found) => {
                    expected = found.map_or(0, |entry| entry.version);
                }
            }
        }
        let source = "the record of a hold is written by another process".into();
        Err(StoreError::Unavailable { backend: "metadata", action: "write", source })
    }

    /// Returns a receipt for blocks that the owner holds.
    pub(crate) fn receipt(&self, owner: OwnerId, blocks: Vec<SizedCid>, until: TimeMs) -> Stored {
        let receipt = Receipt {
            node: self.id(),
            disk: self.0.disk,
            owner,
            subject: Subject::of(&blocks),
            bytes: blocks.iter().map(|(_, size)| u64::from(*size)).sum(),
            count: blocks.len() as u64,
            issued: self.now(),
            until,
        };
        Stored { receipt: receipt.sign(&self.0.key), blocks, until }
    }

    /// Returns the hold of an owner on a block.
    pub fn hold(&self, owner: OwnerId, cid: &Cid) -> Option<Hold> {
        let holds = self.holds();
        if self.0.limits.faults.has(Fault::PresenceIsReceipt) && holds.is_kept(cid) {
            return holds.any(cid);
        }
        holds.get(owner, cid)
    }

    /// Returns those of `cids` that the owner holds, and a receipt for them, if there are any. The receipt
    /// ends with the first of these holds.
    pub fn have(&self, owner: OwnerId, cids: &[Cid]) -> Option<Stored> {
        let mut seen = HashSet::new();
        let found: Vec<(Cid, Hold)> = cids
            .iter()
            .filter(|cid| seen.insert(**cid))
            .filter_map(|cid| Some((*cid, self.hold(owner, cid)?)))
            .collect();
        let until = found.iter().map(|(_, hold)| hold.until).min()?;
        let blocks = found.into_iter().map(|(cid, hold)| (cid, hold.size)).collect();
        Some(self.receipt(owner, blocks, until))
    }

    /// Returns a block that the owner holds. `None` for any other, whether it is there or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, owner: OwnerId, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if self.hold(owner, cid).is_none() {
            return Ok(None);
        }
        self.0.blocks.get(cid).await
    }

    /// Returns a block that anybody holds. Only for one that the masters call public.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get_of_anybody(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if !self.holds().is_kept(cid) {
            return Ok(None);
        }
        self.0.blocks.get(cid).await
    }

    /// Prolongs the holds of an owner on those of `cids` that it has, and returns the receipt for them.
    ///
    /// # Errors
    /// [`NodeError::TooMany`], [`NodeError::Store`].
    pub async fn prolong(&self, owner: OwnerId, cids: &[Cid]) -> Result<Option<Stored>, NodeError> {
        self.continue_holds(owner, cids, false).await
    }

    /// Turns the holds of an owner on those of `cids` that it has into pins, and returns the receipt for them.
    ///
    /// # Errors
    /// [`NodeError::TooMany`], [`NodeError::Store`].
    pub async fn pin(&self, owner: OwnerId, cids: &[Cid]) -> Result<Option<Stored>, NodeError> {
        self.continue_holds(owner, cids, true).await
    }

    async fn continue_holds(
        &self,
        owner: OwnerId,
        cids: &[Cid],
        is_pinned: bool,
    ) -> Result<Option<Stored>, NodeError> {
        if cids.len() > BATCH_BLOCKS_MAX {
            return Err(NodeError::TooMany);
        }
        // The blocks are kept from here on, whatever ends meanwhile.
        self.holds().expect(cids.iter().copied());
        let _expected = Expected(self, cids.to_vec());
        let Some(found) = self.have(owner, cids) else { return Ok(None) };
        let until = self.now().saturating_add(self.0.limits.lease_ms);
        let batch = Batch { owner, until, is_pinned, blocks: found.blocks.clone() };
        let until = self.begin(batch, SyncMark::default()).await?;
        Ok(Some(self.receipt(owner, found.blocks, until)))
    }

    /// Asks the masters about holds that have ended: what they need is pinned, the rest is released. Handles
    /// one question at a time; call it again until both numbers are zero.
    ///
    /// # Errors
    /// The reason why nothing was released, in words for the operator.
    pub async fn settle_ended(&self, masters: &dyn Masters) -> Result<Ended, String> {
        if self.0.is_asking.swap(true, Ordering::AcqRel) {
            return Ok(Ended::default());
        }
        let done = self.settle(masters).await;
        self.0.is_asking.store(false, Ordering::Release);
        done
    }

    async fn settle(&self, masters: &dyn Masters) -> Result<Ended, String> {
        let now = self.now();
        let ended = self.holds().ended(now, ASKED_MAX);
        let mut asked: Vec<Cid> =
            ended.iter().flat_map(|(_, batch)| &batch.blocks).map(|(cid, _)| *cid).collect();
        asked.sort_unstable();
        asked.dedup();
        let needed = if asked.is_empty() || self.0.limits.faults.has(Fault::ReleaseWithoutAsking) {
            HashSet::new()
        } else {
            masters.needed(&asked).await?
        };
        let mut done = Ended::default();
        for (slot, mut batch) in ended {
            let count = batch.blocks.len();
            batch.blocks.retain(|(cid, _)| needed.contains(cid));
            done.pinned += batch.blocks.len();
            done.released += count - batch.blocks.len();
            let failed = |error: StoreError| error.to_string();
            if batch.blocks.is_empty() {
                self.write(slot, None).await.map_err(failed)?;
                let mut holds = self.holds();
                holds.remove(slot);
                holds.free_slot(slot);
            } else {
                batch.until = now.saturating_add(self.0.limits.lease_ms);
                batch.is_pinned = true;
                self.write(slot, Some(batch.encode())).await.map_err(failed)?;
                self.holds().replace(slot, batch);
            }
        }
        Ok(done)
    }
}

/// Returns the name of the disk. Writes `fresh` if it has none yet.
async fn disk_of(records: &dyn MetadataStore, fresh: DiskId) -> Result<DiskId, StoreError> {
    let value = Some(Bytes::copy_from_slice(&fresh.0));
    let found = match records.write(Table::Holds, DISK, 0, value).await? {
        WriteOutcome::Done(_) => return Ok(fresh),
        WriteOutcome::Conflict(found) => found.and_then(|entry| entry.value).unwrap_or_default(),
    };
    let malformed = StoreError::Malformed { what: "disk name", why: "not 16 bytes" };
    found.as_ref().try_into().map(DiskId).map_err(|_| malformed)
}
