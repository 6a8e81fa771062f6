//! The actions that bucket policies name, and sets of them.

use super::pattern::{Pattern, tokens};

/// What an action is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bucket,
    Object,
}

use Kind::{Bucket, Object};

/// The actions of AWS that are about a bucket or an object, in order of name.
const ACTIONS: &[(&str, Kind)] = &[
    ("s3:AbortMultipartUpload", Object),
    ("s3:BypassGovernanceRetention", Object),
    ("s3:CreateBucket", Bucket),
    ("s3:CreateBucketMetadataTableConfiguration", Bucket),
    ("s3:DeleteBucket", Bucket),
    ("s3:DeleteBucketMetadataTableConfiguration", Bucket),
    ("s3:DeleteBucketPolicy", Bucket),
    ("s3:DeleteBucketWebsite", Bucket),
    ("s3:DeleteObject", Object),
    ("s3:DeleteObjectTagging", Object),
    ("s3:DeleteObjectVersion", Object),
    ("s3:DeleteObjectVersionTagging", Object),
    ("s3:GetAccelerateConfiguration", Bucket),
    ("s3:GetAnalyticsConfiguration", Bucket),
    ("s3:GetBucketAbac", Bucket),
    ("s3:GetBucketAcl", Bucket),
    ("s3:GetBucketCORS", Bucket),
    ("s3:GetBucketLocation", Bucket),
    ("s3:GetBucketLogging", Bucket),
    ("s3:GetBucketMetadataTableConfiguration", Bucket),
    ("s3:GetBucketNotification", Bucket),
    ("s3:GetBucketObjectLockConfiguration", Bucket),
    ("s3:GetBucketOwnershipControls", Bucket),
    ("s3:GetBucketPolicy", Bucket),
    ("s3:GetBucketPolicyStatus", Bucket),
    ("s3:GetBucketPublicAccessBlock", Bucket),
    ("s3:GetBucketRequestPayment", Bucket),
    ("s3:GetBucketTagging", Bucket),
    ("s3:GetBucketVersioning", Bucket),
    ("s3:GetBucketWebsite", Bucket),
    ("s3:GetEncryptionConfiguration", Bucket),
    ("s3:GetIntelligentTieringConfiguration", Bucket),
    ("s3:GetInventoryConfiguration", Bucket),
    ("s3:GetLifecycleConfiguration", Bucket),
    ("s3:GetMetricsConfiguration", Bucket),
    ("s3:GetObject", Object),
    ("s3:GetObjectAcl", Object),
    ("s3:GetObjectAttributes", Object),
    ("s3:GetObjectLegalHold", Object),
    ("s3:GetObjectRetention", Object),
    ("s3:GetObjectTagging", Object),
    ("s3:GetObjectTorrent", Object),
    ("s3:GetObjectVersion", Object),
    ("s3:GetObjectVersionAcl", Object),
    ("s3:GetObjectVersionAttributes", Object),
    ("s3:GetObjectVersionForReplication", Object),
    ("s3:GetObjectVersionTagging", Object),
    ("s3:GetObjectVersionTorrent", Object),
    ("s3:GetReplicationConfiguration", Bucket),
    ("s3:InitiateReplication", Object),
    ("s3:ListBucket", Bucket),
    ("s3:ListBucketMultipartUploads", Bucket),
    ("s3:ListBucketVersions", Bucket),
    ("s3:ListMultipartUploadParts", Object),
    ("s3:ObjectOwnerOverrideToBucketOwner", Object),
    ("s3:PutAccelerateConfiguration", Bucket),
    ("s3:PutAnalyticsConfiguration", Bucket),
    ("s3:PutBucketAbac", Bucket),
    ("s3:PutBucketAcl", Bucket),
    ("s3:PutBucketCORS", Bucket),
    ("s3:PutBucketLogging", Bucket),
    ("s3:PutBucketNotification", Bucket),
    ("s3:PutBucketObjectLockConfiguration", Bucket),
    ("s3:PutBucketOwnershipControls", Bucket),
    ("s3:PutBucketPolicy", Bucket),
    ("s3:PutBucketPublicAccessBlock", Bucket),
    ("s3:PutBucketRequestPayment", Bucket),
    ("s3:PutBucketTagging", Bucket),
    ("s3:PutBucketVersioning", Bucket),
    ("s3:PutBucketWebsite", Bucket),
    ("s3:PutEncryptionConfiguration", Bucket),
    ("s3:PutIntelligentTieringConfiguration", Bucket),
    ("s3:PutInventoryConfiguration", Bucket),
    ("s3:PutLifecycleConfiguration", Bucket),
    ("s3:PutMetricsConfiguration", Bucket),
    ("s3:PutObject", Object),
    ("s3:PutObjectAcl", Object),
    ("s3:PutObjectLegalHold", Object),
    ("s3:PutObjectRetention", Object),
    ("s3:PutObjectTagging", Object),
    ("s3:PutObjectVersionAcl", Object),
    ("s3:PutObjectVersionTagging", Object),
    ("s3:PutReplicationConfiguration", Bucket),
    ("s3:RenameObject", Object),
    ("s3:ReplicateDelete", Object),
    ("s3:ReplicateObject", Object),
    ("s3:ReplicateTags", Object),
    ("s3:RestoreObject", Object),
    ("s3:UpdateBucketMetadataInventoryTableConfiguration", Bucket),
    ("s3:UpdateBucketMetadataJournalTableConfiguration", Bucket),
    ("s3:UpdateObjectEncryption", Object),
];

