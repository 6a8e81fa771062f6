//! Months that pass in a world, after which the rows of deleted buckets are dropped.

use std::time::Duration;

use fula_core::{
    RootPointerStore, StoreError,
    root::{DeletedRow, DropTerms},
};
use fula_service::{Recovery, Service};
use tokio::time::sleep;

use super::{Drops, World};

/// Longer than the row of a deleted bucket is kept.
const MONTH: Duration = Duration::from_hours(31 * 24);

impl World {
    pub(crate) fn drops(&self) -> bool {
        self.faults.drops != Drops::Never
    }

    /// Returns the number of rows that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Lets a month pass at the arbiter. No client may be waiting for an answer: remembered answers are forgotten.
    pub(crate) fn pass_a_month(&self) {
        self.note("a month passes");
        self.state().passed_ms += u64::try_from(MONTH.as_millis()).unwrap();
        self.tick();
    }

    /// Carries out a drop at the arbiter.
    pub(super) async fn drop_rows(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        self.tick();
        let dropped = self.roots.drop_roots(rows, terms).await?;
        if self.faults.drops == Drops::WithoutFloor {
            self.roots.forget_floor();
        }
        for row in &dropped {
            self.note(&format!("the row of {} is dropped", row.address));
        }
        self.state().dropped += dropped.len() as u64;
        Ok(dropped)
    }

    /// Lets a month pass, and checks that no row of a deleted bucket stays.
    pub(crate) async fn drop_at_the_end(&self, service: &Service, recovery: &Recovery) {
        self.pass_a_month();
        let mut last = None;
        for _ in 0..5 {
            let rows = self.roots.scan_roots(None, 1000).await.unwrap().value;
            if rows.iter().all(|row| row.deleted.is_none()) {
                return;
            }
            last = Some(service.drop_deleted_shared(recovery, Duration::ZERO, true).await);
            sleep(Duration::from_secs(30)).await;
        }
        self.violate(format!("rows of deleted buckets stay when all is calm: {last:?}"));
    }

    /// Checks that no master of an arbiter that never went back is in doubt about it.
    pub(crate) fn check_trust(&self, me: usize, service: &Service) {
        let alarm = service.arbiter().guard().alarm();
        if let Some(alarm) = alarm.filter(|_| !self.faults.regresses) {
            self.violate(format!("master {me} takes a dropped row for a fault: {alarm:?}"));
        }
    }
}
