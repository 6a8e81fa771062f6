//! What a bucket name means in a request, and which buckets hold their global name (docs/adr/0033).

use fula_core::{BlockStore, OwnerId, block::require, bucket::BucketRoot, root::GlobalName};

use crate::{auth::bucket_policy, caller::BucketOwner, error::ServiceError};

/// The scope in which bucket names are unique (`FULA_BUCKET_NAMES`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamePolicy {
    /// Names are unique among the buckets of each owner.
    #[default]
    PerOwner,
    /// Names are unique among all buckets of the arbiter, as on AWS.
    Global,
}

/// The place of the bucket that a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameMeaning {
    /// The bucket is one of this owner.
    Of(OwnerId),
    /// The bucket is one of this owner or, if there is none, the holder of the global name.
    OfElseGlobal(OwnerId),
    /// The bucket is the holder of the global name.
    Global,
    /// There is no such bucket.
    Nothing,
}

impl NameMeaning {
    /// Returns the owner whose buckets are searched first.
    pub(crate) fn owner(self) -> Option<OwnerId> {
        match self {
            Self::Of(owner) | Self::OfElseGlobal(owner) => Some(owner),
            Self::Global | Self::Nothing => None,
        }
    }

    /// Returns whether the holder of the global name is searched for where that owner has no such bucket.
    pub(crate) fn is_global(self) -> bool {
        matches!(self, Self::OfElseGlobal(_) | Self::Global)
    }
}

impl NamePolicy {
    /// Returns the policy as settings and records spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PerOwner => "owner",
            Self::Global => "global",
        }
    }

    /// Returns the place of the bucket that a name means to `caller` (`None` is anonymous) in a request
    /// that names the owner `said`.
    pub(crate) fn meaning(self, caller: Option<OwnerId>, said: BucketOwner) -> NameMeaning {
        match (said, caller) {
            (BucketOwner::Named(owner), _) => NameMeaning::Of(owner),
            (BucketOwner::Nobody, _) => NameMeaning::Nothing,
            (BucketOwner::Unsaid, None) => NameMeaning::Global,
            (BucketOwner::Unsaid, Some(own)) => match self {
                Self::PerOwner => NameMeaning::Of(own),
                Self::Global => NameMeaning::OfElseGlobal(own),
            },
        }
    }

    /// Returns what the creation of a bucket does with its global name.
    pub(crate) fn at_creation(self, is_public: bool) -> GlobalName {
        match self {
            Self::PerOwner if is_public => GlobalName::ClaimIfFree,
            Self::PerOwner => GlobalName::Keep,
            Self::Global => GlobalName::Require,
        }
    }

    /// Returns what a change of a bucket's policy does with its global name.
    pub(crate) fn at_policy(self, is_public: bool) -> GlobalName {
        match self {
            Self::PerOwner => self.at_rest(is_public),
            Self::Global => GlobalName::Keep,
        }
    }

    /// Returns what brings the global name of an existing bucket in line with this policy.
    pub(crate) fn at_rest(self, is_public: bool) -> GlobalName {
        match self {
            Self::PerOwner if !is_public => GlobalName::Release,
            Self::PerOwner | Self::Global => GlobalName::ClaimIfFree,
        }
    }

    /// Does the same for the bucket that a root describes.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] while its policy cannot be read.
    pub async fn of_root(
        self,
        blocks: &dyn BlockStore,
        root: &BucketRoot,
    ) -> Result<GlobalName, ServiceError> {
        if root.deleted.is_some() || root.name.is_hidden() {
            return Ok(GlobalName::Release);
        }
        Ok(self.at_rest(bucket_policy::is_public(blocks, root).await?))
    }

    /// Does the same for the root that a pointer of the arbiter names.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] while the root or its policy cannot be read.
    pub async fn of_pointer(
        self,
        blocks: &dyn BlockStore,
        root: &fula_core::Cid,
    ) -> Result<GlobalName, ServiceError> {
        let root = BucketRoot::from_block(&require(blocks, root).await?)?;
        self.of_root(blocks, &root).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_means() {
        use BucketOwner::{Named, Nobody, Unsaid};
        use NamePolicy::{Global, PerOwner};
        let (own, other) = (OwnerId([1; 16]), OwnerId([2; 16]));
        let table = [
            (PerOwner, Some(own), Unsaid, NameMeaning::Of(own)),
            (PerOwner, Some(own), Named(own), NameMeaning::Of(own)),
            (PerOwner, Some(own), Named(other), NameMeaning::Of(other)),
            (PerOwner, Some(own), Nobody, NameMeaning::Nothing),
            (PerOwner, None, Unsaid, NameMeaning::Global),
            (PerOwner, None, Named(other), NameMeaning::Of(other)),
            (PerOwner, None, Nobody, NameMeaning::Nothing),
            (Global, Some(own), Unsaid, NameMeaning::OfElseGlobal(own)),
            (Global, Some(own), Named(own), NameMeaning::Of(own)),
            (Global, Some(own), Named(other), NameMeaning::Of(other)),
            (Global, Some(own), Nobody, NameMeaning::Nothing),
            (Global, None, Unsaid, NameMeaning::Global),
            (Global, None, Named(other), NameMeaning::Of(other)),
            (Global, None, Nobody, NameMeaning::Nothing),
        ];
        for (policy, caller, said, expected) in table {
            assert_eq!(policy.meaning(caller, said), expected, "{policy:?} {caller:?} {said:?}");
        }
    }

    #[test]
    fn which_buckets_hold_their_name() {
        use GlobalName::{ClaimIfFree, Keep, Release, Require};
        // The columns: at creation, private and public; with a policy, private and public; at rest, private and public.
        let table = [
            (
                NamePolicy::PerOwner,
                [Keep, ClaimIfFree],
                [Release, ClaimIfFree],
                [Release, ClaimIfFree],
            ),
            (NamePolicy::Global, [Require, Require], [Keep, Keep], [ClaimIfFree, ClaimIfFree]),
        ];
        for (names, created, policy, rest) in table {
            assert_eq!([false, true].map(|is_public| names.at_creation(is_public)), created);
            assert_eq!([false, true].map(|is_public| names.at_policy(is_public)), policy);
            assert_eq!([false, true].map(|is_public| names.at_rest(is_public)), rest);
        }
    }
}
