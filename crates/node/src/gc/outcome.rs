//! What became of a collection: metrics, and what an operator learns of it.

use std::time::Instant;

use fula_core::Cid;
use fula_service::{Collection, ServiceError};

use super::unreadable::why;
use crate::{gauges::f64_of, node::Node};

/// A collection that deleted nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The reason, in words for the operator.
    why: String,
    /// The block that cannot be read, if that is the reason.
    unreadable: Option<Cid>,
}

impl From<ServiceError> for Failed {
    fn from(error: ServiceError) -> Self {
        Self { why: why(&error), unreadable: error.unreadable_block() }
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self { why, unreadable: None }
    }
}

/// Records the outcome of a collection that began at a time.
pub(super) fn account(
    node: &Node,
    began: Instant,
    collected: Result<Collection, Failed>,
) -> Result<Collection, String> {
    let unreadable = collected.as_ref().err().and_then(|failed| failed.unreadable);
    let collected = collected.map_err(|failed| failed.why);
    node.collections.note(&collected);
    metrics::gauge!("fula_gc_unreadable_blocks").set(u8::from(unreadable.is_some()));
    let collected =
        collected.inspect_err(|_| metrics::counter!("fula_gc_failures_total").increment(1))?;
    metrics::counter!("fula_gc_runs_total").increment(1);
    metrics::counter!("fula_gc_deleted_blocks_total").increment(collected.deleted);
    metrics::counter!("fula_gc_deleted_bytes_total").increment(collected.deleted_bytes);
    metrics::gauge!("fula_gc_marked_blocks").set(f64_of(collected.marked));
    metrics::histogram!("fula_gc_seconds").record(began.elapsed().as_secs_f64());
    Ok(collected)
}

/// Forgets a failure of this master after another one has collected the shared blocks.
pub(super) fn forget_failure(node: &Node) {
    node.collections.forget_failure();
    metrics::gauge!("fula_gc_unreadable_blocks").set(0);
}

#[cfg(test)]
mod tests {
    use fula_core::{Codec, StoreError};

    use super::*;

    #[test]
    fn a_block_that_stops_a_collection_is_named_with_what_to_do() {
        let cid = Cid::of(Codec::DagPb, b"lost");
        for (error, state) in
            [(StoreError::Missing { cid }, "missing"), (StoreError::Damaged { cid }, "damaged")]
        {
            let failed = Failed::from(ServiceError::from(error));
            assert_eq!(failed.unreadable, Some(cid));
            assert!(failed.why.starts_with(&format!("block {cid} is {state}")), "{}", failed.why);
            assert!(failed.why.contains("run fula fsck"), "{}", failed.why);
        }
        let source = "refused".into();
        let away = StoreError::Unavailable { backend: "block store", action: "get", source };
        let failed = Failed::from(ServiceError::from(away));
        assert!(failed.unreadable.is_none() && !failed.why.contains("fsck"), "{failed:?}");
    }
}
