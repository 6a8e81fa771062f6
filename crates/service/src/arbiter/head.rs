//! The newest known state of a bucket.

use fula_core::{BucketAddress, bucket::BucketRoot, root::RootRow};

/// A row and the root it points to, which agree.
#[derive(Clone, Debug)]
pub struct Head {
    /// What the arbiter said.
    pub row: RootRow,
    /// The decoded root.
    pub root: BucketRoot,
}

impl Head {
    /// Returns which bucket this is.
    pub fn address(&self) -> &BucketAddress {
        &self.row.address
    }
}
