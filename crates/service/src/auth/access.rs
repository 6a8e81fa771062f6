//! Authorization: one function and one table decide who may do what.
//!
//! A bucket that exists but is not the caller's looks exactly like one that does not exist, unless its
//! policy allows the caller something in it. The scopes of a credential are checked without regard to whether
//! the bucket exists. What a policy forbids is forbidden to its owner, too, but for the policy itself
//! (docs/adr/0046).

use fula_core::OwnerId;
pub use fula_identity::{Grant, Identity, Scope, Target, Verb};

pub use super::action::{Action, Property, Setting, Which};
use super::{
    acl::{self, Acl, AclAsked},
    bucket_policy::BucketAccess,
    policy::{Asked, Decision, Values},
};
use crate::error::ServiceError;

/// The facts about an existing bucket that authorization needs.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// Owner of the bucket.
    pub owner: OwnerId,
    /// What others may do, and what nobody may.
    pub access: &'a BucketAccess,
    /// Access control list of the object that the request is about, where lists count and there is one.
    pub object: Option<&'a Acl>,
}

/// Decides whether `identity` (`None` is anonymous) may do `action` to `target`, which lies in the bucket
/// `holder` (`None` where there is no bucket). `values` has what conditions ask of the request.
///
/// For an action on objects, the target [`Target::Anything`] stands for a request that names many. It asks
/// whether the caller may know of the bucket; each object is decided about by itself.
///
/// # Errors
/// [`ServiceError::AccessDenied`]; [`ServiceError::NoSuchBucket`] for a bucket that does not exist, or that
/// is another owner's and allows the caller nothing.
pub fn authorize(
    identity: Option<&Identity>,
    action: Action,
    target: Target<'_>,
    holder: Option<Holder<'_>>,
    values: &dyn Values,
) -> Result<(), ServiceError> {
    let granted = identity.is_some_and(|who| who.grant.allows(action.verb(), target));
    let hidden = if granted { ServiceError::NoSuchBucket } else { ServiceError::AccessDenied };
    let Some(Holder { owner, access, object }) = holder else { return Err(hidden) };
    let who = identity.map(|who| who.owner);
    let is_owner = who == Some(owner);
    let is_own = is_owner && granted;
    let refused =
        if is_owner || access.mentions(who) { ServiceError::AccessDenied } else { hidden };
    // No policy takes its owner the right to change it, and none gives it to others, as on AWS.
    if action.is_about_policy() {
        return if is_own { Ok(()) } else { Err(refused) };
    }
    let decision = match target {
        Target::Account => return Err(refused),
        Target::Anything(_) if action.id().is_about_object() => {
            return if is_own || access.mentions(who) { Ok(()) } else { Err(refused) };
        }
        // Most buckets have no policy.
        _ if !access.has_policy() => Decision::Unsaid,
        target => {
            let resource = resource_of(action, target);
            let decide = |action: Action| {
                let (action, resource) = (action.id(), resource.as_str());
                let asked = Asked { who, as_named: granted, action, resource };
                access.decide(&asked, is_owner, values)
            };
            match decide(action) {
                // Who may list a bucket may know where it is.
                Decision::Unsaid
                    if action == Action::GetLocation
                        && decide(Action::ListObjects) == Decision::Allowed =>
                {
                    Decision::Allowed
                }
                decision => decision,
            }
        }
    };
    let asked = AclAsked { who, granted, action, holder: owner, object };
    // The policy of a bucket lets nobody read an object of another owner, as on AWS.
    let is_foreign = acl::is_up_to_owner(action) && object.is_some_and(|acl| acl.owner != owner);
    let is_allowed = match decision {
        Decision::Denied => false,
        Decision::Allowed if !is_foreign => true,
        Decision::Allowed | Decision::Unsaid => access.acl_allows(&asked).unwrap_or(is_own),
    };
    if is_allowed { Ok(()) } else { Err(refused) }
}

