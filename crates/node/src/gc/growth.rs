//! When a collection is due by the growth of the log, and how fast it must be.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::LOOK_EVERY;

/// Least time between two samples of the number of bytes written.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Least growth of the log that makes a collection due, in bytes older than the retention. If a quarter of the
/// bytes that the last collection left in use is more, that counts instead.
const GROWTH_MIN: u64 = 128 << 20;

/// Part of the bytes that the last collection left in use: so much growth makes the next one due.
const DUE_PART: u64 = 4;

/// Longest wait before a failed collection is tried again.
const RETRY_MAX: Duration = Duration::from_mins(5);

/// Ratio of pause to work of a collection while requests are in flight. It is halved each time that half as
/// much has come again as made the collection due: a collection that is late must become faster, or the next one
/// has more to do than this one.
pub(super) const REST: u32 = 8;

/// The growth of the log over time. Bytes younger than the retention cannot be collected yet, so they make no
/// collection due.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Samples of the bytes written so far: those within the retention and the last one before it, oldest
    /// first.
    notes: VecDeque<(Instant, u64)>,
    /// Bytes that were there at the start of the process, and that no collection is known to have left. They
    /// count as written then.
    before: u64,
    /// Bytes that collections have examined so far.
    collected: u64,
    /// Bytes that the last collection left in use.
    kept: u64,
    /// Bytes in use. Before the first collection it is an upper bound.
    pub(super) in_use: u64,
    /// Number of collections in a row that failed or held something back.
    pub(super) failures: u32,
    /// Bytes written so far, when they were last looked at.
    pub(super) came: u64,
    /// Bytes that had been written when the last collection began.
    seen: u64,
}

impl Growth {
    /// Returns the growth of a log at the start of the process: it has `in_use` bytes that count as in use,
    /// and the last collection left `left` of them; `None` if no collection said so. What a collection has
    /// deleted is there again until its segment is rewritten, so all of the rest may be garbage.
    pub(super) fn at_start(in_use: u64, left: Option<u64>) -> Self {
        let kept = left.map_or(in_use, |left| left.min(in_use));
        let before = left.map_or(in_use / DUE_PART, |_| in_use - kept);
        Self { kept, in_use: kept, before, ..Self::default() }
    }

    /// Records that `came` bytes were written so far by this process. Returns how many of them, and of those
    /// before it, are older than the retention and were not examined by a collection yet.
    pub(super) fn look(&mut self, now: Instant, came: u64, retention: Duration) -> u64 {
        let came = came.saturating_add(self.before);
        if self.notes.back().is_none_or(|note| now.duration_since(note.0) >= NOTE_EVERY) {
            self.notes.push_back((now, came));
        }
        self.came = came;
        let is_old = |note: &(Instant, u64)| now.duration_since(note.0) >= retention;
        while self.notes.get(1).is_some_and(is_old) {
            self.notes.pop_front();
        }
        let oldest = self.notes.front().filter(|note| is_old(note));
        oldest.map_or(0, |(_, came)| came.saturating_sub(self.collected))
    }

    /// Records that a collection has examined `collectable` bytes, and left `kept` bytes in use. `seen` bytes
    /// had been written when it began.
    pub(super) fn collect(&mut self, collectable: u64, kept: u64, seen: u64) {
        self.collected += collectable;
        (self.kept, self.in_use, self.seen) = (kept, kept, seen);
    }

    /// Returns the bytes of any age that were written since the last collection, if those are `bound` or more
    /// (and [`GROWTH_MIN`]). Then more garbage than that may be kept.
    pub(super) fn beyond(&self, bound: u64) -> u64 {
        let written = self.came.saturating_sub(self.seen);
        if written >= bound.max(GROWTH_MIN) { written } else { 0 }
    }

