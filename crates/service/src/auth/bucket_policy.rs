//! Reads what decides who may do something without being the owner: the policy of a bucket, its public access
//! block, and its rules for other origins.

use fula_core::{
    Block, BlockStore, OwnerId,
    bucket::{Attached, BucketRoot, TextMap, settings},
};

use super::{
    action::Action,
    policy::{Asked, Decision, Policy, Values},
};
use crate::error::ServiceError;

/// Name of the setting that holds the policy, as text in a block of its own.
pub(crate) const POLICY: &str = "policy";

/// Name of the setting that holds the rules for other origins, as text in a block of its own.
pub(crate) const CORS: &str = "cors";

/// What others may do in a bucket, and what nobody may: its policy, and its public access block.
#[derive(Debug, Default)]
pub struct BucketAccess {
    policy: Option<Stored>,
    /// Whether a policy that is public lets in nobody but the owner.
    is_restricted: bool,
}

#[derive(Debug)]
enum Stored {
    Policy(Box<Policy>),
    /// A newer build may have stored it. Nothing is allowed but what changes it.
    Unreadable,
}

impl BucketAccess {
    /// Reads what the settings of a bucket say.
    pub(crate) async fn of_root(
        blocks: &dyn BlockStore,
        root: &BucketRoot,
    ) -> Result<Self, ServiceError> {
        let Some(text) = policy_text(blocks, root).await? else { return Ok(Self::default()) };
        let block = PublicAccessBlock::of_root(blocks, root).await?.unwrap_or_default();
        Ok(Self::of(&text, block))
    }

    fn of(text: &str, block: PublicAccessBlock) -> Self {
        let policy = match Policy::parse(text) {
            Ok(policy) => Stored::Policy(Box::new(policy)),
            Err(error) => {
                tracing::error!(%error, "a bucket policy cannot be read, so all requests are refused");
                Stored::Unreadable
            }
        };
        let is_public = matches!(&policy, Stored::Policy(policy) if policy.is_public());
        Self { policy: Some(policy), is_restricted: block.restrict_buckets && is_public }
    }

    /// Returns what a policy says, in a bucket without a public access block.
    #[cfg(test)]
    pub(crate) fn of_policy(text: &str) -> Self {
        Self::of(text, PublicAccessBlock::default())
    }

    /// Returns whether there is a policy.
    pub(crate) fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// Decides about a request.
    pub(crate) fn decide(
        &self,
        asked: &Asked<'_>,
        is_owner: bool,
        values: &dyn Values,
    ) -> Decision {
        match &self.policy {
            None => Decision::Unsaid,
            Some(Stored::Unreadable) => Decision::Denied,
            Some(Stored::Policy(policy)) => match policy.decide(asked, values) {
                Decision::Allowed if self.is_restricted && !is_owner => Decision::Unsaid,
                decision => decision,
            },
        }
    }

    /// Returns whether the policy allows a caller anything, so that the caller may know of the bucket.
    pub(crate) fn mentions(&self, who: Option<OwnerId>) -> bool {
        let Some(Stored::Policy(policy)) = &self.policy else { return false };
        !self.is_restricted && policy.mentions(who)
    }

    /// Returns whether anyone may read an object, from anywhere and at any time. `resource` is the bucket, a slash
    /// and the key.
    pub(crate) fn opens_always(&self, resource: &str) -> bool {
        let Some(Stored::Policy(policy)) = &self.policy else { return false };
        !self.is_restricted && policy.allows_always(Action::GetObject.id(), resource)
    }

    /// Returns whether it needs the tags of the object that a request is about.
    pub(crate) fn needs_tags(&self) -> bool {
        matches!(&self.policy, Some(Stored::Policy(policy)) if policy.needs_tags())
    }
}

/// Returns whether anyone reaches the bucket that a root describes by its bare name.
///
/// # Errors
/// [`ServiceError::Unavailable`] while its policy cannot be read.
pub(crate) async fn is_public(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<bool, ServiceError> {
    Ok(Openness::of_root(blocks, root).await?.is_reached())
}

/// The settings that decide whether anyone reaches a bucket by its bare name.
#[derive(Debug, Default)]
pub(crate) struct Openness {
    pub(crate) policy: Option<String>,
    pub(crate) block: Option<PublicAccessBlock>,
    pub(crate) has_cors: bool,
}

impl Openness {
    /// Reads the settings of the bucket that a root describes.
    pub(crate) async fn of_root(
        blocks: &dyn BlockStore,
        root: &BucketRoot,
    ) -> Result<Self, ServiceError> {
        Ok(Self {
            policy: policy_text(blocks, root).await?,
            block: PublicAccessBlock::of_root(blocks, root).await?,
            has_cors: cors_text(blocks, root).await?.is_some(),
        })
    }

    /// Decodes the blocks of the settings.
    pub(crate) fn of_blocks(
        policy: Option<&Block>,
        block: Option<&Block>,
        has_cors: bool,
    ) -> Result<Self, ServiceError> {
        let block = block.map(Attached::read_block).transpose()?;
        Ok(Self {
            policy: policy.map(|block| settings::text_of(block, POLICY)).transpose()?,
            block: block.map(|map| PublicAccessBlock::of_map(&map)),
            has_cors,
        })
    }

    /// Returns the policy. One that cannot be read allows nothing.
    fn policy(&self) -> Policy {
        self.policy.as_deref().and_then(|text| Policy::parse(text).ok()).unwrap_or_default()
    }

    /// Returns whether anyone reaches the bucket by its bare name: its policy allows something without a
    /// credential, or it has rules for other origins, which preflights without credentials ask for.
    pub(crate) fn is_reached(&self) -> bool {
        let policy = self.policy();
        let is_restricted =
            self.block.is_some_and(|block| block.restrict_buckets) && policy.is_public();
        self.has_cors || (!is_restricted && policy.allows_unnamed())
    }

    /// Refuses a policy that makes something public where the public access block forbids that.
    ///
    /// # Errors
    /// [`ServiceError::PublicPolicyBlocked`].
    pub(crate) fn check_policy(&self) -> Result<(), ServiceError> {
        match self.block {
            Some(block) if block.block_policy && self.policy().is_public() => {
                Err(ServiceError::PublicPolicyBlocked)
            }
            _ => Ok(()),
        }
    }
}

/// Returns the rules for other origins, as the gateway stored them.
pub(crate) async fn cors_text(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<Option<String>, ServiceError> {
    Ok(settings::read_text(blocks, root.settings.as_ref(), CORS).await?)
}

pub(crate) async fn policy_text(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<Option<String>, ServiceError> {
    Ok(settings::read_text(blocks, root.settings.as_ref(), POLICY).await?)
}

/// Name of the setting that holds the public access block, as a map of texts.
pub(crate) const PUBLIC_ACCESS: &str = "publicAccessBlock";

/// The public access block of a bucket. ACLs never make anything public here, so the parts about ACLs have no
/// effect.
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

    fn of_map(map: &TextMap) -> Self {
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
