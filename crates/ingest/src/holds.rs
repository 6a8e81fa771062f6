//! Holds: who may read which block, and until when the node keeps it. Pure bookkeeping in memory; the node
//! writes each change to a record before it counts.
//!
//! Holds that begin together are one *batch*, which is one record. A record has a numbered place that is used
//! again, because a metadata store never forgets a name.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use fula_core::{
    Cid, OwnerId,
    cbor::{Invalid, Reader, Writer},
    root::TimeMs,
};

use crate::receipt::SizedCid;

/// Largest number of blocks of one batch. Its record stays below the limit of a metadata store.
pub const BATCH_BLOCKS_MAX: usize = 1024;

/// Least number of bytes that a block counts against a quota. Its hold needs memory and a part of a record,
/// however short it is.
pub const CHARGE_MIN: u64 = 4096;

/// Returns the bytes that a block of this length counts against a quota.
pub fn charge_of(size: u32) -> u64 {
    u64::from(size).max(CHARGE_MIN)
}

/// Blocks that one owner began to hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The owner.
    pub owner: OwnerId,
    /// Time at which the hold ends, in milliseconds since 1970. For a pin, the time of the next question.
    pub until: TimeMs,
    /// Whether a master needs the blocks. They do not count against the quota of the owner.
    pub is_pinned: bool,
    /// The blocks, with lengths in bytes.
    pub blocks: Vec<SizedCid>,
}

impl Batch {
    /// Encodes the record of the batch.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(self.blocks.len() * 44 + 48);
        out.array(6).uint(1).bytes(&self.owner.0).uint(self.until);
        out.uint(u64::from(self.is_pinned)).array(self.blocks.len());
        for (cid, size) in &self.blocks {
            out.array(2).bytes(&cid.to_bytes()).uint(u64::from(*size));
        }
        out.map(0);
        out.finish()
    }

    /// Decodes what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn decode(value: &Bytes) -> Result<Self, Invalid> {
        let mut reader = Reader::new(value);
        reader.tuple(6)?;
        if reader.uint()? != 1 {
            return Err(Invalid("a batch of holds of a newer version"));
        }
        let (owner, until) = (OwnerId(reader.array_of()?), reader.uint()?);
        let is_pinned = reader.uint()? == 1;
        let count = reader.array()?;
        let block = |reader: &mut Reader<'_>| {
            reader.tuple(2)?;
            let cid = Cid::from_bytes(reader.byte_slice()?).map_err(|_| Invalid("bad CID"))?;
            let size = u32::try_from(reader.uint()?).map_err(|_| Invalid("bad length"))?;
            Ok((cid, size))
        };
        let blocks = (0..count).map(|_| block(&mut reader)).collect::<Result<_, _>>()?;
        reader.raw()?;
        reader.end()?;
        Ok(Self { owner, until, is_pinned, blocks })
    }
}

/// The hold of one owner on one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Length of the block in bytes.
    pub size: u32,
    /// Time until which the node keeps the block without asking, in milliseconds since 1970.
    pub until: TimeMs,
    /// Whether a master needs the block.
    pub is_pinned: bool,
    /// Whether it counts against the quota of the owner.
    is_charged: bool,
    /// Number of batches that have the block.
    batches: u32,
}

#[derive(Debug, Default)]
struct Account {
    holds: HashMap<Cid, Hold>,
    /// Bytes of leases, and of bodies on their way.
    charged: u64,
}

/// An owner whose quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverQuota;

/// The number of the record of a batch.
pub type Slot = u32;

/// All holds of a node.
#[derive(Debug, Default)]
pub struct Holds {
    accounts: HashMap<OwnerId, Account>,
    /// Number of owners that hold each block, and of requests that are about to.
    kept: HashMap<Cid, u32>,
    batches: HashMap<Slot, Batch>,
    /// Batches by the time at which they end.
    ends: BTreeSet<(TimeMs, Slot)>,
    /// Places of records that are empty.
    free: Vec<Slot>,
    next: Slot,
}

impl Holds {
    /// Reserves bytes for a body of an owner.
    ///
    /// # Errors
    /// [`OverQuota`]: the owner would have more than `quota` bytes.
    pub fn reserve(&mut self, owner: OwnerId, bytes: u64, quota: u64) -> Result<(), OverQuota> {
        let charged = self.accounts.get(&owner).map_or(0, |account| account.charged);
        let sum = charged.checked_add(bytes).filter(|sum| *sum <= quota).ok_or(OverQuota)?;
        self.accounts.entry(owner).or_default().charged = sum;
        Ok(())
    }

