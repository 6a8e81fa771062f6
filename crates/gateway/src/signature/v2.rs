//! Presigned URLs of version 2, which some tools make by default, for reads and writes of one object.
//!
//! Such a signature covers the method, the path, `Expires`, `Content-MD5`, `Content-Type`, every `x-amz-`
//! header, and the parameters that name a part or replace headers of the answer. A parameter that it does
//! not cover is refused.

use base64::{Engine, prelude::BASE64_STANDARD};
use fula_identity::Seconds;
use http::Method;
use s3s::{S3Result, s3_error};
use subtle::ConstantTimeEq;

use super::{LIFE_MAX, Received, SKEW_MAX, fault::unsupported, readings};
use crate::{
    presigned::{stands_for_header, v2_parameter},
    query::{Level, level_of},
};

/// A signature as it was sent.
pub(crate) struct Presented {
    pub(super) access_key: String,
    pub(super) expires: Seconds,
    signature: Vec<u8>,
}

impl Presented {
    /// Parses the signature of a presigned URL.
    pub(super) fn of(received: &Received<'_>, now: Seconds) -> S3Result<Self> {
        let level = level_of(received.uri.path(), received.host_bucket.is_some());
        let is_offered = [Method::GET, Method::HEAD, Method::PUT].contains(received.method);
        let parameters = received.parameters();
        let is_copy = received.headers.contains_key("x-amz-copy-source")
            || parameters.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-amz-copy-source"));
        if level != Level::Object || !is_offered || is_copy {
            return Err(unsupported());
        }
        let one = |wanted: &str| {
            let mut all = parameters.iter().filter(|(name, _)| name == wanted);
            let (Some((_, value)), None) = (all.next(), all.next()) else {
                let text = "Query-string authentication requires the Signature, Expires and \
                            AWSAccessKeyId parameters";
                return Err(s3_error!(AccessDenied, "{text}"));
            };
            Ok(value.as_str())
        };
        let (key, expires, signature) =
            (one("AWSAccessKeyId")?, one("Expires")?, one("Signature")?);
        if let Some((name, _)) = parameters.iter().find(|(name, _)| !is_covered(name)) {
            let name = super::shown(name);
            let text = format!("The parameter {name} is not signed by version 2 of signatures.");
            return Err(s3_error!(AccessDenied, "{text}"));
        }
        // Values are signed unescaped and joined with `&`. A value with an `&` would be signed like two
        // parameters.
        let is_ambiguous = |name: &str, value: &str| value.contains('&') && is_in_resource(name);
        if let Some((name, _)) = parameters.iter().find(|(name, value)| is_ambiguous(name, value)) {
            let name = super::shown(name);
            let text = format!("The parameter {name} cannot have an & in version 2 of signatures.");
            return Err(s3_error!(AccessDenied, "{text}"));
        }
        let Ok(expires) = expires.parse::<Seconds>() else {
            return Err(s3_error!(AccessDenied, "Invalid date (should be seconds since epoch)"));
        };
        if now > expires {
            return Err(s3_error!(AccessDenied, "Request has expired"));
        }
        if expires > now.saturating_add(LIFE_MAX + SKEW_MAX) {
            return Err(s3_error!(AccessDenied, "Expires must be less than a week from now"));
        }
        let signature = BASE64_STANDARD.decode(signature).unwrap_or_default();
        Ok(Self { access_key: key.to_owned(), expires, signature })
    }

    /// Compares the signature with the required one.
    pub(super) fn verify(&self, received: &Received<'_>, secret: &str) -> bool {
        let parameters = received.parameters();
        let counts = |name: &str| {
            name.starts_with("x-amz-") || ["content-md5", "content-type"].contains(&name)
        };
        let names = received.headers.keys().map(|name| name.as_str().to_owned());
        let names: Vec<String> = names.filter(|name| counts(name)).collect();
        // A parameter that stands for a header is signed as that header.
        let stands: Vec<(String, &str)> = parameters
            .iter()
            .filter(|(name, _)| stands_for_header(name, true))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
            .filter(|(name, _)| !received.headers.contains_key(name.as_str()))
            .collect();
        let Some(all) = readings(received.headers, &names) else { return false };
        all.iter().any(|headers| {
            let sent = headers.iter().map(|(name, value)| (*name, value.as_ref()));
            let stand = stands.iter().map(|(name, value)| (name.as_str(), *value));
            let headers: Vec<(&str, &str)> = sent.chain(stand).collect();
            let text = s3s_sigv2::create_string_to_sign(
                s3s_sigv2::Mode::PresignedUrl,
                received.method.as_str(),
                received.uri.path(),
                Some(&parameters),
                &headers,
                received.host_bucket,
            );
            let found = BASE64_STANDARD.decode(s3s_sigv2::calculate_signature(secret, &text));
            found.is_ok_and(|found| bool::from(found.ct_eq(&self.signature)))
        })
    }
}

