//! Memory for bodies on their way in and out, of all requests together.
//!
//! A body takes its share before its first byte is read, as much as it will ever hold at a time;
//! who finds too little left waits in line, and is told to slow down after a while. Meanwhile those
//! that stand still, or go on too slowly, lose their connection, so that clients that stall cannot
//! keep others out.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fula_core::content::LEAF_BYTES;
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

/// Ends one connection.
#[derive(Clone, Debug, Default)]
pub struct Hangup(Arc<Notify>);

impl Hangup {
    /// Tells the connection to end.
    pub fn call(&self) {
        self.0.notify_one();
    }

    /// Returns once the connection is to end.
    pub async fn called(&self) {
        self.0.notified().await;
    }
}

/// The memory for bodies of one process.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Inner>);

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
    /// Ends its connection, once.
    hangup: Option<Hangup>,
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

/// What one body holds of the memory for bodies; given back when this is dropped.
#[derive(Debug)]
pub struct Share(Option<Held>);

#[derive(Debug)]
struct Held {
    memory: Memory,
    id: u64,
    pace: Arc<Pace>,
    permit: OwnedSemaphorePermit,
}

impl Held {
    /// Holds as much as `bytes` take, without waiting for it: who waits with something in hand keeps
    /// others from it.
    fn resize(&mut self, bytes: usize) -> Result<(), ServiceError> {
        let units = self.memory.units(bytes);
        let held = self.permit.num_permits();
        match (units as usize).checked_sub(held) {
            None => drop(self.permit.split(held - units as usize)),
            Some(0) => {}
            Some(more) => {
                let free = Arc::clone(&self.memory.0.free);
                let more = u32::try_from(more).unwrap_or(u32::MAX);
                let Ok(found) = free.try_acquire_many_owned(more) else {
                    // For whoever tries it next.
                    self.memory.hang_up(STALLED, more);
                    return Err(ServiceError::Busy(Applied::None));
                };
                self.permit.merge(found);
            }
        }
        if let Some(body) = self.memory.bodies().all.get_mut(&self.id) {
            body.units = units;
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.bodies().all.remove(&self.id);
    }
}

/// Bytes on their way out, and the share they were counted in.
struct Counted {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Share {
    /// Returns bytes that keep the share until they are sent and let go of.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if self.0.is_none() {
            return bytes;
        }
        Bytes::from_owner(Counted { bytes, _share: Arc::clone(self) })
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
        self.is_theirs();
        Ok(Arc::new(self).hold(bytes))
    }

    /// Notes that the body has moved so many bytes.
    pub fn moved(&self, bytes: usize) {
        if let Some(held) = &self.0
            && held.pace.moved.fetch_add(bytes, Ordering::Relaxed) + bytes >= STEP
        {
            held.pace.set(held.memory.now());
        }
    }

    /// Notes that the body waits for us, until `is_theirs` is called: that is no fault of its client.
    pub fn is_ours(&self) {
        if let Some(held) = &self.0 {
            held.pace.set(u64::MAX);
        }
    }

    /// Notes that the body waits for its client.
    pub(crate) fn is_theirs(&self) {
        if let Some(held) = &self.0 {
            held.pace.set(held.memory.now());
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

impl Memory {
    /// Shares out `bytes`.
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

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.0.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a share for a body that comes over the connection `hangup` ends.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when there is too little for too long.
    pub async fn take(&self, bytes: usize, hangup: Option<&Hangup>) -> Result<Share, ServiceError> {
        if bytes <= SMALL {
            return Ok(Share(None));
        }
        let units = self.units(bytes);
        self.hang_up_abandoned();
        let permit = match Arc::clone(&self.0.free).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) => self.wait(units).await?,
        };
        let pace = Arc::new(Pace { since: self.now().into(), moved: AtomicUsize::new(0) });
        let body =
            Body { units, pace: Arc::clone(&pace), hangup: hangup.cloned(), is_ending: false };
        let mut bodies = self.bodies();
        let id = bodies.next;
        bodies.next += 1;
        bodies.all.insert(id, body);
        drop(bodies);
        Ok(Share(Some(Held { memory: self.clone(), id, pace, permit })))
    }

    /// Makes a share as large as `bytes` need, for a body that turns out to be longer; waits in line
    /// when there is too little, which is not the client's time.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when there is too little for too long.
    pub async fn grow(
        &self,
        share: &mut Share,
        bytes: usize,
        hangup: Option<&Hangup>,
    ) -> Result<(), ServiceError> {
        let Some(held) = &mut share.0 else {
            *share = self.take(bytes, hangup).await?;
            return Ok(());
        };
        let units = self.units(bytes);
        let had = u32::try_from(held.permit.num_permits()).unwrap_or(u32::MAX);
        let Some(more) = units.checked_sub(had).filter(|more| *more > 0) else { return Ok(()) };
        let permit = if let Ok(permit) = Arc::clone(&self.0.free).try_acquire_many_owned(more) {
            permit
        } else {
            held.pace.set(u64::MAX);
            let permit = self.wait(more).await?;
            held.pace.set(self.now());
            permit
        };
        held.permit.merge(permit);
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
            self.hang_up(STALLED, units);
            match tokio::time::timeout(LOOK_EVERY, &mut acquired).await {
                Ok(permit) => {
                    return permit.map_err(|error| ServiceError::Internal(error.to_string()));
                }
                Err(_) if Instant::now() >= deadline => {
                    return Err(ServiceError::Busy(Applied::None));
                }
                Err(_) => {}
            }
        }
    }

