//! Multi-key commits: `POST /{bucket}?fula-commit` with a body in JSON or dag-cbor (docs/format.md).

mod answer;
mod cbor;
mod form;
mod json;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use fula_service::{BatchChange, Service};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};

use self::form::Form;
use super::{caller, place::bucket_of};
use crate::error::{s3_error as to_s3, too_large};

/// Query parameter of a commit.
const QUERY: &str = "fula-commit";

/// Media type of dag-cbor.
pub(super) const DAG_CBOR: &str = "application/vnd.ipld.dag-cbor";

/// Returns whether a request is a multi-key commit.
pub(super) fn is_commit(method: &Method, uri: &Uri) -> bool {
    let mut query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    *method == Method::POST && query.any(|(name, _)| name == QUERY)
}

/// Returns whether the body of a commit is dag-cbor. Every other one is JSON.
pub(crate) fn is_cbor(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    [DAG_CBOR, "application/cbor"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

/// Parses the changes of a body. Returns whether each is carried out by itself, too.
///
/// # Errors
/// 400 `InvalidArgument` with the reason.
pub(crate) fn parse(body: &Bytes, is_cbor: bool) -> S3Result<(bool, Vec<BatchChange>)> {
    let Form { each, changes } = if is_cbor { cbor::parse(body)? } else { json::parse(body)? };
    let changes: S3Result<_> = changes.into_iter().map(form::Change::read).collect();
    Ok((each, changes?))
}

/// Answers a multi-key commit, whose body has at most `bytes_max` bytes.
pub(super) async fn answer(
    service: &Service,
    bytes_max: usize,
    mut request: S3Request<Body>,
) -> S3Result<S3Response<Body>> {
    let caller = caller(&request)?;
    let bucket = bucket_of(&request.uri, &request.extensions, "POST", QUERY)?;
    // The limit applies whatever the framing: a body in chunks was not measured before.
    let body = Limited::new(std::mem::take(&mut request.input), bytes_max).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => too_large(bytes_max),
        Err(_) => s3_error!(IncompleteBody),
    })?;
    let is_cbor = is_cbor(&request.headers);
    let (each, changes) = parse(&body.to_bytes(), is_cbor)?;
    let results: Vec<_> = if each {
        let results = service.commit_each(&caller, &bucket, &changes).await.map_err(to_s3)?;
        results.into_iter().map(|(key, result)| (key, result.map_err(to_s3))).collect()
    } else {
        let results = service.commit(&caller, &bucket, &changes).await.map_err(to_s3)?;
        results.into_iter().map(|(key, etag)| (key, Ok(etag))).collect()
    };
    let version = caller.seen.version();
    let (kind, answer) = if is_cbor {
        (DAG_CBOR, answer::cbor(version, &results))
    } else {
        ("application/json", answer::json(version, &results))
    };
    let mut response = S3Response::new(Body::from(answer));
    response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}