/// Returns whether a signature covers a parameter, or the parameter has no effect.
fn is_covered(name: &str) -> bool {
    let is_signed = is_in_resource(name) || v2_parameter(name) || stands_for_header(name, true);
    is_signed || name == "x-id"
}

/// Returns whether a parameter is signed with the path.
fn is_in_resource(name: &str) -> bool {
    ["partNumber", "uploadId", "versionId"].contains(&name) || name.starts_with("response-")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Uri};

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    fn checked(
        method: &Method,
        uri: &str,
        headers: &HeaderMap,
        now: Seconds,
    ) -> Result<bool, String> {
        let uri: Uri = uri.parse().unwrap();
        let received = Received { method, uri: &uri, headers, host_bucket: Some("johnsmith") };
        let presented = Presented::of(&received, now).map_err(|error| {
            format!("{}: {}", error.code().as_str(), error.message().unwrap_or_default())
        })?;
        Ok(presented.verify(&received, SECRET))
    }

    /// The example in AWS's documentation.
    const EXAMPLE: &str = "/photos/puppy.jpg?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&\
                           Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620";

    #[test]
    fn a_url_is_good_for_what_it_was_signed_for() {
        let now = 1_175_139_000;
        let none = HeaderMap::new();
        let get = |uri: &str| checked(&Method::GET, uri, &none, now);
        assert_eq!(get(EXAMPLE), Ok(true));
        assert_eq!(get(&EXAMPLE.replace("puppy", "kitten")), Ok(false));
        assert_eq!(get(&EXAMPLE.replace("1175139620", "1175139621")), Ok(false));
        assert_eq!(checked(&Method::HEAD, EXAMPLE, &none, now), Ok(false));
        let denied = |uri: &str, what: &str| {
            let refused = get(uri).unwrap_err();
            assert!(refused.starts_with("AccessDenied: ") && refused.contains(what), "{refused}");
        };
        denied(&EXAMPLE.replace("1175139620", "1175138999"), "expired");
        denied(&EXAMPLE.replace("1175139620", "9999999999"), "less than a week");
        denied(&EXAMPLE.replace("1175139620", "tomorrow"), "seconds since epoch");
        denied(&EXAMPLE.replace("&Expires=1175139620", ""), "requires the Signature");
        denied(&format!("{EXAMPLE}&Expires=1175139620"), "requires the Signature");
        denied(&format!("{EXAMPLE}&max-parts=1"), "max-parts is not signed");
        for value in ["no-store%26response-content-disposition%3Dattachment", "%26"] {
            let more = format!("{EXAMPLE}&response-cache-control={value}");
            denied(&more, "response-cache-control cannot have an &");
        }
        // Headers are signed on separate lines.
        assert_eq!(get(&format!("{EXAMPLE}&x-amz-meta-a=b%26c")), Ok(false));
        for method in [Method::DELETE, Method::POST] {
            assert!(
                checked(&method, EXAMPLE, &none, now).unwrap_err().contains("AWS4-HMAC-SHA256")
            );
        }
        let bucket = EXAMPLE.replace("/photos/puppy.jpg", "/");
        assert!(get(&bucket).unwrap_err().contains("AWS4-HMAC-SHA256"));
        let mut copy = HeaderMap::new();
        copy.insert("x-amz-copy-source", HeaderValue::from_static("/b/k"));
        assert!(checked(&Method::PUT, EXAMPLE, &copy, now).is_err());
    }
}
