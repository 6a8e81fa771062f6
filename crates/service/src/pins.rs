//! Pins: the blocks that requests in flight keep from the collector, because they have put them or read
//! from a root that links them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use fula_core::{
    BlockStore, Cid,
    block::Epoch,
    root::{LeaseId, TimeMs},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::arbiter::head::Head;

/// Number of registered heads from which on released ones are removed.
const HEADS_MIN: usize = 1024;

/// Longest time in milliseconds from the examination of a change to its swap, as far as readers are protected.
const EXAMINED: TimeMs = 15_000;

/// The writes in flight and the heads in use of all requests.
#[derive(Debug, Default)]
pub(crate) struct PinRegistry {
    state: Mutex<State>,
    /// Notified whenever a write ends, or the read of a pointer.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The current epoch, which the last collection began.
    epoch: Epoch,
    /// Number of writes in flight, by the epoch in which they began.
    writes: BTreeMap<Epoch, usize>,
    /// Numbers of pointer reads whose heads are not registered yet.
    reads: BTreeSet<u64>,
    next_read: u64,
    /// All registered heads. Released ones are removed from time to time.
    heads: Vec<Weak<Head>>,
    heads_max: usize,
    /// Blocks that are in use with everything that they link to, and the number of users.
    pinned: HashMap<Cid, usize>,
    /// Number of bodies on their way in, by the epoch in which they began.
    bodies: BTreeMap<Epoch, usize>,
    /// Number of bodies on their way out, by the arbiter's time at which they began.
    reads_out: BTreeMap<TimeMs, usize>,
    /// The lease that this master has in the arbiter, where masters share blocks.
    lease: Option<LeaseId>,
    /// Sources of further blocks that are kept, without what they link to.
    keepers: Vec<Keeper>,
}

/// What content that a master does not have in memory relies on, where masters share blocks
/// (docs/adr/0042).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// No collection up to this generation deletes the content.
    pub(crate) generation: Epoch,
    /// While the arbiter has this lease, no later one does.
    pub(crate) lease: Option<LeaseId>,
}

impl Origin {
    /// Returns what both rely on.
    fn and(self, other: Self) -> Self {
        let lease = self.lease.filter(|lease| other.lease.as_ref() == Some(lease));
        Self { generation: self.generation.min(other.generation), lease }
    }
}

/// A source of blocks that are kept for another reason than requests: the holds of a storage node.
#[derive(Clone)]
pub struct Keeper(pub Arc<dyn Fn() -> Vec<Cid> + Send + Sync>);

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keeper(…)")
    }
}

/// A write in flight. Nothing that was put since it began is deleted.
#[derive(Debug)]
pub(crate) struct WriteLease {
    pin_registry: Arc<PinRegistry>,
    epoch: Epoch,
}

impl Drop for WriteLease {
    fn drop(&mut self) {
        let mut state = self.pin_registry.state();
        release_one(&mut state.writes, &self.epoch);
        drop(state);
        self.pin_registry.ended.notify_waiters();
    }
}

/// The read of a pointer. The collector waits until its head is registered.
#[derive(Debug)]
pub(crate) struct PointerRead {
    pin_registry: Arc<PinRegistry>,
    number: u64,
}

impl Drop for PointerRead {
    fn drop(&mut self) {
        self.pin_registry.state().reads.remove(&self.number);
        self.pin_registry.ended.notify_waiters();
    }
}

/// Content on its way in or out. Nothing that these blocks link to is deleted, however long it takes.
///
/// Unlike a lease it holds back no other blocks, so a client that stalls costs only what it has stored.
#[derive(Debug)]
pub(crate) struct PinnedBlocks {
    pin_registry: Arc<PinRegistry>,
    cids: Vec<Cid>,
    way: Way,
}

/// The way that content goes.
#[derive(Debug)]
enum Way {
    In(Origin),
    Out(TimeMs),
}

