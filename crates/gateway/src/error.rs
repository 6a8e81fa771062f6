//! Maps service errors to S3 errors. [`row`] is the table, with one row for each error and no catch-all.
//! What all errors of a kind have in common is decided in [`s3_error()`] and [`log`], once for each
//! [`ErrorKind`].

#[cfg(test)]
mod tests;

use fula_service::{Applied, ConditionName, ErrorKind, Outage, ServiceError, error::chain};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use s3s::{Body, S3Error, S3ErrorCode, s3_error};

use crate::{
    date::{http_date, timestamp},
    xml::escape,
};

/// Number of seconds that a client is asked to wait before it tries again.
const RETRY_AFTER_SECONDS: &str = "1";

/// Header that tells the client whether a failed write may have been applied.
const OUTCOME_HEADER: HeaderName = HeaderName::from_static("x-fula-outcome");

/// Header that tells the outermost layer which condition failed. It is never sent.
pub(crate) const CONDITION_HEADER: HeaderName = HeaderName::from_static("x-fula-condition");

/// Header that tells the outermost layer that the signature of a chunk is wrong. It is never sent.
pub(crate) const FORGED_HEADER: HeaderName = HeaderName::from_static("x-fula-forged");

/// Header that carries an additional element of an error to the outermost layer. It is never sent.
pub(crate) const DETAIL_HEADER: HeaderName = HeaderName::from_static("x-fula-detail");

/// Maps an error to the error for the client, and logs once what only the log may contain.
pub(crate) fn s3_error(error: ServiceError) -> S3Error {
    log(&error);
    let answer = row(&error);
    match error.kind() {
        // Only the operator ends that: the client is not asked to try again.
        ErrorKind::Retry(outcome) if error.outage() == Some(Outage::Forked) => {
            with_headers(answer, [outcome_header(outcome)])
        }
        ErrorKind::Retry(outcome) => retry_later(answer, outcome),
        ErrorKind::Damaged | ErrorKind::Full => {
            with_headers(answer, [outcome_header(Applied::None)])
        }
        ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::Precondition
        | ErrorKind::Conflict
        | ErrorKind::Invalid
        | ErrorKind::Bug => answer,
    }
}

/// Logs what the operator needs to know of an error. An error of a kind that is logged is logged unless it
/// is named here.
fn log(error: &ServiceError) {
    if let ServiceError::InCommit { error, .. } = error {
        return log(error);
    }
    match error.kind() {
        ErrorKind::Bug => tracing::error!(why = chain(error), "internal error: please report it"),
        ErrorKind::Retry(_) | ErrorKind::Damaged => match error {
            ServiceError::Busy(_) => {}
            ServiceError::Regressed(why) => {
                tracing::error!(why, "request refused: the arbiter is in doubt");
            }
            error => {
                tracing::error!(why = chain(error), "request failed: a store cannot serve it");
                metrics::counter!("fula_unavailable_total").increment(1);
            }
        },
        ErrorKind::Invalid => {
            if let ServiceError::BodyFailed(why) = error {
                tracing::debug!(why, "a request body could not be read");
            }
        }
        ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::Precondition
        | ErrorKind::Conflict
        | ErrorKind::Full => {}
    }
}

