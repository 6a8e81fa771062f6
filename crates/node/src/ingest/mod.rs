//! The links between masters and storage nodes, over HTTP.

mod client;
mod masters;
mod nodes;

use std::{sync::Arc, time::Duration};

use fula_ingest::{
    StorageNode,
    node::{Ended, Masters},
};

pub(crate) use self::{
    masters::{MasterLinks, OwnMaster, Said, Unanswered},
    nodes::NodeLinks,
};

/// Shortest time between two questions to the masters, which cost them a walk over all their buckets. What ends
/// meanwhile waits for the next one.
const ASK_EVERY: Duration = Duration::from_hours(1);

/// Wait before the first retry after a question that no master answered. It doubles up to [`ASK_EVERY`].
const RETRY: Duration = Duration::from_mins(1);

/// Asks masters about holds that have ended, for ever, and at most once an hour. What cannot be asked about is
/// kept.
pub(crate) async fn settle_for_ever(node: StorageNode, masters: Arc<dyn Masters>) {
    let mut retry = RETRY;
    loop {
        let settled = loop {
            match node.settle_ended(masters.as_ref()).await {
                Ok(ended) if ended == Ended::default() => break Ok(()),
                Ok(Ended { pinned, released }) => {
                    tracing::info!(pinned, released, "leases and pins have ended");
                    let [pinned, released] = [pinned, released].map(|n| n as u64);
                    metrics::counter!("fula_holds_pinned_total").increment(pinned);
                    metrics::counter!("fula_holds_released_total").increment(released);
                }
                Err(error) => break Err(error),
            }
        };
        let wait = match settled {
            Ok(()) => {
                retry = RETRY;
                ASK_EVERY
            }
            Err(error) => {
                let seconds = retry.as_secs();
                tracing::warn!(
                    error,
                    seconds,
                    "cannot find out which blocks are needed; all are kept until the masters answer"
                );
                let longer = (retry * 2).min(ASK_EVERY);
                std::mem::replace(&mut retry, longer)
            }
        };
        tokio::time::sleep(wait).await;
    }
}
