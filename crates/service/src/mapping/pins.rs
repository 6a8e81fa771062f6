//! Pins that nodes are asked for after commits. They are gathered for a moment, so that a node gets one request
//! for many mappings. What gets lost here is found by the node's own question.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fula_core::{Cid, OwnerId};
use fula_ingest::SignerId;
use parking_lot::Mutex;

use super::StorageNodes;

/// Time for which pins are gathered.
const GATHER: Duration = Duration::from_millis(500);

/// Largest number of blocks that are named to a node at a time.
const PINNED_MAX: usize = 1024;

/// Largest number of blocks that wait. Further ones are left to the node's own question.
const WAITING_MAX: usize = 1 << 18;

/// Number of attempts to pin.
const ATTEMPTS: u32 = 4;

/// Wait before the second attempt. It doubles with each attempt.
const WAIT: Duration = Duration::from_secs(1);

/// Pins that follow a commit.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(super) owner: OwnerId,
    pub(super) nodes: Vec<(SignerId, Vec<Cid>)>,
}

/// Pins that wait to be sent. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PinQueue(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    cids: HashMap<(SignerId, OwnerId), Vec<Cid>>,
    count: usize,
    is_sending: bool,
}

impl PinQueue {
    /// Adds pins, and sends them in a moment.
    pub(super) fn add(&self, nodes: &Arc<dyn StorageNodes>, delivery: Delivery) {
        let mut waiting = self.0.lock();
        for (node, cids) in delivery.nodes {
            if waiting.count + cids.len() > WAITING_MAX {
                continue;
            }
            waiting.count += cids.len();
            waiting.cids.entry((node, delivery.owner)).or_default().extend(cids);
        }
        if !std::mem::replace(&mut waiting.is_sending, true) {
            tokio::spawn(self.clone().send(Arc::clone(nodes)));
        }
    }

    async fn send(self, nodes: Arc<dyn StorageNodes>) {
        loop {
            tokio::time::sleep(GATHER).await;
            let taken = {
                let mut waiting = self.0.lock();
                waiting.count = 0;
                let taken = std::mem::take(&mut waiting.cids);
                waiting.is_sending = !taken.is_empty();
                taken
            };
            if taken.is_empty() {
                return;
            }
            let pins = taken.into_iter().map(|((node, owner), cids)| {
                let nodes = Arc::clone(&nodes);
                async move { pin(nodes.as_ref(), node, owner, cids).await }
            });
            futures::future::join_all(pins).await;
        }
    }
}

async fn pin(nodes: &dyn StorageNodes, node: SignerId, owner: OwnerId, cids: Vec<Cid>) {
    let mut wait = WAIT;
    for attempt in 1..=ATTEMPTS {
        let mut failure = None;
        for cids in cids.chunks(PINNED_MAX) {
            match nodes.pin(node, owner, cids).await {
                Ok(pinned) if pinned == cids.len() => {}
                Ok(pinned) => {
                    let (name, asked) = (nodes.name(node), cids.len());
                    tracing::error!(
                        node = name,
                        asked,
                        pinned,
                        "a storage node has lost blocks that it gave a receipt for"
                    );
                }
                Err(away) => failure = Some(away),
            }
        }
        let Some(away) = failure else { return };
        tracing::warn!(node = away.name, why = away.why, attempt, "blocks are not pinned yet");
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
}