/// Returns the code of an error, a text where that of S3 is not enough, and the headers that are specific
/// to this error.
fn row(error: &ServiceError) -> S3Error {
    use S3ErrorCode as Code;
    use ServiceError as E;
    match error {
        E::NoSuchBucket => Code::NoSuchBucket.into(),
        E::BucketAlreadyOwned => already_owned(),
        E::BucketNameTaken => Code::BucketAlreadyExists.into(),
        E::TooManyBuckets(max) => too_many_buckets(*max),
        E::TooManyPublicBuckets(max) => too_many_public(*max),
        E::TooManyPins(_) => s3_error!(InvalidRequest, "{error}."),
        E::QuotaExceeded(max) => quota_exceeded("The bucket", *max, "FULA_BUCKET_QUOTA"),
        E::OwnerQuotaExceeded(max) => {
            quota_exceeded("All your buckets together", *max, "FULA_OWNER_QUOTA")
        }
        E::BucketNotEmpty => Code::BucketNotEmpty.into(),
        E::MalformedPolicy(why) => s3_error!(MalformedPolicy, "{why}"),
        E::PublicPolicyBlocked => s3_error!(
            AccessDenied,
            "Public policies are blocked by the BlockPublicPolicy block public access setting."
        ),
        E::AclsNotSupported => {
            s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs")
        }
        E::BucketAclInUse => s3_error!(
            InvalidBucketAclWithObjectOwnership,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
        ),
        E::NoSuchPolicy => s3_error!(NoSuchBucketPolicy, "The bucket policy does not exist"),
        E::NoSuchKey => Code::NoSuchKey.into(),
        E::NoSuchVersion => s3_error!(NoSuchVersion, "The specified version does not exist."),
        E::VersionExpired(_) => custom("VersionExpired", StatusCode::GONE, error.to_string()),
        E::DeleteMarker { id, time_ms, is_named } => delete_marker(*id, *time_ms, *is_named),
        E::NoSuchUpload => Code::NoSuchUpload.into(),
        E::InvalidPart(_) => Code::InvalidPart.into(),
        E::InvalidPartOrder => Code::InvalidPartOrder.into(),
        E::PartTooSmall(_) => Code::EntityTooSmall.into(),
        E::PreconditionFailed(name) => precondition_failed(*name),
        E::InCommit { key, error } => in_commit(key, row(error)),
        E::NotModified { etag, time_ms } => not_modified(etag, *time_ms),
        E::InvalidRange { size } => invalid_range(*size),
        E::CredentialExpired => credential_expired(),
        E::AccessDenied => Code::AccessDenied.into(),
        E::BadDigest(what) => {
            s3_error!(BadDigest, "The {what} you specified did not match what we received.")
        }
        E::InvalidDigest("Content-MD5") => Code::InvalidDigest.into(),
        E::InvalidDigest(what) => s3_error!(InvalidRequest, "Value for {what} header is invalid."),
        E::PayloadMismatch => payload_mismatch(),
        E::ChunkSignatureMismatch => forged_chunk(),
        E::IncompleteBody { .. } | E::BodyFailed(_) => Code::IncompleteBody.into(),
        E::EntityTooLarge(_) => Code::EntityTooLarge.into(),
        E::MetadataTooLarge(_) => Code::MetadataTooLarge.into(),
        E::InvalidWriteOffset(_) => custom(
            "InvalidWriteOffset",
            StatusCode::BAD_REQUEST,
            "The write offset value that you specified does not match the current object size.".to_owned(),
        ),
        E::TooManyParts => custom(
            "TooManyParts",
            StatusCode::BAD_REQUEST,
            "You have attempted to add more parts than the maximum of 10000 that are allowed for this \
             object."
                .to_owned(),
        ),
        E::InvalidArgument(text) => s3_error!(InvalidArgument, "{text}"),
        E::InvalidRequest(text) => s3_error!(InvalidRequest, "{text}"),
        E::NotProved(why) => s3_error!(AccessDenied, "Access Denied: {why}."),
        E::NotHeld(why) => not_held(why),
        E::NodeAway(name) => {
            let text = format!(
                "Storage node {name}, which holds the content, does not answer. Send the request again later."
            );
            S3Error::with_message(S3ErrorCode::SlowDown, text)
        }
        E::NotImplemented(what) => not_implemented(what),
        E::Busy(outcome) => s3_error!(SlowDown, "{}", busy_text(*outcome)),
        // Sending the request again, and more slowly, helps once the store is back.
        E::Unavailable(_) => s3_error!(SlowDown, "{}", outage_text(outage_of(error))),
        // It does not help while the gateways do not agree, or the operator has not decided.
        E::Regressed(_) => s3_error!(ServiceUnavailable, "{}", outage_text(outage_of(error))),
        E::Damaged(_) => s3_error!(InternalError, "{}", outage_text(outage_of(error))),
        E::NoMasterKey(id) => s3_error!(ServiceUnavailable, "{}", no_master_key(id)),
        E::Full => full(),
        E::NewerFormat => newer_format(),
        E::Internal(_) => Code::InternalError.into(),
    }
}

