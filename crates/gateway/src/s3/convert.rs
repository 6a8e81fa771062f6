//! Values between the wire and the service: conditions, tags, headers, bodies.

use base64::{Engine, prelude::BASE64_STANDARD};
use fula_core::bucket::{self, TextMap};
use fula_service::{
    ObjectFacts, ServiceError,
    body::BodyStream,
    condition::{ReadConditions, Tags, WriteConditions},
};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::{
    S3Result,
    dto::{self, StreamingBlob, Timestamp},
    s3_error,
};

use crate::{date::millis, error};

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

/// Content type of objects put without one.
pub(super) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

pub(super) fn etag(tag: &bucket::ETag) -> dto::ETag {
    dto::ETag::Strong(tag.to_string())
}

/// Reads a condition header: `*`, or tags separated by commas, with or without quotes.
fn tags(headers: &HeaderMap, name: &str) -> S3Result<Option<Tags>> {
    let Some(value) = joined(headers, name)? else { return Ok(None) };
    let value = value.trim();
    if value == "*" {
        return Ok(Some(Tags::Any));
    }
    // A weak tag keeps its prefix: by strong comparison it matches nothing.
    let tags: Vec<String> = value
        .split(',')
        .map(|tag| tag.trim().trim_matches('"').to_owned())
        .filter(|tag| !tag.is_empty())
        .collect();
    if tags.is_empty() {
        return Err(s3_error!(InvalidArgument, "The header {name} names no ETag."));
    }
    Ok(Some(Tags::Of(tags)))
}

/// Condition headers of HTTP.
const CONDITIONS: [&str; 4] =
    ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];

/// Refuses conditions that an operation does not judge, rather than ignore them.
pub(super) fn refuse_conditions(headers: &HeaderMap, judged: &[&str]) -> S3Result<()> {
    let ignored = |name: &&&str| headers.contains_key(**name) && !judged.contains(*name);
    match CONDITIONS.iter().find(ignored) {
        Some(name) => Err(error::not_implemented(&format!("The header {name} on this operation"))),
        None => Ok(()),
    }
}

/// Reads the conditions of a write.
pub(super) fn write_conditions(headers: &HeaderMap) -> S3Result<WriteConditions> {
    refuse_conditions(headers, &["if-match", "if-none-match"])?;
    Ok(WriteConditions {
        if_match: tags(headers, "if-match")?,
        if_none_match: tags(headers, "if-none-match")?,
    })
}

/// Reads the conditions of a read, or with the prefix `x-amz-copy-source-` of a copy's source.
pub(super) fn read_conditions(
    headers: &HeaderMap,
    prefix: &str,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
) -> S3Result<ReadConditions> {
    Ok(ReadConditions {
        if_match: tags(headers, &format!("{prefix}if-match"))?,
        if_none_match: tags(headers, &format!("{prefix}if-none-match"))?,
        if_modified_since: if_modified_since.map(millis),
        if_unmodified_since: if_unmodified_since.map(millis),
    })
}

/// Refuses request headers that ask for something not offered, rather than ignore them.
pub(super) fn refuse_unoffered(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        let refused = name.starts_with("x-amz-server-side-encryption")
            || name.starts_with("x-amz-copy-source-server-side-encryption")
            || name.starts_with("x-amz-object-lock-")
            || name.starts_with("x-amz-grant-")
            || [
                "x-amz-tagging",
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
    let acl = headers.get("x-amz-acl").map(HeaderValue::as_bytes);
    let owner_only: [&[u8]; 3] = [b"private", b"bucket-owner-full-control", b"bucket-owner-read"];
    if acl.is_some_and(|acl| !owner_only.contains(&acl)) {
        return Err(error::not_implemented("An ACL that lets others in"));
    }
    Ok(())
}

/// Reads the headers an object keeps, byte for byte, from the request as it was sent.
pub(super) fn object_facts(headers: &HeaderMap) -> S3Result<ObjectFacts> {
    let mut facts = ObjectFacts::default();
    for name in KEPT_HEADERS {
        if let Some(value) = joined(headers, name)? {
            let value = if name == "content-encoding" { without_chunking(&value) } else { value };
            if !value.is_empty() {
                facts.headers.insert(name.to_owned(), value);
            }
        }
    }
    for name in headers.keys() {
        if let Some(short) = name.as_str().strip_prefix(META_PREFIX)
            && let Some(value) = joined(headers, name.as_str())?
        {
            facts.metadata.insert(short.to_owned(), value);
        }
    }
    facts.acl = joined(headers, "x-amz-acl")?;
    Ok(facts)
}

/// Returns a header's value; several of one name are joined by commas, as S3 does.
fn joined(headers: &HeaderMap, name: &str) -> S3Result<Option<String>> {
    let mut all: Option<String> = None;
    for value in headers.get_all(name) {
        let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
            return Err(s3_error!(InvalidArgument, "The header {name} is not UTF-8."));
        };
        match &mut all {
            Some(all) => {
                all.push(',');
                all.push_str(text);
            }
            None => all = Some(text.to_owned()),
        }
    }
    Ok(all)
}

