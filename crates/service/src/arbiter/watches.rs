//! Requests that wait for the next version of a bucket.
//!
//! A head that this master makes or reads wakes those that wait for its bucket. Where other masters write, too,
//! one task asks the arbiter for all buckets that are waited for, as long as there are any.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fula_core::{BucketAddress, OwnerId};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

use super::Arbiter;

/// Largest number of requests that wait at a time.
const WATCHES_MAX: usize = 1024;

/// Largest number of requests of one user that wait at a time.
const WATCHES_PER_USER: usize = 64;

/// Interval at which the arbiter is asked, where other masters write, too.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The requests that wait. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Number of requests that wait. It is raised before a request reads the version that it waits beyond.
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buckets: HashMap<BucketAddress, Watched>,
    users: HashMap<OwnerId, usize>,
    /// Whether a task asks the arbiter.
    is_asked: bool,
    is_stopped: bool,
}

#[derive(Debug, Default)]
struct Watched {
    count: usize,
    changed: Arc<Notify>,
}

/// One request that waits. It is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    watches: Watches,
    bucket: BucketAddress,
    user: OwnerId,
    changed: Arc<Notify>,
}

impl Watch {
    /// Returns a future that completes after the next change of the bucket. Changes count from the call on.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.watches.0.state.lock();
        if let Some(watched) = state.buckets.get_mut(&self.bucket) {
            watched.count -= 1;
            if watched.count == 0 {
                state.buckets.remove(&self.bucket);
            }
        }
        if let Some(count) = state.users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                state.users.remove(&self.user);
            }
        }
        self.watches.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watches {
    /// Begins to wait for changes of a bucket; `None` when too many requests wait, of all users or of this one.
    pub(crate) fn begin(&self, bucket: &BucketAddress, user: OwnerId) -> Option<Watch> {
        let mut state = self.0.state.lock();
        let of_user = state.users.get(&user).copied().unwrap_or_default();
        if self.0.count.load(Ordering::SeqCst) >= WATCHES_MAX || of_user >= WATCHES_PER_USER {
            return None;
        }
        self.0.count.fetch_add(1, Ordering::SeqCst);
        state.users.insert(user, of_user + 1);
        let watched = state.buckets.entry(bucket.clone()).or_default();
        watched.count += 1;
        let (bucket, changed) = (bucket.clone(), Arc::clone(&watched.changed));
        Some(Watch { watches: self.clone(), bucket, user, changed })
    }

    /// Wakes the requests that wait for a bucket.
    pub(crate) fn wake(&self, bucket: &BucketAddress) {
        if self.0.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(watched) = self.0.state.lock().buckets.get(bucket) {
            watched.changed.notify_waiters();
        }
    }

    /// Wakes all requests. None waits any more from now on.
    pub(crate) fn stop(&self) {
        let mut state = self.0.state.lock();
        state.is_stopped = true;
        for watched in state.buckets.values() {
            watched.changed.notify_waiters();
        }
    }

    /// Returns whether requests do not wait any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.0.state.lock().is_stopped
    }

    /// Returns the number of requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.0.count.load(Ordering::SeqCst)
    }

    /// Returns the buckets to ask for; `None` once no request waits, and then no task asks any more.
    fn buckets(&self) -> Option<Vec<BucketAddress>> {
        let mut state = self.0.state.lock();
        state.is_asked = !state.buckets.is_empty() && !state.is_stopped;
        state.is_asked.then(|| state.buckets.keys().cloned().collect())
    }
}

impl Arbiter {
    /// Returns the requests that wait for the next version of a bucket.
    pub(crate) fn watches(&self) -> &Watches {
        &self.0.watches
    }

    /// Begins to wait for changes of a bucket, as [`Watches::begin`] does. Changes of other masters count, too.
    pub(crate) fn watch(&self, bucket: &BucketAddress, user: OwnerId) -> Option<Watch> {
        let watch = self.0.watches.begin(bucket, user)?;
        // A master alone makes every change itself.
        let is_alone = self.0.pins.lease().is_some_and(|lease| lease.master.is_empty());
        let begins =
            !is_alone && !std::mem::replace(&mut self.0.watches.0.state.lock().is_asked, true);
        if begins {
            tokio::spawn(ask(self.clone()));
        }
        Some(watch)
    }
}

/// Asks for the buckets that are waited for. A newer head wakes the requests.
async fn ask(arbiter: Arbiter) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(buckets) = arbiter.0.watches.buckets() else { return };
        // All of them are one statement. An arbiter that is away is asked again.
        let found = join_all(buckets.iter().map(|bucket| arbiter.newest(bucket))).await;
        if let Some(error) = found.into_iter().find_map(Result::err) {
            tracing::debug!(%error, "the arbiter was asked for changes");
        }
    }
}

#[cfg(test)]
mod tests {
    use fula_core::BucketName;

    use super::*;

    fn bucket(name: &str) -> BucketAddress {
        BucketAddress::new(OwnerId([1; 16]), BucketName::parse(name).unwrap())
    }

    #[test]
    fn one_user_cannot_use_all_watches() {
        let watches = Watches::default();
        let begin = |user| watches.begin(&bucket("abc"), OwnerId([user; 16]));
        let mut held: Vec<_> = (0..WATCHES_PER_USER).map(|_| begin(1).unwrap()).collect();
        assert!(begin(1).is_none());
        for user in 2..=u8::try_from(WATCHES_MAX / WATCHES_PER_USER).unwrap() {
            held.extend((0..WATCHES_PER_USER).map(|_| begin(user).unwrap()));
        }
        assert!(begin(99).is_none());
        held.pop();
        drop(begin(99).unwrap());
        drop(held);
        let state = watches.0.state.lock();
        assert!(state.buckets.is_empty() && state.users.is_empty());
        assert_eq!(watches.len(), 0);
    }

    #[tokio::test]
    async fn a_change_wakes_those_who_wait_for_its_bucket() {
        let watches = Watches::default();
        let watch = watches.begin(&bucket("abc"), OwnerId([1; 16])).unwrap();
        let changed = watch.changed();
        tokio::pin!(changed);
        watches.wake(&bucket("other"));
        assert!(!changed.as_mut().enable());
        watches.wake(&bucket("abc"));
        changed.await;
        let changed = watch.changed();
        tokio::pin!(changed);
        assert!(!changed.as_mut().enable());
        watches.stop();
        changed.await;
        assert!(watches.is_stopped());
    }
}