/// Returns the error for a bucket that the caller has. The usual text speaks of regions of AWS.
fn already_owned() -> S3Error {
    s3_error!(
        BucketAlreadyOwnedByYou,
        "Your previous request to create the named bucket succeeded and you already own it."
    )
}

fn no_master_key(id: &str) -> String {
    if id.is_empty() {
        return "This gateway has no key to encrypt objects under. The operator names a key file with \
                FULA_SECRETS_KEY_FILE."
            .to_owned();
    }
    format!(
        "The object is encrypted under the key {id}, which this gateway does not have. Sending the request \
         again does not help. The operator adds that key to the file of FULA_SECRETS_KEY_FILE."
    )
}

fn outage_of(error: &ServiceError) -> Outage {
    error.outage().unwrap_or(Outage::Other)
}

fn busy_text(outcome: Applied) -> &'static str {
    match outcome {
        Applied::None => {
            "The gateway has more to do than it can finish in time. Nothing was changed. Please reduce your \
             request rate, and send the request again later."
        }
        Applied::Unknown => {
            "No answer came in time, so it is not known whether the request was carried out. Send the same \
             request again, or look first whether it was."
        }
    }
}

/// Returns what is wrong and what to do, for the client. The text reveals nothing about other buckets,
/// addresses or names of machines; these are in the log.
fn outage_text(outage: Outage) -> &'static str {
    match outage {
        Outage::Arbiter { is_late: false } => {
            "The database that orders changes (the arbiter) cannot be reached. Send the request again later. \
             The operator checks the database of FULA_DATABASE_URL, and /readyz."
        }
        Outage::Arbiter { is_late: true } => {
            "The database that orders changes (the arbiter) does not answer in time. Send the request again \
             later. The operator checks the database of FULA_DATABASE_URL, and /readyz."
        }
        Outage::Blocks { is_late: false } => {
            "The block store cannot be used. Send the request again later. The operator checks the store of \
             FULA_BLOCKS, and /readyz."
        }
        Outage::Blocks { is_late: true } => {
            "The block store does not answer in time. Send the request again later. The operator checks the \
             store of FULA_BLOCKS, and /readyz."
        }
        Outage::OwnDisk => {
            "The disk of this gateway cannot be read or written. Send the request again later. The operator \
             checks the disk of FULA_DATA_DIR, and /readyz."
        }
        Outage::InDoubt => {
            "The database that orders changes (the arbiter) went back in time, as after a restore, and is in \
             doubt until the gateways agree. Send the request again later. The operator sees with `fula \
             roots show` which masters are missing."
        }
        Outage::Forked => {
            "This bucket is quarantined: after the database (the arbiter) went back in time, gateways \
             remember states of it that exclude one another. Sending the request again does not help. The \
             operator runs `fula roots merge`."
        }
        Outage::BlockMissing => {
            "A block that the answer needs is missing from the block store. Sending the request again does \
             not help. The operator finds what is missing with `fula fsck`, and restores it; or put the \
             object again."
        }
        Outage::BlockDamaged => {
            "A block that the answer needs is damaged. Sending the request again does not help. The operator \
             finds what is damaged with `fula fsck`, and restores it; or put the object again."
        }
        Outage::Other => {
            "The gateway cannot answer now. Send the request again later. The operator finds the reason in \
             the log of the gateway."
        }
    }
}

