//! What requests in flight keep from the collector: blocks they put, and roots they read from.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use fula_core::{BlockStore, Cid, block::Epoch};
use tokio::sync::Notify;

use crate::commit::Head;

/// Heads noted before those that nobody holds any more are first left out.
const HEADS_MIN: usize = 1024;

/// Writes in flight and heads in use, of all requests.
#[derive(Debug, Default)]
pub(crate) struct Stakes {
    state: Mutex<State>,
    /// Told whenever a write or a look ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// That the last cut began.
    epoch: Epoch,
    /// Writes in flight, by the epoch they began in.
    writes: BTreeMap<Epoch, usize>,
    /// Pointers being read whose heads are not noted yet, by number.
    looks: BTreeSet<u64>,
    next_look: u64,
    /// Every head there is; those that are gone are left out now and then.
    heads: Vec<Weak<Head>>,
    heads_max: usize,
    /// Blocks that are in use with all they link to, and how often.
    kept: HashMap<Cid, usize>,
    /// Bodies that are on their way, in or out.
    bodies: usize,
}

/// A write in flight: nothing that was put since it began is deleted.
#[derive(Debug)]
pub(crate) struct Lease {
    stakes: Arc<Stakes>,
    epoch: Epoch,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.stakes.state();
        if let Some(writes) = state.writes.get_mut(&self.epoch) {
            *writes -= 1;
            if *writes == 0 {
                state.writes.remove(&self.epoch);
            }
        }
        drop(state);
        self.stakes.ended.notify_waiters();
    }
}

/// A pointer being read: until its head is noted, the collector does not look which there are.
#[derive(Debug)]
pub(crate) struct Look {
    stakes: Arc<Stakes>,
    number: u64,
}

impl Drop for Look {
    fn drop(&mut self) {
        self.stakes.state().looks.remove(&self.number);
        self.stakes.ended.notify_waiters();
    }
}

/// Content on its way in or out: nothing that hangs on these blocks is deleted, however long it takes.
///
/// Unlike a lease it holds nothing else back, so that a client that stalls costs what it stored.
#[derive(Debug)]
pub(crate) struct Kept {
    stakes: Arc<Stakes>,
    cids: Vec<Cid>,
}

impl Kept {
    pub(crate) fn new(stakes: &Arc<Stakes>) -> Self {
        stakes.state().bodies += 1;
        Self { stakes: Arc::clone(stakes), cids: Vec::new() }
    }

    /// Adds blocks; before they are put, so that there is no moment at which nothing keeps them.
    pub(crate) fn add(&mut self, cids: impl IntoIterator<Item = Cid>) {
        let mut state = self.stakes.state();
        for cid in cids {
            *state.kept.entry(cid).or_default() += 1;
            self.cids.push(cid);
        }
    }

    /// Keeps these, put before, instead of those so far, all of which hang on them.
    pub(crate) fn replace(&mut self, cids: impl IntoIterator<Item = Cid>) {
        let old = self.cids.len();
        self.add(cids);
        self.stakes.state().release(self.cids.drain(..old));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = self.stakes.state();
        state.release(self.cids.drain(..));
        state.bodies -= 1;
    }
}

impl State {
    fn release(&mut self, cids: impl Iterator<Item = Cid>) {
        for cid in cids {
            if let Some(count) = self.kept.get_mut(&cid) {
                *count -= 1;
                if *count == 0 {
                    self.kept.remove(&cid);
                }
            }
        }
    }
}

