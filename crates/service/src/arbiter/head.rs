//! The newest known state of a bucket.

use fula_core::{BucketAddress, bucket::BucketRoot, root::RootRow};

/// A row of the arbiter and the root that it points to.
#[derive(Clone, Debug)]
pub struct Head {
    /// The row.
    pub row: RootRow,
    /// The decoded root.
    pub root: BucketRoot,
}

impl Head {
    /// Returns the address of the bucket.
    pub fn address(&self) -> &BucketAddress {
        &self.row.address
    }
}
