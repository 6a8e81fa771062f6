//! Access for the fuzz targets in `fuzz/` to the parsers of data from clients, which are private otherwise.
//!
//! The module exists only in builds with the feature `fuzzing`, and in tests.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use s3s::{Body, StdError};

use crate::{
    credential::Credential,
    normalise, query,
    request_body::Lent,
    s3,
    signature::{
        Presented, Received, Rules,
        chunks::{Decoded, Framing},
    },
    sts::Asked,
};

pub use fula_core::BucketName;
pub use fula_service::{
    BatchAction, BatchChange,
    access::Action,
    policy::{Asked as PolicyRequest, Decision, Policy},
};

/// Parses the body of a multi-key commit, in dag-cbor or JSON. Returns `None` when it is refused.
pub fn commit(body: &[u8], is_cbor: bool) -> Option<Vec<BatchChange>> {
    let (_, changes) = s3::parse_commit(&Bytes::copy_from_slice(body), is_cbor).ok()?;
    Some(changes)
}

/// Determines the operation of a request. Returns a text that identifies the operation.
///
/// # Errors
/// The code of the S3 error, or an empty text when it is not a request.
pub fn operation(method: &Method, uri: &str, host_is_bucket: bool) -> Result<String, String> {
    let request = Request::builder().method(method).uri(uri).body(());
    let (parts, ()) = request.map_err(|_| String::new())?.into_parts();
    match query::route(&parts, host_is_bucket) {
        Ok(route) => Ok(format!("{route:?}")),
        Err(error) => Err(error.code().as_str().to_owned()),
    }
}

/// Parses the signature of a request, and compares it with the one of a secret. Returns what the operation
/// would see of the request: its query, and the names of its headers.
///
/// # Errors
/// The code of the S3 error, or an empty text when it is not a request.
pub fn signed(
    method: &Method,
    uri: &str,
    headers: &[(&str, &[u8])],
    secret: &str,
    now: u64,
) -> Result<(String, Vec<String>), String> {
    let code = |error: s3s::S3Error| error.code().as_str().to_owned();
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (mut parts, ()) = request.body(()).map_err(|_| String::new())?.into_parts();
    let credential = Credential::of(&parts).map_err(code)?;
    if credential == Credential::None {
        return Err("AccessDenied".to_owned());
    }
    let rules = Rules { region: None, presigned_v2: true };
    let (uri, headers) = (parts.uri.clone(), parts.headers.clone());
    let received = Received { method, uri: &uri, headers: &headers, host_bucket: None };
    let presented = Presented::of(&received, credential, &rules, now);
    let presented = presented.map_err(|refusal| code(refusal.error))?;
    if presented.verify(&received, secret).is_none() {
        return Err("SignatureDoesNotMatch".to_owned());
    }
    if credential == Credential::Presigned {
        normalise::take_presigned(&mut parts).map_err(code)?;
    }
    normalise::join_repeated(&mut parts.headers).map_err(code)?;
    let names = parts.headers.keys().map(|name| name.as_str().to_owned()).collect();
    Ok((parts.uri.query().unwrap_or_default().to_owned(), names))
}

/// Decodes a body in chunks without signatures that arrives in pieces of `piece` bytes. Returns `None` when
/// it is malformed.
pub async fn content_of_chunks(body: &[u8], piece: usize, length: u64) -> Option<Bytes> {
    let frames: Vec<_> = body
        .chunks(piece)
        .map(|part| Ok::<_, StdError>(Frame::data(Bytes::copy_from_slice(part))))
        .collect();
    let inner = Body::http_body_unsync(StreamBody::new(futures::stream::iter(frames)));
    let (headers, lent) = (HeaderMap::new(), Lent::default());
    let decoded = Decoded::decode(inner, Framing::Unsigned, None, length, &headers, lent);
    let (body, _) = decoded.ok()?;
    Some(body.collect().await.ok()?.to_bytes())
}

/// Expands character references in XML.
pub fn expanded(body: &[u8]) -> Bytes {
    normalise::expand_references(Bytes::copy_from_slice(body))
}

/// Returns the decoded names of the parameters of a query.
pub fn parameters(query: &str) -> Vec<String> {
    form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

/// Parses the form of a request for a session. Returns its parameters by name; `None` when it is refused.
pub fn session_form(body: &[u8]) -> Option<Vec<(&'static str, String)>> {
    let Asked { action, version, role, token, session_name, life } =
        Asked::parse(None, body).ok()?;
    let all = [
        ("Action", action),
        ("Version", version),
        ("RoleArn", role),
        ("WebIdentityToken", token),
        ("RoleSessionName", session_name),
        ("DurationSeconds", life),
    ];
    Some(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Returns the decoded parameters of a form.
pub fn form(body: &[u8]) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_of_a_session_is_there_once() {
        assert!(session_form(b"Action=a&DurationSeconds=900").is_some());
        for twice in ["Action=a&Action=a", "Action=a&DurationSeconds=&DurationSeconds=900"] {
            assert!(session_form(twice.as_bytes()).is_none(), "{twice}");
        }
    }

    #[tokio::test]
    async fn the_parsers_in_front_of_s3s_are_open() {
        let body = b"3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(content_of_chunks(body, 2, 3).await.as_deref(), Some(b"abc".as_slice()));
        assert_eq!(content_of_chunks(body, 2, 4).await, None);
        assert_eq!(expanded(b"<a>&#233;"), "<a>é".as_bytes());
        let told = |uri: &str, headers: &[(&str, &[u8])]| {
            signed(&Method::GET, uri, headers, "secret", 0).unwrap_err()
        };
        assert_eq!(told("/b/k", &[]), "AccessDenied");
        assert_eq!(told("/b/k", &[("authorization", b"AWS a:b")]), "InvalidRequest");
        let url = "/b/k?AWSAccessKeyId=a&Expires=5&Signature=AAAA";
        assert_eq!(told(url, &[]), "SignatureDoesNotMatch");
    }
}