impl Stakes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a write.
    pub(crate) fn begin(self: &Arc<Self>) -> Lease {
        let mut state = self.state();
        let epoch = state.epoch;
        *state.writes.entry(epoch).or_default() += 1;
        Lease { stakes: Arc::clone(self), epoch }
    }

    /// Begins to read a pointer.
    pub(crate) fn look(self: &Arc<Self>) -> Look {
        let mut state = self.state();
        let number = state.next_look;
        state.next_look += 1;
        state.looks.insert(number);
        Look { stakes: Arc::clone(self), number }
    }

    /// Returns once every look has ended that began before the call.
    pub(super) async fn looked(&self) {
        let next = self.state().next_look;
        self.wait_until(|state| state.looks.first().is_none_or(|first| *first >= next)).await;
    }

    /// Notes a head that was just made: as long as anybody holds it, its blocks are in use.
    pub(crate) fn note(&self, head: &Arc<Head>) {
        let mut state = self.state();
        if state.heads.len() >= state.heads_max {
            state.heads.retain(|head| head.strong_count() > 0);
            state.heads_max = (2 * state.heads.len()).max(HEADS_MIN);
        }
        state.heads.push(Arc::downgrade(head));
    }

    /// Returns every head that somebody holds.
    pub(super) fn heads(&self) -> Vec<Arc<Head>> {
        let mut state = self.state();
        state.heads.retain(|head| head.strong_count() > 0);
        state.heads.iter().filter_map(Weak::upgrade).collect()
    }

    /// Returns the blocks that content on its way hangs on; those not put yet will be put in the
    /// epoch of the last cut, or later.
    pub(crate) fn kept(&self) -> Vec<Cid> {
        self.state().kept.keys().copied().collect()
    }

    /// Returns whether any request writes, or a body is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.state();
        state.bodies > 0 || !state.writes.is_empty()
    }

    /// Begins a new epoch: writes that begin from now on put their blocks in it, or in later ones.
    pub(super) fn cut(&self, blocks: &dyn BlockStore) -> Epoch {
        let mut state = self.state();
        state.epoch = blocks.advance_epoch();
        state.epoch
    }

    /// Returns the epoch of the oldest write in flight, if there is one.
    pub(crate) fn oldest(&self) -> Option<Epoch> {
        self.state().writes.keys().next().copied()
    }

    /// Returns once no write is in flight that began before an epoch.
    pub(super) async fn ended_before(&self, epoch: Epoch) {
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

/// What one request keeps from the collector, until the last of its parts is done: the answer's
/// body may be read long after the handler returned, and a change be decided after its client left.
#[derive(Clone, Debug, Default)]
pub struct Stake(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    lease: Option<Lease>,
    heads: Vec<Arc<Head>>,
    kept: Option<Kept>,
}

impl Stake {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the request may write; before it puts or links anything.
    pub(crate) fn write(&self, stakes: &Arc<Stakes>) {
        self.held().lease.get_or_insert_with(|| stakes.begin());
    }

    /// Notes that the request waits for its client, and has put nothing that is not [`Kept`].
    pub(crate) fn wait(&self) {
        let lease = self.held().lease.take();
        drop(lease);
    }

    /// Holds what the request reads from.
    pub(crate) fn hold(&self, head: &Arc<Head>) {
        self.held().heads.push(Arc::clone(head));
    }

    /// Holds the content that the request has taken in.
    pub(crate) fn keep(&self, kept: Kept) {
        self.held().kept = Some(kept);
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

    fn kept(stakes: &Stakes) -> BTreeSet<Cid> {
        stakes.kept().into_iter().collect()
    }

    #[test]
    fn what_two_bodies_share_is_kept_until_the_last_lets_go() {
        let stakes = Arc::new(Stakes::default());
        let (mut one, mut two) = (Kept::new(&stakes), Kept::new(&stakes));
        one.add([cid(1), cid(2), cid(1)]);
        two.add([cid(1)]);
        assert_eq!(kept(&stakes), [cid(1), cid(2)].into());
        drop(one);
        assert_eq!(kept(&stakes), [cid(1)].into());
        assert!(stakes.is_busy());
        drop(two);
        assert!(kept(&stakes).is_empty() && !stakes.is_busy());
    }

    #[test]
    fn a_node_takes_the_place_of_what_it_links_to() {
        let stakes = Arc::new(Stakes::default());
        let (mut one, mut other) = (Kept::new(&stakes), Kept::new(&stakes));
        one.add([cid(1), cid(2)]);
        other.add([cid(2)]);
        one.replace([cid(3), cid(1)]);
        // What is named again stays, and so does what another body keeps.
        assert_eq!(kept(&stakes), [cid(1), cid(2), cid(3)].into());
        drop(other);
        assert_eq!(kept(&stakes), [cid(1), cid(3)].into());
        one.replace([]);
        assert!(kept(&stakes).is_empty());
    }
}
