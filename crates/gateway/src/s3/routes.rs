//! Requests about a bucket that S3 does not have, and that `s3s` hands on.

use std::sync::Arc;

use async_trait::async_trait;
use fula_core::BucketName;
use fula_service::Service;
use http::{Extensions, HeaderMap, Method, Uri};
use s3s::{Body, S3Request, S3Response, S3Result, route::S3Route, s3_error};

use super::{car, commit, convert::bucket_name};
use crate::{
    auth::identity,
    normalise,
    request::{HostBucket, Operation},
};

/// Answers multi-key commits, and requests for buckets as CAR files.
pub(crate) struct OwnRoutes {
    service: Service,
    /// Largest body in bytes.
    bytes_max: usize,
}

impl OwnRoutes {
    pub(crate) fn new(service: Service, bytes_max: usize) -> Self {
        Self { service, bytes_max }
    }
}

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

#[async_trait]
impl S3Route for OwnRoutes {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        commit::is_commit(method, uri) || car::is_car(method, uri)
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        // Anonymous requests are refused, and those that did not pass the layer before `s3s`.
        let is_let_through = normalise::is_hidden(&request.extensions);
        if !is_let_through || identity(&request.extensions).is_none() {
            return Err(s3_error!(AccessDenied));
        }
        Ok(())
    }

    async fn call(&self, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        normalise::restore(&mut request);
        let is_car = car::is_car(&request.method, &request.uri);
        if let Some(operation) = request.extensions.get::<Arc<Operation>>() {
            operation.set(if is_car { "FulaCar" } else { "FulaCommit" }.to_owned());
        }
        if is_car {
            return car::answer(&self.service, &request).await;
        }
        commit::answer(&self.service, self.bytes_max, request).await
    }
}