/// Removes one of the users of a key.
fn release_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl PinnedBlocks {
    /// Pins content on its way in.
    pub(crate) fn new(pin_registry: &Arc<PinRegistry>) -> Self {
        let mut state = pin_registry.state();
        let origin = Origin { generation: state.epoch, lease: state.lease.clone() };
        *state.bodies.entry(origin.generation).or_default() += 1;
        drop(state);
        let (pin_registry, way) = (Arc::clone(pin_registry), Way::In(origin));
        Self { pin_registry, cids: Vec::new(), way }
    }

    /// Pins content on its way out, which is read from a root that was current at this time, about.
    pub(crate) fn of_read(pin_registry: &Arc<PinRegistry>, time: TimeMs) -> Self {
        *pin_registry.state().reads_out.entry(time).or_default() += 1;
        let pin_registry = Arc::clone(pin_registry);
        Self { pin_registry, cids: Vec::new(), way: Way::Out(time) }
    }

    fn origin(&self) -> Option<&Origin> {
        match &self.way {
            Way::In(origin) => Some(origin),
            Way::Out(_) => None,
        }
    }

    /// Adds blocks. Call it before they are put, so that they are pinned at every moment.
    pub(crate) fn add(&mut self, cids: impl IntoIterator<Item = Cid>) {
        let mut state = self.pin_registry.state();
        for cid in cids {
            *state.pinned.entry(cid).or_default() += 1;
            self.cids.push(cid);
        }
    }

    /// Replaces the pinned blocks by these, which were put before and link to all of them.
    pub(crate) fn replace(&mut self, cids: impl IntoIterator<Item = Cid>) {
        let old = self.cids.len();
        self.add(cids);
        self.pin_registry.state().release(self.cids.drain(..old));
    }
}

impl Drop for PinnedBlocks {
    fn drop(&mut self) {
        let mut state = self.pin_registry.state();
        state.release(self.cids.drain(..));
        match &self.way {
            Way::In(origin) => release_one(&mut state.bodies, &origin.generation),
            Way::Out(time) => release_one(&mut state.reads_out, time),
        }
    }
}

impl State {
    fn release(&mut self, cids: impl Iterator<Item = Cid>) {
        for cid in cids {
            if let Some(count) = self.pinned.get_mut(&cid) {
                *count -= 1;
                if *count == 0 {
                    self.pinned.remove(&cid);
                }
            }
        }
    }
}

