//! The S3 operations, translated to and from the service.

mod acl;
mod attributes;
mod bucket;
mod car;
mod commit;
mod convert;
mod cors;
mod delete;
mod encryption;
mod grants;
mod keys;
mod lifecycle;
mod listing;
mod mapping;
mod multipart;
mod object;
mod place;
mod policy;
mod public_access;
mod rename;
mod routes;
mod settings;
mod shareable;
mod snapshot;
mod sse;
mod tagging;
mod tags;
mod versions;

use std::sync::Arc;

use async_trait::async_trait;
use fula_service::{BucketOwner, Caller, Invocation, RequestPins, Seen, Service, auth::Proof};
use http::{HeaderMap, Method};
use s3s::{
    S3, S3Request, S3Response, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    dto::*,
    s3_error,
};

pub(crate) use self::commit::is_cbor;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::commit::parse as parse_commit;
use self::keys::keys_of;
pub(crate) use self::{convert::bucket_name, routes::OwnRoutes};
use crate::{WireConfig, auth::identity, error, normalise, request::Operation};

/// A source of secrets without any. No request that reaches `s3s` has a signature left, but `s3s` calls
/// [`Access`] only if there is a source of secrets.
pub(crate) struct NoSecrets;

#[async_trait]
impl S3Auth for NoSecrets {
    async fn get_secret_key(&self, _: &str) -> S3Result<SecretKey> {
        tracing::error!("internal error: a request reached s3s with a signature");
        Err(s3_error!(AccessDenied))
    }
}

/// Admits requests that passed the layer before `s3s`. The service decides what they may do.
pub(crate) struct Access;

#[async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = cx.s3_op().name().to_owned();
        let has_credentials = cx.credentials().is_some();
        let extensions = cx.extensions_mut();
        if has_credentials || !normalise::is_hidden(extensions) {
            tracing::error!(operation, "internal error: an unchecked request reached s3s");
            return Err(s3_error!(AccessDenied));
        }
        if let Some(slot) = extensions.get::<Arc<Operation>>() {
            slot.set(operation);
        }
        Ok(())
    }
}

/// Returns the owner that a header names.
pub(crate) fn bucket_owner(headers: &HeaderMap, name: &str) -> BucketOwner {
    match headers.get(name) {
        None => BucketOwner::Unsaid,
        Some(value) => {
            let owner = value.to_str().ok().and_then(|text| text.parse().ok());
            owner.map_or(BucketOwner::Nobody, BucketOwner::Named)
        }
    }
}

/// Returns the context of a request: its identity, conditions and pins.
fn caller<T>(request: &S3Request<T>) -> S3Result<Caller> {
    let headers = &request.headers;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let attempt = text("amz-sdk-request").and_then(|request| {
        let attempt = request.split(';').find_map(|part| part.trim().strip_prefix("attempt="));
        attempt?.trim().parse().ok()
    });
    let if_version = match headers.get("x-fula-if-version") {
        None => None,
        Some(_) if [Method::GET, Method::HEAD].contains(&request.method) => {
            return Err(error::not_implemented("The header x-fula-if-version on reads"));
        }
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.parse().ok());
            let text = "x-fula-if-version is the number that x-fula-version answered with";
            Some(number.ok_or_else(|| s3_error!(InvalidArgument, "{text}"))?)
        }
    };
    Ok(Caller {
        identity: identity(&request.extensions).cloned(),
        credential_check: request
            .extensions
            .get::<Proof>()
            .map(|proof| proof.credential_check.clone()),
        invocation: text("amz-sdk-invocation-id")
            .and_then(|id| Invocation::new(id, attempt.unwrap_or(1))),
        bucket_owner: bucket_owner(headers, "x-amz-expected-bucket-owner"),
        if_version,
        seen: request.extensions.get::<Arc<Seen>>().cloned().unwrap_or_default(),
        closer: request.extensions.get().cloned(),
        pins: RequestPins::default(),
        keys: keys_of(request),
        request_tags: None,
    })
}

/// The supported S3 operations. All others answer `NotImplemented`.
pub(crate) struct Api {
    service: Service,
    config: WireConfig,
}

impl Api {
    pub(crate) fn new(service: Service, config: WireConfig) -> Self {
        Self { service, config }
    }
}

/// Forwards each operation to the method of the same name, and maps its error.
macro_rules! operations {
    ($($name:ident: $input:ty => $output:ty),+ $(,)?) => {
        #[async_trait]
        impl S3 for Api {
            $(async fn $name(
                &self,
                mut request: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                normalise::restore(&mut request);
                self.$name(request).await
            })+

            async fn post_object(
                &self,
                _: S3Request<PostObjectInput>,
            ) -> S3Result<S3Response<PostObjectOutput>> {
                Err(error::not_implemented("Browser-based upload (POST object)"))
            }
        }
    };
}

