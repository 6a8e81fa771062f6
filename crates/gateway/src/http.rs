//! The outermost layer: what every request gets, whoever answers it.
//!
//! Request ids, one log line each, metrics by operation and status, our own routes, and the
//! repair of what `s3s` leaves out of error bodies. No secret, token or query is ever logged.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::FutureExt;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use s3s::service::S3Service;
use tokio::time::Instant;

/// How `error` tells this layer which condition failed; never sent.
pub(crate) const CONDITION_HEADER: HeaderName = HeaderName::from_static("x-fula-condition");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Prefix of the routes that are ours; `fula` is no bucket name.
const OWN_ROUTES: &str = "/fula/";

/// The name of the S3 operation a request turned out to be, told from inside.
#[derive(Debug, Default)]
pub(crate) struct Operation(OnceLock<String>);

impl Operation {
    pub(crate) fn set(&self, name: String) {
        // A request is one operation: the first name stands.
        drop(self.0.set(name));
    }

    fn name(&self) -> &str {
        self.0.get().map_or("none", String::as_str)
    }
}

/// Answers HTTP requests; cloned freely, shared by all connections.
#[derive(Clone, Debug)]
pub struct Gateway {
    s3: S3Service,
    ids: Arc<RequestIds>,
}

/// Numbers requests: the start of the process, then a count.
#[derive(Debug)]
struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn draw(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        // Spread, so that ids of one process do not look alike; never repeats within it.
        format!("{:016X}", self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Gateway {
    pub(crate) fn new(s3: S3Service) -> Self {
        use std::hash::{BuildHasher, RandomState};
        let seed = RandomState::new().hash_one("request ids");
        Self { s3, ids: Arc::new(RequestIds { seed, next: AtomicU64::new(0) }) }
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<s3s::Body>
    where
        s3s::Body: From<B>,
    {
        let started = Instant::now();
        let id = self.ids.draw();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let expects = Expects::of(&request);
        let operation = Arc::new(Operation::default());
        let mut response = if path.starts_with(OWN_ROUTES) {
            operation.set("FulaRoute".to_owned());
            own_route(&method, &path)
        } else {
            self.s3(request, &operation).await
        };
        mend(&mut response, &id, &path);
        expects.settle(&mut response);
        let status = response.status().as_u16();
        let elapsed = started.elapsed();
        let labels = [("operation", operation.name().to_owned()), ("status", status.to_string())];
        metrics::counter!("fula_requests_total", &labels).increment(1);
        metrics::histogram!("fula_request_seconds", "operation" => operation.name().to_owned())
            .record(elapsed.as_secs_f64());
        tracing::info!(
            request_id = id,
            %method,
            path,
            operation = operation.name(),
            status,
            micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            "request"
        );
        response
    }

    async fn s3<B>(&self, request: Request<B>, operation: &Arc<Operation>) -> Response<s3s::Body>
    where
        s3s::Body: From<B>,
    {
        let mut request = request.map(s3s::Body::from);
        request.extensions_mut().insert(Arc::clone(operation));
        ignore_odd_range(request.headers_mut());
        // A bug in one request must not look like a broken network to its client.
        match AssertUnwindSafe(self.s3.call(request)).catch_unwind().await {
            Ok(Ok(response)) => return response,
            Ok(Err(error)) => tracing::error!(%error, "request could not be answered"),
            Err(_) => tracing::error!("request panicked"),
        }
        let error = s3s::S3Error::new(s3s::S3ErrorCode::InternalError);
        error.to_http_response().unwrap_or_else(|_| {
            let mut response = Response::new(s3s::Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// What a client that waits for `100 Continue` must be told with its answer.
///
/// Where we answer without asking for the body, no 100 is sent. Clients may then misread the next
/// answer on the connection (botocore takes this answer's status for it), so the connection ends.
struct Expects {
    waits: bool,
    is_empty: bool,
}

impl Expects {
    fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let waits = headers.contains_key(header::EXPECT) && request.version() < Version::HTTP_2;
        let is_empty = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        Self { waits, is_empty }
    }

    fn settle(&self, response: &mut Response<s3s::Body>) {
        if self.waits && (self.is_empty || !response.status().is_success()) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
}

/// Drops a `Range` that is not one plain range of bytes: S3 answers it with the whole object.
/// A signed header cannot be dropped.
fn ignore_odd_range(headers: &mut HeaderMap) {
    let Some(range) = headers.get(header::RANGE) else { return };
    let signed = headers.get(header::AUTHORIZATION).is_some_and(|authorization| {
        let text = authorization.to_str().unwrap_or_default();
        let names = text.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
        names.is_some_and(|names| names.split(';').any(|name| name == "range"))
    });
    let plain = range.to_str().is_ok_and(|text| {
        text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).is_some_and(
            |(first, last)| {
                let number = |text: &str| text.parse::<u64>().ok();
                match (number(first), number(last)) {
                    (Some(first), Some(last)) => first <= last,
                    (Some(_), None) => last.is_empty(),
                    (None, Some(_)) => first.is_empty(),
                    (None, None) => false,
                }
            },
        )
    });
    if !plain && !signed {
        headers.remove(header::RANGE);
    }
}

fn own_route(method: &Method, path: &str) -> Response<s3s::Body> {
    let (status, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/fula/capabilities") => {
            let capabilities = serde_json::json!({
                "remoteCidPut": false,
                "eip712Auth": false,
                "bucketRootCas": true,
                "ingest": false,
                "version": env!("CARGO_PKG_VERSION"),
            });
            (StatusCode::OK, capabilities)
        }
        _ => (StatusCode::NOT_FOUND, serde_json::json!({"error": "no such route"})),
    };
    let mut response = Response::new(s3s::Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Adds what every answer carries, and completes XML errors.
fn mend(response: &mut Response<s3s::Body>, id: &str, path: &str) {
    let condition = response.headers_mut().remove(CONDITION_HEADER);
    let status = response.status();
    if (status.is_client_error() || status.is_server_error())
        && let Some(body) = response.body_mut().take_bytes()
    {
        let mended = mend_xml(&body, condition.as_ref(), id, path).map_or(body, Bytes::from);
        if response.headers().contains_key(header::CONTENT_LENGTH) {
            let length = HeaderValue::from(mended.len());
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        *response.body_mut() = s3s::Body::from(mended);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::SERVER, HeaderValue::from_static("Fula"));
}

/// Puts the elements that `s3s` leaves out before the end of an error.
fn mend_xml(body: &Bytes, condition: Option<&HeaderValue>, id: &str, path: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let head = text.strip_suffix("</Error>")?;
    let condition = condition
        .and_then(|name| name.to_str().ok())
        .map(|name| format!("<Condition>{name}</Condition>"))
        .unwrap_or_default();
    let resource = escape(path);
    Some(format!(
        "{head}{condition}<Resource>{resource}</Resource><RequestId>{id}</RequestId></Error>"
    ))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_range_is_kept() {
        let kept = |range: &str, authorization: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
            if let Some(text) = authorization {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap());
            }
            ignore_odd_range(&mut headers);
            headers.contains_key(header::RANGE)
        };
        for plain in ["bytes=0-0", "bytes=5-", "bytes=-5"] {
            assert!(kept(plain, None), "{plain}");
        }
        for odd in ["bytes=0-1,3-4", "bytes=5-2", "bytes=-", "lines=1-2", "bytes=a-b", "x"] {
            assert!(!kept(odd, None), "{odd}");
        }
        let signed = "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;range, Signature=c";
        assert!(kept("bytes=5-2", Some(signed)));
    }

    #[test]
    fn errors_name_the_resource_and_the_request() {
        let body = Bytes::from_static(b"<?xml?><Error><Code>NoSuchKey</Code></Error>");
        let mended = mend_xml(&body, None, "ID", "/b/<&>").unwrap();
        assert_eq!(
            mended,
            "<?xml?><Error><Code>NoSuchKey</Code><Resource>/b/&lt;&amp;&gt;</Resource>\
             <RequestId>ID</RequestId></Error>"
        );
        assert!(mend_xml(&Bytes::from_static(b"not xml"), None, "ID", "/").is_none());
    }

    #[test]
    fn request_ids_do_not_repeat() {
        let ids = RequestIds { seed: 7, next: AtomicU64::new(0) };
        let drawn: std::collections::HashSet<_> = (0..10_000).map(|_| ids.draw()).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
