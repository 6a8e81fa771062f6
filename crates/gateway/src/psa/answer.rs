//! Answers in JSON, and the status and reason of each refusal.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_core::StoreError;
use fula_service::{
    ServiceError,
    error::{ErrorKind, chain},
    pinning::{PinState, PinStatus},
};
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use s3s::{Body, S3Error, S3ErrorCode};
use serde_json::{Value, json as value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    /// The reason for programs.
    reason: &'static str,
    /// The reason for people.
    details: String,
    /// Methods that the route has, for 405.
    allow: Option<&'static str>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, reason: &'static str, details: &str) -> Self {
        Self { status, reason, details: details.to_owned(), allow: None }
    }

    pub(super) fn bad_request(details: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", details)
    }

    pub(super) fn not_found(details: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", details)
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let details = format!("the route has the methods {allow}");
        let refused = Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", &details);
        Self { allow: Some(allow), ..refused }
    }

    pub(super) fn busy(details: &str) -> Self {
        let details = format!("{details}; try again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", &details)
    }

    /// Returns the refusal of a credential.
    pub(super) fn unauthorized(details: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", details)
    }

    pub(super) fn of_service(error: &ServiceError) -> Self {
        let text = error.to_string();
        match error {
            ServiceError::OwnerQuotaExceeded(max) => {
                let text = format!("what you store may not exceed {max} bytes; remove something");
                return Self::new(StatusCode::CONFLICT, "INSUFFICIENT_FUNDS", &text);
            }
            ServiceError::QuotaExceeded(_) => {
                return Self::new(StatusCode::CONFLICT, "INSUFFICIENT_FUNDS", &text);
            }
            ServiceError::TooManyPins(max) => {
                let text = format!("you have {max} pins, and may not have more; remove some");
                return Self::new(StatusCode::CONFLICT, "INSUFFICIENT_FUNDS", &text);
            }
            ServiceError::NoSuchKey => return Self::not_found("there is no such pin"),
            ServiceError::CredentialExpired => return Self::unauthorized(&text),
            _ => {}
        }
        match error.kind() {
            ErrorKind::Denied => {
                let text =
                    "the credential does not cover this: pins need one for the whole account";
                Self::new(StatusCode::FORBIDDEN, "ACCESS_DENIED", text)
            }
            ErrorKind::NotFound => Self::not_found("there is no such pin"),
            ErrorKind::Precondition | ErrorKind::Conflict | ErrorKind::Retry(_) => {
                Self::busy("the pins are changed by others, or their store does not answer")
            }
            ErrorKind::Invalid => Self::bad_request(&text),
            ErrorKind::Full => {
                let text = "the disk of the service is full; nothing was stored";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "INSUFFICIENT_STORAGE", text)
            }
            ErrorKind::Damaged | ErrorKind::Bug => {
                tracing::error!(error = chain(error), "a request about pins failed");
                let text = "the service has failed; its log says why";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_SERVER_ERROR", text)
            }
        }
    }
}

impl From<S3Error> for Refused {
    /// Returns the refusal of a credential.
    fn from(error: S3Error) -> Self {
        let text = error.message().unwrap_or("the access token is missing or invalid").to_owned();
        match error.code() {
            S3ErrorCode::SlowDown => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TOO_MANY_REQUESTS",
                "you send too many requests; try again later",
            ),
            S3ErrorCode::ServiceUnavailable | S3ErrorCode::InternalError => {
                Self::busy("the credential cannot be checked now")
            }
            _ => Self::unauthorized(&text),
        }
    }
}