/// Asks the client to send the request again, and states whether a write may have been applied.
fn retry_later(mut error: S3Error, outcome: Applied) -> S3Error {
    error.set_status_code(StatusCode::SERVICE_UNAVAILABLE);
    let retry_after = HeaderValue::from_static(RETRY_AFTER_SECONDS);
    with_headers(error, [(header::RETRY_AFTER, retry_after), outcome_header(outcome)])
}

fn outcome_header(outcome: Applied) -> (HeaderName, HeaderValue) {
    let outcome = match outcome {
        Applied::None => "none",
        Applied::Unknown => "unknown",
    };
    (OUTCOME_HEADER, HeaderValue::from_static(outcome))
}

/// Adds the elements that name a wrong argument.
pub(crate) fn with_argument(error: S3Error, name: &str, value: &HeaderValue) -> S3Error {
    let value = escape(&String::from_utf8_lossy(value.as_bytes()));
    let detail =
        format!("<ArgumentName>{name}</ArgumentName><ArgumentValue>{value}</ArgumentValue>");
    with_detail(error, &detail)
}

/// Adds the element that names the bucket of an error.
pub(crate) fn with_bucket(error: S3Error, bucket: &str) -> S3Error {
    with_detail(error, &format!("<BucketName>{}</BucketName>", escape(bucket)))
}

/// Adds elements to an error.
pub(crate) fn with_detail(error: S3Error, elements: &str) -> S3Error {
    let detail = HeaderValue::from_str(elements).ok();
    with_headers(error, detail.map(|detail| (DETAIL_HEADER, detail)))
}

