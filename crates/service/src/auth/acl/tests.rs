//! Tests of access control lists.

use super::*;
use crate::auth::access::Which;

fn of(user: &str) -> OwnerId {
    OwnerId::of_user(user)
}

fn acls(ownership: Ownership, stored: Option<&Acl>, block: PublicAccessBlock) -> BucketAcls {
    BucketAcls { ownership, stored: stored.map(Acl::to_text), block }
}

fn grant(grantee: Grantee, permission: Permission) -> AclGrant {
    AclGrant { grantee, permission }
}

const ACTIONS: [Action; 10] = [
    Action::ListObjects,
    Action::PutObject,
    Action::GetSetting(Setting::Acl),
    Action::PutSetting(Setting::Acl),
    Action::GetObject,
    Action::GetProperty(Property::Acl, Which::Current),
    Action::PutProperty(Property::Acl, Which::Current),
    Action::DeleteObject,
    Action::GetProperty(Property::Tags, Which::Current),
    Action::DeleteBucket,
];

/// Returns one letter for each of [`ACTIONS`]: allowed or refused.
fn row(acls: &BucketAcls, who: Option<&str>, granted: bool, object: Option<&Acl>) -> String {
    let (holder, who) = (of("holder"), who.map(of));
    let ask = |action| acls.allows(&AclAsked { who, granted, action, holder, object });
    ACTIONS.map(|action| if ask(action) { 'a' } else { 'r' }).iter().collect()
}

#[test]
fn the_table() {
    let none = PublicAccessBlock::default();
    let ignoring = PublicAccessBlock { ignore_acls: true, ..none };
    let acl = |owner: &str, grants: &[AclGrant]| {
        let own = AclGrant::full(of(owner));
        Acl { owner: of(owner), grants: [&[own], grants].concat() }
    };
    let all = |permission| grant(Grantee::Everyone, permission);
    let named = |permission| grant(Grantee::Owner(of("friend")), permission);
    let private = acl("holder", &[]);
    let open = acl("holder", &[all(Permission::Read), all(Permission::Write)]);
    let members = acl("holder", &[grant(Grantee::Authenticated, Permission::Read)]);
    let shared = acl("holder", &[named(Permission::FullControl)]);
    let listed = acl("holder", &[named(Permission::ReadAcp), named(Permission::WriteAcp)]);
    let theirs = acl("friend", &[]);
    let given = acl("friend", &[grant(Grantee::Owner(of("holder")), Permission::FullControl)]);
    // Actions: list put get-acl put-acl | get get-acl put-acl delete tags | delete-bucket.
    let table = [
        ("holder", &private, none, Some("holder"), true, Some(&private), "aaaaaaaaaa"),
        // The holder deletes what another user put, and does not read it.
        ("holder, theirs", &private, none, Some("holder"), true, Some(&theirs), "aaaarrrara"),
        ("holder, given", &private, none, Some("holder"), true, Some(&given), "aaaaaaaara"),
        (
            "holder, out of scope",
            &private,
            none,
            Some("holder"),
            false,
            Some(&private),
            "rrrrrrrrrr",
        ),
        ("friend, private", &private, none, Some("friend"), true, Some(&private), "rrrrrrrrrr"),
        // An owner reads and shares an object, but needs the bucket to delete it.
        ("friend, theirs", &private, none, Some("friend"), true, Some(&theirs), "rrrraaarar"),
        ("friend, theirs, open", &open, none, Some("friend"), true, Some(&theirs), "aarraaaaar"),
        (
            "friend, theirs, no scope",
            &open,
            none,
            Some("friend"),
            false,
            Some(&theirs),
            "aarrrrrrrr",
        ),
        (
            "friend, bucket shared",
            &shared,
            none,
            Some("friend"),
            true,
            Some(&private),
            "aaaarrrrrr",
        ),
        (
            "friend, object shared",
            &private,
            none,
            Some("friend"),
            true,
            Some(&shared),
            "rrrraaarrr",
        ),
        ("friend, lists only", &listed, none, Some("friend"), true, Some(&listed), "rraaraarrr"),
        ("stranger, shared", &shared, none, Some("stranger"), true, Some(&shared), "rrrrrrrrrr"),
        ("stranger, open", &open, none, Some("stranger"), true, Some(&open), "aarrarrrrr"),
        ("stranger, members", &members, none, Some("stranger"), true, Some(&members), "arrrarrrrr"),
        (
            "no scope, members",
            &members,
            none,
            Some("stranger"),
            false,
            Some(&members),
            "rrrrrrrrrr",
        ),
        ("anonymous, members", &members, none, None, false, Some(&members), "rrrrrrrrrr"),
        ("anonymous, open", &open, none, None, false, Some(&open), "aarrarrrrr"),
        ("anonymous, ignored", &open, ignoring, None, false, Some(&open), "rrrrrrrrrr"),
        ("friend, ignored", &shared, ignoring, Some("friend"), true, Some(&shared), "aaaaaaarrr"),
        // Who may list may know that an object is absent.
        ("anonymous, open, absent", &open, none, None, false, None, "aarrarrrrr"),
        ("anonymous, absent", &private, none, None, false, None, "rrrrrrrrrr"),
        ("holder, absent", &private, none, Some("holder"), true, None, "aaaaaaaaaa"),
    ];
    for (name, bucket, block, who, granted, object, expected) in table {
        let acls = acls(Ownership::Writer, Some(bucket), block);
        assert_eq!(row(&acls, who, granted, object), expected, "{name}");
    }
}

