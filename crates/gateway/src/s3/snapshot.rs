//! Buckets as streams: `GET /{bucket}?fula-list` and `GET /{bucket}?fula-changes` (docs/format.md).

use std::time::Duration;

use fula_service::{ChangesRequest, Service, SnapshotRequest, error::chain};
use futures::TryStreamExt;
use http::{HeaderValue, Method, Uri, header};
use s3s::{Body, S3Request, S3Response, S3Result, dto::StreamingBlob, s3_error};

use super::{caller, place::bucket_of, shareable::Shareable};
use crate::error::s3_error as to_s3;

/// Query parameter of a request for all objects.
const LIST: &str = "fula-list";

/// Query parameter of a request for what changed.
const CHANGES: &str = "fula-changes";

/// Media type of a sequence of items in CBOR (RFC 8742).
const CBOR_SEQUENCE: &str = "application/cbor-seq";

/// Returns whether a request asks for all objects.
pub(super) fn is_list(method: &Method, uri: &Uri) -> bool {
    *method == Method::GET && parameter(uri, LIST).is_some()
}

/// Returns whether a request asks for what changed.
pub(super) fn is_changes(method: &Method, uri: &Uri) -> bool {
    *method == Method::GET && parameter(uri, CHANGES).is_some()
}

/// Returns the value of a query parameter.
fn parameter(uri: &Uri, wanted: &str) -> Option<String> {
    let mut query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    query.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

/// Returns the name of the metadata value that is asked for. Names are stored in lower case.
fn meta(uri: &Uri) -> Option<String> {
    parameter(uri, "meta").filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase())
}

/// Returns what a request for changes asks for.
fn changes(uri: &Uri) -> S3Result<ChangesRequest> {
    let number = |name: &str| {
        let Some(text) = parameter(uri, name) else { return Ok(None) };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number).map(Some).ok_or(name.to_owned())
    };
    let wrong = |name: String| match &*name {
        "wait" => s3_error!(InvalidArgument, "wait is a number of seconds, at most 60."),
        _ => s3_error!(InvalidArgument, "since is a version of the bucket, as in x-fula-version."),
    };
    let since: Option<u64> = number("since").map_err(wrong)?;
    let since = since.filter(|since| *since > 0).ok_or_else(|| wrong("since".to_owned()))?;
    let seconds = number("wait").map_err(wrong)?.unwrap_or_default();
    let root = parameter(uri, "root").map(|text| text.parse()).transpose();
    Ok(ChangesRequest {
        since,
        root: root.map_err(|_| s3_error!(InvalidArgument, "root is the CID of a bucket root."))?,
        prefix: parameter(uri, "prefix").unwrap_or_default(),
        meta: meta(uri),
        wait: Duration::from_secs(seconds),
    })
}

/// Answers a request for such a stream.
pub(super) async fn answer(
    service: &Service,
    request: &S3Request<Body>,
) -> S3Result<S3Response<Body>> {
    let uri = &request.uri;
    let caller = caller(request)?;
    let snapshot = if is_list(&request.method, uri) {
        let bucket = bucket_of(uri, &request.extensions, "GET", LIST)?;
        let (prefix, after) = (parameter(uri, "prefix"), parameter(uri, "after"));
        let prefix = prefix.unwrap_or_default();
        let wanted = SnapshotRequest { prefix, after, meta: meta(uri) };
        service.snapshot(&caller, &bucket, wanted).await
    } else {
        let bucket = bucket_of(uri, &request.extensions, "GET", CHANGES)?;
        service.changes(&caller, &bucket, changes(uri)?).await
    };
    let items = snapshot.map_err(to_s3)?.items.inspect_err(|error| {
        tracing::warn!(error = chain(error), "a stream of objects was cut off");
    });
    let body = StreamingBlob::wrap(Shareable::new(items));
    let mut response = S3Response::new(Body::from(body));
    for (header, value) in
        [(header::CONTENT_TYPE, CBOR_SEQUENCE), (header::CACHE_CONTROL, "no-store")]
    {
        response.headers.insert(header, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_changes_names_a_version() {
        let of = |query: &str| changes(&format!("/b?fula-changes&{query}").parse().unwrap());
        let found = of("since=7&wait=60&prefix=a%2F&meta=Fula-N").unwrap();
        assert_eq!((found.since, found.wait, found.root), (7, Duration::from_mins(1), None));
        assert_eq!((found.prefix.as_str(), found.meta.as_deref()), ("a/", Some("fula-n")));
        for bad in [
            "",
            "since=",
            "since=0",
            "since=-1",
            "since=%2B1",
            "since=1&wait=1.5",
            "since=1&wait=",
            "since=1&root=x",
            "since=99999999999999999999",
        ] {
            assert_eq!(of(bad).unwrap_err().code().as_str(), "InvalidArgument", "{bad}");
        }
    }
}
