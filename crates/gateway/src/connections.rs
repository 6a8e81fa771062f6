//! The open connections of a listener, and the choice of those that are closed to make room for others
//! (docs/adr/0034).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fula_service::ConnectionCloser;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{connection_io::Activity, limit::network};

/// Time after which an idle connection may be closed for another one.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// One of this many connections is closed at once when the total limit is reached, so that the list is not
/// searched for each new connection.
const CLOSED_PART: usize = 32;

/// The connection limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Largest number of connections in all.
    pub total: usize,
    /// Largest number of connections from one address, or from one /64 network with IPv6.
    pub per_address: usize,
}

/// The open connections of one listener.
#[derive(Debug)]
pub(crate) struct Connections {
    listener: &'static str,
    limits: ConnectionLimits,
    began: Instant,
    open: Mutex<Open>,
    /// Number of open connections, for readers of the metric.
    count: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// Number of connections that were not told to close.
    total: usize,
    by_address: HashMap<IpAddr, BTreeMap<u64, Entry>>,
    /// Whether a limit was reached since there was last plenty of room. It is logged once.
    is_crowded: bool,
}

#[derive(Debug)]
struct Entry {
    activity: Arc<Activity>,
    closer: ConnectionCloser,
    is_ending: bool,
}

impl Entry {
    /// Returns since when the connection is idle, if it may be closed.
    fn idle_since(&self, now: u64) -> Option<u64> {
        let since = self.activity.idle_since().filter(|_| !self.is_ending)?;
        let idle_min = u64::try_from(IDLE_MIN.as_millis()).unwrap_or(u64::MAX);
        (since.saturating_add(idle_min) <= now).then_some(since)
    }
}

/// One open connection. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Connection {
    connections: Arc<Connections>,
    address: IpAddr,
    id: u64,
    pub(crate) activity: Arc<Activity>,
    /// Tells the connection to close.
    pub(crate) closer: ConnectionCloser,
}

impl Connections {
    /// Returns an empty list that keeps `count` at the number of open connections.
    #[expect(clippy::cast_precision_loss, reason = "a gauge of far fewer than 2^52 connections")]
    pub(crate) fn new(
        listener: &'static str,
        limits: ConnectionLimits,
        count: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let (began, open) = (Instant::now(), Mutex::default());
        metrics::gauge!("fula_connections_max", "listener" => listener).set(limits.total as f64);
        Arc::new(Self { listener, limits, began, open, count })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }

