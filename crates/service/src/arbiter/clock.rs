//! The arbiter's clock, which all masters share.

use fula_core::root::{Stamped, TimeMs};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The arbiter's clock, extrapolated from its last answer.
#[derive(Debug, Default)]
pub(super) struct ArbiterClock {
    last: Mutex<Option<(TimeMs, Instant)>>,
}

impl ArbiterClock {
    /// Takes over the time of an answer.
    pub(super) fn observe<T>(&self, stamped: &Stamped<T>) {
        *self.last.lock() = Some((stamped.time, Instant::now()));
    }

    /// Returns the time, or `None` before the first answer.
    pub(super) fn now(&self) -> Option<TimeMs> {
        let (time, heard) = (*self.last.lock())?;
        Some(time + u64::try_from(heard.elapsed().as_millis()).unwrap_or(0))
    }
}
