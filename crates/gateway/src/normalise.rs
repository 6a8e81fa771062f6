//! Normalises a request after its signature was verified and before `s3s` parses it (docs/adr/0036).
//!
//! `s3s` gets no credential, and only those headers and parameters that it must parse. The request as it
//! was sent is kept in the extensions, and is put back before an operation runs.

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Uri,
    header::{self, Entry},
    request::Parts,
    uri::PathAndQuery,
};
use s3s::{S3Request, S3Result, s3_error};

use crate::{
    presigned::{is_signature, is_v4_url, parameter, stands_for_header},
    signature::{CONTENT_HASH, UNSIGNED, shown},
};

/// Headers that `s3s` parses. It sees no others, so no others can affect it.
const PARSED: [HeaderName; 12] = [
    header::HOST,
    header::CONTENT_LENGTH,
    HeaderName::from_static("x-amz-checksum-algorithm"),
    HeaderName::from_static("x-amz-checksum-mode"),
    HeaderName::from_static("x-amz-checksum-type"),
    HeaderName::from_static("x-amz-copy-source"),
    HeaderName::from_static("x-amz-copy-source-range"),
    HeaderName::from_static("x-amz-if-match-initiated-time"),
    HeaderName::from_static("x-amz-if-match-last-modified-time"),
    HeaderName::from_static("x-amz-if-match-size"),
    HeaderName::from_static("x-amz-metadata-directive"),
    HeaderName::from_static("x-amz-mp-object-size"),
];

/// Headers that may be sent only once. Two of them could be read differently by different parts of the
/// gateway.
const ONCE: [&str; 12] = [
    "authorization",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "host",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-expected-bucket-owner",
    "x-amz-security-token",
];

/// A request as it was sent, without its credential.
#[derive(Clone, Debug)]
struct Sent {
    headers: HeaderMap,
    uri: Uri,
}

/// Reduces a request to what `s3s` must parse, and keeps the rest for the operation.
pub(crate) fn hide(parts: &mut Parts) {
    let mut seen = HeaderMap::with_capacity(PARSED.len());
    for name in &PARSED {
        if let Some(value) = parts.headers.get(name) {
            // A key in the source of a copy may be sent unescaped.
            let is_source = name == "x-amz-copy-source";
            seen.insert(name, if is_source { ascii(value) } else { value.clone() });
        }
    }
    // `s3s` requires these headers. The operations read them from the request as it was sent.
    let query = parts.uri.query().unwrap_or_default();
    if query.contains("attributes") {
        seen.insert("x-amz-object-attributes", HeaderValue::from_static("ETag"));
    }
    if query.contains("renameObject") {
        seen.insert("x-amz-rename-source", HeaderValue::from_static("-"));
    }
    let uri = without_parameters(&parts.uri, |name| name == "response-expires");
    let sent = Sent {
        headers: std::mem::replace(&mut parts.headers, seen),
        uri: std::mem::replace(&mut parts.uri, uri),
    };
    parts.extensions.insert(sent);
}

/// Returns a header with its bytes beyond ASCII escaped.
fn ascii(value: &HeaderValue) -> HeaderValue {
    if value.as_bytes().is_ascii() {
        return value.clone();
    }
    let mut text = String::new();
    for byte in value.as_bytes() {
        if byte.is_ascii() {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.push_str(&hex::encode_upper([*byte]));
        }
    }
    HeaderValue::from_str(&text).unwrap_or_else(|_| value.clone())
}

/// Returns whether a request came through this layer.
pub(crate) fn is_hidden(extensions: &Extensions) -> bool {
    extensions.get::<Sent>().is_some()
}

/// Restores the request as it was sent, for an operation.
pub(crate) fn restore<T>(request: &mut S3Request<T>) {
    if let Some(sent) = request.extensions.remove::<Sent>() {
        request.headers = sent.headers;
        request.uri = sent.uri;
    }
}

