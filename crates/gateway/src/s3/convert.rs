//! Converts between S3 and the service: conditions, tags, headers, bodies.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use fula_core::{
    BucketName, ObjectKey,
    bucket::{self, TextMap},
    id::InvalidObjectKey,
};
use fula_service::{
    ObjectFacts, ServiceError,
    body::BodyStream,
    condition::{ReadConditions, Tags, WriteConditions},
};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::{
    S3Request, S3Result,
    dto::{self, StreamingBlob},
    s3_error,
};

use super::{grants, sse, tags};
use crate::{date::parse_http_date, error, xml::is_printable};

/// Prefix of user metadata headers.
const META_PREFIX: &str = "x-amz-meta-";

/// System headers that an object keeps, by lower-case name.
const KEPT_HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];

/// Content type of objects that were put without one.
pub(super) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Parses the bucket name of a request.
pub(crate) fn bucket_name(text: &str) -> S3Result<BucketName> {
    BucketName::parse(text)
        .map_err(|rule| s3_error!(InvalidBucketName, "The specified bucket is not valid: {rule}."))
}

/// Parses the key of a request. A key with a character that XML 1.0 cannot carry is refused, because no
/// listing could contain it.
pub(super) fn object_key(text: &str) -> S3Result<ObjectKey> {
    if !text.chars().all(is_printable) {
        let text = "object keys must not contain control characters other than tab and line ends";
        return Err(s3_error!(InvalidArgument, "{text}"));
    }
    ObjectKey::parse(text.to_owned()).map_err(|error| match error {
        InvalidObjectKey::TooLong(_) => s3_error!(KeyTooLongError),
        error @ InvalidObjectKey::Empty => s3_error!(InvalidArgument, "{error}"),
    })
}

pub(super) fn etag(tag: &bucket::ETag) -> dto::ETag {
    dto::ETag::Strong(tag.to_string())
}

/// Parses a condition header: `*`, or tags separated by commas, with or without quotes.
fn tags(headers: &HeaderMap, name: &str) -> S3Result<Option<Tags>> {
    let Some(value) = value_of(headers, name) else { return Ok(None) };
    // Reads compare weakly, and all tags here are strong (RFC 9110 13.1.2).
    let weak = if name.ends_with("if-none-match") { "W/" } else { "" };
    let value = value.trim();
    if value == "*" {
        return Ok(Some(Tags::Any));
    }
    // A weak tag keeps its prefix, so that strong comparison never matches it.
    let tags: Vec<String> = value
        .split(',')
        .map(str::trim)
        .map(|tag| tag.strip_prefix(weak).unwrap_or(tag).trim_matches('"').to_owned())
        .filter(|tag| !tag.is_empty())
        .collect();
    if tags.is_empty() {
        return Err(s3_error!(InvalidArgument, "The header {name} names no ETag."));
    }
    Ok(Some(Tags::Of(tags)))
}

/// The condition headers of HTTP.
const CONDITIONS: [&str; 4] =
    ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];

/// Refuses conditions that an operation does not check.
pub(super) fn refuse_conditions(headers: &HeaderMap, judged: &[&str]) -> S3Result<()> {
    let ignored = |name: &&&str| headers.contains_key(**name) && !judged.contains(*name);
    match CONDITIONS.iter().find(ignored) {
        Some(name) => Err(error::not_implemented(&format!("The header {name} on this operation"))),
        None => Ok(()),
    }
}

/// Parses the conditions of a write.
pub(super) fn write_conditions(headers: &HeaderMap) -> S3Result<WriteConditions> {
    refuse_conditions(headers, &["if-match", "if-none-match"])?;
    Ok(WriteConditions {
        if_match: tags(headers, "if-match")?,
        if_none_match: tags(headers, "if-none-match")?,
    })
}

/// Parses the conditions of a read or, with the prefix `x-amz-copy-source-`, of the source of a copy. A
/// date that cannot be parsed is ignored.
pub(super) fn read_conditions(headers: &HeaderMap, prefix: &str) -> S3Result<ReadConditions> {
    let since = |name: &str| {
        let value = headers.get(format!("{prefix}{name}")).and_then(|value| value.to_str().ok());
        value.and_then(parse_http_date).map(|seconds| seconds.saturating_mul(1000))
    };
    Ok(ReadConditions {
        if_match: tags(headers, &format!("{prefix}if-match"))?,
        if_none_match: tags(headers, &format!("{prefix}if-none-match"))?,
        if_modified_since: since("if-modified-since"),
        if_unmodified_since: since("if-unmodified-since"),
    })
}

