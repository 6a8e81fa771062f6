//! The errors for signatures that cannot be used, with the codes and texts of AWS.

use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3ErrorCode, s3_error};

use super::SCHEME;
use crate::{error::DETAIL_HEADER, xml::escape};

/// Largest number of characters from a client that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// The reason why a signature is refused.
pub(crate) struct Refusal {
    /// Error for the client.
    pub(crate) error: S3Error,
    /// Reason for the audit log.
    pub(crate) reason: &'static str,
}

/// The reason for a signature that is wrong.
pub(crate) const FORGED: &str = "the signature is not that of the key";
const FORM: &str = "the form or the time of the signature is not accepted";
const LEAVES_OUT: &str = "the signature leaves out a header";

impl From<S3Error> for Refusal {
    fn from(error: S3Error) -> Self {
        Self { error, reason: FORM }
    }
}

/// Returns the beginning of a text from a client in a form for an error, because XML cannot carry every
/// character.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

/// The place of a credential, on which the errors depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The `Authorization` header.
    Header,
    /// The query of a presigned URL.
    Query,
    /// The fields of a form.
    Form,
}

impl Place {
    /// Returns the error for a credential that is wrong in this respect.
    pub(super) fn fault(self, what: &str) -> S3Error {
        match self {
            Self::Header => header_malformed(what),
            Self::Form => s3s::s3_error!(InvalidArgument, "X-Amz-Credential: {what}"),
            Self::Query => {
                query_fault(&format!("Error parsing the X-Amz-Credential parameter; {what}"))
            }
        }
    }

    /// Returns the error for a list of signed headers.
    pub(super) fn signed_headers(self) -> S3Error {
        match self {
            Self::Header => {
                header_malformed("the authorization component \"SignedHeaders\" is malformed.")
            }
            Self::Form => self.fault("the signed headers are malformed."),
            Self::Query => query_fault("Error parsing the X-Amz-SignedHeaders parameter"),
        }
    }

    /// Returns the error for a credential for another region. It names the right region.
    pub(super) fn region(self, found: &str, expected: &str) -> S3Error {
        let found = shown(found);
        let error = self.fault(&format!("the region '{found}' is wrong; expecting '{expected}'"));
        with_detail(error, &format!("<Region>{}</Region>", escape(expected)))
    }
}

pub(super) fn header_malformed(what: &str) -> S3Error {
    let text = format!("The authorization header is malformed; {what}");
    S3Error::with_message(S3ErrorCode::AuthorizationHeaderMalformed, text)
}

pub(super) fn query_fault(text: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::AuthorizationQueryParametersError, text.to_owned())
}

/// Returns the error for another scheme than version 4 of signatures.
pub(crate) fn unsupported() -> S3Error {
    s3_error!(
        InvalidRequest,
        "The authorization mechanism you have provided is not supported. Please use {SCHEME}."
    )
}

pub(super) fn no_date() -> S3Error {
    s3_error!(AccessDenied, "AWS authentication requires a valid Date or x-amz-date header")
}

pub(super) fn too_skewed() -> S3Error {
    let text = "The difference between the request time and the current time is too large.";
    s3_error!(RequestTimeTooSkewed, "{text}")
}

/// Returns the refusal of a signature that does not cover the host.
pub(super) fn host_not_signed() -> Refusal {
    let error = s3_error!(AccessDenied, "The host header must be signed.");
    Refusal { error, reason: LEAVES_OUT }
}

/// Returns the refusal of a request with headers that S3 uses and that are not signed.
pub(super) fn not_signed(names: &[&str]) -> Refusal {
    let text = "There were headers present in the request which were not signed";
    // A name may contain characters with a meaning in XML.
    let names = escape(&names.join(", "));
    let error = with_detail(
        s3_error!(AccessDenied, "{text}"),
        &format!("<HeadersNotSigned>{names}</HeadersNotSigned>"),
    );
    Refusal { error, reason: LEAVES_OUT }
}

/// Adds an element to an error. The outermost layer inserts it.
fn with_detail(mut error: S3Error, element: &str) -> S3Error {
    if let Ok(value) = HeaderValue::from_str(element) {
        error.set_headers(HeaderMap::from_iter([(DETAIL_HEADER, value)]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_headers_are_escaped() {
        let refusal = not_signed(&["x-amz-a&b", "x-amz-c"]);
        let detail = refusal.error.headers().unwrap().get(DETAIL_HEADER).unwrap();
        assert_eq!(detail, "<HeadersNotSigned>x-amz-a&amp;b, x-amz-c</HeadersNotSigned>");
    }
}
