//! What is settled before `s3s` sees a request: which subresources exist, and XML bodies.
//!
//! `s3s` routes a request whose query it does not know to the plain operation: `DELETE /b/k?acl`
//! would delete the object. And it hands XML over parsed, so whoever wants to check the digests of
//! the body has to do it here.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fula_core::bucket::ChecksumAlgorithm as Algorithm;
use fula_service::{ServiceError, body::digests_of};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use s3s::{S3Error, S3Result, s3_error};

use crate::{
    error::{not_implemented, payload_mismatch, s3_error as to_s3},
    s3::{Digests, is_commit},
};

/// Subresources of S3 that are not offered, by the name in the query.
const UNOFFERED: [&str; 43] = [
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "annotation",
    "attributes",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "logging",
    "metadataAnnotationTable",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "select-type",
    "session",
    "tagging",
    "torrent",
    "update-object-encryption",
    "versioning",
    "versions",
    "website",
    "x-amz-acl",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-object-lock-mode",
];

/// Returns whether the path names an object and not just a bucket; with virtual hosts, any path
/// but the root does.
fn names_object(path: &str, host_is_bucket: bool) -> bool {
    let rest = path.trim_start_matches('/');
    if host_is_bucket {
        return !rest.is_empty();
    }
    // s3s decodes the path before it looks for the end of the bucket's name.
    let ends = ["/", "%2F", "%2f"].map(|end| rest.find(end).map(|at| at + end.len()));
    ends.into_iter().flatten().min().is_some_and(|key| key < rest.len())
}

/// Returns the names in a query, decoded as s3s decodes them.
fn names_in(query: &str) -> impl Iterator<Item = Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name)
}

/// Refuses queries that would otherwise fall through to another operation than they name.
pub(crate) fn check_query(
    method: &Method,
    path: &str,
    query: &str,
    host_is_bucket: bool,
) -> S3Result<()> {
    let names: Vec<_> = names_in(query).collect();
    let has = |name: &str| names.iter().any(|found| found == name);
    if let Some(name) = UNOFFERED.iter().find(|name| has(name)) {
        return Err(not_implemented(&format!("The query parameter {name}")));
    }
    if let Some(name) = names.iter().find(|name| name.starts_with("x-amz-meta-")) {
        return Err(not_implemented(&format!("The query parameter {name}")));
    }
    let is_object = names_object(path, host_is_bucket);
    let (upload, part) = (has("uploadId"), has("partNumber"));
    let fits = match *method {
        Method::PUT => {
            upload == part
                && (!upload || is_object)
                && !["versionId", "uploads", "location", "delete"].into_iter().any(has)
        }
        Method::DELETE => {
            !part
                && (!upload || is_object)
                && !["uploads", "location", "delete"].into_iter().any(has)
        }
        Method::POST => {
            !part && (!has("delete") || !is_object) && (!(upload || has("uploads")) || is_object)
        }
        _ => {
            !has("delete")
                && (!(upload || part) || is_object)
                && (!(has("location") || has("uploads")) || !is_object)
        }
    };
    if fits {
        Ok(())
    } else {
        Err(s3_error!(InvalidRequest, "These query parameters do not go together here."))
    }
}

/// Refuses forms that browsers post: s3s would take their file in before anybody is asked who
/// they are.
pub(crate) fn check_form(parts: &Parts) -> S3Result<()> {
    let value = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_form = value.is_some_and(|value| {
        let kind = b"multipart/form-data";
        value.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind))
    });
    if parts.method == Method::POST && is_form {
        return Err(not_implemented("Browser-based upload (POST object)"));
    }
    Ok(())
}

/// Refuses a body of unknown length: without chunks it would be none.
pub(crate) fn check_length(parts: &Parts, host_is_bucket: bool) -> S3Result<()> {
    let headers = &parts.headers;
    let known = headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING)
        || headers.contains_key("x-amz-copy-source");
    if parts.method == Method::PUT && names_object(parts.uri.path(), host_is_bucket) && !known {
        return Err(s3_error!(MissingContentLength));
    }
    Ok(())
}

/// Returns whether the request's body is one that an operation reads whole: all are but objects and
/// their parts.
pub(crate) fn is_read_whole(parts: &Parts, host_is_bucket: bool) -> bool {
    match parts.method {
        Method::POST => true,
        Method::PUT => !names_object(parts.uri.path(), host_is_bucket),
        _ => false,
    }
}