    /// Admits a connection. When a limit is reached, the connections that have been idle longest are
    /// closed, of this address or of all. Returns `None` when none of them is idle.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Connection> {
        let address = network(address);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut open = self.open();
        let of_address = open
            .by_address
            .get(&address)
            .map_or(0, |of_address| of_address.values().filter(|entry| !entry.is_ending).count());
        let is_full = open.total >= self.limits.total;
        let has_room = if of_address >= self.limits.per_address {
            self.note_crowded(&mut open, "one address");
            open.end_idle(Some(address), 1, now) > 0
        } else if is_full {
            self.note_crowded(&mut open, "all");
            open.end_idle(None, self.limits.total / CLOSED_PART + 1, now) > 0
        } else {
            open.is_crowded &= open.total > self.limits.total / 2;
            true
        };
        if !has_room {
            metrics::counter!("fula_connections_refused_total", "listener" => self.listener)
                .increment(1);
            return None;
        }
        let id = open.next;
        (open.next, open.total) = (id + 1, open.total + 1);
        let (activity, closer) = (Arc::new(Activity::new(self.began)), ConnectionCloser::default());
        let entry =
            Entry { activity: Arc::clone(&activity), closer: closer.clone(), is_ending: false };
        open.by_address.entry(address).or_default().insert(id, entry);
        self.report(&open);
        Some(Connection { connections: Arc::clone(self), address, id, activity, closer })
    }

    fn note_crowded(&self, open: &mut Open, whose: &str) {
        if !std::mem::replace(&mut open.is_crowded, true) {
            let (listener, limits) = (self.listener, self.limits);
            tracing::warn!(
                listener,
                ?limits,
                "the limit of connections of {whose} is reached: idle connections are closed, and new ones \
                 are refused when none is idle (FULA_CONNECTIONS, FULA_CONNECTIONS_PER_ADDRESS)"
            );
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge of far fewer than 2^52 connections")]
    fn report(&self, open: &Open) {
        self.count.store(open.total, Ordering::Relaxed);
        metrics::gauge!("fula_connections", "listener" => self.listener).set(open.total as f64);
    }
}

impl Open {
    /// Closes up to `wanted` idle connections, the longest idle first. Returns their number.
    fn end_idle(&mut self, of: Option<IpAddr>, wanted: usize, now: u64) -> usize {
        let lists =
            self.by_address.iter_mut().filter(|(address, _)| of.is_none_or(|of| of == **address));
        let entries = lists.flat_map(|(_, entries)| entries.values_mut());
        let mut idle: Vec<(u64, &mut Entry)> =
            entries.filter_map(|entry| entry.idle_since(now).map(|since| (since, entry))).collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        let mut ended = 0;
        for (_, entry) in idle.into_iter().take(wanted) {
            entry.is_ending = true;
            entry.closer.close();
            ended += 1;
        }
        self.total -= ended;
        metrics::counter!("fula_connections_closed_total").increment(ended as u64);
        ended
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        let Some(of_address) = open.by_address.get_mut(&self.address) else { return };
        let removed = of_address.remove(&self.id);
        if of_address.is_empty() {
            open.by_address.remove(&self.address);
        }
        if removed.is_some_and(|entry| !entry.is_ending) {
            open.total -= 1;
        }
        self.connections.report(&open);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn connections(total: usize, per_address: usize) -> Arc<Connections> {
        Connections::new("test", ConnectionLimits { total, per_address }, Arc::default())
    }

    fn is_ended(connection: &Connection) -> bool {
        connection.closer.closed().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_closes_its_own_longest_idle_connection() {
        let all = connections(100, 2);
        let other = all.admit(address(9)).unwrap();
        let first = all.admit(address(1)).unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
        let second = all.admit(address(1)).unwrap();
        // Neither is idle long enough.
        assert!(all.admit(address(1)).is_none());
        tokio::time::advance(IDLE_MIN).await;
        let third = all.admit(address(1)).unwrap();
        assert!(is_ended(&first) && !is_ended(&second) && !is_ended(&other));
        // A connection that answers a request is not closed.
        tokio::time::advance(IDLE_MIN).await;
        second.activity.set_answering(true);
        let fourth = all.admit(address(1)).unwrap();
        assert!(is_ended(&third) && !is_ended(&second));
        fourth.activity.set_answering(true);
        tokio::time::advance(IDLE_MIN).await;
        assert!(all.admit(address(1)).is_none());
        drop(second);
        assert!(all.admit(address(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_taken_the_longest_idle_of_all_make_room() {
        let all = connections(64, 64);
        let mut held = Vec::new();
        for n in 0..64 {
            held.push(all.admit(address(n)).unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(all.admit(address(200)).is_none(), "none is idle long enough");
        tokio::time::advance(IDLE_MIN).await;
        let new = all.admit(address(200)).unwrap();
        let ended: Vec<usize> = (0..64).filter(|n| is_ended(&held[*n])).collect();
        assert_eq!(ended, [0, 1, 2], "one in {CLOSED_PART}, and one");
        // There is room for two more before others are closed.
        let more: Vec<_> = (201..203).map(|n| all.admit(address(n)).unwrap()).collect();
        assert!((3..64).all(|n| !is_ended(&held[n])));
        drop((held, new, more));
        let open = all.open();
        assert_eq!((open.total, open.by_address.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_reached_is_said_once_until_there_is_room() {
        let all = connections(4, 4);
        let mut held: Vec<_> = (0..4).map(|n| all.admit(address(n)).unwrap()).collect();
        assert!(all.admit(address(9)).is_none() && all.open().is_crowded);
        held.pop();
        held.push(all.admit(address(9)).unwrap());
        assert!(all.open().is_crowded);
        held.truncate(1);
        held.push(all.admit(address(9)).unwrap());
        assert!(!all.open().is_crowded);
    }
}
