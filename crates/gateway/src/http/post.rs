//! Forms: a form becomes a `PutObject`, and its answer that of a form.

use std::sync::Arc;

use fula_service::auth::Proof;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header, request::Parts};
use s3s::{Body, S3Error, S3ErrorCode, S3Result, s3_error};

use super::{Admitted, Gateway};
use crate::{
    cors::CrossOrigin,
    error::respond,
    form::{Form, FormAnswer, Upload, path_of},
    guard, normalise,
    query::{self, Level, level_of},
    request::{HostBucket, Peer},
    request_body::Lent,
};

/// Headers of the request that stay when a form becomes a `PutObject`.
const KEPT: [HeaderName; 2] =
    [header::HOST, HeaderName::from_static("x-amz-expected-bucket-owner")];

impl Gateway {
    /// Answers a form.
    pub(super) async fn post_form(
        &self,
        parts: Parts,
        body: Body,
        host_bucket: Option<HostBucket>,
        lent: &Lent,
    ) -> Response<Body> {
        let (answer, location, admitted) =
            match self.admit_form(parts, body, host_bucket, lent).await {
                Ok(admitted) => admitted,
                Err(error) => return respond(error),
            };
        let stored = self.s3(admitted).await;
        if stored.status().is_success() {
            Upload::answer(&answer, stored, &location)
        } else {
            stored
        }
    }

    async fn admit_form(
        &self,
        mut parts: Parts,
        body: Body,
        host_bucket: Option<HostBucket>,
        lent: &Lent,
    ) -> S3Result<(FormAnswer, String, Admitted)> {
        guard::check_host(&parts)?;
        normalise::join_repeated(&mut parts.headers)?;
        if level_of(parts.uri.path(), host_bucket.is_some()) != Level::Bucket {
            return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
        }
        if parts.headers.contains_key(header::AUTHORIZATION) {
            let text = "Only one way to authenticate is allowed: a form is signed in its fields.";
            return Err(s3_error!(InvalidArgument, "{text}"));
        }
        let bucket = match &host_bucket {
            Some(bucket) => bucket.0.clone(),
            None => parts.uri.path().trim_matches('/').to_owned(),
        };
        crate::s3::bucket_name(&bucket)?;
        let form = Form::read(&parts.headers, body).await.map_err(|error| {
            // A body that arrives too slowly has a fault of its own.
            lent.take_fault().unwrap_or(error)
        })?;
        // Nobody may write without a credential.
        let signature = form.signature()?.ok_or_else(|| s3_error!(AccessDenied))?;
        let policy = form.policy()?;
        self.auth_layer.authenticate_form(signature, policy.expires, &mut parts.extensions).await?;
        if let (Some(cross_origin), Some(proof)) =
            (parts.extensions.get::<Arc<CrossOrigin>>(), parts.extensions.get::<Proof>())
        {
            cross_origin.signed_by(&proof.identity);
        }
        let now = self.auth_layer.authenticator().now();
        let upload = form.upload(&bucket, &policy, now, lent)?;
        let (answer, headers, body) = FormAnswer::of(&bucket, upload);
        let path = match &host_bucket {
            Some(_) => format!("/{}", path_of(answer.key())),
            None => format!("/{bucket}/{}", path_of(answer.key())),
        };
        let location = self.location(&parts, &path);
        let kept: Vec<(HeaderName, HeaderValue)> = KEPT
            .into_iter()
            .filter_map(|name| Some((name.clone(), parts.headers.get(&name)?.clone())))
            .collect();
        parts.headers = headers;
        parts.headers.extend(kept);
        parts.method = Method::PUT;
        parts.uri = path.parse::<Uri>().map_err(|_| s3_error!(InvalidURI))?;
        normalise::join_repeated(&mut parts.headers)?;
        let route = query::route(&parts, host_bucket.is_some())?;
        if let Some(bucket) = host_bucket {
            parts.extensions.insert(bucket);
        }
        normalise::hide(&mut parts);
        let request = Request::from_parts(parts, body);
        Ok((answer, location, Admitted { request, route, signer: None }))
    }

    /// Returns the address of an object, as the client reached the gateway.
    fn location(&self, parts: &Parts, path: &str) -> String {
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let is_tls = parts.extensions.get::<Peer>().is_some_and(|peer| peer.is_tls);
        let scheme = if is_tls || self.config.tls_terminated { "https" } else { "http" };
        host.map_or_else(|| path.to_owned(), |host| format!("{scheme}://{host}{path}"))
    }
}