impl PinRegistry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Begins a write.
    pub(crate) fn begin_write(self: &Arc<Self>) -> WriteLease {
        let mut state = self.state();
        let epoch = state.epoch;
        *state.writes.entry(epoch).or_default() += 1;
        WriteLease { pin_registry: Arc::clone(self), epoch }
    }

    /// Begins to read a pointer.
    pub(crate) fn begin_read(self: &Arc<Self>) -> PointerRead {
        let mut state = self.state();
        let number = state.next_read;
        state.next_read += 1;
        state.reads.insert(number);
        PointerRead { pin_registry: Arc::clone(self), number }
    }

    /// Returns once every pointer read that began before the call has ended.
    pub(super) async fn reads_ended(&self) {
        let next = self.state().next_read;
        self.wait_until(|state| state.reads.first().is_none_or(|first| *first >= next)).await;
    }

    /// Registers a new head. Its blocks are in use as long as it is referenced.
    pub(crate) fn register_head(&self, head: &Arc<Head>) {
        let mut state = self.state();
        if state.heads.len() >= state.heads_max {
            state.heads.retain(|head| head.strong_count() > 0);
            state.heads_max = (2 * state.heads.len()).max(HEADS_MIN);
        }
        state.heads.push(Arc::downgrade(head));
    }

    /// Returns every head that is in use.
    pub(super) fn heads(&self) -> Vec<Arc<Head>> {
        let mut state = self.state();
        state.heads.retain(|head| head.strong_count() > 0);
        state.heads.iter().filter_map(Weak::upgrade).collect()
    }

    /// Returns the blocks that content on its way depends on. Blocks that were not put yet will be put in
    /// the current epoch or later.
    pub(crate) fn pinned_blocks(&self) -> Vec<Cid> {
        self.state().pinned.keys().copied().collect()
    }

    /// Adds a source of blocks that are kept. It returns a block from before it is put until it may go.
    pub(crate) fn add_keeper(&self, keeper: Keeper) {
        self.state().keepers.push(keeper);
    }

    /// Returns the blocks that keepers keep, without what they link to.
    pub(crate) fn kept_blocks(&self) -> Vec<Cid> {
        let keepers = self.state().keepers.clone();
        keepers.iter().flat_map(|keeper| (keeper.0)()).collect()
    }

    /// Returns whether any request writes, or a body is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.state();
        !(state.bodies.is_empty() && state.reads_out.is_empty() && state.writes.is_empty())
    }

    /// Returns whether any request writes.
    pub(crate) fn is_writing(&self) -> bool {
        let state = self.state();
        !(state.bodies.is_empty() && state.writes.is_empty())
    }

    /// Learns a generation of shared blocks, which is their epoch. Call it after the block store has learnt
    /// it: content that begins from now on counts as put under it.
    pub(crate) fn observe_generation(&self, generation: u64) {
        let mut state = self.state();
        state.epoch = state.epoch.max(Epoch(u32::try_from(generation).unwrap_or(u32::MAX)));
    }

    /// Sets the lease that this master has in the arbiter.
    pub(crate) fn set_lease(&self, lease: Option<LeaseId>) {
        self.state().lease = lease;
    }

    /// Returns the lease that this master has in the arbiter.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.state().lease.clone()
    }

    /// Returns the generation from which on this master needs what it has put.
    pub(crate) fn floor(&self) -> Epoch {
        let state = self.state();
        state.bodies.keys().next().map_or(state.epoch, |oldest| (*oldest).min(state.epoch))
    }

    /// Returns the time from which on requests that read need replaced roots, if there are such requests. A
    /// root says when its change was examined, which is up to [`EXAMINED`] before it was replaced.
    pub(crate) fn oldest_read(&self) -> Option<TimeMs> {
        self.state().reads_out.keys().next().map(|time| time.saturating_sub(EXAMINED))
    }

    /// Begins a new epoch. Writes that begin from now on put their blocks in it or in later ones.
    pub(super) fn begin_epoch(&self, blocks: &dyn BlockStore) -> Epoch {
        let mut state = self.state();
        let begun = blocks.advance_epoch();
        state.epoch = state.epoch.max(begun);
        begun
    }

    /// Returns the epoch of the oldest write in flight, if there is one.
    pub(crate) fn oldest_write(&self) -> Option<Epoch> {
        self.state().writes.keys().next().copied()
    }

    /// Returns once no write is in flight that began before an epoch.
    pub(super) async fn writes_ended_before(&self, epoch: Epoch) {
        self.wait_until(|state| state.writes.keys().next().is_none_or(|oldest| *oldest >= epoch))
            .await;
    }

    async fn wait_until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if holds(&self.state()) {
                return;
            }
            ended.await;
        }
    }
}

/// The pins of one request. They last until its last part is done: the body of the answer may be read long
/// after the handler returned, and a change may be decided after its client left.
#[derive(Clone, Debug, Default)]
pub struct RequestPins(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    lease: Option<WriteLease>,
    heads: Vec<Arc<Head>>,
    content: Option<PinnedBlocks>,
    /// What content relies on that is not in memory.
    origin: Option<Origin>,
    /// The first read of a root.
    read: Option<ReadHold>,
}

/// A request that reads a root which was current at a time or later.
#[derive(Debug)]
struct ReadHold {
    pin_registry: Arc<PinRegistry>,
    time: TimeMs,
}

impl Drop for ReadHold {
    fn drop(&mut self) {
        release_one(&mut self.pin_registry.state().reads_out, &self.time);
    }
}

