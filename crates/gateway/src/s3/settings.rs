//! Settings of a bucket: reading what was never set, as AWS answers it, and removing it.
//!
//! Tools read every setting of a bucket before they use it. A setting that is not offered is never set, so
//! AWS has a definite answer for each.

use fula_core::OwnerId;
use fula_service::access::Setting;
use http::StatusCode;
use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*};

use super::{Api, caller, convert::bucket_name};
use crate::error::{custom, s3_error as to_s3, with_bucket};

/// Returns the error for a setting that a bucket does not have.
pub(super) fn not_set(code: &'static str, text: &str, bucket: &str) -> S3Error {
    with_bucket(custom(code, StatusCode::NOT_FOUND, text.to_owned()), bucket)
}

impl Api {
    /// Checks that the caller may read the settings of a bucket. Returns its owner.
    pub(super) async fn may_read<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        setting: Setting,
    ) -> S3Result<OwnerId> {
        let (caller, bucket) = (caller(request)?, bucket_name(bucket)?);
        self.service.read_settings(&caller, &bucket, setting).await.map_err(to_s3)
    }

    /// Checks that the caller may change the settings of a bucket. Returns its owner.
    pub(super) async fn may_change<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        setting: Setting,
    ) -> S3Result<OwnerId> {
        let (caller, bucket) = (caller(request)?, bucket_name(bucket)?);
        self.service.change_settings(&caller, &bucket, setting).await.map_err(to_s3)
    }
}

/// Defines operations that read a setting which no bucket has.
macro_rules! never_set {
    ($($name:ident: $input:ty => $output:ty: $setting:ident, $code:literal, $text:literal;)+) => {
        impl Api {
            $(pub(super) async fn $name(
                &self,
                request: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                self.may_read(&request, &request.input.bucket, Setting::$setting).await?;
                Err(not_set($code, $text, &request.input.bucket))
            })+
        }
    };
}

never_set! {
    get_bucket_replication: GetBucketReplicationInput => GetBucketReplicationOutput: Replication,
        "ReplicationConfigurationNotFoundError", "The replication configuration was not found";
    get_bucket_website: GetBucketWebsiteInput => GetBucketWebsiteOutput: Website,
        "NoSuchWebsiteConfiguration",
        "The specified bucket does not have a website configuration";
    get_object_lock_configuration:
        GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput: ObjectLock,
        "ObjectLockConfigurationNotFoundError",
        "Object Lock configuration does not exist for this bucket";
    get_bucket_metadata_configuration:
        GetBucketMetadataConfigurationInput => GetBucketMetadataConfigurationOutput: MetadataTable,
        "MetadataConfigurationNotFound", "The metadata configuration does not exist";
    get_bucket_analytics_configuration:
        GetBucketAnalyticsConfigurationInput => GetBucketAnalyticsConfigurationOutput: Analytics,
        "NoSuchConfiguration", "The specified configuration does not exist.";
    get_bucket_intelligent_tiering_configuration:
        GetBucketIntelligentTieringConfigurationInput
        => GetBucketIntelligentTieringConfigurationOutput: IntelligentTiering,
        "NoSuchConfiguration", "The specified configuration does not exist.";
    get_bucket_inventory_configuration:
        GetBucketInventoryConfigurationInput => GetBucketInventoryConfigurationOutput: Inventory,
        "NoSuchConfiguration", "The specified configuration does not exist.";
    get_bucket_metrics_configuration:
        GetBucketMetricsConfigurationInput => GetBucketMetricsConfigurationOutput: Metrics,
        "NoSuchConfiguration", "The specified configuration does not exist.";
}

/// Defines operations that read a setting which all buckets have with the same value.
macro_rules! always_the_same {
    ($($name:ident: $input:ty => $output:ident: $setting:ident, $value:expr;)+) => {
        impl Api {
            $(pub(super) async fn $name(
                &self,
                request: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                self.may_read(&request, &request.input.bucket, Setting::$setting).await?;
                Ok(S3Response::new($value))
            })+
        }
    };
}

always_the_same! {
    get_bucket_logging:
        GetBucketLoggingInput => GetBucketLoggingOutput: Logging,
        GetBucketLoggingOutput::default();
    get_bucket_notification_configuration:
        GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput: Notification,
        GetBucketNotificationConfigurationOutput::default();
    get_bucket_accelerate_configuration:
        GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput: Accelerate,
        GetBucketAccelerateConfigurationOutput::default();
    get_bucket_request_payment:
        GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput: RequestPayment,
        GetBucketRequestPaymentOutput { payer: Some(Payer::from_static(Payer::BUCKET_OWNER)) };
    get_bucket_abac: GetBucketAbacInput => GetBucketAbacOutput: Abac, {
        let status = Some(BucketAbacStatus::from_static(BucketAbacStatus::DISABLED));
        GetBucketAbacOutput { abac_status: Some(AbacStatus { status }) }
    };
    list_bucket_analytics_configurations:
        ListBucketAnalyticsConfigurationsInput => ListBucketAnalyticsConfigurationsOutput: Analytics,
        ListBucketAnalyticsConfigurationsOutput {
            is_truncated: Some(false),
            ..ListBucketAnalyticsConfigurationsOutput::default()
        };
    list_bucket_intelligent_tiering_configurations:
        ListBucketIntelligentTieringConfigurationsInput
        => ListBucketIntelligentTieringConfigurationsOutput: IntelligentTiering,
        ListBucketIntelligentTieringConfigurationsOutput {
            is_truncated: Some(false),
            ..ListBucketIntelligentTieringConfigurationsOutput::default()
        };
    list_bucket_inventory_configurations:
        ListBucketInventoryConfigurationsInput => ListBucketInventoryConfigurationsOutput: Inventory,
        ListBucketInventoryConfigurationsOutput {
            is_truncated: Some(false),
            ..ListBucketInventoryConfigurationsOutput::default()
        };
    list_bucket_metrics_configurations:
        ListBucketMetricsConfigurationsInput => ListBucketMetricsConfigurationsOutput: Metrics,
        ListBucketMetricsConfigurationsOutput {
            is_truncated: Some(false),
            ..ListBucketMetricsConfigurationsOutput::default()
        };
}

/// Defines operations that remove a setting which no bucket has. Nothing changes, as on AWS.
macro_rules! nothing_to_remove {
    ($($name:ident: $input:ty => $output:ident: $setting:ident;)+) => {
        impl Api {
            $(pub(super) async fn $name(
                &self,
                request: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                self.may_change(&request, &request.input.bucket, Setting::$setting).await?;
                Ok(S3Response::new($output::default()))
            })+
        }
    };
}

nothing_to_remove! {
    delete_bucket_replication: DeleteBucketReplicationInput => DeleteBucketReplicationOutput: Replication;
    delete_bucket_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput: Website;
}
