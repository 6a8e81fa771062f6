//! Operations of S3 that are not offered (docs/s3.md).

use std::borrow::Cow;

use http::Method;

use super::Level;

/// An operation: its method and kind of path, the parameter that identifies it, and its name.
type Refused = (Method, Level, &'static str, &'static str);

use Level::{Bucket, Object};

const REFUSED: &[Refused] = &[
    (Method::GET, Bucket, "metadataTable", "GetBucketMetadataTableConfiguration"),
    (Method::GET, Bucket, "session", "CreateSession"),
    (Method::POST, Bucket, "metadataConfiguration", "CreateBucketMetadataConfiguration"),
    (Method::POST, Bucket, "metadataTable", "CreateBucketMetadataTableConfiguration"),
    (Method::PUT, Bucket, "abac", "PutBucketAbac"),
    (Method::PUT, Bucket, "accelerate", "PutBucketAccelerateConfiguration"),
    (Method::PUT, Bucket, "analytics", "PutBucketAnalyticsConfiguration"),
    (Method::PUT, Bucket, "intelligent-tiering", "PutBucketIntelligentTieringConfiguration"),
    (Method::PUT, Bucket, "inventory", "PutBucketInventoryConfiguration"),
    (Method::PUT, Bucket, "logging", "PutBucketLogging"),
    (
        Method::PUT,
        Bucket,
        "metadataAnnotationTable",
        "UpdateBucketMetadataAnnotationTableConfiguration",
    ),
    (
        Method::PUT,
        Bucket,
        "metadataInventoryTable",
        "UpdateBucketMetadataInventoryTableConfiguration",
    ),
    (Method::PUT, Bucket, "metadataJournalTable", "UpdateBucketMetadataJournalTableConfiguration"),
    (Method::PUT, Bucket, "metrics", "PutBucketMetricsConfiguration"),
    (Method::PUT, Bucket, "notification", "PutBucketNotificationConfiguration"),
    (Method::PUT, Bucket, "object-lock", "PutObjectLockConfiguration"),
    (Method::PUT, Bucket, "replication", "PutBucketReplication"),
    (Method::PUT, Bucket, "requestPayment", "PutBucketRequestPayment"),
    (Method::PUT, Bucket, "website", "PutBucketWebsite"),
    (Method::DELETE, Bucket, "analytics", "DeleteBucketAnalyticsConfiguration"),
    (Method::DELETE, Bucket, "intelligent-tiering", "DeleteBucketIntelligentTieringConfiguration"),
    (Method::DELETE, Bucket, "inventory", "DeleteBucketInventoryConfiguration"),
    (Method::DELETE, Bucket, "metadataConfiguration", "DeleteBucketMetadataConfiguration"),
    (Method::DELETE, Bucket, "metadataTable", "DeleteBucketMetadataTableConfiguration"),
    (Method::DELETE, Bucket, "metrics", "DeleteBucketMetricsConfiguration"),
    (Method::GET, Object, "annotationName", "GetObjectAnnotation"),
    (Method::GET, Object, "annotation", "ListObjectAnnotations"),
    (Method::PUT, Object, "annotation", "PutObjectAnnotation"),
    (Method::PUT, Object, "encryption", "UpdateObjectEncryption"),
    (Method::PUT, Object, "legal-hold", "PutObjectLegalHold"),
    (Method::PUT, Object, "retention", "PutObjectRetention"),
    (Method::DELETE, Object, "annotation", "DeleteObjectAnnotation"),
    (Method::POST, Object, "restore", "RestoreObject"),
    (Method::POST, Object, "select", "SelectObjectContent"),
];

/// Returns the name of the operation that a request asks for, if it is one that is not offered.
pub(super) fn name(method: &Method, level: Level, names: &[Cow<'_, str>]) -> Option<&'static str> {
    let is_it = |(refused, at, parameter, _): &&Refused| {
        refused == method && *at == level && names.iter().any(|name| name == parameter)
    };
    REFUSED.iter().find(is_it).map(|(.., name)| *name)
}