    /// Gives back bytes that were reserved.
    pub fn give_back(&mut self, owner: OwnerId, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.charged = account.charged.saturating_sub(bytes);
            if account.charged == 0 && account.holds.is_empty() {
                self.accounts.remove(&owner);
            }
        }
    }

    /// Keeps blocks from the collector before they are put.
    pub fn expect(&mut self, cids: impl IntoIterator<Item = Cid>) {
        for cid in cids {
            *self.kept.entry(cid).or_default() += 1;
        }
    }

    /// Ends what [`Self::expect`] began.
    pub fn expect_no_more(&mut self, cids: impl IntoIterator<Item = Cid>) {
        for cid in cids {
            if let Some(count) = self.kept.get_mut(&cid) {
                *count -= 1;
                if *count == 0 {
                    self.kept.remove(&cid);
                }
            }
        }
    }

    /// Returns an empty place for a record.
    pub fn take_slot(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        })
    }

    /// Gives a place back that holds no record.
    pub fn free_slot(&mut self, slot: Slot) {
        self.next = self.next.max(slot);
        self.free.push(slot);
    }

    /// Adds a batch whose record was written at an empty place.
    pub fn add(&mut self, slot: Slot, batch: Batch) {
        self.next = self.next.max(slot);
        let account = self.accounts.entry(batch.owner).or_default();
        for (cid, size) in &batch.blocks {
            let hold = account.holds.entry(*cid).or_insert_with(|| {
                *self.kept.entry(*cid).or_default() += 1;
                Hold { size: *size, until: 0, is_pinned: false, is_charged: false, batches: 0 }
            });
            hold.batches += 1;
            hold.until = hold.until.max(batch.until);
            hold.is_pinned |= batch.is_pinned;
            let is_charged = !hold.is_pinned;
            match (hold.is_charged, is_charged) {
                (false, true) => account.charged += charge_of(*size),
                (true, false) => account.charged -= charge_of(*size).min(account.charged),
                _ => {}
            }
            hold.is_charged = is_charged;
        }
        self.ends.insert((batch.until, slot));
        self.batches.insert(slot, batch);
    }

    /// Puts a batch, whose record was written, in the place of another one.
    pub fn replace(&mut self, slot: Slot, batch: Batch) {
        self.remove(slot);
        self.add(slot, batch);
    }

    /// Returns the hold of an owner on a block.
    pub fn get(&self, owner: OwnerId, cid: &Cid) -> Option<Hold> {
        self.accounts.get(&owner)?.holds.get(cid).copied()
    }

    /// Returns the hold of any owner on a block, which is a fault for tests.
    pub(crate) fn any(&self, cid: &Cid) -> Option<Hold> {
        self.accounts.values().find_map(|account| account.holds.get(cid)).copied()
    }

    /// Returns whether anybody holds the block.
    pub fn is_kept(&self, cid: &Cid) -> bool {
        self.kept.contains_key(cid)
    }

    /// Returns every block that the collector must leave alone.
    pub fn kept(&self) -> Vec<Cid> {
        self.kept.keys().copied().collect()
    }

    /// Returns the bytes that count against the quota of an owner.
    pub fn charged(&self, owner: OwnerId) -> u64 {
        self.accounts.get(&owner).map_or(0, |account| account.charged)
    }

    /// Returns the number of holds, and of records.
    pub fn count(&self) -> (usize, usize) {
        (self.accounts.values().map(|account| account.holds.len()).sum(), self.batches.len())
    }

    /// Returns batches that have ended by `now`, oldest first, with those of their blocks that no later batch
    /// of the owner holds. Together these are at most `blocks_max` blocks, or those of one batch. The leases
    /// among them stop counting against quotas.
    pub fn ended(&mut self, now: TimeMs, blocks_max: usize) -> Vec<(Slot, Batch)> {
        let (mut found, mut total) = (Vec::new(), 0);
        let ends: Vec<_> = self.ends.iter().take_while(|(until, _)| *until <= now).collect();
        for (_, slot) in ends {
            let batch = &self.batches[slot];
            let Some(account) = self.accounts.get_mut(&batch.owner) else { continue };
            let mut left = batch.clone();
            left.blocks.retain(|(cid, _)| {
                account.holds.get(cid).is_some_and(|hold| hold.until <= batch.until)
            });
            if total + left.blocks.len() > blocks_max && !found.is_empty() {
                break;
            }
            total += left.blocks.len();
            for (cid, size) in &left.blocks {
                if let Some(hold) = account.holds.get_mut(cid).filter(|hold| hold.is_charged) {
                    hold.is_charged = false;
                    account.charged -= charge_of(*size).min(account.charged);
                }
            }
            found.push((*slot, left));
        }
        found
    }

    /// Ends a batch whose record was removed. Holds that another batch continues stay.
    pub fn remove(&mut self, slot: Slot) {
        let Some(batch) = self.batches.remove(&slot) else { return };
        self.ends.remove(&(batch.until, slot));
        let Some(account) = self.accounts.get_mut(&batch.owner) else { return };
        let mut gone = Vec::new();
        for (cid, size) in &batch.blocks {
            let Some(hold) = account.holds.get_mut(cid) else { continue };
            hold.batches -= 1;
            if hold.batches > 0 {
                continue;
            }
            if hold.is_charged {
                account.charged -= charge_of(*size).min(account.charged);
            }
            account.holds.remove(cid);
            gone.push(*cid);
        }
        if account.charged == 0 && account.holds.is_empty() {
            self.accounts.remove(&batch.owner);
        }
        self.expect_no_more(gone);
    }
}

