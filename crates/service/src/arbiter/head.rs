//! The nouns that everything above the arbiter shares: which bucket, and its newest known state.

use fula_core::{BucketName, OwnerId, bucket::BucketRoot, root::RootRow};

/// A bucket by owner and name.
pub(crate) type BucketAddress = (OwnerId, BucketName);

/// A row and the root it points to, which agree.
#[derive(Clone, Debug)]
pub struct Head {
    /// What the arbiter said.
    pub row: RootRow,
    /// The decoded root.
    pub root: BucketRoot,
}

impl Head {
    /// Returns whose bucket this is, and its name.
    pub fn address(&self) -> BucketAddress {
        (self.row.owner, self.row.bucket.clone())
    }
}
