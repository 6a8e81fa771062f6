//! Access control lists and object ownership. Without an object ownership that lets lists count, every object
//! belongs to the owner of its bucket, and no list lets anybody else in (`BucketOwnerEnforced`, the default of
//! AWS).

use fula_service::{
    access::Setting,
    acl::{Acl, AclGrant, AclRequest, Grantee, Ownership},
};
use http::{HeaderMap, StatusCode};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, object_key},
    grants::{
        check_length, group_of, group_uri, in_headers, no_addresses, permission_name,
        permission_of, user_of,
    },
    settings::not_set,
    versions::version_of,
};
use crate::error::s3_error as to_s3;

/// Returns the grants of a list, and the owner.
fn written(acl: &Acl) -> (Option<Grants>, Option<Owner>) {
    let grants = acl.grants.iter().map(|grant| {
        let uri = group_uri(grant.grantee);
        let type_ = if uri.is_some() { Type::GROUP } else { Type::CANONICAL_USER };
        let grantee = s3s::dto::Grantee {
            display_name: None,
            email_address: None,
            id: match grant.grantee {
                Grantee::Owner(owner) => Some(owner.to_string()),
                _ => None,
            },
            type_: Type::from_static(type_),
            uri: uri.map(ToOwned::to_owned),
        };
        let permission = Some(Permission::from_static(permission_name(grant.permission)));
        Grant { grantee: Some(grantee), permission }
    });
    (Some(grants.collect()), Some(Owner { display_name: None, id: Some(acl.owner.to_string()) }))
}

/// Returns the list in the headers or the body of a request to set one.
fn asked(headers: &HeaderMap, body: Option<&AccessControlPolicy>) -> S3Result<AclRequest> {
    match (in_headers(headers)?, body) {
        (Some(asked), None) => Ok(asked),
        (Some(_), Some(_)) => {
            Err(s3_error!(UnexpectedContent, "This request does not support content"))
        }
        (None, None) => Err(s3_error!(MissingSecurityHeader)),
        (None, Some(body)) => in_body(body),
    }
}

/// Returns the list in a body.
fn in_body(body: &AccessControlPolicy) -> S3Result<AclRequest> {
    let (Some(named), Some(written)) = (&body.owner, &body.grants) else {
        return Err(malformed_acl());
    };
    let owner = match named.id.as_deref() {
        None => None,
        // Nobody else can become the owner.
        Some(id) => Some(id.parse().map_err(|_| s3_error!(AccessDenied))?),
    };
    let grants = written.iter().map(grant_in_body).collect::<S3Result<Vec<_>>>()?;
    check_length(&grants)?;
    Ok(AclRequest::Grants { owner, grants })
}

fn grant_in_body(grant: &Grant) -> S3Result<AclGrant> {
    let (Some(grantee), Some(permission)) = (&grant.grantee, &grant.permission) else {
        return Err(malformed_acl());
    };
    let permission = permission_of(permission.as_str()).ok_or_else(malformed_acl)?;
    let needed = |text: &Option<String>| text.clone().ok_or_else(malformed_acl);
    let grantee = match grantee.type_.as_str() {
        Type::CANONICAL_USER => user_of(&needed(&grantee.id)?)?,
        Type::GROUP => group_of(&needed(&grantee.uri)?)?,
        Type::AMAZON_CUSTOMER_BY_EMAIL => return Err(no_addresses()),
        _ => return Err(malformed_acl()),
    };
    Ok(AclGrant { grantee, permission })
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
        let bucket = bucket_name(&request.input.bucket)?;
        let acl = self.service.bucket_acl(&caller(&request)?, &bucket).await.map_err(to_s3)?;
        let (grants, owner) = written(&acl);
        Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
    }

    pub(super) async fn put_bucket_acl(
        &self,
        request: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        let asked = asked(&request.headers, request.input.access_control_policy.as_ref());
        let (caller, bucket) = (caller(&request)?, bucket_name(&request.input.bucket)?);
        // Who may not know of the bucket is not told what is wrong with the list.
        if asked.is_err() {
            self.may_change(&request, &request.input.bucket, Setting::Acl).await?;
        }
        let set = self.service.set_bucket_acl(&caller, &bucket, &asked?).await;
        set.map_err(to_s3)?;
        Ok(S3Response::new(PutBucketAclOutput::default()))
    }

    pub(super) async fn get_object_acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let found = self.service.object_acl(&caller(&request)?, &bucket, &key, version).await;
        let (grants, owner) = written(&found.map_err(to_s3)?);
        Ok(S3Response::new(GetObjectAclOutput { grants, owner, request_charged: None }))
    }

    pub(super) async fn put_object_acl(
        &self,
        request: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let asked = asked(&request.headers, input.access_control_policy.as_ref());
        let caller = caller(&request)?;
        if asked.is_err() {
            let found = self.service.object_acl(&caller, &bucket, &key, version).await;
            found.map_err(to_s3)?;
        }
        let set = self.service.set_object_acl(&caller, &bucket, key, version, &asked?).await;
        set.map_err(to_s3)?;
        Ok(S3Response::new(PutObjectAclOutput::default()))
    }

    pub(super) async fn get_bucket_ownership_controls(
        &self,
        request: S3Request<GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let found = self.service.ownership(&caller(&request)?, &bucket).await.map_err(to_s3)?;
        let Some(name) = found.name() else {
            let text = "The bucket ownership controls were not found";
            return Err(not_set("OwnershipControlsNotFoundError", text, &request.input.bucket));
        };
        let rules =
            vec![OwnershipControlsRule { object_ownership: ObjectOwnership::from_static(name) }];
        let ownership_controls = Some(OwnershipControls { rules });
        Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls }))
    }

    pub(super) async fn put_bucket_ownership_controls(
        &self,
        request: S3Request<PutBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
        let rules = &request.input.ownership_controls.rules;
        let named = match rules.as_slice() {
            [rule] => Ownership::parse(rule.object_ownership.as_str()),
            _ => None,
        };
        let Some(ownership) = named else {
            self.may_change(&request, &request.input.bucket, Setting::Ownership).await?;
            return Err(s3_error!(MalformedXML));
        };
        self.set_ownership(&request, &request.input.bucket, ownership).await?;
        Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
    }

    pub(super) async fn delete_bucket_ownership_controls(
        &self,
        request: S3Request<DeleteBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<DeleteBucketOwnershipControlsOutput>> {
        self.set_ownership(&request, &request.input.bucket, Ownership::Removed).await?;
        Ok(S3Response::new(DeleteBucketOwnershipControlsOutput::default()))
    }

    async fn set_ownership<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        ownership: Ownership,
    ) -> S3Result<()> {
        let (caller, bucket) = (caller(request)?, bucket_name(bucket)?);
        self.service.set_ownership(&caller, &bucket, ownership).await.map_err(to_s3)
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
