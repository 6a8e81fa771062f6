//! Requests about a bucket that S3 does not have, and that `s3s` hands on.

use std::sync::Arc;

use async_trait::async_trait;
use fula_service::Service;
use http::{Extensions, HeaderMap, Method, Uri};
use s3s::{Body, S3Request, S3Response, S3Result, route::S3Route, s3_error};

use super::{car, commit, snapshot};
use crate::{auth::identity, normalise, request::Operation};

/// Answers multi-key commits, and requests for buckets as CAR files or as streams.
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

/// A request that S3 does not have.
#[derive(Clone, Copy)]
enum Own {
    Car,
    Changes,
    Commit,
    List,
}

impl Own {
    fn of(method: &Method, uri: &Uri) -> Option<Self> {
        if commit::is_commit(method, uri) {
            Some(Self::Commit)
        } else if car::is_car(method, uri) {
            Some(Self::Car)
        } else if snapshot::is_list(method, uri) {
            Some(Self::List)
        } else {
            snapshot::is_changes(method, uri).then_some(Self::Changes)
        }
    }

    /// Returns the name of the operation in metrics and the log.
    fn name(self) -> &'static str {
        match self {
            Self::Car => "FulaCar",
            Self::Changes => "FulaChanges",
            Self::Commit => "FulaCommit",
            Self::List => "FulaList",
        }
    }
}

#[async_trait]
impl S3Route for OwnRoutes {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        Own::of(method, uri).is_some()
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
        let Some(own) = Own::of(&request.method, &request.uri) else {
            return Err(s3_error!(InternalError));
        };
        if let Some(operation) = request.extensions.get::<Arc<Operation>>() {
            operation.set(own.name().to_owned());
        }
        match own {
            Own::Car => car::answer(&self.service, &request).await,
            Own::Commit => commit::answer(&self.service, self.bytes_max, request).await,
            Own::List | Own::Changes => snapshot::answer(&self.service, &request).await,
        }
    }
}
