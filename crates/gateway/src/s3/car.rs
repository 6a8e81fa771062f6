//! A bucket as a CAR file: `GET /{bucket}?fula-car` (docs/format.md).

use fula_service::{Service, error::chain};
use futures::TryStreamExt;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use s3s::{Body, S3Request, S3Response, S3Result, dto::StreamingBlob, s3_error};

use super::{caller, routes::bucket_of, shareable::Shareable};
use crate::error::s3_error as to_s3;

/// Query parameter of the request.
pub(super) const QUERY: &str = "fula-car";

/// Header with the root of the file.
const ROOTS: HeaderName = HeaderName::from_static("x-ipfs-roots");

/// Media type of the file, as IPFS gateways send it. A block that is linked often may be there again.
const CAR: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=y";

/// Returns whether a request asks for a CAR file.
pub(super) fn is_car(method: &Method, uri: &Uri) -> bool {
    *method == Method::GET && parameter(uri, QUERY).is_some()
}

/// Returns the value of a query parameter.
fn parameter(uri: &Uri, wanted: &str) -> Option<String> {
    let mut query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    query.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

/// Returns the bucket version that a query parameter names.
fn version(uri: &Uri, name: &str) -> S3Result<Option<u64>> {
    let Some(text) = parameter(uri, name) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| {
        s3_error!(InvalidArgument, "{name} is a version of the bucket, as in x-fula-version.")
    });
    number.map(Some)
}

/// Answers a request for a CAR file.
pub(super) async fn answer(
    service: &Service,
    request: &S3Request<Body>,
) -> S3Result<S3Response<Body>> {
    let uri = &request.uri;
    let (version, since) = (version(uri, "version")?, version(uri, "since")?);
    let bucket = bucket_of(uri, &request.extensions, "GET", QUERY)?;
    let caller = caller(request)?;
    let car = service.bucket_car(&caller, &bucket, version, since).await.map_err(to_s3)?;
    let name = format!("attachment; filename=\"{bucket}-{}.car\"", car.version);
    let root = car.root.to_string();
    let bytes = car.bytes.inspect_err(|error| {
        tracing::warn!(error = chain(error), "a CAR file was cut off");
    });
    let body = StreamingBlob::wrap(Shareable::new(bytes));
    let mut response = S3Response::new(Body::from(body));
    for (header, value) in
        [(header::CONTENT_TYPE, CAR), (header::CONTENT_DISPOSITION, &name), (ROOTS, &root)]
    {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers.insert(header, value);
        }
    }
    Ok(response)
}
