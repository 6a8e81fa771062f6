//! Coalesces reads of root pointers: each reader joins the next read that begins after it arrived.
//!
//! However many requests wait, one statement is in flight at a time. It answers all requests that were
//! waiting when it began. So reads stay linearizable, at one round trip for thousands of them.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fula_core::{BucketAddress, RootPointerStore, StoreError};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{clock::ArbiterClock, rollback::RollbackGuard, swap::Unverified};
use crate::error::ServiceError;

/// Longest wait of a reader. One that arrives while a read is in flight waits for that read first.
const PATIENCE: Duration = Duration::from_secs(8);

/// Time between two probes of an arbiter that is away, for readers that do not wait for it.
const PROBE: Duration = Duration::from_millis(500);

type Answer = Result<Unverified, ServiceError>;

#[derive(Debug, Default)]
struct Waiting {
    readers: BTreeMap<BucketAddress, Vec<oneshot::Sender<Answer>>>,
    running: bool,
    /// Time of the last probe of an arbiter that is away.
    probed: Option<Instant>,
}

/// Coalesces reads of root pointers.
#[derive(Clone, Debug)]
pub(super) struct PointerReader {
    roots: Arc<dyn RootPointerStore>,
    waiting: Arc<Mutex<Waiting>>,
    guard: Arc<RollbackGuard>,
    clock: Arc<ArbiterClock>,
    /// Whether the last read failed, or a reader gave up waiting for it.
    is_away: Arc<AtomicBool>,
}

impl PointerReader {
    /// Reads from `roots`, and passes the mark of each answer to `guard` and its time to `clock`.
    pub(super) fn new(
        roots: Arc<dyn RootPointerStore>,
        guard: Arc<RollbackGuard>,
        clock: Arc<ArbiterClock>,
    ) -> Self {
        Self { roots, waiting: Arc::default(), guard, clock, is_away: Arc::default() }
    }

    /// Returns whether the arbiter is away: it did not answer the last read.
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Records that a reader gave up waiting. The next answer of the arbiter ends that.
    pub(super) fn note_away(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }

    /// Probes an arbiter that is away from time to time, without making the caller wait.
    pub(super) fn probe(&self, bucket: &BucketAddress) {
        let mut waiting = self.waiting.lock();
        if waiting.running || waiting.probed.is_some_and(|probed| probed.elapsed() < PROBE) {
            return;
        }
        waiting.probed = Some(Instant::now());
        waiting.readers.entry(bucket.clone()).or_default();
        waiting.running = true;
        tokio::spawn(self.clone().serve());
    }

    /// Returns the row as of some moment after the call.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] when the arbiter does not answer within `PATIENCE`.
    pub(super) async fn read(&self, bucket: &BucketAddress) -> Answer {
        let (answer, result) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            waiting.readers.entry(bucket.clone()).or_default().push(answer);
            if !waiting.running {
                waiting.running = true;
                tokio::spawn(self.clone().serve());
            }
        }
        let gone = || ServiceError::unavailable("pointer reader stopped");
        match tokio::time::timeout(PATIENCE, result).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(ServiceError::late("arbiter", "read")),
        }
    }

    /// Reads until no reader waits any more.
    async fn serve(self) {
        loop {
            let readers = {
                let mut waiting = self.waiting.lock();
                if waiting.readers.is_empty() {
                    waiting.running = false;
                    return;
                }
                std::mem::take(&mut waiting.readers)
            };
            let (names, answers): (Vec<_>, Vec<_>) = readers.into_iter().unzip();
            metrics::counter!("fula_pointer_reads_total").increment(1);
            let asked: Vec<_> = names.iter().map(|name| self.guard.ask(name)).collect();
            let floor = self.guard.floor();
            let read = AssertUnwindSafe(self.roots.get_roots(&names)).catch_unwind().await;
            let read = read.unwrap_or_else(|_| {
                let source = "reading pointers panicked".into();
                Err(StoreError::Unavailable { backend: "arbiter", action: "read", source })
            });
            let read = match read {
                Ok(stamped) => {
                    self.is_away.store(false, Ordering::Relaxed);
                    self.guard.check_answer(&floor, &stamped.mark).map(|()| stamped)
                }
                Err(error) => {
                    self.note_away();
                    Err(ServiceError::unavailable(error))
                }
            };
            match read {
                Ok(stamped) => {
                    self.clock.observe(&stamped);
                    let found = stamped.value.into_iter().zip(asked);
                    for ((row, asked), waiters) in found.zip(answers) {
                        let found = Unverified { row, asked };
                        for waiter in waiters {
                            drop(waiter.send(Ok(found.clone())));
                        }
                    }
                }
                Err(failure) => {
                    for waiter in answers.into_iter().flatten() {
                        drop(waiter.send(Err(failure.clone())));
                    }
                }
            }
        }
    }
}
