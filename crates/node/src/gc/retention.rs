//! How long replaced and deleted content is kept: for a time, and at most so many bytes of it.
//!
//! A collection counts what it keeps for the retention, by age. If that is more than the bound, the oldest part
//! is collected at once with a shorter retention. Later collections begin with that one, and lengthen it again
//! once what they keep is little.

use std::time::Duration;

use fula_core::block::AGES;
use fula_service::{Collection, Limits, limits::RetainedMax};
use parking_lot::Mutex;

/// Least bound that is a share of what is in use, in bytes.
const BOUND_MIN: u64 = 1 << 30;

/// Percent of the bound that a shorter retention leaves, so that not every collection must shorten it.
const SHORTENED_TO: u64 = 75;

/// Percent of the bound below which the retention is lengthened.
const LENGTHENED_BELOW: u64 = 40;

/// Shortest retention that is not zero.
const SHORTEST: Duration = Duration::from_secs(1);

/// The retention of the collections of this process.
#[derive(Debug)]
pub(crate) struct Retention {
    /// The time that the operator has set.
    longest: Duration,
    max: RetainedMax,
    current: Mutex<Duration>,
}

impl Retention {
    pub(crate) fn of(limits: &Limits) -> Self {
        Self::new(limits.retention, limits.retained_max)
    }

    fn new(longest: Duration, max: RetainedMax) -> Self {
        Self { longest, max, current: Mutex::new(longest) }
    }

    /// Returns the retention of the next collection.
    pub(crate) fn current(&self) -> Duration {
        *self.current.lock()
    }

    /// Returns the largest number of bytes to keep for the retention beside `in_use` bytes.
    pub(crate) fn bound(&self, in_use: u64) -> u64 {
        match self.max {
            RetainedMax::Unlimited => u64::MAX,
            RetainedMax::Bytes(bytes) => bytes,
            RetainedMax::Percent(percent) => percent_of(u64::from(percent), in_use).max(BOUND_MIN),
        }
    }

    /// Learns what a collection has kept. Returns the shorter retention with which the next one must follow at
    /// once, if that was too much.
    pub(crate) fn learn(&self, done: &Collection) -> Option<Duration> {
        let used = Duration::from_millis(done.retention_ms).min(self.longest);
        let bound = self.bound(done.live_bytes.saturating_add(done.history_bytes));
        let mut current = self.current.lock();
        if done.retained_bytes > bound {
            *current = shorter(used, &done.retained_by_age, percent_of(SHORTENED_TO, bound));
            return (*current < used).then_some(*current);
        }
        if done.retained_bytes < percent_of(LENGTHENED_BELOW, bound) {
            *current = current.max(SHORTEST).saturating_mul(2).min(self.longest);
        }
        None
    }
}

fn percent_of(percent: u64, bytes: u64) -> u64 {
    bytes.saturating_mul(percent) / 100
}

/// Returns the longest part of the retention `used` in which at most `bytes` are kept.
fn shorter(used: Duration, kept: &[u64; AGES as usize], bytes: u64) -> Duration {
    let mut sum = 0_u64;
    let fitting = kept.iter().take_while(|kept| {
        sum = sum.saturating_add(**kept);
        sum <= bytes
    });
    let parts = u32::try_from(fitting.count()).unwrap_or(0);
    let part = used / u32::from(AGES);
    // If the youngest part alone is too much, it is looked at more closely.
    let shorter = if parts == 0 { part } else { part * parts };
    if shorter < SHORTEST { Duration::ZERO } else { shorter }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn kept(retention: Duration, live_bytes: u64, retained_by_age: [u64; 16]) -> Collection {
        let retained_bytes = retained_by_age.iter().sum();
        let retention_ms = u64::try_from(retention.as_millis()).unwrap();
        Collection {
            retention_ms,
            live_bytes,
            retained_bytes,
            retained_by_age,
            ..Collection::default()
        }
    }

    #[test]
    fn more_than_the_bound_shortens_the_retention_to_what_fits_and_little_lengthens_it_again() {
        let longest = Duration::from_secs(1600);
        let retention = Retention::new(longest, RetainedMax::Percent(100));
        assert_eq!(retention.current(), longest);
        assert_eq!(retention.learn(&kept(longest, 4 * GIB, [GIB / 4; 16])), None, "just the bound");
        let shorter = retention.learn(&kept(longest, 4 * GIB, [GIB; 16]));
        assert_eq!(shorter, Some(Duration::from_mins(5)), "three quarters of 4 GiB fit");
        let now = retention.current();
        assert_eq!(now, Duration::from_mins(5));
        assert_eq!(retention.learn(&kept(now, 4 * GIB, [3 * GIB / 16; 16])), None);
        assert_eq!(retention.current(), now, "3 of 4 GiB are not little");
        for seconds in [600, 1200, 1600, 1600] {
            assert_eq!(retention.learn(&kept(now, 4 * GIB, [GIB / 16; 16])), None);
            assert_eq!(retention.current(), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn a_youngest_part_that_is_too_much_is_looked_at_more_closely_and_at_last_nothing_is_kept() {
        let longest = Duration::from_secs(160);
        let retention = Retention::new(longest, RetainedMax::Bytes(GIB));
        let mut young = [0; 16];
        young[0] = 2 * GIB;
        assert_eq!(retention.learn(&kept(longest, 0, young)), Some(Duration::from_secs(10)));
        assert_eq!(retention.learn(&kept(Duration::from_secs(10), 0, young)), Some(Duration::ZERO));
        // What requests need is kept all the same, and nothing can be shortened any more.
        assert_eq!(retention.learn(&kept(Duration::ZERO, 0, young)), None);
        assert_eq!(retention.learn(&kept(Duration::ZERO, 0, [0; 16])), None);
        assert_eq!(retention.current(), 2 * SHORTEST);
    }

    #[test]
    fn a_bound_follows_what_is_in_use_unless_it_is_fixed_or_off() {
        let bound = |max, in_use| Retention::new(Duration::ZERO, max).bound(in_use);
        assert_eq!(bound(RetainedMax::Percent(50), 100 * GIB), 50 * GIB);
        assert_eq!(bound(RetainedMax::Percent(50), GIB), BOUND_MIN);
        assert_eq!(bound(RetainedMax::Bytes(7), 100 * GIB), 7);
        assert_eq!(bound(RetainedMax::Unlimited, 1), u64::MAX);
        let unlimited = Retention::new(Duration::from_mins(10), RetainedMax::Unlimited);
        let all = kept(Duration::from_mins(10), 0, [u64::MAX / 32; 16]);
        assert_eq!(unlimited.learn(&all), None);
    }
}