/// Returns whether the answer may be a page of names, which is held whole until it is sent.
pub(crate) fn is_page(parts: &Parts, host_is_bucket: bool) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    let has = |names: &[&str]| names_in(query).any(|found| names.contains(&found.as_ref()));
    match parts.method {
        Method::POST => has(&["delete"]),
        Method::GET if names_object(parts.uri.path(), host_is_bucket) => has(&["uploadId"]),
        Method::GET => !has(&["location", "policy", "policyStatus"]),
        _ => false,
    }
}

/// What a body that is read whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// XML of any request but a completion.
    Xml,
    /// The XML of a completed upload: its checksum headers are those of the object.
    Completion,
    /// The JSON of a commit.
    Commit,
}

impl Kind {
    /// Returns what the body of such a request is.
    pub(crate) fn of(parts: &Parts) -> Self {
        if is_commit(&parts.method, &parts.uri) {
            Self::Commit
        } else if names_in(parts.uri.query().unwrap_or_default()).any(|name| name == "uploadId") {
            Self::Completion
        } else {
            Self::Xml
        }
    }
}

/// Checks a whole body against the digests that its headers name.
pub(crate) fn check_whole(headers: &HeaderMap, body: &Bytes, kind: Kind) -> S3Result<()> {
    if let Some(expected) = headers.get("x-amz-content-sha256").and_then(hex_digest)
        && expected != sha256(body)
    {
        return Err(payload_mismatch());
    }
    // s3s would pass over the text in a CDATA section, and a key would be another one.
    // In JSON it is text like any other.
    if kind != Kind::Commit && body.windows(9).any(|window| window == b"<![CDATA[") {
        return Err(s3_error!(MalformedXML, "CDATA sections are not accepted."));
    }
    if kind == Kind::Completion {
        return check_md5(headers, body);
    }
    check_md5(headers, body)?;
    let digests = Digests::of(headers)?;
    if let Some((algorithm, expected)) = &digests.checksum {
        let (_, checksums) = digests_of(body, *algorithm);
        if checksums.first().is_none_or(|ours| ours.value != *expected) {
            return Err(to_s3(ServiceError::BadDigest("checksum")));
        }
    }
    Ok(())
}

fn check_md5(headers: &HeaderMap, body: &Bytes) -> S3Result<()> {
    let Some(value) = headers.get("content-md5") else { return Ok(()) };
    let expected = BASE64_STANDARD.decode(value.as_bytes()).unwrap_or_default();
    if expected.len() != 16 {
        return Err(to_s3(ServiceError::InvalidDigest("Content-MD5")));
    }
    let (md5, _) = digests_of(body, Algorithm::Crc32);
    if md5 == *expected { Ok(()) } else { Err(to_s3(ServiceError::BadDigest("Content-MD5"))) }
}

/// Returns a SHA-256 in hex.
pub(crate) fn hex_digest(value: &HeaderValue) -> Option<Vec<u8>> {
    hex::decode(value.as_bytes()).ok().filter(|digest| digest.len() == 32)
}

fn sha256(body: &Bytes) -> Vec<u8> {
    let (_, checksums) = digests_of(body, Algorithm::Sha256);
    checksums.first().map(|checksum| checksum.value.to_vec()).unwrap_or_default()
}

/// Returns whether a body is framed in chunks, which only `s3s` can take apart.
pub(crate) fn is_chunked(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    text("x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"))
        || text(header::CONTENT_ENCODING.as_str()).is_some_and(|c| c.contains("aws-chunked"))
}

