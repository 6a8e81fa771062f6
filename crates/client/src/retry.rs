//! When a request is tried again, and after which pause.

use std::time::Duration;

use crate::error::{Error, Result};

/// How often and how fast failed requests are tried again.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Largest number of attempts; 1 for no retries.
    pub attempts: u32,
    /// Longest pause before the second attempt. It doubles with each attempt.
    pub base: Duration,
    /// Longest pause. A server that asks for a longer one gets it up to [`RetryPolicy::ASKED_MAX`].
    pub max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 7, base: Duration::from_millis(200), max: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// Longest pause that a server can ask for.
    pub const ASKED_MAX: Duration = Duration::from_mins(1);

    /// Returns the pause after attempt number `attempt` (from 1). `asked` is the pause that the server asked
    /// for, to which a random part is added, so that clients do not come back together.
    pub(crate) fn pause(&self, attempt: u32, asked: Option<Duration>, random: u64) -> Duration {
        let doubled = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        // "Full jitter": anything between nothing and the longest pause.
        let longest = u64::try_from(doubled.min(self.max).as_micros()).unwrap_or(u64::MAX);
        let jitter = Duration::from_micros(random % longest.max(1));
        asked.map_or(jitter, |asked| asked.min(Self::ASKED_MAX) + jitter)
    }

    /// Pauses after attempt number `attempt` (from 1) of something that is read piece by piece, and broke off with
    /// `error`.
    ///
    /// # Errors
    /// The error itself if the server is not the reason, or after the last attempt.
    pub(crate) async fn rest(&self, attempt: u32, error: Error) -> Result<()> {
        if attempt >= self.attempts || !matches!(error, Error::Unavailable { .. }) {
            return Err(error);
        }
        tokio::time::sleep(self.pause(attempt, None, random())).await;
        Ok(())
    }
}

/// Returns whether an answer with this status and S3 code may be another one after a pause.
pub(crate) fn is_temporary(status: u16, code: &str) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
        || matches!(
            code,
            "RequestTimeout" | "SlowDown" | "ConditionalRequestConflict" | "IncompleteBody"
        )
}

/// Returns whether a write that was answered with this status may have been carried out.
pub(crate) fn may_be_applied(status: u16, outcome: Option<&str>) -> bool {
    match outcome {
        Some(outcome) => outcome != "none",
        None => matches!(status, 408 | 500 | 502 | 504),
    }
}

/// Returns random bits.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers the pauses are all as long as they can be.
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::MAX,
    }
}

/// Returns the id of a call, which is the same for all its attempts: a random UUID.
pub(crate) fn invocation_id() -> String {
    let (high, low) = (random(), random());
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let text = format!("{high:016x}{low:016x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_follow_the_server() {
        let policy = RetryPolicy::default();
        let longest = |attempt| policy.pause(attempt, None, u64::MAX - 1);
        assert!(policy.pause(1, None, 0).is_zero());
        assert!((1..=64).all(|attempt| longest(attempt) <= policy.max));
        let asked = Some(Duration::from_secs(3));
        let pause = policy.pause(1, asked, 150_000);
        assert!(pause > Duration::from_secs(3) && pause < Duration::from_millis(3200), "{pause:?}");
        assert!(policy.pause(1, Some(Duration::from_hours(1)), 0) <= RetryPolicy::ASKED_MAX);
    }

    #[test]
    fn ids_are_uuids_of_version_4() {
        let id = invocation_id();
        assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
        assert!(["8", "9", "a", "b"].contains(&&id[19..20]), "{id}");
        assert_ne!(id, invocation_id());
    }
}
