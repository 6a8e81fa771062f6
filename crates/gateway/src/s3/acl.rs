//! Access control lists. Every object belongs to the owner of its bucket, and no ACL lets anybody else in
//! (`BucketOwnerEnforced`, the default of AWS). An ACL that says the same is accepted.

use fula_core::OwnerId;
use fula_service::access::{Property, Setting};
use http::{HeaderMap, StatusCode};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, object_key},
    grants::{check_headers, not_supported},
    settings::not_set,
    versions::version_of,
};
use crate::error::s3_error as to_s3;

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
        let (grants, owner) =
            only_owner(self.may_read(&request, &request.input.bucket, Setting::Acl).await?);
        Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
    }

    pub(super) async fn put_bucket_acl(
        &self,
        request: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        let owner = self.may_change(&request, &request.input.bucket, Setting::Acl).await?;
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
        let found = self
            .service
            .object_properties(&caller(&request)?, &bucket, &key, version, Property::Acl)
            .await;
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
        self.may_read(&request, &request.input.bucket, Setting::ObjectLock).await?;
        Err(without_lock(&request.input.bucket))
    }

    pub(super) async fn get_object_legal_hold(
        &self,
        request: S3Request<GetObjectLegalHoldInput>,
    ) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
        self.may_read(&request, &request.input.bucket, Setting::ObjectLock).await?;
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
