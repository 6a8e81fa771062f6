//! The kinds of credentials, and how a request carries them.

use http::{HeaderMap, Uri, header, request::Parts};
use s3s::{S3Result, s3_error};

use crate::presigned::is_v4_url;

/// The kind of credential of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// There is none: the request is anonymous.
    None,
    /// An `Authorization` header.
    Header,
    /// The query of a presigned URL.
    Presigned,
}

impl Credential {
    /// Determines the credential of a request. A URL with any parameter of a signature of version 4 counts
    /// as presigned, even without the signature. Otherwise the signature could be moved into a header,
    /// where it does not expire with the URL.
    ///
    /// # Errors
    /// 400 `InvalidArgument` for two credentials.
    pub(crate) fn of(parts: &Parts) -> S3Result<Self> {
        let is_presigned = is_v4_url(&parts.uri) || has_query(&parts.uri, "Signature");
        let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter();
        match (headers.next(), is_presigned) {
            (None, false) => Ok(Self::None),
            (None, true) => Ok(Self::Presigned),
            (Some(_), false) if headers.next().is_none() => Ok(Self::Header),
            _ => {
                let text = "Only one way to authenticate is allowed: an Authorization header, or \
                            the query of a presigned URL.";
                Err(s3_error!(InvalidArgument, "{text}"))
            }
        }
    }
}

fn has_query(uri: &Uri, name: &str) -> bool {
    let query = uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).any(|(found, _)| found == name)
}

/// Returns the token of an `Authorization: Bearer` header.
///
/// # Errors
/// 400 `InvalidArgument` for more than one `Authorization` header.
pub(crate) fn bearer_of(headers: &HeaderMap) -> S3Result<Option<String>> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(s3_error!(InvalidArgument, "There is more than one Authorization header."));
    }
    let text = first.as_bytes();
    let scheme = text.split(|&byte| byte == b' ').next().unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    // Bytes that are not text make the token invalid, not the header.
    Ok(Some(String::from_utf8_lossy(&text[scheme.len()..]).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, \
                          SignedHeaders=host;x-amz-date, Signature=0";

    fn found(uri: &str, authorization: &[&str]) -> Result<Credential, String> {
        let mut request = Request::builder().uri(uri);
        for value in authorization {
            request = request.header(header::AUTHORIZATION, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Credential::of(&parts).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn a_request_carries_one_credential() {
        let presigned = "/b/k?X-Amz-SignedHeaders=content-type%3Bhost&X-Amz-Signature=0";
        assert_eq!(found("/b/k?prefix=X-Amz-Signature", &[]), Ok(Credential::None));
        assert_eq!(found("/b/k", &[SIGNED]), Ok(Credential::Header));
        assert_eq!(found("/b/k", &["Bearer abc"]), Ok(Credential::Header));
        assert_eq!(found("/b/k", &[""]), Ok(Credential::Header));
        assert_eq!(found(presigned, &[]), Ok(Credential::Presigned));
        assert_eq!(found("/b/k?AWSAccessKeyId=a&Signature=0", &[]), Ok(Credential::Presigned));
        for two in [vec![SIGNED], vec!["Bearer abc"], vec![""]] {
            assert_eq!(found(presigned, &two), Err("InvalidArgument".to_owned()), "{two:?}");
        }
        assert_eq!(found("/b/k", &[SIGNED, SIGNED]), Err("InvalidArgument".to_owned()));
    }

    #[test]
    fn a_url_without_its_signature_is_presigned() {
        let names = ["Algorithm", "Credential", "Date", "Expires", "Signature", "SignedHeaders"];
        for name in names {
            let uri = format!("/b/k?prefix=a&X-Amz-{name}=0");
            assert_eq!(found(&uri, &[]), Ok(Credential::Presigned), "{name}");
            assert_eq!(found(&uri, &[SIGNED]), Err("InvalidArgument".to_owned()), "{name}");
        }
        let escaped = "/b/k?%58-Amz-Algorithm=0";
        assert_eq!(found(escaped, &[SIGNED]), Err("InvalidArgument".to_owned()));
    }
}
