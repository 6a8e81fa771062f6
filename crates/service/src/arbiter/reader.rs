//! Reading root pointers: each reader joins the next read that starts after it arrived.
//!
//! However many requests wait, one statement is in flight at a time and answers all that were
//! waiting when it began, so reads stay linearizable at one round trip for thousands of them.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use fula_core::{
    RootPointerStore, StoreError,
    root::{RootRow, Stamped},
};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    head::BucketAddress,
    rollback::{Asked, RollbackGuard},
};
use crate::error::ServiceError;

/// A row that was read, and what was known of its bucket when it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) stamped: Stamped<Option<RootRow>>,
    pub(crate) asked: Asked,
}

type Answer = Result<Heard, ServiceError>;

#[derive(Debug, Default)]
struct Waiting {
    readers: BTreeMap<BucketAddress, Vec<oneshot::Sender<Answer>>>,
    running: bool,
}

/// Coalesces reads of root pointers.
#[derive(Clone, Debug)]
pub(crate) struct PointerReader {
    roots: Arc<dyn RootPointerStore>,
    waiting: Arc<Mutex<Waiting>>,
    guard: Arc<RollbackGuard>,
}

impl PointerReader {
    /// Reads from `roots`; marks are told to `guard`.
    pub(crate) fn new(roots: Arc<dyn RootPointerStore>, guard: Arc<RollbackGuard>) -> Self {
        Self { roots, waiting: Arc::default(), guard }
    }

    /// Returns the row as of some moment after the call.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] when the arbiter does not answer.
    pub(crate) async fn read(&self, bucket: &BucketAddress) -> Answer {
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
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Reads for whoever waits, until nobody does.
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
                Ok(stamped) => self.guard.check_answer(&floor, &stamped.mark).map(|()| stamped),
                Err(error) => Err(ServiceError::unavailable(error)),
            };
            match read {
                Ok(stamped) => {
                    let (time, mark) = (stamped.time, stamped.mark);
                    let heard = stamped.value.into_iter().zip(asked);
                    for ((value, asked), waiters) in heard.zip(answers) {
                        for waiter in waiters {
                            let (value, mark) = (value.clone(), mark.clone());
                            let stamped = Stamped { value, time, mark };
                            drop(waiter.send(Ok(Heard { stamped, asked: asked.clone() })));
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