    /// Returns how long the next collection waits after the last one. It backs off exponentially after
    /// failures.
    pub(super) fn wait(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => RETRY_MAX.min(LOOK_EVERY * 2_u32.saturating_pow(failures)),
        }
    }

    /// Returns the bytes that make a collection due. The bytes that the index holds are no measure, because they
    /// include the garbage.
    fn due(&self) -> u64 {
        GROWTH_MIN.max(self.kept / DUE_PART)
    }

    /// Returns whether so many bytes make a collection due.
    pub(super) fn is_due(&self, collectable: u64) -> bool {
        collectable >= self.due()
    }

    /// Returns the ratio of pause to work: see [`REST`]. While collections fail it stays the same, because
    /// working more would free nothing. `beyond` is what [`Self::beyond`] returned: it makes a collection due
    /// at twice as many bytes.
    pub(super) fn rest(&self, collectable: u64, beyond: u64) -> u32 {
        if self.failures > 0 {
            return REST;
        }
        let late = collectable.max(beyond / 2).saturating_sub(self.due());
        let times = late.saturating_mul(2) / self.due();
        REST.checked_shr(u32::try_from(times).unwrap_or(u32::MAX)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_older_than_the_retention_counts() {
        let (start, retention) = (Instant::now(), Duration::from_mins(10));
        let at = |minutes: u64| start + Duration::from_mins(minutes);
        let mut growth = Growth::default();
        assert_eq!(growth.look(at(0), 100, retention), 0);
        assert_eq!(growth.look(at(5), 500, retention), 0);
        assert_eq!(growth.look(at(10), 900, retention), 100);
        assert_eq!(growth.look(at(16), 900, retention), 500);
        growth.collect(500, 0, 900);
        assert_eq!(growth.look(at(17), 950, retention), 0);
        assert_eq!(growth.look(at(21), 950, retention), 400);
        assert!(growth.notes.len() < 5);
        let mut at_once = Growth::default();
        assert_eq!(at_once.look(at(0), 100, Duration::ZERO), 100);
        at_once.collect(100, 0, 100);
        assert_eq!(at_once.look(at(1), 130, Duration::ZERO), 30);
    }

    #[test]
    fn a_collection_that_is_late_rests_less() {
        let mut growth = Growth::default();
        let rests = |growth: &Growth, due: u64| {
            [0, 2, 3, 4, 5, 6, 99].map(|halves| growth.rest(halves * due / 2, 0))
        };
        assert_eq!(rests(&growth, GROWTH_MIN), [8, 8, 4, 2, 1, 0, 0]);
        growth.collect(1, 16 * GROWTH_MIN, 0);
        assert_eq!(rests(&growth, 4 * GROWTH_MIN), [8, 8, 4, 2, 1, 0, 0]);
        assert_eq!(growth.rest(6 * GROWTH_MIN - 1, 0), 8);
        // What is due by the bound is due at twice as much.
        assert_eq!([8, 12, 16].map(|beyond| growth.rest(0, beyond * GROWTH_MIN)), [8, 4, 2]);
    }

    #[test]
    fn garbage_of_before_the_start_is_due_once_the_retention_is_over() {
        let (start, retention) = (Instant::now(), Duration::from_mins(10));
        let gib = |gib: u64| gib << 30;
        let mut growth = Growth::at_start(gib(30), Some(gib(16)));
        assert_eq!(growth.look(start, 0, retention), 0);
        assert_eq!(growth.look(start + retention / 2, 5, retention), 0);
        let old = growth.look(start + retention, 10, retention);
        assert_eq!(old, gib(14));
        assert!(growth.is_due(old));
        growth.collect(old, gib(16), 10);
        assert_eq!(growth.look(start + 3 * retention, 30, retention), 10);
        // All of it at once, where nothing is retained.
        assert_eq!(
            Growth::at_start(gib(30), Some(gib(16))).look(start, 0, Duration::ZERO),
            gib(14)
        );
        // Less is in use than was left: nothing says that any of it is garbage.
        assert_eq!(Growth::at_start(gib(16), Some(gib(20))).look(start, 0, Duration::ZERO), 0);
        // Nothing is known: a collection is due, at the usual pace.
        let mut unknown = Growth::at_start(gib(30), None);
        let some = unknown.look(start, 0, Duration::ZERO);
        assert!(unknown.is_due(some) && unknown.rest(some, 0) == REST);
        let mut empty = Growth::at_start(0, None);
        assert!(empty.look(start, 0, Duration::ZERO) == 0 && !empty.is_due(0));
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_and_takes_no_more_than_its_part() {
        let waits = |failures| Growth { failures, ..Growth::default() }.wait().as_secs();
        assert_eq!([0, 1, 2, 3, 7, 40].map(waits), [0, 6, 12, 24, 300, 300]);
        let growth = Growth { failures: 1, ..Growth::default() };
        assert_eq!(growth.rest(99 * GROWTH_MIN, 0), REST);
    }

    #[test]
    fn a_collection_is_due_when_a_quarter_of_what_is_in_use_came() {
        let mut growth = Growth::default();
        assert!(!growth.is_due(GROWTH_MIN - 1) && growth.is_due(GROWTH_MIN));
        growth.collect(GROWTH_MIN, 16 * GROWTH_MIN, 0);
        assert!(!growth.is_due(4 * GROWTH_MIN - 1) && growth.is_due(4 * GROWTH_MIN));
        growth.collect(4 * GROWTH_MIN, 0, 0);
        assert!(!growth.is_due(GROWTH_MIN - 1) && growth.is_due(GROWTH_MIN));
    }

    #[test]
    fn bytes_of_any_age_count_for_the_bound_once_they_reach_it() {
        let mut growth = Growth::default();
        let look = |growth: &mut Growth, came| {
            assert_eq!(growth.look(Instant::now(), came, Duration::from_hours(1)), 0);
            growth.beyond(1 << 30)
        };
        let gib = |tenths: u64| (tenths << 30) / 10;
        assert_eq!([9, 10, 15].map(|n| look(&mut growth, gib(n))), [0, gib(10), gib(15)]);
        growth.collect(0, 0, gib(10));
        assert_eq!([15, 19, 20].map(|n| look(&mut growth, gib(n))), [0, 0, gib(10)]);
        assert_eq!(growth.beyond(0), gib(10));
        growth.collect(0, 0, gib(20) - GROWTH_MIN + 1);
        assert_eq!(growth.beyond(0), 0, "a bound that is very small makes not every look collect");
    }

    #[test]
    fn looks_in_quick_succession_take_no_more_room() {
        let (start, mut growth) = (Instant::now(), Growth::default());
        let at = |millis: u64| start + Duration::from_millis(millis);
        for n in 0..=10_000 {
            growth.look(at(n), n, NOTE_EVERY * 2);
        }
        assert_eq!(growth.look(at(10_000), 10_000, NOTE_EVERY * 2), 8_000);
        assert!(growth.notes.len() <= 4);
    }
}
