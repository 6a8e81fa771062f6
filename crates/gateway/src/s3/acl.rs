//! Access control lists. Every object belongs to the owner of its bucket, and no ACL lets anybody else in
//! (`BucketOwnerEnforced`, the default of AWS). An ACL that says the same is accepted.

use fula_core::OwnerId;
use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, object_key},
    settings::not_set,
    versions::version_of,
};
use crate::{
    auth::identity,
    error::{not_implemented, s3_error as to_s3, with_argument},
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

fn not_supported() -> S3Error {
    s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs")
}

/// Returns whether the headers of a request contain an ACL, which lets only `owner` in.
///
/// # Errors
/// 400 for any other ACL.
fn check_headers(headers: &HeaderMap, owner: Option<OwnerId>) -> S3Result<bool> {
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

/// Returns the one grant of every ACL, and the owner.
fn only_owner(owner: OwnerId) -> (Option<Grants>, Option<Owner>) {
    let id = Some(owner.to_string());
    let grantee = Grantee {
        display_name: None,
        email_address: None,
        id: id.clone(),
        type_: Type::from_static(Type::CANONICAL_USER),
        uri: None,
    };
    let permission = Some(Permission::from_static(Permission::FULL_CONTROL));
    let grants = vec![Grant { grantee: Some(grantee), permission }];
    (Some(grants), Some(Owner { display_name: None, id }))
}

/// Checks the ACL in the headers or the body of a request to set one.
fn check_set(
    headers: &HeaderMap,
    body: Option<&AccessControlPolicy>,
    owner: OwnerId,
) -> S3Result<()> {
    let in_headers = check_headers(headers, Some(owner))?;
    let Some(body) = body else {
        let missing = || s3_error!(MissingSecurityHeader);
        return if in_headers { Ok(()) } else { Err(missing()) };
    };
    if in_headers {
        return Err(s3_error!(UnexpectedContent, "This request does not support content"));
    }
    let (Some(named), Some(grants)) = (&body.owner, &body.grants) else {
        return Err(malformed_acl());
    };
    let id = owner.to_string();
    let mut has_full_control = false;
    for grant in grants {
        let (Some(grantee), Some(permission)) = (&grant.grantee, &grant.permission) else {
            return Err(malformed_acl());
        };
        let is_owner = grantee.id.as_deref() == Some(id.as_str());
        if grantee.type_.as_str() != Type::CANONICAL_USER || !is_owner {
            return Err(not_supported());
        }
        has_full_control |= permission.as_str() == Permission::FULL_CONTROL;
    }
    if named.id.as_deref().is_some_and(|named| named != id) {
        return Err(s3_error!(AccessDenied));
    }
    if has_full_control { Ok(()) } else { Err(not_supported()) }
}

fn malformed_acl() -> S3Error {
    let text = "The XML you provided was not well-formed or did not validate against our published \
                schema";
    S3Error::with_message(S3ErrorCode::MalformedACLError, text)
}

impl Api {
    pub(super) async fn get_bucket_acl(
        &self,
        request: S3Request<GetBucketAclInput>,
    ) -> S3Result<S3Response<GetBucketAclOutput>> {
        let (grants, owner) = only_owner(self.may_read(&request, &request.input.bucket).await?);
        Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
    }

    pub(super) async fn put_bucket_acl(
        &self,
        request: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        let owner = self.may_change(&request, &request.input.bucket).await?;
        check_set(&request.headers, request.input.access_control_policy.as_ref(), owner)?;
        Ok(S3Response::new(PutBucketAclOutput::default()))
    }

    pub(super) async fn get_object_acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let found =
            self.service.object_properties(&caller(&request)?, &bucket, &key, version).await;
        let (grants, owner) = only_owner(found.map_err(to_s3)?.0);
        Ok(S3Response::new(GetObjectAclOutput { grants, owner, request_charged: None }))
    }

    pub(super) async fn put_object_acl(
        &self,
        request: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let found =
            self.service.change_properties(&caller(&request)?, &bucket, &key, version).await;
        check_set(&request.headers, input.access_control_policy.as_ref(), found.map_err(to_s3)?)?;
        Ok(S3Response::new(PutObjectAclOutput::default()))
    }

    pub(super) async fn get_object_retention(
        &self,
        request: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<S3Response<GetObjectRetentionOutput>> {
        self.may_read(&request, &request.input.bucket).await?;
        Err(without_lock(&request.input.bucket))
    }

    pub(super) async fn get_object_legal_hold(
        &self,
        request: S3Request<GetObjectLegalHoldInput>,
    ) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
        self.may_read(&request, &request.input.bucket).await?;
        Err(without_lock(&request.input.bucket))
    }
}

/// Returns the error for the lock of an object in a bucket that has no object lock.
fn without_lock(bucket: &str) -> S3Error {
    let mut error =
        not_set("InvalidRequest", "Bucket is missing Object Lock Configuration", bucket);
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
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
