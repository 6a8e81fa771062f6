//! Signatures of version 4, in the `Authorization` header or in the query of a presigned URL.

use std::borrow::Cow;

use fula_identity::Seconds;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use s3s_sigv4::{
    AmzDate, Payload, calculate_signature_with_key, create_canonical_request,
    create_canonical_request_with_raw_uri_path, create_string_to_sign, derive_signing_key,
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    LIFE_MAX, Received, Refusal, Rules, SCHEME, SKEW_MAX,
    fault::{Place, host_not_signed, no_date, not_signed, query_fault, too_skewed},
    readings,
    scope::{Components, Scope},
};
use crate::{
    credential::Credential,
    date::{parse_basic, parse_http_date},
    error::not_implemented,
};

/// Keyword for a body that the signature does not cover. Presigned URLs use it, unless one names a hash.
pub(crate) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

pub(crate) const CONTENT_HASH: &str = "x-amz-content-sha256";

/// Largest number of headers that a signature may cover.
const SIGNED_HEADERS_MAX: usize = 100;

/// A signature as it was sent.
pub(crate) struct Presented {
    place: Place,
    pub(super) scope: Scope,
    /// Time at which the request was signed.
    date: AmzDate,
    signed_headers: Vec<String>,
    /// Hash of the body that was signed, or the keyword for none.
    payload: String,
    /// The signature; `None` when it is malformed.
    signature: Option<[u8; 32]>,
    pub(super) url_expires: Option<Seconds>,
}

/// The key with which the chunks of a body are signed.
pub(crate) struct ChunkKey {
    pub(super) key: Zeroizing<[u8; 32]>,
    pub(super) date: AmzDate,
    pub(super) region: String,
    pub(super) service: String,
    /// Signature of the request, or of the chunk before.
    pub(super) seed: [u8; 32],
}

impl Presented {
    /// Parses a signature, and checks everything that needs no secret.
    pub(super) fn of(
        received: &Received<'_>,
        credential: Credential,
        rules: &Rules,
        now: Seconds,
    ) -> Result<Self, Refusal> {
        let presented = if credential == Credential::Header {
            Self::of_header(received.headers, rules, now)?
        } else {
            Self::of_query(received, rules, now)?
        };
        presented.check_coverage(received)?;
        Ok(presented)
    }

    fn of_header(headers: &HeaderMap, rules: &Rules, now: Seconds) -> S3Result<Self> {
        let text = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let text = text.unwrap_or_default();
        let text =
            std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
        if text.trim().is_empty() {
            return Err(S3Error::new(S3ErrorCode::AccessDenied));
        }
        let components = Components::parse(&text)?;
        let scope = Scope::parse(components.credential, Place::Header, rules)?;
        let (date, seconds) = date_of(headers)?;
        scope.check_day(&date.fmt_iso8601(), Place::Header)?;
        if seconds.abs_diff(now) > SKEW_MAX {
            return Err(too_skewed());
        }
        Ok(Self {
            place: Place::Header,
            scope,
            date,
            signed_headers: names_of(components.signed_headers, Place::Header)?,
            payload: payload_of(headers)?,
            signature: signature_of(components.signature),
            url_expires: None,
        })
    }

