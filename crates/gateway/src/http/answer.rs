//! Completes answers: headers of every answer, and the elements of errors that `s3s` leaves out.

use bytes::Bytes;
use fula_service::Seen;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    error::{CONDITION_HEADER, DETAIL_HEADER},
    request::{AnswerBody, AnswerStatus},
    xml::escape,
};

/// Header with the bucket version that an answer holds at.
const VERSION: HeaderName = HeaderName::from_static("x-fula-version");

/// The same, for an answer that may be outdated because the arbiter is away.
const STALE: HeaderName = HeaderName::from_static("x-fula-stale");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Sets the headers that tell the bucket version of an answer, and whether it may be outdated.
pub(super) fn tell_version(response: &mut Response<s3s::Body>, seen: &Seen) {
    let Some(version) = seen.version() else { return };
    let headers = response.headers_mut();
    headers.insert(VERSION, HeaderValue::from(version));
    if seen.is_stale() {
        headers.insert(STALE, HeaderValue::from(version));
    }
}

/// Sets the body of an answer that was not written by `s3s`. It is set before the memory of the body is counted.
pub(super) fn set_body(response: &mut Response<s3s::Body>) {
    if let Some(AnswerBody(body)) = response.extensions_mut().remove() {
        *response.body_mut() = s3s::Body::from(body);
    }
}

/// Adds the headers of every answer, and completes XML errors.
pub(super) fn mend(response: &mut Response<s3s::Body>, id: &str, path: &str) {
    // `s3s` answers HEAD with 200 even if only a part of the object was requested.
    let is_part = response.headers().contains_key(header::CONTENT_RANGE);
    if is_part && response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if let Some(AnswerStatus(status)) = response.extensions().get().copied() {
        *response.status_mut() = status;
    }
    let condition = response.headers_mut().remove(CONDITION_HEADER);
    let detail = response.headers_mut().remove(DETAIL_HEADER);
    let status = response.status();
    if (status.is_client_error() || status.is_server_error())
        && let Some(body) = response.body_mut().take_bytes()
    {
        let condition = text_of(condition.as_ref());
        let condition = condition.map(|name| format!("<Condition>{name}</Condition>"));
        let elements = [condition.as_deref(), text_of(detail.as_ref())];
        let elements: String = elements.into_iter().flatten().collect();
        let mended = mend_xml(&body, &elements, id, path).map_or(body, Bytes::from);
        if response.headers().contains_key(header::CONTENT_LENGTH) {
            let length = HeaderValue::from(mended.len());
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        *response.body_mut() = s3s::Body::from(mended);
    }
    let is_xml = response.body().bytes().is_some_and(|body| body.starts_with(b"<?xml"));
    let headers = response.headers_mut();
    if is_xml && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::SERVER, HeaderValue::from_static("Fula"));
}

fn text_of(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

/// Inserts the elements that `s3s` leaves out before the end of an error.
fn mend_xml(body: &Bytes, elements: &str, id: &str, path: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let head = text.strip_suffix("</Error>")?;
    let resource = escape(path);
    Some(format!(
        "{head}{elements}<Resource>{resource}</Resource><RequestId>{id}</RequestId></Error>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_resource_and_the_request() {
        let body = Bytes::from_static(b"<?xml?><Error><Code>NoSuchKey</Code></Error>");
        let mended = mend_xml(&body, "<Region>r</Region>", "ID", "/b/<&>").unwrap();
        assert_eq!(
            mended,
            "<?xml?><Error><Code>NoSuchKey</Code><Region>r</Region>\
             <Resource>/b/&lt;&amp;&gt;</Resource><RequestId>ID</RequestId></Error>"
        );
        assert!(mend_xml(&Bytes::from_static(b"not xml"), "", "ID", "/").is_none());
    }
}
