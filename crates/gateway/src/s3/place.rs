//! Which bucket a request is about that S3 does not have.

use fula_core::BucketName;
use http::{Extensions, Uri};
use s3s::{S3Result, s3_error};

use super::convert::bucket_name;
use crate::request::HostBucket;

/// Returns the bucket that the path or the host names.
pub(super) fn bucket_of(
    uri: &Uri,
    extensions: &Extensions,
    method: &str,
    query: &str,
) -> S3Result<BucketName> {
    let path = uri.path().trim_matches('/');
    let host = extensions.get::<HostBucket>().map(|bucket| bucket.0.as_str());
    match (path, host) {
        ("", Some(bucket)) => bucket_name(bucket),
        (bucket, None) if !bucket.is_empty() && !bucket.contains('/') => bucket_name(bucket),
        _ => Err(s3_error!(InvalidRequest, "It is about a bucket: {method} /bucket?{query}")),
    }
}
