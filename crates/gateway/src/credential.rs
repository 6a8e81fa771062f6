//! Which credential a request carries, and what must be true of it before anything is verified.

use http::{HeaderMap, Uri, header, request::Parts};
use s3s::{S3Result, s3_error};

use crate::request::query_value;

/// The kind of credential that a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// None: the request is anonymous.
    None,
    /// An `Authorization` header.
    Header,
    /// The query of a presigned URL.
    Presigned,
}

impl Credential {
    /// Finds the credential of a request, and checks that a signature covers `host`: one that does
    /// not could be replayed against another server, or against another virtual host of this one.
    ///
    /// # Errors
    /// 400 `InvalidArgument` for two credentials; 403 `AccessDenied` when `host` is not signed.
    pub(crate) fn of(parts: &Parts) -> S3Result<Self> {
        let is_presigned =
            ["X-Amz-Signature", "Signature"].iter().any(|name| has_query(&parts.uri, name));
        let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter();
        let found = match (headers.next(), is_presigned) {
            (None, false) => return Ok(Self::None),
            (None, true) => Self::Presigned,
            (Some(_), false) if headers.next().is_none() => Self::Header,
            _ => {
                let text = "Only one way to authenticate is allowed: an Authorization header, or \
                            the query of a presigned URL.";
                return Err(s3_error!(InvalidArgument, "{text}"));
            }
        };
        // What cannot be read is refused where it is taken apart, with the error that says why.
        match signed_headers(&parts.headers, &parts.uri, found) {
            Some(names) if !names_header(&names, "host") => {
                Err(s3_error!(AccessDenied, "The host header must be signed."))
            }
            _ => Ok(found),
        }
    }
}

/// Returns the list of headers that a signature of version 4 covers, as the request gives it.
fn signed_headers(headers: &HeaderMap, uri: &Uri, credential: Credential) -> Option<String> {
    match credential {
        Credential::None => None,
        Credential::Presigned => query_value(uri, "X-Amz-SignedHeaders"),
        Credential::Header => {
            let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
            let mut fields = text.split(',').map(str::trim);
            fields.find_map(|field| field.strip_prefix("SignedHeaders=")).map(ToOwned::to_owned)
        }
    }
}

fn names_header(names: &str, wanted: &str) -> bool {
    names.split(';').any(|name| name.eq_ignore_ascii_case(wanted))
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
    // Bytes that are no text make the token wrong, not the header.
    let text = String::from_utf8_lossy(first.as_bytes());
    let (scheme, token) = text.split_once(' ').unwrap_or((&text, ""));
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()))
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
    fn the_host_is_signed() {
        let denied = Err("AccessDenied".to_owned());
        for names in ["x-amz-date", "", "x-amz-date;hosts", "ahost"] {
            let header = SIGNED.replace("host;x-amz-date", names);
            assert_eq!(found("/", &[&header]), denied, "{names}");
            let query = format!("/?X-Amz-Signature=0&X-Amz-SignedHeaders={names}");
            assert_eq!(found(&query, &[]), denied, "{names}");
        }
        assert_eq!(found("/", &[&SIGNED.replace("host", "Host")]), Ok(Credential::Header));
        // Neither a field nor a parameter beside the signature is taken for its list.
        let query = "/?X-Amz-SignedHeaders=host";
        assert_eq!(found(query, &[&SIGNED.replace("host;", "")]), denied);
        let header = SIGNED.replace("host;", "").replace("Credential=a", "Credential=host;a");
        assert_eq!(found("/", &[&header]), denied);
    }
}
