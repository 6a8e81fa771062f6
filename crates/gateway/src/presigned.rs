//! The parameters of presigned URLs: those that carry the signature, and those that stand for headers.

use std::borrow::Cow;

use http::Uri;

/// Returns the decoded name and value of a parameter.
pub(crate) fn parameter(pair: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_default()
}

/// Returns whether a parameter carries the signature of a presigned URL.
pub(crate) fn is_signature(name: &str) -> bool {
    v4_parameter(name) || v2_parameter(name)
}

/// Returns whether a URL has any parameter of a signature of version 4.
pub(crate) fn is_v4_url(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| v4_parameter(&parameter(pair).0))
}

/// Returns whether a parameter carries a signature of version 4, or what it covers.
fn v4_parameter(name: &str) -> bool {
    matches!(
        name,
        "X-Amz-Algorithm"
            | "X-Amz-Credential"
            | "X-Amz-Date"
            | "X-Amz-Expires"
            | "X-Amz-Signature"
            | "X-Amz-SignedHeaders"
    )
}

/// Returns whether a parameter carries a signature of version 2.
pub(crate) fn v2_parameter(name: &str) -> bool {
    ["AWSAccessKeyId", "Expires", "Signature"].contains(&name)
}

/// Returns whether a parameter of a presigned URL stands for the header of that name. Clients that presign
/// a request move headers into the query.
pub(crate) fn stands_for_header(name: &str, is_v2: bool) -> bool {
    let lower = name.to_ascii_lowercase();
    let is_v2_header = is_v2 && ["content-md5", "content-type"].contains(&lower.as_str());
    (lower.starts_with("x-amz-") && !is_signature(name)) || is_v2_header
}