/// Number of words of a set.
const WORDS: usize = ACTIONS.len().div_ceil(64);

/// An action, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionId(usize);

impl ActionId {
    /// Returns the action of a name, e.g. `s3:GetObject`.
    pub fn find(name: &str) -> Option<Self> {
        ACTIONS.binary_search_by_key(&name, |(own, _)| own).ok().map(Self)
    }

    /// Returns whether the action is about an object.
    pub fn is_about_object(self) -> bool {
        ACTIONS[self.0].1 == Object
    }
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ActionSet([u64; WORDS]);

impl ActionSet {
    /// Returns the actions that a pattern such as `s3:Get*` names, in any case.
    pub(super) fn matching(pattern: &str) -> Self {
        let lower = pattern.to_ascii_lowercase();
        let pattern = Pattern::new(&tokens(&lower).collect::<Vec<_>>());
        let mut set = Self::default();
        for (at, (name, _)) in ACTIONS.iter().enumerate() {
            if pattern.matches(&name.to_ascii_lowercase()) {
                set.0[at / 64] |= 1 << (at % 64);
            }
        }
        set
    }

    #[must_use]
    pub(super) fn or(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own |= other);
        self
    }

    #[must_use]
    pub(super) fn not(mut self) -> Self {
        self.0.iter_mut().for_each(|word| *word = !*word);
        self
    }

    pub(super) fn has(self, action: ActionId) -> bool {
        self.0[action.0 / 64] >> (action.0 % 64) & 1 == 1
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns whether any of them is about this.
    pub(super) fn has_kind(self, kind: Kind) -> bool {
        let of_kind =
            |(at, (_, own)): (usize, &(&str, Kind))| *own == kind && self.has(ActionId(at));
        ACTIONS.iter().enumerate().any(of_kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_actions() {
        assert!(ACTIONS.is_sorted_by_key(|(name, _)| name));
        let has = |pattern: &str, name: &str| {
            ActionSet::matching(pattern).has(ActionId::find(name).unwrap())
        };
        assert!(has("s3:*", "s3:GetObject") && has("*", "s3:ListBucket"));
        assert!(has("S3:getobject", "s3:GetObject") && !has("s3:GetObject", "s3:GetObjectAcl"));
        assert!(has("s3:Get*", "s3:GetBucketAcl") && !has("s3:Get*", "s3:PutObject"));
        assert!(has("s3:?etObject", "s3:GetObject"));
        assert!(
            ActionSet::matching("s3:Fly").is_empty() && ActionSet::matching("iam:*").is_empty()
        );
        assert!(ActionSet::matching("s3:List*").has_kind(Bucket));
        assert!(!ActionSet::matching("s3:ListBucket").has_kind(Object));
        assert!(ActionId::find("s3:getobject").is_none());
    }
}