/// Refuses request headers that ask for unsupported features.
pub(super) fn refuse_unoffered<T>(request: &S3Request<T>) -> S3Result<()> {
    let headers = &request.headers;
    for (name, value) in headers {
        let name = name.as_str();
        let refused = name.starts_with("x-amz-object-lock-")
            || [
                "x-amz-website-redirect-location",
                "x-amz-write-offset-bytes",
                "x-amz-if-match-size",
                "x-amz-if-match-last-modified-time",
            ]
            .contains(&name)
            || name == "x-amz-bucket-object-lock-enabled"
                && !value.as_bytes().eq_ignore_ascii_case(b"false");
        if refused {
            return Err(error::not_implemented(&format!("The header {name}")));
        }
    }
    let class = headers.get("x-amz-storage-class").map(HeaderValue::as_bytes);
    if class.is_some_and(|class| class != b"STANDARD") {
        return Err(s3_error!(InvalidStorageClass));
    }
    Ok(())
}

/// Header of a mapping with the CID of the content.
pub(super) const CID: HeaderName = HeaderName::from_static("x-amz-meta-fula-remote-cid");

/// Header of a mapping with the length of the content in bytes.
pub(super) const SIZE: HeaderName = HeaderName::from_static("x-amz-meta-fula-remote-size");

/// Returns whether a PUT is a mapping. Its headers are never stored as metadata.
pub(super) fn is_mapping(headers: &HeaderMap) -> bool {
    headers.contains_key(CID) || headers.contains_key(SIZE)
}

/// Returns the headers that an object keeps, byte for byte, from the request as it was sent, and its tags.
pub(super) fn object_facts(headers: &HeaderMap) -> S3Result<ObjectFacts> {
    let mut facts = ObjectFacts { tags: tags::in_header(headers)?, ..ObjectFacts::default() };
    for name in KEPT_HEADERS {
        if let Some(value) = value_of(headers, name) {
            let value = if name == "content-encoding" { without_chunking(&value) } else { value };
            if !value.is_empty() {
                facts.headers.insert(name.to_owned(), value);
            }
        }
    }
    for name in headers.keys() {
        if let Some(short) = name.as_str().strip_prefix(META_PREFIX)
            && ![CID, SIZE].contains(name)
            && let Some(value) = value_of(headers, name.as_str())
        {
            facts.metadata.insert(short.to_owned(), value);
        }
    }
    facts.acl = grants::in_headers(headers)?;
    facts.encrypt = sse::asked(headers)?;
    Ok(facts)
}

/// Returns the value of a header in the form in which it is stored.
fn value_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| kept(value.as_bytes()))
}

/// First of the private-use characters that stand for bytes which are not UTF-8.
const BYTES: u32 = 0xf700;

fn is_byte(c: char) -> bool {
    (BYTES + 0x80..=BYTES + 0xff).contains(&u32::from(c))
}

/// Returns the bytes of a header as text. Bytes that are not UTF-8 (Latin-1) become private-use characters,
/// and so does text that contains such characters itself.
fn kept(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(is_byte) => text.to_owned(),
        _ => {
            let character = |byte: &u8| match byte {
                0..=0x7f => char::from(*byte),
                _ => char::from_u32(BYTES + u32::from(*byte)).unwrap_or_default(),
            };
            bytes.iter().map(character).collect()
        }
    }
}

/// Returns the bytes of a stored text.
fn sent(text: &str) -> Cow<'_, [u8]> {
    if !text.chars().any(is_byte) {
        return Cow::Borrowed(text.as_bytes());
    }
    let byte = |c: char| u8::try_from(u32::from(c).checked_sub(BYTES).unwrap_or(u32::from(c)));
    Cow::Owned(text.chars().filter_map(|c| byte(c).ok()).collect())
}

/// Removes `aws-chunked`, which describes the transfer and not the object. The rest is unchanged.
fn without_chunking(value: &str) -> String {
    let is_framing = |coding: &str| coding.trim().eq_ignore_ascii_case("aws-chunked");
    if !value.split(',').any(is_framing) {
        return value.to_owned();
    }
    let codings: Vec<&str> = value.split(',').filter(|coding| !is_framing(coding)).collect();
    codings.join(",").trim().to_owned()
}

/// Sets the headers and metadata of an object on a response, byte for byte as they were sent.
pub(super) fn write_facts(headers: &TextMap, metadata: &TextMap, out: &mut HeaderMap) {
    let prefixed = metadata.iter().map(|(name, value)| (format!("{META_PREFIX}{name}"), value));
    let kept = headers.iter().map(|(name, value)| (name.clone(), value));
    for (name, value) in kept.chain(prefixed) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&sent(value))) {
            out.insert(name, value);
        }
    }
}

/// Returns the body in the form that the service reads.
pub(super) fn body(body: Option<StreamingBlob>) -> BodyStream {
    let Some(body) = body else { return Box::pin(futures::stream::empty()) };
    Box::pin(body.map_err(|error| body_error(error.as_ref())))
}

