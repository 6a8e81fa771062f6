//! Access control lists in headers, and the names of their parts on the wire.

use fula_service::acl::{AclGrant, AclRequest, Canned, GRANTS_MAX, Grantee, Ownership, Permission};
use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::error::with_argument;

/// The headers that grant something, with what they grant.
const GRANTS: [(&str, Permission); 5] = [
    ("x-amz-grant-full-control", Permission::FullControl),
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
];

/// The names of permissions.
const PERMISSIONS: [(&str, Permission); 5] = [
    ("FULL_CONTROL", Permission::FullControl),
    ("READ", Permission::Read),
    ("READ_ACP", Permission::ReadAcp),
    ("WRITE", Permission::Write),
    ("WRITE_ACP", Permission::WriteAcp),
];

/// The names of groups.
const GROUPS: [(&str, Grantee); 3] = [
    ("http://acs.amazonaws.com/groups/global/AllUsers", Grantee::Everyone),
    ("http://acs.amazonaws.com/groups/global/AuthenticatedUsers", Grantee::Authenticated),
    ("http://acs.amazonaws.com/groups/s3/LogDelivery", Grantee::LogDelivery),
];

/// Returns the name of a permission.
pub(super) fn permission_name(permission: Permission) -> &'static str {
    PERMISSIONS.iter().find(|(_, own)| *own == permission).map_or("FULL_CONTROL", |(name, _)| name)
}

/// Returns the permission of a name.
pub(super) fn permission_of(name: &str) -> Option<Permission> {
    PERMISSIONS.iter().find(|(own, _)| *own == name).map(|(_, permission)| *permission)
}

/// Returns the URI of a group; `None` for a user.
pub(super) fn group_uri(grantee: Grantee) -> Option<&'static str> {
    GROUPS.iter().find(|(_, own)| *own == grantee).map(|(uri, _)| *uri)
}

/// Returns the group of a URI.
///
/// # Errors
/// 400 `InvalidArgument` for a group that AWS does not have.
pub(super) fn group_of(uri: &str) -> S3Result<Grantee> {
    let found = GROUPS.iter().find(|(own, _)| *own == uri).map(|(_, group)| *group);
    found.ok_or_else(|| named_badly("Invalid group uri", "uri", uri))
}

/// Returns the user of a canonical id. Whether there is such a user is not checked: a wallet exists before it was
/// ever used.
///
/// # Errors
/// 400 `InvalidArgument` for anything that is no canonical id.
pub(super) fn user_of(id: &str) -> S3Result<Grantee> {
    id.parse().map(Grantee::Owner).map_err(|_| named_badly("Invalid id", "CanonicalUser/ID", id))
}

/// Returns the error for an address: users have none here.
pub(super) fn no_addresses() -> S3Error {
    let text = "The email address you provided does not match any account on record.";
    S3Error::with_message(S3ErrorCode::UnresolvableGrantByEmailAddress, text)
}

/// Refuses a list that is too long.
pub(super) fn check_length(grants: &[AclGrant]) -> S3Result<()> {
    if grants.len() <= GRANTS_MAX {
        return Ok(());
    }
    Err(s3_error!(InvalidRequest, "An ACL has at most {GRANTS_MAX} grants"))
}

fn named_badly(text: &'static str, name: &str, value: &str) -> S3Error {
    let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""));
    with_argument(S3Error::with_message(S3ErrorCode::InvalidArgument, text), name, &value)
}

/// Returns the access control list that the headers of a request ask for.
///
/// # Errors
/// 400 for a list that is malformed.
pub(super) fn in_headers(headers: &HeaderMap) -> S3Result<Option<AclRequest>> {
    let canned = headers.get("x-amz-acl").map(|value| {
        let found = value.to_str().ok().and_then(Canned::parse);
        found.ok_or_else(|| with_argument(s3_error!(InvalidArgument), "x-amz-acl", value))
    });
    let canned = canned.transpose()?;
    let (mut grants, mut has_grants) = (Vec::new(), false);
    for (name, permission) in GRANTS {
        for value in headers.get_all(name) {
            has_grants = true;
            read_grants(value, permission, &mut grants)?;
        }
    }
    check_length(&grants)?;
    match canned {
        Some(_) if has_grants => {
            let text = "Specifying both Canned ACLs and Header Grants is not allowed";
            Err(s3_error!(InvalidRequest, "{text}"))
        }
        Some(canned) => Ok(Some(AclRequest::Canned(canned))),
        None => Ok(has_grants.then_some(AclRequest::Grants { owner: None, grants })),
    }
}

