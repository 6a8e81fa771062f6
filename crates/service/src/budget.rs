//! The memory budget of request and response bodies, of all requests together.
//!
//! A body takes a permit before its first byte is read, for as much as it will ever hold at a time. A
//! request that finds too little memory left waits in line, and is answered 503 `SlowDown` after a
//! while. Meanwhile connections that stall, or move too slowly, are closed, so that clients that stall
//! cannot keep others out (docs/adr/0021).

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fula_core::content::LEAF_BYTES;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::error::{Applied, ServiceError};

/// How long a body waits for memory.
const WAIT: Duration = Duration::from_secs(10);

/// Between two looks for bodies that stand still, while one waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A body that moved less than [`STEP`] for this long goes first when others wait: about 50 KB/s.
const STALLED: Duration = Duration::from_secs(5);

/// Bytes that a body must move to count as going on: a byte now and then holds as much memory as
/// none at all.
const STEP: usize = 256 << 10;

/// One that nobody waits for goes after this long, e.g. when an answer is not read.
const ABANDONED: Duration = Duration::from_mins(2);

/// Bodies no longer than this are not counted: a connection needs as much for itself.
const SMALL: usize = 16 << 10;

/// Bytes of a permit.
const UNIT: usize = 1 << 10;

/// Blocks that an upload holds at most: one being filled, one being stored.
const LEAVES_IN: usize = 2;

/// Blocks that a download holds at most: two read ahead, one being sent.
const LEAVES_OUT: usize = 3;

/// Closes one connection, from outside the task that serves it.
#[derive(Clone, Debug, Default)]
pub struct ConnectionCloser(Arc<Notify>);

impl ConnectionCloser {
    /// Tells the connection to close.
    pub fn close(&self) {
        self.0.notify_one();
    }

    /// Returns once the connection is to close.
    pub async fn closed(&self) {
        self.0.notified().await;
    }
}

/// The memory budget of bodies in one process.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    units: u32,
    began: Instant,
    bodies: Mutex<Bodies>,
}

#[derive(Debug, Default)]
struct Bodies {
    next: u64,
    all: BTreeMap<u64, Body>,
    /// When those that were abandoned were last looked for, in milliseconds since the start.
    looked: u64,
}

#[derive(Debug)]
struct Body {
    units: u32,
    pace: Arc<Pace>,
    /// Closes its connection, once.
    closer: Option<ConnectionCloser>,
    is_ending: bool,
}

/// How a body goes on.
#[derive(Debug)]
struct Pace {
    /// When it last had moved a step, in milliseconds since the start.
    since: AtomicU64,
    /// Bytes that it has moved since then.
    moved: AtomicUsize,
}

impl Pace {
    fn set(&self, since: u64) {
        self.moved.store(0, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
    }
}

/// The memory that one body holds; given back when this is dropped.
#[derive(Debug)]
pub struct MemoryPermit(Option<Held>);

#[derive(Debug)]
struct Held {
    budget: MemoryBudget,
    id: u64,
    pace: Arc<Pace>,
    permit: OwnedSemaphorePermit,
}

impl Held {
    /// Holds as much as `bytes` take, without waiting for it: who waits with something in hand keeps
    /// others from it.
    fn resize(&mut self, bytes: usize) -> Result<(), ServiceError> {
        let units = self.budget.units(bytes);
        let held = self.permit.num_permits();
        match (units as usize).checked_sub(held) {
            None => drop(self.permit.split(held - units as usize)),
            Some(0) => {}
            Some(more) => {
                let free = Arc::clone(&self.budget.0.free);
                let more = u32::try_from(more).unwrap_or(u32::MAX);
                let Ok(found) = free.try_acquire_many_owned(more) else {
                    // For whoever tries it next.
                    self.budget.close_stalled(STALLED, more);
                    return Err(ServiceError::Busy(Applied::None));
                };
                self.permit.merge(found);
            }
        }
        if let Some(body) = self.budget.bodies().all.get_mut(&self.id) {
            body.units = units;
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.bodies().all.remove(&self.id);
    }
}

/// Bytes on their way out, and the permit that they are counted in.
struct Counted {
    bytes: Bytes,
    _permit: Arc<MemoryPermit>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl MemoryPermit {
    /// Returns bytes that keep the permit until they are sent and dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if self.0.is_none() {
            return bytes;
        }
        Bytes::from_owner(Counted { bytes, _permit: Arc::clone(self) })
    }

    /// Returns an answer that counts until it is sent: what was taken for it before becomes what it
    /// takes.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when it takes more than that, and there is too little left.
    pub fn send(mut self, bytes: Bytes) -> Result<Bytes, ServiceError> {
        if bytes.len() <= SMALL {
            return Ok(bytes);
        }
        if let Some(held) = &mut self.0 {
            held.resize(bytes.len())?;
        }
        self.resume_stall_timer();
        Ok(Arc::new(self).hold(bytes))
    }

    /// Notes that the body has moved so many bytes.
    pub fn moved(&self, bytes: usize) {
        if let Some(held) = &self.0
            && held.pace.moved.fetch_add(bytes, Ordering::Relaxed) + bytes >= STEP
        {
            held.pace.set(held.budget.now());
        }
    }

    /// Stops counting time against the client, until `resume_stall_timer` is called: the gateway is at
    /// work.
    pub fn pause_stall_timer(&self) {
        if let Some(held) = &self.0 {
            held.pace.set(u64::MAX);
        }
    }

    /// Counts time against the client again: the gateway waits for it.
    pub(crate) fn resume_stall_timer(&self) {
        if let Some(held) = &self.0 {
            held.pace.set(held.budget.now());
        }
    }
}

/// Returns the frames that bytes are sent in: so small that a client that reads slowly is seen to
/// go on.
pub(crate) fn frames(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let frame = bytes.split_to(bytes.len().min(STEP));
        (!frame.is_empty()).then_some(frame)
    })
}