    /// Ends connections of bodies that stand still, the longest first, until `units` come back.
    fn hang_up(&self, stalled: Duration, units: u32) {
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
            if let Some(hangup) = body.hangup.take() {
                hangup.call();
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

    fn hang_up_abandoned(&self) {
        let (now, abandoned) = (self.now(), u64::try_from(ABANDONED.as_millis()).unwrap_or(0));
        let mut bodies = self.bodies();
        if bodies.looked.saturating_add(abandoned) > now {
            return;
        }
        bodies.looked = now;
        drop(bodies);
        self.hang_up(ABANDONED, u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_comes_back() {
        let memory = Memory::new(4 * MIB);
        let first = memory.take(3 * MIB, None).await.unwrap();
        let second = memory.take(MIB, None).await.unwrap();
        assert!(memory.take(MIB, None).now_or_never().is_none());
        assert!(memory.take(SMALL, None).now_or_never().is_some(), "small ones always find room");
        drop(first);
        let third = memory.take(3 * MIB, None).await.unwrap();
        drop((second, third));
        assert!(memory.bodies().all.is_empty());
        // More than there is is all there is.
        memory.take(100 * MIB, None).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_grows_with_its_body_and_waits_for_room() {
        let memory = Memory::new(4 * MIB);
        let left = || memory.0.free.available_permits() * UNIT;
        let mut share = memory.take(0, None).await.unwrap();
        memory.grow(&mut share, SMALL, None).await.unwrap();
        assert_eq!(left(), 4 * MIB, "small ones are not counted");
        for bytes in [MIB, MIB / 2, 2 * MIB] {
            memory.grow(&mut share, bytes, None).await.unwrap();
        }
        assert_eq!(left(), 2 * MIB);

        let other = memory.take(2 * MIB, Some(&Hangup::default())).await.unwrap();
        {
            let growing = memory.grow(&mut share, 3 * MIB, None);
            tokio::pin!(growing);
            assert!(growing.as_mut().now_or_never().is_none());
            drop(other);
            growing.await.unwrap();
        }
        assert_eq!(left(), MIB);
        drop(share);
        assert_eq!(left(), 4 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_to_slow_down() {
        let memory = Memory::new(4 * MIB);
        let busy = memory.take(4 * MIB, Some(&Hangup::default())).await.unwrap();
        let begun = Instant::now();
        let waiting = memory.take(MIB, None);
        tokio::pin!(waiting);
        let refused = loop {
            tokio::select! {
                taken = &mut waiting => break taken,
                () = tokio::time::sleep(Duration::from_millis(100)) => busy.moved(STEP),
            }
        };
        assert!(matches!(refused, Err(ServiceError::Busy(Applied::None))));
        assert!(begun.elapsed() >= WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_makes_way() {
        let memory = Memory::new(4 * MIB);
        let (still, busy) = (Hangup::default(), Hangup::default());
        let stalled = memory.take(2 * MIB, Some(&still)).await.unwrap();
        let moving = memory.take(2 * MIB, Some(&busy)).await.unwrap();
        let connection = async {
            still.called().await;
            drop(stalled);
        };
        let work = async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                moving.moved(STEP / 20);
            }
        };
        let taken = tokio::select! {
            (taken, ()) = async { tokio::join!(memory.take(MIB, None), connection) } => taken,
            () = work => unreachable!("it works for ever"),
        };
        assert!(taken.is_ok());
        assert!(busy.called().now_or_never().is_none(), "who goes on stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_makes_way() {
        let memory = Memory::new(4 * MIB);
        let slow = Hangup::default();
        let trickling = memory.take(4 * MIB, Some(&slow)).await.unwrap();
        let connection = async {
            loop {
                tokio::select! {
                    () = slow.called() => break,
                    () = tokio::time::sleep(Duration::from_millis(100)) => trickling.moved(1024),
                }
            }
            drop(trickling);
        };
        let (taken, ()) = tokio::join!(memory.take(MIB, None), connection);
        assert!(taken.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_ended_once() {
        let memory = Memory::new(4 * MIB);
        let (first, second) = (Hangup::default(), Hangup::default());
        let _slow_to_end = memory.take(2 * MIB, Some(&first)).await.unwrap();
        let _other = memory.take(2 * MIB, Some(&second)).await.unwrap();
        tokio::time::advance(STALLED).await;
        let refused = memory.take(2 * MIB, None).await;
        assert!(matches!(refused, Err(ServiceError::Busy(Applied::None))));
        assert!(first.called().now_or_never().is_some());
        // Where it ends it frees enough: no other one has to go, however long it takes.
        assert!(first.called().now_or_never().is_none());
        assert!(second.called().now_or_never().is_none());
    }

    #[test]
    fn frames_are_the_bytes() {
        let bytes = Bytes::from(vec![7; 2 * STEP + 5]);
        let lengths: Vec<usize> = frames(bytes).map(|frame| frame.len()).collect();
        assert_eq!(lengths, [STEP, STEP, 5]);
        assert_eq!(frames(Bytes::new()).count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_ends_at_last() {
        let memory = Memory::new(64 * MIB);
        let hangup = Hangup::default();
        let _unread = memory.take(MIB, Some(&hangup)).await.unwrap();
        tokio::time::advance(ABANDONED).await;
        drop(memory.take(MIB, None).await.unwrap());
        assert!(hangup.called().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_until_they_are_sent() {
        let memory = Memory::new(4 * MIB);
        let share = Arc::new(memory.take(4 * MIB, None).await.unwrap());
        let all = share.hold(Bytes::from_static(b"on their way"));
        drop(share);
        // A part of them is as much as all: it holds the same memory.
        let mut part = all.clone();
        drop(part.split_to(3));
        drop(all);
        assert_eq!(part, b"their way".as_slice());
        assert!(memory.take(MIB, None).now_or_never().is_none());
        drop(part);
        assert!(memory.take(MIB, None).now_or_never().is_some());

        let small = Arc::new(memory.take(SMALL, None).await.unwrap());
        let bytes = Bytes::from_static(b"small");
        assert_eq!(
            small.hold(bytes.clone()).as_ptr(),
            bytes.as_ptr(),
            "what is not counted stays as it is"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_as_what_it_is_until_it_is_sent() {
        let memory = Memory::new(4 * MIB);
        let left = || memory.0.free.available_permits() * UNIT;
        let taken = async || memory.take(MIB, None).await.unwrap();
        let shorter = taken().await.send(Bytes::from(vec![1; MIB / 2])).unwrap();
        assert_eq!((left(), shorter.len()), (4 * MIB - MIB / 2, MIB / 2));
        let longer = taken().await.send(Bytes::from(vec![1; 2 * MIB])).unwrap();
        assert_eq!(left(), 4 * MIB - MIB / 2 - 2 * MIB);
        let refused = taken().await.send(Bytes::from(vec![1; 3 * MIB]));
        assert!(matches!(refused, Err(ServiceError::Busy(Applied::None))));
        assert_eq!(taken().await.send(Bytes::from_static(b"short")).unwrap(), "short");
        drop((shorter, longer));
        assert_eq!(left(), 4 * MIB);

        let hangup = Hangup::default();
        let share = memory.take(MIB, Some(&hangup)).await.unwrap();
        share.is_ours();
        let _unread = share.send(Bytes::from(vec![1; 3 * MIB])).unwrap();
        tokio::time::advance(STALLED).await;
        assert!(memory.take(2 * MIB, None).now_or_never().is_none());
        assert!(hangup.called().now_or_never().is_some(), "nobody reads it, and others wait");
    }

    #[test]
    fn a_body_holds_no_more_than_a_few_blocks() {
        assert_eq!(bytes_in(Some(10)), 10);
        assert_eq!(bytes_in(Some(1 << 40)), 2 * MIB);
        assert_eq!((bytes_in(None), bytes_out(1 << 40, &(0..1 << 40))), (2 * MIB, 3 * MIB));
        assert_eq!((bytes_out(1 << 40, &(5..6)), bytes_out(100, &(5..6))), (MIB, 100));
        assert_eq!(bytes_out(1 << 40, &(0..0)), 0);
    }
}