/// Reads the grantees of a header: `id="…", uri="…"`.
fn read_grants(
    value: &HeaderValue,
    permission: Permission,
    grants: &mut Vec<AclGrant>,
) -> S3Result<()> {
    let malformed = || s3_error!(InvalidArgument, "Argument format not recognized");
    for grantee in value.to_str().map_err(|_| malformed())?.split(',') {
        let (kind, name) = grantee.trim().split_once('=').ok_or_else(malformed)?;
        let name = name.trim_matches('"');
        let grantee = match kind.to_ascii_lowercase().as_str() {
            "id" => user_of(name)?,
            "uri" => group_of(name)?,
            "emailaddress" => return Err(no_addresses()),
            _ => return Err(malformed()),
        };
        grants.push(AclGrant { grantee, permission });
    }
    Ok(())
}

/// Returns the object ownership that the headers of a request for a new bucket name.
///
/// # Errors
/// 400 `InvalidArgument` for one that AWS does not have.
pub(super) fn ownership_in(headers: &HeaderMap) -> S3Result<Ownership> {
    let name = "x-amz-object-ownership";
    let Some(value) = headers.get(name) else { return Ok(Ownership::default()) };
    let found = value.to_str().ok().and_then(Ownership::parse);
    found.ok_or_else(|| with_argument(s3_error!(InvalidArgument), name, value))
}

#[cfg(test)]
mod tests {
    use fula_core::OwnerId;
    use http::HeaderName;

    use super::*;

    const OWNER: OwnerId = OwnerId([7; 16]);

    fn read(headers: &[(&str, &str)]) -> S3Result<Option<AclRequest>> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        in_headers(&map)
    }

    #[test]
    fn lists_are_read_in_every_form() {
        let id = format!("id=\"{OWNER}\"");
        let both = format!("{id}, uri=\"{}\"", GROUPS[0].0);
        let grant = |grantee, permission| AclGrant { grantee, permission };
        let grants =
            |grants: &[AclGrant]| AclRequest::Grants { owner: None, grants: grants.to_vec() };
        let owner = Grantee::Owner(OWNER);
        assert_eq!(read(&[]).unwrap(), None);
        for (name, _) in [("private", 0), ("public-read", 1), ("log-delivery-write", 2)] {
            let canned = Canned::parse(name).unwrap();
            assert_eq!(read(&[("x-amz-acl", name)]).unwrap(), Some(AclRequest::Canned(canned)));
        }
        for (name, permission) in GRANTS {
            let expected = grants(&[grant(owner, permission)]);
            assert_eq!(read(&[(name, &id)]).unwrap(), Some(expected), "{name}");
        }
        let expected = [grant(owner, Permission::Read), grant(Grantee::Everyone, Permission::Read)];
        assert_eq!(read(&[("x-amz-grant-read", &both)]).unwrap(), Some(grants(&expected)));
    }

    #[test]
    fn malformed_lists_are_refused() {
        let code = |headers| match read(headers) {
            Ok(found) => panic!("{found:?}"),
            Err(error) => error.code().as_str().to_owned(),
        };
        let many = vec![format!("id={OWNER}"); GRANTS_MAX + 1].join(",");
        for (headers, expected) in [
            (&[("x-amz-acl", "mine")][..], "InvalidArgument"),
            (&[("x-amz-grant-write", "everybody")], "InvalidArgument"),
            (&[("x-amz-grant-write", "name=x")], "InvalidArgument"),
            (&[("x-amz-grant-read", "id=\"other\"")], "InvalidArgument"),
            (&[("x-amz-grant-read", "uri=\"http://elsewhere/\"")], "InvalidArgument"),
            (&[("x-amz-grant-read", "emailaddress=a@b")], "UnresolvableGrantByEmailAddress"),
            (&[("x-amz-grant-read", &many)], "InvalidRequest"),
            (&[("x-amz-acl", "private"), ("x-amz-grant-read", &many[..35])], "InvalidRequest"),
        ] {
            assert_eq!(code(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn names_come_back() {
        for (name, permission) in PERMISSIONS {
            assert_eq!(permission_name(permission), name);
            assert_eq!(permission_of(name), Some(permission));
        }
        for (uri, group) in GROUPS {
            assert_eq!((group_uri(group), group_of(uri).unwrap()), (Some(uri), group));
        }
        assert_eq!(group_uri(Grantee::Owner(OWNER)), None);
    }
}