/// Returns what a body of this length holds on its way in; none stands for an unknown length.
pub(crate) fn bytes_in(length: Option<u64>) -> usize {
    held(length, LEAVES_IN)
}

/// Returns what a range of an object of this length holds on its way out.
pub(crate) fn bytes_out(length: u64, range: &Range<u64>) -> usize {
    if range.is_empty() {
        return 0;
    }
    let leaf = LEAF_BYTES as u64;
    let leaves = (range.end - 1) / leaf - range.start / leaf + 1;
    held(Some(length.min(leaves.saturating_mul(leaf))), LEAVES_OUT)
}

fn held(length: Option<u64>, leaves: usize) -> usize {
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
    length.min(leaves * LEAF_BYTES)
}

impl MemoryBudget {
    /// Returns a budget of `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).max(LEAVES_OUT * LEAF_BYTES / UNIT);
        let units = u32::try_from(units.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(units as usize));
        Self(Arc::new(Inner { free, units, began: Instant::now(), bodies: Mutex::default() }))
    }

    /// Returns how much there is in all, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.units as usize * UNIT
    }

    /// Returns how much bodies hold of it just now, in bytes.
    pub fn used_bytes(&self) -> usize {
        self.bytes().saturating_sub(self.0.free.available_permits() * UNIT)
    }

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.0.bodies.lock()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a permit for a body that comes over the connection that `closer` closes.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when there is too little for too long.
    pub async fn take(
        &self,
        bytes: usize,
        closer: Option<&ConnectionCloser>,
    ) -> Result<MemoryPermit, ServiceError> {
        if bytes <= SMALL {
            return Ok(MemoryPermit(None));
        }
        let units = self.units(bytes);
        self.close_abandoned();
        let permit = match Arc::clone(&self.0.free).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) => self.wait(units).await?,
        };
        let pace = Arc::new(Pace { since: self.now().into(), moved: AtomicUsize::new(0) });
        let body =
            Body { units, pace: Arc::clone(&pace), closer: closer.cloned(), is_ending: false };
        let mut bodies = self.bodies();
        let id = bodies.next;
        bodies.next += 1;
        bodies.all.insert(id, body);
        drop(bodies);
        Ok(MemoryPermit(Some(Held { budget: self.clone(), id, pace, permit })))
    }

    /// Makes a permit as large as `bytes` need, for a body that turns out to be longer; waits in line
    /// when there is too little, which is not the client's time.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when there is too little for too long.
    pub async fn grow(
        &self,
        permit: &mut MemoryPermit,
        bytes: usize,
        closer: Option<&ConnectionCloser>,
    ) -> Result<(), ServiceError> {
        let Some(held) = &mut permit.0 else {
            *permit = self.take(bytes, closer).await?;
            return Ok(());
        };
        let units = self.units(bytes);
        let had = u32::try_from(held.permit.num_permits()).unwrap_or(u32::MAX);
        let Some(more) = units.checked_sub(had).filter(|more| *more > 0) else { return Ok(()) };
        let acquired = if let Ok(acquired) = Arc::clone(&self.0.free).try_acquire_many_owned(more) {
            acquired
        } else {
            held.pace.set(u64::MAX);
            let acquired = self.wait(more).await?;
            held.pace.set(self.now());
            acquired
        };
        held.permit.merge(acquired);
        if let Some(body) = self.bodies().all.get_mut(&held.id) {
            body.units = units;
        }
        Ok(())
    }

    /// Returns the permits for so many bytes; more than there are is all of them.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.0.units)
    }

    async fn wait(&self, units: u32) -> Result<OwnedSemaphorePermit, ServiceError> {
        metrics::counter!("fula_memory_waits_total").increment(1);
        let acquired = Arc::clone(&self.0.free).acquire_many_owned(units);
        let deadline = Instant::now() + WAIT;
        tokio::pin!(acquired);
        loop {
            self.close_stalled(STALLED, units);
            match tokio::time::timeout(LOOK_EVERY, &mut acquired).await {
                Ok(permit) => {
                    return permit.map_err(ServiceError::bug);
                }
                Err(_) if Instant::now() >= deadline => {
                    return Err(ServiceError::Busy(Applied::None));
                }
                Err(_) => {}
            }
        }
    }

    /// Closes connections of bodies that stand still, the longest first, until `units` come back.
    fn close_stalled(&self, stalled: Duration, units: u32) {
        let stalled = u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX);
        let now = self.now();
        let mut bodies = self.bodies();
        let mut still: Vec<(u64, &mut Body)> = bodies
            .all
            .values_mut()
            .map(|body| (body.pace.since.load(Ordering::Relaxed), body))
            .filter(|(since, _)| since.saturating_add(stalled) <= now)
            .collect();
        still.sort_by_key(|(since, _)| *since);
        let mut wanted = units;
        for (_, body) in still {
            // One that was hung up on before is on its way out, and counts.
            if let Some(closer) = body.closer.take() {
                closer.close();
                metrics::counter!("fula_memory_hangups_total").increment(1);
                body.is_ending = true;
            }
            if !body.is_ending {
                continue;
            }
            wanted = wanted.saturating_sub(body.units);
            if wanted == 0 {
                return;
            }
        }
    }

    fn close_abandoned(&self) {
        let (now, abandoned) = (self.now(), u64::try_from(ABANDONED.as_millis()).unwrap_or(0));
        let mut bodies = self.bodies();
        if bodies.looked.saturating_add(abandoned) > now {
            return;
        }
        bodies.looked = now;
        drop(bodies);
        self.close_stalled(ABANDONED, u32::MAX);
    }
}
