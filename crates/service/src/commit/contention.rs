//! Contention: masters that write to the same bucket at the same time let each other go first.
//!
//! A master that has just won a swap has the newest root in memory, while a loser still has to read it.
//! Without this module the winner would win again and again, and the work of the loser would be wasted. A
//! loser posts a claim beside the row, and `authors` shows which other masters commit. The winner waits
//! until another master has committed, or for about as long as a round takes. All this is only advice: the
//! swap decides.

use std::time::Duration;

use fula_core::{BucketAddress, bucket::Author};
use tokio::time::Instant;

use super::Inner;
use crate::arbiter::Head;

/// Number of last versions in which commits of other masters count as a sign of contention.
const RECENT_VERSIONS: u64 = 3;

/// Longest wait for another master's commit.
const WAIT_MAX: Duration = Duration::from_millis(150);

/// Shortest interval between two reads of the pointer.
const LOOK: Duration = Duration::from_micros(200);

/// A round that was won in a bucket under contention.
#[derive(Debug)]
pub(super) struct Contention {
    /// Version that was won.
    version: u64,
    /// Duration of the round.
    took: Duration,
}

impl Inner {
    /// Returns the contention in which `head` was won; `None` when no other master commits.
    pub(super) fn contention(&self, head: &Head, started: Instant) -> Option<Contention> {
        let version = head.root.version;
        let is_at_work = |author: &Author| {
            author.writer != self.arbiter.writer() && author.version + RECENT_VERSIONS > version
        };
        let is_claimed = self.arbiter.take_priority_claim(head.address());
        let contended = is_claimed || head.root.authors.iter().any(is_at_work);
        contended.then(|| Contention { version, took: started.elapsed() })
    }

    /// Waits until another master has committed, or does not seem to want to.
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
                // Another master was first, or the arbiter does not answer.
                _ => return,
            }
            // An arbiter that waits, or is slow, sets the pace itself.
            if asked.elapsed() < LOOK {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}
