//! The admin listener: health, readiness and metrics. It serves no secrets and changes nothing.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusHandle;

/// Answers one request of the admin listener. `readiness` is the reason why S3 requests cannot be served,
/// if there is one. `refresh` updates gauges and absolute counters before they are rendered.
pub async fn answer<B>(
    request: &Request<B>,
    metrics: &PrometheusHandle,
    readiness: impl Future<Output = Result<(), String>>,
    refresh: impl FnOnce(),
) -> Response<Full<bytes::Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match readiness.await {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => {
            refresh();
            (StatusCode::OK, metrics.render())
        }
        _ if is_s3(request) => return not_s3(),
        _ => (StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Returns whether a request is meant for the S3 listener.
fn is_s3<B>(request: &Request<B>) -> bool {
    let is_amz = |name: &http::HeaderName| name.as_str().starts_with("x-amz-");
    request.headers().contains_key(header::AUTHORIZATION)
        || request.headers().keys().any(is_amz)
        || request
            .uri()
            .query()
            .is_some_and(|query| query.contains("X-Amz-") || query.contains("AWSAccessKeyId"))
}

/// Returns an error that S3 tools show to their users.
fn not_s3() -> Response<Full<bytes::Bytes>> {
    let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InvalidRequest</Code><Message>This is the \
                admin address of a Fula gateway, which serves /healthz, /readyz and /metrics. S3 is served on the \
                address that --listen (FULA_LISTEN) names.</Message></Error>";
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let xml = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(header::CONTENT_TYPE, xml);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_s3_tools_are_told_from_others() {
        let request = |uri: &str, name: &str| {
            let request = Request::builder().uri(uri).header(name, "x").body(()).unwrap();
            is_s3(&request)
        };
        assert!(request("/bucket", "authorization") && request("/", "x-amz-date"));
        assert!(request("/bucket/k?X-Amz-Signature=0", "accept"));
        assert!(!request("/", "accept") && !request("/favicon.ico", "user-agent"));
        assert_eq!(not_s3().status(), StatusCode::BAD_REQUEST);
    }
}
