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
    masters::{MasterLinks, OwnMaster},
    nodes::NodeLinks,
};

/// Interval between two looks at holds that have ended.
const SETTLE_EVERY: Duration = Duration::from_mins(1);

/// Asks masters about holds that have ended, for ever. What cannot be asked about is kept.
pub(crate) async fn settle_for_ever(node: StorageNode, masters: Arc<dyn Masters>) {
    let mut was_well = true;
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
        if let Err(error) = &settled
            && was_well
        {
            tracing::warn!(
                error,
                "cannot find out which blocks are needed; all are kept until the masters answer"
            );
        }
        was_well = settled.is_ok();
        tokio::time::sleep(SETTLE_EVERY).await;
    }
}
