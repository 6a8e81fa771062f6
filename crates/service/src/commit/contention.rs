//! Taking turns: masters that write to the same bucket at the same time let each other go first.
//!
//! A master that has just won holds the newest root in its hand, while a loser still has to read
//! it: left alone, the winner would win again and again, and the loser's work would be wasted.
//! A loser posts a claim beside the row, and `authors` shows who else commits; whoever won waits
//! until somebody else has, or for about as long as a round takes. Advice only: the swap decides.

use std::time::Duration;

use fula_core::{BucketAddress, bucket::Author};
use tokio::time::Instant;

use super::Inner;
use crate::arbiter::Head;

/// Commits of others this far back still count as a sign that they are at work.
const RECENT_VERSIONS: u64 = 3;

/// Longest wait for another master's commit.
const WAIT_MAX: Duration = Duration::from_millis(150);

/// Between looks at the pointer, at the least.
const LOOK: Duration = Duration::from_micros(200);

/// A won round in a bucket that others are writing to.
#[derive(Debug)]
pub(super) struct Contention {
    /// The version that was won.
    version: u64,
    /// How long the round took.
    took: Duration,
}

impl Inner {
    /// Returns the turn that `head` was won in; `None` when nobody else is at work.
    pub(super) fn contention(&self, head: &Head, started: Instant) -> Option<Contention> {
        let version = head.root.version;
        let is_at_work = |author: &Author| {
            author.writer != self.arbiter.writer() && author.version + RECENT_VERSIONS > version
        };
        let is_claimed = self.arbiter.take_priority_claim(head.address());
        let contended = is_claimed || head.root.authors.iter().any(is_at_work);
        contended.then(|| Contention { version, took: started.elapsed() })
    }

    /// Waits until another master has had its turn, or does not seem to want one.
    pub(super) async fn yield_to_other_masters(
        &self,
        bucket: &BucketAddress,
        contention: Contention,
    ) {
        let until = Instant::now() + (contention.took * 2).min(WAIT_MAX);
        metrics::counter!("fula_commit_turns_total").increment(1);
        loop {
            let asked = Instant::now();
            let left = until.saturating_duration_since(asked);
            if left.is_zero() {
                return;
            }
            match self.arbiter.wait_beyond(bucket, contention.version, left).await {
                Ok(Some(head)) if head.row.pointer.version <= contention.version => {}
                // Somebody went first, or nothing can be learnt.
                _ => return,
            }
            // An arbiter that waits, or takes its time, sets the pace by itself.
            if asked.elapsed() < LOOK {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}