/// Returns an answer in JSON.
pub(super) fn json(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Returns the answer to a request that is refused.
pub(super) fn refused(refused: Refused) -> Response<Body> {
    let body = value!({"error": {"reason": refused.reason, "details": refused.details}});
    let mut response = json(refused.status, &body);
    let headers = response.headers_mut();
    if let Some(allow) = refused.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if refused.status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"fula\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    let is_later = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS];
    if is_later.contains(&refused.status) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Returns a time in milliseconds since 1970 as RFC 3339 has it, with three digits after the second.
pub(super) fn time_text(time_ms: u64) -> String {
    let seconds = i64::try_from(time_ms / 1000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = time.format(&Rfc3339).unwrap_or_default();
    format!("{}.{:03}Z", text.trim_end_matches('Z'), time_ms % 1000)
}

/// Returns a pin as the `PinStatus` of the specification. `current` are the addresses that clients may send data to
/// now; while they are not known, the pin has those of its request.
pub(super) fn pin_json(pin: &PinState, current: &[String]) -> Value {
    let mut object = value!({"cid": pin.cid});
    if let Some(name) = &pin.name {
        object["name"] = value!(name);
    }
    if !pin.origins.is_empty() {
        object["origins"] = value!(pin.origins);
    }
    if !pin.meta.is_empty() {
        object["meta"] = value!(pin.meta);
    }
    let delegates = if current.is_empty() { &pin.delegates[..] } else { current };
    value!({
        "requestid": pin.id,
        "status": pin.status,
        "created": time_text(pin.created_ms),
        "pin": object,
        "delegates": delegates,
        "info": info(pin),
    })
}

/// Returns what else there is to say. All values are texts.
fn info(pin: &PinState) -> BTreeMap<&'static str, String> {
    let mut info = BTreeMap::new();
    let details = match pin.status {
        PinStatus::Queued if pin.attempts == 0 => "it waits to be fetched".to_owned(),
        PinStatus::Queued => {
            format!("attempt {} failed, and more follow: {}", pin.attempts, pin.error)
        }
        PinStatus::Pinning if pin.error.is_empty() => "it is being fetched".to_owned(),
        PinStatus::Pinning => format!("it is being fetched again after: {}", pin.error),
        PinStatus::Pinned => format!("all {} blocks are stored", pin.blocks),
        PinStatus::Failed => pin.error.clone(),
    };
    info.insert("status_details", details);
    if pin.status != PinStatus::Queued {
        info.insert("dag_size", pin.bytes.to_string());
        info.insert("dag_blocks", pin.blocks.to_string());
    }
    info
}

/// Returns the body of a file.
pub(super) fn stream_body(
    file: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
) -> Body {
    let file = file.map(|piece| {
        piece.map_err(|error| {
            tracing::error!(error = chain(&error), "the content of a pin cannot be read");
            s3s::StdError::from(error)
        })
    });
    let frames = file.map(|piece| piece.map(http_body::Frame::data));
    Body::http_body_unsync(http_body_util::StreamBody::new(frames.boxed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(time_text(1_595_871_148_007), "2020-07-27T17:32:28.007Z");
        assert_eq!(time_text(1_595_871_148_000), "2020-07-27T17:32:28.000Z");
    }

    #[test]
    fn a_pin_is_shown_as_the_specification_says() {
        let pin = PinState {
            id: "abc".to_owned(),
            cid: "Qm".to_owned(),
            created_ms: 1_595_871_148_007,
            delegates: vec!["/ip4/1.2.3.4/tcp/1/p2p/Qm".to_owned()],
            ..PinState::default()
        };
        assert_eq!(
            pin_json(&pin, &[]),
            value!({
                "requestid": "abc", "status": "queued", "created": "2020-07-27T17:32:28.007Z",
                "pin": {"cid": "Qm"}, "delegates": ["/ip4/1.2.3.4/tcp/1/p2p/Qm"],
                "info": {"status_details": "it waits to be fetched"},
            })
        );
        let failed = PinState {
            status: PinStatus::Failed,
            error: "it is too large".to_owned(),
            name: Some("n".to_owned()),
            ..pin
        };
        let shown = pin_json(&failed, &["/dns/x/tcp/1/p2p/Qm".to_owned()]);
        assert_eq!(shown["status"], "failed");
        assert_eq!(shown["info"]["status_details"], "it is too large");
        assert_eq!(
            (&shown["pin"]["name"], &shown["delegates"][0]),
            (&value!("n"), &value!("/dns/x/tcp/1/p2p/Qm"))
        );
    }

    #[test]
    fn every_refusal_has_status_and_reason() {
        use fula_service::Applied;
        for (error, status, reason) in [
            (ServiceError::OwnerQuotaExceeded(5), 409, "INSUFFICIENT_FUNDS"),
            (ServiceError::QuotaExceeded(5), 409, "INSUFFICIENT_FUNDS"),
            (ServiceError::TooManyPins(5), 409, "INSUFFICIENT_FUNDS"),
            (ServiceError::NoSuchKey, 404, "NOT_FOUND"),
            (ServiceError::AccessDenied, 403, "ACCESS_DENIED"),
            (ServiceError::Busy(Applied::None), 503, "SERVICE_UNAVAILABLE"),
            (ServiceError::Full, 507, "INSUFFICIENT_STORAGE"),
        ] {
            let found = Refused::of_service(&error);
            assert_eq!((found.status.as_u16(), found.reason), (status, reason), "{error}");
        }
        for (code, status) in [
            (S3ErrorCode::AccessDenied, 401),
            (S3ErrorCode::InvalidToken, 401),
            (S3ErrorCode::SlowDown, 429),
            (S3ErrorCode::ServiceUnavailable, 503),
        ] {
            assert_eq!(Refused::from(S3Error::new(code)).status.as_u16(), status);
        }
    }
}