operations! {
    list_buckets: ListBucketsInput => ListBucketsOutput,
    create_bucket: CreateBucketInput => CreateBucketOutput,
    head_bucket: HeadBucketInput => HeadBucketOutput,
    delete_bucket: DeleteBucketInput => DeleteBucketOutput,
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput,
    get_bucket_policy: GetBucketPolicyInput => GetBucketPolicyOutput,
    get_bucket_policy_status: GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput,
    put_bucket_policy: PutBucketPolicyInput => PutBucketPolicyOutput,
    delete_bucket_policy: DeleteBucketPolicyInput => DeleteBucketPolicyOutput,
    list_objects: ListObjectsInput => ListObjectsOutput,
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output,
    put_object: PutObjectInput => PutObjectOutput,
    get_object: GetObjectInput => GetObjectOutput,
    head_object: HeadObjectInput => HeadObjectOutput,
    delete_object: DeleteObjectInput => DeleteObjectOutput,
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput,
    copy_object: CopyObjectInput => CopyObjectOutput,
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput,
    upload_part: UploadPartInput => UploadPartOutput,
    upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput,
    list_parts: ListPartsInput => ListPartsOutput,
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput,
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput,
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput,
    delete_bucket_encryption: DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput,
    delete_bucket_lifecycle: DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput,
    delete_bucket_ownership_controls: DeleteBucketOwnershipControlsInput => DeleteBucketOwnershipControlsOutput,
    delete_bucket_replication: DeleteBucketReplicationInput => DeleteBucketReplicationOutput,
    delete_bucket_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput,
    delete_public_access_block: DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput,
    get_bucket_abac: GetBucketAbacInput => GetBucketAbacOutput,
    get_bucket_accelerate_configuration: GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput,
    get_bucket_acl: GetBucketAclInput => GetBucketAclOutput,
    get_bucket_analytics_configuration: GetBucketAnalyticsConfigurationInput => GetBucketAnalyticsConfigurationOutput,
    delete_bucket_cors: DeleteBucketCorsInput => DeleteBucketCorsOutput,
    put_bucket_cors: PutBucketCorsInput => PutBucketCorsOutput,
    get_bucket_cors: GetBucketCorsInput => GetBucketCorsOutput,
    get_bucket_encryption: GetBucketEncryptionInput => GetBucketEncryptionOutput,
    get_bucket_intelligent_tiering_configuration: GetBucketIntelligentTieringConfigurationInput => GetBucketIntelligentTieringConfigurationOutput,
    get_bucket_inventory_configuration: GetBucketInventoryConfigurationInput => GetBucketInventoryConfigurationOutput,
    get_bucket_lifecycle_configuration: GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput,
    get_bucket_logging: GetBucketLoggingInput => GetBucketLoggingOutput,
    get_bucket_metadata_configuration: GetBucketMetadataConfigurationInput => GetBucketMetadataConfigurationOutput,
    get_bucket_metrics_configuration: GetBucketMetricsConfigurationInput => GetBucketMetricsConfigurationOutput,
    get_bucket_notification_configuration: GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput,
    get_bucket_ownership_controls: GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput,
    get_bucket_replication: GetBucketReplicationInput => GetBucketReplicationOutput,
    get_bucket_request_payment: GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput,
    delete_bucket_tagging: DeleteBucketTaggingInput => DeleteBucketTaggingOutput,
    delete_object_tagging: DeleteObjectTaggingInput => DeleteObjectTaggingOutput,
    put_bucket_encryption: PutBucketEncryptionInput => PutBucketEncryptionOutput,
    put_bucket_lifecycle_configuration: PutBucketLifecycleConfigurationInput => PutBucketLifecycleConfigurationOutput,
    put_bucket_tagging: PutBucketTaggingInput => PutBucketTaggingOutput,
    put_object_tagging: PutObjectTaggingInput => PutObjectTaggingOutput,
    list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput,
    put_bucket_versioning: PutBucketVersioningInput => PutBucketVersioningOutput,
    put_public_access_block: PutPublicAccessBlockInput => PutPublicAccessBlockOutput,
    rename_object: RenameObjectInput => RenameObjectOutput,
    get_bucket_tagging: GetBucketTaggingInput => GetBucketTaggingOutput,
    get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput,
    get_bucket_website: GetBucketWebsiteInput => GetBucketWebsiteOutput,
    get_object_acl: GetObjectAclInput => GetObjectAclOutput,
    get_object_attributes: GetObjectAttributesInput => GetObjectAttributesOutput,
    get_object_legal_hold: GetObjectLegalHoldInput => GetObjectLegalHoldOutput,
    get_object_lock_configuration: GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput,
    get_object_retention: GetObjectRetentionInput => GetObjectRetentionOutput,
    get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput,
    get_public_access_block: GetPublicAccessBlockInput => GetPublicAccessBlockOutput,
    list_bucket_analytics_configurations: ListBucketAnalyticsConfigurationsInput => ListBucketAnalyticsConfigurationsOutput,
    list_bucket_intelligent_tiering_configurations: ListBucketIntelligentTieringConfigurationsInput => ListBucketIntelligentTieringConfigurationsOutput,
    list_bucket_inventory_configurations: ListBucketInventoryConfigurationsInput => ListBucketInventoryConfigurationsOutput,
    list_bucket_metrics_configurations: ListBucketMetricsConfigurationsInput => ListBucketMetricsConfigurationsOutput,
    put_bucket_acl: PutBucketAclInput => PutBucketAclOutput,
    put_bucket_ownership_controls: PutBucketOwnershipControlsInput => PutBucketOwnershipControlsOutput,
    put_object_acl: PutObjectAclInput => PutObjectAclOutput,
}
