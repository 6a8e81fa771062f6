//! A disk that does not answer.
//!
//! Appends and fsyncs of commits usually run on the thread of the caller, because handing them over costs as
//! much as a fast fsync (docs/adr/0013). A disk that hangs keeps such a thread. So that it does not keep all of
//! them, further operations run elsewhere as soon as one is slow, and are refused once one hangs.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::{Log, Slot, Stream, Tail, blocking};

/// Time after which other operations no longer run on the thread of their caller.
pub(super) const SLOW: Duration = Duration::from_millis(20);

/// Time after which an operation of the disk hangs, and other ones are refused. Tests wait less.
pub(crate) const HUNG: Duration =
    if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(10) };

/// Largest number of reads that wait for the disk at a time. Other work needs the rest of the threads that may
/// wait.
pub(super) const READS: usize = 24;

/// Since when one part of the log has been waiting for the disk.
#[derive(Debug, Default)]
pub(super) struct Busy {
    /// Milliseconds from the opening of the log to the beginning of the operation, plus one; 0 if there is
    /// none.
    since: AtomicU64,
}

/// An operation of the disk, which ends when this is dropped.
pub(super) struct Operation<'a>(Option<&'a Busy>);

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        if let Some(busy) = self.0 {
            busy.since.store(0, Ordering::Release);
        }
    }
}

impl Busy {
    /// Records that an operation begins. One that is part of another one is not counted.
    pub(super) fn begin(&self, opened: Instant) -> Operation<'_> {
        let now = millis_since(opened) + 1;
        let begun = self.since.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        Operation(begun.is_ok().then_some(self))
    }

    fn pending(&self, opened: Instant) -> Duration {
        match self.since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => Duration::from_millis(millis_since(opened).saturating_sub(since - 1)),
        }
    }
}

fn millis_since(opened: Instant) -> u64 {
    u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn hung() -> io::Error {
    let text = format!("the disk has not answered for {} s", HUNG.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl Stream {
    /// Locks the end of the stream. Returns an error of the kind `WouldBlock` if another thread holds it for
    /// longer than `patience`.
    pub(super) fn lock_tail(&self, patience: Duration) -> io::Result<MutexGuard<'_, Tail>> {
        let locked = self.tail.try_lock_for(patience);
        locked.ok_or_else(|| io::Error::new(io::ErrorKind::WouldBlock, hung()))
    }
}

impl Log {
    /// Returns for how long the slowest pending write or fsync has been waiting for the disk.
    pub(crate) fn pending_for(&self) -> Duration {
        let parts = self.streams.iter().flat_map(|stream| [&stream.writing, &stream.flushing]);
        parts.map(|busy| busy.pending(self.opened)).max().unwrap_or_default()
    }

    /// Refuses work while the disk hangs.
    pub(crate) fn check_answers(&self) -> io::Result<()> {
        if self.pending_for() < HUNG { Ok(()) } else { Err(hung()) }
    }

    /// Runs work that usually takes microseconds on the thread of the caller. While the disk is slow, the
    /// work runs on a thread that may wait; while the disk hangs, it is refused. `work` gets the time for
    /// which it may wait for the end of a stream. It is called again if that was too short, so it must not
    /// have changed anything by then.
    pub(crate) async fn quickly<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Fn(&Self, Duration) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.check_answers()?;
        if self.pending_for() < SLOW {
            match work(self, SLOW) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        let log = Arc::clone(self);
        blocking(move || work(&log, HUNG)).await
    }

    /// Reads the value of a record without checking it, on a thread that may wait for the disk.
    pub(crate) async fn read_waiting(self: &Arc<Self>, slot: Slot) -> io::Result<Bytes> {
        let read = async {
            let turn = Arc::clone(&self.readers).acquire_owned().await.map_err(io::Error::other)?;
            let log = Arc::clone(self);
            blocking(move || {
                let _turn = turn;
                log.read(&slot)
            })
            .await
        };
        tokio::time::timeout(HUNG, read).await.unwrap_or_else(|_| Err(hung()))
    }
}
