//! Brings global names in line with the name policy, once. Private buckets may have claimed names under
//! older versions, or before the policy was changed (docs/adr/0033).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fula_core::{
    MetadataStore,
    metadata::{Table, WriteOutcome},
    root::{GlobalName, RootRow},
};

use crate::{
    caller::Caller,
    commit::{Change, CommitRequest},
    error::{ServiceError, chain},
    limits::PAGE_MAX,
    names::NamePolicy,
    service::Service,
};

/// Name of the record that holds the policy with which all names are in line.
const SETTLED: &str = "bucket-names-settled";

/// Number of successive failures after which the other buckets are left for later.
const FAILURES_MAX: u64 = 16;

/// First wait before the remaining buckets are tried again. It doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);

/// Longest wait before the remaining buckets are tried again.
const RETRY_MAX: Duration = Duration::from_mins(5);

/// The result of one pass over all buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Number of buckets that released or claimed their name.
    pub changed: u64,
    /// Number of buckets that could not be examined or changed.
    pub left: u64,
}

/// Makes the next start of a gateway examine all names again.
///
/// # Errors
/// [`ServiceError::Unavailable`].
pub async fn unsettle_names(metadata: &dyn MetadataStore) -> Result<(), ServiceError> {
    let Some(entry) = metadata.read(Table::Modes, SETTLED).await? else { return Ok(()) };
    if entry.value.is_some() {
        metadata.write(Table::Modes, SETTLED, entry.version, None).await?;
    }
    Ok(())
}

impl Service {
    /// Brings global names in line with the policy, and repeats that until no bucket is left. Does nothing
    /// where that was done before.
    pub async fn settle_names(self, metadata: Arc<dyn MetadataStore>) {
        let mut wait = RETRY;
        loop {
            match self.settle_names_once(metadata.as_ref()).await {
                Ok(None) => return,
                Ok(Some(Settled { changed, left: 0 })) => {
                    let mode = self.names.as_str();
                    if changed == 0 {
                        tracing::debug!(
                            mode,
                            "global bucket names are in line with FULA_BUCKET_NAMES"
                        );
                    } else {
                        tracing::info!(
                            changed,
                            mode,
                            "global bucket names are in line with FULA_BUCKET_NAMES"
                        );
                    }
                    return;
                }
                Ok(Some(Settled { changed, left })) => tracing::warn!(
                    changed,
                    left,
                    "some buckets could not release or claim their global name; trying again later"
                ),
                Err(error) => tracing::warn!(
                    error = chain(&error),
                    "cannot examine the global bucket names; trying again later"
                ),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Examines all buckets once. Returns `None` where that was done before under this policy.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub async fn settle_names_once(
        &self,
        metadata: &dyn MetadataStore,
    ) -> Result<Option<Settled>, ServiceError> {
        let mode = self.names.as_str();
        let entry = metadata.read(Table::Modes, SETTLED).await?;
        let version = entry.as_ref().map_or(0, |entry| entry.version);
        if entry.and_then(|entry| entry.value).is_some_and(|value| value == mode.as_bytes()) {
            return Ok(None);
        }
        let settled = self.settle_all().await?;
        if settled.left == 0 {
            let value = Some(Bytes::from_static(mode.as_bytes()));
            // On a conflict another master has written it in the meantime, or the policy was changed.
            if let WriteOutcome::Conflict(_) =
                metadata.write(Table::Modes, SETTLED, version, value).await?
            {
                tracing::debug!("another master has examined the global names too");
            }
        }
        Ok(Some(settled))
    }

    async fn settle_all(&self) -> Result<Settled, ServiceError> {
        let (mut settled, mut failures) = (Settled::default(), 0);
        let mut after = None;
        loop {
            let rows = self.arbiter().scan_buckets(after.as_ref(), PAGE_MAX).await?;
            let Some(last) = rows.last() else { return Ok(settled) };
            after = Some(last.address.clone());
            for row in rows.iter().filter(|row| self.may_be_unsettled(row)) {
                match self.settle(row).await {
                    Ok(changed) => {
                        failures = 0;
                        settled.changed += u64::from(changed);
                        if changed && settled.changed.is_multiple_of(1000) {
                            let changed = settled.changed;
                            tracing::info!(
                                changed,
                                "bringing global names in line with FULA_BUCKET_NAMES"
                            );
                        }
                    }
                    Err(error) => {
                        let bucket = row.address.name.as_str();
                        tracing::debug!(
                            bucket,
                            error = chain(&error),
                            "cannot settle the global name of a bucket; trying again later"
                        );
                        settled.left += 1;
                        failures += 1;
                    }
                }
                if failures >= FAILURES_MAX {
                    return Ok(settled);
                }
            }
        }
    }

    /// Returns whether a row may hold a name that it must not hold, or lack one that it must hold.
    fn may_be_unsettled(&self, row: &RootRow) -> bool {
        let holds_too_much = self.names == NamePolicy::PerOwner && row.global_name;
        let lacks = self.names == NamePolicy::Global && !row.global_name;
        row.deleted.is_none() && !row.address.name.is_hidden() && (holds_too_much || lacks)
    }

    /// Commits the change that a bucket's name needs. Returns whether there was one.
    async fn settle(&self, row: &RootRow) -> Result<bool, ServiceError> {
        let caller = Caller::default();
        caller.pins.begin_write(self.arbiter().pins());
        let address = row.address.clone();
        let Some(head) = self.arbiter().current(&address).await? else { return Ok(false) };
        caller.pins.pin_head(&head);
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let wanted = self.names.of_root(blocks, &head.root).await?;
        if row.global_name == (wanted == GlobalName::ClaimIfFree) {
            return Ok(false);
        }
        let request =
            CommitRequest::of(&caller, Some(head.root.id), None, Change::SettleName(self.names));
        match self.submit(&caller, &address, request).await {
            Ok(_) => Ok(true),
            // The bucket was deleted in the meantime, and its name with it.
            Err(ServiceError::NoSuchBucket) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
