//! Reads what decides who may do something without being the owner: the policy of a bucket, its access control
//! lists, its public access block, and its rules for other origins.

use fula_core::{
    Block, BlockStore, OwnerId,
    bucket::{Attached, BucketRoot, settings},
};

use super::{
    acl::{Acl, AclAsked, BUCKET_ACL, BucketAcls, OWNERSHIP, Ownership},
    action::Action,
    policy::{Asked, Decision, Policy, Values},
    public_access::PublicAccessBlock,
};
use crate::error::ServiceError;

/// Name of the setting that holds the policy, as text in a block of its own.
pub(crate) const POLICY: &str = "policy";

/// Name of the setting that holds the rules for other origins, as text in a block of its own.
pub(crate) const CORS: &str = "cors";

/// What others may do in a bucket, and what nobody may: its policy, its access control lists, and its public
/// access block.
#[derive(Debug, Default)]
pub struct BucketAccess {
    policy: Option<Stored>,
    /// Whether a policy that is public lets in nobody but the owner.
    is_restricted: bool,
    /// The access control lists, where they count.
    acls: Option<BucketAcls>,
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
        let (text, ownership) =
            (policy_text(blocks, root).await?, ownership_of(blocks, root).await?);
        if text.is_none() && ownership == Ownership::Enforced {
            return Ok(Self::default());
        }
        let block = PublicAccessBlock::of_root(blocks, root).await?.unwrap_or_default();
        let acls = match ownership {
            Ownership::Enforced => None,
            ownership => {
                let stored =
                    settings::read_text(blocks, root.settings.as_ref(), BUCKET_ACL).await?;
                Some(BucketAcls { ownership, stored, block })
            }
        };
        let policy = text.map(|text| Self::of(&text, block)).unwrap_or_default();
        Ok(Self { acls, ..policy })
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
        Self {
            policy: Some(policy),
            is_restricted: block.restrict_buckets && is_public,
            acls: None,
        }
    }

    /// Returns what a policy says, in a bucket without a public access block.
    #[cfg(test)]
    pub(crate) fn of_policy(text: &str) -> Self {
        Self::of(text, PublicAccessBlock::default())
    }

    /// Returns the same with access control lists that count.
    #[cfg(test)]
    pub(crate) fn with_acls(self, ownership: Ownership, stored: Option<String>) -> Self {
        let block = PublicAccessBlock::default();
        Self { acls: Some(BucketAcls { ownership, stored, block }), ..self }
    }

    /// Returns the access control lists, where they count.
    pub(crate) fn acls(&self) -> Option<&BucketAcls> {
        self.acls.as_ref()
    }

    /// Returns the list of an object of `holder` with this stored one. Where lists do not count, the holder alone
    /// is let in.
    pub(crate) fn acl_of(&self, stored: Option<&str>, holder: OwnerId) -> Acl {
        Acl::of_text(stored.filter(|_| self.acls.is_some()), holder)
    }

    /// Returns what lists say about a request; `None` where they do not count.
    pub(super) fn acl_allows(&self, asked: &AclAsked<'_>) -> Option<bool> {
        self.acls.as_ref().map(|acls| acls.allows(asked))
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

    /// Returns whether a caller may know of the bucket: the policy allows the caller anything, or lists count, so
    /// that each object may let others in.
    pub(crate) fn mentions(&self, who: Option<OwnerId>) -> bool {
        if self.acls.is_some() {
            return true;
        }
        let Some(Stored::Policy(policy)) = &self.policy else { return false };
        !self.is_restricted && policy.mentions(who)
    }

    /// Returns whether anyone may read an object, from anywhere and at any time. `resource` is the bucket, a slash
    /// and the key. Where lists count, an object may belong to another user, about whose objects the policy says
    /// nothing: no object is open then.
    pub(crate) fn opens_always(&self, resource: &str) -> bool {
        if self.acls.is_some() {
            return false;
        }
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
    /// Whether access control lists count.
    pub(crate) has_acls: bool,
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
            has_acls: ownership_of(blocks, root).await? != Ownership::Enforced,
        })
    }

    /// Decodes the blocks of the settings.
    pub(crate) fn of_blocks(
        policy: Option<&Block>,
        block: Option<&Block>,
        (has_cors, has_acls): (bool, bool),
    ) -> Result<Self, ServiceError> {
        let block = block.map(Attached::read_block).transpose()?;
        Ok(Self {
            policy: policy.map(|block| settings::text_of(block, POLICY)).transpose()?,
            block: block.map(|map| PublicAccessBlock::of_map(&map)),
            has_cors,
            has_acls,
        })
    }

    /// Returns the policy. One that cannot be read allows nothing.
    fn policy(&self) -> Policy {
        self.policy.as_deref().and_then(|text| Policy::parse(text).ok()).unwrap_or_default()
    }

    /// Returns whether anyone reaches the bucket by its bare name: its policy allows something without a
    /// credential, it has rules for other origins, which preflights without credentials ask for, or lists count,
    /// which may let in anyone.
    pub(crate) fn is_reached(&self) -> bool {
        let policy = self.policy();
        let is_restricted =
            self.block.is_some_and(|block| block.restrict_buckets) && policy.is_public();
        self.has_cors || self.has_acls || (!is_restricted && policy.allows_unnamed())
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

/// Returns the object ownership of a bucket.
pub(crate) async fn ownership_of(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<Ownership, ServiceError> {
    let text = settings::read_text(blocks, root.settings.as_ref(), OWNERSHIP).await?;
    Ok(Ownership::of_text(text.as_deref()))
}

pub(crate) async fn policy_text(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<Option<String>, ServiceError> {
    Ok(settings::read_text(blocks, root.settings.as_ref(), POLICY).await?)
}
