//! Authorization: one function and one table decide who may do what.
//!
//! A bucket that exists but is not the caller's looks exactly like one that does not exist, unless its
//! owner made something in it public. The scopes of a credential are checked without regard to whether the
//! bucket exists.

use fula_core::OwnerId;
pub use fula_identity::{Grant, Identity, Scope, Target, Verb};

pub use super::action::Action;
use super::policy::PublicRead;
use crate::error::ServiceError;

/// The facts about an existing bucket that authorization needs.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// Owner of the bucket.
    pub owner: OwnerId,
    /// The public part of the bucket.
    pub public: &'a PublicRead,
}

/// Decides whether `identity` (`None` is anonymous) may do `action` to `target`, which lies in the bucket
/// `holder` (`None` where there is no bucket).
///
/// # Errors
/// [`ServiceError::AccessDenied`]; [`ServiceError::NoSuchBucket`] for a bucket that does not exist, or that
/// is another owner's and has nothing public.
pub fn authorize(
    identity: Option<&Identity>,
    action: Action,
    target: Target<'_>,
    holder: Option<Holder<'_>>,
) -> Result<(), ServiceError> {
    let granted = identity.is_some_and(|who| who.grant.allows(action.verb(), target));
    let is_owner = |holder: &Holder<'_>| identity.is_some_and(|who| who.owner == holder.owner);
    match holder {
        Some(holder) if is_owner(&holder) && granted => Ok(()),
        Some(holder) if holder.public.allows(action, target) => Ok(()),
        // A caller who can read some of the bucket knows that it exists.
        Some(holder) if is_owner(&holder) || !holder.public.is_nothing() => {
            Err(ServiceError::AccessDenied)
        }
        _ if granted => Err(ServiceError::NoSuchBucket),
        _ => Err(ServiceError::AccessDenied),
    }
}

#[cfg(test)]
mod tests {
    use fula_core::BucketName;

    use super::*;

    const BUCKET: &str = "bucket";

    fn scoped(user: &str, scopes: &[&str]) -> Identity {
        Identity::restricted(user, Grant::parse(Some(scopes)).unwrap())
    }

    /// Returns a typical target of an action.
    fn target(action: Action, key: &'static str) -> Target<'static> {
        match action {
            Action::HeadBucket => Target::Anything(BUCKET),
            Action::ListObjects | Action::ListVersions => Target::Prefix(BUCKET, key),
            Action::GetObject
            | Action::PutObject
            | Action::DeleteObject
            | Action::ListUploads
            | Action::GetProperties
            | Action::PutProperties => Target::Object(BUCKET, key),
            Action::CreateBucket
            | Action::DeleteBucket
            | Action::GetPolicy
            | Action::PutPolicy
            | Action::GetSettings
            | Action::PutSettings
            | Action::ExportBucket => Target::Bucket(BUCKET),
        }
    }

    /// Returns one letter for each action, in the order of [`Action::ALL`]: allowed, denied, or no bucket.
    fn row(who: Option<&Identity>, key: &'static str, holder: Option<Holder<'_>>) -> String {
        let decide = |action| match authorize(who, action, target(action, key), holder) {
            Ok(()) => 'a',
            Err(ServiceError::AccessDenied) => 'd',
            Err(ServiceError::NoSuchBucket) => 'n',
            Err(other) => panic!("{other}"),
        };
        Action::ALL.into_iter().map(decide).collect()
    }

    #[test]
    fn the_table() {
        let owner = Identity::of_user("key:owner");
        let stranger = Identity::of_user("key:stranger");
        let reader = scoped("key:owner", &["read:bucket/in/"]);
        let writer = scoped("key:owner", &["write:bucket"]);
        let admin = scoped("key:owner", &["admin:bucket"]);
        let elsewhere = scoped("key:owner", &["admin:other"]);
        let scoped_stranger = scoped("key:stranger", &["read:other"]);
        let nothing = PublicRead::default();
        let policy = r#"{"Version": "2012-10-17", "Statement": {"Effect": "Allow",
            "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/in/*"}}"#;
        let some = PublicRead::parse(policy, &BucketName::parse(BUCKET).unwrap()).unwrap();
        let private = Some(Holder { owner: owner.owner, public: &nothing });
        let public = Some(Holder { owner: owner.owner, public: &some });
        // The columns: head list get put delete uploads create delete policy policy; settings settings
        // properties properties versions export
        let table = [
            ("owner", Some(&owner), "in/k", private, "aaaaaaaaaaaaaaaa"),
            ("reader in", Some(&reader), "in/k", private, "aaadddddddddadad"),
            ("reader out", Some(&reader), "out/k", private, "addddddddddddddd"),
            ("writer", Some(&writer), "in/k", private, "addaaadddddddadd"),
            ("admin", Some(&admin), "in/k", private, "aaaaaaaaaaaaaaaa"),
            ("elsewhere", Some(&elsewhere), "in/k", private, "dddddddddddddddd"),
            ("stranger", Some(&stranger), "in/k", private, "nnnnnnnnnnnnnnnn"),
            ("scoped stranger", Some(&scoped_stranger), "in/k", private, "dddddddddddddddd"),
            ("anonymous", None, "in/k", private, "dddddddddddddddd"),
            // A bucket that does not exist is answered like one of another owner.
            ("stranger, absent", Some(&stranger), "in/k", None, "nnnnnnnnnnnnnnnn"),
            ("scoped stranger, absent", Some(&scoped_stranger), "in/k", None, "dddddddddddddddd"),
            ("elsewhere, absent", Some(&elsewhere), "in/k", None, "dddddddddddddddd"),
            ("anonymous, absent", None, "in/k", None, "dddddddddddddddd"),
            // Only the objects below `in/` were made public.
            ("owner, public", Some(&owner), "in/k", public, "aaaaaaaaaaaaaaaa"),
            ("stranger, public", Some(&stranger), "in/k", public, "ddaddddddddddddd"),
            ("stranger, not public", Some(&stranger), "out/k", public, "dddddddddddddddd"),
            ("anonymous, public", None, "in/k", public, "ddaddddddddddddd"),
            ("anonymous, not public", None, "out/k", public, "dddddddddddddddd"),
            ("elsewhere, public", Some(&elsewhere), "in/k", public, "ddaddddddddddddd"),
        ];
        for (name, who, key, holder, expected) in table {
            assert_eq!(row(who, key, holder), expected, "{name}");
        }
    }
}
