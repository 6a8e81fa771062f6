//! The public access block of a bucket.

use fula_core::{
    BlockStore,
    bucket::{BucketRoot, TextMap, settings},
};

use crate::error::ServiceError;

/// Name of the setting that holds the public access block, as a map of texts.
pub(crate) const PUBLIC_ACCESS: &str = "publicAccessBlock";

/// The public access block of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is set by itself, as on AWS")]
pub struct PublicAccessBlock {
    /// Whether ACLs that make something public are refused.
    pub block_acls: bool,
    /// Whether ACLs that make something public are ignored.
    pub ignore_acls: bool,
    /// Whether policies that make something public are refused.
    pub block_policy: bool,
    /// Whether what a policy makes public is private all the same.
    pub restrict_buckets: bool,
}

/// Names of the parts in a stored block.
const NAMES: [&str; 4] = ["blockAcls", "ignoreAcls", "blockPolicy", "restrictBuckets"];

impl PublicAccessBlock {
    /// Returns the parts that are set, by name.
    pub(crate) fn to_map(self) -> TextMap {
        let set = [self.block_acls, self.ignore_acls, self.block_policy, self.restrict_buckets];
        let pairs = NAMES.iter().zip(set);
        pairs.map(|(name, is_set)| ((*name).to_owned(), is_set.to_string())).collect()
    }

    pub(super) fn of_map(map: &TextMap) -> Self {
        let is_set = |name: &str| map.get(name).is_some_and(|text| text == "true");
        let [block_acls, ignore_acls, block_policy, restrict_buckets] = NAMES.map(is_set);
        Self { block_acls, ignore_acls, block_policy, restrict_buckets }
    }

    /// Reads the public access block of the bucket that a root describes.
    pub(crate) async fn of_root(
        blocks: &dyn BlockStore,
        root: &BucketRoot,
    ) -> Result<Option<Self>, ServiceError> {
        let map = settings::read_map(blocks, root.settings.as_ref(), PUBLIC_ACCESS).await?;
        Ok(map.map(|map| Self::of_map(&map)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_comes_back() {
        for bits in 0..16_u8 {
            let block = PublicAccessBlock {
                block_acls: bits & 1 != 0,
                ignore_acls: bits & 2 != 0,
                block_policy: bits & 4 != 0,
                restrict_buckets: bits & 8 != 0,
            };
            assert_eq!(PublicAccessBlock::of_map(&block.to_map()), block);
        }
    }
}
