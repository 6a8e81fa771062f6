//! The memory budget that all request and response bodies share.
//!
//! Before its first byte is read, a body takes a permit for the most that it will ever hold at a time. A
//! request that finds too little memory left waits in line, and is answered 503 `SlowDown` after a while.
//! Meanwhile connections that stall, or move too slowly, are closed, so that clients that stall cannot keep
//! others out (docs/adr/0021).

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

/// Longest time that a body waits for memory.
const WAIT: Duration = Duration::from_secs(10);

/// Interval between two searches for stalled bodies while a body waits for memory.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Time without moving [`STEP`] after which a body counts as stalled: its connection is closed when other
/// bodies wait for memory. The limit is about 50 KB/s.
const STALLED: Duration = Duration::from_secs(5);

/// Number of bytes that a body must move to count as progressing. Single bytes now and then do not count.
const STEP: usize = 256 << 10;

/// Time after which a stalled body's connection is closed even when no other body waits, e.g. when an
/// answer is not read.
const ABANDONED: Duration = Duration::from_mins(2);

/// Longest body that is not counted, in bytes. A connection itself needs as much.
const SMALL: usize = 16 << 10;

/// Bytes of one permit.
const UNIT: usize = 1 << 10;

/// Largest number of blocks that an upload holds: one being filled, one being stored.
const LEAVES_IN: usize = 2;

/// Largest number of blocks that a download holds: two read ahead, one being sent.
const LEAVES_OUT: usize = 3;

/// Closes one connection from outside the task that serves it.
#[derive(Clone, Debug, Default)]
pub struct ConnectionCloser(Arc<Notify>);

impl ConnectionCloser {
    /// Tells the connection to close.
    pub fn close(&self) {
        self.0.notify_one();
    }

    /// Returns once the connection must close.
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
    /// Time of the last search for abandoned bodies, in milliseconds since the start.
    looked: u64,
}

#[derive(Debug)]
struct Body {
    units: u32,
    pace: Arc<Pace>,
    /// Closes the connection of the body, once.
    closer: Option<ConnectionCloser>,
    is_ending: bool,
}

/// The progress of a body.
#[derive(Debug)]
struct Pace {
    /// Time at which it last completed a step, in milliseconds since the start.
    since: AtomicU64,
    /// Number of bytes that it has moved since then.
    moved: AtomicUsize,
}

impl Pace {
    fn set(&self, since: u64) {
        self.moved.store(0, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
    }
}

/// The memory that one body holds. It is released when this is dropped.
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
    /// Changes the permit to the size that `bytes` need, without waiting: a body that waits while it holds
    /// memory would keep others from it.
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
                    // The connections are closed for the next attempt.
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

/// Bytes that are being sent, and the permit that they are counted in.
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

    /// Returns an answer that is counted until it is sent. The permit changes from the size taken before to
    /// that of the answer.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when the answer needs more, and too little is left.
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

    /// Records that the body has moved `bytes` bytes.
    pub fn moved(&self, bytes: usize) {
        if let Some(held) = &self.0
            && held.pace.moved.fetch_add(bytes, Ordering::Relaxed) + bytes >= STEP
        {
            held.pace.set(held.budget.now());
        }
    }

    /// Stops counting time against the client until `resume_stall_timer` is called, because the gateway is
    /// at work.
    pub fn pause_stall_timer(&self) {
        if let Some(held) = &self.0 {
            held.pace.set(u64::MAX);
        }
    }

    /// Counts time against the client again, because the gateway waits for it.
    pub(crate) fn resume_stall_timer(&self) {
        if let Some(held) = &self.0 {
            held.pace.set(held.budget.now());
        }
    }
}

/// Returns the frames in which bytes are sent. They are so small that the progress of a slow reader is
/// visible.
pub(crate) fn frames(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let frame = bytes.split_to(bytes.len().min(STEP));
        (!frame.is_empty()).then_some(frame)
    })
}

/// Returns the memory that a request body of this length holds; `None` stands for an unknown length.
pub(crate) fn bytes_in(length: Option<u64>) -> usize {
    held(length, LEAVES_IN)
}

/// Returns the memory that a range of an object of this length holds while it is sent.
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
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).max(LEAVES_OUT * LEAF_BYTES / UNIT);
        let units = u32::try_from(units.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(units as usize));
        Self(Arc::new(Inner { free, units, began: Instant::now(), bodies: Mutex::default() }))
    }

    /// Returns the size of the budget in bytes.
    pub fn bytes(&self) -> usize {
        self.0.units as usize * UNIT
    }

    /// Returns the number of bytes that bodies hold at present.
    pub fn used_bytes(&self) -> usize {
        self.bytes().saturating_sub(self.0.free.available_permits() * UNIT)
    }

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.0.bodies.lock()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a permit for a body on the connection that `closer` closes. Waits while there is too little
    /// memory.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when there is too little memory for ten seconds.
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

    /// Enlarges a permit to the size that `bytes` need, for a body that turns out to be longer. Waits while
    /// there is too little memory; this time is not counted against the client.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when there is too little memory for ten seconds.
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

    /// Returns the number of permits for so many bytes, but at most that of the whole budget.
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

    /// Closes connections of stalled bodies, the longest stalled first, until `units` permits will be
    /// released.
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
            // A connection that was told to close before will release its memory, so it counts.
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
