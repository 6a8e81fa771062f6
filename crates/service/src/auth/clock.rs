//! The clock for checking credentials where masters share an arbiter.

use std::{fmt, time::Instant};

use fula_core::root::TimeMs;
use parking_lot::Mutex;

use super::Clock;
use crate::arbiter::Arbiter;

/// The time of the shared arbiter. A master whose own clock is wrong accepts and refuses the same requests
/// as all others, unless the arbiter's clock jumps. The time is the median of three: the arbiter's time,
/// this clock's last time, extrapolated, and the time of this master's own clock. So one wrong clock alone
/// neither admits an expired credential nor locks anyone out.
pub struct CredentialClock {
    arbiter: Arbiter,
    own: Clock,
    /// The last time, and when it was determined.
    last: Mutex<Option<(TimeMs, Instant)>>,
}

impl fmt::Debug for CredentialClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialClock").finish_non_exhaustive()
    }
}

impl CredentialClock {
    /// Follows the clock of `arbiter`. Before the arbiter's first answer it uses `own`.
    pub fn new(arbiter: Arbiter, own: Clock) -> Self {
        Self { arbiter, own, last: Mutex::new(None) }
    }

    /// Returns the time in milliseconds since 1970.
    pub fn now(&self) -> TimeMs {
        let own = (self.own)();
        let Some(said) = self.arbiter.time() else { return own };
        follow(&mut self.last.lock(), said, own, Instant::now())
    }
}

/// Returns the time, and stores it unless it is the extrapolated one.
fn follow(last: &mut Option<(TimeMs, Instant)>, said: TimeMs, own: TimeMs, now: Instant) -> TimeMs {
    let carried = last.map(|(time, at)| {
        let elapsed = now.saturating_duration_since(at).as_millis();
        time.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    });
    let time = carried.map_or(said, |carried| median(said, carried, own));
    // An extrapolated time is not stored: fractions of a millisecond would be lost at each call.
    if carried != Some(time) {
        *last = Some((time, now));
    }
    time
}

fn median(a: TimeMs, b: TimeMs, c: TimeMs) -> TimeMs {
    a.max(b).min(a.min(b).max(c))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_clock_that_is_wrong_alone_does_not_count() {
        const TRUE: TimeMs = 1_000_000_000;
        const HOURS: TimeMs = 5 * 3600 * 1000;
        for wrong in [TRUE - HOURS, TRUE + HOURS, 0, u64::MAX] {
            for (a, b, c) in [(wrong, TRUE, TRUE), (TRUE, wrong, TRUE), (TRUE, TRUE, wrong)] {
                assert_eq!(median(a, b, c), TRUE, "{a} {b} {c}");
            }
        }
        // The clock advances however often it is read.
        let (began, mut last) = (Instant::now(), None);
        follow(&mut last, TRUE, TRUE, began);
        for n in 1..=10_000 {
            let now = began + Duration::from_micros(300 * n);
            let own = TRUE + 3000 + HOURS;
            assert_eq!(follow(&mut last, TRUE - HOURS, own, now), TRUE + 3 * n / 10);
        }
        // This master's own clock is behind and the arbiter's jumps, so the extrapolated time counts.
        assert_eq!(median(TRUE + HOURS, TRUE, TRUE - HOURS), TRUE);
    }
}