fn with_headers(
    mut error: S3Error,
    added: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> S3Error {
    let mut headers = error.headers().cloned().unwrap_or_default();
    headers.extend(added);
    error.set_headers(headers);
    error
}

/// Returns an error with a code that S3 servers use and `s3s` does not know.
pub(crate) fn custom(code: &'static str, status: StatusCode, text: String) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), text);
    error.set_status_code(status);
    error
}

fn too_many_buckets(max: u64) -> S3Error {
    s3_error!(
        TooManyBuckets,
        "You have {max} buckets, which is the most that one owner may have here. Delete a \
         bucket first, or let the operator raise FULA_BUCKETS_PER_OWNER."
    )
}

/// Returns the error for a bucket or an owner whose quota is used up. AWS has none; Ceph uses this code and status.
fn quota_exceeded(what: &str, max: u64, setting: &str) -> S3Error {
    let code = S3ErrorCode::Custom("QuotaExceeded".into());
    let text = format!(
        "{what} may not grow beyond {max} bytes. Delete objects, or let the operator raise {setting}."
    );
    let mut error = S3Error::with_message(code, text);
    error.set_status_code(http::StatusCode::FORBIDDEN);
    error
}

/// Returns the error for too many public buckets, with advice. Its code is the one that STS uses for
/// limits, too.
fn too_many_public(max: u64) -> S3Error {
    let text = format!(
        "You have {max} public buckets, which is the most that one owner may have here. Remove the \
         policy of another bucket first, or let the operator raise FULA_PUBLIC_BUCKETS_PER_OWNER."
    );
    custom("LimitExceeded", StatusCode::BAD_REQUEST, text)
}

/// Returns the error for an unsupported feature, which it names, so that nothing in a request is silently
/// ignored.
pub(crate) fn not_implemented(what: &str) -> S3Error {
    s3_error!(NotImplemented, "{what} is not implemented.")
}

/// Returns the error for a mapping whose blocks are not there. Clients then send the content itself.
fn not_held(why: &str) -> S3Error {
    let text =
        format!("The blocks of the mapping are not there: {why}. Send them, or the content.");
    s3_error!(OperationAborted, "{text}")
}

fn credential_expired() -> S3Error {
    s3_error!(
        ExpiredToken,
        "The credential expired before the request was complete; nothing was written. \
         Get a new credential and send the request again."
    )
}

fn newer_format() -> S3Error {
    let text = "This bucket was written by a newer version of Fula and is read-only here.";
    S3Error::with_message(S3ErrorCode::MethodNotAllowed, text)
}

/// Returns the error for a body that does not match `x-amz-content-sha256`.
pub(crate) fn payload_mismatch() -> S3Error {
    let text = "The provided 'x-amz-content-sha256' header does not match what was computed.";
    custom("XAmzContentSHA256Mismatch", StatusCode::BAD_REQUEST, text.to_owned())
}

fn forged_chunk() -> S3Error {
    let error = S3Error::new(S3ErrorCode::SignatureDoesNotMatch);
    with_headers(error, [(FORGED_HEADER, HeaderValue::from_static("chunk"))])
}

fn precondition_failed(name: ConditionName) -> S3Error {
    let text = "At least one of the pre-conditions you specified did not hold";
    let error = S3Error::with_message(S3ErrorCode::PreconditionFailed, text);
    // The outermost layer turns this into the <Condition> element and removes it.
    let condition = HeaderValue::from_str(&name.to_string()).ok();
    with_headers(error, condition.map(|condition| (CONDITION_HEADER, condition)))
}

/// Adds the key of a change of a commit to its error.
fn in_commit(key: &str, mut error: S3Error) -> S3Error {
    let text = error.message().unwrap_or_else(|| error.code().as_str()).to_owned();
    error.set_message(format!("{text} (key {key:?}; nothing of the commit was carried out)"));
    error
}

fn not_modified(etag: &fula_core::bucket::ETag, time_ms: u64) -> S3Error {
    let etag = HeaderValue::from_str(&format!("\"{etag}\"")).ok();
    let time = http_date(timestamp(time_ms));
    let headers = [(header::ETAG, etag), (header::LAST_MODIFIED, time)];
    let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
    with_headers(S3Error::new(S3ErrorCode::NotModified), headers)
}

/// Returns the error for a delete marker: there is no object, or the version that was named has no content.
fn delete_marker(id: fula_core::bucket::VersionId, time_ms: u64, is_named: bool) -> S3Error {
    let mut headers = vec![(HeaderName::from_static("x-amz-delete-marker"), "true".parse().ok())];
    headers.push((HeaderName::from_static("x-amz-version-id"), id.to_string().parse().ok()));
    let error = if is_named {
        headers.push((header::ALLOW, Some(HeaderValue::from_static("DELETE"))));
        // The answer to a retry does not tell the time.
        headers
            .push((header::LAST_MODIFIED, http_date(timestamp(time_ms)).filter(|_| time_ms > 0)));
        S3ErrorCode::MethodNotAllowed
    } else {
        S3ErrorCode::NoSuchKey
    };
    let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
    with_headers(S3Error::new(error), headers)
}

fn invalid_range(size: u64) -> S3Error {
    let range = HeaderValue::from_str(&format!("bytes */{size}")).ok();
    let header = range.map(|range| (header::CONTENT_RANGE, range));
    with_headers(S3Error::new(S3ErrorCode::InvalidRange), header)
}

pub(crate) fn busy(outcome: Applied) -> S3Error {
    s3_error(ServiceError::Busy(outcome))
}

fn full() -> S3Error {
    let text = "The gateway is out of storage space; nothing was written.";
    custom("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE, text.to_owned())
}

/// Returns the error for a body that is longer than the limit.
pub(crate) fn too_large(bytes_max: usize) -> S3Error {
    s3_error!(
        MaxMessageLengthExceeded,
        "The body is larger than {bytes_max} bytes. The operator can raise FULA_XML_BYTES for XML and JSON, and \
         FULA_COMMIT_BYTES for commits in dag-cbor."
    )
}

/// Returns the answer for an error.
pub(crate) fn respond(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
