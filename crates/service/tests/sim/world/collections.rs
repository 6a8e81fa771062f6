//! Collections of garbage in a world, and what they must leave.

use std::{sync::Arc, time::Duration};

use fula_core::{BlockStore, RootPointerStore, tree::Nodes};
use fula_service::{Collection, Recovery, Service, ServiceError, fsck};
use tokio::time::{Instant, sleep, sleep_until};

use super::{DurableView, World, restores::KEPT};

impl World {
    /// Collects garbage from time to time, in one life of a master.
    pub(super) async fn collect_for_ever(
        self: Arc<Self>,
        service: Service,
        recovery: Recovery,
        me: usize,
    ) {
        let life = self.life(me);
        while self.life(me) == life {
            sleep(Duration::from_millis(200 + self.draw(16_000))).await;
            if self.drops() {
                let dropped = service.drop_deleted_shared(&recovery, Duration::ZERO, true).await;
                let done = dropped.map_err(|error| error.to_string());
                self.note(&format!("master {me}.{life} has dropped rows: {done:?}"));
            }
            let collected = self.collect(&service, &recovery).await;
            let done = collected.map(|done| done.deleted).map_err(|error| error.to_string());
            self.note(&format!("master {me}.{life} has collected: {done:?}"));
        }
    }

    /// Collects garbage. Nothing is kept that was replaced longer ago than a moment, or than a backup may be old.
    pub(crate) async fn collect(
        &self,
        service: &Service,
        recovery: &Recovery,
    ) -> Result<Collection, ServiceError> {
        let kept = if self.faults.regresses { KEPT } else { Duration::ZERO };
        let collected = service.collect_shared(Some(recovery), kept, &|| 0).await;
        if let Ok(done) = &collected {
            self.state().deleted += done.deleted;
        }
        collected
    }

    /// Returns the number of blocks that were collected.
    pub(crate) fn deleted(&self) -> u64 {
        self.state().deleted
    }

    /// Waits as a client does between two pieces of a body. The master may sleep meanwhile.
    pub(crate) async fn between_pieces(&self, me: usize) {
        sleep(Duration::from_millis(300)).await;
        if self.faults.collects && self.strikes(300, "a pause during an upload") {
            let until = Instant::now() + Duration::from_millis(self.draw(self.faults.pause_ms));
            self.state().asleep_until[me] = until;
        }
        loop {
            let until = self.state().asleep_until[me];
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Checks that every block of every bucket is there.
    pub(crate) async fn check_whole(&self) {
        let rows = self.roots.scan_roots(None, 1000).await.unwrap().value;
        for row in rows {
            let view: Arc<dyn BlockStore> = Arc::new(DurableView(Arc::clone(&self.blocks)));
            let mut seen = fsck::Checked::default();
            let report =
                fsck::check_bucket(&Nodes::new(view, 1 << 20), &row, &mut seen).await.unwrap();
            if !report.problems.is_empty() {
                self.violate(format!("{} lacks blocks: {:?}", row.address, report.problems[0]));
            }
        }
    }
}
