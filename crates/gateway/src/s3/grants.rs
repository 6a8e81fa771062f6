//! ACLs in headers.

use fula_core::OwnerId;
use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};

use crate::{
    auth::identity,
    error::{not_implemented, with_argument},
};

/// The canned ACLs of AWS.
const CANNED: [&str; 8] = [
    "private",
    "bucket-owner-full-control",
    "bucket-owner-read",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "log-delivery-write",
];

/// The number of canned ACLs, from the first, that let nobody in but the owner.
const OWNER_ONLY: usize = 3;

const GRANTS: [&str; 5] = [
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
];

pub(super) fn not_supported() -> S3Error {
    s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs")
}

/// Returns whether the headers of a request contain an ACL, which lets only `owner` in.
///
/// # Errors
/// 400 for any other ACL.
pub(super) fn check_headers(headers: &HeaderMap, owner: Option<OwnerId>) -> S3Result<bool> {
    let canned = headers.get("x-amz-acl");
    if let Some(value) = canned {
        match CANNED.iter().position(|name| value.as_bytes() == name.as_bytes()) {
            Some(index) if index < OWNER_ONLY => {}
            Some(_) => return Err(not_supported()),
            None => return Err(with_argument(s3_error!(InvalidArgument), "x-amz-acl", value)),
        }
    }
    let mut has_grants = false;
    for value in GRANTS.iter().filter_map(|name| headers.get(*name)) {
        has_grants = true;
        check_grants(value, owner)?;
    }
    if canned.is_some() && has_grants {
        let text = "Specifying both Canned ACLs and Header Grants is not allowed";
        return Err(s3_error!(InvalidRequest, "{text}"));
    }
    Ok(canned.is_some() || has_grants)
}

/// Checks that every grantee of a header (`id="…", id="…"`) is `owner`.
fn check_grants(value: &HeaderValue, owner: Option<OwnerId>) -> S3Result<()> {
    let malformed = || s3_error!(InvalidArgument, "Argument format not recognized");
    for grantee in value.to_str().map_err(|_| malformed())?.split(',') {
        let (kind, name) = grantee.trim().split_once('=').ok_or_else(malformed)?;
        let name = name.trim_matches('"');
        match kind.to_ascii_lowercase().as_str() {
            "id" if owner.is_some_and(|owner| name == owner.to_string()) => {}
            "id" | "uri" | "emailaddress" => return Err(not_supported()),
            _ => return Err(malformed()),
        }
    }
    Ok(())
}

/// Refuses an ACL in the headers of a write, unless it lets only the caller in. Only owners write.
pub(super) fn check_write<T>(request: &S3Request<T>) -> S3Result<()> {
    let owner = identity(&request.extensions).map(|identity| identity.owner);
    check_headers(&request.headers, owner).map(drop)
}

/// Refuses an ACL or an object ownership for a new bucket that would let others in.
pub(super) fn check_new_bucket<T>(request: &S3Request<T>) -> S3Result<()> {
    if let Some(value) = request.headers.get("x-amz-object-ownership") {
        let named = "x-amz-object-ownership";
        match value.as_bytes() {
            b"BucketOwnerEnforced" => {}
            b"BucketOwnerPreferred" | b"ObjectWriter" => {
                return Err(not_implemented("Object ownership other than BucketOwnerEnforced"));
            }
            _ => return Err(with_argument(s3_error!(InvalidArgument), named, value)),
        }
    }
    check_write(request).map_err(|error| match error.code() {
        S3ErrorCode::AccessControlListNotSupported => s3_error!(
            InvalidBucketAclWithObjectOwnership,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
        ),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: OwnerId = OwnerId([7; 16]);

    fn code(headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        match check_headers(&map, Some(OWNER)) {
            Ok(given) => given.to_string(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn an_acl_in_headers_lets_nobody_in_but_the_owner() {
        let own = format!("id=\"{OWNER}\"");
        let twice = format!("id={OWNER}, {own}");
        for (headers, expected) in [
            ([].as_slice(), "false"),
            (&[("x-amz-acl", "private")], "true"),
            (&[("x-amz-acl", "bucket-owner-full-control")], "true"),
            (&[("x-amz-grant-full-control", &own)], "true"),
            (&[("x-amz-grant-read", &twice)], "true"),
            (&[("x-amz-acl", "public-read")], "AccessControlListNotSupported"),
            (&[("x-amz-acl", "Private")], "InvalidArgument"),
            (&[("x-amz-acl", "private"), ("x-amz-grant-read", &own)], "InvalidRequest"),
            (&[("x-amz-grant-read", "id=\"other\"")], "AccessControlListNotSupported"),
            (
                &[("x-amz-grant-read", "uri=\"http://acs.amazonaws.com/groups/global/AllUsers\"")],
                "AccessControlListNotSupported",
            ),
            (&[("x-amz-grant-write", "everybody")], "InvalidArgument"),
            (&[("x-amz-grant-write", "name=x")], "InvalidArgument"),
        ] {
            assert_eq!(code(headers), expected, "{headers:?}");
        }
    }
}
