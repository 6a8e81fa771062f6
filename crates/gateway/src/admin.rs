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
        _ => (StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