/// Returns a URI without some of its parameters, by their decoded names.
fn without_parameters(uri: &Uri, drops: impl Fn(&str) -> bool) -> Uri {
    let query = uri.query().unwrap_or_default();
    let is_kept = |pair: &&str| !drops(&parameter(pair).0);
    if query.split('&').all(|pair| is_kept(&pair)) {
        return uri.clone();
    }
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    let path = uri.path();
    let text = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    // A part of a valid query is valid.
    parts.path_and_query = text.parse::<PathAndQuery>().ok().or(parts.path_and_query);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Removes from the query of a presigned URL what is not a parameter of the operation: the signature, and
/// parameters that stand for headers, which become headers.
///
/// # Errors
/// 400 for a parameter that is repeated, that cannot be a header, or that contradicts a header.
pub(crate) fn take_presigned(parts: &mut Parts) -> S3Result<()> {
    let query = parts.uri.query().unwrap_or_default();
    let is_v2 = !is_v4_url(&parts.uri);
    let mut taken = HeaderMap::new();
    for pair in query.split('&') {
        let (name, value) = parameter(pair);
        if !stands_for_header(&name, is_v2) {
            continue;
        }
        let told = shown(&name);
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        let (Some(header), Ok(value)) = (header, HeaderValue::from_bytes(value.as_bytes())) else {
            return Err(s3_error!(InvalidArgument, "The parameter {told} cannot be a header."));
        };
        // A URL that leaves the body open lets its user announce the hash of the body.
        let is_open = header == CONTENT_HASH && value == UNSIGNED;
        let sent = parts.headers.get(&header).filter(|_| !is_open);
        let differs = sent.is_some_and(|sent| *sent != value);
        if differs || taken.insert(header, value).is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "The parameter {told} is there twice, or differs from the header."
            ));
        }
    }
    for (name, value) in taken {
        if let Some(name) = name
            && let Entry::Vacant(entry) = parts.headers.entry(name)
        {
            entry.insert(value);
        }
    }
    parts.uri =
        without_parameters(&parts.uri, |name| is_signature(name) || stands_for_header(name, is_v2));
    Ok(())
}

/// Joins repeated headers with commas (RFC 9110 5.3).
///
/// # Errors
/// 400 for headers that may be sent only once.
pub(crate) fn join_repeated(headers: &mut HeaderMap) -> S3Result<()> {
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    let repeated: Vec<HeaderName> =
        headers.keys().filter(|name| headers.get_all(*name).iter().count() > 1).cloned().collect();
    for name in repeated {
        if ONCE.contains(&name.as_str()) {
            return Err(s3_error!(InvalidArgument, "There is more than one {name} header."));
        }
        let values: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        let joined = HeaderValue::from_bytes(&values.join(&b','));
        let joined =
            joined.map_err(|_| s3_error!(InvalidArgument, "The header {name} is malformed."))?;
        headers.insert(name, joined);
    }
    Ok(())
}

/// Longest character reference that is replaced, in bytes.
const REFERENCE_BYTES_MAX: usize = 13;

/// Replaces references to characters beyond ASCII (`&#128512;`) in XML by the characters, because `s3s`
/// reads only references to the basic plane. A body that is not XML stays unchanged.
pub(crate) fn expand_references(body: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&body) else { return body };
    let is_xml = text.trim_start_matches('\u{feff}').trim_start().starts_with('<');
    if !is_xml || !text.contains("&#") {
        return body;
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("&#") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(REFERENCE_BYTES_MAX).position(|c| c == b';');
        let reference = end.map_or("", |end| &rest[..=end]);
        let taken = if let Some(character) = character(reference) {
            out.push(character);
            reference.len()
        } else {
            out.push_str("&#");
            2
        };
        rest = &rest[taken..];
    }
    out.push_str(rest);
    Bytes::from(out)
}

