//! What nodes have signed for the leaves of an object.

use std::{collections::BTreeMap, sync::Arc};

use fula_core::Cid;

use crate::batch::Receipt;

/// A leaf that some node has.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) receipt: Arc<str>,
    /// All blocks that the receipt is for, in its order; empty if it is for this leaf alone.
    pub(super) list: Arc<[(Cid, u32)]>,
}

/// Returns the receipts for leaves, each once, with the blocks that it is for.
pub(super) fn receipts(leaves: &[(Cid, u32)], kept: &BTreeMap<Cid, Kept>) -> Vec<Receipt> {
    let mut by_receipt = BTreeMap::new();
    for (cid, size) in leaves {
        if let Some(kept) = kept.get(cid) {
            by_receipt.entry(Arc::clone(&kept.receipt)).or_insert_with(|| {
                if kept.list.is_empty() { vec![(*cid, *size)] } else { kept.list.to_vec() }
            });
        }
    }
    by_receipt.into_iter().collect()
}
