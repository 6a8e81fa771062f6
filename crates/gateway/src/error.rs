//! Service errors to S3 errors: every variant is decided here, there is no catch-all.

use fula_service::{Applied, ConditionName, ServiceError, error::chain};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use s3s::{Body, S3Error, S3ErrorCode, s3_error};

use crate::date::{http_date, timestamp};

/// Seconds a client is asked to wait before it tries again.
const RETRY_AFTER_SECONDS: &str = "1";

/// Tells the outermost layer which condition failed; never sent.
pub(crate) const CONDITION_HEADER: HeaderName = HeaderName::from_static("x-fula-condition");

/// Tells the outermost layer that the signature of a chunk is not that of the key; never sent.
pub(crate) const FORGED_HEADER: HeaderName = HeaderName::from_static("x-fula-forged");

/// Tells the outermost layer of an element that an error has besides; never sent.
pub(crate) const DETAIL_HEADER: HeaderName = HeaderName::from_static("x-fula-detail");

/// Maps an error to what the client sees; what only the log may see is logged here, once.
pub(crate) fn s3_error(error: ServiceError) -> S3Error {
    let (code, message): (S3ErrorCode, Option<String>) = match error {
        ServiceError::NoSuchBucket => (S3ErrorCode::NoSuchBucket, None),
        ServiceError::BucketAlreadyOwned => (S3ErrorCode::BucketAlreadyOwnedByYou, None),
        ServiceError::BucketNameTaken => (S3ErrorCode::BucketAlreadyExists, None),
        ServiceError::TooManyBuckets(max) => {
            let text = format!(
                "You have {max} buckets, which is the most that one owner may have here. Delete a \
                 bucket first, or let the operator raise FULA_BUCKETS_PER_OWNER."
            );
            (S3ErrorCode::TooManyBuckets, Some(text))
        }
        ServiceError::TooManyPublicBuckets(max) => return too_many_public(max),
        ServiceError::BucketNotEmpty => (S3ErrorCode::BucketNotEmpty, None),
        ServiceError::MalformedPolicy(why) => (S3ErrorCode::MalformedPolicy, Some(why)),
        ServiceError::NoSuchPolicy => (S3ErrorCode::NoSuchBucketPolicy, None),
        ServiceError::NoSuchKey => (S3ErrorCode::NoSuchKey, None),
        ServiceError::NoSuchUpload => (S3ErrorCode::NoSuchUpload, None),
        ServiceError::InvalidPart(_) => (S3ErrorCode::InvalidPart, None),
        ServiceError::InvalidPartOrder => (S3ErrorCode::InvalidPartOrder, None),
        ServiceError::PartTooSmall(_) => (S3ErrorCode::EntityTooSmall, None),
        ServiceError::PreconditionFailed(name) => return precondition_failed(name),
        ServiceError::InCommit { key, error } => return in_commit(&key, s3_error(*error)),
        ServiceError::NotModified { etag, time_ms } => return not_modified(&etag, time_ms),
        ServiceError::InvalidRange { size } => return invalid_range(size),
        ServiceError::CredentialExpired => {
            let text = "The credential ended before the request was complete; nothing was written. \
                        Get a new credential and send the request again.";
            (S3ErrorCode::ExpiredToken, Some(text.to_owned()))
        }
        ServiceError::AccessDenied => (S3ErrorCode::AccessDenied, None),
        ServiceError::BadDigest(what) => (
            S3ErrorCode::BadDigest,
            Some(format!("The {what} you specified did not match what we received.")),
        ),
        ServiceError::InvalidDigest("Content-MD5") => (S3ErrorCode::InvalidDigest, None),
        ServiceError::InvalidDigest(what) => {
            (S3ErrorCode::InvalidRequest, Some(format!("Value for {what} header is invalid.")))
        }
        ServiceError::PayloadMismatch => return payload_mismatch(),
        ServiceError::ChunkSignatureMismatch => return forged_chunk(),
        ServiceError::IncompleteBody { .. } => (S3ErrorCode::IncompleteBody, None),
        ServiceError::BodyFailed(why) => {
            tracing::debug!(why, "a request body broke off");
            (S3ErrorCode::IncompleteBody, None)
        }
        ServiceError::EntityTooLarge(_) => (S3ErrorCode::EntityTooLarge, None),
        ServiceError::MetadataTooLarge(_) => (S3ErrorCode::MetadataTooLarge, None),
        ServiceError::InvalidArgument(text) => (S3ErrorCode::InvalidArgument, Some(text)),
        ServiceError::InvalidRequest(text) => (S3ErrorCode::InvalidRequest, Some(text)),
        ServiceError::NotImplemented(what) => return not_implemented(what),
        ServiceError::Busy(outcome) => return busy(outcome),
        ServiceError::Full => return full(),
        ServiceError::NewerFormat => {
            let text = "This bucket is written by a newer version of Fula; it is read-only here.";
            (S3ErrorCode::MethodNotAllowed, Some(text.to_owned()))
        }
        ServiceError::Internal(_) => {
            tracing::error!(why = chain(&error), "internal error");
            (S3ErrorCode::InternalError, None)
        }
        ServiceError::Regressed(why) => {
            tracing::error!(why, "refused: the arbiter is in doubt");
            return busy(Applied::None);
        }
        ServiceError::Unavailable(_) | ServiceError::Damaged(_) => {
            tracing::error!(why = chain(&error), "unavailable");
            metrics::counter!("fula_unavailable_total").increment(1);
            return busy(Applied::None);
        }
    };
    match message {
        Some(message) => S3Error::with_message(code, message),
        None => S3Error::new(code),
    }
}