    fn of_query(received: &Received<'_>, rules: &Rules, now: Seconds) -> S3Result<Self> {
        let parameters = received.parameters();
        let one = |name: &str| {
            let mut all = parameters.iter().filter(|(found, _)| found == name);
            let (Some((_, value)), None) = (all.next(), all.next()) else {
                return Err(query_fault(
                    "Query-string authentication version 4 requires the X-Amz-Algorithm, \
                     X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
                     X-Amz-Expires parameters.",
                ));
            };
            Ok(value.as_str())
        };
        let (algorithm, credential) = (one("X-Amz-Algorithm")?, one("X-Amz-Credential")?);
        let (date, expires) = (one("X-Amz-Date")?, one("X-Amz-Expires")?);
        let (names, signature) = (one("X-Amz-SignedHeaders")?, one("X-Amz-Signature")?);
        if algorithm != SCHEME {
            return Err(query_fault(&format!("X-Amz-Algorithm only supports \"{SCHEME}\"")));
        }
        let scope = Scope::parse(credential, Place::Query, rules)?;
        let life = life_of(expires)?;
        let (Some(signed_at), Ok(date)) = (parse_basic(date), AmzDate::parse(date)) else {
            return Err(query_fault(
                "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
            ));
        };
        scope.check_day(&date.fmt_iso8601(), Place::Query)?;
        if signed_at > now.saturating_add(SKEW_MAX) {
            return Err(s3_error!(AccessDenied, "Request is not valid yet"));
        }
        let expires = signed_at.saturating_add(life);
        if now > expires {
            return Err(s3_error!(AccessDenied, "Request has expired"));
        }
        let payload = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_HASH));
        let in_header = received.headers.get_all(CONTENT_HASH).iter().map(HeaderValue::as_bytes);
        let mut hashes = in_header.chain(payload.map(|(_, value)| value.as_bytes()));
        // A URL is signed before there is a body in chunks.
        if hashes.any(|hash| hash.starts_with(b"STREAMING-")) {
            return Err(not_implemented("A body in chunks with a presigned URL"));
        }
        Ok(Self {
            place: Place::Query,
            scope,
            date,
            signed_headers: names_of(names, Place::Query)?,
            payload: payload.map_or_else(|| UNSIGNED.to_owned(), |(_, value)| value.clone()),
            signature: signature_of(signature),
            url_expires: Some(expires),
        })
    }

    /// Refuses a signature that does not cover `host`, because it could be replayed against another server
    /// or another virtual host of this one. Refuses a request with an unsigned header that S3 uses, because
    /// anyone who obtained the signed request could change its effect with that header. The hash of the
    /// body is signed separately. A header that is also a parameter of the URL is signed there.
    fn check_coverage(&self, received: &Received<'_>) -> Result<(), Refusal> {
        let is_signed = |name: &str| self.signed_headers.iter().any(|signed| signed == name);
        if !is_signed("host") {
            return Err(host_not_signed());
        }
        let parameters =
            if self.place == Place::Query { received.parameters() } else { Vec::new() };
        let is_parameter = |name: &HeaderName| {
            let mut values = received.headers.get_all(name).iter();
            let (Some(value), None) = (values.next(), values.next()) else { return false };
            let mut all = parameters.iter();
            all.any(|(found, text)| {
                found.eq_ignore_ascii_case(name.as_str()) && text.as_bytes() == value.as_bytes()
            })
        };
        let counts = |name: &&HeaderName| {
            name.as_str().starts_with("x-amz-") && name.as_str() != CONTENT_HASH
        };
        let unsigned: Vec<&str> = received
            .headers
            .keys()
            .filter(counts)
            .filter(|name| !is_signed(name.as_str()) && !is_parameter(name))
            .map(HeaderName::as_str)
            .collect();
        if unsigned.is_empty() { Ok(()) } else { Err(not_signed(&unsigned)) }
    }

    /// Compares the signature with the required one.
    pub(super) fn verify(&self, received: &Received<'_>, secret: &str) -> Option<ChunkKey> {
        let expected = self.signature?;
        let raw_path = received.uri.path();
        let path = decoded(raw_path)?;
        let Scope { region, service, .. } = &self.scope;
        let key = Zeroizing::new(derive_signing_key(secret, &self.date, region, service));
        let parameters = received.parameters();
        for headers in readings(received.headers, &self.signed_headers)? {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_ref())).collect();
            // Some clients sign the path as they send it, with characters that AWS's rules would escape.
            for is_raw in [false, true] {
                if is_raw && !has_unescaped(raw_path) {
                    continue;
                }
                let path = if is_raw { raw_path } else { path.as_ref() };
                let request = self.canonical(received, path, is_raw, &parameters, &headers);
                let text = create_string_to_sign(&request, &self.date, region, service);
                let found = calculate_signature_with_key(&text, &key);
                if bool::from(found.ct_eq(&expected)) {
                    return Some(ChunkKey {
                        key,
                        date: self.date.clone(),
                        region: region.clone(),
                        service: service.clone(),
                        seed: expected,
                    });
                }
            }
        }
        None
    }

    /// Returns the canonical request.
    fn canonical(
        &self,
        received: &Received<'_>,
        path: &str,
        is_raw: bool,
        parameters: &[(String, String)],
        headers: &[(&str, &str)],
    ) -> String {
        let method = received.method.as_str();
        let payload = Payload::SingleChunk(&self.payload);
        let is_query = self.place == Place::Query;
        let signed = parameters.iter().filter(|(name, _)| !is_query || name != "X-Amz-Signature");
        let signed: Vec<(&str, &str)> =
            signed.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if is_raw {
            create_canonical_request_with_raw_uri_path(method, path, &signed, headers, payload)
        } else {
            create_canonical_request(method, path, &signed, headers, payload)
        }
    }
}

