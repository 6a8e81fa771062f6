//! The check behind `/readyz`: whether this gateway can serve requests, and if not, the reason.

use std::time::Duration;

use fula_service::error::chain;
use tokio::time::timeout;

use crate::node::Node;

/// Time after which a store that does not answer counts as unusable.
const PATIENCE: Duration = Duration::from_secs(3);

/// Checks that the gateway can serve reads and writes.
///
/// # Errors
/// The reason why it cannot, in words for the operator.
pub(crate) async fn check(node: &Node) -> Result<(), String> {
    if node.store.has_failed() {
        return Err("the log failed: check the disk, then restart".to_owned());
    }
    let pending = node.store.pending_for();
    if pending >= PATIENCE {
        let seconds = pending.as_secs();
        return Err(format!("the disk of the data directory has not answered for {seconds} s"));
    }
    let guard = node.service.arbiter().guard();
    if let Some(failure) = guard.disk_failure() {
        return Err(format!(
            "this master's own data directory cannot be written: {}",
            chain(&failure)
        ));
    }
    if let Some(alarm) = guard.alarm() {
        return Err(format!("the arbiter is in doubt: {}; see fula roots show", alarm.reason));
    }
    match timeout(PATIENCE, node.roots().get_roots(&[])).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("the arbiter does not answer: {}", chain(&error))),
        Err(_) => return Err(format!("the arbiter does not answer within {PATIENCE:?}")),
    }
    match timeout(PATIENCE, node.nodes.blocks().probe()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the block store does not answer: {}", chain(&error))),
        Err(_) => Err(format!("the block store does not answer within {PATIENCE:?}")),
    }
}