fn body_error(error: &(dyn std::error::Error + Send + Sync + 'static)) -> ServiceError {
    let text = fula_service::error::chain(error);
    // Hashes of chunks and content are verified while the body is read. The error tells which one failed.
    let lower = text.to_ascii_lowercase();
    if lower.contains("signature") {
        return ServiceError::ChunkSignatureMismatch;
    }
    if lower.contains("sha256") {
        return ServiceError::PayloadMismatch;
    }
    ServiceError::BodyFailed(text)
}

/// Sets the checksum fields of an S3 output from stored checksums.
macro_rules! set_checksums {
    ($out:expr, $checksums:expr) => {
        for checksum in $checksums {
            use fula_core::bucket::ChecksumAlgorithm as Stored;
            let value = Some($crate::s3::convert::encode_checksum(checksum));
            match checksum.algorithm {
                Stored::Crc32 => $out.checksum_crc32 = value,
                Stored::Crc32c => $out.checksum_crc32c = value,
                Stored::Crc64Nvme => $out.checksum_crc64nvme = value,
                Stored::Sha1 => $out.checksum_sha1 = value,
                Stored::Sha256 => $out.checksum_sha256 = value,
                Stored::Sha512 => $out.checksum_sha512 = value,
                Stored::Xxhash64 => $out.checksum_xxhash64 = value,
                Stored::Xxhash3 => $out.checksum_xxhash3 = value,
                Stored::Xxhash128 => $out.checksum_xxhash128 = value,
            }
        }
    };
}
pub(super) use set_checksums;

/// Encodes a checksum. A composite one ends with the number of parts.
pub(super) fn encode_checksum(checksum: &bucket::Checksum) -> String {
    let value = BASE64_STANDARD.encode(&checksum.value);
    match checksum.composite_parts {
        0 => value,
        parts => format!("{value}-{parts}"),
    }
}

pub(super) fn checksum_type(checksums: &[bucket::Checksum]) -> Option<dto::ChecksumType> {
    let first = checksums.first()?;
    let name = if first.composite_parts > 0 {
        dto::ChecksumType::COMPOSITE
    } else {
        dto::ChecksumType::FULL_OBJECT
    };
    Some(dto::ChecksumType::from_static(name))
}

fn hex_digit(value: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(value)])
}

/// Percent-encodes a name for `encoding-type=url`. Slashes stay.
pub(super) fn url_encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_codings_are_not_kept() {
        assert_eq!(without_chunking("aws-chunked"), "");
        assert_eq!(without_chunking("aws-chunked,gzip"), "gzip");
        assert_eq!(without_chunking("gzip, AWS-chunked"), "gzip");
        assert_eq!(without_chunking("aws-chunked, deflate, gzip"), "deflate, gzip");
        for same in ["gzip", "deflate, gzip", "deflate ,gzip", ""] {
            assert_eq!(without_chunking(same), same);
        }
    }

    #[test]
    fn metadata_is_kept_as_sent() {
        let mut headers = HeaderMap::new();
        let private = "\u{f780}\u{f7ff}é";
        let values: [&[u8]; 5] =
            [b"a  b", "grün".as_bytes(), b"=?UTF-8?B?Z3LDvG4=?=", b"gr\xfcn", private.as_bytes()];
        for (n, value) in values.iter().enumerate() {
            let name = HeaderName::from_bytes(format!("x-amz-meta-{n}").as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers.append("cache-control", HeaderValue::from_bytes(b"a\xff").unwrap());
        let facts = object_facts(&headers).unwrap();
        assert_eq!(facts.metadata["1"], "grün");
        let mut out = HeaderMap::new();
        write_facts(&facts.headers, &facts.metadata, &mut out);
        for (n, value) in values.iter().enumerate() {
            assert_eq!(out.get(format!("x-amz-meta-{n}")).unwrap().as_bytes(), *value);
        }
        assert_eq!(out.get("cache-control").unwrap().as_bytes(), b"a\xff");
    }

    #[test]
    fn object_keys_are_what_a_listing_can_name() {
        for good in ["k", "a/b c", "\ttab\r\n", "\u{7f}\u{fffd}é", &"x".repeat(1024)] {
            assert_eq!(object_key(good).unwrap().as_str(), good);
        }
        let code = |text: &str| object_key(text).unwrap_err().code().as_str().to_owned();
        assert_eq!(code(&"x".repeat(1025)), "KeyTooLongError");
        for bad in ["", "a\0", "\u{1}", "\u{8}", "\u{b}", "\u{c}", "\u{1f}", "\u{fffe}", "\u{ffff}"]
        {
            assert_eq!(code(bad), "InvalidArgument", "{bad:?}");
        }
    }

    #[test]
    fn names_are_encoded_so_that_every_decoder_agrees() {
        assert_eq!(url_encode("a/b c+d%é\n"), "a/b%20c%2Bd%25%C3%A9%0A");
    }
}