/// Returns the character beyond ASCII that a reference such as `&#128512;` or `&#x1F600;` names.
fn character(reference: &str) -> Option<char> {
    let digits = reference.strip_prefix("&#")?.strip_suffix(';')?;
    let number = match digits.strip_prefix('x') {
        Some(hex) if hex.len() <= 8 && hex.bytes().all(|c| c.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()?
        }
        None if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    char::from_u32(number).filter(|c| !c.is_ascii() && !['\u{fffe}', '\u{ffff}'].contains(c))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, headers: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        request.body(()).unwrap().into_parts().0
    }

    const V4: &str = "X-Amz-Algorithm=a&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=5&\
                      X-Amz-SignedHeaders=host&X-Amz-Signature=s";

    #[test]
    fn parameters_of_a_presigned_url_become_headers() {
        let uri = format!(
            "/b/k?{V4}&x-amz-meta-a=1%202&X-Amz-Acl=private&partNumber=1&uploadId=a%2Fb\
                           &X-Amz-Security-Token=t"
        );
        let mut found = parts(&uri, &[("x-amz-acl", "private")]);
        take_presigned(&mut found).unwrap();
        assert_eq!(found.uri, "/b/k?partNumber=1&uploadId=a%2Fb");
        let value = |name: &str| found.headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(value("x-amz-meta-a"), "1 2");
        assert_eq!((value("x-amz-acl"), value("x-amz-security-token")), ("private", "t"));
        let mut found =
            parts("/b/k?AWSAccessKeyId=a&Expires=1&Signature=s&content-type=a%2Fb", &[]);
        take_presigned(&mut found).unwrap();
        assert_eq!((found.uri.to_string().as_str(), found.headers.len()), ("/b/k", 1));
        // Version 4 has no such parameter.
        let mut found = parts(&format!("/b/k?content-type=a&{V4}"), &[]);
        take_presigned(&mut found).unwrap();
        assert_eq!(
            (found.uri.to_string().as_str(), found.headers.len()),
            ("/b/k?content-type=a", 0)
        );
    }

    #[test]
    fn a_parameter_and_a_header_do_not_differ() {
        for (query, headers) in [
            ("x-amz-acl=private", [("x-amz-acl", "public-read")].as_slice()),
            ("x-amz-acl=a&X-Amz-Acl=a", &[]),
            ("x-amz-security-token=a&X-Amz-Security-Token=b", &[]),
            ("x-amz-meta-a%20b=1", &[]),
            ("x-amz-meta-a=%0A", &[]),
        ] {
            let mut found = parts(&format!("/b/k?{V4}&{query}"), headers);
            assert!(take_presigned(&mut found).is_err(), "{query}");
        }
        // A body whose hash was signed is checked against it.
        for (pinned, sent) in [("00", UNSIGNED), ("00", "01"), ("STREAMING-", UNSIGNED)] {
            let uri = format!("/b/k?{V4}&X-Amz-Content-Sha256={pinned}");
            let mut found = parts(&uri, &[(CONTENT_HASH, sent)]);
            assert!(take_presigned(&mut found).is_err(), "{pinned} {sent}");
            let mut found = parts(&uri, &[(CONTENT_HASH, pinned)]);
            take_presigned(&mut found).unwrap();
        }
        // The hash that was sent stays.
        let mut found = parts(
            &format!("/b/k?{V4}&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"),
            &[("x-amz-content-sha256", "00")],
        );
        take_presigned(&mut found).unwrap();
        assert_eq!(found.headers.get("x-amz-content-sha256").unwrap(), "00");
    }

    #[test]
    fn repeated_headers_are_joined() {
        let mut headers = HeaderMap::new();
        for value in ["gzip", "aws-chunked"] {
            headers.append("content-encoding", HeaderValue::from_static(value));
        }
        headers.append("x-amz-meta-a", HeaderValue::from_bytes("é".as_bytes()).unwrap());
        headers.append("x-amz-meta-a", HeaderValue::from_static("b"));
        join_repeated(&mut headers).unwrap();
        assert_eq!(headers.get("content-encoding").unwrap(), "gzip,aws-chunked");
        assert_eq!(headers.get("x-amz-meta-a").unwrap().as_bytes(), "é,b".as_bytes());
        assert_eq!(headers.len(), 2);
        for name in ONCE {
            let mut headers = HeaderMap::new();
            for _ in 0..2 {
                headers.append(name, HeaderValue::from_static("1"));
            }
            assert!(join_repeated(&mut headers).is_err(), "{name}");
        }
    }

    #[test]
    fn s3s_sees_what_it_must_parse() {
        let mut found = parts(
            "/b/k?response-expires=never&partNumber=1",
            &[
                ("host", "h"),
                ("content-disposition", "é"),
                ("x-amz-meta-a", "=?x?="),
                ("range", "bytes=a"),
            ],
        );
        hide(&mut found);
        assert!(is_hidden(&found.extensions));
        assert_eq!((found.uri.to_string().as_str(), found.headers.len()), ("/b/k?partNumber=1", 1));
        let mut copy = parts("/b/k", &[("x-amz-copy-source", "/b/é"), ("host", "é")]);
        hide(&mut copy);
        assert_eq!(copy.headers.get("x-amz-copy-source").unwrap(), "/b/%C3%A9");
        assert_eq!(copy.headers.get("host").unwrap().as_bytes(), "é".as_bytes());
        let sent = found.extensions.get::<Sent>().unwrap();
        assert_eq!(
            (sent.uri.query(), sent.headers.len()),
            (Some("response-expires=never&partNumber=1"), 4)
        );
    }

    #[test]
    fn references_beyond_ascii_are_expanded() {
        let expand = |text: &str| {
            let body = Bytes::from(format!("<Key>{text}"));
            let expanded = expand_references(body).to_vec();
            String::from_utf8(expanded).unwrap().replacen("<Key>", "", 1)
        };
        assert_eq!(expand("a&#128512;b&#x1F600;&#233;</Key>"), "a😀b😀é</Key>");
        for same in [
            "a&#38;b",
            "&#x3C;",
            "&amp;#128512;",
            "&#;",
            "&#x;",
            "&#xD800;",
            "&#",
            "&#x110000;",
            "&#xFFFE;",
            "&#99999999999;",
            "&#1F600;",
            "&#&#x26;",
            "é&lt;",
        ] {
            assert_eq!(expand(same), same, "{same}");
        }
        assert_eq!(expand("&#&#233;"), "&#é");
        for other in [b"<a>&#233;\xff".as_slice(), b"{\"Id\": \"&#233;\"}"] {
            assert_eq!(expand_references(Bytes::copy_from_slice(other)), other);
        }
    }
}