/// Returns the time of a request that is signed in its headers.
fn date_of(headers: &HeaderMap) -> S3Result<(AmzDate, Seconds)> {
    let mut values = headers.get_all("x-amz-date").iter();
    let value = values.next().or_else(|| headers.get(header::DATE));
    let text = value.and_then(|value| value.to_str().ok()).ok_or_else(no_date)?;
    let seconds = parse_basic(text).or_else(|| parse_http_date(text)).ok_or_else(no_date)?;
    let date = amz_date(seconds).filter(|_| values.next().is_none()).ok_or_else(no_date)?;
    Ok((date, seconds))
}

/// Returns a time in the form of signatures.
fn amz_date(seconds: Seconds) -> Option<AmzDate> {
    let time = time::OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    let ((year, month, day), (hour, minute, second)) = (time.to_calendar_date(), time.to_hms());
    let month = u8::from(month);
    AmzDate::parse(&format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")).ok()
}

/// Returns the value of `x-amz-content-sha256`.
fn payload_of(headers: &HeaderMap) -> S3Result<String> {
    let mut values = headers.get_all(CONTENT_HASH).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(s3_error!(
            InvalidRequest,
            "Missing required header for this request: x-amz-content-sha256"
        ));
    };
    let text = value.to_str().unwrap_or_default();
    let is_hash = text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit());
    let is_word = text == UNSIGNED || text.starts_with("STREAMING-");
    if is_hash || is_word { Ok(text.to_owned()) } else { Err(no_hash()) }
}

/// Returns the error for an `x-amz-content-sha256` without a valid value.
pub(crate) fn no_hash() -> S3Error {
    let text = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a \
                valid sha256 value.";
    s3_error!(InvalidArgument, "{text}")
}

fn life_of(text: &str) -> S3Result<Seconds> {
    let Ok(life) = text.parse::<i64>() else {
        return Err(query_fault("X-Amz-Expires should be a number"));
    };
    let Ok(life) = Seconds::try_from(life) else {
        return Err(query_fault("X-Amz-Expires must be non-negative"));
    };
    if life > LIFE_MAX {
        return Err(query_fault(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires \
             must be less than 604800 seconds",
        ));
    }
    Ok(life)
}

/// Parses the list of signed headers. Each may be named once, because the signed text would grow with every
/// repetition.
fn names_of(list: &str, place: Place) -> S3Result<Vec<String>> {
    let names = list.split(';').take(SIGNED_HEADERS_MAX + 1).map(str::to_ascii_lowercase);
    let names: Vec<String> = names.collect();
    let is_repeated = |(n, name): (usize, &String)| names[..n].contains(name);
    if names.len() > SIGNED_HEADERS_MAX || names.iter().enumerate().any(is_repeated) {
        return Err(place.signed_headers());
    }
    Ok(names)
}

fn signature_of(text: &str) -> Option<[u8; 32]> {
    let is_lower = text.bytes().all(|c| !c.is_ascii_uppercase());
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok().filter(|()| is_lower)?;
    Some(bytes)
}

/// Returns whether a path has characters that AWS's rules would escape.
fn has_unescaped(path: &str) -> bool {
    path.bytes().any(|c| !c.is_ascii_alphanumeric() && !b"-_.~/%".contains(&c))
}

/// Decodes `%XX` in a path; `None` when the result is not UTF-8.
fn decoded(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let (mut out, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let mut byte = [0];
        let escaped = after.get(..2).filter(|_| first == b'%');
        if escaped.is_some_and(|digits| hex::decode_to_slice(digits, &mut byte).is_ok()) {
            out.push(byte[0]);
            rest = &after[2..];
        } else {
            out.push(first);
            rest = after;
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests;
