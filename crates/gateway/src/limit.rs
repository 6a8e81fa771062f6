//! Rate limits of one user and of one address.

use std::{
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::RwLock;

/// Number of checks after which limiters remove users and addresses that have been inactive.
const TIDY_EVERY: u32 = 1 << 14;

/// Largest numbers of requests per second; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Limit of one user.
    pub user: Option<NonZeroU32>,
    /// Limit of one address, or of one /64 network with IPv6.
    pub address: Option<NonZeroU32>,
}

struct Limiter<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// Allows `rate` requests a second, and as many at once.
    fn new(rate: NonZeroU32) -> Self {
        let limiter = RateLimiter::keyed(Quota::per_second(rate));
        Self { limiter, checks: AtomicU32::new(0) }
    }

    fn refuses(&self, key: &K) -> bool {
        if self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(TIDY_EVERY) {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(key).is_err()
    }
}

/// The rates of all users and addresses.
pub(crate) struct RateLimits(RwLock<Limiters>);

/// The limiters of the rates that hold now.
struct Limiters {
    rates: Rates,
    users: Option<Limiter<String>>,
    addresses: Option<Limiter<IpAddr>>,
}

impl Limiters {
    fn of(rates: Rates) -> Self {
        let (users, addresses) = (rates.user.map(Limiter::new), rates.address.map(Limiter::new));
        Self { rates, users, addresses }
    }
}

impl fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimits").finish_non_exhaustive()
    }
}

impl RateLimits {
    pub(crate) fn new(rates: Rates) -> Self {
        Self(RwLock::new(Limiters::of(rates)))
    }

    /// Sets other rates. What users and addresses have sent so far counts no more.
    pub(crate) fn set(&self, rates: Rates) {
        let mut limiters = self.0.write();
        if limiters.rates != rates {
            *limiters = Limiters::of(rates);
        }
    }

    pub(crate) fn refuses_user(&self, user: &str) -> bool {
        self.0.read().users.as_ref().is_some_and(|limiter| limiter.refuses(&user.to_owned()))
    }

    pub(crate) fn refuses_address(&self, address: IpAddr) -> bool {
        self.0.read().addresses.as_ref().is_some_and(|limiter| limiter.refuses(&network(address)))
    }
}

/// Returns the network that counts as one address. An IPv6 client usually has a whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_held_to_its_own_rate() {
        let rate = NonZeroU32::new(3);
        let limits = RateLimits::new(Rates { user: rate, address: rate });
        let refused = (0..10).filter(|_| limits.refuses_user("a")).count();
        // One request may be allowed again while the loop runs.
        assert!((6..=7).contains(&refused), "{refused}");
        assert!(!limits.refuses_user("b"));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!((0..10).any(|_| limits.refuses_address(address("2001:db8::1"))));
        assert!(limits.refuses_address(address("2001:db8::ffff:2")), "the same network");
        assert!(!limits.refuses_address(address("2001:db8:0:1::1")));
        assert!(!limits.refuses_address(address("192.0.2.1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        // Rates that are set again change nothing; others begin anew.
        limits.set(Rates { user: rate, address: rate });
        assert!((0..3).any(|_| limits.refuses_user("a")));
        limits.set(Rates { user: NonZeroU32::new(1000), address: None });
        assert!((0..100).all(|_| !limits.refuses_user("a")));
        assert!((0..100).all(|_| !limits.refuses_address(address("192.0.2.1"))));
        let none = RateLimits::new(Rates::default());
        assert!((0..100).all(|_| !none.refuses_user("a")));
    }
}