#[test]
fn a_list_comes_back_and_anything_else_lets_nobody_in() {
    let owner = of("key:alice");
    for (_, permission) in PERMISSIONS {
        let groups = GROUPS.map(|(_, group)| grant(group, permission));
        let grants = [&groups[..], &[grant(Grantee::Owner(of("key:bob")), permission)]].concat();
        let acl = Acl { owner, grants };
        assert_eq!(Acl::of_text(Some(&acl.to_text()), of("holder")), acl);
    }
    let holder = of("holder");
    assert_eq!(Acl::of_text(None, holder), Acl::private(holder));
    // Older builds stored the name of a canned list, which let only the owner in.
    assert_eq!(Acl::of_text(Some("bucket-owner-read"), holder), Acl::private(holder));
    let text = Acl::private(holder).to_text();
    for bad in ["", "x", &format!("{text} "), &format!("{text} x:*"), &format!("{text} r:?")] {
        let nobody = Acl { owner: holder, grants: Vec::new() };
        assert_eq!(Acl::of_text(Some(bad), holder), nobody, "{bad:?}");
    }
}

#[test]
fn an_object_has_the_list_that_its_bucket_allows() {
    let (holder, writer) = (of("holder"), of("writer"));
    let canned = |canned| AclRequest::Canned(canned);
    let grants = |grants: &[AclGrant]| AclRequest::Grants { owner: None, grants: grants.to_vec() };
    let make = |acls: Option<&BucketAcls>, asked: Option<&AclRequest>| {
        object_acl(acls, holder, Some(writer), asked)
            .map(|text| Acl::of_text(text.as_deref(), holder))
    };
    let everyone = grants(&[grant(Grantee::Everyone, Permission::Read)]);
    // Lists do not count.
    for fine in [
        canned(Canned::Private),
        canned(Canned::BucketOwnerRead),
        grants(&[AclGrant::full(writer)]),
    ] {
        assert_eq!(make(None, Some(&fine)).unwrap(), Acl::private(holder));
    }
    for wrong in [canned(Canned::PublicRead), canned(Canned::AwsExecRead), everyone.clone()] {
        assert!(matches!(make(None, Some(&wrong)), Err(ServiceError::AclsNotSupported)));
    }
    // They count.
    let open = PublicAccessBlock::default();
    let own = acls(Ownership::Writer, None, open);
    let preferred = acls(Ownership::Preferred, None, open);
    assert_eq!(make(Some(&own), None).unwrap(), Acl::private(writer));
    assert_eq!(make(Some(&preferred), None).unwrap(), Acl::private(writer));
    let given = canned(Canned::BucketOwnerFullControl);
    assert_eq!(make(Some(&preferred), Some(&given)).unwrap(), Acl::private(holder));
    let both = Acl { owner: writer, grants: vec![AclGrant::full(writer), AclGrant::full(holder)] };
    assert_eq!(make(Some(&own), Some(&given)).unwrap(), both);
    assert_eq!(make(Some(&own), Some(&everyone)).unwrap().owner, writer);
    assert!(make(Some(&own), Some(&everyone)).unwrap().is_public());
    let blocked = acls(Ownership::Writer, None, PublicAccessBlock { block_acls: true, ..open });
    assert!(matches!(make(Some(&blocked), Some(&everyone)), Err(ServiceError::AccessDenied)));
    assert!(make(Some(&blocked), None).is_ok());
    let stolen = AclRequest::Grants { owner: Some(holder), grants: vec![AclGrant::full(writer)] };
    assert!(matches!(make(Some(&own), Some(&stolen)), Err(ServiceError::AccessDenied)));
    // What the holder puts needs no text.
    assert_eq!(object_acl(Some(&own), holder, Some(holder), None).unwrap(), None);
    assert_eq!(object_acl(Some(&own), holder, None, None).unwrap(), None);
}

#[test]
fn ownership_comes_back() {
    for own in [Ownership::Enforced, Ownership::Preferred, Ownership::Writer, Ownership::Removed] {
        assert_eq!(Ownership::of_text(own.to_text()), own);
    }
    assert_eq!(Ownership::parse("removed"), None);
}
