//! Claims of masters that lost a swap and ask to go first. They are only advice: the swap decides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fula_core::{BucketAddress, WriterId, root::RootRow};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Arbiter;

/// Time after which a claim expires.
const VALID: Duration = Duration::from_millis(150);

/// Number of claims that are kept before expired ones are removed.
const CLAIMS_MAX: usize = 1024;

/// Time of the last claim of another writer, by bucket.
#[derive(Debug, Default)]
pub(super) struct PriorityClaims(Mutex<BTreeMap<BucketAddress, Instant>>);

impl PriorityClaims {
    /// Records the claim in a row, unless it is that of `own`.
    pub(super) fn note(&self, row: &RootRow, own: WriterId) {
        if row.claim.is_some_and(|writer| writer != own) {
            let mut claims = self.0.lock();
            if claims.len() >= CLAIMS_MAX {
                claims.retain(|_, heard| heard.elapsed() < VALID);
            }
            claims.insert(row.address.clone(), Instant::now());
        }
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Arbiter {
    /// Removes the claim of another writer to a bucket. Returns whether there was a valid one.
    pub(crate) fn take_priority_claim(&self, bucket: &BucketAddress) -> bool {
        let claimed = self.0.claims.0.lock().remove(bucket);
        claimed.is_some_and(|heard| heard.elapsed() < VALID)
    }

    /// Asks other masters to let this one go first, without waiting for the arbiter.
    pub(crate) fn post_priority_claim(&self, bucket: &BucketAddress) {
        let (roots, writer, bucket) = (Arc::clone(&self.0.roots), self.0.writer, bucket.clone());
        tokio::spawn(async move {
            if let Err(error) = roots.post_claim(&bucket, writer).await {
                tracing::debug!(%error, "cannot post a claim to go first");
            }
        });
    }
}