#[cfg(test)]
mod tests {
    use fula_core::Codec;

    use super::*;

    const OWNER: OwnerId = OwnerId([1; 16]);
    const OTHER: OwnerId = OwnerId([2; 16]);

    fn cid(n: u8) -> Cid {
        Cid::of(Codec::Raw, &[n])
    }

    fn batch(owner: OwnerId, until: TimeMs, blocks: &[u8]) -> Batch {
        let blocks = blocks.iter().map(|n| (cid(*n), 10_000)).collect();
        Batch { owner, until, is_pinned: false, blocks }
    }

    #[test]
    fn a_record_round_trips_and_fits_a_metadata_store() {
        let blocks = (0..1024_u32).map(|n| (Cid::of(Codec::Raw, &n.to_be_bytes()), 1 << 20));
        let blocks = blocks.collect();
        let full = Batch { owner: OWNER, until: u64::MAX, is_pinned: true, blocks };
        assert_eq!(Batch::decode(&full.encode()).unwrap(), full);
        assert!(full.encode().len() <= fula_core::metadata::VALUE_BYTES_MAX);
        for len in 0..100 {
            assert!(Batch::decode(&full.encode().slice(..len)).is_err());
        }
    }

    #[test]
    fn quotas_are_charged_at_admission_and_given_back() {
        let mut holds = Holds::default();
        holds.reserve(OWNER, 60, 100).unwrap();
        assert_eq!(holds.reserve(OWNER, 41, 100), Err(OverQuota));
        assert_eq!(holds.reserve(OWNER, u64::MAX, u64::MAX), Err(OverQuota));
        holds.reserve(OTHER, 100, 100).unwrap();
        holds.give_back(OTHER, 100);
        holds.give_back(OWNER, 60);
        assert_eq!((holds.charged(OWNER), holds.accounts.len()), (0, 0));
        // Leases are charged once for each owner and block, and until they end or are pinned.
        holds.add(1, batch(OWNER, 100, &[1, 2]));
        holds.add(2, batch(OWNER, 200, &[2, 3]));
        assert_eq!(holds.charged(OWNER), 30_000);
        assert_eq!(holds.ended(100, 10)[0].1.blocks, [(cid(1), 10_000)]);
        assert_eq!(holds.charged(OWNER), 20_000);
        holds.add(3, Batch { is_pinned: true, ..batch(OWNER, 300, &[3]) });
        assert_eq!(holds.charged(OWNER), 10_000);
        // A lease of what is pinned already costs nothing.
        holds.add(4, batch(OWNER, 250, &[3]));
        assert_eq!(holds.charged(OWNER), 10_000);
        // A tiny block counts as much as its hold costs.
        holds.add(5, Batch { blocks: vec![(cid(9), 1)], ..batch(OTHER, 300, &[]) });
        assert_eq!(holds.charged(OTHER), CHARGE_MIN);
        holds.remove(5);
        assert_eq!(holds.charged(OTHER), 0);
    }

    #[test]
    fn a_block_stays_until_the_last_hold_ends() {
        let mut holds = Holds::default();
        holds.expect([cid(1)]);
        holds.add(1, batch(OWNER, 100, &[1]));
        holds.expect_no_more([cid(1)]);
        holds.add(2, batch(OTHER, 150, &[1]));
        holds.add(3, batch(OWNER, 200, &[1]));
        holds.remove(1);
        assert_eq!(holds.get(OWNER, &cid(1)).map(|hold| hold.until), Some(200));
        holds.remove(3);
        assert!(holds.get(OWNER, &cid(1)).is_none() && holds.is_kept(&cid(1)));
        assert!(holds.get(OTHER, &cid(1)).is_some());
        holds.remove(2);
        assert!(!holds.is_kept(&cid(1)) && holds.kept().is_empty());
        assert_eq!((holds.count(), holds.accounts.len()), ((0, 0), 0));
    }

    #[test]
    fn batches_end_in_order_and_within_a_bound() {
        let mut holds = Holds::default();
        holds.add(1, batch(OWNER, 30, &[1, 2, 3]));
        holds.add(2, batch(OWNER, 10, &[4, 5]));
        holds.add(3, batch(OTHER, 20, &[6]));
        let slots = |ended: Vec<(Slot, Batch)>| ended.into_iter().map(|(slot, _)| slot);
        assert!(holds.ended(9, 10).is_empty());
        assert_eq!(slots(holds.ended(20, 10)).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(slots(holds.ended(30, 5)).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(slots(holds.ended(30, 1)).collect::<Vec<_>>(), [2], "one batch at least");
        // A place is used again.
        holds.remove(2);
        holds.free_slot(2);
        assert_eq!(holds.take_slot(), 2);
        assert_eq!(holds.take_slot(), 4);
        // A record that is written again ends at its new time.
        holds.replace(3, Batch { is_pinned: true, ..batch(OTHER, 40, &[6]) });
        assert_eq!(slots(holds.ended(30, 10)).collect::<Vec<_>>(), [1]);
        assert_eq!(slots(holds.ended(40, 10)).collect::<Vec<_>>(), [1, 3]);
    }
}
