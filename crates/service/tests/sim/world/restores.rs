//! Restores of the arbiter in a world, and the operator who merges what was forked.

use std::{sync::Arc, time::Duration};

use fula_core::MetadataStore;
use fula_service::{NamePolicy, Random, Recovery, Service};
use tokio::time::sleep;

use super::World;

/// Longest age of a backup that is restored where masters collect, in milliseconds.
const AGE_MAX: u64 = 30_000;

/// Time for which replaced roots are kept in such runs. A backup may not be older.
pub(super) const KEPT: Duration = Duration::from_secs(40);

/// Longest pause of a master, in milliseconds, after which its lease is certainly not taken away.
const SHORT: u64 = 30_000;

impl World {
    /// Lets the arbiter go back to an earlier state, some time into the run.
    pub(crate) async fn regress(&self) {
        let (after, age) = if self.faults.collects { (100_000, AGE_MAX) } else { (2_000, 1_500) };
        sleep(Duration::from_millis(300 + self.draw(after))).await;
        // Pointers and metadata are one database.
        let (backup, records) = (self.roots.backup(), self.metadata.backup());
        sleep(Duration::from_millis(100 + self.draw(age))).await;
        // In half of the cases the mark shows it; in the others only versions and authors do. Then no master may
        // be away for long: what it alone knows may be collected.
        let tells = self.faults.pause_ms > SHORT || self.draw(2) == 0;
        if tells {
            self.roots.restore(backup);
        } else {
            self.roots.restore_quietly(backup);
            let now = self.now_ns();
            self.state().blind_from_ns = Some(now);
        }
        self.metadata.restore(records);
        let mut state = self.state();
        state.faults += 1;
        // Connections end with the server, and messages in transit to it are lost.
        state.server += 1;
        drop(state);
        self.note("the arbiter goes back in time");
    }

    /// Merges the forks, as an operator would, and checks the result.
    pub(crate) async fn merge(&self, service: &Service) {
        let metadata: Arc<dyn MetadataStore> = Arc::clone(&self.metadata) as _;
        let arbiter = service.arbiter().clone();
        let random: Random = Arc::new(|bytes: &mut [u8]| bytes.fill(77));
        let memory = Arc::clone(&self.memories[0]);
        let recovery =
            Recovery::open(arbiter, metadata, memory, &random, NamePolicy::PerOwner, true)
                .await
                .unwrap();
        for _ in 0..5 {
            let status = recovery.status().await.unwrap();
            if status.forks.is_empty() && status.alarm.is_none() {
                return;
            }
            for name in status.forks.keys() {
                self.state().forked = true;
                // A collection that begins meanwhile refuses a merge, which is tried again.
                let merged = recovery.merge(&name.parse().unwrap(), false).await;
                self.note(&format!(
                    "merged {name}: {:?}",
                    merged.map_err(|error| error.to_string())
                ));
            }
            sleep(Duration::from_secs(5)).await;
        }
        self.violate("forks remain after five merges".to_owned());
    }

    /// Returns the period in which a master could not know that the arbiter had gone back, because only
    /// others had committed.
    pub(crate) fn blind(&self) -> Option<(u64, u64)> {
        let state = self.state();
        state.blind_from_ns.map(|from| (from, state.calm_from_ns))
    }
}
