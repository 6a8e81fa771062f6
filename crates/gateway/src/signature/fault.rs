//! What AWS answers to a signature that cannot be used: its codes and texts.

use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3ErrorCode, s3_error};

use super::SCHEME;
use crate::error::{DETAIL_HEADER, escape};

/// Most characters of what a client sent that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// Why a signature is refused.
pub(crate) struct Refusal {
    /// What the client is told.
    pub(crate) error: S3Error,
    /// What the audit log says.
    pub(crate) reason: &'static str,
}

/// The signature is there, and wrong.
pub(crate) const FORGED: &str = "the signature is not that of the key";
const FORM: &str = "the form or the time of the signature is not accepted";
const LEAVES_OUT: &str = "the signature leaves out a header";

impl From<S3Error> for Refusal {
    fn from(error: S3Error) -> Self {
        Self { error, reason: FORM }
    }
}

/// Returns the beginning of what a client sent, as an error can say it: XML cannot carry every character.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

/// Where a credential was sent: faults of it are told apart by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the `Authorization` header.
    Header,
    /// In the query of a presigned URL.
    Query,
}

impl Place {
    /// Returns a fault of the credential.
    pub(super) fn fault(self, what: &str) -> S3Error {
        match self {
            Self::Header => header_malformed(what),
            Self::Query => {
                query_fault(&format!("Error parsing the X-Amz-Credential parameter; {what}"))
            }
        }
    }

    /// Returns the fault of a list of signed headers.
    pub(super) fn signed_headers(self) -> S3Error {
        match self {
            Self::Header => {
                header_malformed("the authorization component \"SignedHeaders\" is malformed.")
            }
            Self::Query => query_fault("Error parsing the X-Amz-SignedHeaders parameter"),
        }
    }

    /// Returns the fault of a credential for another region, which names the right one.
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

/// The scheme is another one than version 4 of signatures.
pub(super) fn unsupported() -> S3Error {
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

/// The signature does not cover the host.
pub(super) fn host_not_signed() -> Refusal {
    let error = s3_error!(AccessDenied, "The host header must be signed.");
    Refusal { error, reason: LEAVES_OUT }
}

/// Headers that count for S3 were sent and not signed.
pub(super) fn not_signed(names: &[&str]) -> Refusal {
    let text = "There were headers present in the request which were not signed";
    // A name may have characters that mean something in XML.
    let names = escape(&names.join(", "));
    let error = with_detail(
        s3_error!(AccessDenied, "{text}"),
        &format!("<HeadersNotSigned>{names}</HeadersNotSigned>"),
    );
    Refusal { error, reason: LEAVES_OUT }
}

/// Adds an element to an error; the outermost layer puts it in.
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