/// A body over the limit.
pub(crate) fn too_large(bytes_max: usize) -> S3Error {
    s3_error!(MaxMessageLengthExceeded, "XML bodies are at most {bytes_max} bytes.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_cannot_turn_one_operation_into_another() {
        let code = |method: Method, path: &str, query: &str| match check_query(
            &method, path, query, false,
        ) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        };
        for name in ["acl", "retention", "versions", "restore", "attributes"] {
            assert_eq!(code(Method::DELETE, "/b/k", name), "NotImplemented", "{name}");
            assert_eq!(code(Method::PUT, "/b", &format!("{name}=")), "NotImplemented", "{name}");
        }
        // s3s decodes names.
        assert_eq!(code(Method::DELETE, "/b/k", "%61cl"), "NotImplemented");
        assert_eq!(code(Method::PUT, "/b/k", "version%49d=abc"), "InvalidRequest");
        for (method, path, query) in [
            (Method::PUT, "/b/k", "versionId=abc"),
            (Method::PUT, "/b/k", "partNumber=1"),
            (Method::PUT, "/b/k", "uploadId=x"),
            (Method::PUT, "/b", "uploads"),
            (Method::DELETE, "/b", "uploads"),
            (Method::DELETE, "/b", "location"),
            (Method::DELETE, "/b/k", "partNumber=1"),
            (Method::GET, "/b/k", "uploads"),
            (Method::POST, "/b/k", "delete"),
        ] {
            assert_eq!(code(method, path, query), "InvalidRequest", "{path}?{query}");
        }
        for (method, path, query) in [
            (Method::GET, "/b", "list-type=2&prefix=acl&x-id=ListObjectsV2"),
            (Method::GET, "/b", "uploads"),
            (Method::GET, "/b", "location"),
            (Method::GET, "/b/k", "versionId=null&partNumber=2&response-content-type=a"),
            (Method::PUT, "/b/k", "partNumber=1&uploadId=x&x-id=UploadPart"),
            (Method::PUT, "/b/k", "X-Amz-Signature=1&x-amz-checksum-crc32=AAAAAA%3D%3D"),
            (Method::POST, "/b", "delete"),
            (Method::POST, "/b/k", "uploads"),
            (Method::POST, "/b/k", "uploadId=x"),
            (Method::DELETE, "/b/k", "uploadId=x"),
            (Method::DELETE, "/b/k", "versionId=null"),
        ] {
            assert_eq!(code(method, path, query), "ok", "{path}?{query}");
        }
        assert!(check_query(&Method::GET, "/k", "uploads", true).is_err());
    }

    #[test]
    fn what_is_held_whole_is_told_from_what_streams() {
        let is = |method: &Method, uri: &str| {
            let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
            let (parts, ()) = request.into_parts();
            (is_read_whole(&parts, false), is_page(&parts, false))
        };
        for uri in ["/b/k", "/b%2Fk", "/b%2fk?x", "/b/k?partNumber=1&uploadId=x"] {
            assert_eq!(is(&Method::PUT, uri), (false, false), "{uri}");
        }
        for uri in ["/b", "/b/", "/b%2F", "/b?policy"] {
            assert_eq!(is(&Method::PUT, uri), (true, false), "{uri}");
        }
        for uri in ["/", "/b", "/b?list-type=2", "/b/k?u%70loadId=x", "/b?uploads"] {
            assert_eq!(is(&Method::GET, uri), (false, true), "{uri}");
        }
        for uri in ["/b/k", "/b%2Fk", "/b?location", "/b?policy"] {
            assert_eq!(is(&Method::GET, uri), (false, false), "{uri}");
        }
        assert_eq!(is(&Method::POST, "/b?d%65lete"), (true, true));
        assert_eq!(is(&Method::POST, "/b/k?uploads"), (true, false));
        assert_eq!(is(&Method::HEAD, "/b"), (false, false));
    }

    #[test]
    fn xml_is_checked_against_every_digest_named() {
        let body = Bytes::from_static(b"<Delete/>");
        let check = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            check_whole(&headers, &body, Kind::Xml)
                .map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(check("content-md5", "AAAA").unwrap_err(), "InvalidDigest");
        assert_eq!(
            check("content-md5", &BASE64_STANDARD.encode([0; 16])).unwrap_err(),
            "BadDigest"
        );
        assert_eq!(check("x-amz-checksum-crc32", "AAAAAA==").unwrap_err(), "BadDigest");
        assert_eq!(
            check("x-amz-content-sha256", &"0".repeat(64)).unwrap_err(),
            "XAmzContentSHA256Mismatch"
        );
        assert_eq!(check("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), Ok(()));
        let (md5, checksums) = digests_of(&body, Algorithm::Crc32);
        assert_eq!(check("content-md5", &BASE64_STANDARD.encode(md5)), Ok(()));
        let value = BASE64_STANDARD.encode(&checksums[0].value);
        assert_eq!(check("x-amz-checksum-crc32", &value), Ok(()));
        for cdata in ["<Key><![CDATA[a]]></Key>", "{<Key><![CDATA[a]]></Key>"] {
            let check = |kind| check_whole(&HeaderMap::new(), &Bytes::from(cdata), kind);
            assert!(check(Kind::Xml).is_err() && check(Kind::Completion).is_err(), "{cdata}");
            assert!(check(Kind::Commit).is_ok());
        }
    }
}