/// Removes `aws-chunked`, which describes the transfer and not the object.
fn without_chunking(value: &str) -> String {
    let codings = value.split(',').map(str::trim);
    codings.filter(|coding| *coding != "aws-chunked").collect::<Vec<_>>().join(",")
}

/// Sets an object's headers and metadata on a response, byte for byte as they came.
pub(super) fn write_facts(headers: &TextMap, metadata: &TextMap, out: &mut HeaderMap) {
    let prefixed = metadata.iter().map(|(name, value)| (format!("{META_PREFIX}{name}"), value));
    let kept = headers.iter().map(|(name, value)| (name.clone(), value));
    for (name, value) in kept.chain(prefixed) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            out.insert(name, value);
        }
    }
}

/// Returns the body as the service takes it.
pub(super) fn body(body: Option<StreamingBlob>) -> BodyStream {
    let Some(body) = body else { return Box::pin(futures::stream::empty()) };
    Box::pin(body.map_err(|error| body_error(error.as_ref())))
}

fn body_error(error: &(dyn std::error::Error + Send + Sync + 'static)) -> ServiceError {
    let text = fula_service::error::chain(error);
    // Chunk and content hashes are verified as the body streams: the error names which failed.
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
            }
        }
    };
}
pub(super) use set_checksums;

/// Encodes a checksum; a composite one carries its number of parts.
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

/// Percent-encodes a name as `encoding-type=url` asks; slashes stay.
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
        assert_eq!(without_chunking("gzip, aws-chunked"), "gzip");
        assert_eq!(without_chunking("gzip"), "gzip");
    }

    #[test]
    fn metadata_is_kept_as_sent() {
        let mut headers = HeaderMap::new();
        headers.append("x-amz-meta-plain", HeaderValue::from_static("a  b"));
        headers.append("x-amz-meta-twice", HeaderValue::from_static("1"));
        headers.append("x-amz-meta-twice", HeaderValue::from_static("2"));
        let utf8 = HeaderValue::from_bytes("grün".as_bytes()).unwrap();
        headers.append("x-amz-meta-utf8", utf8);
        let encoded = HeaderValue::from_static("=?UTF-8?B?Z3LDvG4=?=");
        headers.append("x-amz-meta-encoded", encoded);
        let facts = object_facts(&headers).unwrap();
        let mut out = HeaderMap::new();
        write_facts(&facts.headers, &facts.metadata, &mut out);
        assert_eq!(out.get("x-amz-meta-plain").unwrap(), "a  b");
        assert_eq!(out.get("x-amz-meta-twice").unwrap(), "1,2");
        assert_eq!(out.get("x-amz-meta-utf8").unwrap().as_bytes(), "grün".as_bytes());
        assert_eq!(out.get("x-amz-meta-encoded").unwrap(), "=?UTF-8?B?Z3LDvG4=?=");
        headers.append("x-amz-meta-bad", HeaderValue::from_bytes(&[0xff]).unwrap());
        assert!(object_facts(&headers).is_err());
    }

    #[test]
    fn names_are_encoded_so_that_every_decoder_agrees() {
        assert_eq!(url_encode("a/b c+d%é\n"), "a/b%20c%2Bd%25%C3%A9%0A");
    }
}