/// Says how a bucket can be made public all the same. It is the code that STS uses for a limit, too.
fn too_many_public(max: u64) -> S3Error {
    let text = format!(
        "You have {max} public buckets, which is the most that one owner may have here. Remove the \
         policy of another bucket first, or let the operator raise FULA_PUBLIC_BUCKETS_PER_OWNER."
    );
    let mut error = S3Error::with_message(S3ErrorCode::Custom("LimitExceeded".into()), text);
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

/// Names what is not offered, so that nothing asked for is silently ignored.
pub(crate) fn not_implemented(what: &str) -> S3Error {
    let text = format!("{what} is not implemented.");
    S3Error::with_message(S3ErrorCode::NotImplemented, text)
}

/// The body is not what `x-amz-content-sha256` says.
pub(crate) fn payload_mismatch() -> S3Error {
    let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
    let text = "The provided 'x-amz-content-sha256' header does not match what was computed.";
    let mut error = S3Error::with_message(code, text);
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

fn forged_chunk() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::SignatureDoesNotMatch);
    let mut headers = HeaderMap::new();
    headers.insert(FORGED_HEADER, HeaderValue::from_static("chunk"));
    error.set_headers(headers);
    error
}

fn precondition_failed(name: ConditionName) -> S3Error {
    let condition = match name {
        ConditionName::IfMatch => "If-Match",
        ConditionName::IfNoneMatch => "If-None-Match",
        ConditionName::IfUnmodifiedSince => "If-Unmodified-Since",
        ConditionName::IfModifiedSince => "If-Modified-Since",
        ConditionName::BucketVersion => "x-fula-if-version",
    };
    let text = "At least one of the pre-conditions you specified did not hold";
    let mut error = S3Error::with_message(S3ErrorCode::PreconditionFailed, text);
    let mut headers = HeaderMap::new();
    // The outer layer turns this into the <Condition> element and removes it.
    headers.insert(CONDITION_HEADER, HeaderValue::from_static(condition));
    error.set_headers(headers);
    error
}

/// Says which change of a commit an error is about.
fn in_commit(key: &str, mut error: S3Error) -> S3Error {
    let text = error.message().unwrap_or_else(|| error.code().as_str()).to_owned();
    error.set_message(format!("{text} (key {key:?}; nothing of the commit was carried out)"));
    error
}

fn not_modified(etag: &fula_core::bucket::ETag, time_ms: u64) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        headers.insert(header::ETAG, value);
    }
    if let Some(value) = http_date(timestamp(time_ms)) {
        headers.insert(header::LAST_MODIFIED, value);
    }
    error.set_headers(headers);
    error
}

fn invalid_range(size: u64) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::InvalidRange);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    error.set_headers(headers);
    error
}

pub(crate) fn busy(outcome: Applied) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::SlowDown);
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    let outcome = match outcome {
        Applied::None => "none",
        Applied::Unknown => "unknown",
    };
    headers.insert("x-fula-outcome", HeaderValue::from_static(outcome));
    error.set_headers(headers);
    error.set_status_code(StatusCode::SERVICE_UNAVAILABLE);
    error
}

fn full() -> S3Error {
    let code = S3ErrorCode::Custom("InsufficientStorage".into());
    let text = "The gateway is out of storage space; nothing was written.";
    let mut error = S3Error::with_message(code, text);
    error.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
    let mut headers = HeaderMap::new();
    headers.insert("x-fula-outcome", HeaderValue::from_static("none"));
    error.set_headers(headers);
    error
}

/// A body over the limit.
pub(crate) fn too_large(bytes_max: usize) -> S3Error {
    s3_error!(MaxMessageLengthExceeded, "XML bodies are at most {bytes_max} bytes.")
}

/// Returns the answer that an error is.
pub(crate) fn respond(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Returns a text as XML holds it.
pub(crate) fn escape(text: &str) -> String {
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