/// Returns what policies call the target of an action.
fn resource_of(action: Action, target: Target<'_>) -> String {
    match target {
        Target::Object(bucket, key) if action.id().is_about_object() => format!("{bucket}/{key}"),
        Target::Bucket(bucket)
        | Target::Anything(bucket)
        | Target::Prefix(bucket, _)
        | Target::Object(bucket, _) => bucket.to_owned(),
        Target::Account => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::acl::Ownership, *};

    const BUCKET: &str = "bucket";

    fn scoped(user: &str, scopes: &[&str]) -> Identity {
        Identity::restricted(user, Grant::parse(Some(scopes)).unwrap())
    }

    /// The actions of the table: head list get version put delete uploads create delete-bucket policy
    /// put-policy setting put-setting property put-property versions export.
    const ACTIONS: [Action; 17] = [
        Action::HeadBucket,
        Action::ListObjects,
        Action::GetObject,
        Action::GetVersion,
        Action::PutObject,
        Action::DeleteObject,
        Action::ListParts,
        Action::CreateBucket,
        Action::DeleteBucket,
        Action::GetPolicy,
        Action::PutPolicy,
        Action::GetSetting(Setting::Tagging),
        Action::PutSetting(Setting::Tagging),
        Action::GetProperty(Property::Tags, Which::Current),
        Action::PutProperty(Property::Tags, Which::Current),
        Action::ListVersions,
        Action::ExportBucket,
    ];

    /// Returns a typical target of an action.
    fn target(action: Action, key: &'static str) -> Target<'static> {
        match action {
            Action::HeadBucket => Target::Anything(BUCKET),
            Action::ListObjects | Action::ListVersions => Target::Prefix(BUCKET, key),
            action if action.id().is_about_object() => Target::Object(BUCKET, key),
            _ => Target::Bucket(BUCKET),
        }
    }

    fn decide(
        who: Option<&Identity>,
        action: Action,
        target: Target<'_>,
        holder: Option<Holder<'_>>,
    ) -> char {
        let none = |_: &str| None;
        match authorize(who, action, target, holder, &none) {
            Ok(()) => 'a',
            Err(ServiceError::AccessDenied) => 'd',
            Err(ServiceError::NoSuchBucket) => 'n',
            Err(other) => panic!("{other}"),
        }
    }

    /// Returns one letter for each of [`ACTIONS`]: allowed, denied, or no bucket.
    fn row(who: Option<&Identity>, key: &'static str, holder: Option<Holder<'_>>) -> String {
        ACTIONS.into_iter().map(|action| decide(who, action, target(action, key), holder)).collect()
    }

    fn access(statements: &str) -> BucketAccess {
        BucketAccess::of_policy(&format!(
            r#"{{"Version": "2012-10-17", "Statement": [{statements}]}}"#
        ))
    }

    #[test]
    fn the_table() {
        let owner = Identity::of_user("key:owner");
        let stranger = Identity::of_user("key:stranger");
        let friend = Identity::of_user("key:friend");
        let reader = scoped("key:owner", &["read:bucket/in/"]);
        let writer = scoped("key:owner", &["write:bucket"]);
        let admin = scoped("key:owner", &["admin:bucket"]);
        let elsewhere = scoped("key:owner", &["admin:other"]);
        let scoped_stranger = scoped("key:stranger", &["read:other"]);
        let reading_friend = scoped("key:friend", &["read:*"]);
        let nothing = BucketAccess::default();
        let all =
            access(r#"{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}"#);
        let some = access(
            r#"{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                "Resource": "arn:aws:s3:::bucket/in/*"}"#,
        );
        let shared = access(&format!(
            r#"{{"Effect": "Allow", "Principal": {{"AWS": "{}"}}, "Action": "s3:*",
                "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/in/*"]}}"#,
            friend.owner
        ));
        let closed =
            access(r#"{"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"}"#);
        let held = |access| Some(Holder { owner: owner.owner, access, object: None });
        let (private, public) = (held(&nothing), held(&some));
        let (shared, closed, all) = (held(&shared), held(&closed), held(&all));
        let table = [
            ("owner", Some(&owner), "in/k", private, "aaaaaaaaaaaaaaaaa"),
            ("reader in", Some(&reader), "in/k", private, "aaaadddddddddadad"),
            ("reader out", Some(&reader), "out/k", private, "adddddddddddddddd"),
            ("writer", Some(&writer), "in/k", private, "adddaaadddddddadd"),
            ("admin", Some(&admin), "in/k", private, "aaaaaaaaaaaaaaaaa"),
            ("elsewhere", Some(&elsewhere), "in/k", private, "ddddddddddddddddd"),
            ("stranger", Some(&stranger), "in/k", private, "nnnnnnnnnnnnnnnnn"),
            ("scoped stranger", Some(&scoped_stranger), "in/k", private, "ddddddddddddddddd"),
            ("anonymous", None, "in/k", private, "ddddddddddddddddd"),
            // A bucket that does not exist is answered like one of another owner.
            ("stranger, absent", Some(&stranger), "in/k", None, "nnnnnnnnnnnnnnnnn"),
            ("scoped stranger, absent", Some(&scoped_stranger), "in/k", None, "ddddddddddddddddd"),
            ("elsewhere, absent", Some(&elsewhere), "in/k", None, "ddddddddddddddddd"),
            ("anonymous, absent", None, "in/k", None, "ddddddddddddddddd"),
            // Only the objects below `in/` were made public.
            ("owner, public", Some(&owner), "in/k", public, "aaaaaaaaaaaaaaaaa"),
            ("stranger, public", Some(&stranger), "in/k", public, "ddadddddddddddddd"),
            ("stranger, not public", Some(&stranger), "out/k", public, "ddddddddddddddddd"),
            ("anonymous, public", None, "in/k", public, "ddadddddddddddddd"),
            ("anonymous, not public", None, "out/k", public, "ddddddddddddddddd"),
            ("elsewhere, public", Some(&elsewhere), "in/k", public, "ddadddddddddddddd"),
            // A friend is named, and may do everything to the bucket and below `in/`, but for the policy.
            ("friend", Some(&friend), "in/k", shared, "aaaaaaaaaddaaaaad"),
            ("friend, out", Some(&friend), "out/k", shared, "aadddddaaddaaddad"),
            ("reading friend", Some(&reading_friend), "in/k", shared, "aaaadddddddadadad"),
            ("stranger, shared", Some(&stranger), "in/k", shared, "nnnnnnnnnnnnnnnnn"),
            ("anonymous, shared", None, "in/k", shared, "ddddddddddddddddd"),
            // Not even a token of the owner changes the policy, unless its scopes let it.
            ("reader, all public", Some(&reader), "in/k", all, "aaaaaaaaaddaaaaad"),
            ("anonymous, all public", None, "in/k", all, "aaaaaaaaaddaaaaad"),
            // What is forbidden to everyone is forbidden to the owner, but for the policy.
            ("owner, closed", Some(&owner), "in/k", closed, "dddddddddaaddddda"),
            ("reader, closed", Some(&reader), "in/k", closed, "ddddddddddddddddd"),
            ("stranger, closed", Some(&stranger), "in/k", closed, "nnnnnnnnnnnnnnnnn"),
        ];
        for (name, who, key, holder, expected) in table {
            assert_eq!(row(who, key, holder), expected, "{name}");
        }
    }

    #[test]
    fn the_location_follows_the_listing() {
        let owner = Identity::of_user("key:owner");
        let allow = |action: &str| {
            access(&format!(
                r#"{{"Effect": "Allow", "Principal": "*", "Action": "{action}",
                    "Resource": "arn:aws:s3:::bucket"}}"#
            ))
        };
        for (action, head, location) in [
            ("s3:ListBucket", 'a', 'a'),
            ("s3:GetBucketLocation", 'd', 'a'),
            ("s3:GetBucketTagging", 'd', 'd'),
        ] {
            let access = allow(action);
            let holder = Some(Holder { owner: owner.owner, access: &access, object: None });
            let target = Target::Anything(BUCKET);
            assert_eq!(decide(None, Action::HeadBucket, target, holder), head, "{action}");
            assert_eq!(decide(None, Action::GetLocation, target, holder), location, "{action}");
        }
    }

    #[test]
    fn a_list_lets_in_beside_a_policy_and_a_denial_wins() {
        let [owner, friend, stranger] =
            ["key:owner", "key:friend", "key:stranger"].map(Identity::of_user);
        let statement = |effect: &str| {
            access(&format!(
                r#"{{"Effect": "{effect}", "Principal": "*", "Action": "s3:*",
                    "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]}}"#
            ))
        };
        let listed = |access: BucketAccess| access.with_acls(Ownership::Writer, None);
        let (alone, open, shut) = (
            listed(BucketAccess::default()),
            listed(statement("Allow")),
            listed(statement("Deny")),
        );
        let theirs = Acl::private(friend.owner);
        // Reads by CID ask nobody for the owner of an object.
        assert!(statement("Allow").opens_always("bucket/k") && !open.opens_always("bucket/k"));
        let (object, bucket) = (Target::Object(BUCKET, "k"), Target::Anything(BUCKET));
        let ask = |who, action, target, access| {
            let holder = Holder { owner: owner.owner, access, object: Some(&theirs) };
            decide(who, action, target, Some(holder))
        };
        // The columns: lists alone, with a policy that allows everything, with one that denies it.
        for (name, who, action, target, expected) in [
            ("friend", Some(&friend), Action::GetObject, object, "aad"),
            ("owner", Some(&owner), Action::GetObject, object, "ddd"),
            ("owner", Some(&owner), Action::DeleteObject, object, "aad"),
            ("stranger", Some(&stranger), Action::GetObject, object, "ddd"),
            ("stranger", Some(&stranger), Action::DeleteObject, object, "dad"),
            ("stranger", Some(&stranger), Action::PutObject, object, "dad"),
            // Others learn that the bucket exists, as on AWS.
            ("stranger", Some(&stranger), Action::HeadBucket, bucket, "dad"),
            ("stranger", Some(&stranger), Action::DeleteObject, bucket, "aaa"),
            ("anonymous", None, Action::GetObject, object, "ddd"),
            ("owner", Some(&owner), Action::PutPolicy, Target::Bucket(BUCKET), "aaa"),
            ("friend", Some(&friend), Action::PutPolicy, Target::Bucket(BUCKET), "ddd"),
        ] {
            let found: String = [&alone, &open, &shut]
                .map(|access| ask(who, action, target, access))
                .iter()
                .collect();
            assert_eq!(found, expected, "{name} {action:?}");
        }
    }

    #[test]
    fn a_request_for_many_objects_may_know_of_the_bucket() {
        let [owner, friend, stranger] =
            ["key:owner", "key:friend", "key:stranger"].map(Identity::of_user);
        let shared = access(&format!(
            r#"{{"Effect": "Allow", "Principal": {{"CanonicalUser": "{}"}}, "Action": "s3:DeleteObject",
                "Resource": "arn:aws:s3:::bucket/in/*"}}"#,
            friend.owner
        ));
        let holder = Some(Holder { owner: owner.owner, access: &shared, object: None });
        let ask = |who| decide(who, Action::DeleteObject, Target::Anything(BUCKET), holder);
        assert_eq!(ask(Some(&owner)), 'a');
        assert_eq!(ask(Some(&friend)), 'a');
        assert_eq!(ask(Some(&stranger)), 'n');
        assert_eq!(ask(None), 'd');
    }
}
