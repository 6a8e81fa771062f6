//! Requests that are refused.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use s3s::Body;

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    text: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, text: &str) -> Self {
        Self { status, text: text.to_owned(), headers: Vec::new() }
    }

    /// Returns the refusal of a request that may be sent again later.
    pub(super) fn later(status: StatusCode, text: &str) -> Self {
        Self::new(status, text).with(header::RETRY_AFTER, "1")
    }

    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    /// Returns the answer. Nothing that is refused is cached.
    pub(super) fn response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.text + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}