impl Held {
    fn rely_on(&mut self, origin: Option<Origin>) {
        self.origin = match (self.origin.take(), origin) {
            (Some(before), Some(origin)) => Some(before.and(origin)),
            (before, origin) => before.or(origin),
        };
    }
}

impl RequestPins {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock()
    }

    /// Begins a write. Call it before the request puts or links anything.
    pub(crate) fn begin_write(&self, pin_registry: &Arc<PinRegistry>) {
        self.held().lease.get_or_insert_with(|| pin_registry.begin_write());
    }

    /// Ends the write, because the request waits for its client and everything it has put is in
    /// [`PinnedBlocks`].
    pub(crate) fn end_write(&self) {
        let lease = self.held().lease.take();
        drop(lease);
    }

    /// Pins the head that the request reads from.
    pub(crate) fn pin_head(&self, head: &Arc<Head>) {
        self.held().heads.push(Arc::clone(head));
    }

    /// Pins the content that the request has received.
    pub(crate) fn pin_blocks(&self, content: PinnedBlocks) {
        let mut held = self.held();
        held.rely_on(content.origin().cloned());
        held.content = Some(content);
    }

    /// Records that the request reads a root which is current at this time or later. The first call counts.
    pub(crate) fn note_read(&self, pin_registry: &Arc<PinRegistry>, time: TimeMs) {
        self.held().read.get_or_insert_with(|| {
            *pin_registry.state().reads_out.entry(time).or_default() += 1;
            ReadHold { pin_registry: Arc::clone(pin_registry), time }
        });
    }

    /// Returns the time of [`Self::note_read`].
    pub(crate) fn read_since(&self) -> Option<TimeMs> {
        self.held().read.as_ref().map(|read| read.time)
    }

    /// Records that the request links content which it read from a root of this generation.
    pub(crate) fn note_source(&self, generation: u64) {
        let generation = Epoch(u32::try_from(generation).unwrap_or(u32::MAX));
        self.held().rely_on(Some(Origin { generation, lease: None }));
    }

    /// Returns what the content of the request relies on; `None` if all of it is in memory.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.held().origin.clone()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fula_core::{Block, Codec};

    use super::*;

    fn cid(n: u8) -> Cid {
        Block::new(Codec::Raw, Bytes::copy_from_slice(&[n])).cid()
    }

    fn pinned(pin_registry: &PinRegistry) -> BTreeSet<Cid> {
        pin_registry.pinned_blocks().into_iter().collect()
    }

    #[test]
    fn what_two_bodies_share_is_kept_until_the_last_lets_go() {
        let pin_registry = Arc::new(PinRegistry::default());
        let (mut one, mut two) =
            (PinnedBlocks::new(&pin_registry), PinnedBlocks::new(&pin_registry));
        one.add([cid(1), cid(2), cid(1)]);
        two.add([cid(1)]);
        assert_eq!(pinned(&pin_registry), [cid(1), cid(2)].into());
        drop(one);
        assert_eq!(pinned(&pin_registry), [cid(1)].into());
        assert!(pin_registry.is_busy());
        drop(two);
        assert!(pinned(&pin_registry).is_empty() && !pin_registry.is_busy());
    }

    #[test]
    fn a_node_takes_the_place_of_what_it_links_to() {
        let pin_registry = Arc::new(PinRegistry::default());
        let (mut one, mut other) =
            (PinnedBlocks::new(&pin_registry), PinnedBlocks::new(&pin_registry));
        one.add([cid(1), cid(2)]);
        other.add([cid(2)]);
        one.replace([cid(3), cid(1)]);
        // Blocks that are named again stay, and so do those that another body pins.
        assert_eq!(pinned(&pin_registry), [cid(1), cid(2), cid(3)].into());
        drop(other);
        assert_eq!(pinned(&pin_registry), [cid(1), cid(3)].into());
        one.replace([]);
        assert!(pinned(&pin_registry).is_empty());
    }
}
